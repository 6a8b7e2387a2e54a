"""Sandbox: run commands under a policy, synchronously. No event loop, no thread of ours unless a rule needs one.

A Sandbox may be used from several threads at once, and runs any number of commands at once. It belongs to the
process that made it.
"""

from __future__ import annotations

import os
import select
from _thread import allocate_lock
from time import monotonic

from . import _program
from ._command import prepare
from ._execution import Execution, milliseconds
from ._host import probe
from ._plan import plan as make_plan
from ._settle import settle
from ._stdio import PIPE, Stdio
from .errors import ConfinementError, PolicyError, SandlockError, SandlockTimeout
from .events import Deny, ExecDecision, read_on_timeout
from .policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import BinaryIO, Self, Unpack

    from ._answers import SyncAnswers
    from ._command import Text
    from ._execution import QuestionLimits
    from ._host import Host
    from ._plan import Plan
    from ._stdio import Stream
    from ._terminal import PreservedTerminal
    from .policy import Fields
    from .presets import Expansion
    from .result import Result


class Confinement:
    """A policy made ready for this host: what sync and async sandboxes share."""

    def __init__(self, policy: Policy, *, vet: bool = False) -> None:
        if policy.is_empty():
            raise PolicyError(
                "nothing is granted, so no program could start: grant the system with presets=['system'] "
                "(--preset system), or single paths with fs_readable (-r)",
                field="fs_readable",
            )
        expansion = policy.expand()
        expansion = expansion.__class__(settle(expansion.grants), expansion.env)
        self.policy = policy
        self.preset_env = expansion.env
        programs = find_programs(policy, expansion) if policy.has_exec_rules() else ()
        self.plan, self._program = compiled(policy, probe(), expansion, vet, programs)
        self._owner = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; a fork of that process may not use it."""
        return os.getpid() == self._owner

    def check_exec(self, argv: Sequence[Text]) -> ExecDecision:
        """What the exec rules say of this command, without running it."""
        command = prepare(self.policy, self.preset_env, argv, host_env=os.environb)
        for path in command.executables:
            try:
                decision, number, exe = self._program.check_exec(path, command.argv)
            except OSError:
                continue
            rule = self.plan.exec_rules[number] if number >= 0 else None
            return ExecDecision(
                decision=decision,
                exe=os.fsdecode(exe),
                rule="" if rule is None else rule.text,
                reason="" if rule is None else rule.reason,
            )
        raise SandlockError(f"{command.text[0]}: no such program; check PATH")

    def launch(
        self,
        argv: Sequence[Text],
        stdio: Stdio,
        *,
        streams: tuple[Stream, Stream, Stream] | None = None,
        timeout: float | None,
        env: Mapping[str, str] | None,
        cwd: Text | None,
        new_session: bool,
        questions: QuestionLimits | None = None,
    ) -> Execution:
        """Starts a command on `stdio`, in which `streams` are opened first. On failure it is closed.

        The launch confines itself on another CPU while we prepare what it will execute. Raises SandlockError.
        """
        try:
            if not self.is_ours:
                raise SandlockError("this sandbox belongs to the process that made it; after os.fork() make a new one")
            limit = self.policy.timeout if timeout is None else _seconds(timeout)
            execution = Execution(
                self._program,
                self.policy,
                self.plan,
                stdio,
                timeout=limit,
                new_session=new_session,
                questions=questions,
            )
        except BaseException:
            stdio.close()
            raise
        try:
            if streams is not None:
                open_streams(stdio, streams)
            execution.provide(prepare(self.policy, self.preset_env, argv, host_env=os.environb, env=env, cwd=cwd))
        except BaseException:
            execution.abandon()
            raise
        return execution


def open_streams(stdio: Stdio, streams: tuple[Stream, Stream, Stream]) -> None:
    """Opens a command's streams. Raises ConfinementError where there are no descriptors left."""
    try:
        stdio.open(*streams)
    except OSError as error:
        if error.errno not in (23, 24):  # ENFILE, EMFILE; others are about what was given
            raise
        fix = "raise the limit of open files (ulimit -n), or have fewer runs alive"
        raise ConfinementError("open the program's streams", error.errno, fix=fix) from error


def question_limits(
    policy_fn: Callable[..., object] | None, policy_timeout: float | None, on_timeout: object
) -> QuestionLimits | None:
    """What the core does with questions that nobody answers; None without a callback. Raises PolicyError."""
    if policy_fn is not None and not callable(policy_fn):
        raise PolicyError(f"policy_fn: {policy_fn!r} cannot be called; give a function", field="policy_fn")
    if policy_timeout is not None and not 0 < policy_timeout < 1e9:
        raise PolicyError(
            f"policy_timeout: {policy_timeout!r} is no time limit; give seconds, or None", field="policy_timeout"
        )
    act, error = read_on_timeout(Deny() if on_timeout is None else on_timeout)
    limit = None if policy_timeout is None else int(policy_timeout * 1000) + 1
    return None if policy_fn is None else (limit, act, error)


CLOSE_LOOK = 0.05
"""Seconds between two looks at a run that another thread may be waiting for too."""

_kept: dict[tuple[object, ...], tuple[Plan, _program.Program]] = {}
# A memo of values, not state (functools costs 6 ms to import).


def compiled(
    policy: Policy, host: Host, expansion: Expansion, vet: bool = False, programs: tuple[tuple[str, str], ...] = ()
) -> tuple[Plan, _program.Program]:
    """The plan and its native form. Both are values, and making them takes longer than a launch: they are kept."""
    key = (policy, host, expansion, vet, programs)
    made = _kept.get(key)
    if made is None:
        plan = make_plan(policy, host, expansion=expansion, vet=vet, programs=programs)
        made = (plan, _program.Program(plan, wait_killable=host.wait_killable))
        if len(_kept) >= 64:
            _kept.clear()
        _kept[key] = made
    return made


def find_programs(policy: Policy, expansion: Expansion) -> tuple[tuple[str, str], ...]:
    """The files, without links, of the programs that exec rules name: where PATH finds them, but not where the sandbox
    may write, for what lies there is not what was meant."""
    from ._command import DEFAULT_PATH, environment
    from ._exec_rules import programs_of

    variables = environment(policy, expansion.env, os.environb)
    writable = [grant.path.rstrip("/") for grant in expansion.grants if grant.kind == "write"]
    entries = os.fsdecode(variables.get(b"PATH", DEFAULT_PATH)).split(":")
    found = []
    for name in programs_of(policy):
        places = [name] if "/" in name else [f"{entry}/{name}" for entry in entries if entry.startswith("/")]
        for place in places:
            exe = os.path.realpath(place)
            if any(f"{path}/".startswith(f"{root}/") for root in writable for path in (os.path.dirname(place), exe)):
                continue
            if os.path.isfile(exe) and os.access(exe, os.X_OK):
                found.append((name, exe))
                break
    return tuple(found)


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise PolicyError(f"timeout: {value!r} is no time limit; give seconds, 0 or more", field="timeout")
    return float(value)


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


class Sandbox:
    """Runs commands under one policy.

    Sandbox(policy) or Sandbox(presets=["system"], fs_writable=[...], ...): the fields of Policy. Leaving the `with`
    block ends everything it started. Raises PolicyError, Unsupported (this kernel cannot enforce the policy).

    `policy_fn(event, box)` is asked as by AsyncSandbox, while `run` waits: a plain function in a worker thread, an
    async one in a trio loop of ours.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        policy_fn: Callable[..., object] | None = None,
        policy_timeout: float | None = 60.0,
        on_timeout: object = None,
        **fields: Unpack[Fields],
    ) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise PolicyError(f"policy: {policy!r} is no Policy; use Policy(...) or keywords", field="policy")
        merged = Policy.of(**fields) if policy is None else policy.but(**fields) if fields else policy
        self._policy_fn = policy_fn
        self._questions = question_limits(policy_fn, policy_timeout, on_timeout)
        self._confinement = Confinement(merged, vet=policy_fn is not None)
        self._lock = allocate_lock()
        self._live: set[Execution] = set()
        self._answers: dict[Execution, SyncAnswers] = {}

    @property
    def policy(self) -> Policy:
        """What is allowed."""
        return self._confinement.policy

    @property
    def plan(self) -> Plan:
        """What the policy compiles to on this kernel."""
        return self._confinement.plan

    def check_exec(self, argv: Sequence[Text]) -> ExecDecision:
        """What the policy's exec rules say of this command, without running it.

        Raises PolicyError; SandlockError if there is no such program.
        """
        return self._confinement.check_exec(argv)

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
    ) -> Result:
        """Runs a command to its end and returns the Result.

        `argv`: the words; no shell. `input`: bytes or text for stdin (default stdin: /dev/null). `stdout`, `stderr`:
        PIPE (captured, up to `max_output`), NULL, INHERIT, a descriptor or an open file; `stderr` also STDOUT.
        `timeout` in seconds replaces the policy's; when it passes, the whole tree is killed and the result says
        `timed_out`. `interactive`: the program stays in our session, with our terminal. The run is done when the
        program itself has exited; what it left in the background is killed.

        Raises PolicyError, ConfinementError (a step of the launch failed, nothing ran), GuestError with `check`.
        """
        stdio = Stdio()
        data = input.encode() if isinstance(input, str) else input
        if data is not None and stdin is not None:
            raise PolicyError("input: give either input or stdin", field="input")
        terminal = _terminal(interactive)
        try:
            execution = self._launch(
                argv,
                stdio,
                streams=(PIPE if data is not None else stdin, stdout, stderr),
                timeout=timeout,
                env=env,
                cwd=cwd,
                new_session=not interactive,
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
    ) -> Process:
        """Starts a command and returns when it is executed. Arguments and errors as for `run`.

        `pty`: give the program a new pseudo-terminal as its controlling terminal, of (rows, columns) or 24x80;
        `Process.terminal` is our side of it.
        """
        stdio = Stdio()
        if pty:
            stdio.open_terminal(*((24, 80) if isinstance(pty, bool) else pty))
        terminal = _terminal(interactive)
        try:
            execution = self._launch(
                argv,
                stdio,
                streams=None if pty else (stdin, stdout, stderr),
                timeout=timeout,
                env=env,
                cwd=cwd,
                new_session=not interactive,
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(
        self,
        argv: Sequence[Text],
        stdio: Stdio,
        *,
        streams: tuple[Stream, Stream, Stream] | None,
        timeout: float | None,
        env: Mapping[str, str] | None,
        cwd: Text | None,
        new_session: bool,
    ) -> Execution:
        execution = self._confinement.launch(
            argv,
            stdio,
            streams=streams,
            timeout=timeout,
            env=env,
            cwd=cwd,
            new_session=new_session,
            questions=self._questions,
        )
        with self._lock:
            self._live.add(execution)
        if self._policy_fn is not None:
            self._serve(execution, self._policy_fn)
        return execution

    def _serve(self, execution: Execution, policy_fn: Callable[..., object]) -> None:
        from ._answers import SyncAnswers  # brings trio

        try:
            answers = SyncAnswers(execution, policy_fn, self)
            answers.start()
        except BaseException:
            self._abandon(execution)
            raise
        self._answers[execution] = answers

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
        answers = self._answers.pop(execution, None)
        if answers is not None:
            answers.stop()
        execution.finish()
        with self._lock:
            self._live.discard(execution)


def run(
    argv: Sequence[Text],
    policy: Policy | None = None,
    *,
    policy_fn: Callable[..., object] | None = None,
    **fields: Unpack[Fields],
) -> Result:
    """Runs one command in a sandbox of its own: Sandbox(policy, policy_fn=..., **fields).run(argv)."""
    with Sandbox(policy, policy_fn=policy_fn, **fields) as sandbox:
        return sandbox.run(argv)


def _wait_readable(execution: Execution, timeout: float | None) -> None:
    fd = execution.control_fd
    if fd < 0:
        return  # another thread has seen the end
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(milliseconds(timeout))


def _terminal(interactive: bool) -> PreservedTerminal | None:
    """The host's terminal as it is now, for a program that gets it."""
    if not interactive:
        return None
    from ._terminal import PreservedTerminal

    return PreservedTerminal()


def _file(fd: int | None, mode: str) -> BinaryIO | None:
    return None if fd is None else os.fdopen(fd, mode)  # type: ignore[return-value]


def _close_quietly(file: BinaryIO) -> None:
    try:
        file.close()
    except BrokenPipeError:  # unsent input of a program that has ended
        return
