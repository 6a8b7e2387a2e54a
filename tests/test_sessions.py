"""Sessions: what clients see of a run and can do with it, and that nobody is disturbed by what others do."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandlock import AsyncSandbox
from sandlock.sessions.client import connect
from sandlock.sessions.desk import Desk
from sandlock.sessions.directory import find, runs, sessions
from sandlock.sessions.session import open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sandlock import AsyncProcess
    from sandlock.sessions.session import Session


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime and a state directory of the test's own."""
    runtime, state = tmp_path / "runtime", tmp_path / "state"
    runtime.mkdir(mode=0o700)
    state.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


@asynccontextmanager
async def running(
    argv: list[str], name: str | None = None, **policy: Any
) -> AsyncIterator[tuple[Session, AsyncProcess]]:
    """A session with a command that runs in it."""
    desk = Desk()
    async with open_session(argv=argv, desk=desk, name=name) as session:
        fields = {"presets": ["system"]} | policy
        async with AsyncSandbox(policy_fn=desk.vet, audit=session.log, **fields) as box:
            async with box.start(argv) as process:
                session.follow(box, process)
                yield session, process


def test_state_and_record() -> None:
    async def main() -> Session:
        async with running(["sh", "-c", "cat"], "first") as (session, _):
            (entry,) = [each for each in sessions() if each.id == session.id]
            assert entry.alive
            assert (entry.pid, entry.name) == (os.getpid(), "first")
            assert find("first").id == find(session.id).id == find("last").id == session.id
            async with connect(entry) as client:
                state = (await client.request("state"))["state"]
                assert state["id"] == session.id
                assert state["argv"] == ["sh", "-c", "cat"]
        return session

    session = trio.run(main)
    assert not [each for each in sessions() if each.id == session.id]
    assert not os.path.exists(os.path.dirname(session.socket))
    kept = find(session.id)
    assert not kept.alive
    assert os.path.exists(kept.log)
    assert [each.id for each in runs()] == [session.id]


def test_a_question_is_answered_by_a_client() -> None:
    async def main() -> None:
        argv = ["sh", "-c", "sleep 0.3; ls /; exit 7"]
        async with running(argv, exec_allow=["sh *", "sleep *"], exec_ask=["ls *"]) as (session, process):
            seen = []
            async with connect(session.socket) as client:
                async for push in client.subscribe(answers=True, name="tester"):
                    seen.append(push["push"])
                    if push["push"] == "question":
                        reply = await client.request(
                            "answer", question=push["question"]["id"], answer={"verdict": "allow"}
                        )
                        assert reply["answered"] is True
                    if push["push"] == "answered":
                        assert push["by"] == "tester"
                        break
                assert seen[0] == "state"
            result = await process.wait()
            assert result.exit_code == 7
            assert not result.denials

    trio.run(main)


@pytest.mark.slow
def test_what_a_killed_host_left_is_swept() -> None:
    """The temporary directory of a run whose host is dead; not of one that lives, nor a home with something in it."""
    code = """
import os, sys, trio
from sandlock.sessions.session import open_session
async def main():
    async with open_session(argv=["x"], desk=None) as session:
        for place in ("tmp/closed", "home/.config"):
            os.makedirs(os.path.join(session.directory, place))
        open(session.directory + "/tmp/closed/file", "w").close()
        os.chmod(session.directory + "/tmp/closed", 0)
        if sys.argv[1] == "home":
            open(session.directory + "/home/.config/made", "w").close()
        print(session.directory, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""

    def start(what: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen([sys.executable, "-c", code, what], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    (living, alive), (first, empty), (second, full) = start("empty"), start("empty"), start("home")
    try:
        for process in (first, second):
            process.kill()
            process.wait()
        assert os.path.isdir(f"{empty}/tmp")
        assert [each.id for each in sessions()] == [os.path.basename(alive)]
        assert sorted(os.listdir(empty)) == ["session.json"]
        assert sorted(os.listdir(full)) == ["home", "session.json"]
        assert sorted(os.listdir(alive)) == ["home", "session.json", "tmp"]

        living.kill()
        living.wait()

        async def main() -> None:
            async with open_session(argv=["x"], desk=None):
                assert sorted(os.listdir(alive)) == ["session.json"]

        trio.run(main)
    finally:
        for process in (living, first, second):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
