"""Ending a session's tree from outside, when its host does not answer.

Rules: nothing is sent to a number, only to a process that was looked at through a pidfd; the host itself is never
touched. The run's init ends all of its tree as soon as the program itself has ended, so that is what is ended here.
"""

from __future__ import annotations

import os
import signal
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sandlock import SandlockError

from .directory import start_time_of

if TYPE_CHECKING:
    from .directory import Identity, SessionRecord

__all__ = ["end_tree"]

LIMIT = 10.0
"""Seconds."""
EACH = 0.02


def end_tree(record: SessionRecord) -> bool:
    """Kills what runs in a session's sandbox, and waits until it is gone. False if nothing runs.

    Raises SandlockError."""
    tree = record.tree
    if tree is None:
        raise SandlockError(f"end the tree of {record.id}: it is not known; end its host: kill {record.pid}")
    if not tree.is_judgeable:
        raise SandlockError(f"end the tree of {record.id}: it belongs to another machine or container; do it there")
    if not tree.is_alive:
        return False
    init = _open(tree.pid, tree.start_time)
    if init is None:
        return False
    try:
        until = monotonic() + LIMIT
        while tree.is_alive:
            if monotonic() > until:
                raise SandlockError(f"end the tree of {record.id}: it is not gone after {LIMIT:.0f} s")
            signal.pidfd_send_signal(init, signal.SIGCONT)  # somebody may have stopped what has to end it
            for child in children_of(tree.pid):
                _kill_child(child, tree)
            sleep(EACH)
        return True
    except ProcessLookupError:
        return True
    finally:
        os.close(init)


def children_of(pid: int) -> list[int]:
    """The children of a process with one thread, as /proc lists them."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _kill_child(pid: int, tree: Identity) -> None:
    start = start_time_of(pid)
    child = _open(pid, start) if start > 0 else None
    if child is None:
        return
    try:
        if pid in children_of(tree.pid) and tree.is_alive:  # asked while the pidfd holds it: it is still the same
            signal.pidfd_send_signal(child, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(child)


def _open(pid: int, start_time: int) -> int | None:
    """A pidfd of the process that has this number and this start time; None if there is none."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_time_of(pid) != start_time:  # looked at while the pidfd holds the number
        os.close(pidfd)
        return None
    return pidfd
