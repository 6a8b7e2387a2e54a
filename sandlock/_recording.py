"""What becomes of a run's decisions: a thread of the run takes them out of the core's journal, in order, and hands them
to the audit file, to readers, and to telemetry.

Rules: the thread may wait for a disk; nobody else waits for the thread, except the end of a run, for a while. What
cannot be written down has the effect that was asked for: nothing more is allowed, or a warning.
"""

from __future__ import annotations

import os
import threading
import warnings
from time import monotonic
from typing import TYPE_CHECKING

from . import _audit
from ._decisions import decision_of, refused_lookup
from .errors import SandlockError

if TYPE_CHECKING:
    from typing import Protocol

    from ._audit import AuditFile
    from ._decisions import Decision
    from ._execution import Execution
    from ._telemetry import RunSpan, Telemetry
    from .presets import Grant

    class Reader(Protocol):
        """Somebody who wants to know every decision. Called by the threads of runs."""

        def put(self, decision: Decision) -> None:
            """One more."""

        def miss(self, count: int) -> None:
            """So many were lost before they came here."""

        def end(self) -> None:
            """There are no more."""


BATCH = 256
LOOK_MS = 1000
FLUSH_LIMIT = 5.0
"""Seconds that the end of a run waits for the record to be written."""


class Recording:
    """What one sandbox records. Raises PolicyError for an audit file that cannot be."""

    def __init__(self, audit: AuditFile | None, *, deny: bool, telemetry: Telemetry | None) -> None:
        self.audit = audit
        self.deny = deny and audit is not None
        self.telemetry = telemetry
        self.readers: tuple[Reader, ...] = ()
        self._lock = threading.Lock()
        self._live: set[Recorder] = set()
        self._closing = False
        self._warned = False

    def add(self, reader: Reader) -> None:
        """A reader, for the runs from now on."""
        with self._lock:
            self.readers = (*self.readers, reader)

    def recorder(self) -> Recorder | None:
        """For one run, None if nobody wants to know. Raises PolicyError where the audit file, closed with the sandbox,
        cannot be opened again."""
        watched = self.telemetry is not None and self.telemetry.is_watched
        if self.audit is None and not self.readers and not watched:
            return None
        with self._lock:
            self._closing = False
        if self.audit is not None:
            self.audit.open()
        return Recorder(self, self.telemetry if watched else None)

    def enter(self, recorder: Recorder) -> None:
        """A run begins."""
        with self._lock:
            self._live.add(recorder)

    def leave(self, recorder: Recorder) -> None:
        """A run is over. The last one of a sandbox that is closed closes the record."""
        with self._lock:
            self._live.discard(recorder)
            last = self._closing and not self._live
        if last:
            self._close()

    def close(self) -> None:
        """The sandbox closes: the record does so with its last run."""
        with self._lock:
            self._closing = True
            last = not self._live
        if last:
            self._close()

    def _close(self) -> None:
        with self._lock:
            readers, self.readers = self.readers, ()
        for reader in readers:
            reader.end()
        if self.audit is not None:
            self.audit.close()

    def fail(self, why: str) -> None:
        """The audit file cannot be written: this holds for all runs."""
        with self._lock:
            live = list(self._live)
            warned, self._warned = self._warned, True
        for recorder in live:
            recorder.fail(why)
        if not self.deny and not warned:
            try:
                warnings.warn(f"sandlock: {why}; the run goes on without a record", RuntimeWarning, stacklevel=1)
            except RuntimeWarning:  # by a filter an error, which nobody would see here
                return


class Recorder:
    """The record of one run. `start`, when it is known what will run; `finish`, when nothing native is left of it."""

    def __init__(self, recording: Recording, telemetry: Telemetry | None) -> None:
        self.failure = ""
        self._telemetry = telemetry
        self._recording = recording
        self._execution: Execution | None = None
        self._span: RunSpan | None = None
        self._over = False
        self._ended = threading.Event()
        self._seq = self._lost = self._seen = 0
        self._totals: dict[str, dict[str, int]] = {}
        self.readers = recording.readers

    @property
    def is_patient(self) -> bool:
        """Whether the program has to wait where the record falls behind, and for it to begin."""
        return self._recording.deny

    def start(self, execution: Execution) -> None:
        """Begins to record. Raises SandlockError."""
        self._execution = execution
        if self._telemetry is not None:
            self._span = self._telemetry.begin(execution)
        self._recording.enter(self)
        if not execution.run.has_journal:
            return
        try:
            threading.Thread(target=self._work, name="sandlock-record", daemon=True).start()
        except RuntimeError as error:
            self._recording.leave(self)
            raise SandlockError(f"no thread to record the run: {error}; have fewer runs alive") from error

    def finish(self) -> None:
        """The run is over: waits until the record says so, for a while."""
        execution = self._execution
        if execution is None or self._ended.is_set():
            return
        if not execution.run.has_journal:
            self._end(execution)
            self._ended.set()
            self._recording.leave(self)
            return
        self._over = True
        execution.run.wake_reader()
        if not self._ended.wait(FLUSH_LIMIT):
            self.fail(f"the audit file takes no writes for {FLUSH_LIMIT:.0f} s")

    def fail(self, why: str) -> None:
        """The record is not complete."""
        self.failure = self.failure or why
        if self._recording.deny and self._execution is not None and self._execution.run.has_journal:
            self._execution.run.refuse()

    # In the run's own thread.

    def _work(self) -> None:
        execution = self._execution
        assert execution is not None
        try:
            self._begin(execution)
            while True:
                over = self._over
                batch = self._take(execution, over and not execution.survivors)
                if batch:
                    self._hand_on(batch)
                elif over:
                    break
                else:
                    execution.run.wait_for_decisions(LOOK_MS)
            self._end(execution)
        except BaseException as error:
            self._recording.fail(f"the record of the run broke: {error!r}")
            self.fail(repr(error))
        finally:
            self._ended.set()
            self._recording.leave(self)

    def _begin(self, execution: Execution) -> None:
        words = execution.command.text
        if self._write([_audit.started(execution.run_id, execution.call_id, words, _cwd(execution), execution.policy)]):
            execution.run.open_gate()

    def _take(self, execution: Execution, final: bool) -> list[Decision]:
        found = []
        for entry, answered in execution.take_decisions(final, BATCH):
            self._seq += 1
            decision = decision_of(
                entry,
                seq=self._seq,
                epoch=execution.epoch,
                plan=execution.plan,
                net_rules=execution.net_rules,
                fs_denied=execution.denied_paths,
                run=execution.run_id,
                call_id=execution.call_id,
                answered=answered,
                host_of=execution.host_of,
            )
            found.append(decision)
        found += self._lookups(execution)
        for decision in found:
            totals = self._totals.setdefault(decision.kind, {})
            totals[decision.decision] = totals.get(decision.decision, 0) + 1
        missing = execution.run.lost_decisions - self._lost
        if missing:
            self._lose(execution, missing)
        return found

    def _lookups(self, execution: Execution) -> list[Decision]:
        """The lookups that were refused since the last time: the resolver makes no entry of the core's journal."""
        found = []
        for denial in execution.refused_lookups[self._seen :]:
            self._seen += 1
            if denial.cause == "lookup-failed":
                continue  # nobody refused it: the host has no address
            self._seq += 1
            times = {"time": execution.epoch + monotonic(), "monotonic": monotonic()}
            found.append(
                refused_lookup(denial, seq=self._seq, run=execution.run_id, call_id=execution.call_id, **times)
            )
        return found

    def _lose(self, execution: Execution, count: int) -> None:
        """What found no room in the journal."""
        self._lost += count
        self._seq += count
        for reader in self.readers:
            reader.miss(count)
        if self._recording.audit is not None:
            self._write([_audit.lost(execution.run_id, execution.call_id, count)])
            self._recording.fail(f"{count} decisions came faster than they were written, and are lost")

    def _hand_on(self, batch: list[Decision]) -> None:
        self._write([_audit.decided(each) for each in batch] if self._recording.audit is not None else [])
        for decision in batch:
            for reader in self.readers:
                reader.put(decision)
            if self._span is not None:
                self._span.decide(decision)

    def _end(self, execution: Execution) -> None:
        exit_code, signal, reason = execution.outcome or (None, None, "failed")
        facts = {
            "exit_code": exit_code,
            "signal": signal,
            "reason": reason,
            "error": str(execution.failure or ""),
            "duration": round(execution.duration, 6),
            "decisions": self._totals,
            "lost": self._lost,
        }
        records = execution.exec_records() if execution.policy.record_execs else ()
        for start in range(0, len(records), BATCH):
            self._write([_audit.executed(execution.run_id, execution.call_id, records[start : start + BATCH])])
        self._write([_audit.ended(execution.run_id, execution.call_id, facts)])
        if self._span is not None:
            self._span.end(execution)

    def _write(self, lines: list[dict[str, object]]) -> bool:
        """Whether they are written, or need not be."""
        if self._recording.audit is None or not lines:
            return True
        try:
            self._recording.audit.write(lines)
        except OSError as error:
            from errno import errorcode

            name = errorcode.get(error.errno or 0, "OSError")
            self._recording.fail(f"write the audit file: {name} ({error.strerror})")
            return False
        return True


def _cwd(execution: Execution) -> str:
    try:
        return os.getcwd() if execution.command.cwd is None else os.fsdecode(execution.command.cwd)
    except OSError:  # it was removed
        return ""


def make_recording(
    grants: tuple[Grant, ...],
    audit: str | bytes | os.PathLike[str] | None,
    on_audit_failure: str,
    otel: bool | str | None,
) -> Recording:
    """What a sandbox records by these keywords of its constructor. Raises PolicyError."""
    telemetry = None
    if otel is not False:
        from ._telemetry import telemetry as make_telemetry

        telemetry = make_telemetry(otel)
    file = None if audit is None else _audit.AuditFile(audit, grants)
    return Recording(file, deny=on_audit_failure == "deny", telemetry=telemetry)
