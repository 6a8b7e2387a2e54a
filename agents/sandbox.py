"""AgentSandbox: what every adapter is built on. A workspace, commands, files, a shell and a Python that live on.

Rules: commands and code run confined, by one policy; files are read and written from outside, without a process, and
never outside the workspace. Whoever asks is told who caused a call: the model's command, or the adapter's own.
"""

from __future__ import annotations

import errno
import os
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

import sandlock
from sandlock.files import Files
from sandlock.sessions.questions import command_text
from sandlock.sessions.workspace import prepare, settle
from sandlock.snapshots import restore, snapshot

from .background import Background
from .calling_python import CallingPython
from .interpreter import Interpreter
from .loops import in_thread
from .places import Place
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import IO, Any, Self

    from sandlock import AsyncProcess, Policy, Result
    from sandlock.files import Entry

    Verdict = sandlock.Allow | sandlock.Audit | sandlock.Deny | sandlock.Kill | None
    Approve = Callable[["Request"], Awaitable[Verdict] | Verdict]
    Origin = Literal["command", "adapter"]

__all__ = ["AgentSandbox", "AsyncFiles", "Request", "run_origin"]

run_origin: ContextVar[Origin] = ContextVar("sandlock_run_origin", default="command")
"""Who causes the runs that start from here: the model's command, or the adapter itself."""


RUNTIMES = ("python", "node")
"""Presets that every agent gets: what its commands are most likely written in."""


class Request:
    """One exec or one call of the network that the rules leave open, for `approve`."""

    __slots__ = ("box", "call_id", "event", "origin")

    def __init__(self, event: Any, box: sandlock.AsyncSandbox, origin: Origin) -> None:
        self.event = event
        """As policy_fn has it: sandlock.Exec, Connect, Send, Bind, Listen, Resolve, ..."""
        self.box = box
        self.call_id: str = event.call_id
        """Of the run, as the adapter gave it: a tool call's id."""
        self.origin = origin
        """Whether the model's command asks, or a command of the adapter itself."""

    @property
    def summary(self) -> str:
        """One line for a person: the words of an exec, and the file where they lie about it; or where a connection
        leads. Escaped."""
        event = self.event
        if isinstance(event, sandlock.Exec):
            return f"exec {command_text(event.argv, event.exe)}"
        host = getattr(event, "host", "")
        where = event.target + (f" ({host})" if host and host != event.target else "")
        return sandlock.result.printable(f"{type(event).__name__.lower()} {where}", 500)


class AsyncFiles:
    """`sandlock.files.Files` for async code: the same methods, each in a worker thread."""

    def __init__(self, files: Files) -> None:
        self.sync = files
        """The same, for plain code."""

    async def read(self, path: str, *, max_bytes: int = 64 * 2**20) -> bytes:
        """As Files.read."""
        return await in_thread(lambda: self.sync.read(path, max_bytes=max_bytes))

    async def read_text(self, path: str, *, max_bytes: int = 64 * 2**20) -> str:
        """As Files.read_text."""
        return await in_thread(lambda: self.sync.read_text(path, max_bytes=max_bytes))

    async def write(self, path: str, content: bytes | str, *, parents: bool = True) -> None:
        """As Files.write."""
        await in_thread(lambda: self.sync.write(path, content, parents=parents))

    async def list(self, path: str = ".") -> list[Entry]:
        """As Files.list."""
        return await in_thread(self.sync.list, path)

    async def stat(self, path: str) -> Entry:
        """As Files.stat."""
        return await in_thread(self.sync.stat, path)

    async def exists(self, path: str) -> bool:
        """As Files.exists."""
        return await in_thread(self.sync.exists, path)

    async def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """As Files.remove."""
        await in_thread(lambda: self.sync.remove(path, recursive=recursive, missing_ok=missing_ok))

    async def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True) -> None:
        """As Files.make_dir."""
        await in_thread(lambda: self.sync.make_dir(path, parents=parents, exist_ok=exist_ok))

    async def move(self, source: str, target: str) -> None:
        """As Files.move."""
        await in_thread(self.sync.move, source, target)

    async def realpath(self, path: str) -> str:
        """As Files.realpath."""
        return await in_thread(self.sync.realpath, path)

    async def upload(self, source: str | os.PathLike[str], path: str) -> None:
        """As Files.upload."""
        await in_thread(self.sync.upload, source, path)

    async def download(self, path: str, target: str | os.PathLike[str]) -> None:
        """As Files.download."""
        await in_thread(self.sync.download, path, target)


class AgentSandbox:
    """A sandbox for one agent, under trio and under asyncio.

    `workspace`: the directory it works in; None makes one, and removes it at the end. `policy`: what is allowed;
    without one, that of an agent run: the system readable, the workspace writable, a private HOME and TMPDIR, no
    network, with `add` ("git", "pip", ...) and `fields` (keywords of Policy) on top. `approve(request)`, async or
    plain, decides what the rules leave open, and denies what it does not allow. `rooted`: "/x" in file names means `x`
    of the workspace. `keep_background`: what a command leaves running goes on until the sandbox is closed.

    Raises PolicyError, Unsupported, when it is entered.
    """

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        policy: Policy | None = None,
        approve: Approve | None = None,
        approve_timeout: float | None = 300.0,
        add: Sequence[str] = (),
        timeout: float | None = None,
        audit: str | os.PathLike[str] | None = None,
        rooted: bool = False,
        env: Mapping[str, str] | None = None,
        keep_background: bool = False,
        **fields: Any,
    ) -> None:
        if policy is not None and (add or fields):
            raise sandlock.PolicyError("policy: give a policy, or what to add to the one of an agent run; not both")
        self._given = None if workspace is None else os.fspath(workspace)
        self._policy, self._add, self._fields = policy, tuple(add), fields
        self._approve, self._approve_timeout = approve, approve_timeout
        self._timeout, self._audit, self._rooted = timeout, audit, rooted
        self._env = dict(env or {})
        self._stack = AsyncExitStack()
        self._origins: dict[str, Origin] = {}
        self._asked: list[str] = []
        self._keep_background = keep_background
        self._background: Background | None = None
        self._shell: Shell | None = None
        self._python: Interpreter | None = None
        self._box: sandlock.AsyncSandbox | None = None
        self._files: AsyncFiles | None = None
        self.workspace = ""
        """The directory, once it is entered."""

    # ---- its life

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends all that runs, and removes what was made for it."""
        self._box = self._files = self._shell = self._python = self._background = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _open(self) -> None:
        policy = await in_thread(self._prepare)
        box = sandlock.AsyncSandbox(
            policy,
            policy_fn=None if self._approve is None else self._ask,
            policy_timeout=self._approve_timeout,
            audit=self._audit,
        )
        self._box = await self._stack.enter_async_context(box)
        files = await in_thread(lambda: Files(self.workspace, rooted=self._rooted, **box.reach.to_dict()))
        self._files = AsyncFiles(self._stack.enter_context(files))
        if self._keep_background:
            self._background = Background(self._box)
            self._stack.push_async_callback(self._background.aclose)

    def _prepare(self) -> Policy:
        """Directories, the policy and the files; undone by the stack."""
        place = self._stack.enter_context(Place(prefix="sandlock-agent-"))
        given, state = self._given, os.path.join(place, "state")
        if given is None:
            given = os.path.join(place, "workspace")
            os.mkdir(given)
        self.workspace = os.path.realpath(given)
        policy = self._policy
        if policy is None:
            os.mkdir(state, 0o700)
            setup = prepare(
                state=state, workspace=self.workspace, presets=RUNTIMES, addons=self._add, fields=self._fields
            )
            self._stack.callback(settle, setup)
            policy = setup.policy
        if policy.cwd is None:
            policy = policy.but(cwd=self.workspace)
        return policy

    async def _ask(self, event: Any, box: sandlock.AsyncSandbox) -> Verdict:
        from inspect import isawaitable, iscoroutinefunction

        approve = self._approve
        assert approve is not None
        request = Request(event, box, self._origins.get(event.call_id, "command"))
        self._asked.append(request.call_id)
        try:
            if iscoroutinefunction(approve):
                return await approve(request)  # type: ignore[no-any-return]
            answer = await in_thread(approve, request, left_behind=True)  # it may wait for a person
            return await answer if isawaitable(answer) else answer
        finally:
            self._asked.remove(request.call_id)

    def asks(self, call_id: str) -> bool:
        """Whether `approve` has not yet answered a question of the run with this id."""
        return call_id in self._asked

    @property
    def box(self) -> sandlock.AsyncSandbox:
        """The sandbox itself. Raises SandlockError outside its `async with`."""
        if self._box is None:
            raise sandlock.SandlockError("the sandbox is not open; use it within its `async with`")
        return self._box

    @property
    def files(self) -> AsyncFiles:
        """The files of the workspace. Raises SandlockError outside its `async with`."""
        if self._files is None:
            raise sandlock.SandlockError("the sandbox is not open; use it within its `async with`")
        return self._files

    # ---- commands

    async def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | str | None = None,
        call_id: str | None = None,
        merged: bool = False,
    ) -> Result:
        """Runs a command: a text by `bash -c` (`sh` where there is none), words as they are. As AsyncSandbox.run.

        `cwd` is relative to the workspace. `merged`: what it writes to stderr is in `stdout`, in its order. A program
        that is not there is exit code 127, one that cannot be executed 126. Raises PolicyError; ConfinementError for
        other faults of the launch.
        """
        call_id = call_id or os.urandom(8).hex()
        options: dict[str, Any] = {"timeout": self._timeout if timeout is None else timeout, "call_id": call_id}
        options |= {"env": self._env | dict(env or {}) or None, "cwd": await self._directory(cwd)}
        options["stderr"] = sandlock.STDOUT if merged else sandlock.PIPE
        self._origins[call_id] = run_origin.get()
        try:
            if self._background is not None and input is None:
                return await self._background.run(self._words(command), **options)
            return await self.box.run(self._words(command), input=input, **options)
        except sandlock.ConfinementError as error:
            return self._not_started(error, self._words(command), options)
        finally:
            self._origins.pop(call_id, None)

    def start(
        self, command: str | Sequence[str], *, cwd: str | None = None, **options: Any
    ) -> AbstractAsyncContextManager[AsyncProcess]:
        """Starts a command, as AsyncSandbox.start: `stdin`, `stdout`, `stderr`, `pty`, `env`, `timeout`, `call_id`."""
        options["env"] = self._env | dict(options.get("env") or {}) or None
        where = None if cwd is None else self.files.sync.realpath(cwd)
        return self.box.start(self._words(command), cwd=where, **options)

    @property
    def shell(self) -> Shell:
        """A shell that keeps its directory and variables between commands; started when it is first used."""
        if self._shell is None:
            self._shell = Shell(self.box, cwd=self.workspace, env=self._env or None)
            self._stack.push_async_callback(self._shell.close)
        return self._shell

    @property
    def python(self) -> Interpreter:
        """A Python that keeps what is defined between pieces of code; started when it is first used."""
        if self._python is None:
            self._python = Interpreter(self.box, cwd=self.workspace, env=self._env or None)
            self._stack.push_async_callback(self._python.close)
        return self._python

    def calling_python(self) -> CallingPython:
        """A new Python of its own whose code calls functions of the application; closed with the sandbox."""
        python = CallingPython(self.box, cwd=self.workspace, env=self._env or None)
        self._stack.push_async_callback(python.close)
        return python

    def _words(self, command: str | Sequence[str]) -> list[str]:
        if isinstance(command, str):
            return ["bash" if os.path.exists("/bin/bash") else "sh", "-c", command]
        return list(command)

    async def _directory(self, cwd: str | None) -> str | None:
        return None if cwd is None else await self.files.realpath(cwd)

    def _not_started(self, error: sandlock.ConfinementError, words: list[str], options: Mapping[str, Any]) -> Result:
        """What shells make of a program that is not there, or is none. Raises any other error again."""
        code = {errno.ENOENT: 127, errno.ENOTDIR: 127, errno.EACCES: 126, errno.ENOEXEC: 126}.get(error.errno or 0)
        if error.step != "execute the program" or code is None:
            raise error
        if code == 126 and not self._is_there(words[0], (options["env"] or {}).get("PATH")):
            code = 127
        text = "command not found" if code == 127 else "cannot be executed"
        stderr = f"{words[0]}: {text}\n".encode("utf-8", "surrogateescape")
        return sandlock.Result(exit_code=code, stderr=stderr, argv=tuple(words), call_id=options["call_id"])

    def _is_there(self, program: str, path: str | None) -> bool:
        """Whether a search finds it: EACCES may also come of a directory of PATH that nobody may search."""
        if "/" in program:
            return True
        names = [program] if path is None else [f"{directory or '.'}/{program}" for directory in path.split(":")]
        for name in names:
            with suppress(sandlock.SandlockError):
                self.box.check_exec([name])
                return True
        return False

    # ---- the workspace

    async def snapshot(self, target: IO[bytes]) -> int:
        """Writes the workspace as a tar archive, and returns how many members it has. As sandlock.snapshots."""
        return await in_thread(snapshot, self.files.sync, target)

    async def restore(self, source: IO[bytes]) -> int:
        """Brings a tar archive into the workspace, also what is protected there: it is the application's to say what
        is restored. As sandlock.snapshots."""
        with Files(self.workspace, denied=self.box.reach.denied) as files:
            return await in_thread(restore, files, source)
