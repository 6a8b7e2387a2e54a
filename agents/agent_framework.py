"""Microsoft Agent Framework: a sandbox that gives an agent its tools, and that is an executor of its shell tools.

    async with SandlockSandbox("~/project", add=["git"], exec_ask=["git push *"]) as sandbox:
        agent = Agent(client, context_providers=[sandbox])  # tools, and questions as function approvals
        agent = Agent(client, tools=sandbox.tools())  # questions by `approve`, or denied
        agent = create_harness_agent(client, shell_executor=sandbox, ...)

Needs `pip install "sandlock[agent-framework]"`: agent-framework-core 1.19. The package of beta tools, whose
`ShellExecutor` this is by its methods, is not needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal

from agent_framework import Content, ContextProvider, FunctionTool
from pydantic import Field

from sandlock import PolicyError, SandlockError
from sandlock.result import printable

from .agent_framework_approvals import Approvals, end_rejected
from .loops import new_lock
from .sandbox import AgentSandbox
from .text import LIMIT, shortened, with_denials, without_forged_trailers
from .waiting_calls import Calls, current_call_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from sandlock import Result

    from .sandbox import Approve

__all__ = ["SandlockSandbox", "ShellResult"]

Path = Annotated[str, Field(description="Relative to the working directory.")]


@dataclass(frozen=True)
class ShellResult:
    """What the framework's executors give; and what was denied. `denials`: each in words."""

    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int
    truncated: bool = False
    timed_out: bool = False
    denials: tuple[str, ...] = ()

    def format_for_model(self) -> str:
        """As one text, in the framework's words."""
        parts = [self.stdout, self.stderr and f"stderr: {self.stderr}"]
        parts += ["[output truncated]"] * self.truncated + ["[command timed out]"] * self.timed_out
        return "\n".join([*(part for part in parts if part), f"exit_code: {self.exit_code}"])

    def content(self) -> list[Content]:
        """The same, with the fields beside it: chat clients that have a shell of their own ask for them."""
        names = ("stdout", "stderr", "exit_code", "truncated", "timed_out", "denials")
        fields = {name: getattr(self, name) for name in names} | {"denials": list(self.denials)}
        return [Content.from_text(self.format_for_model(), additional_properties=fields)]


class SandlockSandbox(ContextProvider):
    """A sandbox in one directory; None: one of its own. Further keywords are those of AgentSandbox.

    As a context provider it gives an agent its tools, and what the rules leave open is a function approval request of
    the tool call; meanwhile the command stands where it is, and what it asked about is not carried out. It goes on when
    that is approved, and is ended when it is rejected. With `approve`, that decides instead. Tools of an agent that has
    no such provider cannot ask: denied. `timeout`: seconds that a command may take, questions included.
    `approval_mode` is that of the tools that run something. `on_result` gets the Result of every command, denials and
    all. Opened by the first use, for its loop; `close`, or the end of an `async with`, ends all that runs in it.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = 600.0,
        max_output_chars: int = LIMIT,
        approval_mode: Literal["always_require", "never_require"] = "never_require",
        approve: Approve | None = None,
        on_result: Callable[[Result], None] | None = None,
        source_id: str = "sandlock",
        **keywords: Any,
    ) -> None:
        super().__init__(source_id)
        if timeout is not None and timeout <= 0:
            raise PolicyError("timeout: a command needs some time; give seconds, or None")
        self._place = None if workdir is None else os.path.expanduser(os.fspath(workdir))
        self._timeout, self._most = timeout, max_output_chars
        self._runs: dict[str, Any] = {"approval_mode": approval_mode, "result_parser": _content}
        self._calls = Calls("the user of the agent") if approve is None else None
        self._keywords = keywords | {"approve": approve if self._calls is None else self._calls.approve}
        self._on_result = on_result
        self._box: AgentSandbox | None = None
        self._lock: AbstractAsyncContextManager[None] | None = None
        self._tools: list[FunctionTool] = []

    # ---- its life

    @property
    def sandbox(self) -> AgentSandbox:
        """What carries it out: files, shell, snapshot. Raises SandlockError before `start`."""
        if self._box is None:
            raise SandlockError("the sandbox is not open; use it within its `async with`")
        return self._box

    async def start(self) -> None:
        """Opens it, if it is not open. Raises as AgentSandbox does."""
        self._lock = self._lock or new_lock()
        async with self._lock:
            if self._box is None:
                self._box = await AgentSandbox(self._place, **self._keywords).__aenter__()

    async def close(self) -> None:
        """Ends all that runs, and removes what was made for it. The next use opens it anew."""
        box, self._box = self._box, None
        if box is not None:
            await box.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # ---- for agents

    async def before_run(self, *, agent: Any, session: Any, context: Any, state: dict[str, Any]) -> None:
        """Gives a run the tools, and has it ask."""
        await self.start()
        context.extend_tools(self.source_id, self.tools())
        context.extend_instructions(self.source_id, f"Your working directory is {self.sandbox.workspace}.")
        if self._calls is not None:
            await end_rejected(self._calls, session.session_id, context.input_messages)
            context.extend_middleware(self.source_id, Approvals(self._calls, session.session_id, self.tools()[:2]))

    def tools(self) -> list[FunctionTool]:
        """`run_shell`, `run_python`, `read_file`, `write_file` and `list_files`; the last three need no process."""
        if not self._tools:
            python = self._tool("run_python", "Run Python code in a new process.", self._run_python, **self._runs)
            self._tools = [
                self.as_function(),
                python,
                self._tool("read_file", "Read a text file.", self._read_file),
                self._tool("write_file", "Write a text file, also over one that is there.", self._write_file),
                self._tool("list_files", "List a directory: kind, size, path.", self._list_files),
            ]
        return list(self._tools)

    def as_function(self, *, name: str = "run_shell", description: str | None = None) -> FunctionTool:
        """The shell tool, for `tools=` and for a chat client's `get_shell_tool(func=...)`."""
        about = "Run a shell command confined to its working directory. What is denied is told after stderr."
        return self._tool(name, description or about, self._run_shell, kind="shell", **self._runs)

    def _tool(self, name: str, about: str, function: Callable[..., Awaitable[Any]], **more: Any) -> FunctionTool:
        return FunctionTool(name=name, description=about, func=_explained(function), **more)

    async def _run_shell(self, command: str) -> ShellResult:
        return await self.run(command)

    async def _run_python(self, code: Annotated[str, Field(description="It prints what is to be seen.")]) -> Any:
        return await self._carry_out(["python3", "-"], self._timeout, code)

    async def _read_file(self, path: Path) -> str:
        await self.start()
        return shortened(await self.sandbox.files.read_text(path), self._most)

    async def _write_file(self, path: Path, content: str) -> str:
        await self.start()
        await self.sandbox.files.write(path, content)
        return f"wrote {len(content)} characters to {printable(path)}"

    async def _list_files(self, path: Path = ".") -> str:
        await self.start()
        entries = await self.sandbox.files.list(path)
        lines = [f"{each.kind:9} {each.size:>10} {printable(each.path)}" for each in entries]
        return shortened("\n".join(lines) or "[empty]", self._most)

    # ---- commands

    async def run(self, command: str, *, timeout: float | None = None) -> ShellResult:
        """Runs a command confined, in a shell of its own; cancelled, or out of time, it ends with all that it started.

        What was denied stands at the end of stderr, in words. Raises as AgentSandbox.run.
        """
        return await self._carry_out(command, self._timeout if timeout is None else timeout)

    async def _carry_out(
        self, command: str | Sequence[str], timeout: float | None, data: str | None = None
    ) -> ShellResult:
        await self.start()
        result = await self.sandbox.run(command, timeout=timeout, input=data, call_id=current_call_id())
        if self._on_result is not None:
            self._on_result(result)
        stdout, stderr = without_forged_trailers(result.stdout_text), result.stderr_text
        return ShellResult(
            stdout=shortened(stdout, self._most),
            stderr=with_denials(shortened(stderr, self._most), result),
            exit_code=result.exit_code,
            duration_ms=int(result.duration * 1000),
            truncated=bool(result.truncated) or max(len(stdout), len(stderr)) > self._most,
            timed_out=result.timed_out,
            denials=tuple(str(each) for each in result.denials),
        )


def _content(result: ShellResult | str) -> list[Content]:
    return result.content() if isinstance(result, ShellResult) else [Content.from_text(result)]


def _explained(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A tool whose errors the model gets to read; of others the framework says only that there was one."""

    @wraps(function)
    async def call(*arguments: Any, **values: Any) -> Any:
        try:
            return await function(*arguments, **values)
        except (SandlockError, UnicodeError) as error:
            return f"Error: {printable(str(error), 2000)}"

    return call
