"""Trio and asyncio by the same words, for tests that hold under both; and what a tree leaves to be seen outside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

Body = Callable[[], Awaitable[Any]]


class Trio:
    name = "trio"

    @staticmethod
    def run(body: Body) -> Any:
        return trio.run(body)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)

    @staticmethod
    async def cut_short(seconds: float, body: Body) -> bool:
        """Cancels `body` after so long. Whether that came before its end."""
        with trio.move_on_after(seconds) as scope:
            await body()
        return scope.cancelled_caught

    @staticmethod
    async def together(*bodies: Body) -> list[Any]:
        """What each gives. One that raises cancels the others; raises a group."""
        results: list[Any] = [None] * len(bodies)

        async def keep(index: int, body: Body) -> None:
            results[index] = await body()

        async with trio.open_nursery() as nursery:
            for index, body in enumerate(bodies):
                nursery.start_soon(keep, index, body)
        return results


class Asyncio:
    name = "asyncio"

    @staticmethod
    def run(body: Body) -> Any:
        async def main() -> Any:
            return await body()

        return asyncio.run(main())

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @staticmethod
    async def cut_short(seconds: float, body: Body) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await body()
        except TimeoutError:
            return True
        return False

    @staticmethod
    async def together(*bodies: Body) -> list[Any]:
        async def task(body: Body) -> Any:
            return await body()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(task(body)) for body in bodies]
        return [each.result() for each in tasks]


Loop = type[Trio] | type[Asyncio]
LOOPS: tuple[Loop, ...] = (Trio, Asyncio)


def alive(mark: str) -> list[str]:
    """The processes that have this word on their command line, zombies not counted, as seen in /proc."""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in words:
            found.append(f"{pid} {words!r}")
    return found


def wait_alive(mark: str, wanted: int, seconds: float = 30.0) -> list[str]:
    """Waits until there are exactly so many; returns those that there are then."""
    limit = time.monotonic() + seconds
    while len(found := alive(mark)) != wanted and time.monotonic() < limit:
        time.sleep(0.005)
    return found
