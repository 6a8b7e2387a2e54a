"""What waits to be sent to one client of a session: bounded, so that a slow reader costs a bounded amount of memory.

Rules: pushes that find no room are dropped, and the reader is told how many; replies wait for room, and whoever asks
without reading the replies is not read any more.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LONGEST", "Outbox", "line_of"]

LONGEST = 2**20
"""Bytes of a line, either way."""
MOST = 1024
"""Messages that wait."""
LARGEST = 4 * 2**20
"""Bytes that wait."""


def line_of(message: Mapping[str, object]) -> bytes:
    """A message as it is sent. Raises ValueError for one that would be too long."""
    line = json.dumps(message).encode() + b"\n"
    if len(line) > LONGEST:
        raise ValueError(f"a message of {len(line)} bytes")
    return line


class Outbox:
    """For one client; used in one trio loop."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._missed = 0
        self._room = trio.Event()
        self._filled = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    @property
    def missed(self) -> int:
        """Pushes that were dropped since the client was told."""
        return self._missed

    def push(self, line: bytes) -> None:
        """One more, if there is room."""
        if self._missed:
            missed = line_of({"push": "missed", "count": self._missed})
            if not self._has_room(len(line) + len(missed), 2):
                self._missed += 1
                return
            self._put(missed)
            self._missed = 0
        elif not self._has_room(len(line), 1):
            self._missed = 1
            return
        self._put(line)

    async def reply(self, line: bytes) -> None:
        """One more, when there is room."""
        while not self._has_room(len(line), 1):
            self._room = trio.Event()
            await self._room.wait()
        self._put(line)

    async def wait_idle(self) -> None:
        """Waits until everything that was put here is sent, or the client is gone."""
        await self._idle.wait()

    async def send(self, stream: trio.abc.SendStream, patience: float) -> None:
        """Sends what comes, for ever. Raises trio.TooSlowError if the client does not take a line within so many
        seconds, and trio.BrokenResourceError."""
        try:
            while True:
                while self._lines:
                    line = self._lines.popleft()
                    self._size -= len(line)
                    self._room.set()
                    with trio.fail_after(patience):
                        await stream.send_all(line)
                self._told()
                if not self._lines:
                    self._idle.set()
                    self._filled = trio.Event()
                    await self._filled.wait()
        finally:
            self._idle.set()

    def _told(self) -> None:
        """A reader that has caught up is told what it missed, also if nothing more comes."""
        if self._missed:
            self._put(line_of({"push": "missed", "count": self._missed}))
            self._missed = 0

    def _has_room(self, size: int, count: int) -> bool:
        return len(self._lines) + count <= MOST and (not self._lines or self._size + size <= LARGEST)

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._idle.is_set():
            self._idle = trio.Event()
        self._filled.set()
