"""What a session tells, kept for those who show it: the page and the live view.

Rules: everything in it was, in part, written by the sandboxed program; here it stays data. Everything is bounded: a
reader that is too slow gets the whole picture anew instead of what it missed.
"""

from __future__ import annotations

from collections import deque
from time import time
from typing import TYPE_CHECKING, Any

import trio

from sandlock import SandlockError
from sandlock.sessions.journal import JournalDecision
from sandlock.sessions.remedies import remedy_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandlock.sessions.client import Client

__all__ = ["Feed", "Message", "Reader"]

Message = dict[str, Any]
DECISIONS, DENIALS, DESTINATIONS, EVENTS = 500, 200, 500, 300
NETWORK = ("connect", "send", "bind", "listen", "resolve")
REFUSED = ("deny", "kill")
WAITING = 512
"""Messages that wait for a reader."""


class Reader:
    """Somebody who shows the feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._messages: deque[Message] = deque()
        self._is_behind = True
        self._more = trio.Event()

    @property
    def has_more(self) -> bool:
        """Whether `read` would return at once."""
        return bool(self._messages) or self._is_behind

    def push(self, message: Message) -> None:
        """There is news."""
        if len(self._messages) >= WAITING:
            self._messages.clear()
            self._is_behind = True
        elif not self._is_behind:
            self._messages.append(message)
        self._more.set()

    async def read(self) -> list[Message]:
        """The news since the last time; first, and after a delay, the whole state."""
        while not (self._messages or self._is_behind):
            self._more = trio.Event()
            await self._more.wait()
        found = list(self._messages)
        self._messages.clear()
        if self._is_behind:
            self._is_behind = False
            found = [{"push": "state", "state": self._feed.snapshot()}]
        return found


class Feed:
    """The state of one session, as far as it is known."""

    def __init__(self) -> None:
        self._state: Message = {}
        self._pending: dict[str, Message] = {}
        self._decisions: deque[Message] = deque(maxlen=DECISIONS)
        self._denials: deque[Message] = deque(maxlen=DENIALS)
        self._destinations: dict[tuple[object, ...], Message] = {}
        self._events: deque[Message] = deque(maxlen=EVENTS)
        self._readers: set[Reader] = set()
        self.ended = trio.Event()
        """Set when the session is over, or its host is gone."""

    @property
    def has_ended(self) -> bool:
        """Whether the session said so, or its host is gone; not if only the following was ended."""
        return bool(self._state.get("ended"))

    def reader(self) -> Reader:
        """A new reader; `drop` it when it is gone."""
        reader = Reader(self)
        self._readers.add(reader)
        return reader

    def drop(self, reader: Reader) -> None:
        """It reads no more."""
        self._readers.discard(reader)

    def snapshot(self) -> Message:
        """All of it, JSON-ready."""
        return self._state | {
            "pending": list(self._pending.values()),
            "decisions": list(self._decisions),
            "denials": list(self._denials),
            "network": list(self._destinations.values()),
            "events": list(self._events),
        }

    async def follow(self, client: Client) -> None:
        """Takes what the session tells, until its end. Raises SandlockError if it does not want to be followed."""
        async for push in client.subscribe(name="observer"):
            if push.get("push") == "missed":
                await self._catch_up(client)
            else:
                self.take(push)
        if not self.ended.is_set():
            self.take({"push": "end", "result": None})

    async def _catch_up(self, client: Client) -> None:
        try:
            reply = await client.request("state", timeout=10)
        except SandlockError:
            return  # it has ended: the next push, or none, says so
        self.take({"push": "state", "state": reply["state"]})

    def note(self, what: str, **details: object) -> None:
        """Something that a user of ours has done."""
        self._event({"time": time(), "what": what, **details})
        if what in ("paused", "resumed"):
            self._state["paused"] = what == "paused"
            self._tell({"push": "paused", "paused": what == "paused"})

    def take(self, push: Message) -> None:
        """One message of the session."""
        match push:
            case {"push": "state", "state": dict(state)}:
                self._begin(state)
            case {"push": "question", "question": {"id": str(id), **_rest}}:
                self._pending[id] = push["question"]
                self._tell(push)
            case {"push": "answered" | "withdrawn" | "expired" as how, "question": str(id)}:
                question = self._pending.pop(id, None)
                self._tell(push)
                self._event({"time": time(), "what": how, "by": push.get("by"), "question": question, "id": id,
                             "answer": push.get("answer")})  # fmt: skip
            case {"push": "decision", "decision": dict(line)}:
                self._decide(line)
            case {"push": "processes", "processes": list(processes)}:
                self._state["processes"] = processes
                self._tell(push)
            case {"push": "end"}:
                self._end(push.get("result"))

    def _begin(self, state: Message) -> None:
        self._pending = {each["id"]: each for each in state.get("pending", ()) if isinstance(each, dict)}
        self._decisions.clear()
        self._denials.clear()
        self._destinations.clear()
        lists = ("pending", "decisions", "denials")
        self._state = {key: value for key, value in state.items() if key not in lists} | {"result": None}
        for line in state.get("decisions", ()):
            self._add(line)
        self._denials.clear()  # there may be older ones than the last decisions
        for line in state.get("denials", ()):
            self._denials.append(_with_remedy(line))
        for reader in self._readers:
            reader._is_behind = True
            reader.push({})

    def _decide(self, line: Message) -> None:
        shown, destination = self._add(line)
        message: Message = {"push": "decision", "decision": shown}
        if destination is not None:
            message["destination"] = destination
        self._tell(message)

    def _add(self, line: Message) -> tuple[Message, Message | None]:
        refused = line.get("decision") in REFUSED
        if refused:
            line = _with_remedy(line)
            self._denials.append(line)
        self._decisions.append(line)
        return line, self._destination(line, refused) if line.get("kind") in NETWORK else None

    def _destination(self, line: Message, refused: bool) -> Message:
        target = str(line.get("target", ""))
        host, ip, port = str(line.get("host") or ""), target, ""
        protocol, separator, rest = target.partition("://")
        if separator:
            ip, _, port = rest.rpartition(":")
        else:
            protocol = ""
        key = (line.get("kind"), host, target)
        row = self._destinations.get(key)
        if row is None:
            row = {"kind": line.get("kind"), "host": host, "ip": ip, "port": port, "protocol": protocol,
                   "target": target, "allowed": 0, "denied": 0, "last": 0.0}  # fmt: skip
            while len(self._destinations) >= DESTINATIONS:
                del self._destinations[next(iter(self._destinations))]
            self._destinations[key] = row
        row["denied" if refused else "allowed"] += 1
        row["last"] = line.get("time", 0.0)
        return row

    def _end(self, result: object) -> None:
        self._state["ended"] = time()
        self._state["result"] = result
        self._state["is_gone"] = result is None
        self._pending.clear()
        self.ended.set()
        self._tell({"push": "end", "result": result, "ended": self._state["ended"]})

    def _event(self, event: Message) -> None:
        self._events.append(event)
        self._tell({"push": "event", "event": event})

    def _tell(self, message: Message) -> None:
        for reader in self._readers:
            reader.push(message)


DEFAULTS: dict[str, object] = {"str": "", "int": 0, "float": 0.0, "bool": False}


def _with_remedy(line: Message) -> Message:
    """The line, with what would allow it, as a flag and in words."""
    try:
        remedy = remedy_of(_decision_of(line))
    except (SandlockError, ValueError):
        remedy = None
    return line | {"remedy": None if remedy is None else remedy.to_dict()}


def _decision_of(line: Mapping[str, Any]) -> JournalDecision:
    """A line as the journal reads it; what is missing, or of another type, is nothing."""
    values: dict[str, Any] = {}
    for name, kind in JournalDecision.__annotations__.items():
        value = line.get(name)
        if kind in DEFAULTS:
            fits = isinstance(value, int | float) if kind == "float" else type(value).__name__ == kind
            values[name] = value if fits else DEFAULTS[kind]
        else:
            member = "int" if "int" in kind else "str"
            entries = value if isinstance(value, list) else []
            values[name] = tuple(each for each in entries if type(each).__name__ == member)
    return JournalDecision(**values)
