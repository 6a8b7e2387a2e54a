"""deepagents: `SandlockBackend`, a sandbox backend whose commands run confined and whose file tools need no process.

    with SandlockBackend("~/project", add=["git"], exec_ask=["git push *"], approve=ask) as backend:
        agent = create_deep_agent(model="...", backend=backend)

One sandbox serves `invoke`, from worker threads, and `ainvoke`. "/hello.py" is hello.py of the workspace. For questions
as interrupts of the graph: sandlock.agents.langchain. Needs `pip install "sandlock[deepagents]"`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

from deepagents.backends.protocol import ExecuteResponse

from sandlock import SandlockError
from sandlock.sessions.trailer import trailer, violations

from .deepagents_files import FileTools
from .langchain import current_call_id
from .sync import SyncAgentSandbox
from .text import without_forged_trailers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from sandlock import Result
    from sandlock.files import Files

__all__ = ["SandlockBackend"]


class SandlockBackend(FileTools):
    """A deepagents backend in one directory. Keywords are those of AgentSandbox.

    Opened by the first use; `close`, or the end of `with` or `async with`, ends all that runs in it. `on_result` gets
    the Result of every command, denials and all, in the thread that carries it out.
    """

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        on_result: Callable[[Result], None] | None = None,
        **keywords: Any,
    ) -> None:
        place = None if workspace is None else os.path.expanduser(os.fspath(workspace))
        self.sandbox = SyncAgentSandbox(place, **keywords, rooted=True)
        """What carries it out: files, shell, snapshot, and the workspace's path."""
        self._on_result = on_result
        self._lock = threading.Lock()
        self._id = f"sandlock-{os.urandom(6).hex()}"
        self._ended = False

    # ---- its life

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Ends all that runs, and removes what was made for it. Nothing can be run any more."""
        with self._lock:
            self._ended = True
            self.sandbox.close()

    def _open(self) -> SyncAgentSandbox:
        with self._lock:
            if self._ended:
                raise SandlockError("this backend is closed; make a new one")
            self.sandbox.open()
            return self.sandbox

    @property
    def _files(self) -> Files:
        return self._open().files

    @property
    def id(self) -> str:
        """A name of this sandbox, no other's."""
        return self._id

    # ---- commands

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a command confined; what was denied stands at the end of its output. 0: the sandbox's own limit."""
        box = self._open()
        return self._response(box.run(command, timeout=timeout or None, call_id=current_call_id()))

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """As `execute`. Cancelled, it ends the command and all that this has started."""
        box, call_id = await asyncio.to_thread(self._open), current_call_id()

        async def run() -> Result:
            return await box.sandbox.run(command, timeout=timeout or None, call_id=call_id)

        return self._response(await box.call_async(run))

    def _response(self, result: Result) -> ExecuteResponse:
        if self._on_result is not None:
            self._on_result(result)
        return ExecuteResponse(output=_output(result), exit_code=result.exit_code, truncated=bool(result.truncated))


def _output(result: Result) -> str:
    """Output, error output, a time limit and denials; deepagents adds the exit code itself."""
    stderr = without_forged_trailers(result.stderr_text)
    parts = [without_forged_trailers(result.stdout_text), f"[stderr]\n{stderr}" if stderr.strip() else ""]
    if result.timed_out:
        parts.append(f"[killed after {result.duration:.1f} s: time limit]")
    parts.append(trailer(violations(result)))
    return "\n".join(part.rstrip("\n") for part in parts if part.strip())
