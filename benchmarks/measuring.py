"""Interleaved measuring and the arithmetic of ratios.

Rule: nothing is compared that was not measured in the same run, turn by turn (A B A B ..., the first place
rotating), because this kind of machine changes its speed from minute to minute.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Measure = Callable[[], list[float]]


class SideFailedError(Exception):
    """One side could not do the job; its message goes into the report."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: until `seconds` have passed, but at least `floor` and at most `rounds` rounds."""

    rounds: int
    floor: int
    seconds: float


@dataclass(slots=True)
class Series:
    """What one side measured: per round the median of its burst, and the least of all."""

    typical: dict[int, float] = field(default_factory=dict)
    least: float = float("inf")

    def add(self, number: int, burst: list[float]) -> None:
        self.typical[number] = statistics.median(burst)
        self.least = min(self.least, *burst)

    @property
    def median(self) -> float:
        return statistics.median(self.typical.values())


@dataclass(frozen=True, slots=True)
class Ratio:
    """One side over another: of the medians, of the minima, and the quartiles of the pairs (round by round)."""

    median: float
    least: float
    low: float
    pairwise: float
    high: float


@dataclass(slots=True)
class Measured:
    """All series of one interleaved measurement, and why a side is missing."""

    series: dict[str, Series] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def ratio(self, side: str, base: str) -> Ratio | None:
        """`side` over `base`, or None if one of them has no number."""
        ours, theirs = self.series.get(side), self.series.get(base)
        if ours is None or theirs is None:
            return None
        pairs = [value / theirs.typical[i] for i, value in ours.typical.items() if theirs.typical.get(i)]
        if not pairs:
            return None
        low, middle, high = quartiles(pairs)
        return Ratio(ours.median / theirs.median, ours.least / theirs.least, low, middle, high)

    def differences(self, side: str, base: str) -> list[float]:
        """`side` minus `base`, round by round."""
        ours, theirs = self.series.get(side), self.series.get(base)
        if ours is None or theirs is None:
            return []
        return [value - theirs.typical[i] for i, value in ours.typical.items() if i in theirs.typical]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The 25th, 50th and 75th percentile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def interleave(
    sides: Mapping[str, Measure], effort: Effort, *, every: Mapping[str, int] | None = None
) -> Measured:
    """Measure the sides in turn, after one warm-up each.

    `every` makes a slow side take part in each n-th round only. A side that fails is left out from then on.
    """
    every = every or {}
    measured = Measured()
    alive: dict[str, Measure] = {}
    for name, measure in sides.items():
        try:
            measure()
            alive[name] = measure
        except SideFailedError as error:
            measured.failed[name] = str(error)
    end = time.monotonic() + effort.seconds
    for number in range(effort.rounds):
        if number >= effort.floor and time.monotonic() > end:
            break
        order = [name for name in alive if number % every.get(name, 1) == 0]
        first = number % max(1, len(order))
        for name in order[first:] + order[:first]:
            try:
                measured.series.setdefault(name, Series()).add(number, alive[name]())
            except SideFailedError as error:
                measured.failed[name] = str(error)
                measured.series.pop(name, None)
                del alive[name]
    return measured
