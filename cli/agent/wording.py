"""How reports say things: times, commands, endings, who decided.

Rule: everything from a log comes out safe for a terminal.
"""

from __future__ import annotations

from shlex import quote
from time import localtime, strftime
from typing import TYPE_CHECKING

from sandlock.result import printable, signal_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock.sessions.journal import JournalDecision, RunRecord

__all__ = ["call", "clock", "command", "ending", "many", "one_line", "seconds", "who"]

MAX_COMMAND = 300
MAX_WORD = 120


def seconds(value: float) -> str:
    """A duration: "4 ms", "1.25 s", "3 min 20 s", "2 h 5 min"."""
    if value < 0.0095:
        return f"{value * 1000:.1f} ms"
    if value < 0.995:
        return f"{value * 1000:.0f} ms"
    if value < 99.5:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(time: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A moment, in the reader's own time."""
    return strftime(form, localtime(time))


def command(words: Sequence[str], limit: int = MAX_COMMAND) -> str:
    """Words as a shell would take them, cut."""
    parts, size = [], 0
    for word in words:
        if size > limit:
            parts.append("...")
            break
        shown = printable(one_line(word), MAX_WORD)
        parts.append(quote(shown))
        size += len(parts[-1]) + 1
    return printable(" ".join(parts), limit + MAX_WORD)


def one_line(text: str) -> str:
    """Without line ends, but so that one sees where they were: to a shell they end a command."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return " \N{RETURN SYMBOL} ".join(line for line in lines if line) if len(lines) > 1 else text


def many(count: int, one: str, more: str = "") -> str:
    """ "1 call", "1,200 calls"."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def call(decision: JournalDecision) -> str:
    """What a decision was about, in one line."""
    if decision.kind == "exec":
        return command(decision.argv) if decision.argv else printable(decision.target)
    name = f" ({printable(decision.host)})" if decision.host and decision.host not in decision.target else ""
    return f"{printable(decision.target)}{name}"


def who(decision: JournalDecision, kind: str) -> str:
    """Who or what decided. `kind`: see `sandlock.sessions.remedies.who_of`."""
    match kind:
        case "rule":
            return f"the rule {printable(decision.rule)!r}" if decision.rule else "a rule"
        case "no-rule":
            return "no rule or grant allows it"
        case "person":
            return printable(decision.by) or "whoever was asked"
        case "callback":
            return f"the application ({printable(decision.cause)})"
        case "timeout":
            return "nobody answered in time"
        case "nobody":
            return "nobody was there to be asked"
    return f"sandlock itself ({printable(decision.cause)})"


def ending(run: RunRecord) -> str:
    """How a run ended."""
    if not run.is_over:
        return "no end is on record: it still runs, or what ran it was killed"
    if run.reason == "failed":
        return f"could not be started: {printable(run.error)}"
    told = {
        "timeout": "ran into its time limit and was killed",
        "killed": "was killed on request",
        "host-gone": "was killed because what ran it ended",
        "denied": "was denied",
    }.get(run.reason)
    if told is None:
        told = f"was ended by {signal_name(run.signal)}" if run.signal else f"exited with {run.exit_code}"
    return told
