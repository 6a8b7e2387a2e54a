"""An MCP server whose tools run in a sandbox: commands, Python, files, and tools of your own.

    server = SandboxServer("/path/to/project", add=["git"], exec_ask=["git push *"])
    anyio.run(server.run_stdio, backend="trio")

What the rules leave open is put to the client's user by elicitation; who cannot be asked has not allowed it.
Needs `pip install "sandlock[mcp]"`: mcp 2.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import InputRequiredResult, ToolAnnotations
from pydantic import Field

import sandlock
from sandlock.result import printable

from .mcp_approvals import Calls
from .sandbox import AgentSandbox
from .text import model_text, shortened

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from .mcp_tools import CommandTool

__all__ = ["SandboxServer"]

LONGEST_WAIT = 600.0
"""Seconds that a command may take, where nothing else is said."""
MAX_TEXT = 200_000
INSTRUCTIONS = """\
Commands and code run in a sandbox of the kernel: what is not granted is denied, and a denial names what would allow it.
Paths are relative to the workspace. A denial is not an error of the program: do not try other ways around it."""

Answer = str | InputRequiredResult


class SandboxServer:
    """The server. `workspace` and further keywords are those of AgentSandbox; `tools`: tools of your own.

    `max_text`: characters of output that a model gets.
    """

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        name: str = "sandlock",
        tools: Mapping[str, CommandTool] | None = None,
        max_text: int = 30_000,
        **keywords: Any,
    ) -> None:
        self._calls = Calls()
        self._max_text = max_text
        self._keywords: dict[str, Any] = {"timeout": LONGEST_WAIT, "approve": self._calls.approve} | keywords
        self._workspace = workspace
        self._tools = dict(tools or {})
        self._boxes: dict[str, AgentSandbox] = {}
        self.mcp: MCPServer[Any] = MCPServer(
            name, instructions=INSTRUCTIONS, version=sandlock.__version__, lifespan=self._live, log_level="ERROR"
        )
        """The server of the SDK: for `mcp.Client(server.mcp)`, or another transport."""
        self._add_tools()

    async def run_stdio(self) -> None:
        """Serves a client on standard input and output, until that closes them."""
        self._calls.one_client = True
        await self.mcp.run_stdio_async()

    @asynccontextmanager
    async def _live(self, server: object) -> AsyncIterator[None]:
        """The sandboxes, one for each policy, on one workspace; and the calls under way. Raises SandlockError: they
        are another connection's, whose end would end them."""
        if self._boxes:
            raise sandlock.SandlockError("this server serves somebody already; make one for each connection")
        async with AsyncExitStack() as stack:
            stack.callback(self._boxes.clear)
            box = await stack.enter_async_context(AgentSandbox(self._workspace, **self._keywords))
            self._boxes[""] = box
            for name, tool in self._tools.items():
                own = AgentSandbox(box.workspace, **tool.keywords(self._keywords))
                self._boxes[name] = await stack.enter_async_context(own)
            async with anyio.create_task_group() as self._calls.tasks:
                try:
                    yield
                finally:
                    self._calls.tasks.cancel_scope.cancel()

    @property
    def box(self) -> AgentSandbox:
        """The sandbox of the built-in tools, while the server runs."""
        return self._boxes[""]

    # ---- tools

    def _add_tools(self) -> None:
        reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        writes = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
        runs = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=True)
        for function, hints in (
            (self.run, runs), (self.python, runs), (self.read_file, reads), (self.write_file, writes),
            (self.edit_file, writes), (self.list_files, reads), (self.remove_file, writes),
        ):  # fmt: skip
            self.mcp.add_tool(_explained(function), annotations=hints, structured_output=False)
        for name, tool in self._tools.items():
            self.mcp.add_tool(
                tool.function(_explained(self._command(name, tool))),
                name=name,
                description=tool.description,
                annotations=runs,
                structured_output=False,
            )

    def _command(
        self, name: str, tool: CommandTool
    ) -> Callable[[Context[Any, Any], dict[str, Any]], Awaitable[Answer]]:
        async def run(ctx: Context[Any, Any], values: dict[str, Any]) -> Answer:
            words = tool.words(values)

            async def work(call_id: str) -> str:
                result = await self._boxes[name].run(words, call_id=call_id, timeout=tool.timeout)
                return model_text(result, limit=self._max_text)

            return await self._serve(ctx, work)

        return run

    async def run(
        self,
        command: Annotated[str, Field(description="A command line for bash.")],
        ctx: Context[Any, Any],
        cwd: Annotated[str, Field(description="Directory, relative to the workspace.")] = ".",
        timeout: Annotated[
            float | None, Field(description="Seconds, then everything it started is killed.", gt=0)
        ] = None,
    ) -> Answer:
        """Run a command line in the sandbox, and give its output, its exit code and what was denied."""

        async def work(call_id: str) -> str:
            result = await self.box.run(command, cwd=cwd, timeout=timeout, call_id=call_id)
            return model_text(result, limit=self._max_text)

        return await self._serve(ctx, work)

    async def python(
        self,
        code: Annotated[str, Field(description="Python source.")],
        ctx: Context[Any, Any],
        timeout: Annotated[float | None, Field(description="Seconds.", gt=0)] = None,
    ) -> Answer:
        """Run Python code in the sandbox, in a process of its own; print what is to be seen."""

        async def work(call_id: str) -> str:
            result = await self.box.run(["python3", "-c", code], timeout=timeout, call_id=call_id)
            return model_text(result, limit=self._max_text)

        return await self._serve(ctx, work)

    async def read_file(
        self,
        path: Annotated[str, Field(description="Relative to the workspace.")],
        first_line: Annotated[int, Field(description="From this line on, counted from 1.", ge=1)] = 1,
        lines: Annotated[int | None, Field(description="So many lines; all without it.", ge=1)] = None,
    ) -> str:
        """Read a text file of the workspace."""
        text = await self.box.files.read_text(path)
        if first_line > 1 or lines is not None:
            found = text.splitlines(keepends=True)[first_line - 1 :]
            text = "".join(found if lines is None else found[:lines])
        return shortened(text, MAX_TEXT)

    async def write_file(
        self,
        path: Annotated[str, Field(description="Relative to the workspace; directories above it are made.")],
        content: Annotated[str, Field(description="All of the new content.")],
    ) -> str:
        """Write a text file of the workspace, also over one that is there."""
        await self.box.files.write(path, content)
        return f"wrote {len(content)} characters to {printable(path)}"

    async def edit_file(
        self,
        path: Annotated[str, Field(description="Relative to the workspace.")],
        old: Annotated[str, Field(description="The text to replace; it has to be there exactly once.", min_length=1)],
        new: Annotated[str, Field(description="What takes its place.")],
    ) -> str:
        """Replace one piece of text in a file of the workspace."""
        text = (await self.box.files.read(path)).decode("utf-8", "surrogateescape")
        count = text.count(old)
        if count != 1:
            raise sandlock.PolicyError(f"edit {printable(path)}: the text is there {count} times; give more of it")
        await self.box.files.write(path, text.replace(old, new).encode("utf-8", "surrogateescape"))
        return f"edited {printable(path)}"

    async def list_files(self, path: Annotated[str, Field(description="Relative to the workspace.")] = ".") -> str:
        """List a directory of the workspace: kind, size, name."""
        entries = await self.box.files.list(path)
        lines = [f"{each.kind:9} {each.size:>10} {printable(each.path)}" for each in entries]
        return shortened("\n".join(lines) or "[empty]", MAX_TEXT)

    async def remove_file(
        self,
        path: Annotated[str, Field(description="Relative to the workspace.")],
        recursive: Annotated[bool, Field(description="Also a directory that holds something.")] = False,
    ) -> str:
        """Remove a file or directory of the workspace."""
        await self.box.files.remove(path, recursive=recursive)
        return f"removed {printable(path)}"

    async def _serve(self, ctx: Context[Any, Any], work: Callable[[str], Awaitable[str]]) -> Answer:
        answer = await self._calls.serve(ctx, work)
        assert isinstance(answer, str | InputRequiredResult)
        return answer


def _explained(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A tool whose errors the model gets to read: a file that is not there is none of the server's faults."""

    @wraps(function)
    async def call(*arguments: Any, **values: Any) -> Any:
        try:
            return await function(*arguments, **values)
        except (sandlock.SandlockError, UnicodeError) as error:
            raise ToolError(printable(str(error), 2000)) from error

    return call
