"""Pydantic AI: `SandlockBackend`, a workspace whose commands run in a sandbox; `SandlockSandbox`, its capability.

    options = {"add": ["git"], "exec_ask": ["git push *"], "approve": ask}
    agent = Agent("...", capabilities=[SandlockSandbox("~/project", options=options), ...])

The backend has all four protocols (commands, files, realpath, the environment itself), on asyncio and on trio. Needs
`pip install "sandlock[pydantic-ai]"`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.workspaces import (
    CommandResult,
    FileEntry,
    WorkspaceBackend,
    WorkspaceRef,
    WorkspaceTimeoutError,
    WorkspaceUnavailableError,
)
from pydantic_ai.workspaces.protocol import WorkspaceOutputLimitError, validate_timeout

from sandlock.files import FileError

from .file_errors import builtin_error
from .sandbox import AgentSandbox
from .text import with_denials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic_ai import RunContext

    from sandlock.files import Entry

__all__ = ["SandlockBackend", "SandlockSandbox"]

T = TypeVar("T")
PROVIDER = "sandlock"


class SandlockBackend:
    """A workspace of Pydantic AI in one directory. Keywords are those of AgentSandbox.

    Built without a directory, the first operation makes one, which stays: its `ref` names it. Close it with `aclose`,
    or by `async with`, when nothing shall run in it any more; at the end of the process everything ends.
    """

    def __init__(
        self, working_dir: str | Path | None = None, *, ref: WorkspaceRef | None = None, **keywords: Any
    ) -> None:
        if ref is not None and ref.provider != PROVIDER:
            raise ValueError(f"a ref of {ref.provider!r} names no workspace of sandlock")
        given = ref.id if ref is not None else None if working_dir is None else os.path.expanduser(working_dir)
        self._given = None if given is None else os.path.abspath(given)
        self._ref = None if self._given is None else WorkspaceRef(provider=PROVIDER, id=self._given)
        self._keywords = keywords
        self._lock: anyio.Lock | None = None
        self._box: AgentSandbox | None = None

    @property
    def ref(self) -> WorkspaceRef | None:
        """The directory; None until there is one."""
        return self._ref

    async def __aenter__(self) -> SandlockBackend:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends everything that runs in it. The directory stays."""
        box, self._box = self._box, None
        if box is not None:
            await box.aclose()

    async def _open(self) -> AgentSandbox:
        """The sandbox, made by whoever comes first."""
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self._box is None:
                self._box = await self._made()
            if not await anyio.to_thread.run_sync(os.path.isdir, self._box.workspace):
                raise WorkspaceUnavailableError(f"the directory {self._box.workspace} is gone")
            return self._box

    async def _made(self) -> AgentSandbox:
        if self._given is None:
            import tempfile

            self._given = await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="sandlock-workspace-"))
            self._ref = WorkspaceRef(provider=PROVIDER, id=self._given)
        elif not await anyio.to_thread.run_sync(os.path.isdir, self._given):
            raise WorkspaceUnavailableError(f"the directory {self._given} does not exist")
        box = AgentSandbox(self._given, **{"keep_background": True} | self._keywords)
        await box.__aenter__()
        return box

    async def working_dir(self) -> str:
        """The directory, without links."""
        return (await self._open()).workspace

    # ---- SupportsCommands

    async def run(
        self,
        command: str | Sequence[str],
        *,
        shell: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        """Runs a command confined. What was denied stands at the end of its stderr, in words."""
        if isinstance(command, str) != shell:
            raise TypeError("a text needs shell=True, a list of words shell=False")
        validate_timeout(timeout)
        box = await self._open()
        result = await box.run(command, env=env, timeout=timeout)
        stdout, stderr = result.stdout_text, with_denials(result.stderr_text, result)
        if result.timed_out:
            raise WorkspaceTimeoutError(f"the command was killed after {timeout:g} s", stdout=stdout, stderr=stderr)
        if not await anyio.to_thread.run_sync(os.path.isdir, box.workspace):
            raise WorkspaceUnavailableError(f"the directory {box.workspace} was removed while the command ran")
        if result.truncated:
            limit = box.box.policy.max_output
            raise WorkspaceOutputLimitError("the output is too long", limit=limit, stdout=stdout, stderr=stderr)
        return CommandResult(exit_code=result.exit_code, stdout=stdout, stderr=stderr)

    # ---- SupportsFilesystem, SupportsRealpath

    async def read_bytes(self, path: str) -> bytes:
        """A file's content."""
        return await self._file(lambda box: box.files.sync.read(path))

    async def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file, through a link that leads inside the workspace."""
        await self._file(lambda box: box.files.sync.write(path, data))

    async def stat(self, path: str) -> FileEntry:
        """What is there."""
        return await self._file(lambda box: _entry(box, path, box.files.sync.stat(path)))

    async def list_dir(self, path: str) -> Sequence[FileEntry]:
        """What a directory holds."""
        return await self._file(lambda box: [_listed(box, path, each) for each in box.files.sync.list(path)])

    async def make_dir(self, path: str) -> None:
        """Makes a directory, and those above it."""
        await self._file(lambda box: box.files.sync.make_dir(path))

    async def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that it holds."""

        def remove(box: AgentSandbox) -> None:
            above = os.path.normpath(os.path.join(box.workspace, path))
            if box.workspace == above or box.workspace.startswith(above.rstrip("/") + "/"):
                raise ValueError(f"{path}: the workspace itself, or what holds it, is not removed")
            box.files.sync.remove(path, recursive=True)

        await self._file(remove)

    async def exists(self, path: str) -> bool:
        """Whether there is anything inside the workspace."""
        return await self._file(lambda box: box.files.sync.exists(path))

    async def realpath(self, path: str) -> str:
        """The path without links, what is missing kept as it is written."""
        return await self._file(lambda box: os.path.realpath(os.path.join(box.workspace, path)))

    async def _file(self, act: Callable[[AgentSandbox], T]) -> T:
        """In a thread; errors are the builtin ones."""
        box = await self._open()
        try:
            return await anyio.to_thread.run_sync(act, box)
        except FileError as error:
            raise builtin_error(error) from error


def _entry(box: AgentSandbox, path: str, found: Entry) -> FileEntry:
    whole = os.path.normpath(os.path.join(box.workspace, path))
    size = found.size if found.kind == "file" else None
    return FileEntry(name=os.path.basename(whole), path=whole, is_dir=found.kind == "directory", size=size)


def _listed(box: AgentSandbox, path: str, found: Entry) -> FileEntry:
    """Of a link, what it leads to inside the workspace."""
    whole = os.path.join(path, os.path.basename(found.path))
    if found.kind == "link":
        try:
            found = box.files.sync.stat(whole)
        except FileError:
            return FileEntry(name=os.path.basename(whole), path=os.path.normpath(whole), is_dir=False, size=None)
    return _entry(box, whole, found)


@dataclass
class SandlockSandbox(AbstractCapability[Any]):
    """Gives runs a workspace in a sandbox. `working_dir`: the directory; `options`: keywords of AgentSandbox."""

    working_dir: str | Path
    _: KW_ONLY
    options: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = "sandlock"

    def __post_init__(self) -> None:
        self._backend = SandlockBackend(self.working_dir, **self.options)

    def get_workspace(self, ctx: RunContext[Any], *, ref: WorkspaceRef | None) -> WorkspaceBackend | None:
        """The same sandbox for every run of the agent; a ref of another directory is not followed."""
        return self._backend if ref is None or ref == self._backend.ref else None

    async def aclose(self) -> None:
        """Ends everything that runs in it."""
        await self._backend.aclose()
