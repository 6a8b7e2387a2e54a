"""From what a program did to rules that allow it: which files become which grants, which calls which rules.

Rules: values in, values out; nothing here looks at a file system. The same observations make the same rules, in the
same order. A rule is never wider than its reason, which stands beside it, and a secret is in none of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .._record import field, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["DEFAULT_AT_LEAST", "Covering", "LeftOut", "Limits", "Proposal", "Touch", "is_random", "read_grants",
           "write_grants"]  # fmt: skip

DEFAULT_AT_LEAST = 4
"""So many entries of a directory have to be touched until the directory stands for them."""
MAX_DEPTH = 64
"""Components of a path; what lies deeper is taken for its directory of that depth."""

# Directories that stand for nothing in particular: what lies in them has nothing in common but the place.
NEVER = frozenset(
    f"/{name}"
    for name in (
        *("", "home", "root", "etc", "var", "tmp", "usr", "opt", "srv", "mnt", "media", "run", "proc", "sys", "dev"),
        *("boot", "bin", "sbin", "lib", "lib64", "run/user", "usr/local", "dev/shm", "etc/ssl", "etc/ssh"),
        *("var/cache", "var/lib", "var/log", "var/run", "var/spool", "var/tmp"),
    )
)
# The same in a home directory.
NEVER_AT_HOME = ("", ".config", ".local", ".local/share", ".local/state", ".cache")
RANDOM = (
    (re.compile(r"\.?tmp[-_.]?[a-zA-Z0-9_]{6,}"), "a temporary name"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "a UUID"),
    (re.compile(r"(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{12,}"), "a hash"),
    (re.compile(r"\d{5,}"), "a number"),
    (re.compile(r".+[-._]\d{5,}"), "a name with a process id"),
    (re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_]{6,12}"), "a random name"),
    (re.compile(r".*\.[A-Za-z0-9]*(?:[A-Z][0-9a-z]|[0-9a-z][A-Z])[A-Za-z0-9]{4,}"), "a random ending"),
)


@record
class Touch:
    """What was done to one path."""

    path: str
    """The real one, without links."""
    reads: bool = False
    lists: bool = False
    """The directory was opened."""
    writes: bool = False
    creates: bool = False
    """The name is new; or was."""
    removes: bool = False
    changes: bool = False
    """Its mode, owner, times or attributes were changed."""
    executes: bool = False
    program: str = ""
    """Who did so first."""


@record
class Limits:
    """What bounds generalising: the places that are never granted whole, and how a path is."""

    home: str
    workspace: str
    temporary: str = ""
    """The private directory for temporary files; "" for none."""
    secrets: tuple[str, ...] = ()
    """Files and directories that no rule may grant."""
    writable: tuple[str, ...] = ()
    """Where writing was allowed; nothing is granted for writing above."""
    at_least: int = DEFAULT_AT_LEAST
    kind_of: Callable[[str], str] = field(repr=False, default=lambda path: "file")
    """ "file", "directory", or "" for what is not there (any more)."""

    def why_not(self, directory: str) -> str:
        """Why this directory is never granted whole; "" if it may be."""
        inside = any(is_below(directory, secret) for secret in self.secrets)
        if inside or (directory != self.workspace and any(is_below(each, directory) for each in self.secrets)):
            return "a secret is in it"
        if is_below(directory, self.workspace):
            return ""
        if is_below(self.home, directory) or is_below(self.workspace, directory):
            return "too much is below it"
        at_home = directory[len(self.home) :].strip("/") if is_below(directory, self.home) else None
        if at_home in NEVER_AT_HOME or directory in NEVER or directory.count("/") < 2:
            return "too much is below it"
        return "it is somebody's home" if directory.startswith("/home/") and directory.count("/") == 2 else ""

    def holds_secret(self, path: str) -> bool:
        """Whether this is a secret."""
        return any(is_below(path, secret) for secret in self.secrets)


@record
class Proposal:
    """A grant of one path, and its reason."""

    kind: str
    """ "read" (and execute), "data" or "write"."""
    path: str
    count: int
    """How many paths it is for."""
    example: str
    """One of them."""
    why: str
    program: str = ""


@record
class LeftOut:
    """What no rule was made for, and why."""

    what: str
    why: str
    count: int = 1
    program: str = ""


@record(kw_only=False)
class Covering:
    """Paths that are granted anyway, by kind: those of presets, or of a profile that exists."""

    grants: tuple[tuple[str, str], ...] = ()
    """(real path, kind) with the kinds of presets: read, data, write, device."""

    def covers(self, touch: Touch) -> bool:
        """Whether all that was done to this path is allowed."""
        kinds = {kind for path, kind in self.grants if is_below(touch.path, path)}
        around = {kind for path, kind in self.grants if is_below(parent(touch.path), path)}
        reads = kinds & ({"read", "write"} if touch.executes else {"read", "data", "write", "device"})
        if (touch.reads or touch.lists or touch.executes) and not reads:
            return False
        if (touch.creates or touch.removes) and "write" not in around:
            return False
        return not (touch.writes or touch.changes) or bool(kinds & {"write", "device"})


def is_below(path: str, directory: str) -> bool:
    """Whether a path is this directory or in it, by components."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def parent(path: str) -> str:
    """The directory of a path; "/" for that of "/"."""
    return path.rpartition("/")[0] or "/"


def is_random(name: str) -> str:
    """What a name looks like that will be another one next time; "" for a name that stays (versions do)."""
    return next((what for pattern, what in RANDOM if pattern.fullmatch(name)), "")


def settled(path: str) -> tuple[str, str]:
    """The longest beginning of a path that will be there next time, and why it is not all of it ("" if it is)."""
    parts = path.split("/")
    for number, part in enumerate(parts):
        what = is_random(part)
        if what:
            return "/".join(parts[:number]) or "/", f"{part!r} is {what}"
        if number == MAX_DEPTH:
            return "/".join(parts[:number]), "it lies very deep"
    return path, ""


# Reading -------------------------------------------------------------------------------------------------------------


class _Node:
    """A directory, or a file, on the way to what was touched."""

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.touch: Touch | None = None
        self.whole = ""
        """Why all of this directory is wanted: it was listed, or holds random names."""
        self.example = ""


def read_grants(touches: Iterable[Touch], covering: Covering, limits: Limits) -> tuple[list[Proposal], list[LeftOut]]:
    """Grants for what was read, listed and executed, where nothing covers it yet."""
    top, left = _Node(), []
    for touch in sorted(touches, key=lambda each: each.path):
        reading = Touch(
            path=touch.path, reads=touch.reads, lists=touch.lists, executes=touch.executes, program=touch.program
        )
        if not (touch.reads or touch.lists or touch.executes) or covering.covers(reading):
            continue
        if limits.temporary and is_below(touch.path, limits.temporary):
            continue
        if limits.holds_secret(touch.path):
            left.append(LeftOut(what=touch.path, why="it is a secret", program=touch.program))
        else:
            _put(top, reading, limits, left)
    found = _visit("", top, limits, left)
    return _without_covered(found), left


def _put(top: _Node, touch: Touch, limits: Limits, left: list[LeftOut]) -> None:
    path, why = settled(touch.path)
    if not why and not limits.kind_of(touch.path):
        left.append(LeftOut(what=touch.path, why="it is gone, and a grant needs a file", program=touch.program))
        return
    node = top
    for part in path.strip("/").split("/"):
        node = node.children.setdefault(part, _Node()) if part else node
    node.touch = node.touch or touch
    if why:
        node.whole, node.example = node.whole or why, node.example or touch.path
    elif touch.lists:
        node.whole, node.example = node.whole or "it was listed", node.example or touch.path
    elif touch.executes and node.touch is not touch:
        node.touch = touch


def _visit(path: str, node: _Node, limits: Limits, left: list[LeftOut]) -> list[Proposal]:
    below = [
        each for name, child in sorted(node.children.items()) for each in _visit(f"{path}/{name}", child, limits, left)
    ]
    touched = len({each.path[len(path) + 1 :].partition("/")[0] for each in below})
    program = node.touch.program if node.touch else next((each.program for each in below), "")
    why = node.whole or (f"{touched} of its entries" if touched >= limits.at_least else "")
    if why:
        here = path or "/"
        refused = limits.why_not(here)
        if not refused:
            count = sum(each.count for each in below) or 1
            example = node.example if not below else below[0].example
            whole = Proposal(kind="data", path=here, count=count, example=example, why=why, program=program)
            return [whole, *(each for each in below if each.kind == "read")]
        if node.whole:
            left.append(LeftOut(what=node.example or here, why=f"{here} is never granted: {refused}", program=program))
        return below
    if node.touch is None:
        return below
    kind = "read" if node.touch.executes else "data"
    why = "executed" if node.touch.executes else "read"
    return [Proposal(kind=kind, path=path, count=1, example=path, why=why, program=program), *below]


def _without_covered(found: Iterable[Proposal]) -> list[Proposal]:
    """Without those that another one covers."""
    kept: list[Proposal] = []
    for each in sorted(found, key=lambda one: (one.path, one.kind != "write", one.kind != "read")):
        stronger = {"data": ("data", "read", "write"), "read": ("read", "write"), "write": ("write",)}[each.kind]
        if not any(is_below(each.path, other.path) and other.kind in stronger for other in kept):
            kept.append(each)
    return kept


# Writing -------------------------------------------------------------------------------------------------------------


def write_grants(touches: Iterable[Touch], covering: Covering, limits: Limits) -> tuple[list[Proposal], list[LeftOut]]:
    """Grants for what was written, made, removed and changed. To make or remove a name its directory is granted."""
    touches = sorted(touches, key=lambda each: each.path)
    made = {each.path for each in touches if each.creates}
    wanted: dict[str, Proposal] = {}
    left: list[LeftOut] = []
    for touch in touches:
        if not (touch.writes or touch.creates or touch.removes or touch.changes):
            continue
        writing = Touch(
            path=touch.path, writes=touch.writes, creates=touch.creates, removes=touch.removes, changes=touch.changes
        )
        if covering.covers(writing) or (limits.temporary and is_below(touch.path, limits.temporary)):
            continue
        place, why = _place_of(touch, made, limits)
        if not any(is_below(place, root) for root in limits.writable):
            left.append(LeftOut(what=touch.path, why=f"{place} is above where writing was allowed"))
            continue
        known = wanted.get(place)
        count = 1 if known is None else known.count + 1
        example = touch.path if known is None else known.example
        why = why if known is None else known.why
        wanted[place] = Proposal(kind="write", path=place, count=count, example=example, why=why, program=touch.program)
    return _fewer(_without_covered(wanted.values()), limits), left


def _place_of(touch: Touch, made: set[str], limits: Limits) -> tuple[str, str]:
    """What has to be granted for writing, and why."""
    names = touch.creates or touch.removes
    place = parent(touch.path) if names else touch.path
    why = "names are made or removed in it" if names else "written" if touch.writes else "changed"
    kept, unsettled = settled(place)
    if unsettled:
        place, why = kept, unsettled
    while place != "/" and (place in made or not limits.kind_of(place)):
        place, why = parent(place), "names are made or removed in it"
    return place, why


def _fewer(found: list[Proposal], limits: Limits) -> list[Proposal]:
    """Directories in place of so many of their entries, as far up as writing was allowed."""
    while True:
        groups: dict[str, list[Proposal]] = {}
        for each in found:
            groups.setdefault(parent(each.path), []).append(each)
        for above, members in sorted(groups.items(), key=lambda item: (-item[0].count("/"), item[0])):
            inside = any(is_below(above, root) for root in limits.writable)
            if len(members) >= limits.at_least and inside and not limits.why_not(above):
                break
        else:
            return sorted(found, key=lambda each: each.path)
        whole = Proposal(
            kind="write",
            path=above,
            count=sum(each.count for each in members),
            example=members[0].example,
            why=f"{len(members)} of its entries",
            program=members[0].program,
        )
        found = _without_covered([whole, *(each for each in found if each not in members)])


def covering_of(grants: Mapping[str, str]) -> Covering:
    """From paths and their kinds."""
    return Covering(tuple(sorted(grants.items())))
