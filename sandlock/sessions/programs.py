"""The programs of a journal as a tree: from its `execs` lines, or where they never came, from decisions about execs.

Rules: a parent started before its child, so that no two lines, however wrong, make a circle. Process numbers are used
again: a number means the last program that had it before.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from .._record import record, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from .journal import JournalDecision, RunRecord

__all__ = ["Chains", "ProgramRecord", "Programs", "children_of"]

MAX_PROGRAMS = 200_000
LONGEST_CHAIN = 64
AT_ONCE = 0.001
"""Seconds between the end of one program and the start of the next, where a process executes again."""


@record
class ProgramRecord:
    """One program that a run executed."""

    run: str
    pid: int
    parent_pid: int
    """0 for the first program, and where it is not known."""
    exe: str
    argv: tuple[str, ...]
    started: float
    """Seconds since the epoch."""
    ended: float | None
    exit_code: int | None
    signal: int | None
    confirmed: bool
    """The kernel has really loaded it; else it was tried, or allowed."""
    truncated: bool
    parent: int | None = None
    """The place among the journal's programs of the one that started it. Where only decisions tell of the program, that
    of the first program of the run, which is above all others."""
    replaces: int | None = None
    """The place of the program that the same process ran before."""
    recorded: bool = True
    """From an `execs` line; else put together from decisions, without ends and parents."""


class Programs:
    """Programs as the lines of a journal come."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._count = 0

    def recorded(self, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Those of an `execs` line."""
        taken = rows[: max(0, MAX_PROGRAMS - self._count)]
        self._count += len(taken)
        self._rows.setdefault(run, []).extend(taken)

    def arranged(self, runs: Iterable[RunRecord], decisions: Sequence[JournalDecision]) -> tuple[ProgramRecord, ...]:
        """All programs, run by run."""
        judged: dict[str, list[JournalDecision]] = {}
        for each in decisions:
            if each.kind == "exec" and each.run not in self._rows:
                judged.setdefault(each.run, []).append(each)
        found: list[ProgramRecord] = []
        for run in runs:
            if run.id in self._rows:
                _arrange([_record_of(run, row) for row in self._rows[run.id]], found)
            else:
                _guess(run, judged.get(run.id, ()), found)
        return tuple(found)


def children_of(programs: Sequence[ProgramRecord]) -> dict[int | None, list[int]]:
    """The places of the programs below each place, in the order in which they started; below None those at the top.

    What a process executes next stands beside what it executed first.
    """
    below: dict[int | None, list[int]] = {}
    for place, each in enumerate(programs):
        below.setdefault(each.parent, []).append(place)
    return below


class Chains:
    """Finds the programs above a decision."""

    def __init__(self, programs: Sequence[ProgramRecord]) -> None:
        self._programs = programs
        self._places: dict[tuple[str, int], list[int]] = {}
        for place, each in enumerate(programs):
            self._places.setdefault((each.run, each.pid), []).append(place)

    def of(self, decision: JournalDecision) -> tuple[int, ...]:
        """The places of the programs that led to a decision, nearest first: what its process ran then, and those above.

        The program that an exec was about is not among them.
        """
        nearest = self._latest(decision, decision.pid)
        if nearest is not None and decision.kind == "exec" and self._programs[nearest].argv == decision.argv:
            own = self._programs[nearest]
            nearest = own.parent if own.replaces is None else own.replaces
        for pid in decision.parents:  # of a process that has executed nothing yet
            if nearest is not None:
                break
            nearest = self._latest(decision, pid)
        found: list[int] = []
        while nearest is not None and len(found) < LONGEST_CHAIN:
            found.append(nearest)
            nearest = self._programs[nearest].parent
        return tuple(found)

    def _latest(self, decision: JournalDecision, pid: int) -> int | None:
        """What this process ran at the time of the decision."""
        places = self._places.get((decision.run, pid), [])
        count = bisect_right(places, decision.time, key=lambda place: self._programs[place].started)
        return places[max(0, count - 1)] if places else None


def _record_of(run: RunRecord, row: Mapping[str, Any]) -> ProgramRecord:
    started = run.started + row["started"]
    ended = None if row["ended"] is None else max(started, run.started + row["ended"])
    return ProgramRecord(run=run.id, **{**row, "started": started, "ended": ended})


def _arrange(records: list[ProgramRecord], found: list[ProgramRecord]) -> None:
    latest: dict[int, int] = {}
    for each in sorted(records, key=lambda each: each.started):
        before = latest.get(each.pid)
        again = None if before is None else found[before]
        if again is not None and _goes_on(again, each):
            placed = replace(each, parent=again.parent, replaces=before)
        else:
            placed = replace(each, parent=latest.get(each.parent_pid) if each.parent_pid != each.pid else None)
        latest[each.pid] = len(found)
        found.append(placed)


def _goes_on(first: ProgramRecord, then: ProgramRecord) -> bool:
    """Whether the process of the first ran the other next."""
    if first.parent_pid != then.parent_pid or first.exit_code is not None or first.signal is not None:
        return False
    return first.ended is None or abs(first.ended - then.started) < AT_ONCE


def _guess(run: RunRecord, decisions: Iterable[JournalDecision], found: list[ProgramRecord]) -> None:
    top, latest = len(found), dict[int, int]()
    for each in decisions:
        before = latest.get(each.pid)
        if each.is_denied:
            if before is not None and each.cause in ("changed", "attestation"):  # it was allowed, and then was another
                found[before] = replace(found[before], ended=each.time)
            continue
        if len(found) >= MAX_PROGRAMS:
            return
        if before is not None:
            found[before] = replace(found[before], ended=each.time)
        latest[each.pid] = len(found)
        parent = None if len(found) == top else top if before is None or before == top else found[before].parent
        found.append(
            ProgramRecord(
                run=run.id,
                pid=each.pid,
                parent_pid=0,
                exe=each.exe,
                argv=each.argv,
                started=each.time,
                ended=None,
                exit_code=None,
                signal=None,
                confirmed=False,
                truncated=each.truncated,
                parent=parent if before != top else None,
                replaces=before,
                recorded=False,
            )
        )
