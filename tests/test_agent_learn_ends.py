"""`agent learn`, a program that draws the screen, and whatever ends it: the profile is written, nothing is left."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from lessons import Lesson, begin, command_of
from ordinary import Person

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.slow]
SLEEP = str(100_000 + os.getpid())
"""Seconds that nobody else sleeps."""


@pytest.fixture
def lesson(visitor: Person) -> Lesson:
    return begin(visitor)


def in_terminal(
    lesson: Lesson, words: list[str], typed: Callable[[int, bytearray], Iterator[bool]], timeout: float = 30
) -> tuple[int, bytes]:
    """Runs words in a new terminal. `typed` gets its descriptor and what was shown, and yields until it is done."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(lesson.work)
        if lesson.who.identity:
            os.setgroups([])
            os.setgid(lesson.who.gid)
            os.setuid(lesson.who.uid)
        os.execve(lesson.who.python, words, lesson.who.environment({"TERM": "xterm"}))
    shown, deadline, steps = bytearray(), time.monotonic() + timeout, None
    try:
        steps = typed(terminal, shown)
        next(steps)
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    block = os.read(terminal, 65536)
                except OSError:
                    break
                if not block:
                    break
                shown += block
            next(steps, None)
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), bytes(shown)


@pytest.mark.needs(program="vim")
def test_a_program_that_draws_the_screen(lesson: Lesson) -> None:
    """vim: it gets the terminal, its size, and Ctrl-C; what it wrote is in the profile."""

    def typed(text: str) -> Callable[[int, bytearray], Iterator[bool]]:
        def type_it(terminal: int, shown: bytearray) -> Iterator[bool]:
            while b"notes.txt" not in shown:
                yield False
            os.write(terminal, b"i" + text.encode())
            while text.encode() not in shown:
                yield False
            del shown[:]
            os.write(terminal, b"\x03")  # ends the insertion, and not vim
            while not shown:
                yield False
            os.write(terminal, b"\x1b:wq\r")
            yield True

        return type_it

    lesson.write("notes.txt", "")
    editor = ["vim", "-u", "NONE", "-i", "NONE", "-n", "notes.txt"]
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, "-t", "60", "--", *editor)
    code, shown = in_terminal(lesson, words, typed("learned"))
    assert code == 0, shown
    assert lesson.read("notes.txt") == "learned\n"

    words = command_of(lesson, "run", "-i", "-p", lesson.profile, "--", *editor)
    code, shown = in_terminal(lesson, words, typed("again"))
    assert code == 0, shown
    assert lesson.read("notes.txt") == "againlearned\n"
    assert lesson.again("cat", "/etc/hostname").returncode == 126


@pytest.mark.needs(program="less")
def test_a_program_that_only_shows(lesson: Lesson) -> None:
    """less: it draws what it reads, takes keys, and writes nothing."""

    def look(terminal: int, shown: bytearray) -> Iterator[bool]:
        while b"line 1\r\n" not in shown:
            yield False
        os.write(terminal, b"G")
        while b"line 500" not in shown:
            yield False
        os.write(terminal, b"q")
        yield True

    lesson.write("long.txt", "".join(f"line {number}\n" for number in range(1, 501)))
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, "-t", "60", "--", "less", "long.txt")
    code, shown = in_terminal(lesson, words, look)
    assert code == 0, shown
    assert "filesystem.write" not in lesson.rules

    words = command_of(lesson, "run", "-i", "-p", lesson.profile, "--", "less", "long.txt")
    code, shown = in_terminal(lesson, words, look)
    assert code == 0, shown
    assert lesson.again("cat", "long.txt").returncode == 126


def test_ctrl_c_ends_the_program_and_the_profile_is_written(lesson: Lesson) -> None:
    def typed(terminal: int, shown: bytearray) -> Iterator[bool]:
        while b"ready" not in shown:
            yield False
        os.write(terminal, b"\x03")
        yield True

    script = f"echo 1 > made; setsid sleep {SLEEP} & trap '' INT; echo ready; while :; do sleep 0.1; done"
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, "--", "sh", "-c", script)
    code, shown = in_terminal(lesson, words, typed)
    assert code == 0, shown
    assert b"was ended by SIGINT" in shown
    assert "workspace" in lesson.rules["config.presets"]
    assert not still_runs()


@pytest.mark.parametrize("how", ["limit", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_whatever_ends_it_the_profile_is_written(lesson: Lesson, how: str | signal.Signals) -> None:
    script = f"echo 1 > made; (setsid sleep {SLEEP} > /dev/null 2>&1 &) ; echo ready >&2; sleep 60"
    limit = ["-t", "1"] if how == "limit" else []
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, *limit, "--", "sh", "-c", script)
    environment = lesson.who.environment()
    with subprocess.Popen(
        words,
        cwd=lesson.work,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **lesson.who.identity,  # type: ignore[call-overload]
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert ("by its time limit" if how == "limit" else f"was ended by {how.name}") in rest  # type: ignore[union-attr]
    assert "workspace" in lesson.rules["config.presets"]
    assert not still_runs()
    assert [name for name in os.listdir(lesson.who.home) if "learn-" in name] == []


def still_runs() -> bool:
    """Whether a `sleep` of this process's tests is alive."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().split(b"\0")[:2] == [b"sleep", SLEEP.encode()]:
                    return True
        except OSError:
            continue
    return False
