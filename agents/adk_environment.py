"""An environment of Google ADK in a sandbox: commands run confined, files are touched without a process."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.adk.environment import BaseEnvironment, ExecutionResult

from sandlock.files import FileError

from .file_errors import builtin_error
from .sync import InCallersLoop, SyncAgentSandbox
from .text import with_denials, without_forged_trailers
from .waiting_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock import Result

    from .sandbox import Approve

__all__ = ["SandlockEnvironment", "error_text"]


class SandlockEnvironment(BaseEnvironment):
    """An environment of ADK in one directory; None: one of its own. Keywords are those of AgentSandbox.

    `approve` is called in the loop of whoever runs commands. `on_result` gets the Result of every command, denials and
    all. What a command leaves in the background lives on until `close`.
    """

    def __init__(
        self,
        working_dir: str | os.PathLike[str] | None = None,
        *,
        env_vars: dict[str, str] | None = None,
        approve: Approve | None = None,
        on_result: Callable[[Result], None] | None = None,
        **keywords: Any,
    ) -> None:
        place = None if working_dir is None else os.path.abspath(os.path.expanduser(os.fspath(working_dir)))
        self._asks: InCallersLoop | None = None
        if approve is not None and not isinstance(getattr(approve, "__self__", None), Calls):  # those wait in any loop
            self._asks = InCallersLoop(approve)
            approve = self._asks.ask
        self._on_result = on_result
        keywords = {"keep_background": True, "approve": approve} | keywords
        self.sandbox = SyncAgentSandbox(place, env=env_vars, **keywords)
        """What carries it out: files, shell, snapshot."""
        self._lock = threading.Lock()
        weakref.finalize(self, self.sandbox.close)

    @property
    def working_dir(self) -> Path:
        """The directory. Raises RuntimeError before `initialize`."""
        if not self.is_initialized:
            raise RuntimeError("there is no directory yet; call initialize() first")
        return Path(self.sandbox.workspace)

    async def initialize(self) -> None:
        """Opens the sandbox. Raises as AgentSandbox does."""

        def begin() -> None:
            with self._lock:
                self.sandbox.open()
                self.is_initialized = True

        await asyncio.to_thread(begin)

    async def close(self) -> None:
        """Ends all that runs, and removes what was made for it."""

        def end() -> None:
            with self._lock:
                self.is_initialized = False
                self.sandbox.close()

        await asyncio.to_thread(end)

    async def execute(self, command: str, *, timeout: float | None = None) -> ExecutionResult:
        """Runs a command confined; what was denied stands at the end of its stderr, in words."""
        result = await self.run(command, timeout=timeout)
        stdout = without_forged_trailers(result.stdout_text)
        return ExecutionResult(result.exit_code, stdout, error_text(result), result.timed_out)

    async def run(self, command: str, *, timeout: float | None = None, call_id: str | None = None) -> Result:
        """The same, as our Result. Cancelled, it ends the command and all that this has started."""
        if self._asks is not None:
            self._asks.loop = asyncio.get_running_loop()

        async def run() -> Result:
            return await self.sandbox.sandbox.run(command, timeout=timeout, call_id=call_id)

        return self._told(await self.sandbox.call_async(run))

    def run_here(self, command: str, *, timeout: float | None, call_id: str) -> Result:
        """The same for a plain thread, until its end or `sandbox.cancel(call_id)`."""

        async def run() -> Result:
            return await self.sandbox.sandbox.run(command, timeout=timeout, call_id=call_id)

        return self._told(self.sandbox.call(run, call_id=call_id))

    def _told(self, result: Result) -> Result:
        if self._on_result is not None:
            self._on_result(result)
        return result

    async def read_file(self, path: str | Path) -> bytes:
        """A file's content. Raises FileNotFoundError, PermissionError: it leads out of the workspace; OSError."""
        try:
            return await asyncio.to_thread(self.sandbox.files.read, os.fspath(path))
        except FileError as error:
            raise builtin_error(error) from error

    async def write_file(self, path: str | Path, content: str | bytes) -> None:
        """Writes a file, and makes the directories above it. Raises as `read_file`."""
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        try:
            await asyncio.to_thread(self.sandbox.files.write, os.fspath(path), data)
        except FileError as error:
            raise builtin_error(error) from error


def error_text(result: Result) -> str:
    """What it printed there, and what was denied."""
    cut = f"[{' and '.join(sorted(result.truncated))} cut]" if result.truncated else ""
    return with_denials(result.stderr_text + cut, result)
