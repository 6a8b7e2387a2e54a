"""The rows of a timeline: one for each process while they fit, and else what is alike together.

Rules, as the picture states them: (1) up to MAX_ROWS processes have a row each, what a process executes next on the
same row; (2) more of them share a row where they ran the same program below the same parent; (3) where that is not
enough, those with denials or questions and those that ran longest keep their rows, the others of a parent become one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandlock.result import printable, signal_name

from .wording import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandlock.sessions.programs import ProgramRecord

__all__ = ["MAX_ROWS", "Mark", "Row", "arranged", "failures"]

MAX_ROWS = 60
KEPT_ROWS = 40
"""Of a collapsed timeline, besides one for the rest of each parent."""
MAX_LABEL = 200


@dataclass(frozen=True)
class Mark:
    """Something that happened to a process."""

    kind: str
    """ "denied", or "question" (which began `waited` seconds before)."""
    time: float
    waited: float
    text: str


@dataclass
class Row:
    """One line of the picture."""

    label: str
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    """Start, end, and how it went: "ok", "failed", "open" (no end is known), "tried" (it was never seen running)."""
    marks: list[Mark] = field(default_factory=list)
    count: int = 0
    """Processes."""
    ending: str = ""
    """How the only one of them ended; of several, how many failed."""
    depth: int = 0
    parent: Row | None = None
    children: list[Row] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """Seconds of all its spans."""
        return sum(end - start for start, end, _ in self.spans)


def arranged(
    programs: Sequence[ProgramRecord], places: Iterable[int], marks: Iterable[tuple[int | None, Mark]], end: float
) -> tuple[list[Row], bool]:
    """The rows from top to bottom, and whether any were collapsed. `places`: of the programs to show; `marks`: each
    with the place of its program; `end`: when what has no end is cut off."""
    row_of: dict[int, Row] = {}
    top: list[Row] = []
    for place in places:
        each = programs[place]
        row = row_of.get(each.replaces) if each.replaces is not None else None
        if row is None:
            above = row_of.get(each.parent) if each.parent is not None else None
            row = Row(label=label_of(each), count=1, parent=above)
            (top if above is None else above.children).append(row)
        else:
            row.label = f"{row.label} \N{RIGHTWARDS ARROW} {label_of(each)}"[:MAX_LABEL]
        row.spans.append(_span(each, end))
        row.ending = _ending(each)
        row_of[place] = row
    for owner, mark in marks:
        found = row_of.get(owner) if owner is not None else None
        if found is None:
            if not top:
                top.append(Row(label="?", count=1))
            found = top[0]
        found.marks.append(mark)
    total = sum(1 for _ in _walk(top))
    if total <= MAX_ROWS:
        return list(_walk(top)), False
    return list(_walk(_folded(_grouped(top)))), True


def label_of(program: ProgramRecord) -> str:
    """What was run, for a person: the program's name and its words."""
    name = program.exe.rpartition("/")[2] or program.exe
    words = program.argv[1:]
    if program.argv and program.argv[0].rpartition("/")[2] != name:
        name = program.argv[0].rpartition("/")[2] or name
    return printable(" ".join(map(one_line, (name, *words))), MAX_LABEL)


def _span(program: ProgramRecord, end: float) -> tuple[float, float, str]:
    last = end if program.ended is None else program.ended
    if not program.confirmed and program.recorded:
        how = "tried"
    elif program.ended is None:
        how = "open"
    else:
        how = "failed" if program.signal is not None or (program.exit_code or 0) != 0 else "ok"
    return program.started, max(program.started, last), how


def _ending(program: ProgramRecord) -> str:
    if program.signal is not None:
        return signal_name(program.signal)
    if not program.confirmed and program.recorded:
        return "not seen running"
    if program.exit_code is not None:
        return f"exit {program.exit_code}"
    return "no end on record" if program.ended is None else ""


def failures(spans: Iterable[tuple[float, float, str]]) -> str:
    """How many of several failed."""
    failed = sum(how == "failed" for _, _, how in spans)
    return f"{failed:,} failed" if failed else ""


def _walk(rows: list[Row]) -> Iterable[Row]:
    """All rows, those below right after the one above, each with its depth."""
    waiting = [(row, 0) for row in reversed(rows)]
    while waiting:
        row, depth = waiting.pop()
        row.depth = depth
        yield row
        waiting += [(child, depth + 1) for child in reversed(row.children)]


def _grouped(rows: list[Row]) -> list[Row]:
    """The same tree with those of one name below one parent together."""
    top: list[Row] = []
    waiting: list[tuple[list[Row], Row | None]] = [(rows, None)]
    while waiting:
        members, above = waiting.pop()
        alike: dict[str, list[Row]] = {}
        for row in members:
            alike.setdefault(row.label.split(" ")[0], []).append(row)
        for name, group in alike.items():
            count = sum(row.count for row in group)
            label = group[0].label if count == 1 else f"{name} \N{MULTIPLICATION SIGN} {count:,}"
            one = Row(label=label, count=count, parent=above)
            for row in group:
                one.spans += row.spans
                one.marks += row.marks
                one.ending = row.ending if count == 1 else failures(one.spans)
            (top if above is None else above.children).append(one)
            waiting.append(([child for row in group for child in row.children], one))
    return top


def _folded(top: list[Row]) -> list[Row]:
    """At most KEPT_ROWS of them, and one for the rest below each parent."""
    rows = list(_walk(top))
    if len(rows) <= MAX_ROWS:
        return top
    kept: set[int] = set()
    for row in sorted(rows, key=lambda row: (not row.marks, -row.busy)):
        missing = []
        above: Row | None = row
        while above is not None and id(above) not in kept:
            missing.append(id(above))
            above = above.parent
        if len(kept) + len(missing) <= KEPT_ROWS:
            kept.update(missing)
    rest: dict[int, list[Row]] = {}
    for row in rows:
        above = row.parent
        while above is not None and id(above) not in kept:
            above = above.parent
        if id(row) not in kept:
            rest.setdefault(id(above), []).append(row)
    for row in rows:
        row.children = [child for child in row.children if id(child) in kept]
        if id(row) in kept and id(row) in rest:
            row.children.append(_together(rest[id(row)]))
    left = [_together(rest[id(None)])] if id(None) in rest else []
    return [row for row in top if id(row) in kept] + left


def _together(rows: list[Row]) -> Row:
    """One row for all of these."""
    if len(rows) == 1:
        return rows[0]
    count = sum(row.count for row in rows)
    one = Row(label=f"\N{HORIZONTAL ELLIPSIS} {count:,} more", count=count)
    for row in rows:
        one.spans += row.spans
        one.marks += row.marks
    one.ending = failures(one.spans)
    return one
