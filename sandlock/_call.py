"""What can still be asked about a call while it waits for a verdict: its environment, and the programs above it."""

from __future__ import annotations

import os
from os import fsdecode
from time import CLOCK_BOOTTIME, clock_gettime

from .errors import SandlockError
from .events import Ancestor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._native import Run
    from .events import Exec

__all__ = ["Approved", "Call"]

TICKS = os.sysconf("SC_CLK_TCK")
START_TIME, PARENT = 19, 1
"""Places in /proc/PID/stat behind the name, proc_pid_stat(5)."""
KEPT = 4096
LONGEST = 16384
"""Bytes of words beyond which an approved exec is not kept: the program decides how many there are."""


class Approved:
    """The last approved exec of each process of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._execs: dict[int, tuple[int, float, Exec]] = {}

    def add(self, question: int, event: Exec) -> None:
        """Its exec was approved just now. Whether it happens, the core will know."""
        if len(self._execs) >= KEPT:
            self._execs = {pid: each for pid, each in self._execs.items() if os.path.exists(f"/proc/{pid}")}
        if sum(map(len, event.argv_bytes)) + len(event.argv) > LONGEST:
            self._execs.pop(event.pid, None)  # then it is looked up, and not told as attested
            return
        self._execs[event.pid] = (question, clock_gettime(CLOCK_BOOTTIME), event)

    def chain(self, pid: int) -> tuple[Ancestor, ...]:
        """The programs from this process up to the first one of the tree."""
        found: list[Ancestor] = []
        while pid > 1 and pid != self._run.init_pid and len(found) < KEPT:
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                break
            found.append(self._look(pid, int(fields[START_TIME]) / TICKS))
            if pid == self._run.guest_pid:
                break
            pid = int(fields[PARENT])
        return tuple(found)

    def _look(self, pid: int, started: float) -> Ancestor:
        question, approved, event = self._execs.get(pid, (0, 0.0, None))
        # A process that started after the approval has only inherited the number. One whose exec has failed, or that
        # has made another one, which nobody was asked about, does not run that program.
        if event is not None and started <= approved and self._run.executed(pid) == question:
            return Ancestor(pid=pid, exe=event.exe, argv=event.argv, attested=True)
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                argv = tuple(map(fsdecode, file.read().split(b"\0")[:-1]))
            return Ancestor(pid=pid, exe=os.readlink(f"/proc/{pid}/exe"), argv=argv)
        except OSError:
            return Ancestor(pid=pid, exe="", argv=())


class Call:
    """One call that waits."""

    __slots__ = ("_approved", "_question", "_run", "looked_into")

    def __init__(self, run: Run, approved: Approved, question: int) -> None:
        self._run = run
        self._approved = approved
        self._question = question
        self.looked_into = False
        """Something was asked of it that calls which are alike need not share: the answer is for this one alone."""

    def chain(self, pid: int) -> tuple[Ancestor, ...]:
        """See `Exec.chain`."""
        self.looked_into = True
        return self._approved.chain(pid)

    def environment(self) -> dict[str, str]:
        """See `Exec.environment`."""
        self.looked_into = True
        try:
            variables = self._run.environment(self._question)
        except (LookupError, OSError) as error:
            raise SandlockError(f"the exec does not wait any more, so its environment is gone ({error})") from error
        pairs = (fsdecode(each).partition("=") for each in variables)
        return {name: value for name, separator, value in pairs if separator}
