"""Questions of a run, answered in the asyncio loop that its caller and the callback live in.

They do not go by way of the trio thread: that would be two more changes of threads for each question, some 200 us.

Rules: the trio thread starts and stops this; everything else happens in the loop. Nothing waits for the loop, which may
be blocked, or gone for good: then the core's deadlines decide, or nobody listens any more, which denies.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._answers import Desk

if TYPE_CHECKING:
    from ._answers import InLoop, Question
    from ._execution import Execution

LOOK = 0.2
"""Seconds between two looks at whether the loop is closed, which tells nobody."""


class LoopAnswers(Desk):
    """Serves the questions of one run in an asyncio loop, from `start` to `stop`, which are called in trio."""

    def __init__(self, execution: Execution, asks: InLoop) -> None:
        super().__init__(execution)
        self._asks = asks
        self._loop = asks.loop
        self._ends = False
        self._scope = trio.CancelScope()
        self._wake_fd = -1

    def start(self) -> None:
        """Starts to serve."""
        self._wake_fd = os.dup(self._execution.run.wake_fd)  # the loop's own: it may let go of it late
        trio.lowlevel.spawn_system_task(self._mind_loop)
        if not self._tell(self._enter):
            self._execution.run.stop_listening()
            self._close()

    async def stop(self) -> None:
        """Ends what is pending; what still comes is denied."""
        self._ends = True
        self._execution.run.stop_listening()
        self._scope.cancel()
        if not self._tell(self._leave):
            self._close()

    async def _mind_loop(self) -> None:
        with self._scope:
            while not self._loop.is_closed():  # noqa: ASYNC110 (there is nothing to wait for)
                await trio.sleep(LOOK)
            self._execution.run.stop_listening()

    def _tell(self, function: object) -> bool:
        """Has the loop call this. False if it is closed."""
        try:
            self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]
        except RuntimeError:
            return False
        return True

    def _close(self) -> None:
        wake_fd, self._wake_fd = self._wake_fd, -1
        if wake_fd >= 0:
            os.close(wake_fd)

    def __del__(self) -> None:
        if self._execution.is_ours:  # else the number may mean something else
            self._close()  # the loop has forgotten us before it came to `_leave`

    # In the loop ------------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        if not self._ends:
            self._loop.add_reader(self._wake_fd, self._attend)

    def _leave(self) -> None:
        self._loop.remove_reader(self._wake_fd)
        self._close()
        pending, self._pending = self._pending, {}
        for task in pending.values():
            task.cancel()

    def _attend(self) -> None:
        try:
            with suppress(BlockingIOError):
                for question, event in self.take(self._wake_fd):
                    self.begin(question, event)
        except BaseException:
            self._execution.run.stop_listening()
            self._loop.remove_reader(self._wake_fd)
            raise

    def begin(self, question: int, event: Question) -> None:
        """Starts a task for this question."""
        self._pending[question] = trio.CancelScope()  # until there is a task: some loops run it before they give it
        task = self._loop.create_task(self.answer(question, event), context=self._asks.context)
        if question in self._pending:
            self._pending[question] = task

    async def ask(self, question: int, event: Question) -> object:
        """The callback's answer, or what it raised."""
        try:
            return await self._asks.here(event)
        except BaseException as error:
            if question not in self._pending:  # it is over
                raise
            if isinstance(error, KeyboardInterrupt):  # the loop's affair, once the question is answered
                self._loop.call_soon(_raise, error)
            return error  # also when the callback has cancelled itself, or the loop ends: no approval

    @property
    def ends(self) -> bool:
        """Whether no more questions shall be asked."""
        return self._ends


def _raise(error: BaseException) -> None:
    raise error
