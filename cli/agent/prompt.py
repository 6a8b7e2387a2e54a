"""The question in a terminal: what is drawn, and what a key means.

Rules: all of a question was written by the program that is judged, so every word is escaped and cut. One key answers,
but no key that may have been meant for somebody else: none that was typed before the question stood there, none within
a moment after, none of several that come at once (a paste, an arrow key).

The agent's output can look like a question. Ours carries the session's mark, two words that are shown when the session
begins and that the agent does not get to see; and keys typed at a forged one go to the agent, and answer nothing.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import east_asian_width

import trio

from sandlock.result import printable

from .screen import CALM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Face", "new_mark", "put", "question_lines"]

READY = b"  answer: "
"""From here on keys count."""
QUIET = 0.3
"""Seconds without a key before one counts."""
LONGEST_REASON = 400
CUT_LINES = 3
"""Of a command, before it is cut."""
FULL = 200_000
"""Characters of a command that can be looked at."""
CONTROL_C, ESCAPE, ENTER, BACKSPACE = b"\x03", b"\x1b", (b"\r", b"\n"), (b"\x7f", b"\b")
BOLD, PLAIN, DIM, REVERSE = "\x1b[1m", "\x1b[0m", "\x1b[2m", "\x1b[7m"
FIRST = (
    "amber", "ancient", "arctic", "autumn", "brisk", "bronze", "calm", "cobalt", "copper", "coral", "crimson", "dusty",
    "eager", "early", "emerald", "faded", "gentle", "golden", "hidden", "hollow", "indigo", "ivory", "jolly", "lunar",
    "mellow", "misty", "olive", "pale", "quiet", "rapid", "rusty", "scarlet", "silent", "silver", "solar", "velvet",
)  # fmt: skip
SECOND = (
    "anchor", "badger", "beacon", "birch", "canyon", "cedar", "comet", "falcon", "fern", "glacier", "harbor", "heron",
    "island", "kettle", "lantern", "maple", "marble", "meadow", "otter", "pebble", "pepper", "pigeon", "planet",
    "raven", "river", "saddle", "salmon", "spruce", "thistle", "tiger", "tulip", "walnut", "willow", "window", "zebra",
)  # fmt: skip


class Face(Protocol):
    """Where a question is drawn and answered."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""

    async def send(self, data: bytes) -> None:
        """Shows it."""

    async def receive(self) -> bytes:
        """What was typed, as it came; b"" when nothing will."""

    def forget_typed(self) -> None:
        """Drops what was typed and not read."""


def new_mark() -> str:
    """Two words by which a person knows that sandlock asks."""
    from secrets import choice

    return f"{choice(FIRST)} {choice(SECOND)}"


async def put(face: Face, question: Mapping[str, Any], mark: str) -> dict[str, object] | None:
    """Draws a question (as `Question.to_dict` has it) and returns the answer, as JSON data; None if nobody is there."""
    rows, columns = face.size
    lines = question_lines(question, mark, columns)
    await face.send(CALM + b"\r\n" + _encoded(lines))
    face.forget_typed()
    await _wait_for_quiet(face)
    await face.send(READY)
    choices = {choice["key"]: choice for choice in question["choices"]}
    pages = _pages(question, rows, columns)
    while True:
        key = await face.receive()
        if not key:
            return None
        if key == CONTROL_C:
            return {"verdict": "deny"}
        if key == b"a":
            await face.send(_encoded([*next(pages), _keys(question)]))
            continue
        choice = choices.get(key.decode("ascii", "replace"))
        if choice is None:
            await _wait_for_quiet(face)
            continue
        if not choice["wants_reason"]:
            return {"choice": choice["key"]}
        reason = await _read_line(face, "why: ")
        if reason is not None:
            return {"choice": choice["key"], "reason": reason}
        await face.send(_encoded([_keys(question)]))


async def _wait_for_quiet(face: Face) -> None:
    """Drops what is typed until nothing has been for a moment."""
    while True:
        with trio.move_on_after(QUIET) as moment:
            if not await face.receive():
                return
        if moment.cancelled_caught:
            return


async def _read_line(face: Face, label: str) -> str | None:
    """A line that is typed here; None if it is given up."""
    text = ""
    await face.send(label.encode())
    while True:
        typed = await face.receive()
        if not typed or typed in (CONTROL_C, ESCAPE):
            await face.send(b"\r\n")
            return None
        if typed in BACKSPACE:
            if text:
                back = _width(text[-1])
                text = text[:-1]
                await face.send(b"\b \b" * back)
            continue
        line, ended = typed.decode("utf-8", "ignore"), False
        for end in "\r\n":
            before, separator, _ = line.partition(end)
            line, ended = before, ended or bool(separator)
        new = "".join(character for character in line if character.isprintable())[: LONGEST_REASON - len(text)]
        text += new
        await face.send(new.encode())
        if ended:
            await face.send(b"\r\n")
            return text


# What is drawn --------------------------------------------------------------------------------------------------------


def question_lines(question: Mapping[str, Any], mark: str, columns: int) -> list[str]:
    """The question as lines, without ends of lines."""
    columns = max(20, min(columns, 120))
    title = f" sandlock asks · {mark} "
    lines = [f"{REVERSE}{BOLD}{title}{PLAIN}{'─' * max(0, columns - len(title))}"]
    for name, text in _facts(question):
        parts = list(_wrapped(printable(text, FULL), columns - 10))
        shown = parts[:CUT_LINES]
        bold = BOLD if name == question["kind"] else ""
        lines += [f" {DIM}{name if not at else '':8}{PLAIN} {bold}{part}{PLAIN}" for at, part in enumerate(shown)]
        if len(parts) > len(shown):
            hidden = sum(map(len, parts[CUT_LINES:]))
            lines.append(f" {'':8} {REVERSE} {hidden} more characters: a shows them {PLAIN}")
    lines.append("")
    for choice in question["choices"]:
        label = next(iter(_wrapped(printable(choice["label"], 400), columns - 5)), "")
        lines.append(f"  {BOLD}{choice['key']}{PLAIN}  {label}")
    lines.append(f"  {BOLD}a{PLAIN}  see all of it")
    return lines


def _facts(question: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = question["kind"]
    if kind == "exec":
        yield "exec", shlex.join(question["argv"])
        yield "file", question["exe"]
        yield "in", question["cwd"]
    else:
        where = question["target"]
        host = question["host"]
        yield kind, f"{host}  ({where})" if host and host != where else where
    if question["rule"]:
        yield "rule", question["rule"]
    if question["chain"]:
        words = [" ".join(each["argv"][:4])[:80] or each["exe"] or str(each["pid"]) for each in question["chain"]]
        yield "from", " < ".join(words[:6]) + (" < ..." if len(words) > 6 else "")


def _keys(question: Mapping[str, Any]) -> str:
    return "  " + "  ".join(f"{BOLD}{choice['key']}{PLAIN}" for choice in question["choices"]) + f"  {BOLD}a{PLAIN}"


def _pages(question: Mapping[str, Any], rows: int, columns: int) -> Iterator[list[str]]:
    """All of it, a screenful at a time, over and over."""
    texts = [f"{number}: {printable(word, FULL)}" for number, word in enumerate(question["argv"])]
    texts += [
        f"from {each['pid']} {printable(each['exe'], 4000)}: {printable(shlex.join(each['argv']), 4000)}"
        for each in question["chain"]
    ]
    texts += [f"{name}: {printable(text, FULL)}" for name, text in _facts(question)]
    lines = [part for text in texts for part in _wrapped(text, max(20, columns - 2))]
    page = max(4, rows - 3)
    while True:
        for start in range(0, len(lines), page):
            left = len(lines) - start - page
            yield lines[start : start + page] + ([f"{DIM}({left} more lines: a){PLAIN}"] if left > 0 else [])


def _wrapped(text: str, columns: int) -> Iterator[str]:
    """Pieces of a line that fit."""
    piece, width = "", 0
    for character in text:
        more = _width(character)
        if width + more > columns and piece:
            yield piece
            piece, width = "", 0
        piece, width = piece + character, width + more
    if piece:
        yield piece


def _width(character: str) -> int:
    return 2 if east_asian_width(character) in "WF" else 1


def _encoded(lines: list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "backslashreplace")
