"""What a callback is asked (events), what it answers (verdicts), and what is written down of it (denials).

Every fact of an event was read once, and is what the call will act on or be ended by: `binding` says how.
"""

from __future__ import annotations

from os import fsdecode

from . import syscalls
from ._net_rules import UNIX, protocol_name
from ._record import field, record
from .errors import SandlockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from ._exec_rules import ExecRule
    from ._net_rules import NetRule

__all__ = [
    "CAUSES",
    "Allow",
    "Bind",
    "Connect",
    "Denial",
    "Deny",
    "Event",
    "Exec",
    "ExecDecision",
    "Kill",
    "Listen",
    "Send",
    "denial_of",
    "exec_event",
    "logged_denial",
    "network_event",
    "read_on_timeout",
    "read_verdict",
]

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
    rule: str = ""
    """The rule of `exec_ask` that sent it here; "" if none decides."""
    syscall: str = "execve"
    category: Literal["process"] = "process"
    binding: Literal["attested"] = "attested"
    """What the kernel loaded is compared with these facts before its first instruction; another program is killed."""
    argv_bytes: tuple[bytes, ...] = field(repr=False, default=())


@record
class _Network:
    """What all calls of the network have in common."""

    protocol: Literal["tcp", "udp", "icmp", "unix"]
    ip: str = ""
    """The address; IPv4 in IPv6 is written as IPv4, and 0.0.0.0 as the loopback that it reaches. "" for "unix"."""
    port: int = 0
    scope_id: int = 0
    """The interface of a link-local IPv6 address."""
    path: str = ""
    """Of "unix": the socket's file without links, or its abstract name."""
    abstract: bool = False
    pid: int = 0
    """The process."""
    tid: int = 0
    """The thread that asks."""
    syscall: str = ""
    category: Literal["network"] = "network"
    binding: Literal["on-behalf"] = "on-behalf"
    """The supervisor makes the call itself, from its own copy of the address, on the program's socket."""

    @property
    def target(self) -> str:
        """The destination as a rule names it: "tcp://127.0.0.1:443", "unix:/run/x.sock"."""
        return target_of(self.protocol, self.ip, self.port, self.path, self.abstract)


@record
class Connect(_Network):
    """A program wants to connect: connect(2), also of UDP sockets, whose later sends go there unasked."""


@record
class Send(_Network):
    """A program wants to send a datagram to somebody it is not connected to: sendto(2), sendmsg(2), sendmmsg(2)."""

    size: int = 0
    """Bytes, where the call says it in a register (sendto); else 0."""


@record
class Bind(_Network):
    """A program wants an address of its own: bind(2)."""


@record
class Listen(_Network):
    """A program wants to take connections: listen(2). Port 0: on one of the kernel's choice."""


Event = Exec | Connect | Send | Bind | Listen


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
class ExecDecision:
    """What exec rules say of a command, from `Sandbox.check_exec`."""

    decision: str
    """"allow", "ask" or "deny"."""
    exe: str
    """The file that would run, without links."""
    rule: str = ""
    """The rule that decides; "" if none does."""
    reason: str = ""
    """The rule's own."""


@record
class Denial:
    """A call that was denied, and why."""

    kind: str
    """What was asked for: "exec", "connect", "send", "bind", "listen"."""
    target: str
    """The file; or the destination as a rule names it."""
    argv: tuple[str, ...]
    """The words; those that were denied without a question are kept up to 480 bytes."""
    cause: str
    """"rule" (it denies), "no-rule" (none allows it), "verdict" (the callback's), "no-opinion" (it answered None),
    "callback-error", "timeout", "full" (too much waits
    already), "nobody-listens", "changed" (the facts changed while they were judged), "attestation" (the kernel loaded
    another program; killed), "unreadable", "no-ptrace"."""
    reason: str
    errno: int
    """What the call failed with; 0 when the process was killed."""
    pid: int
    rule: str = ""
    """The policy's rule that denied it."""
    count: int = 1
    """How often the same was denied without a question."""
    fix: str = ""
    """The smallest grant that would allow it, as a keyword; "" where no rule can."""


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
    ("no-rule", "no rule of the policy allows it"),
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


# From the core's bytes ------------------------------------------------------------------------------------------------

OPERATIONS = ("exec", "connect", "send", "bind", "listen")
"""By number, as the core has them (_destinations.pxd)."""
_EVENTS: dict[int, type[Connect | Send | Bind | Listen]] = {1: Connect, 2: Send, 3: Bind, 4: Listen}


def _address(packed: bytes) -> str:
    if not packed:
        return ""
    from _socket import AF_INET, AF_INET6, inet_ntop  # only who has a network needs it

    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def target_of(protocol: str, ip: str, port: int, path: str, abstract: bool) -> str:
    """A destination as a rule names it."""
    if protocol == "unix":
        return f"unix:@{path}" if abstract else f"unix:{path}"
    host = f"[{ip}]" if ":" in ip else ip
    return f"{protocol}://{host}" if protocol == "icmp" else f"{protocol}://{host}:{port}"


def exec_event(
    rule: str,
    syscall: str,
    tid: int,
    pid: int,
    path: bytes,
    exe: bytes,
    cwd: bytes,
    interpreter: list[bytes],
    argv: list[bytes],
) -> Exec:
    """The event of an exec, from what the core read of it."""
    return Exec(
        argv=tuple(map(fsdecode, argv)),
        exe=fsdecode(exe),
        path=fsdecode(path),
        interpreter=tuple(map(fsdecode, interpreter)),
        cwd=fsdecode(cwd),
        pid=pid,
        tid=tid,
        rule=rule,
        syscall=syscall,
        argv_bytes=tuple(argv),
    )


def network_event(
    operation: int,
    syscall: str,
    tid: int,
    pid: int,
    protocol: int,
    address: bytes,
    port: int,
    path: bytes,
    abstract: bool,
    scope_id: int,
    size: int,
) -> Connect | Send | Bind | Listen:
    """The event of a socket call, from what the core read of it."""
    facts = {"size": size} if operation == OPERATIONS.index("send") else {}
    return _EVENTS[operation](
        protocol=protocol_name(protocol),  # type: ignore[arg-type]
        ip=_address(address),
        port=port,
        path=fsdecode(path),
        abstract=abstract,
        scope_id=scope_id,
        pid=pid,
        tid=tid,
        syscall=syscall,
        **facts,  # type: ignore[arg-type]
    )


def denial_of(event: Event, verdict: Verdict) -> Denial:
    """What is written down of an event that a verdict denied."""
    kind = type(event).__name__.lower()
    if isinstance(event, Exec):
        target, argv, fix = event.exe, event.argv, ""
    else:
        target, argv, fix = event.target, (), _fix(kind, event.target, event.port)
    return Denial(
        kind=kind,
        target=target,
        argv=argv,
        cause=verdict.cause,
        reason=verdict.reason,
        errno=verdict.errno,
        pid=event.pid,
        fix=fix,
    )


def _fix(kind: str, target: str, port: int) -> str:
    if kind not in ("bind", "listen"):
        return f"net_allow={target!r}"
    if target.startswith("unix:"):
        return f"net_allow_bind={target!r}"
    ports = str(port) if port else "*"
    return f"net_allow_bind={('udp://' if target.startswith('udp:') else '') + ports!r}"


def logged_denial(
    arch: str,
    net_rules: tuple[NetRule, ...],
    exec_rules: tuple[ExecRule, ...],
    operation: int,
    cause: int,
    rule: int,
    error: int,
    number: int,
    pid: int,
    count: int,
    at_ms: int,
    text: bytes,
    endpoint: tuple[int, bytes, int, bytes, bool],
) -> Denial:
    """A denial that the core wrote down; its rule is a number of those."""
    name, meaning = CAUSES[cause]
    kind = OPERATIONS[operation]
    argv: list[bytes] = []
    rules: tuple[NetRule | ExecRule, ...] = exec_rules if kind == "exec" else net_rules
    decided = rules[rule] if 0 <= rule < len(rules) else None
    fix, by = "", "" if decided is None else decided.text
    own = getattr(decided, "reason", "")
    if kind == "exec":
        target, *argv = text.split(b"\0")
        if argv and not argv[-1]:
            argv.pop()
        shown = fsdecode(target)
    else:
        protocol, address, port, path, abstract = endpoint
        known = protocol_name(protocol) if protocol else syscalls.name(number, arch) or "unknown"
        shown = target_of(known, _address(address), port, fsdecode(path), abstract)
        fix = _fix(kind, shown, port) if protocol and not by else ""
        if protocol == UNIX and not path:
            shown = "unix:"
    return Denial(
        kind=kind,
        target=shown,
        argv=tuple(map(fsdecode, argv)),
        cause=name,
        reason=own or (f"{meaning}: {by}" if by else meaning),
        errno=error,
        pid=pid,
        rule=by,
        count=count,
        fix=fix,
    )
