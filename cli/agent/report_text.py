"""A report as plain text for a terminal."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from .sections import facts, sections, summary

if TYPE_CHECKING:
    from sandlock.sessions.digest import Digest

    from .sections import Section

__all__ = ["as_text"]

NARROWEST = 60


def as_text(found: Digest, width: int = 100) -> str:
    """The report in lines of about this width."""
    width = max(width, NARROWEST)
    lines = ["", *wrap(summary(found), width), ""]
    if len(found.journal.runs) == 1:
        for name, value in facts(found, found.journal.runs[0]):
            lines += wrap(value, width, initial_indent=f"  {name:10} ", subsequent_indent=" " * 13) or []
        lines.append("")
    for section in sections(found):
        lines += _section(section, width)
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _section(section: Section, width: int) -> list[str]:
    lines = [section.title, "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * len(section.title)]
    for note in section.notes:
        lines += wrap(note, width, initial_indent="  ", subsequent_indent="  ")
    if section.rows:
        lines += _table(section, width)
    for item in section.items:
        extra = f"   [{', '.join(item.facts)}]" if item.facts else ""
        lines += wrap(item.head + extra, width, initial_indent=f"{item.number:4}. ", subsequent_indent="      ")
        for line in item.lines:
            lines += wrap(line, width, initial_indent="      ", subsequent_indent="        ")
    for language, text in section.blocks:
        lines += ["", f"  {'as a profile:' if language == 'toml' else 'as flags of sandlock run:'}"]
        lines += [f"    {line}" for line in text.splitlines()]
    return [*lines, ""]


def _table(section: Section, width: int) -> list[str]:
    """Columns as wide as they need; the widest gives way."""
    used = [at for at in range(len(section.columns)) if any(row[at] for row in section.rows)]
    rows = [[row[at] for at in used] for row in [section.columns, *section.rows]]
    sizes = [max(len(row[at]) for row in rows) for at in range(len(used))]
    while sum(sizes) + 2 * len(sizes) > width and max(sizes) > 16:
        sizes[sizes.index(max(sizes))] -= 1
    lines = []
    for row in rows:
        cells = []
        for at, cell in enumerate(row):
            size = sizes[at]
            shown = cell if len(cell) <= size else cell[: size - 1] + "\N{HORIZONTAL ELLIPSIS}"
            cells.append(shown.rjust(size) if used[at] in section.numbers else shown.ljust(size))
        lines.append("  " + "  ".join(cells))
    return lines
