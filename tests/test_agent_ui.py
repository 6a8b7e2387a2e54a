"""`sandlock agent ui` on the level of HTTP: who gets in, what is refused, and what foreign text goes through."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import ordinary
import pytest
import trio
import trio.testing
from agent_terminal import workspace
from fake_session import FakeSession, decision, fake_session, question
from test_agent_attach import finish, started

from sandlock.cli.agent import page_server, ui
from sandlock.cli.agent.feed import Feed
from sandlock.cli.agent.ui import Page

HOSTILE = '</script><b>\u202e\u0000\ud800\n"\\'


def origin_of(host: str, scheme: str = "http") -> str:
    return f"{scheme}://{host}"


class Visitor:
    """A client that says exactly what it is told to."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        self.port = int(parts.port or 0)
        self.host = f"127.0.0.1:{self.port}"
        self.path = parts.path
        self.token = parts.query
        self.cookie = ""

    async def raw(self, data: bytes) -> tuple[int, dict[str, str], str]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            with trio.fail_after(20):
                await stream.send_all(data)
                answer = b""
                while block := await stream.receive_some(65536):
                    answer += block
        head, _, body = answer.decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return (int(first.split()[1]) if first else 0), headers, body

    async def get(self, name: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
        return await self.raw(self.request("GET", name, **headers))

    async def post(self, name: str, content: object, **headers: str) -> tuple[int, dict[str, str], str]:
        body = json.dumps(content).encode()
        base = {"origin": origin_of(self.host), "content_type": "application/json", "content_length": str(len(body))}
        return await self.raw(self.request("POST", name, **(base | headers)) + body)

    def request(self, method: str, name: str, **headers: str) -> bytes:
        lines = {"host": self.host, "cookie": self.cookie} | headers
        target = name if name.startswith("/") else self.path + name
        text = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in lines.items() if value)
        return f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode()

    async def enter(self) -> None:
        status, headers, _ = await self.get(f"?{self.token}")
        assert status == 200
        self.cookie = headers_cookie(headers)


def headers_cookie(headers: dict[str, str]) -> str:
    return headers["set-cookie"].partition(";")[0]


@asynccontextmanager
async def served(place: str, **state: Any) -> AsyncIterator[tuple[Visitor, FakeSession]]:
    links: list[str] = []
    async with fake_session(place, **state) as session, trio.open_nursery() as nursery:
        nursery.start_soon(Page(session.record, told=links.append).run)
        while not links:
            await trio.sleep(0.001)
        yield Visitor(links[0]), session
        nursery.cancel_scope.cancel()


def visited(
    place: str, act: Callable[[Visitor, FakeSession], Awaitable[None]], *, enter: bool = True, **state: Any
) -> None:
    async def main() -> None:
        async with served(place, **state) as (visitor, session):
            if enter:
                await exact_case(visitor)
            await act(visitor, session)

    trio.run(main)


async def exact_case(visitor: Visitor) -> None:
    """Enters; the cookie's letters are not those that `raw` has made small."""
    stream = await trio.open_tcp_stream("127.0.0.1", visitor.port)
    async with stream:
        await stream.send_all(visitor.request("GET", f"?{visitor.token}"))
        answer = b""
        while block := await stream.receive_some(65536):
            answer += block
    found = re.search(rb"Set-Cookie: (sandlock=[^;]+)(.*)", answer, re.I)
    assert found, answer[:300]
    assert f"; Path={visitor.path}; HttpOnly; SameSite=Strict" in found[2].decode()
    visitor.cookie = found[1].decode()


@asynccontextmanager
async def events(visitor: Visitor) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
    stream = await trio.open_tcp_stream("127.0.0.1", visitor.port)
    data = b""

    async def following() -> dict[str, Any]:
        nonlocal data
        with trio.fail_after(20):
            while not (found := re.search(rb"data: (.*)\n\n", data)):
                block = await stream.receive_some(65536)
                assert block, data
                data += block
        data = data[found.end() :]
        return json.loads(found[1])  # type: ignore[no-any-return]

    async with stream:
        await stream.send_all(visitor.request("GET", "events"))
        yield following


@pytest.mark.parametrize("how", ["reset", "stalled"])
def test_a_page_that_breaks_off_ends_no_other(tmp_path: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A reader whose connection is reset, or who takes nothing: it is gone, and the page is served on."""

    async def act(visitor: Visitor, session: FakeSession) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", visitor.port)
        await stream.send_all(visitor.request("GET", "events"))
        assert await stream.receive_some(100)
        await session.until(lambda: session.listeners == ["page"])
        if how == "reset":
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()
        with trio.fail_after(20):
            while session.listeners:  # the reader counts no more
                if how == "stalled":
                    await session.push(push="decision", decision=decision(reason="x" * 100_000))
                await trio.sleep(0.01)
        assert (await visitor.get())[0] == 200
        stream.socket.close()

    monkeypatch.setattr(page_server, "PATIENCE", 0.5)
    monkeypatch.setattr(ui, "GRACE", 0.1)
    visited(tmp_path, act)


def test_the_token_works_once(tmp_path: str) -> None:
    async def act(visitor: Visitor, session: FakeSession) -> None:
        assert (await visitor.get())[0] == 403
        assert (await visitor.get("?token=wrong"))[0] == 403
        assert (await visitor.get("/"))[0] == 404
        await exact_case(visitor)
        cookie, visitor.cookie = visitor.cookie, ""
        status, headers, _ = await visitor.get(f"?{visitor.token}")
        assert status == 403
        assert "set-cookie" not in headers
        for name in ("", "page.js", "events"):
            assert (await visitor.get(name))[0] == 403
            assert (await visitor.get(name, cookie=cookie[:-1]))[0] == 403
        visitor.cookie = f"other=1; {cookie}"
        status, headers, body = await visitor.get()
        assert status == 200
        assert "<title>sandlock" in body
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "deny"
        assert "access-control-allow-origin" not in headers
        for name in ui.FILES:
            assert (await visitor.get(name))[0] == 200
        for name in ("../ui.py", "%2e%2e/ui.py", "page.js/..", "nothing", "//x"):
            assert (await visitor.get(name))[0] == 404

    visited(tmp_path, act, enter=False)


def test_who_may_not(tmp_path: str) -> None:
    """Other names of this machine, other pages, other forms; the positive control is last."""

    async def act(visitor: Visitor, session: FakeSession) -> None:
        for host in (
            "evil.example",
            f"evil.example:{visitor.port}",
            "127.0.0.1",
            f"127.0.0.1:{visitor.port}.evil.example",
        ):
            assert (await visitor.get(host=host))[0] == 421
            assert (await visitor.post("kill", {}, host=host, origin=origin_of(host)))[0] == 421
        assert (await visitor.raw(f"GET {visitor.path} HTTP/1.1\r\n\r\n".encode()))[0] == 400
        other = origin_of(f"127.0.0.1:{visitor.port + 1}")
        for origin in (
            "",
            "null",
            origin_of("evil.example"),
            other,
            origin_of(visitor.host, "https"),
            origin_of(f"{visitor.host}.evil.example"),
        ):
            assert (await visitor.post("kill", {}, origin=origin))[0] == 403, origin
        for site in ("cross-site", "same-site"):
            assert (await visitor.post("kill", {}, sec_fetch_site=site))[0] == 403
            assert (await visitor.get("events", sec_fetch_site=site))[0] == 403
        for kind in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            assert (await visitor.post("kill", {}, content_type=kind))[0] == 415
        assert (await visitor.post("kill", {}, cookie="sandlock=x"))[0] == 403
        assert (await visitor.get("kill"))[0] == 405
        assert (await visitor.post("page.js", {}))[0] == 405
        assert (await visitor.post("answers", {}))[0] == 404
        for content in ("[]", "no json", "[" * 30000, '{"a": 1', ""):
            length = {
                "content_length": str(len(content)),
                "content_type": "application/json",
                "origin": origin_of(visitor.host),
            }
            assert (await visitor.raw(visitor.request("POST", "kill", **length) + content.encode()))[0] == 400
        assert session.requests("kill") == []
        status, _, body = await visitor.post("kill", {})
        assert (status, json.loads(body)) == (200, {"ok": True})
        assert len(session.requests("kill")) == 1

    visited(tmp_path, act)


def test_sizes_and_slow_clients(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long heads and bodies are refused, slow clients are left, and nobody else waits for them."""
    monkeypatch.setattr(page_server, "PATIENCE", 0.3)

    async def act(visitor: Visitor, session: FakeSession) -> None:
        assert (await visitor.post("kill", {"x": "y" * page_server.LONGEST_BODY}))[0] == 413
        endless = visitor.request(
            "POST",
            "kill",
            transfer_encoding="chunked",
            content_type="application/json",
            origin=origin_of(visitor.host),
        )
        assert (await visitor.raw(endless + b"8000\r\n" + b"x" * 0x8000 + b"\r\n8001\r\n" + b"x" * 0x8001 + b"\r\n"))[
            0
        ] == 413
        assert (await visitor.get(x="y" * 2 * page_server.LONGEST_HEAD))[0] == 431
        assert (await visitor.raw(b"\x16\x03\x01\r\n\r\n"))[0] == 400
        slow = [await trio.open_tcp_stream("127.0.0.1", visitor.port) for _ in range(page_server.MOST_CONNECTIONS // 2)]
        for each in slow:
            await each.send_all(b"GET / HTTP/1.1\r\n")
        assert (await visitor.get())[0] == 200
        for each in slow:
            with trio.fail_after(10):
                assert await each.receive_some(1) == b""
            await each.aclose()
        assert (await visitor.get())[0] == 200

    visited(tmp_path, act)


@pytest.mark.parametrize(
    "request_line",
    [
        "GET //[ HTTP/1.1",
        "HEAD PATH?TOKEN HTTP/1.1",
        "HEAD / HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "POST PATHanswer HTTP/1.1",
        "PRI * HTTP/2.0",
        "\x16\x03\x01",
    ],
)
def test_whatever_is_sent_ends_its_own_connection_only(tmp_path: str, request_line: str) -> None:
    """By anybody on this machine: a program in a sandbox too, if it may connect to the loopback."""

    async def act(visitor: Visitor, session: FakeSession) -> None:
        for host in (visitor.host, "elsewhere"):
            line = request_line.replace("PATH", visitor.path).replace("TOKEN", visitor.token)
            stream = await trio.open_tcp_stream("127.0.0.1", visitor.port)
            async with stream:
                await stream.send_all(f"{line}\r\nHost: {host}\r\n\r\n".encode())
                with trio.fail_after(20):
                    while await stream.receive_some(65536):
                        pass
        await exact_case(visitor)
        assert (await visitor.get("page.js"))[0] == 200

    visited(tmp_path, act, enter=False)


def test_connections_are_bounded(tmp_path: str) -> None:
    async def act(visitor: Visitor, session: FakeSession) -> None:
        held = [await trio.open_tcp_stream("127.0.0.1", visitor.port) for _ in range(page_server.MOST_CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked()
        assert (await visitor.get())[0] == 0
        for each in held:
            await each.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await visitor.get())[0] == 200
        async with trio.open_nursery() as nursery:
            for _ in range(page_server.MOST_STREAMS):
                await nursery.start(hold, visitor)
            assert (await visitor.get("events"))[0] == 503
            nursery.cancel_scope.cancel()

    async def hold(visitor: Visitor, task_status: trio.TaskStatus[None]) -> None:
        async with events(visitor) as following:
            await following()
            task_status.started()
            await trio.sleep_forever()

    visited(tmp_path, act)


def test_hostile_text_goes_through_as_data(tmp_path: str) -> None:
    async def act(visitor: Visitor, session: FakeSession) -> None:
        async with events(visitor) as following:
            state = (await following())["state"]
            assert state["pending"][0]["argv"] == [HOSTILE]
            assert state["argv"] == [HOSTILE]
            await session.push(
                push="decision",
                decision=decision("open", "deny", target=HOSTILE, fix=HOSTILE, cause=[], rule={}, argv=7),
            )
            line = (await following())["decision"]
            assert line["target"] == HOSTILE
            assert line["remedy"] is None

    visited(tmp_path, act, argv=[HOSTILE], pending=[question(argv=[HOSTILE])])


def test_who_listens_and_answers(tmp_path: str) -> None:
    """Only an open page is a listener; answers go to the session as they are, and its refusals come back."""

    async def act(visitor: Visitor, session: FakeSession) -> None:
        assert session.listeners == []
        refused = json.loads((await visitor.post("answer", {"question": "q1", "answer": {}}))[2])
        assert refused["ok"] is False
        async with events(visitor) as following:
            await following()
            await session.until(lambda: session.listeners == ["page"])
            for id, there in (("q1", True), ("q9", False)):
                reply = json.loads((await visitor.post("answer", {"question": id, "answer": {"choice": "o"}}))[2])
                assert reply == {"ok": True, "answered": there}
            assert session.requests("answer")[0]["answer"] == {"choice": "o"}
        await session.until(lambda: session.listeners == [])

    visited(tmp_path, act, pending=[question()])


def test_a_session_without_questions(tmp_path: str) -> None:
    async def main() -> None:
        async with served(tmp_path) as (visitor, session):
            session.has_desk = False
            await exact_case(visitor)
            async with events(visitor) as following:
                await following()
                await session.push(push="processes", processes=[])
                assert (await following())["push"] == "processes"
                reply = json.loads((await visitor.post("answer", {"question": "q1", "answer": {"choice": "o"}}))[2])
                assert reply["ok"] is False

    trio.run(main)


def test_the_end_stays(tmp_path: str) -> None:
    """The session's host dies without a word: the page says so, also to who comes later."""

    async def main() -> None:
        links: list[str] = []
        async with trio.open_nursery() as nursery:
            async with fake_session(tmp_path) as session:
                nursery.start_soon(Page(session.record, told=links.append).run)
                while not links:
                    await trio.sleep(0.001)
                visitor = Visitor(links[0])
                await exact_case(visitor)
            async with events(visitor) as following:
                state = (await following())["state"]
                while not state["ended"]:
                    state = await following()
                assert state["result"] is None
            reply = json.loads((await visitor.post("kill", {}))[2])
            assert reply == {"ok": False, "error": "the session has ended"}
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_slow_reader_gets_the_whole_picture() -> None:
    async def main() -> None:
        feed = Feed()
        feed.take({"push": "state", "state": {"decisions": [], "denials": [], "pending": []}})
        slow, quick = feed.reader(), feed.reader()
        assert (await quick.read())[0]["push"] == "state"
        await slow.read()
        for number in range(2000):
            feed.take(
                {"push": "decision", "decision": decision("connect", target=f"tcp://192.0.2.1:{number}", argv=[])}
            )
            (message,) = await quick.read()
            assert message["destination"]["port"] == str(number)
        (whole,) = await slow.read()
        assert len(whole["state"]["decisions"]) == 500
        assert len(whole["state"]["network"]) == 500
        assert whole["state"]["network"][-1]["port"] == "1999"

    trio.run(main)


@pytest.mark.slow
def test_the_command(visitor: ordinary.Person) -> None:
    """The link; a browser that is told by a private file, which is gone when it was used; Ctrl-C; wrong sessions."""
    name = f"page{os.getpid()}"
    agent = started(visitor, name, "read go")
    opener = os.path.join(visitor.home, "xdg-open")
    with open(opener, "w", encoding="utf-8") as file:
        file.write(
            f'#!/bin/sh\ncd {visitor.home} && stat -c %a "$1" > opened && cat "$1" >> opened && mv opened seen\n'
        )
    os.chmod(opener, 0o755)
    environment = visitor.environment({"DISPLAY": ":77", "PATH": f"{visitor.home}:/usr/bin:/bin"})
    command = [visitor.python, "-m", "sandlock.cli", "agent", "ui", name]
    page = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=workspace(visitor),
        **visitor.identity,
    )  # type: ignore[call-overload]
    try:
        assert page.stdout is not None
        link = page.stdout.readline().strip()

        async def visit() -> None:
            with trio.fail_after(20):
                while not await trio.Path(f"{visitor.home}/seen").exists():
                    await trio.sleep(0.01)
            await exact_case(Visitor(link))

        trio.run(visit)
        with open(f"{visitor.home}/seen", encoding="utf-8") as file:
            seen = file.read()
        assert seen.startswith("600\n")
        assert link in seen
        page.send_signal(signal.SIGINT)
        _, said = page.communicate(timeout=20)
        assert page.returncode == 0, said
        assert "works once" in said
        assert "Traceback" not in said
        wrong = visitor.run([*command[:-1], "nobody-is-called-this"])
        assert wrong.returncode == 125
        assert len(wrong.stderr.splitlines()) == 1
        assert agent.poll() is None
    finally:
        page.kill()
        page.wait()
        finish(agent)
    ended = visitor.run([*command[:-1], "last"])
    assert ended.returncode == 125
