"""Memory to read: an image in this process and in another one, with a page without access on either side.

A decoder that reads on too far gets EFAULT there, where the guest's own string or array was whole.
"""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings

PAGE = mmap.PAGESIZE
PAGES = 600  # of an image: room for 1.5 MiB of strings and their pointers
SIZE = PAGES * PAGE
POINTER_LIMIT = 1 << 64

# Maps descriptor argv[1] between two pages without access and prints where; then waits for the end of stdin.
# Also run in this process.
MAP = """
import ctypes
def map_image(fd, size, page):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    # PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS; inside of it read and write, MAP_SHARED | MAP_FIXED
    room = libc.mmap(None, size + 2 * page, 0, 0x22, -1, 0)
    assert libc.mmap(room + page, size, 3, 0x11, fd, 0) == room + page
    return room + page
"""
CHILD = (
    MAP
    + """
import sys
print(map_image(*map(int, sys.argv[1:4])), flush=True)
sys.stdin.read()
"""
)


@dataclass(frozen=True)
class Image:
    """Memory of a process, between two guard pages, that this process can write."""

    tid: int
    address: int
    memory: mmap.mmap

    def put(self, offset: int, raw: bytes) -> int:
        """Write bytes and return their address in the process."""
        self.memory[offset : offset + len(raw)] = raw
        return self.address + offset

    def cleared(self) -> Image:
        """This image, all zero."""
        self.memory[:] = bytes(SIZE)
        return self

    def put_at_end(self, raw: bytes) -> int:
        """Write bytes that end where the last page ends."""
        return self.put(SIZE - len(raw), raw)


@contextmanager
def open_images() -> Iterator[dict[str, Image]]:
    """The same memory in this process ("own") and in another ("other")."""
    fd = os.memfd_create("image")
    os.ftruncate(fd, SIZE)
    names: dict[str, object] = {}
    exec(MAP, names)
    address = names["map_image"](fd, SIZE, PAGE)  # type: ignore[operator]
    command = [sys.executable, "-c", CHILD, str(fd), str(SIZE), str(PAGE)]
    with (
        mmap.mmap(fd, SIZE) as memory,
        subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdout is not None
        other = Image(child.pid, int(child.stdout.readline()), memory)
        yield {"own": Image(os.getpid(), address, memory), "other": other}
        child.communicate()
    os.close(fd)


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def outcome(function: object, *args: object) -> object:
    """What a decoder answers: a value, or the errno's name."""
    try:
        return function(*args)  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno or 0]


examples = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
