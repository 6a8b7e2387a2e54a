"""The processes of a session: what was executed, by the record of decisions, and what /proc says of it.

Rules: a process is its number and its start time. /proc is read in a thread (`facts_of`), and only there. Bounded: of
too many, those that ended first go first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .._record import record
from .directory import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock import ExecRecord

__all__ = ["Facts", "ProcessTable", "facts_of"]

MOST = 5000
LONGEST_ARGV = 500
"""Characters."""
MOST_PARENTS = 64


@record
class Facts:
    """What /proc says of a process that lives."""

    start_time: int
    ppid: int
    exe: str = ""
    argv: tuple[str, ...] = ()


class _Process:
    """A row of the table."""

    __slots__ = ("argv", "ended", "exe", "pid", "ppid", "start_time", "started")

    def __init__(self, pid: int, started: float) -> None:
        self.pid, self.ppid, self.start_time = pid, 0, 0
        self.exe = ""
        self.argv: tuple[str, ...] = ()
        self.started = started
        self.ended: float | None = None


class ProcessTable:
    """In the loop of the session."""

    def __init__(self) -> None:
        self._all: list[_Process] = []
        self._living: dict[int, _Process] = {}
        self._has_changed = False
        self._mark = (0, 0)

    @property
    def living(self) -> tuple[int, ...]:
        """The numbers of those that are not known to have ended."""
        return tuple(self._living)

    def executed(self, line: dict[str, Any]) -> None:
        """A line of the audit file, of an exec that was allowed."""
        pid, when, exe, argv = line.get("pid"), line.get("time"), line.get("exe"), line.get("argv")
        if type(pid) is not int or not isinstance(when, (int, float)) or not isinstance(argv, list):
            return
        process = self._living.get(pid) or self._add(pid, float(when))
        process.exe, process.argv = str(exe), _cut(argv)
        self._has_changed = True

    def recorded(self, execs: Sequence[ExecRecord], since: float, top: int) -> None:
        """All programs that were recorded so far, by a policy with `record_execs`; they replace what was known before.
        `since`: when the run began; `top`: its init."""
        mark = (len(execs), sum(each.ended is not None for each in execs))
        if mark == self._mark:
            return
        self._mark = mark
        rows: list[_Process] = []
        latest: dict[int, tuple[_Process, ExecRecord]] = {}
        for each in execs:
            before = latest.get(each.pid)
            # A program that another one has replaced in its process has an end, and nobody saw how it ended.
            if before is not None and before[1].ended is not None and before[1].exit_code is None:
                process = before[0]
            else:
                process = _Process(each.pid, since + each.started)
                process.ppid = each.parent_pid or top
                rows.append(process)
            process.exe, process.argv = clean(each.exe), _cut(list(map(clean, each.argv)))
            process.ended = None if each.ended is None else since + each.ended
            latest[each.pid] = (process, each)
        if len(rows) > MOST:
            old = sorted((each for each in rows if each.ended is not None), key=_ended)[: len(rows) - MOST]
            dropped = set(map(id, old))
            rows = [each for each in rows if id(each) not in dropped][-MOST:]
        self._all = rows
        self._living = {each.pid: each for each in rows if each.ended is None}
        self._has_changed = True

    def learn(self, facts: dict[int, Facts], asked: tuple[int, ...], now: float) -> None:
        """What was found of the processes that were asked about, and of those above them."""
        for pid in asked:
            process, found = self._living.get(pid), facts.get(pid)
            if process is not None and (found is None or process.start_time not in (0, found.start_time)):
                self._end(process, now)
        for pid, found in facts.items():
            process = self._living.get(pid)
            if process is None:
                process = self._add(pid, now)
                process.exe, process.argv = clean(found.exe), _cut(list(map(clean, found.argv)))
            if (process.start_time, process.ppid) != (found.start_time, found.ppid):
                process.start_time, process.ppid = found.start_time, found.ppid
                self._has_changed = True

    def end_all(self, now: float) -> None:
        """The tree is gone."""
        for process in list(self._living.values()):
            self._end(process, now)

    def take_changed(self) -> bool:
        """Whether there was a change since the last time."""
        changed, self._has_changed = self._has_changed, False
        return changed

    def to_list(self) -> list[dict[str, object]]:
        """JSON-ready, in the order of their starts."""
        return [
            {
                "pid": each.pid,
                "ppid": each.ppid,
                "exe": each.exe,
                "argv": list(each.argv),
                "started": each.started,
                "ended": each.ended,
            }
            for each in self._all
        ]

    def _add(self, pid: int, started: float) -> _Process:
        process = self._living[pid] = _Process(pid, started)
        self._all.append(process)
        self._has_changed = True
        if len(self._all) > MOST:
            first = min((each for each in self._all if each.ended is not None), key=_ended, default=self._all[0])
            self._all.remove(first)
            if self._living.get(first.pid) is first:
                del self._living[first.pid]
        return process

    def _end(self, process: _Process, now: float) -> None:
        process.ended = now
        self._living.pop(process.pid, None)
        self._has_changed = True


def _ended(process: _Process) -> float:
    return process.ended or 0.0


def _cut(words: list[Any]) -> tuple[str, ...]:
    found, room = [], LONGEST_ARGV
    for word in words:
        if room <= 0 or not isinstance(word, str):
            break
        found.append(word[:room])
        room -= len(word) + 1
    return tuple(found)


# In a thread ----------------------------------------------------------------------------------------------------------


def facts_of(pids: tuple[int, ...], top: int) -> dict[int, Facts]:
    """What /proc says of those of these processes that live, and of all above them below `top`."""
    found: dict[int, Facts] = {}
    for pid in pids:
        for _ in range(MOST_PARENTS):
            if pid <= 1 or pid == top or pid in found:
                break
            facts = _facts(pid)
            if facts is None:
                break
            found[pid] = facts
            pid = facts.ppid
    return found


def _facts(pid: int) -> Facts | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return None
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")[:-1]
        return Facts(
            start_time=int(fields[19]), ppid=int(fields[1]), exe=_exe(pid), argv=tuple(os.fsdecode(w) for w in words)
        )
    except (OSError, IndexError, ValueError):
        return None


def _exe(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
