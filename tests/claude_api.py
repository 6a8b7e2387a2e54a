"""A model for Claude Code, on the loopback: says what a script has, and keeps what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Model:
    """`turns`: each the input of a Bash call, a (tool, input), or a text, which is an end."""

    def __init__(self, turns: list[Any]) -> None:
        self.turns = list(turns)
        self.told: dict[str, str] = {}
        """The result of each call, by its id."""
        self.port = 0
        self._lock = threading.Lock()

    @property
    def results(self) -> list[str]:
        """In their order."""
        return [self.told[name] for name in sorted(self.told)]

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The next content block and why it stops; anything but the agent itself gets a word."""
        names = [tool.get("name") for tool in request.get("tools", ())]
        with self._lock:
            for message in request.get("messages", ()):
                for part in message["content"] if isinstance(message["content"], list) else ():
                    if part.get("type") == "tool_result":
                        content = part["content"]
                        self.told[part["tool_use_id"]] = content if isinstance(content, str) else json.dumps(content)
            turn = self.turns.pop(0) if "Bash" in names and self.turns else "ok"
            if isinstance(turn, str):
                return {"type": "text", "text": turn}, "end_turn"
            tool, given = turn if isinstance(turn, tuple) else ("Bash", turn)
            name = f"toolu_{100 - len(self.turns):04}"
            return {"type": "tool_use", "id": name, "name": tool, "input": given}, "tool_use"


@contextmanager
def serving(turns: list[Any]) -> Iterator[Model]:
    """A model at http://127.0.0.1:PORT."""
    model = Model(turns)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._send(200, "text/plain", b"")

        def do_GET(self) -> None:
            self._send(404, "application/json", b"{}")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
            if not self.path.startswith("/v1/messages") or "count_tokens" in self.path:
                return self._send(200, "application/json", b'{"input_tokens": 1}')
            block, reason = model.answer(request)
            usage = {"input_tokens": 1, "output_tokens": 1}
            message = {"id": "m", "type": "message", "role": "assistant", "model": request["model"], "content": [],
                       "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
            if not request.get("stream"):
                whole = message | {"content": [block], "stop_reason": reason}
                return self._send(200, "application/json", json.dumps(whole).encode())
            return self._send(200, "text/event-stream", _events(message, block, reason))

        def _send(self, status: int, kind: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _events(message: dict[str, Any], block: dict[str, Any], reason: str) -> bytes:
    if block["type"] == "text":
        begin, delta = block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        begin, delta = block | {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": message}),
        ("content_block_start", {"index": 0, "content_block": begin}),
        ("content_block_delta", {"index": 0, "delta": delta}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 1}}),
        ("message_stop", {}),
    ]
    return "".join(f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n" for kind, data in events).encode()
