"""Talking to a session from outside: requests, and the pushes of a subscription.

    async with connect(find("fix")) as client:
        print((await client.request("state"))["state"])
        async for push in client.subscribe(answers=True):
            ...

Rules: what comes from a session is data that the sandboxed program had a hand in: it is not text for a terminal yet.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from sandlock import SandlockError, SandlockTimeout

from .directory import SessionRecord
from .serving import LongLineError, lines_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Client", "connect"]


class Client:
    """From `connect`. Requests may be made while a subscription is read, from other tasks."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._numbers = 0
        self._sending = trio.Lock()
        self._replies: dict[int, _Reply] = {}
        self._pushes, self._incoming = trio.open_memory_channel[dict[str, Any]](inf)
        self._failure = ""

    async def request(self, op: str, *, timeout: float | None = None, **fields: object) -> dict[str, Any]:  # noqa: ASYNC109
        """Asks for something, and returns the reply. `timeout` in seconds.

        Raises SandlockError if it is refused, or the session ends before it replies; SandlockTimeout."""
        self._numbers += 1
        reply = self._replies[self._numbers] = _Reply()
        try:
            with trio.move_on_after(inf if timeout is None else timeout) as limit:
                if not self._failure:
                    await self._send({"op": op, "n": self._numbers, **fields})
                    await reply.came.wait()
        finally:
            del self._replies[self._numbers]
        if limit.cancelled_caught:
            raise SandlockTimeout(f"{op}: the session does not reply within {timeout:g} s")
        value = reply.value
        if value is None:
            raise SandlockError(f"{op}: the session has ended{self._failure and ': ' + self._failure}")
        if value.get("ok") is not True:
            why = str(value.get("error"))
            raise SandlockError(why if why.startswith(f"{op}") else f"{op}: {why}")
        return value

    async def subscribe(self, *, answers: bool = False, name: str = "") -> AsyncIterator[dict[str, Any]]:
        """`async for push in client.subscribe():` gives what happens until the session ends; first its state.

        `answers`: this client can answer questions; `name`: who does. Raises SandlockError."""
        await self.request("subscribe", answers=answers, name=name)
        async for push in self._incoming:
            yield push

    async def _send(self, message: dict[str, object]) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(json.dumps(message).encode() + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._end("it has closed the connection")

    async def _receive(self) -> None:
        """Until the session closes the connection."""
        why = ""
        try:
            async for line in lines_of(self._stream):
                self._take(json.loads(line))
        except (ValueError, RecursionError, LongLineError):
            why = "it sends what is no message"
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            why = "the connection broke"
        self._end(why)

    def _take(self, message: object) -> None:
        if not isinstance(message, dict):
            raise ValueError("no object")
        if "push" in message:
            self._pushes.send_nowait(message)
        elif message.get("n") is None and message.get("ok") is False:  # it does not want to talk to us
            self._failure = str(message.get("error"))
        elif (reply := self._replies.get(message.get("n", 0))) is not None:
            reply.value = message
            reply.came.set()

    def _end(self, why: str) -> None:
        self._failure = self._failure or why or "no more is coming"
        self._pushes.close()
        for reply in self._replies.values():
            reply.came.set()


class _Reply:
    def __init__(self) -> None:
        self.came = trio.Event()
        self.value: dict[str, Any] | None = None


@asynccontextmanager
async def connect(where: SessionRecord | str) -> AsyncIterator[Client]:
    """A connection to a session: of its record, or of its socket's path. Raises SandlockError."""
    path = where if isinstance(where, str) else where.socket
    if not path:
        raise SandlockError(f"talk to {getattr(where, 'id', 'the session')}: it has ended")
    stream = await _open(path)
    client = Client(stream)
    body: BaseException | None = None
    try:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(client._receive)
            try:
                yield client
            except BaseException as error:
                body = error
                raise
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if body is not None and len(group.exceptions) == 1 and group.exceptions[0] is body:
            raise body from body.__cause__  # what the block raised, as it raised it
        raise


async def _open(path: str) -> trio.SocketStream:
    folder, name = os.path.split(path)
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return await trio.open_unix_socket(f"/proc/self/fd/{fd}/{name}")  # the path may be longer than sockets' are
        finally:
            os.close(fd)
    except OSError as error:
        raise SandlockError(f"talk to the session at {path}: {error.strerror or error}; see `sandlock ps`") from error
