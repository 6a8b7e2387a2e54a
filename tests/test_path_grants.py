"""grant and restrict of paths while programs run: the kernel has the ceiling, the supervisor the grants of now."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loops import Loop

from sandlock import Allow, AsyncSandbox, Exec, Open, PolicyError, Process, Result, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
TRYING = """
import errno, os, subprocess, sys
def attempt(what):
    try:
        return str(eval(what, globals()))
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
for line in sys.stdin:
    print(attempt(line), flush=True)
"""
PYTHON = [sys.executable, "-I", "-S", "-c", TRYING]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


class Guest:
    """A program that does as it is told."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what.encode() + b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def all(self, *what: str) -> list[str]:
        return [self(each) for each in what]


@contextmanager
def guest(sandbox: Sandbox) -> Iterator[Guest]:
    with sandbox.start(PYTHON, stdin=-1) as process:
        yield Guest(process)


def made(place: Path, ceiling: dict[str, list[str]], **more: Any) -> Sandbox:
    def full(lists: dict[str, Any]) -> dict[str, Any]:
        return {name: [str(place / path) for path in paths] for name, paths in lists.items()}

    return Sandbox(presets=["python"], cwd=str(place), ceiling=full(ceiling), **full(more))


READ_A, READ_B = "open('a/file').read()", "open('b/file').read()"
WRITE_A, WRITE_B = "open('a/file', 'r+').write('x')", "open('b/file', 'r+').write('x')"


def test_reading_is_granted_and_taken_back(place: Path) -> None:
    with made(place, {"fs_readable": ["a", "b"]}, fs_readable=["a"]) as box, guest(box) as tell:
        assert tell.all(READ_A, READ_B) == ["a", "EACCES"]
        box.grant(fs_readable=[place / "b"])
        assert tell.all(READ_A, READ_B) == ["a", "b"]
        box.restrict(fs_readable=[place / "b"])
        assert tell.all(READ_A, READ_B, "os.listdir('a')") == ["EACCES", "b", "EACCES"]
        box.restrict(fs_readable=[])
        assert tell.all(READ_A, READ_B, "os.path.exists('/usr')") == ["EACCES", "EACCES", "True"]
        assert tell("len(os.listdir('/usr'))").isdigit(), "what presets grant stays"
        box.grant(fs_readable=[place / "a" / "file"])
        assert tell.all(READ_A, "os.listdir('a')") == ["a", "EACCES"]
        assert box.policy.fs_readable == (str(place / "a"),), "the policy that it was made with"


def test_writing_is_granted_and_taken_back(place: Path) -> None:
    (place / "b" / "gone").mkdir()
    with made(place, {"fs_writable": ["."]}, fs_readable=["."], fs_writable=["a"]) as box, guest(box) as tell:
        assert tell.all(WRITE_A, WRITE_B, READ_B) == ["1", "EACCES", "b"]
        refused = [
            "open('b/new', 'w')", "os.open('b/file', os.O_TRUNC)", "os.mkdir('b/new')", "os.unlink('b/file')",
            "os.rmdir('b/gone')", "os.open('b', os.O_TMPFILE | os.O_RDWR)", "os.mkdir('new')", "os.rmdir('a')",
            "os.chmod('b/file', 0o600)",
        ]  # fmt: skip
        assert tell.all(*refused) == ["EACCES"] * len(refused)
        box.grant(fs_writable=[place / "b"])
        granted = [WRITE_B, "open('b/new', 'w').close()", "os.unlink('b/new')", "os.rmdir('b/gone')", "os.mkdir('new')"]
        assert tell.all(*granted) == ["1", "None", "None", "None", "EACCES"]
        box.restrict(fs_writable=[])
        assert tell.all(WRITE_A, WRITE_B, READ_A) == ["EACCES", "EACCES", "x"]
        process = tell.process
        assert process.stdin is not None
        process.stdin.close()
        denials = process.wait().denials
    assert ("open", str(place / "b" / "file"), "no-rule") in [(each.kind, each.target, each.cause) for each in denials]
    assert sorted(os.listdir(place)) == ["a", "b", "c"]
    assert (place / "b" / "file").read_text() == "x"


def test_files_move_only_between_what_is_granted(place: Path) -> None:
    attempts = ("os.rename('a/file', 'b/new')", "os.rename('b/file', 'a/new')", "os.link('b/file', 'a/new')")
    with made(place, {"fs_writable": ["."]}, fs_readable=["."], fs_writable=["a"]) as box, guest(box) as tell:
        assert tell.all(*attempts) == ["EACCES"] * 3
        box.grant(fs_writable=[place / "b"])
        assert tell.all("os.rename('a/file', 'b/new')", "os.link('b/file', 'a/new')") == ["None"] * 2
        box.restrict(fs_writable=[place / "a"])
        assert tell.all("open('b/new', 'a')", "open('a/new', 'a').close()") == ["EACCES", "None"], "by where it is"


def test_what_is_open_stays_open(place: Path) -> None:
    with made(place, {"fs_writable": ["a"]}, fs_writable=["a"]) as box, guest(box) as tell:
        assert tell("globals().__setitem__('held', open('a/file', 'w', buffering=1)) or 'open'") == "open"
        box.restrict(fs_writable=[])
        assert tell.all("held.write('kept\\n')", WRITE_A, "open('/proc/self/fd/%d' % held.fileno())") == [
            "5", "EACCES", "EACCES",
        ]  # fmt: skip
    assert (place / "a" / "file").read_text() == "kept\n"


def test_programs_are_granted_and_taken_back(place: Path) -> None:
    shutil.copy(os.path.realpath("/bin/true"), place / "a" / "true")
    (place / "a" / "script").write_text(f"#!{place}/b/shell\n")
    (place / "a" / "script").chmod(0o755)
    shutil.copy(os.path.realpath("/bin/sh"), place / "b" / "shell")
    run, script = "subprocess.run(['a/true']).returncode", "subprocess.run(['a/script']).returncode"
    memory = (
        "(lambda fd: (os.write(fd, open('/bin/true', 'rb').read()), subprocess.run(['/proc/self/fd/%d' % fd],"
        " pass_fds=[fd]).returncode)[1])(os.memfd_create('x', 0))"
    )
    with made(place, {"fs_readable": ["a", "b"]}) as box, guest(box) as tell:
        assert tell.all(run, memory) == ["EACCES", "0"]
        box.grant(fs_readable=[place / "a"])
        assert tell.all(run, script) == ["0", "EACCES"]
        box.grant(fs_readable=[place / "b"])
        assert tell(script) == "0"
        box.restrict(fs_readable=[])
        assert tell.all(run, script) == ["EACCES", "EACCES"]
    with made(place, {"fs_readable": ["a"]}, fs_data=["a"]) as box, guest(box) as tell:
        assert tell.all("len(open('a/true', 'rb').read()) > 9", run) == ["True", "EACCES"]


def test_devices_are_granted_and_taken_back(place: Path) -> None:
    host, terminal = os.openpty()
    name = os.ttyname(terminal)
    attempts = (f"open({name!r}, 'rb') and 'open'", f"open({name!r}, 'wb', 0).write(b'x')")
    box = Sandbox(presets=["python"], ceiling={"fs_devices": [name]}, cwd=str(place), fs_readable=[str(place)])
    try:
        with box, guest(box) as tell:
            assert tell.all(*attempts) == ["EACCES"] * 2
            box.grant(fs_devices=[name])
            assert tell.all(*attempts) == ["open", "1"]
            box.restrict(fs_devices=[])
            assert tell.all(*attempts) == ["EACCES"] * 2
    finally:
        os.close(host)
        os.close(terminal)


def test_denials_are_added_and_stay(place: Path) -> None:
    with made(place, {"fs_readable": ["."]}, fs_readable=["."], fs_denied=["c"]) as box, guest(box) as tell:
        assert tell.all(READ_A, "open('c/file').read()") == ["a", "EACCES"]
        box.restrict(fs_denied=[place / "a"])
        assert tell.all(READ_A, READ_B, "open('c/file').read()") == ["EACCES", "b", "EACCES"]
        box.grant(fs_readable=[place / "a", place / "c"])
        assert tell.all(READ_A, "open('c/file').read()") == ["EACCES"] * 2
        with pytest.raises(PolicyError, match="cannot be changed"):
            box.grant(fs_denied=[])
        assert tell("subprocess.run(['/bin/true']).returncode") == "0"
        box.restrict(fs_denied=["/bin/true"])
        assert tell("subprocess.run(['/bin/true']).returncode") == "EACCES"
        process = tell.process
        assert process.stdin is not None
        process.stdin.close()
        denials = process.wait().denials
    assert [each.rule for each in denials if each.kind == "exec"] == ["fs_denied: /bin/true"]


def test_denied_paths_alone_let_grants_be_taken_back(place: Path) -> None:
    sandbox = Sandbox(presets=["python"], fs_readable=[str(place)], fs_denied=[str(place / "c")], cwd=str(place))
    with sandbox, guest(sandbox) as tell:
        assert tell.all(READ_A, READ_B) == ["a", "b"]
        sandbox.restrict(fs_readable=[place / "b"])
        assert tell.all(READ_A, READ_B) == ["EACCES", "b"]
        with pytest.raises(PolicyError, match="not within the ceiling"):
            sandbox.grant(fs_writable=[place])
        sandbox.grant(fs_readable=[place])
        assert tell.all(READ_A, READ_B) == ["a", "b"]


@pytest.mark.parametrize(
    ("verb", "fields", "message"),
    [
        ("grant", {"fs_writable": ["a"]}, "not within the ceiling"),
        ("grant", {"fs_readable": ["c"]}, "not within the ceiling"),
        ("grant", {"fs_readable": ["."]}, "not within the ceiling"),
        ("grant", {"fs_readable": ["link"]}, "not within the ceiling"),
        ("grant", {"fs_readable": ["w/link"]}, "a link inside a directory that the sandbox may write"),
        ("grant", {"fs_devices": ["a"]}, "not within the ceiling"),
        ("restrict", {"fs_readable": ["b"]}, "not within what is granted now"),
        ("restrict", {"fs_writable": ["a"]}, "not within what is granted now"),
    ],
)
def test_nothing_is_widened_beyond_the_ceiling(place: Path, verb: str, fields: dict[str, Any], message: str) -> None:
    (place / "w").mkdir()
    os.symlink("../c", place / "w" / "link")
    os.symlink("c", place / "link")
    ceiling = {"fs_readable": ["a", "b"], "fs_writable": ["w"]}
    with made(place, ceiling, fs_readable=["a"]) as box, guest(box) as tell:
        with pytest.raises(PolicyError, match=message):
            getattr(box, verb)(**{name: [place / path for path in paths] for name, paths in fields.items()})
        assert tell.all(READ_A, READ_B) == ["a", "EACCES"]


def test_links_of_the_program_grant_nothing(place: Path) -> None:
    """What it may write later it may fill with links now."""
    more: dict[str, Any] = {"fs_readable": ["a"], "fs_writable": ["b"]}
    with made(place, {"fs_readable": ["a", "c"], "fs_writable": ["b"]}, **more) as box, guest(box) as tell:
        assert tell.all("os.mkdir('b/sub')", "open('c/file').read()") == ["None", "EACCES"]
        (place / "b" / "sub").rmdir()
        os.symlink("../c", place / "b" / "sub")
        with pytest.raises(PolicyError, match="a link inside"):
            box.grant(fs_readable=[place / "b" / "sub"])
        assert tell.all("open('b/sub/file').read()", "open('c/file').read()") == ["EACCES", "EACCES"]
        box.grant(fs_readable=[place / "c"])
        assert tell("open('b/sub/file').read()") == "c"


def test_changes_hold_for_runs_to_come(place: Path) -> None:
    with made(place, {"fs_readable": ["a", "b"]}, fs_readable=["a"]) as box:
        box.grant(fs_readable=[place / "b"])
        box.restrict(fs_denied=[place / "a"])
        with guest(box) as tell:
            assert tell.all(READ_A, READ_B) == ["EACCES", "b"]


def test_a_question_is_decided_by_what_holds_then(loop: Loop, place: Path) -> None:
    shutil.copy(os.path.realpath("/bin/true"), place / "a" / "true")
    asked = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Open) and event.path == str(place / "a" / "file"):
            asked.append(event.path)
            box.restrict(fs_readable=[place / "b", place / "a" / "true"])
        if isinstance(event, Exec) and event.exe == str(place / "a" / "true"):
            asked.append(event.exe)
            box.restrict(fs_denied=[place / "a" / "true"])
        return Allow()

    attempts = (
        "open('a/file').read()\nopen('b/file').read()\nsubprocess.run(['a/true']).returncode\nopen('b/file').read()\n"
    )

    async def main() -> Result:
        options: dict[str, Any] = {"presets": ["python"], "fs_readable": [str(place)], "cwd": str(place)}
        ceiling = {"fs_readable": [str(place)]}
        async with AsyncSandbox(policy_fn=vet, ask_opens="all", ceiling=ceiling, **options) as box:
            return await box.run(PYTHON, input=attempts, timeout=60)

    result = loop.run(main)
    assert result.stdout.split() == [b"EACCES", b"b", b"EACCES", b"b"]
    assert asked == [str(place / "a" / "file"), str(place / "a" / "true")]
    assert [(each.kind, each.cause) for each in result.denials if str(place) in each.target] == [
        ("open", "no-rule"), ("exec", "rule"),
    ]  # fmt: skip


def test_a_callback_grants_what_the_program_wants(loop: Loop, place: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Exec) and "please" in event.argv:
            box.grant(fs_readable=[place / "a"])
        return Allow()

    attempts = f"{READ_A}\nsubprocess.run(['/bin/true', 'please']).returncode\n{READ_A}\n"

    async def main() -> Result:
        options: dict[str, Any] = {"presets": ["python"], "fs_readable": [str(place / "b")], "cwd": str(place / "b")}
        async with AsyncSandbox(policy_fn=vet, ceiling={"fs_readable": [str(place)]}, **options) as box:
            return await box.run(PYTHON, input=attempts.replace("'a/", "'../a/"), timeout=60)

    assert loop.run(main).stdout.split() == [b"EACCES", b"0", b"a"]
