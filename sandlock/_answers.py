"""Questions of a run, answered by the user's callback: in trio, in the caller's asyncio loop, or in a worker thread.

One task per run takes the questions, and one per question waits for its answer, so that a slow answer keeps nobody
else waiting. They are system tasks of trio's: a callback that fails must not end the caller's nursery. They end with
the run. Deadlines are the core's affair, for this loop may be blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
from typing import TYPE_CHECKING

import trio

from ._trio_thread import from_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._execution import Execution
    from .events import Event

    Ask = Callable[[Event], Awaitable[object]]


def asker(policy_fn: Callable[..., object], box: object) -> Ask:
    """How to ask `policy_fn(event, box)` on behalf of who calls this now: where it runs is decided here."""
    if not _is_async(policy_fn):

        async def in_worker(event: Event) -> object:
            return await trio.to_thread.run_sync(policy_fn, event, box, abandon_on_cancel=True)

        return in_worker
    try:
        in_trio = trio.lowlevel.in_trio_task()
        loop = None if in_trio else asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None:

        async def here(event: Event) -> object:
            return await policy_fn(event, box)  # type: ignore[misc]

        return here
    home, context = loop, contextvars.copy_context()

    async def in_loop(event: Event) -> object:
        return await _ask_loop(home, context, lambda: policy_fn(event, box))

    return in_loop


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


async def _ask_loop(
    loop: asyncio.AbstractEventLoop, context: contextvars.Context, call: Callable[[], object]
) -> object:
    """Runs a coroutine function as a task of an asyncio loop of another thread. Cancelled, it cancels the task."""
    answered = trio.Event()
    token = trio.lowlevel.current_trio_token()
    outcome: list[object] = [asyncio.CancelledError("the callback was cancelled")]
    tasks: list[asyncio.Task[object]] = []

    def done(task: asyncio.Task[object]) -> None:
        if not task.cancelled():
            error = task.exception()
            outcome[0] = task.result() if error is None else error
        try:
            token.run_sync_soon(answered.set)
        except trio.RunFinishedError:
            return

    def begin() -> None:
        task: asyncio.Task[object] = loop.create_task(call(), context=context)  # type: ignore[arg-type]
        tasks.append(task)
        task.add_done_callback(done)

    loop.call_soon_threadsafe(begin)
    try:
        await answered.wait()
    finally:
        if not answered.is_set():
            with contextlib.suppress(RuntimeError):  # that loop is closed, and its tasks are gone
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
    return outcome[0]


class SyncAnswers:
    """Serves the questions of one run for sync code, in the thread sandlock-trio."""

    def __init__(self, execution: Execution, policy_fn: Callable[..., object], box: object) -> None:
        self._answers = Answers(execution, asker(policy_fn, box))

    def start(self) -> None:
        """Starts to serve. Raises SandlockError."""

        async def begin() -> None:
            self._answers.start()

        from_thread(begin)

    def stop(self) -> None:
        """Ends what is pending, and waits for that."""
        from_thread(self._answers.stop)


class Answers:
    """Serves the questions of one run, from `start` to `stop`."""

    def __init__(self, execution: Execution, ask: Ask) -> None:
        self._execution = execution
        self._ask = ask
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._pending: dict[int, trio.CancelScope] = {}

    def start(self) -> None:
        """Starts to serve. In trio."""
        trio.lowlevel.spawn_system_task(self._serve, context=contextvars.copy_context())

    async def stop(self) -> None:
        """Ends what is pending; what still comes is denied. Uncancellable, and short."""
        self._execution.run.stop_listening()
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def _serve(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    while True:
                        await trio.lowlevel.wait_readable(self._execution.run.wake_fd)
                        self._take(nursery)
        finally:
            self._execution.run.stop_listening()
            self._ended.set()

    def _take(self, nursery: trio.Nursery) -> None:
        os.read(self._execution.run.wake_fd, 8)
        new, gone = self._execution.questions()
        for question in gone:
            scope = self._pending.pop(question, None)
            if scope is not None:
                scope.cancel()
        for question, event in new:
            if self._execution.repeats(question, event):
                continue
            scope = self._pending[question] = trio.CancelScope()
            nursery.start_soon(self._answer, question, event, scope)

    async def _answer(self, question: int, event: Event, scope: trio.CancelScope) -> None:
        with scope:
            try:
                answer = await self._ask(event)
            except Exception as error:
                answer = error
            self._execution.settle(question, event, answer)
        self._pending.pop(question, None)
