"""The trailer: what was denied, in words that a model can act on, written where it will look: the program's own stderr.

Rules: whatever the program controls is escaped, so that neither its words nor a host's name can forge or close the tag;
everything is bounded. Nobody is held up: a reader that does not read, or a disk that does not answer, gets none.

It is written through the descriptor that the denied program itself has as its stderr, so it reaches nothing that the
program could not write to. Only pipes, socket pairs and files of ordinary file systems are written to: a terminal is
drawn on by others, and a file of /proc or /sys would take a write of ours for an act of the host.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from fcntl import F_GETFL, fcntl
from time import monotonic
from typing import TYPE_CHECKING

import trio

from sandlock import Connect, Exec, Kill, Resolve, Send
from sandlock._sys import lib

from ..result import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Protocol

    from sandlock import Allow, Decision, Denial, Deny

    from ..events import Event

    class HasDenials(Protocol):
        """A result, a process while it runs, an answer of what lives on."""

        @property
        def denials(self) -> Sequence[Denial]: ...


__all__ = ["StderrTrailer", "trailer", "violation"]

TAG = "sandbox_violations"
LONGEST = 4096
"""Bytes of a trailer: what a pipe takes at once, or not at all (PIPE_BUF)."""
LONGEST_PART = 700
LINES = 20
FILE_SYSTEMS = frozenset(("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"))
"""Whose regular files are just files."""
BURST, EACH_SECOND = 40.0, 4.0
"""Trailers: who is denied the same in a loop has read it by then."""
SEEN = 64
MAX_PARENTS = 64


def violation(kind: str, what: str, rule: str = "", reason: str = "", *, decision: str = "deny") -> str:
    """One denial in one line of a trailer, escaped: `deny exec git push (rule git push *: use the mirror)`."""
    rule = rule.partition(" # ")[0]  # a rule carries its reason along, which the denial has, or a person's instead
    because = ": ".join(part for part in (f"rule {_safe(rule)}" if rule else "", _safe(reason)) if part)
    return f"{decision} {kind} {_safe(what)}" + (f" ({because})" if because else "")


def trailer(lines: Iterable[str], limit: int = LONGEST) -> str:
    """The trailer of these violations, the first of them if it gets longer than `limit` bytes; "" for none."""
    kept: list[str] = []
    size = 2 * len(TAG) + 64
    lines = list(dict.fromkeys(lines))
    for line in lines[:LINES]:
        size += len(line.encode()) + 1
        if size > limit:
            break
        kept.append(line)
    if not kept:
        return ""
    if len(kept) < len(lines):
        kept.append(f"and {len(lines) - len(kept)} more")
    return f"<{TAG}>" + "\n".join(kept) + f"</{TAG}>\n"


def violations(result: HasDenials) -> list[str]:
    """Those of a run, as its result, or the process while it runs, has them."""
    return [violation(each.kind, _what(each), each.rule, each.reason) for each in result.denials]


class StderrTrailer:
    """Writes trailers for one session. `deadline`: seconds that one may take, which the denied call waits for."""

    def __init__(self, *, deadline: float = 0.5) -> None:
        self._deadline = deadline
        self._threads = trio.CapacityLimiter(4)
        self._told: deque[tuple[int, str]] = deque(maxlen=SEEN)
        self._room, self._since = BURST, monotonic()
        self.written = 0
        """How many were."""

    async def denied(self, event: Event, verdict: Allow | Deny | Kill | None) -> None:
        """Tells the program whose call waits for this verdict, if it denies an exec or a destination."""
        if isinstance(event, Exec | Connect | Send | Resolve) and not hasattr(verdict, "scope"):
            what = " ".join(event.argv) if isinstance(event, Exec) else getattr(event, "host", "") or event.target
            reason = str(getattr(verdict, "reason", "") or "no rule allows it")
            kind, does = type(event).__name__.lower(), "kill" if isinstance(verdict, Kill) else "deny"
            await self._tell((event.pid,), violation(kind, what, event.rule, reason, decision=does))

    async def decided(self, decision: Decision) -> None:
        """Tells of a denial that the rules made by themselves: the program, or its nearest ancestor that still lives.

        It comes a moment after the denial; those that a callback was asked about are passed over."""
        if decision.decision not in ("deny", "kill") or decision.asked or decision.kind not in ("exec", "connect"):
            return
        line = violation(decision.kind, _what(decision), decision.rule, decision.reason, decision=decision.decision)
        await self._tell((decision.pid, *decision.parents), line)

    async def _tell(self, pids: Sequence[int], line: str) -> None:
        if (pids[0], line) in self._told or not self._has_room():
            return
        self._told.append((pids[0], line))  # execvp(3) tries each place of PATH
        text = trailer([line]).encode()
        with trio.move_on_after(self._deadline):
            if await trio.to_thread.run_sync(
                deliver, pids, text, self._deadline, abandon_on_cancel=True, limiter=self._threads
            ):
                self.written += 1

    def _has_room(self) -> bool:
        now = monotonic()
        self._room = min(BURST, self._room + (now - self._since) * EACH_SECOND)
        self._since = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


def _what(call: object) -> str:
    """The words of an exec, or where else a call leads."""
    words = getattr(call, "argv", ())
    return " ".join(words) if words else str(getattr(call, "host", "") or getattr(call, "target", ""))


def _safe(text: str) -> str:
    safe = printable(text, LONGEST_PART)
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Delivery, in a worker thread -----------------------------------------------------------------------------------------


def deliver(pids: Sequence[int], text: bytes, seconds: float) -> bool:
    """Writes to the stderr of the first of these processes that still lives, and is one of ours. Whether it did."""
    for pid in pids:
        fd = _stderr_of(pid)
        if fd is None:
            continue
        try:
            return _write(fd, text, seconds)
        except OSError:  # nobody reads, the disk is full: it is a courtesy
            return False
        finally:
            os.close(fd)
    return False


def _stderr_of(pid: int) -> int | None:
    """A descriptor of that process's stderr; None if it is gone, has none, or is no descendant of this process."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if not descends(pid):  # asked after the pidfd was opened: it is the process that the pidfd names
            return None
        fd = lib.pidfd_take(pidfd, 2)
        if fd >= 0 and select.select([pidfd], [], [], 0)[0]:  # it ended, and somebody else may have had its number
            os.close(fd)
            return None
        return int(fd) if fd >= 0 else None
    finally:
        os.close(pidfd)


def descends(pid: int, of: int | None = None) -> bool:
    """Whether a process is below this one (or below `of`)."""
    top = os.getpid() if of is None else of
    for _ in range(MAX_PARENTS):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return False
        if pid == top:
            return True
        if pid <= 1:
            return False
    return False


def _write(fd: int, text: bytes, seconds: float) -> bool:
    """Writes it where that can neither block nor mean anything else. Whether it did. Raises OSError."""
    mode, flags = os.fstat(fd).st_mode, fcntl(fd, F_GETFL)
    if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
        return False
    if stat.S_ISFIFO(mode):
        return _splice(fd, text, seconds)
    if stat.S_ISSOCK(mode):
        return _send(fd, text)
    if stat.S_ISREG(mode) and _file_system(fd) in FILE_SYSTEMS:
        return os.write(fd, text) == len(text)  # by its own description: at its place, appending where it appends
    return False


def _splice(fd: int, text: bytes, seconds: float) -> bool:
    """Into a pipe, all of it or nothing, and without waiting in it: O_NONBLOCK on the program's own description would
    change what it sees, and to open the pipe anew takes a permission that its maker, as another user, need not give."""
    until = monotonic() + seconds
    source, own = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(own, text)  # at most PIPE_BUF: one page, which moves as a whole
        while True:
            try:
                return os.splice(source, fd, len(text), flags=os.SPLICE_F_NONBLOCK) == len(text)
            except BlockingIOError:
                left = until - monotonic()
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                if left <= 0 or not poll.poll(left * 1000):
                    return False
    finally:
        os.close(source)
        os.close(own)


def _send(fd: int, text: bytes) -> bool:
    """To a socket pair, as libuv makes for what it starts. One with a name leads to somebody else: not ours to talk."""
    import socket

    with socket.socket(fileno=os.dup(fd)) as own:
        if own.family != socket.AF_UNIX or own.type != socket.SOCK_STREAM or own.getsockname() or own.getpeername():
            return False
        return own.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(text)


def _file_system(fd: int) -> str:
    """The type of the file system that an open file lies on; "" if that cannot be said."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        mount = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.split(" ", 1)[0] == mount:
                return line.rpartition(" - ")[2].split(" ")[0]
    return ""
