"""One run as the host sees it: from messages of the control socket to a Result. Used by both faces.

The state only moves forward: starting, then running or failed, then ended. Nothing here waits; the faces do.
"""

from __future__ import annotations

import os
from _thread import RLock
from time import monotonic

from . import _native, _program, syscalls
from ._launch import STEPS
from .errors import ConfinementError, InternalError, SandlockError
from .events import Exec, denial_of, exec_event, logged_denial, network_event, read_verdict
from .result import ExecRecord, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    QuestionLimits = tuple[int | None, int, int]
    """Milliseconds that a question may wait (None: for ever), then the act and errno of what follows."""

    from ._command import Command
    from ._plan import Plan
    from ._stdio import Stdio
    from .events import Denial, Event
    from .policy import Policy

REASONS = ("exited", "killed", "timeout", "host-gone", "denied")
SIGKILL = 9
FIXES = {
    "execute the program": {
        "ENOENT": "no such program, or its interpreter or loader is missing or not granted (fs_readable)",
        "EACCES": "not granted, not executable, or its interpreter or loader is not granted (fs_readable)",
        "ENOEXEC": "not a program: no known format and no #! line",
        "E2BIG": "arguments and environment are too large",
    },
    "add a Landlock rule": {
        "ENOENT": "the granted path does not exist; create it or drop the grant",
        "EACCES": "the granted path cannot be reached by this user",
        "ELOOP": "it is a link inside a directory that the sandbox may write, and not followed; grant its target",
        "EXDEV": "it leads out of a directory that the sandbox may write; grant its target",
    },
    "install the seccomp filter": {
        "EBUSY": "a supervised run cannot hold another one; drop max_processes, record_execs and port grants of one",
        "EPERM": "a supervised run cannot hold another one; drop max_processes, record_execs and port grants of one",
    },
    "enter the Landlock domain": {"E2BIG": "16 Landlock domains are nested already (landlock(7))"},
    "map the user and group": {"EPERM": "user namespaces are forbidden here; drop uid and gid"},
    "clone the program's process": {
        "EPERM": "user namespaces are forbidden here; drop uid and gid",
        "EAGAIN": "the user's process limit is reached (RLIMIT_NPROC)",
        "ENOSPC": "the limit of user namespaces is reached",
    },
    "clone the warden": {"EAGAIN": "the user's process limit is reached (RLIMIT_NPROC)"},
    "set a resource limit": {"EPERM": "above the hard limit of this process"},
    "change to the working directory": {"ENOENT": "it does not exist", "EACCES": "this user may not enter it"},
    "set the CPU affinity": {"EINVAL": "none of these CPUs may be used here"},
}

with open(os.path.join(os.path.dirname(__file__), "_init.elf"), "rb") as _image:
    INIT_IMAGE = _image.read()


def milliseconds(seconds: float | None) -> int | None:
    """For poll(2), whose longest wait is 24 days. Rounded up, so that nobody spins through the last one."""
    return None if seconds is None else max(0, min(int(seconds * 1000) + 1, 2**31 - 1))


class Execution:
    """A launched command: its native run, our ends of its streams, and what is known of it so far."""

    def __init__(
        self,
        program: _program.Program,
        policy: Policy,
        plan: Plan,
        stdio: Stdio,
        *,
        timeout: float | None,
        new_session: bool,
        questions: QuestionLimits | None = None,
    ) -> None:
        self.policy = policy
        self.command: Command
        self.stdio = stdio
        self.timeout = timeout
        self.launched = False
        self.pid = 0
        self.failure: Exception | None = None
        self._plan = plan
        self._ended: tuple[int, ...] | None = None
        self._killed = False
        self._denials: list[Denial] = []
        self._last_denied: tuple[Event, object] | None = None
        self._owner = os.getpid()
        # The thread that closes a sandbox takes messages of the runs of others. Re-entrant: signal handlers may kill.
        self._lock = RLock()
        try:
            self.run = _native.Run(
                program,
                new_session=new_session,
                deadline_ms=None if timeout is None else max(0, int(timeout * 1000)),
                init_image=INIT_IMAGE,
            )
            if questions is not None:
                wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self.run.listen(wake_fd, *questions)
        except OSError as error:
            fix = "raise the limit of open files (ulimit -n), or have fewer runs alive"
            raise ConfinementError("open the run's control socket", error.errno or 0, fix=fix) from error
        self.started = monotonic()
        self.run.start()

    def provide(self, command: Command) -> None:
        """Lets the launch go on: what to execute, on the descriptors of `stdio`."""
        self.command = command
        self.run.provide(
            executables=command.executables,
            argv=command.argv,
            envp=command.envp,
            cwd=command.cwd,
            stdio=self.stdio.child,
            terminal=self.stdio.terminal,
        )

    def abandon(self) -> None:
        """Ends a launch that was not provided, and waits for it: well under a millisecond."""
        with self._lock:
            self.run.kill()
            self.run.close()
            self.stdio.close()

    @property
    def control_fd(self) -> int:
        """Readable when `advance` has something to do."""
        return self.run.control_fd

    @property
    def ended(self) -> bool:
        """Whether the whole tree is gone, or never was."""
        return self._ended is not None or self.failure is not None

    @property
    def is_ours(self) -> bool:
        """Whether this process started it. A fork of the host has copies of everything, and may touch nothing."""
        return os.getpid() == self._owner

    def _check_owner(self) -> None:
        if not self.is_ours:
            raise SandlockError("this run belongs to the process that started it, not to a fork of that process")

    def advance(self) -> None:
        """Takes the messages that have come. Never waits. Raises SandlockError in a fork of the host."""
        self._check_owner()
        with self._lock:
            while not self.ended:
                message = self.run.receive()
                if message is None:
                    return
                self._take(message)

    def _take(self, message: tuple[int, ...] | Literal[False]) -> None:
        if message is False:
            self._fail(InternalError("the run's init is gone without a word; its tree was told to die"))
            return
        kind = message[0]
        if kind == _native.LAUNCHED:
            self.launched = True
            self.pid = message[1]
            self._let_go()
        elif kind == _native.FAILED and self._killed:
            # Stopped before the program was executed: for the caller the same as a moment later.
            self._ended = (_native.ENDED, 0, 0, 0, -1, SIGKILL, REASONS.index("killed"), 0, 0, 0)
        elif kind == _native.FAILED and STEPS.get(message[2]) == "execute the program" and self.denials:
            # A denial is data, also that of the program itself. 126: what shells say of what cannot be executed.
            self._ended = (_native.ENDED, 0, 0, 0, -1, 126 << 8, REASONS.index("denied"), 0, 0, 0)
        elif kind == _native.FAILED:
            self._fail(self._confinement_error(message))
        elif kind == _native.MAP_IDS:
            self.run.maps_written(self._write_maps(message[1]))
        else:
            self._ended = message

    def questions(self) -> tuple[list[tuple[int, Event]], list[int]]:
        """The new questions, and those that need no answer any more."""
        new, gone = self.run.take_questions()
        return [(each[0], self._event(*each[1:])) for each in new], gone

    def _event(self, operation: int, number: int, rule: int, tid: int, pid: int, facts: tuple[Any, ...]) -> Event:
        syscall = syscalls.name(number, self._plan.arch) or str(number)
        if operation == 0:
            text = self._plan.exec_rules[rule].text if rule >= 0 else ""
            return exec_event(text, syscall, tid, pid, *facts)
        return network_event(operation, syscall, tid, pid, *facts)

    def settle(self, question: int, event: Event, answer: object) -> None:
        """Carries out a callback's answer, and writes down a denial. Too late, it does nothing."""
        verdict = read_verdict(answer)
        denial = None
        self._last_denied = (event, answer) if verdict.cause else None
        if verdict.cause:
            denial = denial_of(event, verdict)
            self._denials.append(denial)  # first: who gets the answer may be the first to look
        if not self.run.verdict(question, verdict.act, verdict.errno) and denial is not None:
            self._denials.remove(denial)

    def repeats(self, question: int, event: Event) -> bool:
        """Whether this is what was denied to the same thread just now: a search through PATH finds one file by several
        names. It is denied again, without asking or writing it down once more."""
        if self._last_denied is None or not isinstance(event, Exec):
            return False
        last, answer = self._last_denied
        if not isinstance(last, Exec) or (last.tid, last.exe, last.argv) != (event.tid, event.exe, event.argv):
            return False
        verdict = read_verdict(answer)
        self.run.verdict(question, verdict.act, verdict.errno)
        return True

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was denied so far: by verdict, then without one."""
        plan = self._plan
        known = (plan.arch, plan.net_rules, plan.exec_rules)
        logged = (logged_denial(*known, *values) for values in self.run.denials())
        return (*self._denials, *logged)

    def kill(self) -> None:
        """Ends the whole tree. `ended` becomes true shortly after. Raises SandlockError in a fork of the host."""
        self._check_owner()
        with self._lock:
            self._killed = True
            self.run.kill()

    def finish(self) -> None:
        """Frees what is native of the run, and closes its streams. Only after `ended`."""
        with self._lock:
            self._let_go()
            self.stdio.close()
            if self._survivors:
                self.run.abandon()
            else:
                self.run.close()

    @property
    def _survivors(self) -> bool:
        return self._ended is not None and self._ended[7] != 0

    def result(self, stdout: bytes = b"", stderr: bytes = b"", truncated: frozenset[str] = frozenset()) -> Result:
        """The Result. Only after `ended`; raises what made the launch fail."""
        if self.failure is not None:
            raise self.failure
        assert self._ended is not None
        status, reason = self._ended[5], REASONS[self._ended[6]]
        signal = status & 0x7F or None
        exit_code = 128 + signal if signal else status >> 8 & 0xFF
        if reason == "exited" and signal:
            # A launch that is killed ends with the program's process, before the init could have been told.
            reason = "killed" if self._killed and signal == SIGKILL else "signaled"
        return Result(
            exit_code=exit_code,
            signal=signal,
            stdout=stdout,
            stderr=stderr,
            timed_out=reason == "timeout",
            reason=reason,
            duration=monotonic() - self.started,
            truncated=truncated,
            execs=self._records() if self.policy.record_execs else None,
            dropped_execs=self.run.dropped_execs,
            argv=self.command.text,
            waived=self._plan.waived,
            survivors=self._survivors,
            denials=self.denials,
            dropped_denials=self.run.dropped_denials,
        )

    def _records(self) -> tuple[ExecRecord, ...]:
        return tuple(
            ExecRecord(
                pid=pid,
                parent_pid=parent,
                exe=os.fsdecode(exe),
                argv=tuple(os.fsdecode(word) for word in argv),
                started=started,
                ended=ended,
                exit_code=None if status is None else (128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF),
                signal=None if status is None else status & 0x7F or None,
                confirmed=confirmed,
                truncated=truncated,
            )
            for pid, parent, exe, argv, started, ended, status, confirmed, truncated in self.run.execs()
        )

    def _let_go(self) -> None:
        """The launch has its own copies: close what we held for it."""
        self.run.let_go()
        self.stdio.close_child()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.run.kill()

    def _confinement_error(self, message: tuple[int, ...]) -> ConfinementError:
        from errno import errorcode

        step = STEPS.get(message[2], f"launch step {message[2]}")
        error, index = message[3], message[4]
        subject = ""
        ruleset = self._plan.guest_ruleset
        if step == "add a Landlock rule" and ruleset is not None and 0 <= index < len(ruleset.paths):
            subject = os.fsdecode(ruleset.paths[index].path)
        elif step == "execute the program":
            subject = self.command.text[0]
        elif step == "change to the working directory" and self.command.cwd is not None:
            subject = os.fsdecode(self.command.cwd)
        fix = FIXES.get(step, {}).get(errorcode.get(error, ""), "run `sandlock doctor`")
        return ConfinementError(step, error, subject=subject, fix=fix)

    def _write_maps(self, pid: int) -> int:
        """One user and one group, ours on the outside. Returns 0 or the errno. user_namespaces(7)."""
        uid = self.policy.uid if self.policy.uid is not None else os.geteuid()
        gid = self.policy.gid if self.policy.gid is not None else os.getegid()
        try:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {os.geteuid()} 1"),
                ("gid_map", f"{gid} {os.getegid()} 1"),
            ):
                with open(f"/proc/{pid}/{name}", "w") as file:
                    file.write(text)
        except OSError as error:
            return error.errno or 1
        return 0
