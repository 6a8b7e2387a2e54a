"""What a callback is asked (events), what it answers (verdicts), and what is written down of it (denials).

Every fact of an event was read once, and is what the call will act on or be ended by: `binding` says how.
"""

from __future__ import annotations

from ._record import field, record
from .errors import SandlockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = ["CAUSES", "Allow", "Denial", "Deny", "Exec", "Kill", "read_on_timeout", "read_verdict"]

EACCES = 13


@record
class Exec:
    """A process of the tree wants to execute a program: execve(2), execveat(2)."""

    argv: tuple[str, ...]
    """The words, all of them, decoded as file names are (`os.fsdecode`)."""
    exe: str
    """The file that is named, without links: what will run, or the script that its interpreter will read."""
    path: str
    """The file as the call names it."""
    interpreter: tuple[str, ...] = ()
    """Of a script: what the kernel puts in place of argv[0], by its `#!` line (program, argument, script)."""
    cwd: str = ""
    pid: int = 0
    """The process."""
    tid: int = 0
    """The thread that asks."""
    syscall: str = "execve"
    category: Literal["process"] = "process"
    binding: Literal["attested"] = "attested"
    """What the kernel loaded is compared with these facts before its first instruction; another program is killed."""
    argv_bytes: tuple[bytes, ...] = field(repr=False, default=())


@record(kw_only=False)
class Allow:
    """Let the call happen."""


@record(kw_only=False)
class Deny:
    """The call fails with `errno`; the program goes on."""

    reason: str = "denied by the policy's callback"
    errno: int = EACCES


@record(kw_only=False)
class Kill:
    """The process is killed."""

    reason: str = "killed by the policy's callback"


@record
class Denial:
    """A call that was denied, and why."""

    kind: str
    """What was asked for: "exec"."""
    target: str
    """The file."""
    argv: tuple[str, ...]
    """The words; those that were denied without a question are kept up to 480 bytes."""
    cause: str
    """"verdict" (the callback's), "no-opinion" (it answered None), "callback-error", "timeout", "full" (too much waits
    already), "nobody-listens", "changed" (the facts changed while they were judged), "attestation" (the kernel loaded
    another program; killed), "unreadable", "no-ptrace"."""
    reason: str
    errno: int
    """What the call failed with; 0 when the process was killed."""
    pid: int


CAUSES = (
    ("", ""),
    ("rule", "a rule of the policy denies it"),
    ("verdict", ""),
    ("timeout", "nobody answered within policy_timeout"),
    ("full", "too many calls wait for a verdict, or their arguments are too large"),
    ("nobody-listens", "nobody listened for questions any more"),
    ("changed", "the program changed the call's arguments, or its file, while they were judged"),
    ("attestation", "the kernel loaded another program, or other arguments, than what was approved"),
    ("unreadable", "the call could not be looked at"),
    ("no-ptrace", "ptrace(2) is refused here, so that an exec cannot be attested; allow it in the container's profile"),
)
"""By number, as the core has them (_slots.pxd): the cause, and what it means."""

ACT_DENY, ACT_ALLOW, ACT_KILL = range(3)
CAUSE_VERDICT = 2


class Verdict:
    """What the core does with a callback's answer, and what is written down of it."""

    __slots__ = ("act", "cause", "errno", "reason")

    def __init__(self, act: int, errno: int = 0, cause: str = "", reason: str = "") -> None:
        self.act = act
        self.errno = errno
        self.cause = cause
        self.reason = reason


def read_verdict(answer: object) -> Verdict:
    """What a callback's answer means. Whatever is no verdict denies, and says so: True means different things to
    different people."""
    match answer:
        case Allow():
            return Verdict(ACT_ALLOW)
        case Deny(reason=str(reason), errno=int(errno)) if 0 < errno < 4096:
            return Verdict(ACT_DENY, errno, "verdict", reason)
        case Kill(reason=reason):
            return Verdict(ACT_KILL, 0, "verdict", str(reason))
        case None:
            return Verdict(ACT_DENY, EACCES, "no-opinion", "the callback has no opinion, and no rule allows it")
        case BaseException():
            return Verdict(ACT_DENY, EACCES, "callback-error", f"the callback raised {answer!r}")
    return Verdict(
        ACT_DENY, EACCES, "callback-error", f"the callback answered {answer!r}; answer Allow(), Deny(), Kill() or None"
    )


def read_on_timeout(answer: object) -> tuple[int, int]:
    """(act, errno) of the `on_timeout` of a sandbox. Raises SandlockError for what is no verdict."""
    if not isinstance(answer, Allow | Deny | Kill):
        raise SandlockError(f"on_timeout: {answer!r} is no verdict; give Deny(), Allow() or Kill()")
    verdict = read_verdict(answer)
    return verdict.act, verdict.errno
