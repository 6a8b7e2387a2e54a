"""What goes wrong around a question: never an allow (files outside tell), never a hang, nothing left behind.

That no descriptor, thread or process is left is the affair of the fixture `nothing_left_behind`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from loops import Asyncio, Loop, Trio
from test_verdicts import Liar, Mute
from test_vet_exec import vetted

from sandlock import Allow, AsyncSandbox, Audit, Deny, Exec, Kill, Result, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
BOTH = ("/bin/sh", "-c", "touch bad; touch good")


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """No test here may take long."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 60


def is_bad(event: Any) -> bool:
    return isinstance(event, Exec) and event.argv == ("touch", "bad")


def made(place: Path) -> list[str]:
    return sorted(os.listdir(place))


# ---- callbacks that raise, or answer what is none


class OddError(BaseException):
    """Neither an Exception nor one of Python's."""


RAISED = [SystemExit(3), GeneratorExit(), OddError("x"), asyncio.CancelledError(), StopIteration(1), MemoryError(),
          BaseExceptionGroup("x", [SystemExit(), OddError()]), RecursionError()]  # fmt: skip


@pytest.mark.parametrize("error", [*RAISED, KeyboardInterrupt()], ids=repr)
def test_whatever_is_raised_denies(loop: Loop, tmp_path: Path, error: BaseException) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            raise error
        return Allow()

    if loop is Asyncio and isinstance(error, KeyboardInterrupt):  # asyncio's own: it ends the loop
        with pytest.raises(KeyboardInterrupt):
            vetted(loop, tmp_path, vet, *BOTH)
        assert "bad" not in made(tmp_path)
        return
    result = vetted(loop, tmp_path, vet, *BOTH)
    assert made(tmp_path) == ["good"]
    assert [(denial.cause, denial.argv) for denial in result.denials] == [("callback-error", ("touch", "bad"))]
    assert "raised" in result.denials[0].reason or isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize("error", [*RAISED, KeyboardInterrupt()], ids=repr)
def test_whatever_is_raised_in_sync_code_denies(tmp_path: Path, error: BaseException) -> None:
    def plain(event: Any, box: Sandbox) -> object:
        if is_bad(event):
            raise error
        return Allow()

    async def in_trio(event: Any, box: Sandbox) -> object:
        return plain(event, box)

    for policy_fn in (plain, in_trio):
        with Sandbox(presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=policy_fn) as box:
            result = box.run(BOTH)
        assert made(tmp_path) == ["good"]
        assert [denial.cause for denial in result.denials] == ["callback-error"]


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("what", ["coroutine", "class", "liar", "mute", "true", "generator"])
def test_whatever_is_answered_denies(loop: Loop, tmp_path: Path, what: str) -> None:
    async def other() -> object:
        return Allow()

    answers: dict[str, Any] = {
        "coroutine": other,
        "class": lambda: Allow,
        "liar": lambda: Liar(Allow()),
        "mute": Mute,
        "true": lambda: True,
        "generator": lambda: iter([Allow()]),
    }

    async def vet(event: Any, box: AsyncSandbox) -> object:
        return answers[what]() if is_bad(event) else Allow()

    result = vetted(loop, tmp_path, vet, *BOTH)
    assert made(tmp_path) == ["good"]
    assert [denial.cause for denial in result.denials] == ["callback-error"]


# ---- callbacks that never answer


@pytest.mark.slow
@pytest.mark.parametrize("on_timeout", [None, Deny("late", 5), Kill("late"), Audit("late")], ids=repr)
def test_a_callback_that_never_returns(loop: Loop, tmp_path: Path, on_timeout: Any) -> None:
    never = threading.Event()

    async def waits(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            await loop.sleep(100)
        return Allow()

    def hangs(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            never.wait(20)
        return Allow()

    try:
        for vet in (waits, hangs):
            result = vetted(loop, tmp_path, vet, *BOTH, policy_timeout=0.2, on_timeout=on_timeout)
            if isinstance(on_timeout, Audit):
                assert made(tmp_path) == ["bad", "good"]
                assert [each.cause for each in result.audited] == ["timeout"]
                continue
            assert made(tmp_path) == ["good"]
            assert [denial.cause for denial in result.denials] == ["timeout"]
    finally:
        never.set()


def test_plain_callbacks_that_hang_leave_the_host_its_threads(tmp_path: Path) -> None:
    """The host's own to_thread.run_sync goes on: these have threads of their own."""
    never = threading.Event()

    def hangs(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] == "touch":
            never.wait(20)
        return Allow()

    async def main() -> None:
        async with AsyncSandbox(presets=["system"], policy_fn=hangs) as box:
            script = "i=0; while [ $i -lt 60 ]; do touch $i & i=$((i+1)); done; wait"
            async with box.start(["/bin/sh", "-c", script]):
                await trio.sleep(0.5)
                with trio.fail_after(2):
                    assert await trio.to_thread.run_sync(lambda: 7) == 7

    try:
        trio.run(main)
    finally:
        never.set()


@pytest.mark.slow
def test_the_wait_is_over_with_the_run(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            await loop.sleep(100)
        return Allow()

    options: dict[str, Any] = {"policy_timeout": 0.1, "on_timeout": "wait", "timeout": 0.5}

    async def main() -> Result:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet, **options
        ) as box:
            return await box.run(BOTH)

    result = loop.run(main)
    assert (result.timed_out, result.overdue, made(tmp_path)) == (True, 1, [])


# ---- cancellation


@pytest.mark.slow
@pytest.mark.parametrize("policy_timeout", [60.0, None])
def test_a_run_that_is_cancelled(loop: Loop, tmp_path: Path, policy_timeout: float | None) -> None:
    ends: list[str] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            try:
                await loop.sleep(100)
            finally:
                ends.append("cancelled")
        return Allow()

    async def main() -> None:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet, policy_timeout=policy_timeout
        ) as box:
            assert await loop.cut_short(2.0, lambda: box.run(BOTH))
            assert (ends, made(tmp_path)) == (["cancelled"], [])
            assert (await box.run(["/bin/true"])).ok  # the sandbox is as good as before

    loop.run(main)


@pytest.mark.slow
def test_a_task_that_is_cancelled_under_asyncio(tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            await asyncio.sleep(100)
        return Allow()

    async def main() -> None:
        async with AsyncSandbox(presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet) as box:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(box.run(BOTH), 0.4)
            task = asyncio.create_task(box.run(BOTH))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert made(tmp_path) == []


def test_a_callback_that_cancels_itself(loop: Loop, tmp_path: Path) -> None:
    """Under trio also all others of its run, by what it was started in: then nobody listens any more."""
    kept: list[BaseException] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if not is_bad(event):
            return Allow()
        if loop is Asyncio:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
        return Allow()

    async def stale(event: Any, box: AsyncSandbox) -> object:
        if not is_bad(event):
            return Allow()
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept.append(error)
        raise kept[0]

    result = vetted(loop, tmp_path, vet, *BOTH)
    assert "bad" not in made(tmp_path)
    assert result.denials[0].argv == ("touch", "bad")
    if loop is Trio:
        (tmp_path / "good").unlink(missing_ok=True)
        result = vetted(loop, tmp_path, stale, *BOTH)
        assert made(tmp_path) == ["good"]
        assert [denial.cause for denial in result.denials] == ["callback-error"]


# ---- loops that are stopped, closed, blocked


def asked_and_stopped(tmp_path: Path, **options: Any) -> tuple[asyncio.AbstractEventLoop, Any, AsyncSandbox]:
    """An asyncio loop that was stopped when a question was put to it, its task, and the sandbox."""
    loop = asyncio.new_event_loop()

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            loop.stop()
            await asyncio.sleep(0.01)
        return Allow()

    box = AsyncSandbox(presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet, **options)
    task = loop.create_task(box.run(BOTH))
    loop.run_forever()
    return loop, task, box


@pytest.mark.slow
def test_a_loop_that_is_stopped(tmp_path: Path) -> None:
    loop, task, box = asked_and_stopped(tmp_path, policy_timeout=0.2)
    time.sleep(0.5)  # nobody runs it: the core denies
    assert made(tmp_path) == []
    result = loop.run_until_complete(task)
    loop.run_until_complete(box.aclose())
    loop.close()
    assert result.denials[0].cause == "timeout"
    assert "bad" not in made(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_loop_that_is_closed(tmp_path: Path) -> None:
    loop, task, box = asked_and_stopped(tmp_path, policy_timeout=None)
    loop.close()
    limit = time.monotonic() + 5
    while not made(tmp_path) and time.monotonic() < limit:
        time.sleep(0.05)
        if time.monotonic() > limit - 3.5:  # the next question finds the loop closed as well
            break
    assert made(tmp_path) == []
    asyncio.run(box.aclose())
    task._log_destroy_pending = False
    assert made(tmp_path) == []


@pytest.mark.slow
def test_a_blocked_loop_stops_no_rules_and_no_time_limit(loop: Loop, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            time.sleep(1)  # noqa: ASYNC251  # as a careless host does it
            seen.append(made(tmp_path))
        return Allow()

    started = time.monotonic()

    async def main() -> Result:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet, policy_timeout=0.5,
            exec_allow=["touch static", "touch late"],
        ) as box:  # fmt: skip
            script = "touch bad & touch static; while true; do sleep 0.05 2>/dev/null || touch late; done"
            return await box.run(["/bin/sh", "-c", script], timeout=0.8)

    result = loop.run(main)
    assert result.timed_out
    assert time.monotonic() - started < 10
    assert seen[0][-1] == "static"
    assert "bad" not in made(tmp_path)
    assert ("timeout", ("touch", "bad")) in [(denial.cause, denial.argv) for denial in result.denials]


# ---- those who ask are gone


@pytest.mark.slow
def test_who_asks_is_killed(loop: Loop, tmp_path: Path) -> None:
    ends: list[str] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if is_bad(event):
            try:
                await loop.sleep(100)
            finally:
                ends.append("over")
        return Allow()

    script = "touch bad & sleep 0.2; kill -9 $!; wait $!; touch good; sleep 0.3; exit 5"
    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", script, policy_timeout=None)
    assert (result.exit_code, made(tmp_path), ends) == (5, ["good"], ["over"])


@pytest.mark.slow
def test_all_are_killed_while_they_ask(loop: Loop, tmp_path: Path) -> None:
    asked: list[Any] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] == "touch":
            asked.append(event)
            await loop.sleep(100)
        return Allow()

    async def main() -> None:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet, policy_timeout=None
        ) as box:
            script = "for i in 1 2 3 4 5 6 7 8 9; do touch $i & done; wait"
            async with box.start(["/bin/sh", "-c", script]) as process:
                while len(asked) < 9:
                    await loop.sleep(0.01)
                process.kill()
                assert (await process.wait()).reason == "killed"

    loop.run(main)
    assert made(tmp_path) == []
