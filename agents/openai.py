"""OpenAI Agents SDK: a sandbox client whose sessions are confined on Linux too, and an executor for `ShellTool`.

    client = SandlockSandboxClient(add=["git"], exec_ask=["git push *"], approve=ask)
    await Runner.run(agent, "...", run_config=RunConfig(sandbox=SandboxRunConfig(client=client)))

    tool = ShellTool(executor=shell_executor(box))

Files, snapshots and manifests are the SDK's own for local workspaces, done natively; once the session runs, file tools
may do what its commands may. Every command, and what it starts, runs in an AgentSandbox. Needs `pip install
"sandlock[openai]"`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agents import ShellCallOutcome, ShellCommandOutput, ShellResult
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
)
from agents.sandbox.manifest import Manifest
from agents.sandbox.sandboxes.unix_local import (
    UnixLocalSandboxClient,
    UnixLocalSandboxClientOptions,
    UnixLocalSandboxSession,
    UnixLocalSandboxSessionState,
)
from agents.sandbox.session.pty_types import allocate_pty_process_id, clamp_pty_yield_time_ms
from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec
from agents.sandbox.types import ExecResult

import sandlock
from sandlock.files import FileError
from sandlock.sessions.trailer import trailer, violations

from .sandbox import AgentSandbox
from .text import shortened, with_denials, without_forged_trailers
from .waiting_calls import current_call_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agents import ShellCommandRequest
    from agents.sandbox.session import SandboxSession, SandboxSessionState
    from agents.sandbox.session.pty_types import PtyExecUpdate
    from agents.sandbox.types import User

    from sandlock import AsyncProcess

__all__ = ["SandlockSandboxClient", "SandlockSandboxSession", "shell_executor"]

DEFAULT_ROOT = Manifest.model_fields["root"].default
YIELD_MS = 10_000


class SandlockSandboxSessionState(UnixLocalSandboxSessionState):
    """The SDK's state of a local session, under our name."""

    type: Literal["sandlock"] = "sandlock"  # type: ignore[assignment]  # the SDK tells states apart by it


@dataclass
class _Terminal:
    """One program with a pty, or with pipes, as the SDK's bookkeeping wants to see it."""

    process: _Process
    tty: bool
    last_used: float = field(default_factory=time.monotonic)
    output_chunks: deque[bytes] = field(default_factory=deque)
    output_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    output_notify: asyncio.Event = field(default_factory=asyncio.Event)
    output_closed: asyncio.Event = field(default_factory=asyncio.Event)
    pump_tasks: list[asyncio.Task[None]] = field(default_factory=list)
    wait_task: asyncio.Task[None] | None = None


class _Process:
    """A process of ours that is alive until it is closed."""

    def __init__(self, context: Any, process: AsyncProcess) -> None:
        self._context = context
        self.ours = process
        self.returncode: int | None = None

    async def wait(self) -> None:
        """Waits for its end."""
        self.returncode = (await self.ours.wait()).exit_code

    async def close(self) -> None:
        """Ends its whole tree."""
        await self._context.__aexit__(None, None, None)


class SandlockSandboxSession(UnixLocalSandboxSession):
    """A local session in which no command runs unconfined. Made by SandlockSandboxClient."""

    options: dict[str, Any]
    _box: AgentSandbox | None = None
    _opening: asyncio.Lock

    @classmethod
    def of(cls, state: SandlockSandboxSessionState, options: dict[str, Any]) -> SandlockSandboxSession:
        """The session of this state."""
        session = cls(state=state)
        session.options, session._opening = options, asyncio.Lock()
        return session

    async def box(self) -> AgentSandbox:
        """Its sandbox, made when it is first used: the manifest's root is the workspace, its grants are granted."""
        async with self._opening:
            if self._box is None:
                box = AgentSandbox(self.state.manifest.root, **self._keywords())
                await box.__aenter__()
                self._box = box
            return self._box

    def _keywords(self) -> dict[str, Any]:
        found: dict[str, Any] = {"keep_background": True} | self.options
        if "policy" not in found:
            for grant in self.state.manifest.extra_path_grants:
                name = "fs_readable" if grant.read_only else "fs_writable"
                found[name] = (*found.get(name, ()), grant.path)
        return found

    def _should_compute_snapshot_fingerprint_on_persist(self) -> bool:
        return False  # it would run tar and sha256sum in the sandbox at the end of every run

    # ---- files: what the application puts there before the session runs is not judged, what tools do then is

    async def _after_start(self) -> None:
        await super()._after_start()
        await self.box()

    def normalize_path(self, path: Path | str, *, for_write: bool = False) -> Path:
        """A path of the workspace without links, if it may be used so. Raises the SDK's errors."""
        return self._judged(super().normalize_path(path, for_write=for_write), for_write)

    def _normalize_entry_path(self, path: Path | str, *, for_write: bool = False) -> Path:
        return self._judged(super()._normalize_entry_path(path, for_write=for_write), for_write, holds=for_write)

    async def rm(self, path: Path | str, *, recursive: bool = False, user: str | User | None = None) -> None:
        """Removes a file or directory."""
        self._judged(super().normalize_path(path, for_write=True), True, holds=True)
        await super().rm(path, recursive=recursive, user=user)

    def _judged(self, path: Path, for_write: bool, *, holds: bool = False) -> Path:
        """The SDK acts by descriptor on exactly the path that it has resolved, and follows no link then."""
        if self._running and self._box is not None:
            try:
                self._box.files.sync.check(str(path), "change" if for_write else "read", holds=holds)
            except FileError as error:
                kind = WorkspaceArchiveWriteError if for_write else WorkspaceArchiveReadError
                raise kind(path=path, cause=error) from error
        return path

    async def _after_shutdown(self) -> None:
        await super()._after_shutdown()
        box, self._box = self._box, None
        if box is not None:
            await box.aclose()

    async def _environment(self) -> dict[str, str]:
        return dict(await self.state.manifest.environment.resolve())

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        words = [str(word) for word in command]
        try:
            box = await self.box()
            result = await box.run(words, timeout=timeout, env=await self._environment(), call_id=_call_id())
        except sandlock.SandlockError as error:
            raise ExecTransportError(command=command, cause=error) from error
        if result.timed_out:
            raise ExecTimeoutError(command=command, timeout_s=timeout, cause=None)
        return ExecResult(
            stdout=result.stdout, stderr=with_denials(result.stderr_text, result).encode(), exit_code=result.exit_code
        )

    # ---- programs that go on

    async def pty_exec_start(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
        tty: bool = False,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Starts a program, with a terminal if `tty`, and gives what it prints for a while."""
        words = self._prepare_exec_command(*command, shell=shell, user=user)
        streams: dict[str, Any] = {"pty": True} if tty else {"stderr": sandlock.STDOUT}
        box = await self.box()
        call_id = _call_id()
        context = box.start(words, env=await self._environment(), timeout=timeout, call_id=call_id, **streams)
        try:
            entry = _Terminal(_Process(context, await context.__aenter__()), tty)
        except sandlock.SandlockError as error:
            raise ExecTransportError(command=command, cause=error) from error
        entry.pump_tasks = [asyncio.create_task(_pump(entry, box.box.policy.max_output))]
        entry.wait_task = asyncio.create_task(self._watch_process_exit(entry))
        async with self._pty_lock:
            number = allocate_pty_process_id(self._reserved_pty_process_ids)
            self._reserved_pty_process_ids.add(number)
            pruned = self._prune_pty_processes_if_needed()
            self._pty_processes[number] = entry  # type: ignore[assignment]
        if pruned is not None:
            await self._terminate_pty_entry(pruned)
        wait = YIELD_MS if yield_time_s is None else int(yield_time_s * 1000)
        try:
            output, tokens, closed = await self._collected(entry, wait, max_output_tokens)
            while not closed and box.asks(call_id):  # the model has nothing to do before the answer
                more, counted, closed = await self._collected(entry, wait, max_output_tokens)
                output, tokens = output + more, (tokens or 0) + counted if counted else tokens
        except BaseException:  # cancelled: of a program that goes on, nobody would know
            async with self._pty_lock:
                self._pty_processes.pop(number, None)
                self._reserved_pty_process_ids.discard(number)
            await self._terminate_pty_entry(entry)
            raise
        return await self._finalize_pty_update(
            process_id=number,
            entry=entry,  # type: ignore[arg-type]
            output=output,
            original_token_count=tokens,
            output_closed=closed,
        )

    async def _collected(self, entry: _Terminal, wait_ms: int, most: int | None) -> tuple[bytes, int | None, bool]:
        return await self._collect_pty_output(
            entry=entry,  # type: ignore[arg-type]
            yield_time_ms=clamp_pty_yield_time_ms(wait_ms),
            max_output_tokens=most,
        )

    async def pty_write_stdin(
        self,
        *,
        session_id: int,
        chars: str,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Types into a program's terminal, and gives what it prints for a while."""
        if chars:
            async with self._pty_lock:
                entry: Any = self._resolve_pty_session_entry(pty_processes=self._pty_processes, session_id=session_id)
            terminal = entry.process.ours.terminal
            if terminal is None:
                raise RuntimeError("stdin is not available for this process")
            with suppress(OSError):
                await terminal.send_all(chars.encode("utf-8", "surrogateescape"))
            await asyncio.sleep(0.1)
        return await super().pty_write_stdin(
            session_id=session_id, chars="", yield_time_s=yield_time_s, max_output_tokens=max_output_tokens
        )

    async def _watch_process_exit(self, entry: Any) -> None:
        """What was denied stands at the end of what the program printed."""
        await entry.process.wait()
        await asyncio.gather(*entry.pump_tasks, return_exceptions=True)
        if denied := trailer(violations(entry.process.ours)):
            async with entry.output_lock:
                entry.output_chunks.append(denied.encode())
        entry.output_closed.set()
        entry.output_notify.set()

    async def _terminate_pty_entry(self, entry: Any) -> None:
        await entry.process.close()
        for task in (*entry.pump_tasks, entry.wait_task):
            task.cancel()
        await asyncio.gather(*entry.pump_tasks, entry.wait_task, return_exceptions=True)
        entry.output_closed.set()
        entry.output_notify.set()


async def _pump(entry: _Terminal, room: int) -> None:
    """What the program prints, up to so many bytes; it goes on printing, and nobody holds the rest."""
    stream = entry.process.ours.terminal or entry.process.ours.stdout
    assert stream is not None
    limit = room
    with suppress(OSError, sandlock.SandlockError):
        while chunk := await stream.receive_some():
            if not room:
                continue
            kept, room = chunk[:room], max(0, room - len(chunk))
            async with entry.output_lock:
                entry.output_chunks.append(kept if room else kept + f"\n[output cut at {limit} bytes]\n".encode())
            entry.output_notify.set()


class SandlockSandboxClient(UnixLocalSandboxClient):
    """Makes sessions in directories of this machine. Keywords are those of AgentSandbox."""

    backend_id = "sandlock"
    supports_default_options = True

    def __init__(self, *, instrumentation: Any = None, dependencies: Any = None, **keywords: Any) -> None:
        super().__init__(instrumentation=instrumentation, dependencies=dependencies, inherit_host_environment=False)
        self._keywords = keywords

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: UnixLocalSandboxClientOptions | None = None,
    ) -> SandboxSession:
        """A new session; without a root of its own, the manifest gets a directory that `delete` removes."""
        made = await super().create(snapshot=snapshot, manifest=manifest, options=options)
        inner = made._inner
        assert isinstance(inner, UnixLocalSandboxSession)
        facts = {
            name: getattr(inner.state, name) for name in UnixLocalSandboxSessionState.model_fields if name != "type"
        }
        return self._session(SandlockSandboxSessionState(**facts))

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """The session of a state that was kept."""
        if not isinstance(state, SandlockSandboxSessionState):
            raise TypeError("SandlockSandboxClient.resume expects the state of one of its own sessions")
        state.assert_path_grants_rebound()
        return self._session(state)

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        """The state that this JSON data is."""
        return self._deserialize_session_state_payload(payload, SandlockSandboxSessionState)

    def _session(self, state: SandlockSandboxSessionState) -> SandboxSession:
        inner = SandlockSandboxSession.of(state, self._keywords)
        inner._host_environment_allowlist = self._host_environment_allowlist
        return self._wrap_session(inner, instrumentation=self._instrumentation)


def shell_executor(
    box: AgentSandbox, *, max_output: int = 30_000
) -> Callable[[ShellCommandRequest], Awaitable[ShellResult]]:
    """An executor for `ShellTool(executor=...)`: each command of a call, in order, in this open sandbox.

    A time limit of the call holds for each of them; after one that ran into it, none follows.
    """

    async def execute(request: ShellCommandRequest) -> ShellResult:
        action, outputs = request.data.action, []
        limit = action.max_output_length or max_output
        for command in action.commands:
            seconds = None if action.timeout_ms is None else action.timeout_ms / 1000
            result = await box.run(command, timeout=seconds, call_id=current_call_id() or request.data.call_id)
            outcome = ShellCallOutcome(type="timeout" if result.timed_out else "exit", exit_code=result.exit_code)
            outputs.append(
                ShellCommandOutput(
                    command=command,
                    stdout=shortened(without_forged_trailers(result.stdout_text), limit),
                    stderr=shortened(with_denials(result.stderr_text, result), limit),
                    outcome=outcome,
                )
            )
            if result.timed_out:
                break
        return ShellResult(output=outputs, max_output_length=action.max_output_length)

    return execute


def _call_id() -> str:
    """The SDK tells its sessions no id of the tool call; that of `SandlockApprovals`, if it has begun this one."""
    return current_call_id() or f"openai-{uuid.uuid4().hex[:12]}"
