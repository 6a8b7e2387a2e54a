"""A small web server for one page: h11 over trio, on the loopback interface.

Rules: nothing is answered before the Host header is one of ours, and nothing but the exchange of the token without the
cookie. The cookie holds below a path that nobody can guess: cookies do not know ports, and what an agent serves on
another one gets to see none of ours. Everything that a client sends, and the time that it takes, is bounded.
"""

from __future__ import annotations

import json
import secrets
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import h11
import trio

from sandlock import SandlockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from .feed import Reader

__all__ = ["Gate", "PageServer"]

LONGEST_HEAD = 16 * 1024
LONGEST_BODY = 64 * 1024
BLOCK = 4096
"""Read at once: so little that h11 sees a head that is too long before all of it is there."""
MOST_CONNECTIONS = 64
MOST_STREAMS = 8
PATIENCE = 10.0
"""Seconds that a client may take to send a request, or to take a block of ours."""
HEARTBEAT = 15.0
HEADERS = (
    ("Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
     "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)  # fmt: skip
USED = "This link has been used already, or is not the right one.\nFor a new one: sandlock agent ui\n"


class _Refusal(Exception):  # noqa: N818 (an answer, not an error)
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Gate:
    """Who may come in: the token, the cookie, the names of this server."""

    def __init__(self, port: int) -> None:
        self.names = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.path = f"/{secrets.token_urlsafe(16)}/"
        self._token: str | None = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        self.url = f"http://127.0.0.1:{port}{self.path}?token={self._token}"
        """Works once."""
        self.used = trio.Event()

    @property
    def cookie(self) -> str:
        """For a Set-Cookie header."""
        return f"sandlock={self._cookie}; Path={self.path}; HttpOnly; SameSite=Strict"

    def exchange(self, token: str) -> bool:
        """Whether this is the token; it is only once."""
        if self._token is None or not compare_digest(self._token.encode(), token.encode("utf-8", "replace")):
            return False
        self._token = None
        self.used.set()
        return True

    def is_known(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has the cookie."""
        for each in headers.get("cookie", "").split(";"):
            name, _, value = each.strip().partition("=")
            if name == "sandlock" and compare_digest(value.encode("utf-8", "replace"), self._cookie.encode()):
                return True
        return False

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Raises _Refusal for what a page of ours does not send."""
        host = headers.get("host", "")
        if host not in self.names:
            raise _Refusal(421, f"this server is {self.names[0]}\n")
        if method not in ("GET", "POST"):
            raise _Refusal(405, "")
        if method == "POST":
            if headers.get("origin", "").partition("://") != ("http", "://", host):
                raise _Refusal(403, "only the page itself may do that\n")
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                raise _Refusal(415, "send application/json\n")


class PageServer:
    """Serves `files` (name: media type and content) and what a reader of `reading` reads; what is posted goes to
    `acts`."""

    def __init__(
        self,
        gate: Gate,
        files: Mapping[str, tuple[str, bytes]],
        reading: Callable[[], AbstractContextManager[Reader]],
        acts: Mapping[str, Callable[[dict[str, Any]], Awaitable[dict[str, object]]]],
    ) -> None:
        self._gate = gate
        self._files = files
        self._reading = reading
        self._acts = acts
        self._connections = 0
        self._streams = 0

    async def serve(self, listeners: list[trio.SocketListener]) -> None:
        """For ever."""
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            async with stream:
                if self._connections <= MOST_CONNECTIONS:
                    await _Exchange(self, stream).run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.LocalProtocolError):
            pass  # also from the nursery of a stream, as a group: it ends this connection only
        finally:
            self._connections -= 1

    async def answer(self, exchange: _Exchange) -> None:
        """One request. Raises _Refusal."""
        gate, method, headers = self._gate, exchange.method, exchange.headers
        gate.check(method, headers)
        path, _, query = exchange.target.partition("?")
        if not path.startswith(gate.path):
            raise _Refusal(404, "there is nothing here\n")
        name = path[len(gate.path) :]
        if method == "GET" and name == "" and gate.exchange(query.removeprefix("token=")):
            return await self._file(exchange, "index.html", gate.cookie)
        if not gate.is_known(headers):
            raise _Refusal(403, USED)
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _Refusal(403, "only the page itself may do that\n")
        if method == "GET" and name == "events":
            return await self._stream(exchange)
        if method == "GET" and (name or "index.html") in self._files:
            return await self._file(exchange, name or "index.html")
        if method == "POST" and name in self._acts:
            return await self._act(exchange, name)
        raise _Refusal(405 if name in self._acts or name in self._files else 404, "there is nothing here\n")

    async def _file(self, exchange: _Exchange, name: str, cookie: str = "") -> None:
        kind, content = self._files[name]
        await exchange.reply(200, kind, content, (("Set-Cookie", cookie),) if cookie else ())

    async def _act(self, exchange: _Exchange, name: str) -> None:
        try:
            request = json.loads(exchange.body)
            if not isinstance(request, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError):
            raise _Refusal(400, "send one JSON object\n") from None
        try:
            reply = {"ok": True, **await self._acts[name](request)}
        except SandlockError as error:
            reply = {"ok": False, "error": str(error)}
        await exchange.reply(200, "application/json", json.dumps(reply).encode())

    async def _stream(self, exchange: _Exchange) -> None:
        if self._streams >= MOST_STREAMS:
            raise _Refusal(503, f"{MOST_STREAMS} pages are open; close one\n")
        self._streams += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.wait_gone, nursery.cancel_scope)
                await exchange.begin("text/event-stream")
                await exchange.send(b"retry: 1000\n\n")
                with self._reading() as reader:
                    while True:
                        messages: list[dict[str, Any]] = []
                        with trio.move_on_after(HEARTBEAT):
                            messages = await reader.read()
                        blocks = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in messages]
                        await exchange.send(b"".join(blocks) or b":\n\n")
        finally:
            self._streams -= 1


class _Exchange:
    """One request and its answer."""

    def __init__(self, server: PageServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self.method = ""
        self.target = ""
        self.headers: dict[str, str] = {}
        self.body = b""

    async def run(self) -> None:
        """Reads it, has it answered, and closes."""
        try:
            with trio.fail_after(PATIENCE):
                await self._read()
            await self._server.answer(self)
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, "that is no request\n")
        except _Refusal as refusal:
            await self._refuse(refusal.status, "" if self.method == "HEAD" else refusal.text)
        await self._close()

    async def _read(self) -> None:
        while type(event := await self._event()) is not h11.Request:
            if type(event) is h11.ConnectionClosed:
                raise trio.BrokenResourceError("it has said nothing")
        self.method, self.target = event.method.decode("ascii"), event.target.decode("ascii", "replace")
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        parts: list[bytes] = []
        size = 0
        while type(event := await self._event()) is h11.Data:
            size += len(event.data)
            if size > LONGEST_BODY:
                raise _Refusal(413, "that is too long\n")
            parts.append(bytes(event.data))
        self.body = b"".join(parts)

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
            self._http.receive_data(await self._stream.receive_some(BLOCK))
        return event

    async def reply(self, status: int, kind: str, content: bytes, more: Sequence[tuple[str, str]] = ()) -> None:
        """The whole answer."""
        await self.begin(kind, status, (*more, ("Content-Length", str(len(content)))))
        await self.send(content)
        await self._write(self._http.send(h11.EndOfMessage()))

    async def begin(self, kind: str, status: int = 200, more: Sequence[tuple[str, str]] = ()) -> None:
        """The head of an answer."""
        text = "; charset=utf-8" if not kind.startswith("image/") else ""
        head = [("Content-Type", kind + text), *HEADERS, *more]
        await self._write(self._http.send(h11.Response(status_code=status, headers=head)))

    async def send(self, data: bytes) -> None:
        """Part of its body."""
        await self._write(self._http.send(h11.Data(data=data)))

    async def wait_gone(self, scope: trio.CancelScope) -> None:
        """Cancels the scope when the client closes the connection."""
        while await self._stream.receive_some(4096):
            pass
        scope.cancel()

    async def _refuse(self, status: int, text: str) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.reply(status, "text/plain", text.encode())

    async def _write(self, data: bytes | None) -> None:
        with trio.fail_after(PATIENCE):
            await self._stream.send_all(data or b"")

    async def _close(self) -> None:
        """Lets the client read the answer, also one who is still sending: else the kernel throws it away."""
        await self._stream.send_eof()
        with trio.move_on_after(1):
            for _ in range(64):
                if not await self._stream.receive_some(65536):
                    return
