"""Handlers in Python: each action, what they see, and whatever they do; and what cannot have a handler."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from loops import Loop
from programs.tools import guest

import sandlock
from sandlock import (
    Allow,
    AsyncSandbox,
    Continue,
    Deny,
    Errno,
    Exec,
    Handler,
    HandlerContext,
    Hold,
    Inject,
    KillTask,
    KillTree,
    Result,
    Sandbox,
    SandlockError,
    Value,
    syscalls,
)
from sandlock._host import probe

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.usefixtures("lasting_thread")]

CALL = "sched_get_priority_max"
"""What is handled in most tests: takes one number, is called by nobody, and answers EINVAL to what we ask."""
NUMBER = str(syscalls.number(CALL, probe().arch))


class Plain(Handler):
    """Answers by a function, in a worker thread."""

    def __init__(self, answer: Callable[[HandlerContext], Any], observes: bool = False) -> None:
        self.answer = answer
        self.observes = observes

    def handle(self, ctx: HandlerContext) -> Any:
        answer = self.answer(ctx)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Async(Plain):
    """The same, where the caller is; `sleep`, if it shall wait before."""

    def __init__(self, answer: Callable[[HandlerContext], Any], observes: bool = False, sleep: Any = None) -> None:
        super().__init__(answer, observes)
        self.sleep = sleep

    async def handle(self, ctx: HandlerContext) -> Any:
        if self.sleep is not None:
            await self.sleep(0.01)
        return super().handle(ctx)


def options(handler: Handler | None, **more: Any) -> dict[str, Any]:
    where = os.path.dirname(guest("handled"))
    handlers = {} if handler is None else {CALL: handler}
    readable = [where, *more.pop("fs_readable", [])]
    return {"presets": ["system"], "fs_readable": readable, "handlers": handlers} | more


def words(*task: object) -> list[str]:
    return [guest("handled"), *map(str, task)]


def run(handler: Handler, *task: object, **more: Any) -> Result:
    """Runs a task of handled.c whose call has this handler."""
    return sandlock.run(words(*task), **options(handler, **more))


def run_in(loop: Loop, handler: Handler, *task: object, timeout: float | None = None, **more: Any) -> Result:
    """The same, from async code."""

    async def main() -> Result:
        async with AsyncSandbox(**options(handler, **more)) as box:
            return await box.run(words(*task), timeout=timeout)

    return loop.run(main)  # type: ignore[no-any-return]


def denials(result: Result) -> list[tuple[str, str, str, int, int]]:
    return [(each.kind, each.target, each.cause, each.errno, each.count) for each in result.denials]


ANSWERS = [
    (Continue(), -errno.EINVAL),
    (Errno(errno.EPERM, "not today"), -errno.EPERM),
    (Errno(4095), -4095),
    (Value(4711), 4711),
    (Value(0), 0),
    (Value(2**40 + 1), 2**40 + 1),
]


# ---- actions


@pytest.mark.parametrize("kind", [Plain, Async])
@pytest.mark.parametrize(("action", "answer"), ANSWERS)
def test_an_answer_in_sync_code(kind: type[Plain], action: Any, answer: int) -> None:
    result = run(kind(lambda ctx: action), "times", 5, NUMBER, -1)
    assert int(result.stdout) == 5 * answer
    if isinstance(action, Errno):
        assert denials(result) == [("handler", CALL, "handler", action.errno, 5)]
        assert result.denials[0].reason == action.reason
    else:
        assert result.denials == ()


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [Plain, Async])
@pytest.mark.parametrize(("action", "answer"), ANSWERS[:4])
def test_an_answer_in_async_code(loop: Loop, kind: type[Plain], action: Any, answer: int, waits: bool) -> None:
    handler = kind(lambda ctx: action)
    if waits and isinstance(handler, Async):
        handler.sleep = loop.sleep
    assert int(run_in(loop, handler, "times", 3, NUMBER, -1).stdout) == 3 * answer


def test_where_it_runs(loop: Loop) -> None:
    found: list[tuple[bool, bool]] = []

    def note(ctx: HandlerContext) -> Value:
        try:
            in_trio = trio.lowlevel.in_trio_task()
        except RuntimeError:
            in_trio = False
        found.append((threading.current_thread() is threading.main_thread(), in_trio))
        return Value(0)

    run_in(loop, Async(note), "call", NUMBER)
    run_in(loop, Plain(note), "call", NUMBER)
    assert found == [(True, loop.name == "trio"), (False, False)]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "answered None"),
        (True, "answered True"),
        (Allow(), "answered Allow("),
        (Deny("x"), "answered Deny("),
        (Continue, "answered <class"),
        (Errno(0), "answered Errno("),
        (Errno(4096), "answered Errno("),
        (Errno("EPERM"), "answered Errno("),  # type: ignore[arg-type]
        (Value(-1), "answered Value("),
        (Value(2**63), "answered Value("),
        (Inject("text"), "answered Inject("),  # type: ignore[arg-type]
        (Inject(-1), "no descriptor"),
        (Inject(1 << 30), "no descriptor"),
        (Inject(1 << 80), "no descriptor"),
        (ValueError("broken"), "raised ValueError('broken')"),
        (SystemExit(3), "raised SystemExit(3)"),
    ],
)
def test_whatever_is_no_action_denies(answer: Any, says: str) -> None:
    for kind in (Plain, Async):
        result = run(kind(lambda ctx: answer), "times", 2, NUMBER, -1)
        assert int(result.stdout) == -2 * errno.EACCES
        assert denials(result) == [("handler", CALL, "handler-error", errno.EACCES, 2)]
        assert says in result.denials[0].reason


def test_a_handler_without_handle_denies() -> None:
    result = run(Handler(), "call", NUMBER)
    assert denials(result) == [("handler", CALL, "handler-error", errno.EACCES, 1)]
    assert "Handler has no handle" in result.denials[0].reason


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("cloexec", [False, True])
def test_bytes_are_injected_as_a_file_that_nobody_can_change(cloexec: bool) -> None:
    before = open_descriptors()
    for _ in range(5):
        result = run(Plain(lambda ctx: Inject(b"from-outside", cloexec=cloexec)), "inject", NUMBER)
        assert result.stdout_text == f"{int(cloexec)} 12 from-outside EPERM\n"
    assert open_descriptors() == before


def test_a_descriptor_of_ours_is_injected_and_stays_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from-outside")
    before = open_descriptors()
    with open(tmp_path / "file", "rb") as file:

        def lend(ctx: HandlerContext) -> Inject:
            file.seek(0)
            return Inject(file.fileno())

        result = run(Plain(lend), "inject", NUMBER)
        assert result.stdout_text == "0 12 from-outside EBADF\n"
        assert not file.closed
        os.fstat(file.fileno())
    assert open_descriptors() == before


def test_what_is_injected_into_one_who_is_gone_is_closed() -> None:
    before = open_descriptors()

    def late(ctx: HandlerContext) -> Inject:
        time.sleep(0.4)
        return Inject(b"late")

    assert run(Plain(late), "killed", NUMBER).stdout == b"9\n"
    assert open_descriptors() == before


def test_hold_ends_with_the_run(loop: Loop) -> None:
    result = run_in(loop, Async(lambda ctx: Hold()), "call", NUMBER, timeout=0.3)
    assert (result.timed_out, result.stdout, result.denials) == (True, b"", ())


def test_kill_task_and_kill_tree(loop: Loop) -> None:
    result = run_in(loop, Async(lambda ctx: KillTask("enough")), "status", NUMBER)
    assert result.stdout == b"-9\n"
    assert [(each.cause, each.reason, each.errno) for each in result.denials] == [("handler", "enough", 0)]
    result = run_in(loop, Async(lambda ctx: KillTree("enough")), "status", NUMBER)
    assert (result.reason, result.stdout) == ("killed", b"")
    assert [(each.cause, each.reason, each.errno) for each in result.denials] == [("handler", "enough", 0)]


# ---- what it sees


def test_the_facts_of_a_call(loop: Loop) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(ctx: HandlerContext) -> Continue:
        chain = [each.exe for each in ctx.chain]
        seen.append((ctx.syscall, ctx.number, ctx.args, ctx.pid == ctx.tid, ctx.run, ctx.call_id, chain, repr(ctx)))
        return Continue()

    async def main() -> Result:
        async with AsyncSandbox(**options(Async(look))) as box:
            return await box.run(words("call", NUMBER, 77, 2**64 - 1), call_id="the-call")

    result = loop.run(main)
    assert result.stdout.split() == [b"-22"]
    ((*facts, chain, shown),) = seen
    assert facts == [CALL, int(NUMBER), (77, 2**64 - 1, 0, 0, 0, 0), True, result.run_id, "the-call"]
    assert chain == [guest("handled")]
    assert shown.startswith(f"<{CALL}(0x4d, 0xffffffffffffffff, ")


MOST = 65536


@pytest.mark.parametrize(
    ("look", "answer", "text"),
    [
        (lambda ctx: len(ctx.read(ctx.args[0], 4)), 4, "text"),
        (lambda ctx: ctx.read(ctx.args[0], 4) == b"text", 1, "text"),
        (lambda ctx: len(ctx.read(ctx.args[0], MOST)), MOST, "text"),
        (lambda ctx: ctx.read(ctx.args[0], MOST + 1), -errno.EMSGSIZE, "text"),
        (lambda ctx: ctx.read(ctx.args[0], 1 << 70), -errno.EMSGSIZE, "text"),
        (lambda ctx: ctx.read(ctx.args[0], -1), -errno.EINVAL, "text"),
        (lambda ctx: [ctx.read(ctx.args[0], MOST) for _ in range(5)], -errno.EDQUOT, "text"),
        (lambda ctx: [ctx.read(ctx.args[0], 1) for _ in range(65)], -errno.EDQUOT, "text"),
        (lambda ctx: len([ctx.read(ctx.args[0], 1) for _ in range(64)]), 64, "text"),
        (lambda ctx: ctx.read(8, 4), -errno.EFAULT, "text"),
        (lambda ctx: ctx.read(-1, 4), -errno.EFAULT, "text"),
        (lambda ctx: ctx.read((1 << 64) - 1, 4), -errno.EFAULT, "text"),
        (lambda ctx: ctx.read(1 << 64, 4), -errno.EFAULT, "text"),
        (lambda ctx: ctx.read_string(ctx.args[0]) == b"text", 1, "text"),
        (lambda ctx: len(ctx.read_string(ctx.args[0], 5)), 4, "text"),
        (lambda ctx: ctx.read_string(ctx.args[0], 4), -errno.ENAMETOOLONG, "text"),
        (lambda ctx: ctx.read_string(ctx.args[0], 0), -errno.ENAMETOOLONG, "text"),
        (lambda ctx: ctx.read_string(8), -errno.EFAULT, "text"),
        (lambda ctx: ctx.write(ctx.args[0], b"WRITTEN") or 3, 3, "WRITTEN"),
        (lambda ctx: ctx.write(ctx.args[0], bytearray(b"N")) or 3, 3, "Next"),
        (lambda ctx: ctx.write(ctx.args[0], b"") or 3, 3, "text"),
        (lambda ctx: ctx.write(8, b"x"), -errno.EFAULT, "text"),
        (lambda ctx: ctx.write(ctx.args[0], bytes(MOST + 1)), -errno.EMSGSIZE, "text"),
    ],
)
def test_memory_within_bounds(look: Callable[[HandlerContext], Any], answer: int, text: str) -> None:
    def as_answered(ctx: HandlerContext) -> Any:
        try:
            return Value(int(look(ctx)))
        except OSError as error:
            return Errno(error.errno or 1)

    result = run(Plain(as_answered), "call", NUMBER, "@text")
    assert result.stdout_text == f"{answer} {text}\n"


def test_a_call_that_is_over_is_not_looked_into() -> None:
    kept: list[HandlerContext] = []

    def keep(ctx: HandlerContext) -> Continue:
        kept.append(ctx)
        return Continue()

    with Sandbox(**options(Plain(keep))) as box:
        with box.start(["/bin/sh", "-c", f"{guest('handled')} call {NUMBER}; read x"], stdin=-1) as process:
            assert process.stdout is not None
            process.stdout.readline()
            check_over(kept[0])  # answered, and its program has gone on
        check_over(kept[0])  # the run is over
    check_over(kept[0])


def check_over(ctx: HandlerContext) -> None:
    for access in (lambda: ctx.read(8, 1), lambda: ctx.read_string(8), lambda: ctx.write(8, b"x")):
        with pytest.raises(SandlockError, match="does not wait any more"):
            access()


def test_a_caller_that_is_gone_is_not_looked_into() -> None:
    errors: list[BaseException] = []

    def late(ctx: HandlerContext) -> Value:
        time.sleep(0.4)
        for access in (lambda: ctx.read(ctx.args[0], 1), lambda: ctx.write(ctx.args[0], b"x")):
            try:
                access()
            except SandlockError as error:
                errors.append(error)
        return Value(0)

    assert run(Plain(late), "killed", NUMBER, "@text").stdout == b"9\n"
    assert len(errors) == 2


# ---- what was read does not let a call go on


def test_what_was_read_is_not_what_the_kernel_reads(tmp_path: Path) -> None:
    """One thread opens a file while another one rewrites its name. An observer sees the one, the kernel opens the
    other: that is why nobody else may let a call go on after reading."""
    (tmp_path / "good").write_text("good")
    (tmp_path / "evil").write_text("evil")
    seen: list[bytes] = []

    def look(ctx: HandlerContext) -> Continue:
        path = ctx.read_string(ctx.args[1])
        if path.startswith(os.fsencode(tmp_path)):
            seen.append(path)
            time.sleep(0.3)
        return Continue()

    def opening(handler: Handler) -> Result:
        task = ("race", tmp_path / "good", tmp_path / "evil")
        return run_static(handler, *task, fs_readable=[str(tmp_path)])

    result = opening(Plain(look, observes=True))
    assert (seen, result.stdout, result.denials) == ([os.fsencode(tmp_path / "good")], b"evil\n", ())
    result = opening(Plain(look))
    assert result.stdout_text == f"{-errno.EACCES}\n"
    assert denials(result) == [("handler", "openat", "memory-read", errno.EACCES, 1)]
    assert "denied: handler openat: the handler has read" in result.explain()


def run_static(handler: Handler, *task: object, **more: Any) -> Result:
    """A program that opens nothing before it begins."""
    arguments = options(None, **more) | {"handlers": {"openat": handler}}
    return sandlock.run([guest_static(), *map(str, task)], **arguments)


def guest_static() -> str:
    import subprocess

    program = guest("handled") + "-static"
    if not os.path.exists(program):
        source = os.path.join(os.path.dirname(__file__), "programs", "handled.c")
        subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", program, source], check=True)
    return program


def test_writing_lets_a_call_go_on() -> None:
    def rewrite(ctx: HandlerContext) -> Continue:
        ctx.write(ctx.args[0], b"rewritten")
        return Continue()

    assert run(Plain(rewrite), "call", NUMBER, "@text").stdout_text == f"{-errno.EINVAL} rewritten\n"


@pytest.mark.parametrize("answer", [Errno(1), Value(1), None, KillTask(), Inject(b"x"), ValueError("broken")])
def test_an_observer_that_decides_is_a_mistake(answer: Any) -> None:
    result = run(Plain(lambda ctx: answer, observes=True), "times", 2, NUMBER)
    assert int(result.stdout) == -2 * errno.EACCES
    assert denials(result) == [("handler", CALL, "handler-error", errno.EACCES, 2)]


def test_an_observer_writes_nothing() -> None:
    errors = []

    def rewrite(ctx: HandlerContext) -> Continue:
        try:
            ctx.write(ctx.args[0], b"rewritten")
        except OSError as error:
            errors.append(error.errno)
        return Continue()

    result = run(Plain(rewrite, observes=True), "call", NUMBER, "@text")
    assert (result.stdout_text, errors) == (f"{-errno.EINVAL} text\n", [errno.EPERM])


# ---- time


def test_no_answer_in_time(loop: Loop) -> None:
    async def too_long(ctx: HandlerContext) -> Any:
        await loop.sleep(60)
        return Value(0)

    handler = Handler()
    handler.handle = too_long  # type: ignore[assignment]
    started = time.monotonic()
    result = run_in(loop, handler, "call", NUMBER, policy_timeout=0.2)
    assert time.monotonic() - started < 10
    assert result.stdout.split() == [str(-errno.EACCES).encode()]
    assert denials(result) == [("handler", CALL, "timeout", errno.EACCES, 1)]
    # What lets execs and connections happen is no answer of a handler's.
    result = run_in(loop, handler, "call", NUMBER, policy_timeout=0.2, on_timeout=Allow())
    assert denials(result) == [("handler", CALL, "timeout", errno.EACCES, 1)]
    result = run_in(loop, handler, "call", NUMBER, policy_timeout=0.2, on_timeout=Deny("late", errno.ENOSYS))
    assert result.stdout.split() == [str(-errno.ENOSYS).encode()]


def test_a_run_that_ends_cancels_its_handlers(loop: Loop) -> None:
    said: list[str] = []

    class Waiting(Handler):
        async def handle(self, ctx: HandlerContext) -> Any:
            said.append("asked")
            try:
                await loop.sleep(60)
            finally:
                said.append("cancelled")

    result = run_in(loop, Waiting(), "call", NUMBER, timeout=0.3)
    assert result.timed_out
    assert said == ["asked", "cancelled"]


def test_a_handler_that_is_cancelled_from_outside_denies(loop: Loop) -> None:
    class Cancelled(Handler):
        async def handle(self, ctx: HandlerContext) -> Any:
            if loop.name == "trio":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await trio.sleep(60)
                return None
            import asyncio

            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
            return Value(0)

    result = run_in(loop, Cancelled(), "call", NUMBER)
    assert denials(result) == [("handler", CALL, "handler-error", errno.EACCES, 1)]


def test_a_slow_handler_delays_its_own_caller_only() -> None:
    """64 calls wait in a plain function, 64 threads of it, and another handler's process goes on meanwhile."""
    waiting = threading.Semaphore(0)
    release = threading.Event()

    def slow(ctx: HandlerContext) -> Value:
        waiting.release()
        release.wait(20)
        return Value(0)

    other = "sched_get_priority_min"
    number = syscalls.number(other, probe().arch)
    more = options(Plain(slow))
    more["handlers"] |= {other: Plain(lambda ctx: Value(5))}
    program = guest("handled")
    script = f"{program} crowd 64 {NUMBER} & read x; {program} times 20 {number}; wait"
    with Sandbox(**more) as box:
        with box.start(["/bin/sh", "-c", script], stdin=-1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for _ in range(64):
                assert waiting.acquire(timeout=10)
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"100\n"
            assert not release.is_set()
            release.set()
            assert process.stdout.readline() == b"done\n"
            assert process.wait().denials == ()


# ---- beside a callback, and on record


def test_beside_a_callback(loop: Loop) -> None:
    asked: list[tuple[str, ...]] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        assert isinstance(event, Exec)
        asked.append(event.argv)
        return Allow()

    result = run_in(loop, Async(lambda ctx: Value(3)), "call", NUMBER, policy_fn=vet)
    assert result.stdout.split() == [b"3"]
    assert asked == [tuple(words("call", NUMBER))]


def test_exec_rules_that_ask_have_nobody_to_ask_but_handlers_are_served() -> None:
    result = run(Plain(lambda ctx: Value(3)), "call", NUMBER, exec_ask=["handled *"])
    assert (result.reason, [each.reason for each in result.denials]) == ("denied", ["there is no policy_fn to ask"])


@pytest.mark.parametrize(
    ("answer", "decision", "cause"),
    [
        (Errno(28, "full"), ("deny", 28), "handler"),
        (KillTask("full"), ("kill", 0), "handler"),
        (7, ("deny", 13), "handler-error"),
    ],
)
def test_denials_are_on_record(loop: Loop, tmp_path: Path, answer: Any, decision: Any, cause: str) -> None:
    path = tmp_path / "audit"
    result = run_in(loop, Async(lambda ctx: answer), "status", NUMBER, audit=path)
    assert len(result.denials) == 1
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line for line in lines if line["record"] == "decision" and line["kind"] == "handler"]
    assert [(line["target"], line["decision"], line["errno"], line["cause"]) for line in found] == [
        (CALL, *decision, cause)
    ]
    assert found[0]["asked"] is True
    assert found[0]["reason"] == result.denials[0].reason
    assert found[0]["exe"] == guest("handled")


def test_many_denials_are_counted_and_kept_within_bounds() -> None:
    numbers = iter(range(1, 1000))
    handler = Plain(lambda ctx: Errno(1, f"number {next(numbers)}"))
    result = run(handler, "times", 300, NUMBER)
    assert (len(result.denials), result.dropped_denials) == (256, 44)


def test_the_launch_is_not_asked_about() -> None:
    """Its own calls after the filter is in force are of calls that have a handler here."""
    seen: list[str] = []

    def look(ctx: HandlerContext) -> Errno:
        seen.append(ctx.chain[0].exe)
        return Errno(1)

    names = ("chdir", "fcntl", "ioctl", "dup3", "ppoll", "sendto")
    handlers = {name: Plain(look) for name in names}
    for _ in range(20):
        with Sandbox(presets=["system"], cwd="/", handlers=handlers) as box:
            with box.start(["/bin/true"], pty=True) as process:
                assert process.wait().ok
    assert not [exe for exe in seen if exe != os.path.realpath("/bin/true")]
    assert sandlock.run([sys.executable, "-c", "import os; os.chdir('/')"], presets=["python"],
                        handlers={"chdir": Plain(look)}).exit_code == 1  # fmt: skip
