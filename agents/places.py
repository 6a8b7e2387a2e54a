"""Temporary directories that programs of a sandbox fill as they like."""

from __future__ import annotations

from contextlib import suppress
from tempfile import TemporaryDirectory

from sandlock.files import remove_tree

__all__ = ["Place"]


class Place(TemporaryDirectory[str]):
    """A TemporaryDirectory whose end neither depth nor modes hold up. The library's own gives up where it is deep, and
    some that people have (before 3.11.8 and 3.12.1) change the modes of what links in it lead to."""

    @classmethod
    def _rmtree(cls, name: str, ignore_errors: bool = False, repeated: bool = False) -> None:
        with suppress(OSError if ignore_errors else FileNotFoundError):
            remove_tree(name, forced=True)
