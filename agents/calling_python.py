"""A Python that lives on, whose code calls functions of the application: outside, by name, with values of JSON.

    found = await python.run("answer = look_up('x')", functions=["look_up"])
    while isinstance(found, Call):
        found = await python.answer(value=look_up(*found.args, **found.kwargs))

Rules: whatever comes out is untrusted: JSON, bounded in length and depth, never unpickled. What is no message of this
step ends the interpreter. Who calls this decides which functions there are, and has them carried out.
"""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import sandlock

from . import calling_python_inside
from .calling_python_inside import DEEPEST, plain
from .long_lived import LongLivedPython, NoLineError
from .loops import deadline

if TYPE_CHECKING:
    from collections.abc import Collection

    from sandlock import AsyncProcess, AsyncSandbox

__all__ = ["Call", "CallingPython", "StepAnswer"]

LONGEST_MESSAGE = 8 * 2**20
"""Bytes: room for what is printed and a value, each in its greatest length and as JSON."""
LONGEST_ERROR = 20_000


@dataclass(frozen=True, slots=True)
class Call:
    """The code calls a function of the application, and waits for its `answer`."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What became of one piece of code. All of it is the code's own words."""

    output: str = ""
    """What it printed."""
    value: Any = None
    """The last expression: JSON, or its str()."""
    final: Call | None = None
    """The final function, which has ended it, with its arguments."""
    error: str = ""
    """The exception, or how the interpreter ended, in words; "" for none."""
    line: int | None = None
    """Of the code, where it was raised."""
    timed_out: bool = False
    restarted: bool = False
    """The interpreter is gone, with all that was defined."""
    denials: tuple[sandlock.Denial, ...] = ()
    """What was denied to it, or to what it has started, meanwhile."""


@dataclass(slots=True)
class _Step:
    final: frozenset[str]
    left: float | None
    before: Counter[sandlock.Denial]
    id: str = field(default_factory=lambda: os.urandom(8).hex())


class CallingPython(LongLivedPython):
    """One step at a time: `run`, then `answer` for each call, until there is a StepAnswer."""

    def __init__(
        self,
        box: AsyncSandbox,
        *,
        program: str = "python3",
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        source = inspect.getsource(calling_python_inside)
        super().__init__(box, source, program=program, cwd=cwd, env=env)
        self._step: _Step | None = None

    @property
    def running(self) -> bool:
        """Whether there is an interpreter, with what earlier code has defined."""
        return self._process is not None

    async def close(self) -> None:
        """As LongLived.close: what was defined is gone."""
        self._step = None
        await super().close()

    async def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        variables: dict[str, Any] | None = None,
        functions: Collection[str] = (),
        final: Collection[str] = (),
    ) -> Call | StepAnswer:
        """Begins one piece of code, which finds `variables`, `functions` and `final` functions defined.

        `timeout`: seconds of its own; those of calls do not count. Raises SandlockError; TypeError: a variable.
        """
        if self._step is not None:
            raise sandlock.SandlockError("a step is not at its end yet; answer its call first, or close it")
        variables = plain(variables or {})
        process = await self._started(None)
        self._step = step = _Step(frozenset(final), timeout, Counter(process.denials))
        question: dict[str, Any] = {"code": code, "variables": variables}
        question |= {"functions": list(functions), "final": list(final)}
        return await self._exchange(process, step, question)

    async def answer(self, *, value: Any = None, error: str | None = None) -> Call | StepAnswer:
        """Gives the call that waits its value, JSON, or an error in words, and goes on. Raises SandlockError."""
        if self._process is None or self._step is None:
            raise sandlock.SandlockError(
                "no call waits for an answer; the interpreter was closed meanwhile, or has answered"
            )
        return await self._exchange(self._process, self._step, {"value": value} if error is None else {"error": error})

    async def _exchange(self, process: AsyncProcess, step: _Step, message: dict[str, Any]) -> Call | StepAnswer:
        """Sends a message and takes what comes back; what fails, or is cancelled, ends the interpreter."""
        assert process.stdin is not None
        line = json.dumps({"step": step.id, **message}).encode() + b"\n"
        began, problem, found = monotonic(), "", None
        try:
            async with deadline(step.left) as limit:
                await process.stdin.send_all(line)
                found = await self._received(process, step)
        except (NoLineError, BrokenPipeError) as error:
            problem = str(error) if isinstance(error, NoLineError) else "the interpreter ended"
        except BaseException:
            await self.close()
            raise
        ended = bool(problem) or limit.passed
        if not ended and isinstance(found, Call):
            step.left = None if step.left is None else step.left - (monotonic() - began)
            return found
        denials = tuple((Counter(process.denials) - step.before).elements())
        if not ended and isinstance(found, StepAnswer):
            self._step = None
            return replace(found, denials=denials)
        await self.close()
        problem = problem or "it ran out of time"
        return StepAnswer(error=problem, timed_out=limit.passed, restarted=True, denials=denials)

    async def _received(self, process: AsyncProcess, step: _Step) -> Call | StepAnswer:
        """The next message of this step. Raises NoLineError."""
        line = await self._line(process, LONGEST_MESSAGE)
        try:
            return _understood(json.loads(line), step)
        except (ValueError, TypeError, RecursionError) as error:
            raise NoLineError("the interpreter was ended: what it answered is no answer") from error


# What comes out: none of it is believed -------------------------------------------------------------------------------


def _understood(message: Any, step: _Step) -> Call | StepAnswer:
    """A call, or the end of the step. Raises ValueError, TypeError."""
    found = _clean(plain(message, DEEPEST + 2))
    if not isinstance(found, dict) or found.get("step") != step.id:
        raise ValueError("it is of no step, or of another one")
    if "call" in found:
        return _call(found["call"], found)
    final = _call(found["final"], found) if "final" in found else None
    if final is not None and final.name not in step.final:
        raise ValueError("there is no such final function")
    error, output, line = found.get("error", ""), found.get("output"), found.get("line")
    if not isinstance(error, str) or not isinstance(output, str):
        raise TypeError("these are texts")
    value = found.get("value")
    line = line if isinstance(line, int) else None
    return StepAnswer(output=output, value=value, final=final, error=error[:LONGEST_ERROR], line=line)


def _call(name: Any, found: dict[str, Any]) -> Call:
    args, kwargs = found.get("args"), found.get("kwargs")
    if not isinstance(name, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError("a call has a name, a list and an object")
    return Call(name, args, kwargs)


def _clean(value: Any) -> Any:
    """The value with texts that can be written anywhere: JSON may have halves of surrogate pairs."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return value
