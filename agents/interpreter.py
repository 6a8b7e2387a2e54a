"""A Python that lives on between pieces of code: what one defines, the next one has.

Rules: code and answers go through pipes as JSON, one object a line. What the code prints is captured; what its children
print is not. An answer is untrusted text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sandlock

from .long_lived import LongLivedPython, NoLineError
from .loops import deadline

if TYPE_CHECKING:
    from sandlock import AsyncProcess, AsyncSandbox

__all__ = ["CodeAnswer", "Interpreter"]

MAX_ANSWER = 16 * 2**20
"""Bytes: room for output and value, each of LIMIT characters, of which JSON makes up to six bytes."""

# Runs inside: reads {"code", "id"}, answers {"id", "output", "value", "error"}. Nothing of it is trusted outside.
DRIVER = r"""
import ast, contextlib, io, json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
os.dup2(2, 1)
questions = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="surrogateescape")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.stdin = open(os.devnull)
space = {"__name__": "__main__", "__builtins__": __builtins__}
class Limited(io.StringIO):
    def write(self, text):
        room = LIMIT - self.tell()
        return super().write(text[:room]) if room > 0 else len(text)
LIMIT = 2**20
def carry_out(code):
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<code>", "exec"), space)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), "<code>", "eval"), space)
    return None if value is None else repr(value)[:LIMIT]
for line in questions:
    question = json.loads(line)
    space.update(question.get("variables", {}))
    output, value, error = Limited(), None, None
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            value = carry_out(question["code"])
    except BaseException as raised:
        kind = type(raised)
        text = "".join(traceback.format_exception_only(kind, raised)).strip()
        frames = [each for each in traceback.extract_tb(raised.__traceback__) if each.filename == "<code>"]
        where = f" (line {frames[-1].lineno})" if frames else ""
        error = {"type": kind.__name__, "text": text[:20000], "where": where}
        if isinstance(raised, SystemExit):
            error["text"] = f"SystemExit: {raised.code}"
    answer = {"id": question["id"], "output": output.getvalue(), "value": value, "error": error}
    answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
    answers.flush()
"""


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """What became of one piece of code."""

    output: str
    """What it printed."""
    value: str | None = None
    """The repr() of a last expression that is not None."""
    error: str = ""
    """The exception, in words; "" for none."""
    timed_out: bool = False
    restarted: bool = False
    """The interpreter is gone, with all that was defined: it ran out of time, or ended."""
    denials: tuple[sandlock.Denial, ...] = ()
    """What was denied to it, or to what it has started, meanwhile."""

    @property
    def ok(self) -> bool:
        """Whether it ran to its end."""
        return not self.error and not self.timed_out


class Interpreter(LongLivedPython):
    """A long-lived Python in a sandbox. `async with Interpreter(box) as python: await python.run("x = 1")`."""

    def __init__(
        self,
        box: AsyncSandbox,
        *,
        program: str = "python3",
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        super().__init__(box, DRIVER, program=program, cwd=cwd, env=env)
        self._count = 0

    async def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        variables: dict[str, Any] | None = None,
        call_id: str | None = None,
    ) -> CodeAnswer:
        """Runs one piece of code. `variables`: JSON data that it finds defined. Raises SandlockError, TypeError."""
        async with self._turn:
            return await self._run(code, timeout, variables, call_id)

    async def _run(
        self, code: str, timeout: float | None, variables: dict[str, Any] | None, call_id: str | None
    ) -> CodeAnswer:
        self._count += 1
        question = {"id": self._count, "code": code, "variables": variables or {}}
        line = json.dumps(question).encode("utf-8", "surrogateescape") + b"\n"
        answer: CodeAnswer | None = None
        process = await self._started(call_id)
        assert process.stdin is not None
        before = process.denials
        try:
            async with deadline(timeout) as limit:
                await process.stdin.send_all(line)
                answer = await self._answer(process)
        except BrokenPipeError:
            limit.passed = False
        except BaseException:  # cancelled in the middle: its answer would be taken for the next one's
            await self.close()
            raise
        denials = tuple(each for each in process.denials if each not in before)
        if answer is not None:
            return replace(answer, denials=denials)
        await self.close()
        what = "it ran out of time" if limit.passed else "the interpreter ended"
        return CodeAnswer(output="", error=what, timed_out=limit.passed, restarted=True, denials=denials)

    async def _answer(self, process: AsyncProcess) -> CodeAnswer | None:
        """The next answer; None if there will be none, or what comes is none."""
        try:
            found = json.loads(await self._line(process, MAX_ANSWER))
        except (NoLineError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or found.get("id") != self._count:
            return None
        value, error = found.get("value"), found.get("error")
        text = ""
        if isinstance(error, dict):
            text = f"{error.get('text', 'error')}{error.get('where', '')}"
        return CodeAnswer(
            output=str(found.get("output", "")), value=value if isinstance(value, str) else None, error=text
        )
