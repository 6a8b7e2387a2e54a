"""Where git keeps what belongs to a workspace, if that is outside of it: worktrees, submodules, parts of a repository.

Rules: git is never executed: its configuration may name programs to run. What a `.git` file says counts
only if what it names is git metadata, is ours, and points back to this workspace.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from .._record import record
from .bounded_walk import BoundedWalk

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["GitMetadata", "find_metadata", "inner_metadata"]

MAX_BYTES = 64 * 1024
SHARED_WRITABLE = ("objects", "refs", "logs")
"""Of a repository with several worktrees: what a commit writes. Its hooks and configuration are not among them."""
INNER = ("modules", "worktrees")
"""In git metadata: the metadata of submodules and of worktrees."""


@record
class GitMetadata:
    """Paths to grant, each with the reason."""

    read: tuple[tuple[str, str], ...] = ()
    write: tuple[tuple[str, str], ...] = ()
    hosted: tuple[str, ...] = ()
    """Directories that can be written, with hooks and configuration that git outside would execute."""
    notes: tuple[str, ...] = ()


def find_metadata(workspace: str, forbidden: Iterable[str]) -> GitMetadata:
    """The metadata of the repository that `workspace`, a path without links, is of.

    `forbidden`: directories that are not to be granted as a repository: the home directory, the root.
    """
    entry = f"{workspace}/.git"
    try:
        status = os.lstat(entry)
    except OSError:
        return _above(workspace, tuple(forbidden))
    if stat.S_ISDIR(status.st_mode):
        return GitMetadata(hosted=(entry,))
    if not stat.S_ISREG(status.st_mode):
        return _refused(entry, "it is neither a directory nor a file")
    text = _read(entry)
    if not text.startswith("gitdir: "):
        return _refused(entry, 'it does not begin with "gitdir: "')
    directory = os.path.realpath(os.path.join(workspace, text.removeprefix("gitdir: ").strip()))
    if directory.startswith(f"{workspace}/"):
        return GitMetadata(hosted=(directory,))
    if not _is_ours(directory) or not os.path.isfile(f"{directory}/HEAD"):
        return _refused(entry, f"{directory} is no git metadata of yours")
    if os.path.isfile(f"{directory}/commondir"):
        return _worktree(entry, directory, tuple(forbidden))
    return _submodule(entry, workspace, directory)


def inner_metadata(workspace: str, hosted: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """What git outside reads below a workspace besides its own metadata: submodules, worktrees, other repositories.

    Directories with hooks and configuration; `.git` files and links, which lead to such; whether all was looked at.
    """
    directories: list[str] = []
    leads: list[str] = []
    walk = BoundedWalk([workspace, *(f"{place}/{name}" for place in hosted for name in INNER)])
    for entry in walk:
        is_directory = entry.is_dir(follow_symlinks=False)
        if entry.name == ".git" and not is_directory:
            leads.append(entry.path)
            walk.count_find()
        elif is_directory and (entry.name == ".git" or os.path.isfile(f"{entry.path}/HEAD")):
            directories.append(entry.path)
            walk.count_find()
            walk.add(*(f"{entry.path}/{name}" for name in INNER))
        elif is_directory:
            walk.enter(entry)
    return tuple(directories), tuple(leads), walk.complete


def _worktree(entry: str, directory: str, forbidden: tuple[str, ...]) -> GitMetadata:
    """`directory` is COMMON/worktrees/NAME, and its file `gitdir` names the `.git` file that led here."""
    common = os.path.realpath(os.path.join(directory, _read(f"{directory}/commondir").strip()))
    back = os.path.join(directory, _read(f"{directory}/gitdir").strip())
    if os.path.dirname(directory) != f"{common}/worktrees" or not _is_repository(common) or _holds(common, forbidden):
        return _refused(entry, f"{directory} is not among the worktrees of a repository")
    if not _same(back, entry):
        return _refused(entry, f"{directory} belongs to another worktree")
    write = [(directory, "what git keeps about this worktree: its index, its HEAD")]
    for name in SHARED_WRITABLE:
        place = f"{common}/{name}"
        if os.path.isdir(place) and not os.path.islink(place):
            write.append((place, "commits, branches and their history, shared with the repository's other worktrees"))
    why = "the repository of this worktree; its hooks and configuration, which git outside executes, stay as they are"
    return GitMetadata(read=((common, why),), write=tuple(write), hosted=(directory,))


def _submodule(entry: str, workspace: str, directory: str) -> GitMetadata:
    """The configuration in `directory` names the working tree that it is of."""
    tree = _configured_worktree(_read(f"{directory}/config"))
    if not _is_repository(directory) or not tree:
        return _refused(entry, f"{directory} is no repository of a submodule")
    if os.path.realpath(os.path.join(directory, tree)) != workspace:
        return _refused(entry, f"{directory} belongs to another working tree")
    return GitMetadata(write=((directory, "the repository of this submodule"),), hosted=(directory,))


def _above(workspace: str, forbidden: tuple[str, ...]) -> GitMetadata:
    """A repository that the workspace is a directory of: all of it readable, its metadata writable."""
    place = workspace
    while place != "/":
        place = os.path.dirname(place)
        if not os.path.lexists(f"{place}/.git"):
            continue
        if _holds(place, forbidden):
            return GitMetadata(notes=(f"{place} is a git repository, and not granted: it holds your home directory",))
        if not (_is_ours(place) and _is_ours(f"{place}/.git")):
            return GitMetadata(notes=(f"{place} is a git repository, and not granted: it is another user's",))
        if os.path.islink(f"{place}/.git") or not os.path.isdir(f"{place}/.git"):
            found = find_metadata(place, forbidden)
            read = (*found.read, (place, "the working tree of which the workspace is a part"))
            return found if found.notes else GitMetadata(read=read, write=found.write, hosted=found.hosted)
        if not _is_repository(f"{place}/.git"):
            return GitMetadata()
        return GitMetadata(
            read=((place, "the repository of which the workspace is a part"),),
            write=((f"{place}/.git", "what git keeps: index, commits, branches"),),
            hosted=(f"{place}/.git",),
        )
    return GitMetadata()


def _refused(entry: str, why: str) -> GitMetadata:
    return GitMetadata(notes=(f"{entry} leads to nothing that is granted: {why}",))


def _holds(place: str, forbidden: tuple[str, ...]) -> bool:
    return any(f"{each.rstrip('/')}/".startswith(f"{place.rstrip('/')}/") for each in forbidden)


def _is_repository(path: str) -> bool:
    kinds = (("HEAD", os.path.isfile), ("objects", os.path.isdir), ("refs", os.path.isdir))
    return _is_ours(path) and all(check(f"{path}/{name}") for name, check in kinds)


def _is_ours(path: str) -> bool:
    """As git itself: another user's repository is not trusted."""
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _read(path: str) -> str:
    try:
        # NONBLOCK: a FIFO must not hang us
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return os.fsdecode(os.read(descriptor, MAX_BYTES)).partition("\0")[0]
    finally:
        os.close(descriptor)


def _configured_worktree(text: str) -> str:
    """core.worktree of a git configuration, as git itself writes it."""
    section = ""
    for line in text.splitlines():
        word = line.strip()
        if word.startswith("["):
            section = word.strip("[]").lower()
        elif section == "core" and word.lower().startswith("worktree"):
            name, equals, value = word.partition("=")
            if equals and name.strip().lower() == "worktree":
                return value.strip().strip('"')
    return ""
