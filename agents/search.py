"""Searching a workspace without a process, for the file tools of adapters.

Rules: no link is followed into a directory, and none outside the workspace; a search ends in time, and says what it
has left out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandlock.files import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock.files import Entry, Files

__all__ = ["Search", "followed"]

SECONDS = 12.0
"""What a search may take: frameworks give up after a little more."""
LONGEST = 16 * 2**20
"""Bytes of a file that is still looked into."""


class Search:
    """A walk through a directory, or one file, within a time."""

    def __init__(self, files: Files, path: str | None) -> None:
        self._files, self._path = files, path or "/"
        self._until = time.monotonic() + SECONDS
        self.cut = False
        """Whether the time was up."""
        self.unreadable = False
        """Whether there was a directory that could not be listed."""

    def walk(self, passed_over: tuple[str, ...]) -> Iterator[tuple[str, Entry]]:
        """Regular files by their names below the place of the search. Raises FileError: there is no such place."""
        top = self._files.stat(self._path)
        if top.kind != "directory":
            yield top.path.rpartition("/")[2], top
            return
        above = "" if top.path == "." else f"{top.path}/"
        waiting = [top.path]
        while waiting:
            for each in self._listed(waiting.pop(), top.path):
                if time.monotonic() > self._until:
                    self.cut = True
                    return
                if each.kind == "directory" and each.path.rpartition("/")[2] not in passed_over:
                    waiting.append(each.path)
                found = followed(self._files, each)
                if found.kind == "file":
                    yield each.path.removeprefix(above), found

    def _listed(self, path: str, top: str) -> list[Entry]:
        try:
            return self._files.list(path)
        except FileError:
            if path == top:
                raise
            self.unreadable = True
            return []

    def lines(self, entry: Entry, text: str) -> list[str]:
        """The lines of a file that holds this text, and is one."""
        try:
            content = self._files.read(entry.path, max_bytes=LONGEST)
        except FileError:  # too long, denied, or gone since
            return []
        if b"\0" in content[:8192] or text.encode("utf-8", "replace") not in content:
            return []
        return [line.removesuffix("\r") for line in content.decode("utf-8", "replace").split("\n")]


def followed(files: Files, entry: Entry) -> Entry:
    """What a link leads to inside the workspace, by the link's own name; any other as it is."""
    if entry.kind != "link":
        return entry
    try:
        return files.stat(entry.path)
    except FileError:
        return entry
