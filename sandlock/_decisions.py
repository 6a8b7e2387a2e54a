"""Decision: what was decided about one call of a run, allowed or denied, as the core's journal has it.

Rules: values in, values out. Every fact was read once, by whoever decided.
"""

from __future__ import annotations

from os import fsdecode

from . import syscalls
from ._denials import CAUSES, FILES, NO_GRANT, endpoint_target, exec_fixes, fixes, grant_fixes, path_fixes, rule_of
from ._record import record
from .events import OPERATIONS, address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._denials import Denial
    from ._net_rules import NetRule
    from ._plan import Plan
    from ._verdicts import Verdict
    from .events import Event
    from .handlers import HandlerContext

__all__ = ["ASKED", "DENIED", "Decision", "decision_of", "refused_lookup"]

ACTS = ("deny", "allow", "kill", "audit")
"""By number, as the core has them (enum Act in _slots.pxd)."""
ACCESS = ("", "read", "list", "write", "create", "remove", "change")
"""By number, as the core has them (enum Done in _path_records.pxd)."""
DENIED = ("deny", "kill")
NETWORK = ("connect", "send", "bind", "listen")
ASKED = ("verdict", "no-opinion", "callback-error", "handler", "handler-error", "timeout", "nobody-listens")
"""The causes of decisions that a callback made, or ought to have made."""
BINDINGS = {"exec": "attested", "fork": "registers", "handler": "registers", "open": "fd", "path": "fd"}


@record
class Decision:
    """What was decided about one exec, open, connect, send, bind or listen; or what a handler, or a rule about files,
    denied."""

    seq: int
    """Its number among the decisions of its run, from 1. A gap is what was lost on the way."""
    time: float
    """When it was decided: seconds since the epoch; of one run, they do not jump when the clock is set."""
    monotonic: float
    """The same moment as `time.monotonic()` has it."""
    run: str
    """The run's id, as in its Result."""
    kind: str
    """"exec", "fork", "open", "connect", "send", "bind", "listen", "handler", "path" (another call about a file) or
    "resolve" (a lookup that was refused; each name once)."""
    target: str
    """The file; or the destination as a rule names it: "tcp://127.0.0.1:443"."""
    decision: str
    """"allow", "audit" (allowed by an Audit()), "deny" or "kill"."""
    cause: str
    """As in Denial; of what is allowed "rule", "no-rule" (no rule forbids it), "verdict", "timeout" or "approved" (a
    verdict has allowed what is like it)."""
    reason: str = ""
    rule: str = ""
    """The policy's rule that decided, or that sent it to the callback."""
    errno: int = 0
    """What a denied call failed with; 0 when the process was killed."""
    argv: tuple[str, ...] = ()
    """Of an exec: the words; what was decided without a question keeps about 3,700 bytes of them, see `truncated`."""
    truncated: bool = False
    exe: str = ""
    """Of an exec, the file that runs; else the program of the process that calls, as /proc shows it."""
    cwd: str = ""
    """Of an exec: the working directory."""
    ip: str = ""
    port: int = 0
    pid: int = 0
    tid: int = 0
    latency: float = 0.0
    """Seconds from the call to the decision; with a question, until its verdict is acted on."""
    binding: str = "attested"
    """How the decision holds: "attested", "registers", "fd" or "on-behalf", as in events."""
    asked: bool = False
    """Whether a callback was asked."""
    call_id: str = ""
    """What the caller of `run` or `start` gave as `call_id`."""
    fix: str = ""
    """Of a denial: the smallest grant that would allow it, as a keyword; "" where no rule can."""
    fix_flag: str = ""
    """The same as flags of `sandlock run`."""
    syscall: str = ""
    """Of a decision about a file: the system call."""
    access: str = ""
    """With `record_paths`, what was done to a file: "read", "list" (a directory), "write", "create" (a name), "remove"
    (a name), "change" (mode, owner, times, attributes)."""
    by: str = ""
    """Who decided, where a verdict says so."""
    host: str = ""
    """Of "connect" and "send": the name by which the tree looked the address up last; "" if it did not."""
    parents: tuple[int, ...] = ()
    """Of a denial: up to six processes above the one that called, nearest first. Advice: they are looked up one after
    the other, beyond the tree too."""
    dropped: int = 0
    """From `decisions()`: how many decisions before this one its reader missed, by being slow."""


def decision_of(
    entry: tuple[Any, ...],
    *,
    seq: int,
    epoch: float,
    plan: Plan,
    net_rules: tuple[NetRule, ...],
    fs_denied: tuple[str, ...] = (),
    run: str,
    call_id: str,
    answered: tuple[Event | HandlerContext, Verdict] | None,
    host_of: Callable[[bytes], str] | None = None,
) -> Decision:
    """A decision from the journal's `entry`. `epoch`: when CLOCK_MONOTONIC was 0; `host_of`: the name of an address."""
    (operation, act, cause, rule, error, number, pid, tid, since, decided, question, *facts) = entry
    exe, cwd, argv, cut, endpoint, done, parents = facts
    kind, name, did, by = OPERATIONS[operation], CAUSES[cause][0], ACTS[act], ""
    text, own = rule_of(kind, rule, plan.exec_rules, net_rules, fs_denied)
    reason, words = own or _reason(did, cause, text), tuple(map(fsdecode, argv))
    if answered is not None and name == "verdict":
        (event, verdict), cut = answered, False
        name, reason = verdict.cause or name, verdict.reason or "the callback allowed it"
        words, by = getattr(event, "argv", ()), verdict.by
    call, target = _call(kind, number, plan.arch), _target(plan.arch, kind, number, exe, endpoint)
    if rule == NO_GRANT or (call and name == "no-rule"):
        reason = "no grant allows it" if rule == NO_GRANT else f"{call}: no grant allows it"
    judged = did in DENIED and not text and (rule == NO_GRANT or not cut)
    fix = _fix_of(kind, name, target, words, call, endpoint, rule) if judged else ("", "")
    return Decision(
        seq=seq,
        time=epoch + decided / 1e9,
        monotonic=decided / 1e9,
        run=run,
        kind=kind,
        target=target,
        decision=did,
        cause=name,
        reason=reason,
        rule=text,
        errno=error,
        argv=words,
        truncated=cut,
        exe=fsdecode(exe),
        cwd=fsdecode(cwd),
        ip=address_text(endpoint[1]),
        port=endpoint[2],
        pid=pid,
        tid=tid,
        latency=max(0.0, (decided - since) / 1e9),
        binding=BINDINGS.get(kind, "on-behalf"),
        asked=bool(question),
        call_id=call_id,
        fix=fix[0],
        fix_flag=fix[1],
        syscall=call,
        access=ACCESS[done],
        by=by,
        parents=parents,
        host=host_of(endpoint[1]) if host_of is not None and kind in ("connect", "send") else "",
    )


def refused_lookup(denial: Denial, *, seq: int, time: float, monotonic: float, run: str, call_id: str) -> Decision:
    """The decision that a lookup was refused, from what was written down of it."""
    return Decision(
        seq=seq,
        time=time,
        monotonic=monotonic,
        run=run,
        kind="resolve",
        target=denial.target,
        decision="deny",
        cause=denial.cause,
        reason=denial.reason,
        rule=denial.rule,
        pid=denial.pid,
        tid=denial.pid,
        latency=denial.latency,
        binding="on-behalf",
        asked=denial.cause in ASKED,
        call_id=call_id,
        fix=denial.fix,
        fix_flag=denial.fix_flag,
        by=denial.by,
        host=denial.target,
    )


def _fix_of(
    kind: str,
    cause: str,
    target: str,
    words: tuple[str, ...],
    call: str,
    endpoint: tuple[int, bytes, int, bytes, bool],
    rule: int,
) -> tuple[str, str]:
    if rule == NO_GRANT:
        return grant_fixes("fs_readable", "--fs-read", target)
    if kind in NETWORK:
        return fixes(kind, target, endpoint[2]) if endpoint[0] and cause != "audit" else ("", "")
    if cause != "no-rule":
        return "", ""
    return exec_fixes(target, words) if kind == "exec" else path_fixes(target, call) if kind in FILES else ("", "")


def _call(kind: str, number: int, arch: str) -> str:
    return (syscalls.name(number, arch) or "") if kind in FILES else ""


def _target(arch: str, kind: str, number: int, exe: bytes, endpoint: tuple[int, bytes, int, bytes, bool]) -> str:
    if kind == "exec":
        return fsdecode(exe)
    if kind in ("fork", "handler"):
        return syscalls.name(number, arch) or kind
    if kind in FILES:
        return fsdecode(endpoint[3])
    return endpoint_target(arch, number, endpoint)


def _reason(act: str, cause: int, rule: str) -> str:
    name, meaning = CAUSES[cause]
    if act in DENIED:
        return f"{meaning}: {rule}" if rule and name == "rule" else meaning
    if name == "rule":
        return f"a rule of the policy allows it: {rule}"
    if name == "approved":
        return meaning
    if name == "timeout":
        return f"{meaning}, and on_timeout allows it"
    return "no rule of the policy forbids it"
