"""Where async work runs: in the caller's own trio loop, or, for asyncio callers, in one trio loop of ours.

That loop lives in a daemon thread, `sandlock-trio`, started by the first asyncio caller and shared by all of
them. An asyncio loop that is blocked therefore stops nobody else: pipes are drained and time limits hold.

Rules:
1. A call ends in the caller only after it ended in trio: cancelling the asyncio task cancels the work, and
   waits.
2. Nothing here outlives a fork: the child has no such thread, and what it inherited says so.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar, TypeVarTuple

import sniffio
import trio
from outcome import Error, Outcome, Value

from .errors import InternalError, SandlockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


def check_owner(owner: int) -> None:
    """Raises SandlockError in a process other than `owner`."""
    if os.getpid() != owner:
        raise SandlockError("this sandbox belongs to the process that made it; after os.fork() make a new one")


async def in_trio(owner: int, function: Callable[[*Arguments], Awaitable[T]], *arguments: *Arguments) -> T:
    """What `await function(*arguments)` gives, run by trio. `owner`: the process that `function` belongs to.

    Raises SandlockError in another process, or when neither trio nor asyncio runs here.
    """
    check_owner(owner)
    if trio.lowlevel.in_trio_task():
        return await function(*arguments)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SandlockError("AsyncSandbox needs a running trio or asyncio loop; without one use Sandbox") from None
    return await _thread.call(Call(loop, lambda: function(*arguments)))


class Call(Generic[T]):
    """One piece of work that an asyncio task waits for. It sees the context variables of that task."""

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[T]]) -> None:
        self.ended: asyncio.Future[Outcome[T]] = loop.create_future()
        self._loop = loop
        self._function = function
        self._scope = trio.CancelScope()
        self._context = contextvars.copy_context()
        # Whoever asks in there which library runs must not hear what is true of the caller.
        self._context.run(sniffio.current_async_library_cvar.set, None)

    def start(self, nursery: trio.Nursery) -> None:
        """Starts the work. In the trio thread."""
        self._context.run(nursery.start_soon, self._work)

    def cancel(self) -> None:
        """Cancels the work. In the trio thread."""
        self._scope.cancel()

    def settle(self, outcome: Outcome[T]) -> None:
        """Hands the outcome to the caller's loop. The first one counts. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcome)
        except RuntimeError:  # that loop is closed: nobody waits any more
            return

    def _deliver(self, outcome: Outcome[T]) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)

    async def _work(self) -> None:
        outcome: Outcome[T] | None = None
        with self._scope:
            try:
                outcome = Value(await self._function())
            except Exception as error:
                outcome = Error(error)
        self.settle(outcome or Error(asyncio.CancelledError()))


class TrioThread:
    """The thread, started by the first call and again should it ever have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._calls: set[Call[object]] = set()

    async def call(self, call: Call[T]) -> T:
        """Runs the call in trio and waits for its end, whatever happens to the caller."""
        nursery, token = self._running()
        self._calls.add(call)  # type: ignore[arg-type]
        try:
            token.run_sync_soon(call.start, nursery)
            try:
                await asyncio.wait({call.ended})
            except BaseException as error:
                token.run_sync_soon(call.cancel)
                if not isinstance(error, GeneratorExit):  # an abandoned coroutine may not wait
                    await _patiently(call.ended)
                raise
            return call.ended.result().unwrap()
        except trio.RunFinishedError as error:
            raise InternalError("the thread sandlock-trio has ended") from error
        finally:
            self._calls.discard(call)

    def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Runs it in trio and waits for its end, from a thread without a loop. Raises InternalError."""
        nursery, token = self._running()
        ended = threading.Event()

        async def work() -> None:
            try:
                await function()
            finally:
                ended.set()

        try:
            token.run_sync_soon(nursery.start_soon, work)
        except trio.RunFinishedError as error:
            raise InternalError("the thread sandlock-trio has ended") from error
        while not ended.wait(1.0):
            if self._token is not token:
                raise InternalError("the thread sandlock-trio has ended")

    def _running(self) -> tuple[trio.Nursery, trio.lowlevel.TrioToken]:
        with self._lock:
            if self._token is None:
                ready = threading.Event()
                threading.Thread(target=self._main, args=(ready,), name="sandlock-trio", daemon=True).start()
                ready.wait()
            if self._nursery is None or self._token is None:
                raise SandlockError("the thread sandlock-trio cannot run here; too many open files?")
            return self._nursery, self._token

    def _main(self, ready: threading.Event) -> None:
        try:
            trio.run(self._serve, ready)
        finally:
            self._nursery = self._token = None
            for call in list(self._calls):
                call.settle(Error(InternalError("the thread sandlock-trio has ended")))
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery, self._token = nursery, trio.lowlevel.current_trio_token()
            ready.set()
            await trio.sleep_forever()


def from_thread(function: Callable[[], Awaitable[None]]) -> None:
    """Runs an async function in the thread sandlock-trio, and waits for its end. Raises SandlockError."""
    _thread.run(function)


async def outcome_of(awaitable: Awaitable[T]) -> T | BaseException:
    """What it gives; or what it raises, whatever that is, unless it is our own cancellation. Other people's code runs
    in system tasks, and what one of those raises ends the whole trio loop."""
    try:
        return await awaitable
    except BaseException as error:
        if isinstance(error, trio.Cancelled) and trio.current_effective_deadline() == -inf:
            raise
        if isinstance(error, GeneratorExit) and not trio.lowlevel.in_trio_run():  # we are thrown away
            raise
        return error


async def _patiently(future: asyncio.Future[T]) -> None:
    """Waits for the future through any number of cancellations."""
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            continue


_thread = TrioThread()


def _forget_thread() -> None:
    global _thread
    _thread = TrioThread()


os.register_at_fork(after_in_child=_forget_thread)
