"""Sandbox: run commands under a policy, synchronously. No event loop, no thread of ours unless a rule needs one.

A Sandbox may be used from several threads at once, and runs any number of commands at once. It belongs to the
process that made it.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock
from time import monotonic, sleep

from ._box import Box
from ._confinement import Confinement, policy_of, question_limits
from ._execution import Execution, milliseconds
from ._records import recording_of
from ._stdio import PIPE, Stdio, preserved_terminal
from .errors import PolicyError, SandlockError, SandlockTimeout
from .policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, BinaryIO, Literal, Self, Unpack

    from ._answers import SyncAnswers
    from ._command import Text
    from ._denials import Denial
    from ._records import AuditPath
    from ._resolver import SyncResolver
    from ._stdio import Stream
    from ._terminal import PreservedTerminal
    from .handlers import Handler, NativeHandler
    from .policy import Fields
    from .result import ExecRecord, Result


CLOSE_LOOK = 0.05
"""Seconds between two looks at a run that another thread may be waiting for too."""


class Process:
    """A started command. `stdin`, `stdout`, `stderr` are our ends of its pipes (binary files), or None.

    Leaving the `with` block ends the whole tree. Not for use from two threads at once, except `kill`.
    """

    def __init__(self, sandbox: Sandbox, execution: Execution, host_terminal: PreservedTerminal | None = None) -> None:
        self._sandbox = sandbox
        self._host_terminal = host_terminal
        self._execution = execution
        self._result: Result | None = None
        stdio = execution.stdio
        self.stdin: BinaryIO | None = _file(stdio.take("stdin"), "wb")
        self.stdout: BinaryIO | None = _file(stdio.take("stdout"), "rb")
        self.stderr: BinaryIO | None = _file(stdio.take("stderr"), "rb")
        self.terminal: int | None = stdio.take("terminal")
        """The master side of the pty, a descriptor, when started with `pty=`."""

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._execution.pid

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was denied so far, as in Result."""
        return self._execution.denials

    @property
    def unresolved_hosts(self) -> tuple[str, ...]:
        """The names in `net_allow`, wildcards aside, that no address has been found of so far. They are closed, and
        looked up again whenever the tree asks for them."""
        return self._execution.unresolved_hosts

    def poll(self) -> Result | None:
        """The Result if the whole tree has ended, else None. Never waits."""
        if self._result is None:
            self._execution.advance()
            if self._execution.ended:
                self._close()
        return self._result

    def wait(self, timeout: float | None = None) -> Result:
        """Waits for the end; captures nothing. `timeout` in seconds bounds the wait, not the run.

        Raises SandlockTimeout; InternalError.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise SandlockTimeout(f"the program still runs after {timeout} s")
            _wait_readable(self._execution, left)
        assert self._result is not None
        return self._result

    def kill(self) -> None:
        """Ends the whole tree; `wait` tells when it is gone. May be called at any time."""
        if self._result is None:
            self._execution.kill()

    @property
    def execs(self) -> tuple[ExecRecord, ...] | None:
        """The programs that the tree has executed so far, as in `Result.execs`; None without `record_execs`."""
        return self._execution.exec_records() if self._execution.policy.record_execs else None

    @property
    def paused(self) -> bool:
        """Whether `pause` has stopped the tree, and `resume` has not let it go on."""
        return self._execution.paused

    def pause(self) -> None:
        """Stops all processes of the tree, wherever they are, and returns when none of them executes anything any more.

        The run's time limit goes on counting; `kill` works as ever. Pausing what is paused already changes nothing.
        Raises SandlockError (it has ended; it cannot be stopped)."""
        from ._pausing import AGAIN, PAUSE_LIMIT, keeps_running, running_below

        deadline = monotonic() + PAUSE_LIMIT
        while True:
            self._order(pause=True)
            running = [] if self._execution.ended else running_below(self._execution.run.init_pid)
            if not running:
                return
            if monotonic() > deadline:
                raise keeps_running(running)
            sleep(AGAIN)

    def resume(self) -> None:
        """Lets all processes of the tree go on, also those that had been stopped before the pause, such as a shell's
        suspended jobs: the kernel does not tell them apart. Raises SandlockError."""
        self._order(pause=False)

    def _order(self, *, pause: bool) -> None:
        from ._pausing import ANSWER_LIMIT, no_answer

        execution = self._execution
        order = execution.order(pause=pause)
        deadline = monotonic() + ANSWER_LIMIT
        while not execution.obeyed(order):
            if monotonic() > deadline:
                raise no_answer(pause)
            _wait_readable(execution, CLOSE_LOOK)
            execution.advance()

    def resize(self, rows: int, columns: int) -> None:
        """Tells the program's terminal its new size. Raises SandlockError without a pty."""
        if self.terminal is None:
            raise SandlockError("the program has no pty; start it with pty=(rows, columns)")
        from fcntl import ioctl
        from struct import pack
        from termios import TIOCSWINSZ

        ioctl(self.terminal, TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))

    def _close(self) -> None:
        self._sandbox._forget(self._execution)
        if self._host_terminal is not None:
            self._host_terminal.restore()
        self._result = self._execution.result()

    def close(self) -> None:
        """Ends the tree if it still runs, and closes our ends of its streams."""
        try:
            if self._result is None and self._execution.is_ours:
                self.kill()
                self.wait()
        finally:
            for file in (self.stdin, self.stdout, self.stderr):
                if file is not None:
                    _close_quietly(file)
            if self.terminal is not None:
                os.close(self.terminal)
                self.terminal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sandbox(Box):
    """Runs commands under one policy.

    Sandbox(policy) or Sandbox(presets=["system"], fs_writable=[...], ...): the fields of Policy. Leaving the `with`
    block ends everything it started. Raises PolicyError, Unsupported (this kernel cannot enforce the policy).

    `policy_fn(event, box)` is asked as by AsyncSandbox, while `run` waits: a plain function in a worker thread, an
    async one in a trio loop of ours.

    `handlers`: answers of your own to system calls, by name: a Handler in Python, or a NativeHandler.

    `ceiling`: how far `grant` may widen the policy while programs run: net_allow, net_allow_bind, max_processes,
    fs_readable, fs_data, fs_writable, fs_devices.

    `audit`: a file that gets a line of JSON for each run and each decision about an exec or a call of the network;
    `on_audit_failure`: what happens when it cannot be written: "deny", nothing more is allowed, or "warn".
    `otel`: spans and metrics by OpenTelemetry: True, False, "argv" (with words), or None: if the application uses it.
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
        self._lock = allocate_lock()
        self._live: set[Execution] = set()
        self._served: dict[Execution, list[SyncAnswers | SyncResolver]] = {}

    def run(
        self,
        argv: Sequence[Text],
        *,
        input: bytes | str | None = None,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        check: bool = False,
        interactive: bool = False,
        call_id: str | None = None,
    ) -> Result:
        """Runs a command to its end and returns the Result.

        `argv`: the words; no shell. `input`: bytes or text for stdin (default stdin: /dev/null). `stdout`, `stderr`:
        PIPE (captured, up to `max_output`), NULL, INHERIT, a descriptor or an open file; `stderr` also STDOUT.
        `timeout` in seconds replaces the policy's; when it passes, the whole tree is killed and the result says
        `timed_out`. `interactive`: the program stays in our session, with our terminal. `call_id`: a
        name for this call, such as a tool call's id, that goes into events, records and the result. The run is done
        when the program itself has exited; what it left in the background is killed.

        Raises PolicyError, ConfinementError (a step of the launch failed, nothing ran), GuestError with `check`.
        """
        stdio = Stdio()
        data = input.encode() if isinstance(input, str) else input
        if data is not None and stdin is not None:
            raise PolicyError("input: give either input or stdin", field="input")
        terminal = preserved_terminal(interactive)
        try:
            execution = self._launch(
                argv,
                stdio,
                streams=(PIPE if data is not None else stdin, stdout, stderr),
                timeout=timeout,
                env=env,
                cwd=cwd,
                new_session=not interactive,
                call_id=call_id,
            )
            result = self._drive(execution, data)
        finally:
            if terminal is not None:
                terminal.restore()
        return result.check() if check else result

    def start(
        self,
        argv: Sequence[Text],
        *,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        pty: bool | tuple[int, int] = False,
        interactive: bool = False,
        call_id: str | None = None,
    ) -> Process:
        """Starts a command and returns when it is executed. Arguments and errors as for `run`.

        `pty`: give the program a new pseudo-terminal as its controlling terminal, of (rows, columns) or 24x80;
        `Process.terminal` is our side of it.
        """
        stdio = Stdio()
        if pty:
            stdio.open_terminal(*((24, 80) if isinstance(pty, bool) else pty))
        terminal = preserved_terminal(interactive)
        try:
            execution = self._launch(
                argv,
                stdio,
                streams=None if pty else (stdin, stdout, stderr),
                timeout=timeout,
                env=env,
                cwd=cwd,
                new_session=not interactive,
                call_id=call_id,
            )
            self._wait_launched(execution)
        except BaseException:
            if terminal is not None:
                terminal.restore()
            raise
        return Process(self, execution, terminal)

    def close(self) -> None:
        """Ends everything that still runs, and waits until it is gone. The sandbox can be used again."""
        if not self._confinement.is_ours:
            return  # a fork of the host unwinds: the trees are not its own
        with self._lock:
            live = list(self._live)
        for execution in live:
            execution.kill()
        for execution in live:
            # A thread that waits for this run may take the last word before us: then it has ended all the same.
            while not execution.ended:
                _wait_readable(execution, CLOSE_LOOK)
                execution.advance()
        if self._recording is not None:
            self._recording.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, argv: Sequence[Text], stdio: Stdio, **options: Any) -> Execution:
        resolver = self._resolver(stdio)
        try:
            execution = self._confinement.launch(
                argv,
                stdio,
                questions=self._questions,
                recording=self._recording,
                resolver=None if resolver is None else resolver.resolver,
                **options,
            )
        except BaseException:
            if resolver is not None:
                resolver.stop()
            raise
        with self._lock:
            self._live.add(execution)
        self._serve(execution, resolver)
        return execution

    def _resolver(self, stdio: Stdio) -> SyncResolver | None:
        """Of a run that looks names up, opened. On failure the streams are closed."""
        if not self.plan.looks_up or not self._confinement.is_ours:
            return None
        from ._answers import asker  # brings trio
        from ._resolver import SyncResolver

        try:
            ask = None if self._policy_fn is None else asker(self._policy_fn, self)
            resolver = SyncResolver(self.plan, ask, self._questions)
            resolver.open()
        except BaseException:
            stdio.close()
            raise
        return resolver

    def _serve(self, execution: Execution, resolver: SyncResolver | None) -> None:
        try:
            if resolver is not None:
                self._served.setdefault(execution, []).append(resolver)
                resolver.start(execution)
            if self._questions is not None:
                from ._answers import SyncAnswers, asking  # brings trio

                ask = asking(self._policy_fn, self, self._confinement.handlers)
                assert ask is not None
                answers = SyncAnswers(execution, ask)
                answers.start()
                self._served.setdefault(execution, []).append(answers)
        except BaseException:
            self._abandon(execution)
            raise

    def _wait_launched(self, execution: Execution) -> None:
        try:
            while not execution.launched and not execution.ended:
                _wait_readable(execution, None)
                execution.advance()
            if execution.failure is not None:
                raise execution.failure
        except BaseException:
            self._abandon(execution)
            raise

    def _drive(self, execution: Execution, data: bytes | None) -> Result:
        """Feeds, captures and waits until the tree is gone; on any exception ends it first."""
        from ._capture import Capture

        capture = Capture(execution.stdio, data, execution.policy.max_output)
        try:
            capture.drive(execution)
        except BaseException:
            self._abandon(execution)
            raise
        self._forget(execution)
        return execution.result(capture.output("stdout"), capture.output("stderr"), capture.truncated)

    def _abandon(self, execution: Execution) -> None:
        """Ends a run whose result nobody will see."""
        execution.kill()
        while not execution.ended:
            _wait_readable(execution, None)
            execution.advance()
        self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        for each in self._served.pop(execution, ()):
            each.stop()
        execution.finish()
        execution.close_record()
        with self._lock:
            self._live.discard(execution)


def run(
    argv: Sequence[Text],
    policy: Policy | None = None,
    *,
    policy_fn: Callable[..., object] | None = None,
    handlers: Mapping[str, Handler | NativeHandler] | None = None,
    audit: AuditPath = None,
    on_audit_failure: Literal["deny", "warn"] = "deny",
    call_id: str | None = None,
    **fields: Unpack[Fields],
) -> Result:
    """Runs one command in a sandbox of its own: Sandbox(policy, policy_fn=..., **fields).run(argv)."""
    options = {"policy_fn": policy_fn, "handlers": handlers, "audit": audit, "on_audit_failure": on_audit_failure}
    with Sandbox(policy, **options, **fields) as sandbox:  # type: ignore[arg-type]
        return sandbox.run(argv, call_id=call_id)


def _wait_readable(execution: Execution, timeout: float | None) -> None:
    fd = execution.control_fd
    if fd < 0:
        return  # another thread has seen the end
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(milliseconds(timeout))


def _file(fd: int | None, mode: str) -> BinaryIO | None:
    return None if fd is None else os.fdopen(fd, mode)  # type: ignore[return-value]


def _close_quietly(file: BinaryIO) -> None:
    try:
        file.close()
    except BrokenPipeError:  # unsent input of a program that has ended
        return
