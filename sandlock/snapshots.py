"""Snapshots: a workspace as a tar archive, and back.

Rules: an archive is untrusted, for a program may have made it: what leads out of the workspace, devices, and what is
larger than was agreed on, as it says or as it is written, are refused; owners, set-user-ID bits and times are not
restored. Links are kept as they are and never followed, neither those of the archive nor those that are where it is
brought to. Members are sorted, so that the same workspace gives the same bytes. No file is held in memory.
"""

from __future__ import annotations

import errno
import os
import tarfile
from typing import TYPE_CHECKING

from .files import FileError, Files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Self

    from .files import Entry

__all__ = ["restore", "snapshot"]

MAX_BYTES = 4 * 2**30
MAX_MEMBERS = 200_000
MAX_HEADER = 2**20
"""Bytes of a header that goes on in a block of its own: tarfile reads it whole."""
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
PERMISSIONS = 0o777
LEFT_OUT = (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
"""Of a directory: denied, or something else since."""


def snapshot(files: Files, target: IO[bytes], *, max_bytes: int = MAX_BYTES) -> int:
    """Writes all regular files, directories and links as a tar archive, and returns how many members it has.

    What is denied, sockets, FIFOs and what vanishes meanwhile are left out. Raises FileError: too large (EFBIG).
    """
    count = size = 0
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for entry in sorted(_found(files), key=lambda entry: entry.path):
            member = _member(entry)
            if member is None:
                continue
            if entry.kind != "file":
                archive.addfile(member)
            else:
                try:
                    content = files.open(entry.path)
                except FileError:
                    continue
                with content:
                    member.size = os.fstat(content.fileno()).st_size
                    size += member.size
                    if size > max_bytes:
                        raise FileError(errno.EFBIG, f"snapshot {entry.path!r}: EFBIG (more than {max_bytes} bytes)")
                    archive.addfile(member, _Exact(content, member.size))  # type: ignore[arg-type]
            count += 1
    return count


def _found(files: Files) -> Iterator[Entry]:
    """As Files.walk, without the directories that are denied, or gone since."""
    waiting, count = ["."], 0
    while waiting:
        path = waiting.pop()
        try:
            found = files.list(path)
        except FileError as error:
            if path == "." or error.errno not in LEFT_OUT:
                raise
            continue
        count += len(found)
        if count > MAX_MEMBERS:
            raise FileError(errno.EFBIG, f"snapshot: EFBIG (more than {MAX_MEMBERS} files)")
        yield from found
        waiting += [each.path for each in found if each.kind == "directory"]


class _Exact:
    """A file that has as many bytes as its header says, though a program cuts it meanwhile."""

    def __init__(self, content: IO[bytes], size: int) -> None:
        self._content, self._left = content, size

    def read(self, size: int) -> bytes:
        """The next bytes; where there are none any more, zeros."""
        wanted = min(size, self._left)
        self._left -= wanted
        return self._content.read(wanted).ljust(wanted, b"\0")


def restore(files: Files, source: IO[bytes], *, max_bytes: int = MAX_BYTES) -> int:
    """Brings the members of a tar archive into the workspace, over what is there, and returns how many they were.

    Raises FileError: a member leads out of the workspace, is a device, or it is too much; what came before it is there.
    """
    count = size = 0
    modes: list[tuple[str, int]] = []
    try:
        with (
            files.without_links() as files,
            tarfile.open(fileobj=source, mode="r|*", tarinfo=_Header) as archive,
        ):
            for member in archive:
                count += 1
                if count > MAX_MEMBERS or not 0 <= member.size <= max_bytes - size:
                    raise _refused(member.name, errno.EFBIG, "the archive holds too much")
                size += _bring(files, archive, member, max_bytes - size)
                if member.isdir():  # one without permissions of its own could not be filled
                    modes.append((member.name, member.mode & PERMISSIONS))
            for name, mode in reversed(modes):
                files.set_mode(_inside(name), mode)
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError, RecursionError) as error:  # whatever it is made of
        raise _refused("the archive", errno.EBADMSG, str(error)) from error
    return count


class _Header(tarfile.TarInfo):
    """A member's header, but for those by which a few bytes would become any amount of memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """See TarInfo. Raises HeaderError."""
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in EXTENDED and found.size > MAX_HEADER):
            raise tarfile.HeaderError(f"a header says that it has {found.size} bytes")
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.HeaderError("sparse files are not brought back")
        return found

    def _proc_gnusparse_10(self, *arguments: object) -> None:
        """Those of PAX, with a map of any length."""
        raise tarfile.HeaderError("sparse files are not brought back")


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


def _bring(files: Files, archive: tarfile.TarFile, member: tarfile.TarInfo, room: int) -> int:
    """Returns how many bytes of content were written."""
    name = _inside(member.name)
    if name == ".":
        return 0
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
        size = files.write_from(name, content, max_bytes=room)
        files.set_mode(name, member.mode & PERMISSIONS)
        return size
    elif member.islnk():
        with files.open(_inside(member.linkname)) as content:
            files.remove(name, missing_ok=True)
            return files.write_from(name, content, max_bytes=room)
    else:
        raise _refused(name, errno.EPERM, "it is a device, or of an unknown kind")
    return 0


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
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise _refused(name, errno.EXDEV, "it leads out of the workspace")
    return os.path.normpath(name) if name else "."


def _refused(name: str, number: int, why: str) -> FileError:
    return FileError(number, f"restore {name!r}: {errno.errorcode[number]} ({why})")
