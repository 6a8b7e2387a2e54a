"""A walk through the directories of a project, the nearest first, which ends although a project may be of any size.

Rules: no link is followed; what cannot be listed is passed over, for the agent cannot list it either.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["BoundedWalk"]

PASSED_OVER = frozenset((".git", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".hg", ".svn"))
"""Directories that are full of files and have nothing of the project's own."""
MAX_ENTRIES = 100_000
"""That a walk looks at."""
MAX_FOUND = 200
"""After so many finds it ends: each is denied or protected by itself."""


class BoundedWalk:
    """The entries of some directories, and of those that are added while it goes on."""

    def __init__(self, tops: Iterable[str]) -> None:
        self._waiting = deque(tops)
        self._found = 0
        self.complete = True
        """Whether all was looked at."""

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        seen = 0
        while self._waiting:
            try:
                with os.scandir(self._waiting.popleft()) as entries:
                    for entry in entries:
                        seen += 1
                        if seen > MAX_ENTRIES or self._found >= MAX_FOUND:
                            self.complete = False
                            return
                        yield entry
            except OSError:
                continue

    def add(self, *directories: str) -> None:
        """These are looked at too."""
        self._waiting.extend(directories)

    def enter(self, entry: os.DirEntry[str]) -> None:
        """A directory of the project is looked at too, unless it is one of PASSED_OVER."""
        if entry.name not in PASSED_OVER:
            self._waiting.append(entry.path)

    def count_find(self) -> None:
        """Something was found."""
        self._found += 1
