"""What a policy's paths are on this machine at the start of a run: real paths, by every name that links and mounts give
them, and the identities of what is denied.

Rules: looks at the file system, changes nothing. What does not exist yet is known by its path.
"""

from __future__ import annotations

import os
from os import fsencode

from ._path_table import PathRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .presets import Grant

    Identity = tuple[int, int]
    """Device (major << 32 | minor) and inode."""
    Mount = tuple[bytes, bytes, bytes]
    """Device, path within its file system, mount point."""

__all__ = ["ACCESS", "covered", "linked_files", "names_of", "path_rules"]

READ, WRITE, EXECUTE, DEVICE = 1, 2, 4, 8  # _path_table.pxd: enum Want
ACCESS = {"read": READ | EXECUTE, "data": READ, "write": READ | WRITE | EXECUTE, "device": READ | DEVICE}
PROTECTED = READ | EXECUTE
"""What may be done to what is protected."""
MAX_ENTRIES = 50_000
"""So many entries of a denied tree are looked at for files that have other names elsewhere."""
MAX_LINKS = 40  # as the kernel: path_resolution(7)


def path_rules(
    rules: Sequence[tuple[str, str]],
    grants: Iterable[Grant],
    shown: Iterable[bytes] = (),
    *,
    narrow: bool = False,
    hides: bool = False,
    known: dict[bytes, list[Identity]] | None = None,
    spell: Callable[[bytes], list[bytes]] | None = None,
) -> PathRules:
    """What the supervisor judges path calls by. `rules`: field and path of what is denied or protected, by number.
    `grants`: on real paths, as the kernel has them; a link that is there now is not followed. `shown`: names of what is
    granted. `known`: what was found before in denied trees, and is added to. `spell`: the names of a denied path, as
    `names_of` has them, in a virtual root."""
    paths: dict[bytes, int] = {}
    identities: dict[Identity, int] = {}
    known = {} if known is None else known
    allowed = [PROTECTED if field == "fs_protected" else 0 for field, _ in rules]
    mounts = _mounts() if rules else []
    # of two rules about the same thing the one that denies more counts
    for number in sorted(range(len(rules)), key=allowed.__getitem__):
        text = rules[number][1]
        names = (spell or names_of)(fsencode(text))
        for name in names:
            for alias in (name, *_aliases(name, mounts)):
                paths.setdefault(alias, number)
            for identity in _identity_of(name):
                identities.setdefault(identity, number)
        if names[-1] not in known:
            known[names[-1]] = linked_files(names[-1])
        for identity in known[names[-1]]:
            identities.setdefault(identity, number)
    return PathRules(
        [(path, allowed[number], number) for path, number in paths.items()],
        identities=sorted((inode, device, allowed[number], number) for (device, inode), number in identities.items()),
        # What may be read, and executed, is for Landlock to say, but where less is granted than it was told.
        grants=[
            (fsencode(grant.path), ACCESS[grant.kind]) for grant in grants if narrow or hides or grant.kind == "write"
        ],
        shown=list(shown),
        narrow=narrow,
        hides=hides,
    )


def covered(grants: Iterable[Grant], path: str) -> int:
    """What these grants are good for at a path, as a sum of ACCESS; all paths are real ones."""
    found = 0
    for grant in grants:
        if _below(fsencode(path), fsencode(grant.path).rstrip(b"/")):
            found |= ACCESS[grant.kind]
    return found


def shown_names(
    named: Iterable[Grant], granted: Iterable[Grant], spell: Callable[[bytes], list[bytes]] | None = None
) -> list[bytes]:
    """The names by which what is granted is reached, if it is there: `named` as written, `granted` on real paths.
    `spell`: see `path_rules`."""
    real = {fsencode(grant.path) for grant in granted}
    found = ((spell or names_of)(fsencode(grant.path)) for grant in named)
    return [name for names in found if names[-1] in real for name in names if os.path.lexists(name)]


# --- names --------------------------------------------------------------------------------------------------


def names_of(path: bytes) -> list[bytes]:
    """By what names a path is reached: with each link on the way as it is spelled, and last without any. Whoever could
    replace a link, or a directory that is left by "..", would decide where the path leads: these have a name here that
    lies below them."""
    at = b""
    found: list[bytes] = []
    pending = path.split(b"/")[::-1]
    while pending and len(found) < MAX_LINKS:
        name = pending.pop()
        if name == b"..":
            found.append(at + b"/..")
            at = at.rpartition(b"/")[0]
        elif name not in (b"", b"."):
            here = at + b"/" + name
            try:
                target = os.readlink(here)
            except OSError:
                at = here
                continue
            found.append(os.path.normpath(b"/".join([here, *pending[::-1]])))
            at = b"" if target.startswith(b"/") else at
            pending += target.split(b"/")[::-1]
    return [*dict.fromkeys(found), at or b"/"]


def _identity_of(path: bytes) -> Iterable[Identity]:
    if path.endswith(b"/.."):  # only there to be held
        return
    try:
        yield _identity(os.lstat(path))
    except OSError:
        return


def _identity(facts: os.stat_result) -> Identity:
    return os.major(facts.st_dev) << 32 | os.minor(facts.st_dev), facts.st_ino


def linked_files(path: bytes) -> list[Identity]:
    """Of the files below a path that have more names than one."""
    found: list[Identity] = []
    pending, left = [path], MAX_ENTRIES
    while pending and left > 0:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif (facts := entry.stat(follow_symlinks=False)).st_nlink > 1:
                        found.append(_identity(facts))
                    if left <= 0:
                        break
        except OSError:  # no directory, or none that this user may read: then nor may the program
            continue
    return found


# --- mounts -------------------------------------------------------------------------------------------------


def _mounts() -> list[Mount]:
    """Every mount, those that lie on top of others behind them: proc_pid_mountinfo(5)."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            fields = line.split()
            found.append((fields[2], _plain(fields[3]), _plain(fields[4])))
    return found


def _plain(text: bytes) -> bytes:
    for code, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(code, byte)
    return text.rstrip(b"/")


def _aliases(path: bytes, mounts: list[Mount]) -> Iterable[bytes]:
    """Where else the same is mounted, or a part of it, or what it is a part of; and where else that is mounted whose
    first mount is below it. What comes from elsewhere and is mounted below it stays where it comes from."""
    path = path.rstrip(b"/")
    owner = None
    for mount in mounts:  # of two on the same place the later one is seen
        if _below(path, mount[2]) and (owner is None or len(mount[2]) >= len(owner[2])):
            owner = mount
    if owner is not None:
        yield from _places(owner, owner[1] + path[len(owner[2]) :], mounts)
    homes: set[bytes] = set()
    for mount in mounts:
        if mount[0] not in homes and _below(mount[2], path) and mount is not owner:
            yield from _places(mount, mount[1], mounts)
        homes.add(mount[0])


def _places(owner: Mount, inside: bytes, mounts: list[Mount]) -> Iterable[bytes]:
    """Where mounts show what `owner` has at this path of its file system, or a part of that."""
    for mount in mounts:
        device, top, place = mount
        if device != owner[0] or mount is owner:
            continue
        if _below(inside, top):
            yield place + inside[len(top) :]
        elif _below(top, inside):
            yield place


def _below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")
