"""srt-settings.json of Anthropic's sandbox-runtime: reads allowed by default, writes and network denied by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .imported import Collector, read_json
from .imported_claude import read_sandbox

if TYPE_CHECKING:
    from .imported import Imported

__all__ = ["read_srt"]


def read_srt(text: str, path: str, workspace: str, unmatched: Literal["ask", "allow"]) -> Imported:
    """The rules of an srt-settings.json; srt judges no programs, so that all of them run. Raises PolicyError."""
    collector = Collector()
    collector.add("fs_readable", "/", "reads are allowed by default", why="denyRead takes away from it")
    read_sandbox(collector, read_json(text, path), workspace)
    return collector.result("srt", path, "allow")
