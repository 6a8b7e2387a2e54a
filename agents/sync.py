"""AgentSandbox for plain code: frameworks whose tools are ordinary functions, called from any thread.

Rules: one thread of ours holds a trio loop and everything in it; callers wait. A call from within a running event loop
is refused, for it would hold that loop up: there is AgentSandbox for those.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar

import sniffio
import trio

import sandlock

from .loops import answer_of
from .sandbox import AgentSandbox

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from sandlock import Result
    from sandlock.files import Files

    from .interpreter import CodeAnswer
    from .sandbox import Approve, Request, Verdict
    from .shell import ShellAnswer

T = TypeVar("T")

__all__ = ["InCallersLoop", "SyncAgentSandbox"]


class InCallersLoop:
    """Has `approve`, async or plain, answer in an asyncio loop, while the sandbox runs in a thread of its own.

    `loop` is that of whoever last ran a command.
    """

    def __init__(self, approve: Approve) -> None:
        self._approve = approve
        self.loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, request: Request) -> Verdict:
        """The `approve` of a SyncAgentSandbox."""
        import asyncio

        if self.loop is None or self.loop.is_closed():
            return sandlock.Deny("the loop that could answer is closed", cause="nobody-listens")

        async def answered() -> Verdict:
            found = self._approve(request)
            return await found if isawaitable(found) else found

        future = asyncio.run_coroutine_threadsafe(answered(), self.loop)
        try:
            return await answer_of(future)
        finally:
            future.cancel()


class SyncAgentSandbox:
    """AgentSandbox's twin: the same keywords, the same methods, without `await`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.sandbox = AgentSandbox(*arguments, **keywords)
        """The asynchronous one, in the loop of a thread of ours."""
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._over: trio.Event | None = None
        self._scopes: dict[str, trio.CancelScope] = {}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Opens the sandbox; what `with` does. Raises as AgentSandbox does."""
        if self._thread is not None:
            return
        self._ready.clear()
        self._thread = threading.Thread(target=trio.run, args=(self._live,), name="sandlock-agent", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread, failure, self._failure = None, self._failure, None
            raise failure

    def close(self) -> None:
        """Ends all that runs, and removes what was made for it."""
        thread, token, over = self._thread, self._token, self._over
        if thread is None or token is None or over is None:
            return
        self._thread = self._token = None
        token.run_sync_soon(over.set)
        thread.join()

    async def _live(self) -> None:
        self._over = trio.Event()
        try:
            async with self.sandbox:
                self._token = trio.lowlevel.current_trio_token()
                self._ready.set()
                await self._over.wait()
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._failure = error
        finally:
            self._ready.set()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any, call_id: str = "") -> T:
        """Runs an async function in the loop and waits for it; Ctrl-C and `cancel` cancel it. Raises what it raises."""
        token, scope, ended = self._token, trio.CancelScope(), threading.Event()
        if token is None:
            raise sandlock.SandlockError("the sandbox is not open; use it within its `with`")

        async def carry_out() -> T:
            try:
                with scope:
                    return await function(*arguments)
            finally:
                ended.set()
            raise sandlock.SandlockError("this call was cancelled")

        try:
            library = sniffio.current_async_library()
        except sniffio.AsyncLibraryNotFoundError:
            if call_id:
                self._scopes[call_id] = scope
            try:
                return trio.from_thread.run(carry_out, trio_token=token)
            except KeyboardInterrupt:  # what it has begun must not go on unseen
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(scope.cancel)
                    ended.wait()
                raise
            except (trio.Cancelled, trio.RunFinishedError) as error:
                raise sandlock.SandlockError("the sandbox was closed while this ran") from error
            finally:
                self._scopes.pop(call_id, None)
        raise sandlock.SandlockError(f"this thread runs a {library} loop, which would stand still; use AgentSandbox")

    def cancel(self, call_id: str) -> None:
        """Cancels what `call` does by this id, if anything; from any thread."""
        token, scope = self._token, self._scopes.get(call_id)
        if token is not None and scope is not None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)

    async def call_async(self, function: Callable[[], Awaitable[T]]) -> T:
        """The same from an asyncio loop, which goes on meanwhile. Cancelled, it cancels the function and waits for its
        end. Raises what it raises."""
        import asyncio
        from concurrent.futures import Future
        from contextvars import copy_context

        token, scope, context = self._token, trio.CancelScope(), copy_context()
        if token is None:
            raise sandlock.SandlockError("the sandbox is not open; use it within its `with`")
        done: Future[T] = Future()

        async def carry_out() -> None:
            try:
                with scope:
                    done.set_result(await function())
            except Exception as error:
                done.set_exception(error)
            finally:  # by its scope, or the loop ends
                if not done.done():
                    done.set_exception(sandlock.SandlockError("the sandbox was closed while this ran"))

        token.run_sync_soon(lambda: trio.lowlevel.spawn_system_task(carry_out, context=context))
        waiting = asyncio.wrap_future(done)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            token.run_sync_soon(scope.cancel)
            await asyncio.wait([waiting])
            waiting.exception()  # it has been looked at
            raise

    @property
    def workspace(self) -> str:
        """The directory."""
        return self.sandbox.workspace

    @property
    def files(self) -> Files:
        """The files of the workspace."""
        return self.sandbox.files.sync

    def run(
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
        """As AgentSandbox.run."""
        more: dict[str, Any] = {"env": env, "input": input, "call_id": call_id, "merged": merged}

        async def run() -> Result:
            return await self.sandbox.run(command, timeout=timeout, cwd=cwd, **more)

        return self.call(run)

    def shell(self, command: str, *, timeout: float | None = None) -> ShellAnswer:
        """One command in the shell that lives on."""

        async def run() -> ShellAnswer:
            return await self.sandbox.shell.run(command, timeout=timeout)

        return self.call(run)

    def python(self, code: str, *, timeout: float | None = None, variables: dict[str, Any] | None = None) -> CodeAnswer:
        """One piece of code in the Python that lives on."""

        async def run() -> CodeAnswer:
            return await self.sandbox.python.run(code, timeout=timeout, variables=variables)

        return self.call(run)
