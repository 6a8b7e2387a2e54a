"""What a policy's paths are on this machine at the start of a run: real paths, by every name that mounts give them, and
the identities of what is denied.

Rules: looks at the file system, changes nothing. What does not exist yet is known by its path.
"""

from __future__ import annotations

import os
from os import fsencode

from ._path_table import PathRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .presets import Grant

__all__ = ["path_rules"]

READ, WRITE, EXECUTE, DEVICE = 1, 2, 4, 8  # _path_table.pxd: enum Want
ACCESS = {"read": READ | EXECUTE, "data": READ, "write": READ | WRITE | EXECUTE, "device": READ | DEVICE}
MAX_ENTRIES = 10_000
"""So many entries of a denied tree are looked at for files that have other names elsewhere."""


def path_rules(
    denied: Iterable[str], grants: Iterable[Grant], *, narrow: bool = False, hides: bool = False
) -> PathRules:
    """What the supervisor judges path calls by."""
    paths: dict[bytes, int] = {}
    identities: dict[tuple[int, int], int] = {}
    mounts = _mounts() if denied else []
    for number, text in enumerate(denied):
        for path in _spellings(fsencode(text)):
            for name in (path, *_aliases(path, mounts)):
                paths.setdefault(name, number)
            for identity in _identities(path):
                identities.setdefault(identity, number)
    return PathRules(
        denied=list(paths.items()),
        identities=[(device, inode, number) for (device, inode), number in identities.items()],
        # What may be read, and executed, is for Landlock to say, but where less is granted than it was told.
        grants=[
            (os.path.realpath(fsencode(grant.path)), ACCESS[grant.kind])
            for grant in grants
            if narrow or hides or grant.kind == "write"
        ],
        narrow=narrow,
        hides=hides,
    )


def _spellings(path: bytes) -> set[bytes]:
    """The object that a path leads to, and the last link on the way to it."""
    parent, name = os.path.split(path.rstrip(b"/"))
    return {os.path.realpath(path), os.path.join(os.path.realpath(parent), name)}


def _identities(path: bytes) -> Iterable[tuple[int, int]]:
    """Of what is there now, and of files in it that have other names."""
    try:
        facts = os.lstat(path)
    except OSError:
        return
    yield _identity(facts)
    pending, left = [path], MAX_ENTRIES
    while pending and left > 0:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    left -= 1
                    facts = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif facts.st_nlink > 1:
                        yield _identity(facts)
                    if left <= 0:
                        break
        except OSError:  # no directory, or none that this user may read: then nor may the program
            continue


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return os.major(facts.st_dev) << 32 | os.minor(facts.st_dev), facts.st_ino


def _mounts() -> list[tuple[bytes, bytes, bytes]]:
    """(device, path within its file system, mount point) of every mount: proc_pid_mountinfo(5)."""
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


def _aliases(path: bytes, mounts: list[tuple[bytes, bytes, bytes]]) -> Iterable[bytes]:
    """Where else the same is mounted, or a part of it, or what it is a part of."""
    owner = max((mount for mount in mounts if _below(path, mount[2])), key=lambda mount: len(mount[2]), default=None)
    if owner is None:
        return
    device, root, point = owner
    inside = root + path[len(point) :]
    for other, top, place in mounts:
        if other != device or (top, place) == (root, point):
            continue
        if _below(inside, top):
            yield place + inside[len(top) :]
        elif _below(top, inside):
            yield place


def _below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")
