"""`--ask`: from words to channels; and the channel that is our own terminal."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import trio

from sandlock import PolicyError
from sandlock.result import printable
from sandlock.sessions.http_channel import HttpChannel
from sandlock.sessions.program_channel import ProgramChannel
from sandlock.sessions.unix_channel import UnixChannel

from .prompt import put

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandlock.sessions.channels import Channel
    from sandlock.sessions.desk import Desk
    from sandlock.sessions.questions import Question

    from .relay import Relay

__all__ = ["TerminalChannel", "channels_of", "words_of"]

LOOK = 0.2
"""Seconds between two looks at whether the agent has left the full screen."""
KNOWN = "tty, none, exec:CMD, http://127.0.0.1:PORT, unix:PATH or mcp"


def words_of(given: Iterable[str], *, has_terminal: bool) -> tuple[str, ...]:
    """What `--ask` says, each once; by default the terminal if there is one. Raises PolicyError."""
    words = tuple(dict.fromkeys(given)) or (("tty",) if has_terminal else ())
    for word in words:
        if word not in ("tty", "none", "mcp") and not word.startswith(("exec:", "http:", "https:", "unix:")):
            raise PolicyError(f"--ask: {word!r} is nobody who could be asked; write {KNOWN}")
    if "none" in words and len(words) > 1:
        raise PolicyError("--ask: none means that nobody is asked; leave it out, or the others")
    if "tty" in words and not has_terminal:
        raise PolicyError("--ask: tty: none of the standard streams is a terminal; write another --ask")
    return words


def channels_of(words: Iterable[str], seconds: float | None) -> list[Channel]:
    """The channels that lead out of this process. `seconds`: that each may take. Raises PolicyError."""
    limit = 60.0 if seconds is None else seconds
    found: list[Channel] = []
    for word in words:
        scheme, _, rest = word.partition(":")
        if scheme == "exec":
            try:
                command = shlex.split(rest)
            except ValueError as error:
                raise PolicyError(f"--ask: {word!r}: {error}; write exec:CMD as in a shell") from None
            found.append(ProgramChannel(command, seconds=limit))
        elif scheme in ("http", "https"):
            found.append(HttpChannel(word, seconds=limit))
        elif scheme == "unix":
            found.append(UnixChannel(rest))
    return found


class TerminalChannel:
    """Questions in our own terminal; where the agent draws the whole screen, only the bell says that one waits."""

    name = "tty"

    def __init__(self, relay: Relay, mark: str, where: str) -> None:
        self._relay = relay
        self._mark = mark
        self._where = where
        self._asked: tuple[str, trio.CancelScope] | None = None
        self._new = trio.Event()

    async def serve(self, desk: Desk) -> None:
        """Puts the desk's questions, one after the other, until it is cancelled or the terminal is gone."""
        with desk.watching() as updates, desk.listening(self.name):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, desk, updates)
                await self._ask_all(desk)
                nursery.cancel_scope.cancel()

    async def _watch(self, desk: Desk, updates: trio.MemoryReceiveChannel[object]) -> None:
        async for _ in updates:
            if self._asked is not None and self._asked[0] not in {question.id for question in desk.pending}:
                self._asked[1].cancel()
            self._new.set()

    async def _ask_all(self, desk: Desk) -> None:
        """Returns when nobody can answer here any more."""
        while True:
            pending = desk.pending
            if not pending:
                self._new = trio.Event()
                await self._new.wait()
                continue
            with trio.CancelScope() as scope:
                self._asked = (pending[0].id, scope)
                try:
                    if not await self._ask(desk, pending[0]):
                        return
                finally:
                    self._asked = None

    async def _ask(self, desk: Desk, question: Question) -> bool:
        while True:
            await self._wait_for_lines()
            async with self._relay.held() as face:
                if self._relay.is_full_screen:  # in this moment
                    continue
                answer: dict[str, object] | None = None
                said = "settled elsewhere, or nobody waits for it any more"
                try:
                    answer = await put(face, question.to_dict(), self._mark)
                    if answer is not None:
                        said = self._answer(desk, question, answer)
                finally:
                    with trio.CancelScope(shield=True), trio.move_on_after(1):
                        await face.send(f"  \x1b[2msandlock: {said}\x1b[0m\r\n".encode())
                return answer is not None

    def _answer(self, desk: Desk, question: Question, answer: dict[str, object]) -> str:
        if not desk.answer(question.id, answer, self.name):
            return "too late: it was settled elsewhere"
        key = answer.get("choice", "d")
        label = next((choice.label for choice in question.choices if choice.key == key), "deny")
        return printable(label, 100)

    async def _wait_for_lines(self) -> None:
        """Until the agent's terminal is one of lines; meanwhile the bell and the title call for a second terminal."""
        called = False
        try:
            while self._relay.is_full_screen:
                called = called or await self._relay.call(f"sandlock: a question waits: {self._where}")
                await trio.sleep(LOOK)
        finally:
            if called:
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await self._relay.uncall()
