"""The virtual root on this machine, as it is at the start: which real path each virtual one is, what is mounted where,
and the descriptors by which the supervisor holds it.

Rules: links are followed inside the virtual root, by its own names; nothing of the host is seen but the root and what
is mounted. What is found here is opened without following a link (Grant.root).
"""

from __future__ import annotations

import os
import stat
from os import fsencode

from ._record import record, replace
from ._settle import MAX_LINKS, ForeignLinkError, real_path, refuse_the_machine
from ._values import read_mount
from ._virtual_root import VirtualMounts
from .errors import MORE_FILES, ConfinementError, PolicyError
from .presets import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._command import Command
    from .policy import Policy

__all__ = ["Mount", "VirtualRoot"]

MAX_MOUNTS = 64  # _run.pxd
AUTOMATIC = (
    ("/proc", "data"),
    ("/dev/null", "device"), ("/dev/zero", "device"), ("/dev/full", "device"), ("/dev/tty", "device"),
    ("/dev/random", "data"), ("/dev/urandom", "data"),
    ("/dev/fd", ""), ("/dev/stdin", ""), ("/dev/stdout", ""), ("/dev/stderr", ""),
)  # fmt: skip
"""What of the host is in every virtual root that has a directory for it, and how it is granted: /proc (seen through
_procfs), devices that keep nothing, and links into /proc/self/fd."""


@record
class Mount:
    """A directory or file of the host, and where the program sees it. The root is one as well, at ""."""

    virtual: str
    real: str
    """Without links; "" is the host's root."""
    read_only: bool = False
    kind: str = ""
    """The grant that it is; "" for none."""


class VirtualRoot:
    """The program's root directory, and what is mounted in it."""

    def __init__(self, policy: Policy) -> None:
        assert policy.chroot is not None
        root = os.path.realpath(policy.chroot)
        if not os.path.isdir(root):
            raise PolicyError(
                f"chroot: {policy.chroot} is no directory; create it, or name the one that holds the program's files",
                field="chroot",
            )
        self.mounts: tuple[Mount, ...] = (Mount(virtual="", real=root.rstrip("/")),)
        self._mount_all(policy.fs_mount)
        self.writable = tuple(mount.real for mount in self.mounts if mount.kind == "write")

    # --- mounts

    def _mount_all(self, texts: Iterable[str]) -> None:
        wanted = sorted((read_mount("fs_mount", text, text) for text in texts), key=lambda mount: mount[0].count("/"))
        hosts: list[str] = []
        for virtual, host, read_only in wanted:
            try:
                real = real_path(host, hosts).rstrip("/")
            except ForeignLinkError as link:
                raise PolicyError(
                    f"fs_mount: {host}: {link} is a link inside a directory that the sandbox may write, and is not "
                    "followed; mount its target",
                    field="fs_mount",
                ) from None
            if not os.path.lexists(real or "/"):
                raise PolicyError(f"fs_mount: {host} does not exist; create it", field="fs_mount")
            if not read_only:
                hosts.append(real)
            self._mount(virtual, real, read_only, "read" if read_only else "write")
        taken = [virtual for virtual, _, _ in wanted]
        for virtual, kind in AUTOMATIC:
            covered = any(virtual == place or virtual.startswith(place + "/") for place in taken)
            if not covered and os.path.lexists(virtual) and os.path.isdir(self.real(os.path.dirname(virtual))):
                self._mount(virtual, os.path.realpath(virtual) if kind else virtual, False, kind)
        if len(self.mounts) > MAX_MOUNTS:
            raise PolicyError(
                f"fs_mount: more than {MAX_MOUNTS} mounts; mount a directory above them", field="fs_mount"
            )

    def _mount(self, virtual: str, real: str, read_only: bool, kind: str) -> None:
        parent, _, name = virtual.rpartition("/")
        place = self._walk(parent)
        if not os.path.isdir(self._place(place) or "/"):
            raise PolicyError(
                f"fs_mount: {parent or '/'} is no directory inside the virtual root; create it there, for the mount "
                f"at {virtual} needs one above it",
                field="fs_mount",
            )
        mount = Mount(virtual=f"{place}/{name}", real=real, read_only=read_only, kind=kind)
        if any(known.virtual == mount.virtual for known in self.mounts):
            raise PolicyError(f"fs_mount: {virtual} is a second mount at {mount.virtual}", field="fs_mount")
        self.mounts = tuple(sorted((*self.mounts, mount), key=lambda mount: -len(mount.virtual)))

    def _owner(self, virtual: str) -> Mount:
        """The mount that a virtual path without links lies in."""
        return next(mount for mount in self.mounts if f"{virtual}/".startswith(f"{mount.virtual}/"))

    def _place(self, virtual: str) -> str:
        """The real path of a virtual one without links."""
        mount = self._owner(virtual)
        return mount.real + virtual[len(mount.virtual) :]

    # --- paths

    def _walk(self, path: str, guarded: Iterable[str] = (), names: list[str] | None = None) -> str:
        """The virtual path without links; "" is the root. `names` gets the real path of each link, with what follows
        it. Raises ForeignLinkError for a link below a `guarded` real path."""
        at, links = "", 0
        pending = path.split("/")[::-1]
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if names is not None:
                    names.append(f"{self._place(at)}/..")
                at = at.rpartition("/")[0]
                continue
            real = self._place(f"{at}/{name}")
            try:
                target = os.readlink(real)
            except OSError:
                at = f"{at}/{name}"
                continue
            if real.startswith("/proc/"):  # depends on who asks
                return "/".join([f"{at}/{name}", *pending[::-1]])
            if any(real.startswith(root + "/") for root in guarded):
                raise ForeignLinkError(f"{at}/{name}")
            if names is not None:
                names.append(os.path.normpath("/".join([real, *pending[::-1]])))
            links += 1
            if links > MAX_LINKS:
                raise PolicyError(f"{path}: too many links inside the virtual root")
            if target.startswith("/"):
                at = ""
            pending += target.split("/")[::-1]
        return at

    def seen(self, path: str) -> str:
        """A virtual path without links."""
        return self._walk(path) or "/"

    def real(self, path: str) -> str:
        """The real path of a virtual one."""
        return self._place(self._walk(path)) or "/"

    def names_of(self, path: bytes) -> list[bytes]:
        """By what real names a virtual path is reached, as `_path_facts.names_of`: last without links."""
        found: list[str] = []
        real = self._place(self._walk(os.fsdecode(path), names=found)) or "/"
        return [fsencode(name) for name in dict.fromkeys((*found, real))]

    def places(self) -> list[bytes]:
        """The real paths of what mounts hide: their names lead to something that is granted."""
        return [fsencode(self._hidden(mount)) for mount in self.mounts if mount.virtual]

    def granted_path(self, path: str, writable: Iterable[Grant]) -> str:
        """The real path of a virtual one that is granted later. Raises PolicyError for a link that the program may have
        made."""
        guarded = (*self.writable, *(grant.path.rstrip("/") for grant in writable))
        try:
            return self._place(self._walk(path, guarded)) or "/"
        except ForeignLinkError as link:
            raise _foreign(path, link) from None

    def settle(self, grants: Iterable[Grant]) -> tuple[Grant, ...]:
        """The grants on real paths, and those that mounts are. Raises PolicyError."""
        grants = tuple(grants)
        guarded = [*self.writable]
        for grant in sorted(grants, key=lambda grant: len(grant.path)):
            if grant.kind == "write":
                try:
                    guarded.append(self._place(self._walk(grant.path, guarded)))
                except ForeignLinkError:
                    continue  # refused below
        settled = []
        for grant in grants:
            try:
                settled.append(self._grant(self._place(self._walk(grant.path, guarded)), grant.kind, grant.optional))
            except ForeignLinkError as link:
                if not grant.optional:
                    raise _foreign(grant.path, link) from None
        settled += [self._grant(mount.real, mount.kind, False) for mount in self.mounts if mount.kind]
        if os.geteuid() == 0:
            for grant in settled:
                if grant.kind == "write":
                    refuse_the_machine(grant)
        return tuple(settled)

    @staticmethod
    def _grant(real: str, kind: str, optional: bool) -> Grant:
        proc = real == "/proc" or real.startswith("/proc/")
        return Grant(real or "/", kind, optional, None if proc else "")

    # --- descriptors

    def open(self) -> VirtualMounts:
        """The root and the mounts, held by descriptors. Raises ConfinementError where one has gone, or changed."""
        found = []
        opened: list[int] = []
        try:
            for mount in self.mounts:
                opened.append(_pin(mount.real or "/"))
                parent = mount.virtual.rpartition("/")[0]
                owner = self._owner(parent) if mount.virtual else None
                above = "" if owner is None else parent[len(owner.virtual) :].strip("/")
                place = "" if owner is None else self._hidden(mount)
                found.append(
                    (
                        fsencode(mount.virtual),
                        fsencode(mount.real),
                        mount.read_only,
                        -1 if owner is None else self.mounts.index(owner),
                        fsencode(above or "."),
                        fsencode(place),
                        owner is not None and not os.path.lexists(place),
                    )
                )
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return VirtualMounts(found, opened)

    def has_absent(self) -> bool:
        """Whether something is mounted where the directory has nothing: it has to be listed all the same."""
        return any(mount.virtual and not os.path.lexists(self._hidden(mount)) for mount in self.mounts)

    def _hidden(self, mount: Mount) -> str:
        """The real path of what a mount hides."""
        parent, _, name = mount.virtual.rpartition("/")
        return f"{self._place(parent)}/{name}"

    def place(self, command: Command) -> Command:
        """The command, with a descriptor of the directory that it starts in."""
        directory = "/" if command.cwd is None else os.fsdecode(command.cwd)
        return replace(command, cwd=None, directory=self.open_directory(directory))

    def open_directory(self, path: str) -> int:
        """The directory that a virtual path means, to start in. Raises ConfinementError."""
        step = "change to the working directory"
        descriptor = _pin(self.real(path), step)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ConfinementError(step, 20, subject=path, fix="name a directory inside the virtual root")
        return descriptor


def _foreign(path: str, link: Exception) -> PolicyError:
    return PolicyError(
        f"{path}: {link} is a link inside a directory that the sandbox may write, and is not followed; grant its target"
    )


def _pin(real: str, step: str = "open the virtual root") -> int:
    """An O_PATH descriptor of what is at a real path. Raises ConfinementError."""
    try:
        descriptor = os.open(real, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        fix = MORE_FILES if error.errno in (23, 24) else "it has to exist, and stay"
        raise ConfinementError(step, error.errno or 0, subject=real, fix=fix) from error
    if os.readlink(f"/proc/self/fd/{descriptor}") != real:
        os.close(descriptor)
        raise ConfinementError(step, 40, subject=real, fix="a link has come into it: who makes it?")
    return descriptor
