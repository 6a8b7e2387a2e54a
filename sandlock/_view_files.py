"""The files of views: what of the machine they are made from, and sealed memory files that hold them.

Rules: a file that cannot be made is an error before the program starts, never the real file. What is sealed can be
changed by nobody, also by us.
"""

from __future__ import annotations

import os

from . import _views
from ._view_rules import is_private
from .errors import MORE_FILES, ConfinementError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._native import Run
    from ._views import Facts, Views
    from .policy import Policy

__all__ = ["ViewFiles", "Viewing", "look_around"]

MODE = 0o444
"""Of a view: also its owner may only read it."""
MAX_HOSTS = 2**20
"""Bytes of an image's /etc/hosts that are shown."""
_EINVAL = 22


def look_around(cpu_cores: Iterable[int] = ()) -> Facts:
    """The facts of this machine, for a program that may run on these CPUs, or on those of the caller. Raises
    ConfinementError."""
    allowed = set(cpu_cores) or os.sched_getaffinity(0)
    names = os.uname()
    try:
        meminfo = _sizes(_read("/proc/meminfo"))
        total = min(meminfo["MemTotal"], _memory_limit())
        cpuinfo = _read("/proc/cpuinfo")
        return _views.Facts(
            release=names.release,
            version=names.version,
            cpuinfo=cpuinfo,
            cpus=tuple(sorted(allowed & set(_views.cpus_of(cpuinfo)) or allowed)),
            memory_total=total,
            memory_free=min(total, meminfo.get("MemAvailable", total)),
            boot_time=_boot_time(_read("/proc/stat")),
            machine_id=_made_up().replace("-", ""),
            boot_id=_made_up(),
        )
    except (OSError, KeyError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        raise ConfinementError(
            "look at the machine", number or _EINVAL, fix="mount /proc, or drop private_proc"
        ) from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _sizes(meminfo: bytes) -> dict[str, int]:
    """The fields of /proc/meminfo, in bytes."""
    found = {}
    for line in meminfo.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2:
            found[name] = int(words[0]) * 1024
    return found


def _memory_limit() -> int:
    """What the control groups that we are in allow, in bytes."""
    limit = 2**63 - 1
    try:
        place = next(line[3:] for line in os.fsdecode(_read("/proc/self/cgroup")).splitlines() if line[:3] == "0::")
    except (OSError, StopIteration):
        return limit
    while True:
        try:
            text = _read(f"/sys/fs/cgroup{place}/memory.max").strip()
            limit = limit if text == b"max" else min(limit, int(text))
        except (OSError, ValueError):
            pass  # the root has none
        if place in ("", "/"):
            return limit
        place = os.path.dirname(place)


def _boot_time(stat: bytes) -> int:
    return next(int(line.split()[1]) for line in stat.splitlines() if line.startswith(b"btime "))


def _made_up() -> str:
    """A random UUID, version 4, without an import that takes milliseconds."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def seal(content: bytes) -> int:
    """A memory file that holds this for good. Returns its descriptor; raises OSError."""
    from ._sys import lib

    flags = lib.MFD_CLOEXEC | lib.MFD_ALLOW_SEALING
    made = lib.memfd_open(b"sandlock-view", flags | lib.MFD_NOEXEC_SEAL)
    if made == -_EINVAL:  # before Linux 6.3
        made = lib.memfd_open(b"sandlock-view", flags)
    if made < 0:
        raise OSError(-made, "memfd_create")
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(made, left) :]
        os.fchmod(made, MODE)
        result = lib.memfd_seal(made, lib.F_SEAL_SEAL | lib.F_SEAL_SHRINK | lib.F_SEAL_GROW | lib.F_SEAL_WRITE)
        if result < 0:
            raise OSError(-result, "F_ADD_SEALS")
        return _above_streams(made)
    except BaseException:
        os.close(made)
        raise


def _above_streams(descriptor: int) -> int:
    """The descriptor, moved out of 0 to 2 where the host runs with closed standard streams."""
    if descriptor > 2:
        return descriptor
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    moved = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _identity(path: bytes) -> tuple[int, int]:
    """The device and inode of a file that may have other names: hard links. In /proc and /sys there are none."""
    if path.startswith((b"/proc/", b"/sys/")):
        return 0, 0
    try:
        facts = os.stat(path)
    except OSError:
        return 0, 0
    return os.major(facts.st_dev) << 32 | os.minor(facts.st_dev), facts.st_ino


def _names(path: bytes) -> set[bytes]:
    """The paths that the file may be found at: its own, and where a link in its place leads."""
    return {path} if path.startswith((b"/proc/", b"/sys/")) else {path, os.path.realpath(path)}


class Viewing:
    """What the runs of one sandbox see instead of what is there."""

    def __init__(self, policy: Policy, hostname: bytes, root: bytes = b"") -> None:
        """`root`: the real path of a root directory of the program's own, without a last "/"; empty for the
        machine's. Raises ConfinementError."""
        self.hostname = hostname
        self.root = root
        self.facts = look_around(policy.cpu_cores) if is_private(policy) else None
        device = os.stat(root or "/").st_dev
        writable = "/" in policy.fs_writable
        self.mounts = (
            _views.Mount(target=b"/", writable=writable, device=(os.major(device), os.minor(device))),
            _views.Mount(target=b"/proc", writable=False, kind=b"proc"),
        )

    def open(self, names: Iterable[tuple[str, Iterable[str]]]) -> ViewFiles:
        """The files of one run, whose network rules have these names, with addresses. Raises ConfinementError."""
        etc = _views.etc_files(self.hostname, names, self._hosts_of_image())
        views = _views.make(etc, self.facts, self.mounts, self.root)
        try:
            return ViewFiles(views, self.facts)
        except OSError as error:
            raise ConfinementError(
                "make the files that are shown instead of the machine's", error.errno or 0, fix=MORE_FILES
            ) from error

    def _hosts_of_image(self) -> bytes:
        """What stands in /etc/hosts of the program's own root directory: read without following links, which would lead
        out of it."""
        if not self.root:
            return b""
        try:
            directory = os.open(self.root + b"/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with open(os.open("hosts", flags, dir_fd=directory), "rb") as file:
                    return file.read(MAX_HOSTS)
            finally:
                os.close(directory)
        except OSError:
            return b""


class ViewFiles:
    """The views of one run, with a sealed file for each content. Equal contents are one file."""

    def __init__(self, views: Views, facts: Facts | None = None) -> None:
        self.views = views
        self.facts = facts
        self.descriptors: dict[bytes, int] = {}
        """By path. A view that is written when it is opened has none."""
        made: dict[bytes, int] = {}
        try:
            for path, content in views.files:
                if content is not None:
                    if content not in made:
                        made[content] = seal(content)
                    self.descriptors[path] = made[content]
        except BaseException:
            self._all = tuple(made.values())
            self.close()
            raise
        self._all = tuple(made.values())

    def attach(self, run: Run) -> None:
        """Has a run show them. Before it starts."""
        from ._view_table import ViewSet

        files = [
            (name, self.descriptors.get(path, -1), *_identity(path))
            for path, _ in self.views.files
            for name in _names(path)
        ]
        memory = (0, 0) if self.facts is None else (self.facts.memory_total, self.facts.memory_free)
        run.set_views(ViewSet(files=files, places=list(self.views.places)), *memory)

    def close(self) -> None:
        """Closes the files. What programs have open stays as it is."""
        for descriptor in self._all:
            os.close(descriptor)
        self._all = ()
        self.descriptors.clear()
