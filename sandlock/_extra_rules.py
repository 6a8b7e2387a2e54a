"""The system calls that a policy denies or allows beyond what everybody gets, and which it may.

Values in, values out.
"""

from __future__ import annotations

from . import syscalls
from ._values import did_you_mean
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["GRANTABLE", "NEEDED_BY_LAUNCH", "extra_allowed", "extra_denied"]

NEEDED_BY_LAUNCH = frozenset(
    (
        "close", "close_range", "dup3", "fcntl",  # descriptors
        "chdir", "ioctl", "ppoll",  # the place it starts in, and the wait for what to execute
        "sendto", "write", "exit", "exit_group",  # the report of a failure
        "execve", "futex", "restart_syscall", "rt_sigprocmask", "rt_sigreturn",
    )
)  # fmt: skip
"""What the guest's process calls between its filter and its program; these cannot be denied."""

GRANTABLE = {
    "sysv_ipc": "shares memory, semaphores and queues with all processes of the host",
    "posix_mq": "shares message queues with all processes of the host",
    "io_uring": "opens the network: its requests pass no filter, so UDP, unix and other sockets and TCP Fast "
    "Open work; Landlock still decides about files and TCP connect and bind",
    "aio": "writes the program's memory while it is stopped: arguments can change after they were judged",
    "secret_memory": "calls with arguments in such memory are denied",
    "process_reaping": "none known; it ends processes that are dying already",
    "mount_information": "shows the host's mounts",
    "persona": "switches address randomisation off",
    "scheduling": "slows down or pins other processes of the same user, sandlock's own too",
    "keyrings": "reads and changes the keys of the user's session",
    "profiling": "measures the kernel and, with capabilities, other processes",
    "user_faults": "makes page faults wait, also those of a supervisor that reads the program's memory",
    "file_events": "watches what other programs do with files that can be opened",
    "segments": "widens what of the kernel can be attacked",
    "kernel_log": "shows the kernel's log",
    "clocks": "sets the clock of the machine, if CAP_SYS_TIME is kept",
}
"""Groups that `extra_allow_syscalls` may turn on, and what that costs. All others stay denied whatever a
policy says: they would open the sandbox."""


def _members(field_name: str, word: str) -> tuple[str, ...]:
    try:
        return syscalls.expand(word)
    except KeyError:
        fix = did_you_mean(word, (*syscalls.GROUPS, *syscalls.TABLE))
        raise PolicyError(
            f"{field_name}: {word!r} is no system call or group of them; {fix}", field=field_name
        ) from None


def extra_denied(words: Iterable[str], trapped: set[str]) -> set[str]:
    """The syscalls to deny. Raises PolicyError for those that cannot be."""
    field_name = "extra_deny_syscalls"
    denied: set[str] = set()
    for word in words:
        for name in _members(field_name, word):
            if name in NEEDED_BY_LAUNCH:
                raise PolicyError(
                    f"{field_name}: {word!r} would deny {name}, which the launch needs once the filter is "
                    "in force; name the other calls one by one",
                    field=field_name,
                )
            if name in trapped:
                raise PolicyError(
                    f"{field_name}: {word!r} would deny {name}, which another option has the supervisor "
                    "answer (max_processes, record_execs or net_allow_bind); drop one of the two",
                    field=field_name,
                )
            denied.add(name)
    return denied


def extra_allowed(words: Iterable[str]) -> tuple[set[str], tuple[str, ...]]:
    """The syscalls to allow, and what that risks. Raises PolicyError for those that would open the
    sandbox."""
    field_name = "extra_allow_syscalls"
    allowed: set[str] = set()
    risks: dict[str, None] = {}
    for word in words:
        names = _members(field_name, word)
        group = syscalls.TABLE[names[0]].group
        default, reason = syscalls.GROUPS[group].default, syscalls.GROUPS[group].reason
        if default == "allow":
            continue
        if group not in GRANTABLE:
            raise PolicyError(
                f"{field_name}: {word!r} cannot be allowed, it would open the sandbox: {reason}; "
                "can be allowed: " + ", ".join(GRANTABLE),
                field=field_name,
            )
        allowed.update(names)
        risks[f"{word}: {GRANTABLE[group]}"] = None
    return allowed, tuple(risks)
