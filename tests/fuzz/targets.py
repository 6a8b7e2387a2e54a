"""What is fuzzed: each target lays an input out as memory, decodes it, and compares with the reference.

The memory belongs to this process, with room without access on either side; what an input says is put where
the memory ends, so that reading one byte too far is an error. Pointers in an input are 16-bit offsets, which
may miss the memory on both sides.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable

import reference

from sandlock import _memory

PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE
BEFORE = 3 * PAGE  # without access; here the smallest offset lies
AFTER = 1 << 16  # without access; no offset reaches beyond


class Space:
    """`SIZE` bytes that decoders read, and around them nothing to read."""

    def __init__(self) -> None:
        self.room = mmap.mmap(-1, BEFORE + SIZE + AFTER)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.room))
        self.base = start + BEFORE
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for guard, length in ((start, BEFORE), (self.base + SIZE, AFTER)):
            if protect(ctypes.c_void_p(guard), ctypes.c_size_t(length), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def fill(self, content: bytes) -> reference.Memory:
        """Make the memory zeros that end in `content`, whose tail counts if it is too long."""
        whole = content[-SIZE:].rjust(SIZE, b"\0")
        self.room[BEFORE : BEFORE + SIZE] = whole
        return reference.Memory(self.base, whole)

    def pointer(self, offset: int) -> int:
        """An address in the memory or near it; offset 0 is the null pointer."""
        return self.base - BEFORE + offset if offset else 0


SPACE = Space()
TID = os.getpid()


def compare(expected: Callable[..., object], found: Callable[..., object], *args: int) -> None:
    """Both answer the same, or refuse with the same errno."""
    try:
        wanted: object = expected(*args)
    except reference.Refused as refusal:
        wanted = str(refusal)
    try:
        answer: object = found(TID, *args)
    except OSError as error:
        answer = errno.errorcode[error.errno or 0]
    if answer != wanted:
        raise AssertionError(f"{found} answers {answer!r}, not {wanted!r}")


def numbers(layout: str, data: bytes) -> tuple[tuple[int, ...], bytes]:
    """The numbers at the start of an input (a short one is filled up with zeros), and the rest."""
    size = struct.calcsize(layout)
    return struct.unpack(layout, data[:size].ljust(size, b"\0")), data[size:]


def fuzz_string(data: bytes) -> None:
    (offset, size), content = numbers("=HH", data)
    memory = SPACE.fill(content)
    compare(memory.string, _memory.fetch_string, SPACE.pointer(offset), size)


def fuzz_strings(data: bytes) -> None:
    (size, limit, shift, count), rest = numbers("=HBBB", data)
    offsets, content = numbers(f"={count}H", rest)
    array = b"".join(reference.POINTER.pack(SPACE.pointer(offset)) for offset in offsets)
    memory = SPACE.fill(content + array + bytes(shift % 16))
    address = SPACE.base + SIZE - len(array) - shift % 16
    compare(memory.strings, _memory.fetch_strings, address, size, limit)


def fuzz_sockaddr(data: bytes) -> None:
    (length,), raw = numbers("=h", data)
    memory = SPACE.fill(raw)
    compare(memory.sockaddr, _memory.fetch_sockaddr, SPACE.base + SIZE - min(len(raw), SIZE), length)


def fuzz_msghdr(data: bytes) -> None:
    memory = SPACE.fill(data)
    compare(memory.msghdr, _memory.fetch_msghdr, SPACE.base + SIZE - min(len(data), SIZE))


def fuzz_iovecs(data: bytes) -> None:
    (count, limit), vectors = numbers("=Qh", data)
    memory = SPACE.fill(vectors)
    address = SPACE.base + SIZE - min(len(vectors), SIZE)
    compare(memory.iovecs, _memory.fetch_iovecs, address, count, min(limit, 1024))


TARGETS = {
    "iovecs": fuzz_iovecs,
    "msghdr": fuzz_msghdr,
    "sockaddr": fuzz_sockaddr,
    "string": fuzz_string,
    "strings": fuzz_strings,
}
