"""Snapshots: a workspace as a tar archive, and back.

Rules: an archive is untrusted, for a program may have made it: what leads out of the workspace, devices, and what is
larger than was agreed on are refused; owners, set-user-ID bits and times are not restored. Links are kept as they are
and never followed, neither those of the archive nor those that are where it is brought to. Members are sorted, so that
the same workspace gives the same bytes.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
from typing import TYPE_CHECKING

from .files import FileError, Files

if TYPE_CHECKING:
    from typing import IO

    from .files import Entry

__all__ = ["restore", "snapshot"]

MAX_BYTES = 4 * 2**30
MAX_MEMBERS = 200_000
PERMISSIONS = 0o777


def snapshot(files: Files, target: IO[bytes], *, max_bytes: int = MAX_BYTES) -> int:
    """Writes all regular files, directories and links as a tar archive, and returns how many members it has.

    What is denied, sockets, FIFOs and what vanishes meanwhile are left out. Raises FileError: too large (EFBIG).
    """
    count = size = 0
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for entry in sorted(files.walk(), key=lambda entry: entry.path):
            member = _member(entry)
            if member is None:
                continue
            content = None
            if entry.kind == "file":
                try:
                    content = files.read(entry.path, max_bytes=max_bytes - size)
                except FileError as error:
                    if error.errno == errno.EFBIG:
                        raise
                    continue
                member.size = len(content)
                size += len(content)
            archive.addfile(member, None if content is None else io.BytesIO(content))
            count += 1
    return count


def restore(files: Files, source: IO[bytes], *, max_bytes: int = MAX_BYTES) -> int:
    """Brings the members of a tar archive into the workspace, over what is there, and returns how many they were.

    Raises FileError: a member leads out of the workspace, is a device, or it is too much; what came before it is there.
    """
    count = size = 0
    modes: list[tuple[str, int]] = []
    try:
        with files.without_links() as files, tarfile.open(fileobj=source, mode="r|*") as archive:
            for member in archive:
                count += 1
                size += member.size
                if count > MAX_MEMBERS or size > max_bytes:
                    raise _refused(member.name, errno.EFBIG, "the archive holds too much")
                _bring(files, archive, member)
                if member.isdir():  # one without permissions of its own could not be filled
                    modes.append((member.name, member.mode & PERMISSIONS))
            for name, mode in reversed(modes):
                files.set_mode(_inside(name), mode)
    except tarfile.TarError as error:
        raise _refused("the archive", errno.EBADMSG, str(error)) from error
    return count


def _member(entry: Entry) -> tarfile.TarInfo | None:
    member = tarfile.TarInfo(entry.path)
    member.mtime = int(entry.modified)
    member.mode = entry.mode & PERMISSIONS
    if entry.kind == "directory":
        member.type = tarfile.DIRTYPE
    elif entry.kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, entry.target
    elif entry.kind != "file":
        return None
    return member


def _bring(files: Files, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = _inside(member.name)
    if name == ".":
        return
    if member.isdir():
        _make_dir(files, name)
    elif member.issym():
        files.remove(name, missing_ok=True)
        files.link(name, member.linkname)
    elif member.isreg():
        content = archive.extractfile(member)
        assert content is not None
        if files.exists(name) and files.stat(name).kind != "file":
            raise _refused(name, errno.EEXIST, "something else is there")
        files.remove(name, missing_ok=True)  # a link there must not be written through
        files.write(name, content.read())
        files.set_mode(name, member.mode & PERMISSIONS)
    elif member.islnk():
        files.remove(name, missing_ok=True)
        files.write(name, files.read(_inside(member.linkname)))
    else:
        raise _refused(name, errno.EPERM, "it is a device, or of an unknown kind")


def _make_dir(files: Files, name: str) -> None:
    """A link that has taken its place gives way."""
    try:
        files.make_dir(name)
    except FileError as error:
        if error.errno != errno.ELOOP:
            raise
        files.remove(name)
        files.make_dir(name)


def _inside(name: str) -> str:
    """The member's name as a path of the workspace; the kernel sees to it that it leads nowhere else."""
    if name.startswith("/") or ".." in name.split("/"):
        raise _refused(name, errno.EXDEV, "it leads out of the workspace")
    return os.path.normpath(name) if name else "."


def _refused(name: str, number: int, why: str) -> FileError:
    return FileError(number, f"restore {name!r}: {errno.errorcode[number]} ({why})")
