"""Execs in a virtual root: what runs is the root's, with the root's loader, and it starts as it would on the host.

The same programs lie at the same paths of the host and of the root, so each command is run twice: confined but bare,
and in the root. The host's own loader is granted to the first only.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import ordinary
import pytest
import rootfs
from programs.tools import SOURCES, guest

from sandlock import Allow, Deny, Exec, Result, Sandbox

pytestmark = [
    pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"),
    pytest.mark.usefixtures("lasting_thread"),
]
VARIABLES = {"A": "b", "LONG": "x" * 300}
WAYS = (
    "plain", "blocked", "thread", "fork", "vfork", "spawn", "descriptor", "kept", "memfd", "directory", "no link",
    "other name", "many words", "no words", "no variables",
)  # fmt: skip
SCRIPTS = {
    "script": "#!{bin}/started\n",
    "words": "#! {bin}/started one two  \n",
    "nested": "#!{bin}/words three\n",
    "static-script": "#!{bin}/static x\n",
    "loop": "#!{bin}/loop\n",
    "lost": "#!{bin}/nobody\n",
    "closed": "#!{bin}/shut\n",
    "text": "echo no program\n",
    "shut": "#!{bin}/started\n",
}


class World:
    """A directory of programs, on the host and, at the same path, in a root."""

    def __init__(self, place: Path) -> None:
        self.bin = place / "bin"
        self.root = place / "root"
        self.bin.mkdir()
        shutil.copy2(guest("started"), self.bin / "started")
        static = ["gcc", "-static", "-O1", "-w", "-pthread", "-o", str(self.bin / "static"), f"{SOURCES}/started.c"]
        subprocess.run(static, check=True)
        for name, text in SCRIPTS.items():
            (self.bin / name).write_text(text.format(bin=self.bin))
            (self.bin / name).chmod(0o644 if name == "shut" else 0o755)
        (self.bin / "folder").mkdir()
        rootfs.furnish(self.root, {str(self.bin / name): str(self.bin / name) for name in ("started", "static")})
        inside = self.inside(self.bin)
        for name in SCRIPTS:
            shutil.copy2(self.bin / name, inside / name)
        (inside / "folder").mkdir()

    def inside(self, path: Path) -> Path:
        """Where a path of the root is on the host."""
        return self.root / str(path)[1:]

    def bare(self) -> Sandbox:
        return Sandbox(fs_readable=["/"], exec_allow=["*"], env=VARIABLES, cwd=str(self.root))

    def rooted(self, **fields: object) -> Sandbox:
        return rootfs.rooted(self.root, env=VARIABLES, **fields)

    def __getattr__(self, name: str) -> str:
        return str(self.bin / name.replace("_", "-"))


@pytest.fixture(scope="module")
def world() -> World:
    place = Path(ordinary.scratch())
    place.chmod(0o755)
    return World(place)


@pytest.fixture(scope="module")
def boxes(world: World) -> Iterator[tuple[Sandbox, Sandbox]]:
    with world.bare() as bare, world.rooted() as rooted:
        yield bare, rooted


def seen(result: Result) -> tuple[int, list[str], bytes]:
    """How it ended, and what the program saw. AT_EXECFN is what glibc's loader makes of it, if that is in the way."""
    lines = result.stdout.decode().splitlines()
    return result.exit_code, [line for line in lines if not line.startswith("execfn ")], result.stderr


@pytest.mark.parametrize("program", ["started", "static", "script", "words", "nested", "static-script"])
@pytest.mark.parametrize("way", WAYS)
def test_it_starts_as_on_the_host(boxes: tuple[Sandbox, Sandbox], world: World, way: str, program: str) -> None:
    command = [world.started, "again", way, str(world.bin / program), "a", "b c", ""]
    bare, rooted = (box.run(command, timeout=20) for box in boxes)
    assert seen(rooted) == seen(bare)
    assert bare.stdout


@pytest.mark.parametrize("program", ["loop", "lost", "closed", "text", "shut", "folder", "started/x", "nothing"])
@pytest.mark.parametrize("way", ["plain", "vfork", "spawn", "directory"])
def test_it_fails_as_on_the_host(boxes: tuple[Sandbox, Sandbox], world: World, way: str, program: str) -> None:
    command = [world.started, "again", way, str(world.bin / program), "a"]
    bare, rooted = (box.run(command, timeout=20) for box in boxes)
    assert seen(rooted) == seen(bare)
    assert rooted.denials == bare.denials == ()


def test_signals_and_stops_do_no_harm(boxes: tuple[Sandbox, Sandbox], world: World) -> None:
    for program in ("started", "static", "script"):
        result = boxes[1].run([world.started, "again", "pestered", str(world.bin / program), "nothing"], timeout=60)
        assert result.stdout.endswith(b"ended 100\n")


def test_its_own_program_again(boxes: tuple[Sandbox, Sandbox], world: World) -> None:
    """/proc/self/exe is the loader's, but means the program."""
    for program in ("started", "static", "script"):
        command = [world.static, "again", "plain", str(world.bin / program), "again", "own", "x", "y"]
        bare, rooted = (box.run(command, timeout=20) for box in boxes)
        assert seen(rooted) == seen(bare)
        assert b"word y\n" in bare.stdout


def test_names(boxes: tuple[Sandbox, Sandbox], world: World) -> None:
    """AT_EXECFN of a static program, and of one by a path relative to the working directory, which is the root."""
    commands = [
        [world.static, "a"],
        [world.started, "again", "relative", world.static, "a"],
        [world.started, "again", "directory", world.static],
        [world.started, "again", "descriptor", world.static],
    ]
    for command in commands:
        bare, rooted = (box.run(command, timeout=20) for box in boxes)
        assert bare.stdout == rooted.stdout
        assert b"execfn " in bare.stdout


def test_it_is_the_roots_and_not_the_hosts(world: World, tmp_path: Path) -> None:
    """Only the root is granted: neither the host's program nor its loader could be executed."""
    with Sandbox(fs_readable=[str(world.root), "/proc"], exec_allow=["*"]) as control:
        with pytest.raises(Exception, match=r"not granted|denied|missing"):
            control.run([world.started], timeout=20)
        with pytest.raises(Exception, match=r"not granted|denied|missing"):  # its loader is the host's
            control.run([str(world.inside(world.bin) / "started")], timeout=20)
    with world.rooted() as box:
        assert box.run([world.started], timeout=20).ok
        process = box.start([world.started, "again", "plain", world.static])
        assert process.wait(timeout=20).ok


def test_links_and_dots_stay_inside(world: World) -> None:
    inside = world.inside(world.bin)
    links = {"absolute": world.started, "up": "../" * 30 + world.started[1:], "out": f"{world.root}/../bin/started"}
    for name, target in links.items():
        os.symlink(target, inside / name)
    with world.rooted() as box:
        for name in ("absolute", "up"):
            assert box.run([str(world.bin / name), "a"], timeout=20).stdout.startswith(b"word ")
        result = box.run([world.started, "again", "plain", str(world.bin / "out")], timeout=20)
        assert b"plain ENOENT" in result.stdout
        result = box.run([world.started, "again", "plain", "/.." * 20 + world.started], timeout=20)
        assert result.stdout.startswith(b"word /../..")


def test_rules_are_about_paths_of_the_root(world: World) -> None:
    with world.rooted(exec_deny=[world.static, f"{world.static} *"]) as box:
        result = box.run([world.started, "again", "plain", world.static], timeout=20)
        assert b"plain EACCES" in result.stdout
        assert [denial.target for denial in result.denials] == [world.static]
        # Also the interpreter of a script.
        result = box.run([world.started, "again", "plain", world.static_script], timeout=20)
        assert b"plain EACCES" in result.stdout
        assert box.run([world.started, "again", "plain", world.script], timeout=20).stdout.startswith(b"word ")


def test_a_callback_is_asked_about_paths_of_the_root(world: World) -> None:
    asked: list[tuple[str, str]] = []

    def vet(event: Exec, box: object) -> Allow | Deny:
        asked.append((event.path, event.exe))
        return Deny() if event.exe.endswith("static") else Allow()

    with world.rooted(exec_allow=[], policy_fn=vet) as box:
        assert box.run([world.started, "again", "fork", world.script, "a"], timeout=20).ok
        assert b"EACCES" in box.run([world.started, "again", "fork", world.static], timeout=20).stdout
    own = (world.started, world.started)
    assert asked == [own, (world.script, world.script), own, (world.static, world.static)]


def test_an_old_loader_that_takes_no_name(world: World, tmp_path: Path) -> None:
    """glibc's before 2.33: the program is called by its path."""
    root = tmp_path / "root"
    shutil.copytree(world.root, root, symlinks=True)
    changed = 0
    for loader in (path for path in root.rglob("ld-*") if path.is_file()):
        bytes_of = loader.read_bytes()
        loader.write_bytes(bytes_of.replace(b"--argv0", b"--argvX"))
        changed += bytes_of.count(b"--argv0")
    assert changed
    with rootfs.rooted(root) as box:
        lines = box.run([world.started, "again", "other name", world.started, "a"], timeout=20).stdout.splitlines()
        assert lines[:2] == [b"word " + world.started.encode(), b"word a"]


def test_the_loader_must_be_there(world: World, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(world.root, root, symlinks=True)
    for loader in (path for path in root.rglob("ld-*") if path.is_file()):
        loader.unlink()
    with rootfs.rooted(root) as box:
        assert box.run([world.static], timeout=20).ok
        result = box.run([world.static, "again", "plain", world.started], timeout=20)
        assert f"plain {errno.errorcode[errno.ENOENT]}".encode() in result.stdout


def test_what_was_judged_is_what_the_loader_opens(world: World) -> None:
    """A link is swapped all the time between a program that may run and one that may not."""
    inside = world.inside(world.bin)
    for name in ("good", "evil"):
        shutil.copy2(inside / "started", inside / name)
    os.symlink(world.good, inside / "link")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for name in ("evil", "good"):
                os.symlink(str(world.bin / name), inside / "new")
                os.replace(inside / "new", inside / "link")

    swapper = threading.Thread(target=swap)
    swapper.start()
    found = {}
    try:
        for rule in ("exec_allow", "exec_deny"):
            with world.rooted(
                **{"exec_allow": ["*"], rule: ["*"] if rule == "exec_allow" else [f"{world.evil} *"]}
            ) as box:
                runs = [box.run([world.started, "again", "plain", world.link, "file"], timeout=20) for _ in range(150)]
            found[rule] = {re.sub(rb".*/", b"", run.stdout.rstrip()) for run in runs}
    finally:
        done.set()
        swapper.join()
    assert {b"good", b"evil"} <= found["exec_allow"]
    assert b"good" in found["exec_deny"]
    assert b"evil" not in found["exec_deny"]


def test_words_that_are_rewritten_do_not_run(world: World) -> None:
    """By another thread, all the time; the kernel reads them after they were judged."""
    command = [world.started, "again", "rewritten", world.started, "good", "echo"]
    with world.rooted() as box:
        control = box.run(command, timeout=60)
    with world.rooted(exec_deny=[f"{world.started} evil *"]) as box:
        result = box.run(command, timeout=60)
    assert b"ran evil" in control.stdout
    assert b"ran good" in control.stdout
    assert b"ran good" in result.stdout
    assert b"ran evil" not in result.stdout


def test_denied_files_are_not_executed(world: World) -> None:
    """By whatever name, and not as an interpreter or loader either."""
    inside = world.inside(world.bin)
    os.link(inside / "static", inside / "other")
    with world.rooted(fs_denied=[world.static]) as box:
        for name in ("static", "other", "static-script"):
            result = box.run([world.started, "again", "plain", str(world.bin / name)], timeout=20)
            assert b"plain EACCES" in result.stdout
            assert [denial.cause for denial in result.denials] == ["rule"]
        assert box.run([world.started, "again", "plain", world.script], timeout=20).stdout.startswith(b"word ")
    loaders = [path for path in world.root.rglob("ld-*") if path.is_file()]
    assert loaders
    with world.rooted(fs_denied=[f"/{loader.relative_to(world.root)}" for loader in loaders]) as box:
        result = box.run([world.static, "again", "plain", world.started], timeout=20)
        assert b"plain EACCES" in result.stdout
        assert box.run([world.static], timeout=20).ok


def test_the_link_to_its_program(boxes: tuple[Sandbox, Sandbox], world: World) -> None:
    """Of a script it is the interpreter; of a fork the same as before."""
    for program in ("started", "static", "script", "nested"):
        command = [world.started, "again", "fork", str(world.bin / program), "exe", "of"]
        bare, rooted = (box.run(command, timeout=20) for box in boxes)
        assert bare.stdout == rooted.stdout
        assert b"exe /" in bare.stdout


def test_a_loader_without_end_holds_nobody_up(world: World) -> None:
    """It is looked at before it is loaded, by the thread that serves everybody."""
    program = world.inside(world.bin) / "endless"
    image = world.inside(Path(world.started)).read_bytes()
    loader = next(name for name in (b"/lib64/ld-linux-x86-64.so.2", b"/lib/ld-linux-aarch64.so.1") if name in image)
    program.write_bytes(image.replace(loader, b"/hole".ljust(len(loader), b"\0")))
    program.chmod(0o755)
    with open(world.root / "hole", "wb") as hole:
        hole.truncate(1 << 40)
        os.fchmod(hole.fileno(), 0o755)
    with world.rooted() as box:
        command = [world.static, "again", "plain", str(world.bin / "endless")]
        result = box.run(command, timeout=20)
        assert not result.timed_out
        assert b"plain E" in result.stdout
        assert box.run([world.static], timeout=20).ok
    (world.root / "hole").unlink()
    program.unlink()
