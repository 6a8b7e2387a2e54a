"""The desk: where questions wait, and who may answer them comes to look.

Rules: a question is answered once, by the first answer that is understood. Where nobody could answer, or nobody does in
time, it is denied with that cause. Everything here happens in one trio loop; nothing waits for a slow reader.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING

import trio

from sandlock import Allow, Connect, Deny, Kill, Resolve, Send

from .._record import record
from .questions import Answer, Question, question_of, read_answer, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..events import Event

__all__ = ["Desk", "Update"]

MAX_UPDATES = 1024
"""That a watcher may be behind; it is told that it has missed some."""


@record
class Update:
    """What happened to a question."""

    kind: str
    """"question" (there is a new one), "answered", "withdrawn" (who asked is gone), "expired"."""
    question: Question
    answer: Answer | None = None
    by: str = ""


class Desk:
    """The questions of one session. `timeout`: seconds that a question waits for an answer; None: for ever."""

    def __init__(self, *, timeout: float | None = None) -> None:
        self._timeout = math.inf if timeout is None else timeout
        self._count = 0
        self._waiting: dict[str, _Waiting] = {}
        self._watchers: set[trio.MemorySendChannel[Update]] = set()
        self._listeners: dict[int, str] = {}
        self._hosts: dict[str, str] = {}

    @property
    def pending(self) -> tuple[Question, ...]:
        """The questions that wait, the oldest first."""
        return tuple(each.question for each in self._waiting.values())

    @property
    def listeners(self) -> tuple[str, ...]:
        """Who could answer now."""
        return tuple(self._listeners.values())

    @contextmanager
    def listening(self, name: str) -> Iterator[None]:
        """Within it, somebody of this name can answer. When the last one leaves, what still waits is denied."""
        key = object()
        self._listeners[id(key)] = name
        try:
            yield
        finally:
            del self._listeners[id(key)]
            if not self._listeners:
                for waiting in self._waiting.values():
                    waiting.settle(None, "")

    @contextmanager
    def watching(self) -> Iterator[trio.MemoryReceiveChannel[Update]]:
        """The updates from now on; first the questions that wait already."""
        send, receive = trio.open_memory_channel[Update](MAX_UPDATES)
        for question in self.pending:
            _tell(send, Update(kind="question", question=question))
        self._watchers.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._watchers.discard(send)
            send.close()

    def answer(self, question: str, value: object, by: str) -> bool:
        """Answers a question of this id with JSON data, as `read_answer` reads it; `by`: who does.

        False if it does not wait any more: another was first. Raises PolicyError for what is no answer.
        """
        waiting = self._waiting.get(question)
        if waiting is None or waiting.is_settled:
            return False
        waiting.settle(read_answer(value, waiting.question), by)
        return True

    async def vet(self, event: Event, box: object) -> Allow | Deny | Kill:
        """The `policy_fn` of the session: waits for the answer to this event."""
        known = self._by_host(event)
        if known is not None:
            return known
        if not self._listeners:
            return Deny("nobody was there to be asked", cause="nobody-listens")
        self._count += 1
        now = time()
        deadline = now + self._timeout if self._timeout < math.inf else None
        question = question_of(event, f"q{self._count}", time=now, deadline=deadline)
        waiting = self._waiting[question.id] = _Waiting(question)
        self._announce(Update(kind="question", question=question))
        ending = "withdrawn"
        try:
            with trio.move_on_after(self._timeout):
                await waiting.settled.wait()
            ending = "answered" if waiting.is_settled else "expired"
        finally:
            del self._waiting[question.id]
            self._announce(Update(kind=ending, question=question, answer=waiting.answer, by=waiting.by))
        return self._verdict(waiting)

    def _verdict(self, waiting: _Waiting) -> Allow | Deny | Kill:
        if not waiting.is_settled:
            return Deny(f"nobody answered within {self._timeout:g} s", cause="timeout")
        if waiting.answer is None:
            return Deny("who could have answered has left", cause="nobody-listens")
        if waiting.answer.verdict == "allow" and waiting.answer.scope == "host":
            self._hosts[waiting.question.host] = waiting.by
        return verdict_of(waiting.answer, waiting.by)

    def _by_host(self, event: Event) -> Allow | None:
        """What was approved by name. The name of a connection comes from our own resolver's answers to this tree."""
        host = event.name if isinstance(event, Resolve) else event.host if isinstance(event, Connect | Send) else ""
        by = self._hosts.get(host) if host else None
        return None if by is None else Allow(by=by)

    def _announce(self, update: Update) -> None:
        for watcher in self._watchers:
            _tell(watcher, update)


def _tell(watcher: trio.MemorySendChannel[Update], update: Update) -> None:
    try:
        watcher.send_nowait(update)
    except (trio.WouldBlock, trio.BrokenResourceError):
        return  # it reads too slowly, or has left: `pending` has what still waits


class _Waiting:
    """A question, until it is settled."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.settled = trio.Event()
        self.answer: Answer | None = None
        self.by = ""

    @property
    def is_settled(self) -> bool:
        return self.settled.is_set()

    def settle(self, answer: Answer | None, by: str) -> None:
        """`answer` None: there is nobody left who could."""
        if not self.is_settled:
            self.answer, self.by = answer, by
            self.settled.set()
