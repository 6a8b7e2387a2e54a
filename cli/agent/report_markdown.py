"""A report as Markdown, for a pull request or an issue. What a log says cannot make headings, links or HTML of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sections import facts, sections, summary

if TYPE_CHECKING:
    from sandlock.sessions.digest import Digest

    from .sections import Section

__all__ = ["as_markdown", "code"]


def as_markdown(found: Digest) -> str:
    """The report."""
    lines = ["# What the sandbox saw", "", plain(summary(found)), ""]
    if len(found.journal.runs) == 1:
        lines += [f"- {plain(name)}: {code(value)}" for name, value in facts(found, found.journal.runs[0])]
        lines.append("")
    for section in sections(found):
        lines += _section(section)
    return "\n".join(lines).rstrip("\n") + "\n"


def code(text: str) -> str:
    """Text between more backticks than it has in a row, so that nothing in it means anything."""
    if not text:
        return ""
    fence = "`"
    while fence in text:
        fence += "`"
    space = " " if text.startswith("`") or text.endswith("`") or text != text.strip() else ""
    return f"{fence}{space}{text}{space}{fence}"


def plain(text: str) -> str:
    """Text where every character that Markdown, or HTML in it, gives a meaning to is escaped."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = "".join("\\" + c if c in "\\`*_{}[]()#!|~$@" else c for c in safe)
    return safe.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")  # no links of themselves


def _section(section: Section) -> list[str]:
    lines = [f"## {plain(section.title)}", ""]
    lines += [f"{plain(note)}\n" for note in section.notes]
    if section.rows:
        lines.append("| " + " | ".join(plain(column) for column in section.columns) + " |")
        lines.append(
            "| " + " | ".join("---:" if at in section.numbers else "---" for at in range(len(section.columns))) + " |"
        )
        lines += [
            "| " + " | ".join(_cell(cell, at in section.numbers) for at, cell in enumerate(row)) + " |"
            for row in section.rows
        ]
        lines.append("")
    for item in section.items:
        extra = f" ({plain(', '.join(item.facts))})" if item.facts else ""
        lines.append(f"{item.number}. {code(item.head)}{extra}")
        lines += [f"   - {plain(line)}" for line in item.lines]
    for language, text in section.blocks:
        fence = "```"
        while fence in text:
            fence += "`"
        lines += ["", f"{fence}{language}", text, fence]
    return [*lines, ""]


def _cell(text: str, number: bool) -> str:
    """In a table, a bar ends a cell even within code."""
    if number or not text:
        return plain(text)
    depth = len(text) - len(text.lstrip(" "))
    return "&nbsp;" * depth + code(text.strip()).replace("|", "\\|")
