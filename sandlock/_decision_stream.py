"""The decisions of a sandbox as an async iterator, for trio and asyncio: a bounded buffer that runs fill and one task
empties. A reader that is too slow holds nobody up; what it misses is counted.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._record import replace
from ._trio_thread import in_trio
from .errors import PolicyError

if TYPE_CHECKING:
    from typing import Self

    from ._decisions import Decision


class DecisionStream:
    """From `AsyncSandbox.decisions`. Ends when the sandbox is closed, or by `close`."""

    def __init__(self, buffer: int, owner: int) -> None:
        if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1:
            raise PolicyError(f"buffer: {buffer!r} is no room; give a number of decisions, 1 or more", field="buffer")
        self.dropped = 0
        """How many decisions this reader missed so far."""
        self._room = buffer
        self._owner = owner
        self._lock = allocate_lock()
        self._waiting: deque[Decision] = deque()
        self._missed = 0
        self._ended = False
        self._waiters: set[tuple[trio.lowlevel.TrioToken, trio.Event]] = set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Decision:
        decision = await in_trio(self._owner, self._next)
        if decision is None:
            raise StopAsyncIteration
        return decision

    def close(self) -> None:
        """Nobody wants it any more: the iteration ends with what has come."""
        self.end()

    # From the threads of runs.

    def put(self, decision: Decision) -> None:
        """One more decision, if there is room."""
        with self._lock:
            if self._ended:
                return
            if len(self._waiting) >= self._room:
                self._miss(1)
                return
            if self._missed:
                decision, self._missed = replace(decision, dropped=self._missed), 0
            self._waiting.append(decision)
            self._rouse()

    def miss(self, count: int) -> None:
        """So many were lost on the way here."""
        with self._lock:
            self._miss(count)

    def end(self) -> None:
        """There are no more."""
        with self._lock:
            self._ended = True
            self._rouse()

    def _miss(self, count: int) -> None:
        self._missed += count
        self.dropped += count

    def _rouse(self) -> None:
        for token, ready in self._waiters:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(ready.set)

    async def _next(self) -> Decision | None:
        await trio.lowlevel.checkpoint()
        while True:
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
                if self._ended:
                    return None
                waiter = (trio.lowlevel.current_trio_token(), trio.Event())
                self._waiters.add(waiter)
            try:
                await waiter[1].wait()
            finally:
                with self._lock:
                    self._waiters.discard(waiter)
