"""Whether a tree that was stopped has stopped, as /proc says it. One of its tasks may have continued another just
before it stopped itself.

Rules: only looks. What cannot be read has ended, or cannot be told.
"""

from __future__ import annotations

import os

from .errors import SandlockError

__all__ = ["AGAIN", "ANSWER_LIMIT", "PAUSE_LIMIT", "keeps_running", "no_answer", "running_below"]

PAUSE_LIMIT = 2.0
"""Seconds in which a tree has to stop."""
ANSWER_LIMIT = 5.0
"""Seconds in which the init has to answer."""
AGAIN = 0.005
"""Seconds until it is told again."""


def running_below(top: int) -> list[int]:
    """The processes below `top` that have not stopped, or came while it was looked: whoever forks is found by the next
    look only."""
    first, before = _look(top)
    if first:
        return first
    running, now = _look(top)
    return running or sorted(now - before)


def _look(top: int) -> tuple[list[int], set[int]]:
    """Those of which a thread has not stopped, and all."""
    running = []
    seen: set[int] = set()
    waiting = _children(top)
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            waiting += _children(pid)
            if not all(_has_stopped(pid, thread) for thread in _threads(pid)):
                running.append(pid)
    return running, seen


def keeps_running(pids: list[int]) -> SandlockError:
    """What is said of a tree that does not stop."""
    shown = ", ".join(map(str, pids[:5]))
    return SandlockError(
        f"pause the program: after {PAUSE_LIMIT:.0f} s there are processes that go on ({shown}), because others, or "
        "somebody outside, continue them; kill it, or try again"
    )


def no_answer(pause: bool) -> SandlockError:
    """What is said where the init does not answer."""
    what = "pause" if pause else "resume"
    return SandlockError(f"{what} the program: the run's init has not answered for {ANSWER_LIMIT:.0f} s; kill the run")


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    found = []
    for thread in _threads(pid):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
        except OSError:
            continue
    return found


def _has_stopped(pid: int, thread: int) -> bool:
    """Also who can only be killed where it waits ("D": for the supervisor, or for a vfork(2) child): it stops before it
    executes anything of its own."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t", b"Z", b"X", b"D")
    except (OSError, IndexError):
        return True
