"""Every call by path, with every sort of path and flag: lines for the guest, in small trees of their own.

`case` makes a script for each call. Where a call changes something, a few paths share a tree,
then comes a new one: what
one call does is not to hide what the next one would have done.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from paths.language import CWD, Argument, address, at_the_end, attribute, call, endless, exists, how, out, slot, words

SHARE = {"mkdir": 12, "mkdirat": 12, "symlink": 12, "symlinkat": 12, "mknod": 12, "mknodat": 12, "rmdir": 6,
"unlink": 6,
         "unlinkat": 6, "truncate": 30}  # fmt: skip
"""So many paths are tried in one tree; any number, where no call takes from another what it needs."""
MANY = 400
NOFOLLOW, EACCESS, REMOVE, FOLLOW, NO_AUTOMOUNT, EMPTY = 0x100, 0x200, 0x200, 0x400, 0x800, 0x1000

PATHS: tuple[Argument, ...] = (
    b"file", b"none", b"dir", b"dir/", b"file/", b"none/", b"file/x", b"none/x", b"closed", b"closed-dir/file",
    b"closed-dir/new", b"readonly-dir/file", b"readonly-dir/new", b"readonly", b"link", b"link/", b"dangling",
    b"dangling/",
    b"loop", b"loop/x", b"to-dir", b"to-dir/", b"to-dir/file", b"to-dir/new", b"to-dir/..", b"absolute", b"empty",
    b"empty/", b"new", b"new/", b"new/.", b".", b"..", b"dir/.", b"dir/..", b"./file", b"dir//file", b"", b"//",
    b"fifo",
    b"socket", b"odd\xff", b"new\xfe", b"n" * 255, b"n" * 256, b"dir/" + b"n" * 256, b"./" * 2045 + b"file",
    b"./" * 2046 + b"file", b"dir/../" * 584 + b"file", b"none/" * 800, b"chain", b"to-dir/../file", 0, 8,
    at_the_end(b"dir/file"), endless(b"file"), b"/proc/self/cwd/file", b"/proc/self/cwd", b"/proc/self/fd/3",
    b"/proc/self/fd/3/file", b"/proc/self/root", b"/proc/self/exe", b"/proc/self/fd/99", b"/etc/passwd", b"/none",
    b"/dev/null", b"/proc/self/status", b"/dev/fd/3", b"/proc/thread-self/cwd/link", b"hard",
)  # fmt: skip
CHANGED = tuple(path for path in PATHS if path != b"/proc/self/exe")  # the guest itself
FEW: tuple[Argument, ...] = (
    b"file", b"none", b"dir", b"dir/", b"empty", b"new", b"new/", b"file/", b"link", b"dangling", b"to-dir",
    b"to-dir/new",
    b"closed-dir/new", b"readonly-dir/new", b"loop/x", b"dir/file", b"..", b"dir/.", b"", b"hard", b"n" * 256,
    b"/proc/self/cwd/new", 8,
)  # fmt: skip
"""For calls that take two."""

TREE = (
    ("mkdirat", b"dir", 0o755), ("mkdirat", b"empty", 0o755), ("mkdirat", b"closed-dir", 0o755),
    ("mkdirat", b"readonly-dir", 0o755), ("symlinkat", b"file", b"link"), ("symlinkat", b"nothing", b"dangling"),
    ("symlinkat", b"loop", b"loop"), ("symlinkat", b"dir", b"to-dir"), ("symlinkat", b"link", b"chain"),
    ("mknodat", b"fifo", stat.S_IFIFO | 0o644), ("mknodat", b"socket", stat.S_IFSOCK | 0o644),
)  # fmt: skip
FILES = (b"file", b"dir/file", b"closed-dir/file", b"readonly-dir/file", b"closed", b"readonly", b"odd\xff")
MODES = ((b"closed", 0), (b"readonly", 0o400), (b"closed-dir", 0), (b"readonly-dir", 0o555))


def setup(place: bytes) -> list[str]:
    """A tree with all that there is to find."""
    lines = [call("mkdirat", CWD, place, 0o755)]
    for name, *arguments in TREE:
        if name == "symlinkat":
            target, path = arguments
            assert isinstance(path, bytes)
            lines.append(call(name, target, CWD, place + b"/" + path))
        else:
            path, mode = arguments
            assert isinstance(path, bytes)
            lines.append(call(name, CWD, place + b"/" + path, mode, 0))
    lines.append(call("symlinkat", place + b"/file", CWD, place + b"/absolute"))
    for path in FILES:
        lines.append(call("openat", CWD, place + b"/" + path, os.O_RDWR | os.O_CREAT, 0o644, into=0))
        lines.append(call("write", slot(0), b"hello", 5))
    lines.append(call("linkat", CWD, place + b"/file", CWD, place + b"/hard", 0))
    lines += [call("fchmodat", CWD, place + b"/" + path, mode) for path, mode in MODES]
    return lines


@dataclass(frozen=True)
class Case:
    """A call, as a script: what makes its trees, and the calls in them."""

    name: str
    setup: list[str]
    lines: list[str]


OPEN_FLAGS = (
    os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3, os.O_TRUNC, os.O_WRONLY | os.O_TRUNC, os.O_CREAT, os.O_RDWR | os.O_CREAT,
    os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_NOFOLLOW, os.O_CREAT | os.O_NOFOLLOW,
    os.O_DIRECTORY,
    os.O_DIRECTORY | os.O_NOFOLLOW, os.O_CREAT | os.O_DIRECTORY, os.O_WRONLY | os.O_TMPFILE, os.O_TMPFILE, os.O_PATH,
    os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_CREAT, os.O_APPEND | os.O_WRONLY, os.O_EXCL, os.O_NOATIME, os.O_CLOEXEC,
    os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, os.O_RDWR | os.O_TMPFILE | os.O_EXCL, 0x40000000,
)  # fmt: skip
P = object()
"""The place of the path in a template."""
TIMES = words(3, 4, 5, 6)
SOME = words(3, 4, 5, (1 << 30) - 2)

LOOKS: dict[str, Sequence[tuple[object, ...]]] = {
    "stat": [(P, out("stat"))],
    "lstat": [(P, out("stat"))],
    "newfstatat": [(CWD, P, out("stat"), flags) for flags in (0, NOFOLLOW, EMPTY, EMPTY | NOFOLLOW, NO_AUTOMOUNT, 1)],
    "statx": [(CWD, P, flags, 0xFFF, out("statx")) for flags in (0, NOFOLLOW, EMPTY, 0x2000, 0x4000, 0x6000, 1)]
    + [(CWD, P, 0, 1 << 31, out("statx"))],
    "access": [(P, mode) for mode in (0, 1, 2, 4, 7, 8)],
    "faccessat": [(CWD, P, mode) for mode in (0, 1, 2, 4)],
    "faccessat2": [(CWD, P, mode, flags) for mode in (0, 2) for flags in (0, NOFOLLOW, EACCESS, EMPTY, 1)],
    "readlink": [(P, out("text"), size) for size in (300, 2, 0, -1)],
    "readlinkat": [(CWD, P, out("text"), size) for size in (300, 2, 0)],
    "statfs": [(P, out("statfs"))],
    "getxattr": [(P, name, out("text"), 99) for name in (b"user.a", b"", b"nothing", b"user." + b"a" * 251)],
    "lgetxattr": [(P, name, out("text"), 99) for name in (b"user.a", b"trusted.a")],
    "listxattr": [(P, out("text"), size) for size in (0, 99)],
    "llistxattr": [(P, out("text"), size) for size in (0, 99)],
    "getxattrat": [(CWD, P, flags, b"user.a", words(0, 0), 16) for flags in (0, NOFOLLOW, EMPTY, 1)],
    "listxattrat": [(CWD, P, flags, out("text"), 99) for flags in (0, NOFOLLOW, EMPTY, 1)],
    "chdir": [(P,)],
}
CHANGES: dict[str, Sequence[tuple[object, ...]]] = {
    "mkdir": [(P, mode) for mode in (0o777, 0o1750, 0)],
    "mkdirat": [(CWD, P, 0o7777)],
    "rmdir": [(P,)],
    "unlink": [(P,)],
    "unlinkat": [(CWD, P, flags) for flags in (0, REMOVE, 1)],
    "symlink": [(b"target", P), (b"", P), (b"t" * 4095, P), (b"t" * 4096, P), (8, P)],
    "symlinkat": [(b"../\xff", CWD, P)],
    "mknod": [(P, kind | 0o640, 0) for kind in (stat.S_IFIFO, stat.S_IFREG, 0, stat.S_IFSOCK, stat.S_IFDIR, 0o150000)],
    "mknodat": [(CWD, P, kind | 0o4777, 0) for kind in (stat.S_IFIFO, stat.S_IFREG)],
    "truncate": [(P, size) for size in (0, 3, 10_000, -1)],
    "chmod": [(P, mode) for mode in (0o640, 0o7777)],
    "fchmodat": [(CWD, P, 0o2711)],
    "fchmodat2": [(CWD, P, 0o600, flags) for flags in (0, NOFOLLOW, EMPTY, EMPTY | NOFOLLOW, 1)],
    "chown": [(P, -1, -1), (P, 0, -1), (P, 999_999, -1)],
    "lchown": [(P, -1, -1), (P, -1, 0)],
    "fchownat": [(CWD, P, -1, -1, flags) for flags in (0, NOFOLLOW, EMPTY, EMPTY | NOFOLLOW, 1)],
    "utime": [(P, words(3, 5)), (P, 0), (P, 8)],
    "utimes": [(P, TIMES), (P, 0), (P, words(1, 1_000_000, 1, 1))],
    "futimesat": [(CWD, P, TIMES), (CWD, P, words(1, -1, 1, 1))],
    "utimensat": [(CWD, P, times, flags) for times in (TIMES, SOME, 0, 8) for flags in (0, NOFOLLOW, EMPTY, 1)]
    + [(CWD, P, words(1, (1 << 30) - 1, 2, (1 << 30) - 2), 0), (CWD, P, words(1, 1 << 31, 1, 1), 0)],
    "setxattr": [(P, b"user.a", b"value", 5, flags) for flags in (0, 1, 2, 4)]
    + [(P, b"trusted.a", b"value", 5, 0), (P, b"user.a", b"v", 1 << 17, 0), (P, b"", b"v", 1, 0), (P, 8, b"v", 1, 0)],
    "lsetxattr": [(P, b"user.a", b"", 0, 0)],
    "setxattrat": [(CWD, P, flags, b"user.a", attribute(b"value"), 16) for flags in (0, NOFOLLOW, EMPTY, 1)]
    + [(CWD, P, 0, b"user.a", attribute(b"value"), 8)],
    "removexattr": [(P, b"user.a")],
    "lremovexattr": [(P, b"user.a")],
    "removexattrat": [(CWD, P, flags, b"user.a") for flags in (0, NOFOLLOW, EMPTY, 1)],
}
PAIRS: dict[str, Sequence[tuple[object, ...]]] = {
    "rename": [(P, P)],
    "renameat": [(CWD, P, CWD, P)],
    "renameat2": [(CWD, P, CWD, P, flags) for flags in (1, 2)],
    "link": [(P, P)],
    "linkat": [(CWD, P, CWD, P, FOLLOW)],
}
BASES: dict[str, tuple[object, ...]] = {
    "openat": (P, b"file", 0, 0), "mkdirat": (P, b"made", 0o755), "unlinkat": (P, b"file", 0),
    "newfstatat": (P, b"file", out("stat"), 0), "statx": (P, b"", EMPTY, 0xFFF, out("statx")),
    "faccessat": (P, b"file", 4), "readlinkat": (P, b"", out("text"), 99), "symlinkat": (b"x", P, b"made"),
    "mknodat": (P, b"made", stat.S_IFIFO | 0o600, 0), "fchmodat": (P, b"file", 0o600), "fchmodat2": (P, b"", 0o750,
    EMPTY),
    "fchownat": (P, b"", -1, -1, EMPTY), "utimensat": (P, b"file", TIMES, 0), "futimesat": (P, 0, TIMES),
    "renameat": (P, b"file", CWD, b"moved"), "renameat2": (CWD, b"file", P, b"moved", 1),
    "linkat": (P, b"file", CWD, b"linked", 0), "openat2": (P, b"file", how(0), 24), "removexattrat": (P, b"file", 0,
    b"user.a"),
}  # fmt: skip
"""Calls that begin at a descriptor: of a directory, a file, one opened with O_PATH, none."""
SLOTS = (CWD, slot(0), slot(1), slot(2), slot(3), 99, -1, -101)
OPENED = [
    call("openat", CWD, b"dir", os.O_DIRECTORY, 0, into=0),
    call("openat", CWD, b"file", os.O_RDONLY, 0, into=1),
    call("openat", CWD, b"dir", os.O_PATH, 0, into=2),
    call("openat", CWD, b"link", os.O_PATH | os.O_NOFOLLOW, 0, into=3),
]


def filled(template: tuple[object, ...], *values: object) -> list[Argument]:
    """A template with its places taken, one after the other."""
    rest = iter(values)
    return [next(rest) if each is P else each for each in template]  # type: ignore[misc]


def without_pins(line: str) -> str:
    """The same without O_PATH: a virtual root gives descriptors to read from."""
    return line.replace(f" {os.O_PATH} ", " 0 ").replace("plink " + str(os.O_PATH | os.O_NOFOLLOW), "pfile 0")


def spread(lines: Sequence[str], top: bytes, name: str, share: int = MANY) -> Case:
    """Some of the lines in each tree; those next to each other, which are about the same, in different ones."""
    count = -(-len(lines) // share)
    made: list[str] = []
    script: list[str] = []
    for number in range(count):
        place = top + b"/" + str(number).encode()
        made += setup(place)
        script += [call("chdir", place), *OPENED, *lines[number::count]]
    return Case(name, [call("mkdirat", CWD, top, 0o755), *made], script)


def waits(path: Argument, flags: int) -> bool:
    """Whether an open of it would wait for somebody."""
    return path == b"fifo" and not flags & os.O_PATH


def look(name: str, top: bytes) -> Case:
    lines = [call(name, *filled(template, path)) for template in LOOKS[name] for path in PATHS]
    if name == "chdir":
        return spread([line for each in lines for line in (each, call("getcwd", out("text"), 4096))], top, name, 2)
    return spread(lines, top, name, len(lines))


def change(name: str, top: bytes) -> Case:
    return spread(
        [call(name, *filled(each, path)) for each in CHANGES[name] for path in CHANGED],
        top,
        name,
        SHARE.get(name, MANY),
    )


def pairs(name: str, top: bytes) -> Case:
    both = list(itertools.product(FEW, FEW))
    return spread([call(name, *filled(each, *pair)) for each in PAIRS[name] for pair in both], top, name, 16)


def bases(top: bytes) -> Case:
    lines = [call(name, *filled(each, base)) for name, each in BASES.items() if exists(name) for base in SLOTS]
    lines += [call("renameat2", CWD, b"file", CWD, b"new", flags) for flags in (3, 8, 1 << 31)]
    lines += [call("linkat", CWD, b"file", CWD, b"new", flags) for flags in (1, 0x100, 1 << 31)]
    return spread(lines, top, "bases", 4)


def opens(name: str, top: bytes, mode: str) -> Case:
    flags = [each if each & os.O_PATH else each | os.O_NONBLOCK for each in OPEN_FLAGS]
    if mode == "chroot":
        flags = [each for each in flags if not each & os.O_PATH]
    if name == "openat":
        return spread([call(name, CWD, path, each, 0o4751, into=4) for each in flags for path in PATHS], top, name, 40)
    if name == "open":
        return spread([call(name, path, each, 0o640, into=4) for each in flags[:8] for path in PATHS], top, name, 40)
    if name == "creat":
        return spread([call(name, path, 0o7640, into=4) for path in PATHS if not waits(path, 0)], top, name, 3)
    lines = [
        call(name, CWD, path, how(each, 0o640 if each & os.O_CREAT else 0, resolve), 24, into=4)
        for each in (os.O_NONBLOCK, os.O_RDWR | os.O_CREAT)
        for resolve in (0, 1, 2, 4, 8, 16, 24, 0x40)
        for path in PATHS
        if not waits(path, each) and not (resolve & 0x19 and (mode == "asked" or each & os.O_CREAT))
        if not (resolve & 0x18 and ".." in str(path))  # it fails whenever anybody on the machine renames anything
    ]
    lines += [call(name, CWD, b"file", how(0) + ",0", size, into=4) for size in (0, 16, 23, 24, 32, 4097)]
    lines += [call(name, CWD, b"file", how(0) + ",1", 32, into=4), call(name, CWD, b"file", 8, 24, into=4)]
    return spread(lines, top, name, 60)


def masks(top: bytes) -> Case:
    """What is made with each umask."""
    lines = [
        line
        for mask in (0, 0o027, 0o777)
        for line in (
            call("umask", mask),
            *(call("openat", CWD, f"f{mask}-{bits}".encode(), os.O_CREAT, bits, into=4) for bits in (0o777, 0o4666)),
            call("mkdirat", CWD, f"d{mask}".encode(), 0o1777),
            call("mknodat", CWD, f"n{mask}".encode(), stat.S_IFIFO | 0o666, 0),
            call("openat", CWD, b"dir", os.O_WRONLY | os.O_TMPFILE, 0o666, into=4),
            call("socket", 1, 1, 0, into=4),
            call("bind", slot(4), address(f"s{mask}".encode()), "="),
        )
    ]
    return spread(lines, top, "umask", len(lines))


NAMES = tuple(name for name in (*LOOKS, *CHANGES, *PAIRS, "open", "openat", "openat2", "creat") if exists(name))


def case(name: str, top: bytes, mode: str) -> Case:
    """All lines about one call, or `bases`, `umask` or `expected`. `top` is where trees are made."""
    made = any_case(name, top, mode)
    return made if mode != "chroot" else Case(name, made.setup, [without_pins(line) for line in made.lines])


def any_case(name: str, top: bytes, mode: str) -> Case:
    if name == "expected":
        return expected(top)
    if name in ("bases", "umask"):
        return bases(top) if name == "bases" else masks(top)
    if name in LOOKS:
        return look(name, top)
    if name in CHANGES:
        return change(name, top)
    return pairs(name, top) if name in PAIRS else opens(name, top, mode)


LONG = b"n" * 256
EXPECTED: tuple[tuple[str, list[Argument], str], ...] = (
    ("openat", [CWD, b"none", 0, 0], "ENOENT"), ("openat", [CWD, b"file/x", 0, 0], "ENOTDIR"),
    ("openat", [CWD, b"file/", 0, 0], "ENOTDIR"), ("openat", [CWD, b"loop", 0, 0], "ELOOP"),
    ("openat", [CWD, b"link", os.O_NOFOLLOW, 0], "ELOOP"), ("openat", [CWD, LONG, 0, 0], "ENAMETOOLONG"),
    ("openat", [CWD, b"./" * 2047 + b"aa", 0, 0], "ENAMETOOLONG"), ("openat", [CWD, b"dir", 1, 0], "EISDIR"),
    ("openat", [CWD, b"file", os.O_DIRECTORY, 0], "ENOTDIR"), ("openat", [CWD, b"link", os.O_CREAT | os.O_EXCL, 0],
    "EEXIST"),
    ("openat", [CWD, b"dangling", os.O_CREAT | os.O_EXCL, 0], "EEXIST"), ("openat", [CWD, b"closed", 0, 0], "EACCES"),
    ("openat", [CWD, b"closed-dir/file", 0, 0], "EACCES"), ("openat", [CWD, b"readonly", 1, 0], "EACCES"),
    ("openat", [CWD, b"readonly-dir/new", os.O_CREAT, 0o600], "EACCES"), ("openat", [CWD, 8, 0, 0], "EFAULT"),
    ("openat", [CWD, endless(b"file"), 0, 0], "EFAULT"), ("openat", [CWD, b"", 0, 0], "ENOENT"),
    ("openat", [99, b"file", 0, 0], "EBADF"), ("openat", [slot(1), b"file", 0, 0], "ENOTDIR"),
    ("openat", [CWD, b"dir", os.O_TMPFILE, 0o600], "EINVAL"), ("openat", [CWD, b"fifo", os.O_WRONLY | os.O_NONBLOCK,
    0], "ENXIO"),
    ("openat", [CWD, b"socket", 0, 0], "ENXIO"), ("openat2", [CWD, b"to-dir/file", how(0, 0, 4), 24], "ELOOP"),
    ("openat2", [CWD, b"file", how(0, 0o600), 24], "EINVAL"), ("openat2", [CWD, b"file", how(0) + ",1", 32], "E2BIG"),
    ("mkdirat", [CWD, b"dir", 0o755], "EEXIST"), ("mkdirat", [CWD, b"link", 0o755], "EEXIST"),
    ("mkdirat", [CWD, b"none/new", 0o755], "ENOENT"), ("mkdirat", [CWD, b"readonly-dir/new", 0o755], "EACCES"),
    ("unlinkat", [CWD, b"dir", REMOVE], "ENOTEMPTY"), ("unlinkat", [CWD, b"dir", 0], "EISDIR"),
    ("unlinkat", [CWD, b"file", REMOVE], "ENOTDIR"), ("unlinkat", [CWD, b"to-dir", REMOVE], "ENOTDIR"),
    ("unlinkat", [CWD, b".", REMOVE], "EINVAL"), ("unlinkat", [CWD, b"dir/..", REMOVE], "ENOTEMPTY"),
    ("unlinkat", [CWD, b"file", 1], "EINVAL"), ("unlinkat", [CWD, b"readonly-dir/file", 0], "EACCES"),
    ("renameat2", [CWD, b"file", CWD, b"link", 1], "EEXIST"), ("renameat2", [CWD, b"file", CWD, b"none", 2], "ENOENT"),
    ("renameat2", [CWD, b"file", CWD, b"dir", 3], "EINVAL"), ("renameat", [CWD, b"dir", CWD, b"dir/x"], "EINVAL"),
    ("renameat", [CWD, b"file", CWD, b"dir"], "EISDIR"), ("renameat", [CWD, b"dir", CWD, b"file"], "ENOTDIR"),
    ("renameat", [CWD, b"empty", CWD, b"dir"], "ENOTEMPTY"), ("renameat", [CWD, b".", CWD, b"x"], "EBUSY"),
    ("renameat", [CWD, b"file", CWD, b"/proc/self/x"], "EXDEV"), ("linkat", [CWD, b"dir", CWD, b"new", 0], "EPERM"),
    ("linkat", [CWD, b"file", CWD, b"link", 0], "EEXIST"), ("linkat", [CWD, b"file", CWD, b"new", 1], "EINVAL"),
    ("linkat", [CWD, b"none", CWD, b"new", 0], "ENOENT"), ("symlinkat", [b"", CWD, b"new"], "ENOENT"),
    ("symlinkat", [b"x", CWD, b"dangling"], "EEXIST"), ("symlinkat", [b"x", CWD, b"new/"], "ENOENT"),
    ("mknodat", [CWD, b"file", stat.S_IFREG, 0], "EEXIST"), ("mknodat", [CWD, b"new", stat.S_IFDIR, 0], "EPERM"),
    ("mknodat", [CWD, b"new", 0o150000, 0], "EINVAL"), ("truncate", [b"dir", 0], "EISDIR"), ("truncate", [b"file",
    -1], "EINVAL"),
    ("truncate", [b"readonly", 0], "EACCES"), ("truncate", [b"fifo", 0], "EINVAL"), ("truncate", [b"dangling", 0],
    "ENOENT"),
    ("fchmodat2", [CWD, b"link", 0o600, NOFOLLOW], "EOPNOTSUPP"), ("fchmodat2", [CWD, b"file", 0o600, 1], "EINVAL"),
    ("fchmodat", [CWD, b"closed-dir/file", 0o600], "EACCES"), ("fchownat", [CWD, b"file", 999_999, -1, 0], "EPERM"),
    ("utimensat", [CWD, b"file", words(1, 1 << 31, 1, 1), 0], "EINVAL"), ("setxattr", [b"link", b"user.a", b"v", 1,
    2], "ENODATA"),
    ("lsetxattr", [b"link", b"user.a", b"v", 1, 0], "EPERM"), ("setxattr", [b"file", b"nothing", b"v", 1, 0],
    "EOPNOTSUPP"),
    ("newfstatat", [CWD, b"", out("stat"), 0], "ENOENT"), ("readlinkat", [CWD, b"file", out("text"), 9], "EINVAL"),
    ("faccessat2", [CWD, b"closed", 4, 0], "EACCES"), ("faccessat2", [CWD, b"file", 8, 0], "EINVAL"), ("chdir",
    [b"file"], "ENOTDIR"),
    ("chdir", [b"closed-dir"], "EACCES"),
    ("openat", [CWD, b"./" * 2045 + b"file", 0, 0], "0"), ("openat", [CWD, at_the_end(b"dir/file"), 0, 0], "0"),
    ("openat", [CWD, b"odd\xff", 1, 0], "0"), ("openat", [CWD, b"link", os.O_CREAT, 0], "0"),
    ("openat", [CWD, b"dangling", os.O_CREAT, 0o600], "0"), ("openat", [slot(2), b"file", 0, 0], "0"),
    ("openat", [CWD, b"/proc/self/fd/4", 2, 0], "0"), ("mkdirat", [CWD, b"made/", 0o755], "0"),
    ("fchmodat2", [slot(1), b"", 0o640, EMPTY], "0"), ("utimensat", [slot(1), 0, TIMES, 0], "0"),
    ("renameat2", [CWD, b"to-dir", CWD, b"empty", 2], "0"), ("linkat", [CWD, b"chain", CWD, b"linked", 0], "0"),
)  # fmt: skip
"""What the more important ones have to say, on every kernel. Slots: a directory, a file, a pinned directory, a link."""


def expected(top: bytes) -> Case:
    return spread([call(name, *arguments) for name, arguments, _ in EXPECTED], top, "expected")
