"""What output does to a terminal: modes that outlive the program, sequences that are not finished."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock.cli.agent.screen import CALM, Screen


def fed(data: bytes) -> Screen:
    screen = Screen()
    screen.feed(data)
    return screen


def facts(screen: Screen) -> tuple[bool, bool, bytes]:
    return screen.is_calm, screen.is_alternate, screen.undo


CASES = [
    (b"plain \x07\r\n", True, False, b""),
    (b"\x1b[31mred", True, False, b""),
    (b"\x1b[?1049h", True, True, b"\x1b[?1049l\x1b[0m"),
    (b"\x1b[?1049h\x1b[?1049l", True, False, b""),
    (b"\x1b[?47h", True, True, b"\x1b[?47l\x1b[0m"),
    (b"\x1b[?25l\x1b[?2004h", True, False, b"\x1b[?25h\x1b[?2004l\x1b[0m"),
    (b"\x1b[?1000;1006h", True, False, b"\x1b[?1000l\x1b[?1006l\x1b[0m"),
    (b"\x1b[?25l\x1bc", True, False, b""),
    (b"\x1b=\x1b[2;5r", True, False, b"\x1b>\x1b7\x1b[r\x1b8\x1b[0m"),
    (b"\x1b[>1u\x1b[>3u\x1b[<u", True, False, b"\x1b[<1u\x1b[0m"),
    (b"\x1b", False, False, CALM + b"\x1b[0m"),
    (b"\x1b[12;", False, False, CALM + b"\x1b[0m"),
    (b"\x1b[?10\x0749h", True, True, b"\x1b[?1049l\x1b[0m"),  # a bell inside: it rings, the sequence goes on
    (b"\x1b]0;title", False, False, CALM + b"\x1b[0m"),
    (b"\x1b]0;\x1b[?1049h", True, True, b"\x1b[?1049l\x1b[0m"),  # an ESC ends the string
    (b"\x1b]0;[?1049h\x07", True, False, b""),
    (b"\x1bP q [?1049h\x1b\\", True, False, b""),
    (b"\x1b[?10\x1849h", True, False, b""),
    (b"\x1b(0", True, False, b""),
    (b"\xe2\x82", False, False, CALM + b"\x1b[0m"),
    (b"\xe2\x82\xac", True, False, b""),
    (b"\x1b[?" + b"9" * 5000 + b"h", True, False, b""),
]


@pytest.mark.parametrize(("data", "calm", "alternate", "undo"), CASES)
def test_what_output_does(data: bytes, calm: bool, alternate: bool, undo: bytes) -> None:
    assert facts(fed(data)) == (calm, alternate, undo)


@given(st.lists(st.sampled_from([case[0] for case in CASES]), max_size=4), st.lists(st.integers(0, 60), max_size=5))
def test_it_does_not_matter_how_it_comes(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    cut = Screen()
    at = 0
    for length in cuts:
        cut.feed(data[at : at + length])
        at += length
    cut.feed(data[at:])
    assert facts(cut) == facts(fed(data))


@given(st.binary(max_size=300))
def test_what_it_says_undoes_it(data: bytes) -> None:
    screen = fed(data)
    screen.feed(screen.undo)
    assert screen.is_calm
    assert screen.undo == b""
    screen.feed(CALM)
    assert screen.is_calm
