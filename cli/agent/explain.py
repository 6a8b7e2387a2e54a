"""`sandlock agent explain`: a denial in words: what it was, who decided, why, what would allow it, what that opens."""

from __future__ import annotations

import sys
from errno import errorcode
from textwrap import wrap
from typing import TYPE_CHECKING

from sandlock import PolicyError
from sandlock.result import printable
from sandlock.sessions.digest import digest
from sandlock.sessions.journal import read_journal
from sandlock.sessions.remedies import policy_of

from ..profile_text import describe
from .locate import log_of
from .wording import call, clock, command, many, seconds, who

if TYPE_CHECKING:
    from sandlock.sessions.digest import Digest, Refusal
    from sandlock.sessions.journal import JournalDecision
    from sandlock.sessions.remedies import Remedy

__all__ = ["explain", "explained"]

WIDTH = 96
KINDS = {
    "exec": "execute a program",
    "connect": "connect",
    "send": "send a datagram",
    "bind": "take an address",
    "listen": "listen",
    "open": "open a file",
    "path": "change, or look at, a file",
    "fork": "start a process",
    "resolve": "look up a name",
    "handler": "make a system call that a handler answers",
}
CAUSES = {
    "changed": "The program changed the call's arguments, or its file, while they were judged. What is judged must "
    "stay the same until it is done, so such a call is denied. It may simply be tried again.",
    "attestation": "The kernel loaded another program, or other arguments, than what was approved: somebody changed "
    "them in between. The process was killed before it ran an instruction.",
    "rebinding": "A name below a wildcard led to this machine, its link, or a cloud's metadata. Under a wildcard "
    "anybody may have made the name; if this one is meant, write it out in net_allow.",
    "unreadable": "The call could not be looked at, and what cannot be judged is denied.",
    "full": "Too many calls waited for a verdict, or their arguments were too large. Answer sooner, or let rules "
    "decide.",
    "no-ptrace": "ptrace(2) is refused here, so that an exec cannot be attested; allow it in the container's profile.",
    "audit": "It could not be recorded (disk full?), and on_audit_failure says that then nothing is allowed.",
}


def explain(run: str, number: int | None, *, last: bool, every: bool) -> int:
    """Prints why calls of a run were denied; returns the exit code, 1 if nothing was."""
    found = digest(read_journal(log_of(run)))
    if not found.refusals:
        print(f"{printable(found.journal.path, 1000)}: nothing was denied")
        return 1
    if sum((number is not None, last, every)) > 1:
        raise PolicyError("give one of N, --last and --all")
    if number is not None and not 1 <= number <= len(found.refusals):
        raise PolicyError(f"there is no denial {number}; there are {len(found.refusals)}, numbered from 1")
    chosen = found.refusals if every else (found.refusals[-1 if number is None else number - 1],)
    sys.stdout.write("\n".join(explained(found, each) for each in chosen))
    return 0


def explained(found: Digest, refusal: Refusal) -> str:
    """One denial, many lines."""
    decision = refusal.decision
    act = KINDS.get(decision.kind) or printable(decision.kind)
    lines = [f"Denial {refusal.number} of {len(found.refusals)}: to {act}", f"  {call(decision)}"]
    lines += _facts(found, refusal)
    lines += ["", "Why", *_wrapped(_why(decision, refusal.who))]
    lines += ["", "Who decided", *_wrapped(f"{who(decision, refusal.who)}.")]
    lines += ["", "What would allow it", *_allowing(refusal)]
    return "\n".join(lines) + "\n"


def _facts(found: Digest, refusal: Refusal) -> list[str]:
    decision, run = refusal.decision, found.journal.run(refusal.decision.run)
    lines = []
    if decision.kind == "exec":
        lines.append(f"file:    {printable(decision.target, 1000)}")
        lines.append(f"in:      {printable(decision.cwd, 1000)}" if decision.cwd else "")
    elif decision.host:
        lines.append(f"name:    {printable(decision.host)} (as the program looked it up)")
    after = "" if run is None else f", {seconds(max(0.0, decision.time - run.started))} into the run"
    times = (
        f"; {many(refusal.count, 'time')}, the last at {clock(refusal.last, '%H:%M:%S')}" if refusal.count > 1 else ""
    )
    lines.append(f"when:    {clock(decision.time)}{after}{times}")
    if decision.exe and decision.kind != "exec":
        lines.append(f"program: {printable(decision.exe, 1000)} (process {decision.pid})")
    above = [found.journal.programs[place] for place in refusal.chain]
    for depth, program in enumerate(above[:12]):
        shown = command(program.argv, 70) or printable(program.exe)
        lines.append(f"{'from:' if depth == 0 else '':8} {'  ' * depth}{shown} (process {program.pid})")
    if len(above) > 12:
        lines.append(f"{'':8} and {len(above) - 12} more above")
    error = f"it failed with {errorcode.get(decision.errno, decision.errno)}" if decision.errno else ""
    lines.append(f"outcome: {'its process was killed' if decision.decision == 'kill' else error or 'denied'}")
    return [f"  {line}" for line in lines if line]


def _why(decision: JournalDecision, kind: str) -> str:
    rule, reason = printable(decision.rule, 500), printable(decision.reason, 1000)
    asked = (
        f" It was asked because of the rule {rule!r}." if decision.rule else " It was asked since no rule decides it."
    )
    match kind:
        case "rule" if decision.kind in ("open", "path") or decision.rule.startswith("fs_denied"):
            return f"The policy denies that path, whatever else is granted: {rule}."
        case "rule":
            pattern, _, own = rule.partition(" # ")
            return f"A rule of the policy denies it: {pattern!r}." + (f" Its reason: {own}." if own else "")
        case "no-rule":
            return f"No rule and no grant of the policy allows it, and what is not allowed is denied. ({reason}.)"
        case "person":
            waited = seconds(max(0, decision.latency_us) / 1e6)
            by = f"{printable(decision.by)} denied it" if decision.by else "It was denied"
            return f"{by} after {waited}: {reason or 'no reason was given'}.{asked}"
        case "timeout":
            return f"Nobody answered in time ({seconds(max(0, decision.latency_us) / 1e6)}).{asked}"
        case "nobody":
            return f"There was a question, and nobody was there to be asked: {reason}.{asked}"
        case "callback":
            return f"The application's own callback or handler: {reason}.{asked if decision.rule else ''}"
    return CAUSES.get(decision.cause, reason or printable(decision.cause))


def _allowing(refusal: Refusal) -> list[str]:
    decision, remedy, lines = refusal.decision, refusal.remedy, list[str]()
    if refusal.who in ("person", "timeout", "nobody"):
        answer = {"nobody": "Have somebody listen (--ask), and answer.", "timeout": "Answer in time."}
        lines += _wrapped(answer.get(refusal.who, "Another answer: once, or for the whole run."))
    if remedy is None:
        none = "No rule can." if refusal.who == "protection" else "No single rule or grant does."
        return lines or _wrapped(none)
    if lines:
        lines += ["  or" if remedy.adds else "  or, never to be asked about it:"]
    if remedy.adds:
        lines += [f"    {line}" for line in describe(policy_of([remedy]))]
        lines.append(f"  as a flag: {remedy.flag}")
    else:
        place = "deny" if remedy.field.endswith(("deny", "denied")) or "deny" in remedy.field else "ask"
        lines += _wrapped(f"Take this out of {remedy.field}, or make it narrower; a rule that would {place} wins:")
        lines.append(f"    {printable(remedy.value, 1000)}")
    lines += ["", "What that opens besides", *_wrapped(_opens(decision, remedy))]
    return lines


def _opens(decision: JournalDecision, remedy: Remedy) -> str:
    text = f"{printable(remedy.opens, 1000)}."
    text = text[:1].upper() + text[1:]
    if remedy.field == "net_allow" and not decision.host and not remedy.value.startswith("unix:"):
        text += (
            " It was called by address, and not by a name that was looked up: whoever has the address then is meant."
        )
    return text


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
