"""A program that opens files in every way there is, and says what came of each: one line for one open.

Run twice, with and without a supervisor that opens for it, it has to say the same. Its directory is the current one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
SYS_OPENAT, SYS_OPENAT2, SYS_OPEN, SYS_CREAT = (257, 437, 2, 85) if X86 else (56, 437, -1, -1)
AT_FDCWD = -100
KEPT_FLAGS = ~os.O_NOFOLLOW
"""Of what F_GETFL says: it alone tells a pinned object that is opened again from one that was opened by name."""

FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY,
    "rw": os.O_RDWR,
    "3": 3,
    "r|cloexec": os.O_CLOEXEC,
    "r|nofollow": os.O_NOFOLLOW,
    "w|nofollow": os.O_WRONLY | os.O_NOFOLLOW,
    "r|directory": os.O_DIRECTORY,
    "r|directory|nofollow": os.O_DIRECTORY | os.O_NOFOLLOW,
    "w|append": os.O_WRONLY | os.O_APPEND,
    "w|trunc": os.O_WRONLY | os.O_TRUNC,
    "r|trunc": os.O_TRUNC,
    "r|creat": os.O_CREAT,
    "w|creat": os.O_WRONLY | os.O_CREAT,
    "w|creat|trunc": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w|creat|excl": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "w|creat|nofollow": os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW,
    "rw|creat|append|cloexec": os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
    "r|creat|directory": os.O_CREAT | os.O_DIRECTORY,
    "r|excl": os.O_EXCL,
    "w|tmpfile": os.O_WRONLY | os.O_TMPFILE,
    "rw|tmpfile|excl": os.O_RDWR | os.O_TMPFILE | os.O_EXCL,
    "r|tmpfile": os.O_TMPFILE,
    "path": os.O_PATH,
    "path|nofollow": os.O_PATH | os.O_NOFOLLOW,
    "path|directory": os.O_PATH | os.O_DIRECTORY,
    "path|creat": os.O_PATH | os.O_CREAT,
    "r|nonblock": os.O_NONBLOCK,
    "w|sync": os.O_WRONLY | os.O_SYNC,
    "r|noatime": os.O_NOATIME,
    "r|unknown bit": 0x40000000,
}
PATHS = [
    "file", "./file", "sub/../file", "sub/file", "sub//file", "sub/./file", "file/", "file/.", "file/..", "file/x",
    "new", "new/", "sub/new", "none/new", "sub", "sub/", "sub/.", "sub/..", ".", "..", "/", "//", "", "./",
    "link", "link/", "absolute", "absolute-dir/file", "to-sub", "to-sub/", "to-sub/file", "to-sub/new",
    "to-sub/../file", "dangling", "dangling/", "dangling-in-sub", "loop", "loop/x", "chain", "closed",
    "closed-dir/file", "closed-dir/new", "unreadable", "readonly", "hard",
    "odd\udcff\udc80", "a" * 255, "a" * 256, "sub/" + "b" * 256,
    "sub/" * 1023 + "sub",
    "./" * 2044 + "file", "./" * 2046 + "file", "fifo", "socket", "/dev/null", "/dev/zero", "/dev/full", "/dev/tty",
    "/dev/nothing", "/etc/shadow", "/etc/passwd", "/proc", "/proc/self", "/proc/self/", "/proc/self/status",
    "/proc/thread-self/status", "/proc/self/environ", "/proc/self/exe", "/proc/self/cwd", "/proc/self/cwd/file",
    "/proc/self/cwd/new", "/proc/self/root", "/proc/self/root/etc/passwd", "/proc/self/fd", "/proc/self/fd/7",
    "/proc/self/fd/8", "/proc/self/fd/9", "/proc/self/fd/10", "/proc/self/fd/11", "/proc/self/fd/99", "/proc/self/mem",
    "/proc/self/nothing", "/proc/mounts", "/proc/net/dev", "/proc/meminfo", "/proc/sys/kernel/ostype", "/dev/fd/7",
    "/dev/stdin", "/dev/fd/7/x", "to-environ", "to-self", "to-self/status", "/proc/self/ns/uts", "/proc/self/task",
    "/proc/self/map_files", "/proc/self/attr/current", "/sys", "/tmp",
]  # fmt: skip
RESOLVE = {
    "no-xdev": 1, "no-magiclinks": 2, "no-symlinks": 4, "beneath": 8, "in-root": 16, "no-symlinks|beneath": 12,
    "unknown": 0x800,
}  # fmt: skip


def call(number: int, *words: object) -> int:
    result = LIBC.syscall(number, *words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def number(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)


def openat(path: str, flags: int, mode: int = 0o666, directory: int = AT_FDCWD) -> int:
    return call(SYS_OPENAT, directory, os.fsencode(path), number(flags), mode)


def openat2(
    path: str,
    flags: int,
    mode: int = 0,
    resolve: int = 0,
    directory: int = AT_FDCWD,
    size: int = 24,
    tail: bytes = b"",
) -> int:
    how = struct.pack("QQQ", flags, mode, resolve) + tail
    return call(SYS_OPENAT2, directory, os.fsencode(path), how, number(size))


def said(action: Callable[[], int]) -> str:
    """What comes of an open."""
    try:
        opened = action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        status = os.fstat(opened)
        flags = fcntl.fcntl(opened, fcntl.F_GETFL) & KEPT_FLAGS
        inherited = not fcntl.fcntl(opened, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        where = os.readlink(f"/proc/self/fd/{opened}").replace(str(os.getpid()), "PID")
        where = "pipe" if where.startswith("pipe:") else where if "#" not in where else "#"  # numbers of inodes
        size = status.st_size if stat.S_ISREG(status.st_mode) and not where.startswith("/proc") else "-"
        return f"{opened} {status.st_mode:o} {size} {flags:o} {'inherited ' if inherited else ''}{where!a}"
    finally:
        os.close(opened)


MADE = ("new", "sub/new", "gone", "sub/gone", "closed-dir/new")
KEPT: list[int] = []


def prepare() -> None:
    """What there is to open; and descriptors 7 to 11."""
    os.mkdir("sub")
    os.mkdir("closed-dir")
    for name in ("file", "sub/file", "closed", "closed-dir/file", "unreadable", "readonly", "odd\udcff\udc80"):
        with open(name, "w") as file:
            file.write("hello")
    os.link("file", "hard")
    for target, name in (
        ("file", "link"), (os.path.abspath("file"), "absolute"), (os.path.abspath("sub"), "absolute-dir"),
        ("sub", "to-sub"), ("gone", "dangling"), ("sub/gone", "dangling-in-sub"), ("loop", "loop"), ("link", "chain"),
        ("/proc/self/environ", "to-environ"), ("/proc/self", "to-self"),
    ):  # fmt: skip
        os.symlink(target, name)
    os.mkfifo("fifo")
    import socket

    with socket.socket(socket.AF_UNIX) as bound:
        try:
            bound.bind("socket")
        except OSError:  # not granted
            os.mknod("socket", 0o600 | stat.S_IFSOCK)
    os.chmod("closed", 0)
    os.chmod("unreadable", 0o200)
    os.chmod("readonly", 0o400)
    os.chmod("closed-dir", 0)
    os.dup2(os.open("file", os.O_RDONLY), 7, inheritable=False)
    memory = os.memfd_create("memory")
    os.write(memory, b"in memory")
    os.dup2(memory, 8, inheritable=False)
    deleted = os.open("deleted", os.O_RDWR | os.O_CREAT, 0o640)
    os.unlink("deleted")
    os.dup2(deleted, 9, inheritable=False)
    reading, writing = os.pipe()
    os.dup2(reading, 10, inheritable=False)
    os.dup2(writing, 11, inheritable=False)
    KEPT.extend(os.open(name, os.O_RDWR) for name in ("file", "sub/file"))


def reset() -> None:
    """Undoes what an open can have done, without opening anything."""
    for opened in (*KEPT, 9):
        os.ftruncate(opened, 0)
        os.pwrite(opened, b"hello", 0)
    os.ftruncate(8, 0)
    os.pwrite(8, b"in memory", 0)
    for name in MADE:
        if os.path.lexists(name):
            os.unlink(name)


def waits(path: str, flags: int) -> bool:
    """Whether it would wait for the other end of the FIFO."""
    return path == "fifo" and not flags & (os.O_NONBLOCK | os.O_PATH) and flags & 3 in (0, 1)


def plain() -> Iterator[tuple[str, Callable[[], int]]]:
    for path in PATHS:
        for name, flags in FLAGS.items():
            if not waits(path, flags):
                yield f"openat {ascii(path)[:60]} {len(path)} {name}", lambda p=path, f=flags: openat(p, f)


def special() -> Iterator[tuple[str, Callable[[], int]]]:
    directory = os.open("sub", os.O_RDONLY | os.O_DIRECTORY)
    pinned = os.open("sub", os.O_PATH)
    for path in (
        "file", "new", "../file", "../absolute", "../link", ".", "..", "../..", "", "/etc/passwd", "../dangling",
        "../to-sub/file",
    ):  # fmt: skip
        for base in (directory, pinned, 7, 8, 10, 99, -1):
            for name in ("r", "w|creat", "w|creat|excl", "path", "r|directory", "w|tmpfile"):
                yield f"at {base} {path} {name}", lambda p=path, b=base, f=FLAGS[name]: openat(p, f, directory=b)
            for name, resolve in RESOLVE.items():
                for flags in ("r", "w|creat"):
                    mode = 0o600 if "creat" in flags else 0
                    yield (
                        f"openat2 {base} {path} {name} {flags}",
                        lambda p=path, b=base, r=resolve, f=FLAGS[flags], m=mode: openat2(p, f, m, r, b),
                    )
    for path in (
        "link", "to-sub/file", "/proc/self/fd/7", "/proc/self/status", "to-self/status", "absolute", "/proc/mounts",
        "loop",
    ):  # fmt: skip
        for name, resolve in RESOLVE.items():
            if not ("proc" in path or "self" in path) or name in ("no-magiclinks", "no-symlinks", "beneath"):
                yield f"openat2 {path} {name}", lambda p=path, r=resolve: openat2(p, 0, 0, r)
    yield "openat2 small", lambda: openat2("file", 0, size=16)
    yield "openat2 larger", lambda: openat2("file", 0, size=32, tail=bytes(8))
    yield "openat2 unknown", lambda: openat2("file", 0, size=32, tail=b"\1" + bytes(7))
    yield "openat2 huge", lambda: openat2("file", 0, size=4097, tail=bytes(4096))
    yield "openat2 bad flag", lambda: openat2("file", 1 << 40)
    yield "openat2 mode without creat", lambda: openat2("file", 0, 0o600)
    yield "openat2 path and creat", lambda: openat2("file", os.O_PATH | os.O_CREAT)
    yield "openat2 bad how", lambda: call(SYS_OPENAT2, AT_FDCWD, b"file", number(8), number(24))
    yield "openat bad address", lambda: call(SYS_OPENAT, AT_FDCWD, number(8), 0, 0)
    yield "openat null", lambda: call(SYS_OPENAT, AT_FDCWD, None, 0, 0)
    if X86:
        for path in ("file", "new", "link", "dangling", "sub", "closed", "/dev/null", "sub/new/"):
            yield f"creat {path}", lambda p=path: call(SYS_CREAT, os.fsencode(p), 0o640)
            for name in ("r", "w", "w|creat|excl"):
                yield f"open {path} {name}", lambda p=path, f=FLAGS[name]: call(SYS_OPEN, os.fsencode(p), f, 0o604)


def modes() -> Iterator[tuple[str, Callable[[], int]]]:
    for mask in (0, 0o022, 0o077, 0o777):
        for mode in (0o777, 0o666, 0o4755, 0o1644, 0o0, 0o177777):

            def masked(mask: int = mask, mode: int = mode) -> int:
                old = os.umask(mask)
                try:
                    return openat("new", os.O_WRONLY | os.O_CREAT, mode)
                finally:
                    os.umask(old)

            yield f"mode {mode:o} umask {mask:o}", masked


def limits() -> Iterator[tuple[str, Callable[[], int]]]:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, old[1]))
    for name in ("r", "w|creat", "w|trunc"):
        path = "new" if "creat" in name else "file"
        yield f"no descriptor left {name}", lambda p=path, f=FLAGS[name]: openat(p, f)
        yield f"and made {os.path.lexists('new')} {os.stat('file').st_size}", lambda: openat("none", 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, old)
    for each in held:
        os.close(each)


def gone() -> Iterator[tuple[str, Callable[[], int]]]:
    os.mkdir("doomed")
    os.chdir("doomed")
    os.rmdir("../doomed")
    for path in (".", "..", "file", "../file", "/etc/passwd"):
        for name in ("r", "w|creat", "path", "w|tmpfile"):
            yield f"in a deleted directory {path} {name}", lambda p=path, f=FLAGS[name]: openat(p, f)


def main() -> None:
    os.umask(0o022)
    prepare()
    for group in (plain, special, modes, limits):
        for name, action in group():
            print(name, "->", said(action), flush=False)
            reset()
    for name, action in gone():
        print(name, "->", said(action))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
