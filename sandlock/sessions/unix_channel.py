"""Questions put to a service behind a unix socket: one connection for the session, a line of JSON for each message.

To the service: {"question": {...}}, {"withdrawn": "q1"}. From it: {"question": "q1", "answer": {...}}.

Rules: the socket, and who listens there, belong to this user or to root, and the listener is not of the sandboxed tree;
the socket lies where the sandbox cannot write. When the connection ends, what was asked over it and is not answered is
denied; it is tried again every second.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

import trio

from sandlock import PolicyError

from .channels import LONGEST_ANSWER, AnswerError, Channel, deny, read_json, refuse_inside
from .trailer import descends

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .desk import Desk
    from .questions import Question

__all__ = ["UnixChannel"]

AGAIN = 1.0


class UnixChannel(Channel):
    """`path`: of the socket. Raises PolicyError if there is none that may be trusted."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self.name = f"unix:{os.path.basename(path)}"
        self._asked: dict[str, Question] = {}
        self._check_socket()

    @property
    def guards(self) -> dict[str, tuple[str, ...]]:
        """The sandbox must not talk to the service."""
        return {"net_deny": (f"unix:{os.path.realpath(self._path)}",)}

    def check(self, writable: Iterable[str]) -> None:
        """See Channel."""
        refuse_inside("ask: unix", [self._path], writable)

    async def serve(self, desk: Desk) -> None:
        """See Channel."""
        while True:
            try:
                self._check_socket()
                stream = await trio.open_unix_socket(self._path)
            except (OSError, PolicyError):
                await trio.sleep(AGAIN)
                continue
            async with stream:
                why = await self._serve_over(stream, desk)
            for question in list(self._asked.values()):
                deny(desk, question, self.name, why)
            self._asked.clear()
            await trio.sleep(AGAIN)

    async def _serve_over(self, stream: trio.SocketStream, desk: Desk) -> str:
        """Until the connection ends; why it did."""
        pid, uid, _ = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()) or descends(pid):
            return "the listener is none of this user's, or is sandboxed itself"
        why = "the service closed the connection"
        with desk.watching() as updates, desk.listening(self.name):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_questions, stream, desk, updates)
                    await self._take_answers(stream, desk)
                    nursery.cancel_scope.cancel()
            except* (AnswerError, PolicyError) as errors:
                why = str(errors.exceptions[0]).removeprefix("answer: ")
            except* (trio.BrokenResourceError, OSError):
                why = "the connection broke"
            for question in list(self._asked.values()):  # while it still counts as a listener: the cause is this one
                deny(desk, question, self.name, why)
            self._asked.clear()
        return why

    async def _send_questions(
        self, stream: trio.SocketStream, desk: Desk, updates: trio.MemoryReceiveChannel[object]
    ) -> None:
        async for _ in updates:
            pending = {question.id: question for question in desk.pending}
            for id in self._asked.keys() - pending.keys():
                del self._asked[id]
                await stream.send_all(json.dumps({"withdrawn": id}).encode() + b"\n")
            for id in pending.keys() - self._asked.keys():
                self._asked[id] = pending[id]
                await stream.send_all(json.dumps({"question": pending[id].to_dict()}).encode() + b"\n")

    async def _take_answers(self, stream: trio.SocketStream, desk: Desk) -> None:
        data = bytearray()
        while block := await stream.receive_some(8192):
            data += block
            while (end := data.find(b"\n")) >= 0:
                line, data = bytes(data[:end]), data[end + 1 :]
                self._take(line, desk)
            if len(data) > LONGEST_ANSWER:
                raise AnswerError(f"a line is longer than {LONGEST_ANSWER} bytes")

    def _take(self, line: bytes, desk: Desk) -> None:
        message = read_json(line)
        if not isinstance(message, dict) or set(message) != {"question", "answer"}:
            raise AnswerError('a line is no answer; send {"question": id, "answer": {...}}')
        id = message["question"]
        question = self._asked.get(id) if isinstance(id, str) else None
        if question is not None:
            try:
                desk.answer(question.id, message["answer"], self.name)
            except PolicyError as error:
                deny(desk, question, self.name, str(error).removeprefix("answer: "))
            # it stays in `_asked` until the desk says that it does not wait any more

    def _check_socket(self) -> None:
        try:
            found = os.lstat(self._path)
        except OSError as error:
            raise PolicyError(f"ask: unix:{self._path}: {error.strerror}; name a socket that is listened on") from None
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            raise PolicyError(f"ask: unix:{self._path}: no socket of this user's, or root's; name one")
