"""Google ADK: `SandlockToolset`, whose commands run confined and whose questions are ADK's tool confirmations;
`SandlockEnvironment`, what it stands on; `SandlockCodeExecutor`, a Python that lives on for each session.

    toolset = SandlockToolset("~/project", add=["git"], exec_ask=["git push *"])
    agent = LlmAgent(model="...", tools=[toolset])

    agent = LlmAgent(model="...", code_executor=SandlockCodeExecutor(options={"fs_readable": ["/data"]}))

Needs `pip install "sandlock[adk]"`.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from google.adk.tools.environment import EnvironmentToolset
from google.adk.tools.environment._edit_file_tool import EditFileTool
from google.adk.tools.environment._execute_tool import ExecuteTool
from google.adk.tools.environment._utils import truncate

from sandlock import PolicyError, SandlockError
from sandlock.result import printable
from sandlock.sessions.questions import Answer, read_answer

from .adk_code import SandlockCodeExecutor
from .adk_environment import SandlockEnvironment, error_text
from .text import without_forged_trailers
from .waiting_calls import Calls, current_call_id

if TYPE_CHECKING:
    from google.adk.tools.base_tool import BaseTool
    from google.adk.tools.tool_confirmation import ToolConfirmation
    from google.adk.tools.tool_context import ToolContext

    from sandlock import Result
    from sandlock.sessions.questions import Question

    from .waiting_calls import Asked, Call

__all__ = ["SandlockCodeExecutor", "SandlockEnvironment", "SandlockToolset"]

LOST = "This call waited for a confirmation in a process that is gone, and ended there. Call the tool again if needed."
ONE_QUESTION = "one question of a tool call can be confirmed; do this by a call of its own"
WAITS = "This command waits for a person to confirm what it is about to do."


class SandlockToolset(EnvironmentToolset):
    """ADK's tools Execute, ReadFile, EditFile and WriteFile, in a sandbox. Keywords are SandlockEnvironment's.

    Without `approve`, what the rules leave open is put to ADK's user as a confirmation of the tool call; meanwhile the
    command stands where it is, and what it asked about is not carried out. Of one call, one question can be confirmed;
    further ones are denied, and the model is told to make calls of their own. `timeout`: seconds that a command may
    take, questions included.
    """

    def __init__(
        self,
        working_dir: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = 600.0,
        max_output_chars: int | None = None,
        tool_name_prefix: str | None = None,
        **keywords: Any,
    ) -> None:
        self._calls = None if keywords.get("approve") else Calls("the user of ADK")
        if self._calls is not None:
            keywords["approve"] = self._calls.approve
        self.environment = SandlockEnvironment(working_dir, **keywords)
        """Its environment."""
        self._limits = timeout, max_output_chars
        super().__init__(
            environment=self.environment, max_output_chars=max_output_chars, tool_name_prefix=tool_name_prefix
        )

    async def get_tools(self, readonly_context: Any = None) -> list[BaseTool]:
        """The four tools."""
        _, read, _, write = await super().get_tools(readonly_context)
        execute = _Execute(self.environment, self._calls, *self._limits)
        return [execute, read, _Edit(self.environment), write]


class _Edit(EditFileTool):
    """ADK's tool, whose errors the model gets to read."""

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        try:
            return await super().run_async(args=args, tool_context=tool_context)
        except OSError as error:
            return {"status": "error", "error": str(error)}


class _Execute(ExecuteTool):
    """ADK's tool, with a time limit of its own, and questions as confirmations."""

    def __init__(self, environment: SandlockEnvironment, calls: Calls | None, timeout: float | None, most: int | None):
        super().__init__(environment, max_output_chars=most)
        self._box, self._calls, self._timeout = environment, calls, timeout

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        command = str(args.get("command") or "")
        if not command:
            return {"status": "error", "error": "`command` is required."}
        try:
            if self._calls is None:
                call_id = tool_context.function_call_id
                return self._response(await self._box.run(command, timeout=self._timeout, call_id=call_id))
            return await self._confirmed(self._calls, command, tool_context)
        except SandlockError as error:
            return {"status": "error", "error": str(error)}

    async def _confirmed(self, calls: Calls, command: str, context: ToolContext) -> dict[str, Any]:
        """Begins the command, or takes it up where it waits; up to its next question, or its end."""
        session, given = context.session, context.tool_confirmation
        thread = "\n".join((session.app_name, session.user_id, session.id))
        key = f"{thread}\n{context.function_call_id}"
        call = calls.find(key)
        if call is None and given is not None:
            return {"status": "error", "error": LOST}
        if call is None:
            call = calls.start(key, thread, lambda: self._work(command))  # in a thread: it outlives this loop
        elif given is not None and call.put:
            call.put[-1].settle(_answer(given, call.put[-1].question))
            call.give_up(ONE_QUESTION)
        try:
            asked = await asyncio.wrap_future(call.next())
        except asyncio.CancelledError:
            await asyncio.to_thread(calls.cancel_thread, call, self._box.sandbox.cancel)
            raise
        return self._response(calls.end(call)) if asked is None else _put(call, asked, context)

    def _work(self, command: str) -> Result:
        return self._box.run_here(command, timeout=self._timeout, call_id=current_call_id() or "")

    def _response(self, result: Result) -> dict[str, Any]:
        """In ADK's words."""
        stdout, stderr = without_forged_trailers(result.stdout_text), error_text(result)
        texts = {"stdout": stdout, "stderr": stderr}
        found: dict[str, Any] = {"status": "error" if result.exit_code or result.timed_out else "ok"}
        found |= {name: truncate(text, limit=self._max_output_chars) for name, text in texts.items() if text}
        if result.exit_code:
            found["exit_code"] = result.exit_code
        if result.timed_out:
            found["error"] = f"Command timed out after {self._timeout:g}s."
        return found


def _put(call: Call, asked: Asked, context: ToolContext) -> dict[str, Any]:
    """Asks ADK's user."""
    if asked not in call.put:
        call.put.append(asked)
    hint = f"The sandbox asks: {asked.summary}" + (f" in {printable(asked.question.cwd)}" if asked.question.cwd else "")
    context.request_confirmation(hint=hint, payload=asked.question.to_dict())
    context.actions.skip_summarization = True
    return {"status": "waiting", "error": WAITS}


def _answer(given: ToolConfirmation, question: Question) -> Answer:
    """What ADK's user said. With a payload {"choice": ...} or {"verdict": ...}, that; what is unclear denies."""
    payload = given.payload if isinstance(given.payload, dict) else {}
    if not given.confirmed:
        return Answer(verdict="deny", reason=str(payload.get("reason") or "the user did not confirm it"))
    if not payload.keys() & {"choice", "verdict"}:
        return Answer(verdict="allow")
    try:
        return read_answer(payload, question)
    except PolicyError:
        return Answer(verdict="deny", reason="the answer is none of the choices")
