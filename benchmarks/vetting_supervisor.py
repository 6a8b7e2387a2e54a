"""The least that asks an async callback about execs and connections: the yardstick of `policy_fn` under trio.

    vetting_supervisor.py VETTING_SUPERVISOR exec|connect PROGRAM [ARGUMENT...]

One thread: trio waits for the listener, the callback is awaited, and the same thread makes the connect on the caller's
behalf, or holds the program at its exec stop. No other thread has to be woken, no event is made, nothing is judged,
recorded, or checked, and a call that takes long would stop the loop. Exits as PROGRAM does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from typing import Final

import trio

RECV: Final = 0xC0502100
SEND: Final = 0xC0182101
SET_FLAGS: Final = 0x40082104
SYNC_WAKE_UP: Final = 1
CONTINUE: Final = 1
SYS_PIDFD_GETFD: Final = 438
SEIZE: Final = 0x4206
DETACH: Final = 17
TRACE_EXEC: Final = 1 << 4
WALL: Final = 0x40000000
NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
RESPONSE: Final = struct.Struct("=QqiI")
libc = ctypes.CDLL(None, use_errno=True)


class Span(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def start(installer: list[str], program: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The guest, and its listener."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    guest = subprocess.Popen([*installer, str(tell), str(wait), *program], pass_fds=(tell, wait))
    (number,) = struct.unpack("i", os.read(told, 4))
    listener = take(guest.pid, number)
    fcntl.ioctl(listener, SET_FLAGS, SYNC_WAKE_UP)
    os.write(go, b"g")
    return guest, listener


def take(pid: int, number: int) -> int:
    """A duplicate of that process's descriptor."""
    pidfd = os.pidfd_open(pid)
    fd = int(libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0))
    os.close(pidfd)
    return fd


def address_of(pid: int, at: int, length: int) -> tuple[str, int]:
    """The IPv4 address and the port that the caller names."""
    room = ctypes.create_string_buffer(length)
    here, there = Span(ctypes.addressof(room), length), Span(at, length)
    if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) != length:
        raise OSError("process_vm_readv")
    return socket.inet_ntoa(room.raw[4:8]), int.from_bytes(room.raw[2:4], "big")


async def approve(*facts: object) -> bool:
    """The callback."""
    return True


async def connect(pid: int, number: int, at: int, length: int) -> int:
    """Asks, and makes the call. Returns the errno, or 0."""
    place = address_of(pid, at, length)
    if not await approve(*place):
        return errno.EACCES
    with socket.socket(fileno=take(pid, number)) as caller:
        return caller.connect_ex(place)


async def serve(listener: int, guest: subprocess.Popen[bytes], executes: bool) -> None:
    """Until the guest has ended."""
    notification, response = bytearray(NOTIFICATION.size), bytearray(RESPONSE.size)
    while guest.poll() is None:
        with trio.move_on_after(0.5) as limit:
            await trio.lowlevel.wait_readable(listener)
        if limit.cancelled_caught:
            continue
        notification[:] = bytes(NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, RECV, notification)
        except FileNotFoundError:
            continue
        id, pid, _, _, _, _, number, at, length, *_ = NOTIFICATION.unpack(notification)
        if not executes:
            RESPONSE.pack_into(response, 0, id, 0, -await connect(pid, number, at, length), 0)
            fcntl.ioctl(listener, SEND, response)
            continue
        attested = pid != guest.pid and await approve(pid)  # the first one is PROGRAM itself
        if attested and libc.ptrace(SEIZE, pid, 0, TRACE_EXEC):
            raise OSError(ctypes.get_errno(), "PTRACE_SEIZE")
        RESPONSE.pack_into(response, 0, id, 0, 0, CONTINUE)
        fcntl.ioctl(listener, SEND, response)
        if attested:
            os.waitpid(pid, WALL)  # noqa: ASYNC222  # the least, not the best
            libc.ptrace(DETACH, pid, 0, 0)


def main() -> None:
    """See above."""
    call, program = sys.argv[2], sys.argv[3:]
    guest, listener = start([sys.argv[1], "guest", call], program)
    trio.run(serve, listener, guest, call == "exec")
    sys.exit(guest.wait())


if __name__ == "__main__":
    main()
