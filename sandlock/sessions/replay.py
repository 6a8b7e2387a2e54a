"""Replay: would this policy have decided as that run was decided? Nothing is run and nothing is connected to.

Rules: execs and destinations are judged by the core's own rules (`Sandbox.check_exec`, `Sandbox.check_connect`), files
by the grants as a sandbox has them. What the record does not tell enough about is not judged, and says so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock import Policy, PolicyError, SandlockError

from .._record import record

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from sandlock import AsyncSandbox, Sandbox

    from ..presets import Grant
    from .journal import Journal, JournalDecision, RunRecord

__all__ = ["Call", "Difference", "Replay", "recorded_policy", "replay"]

NETWORK = ("connect", "send", "bind", "listen")
ASKED = ("verdict", "no-opinion", "callback-error", "timeout", "nobody-listens", "approved")
"""Causes of decisions that somebody made, or should have made."""
RULED = ("rule", "no-rule")
READS = ("read", "list")
READ, WRITE, EXECUTE = 1, 2, 4
ACCESS = {"read": READ | EXECUTE, "data": READ, "write": READ | WRITE | EXECUTE, "device": READ}
"""What each kind of grant is good for."""


SAME = {("allow", "allow"), ("ask", "ask"), ("refused", "ask"), ("refused", "deny"), ("deny", "deny")}
"""Outcomes then and now that are no difference."""


@record
class Call:
    """What was done, as often as it was recorded with the same outcome."""

    kind: str
    target: str
    argv: tuple[str, ...]
    host: str
    access: str
    count: int
    first: float
    """When for the first time: seconds since the epoch."""
    pid: int


@record
class Difference:
    """A call that this policy would have decided otherwise."""

    call: Call
    then: str
    """"allow", "ask" (and then allowed or denied), "deny"."""
    now: str
    """"allow", "ask", "deny", or "unknown"."""
    rule: str = ""
    """The rule of the new policy that decides; "" for none."""
    why: str = ""
    """More in words."""


@record
class Replay:
    """What became of a journal under another policy."""

    calls: int
    """Different calls that were judged."""
    denied: tuple[Difference, ...]
    """Ran then, would be denied now."""
    asked: tuple[Difference, ...]
    """Were decided without a question then, would be asked about now."""
    allowed: tuple[Difference, ...]
    """Were denied or asked about then, would simply be allowed now."""
    unknown: tuple[Difference, ...]
    """Cannot be judged, and why."""

    @property
    def is_same(self) -> bool:
        """Whether everything that was judged would have been decided as it was."""
        return not (self.denied or self.asked or self.allowed)


def recorded_policy(run: RunRecord) -> Policy:
    """The policy that a run had. Values of `env` are not in the record. Raises PolicyError for what is none."""
    fields = {name: value for name, value in run.policy.items() if name != "env"}
    presets = fields.get("presets", ())
    if isinstance(presets, list) and "workspace" in presets and run.cwd:  # it means where sandlock was started
        fields["presets"] = [each for each in presets if each != "workspace"]
        fields["fs_writable"] = [*fields.get("fs_writable", ()), run.cwd]
    return Policy.of(**fields)


def replay(journal: Journal, box: Sandbox | AsyncSandbox) -> Replay:
    """Judges every exec, destination and file of a journal by the policy of a sandbox."""
    judge = _Judge(box)
    found: dict[str, list[Difference]] = {"deny": [], "ask": [], "allow": [], "unknown": []}
    calls = _calls(journal)
    for call, then in calls:
        now, rule, why = judge.decide(call)
        if (then, now) not in SAME:
            shown = "ask" if then == "refused" else then
            found[now].append(Difference(call=call, then=shown, now=now, rule=rule, why=why))
    return Replay(
        calls=len(calls) - len(found["unknown"]),
        denied=tuple(found["deny"]),
        asked=tuple(found["ask"]),
        allowed=tuple(found["allow"]),
        unknown=tuple(found["unknown"]),
    )


def _calls(journal: Journal) -> list[tuple[Call, str]]:
    """What was done, each once, with its outcome: "allow", "ask" (asked and allowed), "refused" (asked and denied), or
    "deny" by a rule. What failed for other reasons than policy is left out."""
    known: dict[tuple[str, Hashable], list[JournalDecision]] = {}
    granted = {run.id: _granted(run) for run in journal.runs}
    for each in journal.decisions:
        outcome = _outcome(each)
        grants = granted.get(each.run)
        if each.kind == "exec" and grants is not None and not _covered(grants, each.target) & EXECUTE:
            outcome = "deny"  # whatever the rules said: the kernel had no grant for the file
        if outcome:
            key = (outcome, (each.kind, each.target, each.argv, each.host, each.access))
            known.setdefault(key, []).append(each)
    found = []
    for (outcome, _), alike in known.items():
        first = alike[0]
        call = Call(
            kind=first.kind,
            target=first.target,
            argv=first.argv,
            host=first.host,
            access=first.access,
            count=len(alike),
            first=first.time,
            pid=first.pid,
        )
        found.append((call, outcome))
    return found


def _granted(run: RunRecord) -> list[tuple[str, int]] | None:
    """The grants that a run had, None where its record does not tell."""
    try:
        policy = recorded_policy(run)
    except PolicyError:
        return None
    virtual = policy.is_empty() or policy.chroot is not None or bool(policy.fs_mount)
    return None if virtual else _real(policy.expand().grants)


def _outcome(decision: JournalDecision) -> str:
    if decision.kind in ("fork", "handler", "resolve"):
        return ""  # counted, or answered by the application; a lookup matters by what is connected to then
    asked = decision.asked or decision.cause in ASKED
    if not decision.is_denied:
        return "ask" if asked else "allow"
    if asked:
        return "refused"
    return "deny" if decision.cause in RULED else ""


class _Judge:
    def __init__(self, box: Sandbox | AsyncSandbox) -> None:
        self._box = box
        self._policy = box.policy
        virtual = self._policy.chroot is not None or bool(self._policy.fs_mount)
        self._grants = None if virtual else _real(self._policy.expand().grants)
        self._denied = [os.path.realpath(path) for path in self._policy.fs_denied]

    def decide(self, call: Call) -> tuple[str, str, str]:
        """Decision, rule and reason."""
        try:
            if call.kind == "exec":
                return self._exec(call)
            if call.kind in NETWORK:
                found = self._box.check_connect(call.target, host=call.host, kind=call.kind)  # type: ignore[arg-type]
                return found.decision, found.rule, "" if found.rule else "no rule is about it"
            if call.kind in ("open", "path"):
                return self._file(call)
        except PolicyError as error:
            return "unknown", "", f"the record does not tell enough: {error}"
        except SandlockError as error:
            return "unknown", "", str(error)
        return "unknown", "", f"no rule is about {call.kind}"

    def _exec(self, call: Call) -> tuple[str, str, str]:
        found = self._box.check_exec(call.argv or [call.target], exe=call.target)
        if found.decision != "deny" and self._grants is not None:
            rule = self._denied_by(call.target)
            if rule:
                return "deny", rule, ""
            if not _covered(self._grants, call.target) & EXECUTE:
                return "deny", "", "no grant allows to execute the file"
        return found.decision, found.rule, found.reason

    def _file(self, call: Call) -> tuple[str, str, str]:
        if self._grants is None:
            return "unknown", "", "the policy has a virtual root: its paths are others"
        rule, good = self._denied_by(call.target), _covered(self._grants, call.target)
        if rule:
            return "deny", rule, ""
        if not good:
            return "deny", "", "no grant is about it"
        if not call.access and not good & WRITE:
            return "unknown", "", "the record does not say whether it was to be written"
        wanted = READ if call.access in READS else WRITE
        if not good & wanted:
            return "deny", "", "it may be read only"
        asks = self._policy.ask_opens
        if call.kind == "open" and self._box.plan.asks and (asks == "all" or (asks == "write" and wanted == WRITE)):
            return "ask", "", "ask_opens"
        return "allow", "", ""

    def _denied_by(self, path: str) -> str:
        return next((f"fs_denied: {each}" for each in self._denied if _below(path, each)), "")


def _real(grants: Iterable[Grant]) -> list[tuple[str, int]]:
    return [(os.path.realpath(each.path), ACCESS[each.kind]) for each in grants]


def _covered(grants: list[tuple[str, int]], path: str) -> int:
    good = 0
    for each, access in grants:
        if _below(path, each):
            good |= access
    return good


def _below(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")
