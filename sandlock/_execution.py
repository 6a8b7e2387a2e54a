"""One run as the host sees it: from messages of the control socket to a Result. Used by both faces.

The state only moves forward: starting, then running or failed, then ended. Nothing here waits; the faces do.
"""

from __future__ import annotations

import os
from _thread import RLock
from errno import EPIPE
from time import monotonic, time

from . import _native, _program
from ._book import Book
from ._call import Approved, Call
from ._denials import audited_like, audited_of, denial_of, logged_denial
from ._fixes import FIXES
from ._handled import Handled
from ._launch import STEPS
from ._verdicts import ACT_AUDIT, read_verdict
from .errors import MORE_FILES, ConfinementError, InternalError, SandlockError
from .events import OPERATIONS, Exec, Fork, exec_event, network_event, open_event
from .handlers import HandlerContext
from .result import ExecRecord, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    QuestionLimits = tuple[int | None, int, int]
    """Milliseconds that a question may wait (None: for ever), then the act and errno of what follows."""
    Entry = tuple[tuple[Any, ...], tuple["Event | HandlerContext", "Verdict"] | None]

    from ._command import Command
    from ._denials import Audited, Denial
    from ._net_rules import NetRule
    from ._permissions import Permissions
    from ._plan import Plan
    from ._recording import Recorder
    from ._resolver import Resolver
    from ._stdio import Stdio
    from ._verdicts import Verdict
    from ._view_files import ViewFiles
    from ._virtual_paths import VirtualRoot
    from .events import Event
    from .handlers import Handler, NativeHandler
    from .policy import Policy

REASONS = ("exited", "killed", "timeout", "host-gone", "denied")
SIGKILL = 9
LONGEST_APPROVAL = 20 * 1024
"""Bytes of an approval beyond which it is not kept, some 16 KiB of words: the program decides how many there are."""

with open(os.path.join(os.path.dirname(__file__), "_init.elf"), "rb") as _image:
    INIT_IMAGE = _image.read()


def milliseconds(seconds: float | None) -> int | None:
    """For poll(2), whose longest wait is 24 days. Rounded up, so that nobody spins through the last one."""
    return None if seconds is None else max(0, min(int(seconds * 1000) + 1, 2**31 - 1))


def _limit(seconds: float | None) -> int | None:
    return None if seconds is None else max(0, int(seconds * 1000))


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
        permissions: Permissions,
        resolver: Resolver | None = None,
        handlers: Mapping[str, Handler | NativeHandler] | None = None,
        call_id: str = "",
        recorder: Recorder | None = None,
        virtual_root: VirtualRoot | None = None,
        views: ViewFiles | None = None,
    ) -> None:
        self.policy = policy
        self.run_id = os.urandom(6).hex()
        self.call_id = call_id
        self.recorder = recorder
        self._views = views
        self.duration = 0.0
        """Seconds; 0 until the end."""
        self.command: Command
        self._directory = -1
        self.stdio = stdio
        self.timeout = timeout
        self.launched, self.pid = False, 0
        self.failure: Exception | None = None
        self.plan = plan
        self._syscalls = {rule.nr: rule.syscall for rule in plan.rules}
        self._lookups = None if resolver is None else resolver.lookups
        self._ended: tuple[int, ...] | None = None
        self._killed = False
        self._paused = False
        self._ordered = self._obeyed = self._refusal = 0
        self._denials = Book(merge=False)
        self._audited = Book(merge=True)
        self._last_denied: tuple[Event | HandlerContext, Verdict] | None = None
        self._asked: dict[int, int] = {}
        self._answered: dict[int, tuple[Event | HandlerContext, Verdict]] = {}
        self._gone: list[int] = []
        self._owner = os.getpid()
        self.epoch = time() - monotonic()  # seconds since the epoch when the monotonic clock was 0
        # The thread that closes a sandbox takes messages of the runs of others. Re-entrant: signal handlers may kill.
        self._lock = RLock()
        self._mounts = None if virtual_root is None else virtual_root.open()
        try:
            self.run = _native.Run(program, new_session=new_session, deadline_ms=_limit(timeout), init_image=INIT_IMAGE)
            self._handled = Handled(self.run, handlers) if handlers else None
            self._prepare(questions, resolver)
        except OSError as error:
            raise ConfinementError("open the run's control socket", error.errno or 0, fix=MORE_FILES) from error
        self._approved = Approved(self.run)
        self._permissions = permissions
        permissions.attach(self.run)
        self.started = monotonic()
        self.run.start()

    def _prepare(self, questions: QuestionLimits | None, resolver: Resolver | None) -> None:
        """Connects the run with who is asked, who keeps a record, and who looks names up; and shows it its root. Raises
        OSError."""
        if self._mounts is not None:
            self.run.set_virtual_root(self._mounts)
        if questions is not None:
            self.run.listen(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), *questions)
        if self.recorder is not None and self.plan.vets:
            self.run.keep_journal(self.recorder.is_patient, self.recorder.is_patient)
        if resolver is not None:
            resolver.attach(self.run)
        if self._views is not None:
            self._views.attach(self.run)

    def provide(self, command: Command) -> None:
        """Lets the launch go on: what to execute, on the descriptors of `stdio`."""
        self.command = command
        self._directory = command.directory
        self.run.provide(
            executables=command.executables,
            argv=command.argv,
            envp=command.envp,
            cwd=command.cwd,
            directory=command.directory,
            stdio=self.stdio.child,
            terminal=self.stdio.terminal,
        )

    def abandon(self) -> None:
        """Ends a launch that was not provided, and waits for it: well under a millisecond."""
        with self._lock:
            self._permissions.detach(self.run)
            self.run.kill()
            self.run.close()
            self.stdio.close()
            self._let_go()
            self._close_root()
            self._close_views()

    def _close_root(self) -> None:
        if self._mounts is not None:
            self._mounts.close()

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
        elif kind in (_native.PAUSED, _native.RESUMED):
            self._obeyed += 1
            self._refusal = message[3]
            if not message[3]:
                self._paused = kind == _native.PAUSED
        elif kind == _native.MAP_IDS:
            self.run.maps_written(self._write_maps(message[1]))
        else:
            self._ended = message

    def questions(self) -> tuple[list[tuple[int, Event | HandlerContext]], list[int]]:
        """The new questions, and those that need no answer any more."""
        new, gone = self.run.take_questions()
        self._gone += gone
        if self._handled is not None:
            self._handled.release(gone)
        for question in gone:
            self._asked.pop(question, None)
        events: list[tuple[int, Event | HandlerContext]] = []
        for question, since, *call in new:
            self._asked[question] = since
            events.append((question, self._event(question, *call)))  # type: ignore[arg-type]  # as `_event` has them
        return events, gone

    def _event(
        self, question: int, operation: int, number: int, rule: int, tid: int, pid: int, facts: tuple[Any, ...]
    ) -> Event | HandlerContext:
        syscall = self._syscalls[number]
        call = Call(self.run, self._approved, question)
        run, call_id = self.run_id, self.call_id
        if operation == OPERATIONS.index("handler"):
            assert self._handled is not None
            who = {"syscall": syscall, "number": number, "pid": pid, "tid": tid, "run": run, "call_id": call_id}
            return self._handled.context(question, call, args=facts, **who)  # type: ignore[arg-type]
        if operation == OPERATIONS.index("exec"):
            text = self.plan.exec_rules[rule].text if rule >= 0 else ""
            return exec_event(text, syscall, tid, pid, *facts, call=call, run=run, call_id=call_id)
        if operation == OPERATIONS.index("fork"):
            return Fork(pid=pid, tid=tid, syscall=syscall, call=call, run=run, call_id=call_id)
        if operation == OPERATIONS.index("open"):
            return open_event(syscall, tid, pid, *facts, call=call, run=run, call_id=call_id)
        host = self.host_of(facts[1])
        return network_event(operation, syscall, tid, pid, *facts, host=host, call=call, run=run, call_id=call_id)

    def settle(self, question: int, event: Event | HandlerContext, answer: object) -> None:
        """Carries out a callback's answer, and writes down a denial. Too late, it does nothing."""
        if isinstance(event, HandlerContext):
            assert self._handled is not None
            order = self._handled.order(question, event, answer)
            if order.cause:
                self._remember(question, event, order)
            since = self._asked.pop(question, int(monotonic() * 1e9)) / 1e9
            if not self._handled.settle(question, event, order, since, self.epoch):
                self._answered.pop(question, None)
            return
        verdict = read_verdict(answer)
        self._last_denied = (event, verdict) if verdict.cause else None
        now = monotonic()
        latency = now - self._asked.pop(question, int(now * 1e9)) / 1e9
        book, noted = self._note(event, verdict, self.epoch + now, latency)  # first: who is answered may look at once
        if verdict.scope != "once" and not isinstance(event, Fork):
            self._approve(question, verdict)
        if verdict.allows and isinstance(event, Exec):
            self._approved.add(question, event)
        self._remember(question, event, verdict)
        if not self.run.verdict(question, verdict.act, verdict.errno):
            self._answered.pop(question, None)
            if book is not None:
                book.take_back(noted)

    def _note(self, event: Event, verdict: Verdict, time: float, latency: float) -> tuple[Book | None, object]:
        """Writes down what is no plain permission. Returns where, and what can be taken back there."""
        if verdict.cause:
            denial = denial_of(event, verdict, time=time, latency=latency, chain=self.run.chain(event.pid))
            return self._denials, self._denials.add(denial)
        if verdict.act == ACT_AUDIT:
            chain = self.run.chain(event.pid)
            audited = audited_of(event, verdict.reason, time=time, latency=latency, chain=chain, by=verdict.by)
            return self._audited, self._audited.add(audited)
        return None, None

    def audit_lookup(self, event: Event, reason: str, cause: str) -> None:
        """Writes down a lookup that an Audit() allowed."""
        chain = self.run.chain(event.pid)
        self._audited.add(audited_of(event, reason, time=time(), chain=chain, cause=cause))

    def _approve(self, question: int, verdict: Verdict) -> None:
        try:
            approval = self.run.remember(question, verdict.words)
        except LookupError:  # it is over
            return
        if not approval or len(approval) > LONGEST_APPROVAL:  # of a file that another one could be taken for
            return
        if verdict.scope == "run":
            self.run.approve(approval)
        else:
            self._permissions.approve(approval)

    def repeats(self, question: int, event: Event | HandlerContext) -> bool:
        """Whether this is what was denied to the same thread just now: a search through PATH finds one file by several
        names. It is denied again, without asking or writing it down once more."""
        if self._last_denied is None or not isinstance(event, Exec):
            return False
        last, verdict = self._last_denied
        if not isinstance(last, Exec) or (last.tid, last.exe, last.argv) != (event.tid, event.exe, event.argv):
            return False
        if last.path == event.path:  # it tries again
            return False
        self._asked.pop(question, None)
        self._remember(question, event, verdict)
        if not self.run.verdict(question, verdict.act, verdict.errno):
            self._answered.pop(question, None)
        return True

    def _remember(self, question: int, event: Event | HandlerContext, verdict: Verdict) -> None:
        if self.recorder is not None:
            self._answered[question] = (event, verdict)

    def take_decisions(self, final: bool, limit: int) -> list[Entry]:
        """What the journal has of decisions, in their order, each with its question and verdict if there was one. By
        one thread. `final`: nothing native is left that could write."""
        over, self._gone = self._gone, []
        found = [(entry, self._answered.pop(entry[10], None)) for entry in self.run.take_decisions(final, limit)]
        if len(found) == limit:
            self._gone += over
            return found
        for question in over:  # recorded before they were over: whoever asked was gone before
            self._answered.pop(question, None)
        return found

    @property
    def net_rules(self) -> tuple[NetRule, ...]:
        """All rules of the network that ever were in force, by number."""
        return self._permissions.net_rules

    @property
    def denied_paths(self) -> tuple[str, ...]:
        """All paths that ever were denied, by number, as "field: path"."""
        return self._permissions.denied_paths

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was denied so far: by verdict, then without one."""
        lookups = self._lookups
        logged = self._logged(self.run.denials())
        handled = () if self._handled is None else self._handled.denials
        return (*self._denials.records, *handled, *logged, *(() if lookups is None else lookups.denials))

    @property
    def refused_lookups(self) -> tuple[Denial, ...]:
        """The names whose lookup was refused so far, each with each cause once; what is new stands at the end."""
        return () if self._lookups is None else self._lookups.denials

    @property
    def unresolved_hosts(self) -> tuple[str, ...]:
        """The names of the policy, without wildcards, that have led to no address so far."""
        return () if self._lookups is None else tuple(sorted(self._lookups.without_address))

    @property
    def audited(self) -> tuple[Audited, ...]:
        """What was allowed by an Audit() so far: the callback's, then that of `on_timeout`."""
        return (*self._audited.records, *map(audited_like, self._logged(self.run.audited())))

    def _logged(self, found: list[tuple[Any, ...]]) -> list[Denial]:
        """What the core wrote down itself."""
        plan = self.plan
        known = (plan.arch, self.net_rules, plan.exec_rules, self.denied_paths)
        lookups = self._lookups
        logged = []
        for operation, cause, rule, error, number, pid, count, since, at, *facts in found:
            called = (operation, cause, rule, error, number, pid, count)
            times = (self.epoch + at / 1e9, (at - since) / 1e9)
            logged.append(logged_denial(*known, *called, *times, *facts, lookups=lookups))
        return logged

    @property
    def dropped_denials(self) -> int:
        """How many more there were than are kept."""
        others = (each for each in (self._lookups, self._handled) if each is not None)
        return self._denials.dropped + self.run.dropped_denials + sum(each.dropped_denials for each in others)

    def kill(self) -> None:
        """Ends the whole tree. `ended` becomes true shortly after. Raises SandlockError in a fork of the host."""
        self._check_owner()
        with self._lock:
            self._killed = True
            self.run.kill()

    @property
    def paused(self) -> bool:
        """Whether the tree was stopped last."""
        return self._paused and not self.ended

    def order(self, *, pause: bool) -> int:
        """Tells the init to stop the tree or to let it go on; `obeyed` says whether it has. Raises SandlockError."""
        self._check_owner()
        with self._lock:
            error = EPIPE if self.ended else self.run.order(pause)
            if error:
                what = "pause" if pause else "resume"
                why = "it has ended, or is ending" if error == EPIPE else "the run's init does not listen; kill it"
                raise SandlockError(f"{what} the program: {why}")
            self._ordered += 1
            return self._ordered

    def obeyed(self, order: int) -> bool:
        """Whether an order was carried out, or needs not be any more. Raises SandlockError if it could not be."""
        with self._lock:
            if self._obeyed < order and not self.ended:
                return False
            if self._refusal and not self.ended:
                why = f"read /proc/PID/task/TID/children: {os.strerror(self._refusal)}"
                raise SandlockError(f"pause the program: {why}; the kernel needs CONFIG_PROC_CHILDREN")
            return True

    def finish(self) -> None:
        """Frees what is native of the run, and closes its streams. Only after `ended`."""
        with self._lock:
            self._let_go()
            self._permissions.detach(self.run)
            self.stdio.close()
            if self._handled is not None and not self.survivors:
                self._handled.close()
            if self.survivors:
                self.run.abandon()
            else:
                self.run.close()
            self._close_root()
            if not self.survivors:  # the supervisor stays for these, and its descriptors may be ours
                self._close_views()
            self.duration = self.duration or monotonic() - self.started

    def _close_views(self) -> None:
        if self._views is not None:
            self._views.close()

    def close_record(self) -> None:
        """After `finish`: waits until the run's record is written, where there is one; a few seconds at most."""
        if self.recorder is not None:
            self.recorder.finish()

    @property
    def survivors(self) -> bool:
        """Whether a task of the tree could not be killed yet."""
        return self._ended is not None and self._ended[7] != 0

    @property
    def outcome(self) -> tuple[int, int | None, str] | None:
        """(exit code, signal, reason) of a run that has ended; None if it has not, or if nothing was started."""
        if self._ended is None:
            return None
        status, reason = self._ended[5], REASONS[self._ended[6]]
        signal = status & 0x7F or None
        if reason == "exited" and signal:
            # A launch that is killed ends with the program's process, before the init could have been told.
            reason = "killed" if self._killed and signal == SIGKILL else "signaled"
        return 128 + signal if signal else status >> 8 & 0xFF, signal, reason

    def result(self, stdout: bytes = b"", stderr: bytes = b"", truncated: frozenset[str] = frozenset()) -> Result:
        """The Result. Only after `ended`; raises what made the launch fail."""
        if self.failure is not None:
            raise self.failure
        assert self.outcome is not None
        exit_code, signal, reason = self.outcome
        return Result(
            exit_code=exit_code,
            signal=signal,
            stdout=stdout,
            stderr=stderr,
            timed_out=reason == "timeout",
            reason=reason,
            duration=monotonic() - self.started,
            truncated=truncated,
            execs=self.exec_records() if self.policy.record_execs else None,
            dropped_execs=self.run.dropped_execs,
            argv=self.command.text,
            waived=self.plan.waived,
            survivors=self.survivors,
            denials=self.denials,
            dropped_denials=self.dropped_denials,
            audited=self.audited,
            dropped_audited=self._audited.dropped + self.run.dropped_audited,
            overdue=self.run.overdue,
            run_id=self.run_id,
            call_id=self.call_id,
            audit_error="" if self.recorder is None else self.recorder.failure,
        )

    def host_of(self, address: bytes) -> str:
        """The name by which the tree looked an address up last; "" if it did not."""
        return "" if self._lookups is None else self._lookups.host_of(address)

    def exec_records(self) -> tuple[ExecRecord, ...]:
        """What the tree has executed, with `record_execs`."""
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
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.run.kill()

    def _confinement_error(self, message: tuple[int, ...]) -> ConfinementError:
        from errno import errorcode

        step = STEPS.get(message[2], f"launch step {message[2]}")
        error, index = message[3], message[4]
        subject = ""
        ruleset = self.plan.supervisor_ruleset if step.endswith("for the supervisor") else self.plan.guest_ruleset
        if step.startswith("add a Landlock rule") and ruleset is not None and 0 <= index < len(ruleset.paths):
            subject = os.fsdecode(ruleset.paths[index].path)
        elif step == "execute the program":
            subject = self.command.text[0]
        elif step == "change to the working directory" and self.command.cwd is not None:
            subject = os.fsdecode(self.command.cwd)
        fix = FIXES.get(step.removesuffix(" for the supervisor"), {}).get(
            errorcode.get(error, ""), "run `sandlock doctor`"
        )
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
