"""Questions put to a program of the user's, outside the sandbox: one process for each, the question as JSON on its
stdin, the answer as JSON on its stdout.

Rules: no shell; it starts in "/", so that nothing of the workspace, which the sandboxed program may write, is taken for
a module or a setting of it. When it is too slow its whole process group is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from sandlock import PolicyError

from .channels import LONGEST_ANSWER, AnswerError, Channel, question_line, read_json, refuse_inside, serve_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .desk import Desk
    from .questions import Question

__all__ = ["ProgramChannel"]

DRAIN = 0.2
"""Seconds that output may still come after the program has ended, from what it left behind."""


class ProgramChannel(Channel):
    """`command`: its words; those that name existing files are taken from the current directory, now. `seconds`: that
    it may take for a question. Raises PolicyError if there is no such program."""

    def __init__(
        self, command: Sequence[str], *, seconds: float = 60.0, stderr: int | None = subprocess.DEVNULL
    ) -> None:
        if not command:
            raise PolicyError("ask: exec: without a command; write exec:CMD")
        program = shutil.which(os.path.abspath(command[0]) if "/" in command[0] else command[0])
        if program is None:
            raise PolicyError(f"ask: exec: {command[0]!r} is no program here; name one that can be executed")
        self.name = f"exec:{os.path.basename(program)}"
        self._words = [os.path.abspath(program), *(_from_here(word) for word in command[1:])]
        self._seconds = seconds
        self._stderr = stderr

    def check(self, writable: Iterable[str]) -> None:
        """Refuses a program, or a file among its words, that the sandbox may write. Raises PolicyError."""
        refuse_inside("ask: exec", [word for word in self._words if word.startswith("/")], writable)

    async def serve(self, desk: Desk) -> None:
        """See Channel."""
        await serve_each(desk, self.name, self._ask, seconds=self._seconds)

    async def _ask(self, question: Question) -> object:
        try:
            process = await trio.lowlevel.open_process(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise AnswerError(f"it cannot be run: {error.strerror}") from None
        try:
            data = await _exchange(process, question_line(question))
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
        if process.returncode != 0:
            code = process.returncode or 0
            raise AnswerError(f"it ended with {f'signal {-code}' if code < 0 else f'exit {code}'}")
        return read_json(data)


async def _exchange(process: trio.Process, question: bytes) -> bytes:
    """Its output, at most a byte more than an answer may have. The process has ended, and is not reaped yet."""
    assert process.stdin is not None
    assert process.stdout is not None
    output, stdin, stdout = bytearray(), process.stdin, process.stdout
    pidfd = os.pidfd_open(process.pid)

    async def feed() -> None:
        with suppress(trio.BrokenResourceError):  # it need not read what it is asked
            await stdin.send_all(question)
        await stdin.aclose()

    try:
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                while len(output) <= LONGEST_ANSWER and (block := await stdout.receive_some(8192)):
                    output.extend(block)
                if len(output) > LONGEST_ANSWER:
                    os.killpg(process.pid, signal.SIGKILL)

            nursery.start_soon(feed)
            nursery.start_soon(take)
            await trio.lowlevel.wait_readable(pidfd)
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN
    finally:
        os.close(pidfd)
    if len(output) > LONGEST_ANSWER:
        raise AnswerError(f"the answer is longer than {LONGEST_ANSWER} bytes")
    return bytes(output)


async def _end(process: trio.Process) -> None:
    """Kills what is left of its process group. Nobody has reaped its leader yet, so the number is nobody else's."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            await stream.aclose()


def _from_here(word: str) -> str:
    return os.path.abspath(word) if not word.startswith("-") and os.path.exists(word) else word
