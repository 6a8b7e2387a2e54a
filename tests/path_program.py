"""A program that makes every path call, by each number that there is for it, and says what came of it: one line each.

Run twice, with and without a supervisor that carries them out, it has to say the same. `python3 path_program.py PLACE
NUMBERS` makes a directory of its own in PLACE for every call, unless it is there already: then it is left as it is.
NUMBERS: "name=nr name=nr ...".
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
CWD = -100
NOFOLLOW, REMOVEDIR, FOLLOW, EMPTY = 0x100, 0x200, 0x400, 0x1000
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
SETFLAGS, GETFLAGS, SETVERSION, SETEXTENDED = 0x40086602, 0x80086601, 0x40087602, 0x401C5820
NUMBERS: dict[str, int] = {}


class Missing(Exception):
    """This architecture has no such call."""


def call(name: str, *args: object) -> int | str:
    """The call's value, or the name of its error."""
    if name not in NUMBERS:
        raise Missing
    words: list[object] = []
    for arg in args:
        if isinstance(arg, int):
            words.append(ctypes.c_long(arg))
        elif isinstance(arg, str):
            words.append(ctypes.c_char_p(os.fsencode(arg)))
        else:
            words.append(arg)
    ctypes.set_errno(0)
    result = int(LIBC.syscall(ctypes.c_long(NUMBERS[name]), *words))
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]


def packed(layout: str, *values: int) -> object:
    return ctypes.create_string_buffer(struct.pack(layout, *values))


def times(first: int = 1_000_000_000, second: int = 1_100_000_000, part: int = 5) -> object:
    return packed("4q", first, part, second, part)


def opened(path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor; -1 where there is none to be had."""
    try:
        return os.open(path, flags)
    except OSError:
        return -1


def facts(place: str) -> str:
    """What is in a directory, and what of it a call may have changed."""
    found = []
    for name in sorted(os.listdir(place)):
        path = os.path.join(place, name)
        seen = os.lstat(path)
        # Of times those that were set to what is long past: the others tell when this ran.
        both = (seen.st_mtime,) if stat.S_ISDIR(seen.st_mode) else (seen.st_atime, seen.st_mtime)
        old = [int(time) for time in both if time < 1_500_000_000]
        words = [name, oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_nlink, old]
        if stat.S_ISREG(seen.st_mode):
            words.append(seen.st_size)
        if stat.S_ISLNK(seen.st_mode):
            words.append(os.readlink(path))
        try:
            words += [
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user."))
            ]
        except OSError:
            pass
        found.append(" ".join(map(str, words)))
    return "; ".join(found)


def set_flag(descriptor: int) -> int | str:
    """FS_NOATIME_FL besides the flags that there are: file systems take some of those away only now and then."""
    flags = ctypes.c_int(0)
    call("ioctl", descriptor, GETFLAGS, ctypes.byref(flags))
    return call("ioctl", descriptor, SETFLAGS, packed("i", flags.value | 0x80))


def furnish(place: str) -> None:
    """What every call finds in its directory."""
    os.mkdir(place)
    with open(f"{place}/file", "wb") as file:
        file.write(b"twelve bytes")
    os.chmod(f"{place}/file", 0o644)
    os.mkdir(f"{place}/dir")
    os.symlink("file", f"{place}/link")
    os.symlink("nothing", f"{place}/dangling")
    try:
        os.setxattr(f"{place}/file", "user.old", b"value")
    except OSError:
        pass
    for name in ("file", "dir"):
        os.utime(f"{place}/{name}", (1_400_000_000, 1_400_000_000))


def room(size: int = 256) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(b"\xff" * size, size)


def status(name: str, *args: object, at: int) -> str:
    """A stat call, and the parts of its answer that are the same for each run."""
    buffer = room()
    words = [buffer if arg is None else arg for arg in args]
    result = call(name, *words)
    if result != 0:
        return str(result)
    if name == "statx":
        mask, _, _, links, uid, gid, mode = struct.unpack_from("IIQIIIH", buffer.raw)
        return f"{oct(mode)} {links} {uid} {gid} {bool(mask & 1)} {buffer.raw[255]}"
    return repr(buffer.raw[at : at + 24]) + repr(buffer.raw[48:56])


UID, GID = os.getuid(), os.getgid()
STAT_AT = 16
"""Of struct stat on x86-64: links, mode, owner, group."""

Ops = dict[str, Callable[[str], object]]


def modes() -> Ops:
    """What a file may be used for, and whose it is."""
    ops: Ops = {}
    ops["chmod"] = lambda p: call("chmod", f"{p}/file", 0o640)
    ops["chmod link"] = lambda p: call("chmod", f"{p}/link", 0o4711)
    ops["chmod dir/"] = lambda p: call("chmod", f"{p}/dir/", 0o1700)
    ops["chmod file/"] = lambda p: call("chmod", f"{p}/file/", 0o700)
    ops["chmod dangling"] = lambda p: call("chmod", f"{p}/dangling", 0o700)
    ops["chmod empty"] = lambda p: call("chmod", "", 0o700)
    ops["chmod null"] = lambda p: call("chmod", 0, 0o700)
    ops["chmod bad address"] = lambda p: call("chmod", 8, 0o700)
    ops["chmod long"] = lambda p: call("chmod", "x" * 5000, 0o700)
    ops["fchmod"] = lambda p: call("fchmod", opened(f"{p}/file"), 0o600)
    ops["fchmod dir"] = lambda p: call("fchmod", opened(f"{p}/dir"), 0o711)
    ops["fchmod path"] = lambda p: call("fchmod", opened(f"{p}/file", os.O_PATH), 0o600)
    ops["fchmod bad"] = lambda p: call("fchmod", 999, 0o600)
    ops["fchmod minus"] = lambda p: call("fchmod", -1, 0o600)
    ops["fchmod cwd"] = lambda p: call("fchmod", CWD, 0o600)
    ops["fchmod pipe"] = lambda p: call("fchmod", os.pipe()[0], 0o600)
    ops["fchmod memfd"] = lambda p: call("fchmod", os.memfd_create("x"), 0o600)
    ops["fchmod socket"] = lambda p: call("fchmod", socket.socketpair()[0].detach(), 0o600)
    ops["fchmodat"] = lambda p: call("fchmodat", CWD, f"{p}/file", 0o640)
    ops["fchmodat dirfd"] = lambda p: call("fchmodat", opened(p), "file", 0o604)
    ops["fchmodat path dirfd"] = lambda p: call("fchmodat", opened(p, os.O_PATH), "link", 0o604)
    ops["fchmodat bad dirfd"] = lambda p: call("fchmodat", 999, "file", 0o604)
    ops["fchmodat file dirfd"] = lambda p: call("fchmodat", opened(f"{p}/file", os.O_PATH), "file", 0o604)
    ops["fchmodat2"] = lambda p: call("fchmodat2", CWD, f"{p}/file", 0o640, 0)
    ops["fchmodat2 nofollow file"] = lambda p: call("fchmodat2", CWD, f"{p}/file", 0o640, NOFOLLOW)
    ops["fchmodat2 nofollow link"] = lambda p: call("fchmodat2", CWD, f"{p}/link", 0o640, NOFOLLOW)
    ops["fchmodat2 empty"] = lambda p: call("fchmodat2", opened(f"{p}/file", os.O_PATH), "", 0o640, EMPTY)
    ops["fchmodat2 flags"] = lambda p: call("fchmodat2", CWD, f"{p}/file", 0o640, 4)
    ops["chown"] = lambda p: call("chown", f"{p}/link", UID, GID)
    ops["chown nobody"] = lambda p: call("chown", f"{p}/file", -1, -1)
    ops["chown other"] = lambda p: call("chown", f"{p}/file", UID + 1, GID)
    ops["lchown"] = lambda p: call("lchown", f"{p}/link", UID, GID)
    ops["fchown"] = lambda p: call("fchown", opened(f"{p}/file"), UID, GID)
    ops["fchown path"] = lambda p: call("fchown", opened(f"{p}/file", os.O_PATH), UID, GID)
    ops["fchownat"] = lambda p: call("fchownat", opened(p), "file", UID, GID, 0)
    ops["fchownat nofollow"] = lambda p: call("fchownat", CWD, f"{p}/dangling", UID, GID, NOFOLLOW)
    ops["fchownat dangling"] = lambda p: call("fchownat", CWD, f"{p}/dangling", UID, GID, 0)
    ops["fchownat empty"] = lambda p: call("fchownat", opened(f"{p}/file", os.O_PATH), "", UID, GID, EMPTY)
    return ops


def moments() -> Ops:
    """When it was used."""
    ops: Ops = {}
    ops["utime"] = lambda p: call("utime", f"{p}/file", packed("qq", 1_000_000_000, 1_100_000_000))
    ops["utime now"] = lambda p: call("utime", f"{p}/file", 0)
    ops["utime bad address"] = lambda p: call("utime", f"{p}/file", 8)
    ops["utimes"] = lambda p: call("utimes", f"{p}/link", times())
    ops["utimes invalid"] = lambda p: call("utimes", f"{p}/link", times(part=1_000_000))
    ops["futimesat"] = lambda p: call("futimesat", opened(p), "file", times())
    ops["futimesat null"] = lambda p: call("futimesat", opened(f"{p}/file"), 0, times())
    ops["futimesat null cwd"] = lambda p: call("futimesat", CWD, 0, times())
    ops["utimensat"] = lambda p: call("utimensat", CWD, f"{p}/file", times(), 0)
    ops["utimensat nofollow"] = lambda p: call("utimensat", CWD, f"{p}/link", times(), NOFOLLOW)
    ops["utimensat null"] = lambda p: call("utimensat", opened(f"{p}/file"), 0, times(), 0)
    ops["utimensat null path"] = lambda p: call("utimensat", opened(f"{p}/file", os.O_PATH), 0, times(), 0)
    ops["utimensat null flags"] = lambda p: call("utimensat", opened(f"{p}/file"), 0, times(), NOFOLLOW)
    ops["utimensat null cwd"] = lambda p: call("utimensat", CWD, 0, times(), 0)
    ops["utimensat empty"] = lambda p: call("utimensat", opened(f"{p}/file", os.O_PATH), "", times(), EMPTY)
    ops["utimensat now"] = lambda p: call("utimensat", CWD, f"{p}/file", 0, 0)
    ops["utimensat now omit"] = lambda p: call("utimensat", CWD, f"{p}/file", packed("4q", 0, NOW, 0, OMIT), 0)
    ops["utimensat omit"] = lambda p: call("utimensat", CWD, f"{p}/missing", packed("4q", 0, OMIT, 0, OMIT), 0)
    ops["utimensat invalid"] = lambda p: call("utimensat", CWD, f"{p}/file", times(part=1_000_000_000), 0)
    ops["utimensat invalid missing"] = lambda p: call("utimensat", CWD, f"{p}/no", times(part=1_000_000_000), 0)
    ops["utimensat flags"] = lambda p: call("utimensat", CWD, f"{p}/file", times(), 4)
    return ops


def attributes() -> Ops:
    """What is attached to it."""
    ops: Ops = {}
    ops["setxattr"] = lambda p: call("setxattr", f"{p}/link", "user.new", "some", 4, 0)
    ops["setxattr nothing"] = lambda p: call("setxattr", f"{p}/file", "user.new", 0, 0, 0)
    ops["setxattr create"] = lambda p: call("setxattr", f"{p}/file", "user.old", "some", 4, 1)
    ops["setxattr replace"] = lambda p: call("setxattr", f"{p}/file", "user.new", "some", 4, 2)
    ops["setxattr flags"] = lambda p: call("setxattr", f"{p}/file", "user.new", "some", 4, 8)
    ops["setxattr big"] = lambda p: call("setxattr", f"{p}/file", "user.new", "some", 65537, 0)
    ops["setxattr bad value"] = lambda p: call("setxattr", f"{p}/file", "user.new", 8, 4, 0)
    ops["setxattr no name"] = lambda p: call("setxattr", f"{p}/file", "", "some", 4, 0)
    ops["setxattr long name"] = lambda p: call("setxattr", f"{p}/file", "user." + "n" * 260, "some", 4, 0)
    ops["setxattr unknown"] = lambda p: call("setxattr", f"{p}/file", "nobody.new", "some", 4, 0)
    ops["lsetxattr"] = lambda p: call("lsetxattr", f"{p}/link", "user.new", "some", 4, 0)
    ops["fsetxattr"] = lambda p: call("fsetxattr", opened(f"{p}/file"), "user.new", "some", 4, 0)
    ops["fsetxattr path"] = lambda p: call("fsetxattr", opened(f"{p}/file", os.O_PATH), "user.new", "some", 4, 0)
    value = ctypes.create_string_buffer(b"some")
    where = ctypes.addressof(value)
    ops["setxattrat"] = lambda p: call(
        "setxattrat", opened(p), "file", 0, "user.new", packed("QII", where, 4, value.raw[4]), 16
    )
    ops["setxattrat small"] = lambda p: call(
        "setxattrat", CWD, f"{p}/file", 0, "user.new", packed("QII", where, 4, 0), 8
    )
    ops["setxattrat grown"] = lambda p: call(
        "setxattrat", CWD, f"{p}/file", 0, "user.new", packed("QIIQ", where, 4, 0, 0), 24
    )
    ops["setxattrat unknown"] = lambda p: call(
        "setxattrat", CWD, f"{p}/file", 0, "user.new", packed("QIIQ", where, 4, 0, 1), 24
    )
    ops["setxattrat empty"] = lambda p: call(
        "setxattrat", opened(f"{p}/file"), "", EMPTY, "user.new", packed("QII", where, 4, 0), 16
    )
    ops["setxattrat null"] = lambda p: call(
        "setxattrat", opened(f"{p}/file"), 0, EMPTY, "user.new", packed("QII", where, 4, 0), 16
    )
    ops["setxattrat empty path"] = lambda p: call(
        "setxattrat", opened(f"{p}/file", os.O_PATH), "", EMPTY, "user.new", packed("QII", where, 4, 0), 16
    )
    ops["removexattr"] = lambda p: call("removexattr", f"{p}/file", "user.old")
    ops["removexattr none"] = lambda p: call("removexattr", f"{p}/file", "user.none")
    ops["lremovexattr"] = lambda p: call("lremovexattr", f"{p}/file", "user.old")
    ops["fremovexattr"] = lambda p: call("fremovexattr", opened(f"{p}/file"), "user.old")
    ops["removexattrat"] = lambda p: call("removexattrat", opened(p), "file", 0, "user.old")
    return ops


def marks() -> Ops:
    """What an inode is marked as."""
    ops: Ops = {}
    ops["ioctl flags"] = lambda p: set_flag(opened(f"{p}/file"))
    ops["ioctl flags bad"] = lambda p: call("ioctl", 999, SETFLAGS, packed("i", 0x80))
    ops["ioctl flags path"] = lambda p: call("ioctl", opened(f"{p}/file", os.O_PATH), SETFLAGS, packed("i", 0x80))
    ops["ioctl flags address"] = lambda p: call("ioctl", opened(f"{p}/file"), SETFLAGS, 8)
    ops["ioctl flags pipe"] = lambda p: call("ioctl", os.pipe()[0], SETFLAGS, packed("i", 0x80))
    ops["ioctl extended"] = lambda p: call("ioctl", opened(f"{p}/file"), SETEXTENDED, packed("I24x", 0x40))
    ops["file_setattr"] = lambda p: call("file_setattr", opened(p), "file", packed("QIIII", 0x40, 0, 0, 0, 0), 24, 0)
    ops["file_setattr small"] = lambda p: call("file_setattr", opened(p), "file", packed("QI", 0x40, 0), 12, 0)
    return ops


def names() -> Ops:
    """What is in a directory."""
    ops: Ops = {}
    ops["truncate"] = lambda p: call("truncate", f"{p}/link", 5)
    ops["truncate longer"] = lambda p: call("truncate", f"{p}/file", 20)
    ops["truncate minus"] = lambda p: call("truncate", f"{p}/missing", -1)
    ops["truncate dir"] = lambda p: call("truncate", f"{p}/dir", 0)
    ops["truncate dangling"] = lambda p: call("truncate", f"{p}/dangling", 0)
    ops["mkdir"] = lambda p: call("mkdir", f"{p}/new", 0o777)
    ops["mkdir slash"] = lambda p: call("mkdir", f"{p}/new//", 0o1705)
    ops["mkdir there"] = lambda p: call("mkdir", f"{p}/dir", 0o777)
    ops["mkdir dangling/"] = lambda p: call("mkdir", f"{p}/dangling/", 0o777)
    ops["mkdir dot"] = lambda p: call("mkdir", f"{p}/.", 0o777)
    ops["mkdir root"] = lambda p: call("mkdir", "/", 0o777)
    ops["mkdir long"] = lambda p: call("mkdir", f"{p}/{'n' * 256}", 0o777)
    ops["mkdir not utf-8"] = lambda p: call("mkdir", f"{p}/" + os.fsdecode(b"n\xff"), 0o777)
    ops["mkdirat"] = lambda p: call("mkdirat", opened(p), "new", 0o700)
    ops["mkdirat missing"] = lambda p: call("mkdirat", opened(p), "missing/new", 0o700)
    return ops


def removals() -> Ops:
    """What is no longer in a directory."""
    ops: Ops = {}
    ops["rmdir"] = lambda p: call("rmdir", f"{p}/dir")
    ops["rmdir slash"] = lambda p: call("rmdir", f"{p}/dir/")
    ops["rmdir file"] = lambda p: call("rmdir", f"{p}/file")
    ops["rmdir full"] = lambda p: call("rmdir", p)
    ops["rmdir dot"] = lambda p: call("rmdir", f"{p}/dir/.")
    ops["rmdir dots"] = lambda p: call("rmdir", f"{p}/dir/..")
    ops["rmdir root"] = lambda p: call("rmdir", "/")
    ops["unlink"] = lambda p: call("unlink", f"{p}/file")
    ops["unlink link"] = lambda p: call("unlink", f"{p}/link")
    ops["unlink file/"] = lambda p: call("unlink", f"{p}/file/")
    ops["unlink link/"] = lambda p: call("unlink", f"{p}/link/")
    ops["unlink dir"] = lambda p: call("unlink", f"{p}/dir")
    ops["unlink dot"] = lambda p: call("unlink", f"{p}/dir/.")
    ops["unlinkat"] = lambda p: call("unlinkat", opened(p), "dangling", 0)
    ops["unlinkat dir"] = lambda p: call("unlinkat", opened(p), "dir", REMOVEDIR)
    ops["unlinkat flags"] = lambda p: call("unlinkat", opened(p), "dir", NOFOLLOW)
    return ops


def moves() -> Ops:
    """What gets another name."""
    ops: Ops = {}
    ops["rename"] = lambda p: call("rename", f"{p}/file", f"{p}/new")
    ops["rename over"] = lambda p: call("rename", f"{p}/link", f"{p}/file")
    ops["rename into"] = lambda p: call("rename", f"{p}/file", f"{p}/dir/file")
    ops["rename dir/"] = lambda p: call("rename", f"{p}/dir/", f"{p}/new/")
    ops["rename file/"] = lambda p: call("rename", f"{p}/file", f"{p}/new/")
    ops["rename into itself"] = lambda p: call("rename", f"{p}/dir", f"{p}/dir/dir")
    ops["rename dot"] = lambda p: call("rename", f"{p}/dir/.", f"{p}/new")
    ops["rename to dots"] = lambda p: call("rename", f"{p}/file", f"{p}/dir/..")
    ops["rename missing"] = lambda p: call("rename", f"{p}/missing", f"{p}/new")
    ops["renameat"] = lambda p: call("renameat", opened(p), "file", opened(f"{p}/dir"), "file")
    ops["renameat2"] = lambda p: call("renameat2", CWD, f"{p}/file", CWD, f"{p}/new", 1)
    ops["renameat2 noreplace"] = lambda p: call("renameat2", CWD, f"{p}/file", CWD, f"{p}/link", 1)
    ops["renameat2 exchange"] = lambda p: call("renameat2", CWD, f"{p}/file", CWD, f"{p}/dir", 2)
    ops["renameat2 both"] = lambda p: call("renameat2", CWD, f"{p}/file", CWD, f"{p}/dir", 3)
    ops["renameat2 flags"] = lambda p: call("renameat2", CWD, f"{p}/file", CWD, f"{p}/dir", 8)
    ops["link"] = lambda p: call("link", f"{p}/file", f"{p}/new")
    ops["link link"] = lambda p: call("link", f"{p}/link", f"{p}/new")
    ops["link dangling"] = lambda p: call("link", f"{p}/dangling", f"{p}/new")
    ops["link there"] = lambda p: call("link", f"{p}/file", f"{p}/link")
    ops["link dir"] = lambda p: call("link", f"{p}/dir", f"{p}/new")
    ops["link file/"] = lambda p: call("link", f"{p}/file/", f"{p}/new")
    ops["link to slash"] = lambda p: call("link", f"{p}/file", f"{p}/new/")
    ops["linkat"] = lambda p: call("linkat", opened(p), "link", CWD, f"{p}/new", 0)
    ops["linkat follow"] = lambda p: call("linkat", opened(p), "link", CWD, f"{p}/new", FOLLOW)
    ops["linkat empty"] = lambda p: call("linkat", opened(f"{p}/file", os.O_PATH), "", CWD, f"{p}/new", EMPTY)
    ops["linkat into"] = lambda p: call("linkat", opened(p), "file", CWD, f"{p}/dir/new", 0)
    ops["linkat flags"] = lambda p: call("linkat", opened(p), "link", CWD, f"{p}/new", NOFOLLOW)
    return ops


def nodes() -> Ops:
    """Links, FIFOs, sockets."""
    ops: Ops = {}
    ops["symlink"] = lambda p: call("symlink", "some target", f"{p}/new")
    ops["symlink there"] = lambda p: call("symlink", "some target", f"{p}/dangling")
    ops["symlink nothing"] = lambda p: call("symlink", "", f"{p}/new")
    ops["symlink long"] = lambda p: call("symlink", "t" * 4096, f"{p}/new")
    ops["symlink bad address"] = lambda p: call("symlink", 8, f"{p}/new")
    ops["symlink slash"] = lambda p: call("symlink", "some target", f"{p}/new/")
    ops["symlinkat"] = lambda p: call("symlinkat", "t" * 4095, opened(p), "new")
    ops["mknod"] = lambda p: call("mknod", f"{p}/new", 0o666, 0)
    ops["mknod fifo"] = lambda p: call("mknod", f"{p}/new", stat.S_IFIFO | 0o666, 0)
    ops["mknod there"] = lambda p: call("mknod", f"{p}/dangling", stat.S_IFREG | 0o666, 0)
    ops["mknod slash"] = lambda p: call("mknod", f"{p}/new/", stat.S_IFREG | 0o666, 0)
    ops["mknod dir"] = lambda p: call("mknod", f"{p}/new", stat.S_IFDIR | 0o666, 0)
    ops["mknod kind"] = lambda p: call("mknod", f"{p}/new", stat.S_IFLNK | 0o666, 0)
    ops["mknodat"] = lambda p: call("mknodat", opened(p), "new", stat.S_IFSOCK | 0o777, 0)
    return ops


def watches() -> Ops:
    """Whether what happens there is told."""
    ops: Ops = {}

    def in_directory(p: str) -> object:
        watcher = call("inotify_init1", os.O_NONBLOCK)
        assert isinstance(watcher, int)
        result = call("inotify_add_watch", watcher, p, 0x100)  # IN_CREATE
        opened(f"{p}/seen", os.O_CREAT | os.O_WRONLY)
        return result, b"seen" in os.read(watcher, 999) if os.path.exists(f"{p}/seen") and result == 1 else b""

    def by_link(p: str) -> object:
        watcher = call("inotify_init1", os.O_NONBLOCK)
        assert isinstance(watcher, int)
        only_directory, not_follow = 0x01000000, 0x02000000
        return [
            call("inotify_add_watch", watcher, f"{p}/link", 0x104),
            call("inotify_add_watch", watcher, f"{p}/link", 0x104 | not_follow),
            call("inotify_add_watch", watcher, f"{p}/dangling", 0x104 | not_follow),
            call("inotify_add_watch", watcher, f"{p}/dangling", 0x104),
            call("inotify_add_watch", watcher, f"{p}/link", 0x104 | only_directory),
            call("inotify_add_watch", watcher, f"{p}/dir", 0x104 | only_directory),
        ]

    ops["inotify_add_watch"] = in_directory
    ops["inotify_add_watch link"] = by_link
    ops["inotify_add_watch not one"] = lambda p: call("inotify_add_watch", os.pipe()[0], p, 0x100)
    ops["inotify_add_watch bad"] = lambda p: call("inotify_add_watch", 999, p, 0x100)
    ops["inotify_add_watch mask"] = lambda p: call("inotify_add_watch", call("inotify_init1", 0), p, 0)
    ops["inotify_add_watch address"] = lambda p: call("inotify_add_watch", call("inotify_init1", 0), 8, 0x100)
    return ops


def looks() -> Ops:
    """The same of calls that only tell something."""
    ops: Ops = {}
    for name, target in (
        ("stat", "link"),
        ("lstat", "link"),
        ("stat", "dir/"),
        ("stat", "dangling"),
        ("stat", "file/"),
    ):
        ops[f"{name} {target}"] = lambda p, n=name, t=target: status(n, f"{p}/{t}", None, at=STAT_AT)
    ops["newfstatat"] = lambda p: status("newfstatat", opened(p), "link", None, 0, at=STAT_AT)
    ops["newfstatat nofollow"] = lambda p: status("newfstatat", opened(p), "link", None, NOFOLLOW, at=STAT_AT)
    ops["newfstatat empty"] = lambda p: status("newfstatat", opened(f"{p}/file"), "", None, EMPTY, at=STAT_AT)
    ops["newfstatat path"] = lambda p: status("newfstatat", opened(p, os.O_PATH), "", None, EMPTY, at=STAT_AT)
    ops["newfstatat flags"] = lambda p: status("newfstatat", CWD, f"{p}/file", None, 4, at=STAT_AT)
    ops["newfstatat room"] = lambda p: call("newfstatat", CWD, f"{p}/file", 8, 0)
    ops["statx"] = lambda p: status("statx", CWD, f"{p}/link", 0, 0x7FF, None, at=0)
    ops["statx nofollow"] = lambda p: status("statx", CWD, f"{p}/link", NOFOLLOW, 0x7FF, None, at=0)
    ops["statx empty"] = lambda p: status("statx", opened(p, os.O_PATH), "", EMPTY, 0x7FF, None, at=0)
    ops["statx sync"] = lambda p: status("statx", CWD, p, 0x6000, 0x7FF, None, at=0)
    ops["statx reserved"] = lambda p: status("statx", CWD, p, 0, 0x80000000, None, at=0)
    ops["access"] = lambda p: [
        call("access", f"{p}/{name}", mode) for name in ("file", "dir", "no") for mode in range(9)
    ]
    ops["faccessat"] = lambda p: [call("faccessat", opened(p), "link", mode) for mode in range(8)]
    ops["faccessat2"] = lambda p: [
        call("faccessat2", opened(p), "dangling", 0, flags) for flags in (0, 0x100, 0x200, 4)
    ]
    ops["readlink"] = lambda p: [
        (call("readlink", f"{p}/{name}", into := room(8), 8), into.raw)
        for name in ("link", "dangling", "file", "no", "link/")
    ]
    ops["readlink short"] = lambda p: (call("readlink", f"{p}/link", into := room(8), 2), into.raw)
    ops["readlink none"] = lambda p: call("readlink", f"{p}/link", room(8), 0)
    ops["readlink address"] = lambda p: call("readlink", f"{p}/link", 8, 8)
    ops["readlinkat"] = lambda p: (call("readlinkat", opened(p), "link", into := room(8), 8), into.raw)
    ops["readlinkat empty"] = lambda p: (
        call("readlinkat", opened(f"{p}/link", os.O_PATH | os.O_NOFOLLOW), "", into := room(8), 8),
        into.raw,
    )
    ops["readlinkat empty file"] = lambda p: call("readlinkat", opened(f"{p}/file", os.O_PATH), "", room(8), 8)
    ops["readlink self"] = lambda p: _own("self", str(os.getpid()))
    ops["readlink thread-self"] = lambda p: _own("thread-self", f"{os.getpid()}/task/{os.getpid()}")
    ops["readlink cwd"] = lambda p: (call("readlink", "/proc/self/cwd", into := room(999), 999), into.raw)
    return ops


def attribute_looks() -> Ops:
    """And of those, what they say of file systems and attributes."""
    ops: Ops = {}
    ops["statfs"] = lambda p: (call("statfs", f"{p}/link", into := room()), into.raw[:8])
    ops["statfs no"] = lambda p: call("statfs", f"{p}/no", room())
    ops["getxattr"] = lambda p: (call("getxattr", f"{p}/link", "user.old", into := room(8), 8), into.raw)
    ops["getxattr size"] = lambda p: call("getxattr", f"{p}/link", "user.old", 0, 0)
    ops["getxattr short"] = lambda p: call("getxattr", f"{p}/link", "user.old", room(8), 2)
    ops["lgetxattr"] = lambda p: call("lgetxattr", f"{p}/link", "user.old", room(8), 8)
    ops["getxattrat"] = lambda p: (
        call("getxattrat", opened(p), "file", 0, "user.old", _args(into := room(8)), 16),
        into.raw,
    )
    ops["listxattr"] = lambda p: (call("listxattr", f"{p}/file", into := room(64), 64), into.raw)
    ops["listxattr size"] = lambda p: call("listxattr", f"{p}/file", 0, 0)
    ops["llistxattr"] = lambda p: call("llistxattr", f"{p}/link", room(64), 64)
    ops["listxattrat"] = lambda p: (call("listxattrat", opened(p), "file", 0, into := room(64), 64), into.raw)
    ops["file_getattr"] = lambda p: (call("file_getattr", opened(p), "file", into := room(64), 24, 0), into.raw)
    ops["file_getattr grown"] = lambda p: (call("file_getattr", opened(p), "file", into := room(64), 40, 0), into.raw)
    ops["file_getattr small"] = lambda p: call("file_getattr", opened(p), "file", room(64), 8, 0)
    return ops


def _own(name: str, expected: str) -> bool:
    into = room(64)
    return call("readlink", f"/proc/{name}", into, 64) == len(expected) and into.raw.startswith(expected.encode())


def _args(into: ctypes.Array[ctypes.c_char]) -> object:
    return packed("QII", ctypes.addressof(into), len(into), 0)


def place_of(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label)


CHANGES = (modes, moments, attributes, marks, names, removals, moves, nodes, watches)
LOOKS = (looks, attribute_looks)


def operations() -> Ops:
    """All there are."""
    return {label: op for some in (*CHANGES, *LOOKS) for label, op in some().items()}


def main(place: str, numbers: str) -> None:
    NUMBERS.update((name, int(number)) for name, number in (word.split("=") for word in numbers.split()))
    os.umask(0o027)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for label, function in operations().items():
        own = os.path.join(place, place_of(label))
        if not os.path.exists(own):
            furnish(own)
        try:
            said = repr(function(own))
        except Missing:
            continue
        try:
            print(f"{label}: {said} | {facts(own)}")
        except PermissionError:
            print(f"{label}: {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
