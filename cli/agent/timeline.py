"""The processes of a run as a picture: an SVG where time goes to the right and children stand below their parents.

Rules: no scripts, nothing from elsewhere; all text is escaped. It is readable by itself and inside a page, in the light
and in the dark. How rows are collapsed: `rows`.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sandlock.result import printable
from sandlock.sessions.programs import Chains

from .rows import Mark, arranged, failures
from .wording import call, many, seconds, who

if TYPE_CHECKING:
    from sandlock.sessions.digest import Digest
    from sandlock.sessions.journal import JournalDecision, RunRecord

    from .rows import Row

__all__ = ["STYLE", "extent", "marks_of", "timeline"]

WIDTH, LEFT, RIGHT = 1040, 320, 90
ROW, TOP, BAR = 22, 34, 12
CHARACTER = 6.3
MAX_MARKS = 20_000
APART = 7
"""Pixels: marks that are closer are drawn as one."""

STYLE = """
.tl{--ink:#1d2733;--soft:#5b6877;--line:#dfe4ea;--band:#f5f7f9;--ok:#3b7dd8;--failed:#c97a12;--open:#8fb4e8;
--deny:#c8202f;--ask:#7a3fb5;--paper:#fff;font:12px/1.4 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media(prefers-color-scheme:dark){.tl{--ink:#e6eaef;--soft:#98a4b3;--line:#2e3742;--band:#1b2129;--ok:#5b9cf0;
--failed:#e0983a;--open:#3f6596;--deny:#ff6b73;--ask:#bb8cf0;--paper:#14181d}}
.tl text{fill:var(--ink)}.tl .soft{fill:var(--soft)}.tl .num{font-variant-numeric:tabular-nums}
.tl .grid{stroke:var(--line)}.tl .band{fill:var(--band)}.tl .ok{fill:var(--ok)}.tl .failed{fill:var(--failed)}
.tl .open{fill:var(--open)}.tl .tried{fill:none;stroke:var(--soft);stroke-dasharray:2 2}
.tl .deny{stroke:var(--deny);stroke-width:2.4;stroke-linecap:round}.tl .ask{fill:var(--ask)}
.tl .wait{stroke:var(--ask);stroke-width:3;stroke-linecap:round;opacity:.55}.tl .halo{fill:var(--paper);opacity:.85}
.tl .branch{stroke:var(--line);fill:none}
"""


def timeline(found: Digest, run: RunRecord, *, alone: bool = True) -> str:
    """The picture of one run. `alone`: it is a file by itself, and brings its style and paper along."""
    programs = found.journal.programs
    places = [place for place, each in enumerate(programs) if each.run == run.id]
    begin, end = extent(found, run)
    rows, collapsed = arranged(programs, places, marks_of(found, run), end)
    scale = _Scale(begin, end)
    height = TOP + ROW * max(1, len(rows)) + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tl" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="Timeline of {many(len(places), "program")}">'
    ]
    if alone:
        parts.append(f"<style>{STYLE}.tl{{background:var(--paper)}}</style>")
        parts.append(f'<rect width="{WIDTH}" height="{height}" fill="var(--paper)"/>')
    parts += _bands(rows)
    parts += scale.grid(TOP + ROW * max(1, len(rows)))
    for number, row in enumerate(rows):
        parts += _row(row, TOP + ROW * number, scale)
    parts += _legend(height - 46)
    parts += _note(rows, collapsed, len(places), height - 20)
    return "\n".join((*parts, "</svg>")) + "\n"


class _Scale:
    """Time to the right."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin = begin
        self.span = max(end - begin, 0.001)

    def x(self, time: float) -> float:
        share = min(1.0, max(0.0, (time - self.begin) / self.span))
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def grid(self, bottom: int) -> list[str]:
        """Lines and their times."""
        step = _step(self.span)
        parts = []
        for number in range(int(self.span / step) + 1):
            x = self.x(self.begin + number * step)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{bottom}"/>')
            label = _tick(number * step, step)
            parts.append(f'<text class="soft num" x="{x}" y="{TOP - 13}" text-anchor="middle">{label}</text>')
        return parts


def _step(span: float) -> float:
    """A round number of seconds that goes some six times into the span."""
    for step in (
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1,
        2,
        5,
        10,
        15,
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
    ):
        if span / step <= 7:
            return step
    step = 3600.0
    while span / step > 7:
        step *= 2
    return step


def _tick(value: float, step: float) -> str:
    if step < 1:
        return f"{value * 1000:.0f} ms" if step * 7 < 1 else f"{value:.1f} s"
    if step < 60:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if step < 3600 else f"{value / 3600:.0f} h"


def extent(found: Digest, run: RunRecord) -> tuple[float, float]:
    """When a run began and when the last thing on record of it happened."""
    programs = found.journal.programs
    times = [run.started if run.ended is None else run.ended]
    if run.duration is not None:
        times = [run.started + run.duration]
    for each in programs:
        if each.run == run.id:
            times += [each.started, each.ended or run.started]
    times += [decision.time for decision in found.journal.decisions if decision.run == run.id]
    return run.started, max(times)


def marks_of(found: Digest, run: RunRecord) -> list[tuple[int | None, Mark]]:
    """What was denied or asked, each with the place of the program that it happened to."""
    programs = found.journal.programs
    chains = Chains(programs)
    latest = {each.pid: place for place, each in enumerate(programs) if each.run == run.id and not each.confirmed}
    marks: list[tuple[int | None, Mark]] = []
    for each in found.journal.decisions:
        if each.run != run.id or not (each.is_denied or each.asked) or len(marks) >= MAX_MARKS:
            continue
        own = latest.get(each.pid)
        if own is None or programs[own].argv != each.argv:
            own = next(iter(chains.of(each)), None)
        if each.asked and each.cause not in ("rule", "no-rule"):
            marks.append((own, Mark("question", each.time, max(0, each.latency_us) / 1e6, _told(each))))
        if each.is_denied:
            marks.append((own, Mark("denied", each.time, 0.0, _told(each))))
    return marks


def _told(decision: JournalDecision) -> str:
    from sandlock.sessions.remedies import who_of

    waited = f"asked, after {seconds(decision.latency_us / 1e6)} " if decision.asked else ""
    return f"{waited}{decision.decision}: {decision.kind} {call(decision)}: {who(decision, who_of(decision))}"


# ---- drawing


def _text(text: str) -> str:
    """Safe as text and in attributes of XML, and without what no XML may hold."""
    return escape(printable(text, 600))


def _bands(rows: list[Row]) -> list[str]:
    return [
        f'<rect class="band" x="0" y="{TOP + ROW * number}" width="{WIDTH}" height="{ROW}"/>'
        for number in range(0, len(rows), 2)
    ]


def _row(row: Row, y: int, scale: _Scale) -> list[str]:
    indent = 10 + 13 * min(row.depth, 12)
    room = int((LEFT - 12 - indent) / CHARACTER)
    shown = row.label if len(row.label) <= room else f"{row.label[: max(4, room - 1)].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    parts = ["<g>", f"<title>{_text(_title(row))}</title>"]
    if row.depth:
        parts.append(f'<path class="branch" d="M{indent - 8} {y}v{ROW / 2}h5"/>')
    parts.append(f'<text x="{indent}" y="{y + 15}">{_text(shown)}</text>')
    last = scale.x(scale.begin)
    for start, end, how in _joined(row.spans, scale):
        width = max(2.0, round(end - start, 1))
        parts.append(
            f'<rect class="{how}" x="{start}" y="{y + (ROW - BAR) / 2}" width="{width}" height="{BAR}" rx="2"/>'
        )
        last = max(last, start + width)
    parts.append("</g>")
    parts += _marks_of(row, y + ROW / 2, scale)
    busiest = max([scale.x(mark.time) + 8 for mark in row.marks], default=0.0)
    if row.spans and row.count == 1:
        told = _length(row)
        parts.append(f'<text class="soft num" x="{max(last, busiest) + 6:.1f}" y="{y + 15}">{told}</text>')
    return parts


def _length(row: Row) -> str:
    """How long a process ran, if it did."""
    if all(how == "tried" for _, _, how in row.spans):
        return "denied" if any(mark.kind == "denied" for mark in row.marks) else ""
    return seconds(max(end for _, end, _ in row.spans) - min(start for start, _, _ in row.spans))


def _title(row: Row) -> str:
    if not row.spans:
        return row.label
    failed = failures(row.spans)
    text = f"{row.label}: {seconds(row.busy)}" + (
        f" in {many(row.count, 'process', 'processes')}" if row.count > 1 else ""
    )
    return f"{text}, {failed}" if failed else text


def _joined(spans: list[tuple[float, float, str]], scale: _Scale) -> list[tuple[float, float, str]]:
    """The spans in pixels, those that touch and went alike as one: a row of thousands stays small."""
    found: list[tuple[float, float, str]] = []
    for start, end, how in sorted((scale.x(start), scale.x(end), how) for start, end, how in spans):
        if found and found[-1][2] == how and start <= found[-1][1] + 1 and len(spans) > 4:
            found[-1] = (found[-1][0], max(end, found[-1][1]), how)
        else:
            found.append((start, end, how))
    return found


def _marks_of(row: Row, y: float, scale: _Scale) -> list[str]:
    parts: list[str] = []
    for kind in ("question", "denied"):
        near: list[list[Mark]] = []
        for mark in sorted((mark for mark in row.marks if mark.kind == kind), key=lambda mark: mark.time):
            if near and scale.x(mark.time) - scale.x(near[-1][0].time) < APART:
                near[-1].append(mark)
            else:
                near.append([mark])
        for group in near:
            parts += _mark(kind, group, scale.x(group[0].time), y, scale)
    return parts


def _mark(kind: str, group: list[Mark], x: float, y: float, scale: _Scale) -> list[str]:
    told = " \N{MIDDLE DOT} ".join(dict.fromkeys(mark.text for mark in group[:5]))
    title = f"<title>{_text(told + (f' and {len(group) - 5} more' if len(group) > 5 else ''))}</title>"
    if kind == "question":
        asked = scale.x(min(mark.time - mark.waited for mark in group))
        wait = f'<line class="wait" x1="{asked}" x2="{x}" y1="{y}" y2="{y}"/>' if x - asked > 3 else ""
        return [f'<g>{title}{wait}<path class="ask" d="M{x} {y - 6}l6 6l-6 6l-6 -6z"/></g>']
    return [
        f'<g>{title}<circle class="halo" cx="{x}" cy="{y}" r="6.5"/>'
        f'<path class="deny" d="M{x - 3.6} {y - 3.6}l7.2 7.2m0 -7.2l-7.2 7.2"/></g>'
    ]


def _legend(y: float) -> list[str]:
    shapes = (
        ('<rect class="ok" x="0" y="-9" width="22" height="10" rx="2"/>', 30, "ran"),
        ('<rect class="failed" x="0" y="-9" width="22" height="10" rx="2"/>', 30, "failed"),
        ('<rect class="open" x="0" y="-9" width="22" height="10" rx="2"/>', 30, "no end on record"),
        ('<rect class="tried" x="0" y="-9" width="22" height="10" rx="2"/>', 30, "tried, never seen running"),
        ('<path class="deny" d="M4 -7.6l7.2 7.2m0 -7.2l-7.2 7.2"/>', 20, "denied"),
        ('<path class="ask" d="M8 -10l6 6l-6 6l-6 -6z"/>', 20, "question, and how long it waited"),
    )
    parts, x = [], 10.0
    for shape, offset, text in shapes:
        parts.append(
            f'<g transform="translate({x:.0f} {y})">{shape}<text class="soft" x="{offset}" y="0">{text}</text></g>'
        )
        x += offset + len(text) * 6.1 + 24
    return parts


def _note(rows: list[Row], collapsed: bool, count: int, y: float) -> list[str]:
    if not collapsed:
        text = "Each row is a process; what it executed next stands on the same row."
    else:
        text = (
            f"{many(count, 'program')} in {len(rows)} rows: the same program below the same parent is one row; "
            "what is denied, asked about or ran longest keeps its row, the rest of a parent is one."
        )
    return [f'<text class="soft" x="10" y="{y}">{escape(text)}</text>']
