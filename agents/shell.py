"""A shell that lives on between commands: directory, variables and functions stay.

Rules: a command ends where the shell says so, with a word that is new each time; a command that prints it lies to
nobody but its own caller. What cannot be ended in time takes the shell with it, and the next command gets a new one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING

import sandlock

from .long_lived import LongLived
from .loops import deadline

if TYPE_CHECKING:
    from sandlock import AsyncProcess, AsyncSandbox

__all__ = ["Shell", "ShellAnswer"]

MAX_OUTPUT = 4 * 2**20
"""Bytes of one command's output that are kept."""


@dataclass(frozen=True, slots=True)
class ShellAnswer:
    """What became of one command."""

    output: str
    """Standard output and standard error, as they came."""
    exit_code: int
    timed_out: bool = False
    truncated: bool = False
    restarted: bool = False
    """The shell is gone, with its directory and variables: it ran out of time, or ended."""
    denials: tuple[sandlock.Denial, ...] = ()
    """What was denied to it, or to what it has started, meanwhile."""


class Shell(LongLived):
    """A long-lived bash in a sandbox. `async with Shell(box) as shell: await shell.run("cd src")`."""

    def __init__(self, box: AsyncSandbox, *, cwd: str | None = None, env: dict[str, str] | None = None) -> None:
        super().__init__(box, ["bash", "--noprofile", "--norc"], stderr=sandlock.STDOUT, cwd=cwd, env=env)

    async def run(self, command: str, *, timeout: float | None = None, call_id: str | None = None) -> ShellAnswer:
        """Runs one command line, or several lines, to its end. `timeout` in seconds.

        `call_id` is that of the shell's first command: all belong to one run. Raises SandlockError.
        """
        async with self._turn:
            return await self._run(command, timeout, call_id)

    async def _run(self, command: str, timeout: float | None, call_id: str | None) -> ShellAnswer:
        process = await self._started(call_id)
        assert process.stdin is not None
        word, before = os.urandom(12).hex(), process.denials
        # eval: a syntax error must end the command, not the shell. /dev/null: a command that reads eats no commands.
        line = f"eval {quote(command)} </dev/null 2>&1\nprintf '\\n%s %d\\n' {word} $?\n"
        answer = None
        try:
            async with deadline(timeout) as limit:
                await process.stdin.send_all(line.encode("utf-8", "surrogateescape"))
                answer = await self._read(process, word.encode())
        except BrokenPipeError:
            limit.passed = False
        except BaseException:  # cancelled in the middle: nobody knows where the shell is
            await self.close()
            raise
        denials = tuple(each for each in process.denials if each not in before)
        if answer is None:
            code = 124 if limit.passed else 1
            answer = ShellAnswer(output="", exit_code=code, timed_out=limit.passed, restarted=True)
        if answer.restarted:
            await self.close()
        return replace(answer, denials=denials)

    async def _read(self, process: AsyncProcess, word: bytes) -> ShellAnswer:
        """Up to the word, or to the shell's end."""
        assert process.stdout is not None
        ending = re.compile(rb"\n" + word + rb" (\d+)\n\Z")
        kept, dropped = bytearray(), False
        while True:
            chunk = await process.stdout.receive_some()
            kept += chunk
            found = ending.search(kept, max(0, len(kept) - 64))
            if found is not None:
                text = bytes(kept[: found.start()]).decode("utf-8", "replace")
                return ShellAnswer(output=text, exit_code=int(found[1]), truncated=dropped)
            if not chunk:
                code = (await process.wait()).exit_code
                return ShellAnswer(bytes(kept).decode("utf-8", "replace"), code, truncated=dropped, restarted=True)
            if len(kept) > MAX_OUTPUT:
                dropped = True
                del kept[MAX_OUTPUT // 2 : -4096]
