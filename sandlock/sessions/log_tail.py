"""Reading a log while it is written: whole lines, as data, in order.

Rules: what cannot be understood is passed over; what comes faster than it is read is skipped, and counted.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import trio

__all__ = ["LogTail"]

BLOCK = 2**18
MOST_BEHIND = 16 * 2**20
LONGEST_LINE = 2**20


class LogTail:
    """Of the file of this path, from its beginning; it need not be there yet."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""
        self._is_cut = False
        self._turn = trio.Lock()
        self.skipped = 0
        """Lines that were not read."""

    async def read(self) -> list[dict[str, Any]]:
        """What has come since the last time; at most a block, so that [] means that there is no more for now."""
        async with self._turn:
            return await trio.to_thread.run_sync(self.read_now)

    def close(self) -> None:
        """The file is not needed any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_now(self) -> list[dict[str, Any]]:
        """The same as `read`, for threads."""
        while True:
            data = self._block()
            if not data:
                return []
            lines = self._lines(data)
            if lines:
                return lines

    def _block(self) -> bytes:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                return b""
            while found.st_size - os.lseek(self._fd, 0, os.SEEK_CUR) > MOST_BEHIND:
                skipped = os.read(self._fd, BLOCK)
                self.skipped += skipped.count(b"\n")
                self._rest, self._is_cut = b"", not skipped.endswith(b"\n")
            return os.read(self._fd, BLOCK)
        except OSError:
            return b""

    def _lines(self, data: bytes) -> list[dict[str, Any]]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if whole and self._is_cut:
            del whole[0]
            self._is_cut = False
        if len(self._rest) > LONGEST_LINE:
            self._rest, self._is_cut = b"", True
            self.skipped += 1
        found = []
        for line in whole:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                found.append(value)
        return found
