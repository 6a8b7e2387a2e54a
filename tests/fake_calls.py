"""System calls that the fake agent makes without a library."""

from __future__ import annotations

import ctypes
import os
import socket

LIBC = ctypes.CDLL(None, use_errno=True)
MAP = b"".join(number.to_bytes(4, "little") for number in (2, 4, 4, 1)).ljust(64, b"\0")
"""An array of one number, for bpf(2)."""
CLOCK = b"\1\0\0\0\x40\0\0\0".ljust(64, b"\0")
"""A counter of software's, for perf_event_open(2)."""
NUMBERS = {
    "bpf": (321, 0, MAP, len(MAP)),
    "io_uring": (425, 4, "buffer"),
    "keyctl": (250, 1, "mark"),
    "add_key": (248, b"user", "mark", b"x", 1, -1),
    "perf": (298, CLOCK, 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "unshare_user": (272, 0x10000000),
    "unshare_mount": (272, 0x00020000),
    "mount": (165, "mark", b"sub", b"tmpfs", 0, 0),
    "chroot": (161, b"."),
    "pivot_root": (155, b".", b"."),
    "swap": (167, b"prepared", 0),
    "set_host_name": (170, "mark", 30),
    "load_module": (313, -1, b"", 0),
    "kernel_log": (103, 3, "buffer", 4096),
}
"""Numbers of x86_64, and arguments. Without a sandbox most do harm outside of namespaces of their own."""


def system_call(name: str, mark: str) -> str:
    """What it returned, and what it wrote."""
    number, *arguments = NUMBERS[name]
    buffer = ctypes.create_string_buffer(4096)
    known = {"buffer": ctypes.addressof(buffer), "mark": mark.encode()}
    values = [known[each] if isinstance(each, str) else each for each in arguments]
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in values]
    result = call("syscall", number, *wide)
    return f"{result}\n{buffer.value.decode(errors='replace')}"


def call(name: str, *arguments: object) -> int:
    """A function of libc; raises OSError."""
    ctypes.set_errno(0)
    result = int(getattr(LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def open_by_handle(path: str) -> str:
    """A file by the number that its file system has for it, which asks no directory on the way."""
    size = 128
    handle = ctypes.create_string_buffer(size.to_bytes(4, "little"), 8 + size)
    mount = ctypes.c_int()
    call("name_to_handle_at", -100, path.encode(), handle, ctypes.byref(mount), 0)
    file = call("open_by_handle_at", os.open(".", os.O_RDONLY), handle, os.O_RDONLY)
    return os.read(file, 1000).decode()


class Piece(ctypes.Structure):
    """An iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def memory_of(process: int, address: int, size: int) -> str:
    data = ctypes.create_string_buffer(size)
    ours, theirs = Piece(ctypes.addressof(data), size), Piece(address, size)
    call("process_vm_readv", process, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    return data.raw.decode()


def overhear(*kind: int) -> str:
    """What somebody sends to somebody else on this machine, by a socket that gets everything."""
    with socket.socket(*kind) as own:
        own.settimeout(5)
        while b"SECRET" not in (packet := own.recv(65535)):
            pass
        return packet.decode(errors="replace")
