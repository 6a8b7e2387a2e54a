"""`sandlock agent ui`: a session in a web page: its questions, processes, denials, network, and how to stop it.

Rules: the page is there for one person at this machine: loopback only, one link that works once. While it is open
somewhere, and only then, it counts as somebody who can answer. Leaving ends nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import trio

    from sandlock.sessions.client import Client
    from sandlock.sessions.directory import SessionRecord

    from .feed import Feed, Reader

__all__ = ["Page", "command"]

GRACE = 2.0
"""Seconds that a page may be away, to be loaded again, and still counts as somebody who can answer."""
PATIENCE = 5.0
FILES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "text.js": "text/javascript",
    "lists.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def command(
    session: Annotated[str, typer.Argument(metavar="[SESSION]", help="Its id, name, or last.")] = "last",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Listen on this port (default: any).")] = 0,
    open_it: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open it in a browser (default: on a desktop).")
    ] = None,
) -> int:
    """Show a session in a web page, and answer its questions there. Ctrl-C ends the page, not the session."""
    import trio

    from sandlock import SandlockError
    from sandlock.sessions.directory import find

    record = find(session)
    if not record.alive:
        raise SandlockError(
            f"show {record.id}: it has ended; see it with: sandlock agent report --html -o report.html {record.id}"
        )
    if open_it is None:
        open_it = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return trio.run(Page(record, port=port, open_it=open_it).run)


def _files() -> dict[str, tuple[str, bytes]]:
    found = {}
    for name, kind in FILES.items():
        with open(os.path.join(os.path.dirname(__file__), "page", name), "rb") as file:
            found[name] = (kind, file.read())
    return found


class Page:
    """One server for one session. `told` gets the link."""

    def __init__(
        self, record: SessionRecord, *, port: int = 0, open_it: bool = False, told: Callable[[str], None] | None = None
    ) -> None:
        self._told = told or _tell
        self._record = record
        self._port = port
        self._open_it = open_it
        self._feed: Feed
        self._readers = 0
        self._changed: trio.Event
        self._client: Client | None = None
        self._asker: Client | None = None

    async def run(self) -> int:
        """Until a signal. Raises SandlockError."""
        import trio

        from sandlock import SandlockError

        from .feed import Feed

        self._feed, self._changed = Feed(), trio.Event()
        failures: list[BaseException] = []
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_signal, signals, nursery.cancel_scope)
                    await self._show(nursery)
            except* SandlockError as errors:
                failures += errors.exceptions
        if failures:
            raise _single(failures[0])
        return 0

    async def _until_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for _ in signals:
            scope.cancel()

    async def _show(self, nursery: trio.Nursery) -> None:
        import trio

        from sandlock import SandlockError
        from sandlock.sessions.client import connect

        from .page_server import Gate, PageServer

        async with connect(self._record) as client:
            try:
                listeners = await trio.open_tcp_listeners(self._port, host="127.0.0.1", backlog=64)
            except OSError as error:
                fix = "leave --port out, or name another"
                raise SandlockError(f"listen on port {self._port}: {error.strerror}; {fix}") from error
            gate = Gate(listeners[0].socket.getsockname()[1])
            acts = {"answer": self._answer, "kill": self._kill, "pause": self._pause, "resume": self._resume}
            nursery.start_soon(PageServer(gate, _files(), self._reading, acts).serve, listeners)
            nursery.start_soon(self._attend)
            _say(f"session {self._record.id}: open this link; it works once")
            self._told(gate.url)
            if self._open_it:
                nursery.start_soon(self._open_browser, gate.url, gate.used)
            self._client = client
            try:
                await self._feed.follow(client)
            finally:
                self._client = None
        _say("the session has ended; the page stays until Ctrl-C")

    async def _open_browser(self, url: str, used: trio.Event) -> None:
        """By a private file: the words of a program, and so the token, can be read by every user of the machine."""
        import shutil
        import subprocess

        import trio

        from sandlock.sessions.directory import runtime_directory

        if shutil.which("xdg-open") is None or shutil.which("setsid") is None:
            _say("there is no xdg-open here: open the link by hand")
            return
        path = os.path.join(runtime_directory(), f".page-{os.getpid()}.html")
        text = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={url}">'
        _write_private(path, text)
        try:
            nothing = subprocess.DEVNULL
            await trio.run_process(
                ["setsid", "--fork", "xdg-open", path], stdin=nothing, stdout=nothing, stderr=nothing, check=False
            )
            await used.wait()
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    # Pages, and whether there is one

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        """A page is open within it."""

        reader = self._feed.reader()
        self._count(1)
        try:
            yield reader
        finally:
            self._count(-1)
            self._feed.drop(reader)

    def _count(self, change: int) -> None:
        import trio

        self._readers += change
        self._changed.set()
        self._changed = trio.Event()

    async def _until(self, is_open: bool) -> None:
        while (self._readers > 0) is not is_open:
            await self._changed.wait()

    async def _attend(self) -> None:
        """Is there for the session's questions, as long as a page is open."""
        import trio

        from sandlock import SandlockError
        from sandlock.sessions.client import connect

        try:
            while not self._feed.ended.is_set():
                await self._until(True)
                async with connect(self._record) as client, trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_closed, nursery.cancel_scope)
                    async for _ in client.subscribe(answers=True, name="page"):
                        self._asker = client
                    nursery.cancel_scope.cancel()
                self._asker = None
        except* SandlockError:
            pass  # nothing is asked in this session, or it has ended
        finally:
            self._asker = None

    async def _until_closed(self, scope: trio.CancelScope) -> None:
        import trio

        while True:
            await self._until(False)
            with trio.move_on_after(GRACE):
                await self._until(True)
            if self._readers == 0:
                self._asker = None
                scope.cancel()
                return

    # What a page wants

    async def _answer(self, request: dict[str, Any]) -> dict[str, object]:
        from sandlock import SandlockError

        if self._asker is None:
            raise SandlockError("this page cannot answer: nothing is asked in this session, or it has ended")
        reply = await self._asker.request(
            "answer", timeout=PATIENCE, question=request.get("question"), answer=request.get("answer")
        )
        return {"answered": bool(reply.get("answered"))}

    async def _kill(self, request: dict[str, Any]) -> dict[str, object]:
        return await self._do("kill", "killed")

    async def _pause(self, request: dict[str, Any]) -> dict[str, object]:
        return await self._do("pause", "paused")

    async def _resume(self, request: dict[str, Any]) -> dict[str, object]:
        return await self._do("resume", "resumed")

    async def _do(self, op: str, done: str) -> dict[str, object]:
        from sandlock import SandlockError

        if self._client is None:
            raise SandlockError("the session has ended")
        await self._client.request(op, timeout=PATIENCE * 3)
        self._feed.note(done, by="page")
        return {}


def _write_private(path: str, text: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _tell(link: str) -> None:
    sys.stdout.write(f"{link}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    print(f"sandlock: {text}", file=sys.stderr, flush=True)
