"""Files: a workspace as whoever stands outside the sandbox may touch it, although a program inside changes it.

Rules: every path is followed by the kernel from the workspace's own descriptor and may not leave it, by `..` or by a
link that a program has planted (openat2(2), RESOLVE_BENEATH); what is opened is looked at before it is used, so that
nobody waits for a FIFO. Permission bits hold for root too, as they do for its programs, which have no capabilities. No
process is started. Safe to use while programs run in the workspace.
"""

from __future__ import annotations

import copy
import errno
import os
import stat as modes
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal

from ._reach import Reach
from ._record import record
from ._removal import remove_tree
from ._sys import ffi, lib
from .errors import PolicyError, SandlockError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import IO, Self

    from ._reach import Use

__all__ = ["Entry", "FileError", "Files", "remove_tree"]

MAX_READ = 64 * 2**20
MAX_ENTRIES = 100_000
BLOCK = 2**20
MAX_LINKS = 40
"""As the kernel follows (path_resolution(7))."""
PATH_ONLY = os.O_PATH | os.O_CLOEXEC
OVER_MODES = 0x1F
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID."""
_TRIES = 100
"""openat2(2) gives EAGAIN where somebody renames at the same time."""


class FileError(SandlockError, OSError):
    """A file of the workspace cannot be used so; `errno` says why."""


@record
class Entry:
    """What is known of one file."""

    path: str
    """Relative to the workspace."""
    kind: Literal["file", "directory", "link", "other"]
    size: int = 0
    mode: int = 0
    """Permission bits."""
    modified: float = 0.0
    """Seconds since the epoch."""
    target: str = ""
    """Of a link: what it says."""


class Files:
    """The files below one directory. Paths are relative to it; absolute ones have to lie below it.

    `rooted`: "/a" means `a` of the workspace, as for models that know no other root. `denied` and `protected`: paths
    that cannot be used, or changed, by any name, as `fs_denied` and `fs_protected` of a policy. `readable` and
    `writable`: what may be read and changed, the workspace if nothing is said; `Box.reach` has all four of a sandbox.
    Raises FileError: the directory cannot be opened.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        rooted: bool = False,
        denied: Iterable[str | os.PathLike[str]] = (),
        protected: Iterable[str | os.PathLike[str]] = (),
        readable: Iterable[str | os.PathLike[str]] | None = None,
        writable: Iterable[str | os.PathLike[str]] | None = None,
    ) -> None:
        self.root = os.path.realpath(os.fspath(root))
        self._rooted = rooted
        self._reach = Reach(
            readable=(self.root,) if readable is None else _real(readable),
            writable=(self.root,) if writable is None else _real(writable),
            denied=_real(denied),
            protected=_real(protected),
        )
        self._follows = True
        try:
            self._fd = os.open(self.root, PATH_ONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _failed("open the workspace", self.root, error.errno or errno.EIO) from error

    def without_links(self) -> Self:
        """The same files, to be closed on its own, where no path may have a link in it: for who brings files to places
        that a program may have exchanged for links meanwhile."""
        twin = copy.copy(self)
        twin._fd, twin._follows = os.dup(self._fd), False
        return twin

    def close(self) -> None:
        """Closes the workspace's descriptor; nothing can be used any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    # Reading ---------------------------------------------------------------------------------------------------------

    def read(self, path: str, *, max_bytes: int = MAX_READ) -> bytes:
        """The content of a regular file. Raises FileError: not there, no regular file, longer (EFBIG)."""
        with self._open_file(path, os.O_RDONLY) as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise _failed("read", path, errno.EFBIG, f"it has more than {max_bytes} bytes")
        return content

    def open(self, path: str) -> BinaryIO:
        """A regular file, as a stream to be read. Raises FileError."""
        return self._open_file(path, os.O_RDONLY)

    def read_text(self, path: str, *, max_bytes: int = MAX_READ) -> str:
        """The content as UTF-8; what is not is replaced."""
        return self.read(path, max_bytes=max_bytes).decode("utf-8", "replace")

    def stat(self, path: str) -> Entry:
        """What is there; of a link, of what it leads to inside the workspace. Raises FileError."""
        name = self._name(path)
        fd = self._beneath("look at", name, PATH_ONLY)
        try:
            return _entry(name, os.fstat(fd))
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Whether there is anything inside the workspace by this path."""
        try:
            self.stat(path)
        except FileError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP):
                return False
            raise
        return True

    def list(self, path: str = ".") -> list[Entry]:
        """What a directory holds, by name, links as links. Raises FileError."""
        name = self._name(path)
        fd = self._beneath("list", name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, "read")
        try:
            with _by_modes():
                return sorted(_entries(fd, name), key=lambda entry: entry.path)
        except OSError as error:
            raise _failed("list", path, error.errno or errno.EIO) from error
        finally:
            os.close(fd)

    def walk(self, path: str = ".") -> Iterator[Entry]:
        """Everything below a directory, the directory itself apart; links are not followed. Raises FileError."""
        waiting = [self._name(path)]
        count = 0
        while waiting:
            for entry in self.list(waiting.pop()):
                count += 1
                if count > MAX_ENTRIES:
                    raise _failed("walk", path, errno.EFBIG, f"it holds more than {MAX_ENTRIES} files")
                yield entry
                if entry.kind == "directory" and f"{self.root}/{entry.path}" not in self._reach.denied:
                    waiting.append(entry.path)

    def realpath(self, path: str) -> str:
        """The absolute path of what is there, without links. Raises FileError."""
        fd = self._beneath("follow", self._name(path), PATH_ONLY)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def check(self, path: str, use: Use, *, holds: bool = False) -> None:
        """Whether what lies at this absolute path, which has no links, may be used so, for who does it by other means
        than these. `holds`: it is removed or renamed, with all that it holds. Raises FileError."""
        try:
            found = os.lstat(path)
        except OSError:
            found = None
        if why := self._reach.refusal(path, use, found, holds=holds):
            raise _failed("use", path, errno.EACCES, why)

    # Changing --------------------------------------------------------------------------------------------------------

    def write(self, path: str, content: bytes | str, *, mode: int = 0o666, parents: bool = True) -> None:
        """Makes a file or replaces its content; `parents`: also the directories above it. Raises FileError."""
        try:
            data = content.encode() if isinstance(content, str) else content
        except UnicodeEncodeError as error:  # before the file is emptied
            raise _failed("write", path, errno.EILSEQ, str(error)) from error
        if parents:
            self._make_parents(path)
        with self._open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as file:
            try:
                file.write(data)
                file.flush()
            except OSError as error:
                raise _failed("write", path, error.errno or errno.EIO) from error

    def write_from(self, path: str, source: IO[bytes], *, max_bytes: int) -> int:
        """Makes a file, or replaces its content, of what a stream gives, and returns how long that was. Raises
        FileError: more than `max_bytes` (EFBIG), which have been written then."""
        self._make_parents(path)
        with self._open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666) as file:
            try:
                size = _copy(source, file, max_bytes)
                file.flush()
            except OSError as error:
                raise _failed("write", path, error.errno or errno.EIO) from error
        if size == max_bytes and source.read(1):
            raise _failed("write", path, errno.EFBIG, f"it would have more than {max_bytes} bytes")
        return size

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Makes a directory. Raises FileError."""
        if parents:
            self._make_parents(path)
        name = self._name(path)
        if name == "." and exist_ok:
            return
        parent, last = self._parent("make", name)
        try:
            with _by_modes():
                os.mkdir(last, dir_fd=parent)
        except FileExistsError as error:
            if not exist_ok or self.stat(path).kind != "directory":
                raise _failed("make", path, errno.EEXIST) from error
        except OSError as error:
            raise _failed("make", path, error.errno or errno.EIO) from error
        finally:
            os.close(parent)

    def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Removes a file, a link or a directory, which has to be empty without `recursive`. Raises FileError."""
        name = self._name(path)
        if name == ".":
            raise _failed("remove", path, errno.EBUSY, "it is the workspace itself")
        try:
            parent, last = self._parent("remove", name)
        except FileError as error:
            if missing_ok and error.errno == errno.ENOENT:
                return
            raise
        try:
            with _by_modes():
                if not modes.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.unlink(last, dir_fd=parent)
                elif recursive:
                    remove_tree(last, dir_fd=parent)
                else:
                    os.rmdir(last, dir_fd=parent)
        except OSError as error:
            if not (missing_ok and error.errno == errno.ENOENT):
                raise _failed("remove", path, error.errno or errno.EIO) from error
        finally:
            os.close(parent)

    def move(self, source: str, target: str) -> None:
        """Renames, also over a file that is there. Raises FileError."""
        self._make_parents(target)
        first, name = self._parent("move", self._name(source))
        try:
            second, new = self._parent("move", self._name(target))
            try:
                with _by_modes():
                    os.rename(name, new, src_dir_fd=first, dst_dir_fd=second)
            except OSError as error:
                raise _failed("move", source, error.errno or errno.EIO) from error
            finally:
                os.close(second)
        finally:
            os.close(first)

    def link(self, path: str, target: str) -> None:
        """Makes a symbolic link, which may say anything: nothing here follows it outside. Raises FileError."""
        if not _is_name(target):
            raise _failed("link", path, errno.EINVAL, "what it says cannot be the name of a file")
        self._make_parents(path)
        parent, last = self._parent("link", self._name(path))
        try:
            with _by_modes():
                os.symlink(target, last, dir_fd=parent)
        except OSError as error:
            raise _failed("link", path, error.errno or errno.EIO) from error
        finally:
            os.close(parent)

    def set_mode(self, path: str, mode: int) -> None:
        """The permission bits of a file or directory (0o777 at most). Raises FileError."""
        fd = self._beneath("change the mode of", self._name(path), PATH_ONLY, "change")
        try:
            with _by_modes():
                os.chmod(f"/proc/self/fd/{fd}", mode & 0o777)  # fchmod(2) takes no O_PATH
        except OSError as error:
            raise _failed("change the mode of", path, error.errno or errno.EIO) from error
        finally:
            os.close(fd)

    def upload(self, source: str | os.PathLike[str], path: str) -> None:
        """Copies a file of the host into the workspace. Raises FileError, OSError of the host's file."""
        self._make_parents(path)
        with open(source, "rb") as given, self._open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666) as file:
            _copy(given, file)

    def download(self, path: str, target: str | os.PathLike[str]) -> None:
        """Copies a file of the workspace to the host, where none may be yet. Raises FileError, OSError."""
        with self._open_file(path, os.O_RDONLY) as file, open(target, "xb") as taken:
            _copy(file, taken)

    # Followed by the kernel ------------------------------------------------------------------------------------------

    def _name(self, path: str) -> str:
        """The path relative to the workspace. Raises PolicyError for what cannot be one."""
        text = os.fspath(path)
        if not isinstance(text, str) or not text or not _is_name(text):
            raise PolicyError(f"path: {path!r} is no path; write one relative to the workspace")
        if text.startswith("/"):
            if text == self.root or text.startswith(self.root.rstrip("/") + "/"):
                text = text[len(self.root.rstrip("/")) :]
            elif not self._rooted:
                raise _failed("use", path, errno.EXDEV, f"it does not lie below {self.root}")
            text = text.lstrip("/")
        return os.path.normpath(text) if ".." not in text.split("/") else text or "."

    def _beneath(self, step: str, name: str, flags: int, use: Use = "look") -> int:
        fd = self._openat2(name, flags, links=self._follows)
        if fd == -errno.EXDEV and self._follows:  # perhaps by an absolute link, which may still lead to a place inside
            inside = self._without_links(name)
            fd = fd if inside is None else self._openat2(inside, flags, links=False)
        if fd < 0:
            why = "it leads out of the workspace" if fd == -errno.EXDEV else ""
            raise _failed(step, name, -fd, why)
        # No program can rename what is denied or protected, nor what holds it: what is judged stays where it is.
        path = os.readlink(f"/proc/self/fd/{fd}")
        if why := self._reach.refusal(path, use, os.fstat(fd)):
            os.close(fd)
            raise _failed(step, name, errno.EACCES, why)
        return fd

    def _openat2(self, name: str, flags: int, *, links: bool) -> int:
        path = ffi.from_buffer(os.fsencode(name) + b"\0")
        fd = -errno.EAGAIN
        with _by_modes():
            for _ in range(_TRIES):
                fd = lib.open_beneath(self._fd, path, flags, 0, links)
                if fd != -errno.EAGAIN:
                    break
        return fd

    def _without_links(self, name: str) -> str | None:
        """The same place by a path without links; None if it is none of the workspace's. Whoever opens it has the
        kernel see to it that there is no link in it still."""
        waiting, done, links = name.split("/")[::-1], list[str](), 0
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    return None
                done.pop()
                continue
            try:
                target = os.readlink("/".join([*done, part]), dir_fd=self._fd)
            except OSError:  # no link, or not there yet
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                return None
            if target.startswith("/"):
                if target != self.root and not target.startswith(self.root.rstrip("/") + "/"):
                    return None
                target, done = target[len(self.root.rstrip("/")) :], []
            waiting += target.split("/")[::-1]
        return "/".join(done) or "."

    def _open_file(self, path: str, flags: int, mode: int = 0) -> BinaryIO:
        """A regular file; NONBLOCK lets nobody wait for the other end of a FIFO, which then is refused."""
        name = self._name(path)
        use: Use = "read" if flags & os.O_ACCMODE == os.O_RDONLY else "change"
        kept = (flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY) & ~(os.O_CREAT | os.O_TRUNC)
        try:
            fd = self._beneath("open", name, kept, use)
        except FileError as error:
            if error.errno != errno.ENOENT or not flags & os.O_CREAT:
                raise
            fd = self._make_file(path, kept, mode)
        try:
            found = os.fstat(fd).st_mode
            if modes.S_ISDIR(found):
                raise _failed("open", path, errno.EISDIR)
            if not modes.S_ISREG(found):
                raise _failed("open", path, errno.EINVAL, "it is no regular file")
            if flags & os.O_TRUNC:
                os.ftruncate(fd, 0)
            return os.fdopen(fd, "rb" if use == "read" else "wb")
        except BaseException:
            os.close(fd)
            raise

    def _make_file(self, path: str, flags: int, mode: int) -> int:
        """Where a link leads, the directory there is judged before anything is made in it."""
        name = self._name(path)
        inside = self._without_links(name) if self._follows else name
        if inside is None:
            raise _failed("make", path, errno.EXDEV, "it leads out of the workspace")
        parent, last = self._parent("make", inside)
        try:
            with _by_modes():
                return os.open(last, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent)
        except OSError as error:  # EEXIST: a program was faster
            raise _failed("make", path, error.errno or errno.EIO) from error
        finally:
            os.close(parent)

    def _parent(self, step: str, name: str) -> tuple[int, str]:
        """The directory in which something is to be made, removed or renamed, and the name there."""
        above, _, last = name.rpartition("/")
        if last in ("", ".", ".."):
            raise _failed(step, name, errno.EINVAL, "its last part is no name")
        fd = self._beneath(step, above or ".", PATH_ONLY | os.O_DIRECTORY, "change")
        path = os.path.join(os.readlink(f"/proc/self/fd/{fd}"), last)
        if why := self._reach.refusal(path, "change", None, holds=True):
            os.close(fd)
            raise _failed(step, name, errno.EACCES, why)
        return fd, last

    def _make_parents(self, path: str) -> None:
        above, missing = os.path.dirname(self._name(path)), []
        while above and not self.exists(above):
            missing.append(above)
            above = os.path.dirname(above)
        while missing:
            self.make_dir(missing.pop(), parents=False)


@contextmanager
def _by_modes() -> Iterator[None]:
    """Has permission bits decide about what this thread does. Raises OSError."""
    effective, permitted, inheritable = (ffi.new("uint64_t *") for _ in range(3))
    found = lib.capabilities_get(effective, permitted, inheritable)
    if found == 0 and not effective[0] & OVER_MODES:
        yield
        return
    if found == 0:
        found = lib.capabilities_set(effective[0] & ~OVER_MODES, permitted[0], inheritable[0])
    if found < 0:
        raise OSError(-found, "give up capabilities")
    try:
        yield
    finally:
        lib.capabilities_set(effective[0], permitted[0], inheritable[0])


def _is_name(text: str) -> bool:
    """Whether the kernel can be told it: without a NUL, and no half of a character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _entries(fd: int, name: str) -> Iterator[Entry]:
    with os.scandir(fd) as found:
        for count, each in enumerate(found):
            if count >= MAX_ENTRIES:
                raise OSError(errno.EFBIG, "too many files")
            try:
                status = os.stat(each.name, dir_fd=fd, follow_symlinks=False)
                target = os.readlink(each.name, dir_fd=fd) if modes.S_ISLNK(status.st_mode) else ""
            except OSError:  # removed since, or a link no more
                continue
            yield _entry(each.name if name == "." else f"{name}/{each.name}", status, target)


def _entry(path: str, status: os.stat_result, target: str = "") -> Entry:
    mode = status.st_mode
    kind: Literal["file", "directory", "link", "other"] = "other"
    if modes.S_ISREG(mode):
        kind = "file"
    elif modes.S_ISDIR(mode):
        kind = "directory"
    elif modes.S_ISLNK(mode):
        kind = "link"
    permissions = modes.S_IMODE(mode)
    return Entry(path=path, kind=kind, size=status.st_size, mode=permissions, modified=status.st_mtime, target=target)


def _real(paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    return tuple(os.path.realpath(os.fspath(each)) for each in paths)


def _copy(source: IO[bytes], target: BinaryIO, room: int | None = None) -> int:
    size = 0
    while block := source.read(BLOCK if room is None else min(BLOCK, room - size)):
        target.write(block)
        size += len(block)
    return size


def _failed(step: str, path: object, number: int, why: str = "") -> FileError:
    name = errno.errorcode.get(number, str(number))
    return FileError(number, f"{step} {os.fspath(path)!r}: {name} ({why or os.strerror(number)})")  # type: ignore[call-overload]
