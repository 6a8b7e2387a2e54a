"""Questions put to a service on this machine: a POST with the question as JSON, whose response is the answer as JSON.

Rules: loopback addresses only, plain HTTP/1.0, one connection per question; no redirect is followed, no proxy used. The
sandbox may neither connect to that port nor take it over (`guards`).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from sandlock import PolicyError

from .channels import LONGEST_ANSWER, AnswerError, Channel, question_line, read_json, serve_each

if TYPE_CHECKING:
    from .desk import Desk
    from .questions import Question

__all__ = ["HttpChannel"]

LONGEST_HEAD = 16384


class HttpChannel(Channel):
    """`url`: "http://127.0.0.1:PORT/path". `seconds`: that a response may take. Raises PolicyError."""

    def __init__(self, url: str, *, seconds: float = 60.0) -> None:
        self._host, self.port, self._target = _read_url(url)
        self.name = f"http:{self._netloc}"
        self._seconds = seconds

    @property
    def _netloc(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def guards(self) -> dict[str, tuple[str, ...]]:
        """The sandbox must not talk to the service, nor be it."""
        return {
            "net_deny": (f"127.0.0.0/8:{self.port}", f"[::1]:{self.port}"),
            "net_deny_bind": (str(self.port),),
        }

    async def serve(self, desk: Desk) -> None:
        """See Channel."""
        await serve_each(desk, self.name, self._ask, seconds=self._seconds)

    async def _ask(self, question: Question) -> object:
        body = question_line(question)
        head = (
            f"POST {self._target} HTTP/1.0\r\nHost: {self._netloc}\r\nUser-Agent: sandlock\r\n"
            f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with await trio.open_tcp_stream(self._host, self.port) as stream:
                await stream.send_all(head.encode("ascii") + body)
                return read_json(await _read_response(stream))
        except (OSError, trio.BrokenResourceError) as error:
            raise AnswerError(f"the service cannot be reached: {_shown(error)}") from None


async def _read_response(stream: trio.SocketStream) -> bytes:
    """The body of a response with status 200. Raises AnswerError."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        block = await stream.receive_some(8192)
        if not block or len(data) > LONGEST_HEAD:
            raise AnswerError("the response is no HTTP")
        data += block
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    version, _, code = status.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise AnswerError("the response is no HTTP")
    if code[:4].strip() != b"200":
        raise AnswerError(f"the service answered {code[:60].decode('ascii', 'replace')}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if b"transfer-encoding" in fields:
        raise AnswerError("the response is encoded, which HTTP/1.0 does not know")
    length = fields.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) < 10):
        raise AnswerError("the response has no sane length")
    wanted = LONGEST_ANSWER + 1 if length is None else int(length)
    if length is not None and wanted > LONGEST_ANSWER:
        raise AnswerError(f"the answer is longer than {LONGEST_ANSWER} bytes")
    body = bytearray(rest)
    while len(body) < wanted and (block := await stream.receive_some(8192)):
        body += block
    if length is not None and len(body) < wanted:
        raise AnswerError("the response was cut off")
    return bytes(body if length is None else body[:wanted])


def _read_url(url: str) -> tuple[str, int, str]:
    """Host, port and target of a URL of a service on this machine. Raises PolicyError."""
    fix = "write http://127.0.0.1:PORT/path"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise PolicyError(f"ask: {url!r}: {error}; {fix}") from None
    host = "127.0.0.1" if host == "localhost" else host
    try:
        local = ip_address(host).is_loopback and "%" not in host
    except ValueError:
        local = False
    if parts.scheme != "http" or not local or not port or parts.username is not None or parts.fragment:
        why = "questions go over plain HTTP to a loopback address with a port, and nowhere else"
        raise PolicyError(f"ask: {url!r}: {why}; {fix}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise PolicyError(f"ask: {url!r}: its path has to be percent-encoded; {fix}")
    return host, port, target


def _shown(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    return (isinstance(cause, OSError) and cause.strerror) or str(error)
