"""Random calls by path, over few names, so that they meet: for hypothesis.

The tree has files, directories, and symbolic links of every sort; slots hold descriptors of some of them. Opens do not
wait (O_NONBLOCK). What a mode documents as different is not made: see `Calls`.
"""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from paths.language import CWD, Argument, address, at_the_end, attribute, call, exists, how, out, slot, words

Strategy = st.SearchStrategy
NAMES = (b"a", b"b", b"c", b"d", b"e", b"l", b"m", b"n", b"x\xff")
LONG = (b"o" * 255, b"o" * 256)
OPEN_FLAGS = (
    os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_TRUNC, os.O_WRONLY | os.O_APPEND,
    os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_CREAT,
    os.O_DIRECTORY, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_NOFOLLOW | os.O_DIRECTORY, os.O_CREAT | os.O_NOFOLLOW,
    os.O_WRONLY | os.O_NOFOLLOW, os.O_PATH, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY,
    os.O_CREAT | os.O_DIRECTORY, os.O_RDWR | os.O_TMPFILE, os.O_WRONLY | os.O_TMPFILE | os.O_EXCL, os.O_NOATIME,
    os.O_CLOEXEC, 3, os.O_EXCL, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND,
)  # fmt: skip
THERE = (
    b"a", b"d", b"e", b"d/a", b"d/d", b"d/d/a", b"e/a", b"l", b"l/a", b"m", b"n", b"e/l", b"e/l/a", b"e/m", b"e/n",
    b"d/l",
    b"d/m", b"d/d/l", b"d/c", b"x\xff", b"b", b"c", b"d/b", b"e/b", b"e/new",
)  # fmt: skip
"""What there is to begin with, and what is often made."""
RESOLVE = (0, 0, 1, 2, 4, 0x800)
"""Not what depends on the moment: "only what is cached"; and `..` held below a directory, which fails (EAGAIN) whenever
anybody on the machine renames anything."""
MODES = (0o644, 0o755, 0o700, 0o600, 0o400, 0o200, 0o000, 0o777, 0o1777, 0o4755, 0o2755, 0o7777)
AT = {"nofollow": 0x100, "eaccess": 0x200, "remove": 0x200, "follow": 0x400, "no-automount": 0x800, "empty": 0x1000}
TIMES = (
    (5, 6, 7, 8), (5, 0, 0, (1 << 30) - 2), (0, (1 << 30) - 2, 9, 999_999_999), (1, 0, 1, 1_000_000_000),
    (0, (1 << 30) - 2, 0, (1 << 30) - 2), (0, (1 << 30) - 1, 0, (1 << 30) - 1), (-5, 0, 3, 1),
)  # fmt: skip


def setup(tree: bytes) -> list[str]:
    """The tree that each sequence begins with."""
    lines = [call("mkdirat", CWD, tree + name, 0o755) for name in (b"", b"/d", b"/d/d", b"/e")]
    for name, content in ((b"/a", b"hello"), (b"/d/a", b"world!"), (b"/d/d/a", b""), (b"/x\xff", b"odd")):
        lines.append(call("openat", CWD, tree + name, os.O_RDWR | os.O_CREAT, 0o644, into=0))
        lines.append(call("write", slot(0), content, len(content)))
    for name, target in (
        (b"/l", b"d"), (b"/m", b"a"), (b"/n", b"nothing"), (b"/e/l", b"../d/d"), (b"/e/m", tree + b"/d/a"), (b"/e/n",
        b"n"),
        (b"/d/l", tree + b"/e"), (b"/d/m", b"../e/new"), (b"/d/d/l", b"../../l/"),
    ):  # fmt: skip
        lines.append(call("symlinkat", target, CWD, tree + name))
    lines.append(call("linkat", CWD, tree + b"/a", CWD, tree + b"/e/a", 0))
    lines.append(call("mknodat", CWD, tree + b"/d/c", stat.S_IFIFO | 0o644, 0))
    return lines


class Calls:
    """The strategies, for one tree. `uid` is who makes the calls."""

    def __init__(self, tree: bytes, mode: str, uid: int) -> None:
        self.mode = mode
        self.owner = st.sampled_from([-1, -1, uid, 0])
        self.path = self.paths(tree)
        self.base = st.sampled_from([CWD] * 12 + [slot(0), slot(0), slot(1), slot(2), 99, -1])
        self.slot = st.integers(0, 2).map(slot)
        self.into = st.integers(0, 2)
        flags = [each if each & os.O_PATH else each | os.O_NONBLOCK for each in OPEN_FLAGS]
        # A virtual root has no O_PATH: it gives descriptors to read from.
        self.flags = st.sampled_from([each for each in flags if mode != "chroot" or not each & os.O_PATH])
        self.begin = (
            BEGIN if mode != "chroot" else [line.replace(f" {os.O_PATH | os.O_NOFOLLOW} ", " 0 ") for line in BEGIN]
        )
        self.mode_bits = st.sampled_from(MODES)
        self.times = st.sampled_from([words(*each) for each in TIMES] + [0])
        self.attribute = st.sampled_from(
            [
                b"user.a",
                b"user.a",
                b"user.a",
                b"user.b",
                b"user.b",
                b"user.",
                b"nothing",
                b"trusted.a",
                b"",
                b"user." + b"a" * 251,
            ]
        )

    @staticmethod
    def paths(tree: bytes) -> Strategy[Argument]:
        """Paths, most of them to something."""
        there = st.tuples(st.sampled_from([b"", b"", b"", b"", tree + b"/", b"./", b"d/../"]), st.sampled_from(THERE))
        part = st.sampled_from(NAMES * 3 + (b".", b"..", b"..", b"") + LONG[:1])
        parts = st.lists(part, min_size=1, max_size=4).map(lambda drawn: b"/".join(drawn).lstrip(b"/") or b"a")
        special = st.sampled_from(
            [
                *(b"", b".", b"..", LONG[0], LONG[1], b"d/" + LONG[1], tree, tree + b"/"),
                *(
                    b"./" * 2046 + b"a\x2f.",
                    b"./" * 2047 + b"a",
                    b"./" * 2048,
                    b"d/../" * 818 + b"d/a",
                    b"l/" * 41 + b"a",
                ),
                *(
                    b"/proc/self/cwd",
                    b"/proc/self/cwd/a",
                    b"/proc/self/fd/3",
                    b"/proc/self/fd/3/a",
                    b"/proc/self/root" + tree,
                ),
                *(b"/proc/thread-self/cwd/d", b"/dev/fd/3", b"e/n/x", b"d/l/l/a", b"d/d/l/a"),
            ]
        )
        slash = st.sampled_from([b"", b"", b"", b"/", b"//", b"/."])
        plain = st.tuples(st.sampled_from([b"", b"", b"", tree + b"/", b"./"]), parts, slash).map(b"".join)
        likely = there.map(b"".join)
        return st.one_of(likely, likely, likely, likely, plain, likely.map(at_the_end), special)

    def line(self, name: str, *arguments: Strategy[Argument] | Argument, into: bool = False) -> Strategy[str]:
        """Lines for a call whose arguments are drawn, where they are not given."""
        each = [word if isinstance(word, st.SearchStrategy) else st.just(word) for word in arguments]
        slots: Strategy[int | None] = self.into if into else st.none()
        return st.tuples(slots, *each).map(lambda drawn: call(name, *drawn[1:], into=drawn[0]))

    def lines(self, *entries: tuple[object, ...], into: bool = False) -> list[Strategy[str]]:
        """Lines for each call that this architecture has."""
        return [self.line(*entry, into=into) for entry in entries if exists(entry[0])]  # type: ignore[arg-type]

    def opening(self) -> list[Strategy[str]]:
        p, base = self.path, self.base
        hows = st.tuples(self.flags, self.mode_bits, st.sampled_from(RESOLVE))
        # Documented: openat2 has no O_PATH, and held on a mount it makes nothing through a link.
        held = 1 if self.mode == "asked" else 0
        hows = hows.filter(
            lambda drawn: not drawn[0] & os.O_PATH and not drawn[2] & (1 if drawn[0] & os.O_CREAT else held)
        )
        if self.mode == "chroot":  # whether / is another mount: that depends on which root it is
            hows = hows.filter(lambda drawn: not drawn[2] & 1)
        made = hows.map(lambda drawn: how(drawn[0], drawn[1] if drawn[0] & (os.O_CREAT | 0o20000000) else 0, drawn[2]))
        return self.lines(
            ("openat", base, p, self.flags, self.mode_bits),
            ("openat", base, p, self.flags, self.mode_bits),
            ("openat2", base, p, made, 24),
            ("open", p, self.flags, self.mode_bits),
            into=True,
        ) + self.lines(("creat", p.filter(lambda path: "d/c" not in str(path)), self.mode_bits), into=True)

    def looking(self) -> list[Strategy[str]]:
        p, base = self.path, self.base
        at = st.sampled_from(
            [0, 0, AT["nofollow"], AT["empty"], AT["empty"] | AT["nofollow"], AT["no-automount"], 0x40]
        )
        access = st.sampled_from([0, 1, 2, 4, 6, 7, 8])
        room = st.sampled_from([0, 1, 4, 300])
        return self.lines(
            ("stat", p, out("stat")),
            ("lstat", p, out("stat")),
            ("newfstatat", base, p, out("stat"), at),
            ("statx", base, p, at, 0xFFF, out("statx")),
            ("access", p, access),
            ("faccessat", base, p, access),
            ("faccessat2", base, p, access, st.sampled_from([0, AT["nofollow"], AT["eaccess"], AT["empty"], 1])),
            ("readlink", p, out("text"), room),
            ("readlinkat", base, p, out("text"), room),
            ("statfs", p, out("statfs")),
            ("fstat", self.slot, out("stat")),
            ("getdents64", self.slot, out("entries"), 8192),
            ("getdents", self.slot, out("old-entries"), 8192),
            ("lseek", self.slot, 0, 0),
            ("read", self.slot, out("text"), 99),
            ("getcwd", out("text"), 4096),
        )

    def changing(self) -> list[Strategy[str]]:
        p, base, bits = self.path, self.base, self.mode_bits
        kind = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, 0, stat.S_IFDIR, 0o150000])
        made = st.tuples(kind, bits).map(lambda drawn: drawn[0] | drawn[1])
        links = st.sampled_from([0, 0, AT["follow"], 1, *([] if self.mode == "asked" else [AT["empty"]])])  # see KNOWN
        rename = st.sampled_from([0, 0, 1, 1, 2, 2, 3, 8])  # a whiteout is a device, which no grant lets anybody move
        target = st.one_of(p.filter(lambda path: isinstance(path, bytes)), st.sampled_from([b"a", b"d", b"../a"]))
        return self.lines(
            ("mkdir", p, bits),
            ("mkdirat", base, p, bits),
            ("rmdir", p),
            ("unlink", p),
            ("unlinkat", base, p, st.sampled_from([0, AT["remove"], 1])),
            ("rename", p, p),
            ("renameat", base, p, base, p),
            ("renameat2", base, p, base, p, rename),
            ("link", p, p),
            ("linkat", base, p, base, p, links),
            ("linkat", CWD, b"/proc/self/fd/3", base, p, AT["follow"]),
            ("symlink", target, p),
            ("symlinkat", target, base, p),
            ("mknod", p, made, 0),
            ("mknodat", base, p, made, 0),
            ("truncate", p, st.sampled_from([0, 3, 9000, -1])),
            ("ftruncate", self.slot, st.sampled_from([0, 3, -1])),
            ("write", self.slot, b"written", 7),
        )

    def marking(self) -> list[Strategy[str]]:
        p, base, bits, owner, name = self.path, self.base, self.mode_bits, self.owner, self.attribute
        at = st.sampled_from([0, 0, AT["nofollow"], AT["empty"], AT["empty"] | AT["nofollow"], 1])
        value = st.sampled_from([b"", b"value", b"v" * 200])
        create = st.sampled_from([0, 0, 1, 2, 4])
        lines = self.lines(
            ("chmod", p, bits), ("fchmod", self.slot, bits), ("fchmodat", base, p, bits), ("fchmodat2", base, p, bits,
            at),
            ("chown", p, owner, owner), ("lchown", p, owner, owner), ("fchown", self.slot, owner, owner),
            ("fchownat", base, p, owner, owner, at), ("utimensat", base, p, self.times, at),
            ("utimensat", self.slot, 0, self.times, 0), ("utime", p, words(3, 4)), ("utimes", p, words(3, 4, 5, 6)),
            ("futimesat", base, p, words(3, 4, 5, 6)), ("fsetxattr", self.slot, name, value, "=", create),
            ("fremovexattr", self.slot, name), ("fgetxattr", self.slot, name, out("text"), 99),
            ("flistxattr", self.slot, out("text"), 999), ("removexattrat", base, p, at, name),
            ("setxattrat", base, p, at, name, st.sampled_from([attribute(b"new"), attribute(b"", 1)]), 16),
        )  # fmt: skip
        for kind in ("", "l"):
            lines += self.lines(
                (f"{kind}setxattr", p, name, value, "=", create),
                (f"{kind}getxattr", p, name, out("text"), st.sampled_from([0, 2, 99])),
                (f"{kind}listxattr", p, out("text"), st.sampled_from([0, 3, 999])),
                (f"{kind}removexattr", p, name),
            )
        return lines

    def moving(self) -> list[Strategy[str]]:
        near = self.path.filter(lambda path: len(str(path)) < 200)
        if self.mode == "chroot":  # sockets: no link of /proc leads anywhere
            near = near.filter(lambda path: "/proc" not in str(path) and "/dev" not in str(path))
        return [
            *self.lines(("chdir", self.path), ("chdir", st.sampled_from([b"d", b"..", b"l", b"d/d", b"e"]))),
            *self.lines(
                ("fchdir", self.slot), ("umask", st.sampled_from([0, 0o022, 0o077, 0o777])), ("close", self.slot)
            ),
            *self.lines(
                ("bind", slot(3), near.filter(lambda path: isinstance(path, bytes) and path).map(address), "="),
                ("connect", slot(3), near.filter(lambda path: isinstance(path, bytes) and path).map(address), "="),
            ),
        ]

    def script(self) -> Strategy[list[str]]:
        """Some calls, one after the other."""
        kinds = (self.opening, self.looking, self.changing, self.changing, self.marking, self.moving)
        some = st.lists(st.one_of([st.one_of(kind()) for kind in kinds]), min_size=1, max_size=6)
        return st.tuples(some, some, some).map(lambda drawn: [*self.begin, *drawn[0], *drawn[1], *drawn[2]])


BEGIN = [
    call("openat", CWD, b"d", os.O_DIRECTORY, 0, into=0),
    call("openat", CWD, b"a", os.O_RDWR, 0, into=1),
    call("openat", CWD, b"e/m", os.O_PATH | os.O_NOFOLLOW, 0, into=2),
    call("socket", 1, 2, 0, into=3),
]
"""What the slots hold at first."""
