"""What is written down of calls that were denied: what was asked for, who or what denied it, what would allow it.

Rules: values in, values out; the facts are those that the call was judged by.
"""

from __future__ import annotations

from os import fsdecode

from . import syscalls
from ._net_rules import UNIX, protocol_name
from ._path_rules import METADATA
from ._record import fields, record, replace
from .events import OPERATIONS, Exec, Fork, Open, Resolve, address_text, target_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._exec_rules import ExecRule
    from ._lookups import Lookups
    from ._net_rules import NetRule
    from ._verdicts import Verdict
    from .events import Event

__all__ = [
    "CAUSES",
    "Audited",
    "Denial",
    "audited_like",
    "audited_of",
    "denial_of",
    "endpoint_target",
    "exec_fixes",
    "fixes",
    "grant_fixes",
    "logged_denial",
    "path_fixes",
    "resolve_denial",
    "rule_of",
]

FILES = ("open", "path")
"""Kinds that are about a file."""
PATH_RULES, NO_GRANT = 1 << 20, -2  # _path_table.pxd
DENIAL_TEXT = 480  # as the core keeps of it (_slots.pxd)


@record
class Denial:
    """A call that was denied, and why."""

    kind: str
    """What was asked for: "exec", "connect", "send", "bind", "listen", "fork", "open", "path" (another call about a
    file), "resolve", "handler"."""
    target: str
    """The file; the destination as a rule names it; of a fork, and of what a handler answers, the system call; or the
    name that was looked up."""
    argv: tuple[str, ...]
    """The words; those that were denied without a question are kept up to 480 bytes."""
    cause: str
    """"rule" (it denies), "no-rule" (none allows it), "verdict" (the callback's), "no-opinion" (it answered None),
    "callback-error", "timeout", "full" (too much waits
    already), "nobody-listens", "changed" (the facts changed while they were judged), "attestation" (the kernel loaded
    another program; killed), "unreadable", "no-ptrace", "audit" (it could not be recorded); "handler" (its own
    answer), "handler-error" (it raised, or answered no action), "memory-read" (it has read memory that the kernel would
    read again, and answered Continue()); of a lookup
    also "lookup-failed" (the host has no address) and "rebinding" (a stranger's name that leads inside)."""
    reason: str
    errno: int
    """What the call failed with; 0 when the process was killed, and for lookups, which no call is."""
    pid: int
    rule: str = ""
    """The policy's rule that denied it."""
    count: int = 1
    """How often the same was denied without a question."""
    fix: str = ""
    """The smallest grant that would allow it, as a keyword; "" where no rule can."""
    fix_flag: str = ""
    """The same as flags of `sandlock run`, ready for a shell."""
    time: float = 0.0
    """When it was denied, of several the first: seconds since the epoch."""
    latency: float = 0.0
    """Seconds from the call to the denial."""
    chain: tuple[str, ...] = ()
    """The files of the processes above, nearest first, inside the tree. Advice, not proof: they are looked up one after
    the other, and a process whose parent has ended has none above it."""
    host: str = ""
    """The name by which the tree looked the destination up last; "" if it did not."""
    syscall: str = ""
    """Of what was denied without a question about a file: the system call."""
    by: str = ""
    """Who denied it, where the verdict says so."""


@record
class Audited:
    """A call that an Audit() has allowed."""

    kind: str
    """As in Denial."""
    target: str
    """The file, the destination, the system call or the name, as in Denial."""
    argv: tuple[str, ...]
    """Of an exec, the words; by `on_timeout`, up to 480 bytes of them."""
    reason: str
    """What the Audit() says."""
    pid: int
    cause: str = "verdict"
    """"verdict" (the callback's) or "timeout" (`on_timeout`)."""
    count: int = 1
    """How often the same was allowed, for the same reason."""
    time: float = 0.0
    """When it was allowed, of several the first: seconds since the epoch."""
    latency: float = 0.0
    """Seconds from the call until then."""
    chain: tuple[str, ...] = ()
    """The files of the processes above, as in Denial."""
    host: str = ""
    """The name by which the tree looked the destination up last; "" if it did not."""
    by: str = ""
    """Who allowed it, where the verdict says so."""


CAUSES = (
    ("", ""),
    ("rule", "a rule of the policy denies it"),
    ("verdict", ""),
    ("timeout", "nobody answered within policy_timeout"),
    ("full", "too many calls wait for a verdict, or their arguments are too large"),
    ("nobody-listens", "nobody listened for questions any more, or the supervisor's task that was at it died"),
    ("changed", "the program changed the call's arguments, or its file, while they were judged"),
    ("attestation", "the kernel loaded another program, or other arguments, than what was approved"),
    ("unreadable", "the call could not be looked at"),
    ("no-ptrace", "ptrace(2) is refused here, so that an exec cannot be attested; allow it in the container's profile"),
    ("no-rule", "no rule of the policy allows it"),
    ("audit", "it could not be recorded, and on_audit_failure says that then nothing is allowed"),
    ("approved", "a verdict has allowed what is like it for the run, or for the sandbox"),
    ("handler", "a handler answered so"),
    ("handler-error", "what the handler answered is no action, or could not be done"),
    (
        "memory-read",
        "the handler has read the program's memory, which the kernel would read again, and answered Continue()",
    ),
)
"""By number, as the core has them (_slots.pxd): the cause, and what it means."""


def denial_of(event: Event, verdict: Verdict, *, time: float, latency: float, chain: list[bytes]) -> Denial:
    """What is written down of an event that a verdict denied."""
    if isinstance(event, Resolve):
        return replace(resolve_denial(event.name, verdict.cause, verdict.reason, "", event.pid), by=verdict.by)
    kind, target, argv, host = _about(event)
    fix = ("", "") if isinstance(event, Exec | Fork | Open | Resolve) else fixes(kind, target, event.port, host)
    return Denial(
        kind=kind,
        target=target,
        argv=argv,
        cause=verdict.cause,
        reason=verdict.reason,
        errno=verdict.errno,
        pid=event.pid,
        fix=fix[0],
        fix_flag=fix[1],
        host=host,
        time=time,
        latency=latency,
        chain=tuple(map(fsdecode, chain)),
        by=verdict.by,
    )


def audited_of(
    event: Event,
    reason: str,
    *,
    time: float,
    latency: float = 0.0,
    chain: list[bytes],
    cause: str = "verdict",
    by: str = "",
) -> Audited:
    """What is written down of an event that an Audit() allowed."""
    kind, target, argv, host = _about(event)
    return Audited(
        kind=kind,
        target=target,
        argv=argv,
        reason=reason,
        pid=event.pid,
        cause=cause,
        time=time,
        latency=latency,
        chain=tuple(map(fsdecode, chain)),
        host=host,
        by=by,
    )


def audited_like(denial: Denial) -> Audited:
    """The same facts of a call that was allowed after all: by `on_timeout`, without Python."""
    return Audited(**{each.name: getattr(denial, each.name) for each in fields(Audited)})


def _about(event: Event) -> tuple[str, str, tuple[str, ...], str]:
    """Kind, target, words and host name of an event."""
    kind = type(event).__name__.lower()
    if isinstance(event, Fork):
        return kind, event.syscall, (), ""
    if isinstance(event, Exec):
        return kind, event.exe, event.argv, ""
    if isinstance(event, Open):
        return kind, event.path, (), ""
    return kind, event.target, (), getattr(event, "host", "")


def resolve_denial(name: str, cause: str, reason: str, rule: str, pid: int) -> Denial:
    """What is written down of a lookup that was refused, or led nowhere."""
    none = cause in ("rule", "lookup-failed", "rebinding")
    return Denial(
        kind="resolve",
        target=name,
        argv=(),
        cause=cause,
        reason=reason,
        errno=0,
        pid=pid,
        rule=rule,
        fix="" if none else f"net_allow='{name}:443'",
        fix_flag="" if none else f"--net-allow {name}:443",
        host=name,
    )


def fixes(kind: str, target: str, port: int, host: str = "") -> tuple[str, str]:
    """The smallest grant that allows a call of the network, as a keyword and as a flag."""
    from shlex import quote  # only denials need it

    if host:
        protocol = target.partition("://")[0]
        shown = host if protocol == "icmp" or not port else f"{host}:{port}"
        target = shown if protocol == "tcp" else f"{protocol}://{shown}"
    if kind not in ("bind", "listen"):
        return f"net_allow={target!r}", f"--net-allow {quote(target)}"
    if not target.startswith("unix:"):
        target = ("udp://" if target.startswith("udp:") else "") + (str(port) if port else "*")
    return f"net_allow_bind={target!r}", f"--net-allow-bind {quote(target)}"


def path_fixes(path: str, syscall: str) -> tuple[str, str]:
    """The smallest grant that allows to change what is known of a file, or to watch it; "" where none does."""
    if syscall not in METADATA or path.startswith("/proc/"):
        return "", ""
    if syscall == "inotify_add_watch":
        return grant_fixes("fs_readable", "--fs-read", path)
    return grant_fixes("fs_writable", "--fs-write", path)


def grant_fixes(field: str, flag: str, path: str) -> tuple[str, str]:
    """The grant of a path, as a keyword and as a flag; "" for what cannot be written as one."""
    from shlex import quote  # only denials need it

    return (f"{field}={path!r}", f"{flag} {quote(path)}") if path[:1] == "/" and path.isprintable() else ("", "")


def exec_fixes(exe: str, argv: tuple[str, ...]) -> tuple[str, str]:
    """The rule that allows this exec alone, as a keyword and as a flag; "" where a word would mean more in a rule."""
    from shlex import join, quote

    words = (exe, *argv[1:])
    if any(not word.isprintable() or "*" in word or "#" in word for word in words):
        return "", ""
    return f"exec_allow={join(words)!r}", f"--exec-allow {quote(join(words))}"


def denied_by(fs_denied: tuple[str, ...], rule: int) -> str:
    """The rule of this number, also as it stands among others, in words: part of what was granted is denied."""
    rule -= PATH_RULES if rule >= PATH_RULES else 0
    return fs_denied[rule] if 0 <= rule < len(fs_denied) else ""


def endpoint_target(arch: str, number: int, endpoint: tuple[int, bytes, int, bytes, bool]) -> str:
    """Where a socket call leads, as a rule names it; of an unknown protocol by the name of the call."""
    protocol, address, port, path, abstract = endpoint
    if protocol == UNIX and not path:
        return "unix:"
    known = protocol_name(protocol) if protocol else syscalls.name(number, arch) or "unknown"
    return target_of(known, address_text(address), port, fsdecode(path), abstract)


def rule_of(
    kind: str,
    rule: int,
    exec_rules: tuple[ExecRule, ...],
    net_rules: tuple[NetRule, ...],
    fs_denied: tuple[str, ...],
) -> tuple[str, str]:
    """The rule of this number that decided about such a call, in words, and the reason that it gives; "" for none."""
    if kind in FILES or rule >= PATH_RULES:
        return denied_by(fs_denied, rule), ""
    rules: tuple[NetRule | ExecRule, ...] = exec_rules if kind == "exec" else net_rules
    decided = rules[rule] if 0 <= rule < len(rules) else None
    return ("", "") if decided is None else (decided.text, getattr(decided, "reason", ""))


def _looked_up(lookups: Lookups, address: bytes) -> tuple[str, str]:
    """By which name the tree found an address, and of which it found none."""
    names = sorted(lookups.without_address)[:3]
    return lookups.host_of(address), f"; no address was found of {', '.join(names)}" if names else ""


def logged_denial(
    arch: str,
    net_rules: tuple[NetRule, ...],
    exec_rules: tuple[ExecRule, ...],
    fs_denied: tuple[str, ...],
    operation: int,
    cause: int,
    rule: int,
    error: int,
    number: int,
    pid: int,
    count: int,
    time: float,
    latency: float,
    text: bytes,
    endpoint: tuple[int, bytes, int, bytes, bool],
    chain: list[bytes],
    *,
    lookups: Lookups | None = None,
) -> Denial:
    """A denial that the core wrote down; its rule is a number of those."""
    (name, meaning), kind = CAUSES[cause], OPERATIONS[operation]
    by, own = rule_of(kind, rule, exec_rules, net_rules, fs_denied)
    fix, host, call, argv = ("", ""), "", "", list[bytes]()
    if kind == "exec":
        shown, argv = fsdecode(text.split(b"\0")[0]), text.removesuffix(b"\0").split(b"\0")[1:]
        if rule == NO_GRANT:
            meaning, fix = "no grant allows it", grant_fixes("fs_readable", "--fs-read", shown)
        elif name == "no-rule" and len(text) < DENIAL_TEXT:
            fix = exec_fixes(shown, tuple(map(fsdecode, argv)))
    elif kind in FILES:
        shown, call = fsdecode(text), syscalls.name(number, arch) or ""
        if name == "no-rule":
            meaning, fix = f"{call}: no grant allows it", path_fixes(shown, call)
    elif kind in ("fork", "handler"):
        shown = syscalls.name(number, arch) or kind
    else:
        shown = endpoint_target(arch, number, endpoint)
        if lookups is not None and kind in ("connect", "send"):
            host, more = _looked_up(lookups, endpoint[1])
            meaning += more if name == "no-rule" else ""
        fix = fixes(kind, shown, endpoint[2], host) if endpoint[0] and not by else ("", "")
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
        fix=fix[0],
        fix_flag=fix[1],
        host=host,
        time=time,
        latency=latency,
        chain=tuple(map(fsdecode, chain)),
        syscall=call,
    )
