"""Questions of a tool call as function approvals of Microsoft Agent Framework.

Rules: an approved call is invoked anew by the framework; its command is not: it stands where it asked, in this process.
An approval is for one question of one command; where that is gone, it approves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_framework import Content, FunctionMiddleware

from sandlock import PolicyError
from sandlock.sessions.questions import Answer, read_answer

from .loops import answer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent_framework import FunctionInvocationContext, FunctionTool, Message

    from .waiting_calls import Asked, Call, Calls

__all__ = ["Approvals", "end_rejected"]

LOST = "Error: this command waited for an approval in a process that is gone, and ended there; run it again if needed"
OURS = "sandlock"
"""Where a request says what is asked, and a response may say more than yes."""


class Approvals(FunctionMiddleware):
    """For one run of an agent in this session: has calls of `tools` ask."""

    def __init__(self, calls: Calls, session_id: str, tools: Sequence[FunctionTool]) -> None:
        self._calls, self._session, self._tools = calls, session_id, tools

    async def process(self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        """Begins the call, or takes it up where it waits; up to its next question, or its end."""
        if not any(context.function is each for each in self._tools):
            await call_next()
            return
        key = _key(self._session, context.metadata.get("function_call_occurrence_id"), context.metadata["call_id"])
        call, given = self._calls.find(key), context.metadata.get("approval_response")
        if call is not None and (given is None or call.lost):  # a new call by an old name; or its loop is gone
            await _end(self._calls, call)
            call = None
        if call is None:
            if given is not None and (OURS in given.additional_properties or not _whole(context.function)):
                context.result = LOST
                return

            async def work() -> object:
                await call_next()
                return context.result

            call = self._calls.start_task(key, self._session, work)
        elif given is not None and call.put:
            only = len(call.put) == 1 and not _whole(context.function)
            call.put[-1].settle(_answer(given, call.put[-1], only=only))
        try:
            asked = await answer_of(call.next())
            context.result = self._calls.end(call) if asked is None else _request(call, asked, context)
        except BaseException:
            await _end(self._calls, call)
            raise


async def end_rejected(calls: Calls, session_id: str, messages: Sequence[Message]) -> None:
    """Ends the commands whose questions were rejected: the framework does not call their tools again."""
    for message in messages:
        for given in message.contents:
            of = given.function_call if given.type == "function_approval_response" else None
            if of is None or given.approved is True:
                continue
            call = calls.find(_key(session_id, of.id, of.call_id))
            if call is not None:
                await _end(calls, call)


async def _end(calls: Calls, call: Call) -> None:
    if call.done:  # maybe with its loop
        calls.cancel(call)
    else:
        await calls.cancel_task(call)


def _key(session_id: str, occurrence: str | None, call_id: str | None) -> str:
    return f"{session_id}\n{occurrence or call_id}"


def _whole(tool: FunctionTool) -> bool:
    """Whether the framework asks about the whole call, before it begins."""
    return tool.approval_mode == "always_require"


def _request(call: Call, asked: Asked, context: FunctionInvocationContext) -> Content:
    about: dict[str, Any] = {OURS: {"summary": asked.summary, "question": asked.question.to_dict()}}
    if "approval_response" in context.metadata:  # the framework's word for this; without, it forgets other requests
        about["_replacement_approval_request"] = True
    call.put.append(asked)
    function_call = Content.from_function_call(
        call_id=context.metadata["call_id"],
        name=context.function.name,
        arguments=dict(context.arguments),
        id=context.metadata.get("function_call_occurrence_id"),
    )
    return Content.from_function_approval_request(call.tool_call_id, function_call, additional_properties=about)


def _answer(given: Content, asked: Asked, *, only: bool) -> Answer:
    """An approval; with an `answer` beside the question, that. What is unclear denies.

    `only`: nothing else was ever asked about this call. Else the approval has to say what it is for: all that is asked
    about one call has one id, and an approval may come twice.
    """
    said = given.additional_properties.get(OURS)
    said = said if isinstance(said, dict) else {}
    about = said.get("question")
    number = about.get("id") if isinstance(about, dict) else None
    if number != asked.question.id and not (only and number is None):
        return Answer(verdict="deny", reason="the approval is not for this question")
    if given.approved is not True:
        return Answer(verdict="deny", reason="the user rejected it")
    if "answer" not in said:
        return Answer(verdict="allow")
    try:
        return read_answer(said["answer"], asked.question)
    except PolicyError:
        return Answer(verdict="deny", reason="the answer is none of the choices")
