"""`sandlock agent run` under a pseudo-terminal, driven as a person would."""

from __future__ import annotations

import os
import re
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType

import ordinary
import pexpect

QUIET = 0.45
"""Seconds after which a key counts, with some to spare."""
TITLE = "sandlock asks"


class Terminal:
    """A command of `sandlock` on a terminal, as `who`, in a workspace of theirs. Leaving the block ends it."""

    def __init__(
        self,
        who: ordinary.Person,
        *arguments: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        size: tuple[int, int] = (40, 100),
        words: Sequence[str] | None = None,
    ) -> None:
        def become() -> None:
            if who.identity:
                os.setgroups([])
                os.setgid(who.gid)
                os.setuid(who.uid)

        command = list(words) if words is not None else [who.python, "-m", "sandlock.cli", *arguments]
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            timeout=60,
            dimensions=size,
            cwd=cwd or workspace(who),
            env={"TERM": "xterm", **who.environment(env)},
            encoding="utf-8",
            codec_errors="replace",
            preexec_fn=become,
        )
        self.child.delaybeforesend = None
        self.modes = termios.tcgetattr(self.child.child_fd)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.close(force=True)

    def expect(self, pattern: str) -> re.Match[str]:
        self.child.expect(pattern)
        assert isinstance(self.child.match, re.Match)
        return self.child.match

    def question(self, pattern: str = "") -> str:
        """Waits for a question, which has `pattern` in it, until it takes keys; returns what was drawn."""
        self.expect(TITLE)
        self.expect("see all of it")
        drawn = str(self.child.before)
        assert re.search(pattern, drawn), drawn
        self.expect("answer: ")
        return drawn

    def press(self, keys: str) -> None:
        self.child.send(keys)

    def end(self) -> int:
        """Waits for its end; the exit code, as a shell has it. The terminal has to be as it was."""
        self.child.expect(pexpect.EOF)
        self.rest = str(self.child.before)
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else 128 + self.child.signalstatus)


def workspace(who: ordinary.Person) -> str:
    """A directory of theirs to work in."""
    place = os.path.join(who.home, "work")
    with suppress(FileExistsError):
        os.mkdir(place)
        os.chown(place, who.uid, who.gid)
    return place


def write(who: ordinary.Person, name: str, text: str, mode: int = 0o644) -> str:
    """A file in their workspace."""
    path = os.path.join(workspace(who), name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
    os.chown(path, who.uid, who.gid)
    return path


def runs_of(who: ordinary.Person) -> list[str]:
    """The directories of their sessions, the oldest first."""
    place = os.path.join(who.home, ".local/state/sandlock/runs")
    return sorted(os.path.join(place, name) for name in os.listdir(place)) if os.path.isdir(place) else []


def processes_with(text: str) -> list[int]:
    """The processes that have this in their words. For texts that no other test uses."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if text.encode() in file.read():
                    found.append(int(name))
    return found


def until_gone(text: str, seconds: float = 20.0, *, but: int = 0) -> None:
    """Waits until no process, but this one, has this in its words any more."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in processes_with(text) if pid != but]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to be so"
        time.sleep(0.01)


def a_word() -> str:
    """A word that nobody else has among their arguments."""
    return f"word{os.getpid()}x{os.urandom(6).hex()}"
