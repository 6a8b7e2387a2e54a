"""The three standard streams of a run: who holds which end.

Rule: every descriptor made here is close-on-exec, numbered 3 or more, and closed exactly once, on every path.
"""

from __future__ import annotations

import os

from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class HasFileno(Protocol):
        """Anything with a descriptor."""

        def fileno(self) -> int:
            """The descriptor."""

    from ._terminal import PreservedTerminal

    Stream = int | HasFileno | None

PIPE = -1
"""A pipe: captured by `run`, an open file of the process object after `start`."""
STDOUT = -2
"""For stderr: wherever stdout goes."""
NULL = -3
"""/dev/null."""
INHERIT = -4
"""The host's own stream."""

FIRST_FREE = 3


def above_stdio(fd: int) -> int:
    """The descriptor, moved out of 0..2 where the host runs with closed standard streams."""
    if fd >= FIRST_FREE:
        return fd
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    moved = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FREE)
    os.close(fd)
    return moved


class Stdio:
    """The descriptors of one run: `child` for the program, `host` for us. Opened by `open`, closed by `close`."""

    def __init__(self) -> None:
        self.child: list[int] = [-1, -1, -1]
        self.host: dict[str, int] = {}
        """Our pipe ends by stream name, and "terminal" for a pty's master."""
        self.terminal = -1
        """The pty's slave, for the program's controlling terminal, or -1."""
        self._borrowed: list[int] = []

    def open(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        """Opens what the three specifications ask for. Raises PolicyError, OSError."""
        for index, (name, stream) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
            self.child[index] = self._open(index, name, stream)

    def open_terminal(self, rows: int, columns: int) -> None:
        """All three streams on the slave of a new pseudo-terminal of that size. Raises OSError."""
        from fcntl import ioctl
        from struct import pack
        from termios import TIOCSWINSZ

        master, slave = os.openpty()
        self.host["terminal"] = above_stdio(master)
        self.terminal = above_stdio(slave)
        self._borrowed.append(self.terminal)
        self.child = [self.terminal] * 3
        ioctl(self.terminal, TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))

    def _open(self, index: int, name: str, stream: Stream) -> int:
        if stream is None or stream == NULL:
            return self._keep(os.open(os.devnull, os.O_RDONLY if index == 0 else os.O_WRONLY))
        if stream == PIPE:
            read_end, write_end = (above_stdio(fd) for fd in os.pipe2(os.O_CLOEXEC))
            self.host[name] = write_end if index == 0 else read_end
            return self._keep(read_end if index == 0 else write_end)
        if stream == STDOUT:
            if index != 2:
                raise PolicyError(f"{name}: STDOUT is for stderr only", field=name)
            return self.child[1]
        if stream == INHERIT:
            return index
        fd = stream if isinstance(stream, int) else stream.fileno() if hasattr(stream, "fileno") else None
        if not isinstance(fd, int) or isinstance(fd, bool) or fd < 0:
            raise PolicyError(
                f"{name}: {stream!r} is no stream; use PIPE, NULL, INHERIT, a descriptor or an open file", field=name
            )
        return fd

    def _keep(self, fd: int) -> int:
        fd = above_stdio(fd)
        self._borrowed.append(fd)
        return fd

    def take(self, name: str) -> int | None:
        """Our end of a stream, for the caller to own; None when there is none."""
        return self.host.pop(name, None)

    def close_child(self) -> None:
        """Closes our copies of the program's ends, once it has its own."""
        for fd in self._borrowed:
            os.close(fd)
        self._borrowed.clear()

    def close(self) -> None:
        """Closes everything that is still ours."""
        self.close_child()
        for fd in self.host.values():
            os.close(fd)
        self.host.clear()


def preserved_terminal(interactive: bool) -> PreservedTerminal | None:
    """The host's terminal as it is now, for a program that gets it."""
    if not interactive:
        return None
    from ._terminal import PreservedTerminal

    return PreservedTerminal()
