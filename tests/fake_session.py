"""A session server for tests of its clients: says what it is told to say, in the words of the protocol, and remembers
what it is asked."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from sandlock.sessions.directory import Identity, SessionRecord


def question(id: str = "q1", **more: Any) -> dict[str, Any]:
    """As Question.to_dict has it: `git push origin main`, by make."""
    choices = [
        choice("o", "allow this once", "allow"),
        choice("r", "allow 'git push origin main' for this run", "allow", scope="run"),
        choice("p", "allow 'git push' with any further words", "allow", scope="run", words=2),
        choice("d", "deny", "deny"),
        choice("w", "deny, and say why", "deny", wants_reason=True),
        choice("k", "kill the program that asks", "kill"),
    ]
    chain = [
        {"pid": 103, "exe": "/usr/bin/make", "argv": ["make", "release"]},
        {"pid": 102, "exe": "/bin/sh", "argv": ["sh", "-c", "make release"]},
        {"pid": 101, "exe": "/usr/bin/agent", "argv": ["agent"]},
    ]
    return {
        "id": id,
        "kind": "exec",
        "target": "/usr/bin/git",
        "argv": ["git", "push", "origin", "main"],
        "cwd": "/project",
        "exe": "/usr/bin/git",
        "host": "",
        "ip": "",
        "port": 0,
        "protocol": "",
        "rule": "git push * # what is pushed, others build and run",
        "chain": chain,
        "pid": 103,
        "run": "r1",
        "call_id": "",
        "time": 1000.0,
        "deadline": None,
        "choices": choices,
    } | more


def choice(
    key: str, label: str, verdict: str, *, scope: str = "once", words: int | None = None, wants_reason: bool = False
) -> dict[str, Any]:
    answer = {"verdict": verdict, "scope": scope, "words": words, "reason": ""}
    return {"key": key, "label": label, "answer": answer, "wants_reason": wants_reason}


def decision(kind: str = "exec", decided: str = "allow", **more: Any) -> dict[str, Any]:
    """A line of the audit file."""
    return {
        "schema": 1,
        "seq": 1,
        "time": 1000.0,
        "session": "s",
        "record": "decision",
        "run": "r1",
        "call_id": "",
        "run_seq": 1,
        "kind": kind,
        "target": "/usr/bin/ls",
        "decision": decided,
        "cause": "no-rule",
        "reason": "",
        "rule": "",
        "by": "",
        "host": "",
        "errno": 0,
        "pid": 101,
        "tid": 101,
        "exe": "/usr/bin/ls",
        "argv": ["ls"],
        "truncated": False,
        "cwd": "/project",
        "asked": False,
        "latency_us": 10,
        "binding": "attested",
        "fix": "",
        "syscall": "",
        "access": "",
        "parents": [],
    } | more


def process(pid: int, ppid: int, *argv: str, started: float = 1000.0, ended: float | None = None) -> dict[str, Any]:
    return {
        "pid": pid,
        "ppid": ppid,
        "exe": f"/usr/bin/{argv[0]}",
        "argv": list(argv),
        "started": started,
        "ended": ended,
    }


@dataclass
class FakeSession:
    """`state` is what it begins with; `asked` all requests so far; `listeners` who could answer now."""

    record: SessionRecord
    state: dict[str, Any]
    has_desk: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    listeners: list[str] = field(default_factory=list)
    changed: trio.Condition = field(default_factory=trio.Condition)
    _streams: set[trio.SocketStream] = field(default_factory=set)
    _sending: trio.Lock = field(default_factory=trio.Lock)

    async def push(self, **message: Any) -> None:
        for stream in list(self._streams):
            await self._send(stream, message)

    async def _send(self, stream: trio.SocketStream, message: dict[str, Any]) -> None:
        async with self._sending:
            await stream.send_all(json.dumps(message).encode() + b"\n")

    async def until(self, condition: Any) -> None:
        """Waits until a condition holds, looking whenever something was asked or somebody came or left."""
        with trio.fail_after(20):
            async with self.changed:
                while not condition():
                    await self.changed.wait()

    def requests(self, op: str) -> list[dict[str, Any]]:
        return [each for each in self.asked if each["op"] == op]

    async def _note(self) -> None:
        with trio.CancelScope(shield=True):
            async with self.changed:
                self.changed.notify_all()

    async def _serve(self, stream: trio.SocketStream) -> None:
        name = ""
        data = b""
        async with stream:
            try:
                while block := await stream.receive_some(65536):
                    *lines, data = (data + block).split(b"\n")
                    for line in lines:
                        request = json.loads(line)
                        if request["op"] == "subscribe" and request["answers"] and self.has_desk:
                            name = request["name"]
                            self.listeners.append(name)
                        await self._reply(stream, request)
            except trio.BrokenResourceError:
                pass
            finally:
                self._streams.discard(stream)
                if name:
                    self.listeners.remove(name)
                await self._note()

    async def _reply(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        self.asked.append(request)
        reply: dict[str, Any] = {"n": request["n"], "ok": True}
        match request["op"]:
            case "subscribe" if request["answers"] and not self.has_desk:
                reply |= {"ok": False, "error": "subscribe: nothing is asked in this session"}
            case "answer":
                reply["answered"] = any(each["id"] == request["question"] for each in self.state["pending"])
            case "state":
                reply["state"] = self.state
        await self._send(stream, reply)
        if request["op"] == "subscribe" and reply["ok"]:
            await self._send(stream, {"push": "state", "state": self.state})
            self._streams.add(stream)
        await self._note()


@asynccontextmanager
async def fake_session(place: str, **state: Any) -> AsyncIterator[FakeSession]:
    """A session whose socket is in `place`; leaving the block ends it without a word, as a killed host does."""
    whole: dict[str, Any] = {
        "id": "20260101-120000-abcd",
        "name": "fix",
        "pid": os.getpid(),
        "argv": ["agent", "--task", "fix the tests"],
        "cwd": "/project",
        "profile": "agent",
        "started": 1000.0,
        "paused": False,
        "ended": None,
        "policy": {},
        "pending": [],
        "listeners": [],
        "processes": [],
        "decisions": [],
        "denials": [],
        "dropped": 0,
        "counts": {},
    }
    whole |= state
    record = SessionRecord(
        id=whole["id"],
        name=whole["name"],
        host=Identity(pid=os.getpid(), start_time=1),
        argv=tuple(whole["argv"]),
        cwd=whole["cwd"],
        profile=whole["profile"],
        started=whole["started"],
        ended=None,
        directory=place,
        runtime=place,
        alive=True,
    )
    session = FakeSession(record, whole)
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(record.socket)
    listening.listen(16)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, session._serve, [trio.SocketListener(listening)])
        try:
            yield session
        finally:
            nursery.cancel_scope.cancel()
            os.unlink(record.socket)
