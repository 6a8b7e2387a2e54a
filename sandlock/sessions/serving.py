"""The socket of a session: requests and replies, and pushes to those who have subscribed.

One JSON object a line. To the session: {"op": "state", "n": 1}; from it: {"n": 1, "ok": true, ...} or
{"n": 1, "ok": false, "error": "..."}, and pushes, which have a key "push" instead of "n".

Rules: who talks belongs to this user or to root, and is not of the sandboxed tree. Whatever a client sends or does not
read disturbs nobody else: lines, clients and what waits for them are bounded, and an error ends that connection only.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio

from sandlock import SandlockError

from ..result import printable
from .directory import start_time_of
from .outbox import LONGEST, Outbox, line_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .session import Session

__all__ = ["LongLineError", "Server", "lines_of"]

MOST_CLIENTS = 64
PATIENCE = 30.0
"""Seconds that a client may take to read a line. Then it is gone, also as somebody who could answer."""
LONGEST_NAME = 200


class Server:
    """The clients of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._subscribers: set[Outbox] = set()
        self._outboxes: set[Outbox] = set()

    def push(self, message: dict[str, object]) -> None:
        """To all who have subscribed."""
        if self._subscribers:
            try:
                line = line_of(message)
            except ValueError:
                for outbox in self._subscribers:
                    outbox.push(line_of({"push": "missed", "count": 1}))
                return
            for outbox in self._subscribers:
                outbox.push(line)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serves, for ever."""
        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def flush(self, seconds: float) -> None:
        """Waits until the clients have what was pushed, but not longer."""
        with trio.move_on_after(seconds):
            for outbox in list(self._outboxes):
                await outbox.wait_idle()

    async def _serve(self, stream: trio.SocketStream) -> None:
        outbox = Outbox()
        async with stream:
            try:
                pid = self._check_peer(stream)
            except SandlockError as error:
                with trio.move_on_after(1):
                    await _send_quietly(stream, line_of({"n": None, "ok": False, "error": str(error)}))
                return
            self._outboxes.add(outbox)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, outbox, stream, nursery.cancel_scope)
                    await _Connection(self._session, outbox, self._subscribers, pid).run(stream)
                    nursery.cancel_scope.cancel()
            finally:
                self._outboxes.discard(outbox)

    async def _send(self, outbox: Outbox, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            await outbox.send(stream, PATIENCE)
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    def _check_peer(self, stream: trio.SocketStream) -> int:
        """The client's process. Raises SandlockError for one who has nothing to say here."""
        pid, uid, _ = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            raise SandlockError("talk to the session: it belongs to another user")
        if start_time_of(pid) < 0:  # nobody can say any more where it was
            raise SandlockError("talk to the session: the process that has connected is gone")
        if self._session.is_inside(pid):
            raise SandlockError("talk to the session: not from inside its sandbox")
        if len(self._outboxes) >= MOST_CLIENTS:
            raise SandlockError(f"talk to the session: {MOST_CLIENTS} clients do already; end one of them")
        return int(pid)


async def _send_quietly(stream: trio.SocketStream, line: bytes) -> None:
    try:
        await stream.send_all(line)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


class _Connection:
    """One client."""

    def __init__(self, session: Session, outbox: Outbox, subscribers: set[Outbox], pid: int) -> None:
        self._session = session
        self._outbox = outbox
        self._subscribers = subscribers
        self._name = f"process {pid}"
        self._until_gone = ExitStack()
        self._is_fresh = False

    async def run(self, stream: trio.SocketStream) -> None:
        """Until the client leaves, or sends what is no line."""
        try:
            with self._until_gone:
                async for line in lines_of(stream):
                    await self._outbox.reply(await self._answer(line))
                    if self._is_fresh:
                        self._begin()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except LongLineError:
            return
        finally:
            self._subscribers.discard(self._outbox)

    async def _answer(self, line: bytes) -> bytes:
        number: object = None
        try:
            request = _read(line)
            number = request.pop("n", None)
            if number is not None and (type(number) is not int or abs(number) >= 2**53):
                number = None
                raise SandlockError("n: not a number")
            reply = {"n": number, "ok": True, **(await self._do(request))}
            return line_of(reply)
        except SandlockError as error:
            return line_of({"n": number, "ok": False, "error": printable(str(error), 2000)})
        except ValueError as error:
            return line_of({"n": number, "ok": False, "error": f"the reply is too long: {error}"})

    async def _do(self, request: dict[str, Any]) -> dict[str, object]:
        session = self._session
        match request:
            case {"op": "state"}:
                return {"state": session.state()}
            case {"op": "subscribe"}:
                return self._subscribe(request)
            case {"op": "answer", "question": str(question), "answer": answer}:
                return {"answered": session.answer(question, answer, self._name)}
            case {"op": "kill"}:
                session.kill()
            case {"op": "pause"}:
                await session.pause()
            case {"op": "resume"}:
                await session.resume()
            case {"op": "policy"}:
                return {"policy": session.policy_text}
            case {"op": str(op)}:
                raise SandlockError(f"{printable(op)}: no such request, or not in this form")
            case _:
                raise SandlockError('a request has a key "op"')
        return {}

    def _subscribe(self, request: dict[str, Any]) -> dict[str, object]:
        answers, name = request.get("answers", False), request.get("name", "")
        if type(answers) is not bool or type(name) is not str:
            raise SandlockError("subscribe: answers is true or false, name a text")
        if self._outbox in self._subscribers or self._is_fresh:
            raise SandlockError("subscribe: this client has done so already")
        if name:
            self._name = printable(name, LONGEST_NAME)
        desk = self._session.desk
        if answers and desk is None:
            raise SandlockError("subscribe: nothing is asked in this session, so that nobody can answer")
        if answers and desk is not None:
            self._until_gone.enter_context(desk.listening(self._name))
        self._is_fresh = True
        return {"name": self._name}

    def _begin(self) -> None:
        self._is_fresh = False
        self._outbox.push(line_of({"push": "state", "state": self._session.state()}))
        self._subscribers.add(self._outbox)


class LongLineError(Exception):
    """A line is longer than lines are."""


async def lines_of(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    """The lines that come, without their ends. Raises LongLineError."""
    data = bytearray()
    while block := await stream.receive_some(65536):
        before = len(data)
        data += block
        if data.find(b"\n", before) >= 0:
            *whole, rest = bytes(data).split(b"\n")
            data = bytearray(rest)
            for line in whole:
                if len(line) > LONGEST:
                    raise LongLineError
                yield line
        if len(data) > LONGEST:
            raise LongLineError


def _read(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise SandlockError("a request is one JSON object a line") from None
    if not isinstance(value, dict):
        raise SandlockError("a request is one JSON object a line")
    return value
