"""Pausing a tree: from outside nothing of it moves any more, nothing else is touched, and it goes on as it was.

What a program does is counted in files: whoever is stopped writes nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from sandlock import PIPE, Allow, AsyncSandbox, Sandbox, SandlockError
from sandlock._pausing import running_below

POLICIES: dict[str, dict[str, Any]] = {
    "plain": {"disable": ["fs-metadata"]},
    "supervised": {},
    "counted": {"max_processes": 200},
    "vetted": {"exec_ask": ["nothing *"], "exec_allow": ["sh *", "setsid *", "true"]},
    "unscoped": {"disable": ["signal-scope"]},
}
# A loop of the shell's own, one in a session of its own, and one that forks.
THREE = (
    "setsid sh -c 'while :; do echo x >> a; done' & "
    "(while :; do /bin/true; echo x >> b; done) & "
    "while :; do echo x >> c; done"
)
STORM = "storm() { echo x >> a; storm & storm & echo x >> b; wait; }; while :; do storm; done"
CONTINUING = """
import os, signal
for _ in range(6):
    if os.fork() == 0:
        break
file = os.open(f"{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    os.write(file, b"x")
    os.kill(0, signal.SIGCONT)
"""
THREADS = """
import threading
def count(name):
    file = open(name, "a", buffering=1)
    while True:
        file.write("x\\n")
for name in "abc":
    threading.Thread(target=count, args=(name,)).start()
"""
LIMIT = 20.0


@pytest.fixture
def witness() -> Iterator[Callable[[], bool]]:
    """Another process of this user: whether it is running, as it was."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield lambda: state_of(process.pid) == "S"
        process.kill()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def counts(place: Path) -> dict[str, int]:
    return {each.name: each.stat().st_size for each in place.iterdir()}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def moved(place: Path, names: str) -> Callable[[], bool]:
    """Whether each of these files has grown since now."""
    before = counts(place)
    return lambda: all(counts(place).get(name, 0) > before.get(name, 0) for name in names)


def is_still(place: Path) -> bool:
    before = counts(place)
    time.sleep(0.1)
    return counts(place) == before


def box(place: Path, **more: Any) -> Sandbox:
    return Sandbox(presets=["system", "python"], fs_writable=[str(place)], cwd=str(place), **more)


# --- what is stopped --------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("age", [0.0, 0.15])  # the warden watches first, then the init
def test_nothing_moves_until_it_is_resumed(
    policy: str, age: float, tmp_path: Path, witness: Callable[[], bool]
) -> None:
    with box(tmp_path, **POLICIES[policy]) as sandbox, sandbox.start(["sh", "-c", THREE]) as process:
        wait_for(moved(tmp_path, "abc"))
        time.sleep(age)
        assert not process.paused
        for _ in range(2):
            process.pause()
            assert process.paused
            assert is_still(tmp_path)
            assert witness()
            assert state_of(process._execution.run.init_pid) in ("S", "R", "D")
            process.pause()  # twice is as good as once
            assert is_still(tmp_path)
            process.resume()
            assert not process.paused
            wait_for(moved(tmp_path, "abc"))  # the control: these files do grow
        process.resume()  # so is this
        wait_for(moved(tmp_path, "abc"))


@pytest.mark.parametrize("policy", ["supervised", "counted", "vetted", "unscoped"])
def test_a_fork_storm_stops(policy: str, tmp_path: Path, witness: Callable[[], bool]) -> None:
    more = {"max_processes": 150} | POLICIES[policy]
    with box(tmp_path, **more) as sandbox, sandbox.start(["sh", "-c", STORM], stderr=None) as process:
        for _ in range(3):
            wait_for(moved(tmp_path, "a"))
            process.pause()
            assert is_still(tmp_path)
            assert not running_below(process._execution.run.init_pid)
            assert witness()
            process.resume()
        process.pause()
        begin = time.monotonic()
        process.kill()  # works on what is stopped
        assert process.wait().reason == "killed"
        assert time.monotonic() - begin < 5


def test_those_that_continue_each_other_stop(tmp_path: Path) -> None:
    with box(tmp_path) as sandbox, sandbox.start([sys.executable, "-c", CONTINUING]) as process:
        wait_for(lambda: len(counts(tmp_path)) == 7 and all(counts(tmp_path).values()))
        for _ in range(10):
            process.pause()
            assert is_still(tmp_path)
            process.resume()
            wait_for(moved(tmp_path, ""))


def test_threads_stop(tmp_path: Path) -> None:
    with box(tmp_path) as sandbox, sandbox.start([sys.executable, "-c", THREADS]) as process:
        wait_for(moved(tmp_path, "abc"))
        process.pause()
        assert is_still(tmp_path)
        process.resume()
        wait_for(moved(tmp_path, "abc"))


def test_what_was_stopped_before_goes_on_with_the_rest(tmp_path: Path) -> None:
    command = "sh -c 'while :; do echo x >> a; done' & while ! [ -s a ]; do :; done; kill -STOP $!; echo; wait"
    with box(tmp_path) as sandbox, sandbox.start(["sh", "-c", command]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_for(lambda: is_still(tmp_path))
        process.pause()
        process.resume()
        wait_for(moved(tmp_path, "a"))


# --- while it is paused --------------------


def test_the_time_limit_goes_on(tmp_path: Path) -> None:
    with box(tmp_path) as sandbox, sandbox.start(["sh", "-c", THREE], timeout=0.5) as process:
        process.pause()
        result = process.wait()
    assert result.timed_out
    assert 0.4 < result.duration < 3


def test_leaving_ends_it(tmp_path: Path) -> None:
    with box(tmp_path) as sandbox, sandbox.start(["sh", "-c", THREE]) as process:
        wait_for(moved(tmp_path, "abc"))
        process.pause()
        init = process._execution.run.init_pid
    assert not os.path.exists(f"/proc/{init}")
    assert is_still(tmp_path)


def test_the_death_of_the_host_ends_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, sandlock\n"
        "with sandlock.Sandbox(presets=['system'], fs_writable=[sys.argv[1]], cwd=sys.argv[1]) as box:\n"
        "    with box.start(['sh', '-c', sys.argv[2]]) as process:\n"
        "        process.pause()\n"
        "        print(process._execution.run.init_pid, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, THREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        init = int(host.stdout.readline())
        assert running_below(init) == []
        assert os.path.exists(f"/proc/{init}/task/{init}/children")
        host.kill()
        host.wait()
        wait_for(lambda: not os.path.exists(f"/proc/{init}"))


def test_what_has_ended_is_not_paused(tmp_path: Path) -> None:
    with box(tmp_path) as sandbox, sandbox.start(["true"]) as process:
        process.wait()
        for act in (process.pause, process.resume):
            with pytest.raises(SandlockError, match="it has ended"):
                act()
        assert not process.paused


# --- async --------------------


def test_a_question_that_waits_is_answered_and_nothing_runs(tmp_path: Path) -> None:
    async def main() -> None:
        asked, answer = trio.Event(), trio.Event()

        async def vet(event: Any, _: object) -> Allow:
            if event.argv[0] == "touch":
                asked.set()
                await answer.wait()
            return Allow()

        async with AsyncSandbox(
            presets=["system"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=vet
        ) as sandbox:
            with trio.fail_after(LIMIT):
                async with sandbox.start(["sh", "-c", "touch made; touch made2; exit 5"]) as process:
                    await asked.wait()
                    await process.pause()
                    answer.set()
                    await trio.sleep(0.15)
                    assert process.paused
                    assert not counts(tmp_path)  # it was allowed to be executed, and did not come to anything
                    await process.resume()
                    assert (await process.wait()).exit_code == 5
                    assert set(counts(tmp_path)) == {"made", "made2"}

    trio.run(main)


def test_often_while_programs_are_vetted(tmp_path: Path) -> None:
    """The supervisor's helpers are in the domain too: they must go on, whatever they are at."""

    async def vet(_event: object, _box: object) -> Allow:
        return Allow()

    command = (
        "i=0; while [ $i -lt 150 ]; do /bin/true; cat /dev/null < /dev/null > file$((i % 9)); i=$((i + 1)); "
        "done; exit 9"
    )

    async def main() -> int:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=vet, max_processes=50
        ) as sandbox:
            with trio.fail_after(60):
                async with sandbox.start(["sh", "-c", command]) as process:
                    times = 0
                    async with trio.open_nursery() as nursery:

                        async def wait() -> None:
                            assert (await process.wait()).exit_code == 9
                            nursery.cancel_scope.cancel()

                        nursery.start_soon(wait)
                        while True:
                            try:
                                await process.pause()
                                # who is let out of a call, or by its tracer, is on the way to its stop for a moment
                                with trio.fail_after(0.3):
                                    while running_below(process.init_pid):
                                        await trio.sleep(0.001)
                                await process.resume()
                            except SandlockError as error:
                                assert "it has ended" in str(error)
                                await trio.sleep_forever()
                            times += 1
                            await trio.sleep(0.003)
        return times

    assert trio.run(main) > 10


@pytest.mark.usefixtures("lasting_thread")
def test_from_asyncio_while_another_task_waits(tmp_path: Path) -> None:
    async def main() -> None:
        sandbox = AsyncSandbox(presets=["system"], fs_writable=[str(tmp_path)], cwd=str(tmp_path))
        async with sandbox, sandbox.start(["sh", "-c", THREE]) as process:
            waiting = asyncio.create_task(process.wait())
            await asyncio.to_thread(wait_for, moved(tmp_path, "abc"))
            await asyncio.wait_for(process.pause(), LIMIT)
            assert await asyncio.to_thread(is_still, tmp_path)
            await process.resume()
            await asyncio.to_thread(wait_for, moved(tmp_path, "abc"))
            await process.pause()
            process.kill()
            assert (await asyncio.wait_for(waiting, LIMIT)).reason == "killed"
            with pytest.raises(SandlockError, match="it has ended"):
                await process.resume()

    asyncio.run(main())


def test_programs_so_far(tmp_path: Path) -> None:
    with box(tmp_path, record_execs=True) as sandbox:
        with sandbox.start(["sh", "-c", "/bin/true; echo; cat"], stdin=PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait_for(lambda: len(process.execs or ()) == 3)
            shell, true, cat = process.execs or ()
            assert (true.exe, true.exit_code, true.parent_pid) == ("/usr/bin/true", 0, shell.pid)
            assert (cat.ended, shell.ended) == (None, None)
    with box(tmp_path) as sandbox, sandbox.start(["true"]) as process:
        assert process.execs is None
