"""Settles grants on real paths, so that a link that an earlier run left behind cannot choose what the next one gets.

Links of the host are followed once, here. A link inside a directory that the sandbox may write was perhaps made by
the sandbox, and is refused: where it leads is not the host's word. What is swapped after this look meets
RESOLVE_NO_SYMLINKS at launch (`PathRule.root`).
"""

from __future__ import annotations

import os

from .errors import PolicyError
from .presets import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LINKS = 40  # as the kernel: path_resolution(7)


class ForeignLinkError(Exception):
    """A link in a writable directory."""


def settle(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The grants on real paths. An optional one behind a foreign link is left out. Raises PolicyError for others."""
    grants = tuple(grants)
    if os.geteuid() == 0:
        for grant in grants:
            if grant.kind == "write":
                refuse_the_machine(grant)
    writable = sorted((grant.path for grant in grants if grant.kind == "write"), key=len)
    if not writable:
        return grants
    roots: list[str] = []
    for path in writable:
        try:
            roots.append(real_path(path, roots))
        except ForeignLinkError:
            continue  # refused below, by its own grant
    settled = []
    for grant in grants:
        try:
            settled.append(
                Grant(grant.path if grant.path in roots else real_path(grant.path, roots), grant.kind, grant.optional)
            )
        except ForeignLinkError as link:
            if not grant.optional:
                raise PolicyError(
                    f"{grant.path}: {link} is a link inside a directory that the sandbox may write, and is not "
                    "followed; grant its target"
                ) from None
    return tuple(settled)


def real_paths(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The same for grants of which none may be for writing: then every link is the host's, and is followed."""
    grants = tuple(grants)
    if any(grant.kind == "write" for grant in grants):
        return settle(grants)
    return tuple(Grant(real_path(grant.path, []), grant.kind, grant.optional) for grant in grants)


def refuse_the_machine(grant: Grant) -> None:
    """Root without capabilities still owns sysctls, core_pattern, module parameters and disks: writing there is a way
    out. Raises PolicyError."""
    path = os.path.realpath(grant.path)
    if path in ("/", "/dev") or path.startswith(("/proc/", "/sys/")) or path in ("/proc", "/sys"):
        raise PolicyError(
            f"fs_writable: {grant.path} would let root's program change the machine itself; grant the directories that "
            "it works in, or device files with fs_devices",
            field="fs_writable",
        )


def refuse_memory(grants: Iterable[Grant]) -> None:
    """Where calls are judged, no program may write the memory of another one: what was judged and attested would be
    something else a moment later. ptrace(2) and process_vm_writev(2) are denied anyway. Raises PolicyError."""
    for grant in grants:
        path = os.path.realpath(grant.path)
        if grant.kind == "write" and (path in ("/", "/proc") or path.startswith("/proc/")):
            raise PolicyError(
                f"fs_writable: {grant.path} would let programs rewrite each other's memory (/proc/PID/mem) after "
                "it was judged; grant it without policy_fn, audit and rules that need a supervisor",
                field="fs_writable",
            )


def real_path(path: str, roots: list[str]) -> str:
    """The path without links. Links of /proc depend on who asks: such a path is left as it is."""
    at, links = "", 0
    pending = path.split("/")[::-1]
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = at.rpartition("/")[0]
            continue
        here = f"{at}/{name}"
        try:
            target = os.readlink(here)
        except OSError:
            at = here
            continue
        if here.startswith("/proc/"):
            return path
        if any(here.startswith(root.rstrip("/") + "/") for root in roots):
            raise ForeignLinkError(here)
        links += 1
        if links > MAX_LINKS:
            return path  # the kernel says ELOOP
        if target.startswith("/"):
            at = ""
        pending += target.split("/")[::-1]
    return at or "/"
