"""Hosts that lack a disk, descriptors or time while questions wait: never an allow, a hang or anything left."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

import ordinary
import pytest
import trio
from attacks.arena import tcp
from loops import Asyncio, Loop, Trio
from test_faults import BOTH, is_bad, made, soon
from test_supervised_network import Counter
from test_vet_exec import vetted

from sandlock import (
    PIPE,
    Allow,
    AsyncSandbox,
    Connect,
    Deny,
    Errno,
    Handler,
    HandlerContext,
    Result,
    SandlockError,
)

__all__ = ["soon"]
pytestmark = [
    pytest.mark.needs(landlock=6, kernel=(5, 19)),
    pytest.mark.usefixtures("lasting_thread"),
    pytest.mark.slow,
]


FULL = """
import os, resource, sys, time, warnings
import sandlock
audit, work = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
def vet(event, box):
    if event.argv[:2] == ("touch", "bad"):
        while os.path.getsize(audit) < 19500:
            time.sleep(0.01)
        time.sleep(0.5)
    return sandlock.Allow()
script = "touch bad & touch good; i=0; while [ $i -lt 60 ]; do /bin/true $i; i=$((i+1)); done; wait"
result = sandlock.run(["/bin/sh", "-c", script], presets=["system"], fs_writable=[work], cwd=work, audit=audit,
                      policy_fn=vet)
print(sorted(os.listdir(work)), {each.cause for each in result.denials}, "EFBIG" in result.audit_error)
"""


def test_a_disk_that_fills_up_while_somebody_thinks(visitor: ordinary.Person) -> None:
    work, audit = os.path.join(visitor.home, "work"), os.path.join(visitor.home, "audit")
    os.mkdir(work)
    os.chown(work, visitor.uid, visitor.gid)
    assert visitor.script(FULL, audit, work) == "['good'] {'audit'} True\n"


def test_a_host_without_descriptors(loop: Loop, tmp_path: Path) -> None:
    """Nothing can be opened while a question waits: what comes meanwhile is denied, and afterwards all is well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv == ("touch", "first"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
            await loop.sleep(0.5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return Deny("no")
        return Allow()

    try:
        script = "touch first & sleep 0.2; touch bad; wait; touch good"
        result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", script)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert made(tmp_path) in (["good"], ["bad", "good"])
    assert result.exit_code == 0
    assert "first" not in made(tmp_path)


def test_a_fork_of_the_host_while_questions_wait(loop: Loop, tmp_path: Path) -> None:
    """The copy has copies of everything, and ends nothing and answers nothing."""
    said: list[int] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] != "touch":
            return Allow()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.new_event_loop().run_until_complete(box.run(["touch", "copy"]))
            except SandlockError:
                status = 7
            finally:
                os._exit(status)
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            await loop.sleep(0.01)
        said.append(os.waitstatus_to_exitcode(done[1]))
        return Deny("no") if is_bad(event) else Allow()

    result = vetted(loop, tmp_path, vet, *BOTH)
    assert (made(tmp_path), said, result.exit_code) == (["good"], [7, 7], 0)


CONNECTS = """
import socket, sys
for _ in range(int(sys.argv[2])):
    with socket.socket() as s:
        error = s.connect_ex(("127.0.0.1", int(sys.argv[1])))
        assert error in (0, 13), error
"""


def test_callbacks_that_widen_and_narrow_at_once(loop: Loop) -> None:
    """In the end nothing is granted, whoever came last."""
    good = Counter()
    with tcp(socket.AF_INET) as bad:
        grant = f"127.0.0.1:{good.port}"

        async def vet(event: Any, box: AsyncSandbox) -> object:
            if not isinstance(event, Connect):
                return Allow()
            box.grant(net_allow=[grant])
            await loop.sleep(0.001)
            box.restrict(net_allow=[])
            return Allow() if event.port == good.port else Deny("no")

        async def main() -> list[Result]:
            async with AsyncSandbox(presets=["python"], policy_fn=vet, ceiling={"net_allow": [grant]}) as box:
                words = [sys.executable, "-c", CONNECTS]
                ports = [good.port, bad.port, good.port, bad.port]
                results = await loop.together(*(lambda p=port: box.run([*words, str(p), "60"]) for port in ports))
                assert box.policy.net_allow == ()
                return results  # type: ignore[no-any-return]

        assert [result.exit_code for result in loop.run(main)] == [0] * 4
        assert (bad.visits(), good.close()) == ([], 120)


# ---- answers that misbehave when they are looked at


class Unreadable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr()")

    __str__ = __repr__


class Raising(Handler):
    async def handle(self, ctx: HandlerContext) -> Any:
        raise Unreadable


class Giving(Handler):
    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def handle(self, ctx: HandlerContext) -> Any:
        return self.answer


@pytest.mark.parametrize("handler", [Raising(), Giving(Unreadable()), Giving(Errno(1, Unreadable()))])  # type: ignore[arg-type]
def test_what_a_handler_answers_ends_no_loop(loop: Loop, handler: Handler) -> None:
    """It is a denial, at once, and the loop of the host goes on."""

    async def main() -> Result:
        async with AsyncSandbox(presets=["system"], handlers={"uname": handler}) as box:
            denied = await box.run(["/bin/uname"], timeout=10)
            assert (await box.run(["/bin/true"])).ok
            return denied

    result = loop.run(main)
    assert (result.reason, [denial.cause for denial in result.denials]) == ("exited", ["handler-error"])


@pytest.mark.parametrize("waits", [True, False])
def test_a_callback_that_leaves_a_scope_open(tmp_path: Path, waits: bool) -> None:
    """What it has corrupted of trio's is put right: it is a denial, and the loop and further questions go on."""

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] == "touch":
            if waits:
                await trio.sleep(0.01)
            trio.CancelScope().__enter__()
        return Allow()

    result = vetted(Trio, tmp_path, vet, "/bin/sh", "-c", "touch bad; touch bad; /bin/true && exit 3")
    assert (result.exit_code, made(tmp_path)) == (3, [])
    assert ["corrupted" in denial.reason for denial in result.denials] == [True, True]


# ---- what is kept of questions and loops

KNOCKING = """
import os, socket, sys, threading, time
def knock(s):
    try: s.connect(("127.0.0.1", 9))
    except OSError: pass
for n in range(200):
    s = socket.socket()
    thread = threading.Thread(target=knock, args=(s,))
    thread.start()
    time.sleep(0.003)
    if sys.argv[1] == "gone": os.close(s.detach())
    thread.join()
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["gone", "there"])
def test_nothing_is_kept_of_verdicts_that_come_to_nothing(loop: Loop, tmp_path: Path, way: str) -> None:
    """The socket of each call is closed while somebody thinks: no record comes for which the verdict is kept."""

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Connect):
            await loop.sleep(0.006)
        return Allow()

    async def main() -> tuple[int, int]:
        options: dict[str, Any] = {"presets": ["python"], "policy_fn": vet, "audit": tmp_path / "audit"}
        async with (
            AsyncSandbox(**options) as box,
            box.start([sys.executable, "-c", KNOCKING, way], stdin=PIPE, stdout=PIPE) as process,
        ):
            assert await process.stdout.receive_some(100) == b"done\n"
            await loop.sleep(1.5)
            kept = len(process._running.execution._answered)
            await process.stdin.aclose()
            await process.wait()
        return kept, (tmp_path / "audit").read_bytes().count(b'"kind": "connect"')

    kept, written = loop.run(main)
    assert kept < 10
    assert written < 100 if way == "gone" else written == 200


def first_step(loop: asyncio.AbstractEventLoop, coroutine: Any, context: Any = None) -> Any:
    """A task factory that makes the first step at once, as asyncio.eager_task_factory does (Python 3.12)."""
    if coroutine.__qualname__ != "Desk.answer":
        return asyncio.Task(coroutine, loop=loop, context=context)
    ended: asyncio.Future[object] = loop.create_future()
    try:
        context.run(coroutine.send, None)
    except StopIteration as done:
        ended.set_result(done.value)
    except BaseException as error:
        ended.set_exception(error)
    return ended


def test_a_loop_that_runs_tasks_at_once(tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] == "touch":
            raise ValueError("bad")
        return Allow()

    async def main() -> tuple[Result, int]:
        asyncio.get_running_loop().set_task_factory(first_step)
        async with (
            AsyncSandbox(presets=["system"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet) as box,
            box.start(["/bin/sh", "-c", "touch bad; touch bad too; exit 3"]) as process,
        ):
            pending = process._running._answers._pending  # type: ignore[union-attr]
            return await process.wait(), len(pending)

    result, pending = asyncio.run(main())
    assert (result.exit_code, pending, made(tmp_path)) == (3, 0, [])
    assert [denial.cause for denial in result.denials] == ["callback-error"] * 2
    assert result.duration < 10


def test_a_loop_that_stops_for_good_before_its_run_ends() -> None:
    """Nobody is left to take the descriptor out of the loop: it goes with the loop (see `nothing_left_behind`)."""

    async def vet(event: Any, box: AsyncSandbox) -> object:
        return Allow()

    async def begin() -> None:
        await box.__aenter__()
        tasks.append(asyncio.ensure_future(box.run(["/bin/sleep", "0.3"])))
        await asyncio.sleep(0.15)

    tasks: list[asyncio.Task[Result]] = []
    loop = asyncio.new_event_loop()
    box = AsyncSandbox(presets=["system"], policy_fn=vet)
    loop.run_until_complete(begin())
    time.sleep(0.6)
    tasks[0].get_loop().close()


@pytest.mark.parametrize("what", ["dup", "spawn"])
def test_a_run_whose_questions_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Nothing of it stays: neither the tree nor its launch."""

    async def vet(event: Any, box: AsyncSandbox) -> object:
        return Allow()

    def fails(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "no more") if what == "dup" else RuntimeError("no more")

    target = ("sandlock._loop_answers.os.dup", fails) if what == "dup" else ("sandlock._async.LoopAnswers.start", fails)
    with monkeypatch.context() as patched:
        patched.setattr(*target)
        with pytest.raises(SandlockError if what == "dup" else RuntimeError, match=r"no more|EMFILE"):
            vetted(Asyncio, tmp_path, vet, *BOTH)
    assert made(tmp_path) == []
    assert vetted(Asyncio, tmp_path, vet, *BOTH).ok
