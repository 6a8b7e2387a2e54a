"""`sandlock agent attach`: a second terminal for a session: its questions, what is decided, and how to stop it.

Rules: everything that a session sends was, in part, written by the sandboxed program: it is escaped. While a question
is up nothing else is drawn. Leaving ends nothing: whoever else listens goes on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

    from sandlock.sessions.client import Client
    from sandlock.sessions.directory import SessionRecord

    from .terminal import Console

__all__ = ["command"]

HELP = "p pauses and resumes, K kills what runs in the sandbox, q leaves"
WAITING = 500
"""Lines that wait while a question is up."""
QUIT = (b"q", b"\x03", b"\x04")


def command(
    session: Annotated[str, typer.Argument(metavar="[SESSION]", help="Its id, name, or last.")] = "last",
) -> int:
    """Answer a session's questions in this terminal, see its decisions, pause or kill it."""
    import trio

    from sandlock import SandlockError
    from sandlock.sessions.directory import find

    from .terminal import Console, Guard

    record = find(session)
    if not record.alive:
        raise SandlockError(f"attach to {record.id}: it has ended; see it with: sandlock agent report {record.id}")
    console = Console.find()
    if console is None:
        raise SandlockError("attach: none of the standard streams is a terminal; run it in one")
    guard = Guard(console)
    try:
        with console.raw():
            return trio.run(_Attachment(console, record).run)
    finally:
        console.close()
        guard.dismiss()


class _Attachment:
    """One terminal at one session."""

    def __init__(self, console: Console, record: SessionRecord) -> None:
        self._console = console
        self._record = record
        self._questions: dict[str, Mapping[str, Any]] = {}
        self._asked: tuple[str, trio.CancelScope] | None = None
        self._keys: trio.MemorySendChannel[bytes] | None = None
        self._lines: deque[str] = deque(maxlen=WAITING)
        self._new: trio.Event
        self._paused = False
        self._killing = False

    async def run(self) -> int:
        """Until the session ends, or the user leaves."""
        import signal

        import trio

        from sandlock import SandlockError
        from sandlock.sessions.client import connect

        self._new = trio.Event()
        left = 0
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            try:
                async with connect(self._record) as client, trio.open_nursery() as nursery:

                    async def heed() -> None:
                        nonlocal left
                        async for number in signals:
                            left = 128 + number
                            nursery.cancel_scope.cancel()

                    nursery.start_soon(heed)
                    nursery.start_soon(self._read_keys, client, nursery.cancel_scope)
                    nursery.start_soon(self._ask_all, client)
                    await self._follow(client)
                    nursery.cancel_scope.cancel()
            except* SandlockError as errors:
                await self._draw(f"sandlock: {_clean(str(errors.exceptions[0]))}")
                left = 1
        return left

    async def _follow(self, client: Client) -> None:
        """What the session tells, until it ends."""
        async for push in client.subscribe(answers=True, name="attach"):
            match push.get("push"):
                case "state":
                    await self._begin(push["state"])
                case "question":
                    self._questions[push["question"]["id"]] = push["question"]
                    self._new.set()
                case "answered" | "withdrawn" | "expired" as how:
                    self._forget(str(push.get("question")))
                    by = f" by {_clean(str(push['by']))}" if push.get("by") else ""
                    await self._say(f"question {_clean(str(push.get('question')))}: {how}{by}")
                case "decision":
                    await self._say(_decision(push["decision"]))
                case "missed":
                    await self._say(f"({push.get('count')} messages were missed)")
                    await self._catch_up(client)
                case "end":
                    code = push.get("result", {}).get("exit_code")
                    await self._say(f"session {self._record.id} has ended, exit code {code}")
                    return
        await self._say(f"session {self._record.id} has ended")

    async def _begin(self, state: Mapping[str, Any]) -> None:
        import shlex

        words = _clean(shlex.join(map(str, state.get("argv", ()))))
        await self._say(f"session {self._record.id}: {words}")
        await self._say(f"\x1b[2m{HELP}\x1b[0m")
        self._paused = bool(state.get("paused"))
        for line in list(state.get("decisions", ()))[-10:]:
            await self._say(_decision(line))
        for question in state.get("pending", ()):
            self._questions.setdefault(question["id"], question)
        self._new.set()

    async def _catch_up(self, client: Client) -> None:
        """Among what was missed there may be questions, which wait for us: we count as somebody who answers them."""
        from sandlock import SandlockError

        try:
            reply = await client.request("state", timeout=10)
        except SandlockError:
            return  # it has ended: the next push, or none, says so
        pending = {question["id"]: question for question in reply["state"].get("pending", ())}
        for id in self._questions.keys() - pending.keys():
            self._forget(id)
        self._questions = pending | self._questions
        self._new.set()

    def _forget(self, id: str) -> None:
        self._questions.pop(id, None)
        if self._asked is not None and self._asked[0] == id:
            self._asked[1].cancel()

    # Questions

    async def _ask_all(self, client: Client) -> None:
        import trio

        while True:
            if not self._questions:
                await self._flush()
                self._new = trio.Event()
                await self._new.wait()
                continue
            id, question = next(iter(self._questions.items()))
            with trio.CancelScope() as scope:
                self._asked = (id, scope)
                try:
                    await self._ask(client, id, question)
                finally:
                    self._asked = None
                    self._keys = None
            self._questions.pop(id, None)

    async def _ask(self, client: Client, id: str, question: Mapping[str, Any]) -> None:
        import trio

        from sandlock import SandlockError

        from .prompt import put
        from .relay import QuestionFace

        send, receive = trio.open_memory_channel[bytes](64)
        with send, receive:
            self._keys = send
            answer = await put(QuestionFace(self._console, receive), question, self._record.name or self._record.id)
        self._keys = None
        if answer is None:
            return
        with trio.CancelScope(shield=True):  # it was given: whatever comes meanwhile, it is brought
            try:
                reply = await client.request("answer", timeout=5, question=id, answer=answer)
            except SandlockError as error:
                await self._draw(f"  sandlock: {_clean(str(error))}")
                return
        if not reply.get("answered"):
            await self._draw("  sandlock: too late: it was settled elsewhere")

    # Keys

    async def _read_keys(self, client: Client, scope: trio.CancelScope) -> None:
        while True:
            block = await self._console.receive()
            if self._keys is not None:
                import trio

                try:
                    self._keys.send_nowait(block)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    continue
            elif block in QUIT or not block:
                scope.cancel()
            else:
                await self._act(client, block)
            if not block:
                return

    async def _act(self, client: Client, key: bytes) -> None:
        from sandlock import SandlockError

        try:
            if key == b"p":
                wanted = not self._paused  # a new state may come before the answer, and say so already
                await client.request("pause" if wanted else "resume", timeout=5)
                self._paused = wanted
                await self._say("paused: p resumes" if wanted else "resumed")
            elif key == b"K" or (key == b"y" and self._killing):
                if key == b"y":
                    await client.request("kill", timeout=5)
                self._killing = key == b"K"
                await self._say("kill everything that runs in the sandbox? y" if self._killing else "killed")
                return
            elif self._killing:
                await self._say("not killed")
            else:
                await self._say(f"\x1b[2m{HELP}\x1b[0m")
        except SandlockError as error:
            await self._say(_clean(str(error)))
        self._killing = False

    # Lines

    async def _say(self, line: str) -> None:
        self._lines.append(line)
        if self._keys is None:
            await self._flush()

    async def _flush(self) -> None:
        while self._lines and self._keys is None:
            await self._draw(self._lines.popleft())

    async def _draw(self, line: str) -> None:
        await self._console.send(f"{line}\r\n".encode("utf-8", "backslashreplace"))


def _decision(line: Mapping[str, Any]) -> str:
    """A decision as a line."""
    decision = str(line.get("decision"))
    words = line.get("argv")
    what = " ".join(map(str, words)) if isinstance(words, list) and words else str(line.get("target", ""))
    host = str(line.get("host") or "")
    color = {"deny": "\x1b[31m", "kill": "\x1b[31m", "allow": "\x1b[32m"}.get(decision, "")
    why = f"  ({_clean(str(line.get('reason', '')))})" if decision in ("deny", "kill") else ""
    name = f" {_clean(host)}" if host else ""
    return f"{color}{_clean(decision):5}\x1b[0m {_clean(str(line.get('kind'))):7} {_clean(what)}{name}{why}"


def _clean(text: str) -> str:
    from sandlock.result import printable

    return printable(text, 300)
