"""The directories of sessions, made and opened so that nobody else can put theirs in the place of ours.

Rules: never a directory that others may write to, such as /tmp or /dev/shm. What is ours is opened directory by
directory, without following links, and owner and mode are looked at in what was opened. What is not as it should be is
refused, never repaired: somebody made it so.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from errno import ELOOP, ENOENT, ENOTDIR, errorcode
from secrets import token_hex
from typing import TYPE_CHECKING

from sandlock import SandlockError

from .._record import record

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Place", "read_file", "runtime_places", "state_place", "write_file"]

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LARGEST = 2**20
"""Bytes that are read of a file."""


@record
class Place:
    """A directory of ours: `names` below `base`, which is the system's or the user's."""

    base: str
    names: tuple[str, ...]
    fix: str
    """What to do where it cannot be."""

    @property
    def path(self) -> str:
        """The directory."""
        return os.path.join(self.base, *self.names)

    @contextmanager
    def opened(self, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory. Raises FileNotFoundError if it is not there, and SandlockError where it could
        be somebody else's."""
        fd = self._open(make)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, make: bool) -> int:
        try:
            if make:
                os.makedirs(self.base, 0o700, exist_ok=True)
            fd = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._refused(self.base, errorcode.get(error.errno or 0, str(error))) from error
        path = self.base
        try:
            self._check(fd, path, (0, os.geteuid()), 0o002)
            for name in self.names:
                path = f"{path}/{name}"
                inner = self._step(fd, path, name, make)
                os.close(fd)
                fd = inner
                self._check(fd, path, (os.geteuid(),), 0o022)
            self._check(fd, path, (os.geteuid(),), 0o077)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _step(self, fd: int, path: str, name: str, make: bool) -> int:
        try:
            if make:
                with suppress(FileExistsError):  # it is looked at like any other
                    os.mkdir(name, 0o700, dir_fd=fd)
            return os.open(name, OPEN, dir_fd=fd)
        except OSError as error:
            if error.errno == ENOENT and not make:
                raise
            name = errorcode.get(error.errno or 0, str(error))
            why = "it is a link, or no directory" if error.errno in (ELOOP, ENOTDIR) else name
            raise self._refused(path, why) from error

    def _check(self, fd: int, path: str, owners: tuple[int, ...], forbidden: int) -> None:
        found = os.fstat(fd)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in owners:
            raise self._refused(path, f"it belongs to user {found.st_uid}")
        if mode & forbidden:
            others = "write to it" if mode & 0o022 else "look into it"
            fix = f"chmod 700 {path}" if found.st_uid == os.geteuid() else self.fix
            raise self._refused(path, f"others may {others} (mode {mode:04o})", fix)

    def _refused(self, path: str, why: str, fix: str = "") -> SandlockError:
        return SandlockError(f"open the directory {path} of sessions: {why}; {fix or self.fix}")


FOR_ROOT = "/run"
"""Where root's sessions are, unless its environment names another place."""


def runtime_places() -> list[Place]:
    """Where living sessions have their sockets; the first is used. The others are looked into as well: who looks for
    sessions may have another environment than who started them."""
    found: list[Place] = []
    fix = "remove it, or make it a directory of yours with mode 0700"
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.geteuid()}"):
        if os.path.isabs(base) and _is_private(base) and base not in [each.base for each in found]:
            found.append(Place(base=base, names=("sandlock",), fix=fix))
    if os.geteuid() == 0:
        usual = Place(base=FOR_ROOT, names=("sandlock",), fix=fix)
    else:
        state = state_place()
        usual = Place(base=state.base, names=(*state.names[:-1], "run"), fix=state.fix)
    given = found and found[0].base == os.environ.get("XDG_RUNTIME_DIR", "")
    return [found[0], usual, *found[1:]] if given else [usual, *found]


def state_place() -> Place:
    """Where the records of runs stay."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), ".local", "state")
    fix = "make it a directory of yours that others cannot write to, or set XDG_STATE_HOME"
    return Place(base=base, names=("sandlock", "runs"), fix=fix)


def read_file(name: str, directory: int) -> bytes:
    """The content of a regular file in an open directory, not by way of a link. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(ENOENT, "no regular file")
        return file.read(LARGEST)


def write_file(name: str, text: str, directory: int) -> None:
    """Writes a file in an open directory, whole or not at all. Raises OSError."""
    fresh = f".{name}.{token_hex(4)}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)


def _is_private(path: str) -> bool:
    """Whether it is a directory, no link, that only this user can use."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    mode = stat.S_IMODE(found.st_mode)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and mode & 0o077 == 0
