"""What is kept of the verdicts of a run's callback: so many records, and so much text. The program decides how many
there are and how long they get, so the rest is only counted.

Rules: values in, values out. A record is here before the program gets the answer; what came too late is taken back.
"""

from __future__ import annotations

from ._record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._denials import Audited, Denial

__all__ = ["MAX_RECORDS", "MAX_TEXT", "Book"]

MAX_RECORDS = 1024
MAX_TEXT = 4 * 1024 * 1024
"""Characters of all records. One exec may have six million of them."""


class Book:
    """Records in the order they came. Equal ones are one that counts, if it is to `merge`."""

    def __init__(self, *, merge: bool) -> None:
        self.dropped = 0
        """How many found no room."""
        self._merge = merge
        self._records: dict[object, Any] = {}
        self._text = 0

    @property
    def records(self) -> tuple[Any, ...]:
        """What is kept. From any thread."""
        return tuple(self._records.values())

    def add(self, record: Denial | Audited) -> object:
        """One more. Returns what `take_back` wants to know."""
        key: object = _alike(record) if self._merge else object()
        if key in self._records:
            self._records[key] = replace(self._records[key], count=self._records[key].count + 1)
            return key
        size = _size(record)
        if len(self._records) >= MAX_RECORDS or self._text + size > MAX_TEXT:
            self.dropped += 1
            return None
        self._text += size
        self._records[key] = record
        return key

    def take_back(self, key: object) -> None:
        """What `add` has added: its call was over already."""
        if key is None:
            self.dropped -= 1
        elif self._records[key].count > 1:
            self._records[key] = replace(self._records[key], count=self._records[key].count - 1)
        else:
            self._text -= _size(self._records.pop(key))


def _alike(record: Denial | Audited) -> object:
    return record.kind, record.target, record.argv, record.cause, record.reason, record.host


def _size(record: Denial | Audited) -> int:
    words = (record.target, record.reason, *record.argv, *record.chain)
    return sum(map(len, words)) + len(words)
