"""The audit file: JSON, one object a line, written by threads that may wait for the disk.

Rules: lines are whole, one write(2) for a batch of them; `seq` counts every line that was to be written, so a gap is
what was lost. The file lies where the sandbox cannot write: else the program could change what is said of it.
"""

from __future__ import annotations

import json
import os
import stat
from _thread import allocate_lock
from errno import EBADF
from hashlib import sha256
from time import time

from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ._decisions import Decision
    from .policy import Policy
    from .presets import Grant
    from .result import ExecRecord

SCHEMA = 1
"""Version of the lines. Keys are only ever added within one version."""
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class AuditFile:
    """An open audit file. `write` may be called from any thread. Raises PolicyError for a bad place."""

    def __init__(self, path: str | bytes | os.PathLike[str], grants: Iterable[Grant]) -> None:
        self._lock = allocate_lock()
        self._session = os.urandom(6).hex()
        self._path = os.path.abspath(os.fsdecode(path))
        self._grants = tuple(grants)
        self._seq = 0
        self._lost = 0
        self._torn = False
        self._fd = -1
        self.open()

    def open(self) -> None:
        """Opens the file, if it is not open. Raises PolicyError."""
        with self._lock:
            if self._fd < 0:
                self._fd = _open(self._path, self._grants)

    def close(self) -> None:
        """Closes the file; `open` opens it again."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def write(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Appends lines. Raises OSError; what was not written then is counted, and said by the next line that is."""
        with self._lock:
            if self._lost:
                lines = [{"record": "dropped", "count": self._lost}, *lines]
            missing, before = len(lines), self._lost
            try:
                for count in self._append(b"".join([self._line(line) for line in lines])):
                    missing -= count
            finally:
                told = before and missing < len(lines)
                self._lost = missing if told or not before else before + missing - 1

    def _line(self, line: Mapping[str, object]) -> bytes:
        self._seq += 1
        head = {"schema": SCHEMA, "seq": self._seq, "time": round(time(), 6), "session": self._session}
        return json.dumps(head | dict(line)).encode() + b"\n"

    def _append(self, text: bytes) -> Iterator[int]:
        """Writes it all, in one call where the kernel takes it so, and yields how many lines it was. Raises OSError."""
        if self._fd < 0:
            raise OSError(EBADF, "the audit file is closed")
        if self._torn:  # a full disk has cut a line: what follows it is whole
            os.write(self._fd, b"\n")
            self._torn = False
        while text:
            size = os.write(self._fd, text)
            self._torn = size > 0 and text[size - 1] != 10
            yield text.count(b"\n", 0, size)
            text = text[size:]


def _open(path: str, grants: tuple[Grant, ...]) -> int:
    """The file, opened by way of its directory, so that what is checked is what is opened. Raises PolicyError."""
    folder, name = os.path.split(path)
    try:
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, str(error), "name a file in a directory that exists") from error
    try:
        where = os.path.join(os.readlink(f"/proc/self/fd/{place}"), name)
        inside = _writable(where, place, name, grants)
        if inside:
            raise _refused(path, f"it lies below {inside}, which the sandbox may write", "put it elsewhere")
        fd = os.open(name, FLAGS, 0o600, dir_fd=place)
    except OSError as error:
        raise _refused(path, str(error), "name a file, not a link, that this user may write") from error
    finally:
        os.close(place)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink != 1:
        os.close(fd)
        raise _refused(path, "it has other names (hard links), that the sandbox may reach", "name a file of its own")
    os.set_blocking(fd, True)  # only opening must not wait: a pipe that nobody reads
    return fd


def _writable(where: str, place: int, name: str, grants: tuple[Grant, ...]) -> str:
    """The grant that lets the sandbox write the file, or "". By inode: a directory may have several paths."""
    granted = {}
    for grant in grants:
        if grant.kind in ("write", "device"):
            try:
                found = os.stat(grant.path)
            except OSError:
                continue
            if grant.kind == "write" or stat.S_ISDIR(found.st_mode):
                granted[found.st_dev, found.st_ino] = grant.path
    above = os.path.dirname(where)
    looks: list[os.stat_result] = [os.fstat(place)]
    try:
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
        if stat.S_ISCHR(found.st_mode):
            return ""  # it keeps nothing that could be changed
        looks.append(found)
    except FileNotFoundError:
        pass
    while above != "/":
        above = os.path.dirname(above)
        looks.append(os.stat(above))
    return next((granted[each.st_dev, each.st_ino] for each in looks if (each.st_dev, each.st_ino) in granted), "")


def _refused(path: str, why: str, fix: str) -> PolicyError:
    return PolicyError(f"audit: {path!r}: {why}; {fix}", field="audit")


# The lines -----------------------------------------------------------------------------------------------------------


def started(run: str, call_id: str, argv: Sequence[str], cwd: str, policy: Policy) -> dict[str, object]:
    """The line of a run's start."""
    return {
        "record": "run_start",
        "run": run,
        "call_id": call_id,
        "argv": [_text(word) for word in argv],
        "cwd": _text(cwd),
        "policy": summary(policy),
        "policy_hash": policy_hash(policy),
    }


def decided(decision: Decision) -> dict[str, object]:
    """The line of a decision; its time is that of the decision."""
    return {
        "record": "decision",
        "time": round(decision.time, 6),
        "run": decision.run,
        "call_id": decision.call_id,
        "run_seq": decision.seq,
        "kind": decision.kind,
        "target": _text(decision.target),
        "decision": decision.decision,
        "cause": decision.cause,
        "reason": _text(decision.reason),
        "rule": _text(decision.rule),
        "by": _text(decision.by),
        "host": _text(decision.host),
        "errno": decision.errno,
        "pid": decision.pid,
        "tid": decision.tid,
        "exe": _text(decision.exe),
        "argv": [_text(word) for word in decision.argv],
        "truncated": decision.truncated,
        "cwd": _text(decision.cwd),
        "asked": decision.asked,
        "latency_us": round(decision.latency * 1e6),
        "binding": decision.binding,
        "fix": _text(decision.fix),
        "syscall": decision.syscall,
        "access": decision.access,
        "parents": list(decision.parents),
    }


def lost(run: str, call_id: str, count: int) -> dict[str, object]:
    """The line of decisions that were lost on the way here."""
    return {"record": "dropped", "run": run, "call_id": call_id, "count": count}


def executed(run: str, call_id: str, records: Iterable[ExecRecord]) -> dict[str, object]:
    """The line of programs that the tree executed, with their times; at its end, with `record_execs`."""
    return {"record": "execs", "run": run, "call_id": call_id, "execs": [each.to_dict() for each in records]}


def ended(run: str, call_id: str, facts: Mapping[str, object]) -> dict[str, object]:
    """The line of a run's end."""
    return {"record": "run_end", "run": run, "call_id": call_id, **facts}


def summary(policy: Policy) -> dict[str, object]:
    """The policy's fields that are not at their defaults; of the environment only the names: values may be secret."""
    values = policy.changes()
    if "env" in values:
        values["env"] = [name for name, _ in policy.env]
    return {name: _jsonable(value) for name, value in values.items()}


def policy_hash(policy: Policy) -> str:
    """The same for equal policies, the values of environment variables apart."""
    return sha256(json.dumps(summary(policy), sort_keys=True).encode()).hexdigest()[:16]


def _jsonable(value: object) -> object:
    if isinstance(value, str):
        return _text(value)
    return [_jsonable(each) for each in value] if isinstance(value, (list, tuple)) else value


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
