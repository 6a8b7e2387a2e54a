"""The shell tool of Strands: a command's questions interrupt the agent, and their answers resume the command.

Rules: a resumed tool is run anew by Strands; the command is not: it stands where it asked, in this process. An answer
is for one question of one command; where that is gone, it answers nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from strands.interrupt import InterruptException
from strands.sandbox.errors import SandboxTimeoutError

from sandlock import PolicyError
from sandlock.sessions.questions import Answer, read_answer

from .strands_streams import Done, carried_out
from .waiting_calls import current_call_id

if TYPE_CHECKING:
    from strands import ToolContext
    from strands.sandbox import ExecutionResult

    from sandlock.sessions.questions import Question

    from .strands import SandlockSandbox
    from .waiting_calls import Asked, Call, Calls

__all__ = ["shell_answer"]

LOST = "this command waited for a permission in a process that is gone, and ended there; run it again if needed"
POLL = 0.2
"""Seconds until a cancelled agent's command is noticed."""


async def shell_answer(
    sandbox: SandlockSandbox, calls: Calls | None, command: str, timeout: float, context: ToolContext
) -> dict[str, Any]:
    """Output, error and exit code of a command. Raises InterruptException, SandboxTimeoutError, RuntimeError."""
    try:
        if calls is None:
            result = await _executed(sandbox, command, timeout, context)
        else:
            result = sandbox.told(await _interruptible(sandbox, calls, command, timeout, context), timeout)
    except SandboxTimeoutError as error:  # as Strands' own: of an exception, the model gets to read the text
        found = {"output": error.stdout, "error": error.stderr, "exit_code": 124}
        error.args = (f"{error}\n{json.dumps(found)}",)
        raise
    return {"output": result.stdout, "error": result.stderr, "exit_code": result.exit_code}


async def _executed(sandbox: SandlockSandbox, command: str, timeout: float, context: ToolContext) -> ExecutionResult:
    done = asyncio.ensure_future(sandbox.execute(command, timeout=timeout, call_id=context.tool_use["toolUseId"]))
    try:
        return await _until(done, context)
    finally:
        if not done.done():
            done.cancel()
            await asyncio.wait([done])


async def _interruptible(
    sandbox: SandlockSandbox, calls: Calls, command: str, timeout: float, context: ToolContext
) -> Done:
    key = os.urandom(12).hex()
    begun = context.interrupt("sandlock", "which command this call has begun", response=key)  # answered: stops nothing
    call = calls.find(str(begun))
    if call is None and begun != key:
        raise RuntimeError(LOST)
    try:
        if call is None:
            box = await asyncio.to_thread(sandbox.open)

            def work() -> Done:
                call_id = current_call_id() or ""
                options = {"timeout": timeout, "call_id": call_id}
                asking = calls.asking(call_id)
                return box.call(carried_out, box.sandbox, command, _dropped, None, options, asking, call_id=call_id)

            call = calls.start(key, str(context.agent.agent_id), work)  # in a thread: it outlives this loop
        for asked in call.put:
            asked.settle(_answered(call, asked, context))
        while (asked := await _until(asyncio.wrap_future(call.next()), context)) is not None:
            call.put.append(asked)
            asked.settle(_answered(call, asked, context))
    except InterruptException:
        raise
    except BaseException:
        if call is not None:
            await asyncio.to_thread(calls.cancel_thread, call, sandbox.sandbox.cancel)
        raise
    return calls.end(call)


def _dropped(chunk: object) -> None:
    """The tool gives the whole at once."""


async def _until(future: asyncio.Future[Any], context: ToolContext) -> Any:
    """What it gives. Raises RuntimeError: the agent was cancelled."""
    while not (await asyncio.wait([future], timeout=POLL))[0]:
        if context.cancel_signal.is_set():
            future.cancel()
            raise RuntimeError("the agent was cancelled; the command was ended")
    return future.result()


def _answered(call: Call, asked: Asked, context: ToolContext) -> Answer:
    """The answer of Strands' user. Raises InterruptException: there is none yet."""
    question = asked.question
    reason = {"message": f"The sandbox asks: {asked.summary}", "question": question.to_dict()}
    return _answer(context.interrupt(f"sandlock-{call.id}-{question.id}", reason), question)


def _answer(given: object, question: Question) -> Answer:
    """ "allow", True, or what `read_answer` reads; everything else denies, a text as its reason."""
    if given is True or (isinstance(given, str) and given.strip().lower() in ("allow", "approve", "yes", "y")):
        return Answer(verdict="allow")
    if isinstance(given, str) and given.strip().lower() not in ("deny", "no", "n", ""):
        return Answer(verdict="deny", reason=f"the user says: {given}")
    try:
        return read_answer(given, question)
    except PolicyError:
        return Answer(verdict="deny", reason="the user did not allow it")
