"""Questions of a tool call, put to the user of an MCP client by elicitation, and the answers brought back.

Rules: only an accepted form with a choice allows; declined, cancelled, a client that cannot elicit, silence: denied. A
call runs in the server's own task group: the protocol of 2026-07-28 puts a question by ending the request, and the
answer comes with the client's next one (InputRequiredResult), while the program waits.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import anyio
from mcp_types import (
    ElicitationCapability,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)

from sandlock import Allow, Deny, Kill, PolicyError
from sandlock.result import printable
from sandlock.sessions.questions import Answer, command_text, question_of, read_answer, verdict_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup
    from mcp.server.mcpserver import Context

    from sandlock.sessions.questions import Question

    from .sandbox import Request

__all__ = ["Calls"]

BY = "MCP client"
ANSWERS_COME_LATER = "2026-07-28"
"""From this protocol on there is no way back to the client while a request is under way."""
KEPT = 600.0
"""Seconds that a call waits for a client that has to come back with an answer."""
MAX_CALLS = 64
NOBODY = "the MCP client could not put the question to anybody"


class _Asked:
    """One question, until it is answered."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.done = anyio.Event()
        self.answer: Answer | None = None

    def settle(self, result: ElicitResult | None) -> None:
        """`result` None: nobody could be asked."""
        if result is not None:
            self.answer = _answer(result, self.question)
        self.done.set()


class _Call:
    """A tool call: its work, its questions, and what came of it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.can_ask = False
        self.asked: list[_Asked] = []
        self.result: object = None
        self.error: Exception | None = None
        self.done = False
        self.scope = anyio.CancelScope()
        self.seen = time.monotonic()
        self._changed = anyio.Event()

    def change(self) -> None:
        """There is something new."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self) -> None:
        """Waits until it is done or asks something."""
        while not self.done and not self.asked:
            await self._changed.wait()


class Calls:
    """The tool calls of one server."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._hosts: set[tuple[str, str]] = set()
        """Allowed for longer than once: whose they are, and which."""
        self._count = 0
        self.tasks: TaskGroup | None = None
        self.one_client = False
        """Whether all calls are one client's. Over HTTP nothing tells clients apart, and what one user has allowed is
        no other's: it holds for that call."""

    async def approve(self, request: Request) -> Allow | Deny | Kill:
        """`approve` of the server's sandboxes: asks the client whose call it is."""
        call = self._calls.get(request.call_id)
        host = getattr(request.event, "host", "") or getattr(request.event, "name", "")
        whose = "" if self.one_client else request.call_id
        if host and (whose, host) in self._hosts:
            return Allow(by=BY)
        if call is None or not call.can_ask:
            return Deny(NOBODY, cause="nobody-listens")
        self._count += 1
        question = question_of(request.event, f"q{self._count}", time=time.time(), deadline=None)
        answer = await self.put(question, call)
        if answer is None:
            return Deny(NOBODY, cause="nobody-listens")
        if answer.verdict == "allow" and answer.scope == "host":
            self._hosts.add((whose, question.host))
        return verdict_of(answer, BY)

    def current(self, call_id: str) -> _Call | None:
        """The call of this id, if its client can be asked."""
        call = self._calls.get(call_id)
        return call if call is not None and call.can_ask else None

    async def put(self, question: Question, call: _Call) -> Answer | None:
        """Puts a question to the client whose call it is; None if it could not be put to anybody."""
        asked = _Asked(question)
        call.asked.append(asked)
        call.change()
        try:
            await asked.done.wait()
        finally:
            if asked in call.asked:
                call.asked.remove(asked)
            call.change()
        return asked.answer

    async def serve(self, ctx: Context[Any, Any], work: Callable[[str], Awaitable[object]]) -> object:
        """What a tool answers: the result of `work(call_id)`, or that the client has to answer something first."""
        call = self._resumed(ctx) or self._started(ctx, work)
        try:
            while True:
                await call.wait()
                if call.done:
                    return self._ended(call)
                question = call.asked[0]
                if (ctx.protocol_version or "") >= ANSWERS_COME_LATER:
                    form = ElicitRequest(params=_form(question.question))
                    call.seen = time.monotonic()
                    return InputRequiredResult(input_requests={question.question.id: form}, request_state=call.id)
                await self._elicit(ctx, call, question)
        except BaseException:  # the client has cancelled its request
            call.scope.cancel()
            raise

    async def _elicit(self, ctx: Context[Any, Any], call: _Call, question: _Asked) -> None:
        """Asks while the request is under way; a question that is withdrawn meanwhile is asked about no more."""
        form = _form(question.question)

        async def ask() -> None:
            try:
                found = await ctx.request_context.session.elicit_form(
                    form.message, form.requested_schema, ctx.request_id
                )
            except Exception:  # whatever the client made of it: no answer is no permission
                found = None
            if not question.done.is_set():
                question.settle(found)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while question in call.asked and not call.done:
                await call._changed.wait()
            tasks.cancel_scope.cancel()

    def _started(self, ctx: Context[Any, Any], work: Callable[[str], Awaitable[object]]) -> _Call:
        self._forget_old()
        if len(self._calls) >= MAX_CALLS:
            raise PolicyError(f"more than {MAX_CALLS} tool calls at once; wait for some to end")
        call = _Call(os.urandom(12).hex())
        capabilities = ctx.client_capabilities
        call.can_ask = capabilities is not None and _can_elicit(capabilities.elicitation)
        self._calls[call.id] = call
        assert self.tasks is not None
        self.tasks.start_soon(self._carry_out, call, work)
        return call

    async def _carry_out(self, call: _Call, work: Callable[[str], Awaitable[object]]) -> None:
        with call.scope:
            try:
                call.result = await work(call.id)
            except Exception as error:
                call.error = error
        call.done = True
        if call.scope.cancelled_caught:
            self._calls.pop(call.id, None)
        call.change()

    def _resumed(self, ctx: Context[Any, Any]) -> _Call | None:
        """The call that this request brings answers to. The server has sealed its state: nobody can name another's."""
        if ctx.request_state is None:
            return None
        call = self._calls.get(ctx.request_state)
        if call is None:
            raise PolicyError("this call was given up: its answer came too late")
        for asked in list(call.asked):
            found = (ctx.input_responses or {}).get(asked.question.id)
            if found is not None:
                asked.settle(found if isinstance(found, ElicitResult) else None)
                call.asked.remove(asked)
        return call

    def _ended(self, call: _Call) -> object:
        self._calls.pop(call.id, None)
        if call.error is not None:
            raise call.error
        return call.result

    def _forget_old(self) -> None:
        """Clients that never came back with an answer."""
        for call in list(self._calls.values()):
            if call.asked and time.monotonic() - call.seen > KEPT:
                call.scope.cancel()
            if call.done and time.monotonic() - call.seen > KEPT:
                self._calls.pop(call.id, None)


def _can_elicit(capability: ElicitationCapability | None) -> bool:
    """A bare `elicitation: {}` counts as forms; one that only opens pages does not."""
    return capability is not None and (capability.form is not None or capability.url is None)


def _form(question: Question) -> ElicitRequestFormParams:
    """The question in words, and a choice. All of the program's own words are escaped."""
    chain = " < ".join(printable(" ".join(argv) or exe, 120) for _, exe, argv in question.chain[:4])
    is_exec = question.kind == "exec"
    what = command_text(question.argv, question.exe, 1000) if is_exec else printable(question.target, 1000)
    lines = [f"{question.kind}: {what}"]
    lines += [f"file: {printable(question.exe, 1000)}"] if is_exec else []
    lines += [f"host: {printable(question.host)}"] if question.host and question.host != question.target else []
    lines += [f"in: {printable(question.cwd)}"] if question.cwd else []
    lines += [f"asked by: {chain}"] if chain else []
    lines += [f"rule: {printable(question.rule)}"] if question.rule else []
    choices = [{"const": each.key, "title": printable(each.label)} for each in question.choices]
    schema = {
        "type": "object",
        "properties": {
            "choice": {"type": "string", "title": "Decision", "oneOf": choices},
            "reason": {"type": "string", "title": "Reason", "description": "For a denial: the model reads it."},
        },
        "required": ["choice"],
    }
    return ElicitRequestFormParams(message="\n".join(lines), requested_schema=schema)


def _answer(result: ElicitResult, question: Question) -> Answer:
    if result.action != "accept":
        said = "declined" if result.action == "decline" else "dismissed the question"
        return Answer(verdict="deny", reason=f"the user {said}")
    content = dict(result.content or {})
    if not content.get("reason"):
        content.pop("reason", None)
    try:
        return read_answer(content, question)
    except PolicyError:
        return Answer(verdict="deny", reason="the MCP client's answer is none of the choices")
