"""Questions of the sandbox as interruptions of the OpenAI Agents SDK: a run stops, and its state resumes it.

Rules: the SDK interrupts a run before a tool call is carried out, and never in it. So a command begins when the SDK
asks whether its call needs approval: it does if the sandbox asks something before the command has ended. Meanwhile the
command stays where it is, in this process; what it asked about is not carried out. An approval is for one question;
what a rejected call has begun is ended.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from agents import FunctionTool, ShellCallData, ShellCommandRequest, ShellResult, ShellTool
from agents.sandbox.capabilities import Shell

from sandlock.sessions.questions import Answer, read_answer

from .openai import shell_executor
from .waiting_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agents import RunContextWrapper, ShellActionRequest, ToolApprovalItem
    from agents.sandbox.capabilities.shell import ShellToolSet

    from sandlock import Allow, Deny, Kill
    from sandlock.sessions.questions import Question

    from .sandbox import AgentSandbox, Request
    from .waiting_calls import Asked, Call

__all__ = ["SandlockApprovals"]

LOST = "this command waited for a permission in a process that is gone, and ended there; run it again if needed"
ONE_QUESTION = "one approval of a tool call answers one question, and this is a further one; run it by itself to ask"


class SandlockApprovals:
    """Has a tool call of which the sandbox asks something interrupt the run. One for each sandbox, or client.

    `approve` goes into the sandbox, and `shell()` or `shell_tool(box)` to the agent. A question that nobody answers
    within the sandbox's `approve_timeout` is denied; so is one of a call that cannot interrupt the run: of tools that
    are not these, or that the SDK was told to approve always.
    """

    def __init__(self) -> None:
        self._calls = Calls("the user of the Agents SDK")
        self._begun: dict[tuple[str, str], Call] = {}

    async def approve(self, request: Request) -> Allow | Deny | Kill:
        """For `SandlockSandboxClient(approve=...)` and AgentSandbox."""
        return await self._calls.approve(request)

    def shell(self) -> Shell:
        """The SDK's shell for a `SandboxAgent(capabilities=[...])`, whose `exec_command` interrupts."""
        return Shell(configure_tools=self._configure)

    def shell_tool(self, box: AgentSandbox, *, max_output: int = 30_000) -> ShellTool:
        """A `ShellTool` that runs in this open sandbox, and interrupts."""
        execute = shell_executor(box, max_output=max_output)

        async def needs_approval(context: RunContextWrapper[Any], action: ShellActionRequest, call_id: str) -> bool:
            request = ShellCommandRequest(ctx_wrapper=context, data=ShellCallData(call_id=call_id, action=action))
            return await self._begin(context, tool.name, call_id, lambda: execute(request))

        async def executor(request: ShellCommandRequest) -> str | ShellResult:
            call_id = request.data.call_id
            found: str | ShellResult = await self._end(
                request.ctx_wrapper, tool.name, call_id, lambda: execute(request)
            )
            return found

        tool = ShellTool(executor=executor, needs_approval=needs_approval)
        return tool

    def question(self, item: ToolApprovalItem) -> Question | None:
        """What the sandbox asks, of one of a result's `interruptions`; None for any other interruption."""
        call = self._begun.get(_key_of(item))
        return call.put[-1].question if call is not None and call.put else None

    def answer(self, item: ToolApprovalItem, answer: Mapping[str, object]) -> None:
        """Another answer than a plain yes, given before `state.approve(item)`: what `read_answer` reads, such as
        {"choice": "r"}, or {"verdict": "deny", "reason": "..."}, with which the command goes on. Raises PolicyError."""
        call = self._begun.get(_key_of(item))
        if call is not None and call.put:
            call.put[-1].settle(read_answer(dict(answer), call.put[-1].question))

    async def end(self, item: ToolApprovalItem) -> None:
        """Ends what a call has begun that is rejected: needed for a `ShellTool`, whose command else ends with the next
        call, or the sandbox."""
        await self._drop(*_key_of(item))

    # ---- a call's way

    def _configure(self, tools: ShellToolSet) -> None:
        tool: FunctionTool = tools.exec_command
        invoke = tool.on_invoke_tool

        async def needs_approval(context: RunContextWrapper[Any], arguments: dict[str, Any], call_id: str) -> bool:
            return await self._begin(context, tool.name, call_id, lambda: invoke(None, json.dumps(arguments)))  # type: ignore[arg-type]

        async def on_invoke(context: Any, arguments: str) -> Any:
            return await self._end(context, tool.name, context.tool_call_id, lambda: invoke(context, arguments))

        async def is_enabled(context: RunContextWrapper[Any], _: object) -> bool:
            await self._end_rejected(context)  # before each turn, and so at once when a run is resumed
            return True

        tool.needs_approval, tool.on_invoke_tool, tool.is_enabled = needs_approval, on_invoke, is_enabled

    async def _begin(
        self, context: RunContextWrapper[Any], tool: str, call_id: str, work: Callable[[], Awaitable[object]]
    ) -> bool:
        """Starts the command. Whether it asks something before it ends."""
        await self._end_rejected(context)
        call = self._begun.get((tool, call_id))
        if call is None:
            key = os.urandom(12).hex()
            call = self._begun[tool, call_id] = self._calls.start_task(key, call_id, work)
        elif call.put:
            return True
        asked = await self._next(call, tool, call_id)
        if asked is None:
            return False
        call.put.append(asked)
        return True

    async def _end(
        self, context: RunContextWrapper[Any], tool: str, call_id: str, work: Callable[[], Awaitable[object]]
    ) -> Any:
        """What came of the command, now that it is approved, or never had to be."""
        await self._end_rejected(context)
        call = self._begun.get((tool, call_id))
        if call is None:
            # Approved once and for all, nothing was asked before; else what was approved went with its process.
            always = context.is_tool_approved(tool, f"not-{os.urandom(8).hex()}")
            return await work() if always else LOST
        for asked in call.put:
            asked.settle(Answer(verdict="allow"))
        call.give_up(ONE_QUESTION)
        await self._next(call, tool, call_id)
        self._begun.pop((tool, call_id), None)
        return LOST if call.lost else self._calls.end(call)

    async def _next(self, call: Call, tool: str, call_id: str) -> Asked | None:
        """Its next question, or None for its end. Who is cancelled ends it."""
        try:
            return await asyncio.wrap_future(call.next())
        except BaseException:
            await self._drop(tool, call_id)
            raise

    async def _end_rejected(self, context: RunContextWrapper[Any]) -> None:
        """What rejected calls have begun: of a rejection the SDK tells the model, and no tool."""
        for tool, call_id in list(self._begun):
            if context.is_tool_approved(tool, call_id) is False:
                await self._drop(tool, call_id)

    async def _drop(self, tool: str, call_id: str) -> None:
        call = self._begun.pop((tool, call_id), None)
        if call is not None:
            await self._calls.cancel_task(call)


def _key_of(item: ToolApprovalItem) -> tuple[str, str]:
    raw = item.raw_item
    call_id = raw.get("call_id") if isinstance(raw, dict) else getattr(raw, "call_id", None)
    return str(item.tool_name), str(call_id)
