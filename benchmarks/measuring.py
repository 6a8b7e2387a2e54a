"""Interleaved measuring and the arithmetic of ratios.

Rule: nothing is compared that was not measured in the same run, turn by turn, because a shared machine
changes its speed from minute to minute; and no side always follows the same other one, whose end it would
pay for.
"""

from __future__ import annotations

import math
import random
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
class Spread:
    """Values summed up: median, 25th and 75th percentile, and between what the true median is (95 %)."""

    median: float
    quarter: float
    three_quarters: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The interval is that of order statistics (a sign test): it supposes no distribution."""
        ranked, count = sorted(values), len(values)
        reach = 0.98 * math.sqrt(count)  # 1.96 standard deviations of a binomial(count, 1/2)
        first, last = math.floor(count / 2 - reach), math.ceil(count / 2 + reach) - 1
        quarter, _, three_quarters = statistics.quantiles(ranked, n=4, method="inclusive") if count > 1 else ranked * 3
        return cls(
            statistics.median(ranked),
            quarter,
            three_quarters,
            ranked[max(first, 0)],
            ranked[min(last, count - 1)],
        )


@dataclass(frozen=True, slots=True)
class Ratio:
    """One side over another: of the medians, of the minima, and of the pairs (round by round)."""

    median: float
    least: float
    pairs: Spread


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
        return Ratio(ours.median / theirs.median, ours.least / theirs.least, Spread.of(pairs))

    def differences(self, side: str, base: str) -> list[float]:
        """`side` minus `base`, round by round."""
        ours, theirs = self.series.get(side), self.series.get(base)
        if ours is None or theirs is None:
            return []
        return [value - theirs.typical[i] for i, value in ours.typical.items() if i in theirs.typical]


def interleave(
    sides: Mapping[str, Measure],
    effort: Effort,
    *,
    every: Mapping[str, int] | None = None,
    warm: Mapping[str, Measure] | None = None,
) -> Measured:
    """Measure the sides in turn, after one warm-up each (of `warm` where the thing itself takes long).

    `every` makes a slow side take part in each n-th round only. A side that fails is left out from then on.
    """
    every = every or {}
    measured = Measured()
    alive: dict[str, Measure] = {}
    for name, measure in sides.items():
        try:
            (warm or sides)[name]()
            alive[name] = measure
        except SideFailedError as error:
            measured.failed[name] = str(error)
    end = time.monotonic() + effort.seconds
    for number in range(effort.rounds):
        if number >= effort.floor and time.monotonic() > end:
            break
        order = [name for name in alive if number % every.get(name, 1) == 0]
        random.Random(number).shuffle(order)  # the same in each run of the benchmark
        for name in order:
            try:
                measured.series.setdefault(name, Series()).add(number, alive[name]())
            except SideFailedError as error:
                measured.failed[name] = str(error)
                measured.series.pop(name, None)
                del alive[name]
    return measured
