"""Landlock's vocabulary: which rights exist since when, what a grant amounts to, and a ruleset as a value.

Rules: values only; `_launch` turns them into kernel calls. Must not know: policies, presets, the running
kernel. Source: linux/landlock.h and Documentation/userspace-api/landlock.rst of Linux 6.18 (ABI 7).
"""

from __future__ import annotations

from ._record import record

__all__ = ["GRANTS", "PROTECTIONS", "PathRule", "Ruleset", "handled", "words"]

# LANDLOCK_ACCESS_FS_*
EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_CHAR = 1 << 6
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
MAKE_SOCK = 1 << 9
MAKE_FIFO = 1 << 10
MAKE_BLOCK = 1 << 11
MAKE_SYM = 1 << 12
REFER = 1 << 13
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15

BASE = (1 << 13) - 1
"""The rights of ABI 1."""

# LANDLOCK_ACCESS_NET_*
BIND_TCP = 1 << 0
CONNECT_TCP = 1 << 1

# LANDLOCK_SCOPE_*
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1

PROTECTIONS = {
    "fs-refer": (2, "fs", REFER),
    "fs-truncate": (3, "fs", TRUNCATE),
    "net-tcp": (4, "net", BIND_TCP | CONNECT_TCP),
    "fs-ioctl-dev": (5, "fs", IOCTL_DEV),
    "abstract-unix-socket-scope": (6, "scope", SCOPE_ABSTRACT_UNIX_SOCKET),
    "signal-scope": (6, "scope", SCOPE_SIGNAL),
}
"""What later ABIs brought: (first ABI, where it is handled, its bits). ABI 7 added logging, no right."""

WAIVED = {
    "fs-refer": "files cannot be renamed or linked from one directory to another: Landlock refuses that "
    "until a rule allows it, so without this right it is denied everywhere",
    "fs-truncate": "truncate(2) empties files outside the grants that the user may write",
    "net-tcp": 'TCP ports are not told apart: without a "*" grant there are no internet sockets at all',
    "fs-ioctl-dev": "device files that may be opened take every ioctl",
    "abstract-unix-socket-scope": "abstract unix sockets of outside programs are held off by the filter only",
    "fs-metadata": "modes, owners, times and attributes of the user's files outside the writable grants can be "
    "changed, and directories outside the grants watched",
    "signal-scope": "signals reach every process of the user, outside the sandbox too",
}
"""What is different in a run without the protection, in words for people."""

_READ = READ_FILE | READ_DIR
GRANTS = {
    "read": _READ | EXECUTE,
    "data": _READ,
    # No MAKE_CHAR and MAKE_BLOCK: a device node is a way to the device, whatever directory it lies in.
    "write": _READ | EXECUTE | WRITE_FILE | TRUNCATE | REFER | REMOVE_DIR | REMOVE_FILE
    | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM,
    "device": _READ | WRITE_FILE | IOCTL_DEV,
}  # fmt: skip
"""The rights of each kind of grant, as for a directory. A file cannot carry the rights of directories
(READ_DIR, REMOVE_*, MAKE_*, REFER): landlock_add_rule(2) says EINVAL, and the launch then leaves them out.
Here nobody knows which of the two a path will be."""

_NAMES = {
    EXECUTE: "execute",
    WRITE_FILE: "write",
    READ_FILE: "read",
    READ_DIR: "list",
    REMOVE_DIR: "remove directories",
    REMOVE_FILE: "remove files",
    MAKE_CHAR: "make character devices",
    MAKE_DIR: "make directories",
    MAKE_REG: "make files",
    MAKE_SOCK: "make sockets",
    MAKE_FIFO: "make FIFOs",
    MAKE_BLOCK: "make block devices",
    MAKE_SYM: "make symbolic links",
    REFER: "rename and link between directories",
    TRUNCATE: "truncate",
    IOCTL_DEV: "device ioctl",
}


@record(kw_only=False)
class PathRule:
    """Rights on everything beneath a path. `optional`: a path that does not exist is left out, not an
    error. `root`: the writable grant that holds the path, if one does; below it no link is followed, for an
    earlier run may have put it there."""

    path: bytes
    access: int
    optional: bool = False
    root: bytes | None = None


@record
class Ruleset:
    """A Landlock domain to be: what is denied by default, and the exceptions."""

    handled_fs: int = 0
    handled_net: int = 0
    scoped: int = 0
    paths: tuple[PathRule, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    """(port, access) for TCP."""


def handled(abi: int, without: frozenset[str] = frozenset()) -> tuple[int, int, int]:
    """Everything that Landlock of this ABI can deny, less some protections: (handled_fs, handled_net,
    scoped)."""
    bits = {"fs": BASE if abi >= 1 else 0, "net": 0, "scope": 0}
    for name, (since, where, right) in PROTECTIONS.items():
        if abi >= since and name not in without:
            bits[where] |= right
    return bits["fs"], bits["net"], bits["scope"]


def words(access: int, handled_fs: int = 2 * IOCTL_DEV - 1) -> str:
    """File system rights in words, for people; where `handled_fs` is all that the ruleset decides."""
    for kind, rights in GRANTS.items():
        if access == rights & handled_fs:
            return {
                "read": "read, execute",
                "data": "read",
                "write": "read, execute, write, create, remove",
                "device": "read, write, device ioctl",
            }[kind]
    return ", ".join(text for right, text in _NAMES.items() if access & right)
