"""`sandlock agent watch`: a session in the terminal, live; lines where it is none.

Rules: it only looks: nobody has to be asked because somebody watches. What is drawn goes out at once, and only when it
has changed; the terminal is put back on every way out.
"""

from __future__ import annotations

import os
import signal
import sys
from time import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import trio

    from sandlock.sessions.client import Client
    from sandlock.sessions.directory import SessionRecord

    from .feed import Feed, Message
    from .terminal import Console

__all__ = ["command"]

ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l\x1b[?7l", b"\x1b[?7h\x1b[?25h\x1b[?1049l"
"""The other screen, no cursor, no wrapping; and back."""
BEGIN, FLUSH = b"\x1b[?2026h", b"\x1b[?2026l"
"""What is between them, terminals that know it draw at once."""
EACH, STILL = 0.1, 1.0
"""Seconds between two pictures, at least; and at most."""
HELP = "q leaves   p pauses and resumes   K kills   to answer questions: sandlock agent attach"
QUIT = (b"q", b"\x03", b"\x04")
PATIENCE = 15.0


def command(
    session: Annotated[str, typer.Argument(metavar="[SESSION]", help="Its id, name, or last.")] = "last",
) -> int:
    """Show a session's processes, questions, network and decisions live in this terminal; elsewhere as lines."""
    import trio

    from sandlock import SandlockError
    from sandlock.sessions.directory import find

    from .terminal import Console, Guard

    record = find(session)
    if not record.alive:
        raise SandlockError(f"watch {record.id}: it has ended; see it with: sandlock agent report {record.id}")
    console = Console.find() if os.isatty(1) else None
    if console is None:
        return trio.run(_Watch(record, None).run)
    guard = Guard(console)
    guard.tell(LEAVE)
    watch = _Watch(record, console)
    try:
        with console.raw():
            console.send_last(ENTER)
            try:
                return trio.run(watch.run)
            finally:
                console.send_last(LEAVE + watch.last_words)
    finally:
        console.close()
        guard.dismiss()


class _Watch:
    """One terminal, or stream of lines, at one session."""

    def __init__(self, record: SessionRecord, console: Console | None) -> None:
        self._record = record
        self._console = console
        self._feed: Feed
        self._footer = HELP
        self._drawn = b""
        self._killing = False
        self.last_words = b""
        """How the session has ended, if it has."""

    async def run(self) -> int:
        """Until the session ends, or the user leaves. Raises SandlockError."""
        import trio

        from sandlock import SandlockError
        from sandlock.sessions.client import connect

        from .feed import Feed

        self._feed = Feed()
        left = 0
        failures: list[BaseException] = []
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
        with trio.open_signal_receiver(*numbers) as signals:
            try:
                async with connect(self._record) as client, trio.open_nursery() as nursery:

                    async def heed() -> None:
                        nonlocal left
                        async for number in signals:
                            if number != signal.SIGWINCH:
                                left = 128 + number
                                nursery.cancel_scope.cancel()
                            elif self._console is not None:
                                self._drawn = b""
                                await self._draw()

                    nursery.start_soon(heed)
                    show = self._lines if self._console is None else self._pictures
                    nursery.start_soon(self._until_shown, show, nursery.cancel_scope)
                    if self._console is not None:
                        nursery.start_soon(self._read_keys, self._console, client, nursery.cancel_scope)
                    await self._feed.follow(client)
            except* SandlockError as errors:
                failures += errors.exceptions
            except* (trio.BrokenResourceError, BrokenPipeError):
                left = left or 1  # nobody sees it any more
        if failures:
            raise _single(failures[0])
        if self._feed.has_ended:
            from .live_view import ending_of

            self.last_words = f"session {self._record.id} {ending_of(self._feed.snapshot())}\r\n".encode()
        return left

    async def _until_shown(self, show: object, scope: trio.CancelScope) -> None:
        await show()  # type: ignore[operator]
        scope.cancel()

    # Pictures

    async def _pictures(self) -> None:
        import trio

        reader = self._feed.reader()
        while not self._feed.ended.is_set():
            with trio.move_on_after(STILL):
                await reader.read()
            await self._draw()
            await trio.sleep(EACH)

    async def _draw(self) -> None:
        from .live_view import frame

        assert self._console is not None
        lines = frame(self._feed.snapshot(), self._console.size, time(), self._footer)
        data = b"\r\n".join(line.encode("utf-8", "backslashreplace") + b"\x1b[K" for line in lines)
        if data != self._drawn:
            self._drawn = data
            await self._console.send(BEGIN + b"\x1b[H" + data + b"\x1b[J" + FLUSH)

    async def _read_keys(self, console: Console, client: Client, scope: trio.CancelScope) -> None:
        from sandlock import SandlockError
        from sandlock.result import printable

        while True:
            key = await console.receive()
            if key in QUIT or not key:
                scope.cancel()
                return
            try:
                self._footer = await self._act(client, key)
            except SandlockError as error:
                self._footer = printable(str(error), 300)
            await self._draw()

    async def _act(self, client: Client, key: bytes) -> str:
        """What a key does; the new footer."""
        was_killing, self._killing = self._killing, key == b"K"
        if key == b"K":
            return "kill everything that runs in the sandbox? y"
        if key == b"y" and was_killing:
            await client.request("kill", timeout=PATIENCE)
            return "killed"
        if key == b"p":
            is_paused = bool(self._feed.snapshot().get("paused"))
            await client.request("resume" if is_paused else "pause", timeout=PATIENCE)
            self._feed.note("resumed" if is_paused else "paused")
            return HELP if is_paused else "paused: p resumes"
        return "not killed" if was_killing else HELP

    # Lines

    async def _lines(self) -> None:
        import trio

        reader = self._feed.reader()
        while True:
            text = "".join(f"{line}\n" for message in await reader.read() for line in self._said(message))
            await trio.to_thread.run_sync(_write, text, abandon_on_cancel=True)
            if self._feed.ended.is_set() and not reader.has_more:
                return

    def _said(self, message: Message) -> list[str]:
        from sandlock.result import printable

        from .live_view import decision_line, ending_of, question_line

        match message:
            case {"push": "state", "state": state}:
                found = [decision_line(line) for line in state["decisions"]]
                found += [f"question {printable(str(each['id']))}: {question_line(each)}" for each in state["pending"]]
                return [*found, f"session {self._record.id} {ending_of(state)}"] if state.get("ended") else found
            case {"push": "decision", "decision": line}:
                return [decision_line(line)]
            case {"push": "question", "question": question}:
                return [f"question {printable(str(question['id']))}: {question_line(question)}"]
            case {"push": "answered" | "withdrawn" | "expired" as how, "question": id}:
                by = f" by {printable(str(message['by']))}" if message.get("by") else ""
                return [f"question {printable(str(id))}: {how}{by}"]
            case {"push": "end"}:
                return [f"session {self._record.id} {ending_of(message)}"]
        return []


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
