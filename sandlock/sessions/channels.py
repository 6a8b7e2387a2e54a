"""Channels: how questions are put to somebody who is not in this process, and how the answers come back.

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ProgramChannel(["./guard.py"]).serve, desk)

Rules: a channel counts as a listener only while it can answer. What goes wrong on its way (it does not run, does not
answer in time, answers too much or nonsense) denies the question, and the denial says so. A question is written by the
program that is judged; an answer by somebody whom the user named, and is still read key by key.

Nothing inside the sandbox may reach a channel, or it would answer its own questions: `guards` are what the policy has
to deny besides, and `check` refuses what lies where the sandbox may write.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from sandlock import PolicyError

from ..result import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from .desk import Desk
    from .questions import Question

__all__ = ["LONGEST_ANSWER", "AnswerError", "Channel", "question_line", "read_json", "refuse_inside", "serve_each"]

LONGEST_ANSWER = 65536
"""Bytes."""
AT_ONCE = 16
"""Questions that one channel puts at the same time; further ones wait."""


class AnswerError(Exception):
    """Why there is no answer, in words for the denial."""


class Channel(ABC):
    """Where questions go."""

    name: str
    """For the record: who has answered."""

    def check(self, writable: Iterable[str]) -> None:
        """Whether what stands in these directories, which the sandbox may write, could answer. Raises PolicyError."""
        del writable

    @property
    def guards(self) -> dict[str, tuple[str, ...]]:
        """What the sandbox's policy has to deny: by field of Policy, the rules to add."""
        return {}

    @abstractmethod
    async def serve(self, desk: Desk) -> None:
        """Puts the desk's questions and brings the answers, until it is cancelled."""


async def serve_each(
    desk: Desk, name: str, ask: Callable[[Question], Awaitable[object]], *, seconds: float | None = None
) -> None:
    """Has each question of the desk answered by `ask`, which gives JSON data or raises AnswerError, for ever.

    `seconds`: that one may take. Who asked may leave before: then `ask` is cancelled."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    scopes: dict[str, trio.CancelScope] = {}

    async def answer(question: Question, scope: trio.CancelScope) -> None:
        with scope:
            async with limiter:
                await _answer_one(desk, name, question, ask, math.inf if seconds is None else seconds)

    with desk.watching() as updates, desk.listening(name):
        async with trio.open_nursery() as nursery:
            async for _ in updates:  # what they say is in `pending` too, also when some were missed
                pending = {question.id: question for question in desk.pending}
                for id in scopes.keys() - pending.keys():
                    scopes.pop(id).cancel()
                for id in pending.keys() - scopes.keys():
                    scopes[id] = trio.CancelScope()
                    nursery.start_soon(answer, pending[id], scopes[id])


async def _answer_one(
    desk: Desk, name: str, question: Question, ask: Callable[[Question], Awaitable[object]], seconds: float
) -> None:
    try:
        with trio.fail_after(seconds):
            value = await ask(question)
        desk.answer(question.id, value, name)
    except trio.TooSlowError:
        deny(desk, question, name, f"no answer within {seconds:g} s")
    except (AnswerError, PolicyError) as error:
        deny(desk, question, name, str(error).removeprefix("answer: "))


def deny(desk: Desk, question: Question, name: str, why: str) -> None:
    """A channel could not bring an answer."""
    desk.answer(question.id, {"verdict": "deny", "reason": f"{name}: {printable(why, 300)}"}, name)


def read_json(data: bytes) -> object:
    """What an answer says. Raises AnswerError."""
    if len(data) > LONGEST_ANSWER:
        raise AnswerError(f"the answer is longer than {LONGEST_ANSWER} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise AnswerError("the answer is no JSON" if data.strip() else "there is no answer") from None


def question_line(question: Question) -> bytes:
    """A question as one line of JSON."""
    return json.dumps(question.to_dict()).encode() + b"\n"


def refuse_inside(field: str, paths: Iterable[str], writable: Iterable[str]) -> None:
    """Raises PolicyError if one of the paths, or a directory above it, is one of those that the sandbox may write. By
    inode: a directory may have several names."""
    granted: dict[tuple[int, int], str] = {}
    for place in writable:
        with _ignoring_errors():
            found = os.stat(place)
            granted[found.st_dev, found.st_ino] = place
    for path in paths:
        for name in {os.path.abspath(path), os.path.realpath(path)}:
            above = name
            while True:
                with _ignoring_errors():
                    found = os.stat(above)
                    if (found.st_dev, found.st_ino) in granted:
                        place = granted[found.st_dev, found.st_ino]
                        raise PolicyError(
                            f"{field}: {path!r} lies below {place}, which the sandbox may write, so that it could "
                            "answer its own questions; put it elsewhere"
                        )
                if above == "/":
                    break
                above = os.path.dirname(above)


@contextmanager
def _ignoring_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        return
