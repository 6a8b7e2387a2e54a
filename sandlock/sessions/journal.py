"""The journal of a session: what its audit file says, as values, however much of the file there is.

Rules: a line counts only when it is whole and of its schema; what is missing is counted and told, never filled in. The
file may be cut, written on meanwhile, or made by somebody who means harm: nothing in it raises, and every size has an
end. All text in it is untrusted: who shows it escapes it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from math import isfinite
from typing import TYPE_CHECKING

from sandlock import SandlockError

from .._record import record
from .programs import Programs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from .programs import ProgramRecord

__all__ = ["Damage", "Journal", "JournalDecision", "RunRecord", "Totals", "read_journal"]

SCHEMA = 1
MAX_LINE = 8 << 20
"""Bytes; of a longer line only what stands before its words is read."""
HEAD = 64 << 10
KEPT = 250_000
"""Decisions; beyond them, only those that denied are kept, up to as many again."""
MAX_RUNS = 20_000
MAX_SHARED = 100_000
MAX_KINDS = 64
MAX_PARENTS = 64
LAST_TIME = 253_402_300_800.0
"""The year 10000: later times cannot be shown."""
DENIED = ("deny", "kill")
ACTS = ("allow", "audit", *DENIED)


@record
class JournalDecision:
    """One decision, with every field of its line; docs/how-to/audit.md says what each means."""

    seq: int
    time: float
    session: str
    run: str
    call_id: str
    run_seq: int
    kind: str
    target: str
    decision: str
    cause: str
    reason: str
    rule: str
    by: str
    host: str
    errno: int
    pid: int
    tid: int
    exe: str
    argv: tuple[str, ...]
    truncated: bool
    cwd: str
    asked: bool
    latency_us: int
    binding: str
    fix: str
    syscall: str
    access: str
    parents: tuple[int, ...]

    @property
    def is_denied(self) -> bool:
        """Whether the call failed, or its process was killed."""
        return self.decision in DENIED


@record
class RunRecord:
    """One run: how it began and, as far as the file tells, how it ended."""

    id: str
    session: str
    call_id: str
    argv: tuple[str, ...]
    cwd: str
    policy: Mapping[str, Any]
    """The fields that were not at their defaults; of `env` the names. Values as the file has them."""
    policy_hash: str
    started: float
    """Seconds since the epoch; where its first line is missing, when the first decision was made."""
    ended: float | None
    """None: the file does not tell; the run goes on, or whoever wrote the file was killed."""
    exit_code: int | None
    signal: int | None
    reason: str
    error: str
    duration: float | None
    lost: int
    """Decisions that the end of the run says are missing."""

    @property
    def is_over(self) -> bool:
        """Whether the file tells of its end."""
        return self.ended is not None


@record
class Totals:
    """How much there was, all lines counted, also where not all decisions are kept."""

    decisions: int
    denied: int
    asked: int
    kinds: Mapping[str, Mapping[str, int]]
    """How many by kind and outcome."""


@record
class Damage:
    """What is missing of a journal, or was not understood."""

    missing: int = 0
    """Lines that were written or meant to be: gaps in `seq`."""
    cut: int = 0
    """Lines that are no JSON: cut by a full disk, or no lines of an audit file."""
    strange: int = 0
    """Lines of another schema, or whose fields are not what the schema says."""
    long: int = 0
    """Lines beyond MAX_LINE; what stands before their words is read."""
    repeated: int = 0
    """Lines whose `seq` was there before: parts of the file stand in it twice, or out of order."""
    dropped: int = 0
    """Decisions that the record itself says were lost."""
    dropped_lines: int = 0
    """Lines that it says were lost; they are among `missing` too."""
    omitted: int = 0
    """Decisions and runs that are counted, but not kept here for want of room."""
    unfinished: bool = False
    """The last line has no end: somebody is writing it, or died over it."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing that was decided is missing here."""
        return self == Damage(unfinished=self.unfinished)

    def describe(self) -> tuple[str, ...]:
        """A sentence for each thing that is wrong."""
        told = (
            (self.missing, "lines are missing (gaps in their numbers)"),
            (self.cut, "lines are no whole JSON and were passed over"),
            (self.strange, "lines are of another schema, or have fields of the wrong kind, and were passed over"),
            (self.long, f"lines are longer than {MAX_LINE >> 20} MiB; their words are left out"),
            (self.repeated, "lines stand there twice or out of order"),
            (self.dropped, "decisions were lost before they could be written"),
            (self.omitted, "decisions are counted, but not shown one by one: there are too many"),
        )
        lines = [f"{count:,} {text}" for count, text in told if count]
        return (*lines, "the last line is not whole: it is being written, or was cut") if self.unfinished else (*lines,)


@record
class Journal:
    """All that an audit file tells. It may be of several sandboxes and many runs."""

    path: str
    runs: tuple[RunRecord, ...]
    decisions: tuple[JournalDecision, ...]
    """In the order of the file."""
    programs: tuple[ProgramRecord, ...]
    """All runs' programs, run by run, each in the order in which they started; `parent` is a place in here."""
    totals: Totals
    damage: Damage

    @property
    def denials(self) -> tuple[JournalDecision, ...]:
        """The decisions that denied."""
        return tuple(each for each in self.decisions if each.is_denied)

    def run(self, id: str) -> RunRecord | None:
        """The run of this id."""
        return next((each for each in self.runs if each.id == id), None)


def read_journal(path: str | os.PathLike[str]) -> Journal:
    """Reads an audit file, as far as it is written by now. Raises SandlockError when it cannot be read at all."""
    name = os.fspath(path)
    reading = _Reading()
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise SandlockError(f"{name!r}: is no file; name the audit file of a run")
            with open(fd, "rb", closefd=False) as file:
                for line in _lines(file, found.st_size):
                    reading.take(line)
        finally:
            os.close(fd)
    except OSError as error:
        step = errno.errorcode.get(error.errno or 0, str(error))
        raise SandlockError(f"{name!r}: read the audit file: {step}; name a file that you may read") from error
    except ValueError as error:  # a NUL in the name
        raise SandlockError(f"{name!r}: {error}; name the audit file of a run") from error
    return reading.journal(name)


def _lines(file: Any, size: int) -> Iterator[bytes]:
    """The lines, those that are too long only as far as they are read. What is appended meanwhile is left out."""
    while size > 0:
        line: bytes = file.readline(min(MAX_LINE + 1, size))
        if not line:
            return
        size -= len(line)
        yield line
        while len(line) > MAX_LINE and line[-1] != 10 and size > 0:
            line = file.readline(min(MAX_LINE + 1, size))
            size -= len(line)
            if not line:
                return


class _Reading:
    """What is known so far."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.decisions: list[JournalDecision] = []
        self.programs = Programs()
        self.kinds: dict[str, dict[str, int]] = {}
        self.counts: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        self.asked = 0
        self.unfinished = False
        self._shared: dict[Any, Any] = {}

    def take(self, line: bytes) -> None:
        """One more line. Never raises."""
        self.unfinished = line[-1:] != b"\n"
        if len(line) > MAX_LINE:
            self._count("long")
            place = line.find(b', "argv": [', 0, HEAD)  # quotes of a text are escaped: this is the key
            line, self.unfinished = line[:place] + b', "truncated": true}', False
        elif not line.strip():
            return
        try:
            fields = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            if not self.unfinished:
                self._count("cut")
            return
        self.unfinished = False
        if not isinstance(fields, dict):
            self._count("strange")
            return
        try:
            self._take(_Fields(fields, self._share))
        except _StrangeError:
            self._count("strange")

    def _take(self, fields: _Fields) -> None:
        if fields.number("schema") != SCHEMA:
            raise _StrangeError
        session, seq, time = fields.text("session"), fields.number("seq"), fields.time("time")
        match fields.text("record"):
            case "decision":
                self._decision(fields, session, seq, time)
            case "run_start":
                self._start(fields, session, time)
            case "run_end":
                self._end(fields, session, time)
            case "execs":
                self._execs(fields, session, time)
            case "dropped":
                count = fields.number("count")
                self._count("dropped" if fields.text("run", "") else "dropped_lines", max(0, count))
            case _:
                pass  # a record that a later version adds
        self._number(session, seq)

    def _number(self, session: str, seq: int) -> None:
        expected = self.numbers.get(session, 0) + 1
        if seq < expected:
            self._count("repeated")
        elif len(self.numbers) < MAX_RUNS or session in self.numbers:
            self._count("missing", seq - expected)
            self.numbers[session] = seq

    def _run(self, fields: _Fields, session: str, time: float) -> dict[str, Any] | None:
        """The run of a line, known or new; None where there are too many."""
        id = fields.text("run")
        run = self.runs.get(id)
        if run is None:
            if len(self.runs) >= MAX_RUNS:
                self._count("omitted")
                return None
            run = self.runs[id] = {"id": id, "session": session, "started": time, "call_id": fields.text("call_id", "")}
        return run

    def _start(self, fields: _Fields, session: str, time: float) -> None:
        facts = {
            "argv": fields.words("argv"),
            "cwd": fields.text("cwd", ""),
            "policy": fields.table("policy"),
            "policy_hash": fields.text("policy_hash", ""),
            "started": time,
        }
        run = self._run(fields, session, time)
        if run is not None:
            run.update(facts)

    def _end(self, fields: _Fields, session: str, time: float) -> None:
        facts = {
            "ended": time,
            "exit_code": fields.number_or_none("exit_code"),
            "signal": fields.number_or_none("signal"),
            "reason": fields.text("reason", ""),
            "error": fields.text("error", ""),
            "duration": fields.time("duration", 0.0),
            "lost": fields.number("lost", 0),
        }
        run = self._run(fields, session, time)
        if run is not None:
            run.update(facts)

    def _execs(self, fields: _Fields, session: str, time: float) -> None:
        rows = [_Fields(each, self._share) for each in fields.tables("execs")]
        found = [
            {
                "pid": row.number("pid"),
                "parent_pid": row.number("parent_pid"),
                "exe": row.text("exe"),
                "argv": row.words("argv"),
                "started": row.time("started"),
                "ended": row.time_or_none("ended"),
                "exit_code": row.number_or_none("exit_code"),
                "signal": row.number_or_none("signal"),
                "confirmed": row.flag("confirmed"),
                "truncated": row.flag("truncated"),
            }
            for row in rows
        ]
        run = self._run(fields, session, time)
        if run is not None:
            self.programs.recorded(run["id"], found)

    def _decision(self, fields: _Fields, session: str, seq: int, time: float) -> None:
        made = fields.text("decision")
        if made not in ACTS:
            raise _StrangeError
        decision = JournalDecision(
            seq=seq,
            time=time,
            session=session,
            run=fields.text("run"),
            call_id=fields.text("call_id", ""),
            run_seq=fields.number("run_seq", 0),
            kind=fields.text("kind"),
            target=fields.text("target"),
            decision=made,
            cause=fields.text("cause"),
            reason=fields.text("reason", ""),
            rule=fields.text("rule", ""),
            by=fields.text("by", ""),
            host=fields.text("host", ""),
            errno=fields.number("errno", 0),
            pid=fields.number("pid", 0),
            tid=fields.number("tid", 0),
            exe=fields.text("exe", ""),
            argv=fields.words("argv"),
            truncated=fields.flag("truncated"),
            cwd=fields.text("cwd", ""),
            asked=fields.flag("asked"),
            latency_us=fields.number("latency_us", 0),
            binding=fields.text("binding", ""),
            fix=fields.text("fix", ""),
            syscall=fields.text("syscall", ""),
            access=fields.text("access", ""),
            parents=fields.numbers("parents"),
        )
        if self._run(fields, session, time) is None:
            return
        known = decision.kind in self.kinds or len(self.kinds) < MAX_KINDS
        outcomes = self.kinds.setdefault(decision.kind if known else "other", {})
        outcomes[made] = outcomes.get(made, 0) + 1
        self.asked += decision.asked
        if len(self.decisions) >= (2 * KEPT if decision.is_denied else KEPT):
            self._count("omitted")
            return
        self.decisions.append(decision)

    def journal(self, path: str) -> Journal:
        """All of it."""
        runs = tuple(_run_of(run) for run in self.runs.values())
        denied = sum(count for each in self.kinds.values() for act, count in each.items() if act in DENIED)
        return Journal(
            path=path,
            runs=runs,
            decisions=tuple(self.decisions),
            programs=self.programs.arranged(runs, self.decisions),
            totals=Totals(
                decisions=sum(sum(each.values()) for each in self.kinds.values()),
                denied=denied,
                asked=self.asked,
                kinds=self.kinds,
            ),
            damage=Damage(**self.counts, unfinished=self.unfinished),
        )

    def _count(self, what: str, times: int = 1) -> None:
        if times:
            self.counts[what] = self.counts.get(what, 0) + times

    def _share(self, value: Any) -> Any:
        """The same object for the same text: a long file has few of them."""
        if len(value) > 4096 or len(self._shared) >= MAX_SHARED:
            return value
        return self._shared.setdefault(value, value)


def _run_of(run: dict[str, Any]) -> RunRecord:
    blank: dict[str, Any] = dict.fromkeys(("ended", "exit_code", "signal", "duration"))
    blank |= {"argv": (), "cwd": "", "policy": {}, "policy_hash": "", "reason": "", "error": "", "lost": 0}
    return RunRecord(**(blank | run))


class _StrangeError(Exception):
    """A field is not what the schema says."""


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


MISSING: Any = object()


class _Fields:
    """The fields of a line, each read as what it has to be. All methods raise _StrangeError."""

    def __init__(self, fields: object, share: Any) -> None:
        if not isinstance(fields, dict):
            raise _StrangeError
        self._fields = fields
        self._share = share

    def _get(self, key: str, default: object, *kinds: type) -> Any:
        value = self._fields.get(key, default)
        if value is not default and type(value) not in kinds:
            raise _StrangeError
        if value is MISSING:
            raise _StrangeError
        return value

    def text(self, key: str, default: object = MISSING) -> str:
        """A text, without lone surrogates."""
        return str(self._share(_clean(self._get(key, default, str))))

    def number(self, key: str, default: object = MISSING) -> int:
        """A whole number of at most 64 bits."""
        value: int = self._get(key, default, int)
        if not -(2**63) <= value < 2**63:
            raise _StrangeError
        return value

    def number_or_none(self, key: str) -> int | None:
        """The same, or nothing."""
        return None if self._fields.get(key) is None else self.number(key)

    def time(self, key: str, default: object = MISSING) -> float:
        """Seconds, of an epoch or a duration."""
        value = self._get(key, default, int, float)
        if not isfinite(value) or not 0 <= value < LAST_TIME:
            raise _StrangeError
        return float(value)

    def time_or_none(self, key: str) -> float | None:
        """The same, or nothing."""
        return None if self._fields.get(key) is None else self.time(key)

    def flag(self, key: str) -> bool:
        """False where it is missing."""
        return bool(self._get(key, False, bool))

    def words(self, key: str) -> tuple[str, ...]:
        """A list of texts; () where it is missing."""
        value = self._get(key, None, list) or []
        if not all(type(word) is str for word in value):
            raise _StrangeError
        found: tuple[str, ...] = tuple(_clean(word) for word in value)
        return found if len(found) > 32 or sum(map(len, found)) > 4096 else tuple(self._share(found))

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; () where it is missing."""
        value = self._get(key, None, list) or []
        if len(value) > MAX_PARENTS or not all(type(each) is int and 0 <= each < 2**31 for each in value):
            raise _StrangeError
        return tuple(value)

    def table(self, key: str) -> dict[str, Any]:
        """An object, texts in it as they are; {} where it is missing."""
        value: dict[str, Any] | None = self._get(key, None, dict)
        return value or {}

    def tables(self, key: str) -> list[object]:
        """A list."""
        value: list[object] = self._get(key, MISSING, list)
        return value


def _clean(text: str) -> str:
    """JSON can spell lone surrogates, which no output takes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
