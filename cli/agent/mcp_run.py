"""`sandlock agent run --ask mcp`: the agent as the one tool of an MCP server on stdio, which asks the client's user.

Rules: standard input and output are the protocol's; what the agent prints, bounded, is the tool's answer. One run at a
time. Others may be asked too (`attach`, a page, further `--ask`): the first answer counts.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import trio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import InputRequiredResult
from pydantic import Field

from sandlock import NULL, PIPE, STDOUT, SandlockError, __version__
from sandlock.agents.mcp_approvals import Calls
from sandlock.agents.text import model_text
from sandlock.result import printable
from sandlock.sessions.channels import AnswerError, Channel, serve_each

from .agent_run import AgentRun, Plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandlock import AsyncProcess, AsyncSandbox, Result
    from sandlock.sessions.desk import Desk
    from sandlock.sessions.questions import Question

__all__ = ["serve"]

MAX_OUTPUT = 4 * 2**20
MAX_TEXT = 30_000


class McpChannel(Channel):
    """Questions to the client whose call is under way."""

    name = "mcp"

    def __init__(self, calls: Calls, call_id: str) -> None:
        self._calls = calls
        self._call_id = call_id

    async def serve(self, desk: Desk) -> None:
        """See Channel. A client that cannot elicit is no listener."""
        if self._calls.current(self._call_id) is None:
            await trio.sleep_forever()
        await serve_each(desk, self.name, self._ask)

    async def _ask(self, question: Question) -> object:
        call = self._calls.current(self._call_id)
        answer = None if call is None else await self._calls.put(question, call)
        if answer is None:
            raise AnswerError("the client could not put the question to anybody")
        return answer.to_dict()


class _McpRun(AgentRun):
    """A run whose output is kept."""

    def __init__(self, plan: Plan, text: str) -> None:
        super().__init__(plan)
        self._input = text.encode("utf-8", "surrogateescape")
        self.output = bytearray()

    @asynccontextmanager
    async def _started(self, box: AsyncSandbox) -> AsyncIterator[AsyncProcess]:
        stdin = PIPE if self._input else NULL
        async with box.start(self._plan.words, stdin=stdin, stdout=PIPE, stderr=STDOUT) as process:
            yield process

    async def _attend(self, process: AsyncProcess) -> Result:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed, process)
            nursery.start_soon(self._keep, process)
            result = await super()._attend(process)
            nursery.cancel_scope.deadline = trio.current_time() + 2
        return result

    async def _feed(self, process: AsyncProcess) -> None:
        if process.stdin is not None:
            try:
                await process.stdin.send_all(self._input)
            except BrokenPipeError:
                return
            finally:
                await process.stdin.aclose()

    async def _keep(self, process: AsyncProcess) -> None:
        assert process.stdout is not None
        async for chunk in process.stdout:
            self.output += chunk[: max(0, MAX_OUTPUT - len(self.output))]


async def serve(make_plan: Callable[[list[Channel]], Plan]) -> None:
    """Serves a client until it closes our input. `make_plan(channels)`: what is run at each call of the tool."""
    calls, busy = Calls(), trio.Lock()

    @asynccontextmanager
    async def live(server: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as calls.tasks:
            try:
                yield
            finally:
                calls.tasks.cancel_scope.cancel()

    server: MCPServer[Any] = MCPServer("sandlock", version=__version__, lifespan=live, log_level="ERROR")

    async def run(
        ctx: Context[Any, Any],
        input: Annotated[
            str, Field(description="What the program reads on its standard input.", max_length=2**20)
        ] = "",
    ) -> str | InputRequiredResult:
        """Run the program confined, to its end; questions of the sandbox are put to the user."""

        async def work(call_id: str) -> str:
            if busy.locked():
                raise SandlockError("it runs already; wait for its end")
            async with busy:
                agent = _McpRun(make_plan([McpChannel(calls, call_id)]), input)
                outcome = await agent.run()
                if outcome.result is None:
                    return "[it did not start]"
                return model_text(outcome.result, stdout=bytes(agent.output), limit=MAX_TEXT)

        try:
            answer = await calls.serve(ctx, work)
        except SandlockError as error:
            raise ToolError(printable(str(error), 2000)) from error
        assert isinstance(answer, str | InputRequiredResult)
        return answer

    server.add_tool(run, structured_output=False)
    await server.run_stdio_async()
