"""Guests that make path calls, bare and confined, and trees for them to work on, looked at from outside.

A `Pair` is a bare guest and a confined one of the same person. Both work on the same tree at the same place, one after
the other, so that every path in every answer has to be the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ordinary
from paths.language import CWD, call, name, readable, script
from programs.tools import guest

HOST = """
import json, sys
import sandlock
async def allow(event, box):
    return sandlock.Allow()
order = json.loads(sys.argv[1])
if order.pop("asks"):
    order["policy_fn"] = allow
same = sandlock.INHERIT
with sandlock.Sandbox(**order) as box:
    result = box.run(sys.argv[2:], stdin=same, stdout=same, stderr=same)
sys.exit(result.exit_code)
"""
ALONE = """
set -e
mount --bind "$1" "$1"
while read -r _ place _; do mount -o remount,bind,ro "$place" 2>/dev/null || true; done < /proc/self/mounts
mount -o remount,bind,rw "$1"
shift
exec setpriv --clear-groups --reuid "$1" --regid "$2" -- sh -c 'shift 2; exec "$@"' sh "$@"
"""
MANY = 50
"""Scripts with more calls are not shown as a whole."""
LONG_AGO = 1_000_000_000
PROGRAM = "/bin/paths"
"""Where the guest is in a virtual root."""
DEEP = "/".join(["up"] * 12)
"""Above the tree, in the directory that guests may write: `..` at random does not get beyond it."""


def alone(person: ordinary.Person, work: str, argv: Sequence[str]) -> list[str]:
    """The command, so that it can change nothing else. Random calls, not confined, as root: nobody wants that."""
    if os.geteuid() != 0:
        return list(argv)
    ids = [str(person.uid), str(person.gid)]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ALONE, "sh", work, *ids, *argv]


class Guest:
    """A running guest. `fields` is its policy, or None for one that is not confined."""

    def __init__(self, person: ordinary.Person, work: str, fields: dict[str, Any] | None, asks: bool = False) -> None:
        argv = [guest("paths"), "bare"]
        if fields is not None:
            order = json.dumps({**fields, "asks": asks})
            program = PROGRAM if "chroot" in fields else guest("paths")
            argv = [person.python, "-c", HOST, order, program, "confined"]
        self._process = subprocess.Popen(
            alone(person, work, argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=person.environment(),
            cwd="/",
            start_new_session=True,
        )

    def run(self, lines: Sequence[str], directory: str) -> list[str]:
        """What it says about each call. Raises AssertionError if it could not make them all."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(script(lines, directory))
        stdin.flush()
        answers: list[str] = []
        pid = ""
        while True:
            answer = stdout.readline().decode("latin-1").rstrip("\n")
            assert answer, f"the guest has ended: {self._process.wait()}; it said {answers}"
            if answer.startswith("pid "):
                pid = answer[4:]
            elif answer.startswith("end "):
                assert answer == "end 0", (answer, answers)
                assert len(answers) == len(lines), (answers, len(lines))
                return answers
            else:
                answers.append(answer.replace(f"/{pid}", "/PID"))

    def close(self) -> None:
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()
        assert self._process.wait(10) == 0


# ---- trees


def shut_to_us(status: os.stat_result) -> bool:
    """Whether its owner, who is not root, could not look into it."""
    wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
    return bool(
        os.geteuid()
        and (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode))
        and status.st_mode & wanted != wanted
    )


def walk(top: str) -> dict[str, str]:
    """What can be seen of a tree from outside: kinds, modes, owners, links, sizes, contents, targets, times if set."""
    found = {}

    def look(path: bytes, name: bytes) -> None:
        status = os.lstat(path)
        facts = [f"{status.st_mode:o}", str(status.st_nlink), f"{status.st_uid}:{status.st_gid}"]
        facts += [f"{kind}={ns}" for kind, ns in (("a", status.st_atime_ns), ("m", status.st_mtime_ns))
                  if ns < LONG_AGO * 10**9]  # fmt: skip
        if stat.S_ISLNK(status.st_mode):
            facts.append(repr(os.readlink(path)))
        opened = shut_to_us(status)
        if opened:
            os.chmod(path, 0o700)
        if not stat.S_ISLNK(status.st_mode):
            facts += [f"{each}={os.getxattr(path, each)!r}" for each in os.listxattr(path)]
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read(1 << 16)
            shown = repr(content) if len(content) < 60 else hashlib.sha256(content).hexdigest()[:12]
            facts += [str(status.st_size), shown]
        found[os.fsdecode(name)] = " ".join(facts)
        if stat.S_ISDIR(status.st_mode):
            for entry in sorted(os.listdir(path)):
                look(path + b"/" + entry, name + b"/" + entry)
        if opened:
            os.chmod(path, stat.S_IMODE(status.st_mode))

    if os.path.lexists(top):
        look(os.fsencode(top), b".")
    return found


def clear(room: str, person: ordinary.Person) -> None:
    """Empty a directory, whatever the modes of what is in it, and make it as new."""
    top = os.fsencode(room)
    if os.geteuid():
        for folder, folders, _ in os.walk(top):
            os.chmod(folder, 0o700)
            for name in folders:
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), 0o700)
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    os.chown(top, person.uid, person.gid)
    os.chmod(top, 0o755)
    os.utime(top)
    for each in os.listxattr(top):
        os.removexattr(top, each)


OUTSIDE = re.compile(r" [peu]/(/|proc/self/root|proc/self/status|proc/self/exe|etc/passwd|none|dev/null)? ")
OWN_LINK = re.compile(r"^\d+ (-100 )?[pe]/(proc/(thread-)?self/(cwd|exe|fd/\d+)|dev/fd/\d+) ")
OBJECT = re.compile(r" object=\d+$")
PROC = re.compile(r" [peu]/(proc|dev)/")


def elsewhere(line: str, bare: str, inside: str, mode: str) -> bool:
    """Whether that is because of the grants, which know nothing of most of the file system, and allow no changes of
    /proc and /dev; or because a virtual root is another one."""
    if OUTSIDE.search(f"{line} "):
        return mode == "chroot" or inside in ("EACCES", "EXDEV", "EROFS")
    if mode == "chroot" and OBJECT.sub("", bare) == OBJECT.sub("", inside):
        return True  # its root is another object, so they are counted in another way
    if name(line) in OF_LINKS and OWN_LINK.match(f"{line} ") and inside == "EACCES":
        return True  # a link of /proc that is the caller's own, and may be given to itself
    refused = ("EACCES", "EXDEV", "ENOENT") if mode == "chroot" else ("EACCES", "EXDEV")
    return bool(PROC.search(line)) and bare.startswith("E") and inside in refused


KNOWN = {
    *(("bind", other, "EADDRINUSE") for other in ("ENOTDIR", "ENOENT", "ELOOP", "EACCES")),  # whatever/
    ("connect", "EACCES", "ECONNREFUSED"),  # neither a socket nor writable
    ("removexattrat", "EBADF", "ENODATA"),  # the working directory, by an empty path
    ("listxattrat", "EBADF", "0 "),
}
"""Another errno for what fails anyway."""
OPENS = frozenset(("open", "openat", "openat2", "creat"))
MADE_BELOW = re.compile(r" [pe]\S*/\.? ")
OF_LINKS = frozenset(("lchown", "fchownat", "utimensat", "lsetxattr", "lremovexattr"))
TWO = frozenset(("rename", "renameat", "renameat2", "link", "linkat"))


def known(line: str, bare: str, inside: str) -> bool:
    """Whether it fails for another of its faults: names are read before they are followed; or as is known."""
    if bare.startswith("E") and (inside == "ENAMETOOLONG" or (name(line) in TWO and inside == "EFAULT")):
        return True
    if (
        name(line) in OPENS
        and MADE_BELOW.search(line)
        and {bare, inside} <= {"EISDIR", "ENOTDIR", "EEXIST", "ENOENT", "ELOOP"}
    ):
        return True  # O_CREAT and whatever/
    if name(line) == "openat2" and " p.. " in line and inside == "EXDEV":
        return True  # RESOLVE_NO_XDEV, in a virtual root
    return (name(line), bare, inside) in KNOWN


@dataclass
class Outcome:
    """What came of a script: the answers, and the tree after it."""

    lines: Sequence[str]
    answers: list[str]
    tree: dict[str, str]

    def differences(self, other: Outcome, mode: str) -> str:
        """For people: what is not the same in the other one. Empty if nothing is."""
        found = []
        for line, one, two in zip(self.lines, self.answers, other.answers, strict=True):
            if one != two and not elsewhere(line, one, two, mode) and not known(line, one, two):
                found.append(f"  {readable(line)}\n    bare:   {one}\n    inside: {two}")
        for path in sorted({*self.tree, *other.tree}):
            one, two = self.tree.get(path, "nothing"), other.tree.get(path, "nothing")
            if one != two:
                found.append(f"  afterwards {path!a}\n    bare:   {one}\n    inside: {two}")
        if not found:
            return ""
        if len(self.lines) > MANY:
            return "\n".join(["not as bare:", *found])
        calls = "\n".join(
            f"  {readable(line)}  ->  {answer}" for line, answer in zip(self.lines, self.answers, strict=True)
        )
        return "\n".join(["not as bare:", *found, "the calls, bare:", calls])


def moved(line: str, work: str, real: str) -> str:
    """The same line where a directory is at another place; what a link says it still says."""
    if name(line) != "symlinkat":
        return line.replace(work, real)
    number, target, *rest = line.split(" ")
    return " ".join([number, target, *(word.replace(work, real) for word in rest)])


@dataclass
class Pair:
    """A bare guest and a confined one, and the directory that both work in."""

    person: ordinary.Person
    mode: str
    bare: Guest
    confined: Guest
    work: str
    inside: str
    """Where the directory of the confined one really is: the same, if its paths are real ones."""

    @property
    def tree(self) -> str:
        return f"{self.work}/{DEEP}/tree"

    def outcome(self, who: Guest, setup: Sequence[str], lines: Sequence[str], real: str) -> Outcome:
        folders = [real, *DEEP.split("/")]
        above = [call("mkdirat", CWD, "/".join(folders[: i + 1]).encode(), 0o755) for i in range(1, len(folders))]
        made = [*above, *(moved(line, self.work, real) for line in setup)]
        answers = self.bare.run(made, real)
        bad = [f"{readable(line)} -> {answer}" for line, answer in zip(made, answers, strict=True) if answer[0] == "E"]
        assert not bad, bad
        try:
            return Outcome(lines, who.run(lines, self.tree), walk(real))
        finally:
            clear(real, self.person)

    def compare(self, setup: Sequence[str], lines: Sequence[str]) -> tuple[Outcome, Outcome]:
        """The same calls bare and confined, each on a new tree that the calls `setup` have made in `work`."""
        bare = self.outcome(self.bare, setup, lines, self.work)
        return bare, self.outcome(self.confined, setup, lines, self.inside)

    def same(self, setup: Sequence[str], lines: Sequence[str]) -> Outcome:
        """Demands the same of both, and returns it."""
        bare, confined = self.compare(setup, lines)
        different = bare.differences(confined, self.mode)
        assert not different, different
        return bare


def hand_over(person: ordinary.Person) -> None:
    """All that is in their home, to them."""
    for folder, _, files in os.walk(person.home):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(path, person.uid, person.gid, follow_symlinks=False)


@contextlib.contextmanager
def pair(name: str, mode: str) -> Iterator[Pair]:
    """A pair for this person, `root` or `ordinary`, and one of `MODES`."""
    with ordinary.at_home(name) as person:
        place = tempfile.mkdtemp(prefix="paths-", dir=person.home)
        work, elsewhere, root = f"{place}/work", f"{place}/elsewhere", f"{place}/root"
        inside = f"{root}{work}" if mode == "chroot" else work
        for folder in (work, elsewhere, f"{root}{work}", *(f"{root}/{name}" for name in ("bin", "proc", "dev", "tmp"))):
            os.makedirs(folder, exist_ok=True)
        shutil.copy(guest("paths", "-static"), root + PROGRAM)
        hand_over(person)
        fields: dict[str, Any] = {
            "fs_writable": [work], "net_allow": [f"unix:{work}"], "net_allow_bind": [f"unix:{work}"], **MODES[mode],
        }  # fmt: skip
        if "fs_denied" in fields:
            fields["fs_denied"] = [elsewhere]
        fields |= {"chroot": root, "fs_readable": ["/"]} if mode == "chroot" else {
            "presets": ["system"], "fs_readable": [guest("paths")]
        }  # fmt: skip
        bare = Guest(person, place, None)
        confined = Guest(person, place, fields, asks="ask_opens" in fields)
        try:
            yield Pair(person, mode, bare, confined, work, inside)
        finally:
            bare.close()
            confined.close()


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "asked": {"ask_opens": "all"},
    "denied": {"fs_denied": []},
    "chroot": {},
}
"""What makes the supervisor do the calls, without forbidding any; without an option: what changes metadata."""
