"""Between the agent and our terminal: what it prints is shown, what is typed reaches it, and while a question is up
neither happens.

Rules: nothing is written to the terminal but from here, so that nothing is drawn over a question. What is held back is
bounded: beyond it, the agent waits. Keys never wait for an agent that does not read them.
"""

from __future__ import annotations

import termios
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from .screen import CALM, Screen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .terminal import Console, Guard

__all__ = ["Relay"]

HELD = 256 * 1024
"""Bytes of output that wait while a question is up."""
TYPED = 64 * 1024
"""Bytes that wait for an agent that does not read; what is typed beyond is lost."""
BLOCK = 16384
MOMENT = 0.02
"""Seconds without output after which the agent has shown what it wrote before it asked."""
LONGEST_CATCH_UP = 0.3
"""Seconds that a question waits for that at most."""
BELL = b"\x07"


class Relay:
    """One terminal, one agent. `has_pty`: the agent has a terminal of its own, and ours is raw."""

    def __init__(self, console: Console, *, has_pty: bool, takes_keys: bool, guard: Guard | None = None) -> None:
        self.console = console
        self.screen = Screen()
        self._guard = guard
        self._has_pty = has_pty
        self._takes_keys = takes_keys
        self._master = -1
        self._lock = trio.Lock()
        self._shown = 0
        self._held: bytearray | None = None
        self._released = trio.Event()
        self._keys: trio.MemorySendChannel[bytes] | None = None
        self._wants_keys = trio.Event()
        self._typed = bytearray()
        self._has_typed = trio.Event()
        self._typed_ends = False
        self._told = b""

    # The agent's side

    @property
    def is_full_screen(self) -> bool:
        """Whether the agent draws the screen itself, or reads single keys: no place for a question."""
        if not self._has_pty:
            return False
        if self.screen.is_alternate:
            return True
        if self._master < 0:
            return False
        try:
            return not termios.tcgetattr(self._master)[3] & termios.ICANON
        except termios.error:
            return False

    def use(self, master: int) -> None:
        """The agent's pty: its modes say whether it reads lines."""
        self._master = master

    async def show(self, source: trio.abc.ReceiveStream) -> None:
        """Shows what comes from there, until its end."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while block := await source.receive_some(BLOCK):
                await self._show(bytes(block))

    async def feed(self, sink: trio.abc.SendStream) -> None:
        """Sends what is typed there, until nobody reads it."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                while not self._typed:
                    if self._typed_ends:
                        await sink.aclose()
                        return
                    self._has_typed = trio.Event()
                    await self._has_typed.wait()
                block = bytes(self._typed[:BLOCK])
                del self._typed[: len(block)]
                await sink.send_all(block)

    # Our side

    async def read_keys(self) -> None:
        """Reads the terminal, for ever: for the agent, or for who has asked a question."""
        while True:
            if not self._takes_keys and self._keys is None:  # what is typed is the shell's
                self._wants_keys = trio.Event()
                await self._wants_keys.wait()
            block = await self.console.receive()
            if self._keys is not None:
                with suppress(trio.WouldBlock, trio.BrokenResourceError):
                    self._keys.send_nowait(block)
            elif len(self._typed) + len(block) <= TYPED:
                self._typed += block
                self._typed_ends = self._typed_ends or not block
                self._has_typed.set()
            if not block:
                if self._keys is not None or self._has_pty:
                    return
                await trio.sleep(0.05)  # the end of input in a line: the terminal is still there
                if self._typed_ends and self._keys is None:
                    self._takes_keys = False

    @asynccontextmanager
    async def held(self) -> AsyncIterator[QuestionFace]:
        """Within it the agent's output is held back, and what is typed comes here."""
        await self._catch_up()
        send, receive = trio.open_memory_channel[bytes](64)
        self._held = self._held if self._held is not None else bytearray()
        try:
            async with self._lock:  # what is being written is finished before
                with send, receive, self.console.raw():
                    self._keys = send
                    self._wants_keys.set()
                    try:
                        yield QuestionFace(self.console, receive)
                    finally:
                        self._keys = None
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(2):
                await self._release()

    async def say(self, text: str) -> None:
        """A line of ours between the agent's."""
        async with self._lock:
            await self.console.send((CALM if not self.screen.is_calm else b"") + f"\r\n{text}\r\n".encode())

    async def call(self, text: str) -> bool:
        """The bell and the window's title, if that does not break into what the agent is drawing. Whether it was."""
        async with self._lock:
            if not self.screen.is_calm:
                return False
            await self.console.send(b"\x1b[22;2t\x1b]2;" + text.encode() + b"\x07" + BELL)
            return True

    async def uncall(self) -> None:
        """The window's title as it was."""
        async with self._lock:
            if self.screen.is_calm:
                await self.console.send(b"\x1b[23;2t")

    def leave(self) -> None:
        """The agent is gone: the terminal as it was before."""
        undo = self.screen.undo
        if undo:
            self.console.send_last(undo)
        self.console.put_back()

    async def _catch_up(self) -> None:
        """What the agent wrote before it asked is seen before the question; if it goes on writing, not all of it."""
        with trio.move_on_after(LONGEST_CATCH_UP):
            seen = -1
            while seen != self._shown:
                seen = self._shown
                await trio.sleep(MOMENT)

    async def _show(self, block: bytes) -> None:
        while self._held is not None:
            if len(self._held) + len(block) <= HELD:
                self._held += block
                return
            await self._released.wait()
        async with self._lock:
            if self._held is None:
                await self._write(block)
                return
        await self._show(block)

    async def _write(self, block: bytes) -> None:
        self._shown += 1
        self.screen.feed(block)
        undo = self.screen.undo
        if undo != self._told and self._guard is not None:
            self._guard.tell(undo)
            self._told = undo
        with suppress(trio.BrokenResourceError):
            await self.console.send(block)

    async def _release(self) -> None:
        try:
            async with self._lock:
                held, self._held = self._held, None
                if held:
                    await self._write(bytes(held))
        finally:
            self._held = None
            self._released.set()
            self._released = trio.Event()


class QuestionFace:
    """The terminal while a question is up."""

    def __init__(self, console: Console, keys: trio.MemoryReceiveChannel[bytes]) -> None:
        self._console = console
        self._keys = keys

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._console.size

    async def send(self, data: bytes) -> None:
        """Shows it."""
        await self._console.send(data)

    async def receive(self) -> bytes:
        """What was typed."""
        return await self._keys.receive()

    def forget_typed(self) -> None:
        """Drops what was typed and not read."""
        self._console.forget_typed()
        while True:
            try:
                self._keys.receive_nowait()
            except trio.WouldBlock:
                return
