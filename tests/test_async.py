"""AsyncSandbox and AsyncProcess, under trio and under asyncio: the same object, the same results, the same end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sniffio
import trio
import trio.lowlevel
from loops import LOOPS, Loop, alive, wait_alive

import sandlock
from sandlock import PIPE, STDOUT, AsyncSandbox
from sandlock._trio_thread import in_trio

pytestmark = [pytest.mark.needs(landlock=6), pytest.mark.usefixtures("lasting_thread")]
numbers = itertools.count(1)


@pytest.fixture
def mark() -> Iterator[str]:
    """An argument for sleep(1) that nobody else uses. After the test no such program may be left."""
    word = f"{os.getpid()}.{next(numbers):05}"
    yield word
    assert wait_alive(word, 0, 1.0) == []


@pytest.fixture
def nothing_by_garbage() -> Iterator[None]:
    """What is opened is closed in time: the collector, which closes things too, is off."""
    gc.collect()
    gc.disable()
    before = descriptors()
    yield
    try:
        assert descriptors() == before
    finally:
        gc.enable()


def descriptors() -> list[str]:
    """What is open, without the one that lists it."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return sorted(found)


def box(**fields: Any) -> AsyncSandbox:
    return AsyncSandbox(presets=["system"], **fields)


def daemons(mark: str, then: str) -> list[str]:
    """A shell that leaves two sleepers, one of them in a session of its own, and goes on."""
    return ["sh", "-c", f"sleep {mark} & setsid sleep {mark} & {then}"]


# ---- results


CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "both streams": (["sh", "-c", "echo out; echo err >&2; exit 3"], {}),
    "merged": (["sh", "-c", "echo out; echo err >&2"], {"stderr": STDOUT}),
    "input": (["cat"], {"input": "text" * 50_000}),
    "input that nobody reads": (["true"], {"input": b"x" * 1_000_000}),
    "signal": (["sh", "-c", "kill -9 $$"], {}),
    "environment": (["sh", "-c", "echo $WORD; pwd"], {"env": {"WORD": "yes"}, "cwd": "/usr"}),
    "null": (["echo", "out"], {"stdout": sandlock.NULL, "stderr": None}),
    "time limit": (["sleep", "60"], {"timeout": 0.05}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_that_of_the_sync_twin(loop: Loop, case: str) -> None:
    argv, options = CASES[case]
    with sandlock.Sandbox(presets=["system"]) as twin:
        expected = twin.run(argv, **options).to_dict(output=True)

    async def main() -> sandlock.Result:
        async with box() as sandbox:
            return await sandbox.run(argv, **options)

    result = loop.run(main).to_dict(output=True)
    assert result.pop("duration") > 0
    assert result.pop("run_id") != expected.pop("run_id")
    del expected["duration"]
    assert result == expected


def test_errors_are_those_of_the_sync_twin(loop: Loop, nothing_by_garbage: None) -> None:
    async def main() -> None:
        async with box() as sandbox:
            with pytest.raises(sandlock.ConfinementError, match="ENOENT"):
                await sandbox.run(["/nosuch"])
            with pytest.raises(sandlock.ConfinementError, match="ENOENT"):
                async with sandbox.start(["/nosuch"]):
                    pytest.fail("entered")
            with pytest.raises(sandlock.GuestError, match="exited with 2"):
                await sandbox.run(["sh", "-c", "exit 2"], check=True)
            with pytest.raises(sandlock.PolicyError, match="input"):
                await sandbox.run(["cat"], input="x", stdin=PIPE)
            with pytest.raises(sandlock.PolicyError, match="argv"):
                await sandbox.run([])
            with pytest.raises(sandlock.PolicyError, match="timeout"):
                await sandbox.run(["true"], timeout=-1)
            with pytest.raises(sandlock.PolicyError, match="stdout"):
                async with sandbox.start(["true"], stdin=PIPE, stdout=-7):
                    pytest.fail("entered")

    loop.run(main)
    with pytest.raises(sandlock.PolicyError, match="nothing is granted"):
        AsyncSandbox()
    with pytest.raises(sandlock.PolicyError, match="no Policy"):
        AsyncSandbox("system")  # type: ignore[arg-type]


def test_policy_and_plan() -> None:
    policy = sandlock.Policy(presets=("system",), timeout=5)
    sandbox = AsyncSandbox(policy, max_processes=7)
    assert sandbox.policy == policy.but(max_processes=7)
    assert sandbox.plan.needs_listener


def test_no_loop_at_all() -> None:
    coroutine = box().run(["true"])
    with pytest.raises(sandlock.SandlockError, match="trio or asyncio"):
        coroutine.send(None)


def test_with_a_supervisor_thread(loop: Loop) -> None:
    async def main() -> list[sandlock.Result]:
        async with box(max_processes=8, record_execs=True) as sandbox:
            return await loop.together(*[lambda: sandbox.run(["sh", "-c", "/bin/echo $(echo 1)"])] * 8)

    for result in loop.run(main):
        assert result.stdout == b"1\n"
        assert result.execs is not None
        assert [record.argv[0] for record in result.execs] == ["sh", "/bin/echo"]


@pytest.mark.slow
def test_large_output_on_both_streams(loop: Loop) -> None:
    size = 20_000_000
    script = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"

    def of(result: sandlock.Result) -> tuple[int, int, int]:
        return len(result.stdout), len(result.stderr), len(result.truncated)

    async def main() -> tuple[tuple[int, int, int], ...]:
        async with box() as large, box(max_output=1000) as small:
            return of(await large.run(["sh", "-c", script])), of(await small.run(["sh", "-c", script]))

    assert loop.run(main) == ((size, size, 0), (1000, 1000, 2))


# ---- many at once


@pytest.mark.slow
def test_fifty_at_once(loop: Loop) -> None:
    async def main() -> list[sandlock.Result]:
        async with box() as first, box() as second:
            bodies = [
                functools.partial((first, second)[number % 2].run, ["sh", "-c", f"cat; echo {number}"], input="a")
                for number in range(50)
            ]
            return await loop.together(*bodies)

    results = loop.run(main)
    assert [result.stdout_text for result in results] == [f"a{number}\n" for number in range(50)]


@pytest.mark.slow
def test_one_sandbox_in_several_threads(mark: str) -> None:
    """Each thread has a loop of its own; the sandbox is left in one while the others still use it."""
    shared = box()
    reasons: list[str] = []

    def other(loop: Loop) -> None:
        async def main() -> None:
            assert (await shared.run(["echo", loop.name])).stdout_text == f"{loop.name}\n"
            reasons.append((await shared.run(["sleep", mark])).reason)

        loop.run(main)

    async def main() -> None:
        async with shared:
            while len(alive(mark)) < 4:
                await trio.sleep(0.01)
        assert alive(mark) == []

    threads = [threading.Thread(target=other, args=(loop,)) for loop in LOOPS * 2]
    for thread in threads:
        thread.start()
    trio.run(main)
    for thread in threads:
        thread.join()
    assert reasons == ["killed"] * 4


@pytest.mark.slow
def test_nothing_is_left_after_two_hundred_runs(loop: Loop) -> None:
    async def some(sandbox: AsyncSandbox, count: int) -> None:
        for _ in range(count):
            await sandbox.run(["true"])

    async def main() -> tuple[set[str], set[str], int, int]:
        async with box() as sandbox:
            await some(sandbox, 3)
            before = set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
            await loop.together(*[lambda: some(sandbox, 50)] * 4)
            after = set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        return before[0], after[0], before[1], after[1]

    descriptors, descriptors_after, threads, threads_after = loop.run(main)
    assert len(descriptors_after) == len(descriptors)
    assert threads_after <= threads  # an idle one of trio's cache may have ended meanwhile


# ---- cancellation and the end


@pytest.mark.slow
def test_cancelled_at_every_stage(loop: Loop, mark: str, nothing_by_garbage: None) -> None:
    """From before the launch until after the end, in small steps: no process of the tree is ever left."""
    delays = [step * 0.0002 for step in range(60)]
    cut = []

    async def main() -> None:
        async with box() as sandbox:
            for delay in delays:
                body = functools.partial(sandbox.run, daemons(mark, "echo word; exec sleep 0.005"))
                cut.append(await loop.cut_short(delay, body))
                assert alive(mark) == []
                assert not sandbox._live

    loop.run(main)
    assert cut[0]
    assert True in cut[10:]


@pytest.mark.slow
def test_cancelled_at_every_stage_of_a_started_one(loop: Loop, mark: str, nothing_by_garbage: None) -> None:
    entered = 0

    async def main() -> None:
        nonlocal entered

        async def body() -> None:
            nonlocal entered
            async with sandbox.start(daemons(mark, "cat; exec sleep 60"), stdin=PIPE) as process:
                entered += 1
                assert process.stdin is not None
                await process.stdin.send_all(b"x" * 100_000)
                await process.wait()

        async with box(max_processes=20) as sandbox:
            for step in range(40):
                await loop.cut_short(step * 0.0003, body)
                assert alive(mark) == []
                assert not sandbox._live

    loop.run(main)
    assert entered > 0


@pytest.mark.slow
def test_cancelled_while_it_floods(loop: Loop, mark: str, nothing_by_garbage: None) -> None:
    async def main() -> None:
        async with box() as sandbox:
            for delay in (0.01, 0.02, 0.05):
                argv = daemons(mark, "yes >&2 & exec yes")
                body = functools.partial(sandbox.run, argv, input=b"x" * 500_000)
                assert await loop.cut_short(delay, body)
                assert alive(mark) == []

    loop.run(main)


def test_a_cancelled_scope_starts_nothing(mark: str) -> None:
    async def main() -> None:
        async with box() as sandbox:
            with trio.CancelScope() as scope:
                scope.cancel()
                await sandbox.run(["sleep", mark])
            assert scope.cancelled_caught

    trio.run(main)


def test_cancelled_again_and_again(mark: str) -> None:
    """Asyncio may cancel a task any number of times; the tree is gone when the task has ended."""

    async def main() -> None:
        async with box() as sandbox:
            task = asyncio.create_task(sandbox.run(["sleep", mark]))
            await asyncio.sleep(0.05)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert task.cancelled()
            assert alive(mark) == []

    asyncio.run(main())


def test_an_error_beside_it_ends_the_tree(loop: Loop, mark: str) -> None:
    async def fail() -> None:
        while len(alive(mark)) < 3:
            await loop.sleep(0.005)
        raise ZeroDivisionError

    async def main() -> None:
        async with box() as sandbox:
            with pytest.raises(ExceptionGroup) as caught:
                await loop.together(fail, lambda: sandbox.run(daemons(mark, f"sleep {mark}")))
            assert alive(mark) == []
            assert caught.group_contains(ZeroDivisionError)

    loop.run(main)


def test_an_error_in_the_block_ends_the_tree(loop: Loop, mark: str) -> None:
    async def fail(sandbox: AsyncSandbox) -> None:
        async with sandbox.start(daemons(mark, "echo; wait")) as process:
            assert process.stdout is not None
            await process.stdout.receive_some()
            raise ZeroDivisionError

    async def main() -> None:
        async with box() as sandbox:
            with pytest.raises(ZeroDivisionError):
                await fail(sandbox)
            assert alive(mark) == []

    loop.run(main)


def test_leaving_the_sandbox_ends_what_others_started(loop: Loop, mark: str, nothing_by_garbage: None) -> None:
    sandbox = box()

    async def leave() -> None:
        async with sandbox:
            while len(alive(mark)) < 3:
                await loop.sleep(0.005)
        assert alive(mark) == []

    async def hold() -> sandlock.Result:
        async with sandbox.start(daemons(mark, "wait")) as process:
            while alive(mark):
                await loop.sleep(0.005)
            return await process.wait()

    async def main() -> list[Any]:
        return await loop.together(leave, lambda: sandbox.run(["sleep", mark]), hold)

    assert [result.reason for result in loop.run(main)[1:]] == ["killed", "killed"]


def test_a_time_limit_ends_the_whole_tree(loop: Loop, mark: str) -> None:
    async def main() -> sandlock.Result:
        async with box(timeout=0.1) as sandbox:
            result = await sandbox.run(daemons(mark, "echo begun; wait"))
            assert alive(mark) == []
            return result

    result = loop.run(main)
    assert (result.timed_out, result.reason, result.stdout) == (True, "timeout", b"begun\n")
    assert result.duration < 5


# ---- conversations


def test_a_conversation_with_cat(loop: Loop) -> None:
    async def main() -> sandlock.Result:
        async with box() as sandbox, sandbox.start(["cat"], stdin=PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.pid > 0
            assert process.terminal is None
            for number in range(20):
                await process.stdin.send_all(b"%d\n" % number)
                assert await process.stdout.receive_some() == b"%d\n" % number
            await process.stdin.aclose()
            await process.stdin.aclose()
            assert [chunk async for chunk in process.stdout] == []
            result = await process.wait()
            assert await process.wait() is result
            return result

    assert loop.run(main).ok


def test_more_than_a_pipe_holds(loop: Loop) -> None:
    data = os.urandom(3_000_000)

    async def main() -> bytes:
        async with box() as sandbox, sandbox.start(["cat"], stdin=PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stdin, stdout = process.stdin, process.stdout

            async def send() -> None:
                async with stdin:
                    await stdin.send_all(data)

            async def receive() -> bytes:
                return b"".join([chunk async for chunk in stdout])

            return bytes((await loop.together(send, receive))[1])

    assert loop.run(main) == data


def test_nobody_reads_the_input(loop: Loop) -> None:
    async def main() -> None:
        async with box() as sandbox, sandbox.start(["sleep", "0"], stdin=PIPE) as process:
            assert process.stdin is not None
            await process.wait()
            with pytest.raises(BrokenPipeError) as caught:
                await process.stdin.send_all(b"x")
            assert isinstance(caught.value, trio.BrokenResourceError)

    loop.run(main)


@pytest.mark.slow
def test_python_on_a_terminal(loop: Loop) -> None:
    async def main() -> tuple[bytes, sandlock.Result]:
        async with (
            AsyncSandbox(presets=["system", "python"]) as sandbox,
            sandbox.start([sys.executable, "-i", "-q"], pty=(40, 100)) as process,
        ):
            terminal = process.terminal
            assert terminal is not None
            assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
            seen, read = b"", 0

            async def until(text: bytes) -> None:
                nonlocal seen, read
                while (found := seen.find(text, read)) < 0:
                    chunk = await terminal.receive_some()
                    assert chunk, seen
                    seen += chunk
                read = found + len(text)

            await until(b">>> ")
            await terminal.send_all(b"import os; os.get_terminal_size(), 6 * 7\n")
            await until(b"42)")
            await until(b">>> ")
            process.resize(25, 90)
            await terminal.send_all(b"os.get_terminal_size(), 6 * 8\n")
            await until(b"48)")
            await until(b">>> ")
            await terminal.send_all(b"exit(5)\n")
            while chunk := await terminal.receive_some():
                seen += chunk
            return seen, await process.wait()

    seen, result = loop.run(main)
    assert b"columns=100, lines=40" in seen
    assert b"columns=90, lines=25" in seen
    assert result.exit_code == 5


def test_resize_without_a_terminal(loop: Loop) -> None:
    async def main() -> None:
        async with box() as sandbox, sandbox.start(["sleep", "60"]) as process:
            with pytest.raises(sandlock.SandlockError, match="pty"):
                process.resize(1, 1)

    loop.run(main)


def test_many_wait_and_some_give_up(loop: Loop, mark: str) -> None:
    async def main() -> list[Any]:
        async with box() as sandbox, sandbox.start(daemons(mark, "wait")) as process:

            async def kill() -> None:
                await loop.sleep(0.1)
                assert len(alive(mark)) == 2  # the waits that were given up ended nothing
                process.kill()

            give_up = [lambda: loop.cut_short(0.02, process.wait)] * 3
            return await loop.together(*give_up, *[process.wait] * 3, kill)

    results = loop.run(main)
    assert results[:3] == [True] * 3
    assert [result.reason for result in results[3:6]] == ["killed"] * 3


def test_result_is_still_there_after_the_block(loop: Loop) -> None:
    async def main() -> sandlock.Result:
        async with box() as sandbox:
            async with sandbox.start(["sleep", "60"]) as process:
                pass
            process.kill()
            return await process.wait()

    assert loop.run(main).reason == "killed"


# ---- what only asyncio has


@pytest.mark.slow
def test_a_blocked_asyncio_loop_stops_nothing(tmp_path: Any) -> None:
    """Neither the time limit nor the reading of what a program writes: 5 MB do not fit into a pipe."""
    script = f"head -c 5000000 /dev/zero; date +%s.%N > {tmp_path}/written; exec sleep 60"

    async def main() -> tuple[sandlock.Result, float]:
        async with box(fs_writable=[str(tmp_path)]) as sandbox:
            task = asyncio.create_task(sandbox.run(["sh", "-c", script], timeout=1.0))
            await asyncio.sleep(0.01)
            time.sleep(3)  # noqa: ASYNC251
            end = time.time()
            return await task, end

    result, end = asyncio.run(main())
    assert (len(result.stdout), result.timed_out) == (5_000_000, True)
    assert float((tmp_path / "written").read_text()) < end - 0.5
    assert result.duration < 2.5


def test_context_variables_of_the_caller() -> None:
    word = contextvars.ContextVar("word", default="none")

    async def inside(name: str) -> tuple[str, str, str]:
        await trio.lowlevel.checkpoint()
        return word.get(), name, sniffio.current_async_library()

    async def caller(name: str) -> tuple[str, str, str]:
        word.set(name)
        return await in_trio(os.getpid(), inside, name)

    async def main() -> list[tuple[str, str, str]]:
        sniffio.current_async_library_cvar.set("asyncio")  # as anyio does
        return list(await asyncio.gather(caller("a"), caller("b")))

    assert asyncio.run(main()) == [("a", "a", "trio"), ("b", "b", "trio")]


def test_an_error_in_trio_comes_back() -> None:
    async def inside() -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("lost")

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(LookupError, match="lost"):
                await in_trio(os.getpid(), inside)

    asyncio.run(main())
