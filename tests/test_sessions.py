"""Sessions: what clients see of a run and can do with it, and that nobody is disturbed by what others do."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandlock import PIPE, AsyncSandbox, PolicyError, SandlockError, SandlockTimeout
from sandlock._record import replace
from sandlock.sessions import directory, places, process_table
from sandlock.sessions.client import connect
from sandlock.sessions.desk import Desk
from sandlock.sessions.directory import find, own_identity, prune, runs, sessions, start_time_of
from sandlock.sessions.ending import end_tree
from sandlock.sessions.session import open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sandlock import AsyncProcess
    from sandlock.sessions.session import Session

LIMIT = 20.0
IDLE = ["sh", "-c", "echo; cat"]


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime and a state directory of the test's own; with short names, for sockets that are opened by path."""
    with tempfile.TemporaryDirectory() as made:
        for name, variable in (("runtime", "XDG_RUNTIME_DIR"), ("state", "XDG_STATE_HOME")):
            Path(made, name).mkdir(mode=0o700)
            monkeypatch.setenv(variable, os.path.join(made, name))
        yield Path(made)


def run(main: Callable[[], Any]) -> Any:
    async def within() -> Any:
        with trio.fail_after(LIMIT):
            return await main()

    return trio.run(within)


def ours(place: Path) -> list[str]:
    """The entries in the runtime directory."""
    return sorted(name for name in os.listdir(place / "runtime" / "sandlock") if name != ".lock")


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
                    rows = [each for each in push.get("processes", ()) if each["ended"] is None and each["ppid"]]
                    living = {each["argv"][0]: each for each in rows}
                    if {"sh", "sleep", "cat"} <= living.keys():
                        break
                assert living["cat"]["ppid"] == process.pid
                assert living["sleep"]["started"] == pytest.approx(time.time(), abs=5)
                state = (await client.request("state"))["state"]
                assert {each["target"] for each in state["denials"]} == {"/usr/bin/ls"}
                assert state["counts"]["exec:deny"] == len(state["denials"])
                assert state["counts"]["exec:allow"] == 4
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


# --- directories --------------------


@pytest.mark.parametrize("how", ["link", "open to others", "file"])
def test_a_bad_runtime_directory_is_refused(how: str, place: Path) -> None:
    at = place / "runtime" / "sandlock"
    if how == "link":
        (place / "elsewhere").mkdir(mode=0o700)
        at.symlink_to(place / "elsewhere")
    elif how == "file":
        at.touch()
    else:
        at.mkdir()
        at.chmod(0o755)

    async def main() -> None:
        async with open_session(argv=["x"], desk=None):
            pass

    with pytest.raises(SandlockError, match=r"open the directory .*/runtime/sandlock of sessions: .*remove it"):
        run(main)
    with pytest.raises(SandlockError, match="of sessions"):
        sessions()


@pytest.mark.parametrize("how", ["link", "others", "missing", "relative"])
def test_a_runtime_base_that_is_not_ours_alone_is_not_used(
    how: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = place / "runtime"
    if how == "link":
        (place / "link").symlink_to(base)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "link"))
    elif how == "others":
        base.chmod(0o770)
    elif how == "missing":
        base.rmdir()
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "runtime")
    used = places.runtime_places()[0]
    assert used.path == ("/run/sandlock" if os.geteuid() == 0 else str(place / "state/sandlock/run"))


@pytest.mark.needs(root=True)
def test_a_directory_of_somebody_else_is_refused(place: Path) -> None:
    at = place / "runtime" / "sandlock"
    at.mkdir(mode=0o700)
    os.chown(at, 12345, 12345)
    with pytest.raises(SandlockError, match="belongs to user 12345"):
        directory.runtime_directory()
    os.chown(place / "runtime", 12345, 12345)
    assert places.runtime_places()[0].path == "/run/sandlock"


def test_a_state_directory_that_others_may_write_is_refused(place: Path) -> None:
    (place / "state").chmod(0o777)
    with pytest.raises(SandlockError, match="others may use it"):
        directory.state_directory()
    (place / "state").chmod(0o700)
    assert directory.state_directory() == str(place / "state/sandlock/runs")


# --- the dead --------------------

HOST = """
import sys, trio
from sandlock import AsyncSandbox
from sandlock.sessions.session import open_session

async def main():
    argv = ["sh", "-c", sys.argv[1]]
    async with open_session(argv=argv, desk=None, name="hosted") as session:
        async with AsyncSandbox(presets=["system"], audit=session.log) as box:
            async with box.start(argv) as process:
                session.follow(box, process)
                await trio.sleep(0.3)
                print(process.pid, process.init_pid, flush=True)
                await process.wait()
                print("over", flush=True)
                await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture
def host() -> Any:
    """A process that hosts a session: it, the program's and the init's number."""
    command = "setsid sleep 1000 & sleep 1000"
    with subprocess.Popen([sys.executable, "-c", HOST, command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        numbers = [int(word) for word in process.stdout.readline().split()]
        yield process, numbers[0], numbers[1]
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_host_leaves_nothing_that_the_next_look_does_not_clean_up(host: Any, place: Path) -> None:
    process, pid, init = host
    record = find("hosted")
    assert (record.pid, record.tree and record.tree.pid) == (process.pid, init)
    process.kill()
    process.wait()
    wait_until(lambda: start_time_of(pid) < 0 and start_time_of(init) < 0)
    assert ours(place) == [record.id]
    assert sessions(clean_up=False) == []
    assert ours(place) == [record.id]
    assert sessions() == []
    assert ours(place) == []
    assert not find("hosted").alive
    with pytest.raises(SandlockError, match="has ended"):
        run(lambda: connect(find("hosted")).__aenter__())


def test_a_deaf_host_is_spared_and_its_tree_ended(host: Any) -> None:
    process, pid, _ = host
    record = find("hosted")
    process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGSTOP)
    assert end_tree(record)
    assert start_time_of(pid) < 0
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "over\n"  # it lives, and knows
    assert not end_tree(record)


def test_numbers_that_are_used_again_are_not_taken_for_the_same(host: Any) -> None:
    record = find("hosted")
    with subprocess.Popen(["sleep", "1000"]) as other:
        now = replace(own_identity(), pid=other.pid, start_time=start_time_of(other.pid))
        assert now.is_alive
        earlier = replace(now, start_time=now.start_time - 1)
        assert earlier.is_dead
        assert not end_tree(replace(record, tree=earlier))
        assert other.poll() is None
        assert end_tree(replace(record, tree=record.tree))  # the control
        other.kill()
    assert replace(own_identity(), boot_id="another").is_dead == bool(own_identity().machine)
    elsewhere = replace(own_identity(), boot_id="another", machine="another")
    assert not elsewhere.is_alive
    assert not elsewhere.is_dead
    contained = replace(own_identity(), pid_namespace=1)
    assert not contained.is_alive
    assert not contained.is_dead


def test_what_is_only_just_being_made_stays(place: Path) -> None:
    made = directory.runtime_directory()
    own = own_identity()
    os.mkdir(f"{made}/.new-{own.pid}-{own.start_time}-x")
    os.mkdir(f"{made}/.new-{own.pid}-{own.start_time - 1}-y")
    os.mkdir(f"{made}/20200101-000000-0000")  # without a record: nobody knows whose it is
    sessions()
    assert ours(place) == [f".new-{own.pid}-{own.start_time}-x", "20200101-000000-0000"]


def test_old_records_are_removed_but_for_those_that_live(place: Path) -> None:
    async def main() -> str:
        async with open_session(argv=["x"], desk=None) as session:
            top = os.path.dirname(session.directory)
            for number in range(60):
                os.mkdir(f"{top}/2999{number:04}-000000-0000")
            Path(top, "29990007-000000-0000", "log.jsonl").touch()
            for number in range(60):
                old = time.time() - 100_000
                os.utime(f"{top}/2999{number:04}-000000-0000", (old, old))
            await trio.to_thread.run_sync(prune)
            return session.id

    living = run(main)
    top = place / "state/sandlock/runs"
    kept = sorted(os.listdir(top))
    assert len(kept) == 50
    assert kept[0] == "29990010-000000-0000"
    assert living not in kept  # it had ended when it was left; the oldest of all

    async def again() -> None:
        async with open_session(argv=["x"], desk=None) as session:
            await trio.to_thread.run_sync(prune)
            assert session.id in os.listdir(top)

    run(again)


def test_names_that_are_hard_to_find() -> None:
    async def main() -> None:
        async with open_session(argv=["x"], desk=None), open_session(argv=["y"], desk=None):
            with pytest.raises(SandlockError, match=r"[0-9]+ runs begin so"):
                find("20")
        for text in ("", "nothing", "\x1b[31m"):
            with pytest.raises(SandlockError, match="no such run") as caught:
                find(text)
            assert "\x1b" not in str(caught.value)

    run(main)
    assert directory.log_of("some.jsonl") == "some.jsonl"


# --- the process table --------------------


def test_the_table_is_bounded() -> None:
    table = process_table.ProcessTable()
    for pid in range(2, 6002):
        table.executed({"pid": pid, "time": float(pid), "exe": "/x", "argv": ["x" * 10_000, "y"]})
        if pid % 2:
            table.learn({}, (pid,), float(pid))
    rows = table.to_list()
    assert len(rows) == 5000
    assert rows[0]["pid"] == 2
    assert rows[1]["pid"] == 4  # of those that have ended, the oldest went first
    assert all(len(str(row["argv"])) < 600 for row in rows)
    table.executed({"pid": "x", "time": None, "argv": 7})
    assert len(table.to_list()) == 5000


def test_a_number_that_comes_again_is_another_process() -> None:
    table = process_table.ProcessTable()
    facts = process_table.Facts(start_time=5, ppid=1)
    table.executed({"pid": 9, "time": 1.0, "exe": "/a", "argv": ["a"]})
    table.learn({9: facts}, (9,), 2.0)
    table.executed({"pid": 9, "time": 3.0, "exe": "/b", "argv": ["b"]})  # the same process executes another program
    table.learn({9: facts}, (9,), 4.0)
    assert [(row["exe"], row["started"], row["ended"]) for row in table.to_list()] == [("/b", 1.0, None)]
    table.learn({9: replace(facts, start_time=6)}, (9,), 5.0)
    assert [row["ended"] for row in table.to_list()] == [5.0, None]
