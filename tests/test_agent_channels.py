"""Channels: each brings what was answered, and denies, with the cause, where it cannot."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from questions_at_hand import PUSH, a_connect, an_exec, reason_of

from sandlock import Allow, Deny, Kill, PolicyError
from sandlock._record import replace
from sandlock.sessions.channels import LONGEST_ANSWER, Channel
from sandlock.sessions.desk import Desk
from sandlock.sessions.http_channel import HttpChannel
from sandlock.sessions.program_channel import ProgramChannel
from sandlock.sessions.questions import question_of
from sandlock.sessions.unix_channel import UnixChannel

Body = Callable[[Desk], Awaitable[None]]


def with_channel(channel: Channel, body: Body, *, timeout: float | None = 20.0) -> None:
    """Runs `body(desk)` while the channel serves the desk."""

    async def main() -> None:
        desk = Desk(timeout=timeout)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.serve, desk)
                while channel.name not in desk.listeners:
                    await trio.sleep(0.001)
                await body(desk)
                nursery.cancel_scope.cancel()

    trio.run(main)


# --- a program --------------------

ANSWER_BY_WORD = """
import json, sys
question = json.load(sys.stdin)
word = question["argv"][-1]
answers = {
    "once": {"verdict": "allow"},
    "prefix": {"verdict": "allow", "scope": "run", "words": 2},
    "no": {"verdict": "deny", "reason": "use the mirror"},
    "kill": {"verdict": "kill", "reason": "enough"},
    "choice": {"choice": "o"},
}
print(json.dumps(answers[word]))
"""


def program(tmp_path: Path, code: str, *, seconds: float = 20.0) -> ProgramChannel:
    guard = tmp_path / "guard.py"
    guard.write_text(code)
    return ProgramChannel([sys.executable, str(guard)], seconds=seconds)


@pytest.mark.slow
def test_a_program_answers_each_question(tmp_path: Path) -> None:
    name = f"exec:{os.path.basename(os.path.realpath(sys.executable))}"
    verdicts: dict[str, object] = {}

    async def body(desk: Desk) -> None:
        async def ask(word: str) -> None:
            verdicts[word] = await desk.vet(an_exec(["git", "push", word]), None)

        async with trio.open_nursery() as nursery:
            for word in ("once", "prefix", "no", "kill", "choice"):
                nursery.start_soon(ask, word)

    channel = program(tmp_path, ANSWER_BY_WORD)
    name = channel.name
    with_channel(channel, body)
    assert verdicts["once"] == Allow(by=name)
    assert verdicts["choice"] == Allow(by=name)
    assert verdicts["prefix"] == Allow(scope="run", words=2, by=name)
    assert verdicts["no"] == Deny("use the mirror", by=name)
    assert verdicts["kill"] == Kill("enough", by=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ('import sys; print(\'{"verdict": "allow"}\'); sys.exit(3)', "it ended with exit 3"),
        ('import os; print(\'{"verdict": "allow"}\', flush=True); os.kill(os.getpid(), 9)', "it ended with signal 9"),
        ("print('yes')", "the answer is no JSON"),
        ("", "there is no answer"),
        ('print(\'{"verdict": "allow"} {}\')', "the answer is no JSON"),
        ("print('[' * 50000)", "the answer is no JSON"),
        ("print('true')", "True is no answer"),
        ('print(\'{"verdict": "perhaps"}\')', "is no answer"),
        ('print(\'{"verdict": "allow", "scope": "host"}\')', "is no answer"),
        ('print(\'{"verdict": "allow", "words": 9, "scope": "run"}\')', "is no answer"),
        (f"print(' ' * {LONGEST_ANSWER} + '{{\"verdict\": \"allow\"}}')", "longer than"),
        ("while True: print('x' * 9999)", "longer than"),
        ('import time; print(\'{"verdict": "allow"}\', flush=True); time.sleep(60)', "no answer within"),
    ],
)
def test_a_program_that_does_not_answer_denies(tmp_path: Path, code: str, why: str) -> None:
    reasons = []

    async def body(desk: Desk) -> None:
        reasons.append(await reason_of(desk))

    channel = program(tmp_path, code, seconds=0.7 if "sleep" in code else 20.0)
    with_channel(channel, body)
    assert reasons[0].startswith(f"{channel.name}: ")
    assert why in reasons[0]


@pytest.mark.slow
def test_nothing_is_left_of_a_program_nor_of_what_it_started(tmp_path: Path) -> None:
    """A child in the background that keeps the output open holds nobody up, and dies with the group."""
    code = f"""
import os, subprocess, sys
child = subprocess.Popen([{sys.executable!r}, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print('{{"verdict": "allow"}}')
"""
    verdicts = []

    async def body(desk: Desk) -> None:
        verdicts.append(await desk.vet(an_exec(), None))

    channel = program(tmp_path, code)
    with_channel(channel, body)
    assert verdicts == [Allow(by=channel.name)]
    stat_of = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    deadline = time.monotonic() + 5
    while stat_of.exists() and stat_of.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_who_asked_may_leave_and_the_program_ends(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    async def body(desk: Desk) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.vet, an_exec(), None)
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        pid = int((tmp_path / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                await trio.sleep(0.01)

    with_channel(program(tmp_path, code), body)


def test_a_program_that_the_sandbox_may_write_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for place in (inside, outside):
        place.mkdir()
        (place / "guard").write_text('#!/bin/sh\necho \'{"verdict": "deny"}\'\n')
        (place / "guard").chmod(0o755)
    (outside / "link").symlink_to(inside / "guard")
    (tmp_path / "alias").symlink_to(inside)
    ProgramChannel([str(outside / "guard")]).check([str(inside)])
    for words in ([str(inside / "guard")], [str(outside / "link")], ["sh", str(tmp_path / "alias" / "guard")]):
        with pytest.raises(PolicyError, match="could answer its own questions"):
            ProgramChannel(words).check([str(inside)])
    with pytest.raises(PolicyError, match="no program here"):
        ProgramChannel(["/nonexistent/guard"])


def test_it_starts_outside_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the workspace, planted by the sandboxed program, must not be imported by who answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('planted')")
    code = "import json; print(json.dumps({'verdict': 'deny', 'reason': 'not planted'}))"
    channel = ProgramChannel([sys.executable, "-c", code])
    reasons = []

    async def body(desk: Desk) -> None:
        reasons.append(await reason_of(desk))

    with_channel(channel, body)
    assert reasons == ["not planted"]


# --- http --------------------

SCHEME = "http:" + "//"
OK = b"HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\n" + b'{"verdict": "allow"}'


def served(reply: bytes | Callable[[bytes], bytes], body: Body, seen: list[bytes], *, seconds: float = 20.0) -> None:
    """Runs `body(desk)` while a service sends this to whoever posts."""

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while b"\n" not in request.partition(b"\r\n\r\n")[2]:
            request += await stream.receive_some(65536)
        seen.append(request)
        try:
            await stream.send_all(reply if isinstance(reply, bytes) else reply(request))
            if reply == b"":
                await trio.sleep_forever()
        except trio.BrokenResourceError:
            return

    async def main() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                port = listener.socket.getsockname()[1]
                nursery.start_soon(trio.serve_listeners, serve, [listener])
                desk = Desk(timeout=20)
                channel = HttpChannel(f"{SCHEME}127.0.0.1:{port}/ask?x=1", seconds=seconds)
                assert channel.guards["net_deny_bind"] == (str(port),)
                nursery.start_soon(channel.serve, desk)
                while not desk.listeners:
                    await trio.sleep(0.001)
                await body(desk)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_service_answers() -> None:
    verdicts, seen = [], list[bytes]()

    def reply(request: bytes) -> bytes:
        question = json.loads(request.partition(b"\r\n\r\n")[2])
        answer = json.dumps({"verdict": "deny", "reason": " ".join(question["argv"] or [question["host"]])}).encode()
        return b"HTTP/1.1 200 fine\r\nX: y\r\n\r\n" + answer

    async def body(desk: Desk) -> None:
        verdicts.append(await desk.vet(an_exec(), None))
        verdicts.append(await desk.vet(a_connect(), None))

    served(reply, body, seen)
    assert [verdict.reason for verdict in verdicts] == [" ".join(PUSH), "example.org"]
    assert seen[0].startswith(b"POST /ask?x=1 HTTP/1.0\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (OK, ""),
        (OK.replace(b"200 OK", b"500 no"), "the service answered 500 no"),
        (b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "the service answered 302"),
        (OK.replace(b" 20\r", b" 2000\r"), "cut off"),
        (OK.replace(b" 20\r", b" -1\r"), "no sane length"),
        (OK.replace(b" 20\r", b" 99999999\r"), "longer than"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b" " * LONGEST_ANSWER + b'{"verdict": "allow"}', "longer than"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "encoded"),
        (b"x" * 40000 + b"\r\n\r\n", "no HTTP"),
        (b"SSH-2.0\r\n\r\n", "no HTTP"),
        (b"HTTP/1.0 200 OK\r\n\r\nallow", "no JSON"),
        (b"", "no answer within"),
    ],
)
def test_a_service_that_does_not_answer_denies(reply: bytes, why: str) -> None:
    verdicts = []

    async def body(desk: Desk) -> None:
        verdicts.append(await desk.vet(an_exec(), None))

    served(reply, body, [], seconds=0.3 if reply == b"" else 20.0)
    if why:
        assert isinstance(verdicts[0], Deny)
        assert why in verdicts[0].reason
    else:
        assert isinstance(verdicts[0], Allow)


def test_a_service_that_is_not_there_denies() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        channel = HttpChannel(f"{SCHEME}127.0.0.1:{unused.getsockname()[1]}")
        reasons = []

        async def body(desk: Desk) -> None:
            reasons.append(await reason_of(desk))

        with_channel(channel, body)
    assert "the service cannot be reached" in reasons[0]


@pytest.mark.parametrize(
    "rest",
    [
        "192.0.2.1:80/",
        "example.org:80/",
        "127.0.0.1.example.org:80/",
        "user@127.0.0.1:80/",
        "127.0.0.1/",
        "127.0.0.1:0/",
        "127.0.0.1:99999/",
        "0.0.0.0:80/",
        "127.0.0.1:80/a b",
        "127.0.0.1:80/#x",
        "[::1%lo]:80/",
    ],
)
def test_only_services_of_this_machine(rest: str) -> None:
    with pytest.raises(PolicyError, match="ask: "):
        HttpChannel(f"{SCHEME}{rest}")


def test_no_other_scheme() -> None:
    for scheme in ("https", "file", "ftp"):
        with pytest.raises(PolicyError, match="plain HTTP"):
            HttpChannel(f"{scheme}{SCHEME[4:]}127.0.0.1:80/")


@pytest.mark.parametrize("rest", ["127.0.0.1:80", "localhost:80/x", "[::1]:80/", "127.9.9.9:1"])
def test_loopback_addresses(rest: str) -> None:
    HttpChannel(f"{SCHEME}{rest}")


# --- a unix socket --------------------


class Service:
    """A service of one connection at a time; the test plays it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = trio.socket.socket(socket.AF_UNIX)

    async def __aenter__(self) -> Service:
        await self._socket.bind(str(self.path))
        self._socket.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def accept(self) -> trio.SocketStream:
        connection, _ = await self._socket.accept()
        return trio.SocketStream(connection)


async def line_of(stream: trio.SocketStream) -> dict[str, object]:
    data = b""
    while not data.endswith(b"\n"):
        data += await stream.receive_some(1)
    return json.loads(data)  # type: ignore[no-any-return]


def test_a_unix_service_answers_and_hears_of_withdrawals(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk(timeout=20)
        with trio.fail_after(30):
            async with Service(tmp_path / "s") as service, trio.open_nursery() as nursery:
                channel = UnixChannel(str(tmp_path / "s"))
                nursery.start_soon(channel.serve, desk)
                async with await service.accept() as stream:
                    verdicts = []

                    async def ask(word: str) -> None:
                        verdicts.append(await desk.vet(an_exec(["git", word]), None))

                    while not desk.listeners:
                        await trio.sleep(0.001)
                    async with trio.open_nursery() as asking:
                        asking.start_soon(ask, "push")
                        message = await line_of(stream)
                        question = message["question"]
                        assert isinstance(question, dict)
                        assert question["argv"] == ["git", "push"]
                        await stream.send_all(
                            json.dumps({"question": question["id"], "answer": {"choice": "o"}}).encode() + b"\n"
                        )
                    assert verdicts == [Allow(by=channel.name)]
                    assert await line_of(stream) == {"withdrawn": question["id"]}
                    with trio.move_on_after(0.05):
                        await desk.vet(an_exec(), None)
                    second = (await line_of(stream))["question"]
                    assert isinstance(second, dict)
                    assert await line_of(stream) == {"withdrawn": second["id"]}
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"rubbish\n", "no JSON"),
        (b"{}\n", "no answer"),
        (b"x" * (LONGEST_ANSWER + 8193), "longer than"),
        (b"", "closed the connection"),
        (b'{"question": "q1", "answer": {"verdict": "yes"}}\n', "no answer"),
    ],
)
def test_a_unix_service_that_fails_denies_and_does_not_count(tmp_path: Path, line: bytes, why: str) -> None:
    async def main() -> None:
        desk, reasons = Desk(timeout=20), []
        with trio.fail_after(30):
            async with Service(tmp_path / "s") as service, trio.open_nursery() as nursery:
                nursery.start_soon(UnixChannel(str(tmp_path / "s")).serve, desk)
                stream = await service.accept()

                async def ask() -> None:
                    reasons.append(await reason_of(desk))

                while not desk.listeners:
                    await trio.sleep(0.001)
                async with trio.open_nursery() as asking:
                    asking.start_soon(ask)
                    await line_of(stream)
                    if line:
                        await stream.send_all(line)
                    else:
                        await stream.aclose()
                if b"verdict" not in line:
                    while desk.listeners:
                        await trio.sleep(0.001)
                    assert (await desk.vet(an_exec(), None)) == Deny(
                        "nobody was there to be asked", cause="nobody-listens"
                    )
                await stream.aclose()
                nursery.cancel_scope.cancel()
        assert why in reasons[0]

    trio.run(main)


def test_only_sockets_that_may_be_trusted(tmp_path: Path) -> None:
    place = tmp_path / "s"
    with pytest.raises(PolicyError, match="No such file"):
        UnixChannel(str(place))
    place.write_text("")
    with pytest.raises(PolicyError, match="no socket of this user's"):
        UnixChannel(str(place))
    place.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        channel = UnixChannel(str(place))
        channel.check([str(tmp_path / "elsewhere")])
        with pytest.raises(PolicyError, match="could answer its own questions"):
            channel.check([str(tmp_path)])
        (tmp_path / "link").symlink_to(place)
        with pytest.raises(PolicyError, match="no socket"):
            UnixChannel(str(tmp_path / "link"))
        assert stat.S_ISSOCK(place.lstat().st_mode)
        if os.geteuid() == 0:
            os.chown(place, 65500, 65500)
            with pytest.raises(PolicyError, match="no socket of this user's"):
                UnixChannel(str(place))


# --- several --------------------


@pytest.mark.slow
def test_the_first_answer_wins(tmp_path: Path) -> None:
    slow = program(tmp_path, "import time; time.sleep(60)")
    verdicts = []

    async def main() -> None:
        desk = Desk(timeout=20)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow.serve, desk)
                with desk.watching() as updates, desk.listening("page"):

                    async def ask() -> None:
                        verdicts.append(await desk.vet(an_exec(), None))

                    nursery.start_soon(ask)
                    update = await updates.receive()
                    assert desk.answer(update.question.id, {"verdict": "allow"}, "page")
                    assert not desk.answer(update.question.id, {"verdict": "deny"}, "late")
                    while not verdicts:
                        await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert verdicts == [Allow(by="page")]


@pytest.mark.parametrize("file", ["/bin/bash", "/usr/bin/dash", "/usr/bin/python3.11", "/usr/bin/env", "/bin/busybox"])
def test_a_shell_under_another_name_gets_no_prefix(file: str) -> None:
    """`git push` as the first words of a shell is a script of the program's own, and any further words."""
    honest = question_of(an_exec(), "q1", time=0.0, deadline=None)
    disguised = question_of(replace(an_exec(), exe=file, path=file), "q2", time=0.0, deadline=None)
    assert "p" in [each.key for each in honest.choices]
    assert "p" not in [each.key for each in disguised.choices]
