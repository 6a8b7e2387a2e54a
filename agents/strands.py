"""Strands Agents: `SandlockSandbox`, a sandbox whose commands run confined, with a shell tool whose questions are
interrupts of the agent, and a file editor that needs no process.

    sandbox = SandlockSandbox("~/project", add=["git"], exec_ask=["git push *"])
    agent = Agent(model=..., sandbox=sandbox)

    result = agent("publish it")  # stopped by "interrupt"? answer:
    agent([{"interruptResponse": {"interruptId": result.interrupts[0].id, "response": "allow"}}])

Needs `pip install "sandlock[strands]"`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import weakref
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from strands import ToolContext, tool
from strands.sandbox import LANGUAGE_PATTERN, ExecutionResult, FileInfo, Sandbox, StreamChunk
from strands.sandbox.errors import SandboxPathNotFoundError, SandboxTimeoutError
from strands.sandbox.posix_shell import validate_env_keys
from strands.vended_tools.file_editor import make_file_editor
from strands.vended_tools.file_editor.file_editor import DEFAULT_FILE_EDITOR_DESCRIPTION
from strands.vended_tools.shell.types import SANDBOX_SHELL_DESCRIPTION

from sandlock.files import FileError

from .file_errors import builtin_error
from .strands_streams import Done, carried_out
from .strands_tool import shell_answer
from .sync import InCallersLoop, SyncAgentSandbox
from .waiting_calls import Calls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from typing import Self

    from sandlock import Result
    from sandlock.files import Files

    from .sandbox import Approve

__all__ = ["SandlockSandbox"]


class SandlockSandbox(Sandbox):
    """A sandbox of Strands in one directory; None: one of its own. Keywords are those of AgentSandbox.

    Without `approve`, what a command of its shell tool asks interrupts the agent; meanwhile the command stands where it
    is, and what it asked about is not carried out. What other tools run cannot ask: denied. With `approve`, that
    decides for all, in the loop of whoever runs commands. `on_result` gets the Result of every command, denials and
    all, but for its output. Opened by the first use; `close`, or the end of a `with`, ends all that runs in it.
    """

    def __init__(
        self,
        working_dir: str | os.PathLike[str] | None = None,
        *,
        approve: Approve | None = None,
        on_result: Callable[[Result], None] | None = None,
        **keywords: Any,
    ) -> None:
        place = None if working_dir is None else os.path.abspath(os.path.expanduser(os.fspath(working_dir)))
        self._calls = Calls("the user of Strands") if approve is None else None
        self._asks = None if approve is None else InCallersLoop(approve)
        ask = self._calls.approve if self._calls is not None else self._asks and self._asks.ask
        self.sandbox = SyncAgentSandbox(place, approve=ask, **keywords)
        """What carries it out: files, shell, snapshot, and the workspace's path."""
        self._on_result = on_result
        self._lock = threading.Lock()
        weakref.finalize(self, self.sandbox.close)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def open(self) -> SyncAgentSandbox:
        """Opens it, if it is not open. Raises as AgentSandbox does."""
        with self._lock:
            self.sandbox.open()
            return self.sandbox

    def close(self) -> None:
        """Ends all that runs, and removes what was made for it. The next use opens it anew."""
        with self._lock:
            self.sandbox.close()

    # ---- commands and code

    async def execute_streaming(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        call_id: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """Runs a command confined, and gives what it prints as it comes; what was denied comes last, on stderr.

        What it leaves in the background ends with it; when it is cancelled, or this is closed, all does. Raises
        SandboxTimeoutError, FileNotFoundError, PermissionError: `cwd`; ValueError: `env`.
        """
        options = {"timeout": timeout, "cwd": cwd, "env": env, "call_id": call_id}
        async with aclosing(self._streamed(command, None, options)) as stream:
            async for chunk in stream:
                yield chunk

    async def execute_code_streaming(
        self,
        code: str,
        language: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        call_id: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """The same for code, which the program `language` reads from its stdin."""
        if not LANGUAGE_PATTERN.fullmatch(language):
            raise ValueError(f"language parameter contains invalid characters: {language}")
        options = {"timeout": timeout, "cwd": cwd, "env": env, "call_id": call_id}
        async with aclosing(self._streamed([language], code.encode("utf-8", "surrogateescape"), options)) as stream:
            async for chunk in stream:
                yield chunk

    async def _streamed(
        self, command: str | Sequence[str], data: bytes | None, options: dict[str, Any]
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        validate_env_keys(options["env"] or {})
        box, loop = await asyncio.to_thread(self.open), asyncio.get_running_loop()
        if self._asks is not None:
            self._asks.loop = loop
        queue: asyncio.Queue[StreamChunk | None] = asyncio.Queue()

        def put(chunk: StreamChunk | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, chunk)

        async def run() -> Done:
            return await carried_out(box.sandbox, command, put, data, options)

        task = asyncio.ensure_future(box.call_async(run))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (chunk := await queue.get()) is not None:
                yield chunk
            yield self.told(task.result(), options["timeout"])
        except FileError as error:
            raise builtin_error(error) from error
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    def told(self, done: Done, timeout: float | None) -> ExecutionResult:
        """What became of a command, after `on_result` has had it. Raises SandboxTimeoutError."""
        if self._on_result is not None:
            self._on_result(done.result)
        if done.timed_out:
            raise SandboxTimeoutError(timeout, done.stdout, done.stderr)
        return ExecutionResult(done.result.exit_code, done.stdout, done.stderr)

    # ---- files

    async def read_file(self, path: str, **kwargs: Any) -> bytes:
        """A file's content. Raises FileNotFoundError, PermissionError: it leads out of the workspace; OSError."""
        return await self._file(lambda files: files.read(path))

    async def write_file(self, path: str, content: bytes, **kwargs: Any) -> None:
        """Writes a file, and makes the directories above it. Raises as `read_file`."""
        await self._file(lambda files: files.write(path, content))

    async def remove_file(self, path: str, **kwargs: Any) -> None:
        """Removes a file. Raises as `read_file`."""

        def remove(files: Files) -> None:
            if files.stat(path).kind == "directory":
                raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
            files.remove(path)

        await self._file(remove)

    async def list_files(self, path: str, **kwargs: Any) -> list[FileInfo]:
        """What a directory holds; of one above the workspace, the way there. Raises SandboxPathNotFoundError, OSError.

        A link is what it leads to inside the workspace.
        """

        def found(files: Files) -> list[FileInfo]:
            above = os.path.normpath(os.path.join(files.root, path)).rstrip("/") + "/"
            if files.root.startswith(above):
                return [FileInfo(name=files.root[len(above) :].split("/")[0], is_dir=True)]
            return [_info(files, each.path) for each in files.list(path)]

        try:
            return await self._file(found)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SandboxPathNotFoundError(path) from error

    async def _file(self, act: Callable[[Files], Any]) -> Any:
        """In a thread; errors are the builtin ones."""

        def here() -> Any:
            try:
                return act(self.open().files)
            except FileError as error:
                raise builtin_error(error) from error

        return await asyncio.to_thread(here)

    # ---- tools

    def get_tools(self) -> list[Any]:
        """`sandbox_shell` and `sandbox_file_editor`."""
        place = f"Working directory: {self.open().workspace}."
        about = f"{SANDBOX_SHELL_DESCRIPTION} {place} It is confined: what is denied is told at the end of the error."

        @tool(name="sandbox_shell", description=about, context="tool_context")
        async def sandbox_shell(command: str, tool_context: ToolContext, timeout: int = 120) -> dict[str, Any]:
            """Executes a shell command and returns its output and exit code.

            Args:
                command: The shell command to execute.
                tool_context: Injected by the framework. Not user-facing.
                timeout: Timeout in seconds (default: 120).
            """
            return await shell_answer(self, self._calls, command, timeout, tool_context)

        description = f"{DEFAULT_FILE_EDITOR_DESCRIPTION} {place} There are no other files."
        return [make_file_editor(sandbox=self, name="sandbox_file_editor", description=description), sandbox_shell]


def _info(files: Files, path: str) -> FileInfo:
    try:
        found = files.stat(path)
    except FileError:  # a link that leads nowhere, or out
        return FileInfo(name=os.path.basename(path), is_dir=False)
    size = found.size if found.kind == "file" else None
    return FileInfo(name=os.path.basename(path), is_dir=found.kind == "directory", size=size)
