"""The streams of a run, as trio streams: what a caller holds, and what `run` feeds and captures."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import trio

from ._capture import CHUNK, Buffer
from ._trio_thread import in_trio
from .errors import SandlockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._stdio import Stdio

    Data = bytes | bytearray | memoryview


class BrokenInputError(trio.BrokenResourceError, BrokenPipeError):
    """Nobody reads any more what is sent. What trio code expects there, and what other code expects."""


class _Ours:
    """Our end of a stream."""

    def __init__(self, fd: int, owner: int) -> None:
        self._stream = trio.lowlevel.FdStream(fd)
        self._owner = owner

    async def aclose(self) -> None:
        """Closes our end; again does nothing."""
        await in_trio(self._owner, self._stream.aclose)


class ProcessInput(_Ours, trio.abc.SendStream):
    """What the program reads. Closing it is the end of its input."""

    async def send_all(self, data: Data) -> None:
        """Sends all of it. Raises BrokenInputError (a BrokenPipeError, a trio.BrokenResourceError)."""
        await in_trio(self._owner, self._send, data)

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until something can be sent."""
        await in_trio(self._owner, self._stream.wait_send_all_might_not_block)

    async def _send(self, data: Data) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            raise BrokenInputError("the program reads no more") from None


class ProcessOutput(_Ours, trio.abc.ReceiveStream):
    """What the program writes. Iterating gives it in pieces as they come, until the end."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes, at least one; b"" at the end."""
        return await in_trio(self._owner, self._receive, max_bytes)

    async def _receive(self, max_bytes: int | None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
                return b""  # a pty that no program has open any more, see pty(7)
            raise


class ProcessTerminal(ProcessInput, ProcessOutput, trio.abc.Stream):
    """Our side of the program's pty: what is sent was typed, what is received is shown."""

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._stream.fileno()

    def resize(self, rows: int, columns: int) -> None:
        """Gives the terminal a new size. Raises SandlockError when it is closed."""
        from fcntl import ioctl
        from struct import pack
        from termios import TIOCSWINSZ

        fd = self.fileno()
        if fd < 0:
            raise SandlockError("the terminal is closed")
        ioctl(fd, TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))


class Pipes:
    """The input that a run is fed with, and its captured streams. Beyond `limit` bytes, each is dropped."""

    def __init__(self, stdio: Stdio, data: bytes, limit: int) -> None:
        self._data = data
        self._input = _take(stdio, "stdin")
        self._outputs: dict[str, tuple[trio.lowlevel.FdStream, Buffer]] = {}
        for name in ("stdout", "stderr"):
            stream = _take(stdio, name)
            if stream is not None:
                self._outputs[name] = stream, Buffer(limit)

    @property
    def truncated(self) -> frozenset[str]:
        """The streams of which something was dropped."""
        return frozenset(name for name, (_, buffer) in self._outputs.items() if buffer.truncated)

    def output(self, name: str) -> bytes:
        """What was captured of "stdout" or "stderr"; empty when it was not."""
        return b"".join(self._outputs[name][1].chunks) if name in self._outputs else b""

    async def exchange(self, ended: Callable[[], Awaitable[None]]) -> None:
        """Feeds and captures until `ended` returns: the tree is gone."""
        try:
            async with trio.open_nursery() as nursery:
                if self._input is not None:
                    nursery.start_soon(self._feed, self._input)
                for stream, buffer in self._outputs.values():
                    nursery.start_soon(_read, stream, buffer)
                await ended()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _single(group) from None
        # Nobody is left who could write: what is in the pipes is all there will be. Waiting for their end
        # instead could take for ever: a fork of the host may hold them open.
        for stream, buffer in self._outputs.values():
            _drain(stream.fileno(), buffer)

    async def aclose(self) -> None:
        """Closes our ends."""
        await close_all(self._input, *(stream for stream, _ in self._outputs.values()))

    async def _feed(self, stream: trio.lowlevel.FdStream) -> None:
        try:
            await stream.send_all(self._data)
        except trio.BrokenResourceError:  # the program reads no more: its right
            return
        finally:
            await close_all(stream)


async def close_all(*streams: trio.abc.AsyncResource | None) -> None:
    """Closes each, also where everything is cancelled: trio.aclose_forcefully would raise after the first."""
    with trio.CancelScope(shield=True):
        for stream in streams:
            if stream is not None:
                await stream.aclose()


async def _read(stream: trio.lowlevel.FdStream, buffer: Buffer) -> None:
    while chunk := await stream.receive_some(CHUNK):
        buffer.add(chunk)


def _drain(fd: int, buffer: Buffer) -> None:
    try:
        while chunk := os.read(fd, CHUNK):
            buffer.add(chunk)
    except BlockingIOError:
        return


def _take(stdio: Stdio, name: str) -> trio.lowlevel.FdStream | None:
    fd = stdio.take(name)
    return None if fd is None else trio.lowlevel.FdStream(fd)


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group comes down to: callers of `run` have not asked for tasks, and expect no group."""
    leaves: list[BaseException] = []
    groups: list[BaseException] = [group]
    while groups:
        error = groups.pop()
        if isinstance(error, BaseExceptionGroup):
            groups += error.exceptions
        else:
            leaves.append(error)
    others = [error for error in leaves if not isinstance(error, trio.Cancelled)]
    if not others:
        return leaves[0]
    return others[0] if len(others) == 1 else group
