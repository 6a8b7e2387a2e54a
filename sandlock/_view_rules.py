"""What `hostname` and `private_proc` make of a policy: the machine's name, and the calls that tell about the machine.

Values in, values out.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .policy import Policy

__all__ = ["HOSTNAME", "has_views", "hostname_of", "is_private", "option_of", "traps"]

HOSTNAME = "sandbox"
"""The machine's name where it is not to be known and the policy gives no other."""


def is_private(policy: Policy) -> bool:
    """Whether /proc and /sys show nothing of the machine."""
    return bool(policy.private_proc)


def has_views(policy: Policy) -> bool:
    """Whether some files show something else than what they hold. A policy of host names alone needs none: what it
    looks up is answered by the resolver, which has the machine's /etc/hosts in mind."""
    return is_private(policy) or policy.hostname is not None


def option_of(policy: Policy) -> str:
    """The option for which some files show something else than what they hold; or nothing."""
    return "private_proc" if is_private(policy) else "hostname" if policy.hostname is not None else ""


def hostname_of(policy: Policy) -> bytes:
    """The machine's name as the program is to see it; empty for the real one."""
    from os import fsencode

    return fsencode(policy.hostname or (HOSTNAME if is_private(policy) else ""))


def traps(policy: Policy) -> list[tuple[str, str, str]]:
    """(system call, rule, reason) of what the supervisor has to answer."""
    wanted = []
    if hostname_of(policy):
        option = "private_proc" if policy.hostname is None else "hostname"
        wanted.append(("uname", "tell_names", f"{option}: the machine has a name of the sandbox's own"))
    if is_private(policy):
        reason = "private_proc: it would tell what the machine is busy with"
        wanted.append(("sysinfo", "tell_resources", reason))
    return wanted
