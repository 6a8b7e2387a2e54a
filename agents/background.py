"""Commands whose background programs live on after them, until the sandbox is closed.

Rules: a small shell stands above the command: it says how that ended and then waits, so that the tree stays. What is
printed goes to files without names, which hold nobody up; a program that prints for ever fills them as it could fill
the workspace. Where nothing was left in the background, the tree ends at once; where that has ended since, with the
next command.
"""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import AsyncExitStack
from typing import IO, TYPE_CHECKING, Any

import sandlock

from .loops import deadline, receive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock import AsyncProcess, AsyncSandbox, Result

__all__ = ["Background"]

# Its stdin is a socket: the ending goes out by it, and its end is the word to leave.
SHELL = '"$@" </dev/null; echo $? >&0; exec >&- 2>&-; read -r word'


class Background:
    """Runs commands, and holds what they have left behind."""

    def __init__(self, box: AsyncSandbox) -> None:
        self._box = box
        self._left: list[tuple[int, AsyncExitStack]] = []
        """The shell of each tree, and what it holds."""

    async def aclose(self) -> None:
        """Ends all that was left behind."""
        left, self._left = self._left, []
        for _, stack in left:
            await stack.aclose()

    async def _end_what_has_ended(self) -> None:
        """Shells whose background programs are gone: each holds processes and descriptors of ours."""
        for each in list(self._left):
            shell, stack = each
            if each in self._left and _others(shell) == set():
                self._left.remove(each)
                await stack.aclose()

    async def run(
        self,
        words: Sequence[str],
        *,
        timeout: float | None,
        env: Mapping[str, str] | None,
        cwd: str | None,
        call_id: str,
        stderr: int,
    ) -> Result:
        """Runs a command to its end and returns its Result. Cancelled, or out of time, it ends its whole tree."""
        await self._end_what_has_ended()
        stack = AsyncExitStack()
        try:
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            ours.setblocking(False)
            out = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
            err = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            started = self._box.start(
                ["sh", "-c", SHELL, "sh", *words],
                stdin=theirs,
                stdout=out,
                stderr=sandlock.STDOUT if stderr == sandlock.STDOUT else err,
                env=env,
                cwd=cwd,
                call_id=call_id,
            )
            process = await stack.enter_async_context(started)
            theirs.close()
            said = None
            async with deadline(timeout) as limit:
                said = await _said(ours)
            result = await self._result(process, said, limit.passed, words)
        except BaseException:
            await stack.aclose()
            raise
        kept = self._box.policy.max_output
        texts = {"stdout": _content(out, kept), "stderr": _content(err, kept)}
        cut = frozenset(
            name for name, file in (("stdout", out), ("stderr", err)) if os.fstat(file.fileno()).st_size > kept
        )
        if said is not None and not limit.passed and _others(process.pid):
            self._left.append((process.pid, stack))
        else:
            await stack.aclose()
        return sandlock.Result(**result | texts | {"truncated": cut, "call_id": call_id})

    async def _result(
        self, process: AsyncProcess, said: int | None, timed_out: bool, words: Sequence[str]
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {"argv": tuple(words), "denials": process.denials}
        if timed_out:
            process.kill()
            await process.wait()
            return facts | {"exit_code": 124, "timed_out": True, "reason": "timeout"}
        if said is None:  # the shell itself is gone: killed, or it never was
            ended = await process.wait()
            facts["denials"] = ended.denials
            return facts | {"exit_code": ended.exit_code, "signal": ended.signal, "reason": ended.reason}
        return facts | {"exit_code": said}


async def _said(ours: socket.socket) -> int | None:
    """The exit code that the shell says; None if it ended without a word."""
    text = b""
    while not text.endswith(b"\n"):
        more = await receive(ours, 16)
        text += more
        if not more or len(text) > 16:
            return None
    return int(text) & 0xFF if text.strip().isdigit() else None


def _content(file: IO[bytes], limit: int) -> bytes:
    """What is in it now; its writers share its position, which is not ours to move."""
    return os.pread(file.fileno(), limit, 0)


def _others(shell: int) -> set[int] | None:
    """The other processes in the tree of this shell: its children, and those that its reaper has taken over. None: the
    shell itself is gone."""
    try:
        with open(f"/proc/{shell}/stat", "rb") as file:
            above = int(file.read().rpartition(b")")[2].split()[1])
        found = _children(shell) | _children(above)
    except (OSError, ValueError):
        return None
    return found - {shell}


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            found |= {int(word) for word in file.read().split()}
    return found
