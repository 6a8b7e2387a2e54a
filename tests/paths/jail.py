"""A place of which parts are denied, and ways to them: spellings, and what can be done to what is there.

`Jail.tried` makes one call after the other confined,
and looks from outside at what is denied: it has to be as it was, and
nothing of it may have been said. `Jail.works` makes one bare, on a copy: there it has to succeed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ordinary
from paths.language import CWD, Argument, address, attribute, call, exists, how, out, readable, slot, words
from paths.worker import Guest, clear, hand_over, walk
from programs.tools import guest

SECRET = b"TOP-SECRET"
NOFOLLOW, REMOVE, FOLLOW, EMPTY = 0x100, 0x200, 0x400, 0x1000
DENIED = ("secret", "vault", "later", "above/below/hidden", "door")


def tree(top: bytes) -> list[str]:
    """What is denied, and what leads there."""
    folders = (
        b"",
        b"/vault",
        b"/vault/sub",
        b"/dir",
        b"/dir\xff",
        b"/above",
        b"/above/below",
        b"/above/below/hidden",
        b"/other",
    )
    lines = [call("mkdirat", CWD, top + path, 0o755) for path in folders]
    for path in (b"/secret", b"/vault/file", b"/vault/sub/file", b"/vault/linked", b"/above/below/hidden/file"):
        lines.append(call("openat", CWD, top + path, os.O_RDWR | os.O_CREAT, 0o600, into=0))
        lines.append(call("write", slot(0), SECRET, len(SECRET)))
        lines.append(call("setxattr", top + path, b"user.old", b"old", 3, 0))
    lines += [call("mknodat", CWD, top + path, stat.S_IFREG | 0o644, 0) for path in (b"/public", b"/behind")]
    for path, target in (
        (b"/link", b"secret"), (b"/chain", b"link"), (b"/absolute", top + b"/secret"), (b"/to-vault", b"vault"),
        (b"/dir/up", b"../vault/../secret"), (b"/to-file", b"vault/file"), (b"/to-new", b"vault/new"),
        (b"/to-later", b"later"), (b"/dir/deep", top + b"/to-vault/sub"), (b"/door", b"behind"),
    ):  # fmt: skip
        lines.append(call("symlinkat", target, CWD, top + path))
    lines.append(call("linkat", CWD, top + b"/secret", CWD, top + b"/hard", 0))
    lines.append(call("linkat", CWD, top + b"/vault/linked", CWD, top + b"/dir/hard", 0))
    return lines


OPENED = [
    call("openat", CWD, b"secret", os.O_PATH, 0, into=0),
    call("openat", CWD, b"vault", os.O_PATH, 0, into=1),
    call("openat", CWD, b".", os.O_DIRECTORY, 0, into=2),
    call("openat", CWD, b"vault/sub", os.O_PATH, 0, into=3),
]
"""O_PATH gives nothing by itself. They are descriptors 3 to 6."""


def spellings(top: bytes) -> dict[str, tuple[Argument, Argument]]:
    """Base and path by which a denied file may be meant."""
    ways: dict[str, tuple[Argument, Argument]] = {
        "plain": (CWD, b"secret"), "link": (CWD, b"link"), "chain": (CWD, b"chain"), "absolute": (CWD,
        top + b"/secret"),
        "absolute link": (CWD, b"absolute"), "dots": (CWD, b"dir/../vault/.././secret"), "hard": (CWD, b"hard"),
        "hard link into a tree": (CWD, b"dir/hard"), "not utf-8": (CWD, b"dir\xff/../secret"),
        "long": (CWD, b"./" * 2044 + b"secret"), "cwd": (CWD, b"/proc/self/cwd/secret"),
        "root": (CWD, b"/proc/self/root" + top + b"/secret"), "thread": (CWD, b"/proc/thread-self/cwd/link"),
        "descriptor": (CWD, b"/proc/self/fd/3"), "dev": (CWD, b"/dev/fd/3"), "directory": (slot(2), b"secret"),
        "in a tree": (CWD, b"vault/file"), "deep": (CWD, b"to-vault/sub/file"), "through a link": (CWD, b"to-file"),
        "pinned tree": (slot(1), b"file"), "above a pinned tree": (slot(3), b"../file"),
        "pinned tree in proc": (CWD, b"/proc/self/fd/4/sub/../file"), "links in links": (CWD, b"dir/deep/file"),
        "slashes": (CWD, b"vault///sub/./../file"), "below a link": (CWD, b"dir/up"),
        "ancestors": (CWD, b"above/below/hidden/file"), "missing slash": (CWD, b"above/../above/below//hidden/file"),
    }  # fmt: skip
    return ways


def calls(base: Argument, path: Argument) -> dict[str, list[str]]:
    """What can be done to a file."""
    doing: dict[str, tuple[object, ...]] = {
        "read": ("openat", base, path, os.O_RDONLY, 0), "write": ("openat", base, path, os.O_WRONLY, 0),
        "truncate by open": ("openat", base, path, os.O_TRUNC, 0), "append": ("openat", base, path, os.O_APPEND | 1, 0),
        "create": ("openat", base, path, os.O_CREAT | os.O_RDWR, 0o600), "mode 3": ("openat", base, path, 3, 0),
        "openat2": ("openat2", base, path, how(0), 24), "openat2 held": ("openat2", base, path, how(2), 24),
        "access mode": ("fchmodat", base, path, 0o777), "access mode 2": ("fchmodat2", base, path, 0o777, 0),
        "owner": ("fchownat", base, path, -1, -1, 0), "times": ("utimensat", base, path, words(1, 1, 1, 1), 0),
        "old times": ("futimesat", base, path, words(1, 1, 1, 1)),
        "attribute": ("setxattrat", base, path, 0, b"user.a", attribute(b"value"), 16),
        "no attribute": ("removexattrat", base, path, 0, b"user.old"),
        "rename away": ("renameat", base, path, CWD, b"stolen"), "rename over": ("renameat", CWD, b"public", base,
        path),
        "exchange": ("renameat2", base, path, CWD, b"public", 2), "exchange 2": ("renameat2", CWD, b"public", base,
        path, 2),
        "whiteout": ("renameat2", base, path, CWD, b"stolen", 4), "link": ("linkat", base, path, CWD, b"stolen",
        FOLLOW),
        "unlink": ("unlinkat", base, path, 0),
    }  # fmt: skip
    if base == CWD:
        doing |= {
            "watch": ("inotify_add_watch", slot(4), path, 0xFFF),
            "truncate": ("truncate", path, 0), "old open": ("open", path, 0, 0), "creat": ("creat", path, 0o600),
            "chmod": ("chmod", path, 0o777), "chown": ("chown", path, -1, -1), "utime": ("utime", path, words(1, 1)),
            "utimes": ("utimes", path, words(1, 1, 1, 1)), "setxattr": ("setxattr", path, b"user.a", b"value", 5, 0),
            "removexattr": ("removexattr", path, b"user.old"), "old rename": ("rename", path, b"stolen"),
            "old link": ("link", path, b"stolen"), "old unlink": ("unlink", path),
        }  # fmt: skip
    made = {}
    for what, (name, *arguments) in doing.items():
        assert isinstance(name, str)
        if exists(name):
            into = 5 if name.startswith("open") or name == "creat" else None
            line = call(name, *arguments, into=into)  # type: ignore[arg-type]
            made[what] = [line, call("read", slot(5), out("text"), 99)] if into else [line]
    return made


def trees() -> dict[str, list[str]]:
    """What can be done to a denied directory, and to those above one. Denied directories are slots 1 and 3."""
    entries = call("getdents64", slot(5), out("entries"), 4096)
    listed = {
        "open": (CWD, b"vault"), "link": (CWD, b"to-vault"), "below": (CWD, b"vault/sub"), "slash": (CWD, b"to-vault/"),
        "dot": (CWD, b"vault/."), "dots": (CWD, b"vault/sub/.."), "pinned": (CWD, b"/proc/self/fd/4"),
        "here": (slot(1), b"."),
        "from below": (slot(3), b".."),
    }  # fmt: skip
    made = {f"list {what}": [call("openat", *at, os.O_DIRECTORY, 0, into=5), entries] for what, at in listed.items()}
    reads = [call("openat", CWD, b"file", 0, 0, into=5), call("read", slot(5), out("text"), 99)]
    made["inside"] = [call("chdir", b"vault"), *reads]
    made["inside, pinned"] = [call("fchdir", slot(1)), *reads]
    made["inside and back"] = [call("chdir", b"vault/sub"), call("chdir", b".."), *reads]
    made["list inside"] = [call("chdir", b"to-vault"), call("openat", CWD, b".", os.O_DIRECTORY, 0, into=5), entries]
    for what, path in (("tree", b"vault"), ("subtree", b"vault/sub"), ("above", b"above"), ("above, nearer",
    b"above/below"),
                       ("slash", b"above/"), ("hidden", b"above/below/hidden")):  # fmt: skip
        made |= {
            f"rename {what}": [call("renameat", CWD, path, CWD, b"moved")],
            f"exchange {what}": [call("renameat2", CWD, path, CWD, b"other", 2)],
            f"exchange with {what}": [call("renameat2", CWD, b"other", CWD, path, 2)],
        }
    for what, path in (("tree", b"vault"), ("pinned tree", b"/proc/self/fd/4"), ("subtree", b"vault/sub")):
        made |= {
            f"mode of {what}": [call("fchmodat", CWD, path, 0o777)],
            f"times of {what}": [call("utimensat", CWD, path, words(1, 1, 1, 1), 0)],
            f"attribute of {what}": [call("setxattr", path, b"user.a", b"value", 5, 0)],
            f"watch {what}": [call("inotify_add_watch", slot(4), path, 0xFFF)],
            f"nameless file in {what}": [call("openat", CWD, path, os.O_RDWR | os.O_TMPFILE, 0o600, into=5)],
            f"made in {what}": [call("mkdirat", CWD, path + b"/new", 0o755)],
        }
    made["mode by descriptor"] = [call("fchmodat2", slot(1), b"", 0o777, EMPTY)]
    made["owner by descriptor"] = [call("fchownat", slot(1), b"", -1, -1, EMPTY)]
    made["nameless file, named"] = [
        call("openat", CWD, b".", os.O_RDWR | os.O_TMPFILE, 0o600, into=5),
        call("linkat", CWD, b"/proc/self/fd/9", CWD, b"vault/new", FOLLOW),
    ]
    made["link behind a link"] = [call("openat", CWD, b"to-new", os.O_RDWR | os.O_CREAT, 0o600, into=5)]
    made["later, by a link"] = [call("openat", CWD, b"to-later", os.O_RDWR | os.O_CREAT, 0o600, into=5)]
    made["the link"] = [call("unlinkat", CWD, b"door", 0)]
    made["the link, replaced"] = [call("renameat", CWD, b"public", CWD, b"door")]
    made["behind the link"] = [call("openat", CWD, b"behind", os.O_RDWR, 0, into=5)]
    return made


ON_LINKS = frozenset(("rename away", "exchange", "exchange 2", "whiteout", "unlink", "rename over", "old rename",
"old link",
                      "old unlink"))  # fmt: skip
"""They act on a link, not through it: that is no way to what is denied."""
LINKS = frozenset(("link", "chain", "absolute link", "through a link", "below a link", "thread", "descriptor", "dev"))


def makings(path: bytes) -> dict[str, str]:
    """What can be made at a denied place."""
    made = {
        "create": call("openat", CWD, path, os.O_CREAT | os.O_WRONLY, 0o600, into=5),
        "exclusive": call("openat", CWD, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, into=5),
        "openat2": call("openat2", CWD, path, how(os.O_CREAT | 1, 0o600), 24, into=5),
        "mkdir": call("mkdirat", CWD, path, 0o755),
        "node": call("mknodat", CWD, path, stat.S_IFREG | 0o600, 0),
        "fifo": call("mknodat", CWD, path, stat.S_IFIFO | 0o600, 0),
        "symlink": call("symlinkat", b"../public", CWD, path),
        "link": call("linkat", CWD, b"public", CWD, path, 0),
        "rename": call("renameat", CWD, b"public", CWD, path),
        "rename a tree": call("renameat", CWD, b"other", CWD, path),
        "bind": call("bind", slot(6), address(path), "="),
    }
    if exists("creat"):
        made["creat"] = call("creat", path, 0o600, into=5)
    return made


@dataclass
class Jail:
    """A place, a guest confined in it, and a bare one for a copy of it."""

    person: ordinary.Person
    place: str
    bare: Guest
    confined: Guest
    copy: str
    bare_copy: Guest
    field: str

    @property
    def top(self) -> bytes:
        return os.fsencode(self.place)

    @property
    def begin(self) -> list[str]:
        return [*OPENED, call("inotify_init1", 0, into=4), call("socket", 1, 2, 0, into=6)]

    def state(self) -> dict[str, str]:
        """What is denied, as it is now."""
        found = {}
        for path in ("secret", "vault", "later", "above", "door", "hard", "dir"):
            for name, facts in walk(f"{self.place}/{path}").items():
                found[f"{path}/{name}"] = facts
        return found

    def tried(self, scripts: dict[str, Sequence[str]]) -> dict[str, list[str]]:
        """What comes of each, confined. Raises AssertionError if anything that is denied was changed or told."""
        before = self.state()
        answers = {}
        for what, lines in scripts.items():
            answers[what] = self.confined.run([*self.begin, *lines], self.place)[len(self.begin) :]
        said = {
            what: [readable(line) for line in scripts[what]]
            for what, each in answers.items()
            if SECRET in str(each).encode()
        }
        assert self.field == "fs_protected" or not said
        after = self.state()
        changed = set(after.items()) ^ set(before.items())
        assert not changed, (changed, {what: each for what, each in answers.items() if each[0][0] != "E"})
        return answers

    def works(self, lines: Sequence[str]) -> list[str]:
        """What comes of it bare, on a copy of the place."""
        top = os.fsencode(f"{self.copy}/place")
        mine = [line.replace(self.place, f"{self.copy}/place") for line in [*self.begin, *lines]]
        try:
            made = self.bare_copy.run(tree(top), self.copy)
            assert not [each for each in made if each.startswith("E")], made
            return self.bare_copy.run(mine, f"{self.copy}/place")[len(self.begin) :]
        finally:
            clear(self.copy, self.person)


@contextlib.contextmanager
def jail(name: str, field: str = "fs_denied") -> Iterator[Jail]:
    """`field`: by which of them DENIED is closed."""
    with ordinary.at_home(name) as person:
        home = tempfile.mkdtemp(prefix="jail-", dir=person.home)
        copy, work = f"{home}/copy", f"{home}/work"
        os.mkdir(copy)
        os.mkdir(work)
        hand_over(person)
        bare, bare_copy = Guest(person, work, None), Guest(person, copy, None)
        place = f"{work}/place"
        made = bare.run(tree(os.fsencode(place)), work)
        assert not [each for each in made if each.startswith("E")], made
        fields = {
            "presets": ["system"], "fs_readable": [guest("paths")], "fs_writable": [work],
            "net_allow": [f"unix:{work}"], "net_allow_bind": [f"unix:{work}"],
            field: [f"{place}/{path}" for path in DENIED],
        }  # fmt: skip
        confined = Guest(person, work, fields)
        try:
            yield Jail(person, place, bare, confined, copy, bare_copy, field)
        finally:
            for each in (bare, bare_copy, confined):
                each.close()
