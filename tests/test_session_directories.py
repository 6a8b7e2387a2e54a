"""The directories of sessions: made safely, cleaned of what is dead and of nothing else; and the table of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from session_place import LIMIT, ours, run, session_place

from sandlock import SandlockError
from sandlock._record import replace
from sandlock.sessions import directory, places, process_table
from sandlock.sessions.client import connect
from sandlock.sessions.directory import find, own_identity, prune, sessions, start_time_of
from sandlock.sessions.ending import end_tree
from sandlock.sessions.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable


place = pytest.fixture(autouse=True)(session_place)
USUAL = places.FOR_ROOT


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

    with pytest.raises(
        SandlockError, match=r"open the directory .*/runtime/sandlock of sessions: .*(remove it|chmod 700)"
    ):
        run(main)
    with pytest.raises(SandlockError, match="of sessions"):
        sessions()


def test_where_sessions_of_root_are() -> None:
    assert USUAL == "/run"


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
    assert used.path == (f"{places.FOR_ROOT}/sandlock" if os.geteuid() == 0 else str(place / "state/sandlock/run"))


@pytest.mark.needs(root=True)
def test_a_directory_of_somebody_else_is_refused(place: Path) -> None:
    at = place / "runtime" / "sandlock"
    at.mkdir(mode=0o700)
    os.chown(at, 12345, 12345)
    with pytest.raises(SandlockError, match="belongs to user 12345"):
        directory.runtime_directory()
    os.chown(place / "runtime", 12345, 12345)
    assert places.runtime_places()[0].path == f"{places.FOR_ROOT}/sandlock"


def test_a_state_directory_that_others_may_use_is_refused_with_the_way_out(place: Path) -> None:
    runs = place / "state/sandlock/runs"
    assert directory.state_directory() == str(runs)
    for at, mode, others in ((place / "state", 0o777, "write to it"), (runs, 0o755, "look into it")):
        at.chmod(mode)
        with pytest.raises(SandlockError, match=f"others may {others} .mode {mode:04o}.; chmod 700 {at}$") as refused:
            directory.state_directory()
        subprocess.run(str(refused.value).partition("; ")[2].split(), check=True)
    assert directory.state_directory() == str(runs)


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
