"""Every number we promise, measured: `python benchmarks/run.py [--quick] [--only NAME] [--markdown FILE]`.

`benchmarks/setup_peers.sh` installs what stands beside us; a peer that is missing leaves its column empty.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from cases import CASES
from hosts import look_around
from measuring import SideFailedError
from rows import COLUMNS, Report

if TYPE_CHECKING:
    from collections.abc import Iterable

QUICK = 0.12
"""The part of the full effort that --quick makes."""

EXPLANATION = """\
All sides of a line were measured in turn, in one run. Times are medians, with the minimum in parentheses.
Ratios are against bare: of the medians, of the minima, and of the pairs (round by round): their median with
its 95 % confidence interval, and their quartiles. "bare/bare" is bare against itself in the same rounds:
what this machine's noise makes of 1.00. "met?" is yes if the median of the pairs is within the target, no
if its whole interval is outside, else noise. original: the Rust sandlock, as a ratio of medians, like
bwrap. Host memory and descriptors are growth for each living sandbox, two stdio pipes included."""


def header(facts: dict[str, str]) -> list[tuple[str, str]]:
    """The machine and the versions."""
    return [
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores"),
        ("load before", " ".join(f"{load:.2f}" for load in os.getloadavg())),
        ("user", "root" if os.geteuid() == 0 else "unprivileged"),
        ("Python", platform.python_version()),
        *facts.items(),
    ]


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("model name", "Hardware", "CPU part")):
                return line.partition(":")[2].strip()
    return "unknown"


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as an aligned Markdown table, good to read in a terminal too."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    texts = ["| " + " | ".join(cell.ljust(widths[i]) for i, cell in enumerate(line)) + " |" for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return texts


def markdown(report: Report, top: list[tuple[str, str]], seconds: float, quick: bool) -> str:
    """The whole report."""
    command = f"benchmarks/run.py{' --quick' if quick else ''}"
    lines = ["# Results", "", f"Written by `{command}` in {seconds:.0f} s.", ""]
    lines += [f"- **{name}**: {value}" for name, value in top]
    lines += ["", EXPLANATION, "", *table(row.cells for row in report.rows)]
    if report.notes:
        lines += ["", "Not measured:", ""]
        lines += [f"- {' '.join(note.split())}" for note in report.notes]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, proves little")
    only = f"only this benchmark (may be repeated): {', '.join(CASES)}"
    parser.add_argument("--only", action="append", choices=sorted(CASES), metavar="NAME", help=only)
    parser.add_argument("--markdown", metavar="FILE", help="also write the report to FILE")
    parser.add_argument("--before", metavar="DIR", help="a built checkout of an earlier version, for `metadata`")
    parser.add_argument("--rootfs", metavar="DIR", help="what tests/make_rootfs.sh made, for chroot in `path_programs`")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a target is missed or not measured")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write. Exit code 0, or 1 with --strict and a missed target."""
    options = arguments()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sandlock-bench-") as scratch:
        setting = look_around(scratch, QUICK if options.quick else 1.0, options.before, options.rootfs)
        top = header(setting.facts)
        report = Report(facts=setting.facts)
        for name, case in CASES.items():
            if options.only and name not in options.only:
                continue
            print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
            start = time.monotonic()
            try:
                report.add(case(setting))
            except SideFailedError as error:
                report.notes.append(f"{name}: {error}")
            print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    text = markdown(report, top, time.monotonic() - begin, options.quick)
    print(text, end="")
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(text)
    missed = any(row.met == "no" for row in report.rows) or bool(report.notes)
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
