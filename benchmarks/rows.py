"""The lines of the result table: a measured thing, its target, and whether the target is met."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from measuring import Measured, Spread

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = (
    "benchmark",
    "bare",
    "sandlock",
    "ratio median",
    "ratio min",
    "pairs (95 %)",
    "p25..p75",
    "bare/bare",
    "target",
    "met?",
    "original",
    "bwrap",
)
NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line, as texts in the order of COLUMNS, and why sides are missing."""

    cells: tuple[str, ...]
    met: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Which series of a measurement stand in which column."""

    base: str = "bare"
    ours: str = "sandlock"
    again: str = "bare again"
    original: str = "original"
    bwrap: str = "bwrap"


@dataclass(slots=True)
class Number:
    """A unit and how to print it: `factor` turns what was measured into the unit."""

    unit: str
    factor: float = 1.0

    def show(self, value: float) -> str:
        scaled = value * self.factor
        digits = 0 if scaled >= 1000 else 1 if scaled >= 10 else 2
        return f"{scaled:,.{digits}f} {self.unit}".rstrip()


MILLISECONDS = Number("ms", 1e3)


def verdict(pairs: Spread, target: float) -> str:
    """Yes if the median of the pairs is within the target, no if all of its 95 % interval is outside."""
    if pairs.median <= target:
        return "yes"
    return "no" if pairs.low > target else "noise"


def ratio_row(name: str, measured: Measured, target: float | None, number: Number, names: Names = Names()) -> Row:
    """The line of something that is judged as a ratio to the base."""
    ratio = measured.ratio(names.ours, names.base)
    again = measured.ratio(names.again, names.base)
    met = verdict(ratio.pairs, target) if ratio and target else NONE
    cells = (
        name,
        _pair(measured, names.base, number),
        _pair(measured, names.ours, number),
        f"{ratio.median:.2f}" if ratio else NONE,
        f"{ratio.least:.2f}" if ratio else NONE,
        _interval(ratio.pairs) if ratio else NONE,
        f"{ratio.pairs.quarter:.2f}..{ratio.pairs.three_quarters:.2f}" if ratio else NONE,
        _interval(again.pairs) if again else NONE,
        f"≤ {target}" if target else NONE,
        met,
        _times(measured, names.original, names.base),
        _times(measured, names.bwrap, names.base),
    )
    return Row(cells=cells, met=met, notes=_notes(name, measured, names))


def added_row(name: str, measured: Measured, limit: float, names: Names, number: Number = MILLISECONDS) -> Row:
    """The line of something that is judged by what it adds to the base (in the unit of `number`)."""
    differences = measured.differences(names.ours, names.base)
    extra = Spread.of([value * number.factor for value in differences]) if differences else None
    met = verdict(extra, limit) if extra else NONE
    original = measured.differences(names.original, names.base)
    cells = (
        name,
        _pair(measured, names.base, number),
        f"+ {extra.median:.1f} {number.unit}" if extra else NONE,
        NONE,
        NONE,
        f"+ {_interval(extra, 1)}" if extra else NONE,
        f"{extra.quarter:.1f}..{extra.three_quarters:.1f}" if extra else NONE,
        NONE,
        f"≤ + {limit:g} {number.unit}",
        met,
        f"+ {statistics.median(original) * number.factor:.1f} {number.unit}" if original else NONE,
        NONE,
    )
    return Row(cells=cells, met=met, notes=_notes(name, measured, names))


def limit_row(name: str, values: Mapping[str, float], limit: float | None, number: Number) -> Row:
    """The line of an amount (not a time) that has a limit of its own; sides by name."""
    shown = {side: number.show(value) for side, value in values.items()}
    met = NONE
    if limit is not None and "sandlock" in values:
        met = "yes" if values["sandlock"] * number.factor <= limit else "no"
    cells = (
        name,
        shown.get("bare", NONE),
        shown.get("sandlock", NONE),
        *(NONE,) * 5,
        NONE if limit is None else f"≤ {limit:g} {number.unit}",
        met,
        shown.get("original", NONE),
        shown.get("bwrap", NONE),
    )
    return Row(cells=cells, met=met)


def _pair(measured: Measured, side: str, number: Number) -> str:
    series = measured.series.get(side)
    return f"{number.show(series.median)} ({number.show(series.least).split()[0]})" if series else NONE


def _interval(spread: Spread, digits: int = 2) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}..{spread.high:.{digits}f})"


def _times(measured: Measured, side: str, base: str) -> str:
    ratio = measured.ratio(side, base)
    return f"{ratio.median:.2f}" if ratio else NONE


def _notes(name: str, measured: Measured, names: Names) -> tuple[str, ...]:
    shown = (names.base, names.ours, names.again, names.original, names.bwrap)
    return tuple(f"{name}: {side}: {why}" for side, why in measured.failed.items() if side in shown)


@dataclass(slots=True)
class Report:
    """All lines of a run, and what was there to measure with."""

    facts: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        for row in rows:
            self.notes += [note for note in row.notes if note not in self.notes]
