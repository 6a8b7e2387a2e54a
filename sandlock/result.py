"""Result: how a run ended and what came out of it.

Rules: a failure of the program is a value here, not an exception; what the program printed is data from
inside the sandbox and is escaped before a person sees it.
"""

from __future__ import annotations

from ._record import record
from .errors import GuestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ._denials import Audited, Denial

SCHEMA = 1
"""Version of `to_dict`. Keys are only ever added within one version."""
REASONS = ("exited", "signaled", "timeout", "killed", "host-gone", "denied")


@record
class ExecRecord:
    """One program that the tree executed.

    `started` and `ended` are seconds since the run started. `confirmed`: the kernel really loaded it;
    otherwise the exec was seen but its outcome was not. `truncated`: argv was longer than what is kept.
    """

    pid: int
    parent_pid: int
    exe: str
    argv: tuple[str, ...]
    started: float
    ended: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    confirmed: bool = False
    truncated: bool = False

    def to_dict(self) -> dict[str, object]:
        """The record as JSON-ready data."""
        return {
            "pid": self.pid,
            "parent_pid": self.parent_pid,
            "exe": _jsonable(self.exe),
            "argv": [_jsonable(word) for word in self.argv],
            "started": self.started,
            "ended": self.ended,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "confirmed": self.confirmed,
            "truncated": self.truncated,
        }


@record
class Result:
    """How a run ended.

    `exit_code` is 128+n when signal n ended the program; `reason` is one of REASONS. `stdout` and
    `stderr` are what was captured, empty for a stream that was not; `truncated` names those that exceeded
    `max_output`. `duration` is in seconds. `execs` is None unless the policy says `record_execs`;
    beyond 10,000 records or 8 MiB of them, programs are only counted, in `dropped_execs`.
    `waived` names the protections that were asked to be, and were, left out.
    `denials`: the execs that a `policy_fn` denied, or that were denied because it did not answer; more than are
    kept are counted in `dropped_denials`. `audited`, `dropped_audited`: the same of what an Audit() allowed.
    `overdue`: questions that waited on beyond `policy_timeout`, by `on_timeout="wait"`.
    Where the program itself was denied, `exit_code` is 126, `reason` "denied".
    `run_id`: the run's id, as in events, decisions and the audit file; `call_id`: what the caller gave for the call.
    `audit_error`: what became of the audit file, if it could not be written in full.
    `survivors`: a task in uninterruptible sleep could not be killed within 5 s.
    """

    exit_code: int
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    reason: str = "exited"
    duration: float = 0.0
    truncated: frozenset[str] = frozenset()
    execs: tuple[ExecRecord, ...] | None = None
    dropped_execs: int = 0
    argv: tuple[str, ...] = ()
    waived: frozenset[str] = frozenset()
    denials: tuple[Denial, ...] = ()
    dropped_denials: int = 0
    audited: tuple[Audited, ...] = ()
    dropped_audited: int = 0
    overdue: int = 0
    survivors: bool = False
    run_id: str = ""
    call_id: str = ""
    audit_error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with exit code 0."""
        return self.exit_code == 0 and self.reason == "exited"

    @property
    def returncode(self) -> int:
        """The same as `exit_code`, by subprocess's name."""
        return self.exit_code

    @property
    def stdout_text(self) -> str:
        """`stdout` as UTF-8 text; bytes that are not are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """`stderr` as UTF-8 text; bytes that are not are replaced."""
        return self.stderr.decode("utf-8", "replace")

    def check(self) -> Self:
        """This result. Raises GuestError unless `ok`."""
        if not self.ok:
            raise GuestError(self._ending() + _last_line(self.stderr), result=self)
        return self

    def explain(self) -> str:
        """For a person: how the run ended, what was cut, what ran, and what may help."""
        lines = [f"{self._ending()} after {self.duration:.3f} s"]
        lines += [f"  {name}: cut at max_output, the rest was dropped" for name in sorted(self.truncated)]
        if self.survivors:
            lines.append("  a task in uninterruptible sleep could not be killed yet")
        if self.waived:
            lines.append("  without these protections: " + ", ".join(sorted(self.waived)))
        if self.execs is not None:
            lines.append(f"  programs executed: {len(self.execs)}")
            lines += exec_tree(self.execs)
        if self.dropped_execs:
            lines.append(f"  programs without a record, for want of room: {self.dropped_execs}")
        for denial in self.denials:
            lines.append(_denial_line(denial))
        if self.dropped_denials:
            lines.append(f"  denials without a record, for want of room: {self.dropped_denials}")
        lines += [f"  audited: {_call_text(each)}" for each in self.audited]
        if self.dropped_audited:
            lines.append(f"  audited without a record, for want of room: {self.dropped_audited}")
        if self.overdue:
            lines.append(f"  questions that waited beyond policy_timeout: {self.overdue}")
        if self.audit_error:
            lines.append(f"  the record is not complete: {printable(self.audit_error)}")
        lines += [f"  hint: {hint}" for hint in self._hints()]
        return "\n".join(lines)

    def to_dict(self, *, output: bool = False) -> dict[str, object]:
        """The result as JSON-ready data with stable keys. `output`: with what was captured, as text."""
        report: dict[str, object] = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "call_id": self.call_id,
            "argv": [_jsonable(word) for word in self.argv],
            "exit_code": self.exit_code,
            "signal": self.signal,
            "reason": self.reason,
            "ok": self.ok,
            "timed_out": self.timed_out,
            "duration": self.duration,
            "truncated": sorted(self.truncated),
            "waived": sorted(self.waived),
            "survivors": self.survivors,
            "execs": None if self.execs is None else [each.to_dict() for each in self.execs],
            "dropped_execs": self.dropped_execs,
            "denials": [
                _call_dict(each)
                | {"rule": each.rule, "errno": each.errno, "fix": each.fix, "fix_flag": each.fix_flag}
                | {"syscall": each.syscall}
                for each in self.denials
            ],
            "dropped_denials": self.dropped_denials,
            "audited": [_call_dict(each) for each in self.audited],
            "dropped_audited": self.dropped_audited,
            "overdue": self.overdue,
            "audit_error": self.audit_error,
        }
        if output:
            report["stdout"] = self.stdout_text
            report["stderr"] = self.stderr_text
        return report

    def _ending(self) -> str:
        program = printable(self.argv[0]) if self.argv else "the program"
        if self.timed_out or self.reason == "timeout":
            return f"{program} ran into its time limit and was killed with its whole tree"
        if self.reason == "killed":
            return f"{program} was killed with its whole tree on request"
        if self.reason == "host-gone":
            return f"{program} was killed because the process that ran it ended"
        if self.signal is not None:
            return f"{program} was ended by {signal_name(self.signal)}"
        return f"{program} exited with {self.exit_code}"

    def _hints(self) -> list[str]:
        hints = []
        if self.reason == "exited" and self.exit_code == 126:
            hints.append("126: found but not executable; a program, its interpreter and its libraries need -r PATH")
        if self.reason == "exited" and self.exit_code == 127:
            hints.append("127: not found; check PATH, and that its directory is granted with -r or --preset system")
        if self.signal == 31:
            hints.append("SIGSYS: it used a system call of a foreign ABI, or its own seccomp filter ended it")
        tail = self.stderr[-65536:]
        for text, hint in _STDERR_HINTS:
            if text in tail:
                hints.append(hint)
        return hints


_STDERR_HINTS = (
    (b"Permission denied", "permission denied: reading needs -r PATH, writing -w PATH, a device --fs-device, "
     "sockets --net-allow or --net-allow-bind"),
    (b"error while loading shared libraries", "a library is not granted: add its directory with -r"),
    (b"Operation not permitted", "not permitted: a system call that sandboxed programs cannot use"),
    (b"Resource temporarily unavailable", "resource unavailable: max_processes may be too low"),
    (b"Too many open files", "too many open files: max_open_files is reached"),
    (b"Read-only file system", "the file system itself is read-only"),
)  # fmt: skip


def _denial_line(denial: Denial) -> str:
    fix = f"; to allow it: {denial.fix}" if denial.fix else ""
    return f"  denied: {_call_text(denial)}{fix}"


def _call_text(call: Denial | Audited) -> str:
    words = f" ({' '.join(map(_jsonable, call.argv))[:200]!r})" if call.argv else ""
    times = f", {call.count} times" if call.count > 1 else ""
    name = f" ({call.host})" if call.host not in ("", call.target) else ""
    reason = f": {printable(call.reason)}" if call.reason else ""
    kind = getattr(call, "syscall", "") or call.kind
    return f"{kind} {printable(call.target)}{name}{words}{times}{reason}"


def _call_dict(call: Denial | Audited) -> dict[str, object]:
    return {
        "kind": call.kind,
        "target": _jsonable(call.target),
        "argv": [_jsonable(word) for word in call.argv],
        "cause": call.cause,
        "reason": _jsonable(call.reason),
        "pid": call.pid,
        "count": call.count,
        "time": call.time,
        "latency": call.latency,
        "chain": [_jsonable(file) for file in call.chain],
        "host": call.host,
        "by": _jsonable(call.by),
    }


def exec_tree(execs: tuple[ExecRecord, ...]) -> list[str]:
    """Lines of the tree of what ran, children below their parents in the order they started."""
    children: dict[int, list[ExecRecord]] = {}
    roots = []
    seen: set[int] = set()
    for entry in sorted(execs, key=lambda entry: entry.started):
        above = entry.parent_pid
        # only what started before can be a parent: pids are used again, and a circle would hide its records
        if above in seen and above != entry.pid:
            children.setdefault(above, []).append(entry)
        else:
            roots.append(entry)
        seen.add(entry.pid)
    lines: list[str] = []
    waiting = [(entry, 1) for entry in reversed(roots)]
    expanded: set[int] = set()
    while waiting:
        entry, depth = waiting.pop()
        lines.append("  " * min(depth, 20) + _exec_line(entry))
        if entry.pid not in expanded:  # a task that executed twice has its children under the first only
            expanded.add(entry.pid)
            waiting += [(child, depth + 1) for child in reversed(children.get(entry.pid, []))]
    return lines


def _exec_line(entry: ExecRecord) -> str:
    command = " ".join(printable(word) for word in entry.argv[:8]) or printable(entry.exe)
    if len(entry.argv) > 8 or entry.truncated:
        command += " ..."
    span = f"{entry.started:.3f}" + (f"-{entry.ended:.3f} s" if entry.ended is not None else " s, still running")
    if entry.signal is not None:
        end = f", {signal_name(entry.signal)}"
    else:
        end = f", exit {entry.exit_code}" if entry.exit_code is not None else ""
    doubt = "" if entry.confirmed else ", not confirmed"
    return f"[{entry.pid}] {command} ({printable(entry.exe)}; {span}{end}{doubt})"


def signal_name(number: int) -> str:
    """ "SIGKILL" for 9."""
    from signal import Signals  # enum-built and slow; only explanations need names

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def printable(text: str, limit: int = 200) -> str:
    """Text from inside the sandbox, safe for a terminal: what is not printable is escaped; cut at `limit`."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return safe if len(text) <= limit else safe + "..."


def _jsonable(text: str) -> str:
    """File names that are not UTF-8 hold lone surrogates (os.fsdecode); JSON readers reject those."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _last_line(stderr: bytes) -> str:
    lines = stderr[-4096:].decode("utf-8", "replace").strip().splitlines()
    return f"; it last said: {printable(lines[-1])}" if lines else ""
