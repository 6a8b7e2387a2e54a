"""What `ask_opens` makes of the system calls that open files: which are trapped, and which the filter lets pass.

Values in, values out.
"""

from __future__ import annotations

from . import _filter, syscalls
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._filter import Answer

__all__ = ["adjust", "traps"]

OPENS = ("open", "openat", "openat2", "creat")
RULES = {"write": "vet_write", "all": "vet_open"}
"""The core's word, by what the policy asks about."""
PAST_THE_FILTER = {
    "io_uring_setup": "io_uring (extra_allow_syscalls) opens files past every filter",
    "io_uring_enter": "io_uring (extra_allow_syscalls) opens files past every filter",
    "io_uring_register": "io_uring (extra_allow_syscalls) opens files past every filter",
    "fanotify_init": "fanotify (extra_allow_syscalls) gives who has CAP_SYS_ADMIN what others open",
}
"""Calls that open files, or give them, without an open that the filter sees; and how."""

# asm-generic/fcntl.h; the same on both architectures
O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND, O_PATH, O_TMPFILE_BIT = 0o3, 0o100, 0o1000, 0o2000, 0o10000000, 0o20000000
WRITES = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_TMPFILE_BIT
"""Flags without which an open changes nothing."""


def traps(which: str | None, vet: bool) -> list[tuple[str, str, str]]:
    """(system call, rule, reason) of what the supervisor has to see. Raises PolicyError where nobody answers."""
    if which is None:
        return []
    if not vet:
        raise PolicyError("ask_opens: there is nobody to ask; give a policy_fn", field="ask_opens")
    return [(name, RULES[which], f"ask_opens={which}: opens are decided, and made by the supervisor") for name in OPENS]


def adjust(answers: dict[str, Answer], which: str | None, allowed: set[str]) -> None:
    """Has the filter pass what needs no question: opens with O_PATH, which open nothing, and for "write" those whose
    flags write nothing. creat always writes, and the flags of openat2 lie in memory. Raises PolicyError where a call
    that the policy allows would open files unseen."""
    if which is None:
        return
    for name, how in PAST_THE_FILTER.items():
        if name in allowed:
            raise PolicyError(f"ask_opens: {how}; drop one of the two", field="ask_opens")
    for name, argument in (("open", 1), ("openat", 2)):
        if name in answers:
            no_path = ((_filter.any_bit(argument, O_PATH),), _filter.ALLOW)
            writing = ((_filter.any_bit(argument, WRITES),), _filter.NOTIFY)
            every, some = ((no_path,), _filter.NOTIFY), ((no_path, writing), _filter.ALLOW)
            answers[name] = every if which == "all" else some
    # The supervisor opens in the run's domain: one that the program adds inside would not hold for that.
    answers.update(dict.fromkeys(answers.keys() & set(syscalls.GROUPS["landlock"].members), _filter.errno(38)))
