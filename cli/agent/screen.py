"""What a program's output has made of the terminal: whether it is in the middle of something, draws the whole screen,
and what to send to undo it.

Rules: bytes in, facts out; whatever comes, it never raises and keeps no more than a few bytes. ECMA-48 and xterm's
control sequences, as far as they change a mode that outlives the program.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CALM", "Screen"]

GROUND, ESCAPE, CONTROL, STRING = range(4)
ESC = 0x1B
CANCEL = (0x18, 0x1A)
ALTERNATE = frozenset((47, 1047, 1049))
NORMALLY_ON = frozenset((7, 25))
"""Wrapping, the cursor."""
REMEMBERED = NORMALLY_ON | ALTERNATE | frozenset((1, 5, 6, 9, *range(1000, 1008), 1015, 1016, 2004, 2026, 2031, 2048))
"""Private modes that we put back: keys of the cursor, mice, pastes, reports."""
LONGEST_PARAMETERS = 256
STRING_END = re.compile(rb"[\x07\x18\x1a\x1b\x9c]")
CALM = b"\x18\x1b\\\x0f\x1b(B\x1b[0m"
"""Ends whatever sequence is open, and sets plain ASCII text without colours: our words cannot be swallowed, drawn as
line graphics or hidden."""


class Screen:
    """Follows a stream of output."""

    def __init__(self) -> None:
        self._state = GROUND
        self._parameters = bytearray()
        self._more = 0
        self._changed: set[int] = set()
        self._keypad = self._region = False
        self._keyboard = 0

    @property
    def is_calm(self) -> bool:
        """Whether nothing is half done: no sequence, no character of several bytes."""
        return self._state == GROUND and self._more == 0

    @property
    def is_alternate(self) -> bool:
        """Whether the program has the alternate screen, as full-screen programs do."""
        return bool(self._changed & ALTERNATE)

    @property
    def undo(self) -> bytes:
        """What puts the terminal back, as far as the program has changed it; b"" for not at all."""
        parts = [] if self.is_calm else [CALM]
        if self._keyboard:
            parts.append(b"\x1b[<%du" % self._keyboard)
        if self._keypad:
            parts.append(b"\x1b>")
        if self._region:
            parts.append(b"\x1b7\x1b[r\x1b8")
        others, alternate = sorted(self._changed - ALTERNATE), sorted(self._changed & ALTERNATE)
        parts += [b"\x1b[?%d%c" % (mode, b"h" if mode in NORMALLY_ON else b"l") for mode in others]
        parts += [b"\x1b[?%dl" % mode for mode in alternate]
        return b"".join(parts) + (b"\x1b[0m" if parts else b"")

    def feed(self, data: bytes) -> None:
        """The program has written this."""
        at, end = 0, len(data)
        while at < end:
            if self._state == GROUND:
                at = self._ground(data, at)
            elif self._state == STRING:
                found = STRING_END.search(data, at)
                if found is None:
                    return
                at = found.end()
                self._state = ESCAPE if data[at - 1] == ESC else GROUND
            else:
                byte = data[at]
                at += 1
                if byte in CANCEL:
                    self._state = GROUND
                elif byte == ESC:
                    self._state = ESCAPE
                elif byte >= 0x20:  # other controls act within a sequence
                    (self._escape if self._state == ESCAPE else self._control)(byte)

    def _ground(self, data: bytes, at: int) -> int:
        escape = data.find(ESC, at)
        text = data[at:] if escape < 0 else data[at:escape]
        self._more = _missing(text, self._more)
        if escape < 0:
            return len(data)
        self._more, self._state = 0, ESCAPE
        return escape + 1

    def _escape(self, byte: int) -> None:
        if 0x20 <= byte <= 0x2F:  # an intermediate: "ESC ( B"
            return
        if byte == ord("["):
            self._state = CONTROL
            self._parameters.clear()
            return
        self._state = STRING if byte in b"]PX^_" else GROUND
        if byte == ord("="):
            self._keypad = True
        elif byte == ord(">"):
            self._keypad = False
        elif byte == ord("c"):  # a full reset
            self._changed.clear()
            self._keypad = self._region = False
            self._keyboard = 0

    def _control(self, byte: int) -> None:
        if not 0x40 <= byte <= 0x7E:
            if len(self._parameters) < LONGEST_PARAMETERS:
                self._parameters.append(byte)
            return
        self._state = GROUND
        parameters = bytes(self._parameters)
        if parameters.startswith(b"?") and byte in b"hl":
            self._set(parameters[1:], byte == ord("h"))
        elif byte == ord("r") and parameters[:1].isdigit():
            self._region = True
        elif byte == ord("r") and not parameters:
            self._region = False
        elif byte == ord("u") and parameters[:1] == b">":
            self._keyboard = min(self._keyboard + 1, 16)
        elif byte == ord("u") and parameters[:1] == b"<":
            self._keyboard = max(self._keyboard - next(_numbers(parameters[1:]), 1), 0)

    def _set(self, parameters: bytes, on: bool) -> None:
        for mode in _numbers(parameters):
            if mode not in REMEMBERED:
                continue
            if on == (mode in NORMALLY_ON):
                self._changed.discard(mode)
            else:
                self._changed.add(mode)


def _numbers(parameters: bytes) -> Iterator[int]:
    for each in parameters.split(b";"):
        if each.isdigit() and len(each) <= 5:
            yield int(each)


def _missing(text: bytes, before: int) -> int:
    """How many bytes of a UTF-8 character are missing after this text, where `before` were missing before it."""
    if before and len(text) < before and all(0x80 <= byte < 0xC0 for byte in text):
        return before - len(text)
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF8 else 1
            return max(length - back, 0)
    return 0
