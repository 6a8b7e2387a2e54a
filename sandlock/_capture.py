"""Feeding and capturing a run's streams while waiting for its end.

What is captured is bounded: beyond the limit bytes are read and dropped, so that the program never blocks on us.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from ._execution import milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._execution import Execution
    from ._stdio import Stdio

CHUNK = 65536
GRACE = 5.0
"""Seconds past the time limit after which the host kills by itself: the init has a clock of its own."""


class Buffer:
    """What was read of one stream, up to a limit in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.chunks: list[bytes] = []
        self.truncated = False

    def add(self, chunk: bytes) -> None:
        """Keeps what still fits."""
        room = self.limit - self.size
        if len(chunk) > room:
            self.truncated = True
            chunk = chunk[:room]
        if chunk:
            self.size += len(chunk)
            self.chunks.append(chunk)


class Capture:
    """The pipes of one run. `drive` returns when the tree is gone and everything it wrote has been read."""

    def __init__(self, stdio: Stdio, data: bytes | None, limit: int) -> None:
        self._stdin = stdio.take("stdin")
        self._data = memoryview(data or b"")
        self._readers: dict[int, Buffer] = {}
        self._buffers: dict[str, Buffer] = {}
        for name in ("stdout", "stderr"):
            fd = stdio.take(name)
            if fd is not None:
                os.set_blocking(fd, False)
                self._buffers[name] = self._readers[fd] = Buffer(limit)
        if self._stdin is not None:
            os.set_blocking(self._stdin, False)
            if not self._data:
                self._close_stdin()

    @property
    def truncated(self) -> frozenset[str]:
        """The streams of which something was dropped."""
        return frozenset(name for name, buffer in self._buffers.items() if buffer.truncated)

    def output(self, name: str) -> bytes:
        """What was captured of "stdout" or "stderr"; empty when it was not."""
        return b"".join(self._buffers[name].chunks) if name in self._buffers else b""

    def drive(self, execution: Execution) -> None:
        """Blocks until the run has ended. Closes the pipes on every path."""
        try:
            poll = select.poll()
            poll.register(execution.control_fd, select.POLLIN)
            for fd in self._readers:
                poll.register(fd, select.POLLIN)
            if self._stdin is not None:
                poll.register(self._stdin, select.POLLOUT)
            overdue = None if execution.timeout is None else monotonic() + execution.timeout + GRACE
            while not execution.ended:
                left = None if overdue is None else overdue - monotonic()
                ready = poll.poll(milliseconds(left))
                if not ready and overdue is not None and monotonic() >= overdue:
                    execution.kill()
                    overdue = None
                for fd, _ in ready:
                    if fd == execution.control_fd:
                        execution.advance()
                    elif not (self.feed() if fd == self._stdin else self.read(fd)):
                        poll.unregister(fd)
                        self._close(fd)
            # Nobody is left who could write: what is in the pipes is all there will be.
            for fd in list(self._readers):
                self.drain(fd)
        finally:
            self.close()

    def read(self, fd: int) -> bool:
        """Reads one chunk. False at the end of the stream."""
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        self._readers[fd].add(chunk)
        return len(chunk) > 0

    def drain(self, fd: int) -> None:
        """Reads until the pipe is empty."""
        try:
            while chunk := os.read(fd, CHUNK):
                self._readers[fd].add(chunk)
        except BlockingIOError:
            return

    def feed(self) -> bool:
        """Writes what fits. False when all is written or nobody reads."""
        assert self._stdin is not None
        try:
            self._data = self._data[os.write(self._stdin, self._data[:CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return len(self._data) > 0

    def close(self) -> None:
        """Closes our ends."""
        self._close_stdin()
        for fd in list(self._readers):
            self._close(fd)

    def _close(self, fd: int) -> None:
        if fd == self._stdin:
            self._close_stdin()
        else:
            del self._readers[fd]
            os.close(fd)

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
