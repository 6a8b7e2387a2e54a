"""Claude Agent SDK and Claude Code: every Bash command of the model runs in a sandbox, and nothing gets by it.

    async with ClaudeSandbox(["--add", "git"], approve=ask) as sandbox:
        options = ClaudeAgentOptions(hooks=sandbox.hooks())

The PreToolUse hook rewrites a Bash command into `sandlock agent run ... -- bash -c COMMAND`. A hook that fails blocks
the call (`on_failure="block"`). `can_use_tool` does the same where the SDK asks for permission; `cli_path` has all of
Claude Code run confined. What the rules leave open comes back to `approve`, in the application. For Claude Code without
the SDK: `hook_output`, which `sandlock agent hook` prints. Needs `pip install "sandlock[claude]"`.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from contextlib import AsyncExitStack, suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import anyio

from .claude_hook import TOOLS, hook_output, wrapped_command
from .own_program import own_program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from anyio.abc import SocketStream, TaskGroup
    from claude_agent_sdk import CanUseTool, ToolPermissionContext

    Approve = Callable[[dict[str, Any]], Awaitable[object] | object]

__all__ = ["ClaudeSandbox", "hook_output", "wrapped_command"]

MAX_LINE = 2**20
NOT_BASH = "nobody decides about this tool"


class ClaudeSandbox:
    """The hook, and whoever answers questions. `options`: those of `sandlock agent run`, as words.

    `approve(question)`, async or plain, gets a question as JSON data (`Question.to_dict`), and answers as
    `read_answer` reads it: {"verdict": "allow"}, {"choice": "d", "reason": "..."}. Whatever it raises denies.
    """

    def __init__(
        self, options: Sequence[str] = (), *, approve: Approve | None = None, program: str | None = None
    ) -> None:
        self._options = list(options)
        self._approve = approve
        self._program = program
        self._stack = AsyncExitStack()
        self._place = ""

    async def __aenter__(self) -> Self:
        self._place = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sandlock-claude-"))
        if self._approve is None:
            self._options += ["--ask", "none"]
            return self
        path = os.path.join(self._place, "ask")
        listener = await self._stack.enter_async_context(await anyio.create_unix_listener(path, mode=0o600))
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(listener.serve, self._answer)
        self._options += ["--ask", f"unix:{path}"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def hooks(self) -> dict[Any, list[Any]]:
        """For `ClaudeAgentOptions(hooks=...)`; merge it with hooks of your own."""
        from claude_agent_sdk import HookMatcher

        hook: Any = self.pre_tool_use  # its answer is a dict of the SDK's, typed there key by key
        matcher = HookMatcher(matcher="|".join(TOOLS), hooks=[hook], timeout=60, on_failure="block")
        return {"PreToolUse": [matcher]}

    async def pre_tool_use(self, given: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """The hook itself."""
        options = self._options
        if tool_use_id and tool_use_id.replace("_", "").replace("-", "").isalnum():
            options = [*options, "--name", tool_use_id[:60]]  # `sandlock agent report ID` then knows the call
        return hook_output(given, options, program=self._program)

    def can_use_tool(self, otherwise: CanUseTool | None = None) -> CanUseTool:
        """For `ClaudeAgentOptions(can_use_tool=...)`: allows Bash, rewritten; about other tools `otherwise` decides, or
        they are denied. The SDK calls it only for what Claude Code does not allow by itself: `hooks` sees all."""
        from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny

        async def decide(
            tool: str, given: dict[str, Any], context: ToolPermissionContext
        ) -> PermissionResultAllow | PermissionResultDeny:
            found = hook_output({"tool_name": tool, "tool_input": given}, self._options, program=self._program)
            if not found:
                return await otherwise(tool, given, context) if otherwise else PermissionResultDeny(message=NOT_BASH)
            decided = found["hookSpecificOutput"]
            if decided["permissionDecision"] != "allow":
                return PermissionResultDeny(message=decided["permissionDecisionReason"])
            return PermissionResultAllow(updated_input=decided["updatedInput"])

        return decide

    def cli_path(self, program: str) -> str:
        """For `ClaudeAgentOptions(cli_path=...)`: a program that runs `program`, which is Claude Code, and all that it
        starts, in one sandbox, its file tools too. The options have to grant what it needs: `["-p", "claude"]` does."""
        path = os.path.join(self._place, "claude")
        command = shlex.join([self._program or own_program(), "agent", "run", *self._options, "--", program])
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {command} "$@"\n')
        os.chmod(path, 0o700)
        return path

    async def _answer(self, stream: SocketStream) -> None:
        """One session: {"question": {...}} and {"withdrawn": ID} come as lines of JSON, answers go back."""
        waiting = bytearray()
        scopes: dict[str, anyio.CancelScope] = {}
        async with stream, anyio.create_task_group() as tasks:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                while True:
                    while b"\n" not in waiting:
                        waiting += await stream.receive()
                        if len(waiting) > MAX_LINE:
                            return
                    line, _, rest = bytes(waiting).partition(b"\n")
                    waiting = bytearray(rest)
                    self._take(json.loads(line), stream, tasks, scopes)
            tasks.cancel_scope.cancel()

    def _take(
        self, message: dict[str, Any], stream: SocketStream, tasks: TaskGroup, scopes: dict[str, anyio.CancelScope]
    ) -> None:
        if "question" in message:
            question = message["question"]
            scope = scopes[question["id"]] = anyio.CancelScope()
            tasks.start_soon(self._decide, question, stream, scope)
        elif message.get("withdrawn") in scopes:
            scopes.pop(message["withdrawn"]).cancel()

    async def _decide(self, question: dict[str, Any], stream: SocketStream, scope: anyio.CancelScope) -> None:
        assert self._approve is not None
        with scope:
            try:
                answer = self._approve(question)
                found = await answer if isawaitable(answer) else answer
                made = dict(found) if isinstance(found, dict) else {"verdict": "deny", "reason": "no answer"}
            except Exception as error:  # a callback that fails has not allowed anything
                made = {"verdict": "deny", "reason": f"the callback raised {type(error).__name__}"}
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await stream.send(json.dumps({"question": question["id"], "answer": made}).encode() + b"\n")
