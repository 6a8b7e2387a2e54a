"""A home directory for one run: empty but for links to chosen files of the real one.

Rules: what is in it afterwards was written by the agent. Nothing there is followed, and what is written back to the
real home directory is a regular file of bounded size, over a file that nobody else has changed in between.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from sandlock import PolicyError, SandlockError

from .._record import record, replace

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Dotfile", "holds_files", "link_dotfiles", "make_directory", "write_back"]

MAX_BYTES = 16 * 2**20
"""No changed dotfile is longer."""
XDG = {".config": "XDG_CONFIG_HOME", ".local/share": "XDG_DATA_HOME", ".local/state": "XDG_STATE_HOME"}
"""Where programs look for what is usually below these."""
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@record
class Dotfile:
    """A file or directory of the real home directory that the private one has, too."""

    name: str
    """Below the home directory: ".config/git/config"."""
    real: str
    """Where it really is, without any link in the way."""
    kind: Literal["file", "directory", "absent"]
    writable: bool
    linked: bool
    """Whether the private one has a link; else a directory above it is one."""
    mark: tuple[int, ...] = ()
    """What tells a file from any other, and from itself after a change; () for one that is not there."""
    copied: bool = False
    """Whether the private one has a copy, which goes with the run."""
    parent: tuple[int, int] = (0, 0)
    """The directory that holds it: device and inode."""


def make_directory(path: str) -> str:
    """Makes a new directory for nobody but us. Raises SandlockError if something is there already."""
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise SandlockError(
            f"make {path}: {errno.errorcode.get(error.errno or 0, 'error')}; "
            "give each run a new state directory that can be written"
        ) from error
    return path


# Before the run ------------------------------------------------------------------------------------------------------


def link_dotfiles(
    home: str, private: str, read: Iterable[str], write: Iterable[str], copy: Iterable[str] = (), *, make: bool = True
) -> tuple[Dotfile, ...]:
    """Has `private` show these files of `home`, as links or copies. What is not there is left out, unless writable.

    A writable name that ends in "/" is a directory, made (unless not `make`) if it is missing and what holds it is
    there. Raises PolicyError for a name that is not below the home directory.
    """
    copies = {_clean(name) for name in copy}
    wanted = {_clean(name): (name.endswith("/"), True) for name in write}
    for name in (*read, *copies):
        wanted.setdefault(_clean(name), (False, False))
    found: list[Dotfile] = []
    for name in sorted(wanted, key=lambda each: each.split("/")):
        is_directory, writable = wanted[name]
        real = real_place(home, name)
        if make and is_directory and writable and os.path.isdir(os.path.dirname(real)):
            with suppress(OSError):
                os.mkdir(real, 0o700)
        # below a link there is nothing to be made: it would be made in the real home directory
        above = any(each.linked and name.startswith(f"{each.name}/") for each in found)
        dotfile = _look(name, real, writable, linked=not above)
        if dotfile is None or (dotfile.kind == "absent" and above):
            continue
        if f"{os.path.realpath(home)}/".startswith(f"{dotfile.real.rstrip('/')}/"):
            raise PolicyError(f"home_read, home_write: {name!r} leads to {dotfile.real}, and so to the whole home")
        if name in copies:
            if above or dotfile.kind != "file":
                raise PolicyError(f"home_copy: {name!r} is no file, or in a directory that is shown as it is")
            dotfile = replace(dotfile, copied=True, writable=False)
        found.append(dotfile)
        if dotfile.linked:
            os.makedirs(os.path.dirname(f"{private}/{name}"), 0o700, exist_ok=True)
            _show(dotfile, f"{private}/{name}")
    return tuple(found)


def _show(dotfile: Dotfile, place: str) -> None:
    if not dotfile.copied:
        os.symlink(dotfile.real, place)
        return
    with (
        open(dotfile.real, "rb") as file,
        open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as to,
    ):
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise PolicyError(f"home_copy: {dotfile.real} is longer than {MAX_BYTES} bytes")
        to.write(content)


def real_place(home: str, name: str) -> str:
    """Where the real file of this name is, links in it not yet followed."""
    for prefix, variable in XDG.items():
        moved = os.environ.get(variable, "")
        if name.startswith(f"{prefix}/") and moved.startswith("/"):
            return moved.rstrip("/") + name[len(prefix) :]
    return f"{home}/{name}"


def _clean(name: str) -> str:
    path = os.path.normpath(name.removeprefix("~/"))
    if path.startswith(("/", "..")) or path == "." or "\0" in path:
        raise PolicyError(f"home_read, home_write: {name!r} is not below the home directory; write such as .gitconfig")
    return path


def _look(name: str, path: str, writable: bool, *, linked: bool) -> Dotfile | None:
    real = os.path.realpath(path)
    try:
        held = os.stat(os.path.dirname(real))
    except OSError:
        return None
    parent = (held.st_dev, held.st_ino)
    try:
        status = os.lstat(real)
    except FileNotFoundError:
        # what is there no more than the agent makes it: written back when it ends
        absent = Dotfile(name=name, real=real, kind="absent", writable=True, linked=False, parent=parent)
        return absent if writable else None
    except OSError:
        return None
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and not stat.S_ISREG(status.st_mode):
        return None
    return Dotfile(
        name=name,
        real=real,
        kind="directory" if is_directory else "file",
        writable=writable,
        linked=linked,
        mark=() if is_directory else _mark(status),
        parent=parent,
    )


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


# After the run -------------------------------------------------------------------------------------------------------


def write_back(private: str, dotfile: Dotfile) -> str:
    """Brings a file that took the place of a link, or is new, home. Returns what became of it; "" for nothing.

    Then the link, or the file that was brought home, is gone from the private home directory; a file that could not
    be brought home stays there.
    """
    directory, _, last = dotfile.name.rpartition("/")
    holder = _open_below(private, directory)
    if holder is None:
        return f"{dotfile.name}: not looked at: the directories that held it are others now"
    try:
        status = os.lstat(last, dir_fd=holder)
        if stat.S_ISLNK(status.st_mode) or dotfile.copied:
            if dotfile.linked:
                os.unlink(last, dir_fd=holder)
            return ""
        if not dotfile.writable or dotfile.kind == "directory":
            return f"{dotfile.name}: replaced by the program; its own stays at {private}/{dotfile.name}"
        content = _read(holder, last)
        if isinstance(content, str):
            return f"{dotfile.name}: not written back: {content}; it stays at {private}/{dotfile.name}"
        problem = _replace(dotfile, content)
        if problem:
            return f"{dotfile.name}: not written back: {problem}; it stays at {private}/{dotfile.name}"
        os.unlink(last, dir_fd=holder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{dotfile.name}: not written back: {error.strerror}; it stays at {private}/{dotfile.name}"
    finally:
        os.close(holder)
    return f"{dotfile.name}: written back, {len(content)} bytes"


def _open_below(top: str, path: str) -> int | None:
    """The directory there, on a way without links."""
    place = os.open(top, _DIRECTORY | os.O_PATH)
    for word in path.split("/") if path else ():
        try:
            inner = os.open(word, _DIRECTORY | os.O_PATH, dir_fd=place)
        except OSError:
            return None
        finally:
            os.close(place)
        place = inner
    return place


def _read(holder: int, name: str) -> bytes | str:
    """What the file holds, or why it is not taken."""
    # NONBLOCK: a FIFO must not hang us
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=holder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        if status.st_nlink != 1 or status.st_uid != os.geteuid():
            return "it has other names, or another owner"
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    return content if len(content) <= MAX_BYTES else f"it is longer than {MAX_BYTES} bytes"


def _replace(dotfile: Dotfile, content: bytes) -> str:
    """Puts a new file in the place of the real one; returns what is in the way of that, or ""."""
    directory, _, last = dotfile.real.rpartition("/")
    holder = os.open(directory or "/", os.O_DIRECTORY | os.O_CLOEXEC | os.O_PATH)
    new = f".{last}.sandlock-{os.getpid()}"
    try:
        place = os.fstat(holder)
        if (place.st_dev, place.st_ino) != dotfile.parent:
            return "the directory that holds the real one is another now"
        mode = 0o600
        if dotfile.mark:
            status = os.lstat(last, dir_fd=holder)
            if _mark(status) != dotfile.mark:
                return "the real one was changed meanwhile"
            mode = stat.S_IMODE(status.st_mode) & 0o777
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=holder)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(descriptor, mode)
            if dotfile.mark:
                os.rename(new, last, src_dir_fd=holder, dst_dir_fd=holder)
            else:  # never over what has come there meanwhile
                os.link(new, last, src_dir_fd=holder, dst_dir_fd=holder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=holder)
    except FileExistsError:
        return "a real one was made meanwhile"
    except FileNotFoundError:
        return "the real one was removed meanwhile"
    finally:
        os.close(holder)
    return ""


def holds_files(path: str) -> bool:
    """Whether there is more than empty directories; of what cannot be looked at, there is."""
    waiting = [path]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        return True
                    waiting.append(entry.path)
        except OSError:
            return True
    return False
