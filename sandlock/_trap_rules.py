"""What the supervisor answers of a plan's system calls."""

from __future__ import annotations

from ._record import record

__all__ = ["TrapRule"]


@record
class TrapRule:
    """A syscall that the supervisor answers. `rule` is a word of the core; `value` its errno, value, descriptor or
    handler."""

    syscall: str
    nr: int
    rule: str
    reason: str
    value: int = 0
