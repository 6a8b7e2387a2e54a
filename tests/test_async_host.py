"""The host process of async sandboxes: forks, exits, Ctrl-C, and what is imported when. Judged from outside."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import ordinary
import pytest
import trio
from loops import LOOPS, Loop, wait_alive

from sandlock import PIPE, AsyncSandbox

pytestmark = [pytest.mark.needs(landlock=6), pytest.mark.usefixtures("lasting_thread")]
numbers = itertools.count(1)


@pytest.fixture
def mark() -> Iterator[str]:
    """An argument for sleep(1) that nobody else uses. After the test no such program may be left."""
    word = f"{os.getpid()}.1{next(numbers):05}"
    yield word
    assert wait_alive(word, 0, 1.0) == []


def script(text: str, mark: str) -> subprocess.CompletedProcess[bytes]:
    """A host of its own, that has to end within 30 s."""
    return subprocess.run(
        [sys.executable, "-c", text],
        env=os.environ | {"MARK": mark},
        capture_output=True,
        timeout=30,
        check=False,
    )


# ---- imports


def test_trio_is_imported_by_the_first_use_only() -> None:
    script = """
import json, sys, sandlock
first = [name for name in ("trio", "asyncio", "typing", "threading", "sandlock._async") if name in sys.modules]
sandlock.AsyncSandbox, sandlock.AsyncProcess
print(json.dumps([first, "trio" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == [[], True]


USE = """
import asyncio, sandlock, trio

async def main():
    async with sandlock.AsyncSandbox(presets=["system"], max_processes=5) as box:
        async with box.start(["cat"], stdin=sandlock.PIPE) as process:
            await process.stdin.send_all(b"word")
            print((await process.stdout.receive_some()).decode())
        result = await box.run(["sh", "-c", "sleep 60 & cat /etc/shadow /proc/1/environ; kill -9 1"], timeout=5)
        print(result.exit_code, result.stdout)

trio.run(main)
asyncio.run(main())
"""


@pytest.mark.slow
def test_as_every_user(as_user: ordinary.Person) -> None:
    assert as_user.script(USE) == "word\n1 b''\n" * 2


# ---- fork


def in_child(body: Callable[[], object]) -> str:
    """What `body` gives, or the error it raises, in a fork of this process, which must end within 10 s."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(10)
            try:
                said = repr(body())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child hangs"
    return said


def test_a_fork_cannot_use_it(loop: Loop) -> None:
    sandbox = AsyncSandbox(presets=["system"])

    async def use() -> None:
        async with sandbox:
            await sandbox.run(["true"])

    async def start() -> None:
        async with sandbox.start(["true"]):
            pass

    loop.run(use)
    for body in (use, start):
        said = in_child(functools.partial(loop.run, body))
        assert said.startswith("SandlockError: this sandbox belongs to the process that made it"), said
    loop.run(use)


def test_a_fork_makes_a_new_one(loop: Loop) -> None:
    async def use() -> bytes:
        async with AsyncSandbox(presets=["system"]) as sandbox:
            return (await sandbox.run(["echo", "new"])).stdout

    assert loop.run(use) == b"new\n"
    assert in_child(lambda: loop.run(use)) == r"b'new\n'"


def test_a_fork_leaves_the_tree_alone(loop: Loop, mark: str) -> None:
    """It has copies of our descriptors; what it tries with them does not touch what the parent runs."""
    another = next(each for each in LOOPS if each is not loop)  # ours is in use, in the child too

    async def main() -> None:
        async with (
            AsyncSandbox(presets=["system"]) as sandbox,
            sandbox.start(["sleep", mark], stdin=PIPE) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            stdin, stdout = process.stdin, process.stdout

            def other(body: Callable[[], object]) -> str:
                async def run() -> None:
                    await body()  # type: ignore[misc]

                return in_child(lambda: another.run(run))

            said = [
                in_child(process.kill),
                other(process.wait),
                other(lambda: stdin.send_all(b"x")),
                other(stdout.receive_some),
                other(sandbox.aclose),
            ]
            assert all(text.startswith("SandlockError: this sandbox belongs") for text in said), said
            await loop.sleep(0.1)
            assert len(wait_alive(mark, 1)) == 1
            process.kill()
            assert (await process.wait()).reason == "killed"

    loop.run(main)


FORKS = """
import os, signal, sys, time, trio, asyncio, sandlock

async def main():
    async with sandlock.AsyncSandbox(presets=["system"]) as box:
        async with box.start(["sleep", os.environ["MARK"]]) as process:
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                del process._running.execution.run  # as when it ends with all its objects
                os._exit(0)
            print(os.waitpid(child, 0)[1])
            time.sleep(0.2)
            print("alive" if os.path.exists(f"/proc/{process.pid}/cwd") else "dead")
"""


@pytest.mark.parametrize("how", ["trio.run(main)", "asyncio.run(main())"])
def test_the_end_of_a_fork_leaves_the_tree_alone(how: str, mark: str) -> None:
    """Its copies of our objects go: neither do they end the tree, nor wait for what the fork cannot see."""
    done = script(FORKS + how, mark)
    assert done.stdout == b"0\nalive\n", done.stderr.decode()


# ---- the end of the interpreter

BEGIN = """
import asyncio, os, sys, threading, time, trio, sandlock

box = sandlock.AsyncSandbox(presets=["system"])
mark = os.environ["MARK"]
argv = ["sh", "-c", f"sleep {mark} & setsid sleep {mark} & echo begun; wait"]

async def hold():
    async with box.start(argv) as process:
        await process.stdout.receive_some()
        print("begun", flush=True)
        await process.wait()

def in_thread(run):
    threading.Thread(target=run, daemon=True).start()
"""

EXITS = {
    "exit in a trio block": """
async def main():
    async with box.start(argv) as process:
        await process.stdout.receive_some()
        print("begun", flush=True)
        sys.exit(3)
trio.run(main)
""",
    "exit in an asyncio block": """
async def main():
    async with box.start(argv) as process:
        await process.stdout.receive_some()
        print("begun", flush=True)
        sys.exit(3)
asyncio.run(main())
""",
    "an asyncio task that nobody waits for": """
async def main():
    global task
    task = asyncio.create_task(hold())
    await asyncio.sleep(0.3)
    sys.exit(3)
asyncio.run(main())
""",
    "trio in a daemon thread": """
in_thread(lambda: trio.run(hold))
time.sleep(0.5)
sys.exit(3)
""",
    "asyncio in a daemon thread": """
in_thread(lambda: asyncio.run(hold()))
time.sleep(0.5)
sys.exit(3)
""",
    "without any clean-up": """
in_thread(lambda: asyncio.run(hold()))
time.sleep(0.5)
os._exit(3)
""",
    "a loop that is stopped": """
loop = asyncio.new_event_loop()
task = loop.create_task(hold())
loop.call_later(0.5, loop.stop)
loop.run_forever()
sys.exit(3)
""",
}
PENDING = b"Task was destroyed but it is pending"  # asyncio's own word on a loop that was stopped


@pytest.mark.slow
@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_exits_with_live_runs(how: str, mark: str) -> None:
    begin = time.monotonic()
    done = script(BEGIN + EXITS[how], mark)
    assert (done.returncode, done.stdout) == (3, b"begun\n"), done.stderr.decode()
    assert time.monotonic() - begin < 10
    assert done.stderr == b"" or PENDING in done.stderr, done.stderr.decode()
    assert wait_alive(mark, 0, 1.0) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["trio.run(hold)", "asyncio.run(hold())"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_host_is_told_to_end(how: str, number: signal.Signals, mark: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + how],
        env=os.environ | {"MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == b"begun\n"
            assert len(wait_alive(mark, 2)) == 2
            host.send_signal(number)
            _, errors = host.communicate(timeout=10)
        finally:
            host.kill()
    assert wait_alive(mark, 0, 1.0) == []
    if number == signal.SIGINT:
        assert errors.strip().endswith(b"KeyboardInterrupt")
        assert b"ExceptionGroup" not in errors


def test_ctrl_c_during_run(mark: str) -> None:
    """No group of exceptions: the caller has started no tasks."""

    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as sandbox:
            with pytest.raises(KeyboardInterrupt):
                await sandbox.run(["sleep", mark])
            assert wait_alive(mark, 0, 0) == []

    def interrupt() -> None:
        wait_alive(mark, 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    trio.run(main)
    thread.join()


def test_a_host_that_reaps_everything(loop: Loop) -> None:
    """waitpid(-1) takes the init's status away: nothing waits for it in vain."""

    async def reap() -> None:
        for _ in range(300):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            await loop.sleep(0.0005)

    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as sandbox:
            runs = [lambda: sandbox.run(["sleep", "0.05"])] * 5
            for result in (await loop.together(reap, *runs))[1:]:
                assert result.ok

    loop.run(main)


def test_an_exhausted_descriptor_table(loop: Loop) -> None:
    """A clear error, nothing left, and all works again afterwards."""
    errors = set()

    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as sandbox:
            await sandbox.run(["true"])
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            for room in range(14):
                lowest = os.dup(0)
                os.close(lowest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, hard))
                try:
                    await sandbox.run(["true"])
                except OSError as error:
                    errors.add(error.errno)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert errors == {errno.EMFILE}
            assert (await sandbox.run(["true"])).ok

    loop.run(main)
