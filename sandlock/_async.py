"""AsyncSandbox: the sandbox for trio, and, with the same object, for asyncio.

Everything waits on descriptors, in trio; nothing blocks and no task outlives its nursery. Under asyncio the
same code runs in the trio loop of `_trio_thread`. Whatever ends a wait, the tree is gone before the exception
goes on.

An AsyncSandbox may be used from several threads, each with a loop of its own. It belongs to the process that
made it.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from contextlib import asynccontextmanager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from ._answers import Answers, InLoop, asking
from ._async_streams import Pipes, ProcessInput, ProcessOutput, ProcessTerminal, close_all
from ._box import Box
from ._capture import GRACE
from ._confinement import Confinement, policy_of, question_limits
from ._loop_answers import LoopAnswers
from ._records import recording_of
from ._resolver import Resolver
from ._stdio import PIPE, Stdio, preserved_terminal
from ._trio_thread import check_owner, in_trio
from .errors import MORE_FILES, ConfinementError, InternalError, PolicyError, SandlockError
from .policy import Policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from ._answers import Ask
    from ._command import Text
    from ._decision_stream import DecisionStream
    from ._denials import Denial
    from ._execution import Execution
    from ._records import AuditPath
    from ._stdio import Stream
    from .handlers import Handler, NativeHandler
    from .policy import Fields
    from .result import ExecRecord, Result

    Launch = Callable[["Resolver | None"], "Running"]

END_LIMIT = 10.0
"""Seconds that the end of a tree may take once it was told to die; the init itself gives up after 5."""

protected = trio.lowlevel.enable_ki_protection
# Ctrl-C then arrives at checkpoints only, and nothing is left half done.


class Running:
    """One run as trio sees it. Any number of tasks may wait; one of them at a time takes the messages."""

    def __init__(
        self,
        execution: Execution,
        forget: Callable[[Running], None],
        ask: Ask | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self.execution = execution
        self._forget = forget
        self._owner = os.getpid()
        self._turn = trio.Lock()
        self._finished = False
        self._resolver = resolver
        if resolver is not None:
            resolver.start(execution)
        self._answers: Answers | LoopAnswers | None = None
        if ask is not None:
            self._answers = LoopAnswers(execution, ask) if isinstance(ask, InLoop) else Answers(execution, ask)
            self._answers.start()

    async def launched(self) -> None:
        """Waits until the program is executed, or never will be."""
        await self._advance(lambda: self.execution.launched or self.execution.ended)

    async def ended(self) -> None:
        """Waits until the whole tree is gone, and frees what was native of it."""
        execution = self.execution
        limit = inf if execution.timeout is None else execution.timeout + GRACE
        with trio.move_on_after(max(0.0, execution.started + limit - monotonic())):
            await self._advance(lambda: execution.ended)
        if not execution.ended:  # the init has a clock of its own, and ought to have ended it
            execution.kill()
            await self._advance(lambda: execution.ended)
        await self._finish()

    async def end(self) -> None:
        """Ends the tree and waits, uncancellable, until it is gone. Raises InternalError if it stays."""
        if os.getpid() != self._owner:  # a fork of the host unwinds: the tree is not its own
            return
        try:
            with trio.move_on_after(END_LIMIT, shield=True):
                self.execution.kill()
                await self._advance(lambda: self.execution.ended)
                await self._finish()
        finally:
            if not self._finished:
                await self._stop_answers()
                self._finished = True
                self._forget(self)
                trio.lowlevel.start_thread_soon(self._finish_late, lambda _: None)
        if not self.execution.ended:
            raise InternalError(f"the tree was told to die, and is not gone after {END_LIMIT:.0f} s")

    async def order(self, *, pause: bool) -> None:
        """Stops the tree, or lets it go on, and waits until that is so. Raises SandlockError."""
        from ._pausing import AGAIN, ANSWER_LIMIT, PAUSE_LIMIT, keeps_running, no_answer, running_below

        deadline = trio.current_time() + PAUSE_LIMIT
        while True:
            number = self.execution.order(pause=pause)
            with trio.move_on_after(ANSWER_LIMIT) as limit:
                await self._advance(lambda number=number: self.execution.obeyed(number))  # type: ignore[misc]
            if limit.cancelled_caught:
                raise no_answer(pause)
            if not pause or self.execution.ended:
                return
            running = await trio.to_thread.run_sync(running_below, self.execution.run.init_pid)
            if not running:
                return
            if trio.current_time() > deadline:
                raise keeps_running(running)
            await trio.sleep(AGAIN)

    async def _advance(self, done: Callable[[], bool]) -> None:
        """Message by message, in turn with others: each may be the one that another task waits for."""
        while not done():
            async with self._turn:
                if not done():
                    await trio.lowlevel.wait_readable(self.execution.control_fd)
                    self.execution.advance()

    async def _finish(self) -> None:
        async with self._turn:
            if self._finished:
                return
            pidfd = open_pidfd(self.execution.run.init_pid)
            if pidfd >= 0:  # the last word comes shortly before the end: not for the whole loop to wait
                await wait_and_close(pidfd)
            await self._stop_answers()
            self._finished = True
            self._forget(self)
            self.execution.finish()
            await close_record(self.execution)

    def _finish_late(self) -> None:
        self.execution.finish()
        self.execution.close_record()

    async def _stop_answers(self) -> None:
        if self._answers is not None:
            await self._answers.stop()
            self._answers = None
        if self._resolver is not None:
            await self._resolver.stop()


class AsyncProcess:
    """A started command, from `AsyncSandbox.start`. Leaving that block ends the whole tree.

    `stdin`, `stdout`, `stderr` are our ends of its pipes, or None: trio streams that also work under asyncio.
    `terminal` is our side of its pty when started with `pty=`.
    """

    def __init__(self, running: Running, owner: int) -> None:
        self._running = running
        self._owner = owner
        self._result: Result | None = None
        stdio = running.execution.stdio
        stdin, stdout, stderr = (stdio.take(name) for name in ("stdin", "stdout", "stderr"))
        terminal = stdio.take("terminal")
        self.stdin = None if stdin is None else ProcessInput(stdin, owner)
        self.stdout = None if stdout is None else ProcessOutput(stdout, owner)
        self.stderr = None if stderr is None else ProcessOutput(stderr, owner)
        self.terminal = None if terminal is None else ProcessTerminal(terminal, owner)

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._running.execution.pid

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was denied so far, as in Result."""
        return self._running.execution.denials

    @property
    def unresolved_hosts(self) -> tuple[str, ...]:
        """The names in `net_allow`, wildcards aside, that no address has been found of so far. They are closed, and
        looked up again whenever the tree asks for them."""
        return self._running.execution.unresolved_hosts

    @property
    def init_pid(self) -> int:
        """The process id of the run's init, which is above everything in the tree and ends it."""
        return self._running.execution.run.init_pid

    async def wait(self) -> Result:
        """Waits for the end; captures nothing. Cancelling it only ends the wait. Raises InternalError."""
        if self._result is None:
            self._result = await in_trio(self._owner, self._wait)
        return self._result

    def kill(self) -> None:
        """Ends the whole tree; `wait` tells when it is gone. May be called at any time, from any thread."""
        check_owner(self._owner)
        if not self._running.execution.ended:
            self._running.execution.kill()

    @property
    def execs(self) -> tuple[ExecRecord, ...] | None:
        """The programs that the tree has executed so far, as in `Result.execs`; None without `record_execs`."""
        execution = self._running.execution
        return execution.exec_records() if execution.policy.record_execs else None

    @property
    def paused(self) -> bool:
        """Whether `pause` has stopped the tree, and `resume` has not let it go on."""
        return self._running.execution.paused

    async def pause(self) -> None:
        """Stops all processes of the tree, wherever they are, and returns when none of them executes anything any more.

        The run's time limit goes on counting, and so does that of questions; `kill` works as ever. Pausing what is
        paused already changes nothing. Raises SandlockError (it has ended; it cannot be stopped)."""
        await in_trio(self._owner, self._order, True)

    async def resume(self) -> None:
        """Lets all processes of the tree go on, also those that had been stopped before the pause, such as a shell's
        suspended jobs: the kernel does not tell them apart. Raises SandlockError."""
        await in_trio(self._owner, self._order, False)

    def resize(self, rows: int, columns: int) -> None:
        """Tells the program's terminal its new size. Raises SandlockError without a pty."""
        if self.terminal is None:
            raise SandlockError("the program has no pty; start it with pty=(rows, columns)")
        self.terminal.resize(rows, columns)

    async def _wait(self) -> Result:
        await self._running.ended()
        return self._running.execution.result()

    async def _order(self, pause: bool) -> None:
        await self._running.order(pause=pause)

    @protected
    async def _close(self) -> None:
        try:
            await self._running.end()
        finally:
            await close_all(self.stdin, self.stdout, self.stderr, self.terminal)


class AsyncSandbox(Box):
    """Runs commands under one policy, from async code.

    AsyncSandbox(policy) or AsyncSandbox(presets=["system"], fs_writable=[...], ...): the fields of Policy.
    Leaving the `async with` block ends everything it started. Raises PolicyError, Unsupported (this kernel
    cannot enforce the policy).

    `policy_fn(event, box)`, an `async def` or a plain function, is asked about every exec of the tree, also the first
    one, and answers Allow(), Audit(reason), Deny(reason), Kill(reason) or None, which denies. An async one runs where
    the caller of `run` does (trio, or that asyncio loop), a plain one in a worker thread; while it thinks, only the
    program that asks waits. `policy_timeout` in seconds (None: for ever) ends a question with `on_timeout`, a verdict;
    with on_timeout="wait" it goes on waiting, and is counted in `Result.overdue`.

    `handlers`: answers of your own to system calls, by name: a Handler in Python, or a NativeHandler.

    `ceiling`: how far `grant` may widen the policy while programs run: net_allow, net_allow_bind, max_processes,
    fs_readable, fs_data, fs_writable, fs_devices.

    `audit`, `on_audit_failure` and `otel`: as for Sandbox.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        policy_fn: Callable[..., object] | None = None,
        policy_timeout: float | None = 60.0,
        on_timeout: object = None,
        handlers: Mapping[str, Handler | NativeHandler] | None = None,
        ceiling: Mapping[str, object] | None = None,
        audit: AuditPath = None,
        on_audit_failure: Literal["deny", "warn"] = "deny",
        otel: bool | Literal["argv"] | None = None,
        **fields: Unpack[Fields],
    ) -> None:
        self._policy_fn = policy_fn
        self._questions = question_limits(policy_fn, policy_timeout, on_timeout, handlers)
        self._confinement = Confinement(
            policy_of(policy, fields),
            vet=policy_fn is not None,
            ceiling=ceiling,
            record=audit is not None,
            handlers=handlers,
        )
        self._recording = recording_of(self._confinement.grants, audit, on_audit_failure, otel)
        self._owner = os.getpid()
        self._lock = allocate_lock()
        self._live: set[Running] = set()

    async def run(
        self,
        argv: Sequence[Text],
        *,
        input: bytes | str | None = None,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,  # noqa: ASYNC109 (the run's own limit, not the wait's)
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        check: bool = False,
        call_id: str | None = None,
    ) -> Result:
        """Runs a command to its end and returns the Result.

        `argv`: the words; no shell. `input`: bytes or text for stdin (default stdin: /dev/null). `stdout`,
        `stderr`: PIPE (captured, up to `max_output`), NULL, INHERIT, a descriptor or an open file; `stderr`
        also STDOUT. `timeout` in seconds replaces the policy's; when it passes, the whole tree is killed and
        the result says `timed_out`. `call_id`: a name for this call, such as a tool call's id, that goes into
        events, records and the result. The run is done when the program itself has exited; what it left in the
        background is killed. Cancelled, it ends the whole tree first.

        Raises PolicyError, ConfinementError (a step of the launch failed, nothing ran), GuestError with
        `check`.
        """
        data = input.encode() if isinstance(input, str) else input
        if data is not None and stdin is not None:
            raise PolicyError("input: give either input or stdin", field="input")

        ask = asking(self._policy_fn, self, self._confinement.handlers)

        def launch(resolver: Resolver | None) -> Running:
            streams = (PIPE if data is not None else stdin, stdout, stderr)
            options = {"timeout": timeout, "env": env, "cwd": cwd, "call_id": call_id, "new_session": True}
            return self._launch(argv, streams=streams, pty=None, ask=ask, resolver=resolver, options=options)

        result = await in_trio(self._owner, _run, self._resolver(ask), launch, data or b"")
        return result.check() if check else result

    @asynccontextmanager
    async def start(
        self,
        argv: Sequence[Text],
        *,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,  # noqa: ASYNC109 (the run's own limit, not the wait's)
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        pty: bool | tuple[int, int] = False,
        interactive: bool = False,
        call_id: str | None = None,
    ) -> AsyncIterator[AsyncProcess]:
        """`async with box.start(argv) as process:` starts a command, and ends it when the block is left.

        The block is entered when the program is executed. Arguments and errors as for `run`. `pty`: give it
        a new pseudo-terminal as its controlling terminal, of (rows, columns) or 24x80; `process.terminal` is
        our side of it. `interactive`: it stays in our session, with our terminal.
        """
        terminal = preserved_terminal(interactive)
        size = ((24, 80) if pty is True else pty) or None
        opened: list[AsyncProcess] = []

        ask = asking(self._policy_fn, self, self._confinement.handlers)

        def launch(resolver: Resolver | None) -> Running:
            streams = (stdin, stdout, stderr)
            options = {"timeout": timeout, "env": env, "cwd": cwd, "call_id": call_id, "new_session": not interactive}
            return self._launch(argv, streams=streams, pty=size, ask=ask, resolver=resolver, options=options)

        try:
            yield await in_trio(self._owner, _open, self._resolver(ask), launch, opened, self._owner)
        finally:
            for process in opened:
                await in_trio(self._owner, process._close)
            if terminal is not None:
                terminal.restore()

    async def aclose(self) -> None:
        """Ends everything that still runs, and waits until it is gone. The sandbox can be used again."""
        check_owner(self._owner)
        if self._live:
            await in_trio(self._owner, self._end_all)
        if self._recording is not None:
            self._recording.close()

    def decisions(self, *, buffer: int = 1024) -> DecisionStream:
        """`async for decision in box.decisions():` gives every decision of the runs that start from now on, allowed and
        denied, in order, until the sandbox is closed.

        What comes while `buffer` decisions wait to be taken is dropped, and counted: in `dropped` of what this returns,
        and of the next decision. From now on every exec and every call of the network is decided by the supervisor.

        Raises PolicyError; Unsupported (this kernel cannot).
        """
        from ._decision_stream import DecisionStream

        check_owner(self._owner)
        stream = DecisionStream(buffer, self._owner)
        self._confinement.record()
        if self._recording is None:
            from ._recording import make_recording

            self._recording = make_recording(self._confinement.grants, None, "warn", False)
        self._recording.add(stream)
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _launch(
        self,
        argv: Sequence[Text],
        *,
        streams: tuple[Stream, Stream, Stream],
        pty: tuple[int, int] | None,
        ask: Ask | None,
        resolver: Resolver | None,
        options: dict[str, Any],
    ) -> Running:
        stdio = Stdio()
        if pty is not None:
            stdio.open_terminal(*pty)
        execution = self._confinement.launch(
            argv,
            stdio,
            streams=None if pty is not None else streams,
            questions=self._questions,
            resolver=resolver,
            recording=self._recording,
            **options,
        )
        try:
            running = Running(execution, self._forget, ask, resolver)
        except BaseException as error:
            execution.abandon()
            if isinstance(error, OSError):
                raise ConfinementError("serve the run's questions", error.errno or 0, fix=MORE_FILES) from error
            raise
        with self._lock:
            self._live.add(running)
        return running

    def _resolver(self, ask: Ask | None) -> Resolver | None:
        ask = None if self._policy_fn is None else ask
        return Resolver(self.plan, ask, self._questions) if self.plan.looks_up else None

    def _forget(self, running: Running) -> None:
        with self._lock:
            self._live.discard(running)

    @protected
    async def _end_all(self) -> None:
        """Who started them may wait elsewhere, even in other loops, and frees what is theirs later."""
        with self._lock:
            live = list(self._live)
        for running in live:
            running.execution.kill()
        with trio.move_on_after(END_LIMIT, shield=True) as limit:
            for running in live:
                while (pidfd := self._open_pidfd(running)) == UNBORN:  # noqa: ASYNC110 (for microseconds)
                    await trio.sleep(0.001)
                if pidfd >= 0:
                    await wait_and_close(pidfd)
        if limit.cancelled_caught:
            raise InternalError(f"not everything that was told to die is gone after {END_LIMIT:.0f} s")

    def _open_pidfd(self, running: Running) -> int:
        with self._lock:  # what is live is not reaped yet, so its number is nobody else's
            return open_pidfd(running.execution.run.init_pid) if running in self._live else GONE


GONE, UNBORN = -1, -2


def open_pidfd(pid: int) -> int:
    """A descriptor that is readable when the process, not reaped yet, has ended; GONE; UNBORN for pid 0."""
    if pid == 0:
        return UNBORN
    try:
        return os.pidfd_open(pid)
    except OSError:  # reaped by a waitpid(-1) of the host; or no descriptor is free
        return GONE


async def wait_and_close(pidfd: int) -> None:
    """Waits until the process has ended."""
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def close_record(execution: Execution) -> None:
    """Waits until the run's record is written, where there is one; a disk may take its time, and the loop goes on."""
    if execution.recorder is not None:
        await trio.to_thread.run_sync(execution.close_record, limiter=trio.CapacityLimiter(1))


async def _launched(resolver: Resolver | None, launch: Launch) -> Running:
    """What is launched, with its names looked up before."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if resolver is None:
        return launch(None)
    await resolver.open()
    try:
        return launch(resolver)
    except BaseException:
        resolver.close()
        raise


@protected
async def _run(resolver: Resolver | None, launch: Launch, data: bytes) -> Result:
    """A run from its launch to its end. On any exception the tree is ended first."""
    running = await _launched(resolver, launch)
    pipes = Pipes(running.execution.stdio, data, running.execution.policy.max_output)
    try:
        await pipes.exchange(running.ended)
    except BaseException:
        await running.end()
        raise
    finally:
        await pipes.aclose()
    return running.execution.result(pipes.output("stdout"), pipes.output("stderr"), pipes.truncated)


@protected
async def _open(resolver: Resolver | None, launch: Launch, opened: list[AsyncProcess], owner: int) -> AsyncProcess:
    """A process whose program is executed. What was started is in `opened`, whatever happens."""
    running = await _launched(resolver, launch)
    opened.append(AsyncProcess(running, owner))
    await running.launched()
    if running.execution.failure is not None:
        raise running.execution.failure
    return opened[0]
