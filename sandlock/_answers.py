"""Questions of a run, answered by the user's callback: in trio, in the caller's asyncio loop, or in a worker thread.

One task per run takes the questions, and one per question waits for its answer, so that a slow answer keeps nobody
else waiting. They are system tasks of trio's: a callback that fails must not end the caller's nursery. They end with
the run. Deadlines are the core's affair, for this loop may be blocked. (For asyncio see `_loop_answers`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
from abc import ABC, abstractmethod
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, TypeVar

import trio

from ._trio_thread import from_thread, outcome_of
from .events import Deny, Resolve, alike
from .handlers import HandlerContext, NativeHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from typing import Any

    from ._execution import Execution
    from .events import Event
    from .handlers import Handler

    Question = Event | HandlerContext
    Ask = Callable[[Question], Awaitable[object]]

T = TypeVar("T")
MAX_THREADS = 256
"""In which a plain callback of one run is asked at once; further questions wait for one of them."""
CLOSED_LOOK = 0.5
"""Seconds between two looks at whether an asyncio loop that has a question is closed."""


def asking(
    policy_fn: Callable[..., object] | None, box: object, handlers: Mapping[str, Handler | NativeHandler]
) -> Ask | None:
    """How to ask `policy_fn(event, box)` and the handlers in Python on behalf of who calls this now; None if there is
    nobody to ask."""
    asks = {name: asker(each.handle) for name, each in handlers.items() if not isinstance(each, NativeHandler)}
    ask = None if policy_fn is None else asker(policy_fn, box)
    if not asks:
        return ask

    async def either(event: Question) -> object:
        if isinstance(event, HandlerContext):
            return await asks[event.syscall](event)
        return Deny("there is no policy_fn to ask") if ask is None else await ask(event)

    return either


def asker(function: Callable[..., object], *others: object) -> Ask:
    """How to ask `function(event, *others)` on behalf of who calls this now: where it runs is decided here."""
    if not _is_async(function):
        threads: list[trio.CapacityLimiter] = []

        async def in_worker(event: Question) -> object:
            if not threads:  # of its own: callbacks that never return must not take the host's
                threads.append(trio.CapacityLimiter(MAX_THREADS))
            return await trio.to_thread.run_sync(function, event, *others, abandon_on_cancel=True, limiter=threads[0])

        return in_worker
    try:
        in_trio = trio.lowlevel.in_trio_task()
        loop = None if in_trio else asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None:

        async def here(event: Question) -> object:
            return await function(event, *others)  # type: ignore[misc]

        return here
    return InLoop(loop, function, *others)


class InLoop:
    """Asks an async function that belongs into an asyncio loop, with the context variables of who made this."""

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[..., object], *others: object) -> None:
        self.loop = loop
        self.context = contextvars.copy_context()
        self._function = function
        self._others = others

    async def __call__(self, event: Question) -> object:
        """From trio."""
        return await _ask_loop(self.loop, self.context, lambda: self.here(event))

    async def here(self, event: Question) -> object:
        """From that loop."""
        return await self._function(event, *self._others)  # type: ignore[misc]


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

    async def answer() -> object:
        try:
            return await call()  # type: ignore[misc]
        except SystemExit as error:  # a task that raises this ends the loop
            return error

    def begin() -> None:
        task: asyncio.Task[object] = loop.create_task(answer(), context=context)
        tasks.append(task)
        task.add_done_callback(done)

    loop.call_soon_threadsafe(begin)
    try:
        while not answered.is_set():
            with trio.move_on_after(CLOSED_LOOK):
                await answered.wait()
            if loop.is_closed() and not answered.is_set():
                raise RuntimeError("the asyncio loop of the callback was closed")
    finally:
        if not answered.is_set():
            with contextlib.suppress(RuntimeError):  # that loop is closed, and its tasks are gone
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
    return outcome[0]


class SyncAnswers:
    """Serves the questions of one run for sync code, in the thread sandlock-trio."""

    def __init__(self, execution: Execution, ask: Ask) -> None:
        self._answers = Answers(execution, ask)

    def start(self) -> None:
        """Starts to serve. Raises SandlockError."""

        async def begin() -> None:
            self._answers.start()

        from_thread(begin)

    def stop(self) -> None:
        """Ends what is pending, and waits for that."""
        from_thread(self._answers.stop)


class Desk(ABC):
    """Takes the questions of one run and has each answered by a task of its own, in whatever loop; questions that are
    alike by one for all of them."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._pending: dict[int, trio.CancelScope | asyncio.Task[None]] = {}
        self._others: dict[object, list[tuple[int, Question]]] = {}
        """Questions that are like one that is being asked: its answer does for all."""
        self._alone: set[int] = set()
        """Questions that are asked for themselves: what was answered to one like them rests on more than they share."""

    @abstractmethod
    async def ask(self, question: int, event: Question) -> object:
        """The callback's answer, or what it raised. Raises only when the question is over."""

    @abstractmethod
    def begin(self, question: int, event: Question) -> None:
        """Starts a task for this question."""

    @property
    @abstractmethod
    def ends(self) -> bool:
        """Whether no more questions shall be asked."""

    def take(self, wake_fd: int) -> list[tuple[int, Question]]:
        """The new questions; the tasks of those that are over are cancelled."""
        os.read(wake_fd, 8)
        new, gone = self._execution.questions()
        for question in gone:
            self._alone.discard(question)
            task = self._pending.pop(question, None)
            if task is not None:
                task.cancel()
        return [each for each in new if not self._execution.repeats(*each)]

    async def answer(self, question: int, event: Question) -> None:
        """Asks, and settles the question and those that are like it."""
        like = None if isinstance(event, HandlerContext) or question in self._alone else alike(event)
        if like in self._others:
            self._others[like].append((question, event))
            self._pending.pop(question, None)
            return
        others: list[tuple[int, Question]] = []
        if like is not None:
            self._others[like] = others
        answered = False
        try:
            answer = await self.ask(question, event)
            answered = not looks_into(event)
            self._execution.settle(question, event, answer)
            for each in others if answered else ():
                self._execution.settle(*each, answer)
            if not answered:
                self._alone.update(other for other, _ in others)
        finally:
            self._others.pop(like, None)
            self._pending.pop(question, None)
            self._alone.discard(question)
            if not answered and not self.ends:  # its caller is gone, or the answer was for it alone
                for each in others:
                    self.begin(*each)


def looks_into(event: Question) -> bool:
    """Whether its answer may rest on what `alike` knows nothing of: the environment, the programs above."""
    call = None if isinstance(event, HandlerContext | Resolve) else event.call
    return call is not None and call.looked_into


class Answers(Desk):
    """Serves the questions of one run in trio, from `start` to `stop`."""

    def __init__(self, execution: Execution, ask: Ask) -> None:
        super().__init__(execution)
        self._ask = ask
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._nursery: trio.Nursery

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
                    self._nursery = nursery
                    nursery.start_soon(self._attend)  # whatever a callback does to its nursery, it is this one
        finally:
            self._execution.run.stop_listening()
            self._ended.set()

    async def _attend(self) -> None:
        """Takes questions and answers them, until an answer has to wait: then somebody else attends."""
        attends = True

        def hand_over() -> None:
            nonlocal attends
            attends = False
            self._nursery.start_soon(self._attend)

        # One scope for all that is answered at once: whoever waits in it is the last one.
        with trio.CancelScope() as scope:
            while attends:
                await trio.lowlevel.wait_readable(self._execution.run.wake_fd)
                new = self.take(self._execution.run.wake_fd)
                for question, event in new[1:]:
                    self.begin(question, event)
                for question, event in new[:1]:
                    self._pending[question] = scope
                    # Here, not in a task of its own: most callbacks need not wait, and their program does.
                    await until_it_waits(self.answer(question, event), hand_over)

    async def ask(self, question: int, event: Question) -> object:
        """The callback's answer, or what it raised."""
        answer: object = None
        try:
            with trio.CancelScope():  # what it leaves open is closed here
                answer = await outcome_of(self._ask(event))
        except RuntimeError as error:
            return error
        return answer

    def begin(self, question: int, event: Question) -> None:
        """Starts a task for this question."""
        scope = self._pending[question] = trio.CancelScope()
        self._nursery.start_soon(self._answer_in, scope, question, event)

    async def _answer_in(self, scope: trio.CancelScope, question: int, event: Question) -> None:
        with scope:
            await self.answer(question, event)

    @property
    def ends(self) -> bool:
        """Whether no more questions shall be asked."""
        return self._scope.cancel_called


@coroutine
def until_it_waits(awaitable: Awaitable[T], waits: Callable[[], None]) -> Generator[Any, Any, T]:
    """Awaits, and calls `waits()` when that gives up control for the first time, if ever."""
    steps = awaitable.__await__()
    try:
        trap = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    waits()
    while True:
        try:
            sent = yield trap
        except BaseException as error:
            step = partial(steps.throw, error)
        else:
            step = partial(steps.send, sent)
        try:
            trap = step()
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
