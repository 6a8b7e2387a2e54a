"""Sessions: what clients see of a run and can do with it, and that nobody is disturbed by what others do."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from session_place import IDLE, ours, run, session_place

from sandlock import PIPE, AsyncSandbox, PolicyError, SandlockError, SandlockTimeout
from sandlock.sessions.client import connect
from sandlock.sessions.desk import Desk
from sandlock.sessions.directory import find, runs, sessions
from sandlock.sessions.session import open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandlock import AsyncProcess
    from sandlock.sessions.session import Session

place = pytest.fixture(autouse=True)(session_place)


@asynccontextmanager
async def running(
    argv: list[str], name: str | None = None, **policy: Any
) -> AsyncIterator[tuple[Session, AsyncProcess]]:
    """A session with a command that runs in it."""
    desk = Desk()
    fields: dict[str, Any] = {"presets": ["system"]} | policy
    async with (
        open_session(argv=argv, desk=desk, name=name) as session,
        AsyncSandbox(policy_fn=desk.vet, audit=session.log, **fields) as box,
        box.start(argv, stdin=PIPE) as process,
    ):
        session.follow(box, process)
        yield session, process


# --- what clients see and do --------------------


def test_state_and_record(place: Path) -> None:
    async def main() -> Session:
        async with running(IDLE, "first", exec_allow=["*"]) as (session, _):
            (entry,) = [each for each in sessions() if each.id == session.id]
            assert entry.alive
            assert (entry.pid, entry.name) == (os.getpid(), "first")
            assert find("first").id == find(session.id).id == find(session.id[:-1]).id == find("last").id == session.id
            async with connect(entry) as client:
                state = (await client.request("state"))["state"]
                assert state["id"] == session.id
                assert state["argv"] == IDLE
                assert (await client.request("policy"))["policy"].startswith("presets = ['system']")
        return session

    session = run(main)
    assert ours(place) == []
    kept = find(session.id)
    assert not kept.alive
    assert kept.ended is not None
    assert os.path.exists(kept.log)
    assert [each.id for each in runs()] == [session.id]
    for name in ("runtime/sandlock", "state/sandlock", "state/sandlock/runs", f"state/sandlock/runs/{session.id}"):
        assert stat.S_IMODE((place / name).stat().st_mode) == 0o700


def test_a_question_is_answered_by_a_client() -> None:
    async def main() -> None:
        argv = ["sh", "-c", "cat; ls /usr; exit 7"]
        async with running(argv, exec_allow=["sh *", "cat"], exec_ask=["ls *"]) as (session, process):
            seen = []
            async with connect(session.socket) as client:
                async for push in client.subscribe(answers=True, name="tester"):
                    seen.append(push["push"])
                    match push["push"]:
                        case "state":
                            assert push["state"]["listeners"] == ["tester"]
                            assert process.stdin is not None
                            await process.stdin.aclose()
                        case "question":
                            with pytest.raises(SandlockError, match="no answer"):
                                await client.request("answer", question=push["question"]["id"], answer={"x": 1})
                            reply = await client.request(
                                "answer", question=push["question"]["id"], answer={"verdict": "allow"}
                            )
                            assert reply["answered"] is True
                        case "answered":
                            assert push["by"] == "tester"
                        case "decision" if push["decision"]["argv"][:1] == ["ls"]:
                            assert push["decision"]["by"] == "tester"
                            break
            assert seen[0] == "state"
            result = await process.wait()
            assert result.exit_code == 7
            assert not result.denials

    run(main)


def test_who_leaves_cannot_answer_any_more() -> None:
    async def main() -> None:
        argv = ["sh", "-c", "cat; ls /usr"]
        async with running(argv, exec_allow=["sh *", "cat"], exec_ask=["ls *"]) as (session, process):
            assert process.stdin is not None
            async with connect(session.socket) as client:
                async for push in client.subscribe(answers=True):
                    if push["push"] == "state":
                        await process.stdin.aclose()
                    if push["push"] == "question":
                        break
            (denial,) = (await process.wait()).denials
            assert denial.cause == "nobody-listens"

    run(main)


@pytest.mark.parametrize("record_execs", [False, True])
def test_processes_and_decisions(record_execs: bool) -> None:
    async def main() -> None:
        argv = ["sh", "-c", "(sleep 1000; true) & /bin/true; ls /nowhere; cat"]
        policy = {"exec_allow": ["*"], "exec_deny": ["ls *"], "record_execs": record_execs}
        async with running(argv, **policy) as (session, process):
            async with connect(session.socket) as client, connect(session.socket) as other:
                async for push in client.subscribe():
                    seen = push.get("state", push).get("processes", ())  # the first ones may be in the state already
                    rows = [each for each in seen if each["ended"] is None and each["ppid"]]
                    living = {each["argv"][0]: each for each in rows}
                    if {"sh", "sleep", "cat"} <= living.keys():
                        break
                assert living["cat"]["ppid"] == process.pid
                assert living["sleep"]["started"] == pytest.approx(time.time(), abs=5)
                state = (await client.request("state"))["state"]
                while state["counts"].get("exec:allow") != 4 or not state["denials"]:  # the log comes a moment later
                    await trio.sleep(0.02)
                    state = (await client.request("state"))["state"]
                assert {each["target"] for each in state["denials"]} == {"/usr/bin/ls"}
                assert state["counts"]["exec:deny"] == len(state["denials"])
                pushes = other.subscribe()
                assert (await anext(pushes))["push"] == "state"
                assert process.stdin is not None
                await process.stdin.aclose()
                result = await process.wait()
                await session.finish(result)
                last = [push async for push in _until_end(pushes)]
                assert last[-1]["result"]["exit_code"] == result.exit_code
                (processes,) = [push["processes"] for push in last if push["push"] == "processes"][-1:]
                assert all(each["ended"] is not None for each in processes)
        assert (find(session.id).result or {})["exit_code"] == result.exit_code

    run(main)


async def _until_end(pushes: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    async for push in pushes:
        yield push
        if push["push"] == "end":
            return


def test_pause_resume_kill() -> None:
    async def main() -> None:
        async with running(IDLE, exec_allow=["*"]) as (session, process), connect(session.socket) as client:
            for _ in range(2):
                await client.request("pause")
                assert process.paused
                assert (await client.request("state"))["state"]["paused"] is True
            await client.request("resume")
            assert not process.paused
            await client.request("kill")
            result = await process.wait()
            assert result.reason == "killed"
            await session.finish(result)
            for op in ("kill", "pause", "resume"):
                with pytest.raises(SandlockError, match="has ended"):
                    await client.request(op)

    run(main)


def test_who_looks_on_sees_that_another_has_paused_it() -> None:
    async def main() -> None:
        async with (
            running(IDLE, exec_allow=["*"]) as (session, _),
            connect(session.socket) as one,
            connect(session.socket) as other,
        ):
            pushes = other.subscribe(name="looks on")
            assert (await anext(pushes))["state"]["paused"] is False
            for op, paused in (("pause", True), ("resume", False)):
                await one.request(op)
                while (push := await anext(pushes))["push"] != "state":
                    pass
                assert push["state"]["paused"] is paused
            await pushes.aclose()  # type: ignore[attr-defined]

    run(main)


def test_what_the_block_raises_is_not_wrapped(place: Path) -> None:
    async def main() -> None:
        async with open_session(argv=["x"], desk=None):
            assert len(ours(place)) == 1
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main)
    assert ours(place) == []


def test_names_are_unique_among_the_living() -> None:
    async def main() -> None:
        async with open_session(argv=["x"], desk=None, name="one"):
            with pytest.raises(PolicyError, match="one lives already"):
                async with open_session(argv=["y"], desk=None, name="one"):
                    pass
            async with open_session(argv=["y"], desk=None), open_session(argv=["y"], desk=None):
                pass
        async with open_session(argv=["x"], desk=None, name="one") as again:
            assert find("one").id == again.id
        for bad in ("../x", "a b", "1x", "last", "x" * 65, "\x1b[1m", "a.jsonl"):
            with pytest.raises(PolicyError, match="no name"):
                async with open_session(argv=["x"], desk=None, name=bad):
                    pass

    run(main)


# --- clients that behave badly --------------------


def raw(session: Session) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(session.socket)
    return client


def test_rubbish_disturbs_nobody() -> None:
    async def main() -> None:
        async with running(IDLE, exec_allow=["*"]) as (session, _), connect(session.socket) as client:
            bad = [raw(session) for _ in range(4)]
            bad[0].sendall(b"\xff\xfe rubbish\n[1]\n{}\n" + b'{"op": 5, "n": 1e400}\n{"op": "nothing", "n": 3}\n')
            bad[1].sendall(b"[" * 100_000 + b"\n")
            with pytest.raises((BrokenPipeError, ConnectionResetError, socket.timeout)):
                bad[2].settimeout(5)
                for _ in range(64):
                    await trio.to_thread.run_sync(bad[2].sendall, b"x" * 2**17)
                    await trio.sleep(0.01)
            bad[3].shutdown(socket.SHUT_RDWR)
            assert (await client.request("state"))["ok"]
            bad[0].settimeout(5)
            answers = b""
            while answers.count(b"\n") < 5:
                answers += await trio.to_thread.run_sync(bad[0].recv, 65536)
            replies = [json.loads(line) for line in answers.splitlines()]
            assert [each["ok"] for each in replies] == [False] * 5
            assert replies[-1]["n"] == 3
            for each in bad:
                each.close()
            assert (await client.request("state"))["ok"]

    run(main)


def test_who_does_not_read_is_told_what_was_missed() -> None:
    async def main() -> None:
        async with open_session(argv=["x"], desk=None) as session:
            lazy = raw(session)
            lazy.sendall(b'{"op": "subscribe", "n": 1}\n')
            async with connect(session.socket) as client:
                pushes = client.subscribe()
                assert (await anext(pushes))["push"] == "state"
                for number in range(5000):
                    session._server.push({"push": "decision", "decision": {"number": number, "text": "x" * 3000}})
                    if number % 20 == 0:
                        await trio.lowlevel.checkpoint()
                        while (await anext(pushes))["decision"]["number"] < number:
                            pass
                (outbox,) = [each for each in session._server._subscribers if each.missed]
                assert outbox._size <= 4 * 2**20
                lazy.settimeout(5)
                file = lazy.makefile("rb")
                missed = got = 0
                while missed + got < 5000:
                    line = json.loads(await trio.to_thread.run_sync(file.readline))
                    missed += line["count"] if line.get("push") == "missed" else 0
                    got += line.get("push") == "decision"
                assert missed > 1000
                assert got > 100
            lazy.close()

    run(main)


def test_at_most_64_clients() -> None:
    async def main() -> None:
        async with open_session(argv=["x"], desk=None) as session:
            clients = [raw(session) for _ in range(64)]
            for each in clients:
                each.sendall(b'{"op": "policy", "n": 1}\n')
                each.settimeout(5)
                await trio.to_thread.run_sync(each.recv, 1000)
            async with connect(session.socket) as client:
                with pytest.raises(SandlockError, match="64 clients"):
                    await client.request("state")
            clients.pop().close()
            await trio.sleep(0.05)
            async with connect(session.socket) as client:
                assert (await client.request("state"))["ok"]
            for each in clients:
                each.close()

    run(main)


def test_a_host_that_does_not_answer() -> None:
    async def main() -> None:
        async with open_session(argv=["x"], desk=None) as session:
            with socket.socket(socket.AF_UNIX) as deaf:
                path = os.path.join(session.directory, "deaf")
                deaf.bind(path)
                deaf.listen(1)
                async with connect(path) as client:
                    with pytest.raises(SandlockTimeout):
                        await client.request("state", timeout=0.05)

    run(main)


# --- from inside --------------------

INSIDE = """
import os, socket, sys
runtime, state, door = sys.argv[1:4]
for act in (
    lambda: socket.socket(socket.AF_UNIX).connect(door),
    lambda: os.listdir(runtime),
    lambda: os.listdir(state),
    lambda: open(os.path.join(state, "log.jsonl")).read(),
    lambda: open(os.path.join(runtime, "new"), "w"),
    lambda: os.rename(runtime, runtime + "x"),
    lambda: os.unlink(door),
):
    try:
        act()
        print("done")
    except OSError as error:
        print("refused")
"""


def test_the_sandbox_cannot_reach_its_session(place: Path) -> None:
    def acts(session: Session) -> list[str]:
        return [sys.executable, "-c", INSIDE, os.path.dirname(session.socket), session.directory, session.socket]

    async def inside() -> list[str]:
        desk = Desk()
        async with open_session(argv=["x"], desk=desk) as session:
            policy = {"presets": ["system", "python"], "fs_writable": [str(place / "work")], "net_allow": ["*"]}
            async with AsyncSandbox(audit=session.log, **policy) as box:  # type: ignore[arg-type]
                return (await box.run(acts(session))).check().stdout_text.split()

    async def outside() -> list[str]:
        async with open_session(argv=["x"], desk=None) as session:
            Path(session.log).touch()
            done = await trio.run_process(acts(session), capture_stdout=True)
            return done.stdout.decode().split()

    (place / "work").mkdir()
    assert run(inside) == ["refused"] * 7
    assert run(outside) == ["done"] * 6 + ["refused"]  # the control; it was renamed before


def test_a_granted_socket_still_refuses_who_is_inside(place: Path) -> None:
    """Also where a policy grants it by mistake: the session does not talk to its own tree."""
    code = (
        "import socket, sys\n"
        "input()\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\n"
        "print(s.recv(1000).decode(), flush=True)\n"
        "input()"
    )

    async def main() -> str:
        async with open_session(argv=["x"], desk=None) as session:
            command = [sys.executable, "-c", code, session.socket]
            policy: dict[str, Any] = {"presets": ["system", "python"], "net_allow": ["unix:" + session.socket]}
            async with AsyncSandbox(audit=session.log, fs_writable=[os.path.dirname(session.socket)], **policy) as box:
                async with box.start(command, stdin=PIPE) as process:
                    session.follow(box, process)
                    assert process.stdin is not None
                    assert process.stdout is not None
                    await process.stdin.send_all(b"\n")
                    return (await process.stdout.receive_some(1000)).decode()

    assert "not from inside its sandbox" in run(main)


def test_who_is_gone_is_not_talked_to(place: Path) -> None:
    """Of a process that has ended nobody can say whether it was inside; its connection may still live."""

    async def main() -> str:
        async with open_session(argv=["x"], desk=None) as session:
            with socket.socket(socket.AF_UNIX) as door:
                pid = os.fork()
                if pid == 0:
                    door.connect(session.socket)
                    os._exit(0)
                os.waitpid(pid, 0)  # before the session has looked: its loop is ours
                door.sendall(b'{"op": "policy", "n": 1}\n')
                door.settimeout(5)
                return (await trio.to_thread.run_sync(door.recv, 1000)).decode()

    assert "is gone" in run(main)
