"""What a command prints, for Strands: as it comes, as text, within a limit.

Rules: nothing that a program prints can be taken for a trailer of ours; what was denied comes last, on stderr.
"""

from __future__ import annotations

import codecs
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import trio
from strands.sandbox import StreamChunk

import sandlock
from sandlock.sessions.trailer import trailer, violations

from .text import without_forged_trailers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlock import AsyncProcess, Result

    from .sandbox import AgentSandbox

__all__ = ["Done", "carried_out"]

HELD = 64
"""Characters that are held back if they may begin a tag."""
TICK = 0.1
"""Seconds between looks at the clock."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    result: Result
    stdout: str
    stderr: str
    timed_out: bool = False


class _Stream:
    """One of its streams."""

    def __init__(self, name: Literal["stdout", "stderr"], put: Callable[[StreamChunk], None], limit: int) -> None:
        self._name, self._put, self._left = name, put, limit
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self._kept: list[str] = []
        self._cut = False

    async def pump(self, process: AsyncProcess) -> None:
        """Until its end. Beyond the limit it is read and dropped, so that nobody waits."""
        source = process.stdout if self._name == "stdout" else process.stderr
        assert source is not None
        while data := await source.receive_some():
            self._cut |= len(data) > self._left
            self._say(self._decode(data[: self._left]))
            self._left -= min(len(data), self._left)
        self._say(self._decode(b"", True), whole=True)
        if self._cut:
            self._say(f"\n[{self._name} cut]", whole=True)

    def tell(self, denied: str) -> None:
        """Adds a trailer, on a line of its own."""
        if denied:
            text = f"\n{denied}" if self._kept and not self._kept[-1].endswith("\n") else denied
            self._kept.append(text)
            self._put(StreamChunk(text, self._name))

    def text(self) -> str:
        """All that was said, but for trailers."""
        return without_forged_trailers("".join(self._kept))

    def _say(self, text: str, *, whole: bool = False) -> None:
        text, self._held = self._held + text, ""
        begins = text.rfind("<", max(0, len(text) - HELD))
        if begins >= 0 and not whole:
            text, self._held = text[:begins], text[begins:]
        if text := without_forged_trailers(text):
            self._kept.append(text)
            self._put(StreamChunk(text, self._name))


async def carried_out(
    box: AgentSandbox,
    command: str | Sequence[str],
    put: Callable[[StreamChunk], None],
    data: bytes | None,
    options: dict[str, Any],
    asking: Callable[[], bool] = lambda: False,
) -> Done:
    """Runs a command to its end, in trio. `data` is its stdin. Its time stands still while somebody is `asking`.

    Raises FileError: `cwd`; as AgentSandbox.start.
    """
    clock, options = _Clock(options["timeout"], asking), options | {"timeout": None}
    limit = box.box.policy.max_output
    out, err = _Stream("stdout", put, limit), _Stream("stderr", put, limit)
    stdin = sandlock.NULL if data is None else sandlock.PIPE
    try:
        async with box.start(command, stdin=stdin, **options) as process, trio.open_nursery() as nursery:
            nursery.start_soon(out.pump, process)
            nursery.start_soon(err.pump, process)
            if data is not None:
                nursery.start_soon(_send, process, data)
            nursery.start_soon(clock.watch, process)
            result = await process.wait()
            clock.over.cancel()
    except sandlock.ConfinementError as error:
        if error.errno != errno.ENOENT or error.step != "execute the program":
            raise
        return Done(sandlock.Result(exit_code=127), "", f"{command[0]}: command not found\n")
    printed, denied = (out.text(), err.text()), trailer(violations(result))
    err.tell(denied)
    separate = "\n" if denied and printed[1] and not printed[1].endswith("\n") else ""
    return Done(result, printed[0], printed[1] + separate + denied, clock.passed)


class _Clock:
    """Ends a program that takes too long; None: never."""

    def __init__(self, seconds: float | None, asking: Callable[[], bool]) -> None:
        self._left, self._asking = seconds, asking
        self.over = trio.CancelScope()
        self.passed = False

    async def watch(self, process: AsyncProcess) -> None:
        """Until its end, or that of the time."""
        with self.over:
            if self._left is None:
                return
            while self._left > 0:
                before = trio.current_time()
                await trio.sleep(min(TICK, self._left))
                if not self._asking():
                    self._left -= trio.current_time() - before
            self.passed = True
            process.kill()


async def _send(process: AsyncProcess, data: bytes) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.send_all(data)
        await process.stdin.aclose()
    except (BrokenPipeError, trio.BrokenResourceError):  # it wants no more
        pass
