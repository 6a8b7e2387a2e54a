"""Which system calls can have a handler, and what that makes of a plan's answers.

Rules: a handler is asked about what the filter would have allowed, and nothing else; it never takes a call away from a
rule of ours; a call that it could not be asked about soundly is refused here, with the reason, and never silently.
"""

from __future__ import annotations

from . import _filter, syscalls
from ._trap_rules import TrapRule
from ._values import did_you_mean
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._filter import Answer

__all__ = ["handle_rules", "handled_answers"]

_EXEC = "what runs is decided by exec_deny, exec_ask and exec_allow, or by policy_fn"
_FORK = "a fork that is interrupted is not tried again; use max_processes, or ask_forks with policy_fn"
_CLOSE = "no program expects it to fail, or tries it again"
_VDSO = "programs read the clock without a system call (vdso(7)), so a handler would hardly ever be called"

REFUSED = {
    "execve": _EXEC,
    "execveat": _EXEC,
    "fork": _FORK,
    "vfork": _FORK,
    "clone": _FORK,
    "exit": "it does not return",
    "exit_group": "it does not return",
    "rt_sigreturn": "it does not return, and its arguments are the whole state of the caller",
    "restart_syscall": "the kernel makes it, in place of another call",
    "close": _CLOSE,
    "close_range": _CLOSE,
    "futex": "locks wait for each other in it, and C libraries end a program whose futex fails",
    "rt_sigprocmask": "C libraries guard their own state with it, and do not expect it to fail",
    "clock_gettime": _VDSO,
    "clock_getres": _VDSO,
    "gettimeofday": _VDSO,
    "time": _VDSO,
    "getcpu": _VDSO,
}
"""Never handled, and why."""

INSTEAD = {
    "vet_exec": _EXEC,
    "vet_socket": "the supervisor makes this call itself; decide about it with net_allow, net_deny, net_allow_bind or "
    "policy_fn",
    "vet_open": "ask_opens has the supervisor make this call itself; decide about it in policy_fn",
    "vet_write": "ask_opens has the supervisor make this call itself; decide about it in policy_fn",
    "path": "the supervisor makes this call itself, inside the grants; disable=['fs-metadata'] leaves it to a handler, "
    "without fs_denied",
    "listen": "net_allow_bind has the supervisor make it; decide about it there, or with policy_fn",
    "observe_start": "record_execs looks at it; drop one of the two",
    "add_restart": "max_processes or ask_forks need it; drop one of the two",
}
"""What to use where a rule of ours answers the call, by rule."""


def handle_rules(names: Iterable[str], arch: str, own: Iterable[TrapRule]) -> tuple[TrapRule, ...]:
    """A rule for each call that has a handler. `own`: those that the plan has for reasons of its own. Raises
    PolicyError."""
    rules = {rule.syscall: rule.rule for rule in own}
    reason = "handlers: a handler answers it, where it would be allowed"
    return tuple(
        TrapRule(syscall=name, nr=_checked(name, arch, rules), rule="handle", reason=reason, value=value)
        for value, name in enumerate(names)
    )


def _checked(name: str, arch: str, rules: Mapping[str, str]) -> int:
    """The number of a call that can have a handler."""
    if name not in syscalls.TABLE:
        fix = did_you_mean(name, tuple(syscalls.TABLE)) if isinstance(name, str) else "give its name as text"
        raise PolicyError(f"handlers: {name!r} is no system call; {fix}", field="handlers")
    number = syscalls.number(name, arch)
    if number is None:
        raise PolicyError(f"handlers: {arch} has no system call {name}", field="handlers")
    why = REFUSED.get(name)
    if why is None and name in rules:
        why = INSTEAD.get(rules[name], "another option of the policy has the supervisor answer it")
    if why is not None:
        raise PolicyError(f"handlers: {name} cannot have a handler: {why}", field="handlers")
    return number


def handled_answers(answers: dict[str, Answer], names: tuple[str, ...]) -> None:
    """Has the supervisor be asked wherever these calls would be allowed. Raises PolicyError for one that is denied."""
    for name in names:
        answer = answers[name]
        if isinstance(answer, int):
            asked: Answer = _ask(answer)
        else:
            cases, otherwise = answer
            asked = tuple((conditions, _ask(action)) for conditions, action in cases), _ask(otherwise)
        if asked == answer:
            raise PolicyError(
                f"handlers: {name} cannot have a handler: the policy denies it ({syscalls.TABLE[name].reason}), and a "
                "handler cannot allow what is denied",
                field="handlers",
            )
        answers[name] = asked


def _ask(action: int) -> int:
    return _filter.NOTIFY if action == _filter.ALLOW else action
