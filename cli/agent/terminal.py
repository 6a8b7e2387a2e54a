"""Our own terminal: raw while an agent has it, and put back on every way out, also when we are killed.

Rules: what we read and write goes through an open file of our own, so that no setting of it (O_NONBLOCK) is left to
the shell. The terminal's modes are put back as they were; if this process is killed, by a small process that waits for
that.
"""

from __future__ import annotations

import os
import signal
import struct
import termios
from contextlib import contextmanager, suppress
from fcntl import ioctl
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Console", "Guard"]

TIOCGDEV = 0x80045432
"""The device of a terminal, also of /dev/tty: include/uapi/asm-generic/ioctls.h."""
LONGEST_NEWS = 4096


class Console:
    """The terminal of this process. Made by `find`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd)
        self._raw = _made_raw(self._saved)
        self._is_raw = False

    @classmethod
    def find(cls) -> Console | None:
        """The terminal that one of the standard streams is; None if none is one."""
        for number in (0, 1, 2):
            if _is_terminal(number):
                fd = _open_anew(number)
                return None if fd is None else cls(fd)
        return None

    @property
    def fd(self) -> int:
        """The descriptor."""
        return self._fd

    @property
    def raw_modes(self) -> list[Any]:
        """The modes that `make_raw` sets."""
        return self._raw

    @property
    def saved_modes(self) -> list[Any]:
        """The modes that it had."""
        return self._saved

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; 24 and 80 where it does not know."""
        with suppress(OSError):
            rows, columns, _, _ = struct.unpack("4H", ioctl(self._fd, termios.TIOCGWINSZ, b"\0" * 8))
            return (rows or 24, columns or 80)
        return (24, 80)

    def make_raw(self) -> None:
        """Keys come as bytes, one by one, unseen. From the background, it stops this process as it would any other."""
        with suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._raw)
        self._is_raw = True

    def put_back(self) -> None:
        """The modes it had. Also from the background."""
        if self._is_raw:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            try:
                with suppress(termios.error):  # hung up: nothing is left to put back
                    termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._is_raw = False

    @contextmanager
    def raw(self) -> Iterator[None]:
        """Raw within it, then as it was before."""
        was_raw = self._is_raw
        self.make_raw()
        try:
            yield
        finally:
            if not was_raw:
                self.put_back()

    def forget_typed(self) -> None:
        """Drops what was typed and not read."""
        with suppress(termios.error):
            termios.tcflush(self._fd, termios.TCIFLUSH)

    async def send(self, data: bytes) -> None:
        """Shows it. Raises trio.BrokenResourceError when the terminal is gone."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._fd)
            except OSError as error:
                raise trio.BrokenResourceError("the terminal is gone") from error
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        """What was typed; b"" for its end, also when the terminal is gone."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, 4096)
            except BlockingIOError:  # somebody else has read it
                continue
            except OSError:
                return b""

    def send_last(self, data: bytes) -> None:
        """Shows it as far as that goes without waiting: for the way out."""
        with suppress(OSError):
            os.write(self._fd, data)

    def close(self) -> None:
        """Puts the terminal back, and lets go of it."""
        self.put_back()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Guard:
    """A process that puts the terminal back when this one is killed. To be made while there are no threads."""

    def __init__(self, console: Console) -> None:
        read_end, self._news = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._news)
                _stand_guard(read_end, console)
            finally:
                os._exit(0)
        os.close(read_end)

    def tell(self, undo: bytes) -> None:
        """What to send to the terminal besides, from now on."""
        if self._news >= 0 and len(undo) <= LONGEST_NEWS:
            with suppress(OSError):  # it was killed: then nobody is there to care
                os.write(self._news, struct.pack("H", len(undo)) + undo)

    def dismiss(self) -> None:
        """All is in order: it ends without doing anything."""
        if self._news < 0:
            return
        with suppress(OSError):
            os.write(self._news, struct.pack("H", 0xFFFF))
        os.close(self._news)
        self._news = -1
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _stand_guard(news: int, console: Console) -> None:
    """In the guard: waits for the end of the other process, and acts if that said no goodbye."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    first, second = sorted((news, console.fd))
    os.closerange(0, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, 1 << 20)
    undo = data = b""
    while block := os.read(news, 65536):
        data += block
        while len(data) >= 2:
            (length,) = struct.unpack("H", data[:2])
            if length == 0xFFFF:
                return
            if len(data) < 2 + length:
                break
            undo, data = data[2 : 2 + length], data[2 + length :]
    # Somebody may have taken the terminal over meanwhile, with modes of its own: then it is not for us to touch.
    if termios.tcgetattr(console.fd) == console.raw_modes:
        console.send_last(undo + b"\r\n")
        termios.tcsetattr(console.fd, termios.TCSANOW, console.saved_modes)


def _made_raw(modes: list[Any]) -> list[Any]:
    """As cfmakeraw(3) has it."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = modes
    t = termios
    iflag &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
    lflag &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
    characters = list(characters)
    characters[t.VMIN], characters[t.VTIME] = 1, 0  # as tcgetattr has it: the guard compares
    cflag = cflag & ~(t.CSIZE | t.PARENB) | t.CS8
    return [iflag, oflag & ~t.OPOST, cflag, lflag, ispeed, ospeed, characters]


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _open_anew(fd: int) -> int | None:
    """An open file of our own for the terminal of this descriptor; None where it cannot be opened."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    for name in ("/dev/tty", f"/proc/self/fd/{fd}"):
        try:
            opened = os.open(name, flags)
        except OSError:  # no controlling terminal; after `su`, the terminal is somebody else's
            continue
        if _device(opened) == _device(fd):
            return opened
        os.close(opened)
    return None


def _device(fd: int) -> int:
    """The terminal's own device number: /dev/tty has another one."""
    try:
        return int(struct.unpack("I", ioctl(fd, TIOCGDEV, b"\0" * 4))[0])
    except OSError:
        return os.fstat(fd).st_rdev
