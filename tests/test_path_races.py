"""Races for what is denied, which must never be won: a name, a text, a descriptor or a working directory that means in
turns what may be used and what may not.

Environment:
    SANDLOCK_RACE_MS   milliseconds for each race, confined
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ordinary
import pytest
from paths.worker import hand_over, walk
from programs.tools import confined, guest

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.slow]
MILLISECONDS = os.environ.get("SANDLOCK_RACE_MS", "400")
LONGEST_CONTROL = "20000"
"""It ends as soon as each action has won once."""
FLIPS = ("link", "exchange", "text", "descriptor", "directory", "cwd", "cwd-in-proc")
BY_BASE = (
    "read", "pin", "write", "create", "chmod", "times", "link", "rename", "unlink", "mkdir", "symlink", "node",
    "move-in",
)  # fmt: skip
BY_PATH = ("truncate", "attribute", "bind")
"""They have no form that begins at a descriptor."""


class Arena:
    """A workspace of which `denied` is denied."""

    def __init__(self, person: ordinary.Person, flip: str) -> None:
        self.person = person
        self.flip = flip
        self.field = "fs_denied"
        self.place = Path(person.home)
        for name in ("good", "denied", "out"):
            (self.place / name).mkdir()
        for name, text in (("good", "harmless.."), ("denied", "TOP-SECRET")):
            (self.place / name / "file").write_text(text)
            (self.place / name / "file").chmod(0o600)
        if flip == "exchange":
            (self.place / "flip").mkdir()
            (self.place / "flip/file").write_text("harmless..")
            (self.place / "flop").symlink_to("denied")
        else:
            (self.place / "flip").symlink_to("good")
        self.actions = BY_BASE if flip == "directory" else (*BY_BASE, *BY_PATH)
        self.post = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        hand_over(person)

    def mail(self) -> None:
        """Somebody outside waits for a letter in what is denied; what is in `good` nobody opens."""
        for name in ("good", "denied"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                bound = other if name == "good" else self.post
                bound.bind(str(self.place / name / "socket"))
            (self.place / name / "socket").chmod(0o666)
        hand_over(self.person)

    @property
    def letters(self) -> int:
        try:
            return len(self.post.recv(9))
        except BlockingIOError:
            return 0

    def free(self, *actions: str, milliseconds: str = LONGEST_CONTROL) -> dict[str, list[int]]:
        argv = [guest("path_races"), "race", self.flip, milliseconds, "free", *actions]
        done = self.person.run(argv, cwd=str(self.place))
        assert (done.returncode, done.stderr) == (0, ""), done
        return numbers(done.stdout)

    def confined(self, *actions: str) -> dict[str, list[int]]:
        program = guest("path_races")
        place = str(self.place)
        result = confined(
            self.person,
            [program, "race", self.flip, MILLISECONDS, "confined", *actions],
            presets=["system"],
            fs_readable=[program],
            fs_writable=[place],
            **{self.field: [f"{place}/denied"]},
            net_allow=[f"unix:{place}"],
            net_allow_bind=[f"unix:{place}"],
            cwd=place,
        )
        assert result.ok, result
        return numbers(result.stdout)


def numbers(text: str) -> dict[str, list[int]]:
    """`word number number` on each line; the first line is about all."""
    first, *rest = text.splitlines()
    words = first.split()
    found = {words[0]: [int(words[1])], words[2]: [int(words[3])]}
    return found | {word: list(map(int, values)) for word, *values in map(str.split, rest)}


@pytest.fixture
def arena(visitor: ordinary.Person, request: pytest.FixtureRequest) -> Iterator[Arena]:
    made = Arena(visitor, request.param)
    yield made
    made.post.close()


@pytest.mark.parametrize("arena", FLIPS, indirect=True)
def test_no_race_leads_to_what_is_denied(arena: Arena) -> None:
    before = walk(str(arena.place / "denied"))
    found = arena.confined(*arena.actions)
    assert found["secrets"] == [0]
    assert walk(str(arena.place / "denied")) == before
    assert "TOP-SECRET" not in "".join(walk(str(arena.place / "out")).values())
    assert sum(found[action][0] > 0 for action in arena.actions) > len(arena.actions) // 2  # what is not denied is done
    control = arena.free(*arena.actions)
    assert sum(control[action][1] for action in arena.actions) > len(arena.actions) * 3 // 4


@pytest.mark.parametrize("arena", FLIPS, indirect=True)
def test_no_race_changes_what_is_protected(arena: Arena) -> None:
    arena.field = "fs_protected"
    actions = [action for action in arena.actions if action not in ("read", "pin")]
    before = walk(str(arena.place / "denied"))
    found = arena.confined(*actions)
    assert walk(str(arena.place / "denied")) == before
    assert "TOP-SECRET" not in "".join(walk(str(arena.place / "out")).values())  # no other name of it either
    assert sum(found[action][0] > 0 for action in actions) > len(actions) // 2
    control = arena.free(*actions)
    assert sum(control[action][1] for action in actions) > len(actions) * 3 // 4


@pytest.mark.parametrize("arena", [flip for flip in FLIPS if flip != "directory"], indirect=True)
def test_no_race_leads_to_a_denied_socket(arena: Arena) -> None:
    arena.mail()
    found = arena.confined("connect")
    assert found["tries"][0] > 100
    assert arena.letters == 0
    arena.free("connect", milliseconds="1000")
    assert arena.letters


@pytest.mark.parametrize("arena", ["link", "exchange", "text", "cwd"], indirect=True)
def test_no_race_executes_what_is_denied(arena: Arena) -> None:
    source = (
        "int creat(const char *, unsigned);\n"
        'int main(int n, char **w) { (void)w; return WRONG && n && creat("%s", 0600) < 0; }'
    )
    for name, wrong in (("good", 0), ("denied", 1), *((("flip", 0),) if arena.flip == "exchange" else ())):
        text = source % (arena.place / "out/ran")
        command = ["gcc", f"-DWRONG={wrong}", "-x", "c", "-o", arena.place / name / "program", "-"]
        subprocess.run(command, input=text.encode(), check=True)
    hand_over(arena.person)
    found = arena.confined("execute")
    assert found["execute"][0] > 0
    assert not (arena.place / "out/ran").exists()
    assert arena.free("execute")["execute"][1]


# ---- descriptors


@pytest.mark.parametrize("way", ["inherited", "received"])
def test_a_descriptor_of_a_denied_directory_leads_nowhere(visitor: ordinary.Person, way: str) -> None:
    """Given by who embeds, before or later: the directory itself is given then, and nothing that is in it."""
    place = Path(visitor.home)
    for name in ("denied", "open"):
        (place / name / "sub").mkdir(parents=True)
        (place / name / "file").write_text("TOP-SECRET")
        (place / name / "file").chmod(0o600)
    hand_over(visitor)
    before = walk(str(place / "denied"))
    said = {}
    for name in ("denied", "open"):
        argv = [guest("path_races"), way]
        done = visitor.run([visitor.python, "-c", GIVES, str(place), name, way, *argv])
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout.split()
    assert said["denied"] == ["secrets", "0", "made", "-1", "chmod", "-1"]
    assert walk(str(place / "denied")) == before
    assert said["open"] == ["secrets", "6", "made", "0", "chmod", "0"]


DENYING = 'presets=["system"], fs_readable=[argv[0]], fs_writable=[place], fs_denied=[f"{place}/denied"], cwd=place'
GIVES = """
import os, socket, sys
import sandlock
place, name, way, *argv = sys.argv[1:]
given = os.open(f"{place}/{name}", os.O_RDONLY | os.O_DIRECTORY)
if way == "received":
    mine, yours = socket.socketpair()
    socket.send_fds(mine, [b"x"], [given])
    given = yours.fileno()
with sandlock.Sandbox(DENYING) as box:
    result = box.run(argv, stdin=given)
sys.stdout.buffer.write(result.stdout)
sys.exit(result.exit_code)
""".replace("DENYING", DENYING)


# ---- programs


def test_nothing_that_is_denied_is_executed(visitor: ordinary.Person) -> None:
    """By its name, a link, a hard link, a descriptor, the loader; as a script, as the interpreter of a script and as
    the loader of a program."""
    place = Path(visitor.home)
    (place / "denied").mkdir()
    build(place)
    hand_over(visitor)
    programs = ["denied/program", "link", "hard", "denied/script", "by-script", "by-loader", "dir/../denied/program"]
    (place / "dir").mkdir()
    control = visitor.run([guest("path_races"), "execute", *programs], cwd=str(place))
    assert control.stdout.count("RAN\npath 0") == len(programs), control
    result = confined(
        visitor,
        [guest("path_races"), "execute", *programs, "good"],
        presets=["system"],
        fs_readable=[guest("path_races")],
        fs_writable=[str(place)],
        fs_denied=[str(place / "denied")],
        cwd=str(place),
    )
    refused, _, good = result.stdout.partition("good\n")
    assert "RAN" not in refused, refused
    assert good.count("RAN") >= 3, good


def build(place: Path) -> None:
    source = '#include <stdio.h>\nint main(int n, char **w) { return puts(n > 1 ? w[n - 1] : "RAN") < 0; }\n'
    for name, more in (
        ("denied/program", []),
        ("good", []),
        ("by-loader", [f"-Wl,--dynamic-linker={place}/denied/loader"]),
    ):
        subprocess.run(["gcc", "-x", "c", "-o", place / name, *more, "-"], input=source.encode(), check=True)
    loader = next(path for path in LOADERS if os.path.exists(path))
    (place / "denied/loader").write_bytes(Path(loader).read_bytes())
    (place / "denied/loader").chmod(0o755)
    (place / "link").symlink_to("denied/program")
    (place / "hard").hardlink_to(place / "denied/program")
    (place / "denied/script").write_text("#!/bin/sh\necho RAN\n")
    (place / "by-script").write_text(f"#!{place}/denied/program\n")
    for name in ("denied/script", "by-script"):
        (place / name).chmod(0o755)


LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
