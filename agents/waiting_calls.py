"""Tool calls that go on while their agent is interrupted, and the questions that they ask meanwhile.

Rules: a call runs in a thread or task of its own, so that its step may end by an interrupt and come back to it. What is
asked waits in the sandbox, not carried out, until the answer is here; if the call is unknown or given up, it is denied.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from sandlock import Allow, Deny, PolicyError
from sandlock.sessions.questions import Answer, question_of, verdict_of

from .loops import answer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandlock import Kill
    from sandlock.sessions.questions import Question

    from .sandbox import Request

__all__ = ["Asked", "Call", "Calls", "current_call_id"]

MAX_CALLS = 256
KEPT = 3600.0
"""Seconds that a call which has ended keeps its result for an agent that has not been resumed."""
PATIENCE = 10.0
"""Seconds that a command has to end when it is told to; then what it asks is denied."""
NOBODY = "no tool call is there that could be interrupted to ask"

_call_id: ContextVar[str | None] = ContextVar("sandlock_waiting_call", default=None)


def current_call_id() -> str | None:
    """The `call_id` for runs of this tool call, by which their questions find it; None outside of one."""
    return _call_id.get()


class Asked:
    """One question, until it is answered."""

    def __init__(self, question: Question, summary: str) -> None:
        self.question = question
        self.summary = summary
        """One line, escaped."""
        self.answer: Future[Answer] = Future()

    def settle(self, answer: Answer) -> None:
        """The first answer counts."""
        with suppress(InvalidStateError):
            self.answer.set_result(answer)

    def spent(self) -> Asked:
        """One of the same words, to stand for an answer that is not for this one."""
        return Asked(self.question, self.summary)


class Call:
    """A tool call: its work, its questions, and what came of it. Used from several threads."""

    def __init__(self, key: str, thread: str) -> None:
        self.key, self.thread = key, thread
        self.tool_call_id = key.rpartition("\n")[2]
        self.id = os.urandom(12).hex()
        self.put: list[Asked] = []
        """The questions that have interrupted the agent, in their order."""
        self.task: asyncio.Task[None] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.given_up = ""
        """Why nothing is asked any more."""
        self.ended = 0.0
        self._asked: list[Asked] = []
        self._waiting: list[Future[Asked | None]] = []
        self._lock = threading.Lock()

    @property
    def lost(self) -> bool:
        """Whether it was ended from outside: its loop is gone."""
        return isinstance(self.error, asyncio.CancelledError)

    @property
    def asking(self) -> bool:
        """Whether one of its questions has no answer yet."""
        with self._lock:
            return bool(self._asked)

    def next(self) -> Future[Asked | None]:
        """What comes next: a question that has not been put, or None, its end."""
        found: Future[Asked | None] = Future()
        with self._lock:
            self._waiting.append(found)
        self._tell()
        return found

    def ask(self, asked: Asked) -> bool:
        """Adds a question. Whether anybody will put it."""
        with self._lock:
            if self.done or self.given_up:
                return False
            self._asked.append(asked)
        self._tell()
        return True

    def withdraw(self, asked: Asked) -> None:
        """It is answered, or it is too late for an answer."""
        with self._lock:
            if asked in self._asked:
                self._asked.remove(asked)

    def finish(self, result: Any, error: BaseException | None) -> None:
        """It has ended."""
        with self._lock:
            self.result, self.error, self.done, self.ended = result, error, True, time.monotonic()
        self._tell()

    def give_up(self, reason: str = "the tool call was cancelled") -> None:
        """Nobody can be asked any more: its questions are denied."""
        with self._lock:
            self.given_up, asked = reason, list(self._asked)
        for each in asked:
            each.settle(Answer(verdict="deny", reason=reason))

    def _tell(self) -> None:
        with self._lock:
            open_ones = (each for each in self._asked if each not in self.put and not each.answer.done())
            new = next(open_ones, None)
            if not self.done and new is None:
                return
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each.set_running_or_notify_cancel():
                each.set_result(None if self.done else new)


class Calls:
    """The tool calls of one middleware, or toolset. `by`: who is said to have decided."""

    def __init__(self, by: str) -> None:
        self._by = by
        self._by_key: dict[str, Call] = {}
        self._by_id: dict[str, Call] = {}
        self._hosts: set[tuple[str, str]] = set()
        self._count = 0
        self._lock = threading.Lock()

    async def approve(self, request: Request) -> Allow | Deny | Kill:
        """`approve` of the sandbox: has the agent ask, whose tool call it is."""
        call = self._by_id.get(request.call_id)
        if call is None:
            return Deny(NOBODY, cause="nobody-listens")
        host = getattr(request.event, "host", "") or getattr(request.event, "name", "")
        if host and (call.thread, host) in self._hosts:
            return Allow(by=self._by)
        self._count += 1
        question = question_of(request.event, f"q{self._count}", time=time.time(), deadline=None)
        asked = Asked(question, request.summary)
        if not call.ask(asked):
            return Deny(call.given_up or NOBODY, cause="nobody-listens")
        try:
            answer = await answer_of(asked.answer)
        finally:
            call.withdraw(asked)
        if answer.verdict == "allow" and answer.scope == "host":
            self._hosts.add((call.thread, question.host))
        return verdict_of(answer, self._by)

    def asking(self, call_id: str) -> Callable[[], bool]:
        """Tells whether a question of this call has no answer yet."""
        call = self._by_id[call_id]
        return lambda: call.asking

    def find(self, key: str) -> Call | None:
        """The call that a resumed step comes back to."""
        return self._by_key.get(key)

    def start(self, key: str, thread: str, work: Callable[[], object]) -> Call:
        """Begins a call in a thread, with the context of this one."""
        call = self._new(key, thread)

        def carry_out() -> None:
            try:
                _call_id.set(call.id)
                result, error = work(), None
            except BaseException as found:
                result, error = None, found
            self._finished(call, result, error)

        threading.Thread(target=copy_context().run, args=(carry_out,), name="sandlock-tool", daemon=True).start()
        return call

    def start_task(self, key: str, thread: str, work: Callable[[], Awaitable[object]]) -> Call:
        """Begins a call in a task of the loop."""
        call = self._new(key, thread)

        async def carry_out() -> None:
            try:
                _call_id.set(call.id)
                result, error = await work(), None
            except asyncio.CancelledError as found:
                self._finished(call, None, found)
                raise
            except Exception as found:
                result, error = None, found
            self._finished(call, result, error)

        call.task = asyncio.get_running_loop().create_task(carry_out())
        return call

    def cancel(self, call: Call) -> None:
        """Whatever it asks is denied from now on."""
        self._by_key.pop(call.key, None)
        call.give_up()

    def cancel_thread(self, call: Call, stop: Callable[[str], None]) -> None:
        """Ends it where it stands, and waits for that; what it asks is denied only then, or it would go on. `stop`
        gets the call's id, until it has ended."""
        self._by_key.pop(call.key, None)
        limit = time.monotonic() + PATIENCE
        while not call.done:
            stop(call.id)
            time.sleep(0.02)
            if time.monotonic() > limit:
                call.give_up()
        call.give_up()

    async def cancel_task(self, call: Call) -> None:
        """Ends it where it stands, and waits for that; what it asks is denied only then, or it would go on."""
        self._by_key.pop(call.key, None)
        if call.task is not None:
            call.task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([call.task])
        call.give_up()

    def end(self, call: Call) -> Any:
        """The result. Raises what the tool raised."""
        self._by_key.pop(call.key, None)
        if call.error is not None:
            raise call.error
        return call.result

    def _new(self, key: str, thread: str) -> Call:
        with self._lock:
            for old in list(self._by_key.values()):
                if old.done and time.monotonic() - old.ended > KEPT:
                    self._by_key.pop(old.key, None)
            if len(self._by_key) >= MAX_CALLS:
                raise PolicyError(f"more than {MAX_CALLS} tool calls wait for answers; answer some of them")
            call = Call(key, thread)
            self._by_key[key] = self._by_id[call.id] = call
        return call

    def _finished(self, call: Call, result: Any, error: BaseException | None) -> None:
        self._by_id.pop(call.id, None)
        call.finish(result, error)
