"""Races for an exec that must never be won: what was approved, by a callback or by a rule, is what runs.

Each is thousands of tries of a program that executes something harmless while somebody makes something else of it. What
really ran is told by the files that it makes. The control: unsupervised, each race is won.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ordinary
import pytest
import trio
from loops import LOOPS
from programs.tools import SOURCES, guest
from test_vet_exec import vetted

import sandlock
from sandlock import Allow, AsyncSandbox, Deny, Exec, Result

pytestmark = [
    pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"),
    pytest.mark.usefixtures("lasting_thread"),
    pytest.mark.slow,
]
MILLISECONDS = os.environ.get("SANDLOCK_RACE_MS", "1600")
"""For each race that Python is asked about; half of it for those that rules decide, which are quicker."""
FREESTANDING = ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-s",
                "-Wl,-n,--build-id=none")  # fmt: skip

ARGUMENTS = {
    "sibling": "rewritten by a thread of the caller",
    "peer": "rewritten by the process whose memory a vforked child uses",
    "shared": "in memory that another process shares",
    "memory": "rewritten by another process, in /proc/PID/mem",
}
FILES = {
    "rename": "another file is renamed to its name",
    "directory": "its directory is renamed",
    "link": "a symbolic link is swapped",
    "overwrite": "other content is written into it",
    "script": "a script with another interpreter is swapped in",
    "words": "the #! line of a script is overwritten",
    "mapped": "it is overwritten through a shared mapping, on a file system that then does not touch its times",
}
RULES = {
    "allow": lambda arena: {"exec_allow": [f"{arena.races} *", arena.good_rule]},
    "deny": lambda arena: {"exec_deny": [arena.evil_rule]},
}


def build(place: Path, name: str, *flags: str) -> None:
    subprocess.run(["gcc", *FREESTANDING, *flags, "-o", place / name, f"{SOURCES}/mark.c"], check=True)


@pytest.fixture(scope="module")
def marks() -> Path:
    """Where the programs that leave marks are; the sandbox may read it."""
    place = Path(ordinary.scratch())
    place.chmod(0o755)
    build(place, "mark")
    build(place, "good-program", '-DWORD="good"')
    build(place, "evil-program", '-DWORD="evil"')
    return place


class Arena:
    """A workspace in which a race can be run."""

    def __init__(self, place: Path, marks: Path, kind: str) -> None:
        self.place = place
        self.mark = str(marks / "mark")
        self.races = guest("races")
        self.kind = kind
        self.argv = [self.races, kind, MILLISECONDS, self.mark]
        for name in ("good", "evil"):
            shutil.copy(marks / f"{name}-program", place)
            interpreter = f"{self.mark} {name}" if kind == "words" else f"{place}/{name}-program"
            (place / f"{name}-script").write_text(f"#!{interpreter}\n")
            (place / f"{name}-script").chmod(0o755)
        for folder, name in (("folder", "good"), ("other", "evil")):
            (place / folder).mkdir()
            shutil.copy(place / f"{name}-program", place / folder / "program")
        shutil.copy(place / ("good-script" if kind == "words" else "good-program"), place / "target")
        shutil.copy(place / "evil-program", place / "spare")
        if kind in ("link", "script"):  # rules allow no file that the program may write: these links are of others
            for name in ("good", "evil"):
                (marks / f"{name}-script").write_text(f"#!{marks}/{name}-program\n")
                (marks / f"{name}-script").chmod(0o755)
                for what in ("program", "script"):
                    (place / f"{name}-{what}").unlink()
                    (place / f"{name}-{what}").symlink_to(marks / f"{name}-{what}")
        self.good = (place / ("good-script" if kind == "words" else "good-program")).read_bytes()

    def control(self) -> None:
        """Unsupervised, it is won."""
        subprocess.run(self.argv, cwd=self.place, check=True, timeout=60, stdout=subprocess.DEVNULL)
        assert self.ran("evil"), "the control: unsupervised, the race is won"
        (self.place / "evil").unlink()
        (self.place / "good").unlink(missing_ok=True)

    def ran(self, name: str) -> bool:
        return (self.place / name).exists()

    def is_good(self, event: Exec) -> bool:
        """What a careful callback looks at: the words, and the very file that was looked at."""
        if self.kind in ARGUMENTS:
            return event.argv == (self.mark, "good")
        if self.kind in ("link", "script"):
            return os.path.basename(event.exe) == ("good-program" if self.kind == "link" else "good-script")
        try:
            fd = os.open(event.exe, os.O_RDONLY)
        except OSError:
            return False
        try:
            content = os.read(fd, 65536)
            found = os.fstat(fd)
        finally:
            os.close(fd)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)
        return identity == event.identity and content == self.good

    def check(self, result: Result) -> int:
        """Never won, and not because nothing ran. Returns the tries."""
        assert result.exit_code == 0, result
        assert not self.ran("evil"), result.stdout
        assert self.ran("good"), result.explain()
        return int(result.stdout)

    @property
    def good_rule(self) -> str:
        name = "script" if self.kind == "script" else "program"
        return f"{self.mark} good" if self.kind in ARGUMENTS else f"{os.path.dirname(self.mark)}/good-{name}"

    @property
    def evil_rule(self) -> str:
        return self.good_rule.replace("good", "evil")

    @property
    def reads(self) -> list[str]:
        return [os.path.dirname(self.races), os.path.dirname(self.mark)]


@pytest.fixture
def arena(tmp_path: Path, marks: Path, request: pytest.FixtureRequest) -> Iterator[Arena]:
    if request.param != "mapped":
        yield Arena(tmp_path, marks, request.param)
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:  # a tmpfs
        yield Arena(Path(place), marks, request.param)


@pytest.mark.parametrize("arena", [*ARGUMENTS, *FILES], indirect=True, ids=str)
def test_what_a_callback_approved_is_what_runs(arena: Arena) -> None:
    approved = 0

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        nonlocal approved
        if event.exe == arena.races:
            return Allow()
        good = arena.is_good(event)
        approved += good
        return Allow() if good else Deny("evil")

    arena.control()
    result = vetted(LOOPS[0], arena.place, vet, *arena.argv, fs_readable=arena.reads)
    arena.check(result)
    assert approved > 20
    causes = {denial.cause for denial in result.denials}
    assert causes <= {"verdict", "changed", "attestation"}
    assert causes & {"changed", "attestation"} or arena.kind == "memory", "no try came near"


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("arena", [*ARGUMENTS, "link", "script"], indirect=True, ids=str)
def test_what_a_rule_allowed_is_what_runs(arena: Arena, rules: str) -> None:
    """Rules name files and words; what is in a file they do not look at."""
    arena.control()
    arena.argv[2] = str(int(MILLISECONDS) // 2)
    options: dict[str, Any] = RULES[rules](arena)
    with sandlock.Sandbox(
        presets=["system"], fs_writable=[str(arena.place)], cwd=str(arena.place), fs_readable=arena.reads, **options
    ) as box:
        arena.check(box.run(arena.argv, timeout=30))


# ---- memory of others


@pytest.mark.parametrize("granted", ["/proc", "/proc/self", "/proc/sys/.."])
def test_where_calls_are_judged_nobody_gets_the_memory_of_others(ordinary_user: ordinary.Person, granted: str) -> None:
    """The race by /proc/PID/mem is lost at its open(2): nobody is granted that. Root never is, with or without."""
    code = (
        "import sys, sandlock\n"
        "def refused(**fields):\n"
        "    try: sandlock.Sandbox(presets=['system'], fs_writable=[sys.argv[1]], **fields)\n"
        "    except sandlock.PolicyError as error: return 'memory' in str(error)\n"
        "    return False\n"
        "print(refused(policy_fn=lambda event, box: None), refused(exec_deny=['rm']), refused(audit='/dev/null'),\n"
        "    refused())"
    )
    assert ordinary_user.script(code, granted).split() == ["True", "True", "True", "False"]


# ---- scripts

READER = r"""
#include <fcntl.h>
#include <unistd.h>
int main(int count, char **words)
{
    char text[4096];
    ssize_t length;
    int fd, ready;
    (void)count;
    ready = open("ready", O_WRONLY | O_CREAT, 0644);
    close(ready);
    while (access("go", F_OK))
        usleep(1000);
    fd = open(words[1], O_RDONLY);
    length = read(fd, text, sizeof text);
    return write(1, text, (size_t)length) != length;
}
"""


def test_what_is_held_of_a_script(tmp_path: Path) -> None:
    """Its interpreter, all words and, until the interpreter is loaded, the file. An interpreter opens its script by
    name after that, so who replaces it later has that read: a limit that the documentation tells of."""
    subprocess.run(["gcc", "-x", "c", "-o", tmp_path / "reader", "-"], input=READER.encode(), check=True)
    script = tmp_path / "script"
    script.write_text(f"#!{tmp_path}/reader\ngood\n")
    script.chmod(0o755)
    asked: list[Exec] = []

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        asked.append(event)
        return Allow()

    async def main() -> Result:
        async with (
            AsyncSandbox(presets=["system"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=vet) as box,
            box.start(["./script", "word"]) as process,
        ):
            while not (tmp_path / "ready").exists():
                await trio.sleep(0.01)
            (tmp_path / "new").write_text(f"#!{tmp_path}/reader\nbad\n")
            (tmp_path / "new").chmod(0o755)
            (tmp_path / "new").rename(script)
            (tmp_path / "go").touch()
            assert process.stdout is not None
            assert await process.stdout.receive_some() == f"#!{tmp_path}/reader\nbad\n".encode()
            return await process.wait()

    assert trio.run(main).exit_code == 0
    (event,) = asked
    assert event.interpreter == (f"{tmp_path}/reader", "./script")
    assert event.loaded[1] == (tmp_path / "reader").stat().st_ino
    assert event.identity[1] != script.stat().st_ino


def test_questions_about_a_swapped_file_are_not_alike(tmp_path: Path) -> None:
    """Two processes execute the same name, which leads to another file in the meantime: one answer is not for both."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"#!/bin/sh\n>ran-{name}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "one").rename(tmp_path / "tool")
    first = (tmp_path / "tool").stat().st_ino

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        if event.argv != ("./tool",):
            return Allow()
        await trio.sleep(0.5)
        return Allow() if event.identity[1] == first else Deny("another file")

    script = "./tool & sleep 0.1; mv two tool; ./tool & wait"
    vetted(LOOPS[0], tmp_path, vet, "/bin/sh", "-c", script)
    assert not (tmp_path / "ran-two").exists()
