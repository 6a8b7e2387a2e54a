"""The state of a session as lines of a terminal: processes, questions, network, last decisions.

Rules: state in, lines out, no wider than the terminal and no more than it has; all foreign text is escaped.
"""

from __future__ import annotations

from time import localtime, strftime
from typing import TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

from sandlock.result import printable

from .wording import command, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["decision_line", "ending_of", "frame", "question_line"]

Row = dict[str, Any]
BOLD, DIM, RED, GREEN, YELLOW, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
REFUSED = ("deny", "kill")
DEEPEST = 12
ASKS = {
    "exec": "wants to run", "connect": "wants to connect to", "send": "wants to send to", "bind": "wants to listen at",
    "listen": "wants to listen at", "resolve": "wants to look up", "open": "wants to open", "fork": "wants to start",
}  # fmt: skip


def frame(state: Mapping[str, Any], size: tuple[int, int], now: float, footer: str) -> list[str]:
    """The whole screen, of `size` rows and columns."""
    rows, columns = max(size[0], 4), max(size[1], 10)
    room = rows - 2
    pending = _limited([line for each in state.get("pending", ()) for line in _question(each)], max(2, room // 3))
    denied = sum(line.get("decision") in REFUSED for line in state.get("decisions", ()))
    network = sorted(state.get("network", ()), key=_last, reverse=True)
    blocks = [("Questions", YELLOW, pending)] if pending else []
    left = room - sum(len(lines) + 1 for _, _, lines in blocks)
    tree = _limited([_process(each, depth, now) for depth, each in _tree(state.get("processes", ()))], left * 4 // 10)
    blocks.append(("Processes", BOLD, tree))
    if network:
        blocks.append(("Network", BOLD, _limited([_destination(each) for each in network], max(1, left // 5))))
    left = room - sum(len(lines) + 1 for _, _, lines in blocks) - 1
    if left > 0:
        decisions = [(_color(line), decision_line(line)) for line in list(state.get("decisions", ()))[-left:]]
        blocks.append((f"Decisions, {denied} denied" if denied else "Decisions", BOLD, decisions))
    lines = [_cut(f"{BOLD}", _head(state, now), columns)]
    for title, color, content in blocks:
        lines.append(_cut(color, title, columns))
        lines += [_cut(paint, text, columns) for paint, text in content]
    lines = lines[: rows - 1]
    return [*lines, *[""] * (rows - 1 - len(lines)), _cut(DIM, footer, columns)]


def ending_of(state: Mapping[str, Any]) -> str:
    """How the session has ended."""
    result = state.get("result")
    if not isinstance(result, dict):
        return "is gone: what ran it has ended"
    if result.get("timed_out"):
        return "has ended: time limit"
    return f"has ended, exit code {printable(str(result.get('exit_code')))}"


def decision_line(line: Mapping[str, Any]) -> str:
    """A decision, without colours."""
    words, decided = line.get("argv"), str(line.get("decision"))
    target = printable(str(line.get("target", "")))
    what = _words(words) if line.get("kind") == "exec" and isinstance(words, list) and words else target
    name = str(line.get("host") or "")
    host = f" {printable(name)}" if name and name not in what else ""
    by = f" by {printable(str(line['by']), 60)}" if line.get("by") else ""
    why = f"  ({printable(str(line.get('reason', '')))})" if decided in REFUSED and line.get("reason") else ""
    kind = printable(str(line.get("kind")), 20)
    return f"{_clock(line.get('time'))} {printable(decided, 20):5} {kind:7} {what}{host}{by}{why}"


def question_line(question: Mapping[str, Any]) -> str:
    """Who asks for what, and why."""
    return " ".join(text.strip() for _, text in _question(question))


def _question(question: Mapping[str, Any]) -> list[tuple[str, str]]:
    chain = " > ".join(
        printable(str(each.get("exe", "")).rpartition("/")[2], 40) for each in reversed(question["chain"][:5])
    )
    kind = str(question.get("kind"))
    where = f"{question.get('host')}:{question.get('port')}" if question.get("host") else str(question.get("target"))
    what = _words(question["argv"]) if kind == "exec" else printable(where)
    rule = printable(str(question.get("rule") or "no rule decides"), 120)
    return [(YELLOW, f"  {chain} {ASKS.get(kind, 'asks')}  {what}"), (DIM, f"    {rule}")]


def _head(state: Mapping[str, Any], now: float) -> str:
    name = printable(str(state.get("name") or state.get("id") or ""), 80)
    how = ending_of(state) if state.get("ended") else "paused" if state.get("paused") else "running"
    started = state.get("started")
    time = f" {seconds((state.get('ended') or now) - started)}" if isinstance(started, int | float) else ""
    return f"{name}  {how}{time}  {_words(state.get('argv', ()))}"


def _tree(processes: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    """Depth and process: those that live, and the last ones that have ended, each below its parent."""
    below: dict[int, list[Row]] = {}
    known = {each.get("pid") for each in processes}
    for each in processes:
        parent = each.get("ppid") if each.get("ppid") in known and each.get("ppid") != each.get("pid") else 0
        below.setdefault(parent or 0, []).append(each)
    waiting = [(0, each) for each in reversed(below.pop(0, []))]
    while waiting:
        depth, each = waiting.pop()
        yield depth, each
        waiting += [(depth + 1, child) for child in reversed(below.pop(each.get("pid", 0), []))]


def _process(each: Row, depth: int, now: float) -> tuple[str, str]:
    ended, started = each.get("ended"), each.get("started") or now
    what = _words(each.get("argv") or [str(each.get("exe", ""))])
    mark = "\N{BULLET}" if ended is None else "\N{MIDDLE DOT}"
    time = seconds(max(0.0, (ended or now) - started))
    text = f"  {'  ' * min(depth, DEEPEST)}{mark} {what}  {time}  [{each.get('pid')}]"
    return (PLAIN if ended is None else DIM), text


def _destination(row: Row) -> tuple[str, str]:
    name, address = printable(str(row["host"] or row["target"])), printable(str(row["ip"]))
    port = printable(str(row["port"]), 10)
    where = f"{name} {address}:{port}" if row["host"] else name
    counts = [f"{row[key]} {key}" for key in ("allowed", "denied") if row[key]]
    return (RED if row["denied"] else PLAIN), f"  {where}  {', '.join(counts)}"


def _limited(lines: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """So many of them; the last line says how many are left out."""
    most = max(most, 1)
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], (DIM, f"  ... {len(lines) - most + 1} more")]


def _color(line: Mapping[str, Any]) -> str:
    return RED if line.get("decision") in REFUSED else PLAIN


def _words(words: Sequence[object]) -> str:
    return printable(command([str(word) for word in words], 200), 400)


def _clock(time: object) -> str:
    return strftime("%H:%M:%S", localtime(time)) if isinstance(time, int | float) and 0 <= time < 1e11 else "--:--:--"


def _last(row: Row) -> float:
    return float(row["last"]) if isinstance(row["last"], int | float) else 0.0


def _cut(color: str, text: str, columns: int) -> str:
    """Painted, and no wider than that: in cells of a terminal, of which some characters take two, or none."""
    width, at = 0, 0
    for at, character in enumerate(text):  # noqa: B007 (used below)
        width += 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1
        if width > columns:
            break
    else:
        at = len(text)
    return f"{color}{text[:at]}{PLAIN}"
