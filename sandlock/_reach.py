"""What may be read and changed of the host's files, by whoever is no program of the sandbox but acts for one.

Rules: all paths are real ones, without links. What a hard link leads to is known by what it is, not by its name. One
judgement for all who ask.
"""

from __future__ import annotations

import os

from ._record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Use = Literal["look", "read", "change"]

__all__ = ["Reach"]


@record
class Reach:
    """Real paths: what programs may read, what they may change, and of that what they may not use, or not change."""

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    denied: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, tuple[str, ...]]:
        """As keywords of sandlock.files.Files."""
        return {
            "readable": self.readable,
            "writable": self.writable,
            "denied": self.denied,
            "protected": self.protected,
        }

    def refusal(self, path: str, use: Use, found: os.stat_result | None, *, holds: bool = False) -> str:
        """Why what lies at this real path, and is what was `found` there, may not be used so; "" if it may.

        `holds`: it is made, removed or renamed, with all that it holds.
        """
        kept = [("denied", self.denied), ("protected", self.protected if use == "change" else ())]
        for word, places in kept:
            if _is_among(path, places) or (found is not None and any(_is_same(each, found) for each in places)):
                return f"it is {word}"
            if holds and any(each.startswith(f"{path}/") for each in places):
                return f"it holds what is {word}"
        if use == "read" and not _is_among(path, self.readable):
            return "nothing allows to read it"
        if use == "change" and not _is_among(path, self.writable):
            return "nothing allows to change it"
        return ""


def _is_among(path: str, places: tuple[str, ...]) -> bool:
    """Whether it is one of them, or below one."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in places)


def _is_same(path: str, status: os.stat_result) -> bool:
    try:
        found = os.stat(path)
    except OSError:  # not there yet
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)
