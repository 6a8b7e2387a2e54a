"""What adapters need of an event loop, under trio and under asyncio alike."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import sniffio

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

__all__ = ["Deadline", "answer_of", "deadline", "in_thread", "new_lock", "receive"]


class Deadline:
    """Whether a deadline has passed."""

    def __init__(self) -> None:
        self.passed = False


@asynccontextmanager
async def deadline(seconds: float | None) -> AsyncIterator[Deadline]:
    """Ends the block when the time is up, and says so in `passed`; None: never. Nothing is raised."""
    found = Deadline()
    if sniffio.current_async_library() == "trio":
        import trio

        with trio.move_on_after(float("inf") if seconds is None else max(0.0, seconds)) as scope:
            yield found
        found.passed = scope.cancelled_caught
        return
    import asyncio

    limit = asyncio.timeout(None if seconds is None else max(0.0, seconds))
    try:
        async with limit:
            yield found
    except TimeoutError:
        if not limit.expired():
            raise
        found.passed = True


def new_lock() -> AbstractAsyncContextManager[None]:
    """A lock of this loop: who comes first has it first."""
    if sniffio.current_async_library() == "trio":
        import trio

        return trio.Lock()
    import asyncio

    return asyncio.Lock()


async def receive(connection: socket.socket, size: int) -> bytes:
    """The next bytes of a non-blocking socket, b"" at the end."""
    if sniffio.current_async_library() == "trio":
        import trio

        while True:
            try:
                return connection.recv(size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(connection)
    import asyncio

    return await asyncio.get_running_loop().sock_recv(connection, size)


async def in_thread(function: Callable[..., T], *arguments: object, left_behind: bool = False) -> T:
    """A plain function's answer, from a worker thread; what waits for a disk must not hold the loop.

    Who is cancelled waits for its end, for what it uses must not be taken from it; not if it is `left_behind`.
    """
    if sniffio.current_async_library() == "trio":
        import trio

        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=left_behind)
    import asyncio

    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if not left_behind:
            await asyncio.wait([work])
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # it has been looked at
        raise


async def answer_of(future: Future[T]) -> T:
    """What another thread answers. Raises what it has failed with."""
    if sniffio.current_async_library() == "trio":
        import trio

        event, token = trio.Event(), trio.lowlevel.current_trio_token()

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):  # nobody waits any more
                token.run_sync_soon(event.set)

        future.add_done_callback(tell)
        await event.wait()
        return future.result()
    import asyncio

    return await asyncio.wrap_future(future)
