"""System calls that the fake agent makes without a library."""

from __future__ import annotations

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "bpf": (321, 0, 0, 0),
    "io_uring": (425, 4, "buffer"),
    "keyctl": (250, 0, -3, 1),
    "add_key": (248, b"user", b"sandlock-proof", b"x", 1, -1),
    "perf": (298, "buffer", 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "unshare_user": (272, 0x10000000),
    "unshare_mount": (272, 0x00020000),
    "mount": (165, b"none", b".", b"tmpfs", 0, 0),
    "chroot": (161, b"."),
    "pivot_root": (155, b".", b"."),
    "swap": (167, b"prepared", 0),
    "set_host_name": (170, b"owned", 0),
    "load_module": (313, -1, b"", 0),
    "kernel_log": (103, 3, "buffer", 100),
    "open_by_handle": (304, -100, "buffer", 0),
}
"""Numbers of x86_64, and arguments with which they do no harm."""


def system_call(name: str) -> int:
    number, *arguments = NUMBERS[name]
    buffer = ctypes.create_string_buffer(256)
    values = [ctypes.addressof(buffer) if each == "buffer" else each for each in arguments]
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in values]
    return call("syscall", number, *wide)


def call(name: str, *arguments: object) -> int:
    """A function of libc; raises OSError."""
    ctypes.set_errno(0)
    result = int(getattr(LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
