"""`sandlock run --name`: a run that is a session, so that `ps`, `logs`, `pause` and `kill` know it."""

from __future__ import annotations

import signal
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import trio

from sandlock import INHERIT, AsyncSandbox, PolicyError
from sandlock.sessions.session import open_session

from .. import direct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sandlock import AsyncProcess, Policy, Result

__all__ = ["execute"]

ENDING = (signal.SIGTERM, signal.SIGHUP)


def execute(request: direct.Request, policy: Policy, command: list[str]) -> Result:
    """Runs a command as a session of this name. Raises what `sandlock run` tells of."""
    if request.text_of("audit") is not None:
        raise PolicyError("audit: a named run keeps a log anyway, see `sandlock logs`; leave it out", field="audit")
    interactive = bool(request.given.get("interactive"))
    with _terminal_signals_are_the_programs() if interactive else nullcontext():
        try:
            return trio.run(_run, request, policy, command, interactive)
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:  # it comes to whatever task was at work
                raise KeyboardInterrupt from None
            raise


async def _run(request: direct.Request, policy: Policy, command: list[str], interactive: bool) -> Result:
    name, profile = request.text_of("name"), request.text_of("profile") or ""
    async with (
        open_session(argv=command, desk=None, name=name, profile=profile) as session,
        AsyncSandbox(policy, audit=session.log) as box,
        box.start(command, stdin=INHERIT, stdout=INHERIT, stderr=INHERIT, interactive=interactive) as process,
    ):
        session.follow(box, process)
        with trio.open_signal_receiver(*ENDING) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_heed, signals, process)
                result = await process.wait()
                nursery.cancel_scope.cancel()
        await session.finish(result)
    return result


async def _heed(signals: AsyncIterator[int], process: AsyncProcess) -> None:
    async for _ in signals:
        process.kill()


@contextmanager
def _terminal_signals_are_the_programs() -> Iterator[None]:
    """A handler, not SIG_IGN: that one the program would inherit."""
    before = [(number, signal.signal(number, _not_ours)) for number in (signal.SIGINT, signal.SIGQUIT)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _not_ours(number: int, frame: object) -> None:
    """The terminal sends it to the program too."""
