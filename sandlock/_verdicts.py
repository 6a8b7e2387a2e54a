"""What a callback's answer means to the core.

Rules: whatever is no verdict denies, and says so; nothing of an answer is called but its repr().
"""

from __future__ import annotations

from .errors import SandlockError
from .events import Allow, Audit, Deny, Kill

__all__ = [
    "ACT_ALLOW",
    "ACT_AUDIT",
    "ACT_DENY",
    "ACT_KILL",
    "ACT_WAIT",
    "EACCES",
    "Verdict",
    "read_on_timeout",
    "read_verdict",
    "shown",
]

EACCES = 13
LONGEST_REPR = 500
DENY_CAUSES = ("verdict", "timeout", "nobody-listens")
ACT_DENY, ACT_ALLOW, ACT_KILL, ACT_AUDIT, ACT_WAIT = range(5)
"""By number, as the core has them (enum Act in _slots.pxd)."""


class Verdict:
    """What the core does with a callback's answer, and what is written down of it."""

    __slots__ = ("act", "by", "cause", "errno", "reason", "scope", "words")

    def __init__(
        self,
        act: int,
        errno: int = 0,
        cause: str = "",
        reason: str = "",
        scope: str = "once",
        words: int = -1,
        by: str = "",
    ) -> None:
        self.act = act
        self.errno = errno
        self.cause = cause
        """Of a denial."""
        self.reason = reason
        self.scope = scope
        self.words = words
        """As Allow has it; -1 for None."""
        self.by = by

    @property
    def allows(self) -> bool:
        """Whether the call may happen."""
        return self.act in (ACT_ALLOW, ACT_AUDIT)


def read_verdict(answer: object) -> Verdict:
    """What a callback's answer means. Whatever is no verdict denies, and says so: True means different things to
    different people. Never raises, whatever the answer does: nothing of it is called but its repr()."""
    kind = type(answer)  # not isinstance: objects (mocks do) may lie about their class
    if answer is None:
        return Verdict(ACT_DENY, EACCES, "no-opinion", "the callback has no opinion, and no rule allows it")
    if issubclass(kind, BaseException):
        return Verdict(ACT_DENY, EACCES, "callback-error", f"the callback raised {shown(answer)}")
    verdict = None
    if kind is Allow:
        verdict = _read_allow(answer)  # type: ignore[arg-type]
    elif kind is Audit and (reason := _text(answer.reason)) is not None:  # type: ignore[attr-defined]
        verdict = Verdict(ACT_AUDIT, reason=reason)
    elif kind is Deny:
        reason, errno = _text(answer.reason), _number(answer.errno)  # type: ignore[attr-defined]
        cause = _text(answer.cause)  # type: ignore[attr-defined]
        if reason is not None and errno is not None and 0 < errno < 4096 and cause in DENY_CAUSES:
            verdict = Verdict(ACT_DENY, errno, cause, reason)
    elif kind is Kill:
        reason = _text(answer.reason)  # type: ignore[attr-defined]
        verdict = Verdict(ACT_KILL, 0, "verdict", shown(answer) if reason is None else reason)
    if verdict is not None:
        verdict.by = _text(answer.by) or ""  # type: ignore[attr-defined]
        return verdict
    wanted = "answer Allow(), Audit(), Deny(), Kill() or None"
    return Verdict(ACT_DENY, EACCES, "callback-error", f"the callback answered {shown(answer)}; {wanted}")


def _read_allow(answer: Allow) -> Verdict | None:
    scope, words = _text(answer.scope), _number(answer.words)
    if scope == "once" and answer.words is None:
        return Verdict(ACT_ALLOW)
    if scope not in ("run", "sandbox") or (answer.words is not None and (words is None or words <= 0)):
        return None
    return Verdict(ACT_ALLOW, scope=scope, words=-1 if words is None else words)


def _text(value: object) -> str | None:
    """It as a plain str, None if it is none: what a class derived from str says of itself does not count."""
    return str.__str__(value) if issubclass(type(value), str) else None


def _number(value: object) -> int | None:
    return int.__int__(value) if issubclass(type(value), int) else None  # type: ignore[arg-type]


def shown(answer: object) -> str:
    """Its repr(), of a sane length; of what has none, its class."""
    try:
        text = repr(answer)
    except BaseException:  # it is not ours, and may do anything
        text = f"a {type.__repr__(type(answer))} without a repr()"
    return text if len(text) <= LONGEST_REPR else text[:LONGEST_REPR] + "..."


def read_on_timeout(answer: object) -> tuple[int, int]:
    """(act, errno) of the `on_timeout` of a sandbox. Raises SandlockError for what is no verdict."""
    if type(answer) is str and answer == "wait":
        return ACT_WAIT, 0
    if type(answer) not in (Allow, Audit, Deny, Kill):
        raise SandlockError(f'on_timeout: {answer!r} is no verdict; give Deny(), Allow(), Audit(), Kill() or "wait"')
    verdict = read_verdict(answer)
    return verdict.act, verdict.errno
