"""What a report says, in sections that text, Markdown and HTML share. Nothing is escaped here: who renders it does.

Rule: a report is for reading; what is more than a person reads is cut, and says so. All of it is in the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandlock.result import printable
from sandlock.sessions.remedies import flags_of, policy_of

from ..profile_text import describe
from .rows import arranged
from .timeline import extent, marks_of
from .wording import call, clock, command, ending, many, seconds, who

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

    from sandlock.sessions.digest import Digest, Refusal
    from sandlock.sessions.journal import RunRecord

__all__ = ["Item", "Section", "facts", "sections", "summary"]

MAX_SHOWN = 200
MAX_RUNS = 8


@dataclass(frozen=True)
class Item:
    """One entry of a list: a headline, a few facts, and lines below."""

    number: int
    head: str
    facts: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it: sentences, a table or a list, and blocks to copy."""

    title: str
    notes: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    numbers: frozenset[int] = frozenset()
    """Columns of numbers."""
    items: list[Item] = field(default_factory=list)
    blocks: list[tuple[str, str]] = field(default_factory=list)
    """Language and text."""
    run: RunRecord | None = None
    """The run whose picture belongs here."""


def facts(found: Digest, run: RunRecord) -> list[tuple[str, str]]:
    """What a run was: name and value."""
    length = run.duration if run.duration is not None else extent(found, run)[1] - run.started
    presets = run.policy.get("presets")
    shown = ", ".join(map(str, presets)) if isinstance(presets, list) else ""
    lines = [
        ("Command", command(run.argv) or "not on record"),
        ("Directory", printable(run.cwd, 1000)),
        ("Started", clock(run.started)),
        ("Ran for", seconds(length)),
        ("Ended", ending(run)),
        ("Policy", printable(f"{run.policy_hash} (presets: {shown})" if shown else run.policy_hash)),
        ("Run", printable(f"{run.id} (call {run.call_id})" if run.call_id else run.id)),
    ]
    return [(name, value) for name, value in lines if value]


def summary(found: Digest) -> str:
    """The whole in one sentence."""
    denied, asked = found.journal.totals.denied, len(found.questions)
    parts = [
        many(len(found.journal.programs), "program"),
        many(len({(each.host or each.address) for each in found.destinations if each.allowed}), "destination")
        + " reached",
        f"{many(denied, 'call')} denied",
        f"{many(asked, 'question')} asked",
    ]
    runs = len(found.journal.runs)
    return (f"{many(runs, 'run')}: " if runs != 1 else "") + ", ".join(parts) + "."


def sections(found: Digest) -> list[Section]:
    """All sections, those with nothing to say left out but for the first few."""
    made = [_ran(found, run) for run in found.journal.runs[:MAX_RUNS]]
    if len(found.journal.runs) > MAX_RUNS:
        made.append(Section("More runs", [f"{many(len(found.journal.runs) - MAX_RUNS, 'run')} more in the JSON."]))
    made += [_reached(found), _denied(found), _questions(found)]
    if found.files:
        made.append(_files(found))
    made.append(_remedies(found))
    if found.journal.damage.describe():
        made.append(Section("What is missing", [f"{line}." for line in found.journal.damage.describe()]))
    return made


def _ran(found: Digest, run: RunRecord) -> Section:
    programs = found.journal.programs
    places = [place for place, each in enumerate(programs) if each.run == run.id]
    title = "What ran" if len(found.journal.runs) == 1 else f"What ran: {command(run.argv, 60) or run.id}"
    notes = []
    if len(found.journal.runs) > 1:
        notes.append("; ".join(f"{name.lower()}: {value}" for name, value in facts(found, run)[1:5]) + ".")
    if not places:
        return Section(title, [*notes, "No program is on record."])
    rows, collapsed = arranged(programs, places, marks_of(found, run), extent(found, run)[1])
    if not any(programs[place].recorded for place in places):
        notes.append(
            "Without record_execs, or its end: programs are those that were allowed; who started whom is not known."
        )
    if collapsed:
        notes.append(
            f"{many(len(places), 'program')} in {len(rows)} lines: the same program below the same parent is one line, "
            "and what ran shortest is counted together."
        )
    lines = []
    for row in rows:
        began = min((start for start, _, _ in row.spans), default=run.started)
        told = "denied" if any(mark.kind == "denied" for mark in row.marks) else ""
        ended = ", ".join(filter(None, (row.ending, told)))
        took = "" if row.ending == "not seen running" else seconds(row.busy)
        lines.append(("  " * min(row.depth, 12) + row.label, f"+{seconds(max(0.0, began - run.started))}", took, ended))
    columns = ("Program", "Started", "Took", "Ended")
    return Section(title, notes, columns, lines, frozenset({1, 2}), run=run)


def _reached(found: Digest) -> Section:
    if not found.destinations:
        return Section("What it reached", ["Nothing: no call of the network is on record."])
    rows = [
        (
            printable(each.host),
            printable(each.address),
            "" if each.port is None else str(each.port),
            printable(each.protocol),
            printable(each.kind),
            str(each.allowed),
            str(each.denied),
            ", ".join(printable(name.rpartition("/")[2]) for name in each.programs[:3]),
        )
        for each in found.destinations[:MAX_SHOWN]
    ]
    columns = ("Name", "Address", "Port", "Protocol", "Call", "Allowed", "Denied", "By")
    return Section("What it reached", _more(found.destinations), columns, rows, frozenset({2, 5, 6}))


def _denied(found: Digest) -> Section:
    if not found.refusals:
        return Section("What was denied", ["Nothing."])
    items = [_refusal(found, each) for each in found.refusals[:MAX_SHOWN]]
    return Section("What was denied", _more(found.refusals), items=items)


def _refusal(found: Digest, each: Refusal) -> Item:
    decision, programs = each.decision, found.journal.programs
    what = decision.kind if not decision.access else f"{decision.kind} to {decision.access}"
    times = (f"{each.count:,} times",) if each.count > 1 else ()
    killed = ("its process was killed",) if decision.decision == "kill" else ()
    who_line = f"Decided by: {who(decision, each.who)}"
    told = decision.reason if each.who in ("rule", "person", "callback", "protection") else ""
    lines = [f"{who_line}: {printable(told, 500)}" if told else who_line]
    above = [command(programs[place].argv, 60) or printable(programs[place].exe) for place in each.chain[:4]]
    if above:
        lines.append("Called by: " + " \N{LEFTWARDS ARROW} ".join(above))
    if each.remedy is not None:
        verb = "" if each.remedy.adds else "take out of "
        lines.append(f"To allow it: {verb}{each.remedy.field}: {printable(each.remedy.value, 500)}")
    return Item(
        each.number, call(decision), (printable(what), *times, *killed, clock(decision.time, "%H:%M:%S")), tuple(lines)
    )


def _questions(found: Digest) -> Section:
    if not found.questions:
        return Section("Questions", ["Nothing was asked."])
    waits = sorted(each.waited for each in found.questions)
    notes = [
        f"{many(len(waits), 'question')}; half of them were decided within {seconds(waits[len(waits) // 2])}, "
        f"the longest waited {seconds(waits[-1])}, all together {seconds(sum(waits))}."
    ]
    rows = [
        (
            clock(each.decision.time - each.waited, "%H:%M:%S"),
            printable(each.decision.kind),
            call(each.decision),
            seconds(each.waited),
            each.decision.decision,
            who(each.decision, each.who),
            printable(each.decision.reason) if each.who in ("person", "callback") else "",
        )
        for each in found.questions[:MAX_SHOWN]
    ]
    columns = ("Asked", "Kind", "What", "Waited", "Outcome", "Decided by", "Reason")
    return Section("Questions", notes + _more(found.questions), columns, rows, frozenset({3}))


def _files(found: Digest) -> Section:
    changed = [each for each in found.files if set(each.allowed) - {"read", "list"} or each.denied]
    notes = [
        f"{many(len(found.files), 'file')} on record, {len(changed):,} of them changed or denied; those are listed."
    ]
    rows = [
        (printable(each.path, 300), printable(", ".join(each.allowed)), str(each.count - each.denied), str(each.denied))
        for each in changed[:MAX_SHOWN]
    ]
    columns = ("File", "What was done", "Allowed", "Denied")
    return Section("Files", notes + _more(changed), columns if rows else (), rows, frozenset({2, 3}))


def _remedies(found: Digest) -> Section:
    title = "What to add to the profile"
    meant = sum(each.who in ("rule", "person") for each in found.refusals)
    notes = [f"{many(meant, 'denial')} by a rule or a person left out: they were meant."] if meant else []
    if not found.remedies:
        none = (
            "Nothing else: no rule or grant would change what was denied." if found.refusals else "Nothing was denied."
        )
        return Section(title, [*notes, none])
    notes.insert(0, "What else was denied, allowed by the fewest grants. Add only what should have been allowed.")
    items = [
        Item(number, f"{each.field}: {printable(each.value, 500)}", (), (f"That also opens: {printable(each.opens)}.",))
        for number, each in enumerate(found.remedies[:MAX_SHOWN], 1)
    ]
    blocks = [("toml", "\n".join(describe(policy_of(found.remedies)))), ("sh", flags_of(found.remedies))]
    return Section(title, notes + _more(found.remedies), items=items, blocks=blocks)


def _more(entries: Sized) -> list[str]:
    size = len(entries)
    return [f"The first {MAX_SHOWN} of {size:,}; all are in the JSON."] if size > MAX_SHOWN else []
