"""Which sessions there are: those that live, by their entries in the runtime directory, and what is kept of old ones.

Rules: a session lives if its host does: the process of that number, that start time, and that boot. An entry is removed
only when its host is proven dead, under the lock that starting sessions hold too. What stands in entries is read key by
key: another version of sandlock may have written it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

from sandlock import SandlockError

from .._record import record
from .._removal import remove_tree
from .places import read_file, runtime_places, state_place
from .private_home import holds_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .places import Place

__all__ = [
    "LOG",
    "Identity",
    "SessionRecord",
    "clean",
    "find",
    "is_id",
    "locked",
    "log_of",
    "name_of",
    "own_identity",
    "prune",
    "read_entry",
    "remove_dead",
    "remove_entry",
    "runs",
    "runtime_directory",
    "sessions",
    "start_time_of",
    "state_directory",
    "sweep",
]

SCHEMA = 1
KEPT = 50
"""Old runs whose records stay."""
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_UNFINISHED = re.compile(r"\.new-([0-9]+)-([0-9]+)-.*")
LOG = "log.jsonl"
LOCK = ".lock"
LOCK_LIMIT = 10.0
YOUNG = 3600.0
"""Seconds in which a directory without a record is one that is being made."""


@record
class Identity:
    """A process, for good: numbers are used again."""

    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""
    boot_id: str = ""
    machine: str = ""
    pid_namespace: int = 0

    @property
    def is_judgeable(self) -> bool:
        """Whether it can be told from here if it lives: not of another machine, or of another container."""
        here = _here()
        if self.boot_id != here.boot_id:
            return bool(self.machine) and self.machine == here.machine  # an earlier boot of this machine
        return self.pid_namespace == here.pid_namespace

    @property
    def is_alive(self) -> bool:
        """Whether it lives, as far as can be told."""
        here = _here()
        if self.boot_id != here.boot_id or self.pid_namespace != here.pid_namespace:
            return False
        return self.start_time == start_time_of(self.pid)

    @property
    def is_dead(self) -> bool:
        """Whether that is proven."""
        return self.is_judgeable and not self.is_alive


@record
class SessionRecord:
    """What is known of a session from outside."""

    id: str
    """Of the form YYYYMMDD-HHMMSS-xxxx: sorted, they are in the order of their starts."""
    name: str
    host: Identity
    """The process that has the session."""
    argv: tuple[str, ...]
    cwd: str
    profile: str
    started: float
    ended: float | None
    """When it was said to be over; None too where the host was killed."""
    directory: str
    """Where the record of the run is."""
    runtime: str
    """The entry in the runtime directory; "" for a session that is over."""
    alive: bool
    tree: Identity | None = None
    """The process that ends the sandbox's tree: see `AsyncProcess.init_pid`."""
    result: dict[str, Any] | None = None

    @property
    def pid(self) -> int:
        """The host's process."""
        return self.host.pid

    @property
    def start_time(self) -> int:
        """When the host's process was started."""
        return self.host.start_time

    @property
    def log(self) -> str:
        """The audit file of the run."""
        return os.path.join(self.directory, LOG)

    @property
    def socket(self) -> str:
        """Where the session can be talked to."""
        return os.path.join(self.runtime, "socket") if self.runtime else ""

    def to_dict(self) -> dict[str, object]:
        """As JSON-ready data: what `session.json` has."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "name": self.name,
            "pid": self.host.pid,
            "start_time": self.host.start_time,
            "boot_id": self.host.boot_id,
            "machine": self.host.machine,
            "pid_namespace": self.host.pid_namespace,
            "argv": [clean(word) for word in self.argv],
            "cwd": clean(self.cwd),
            "profile": clean(self.profile),
            "started": self.started,
            "ended": self.ended,
            "state": clean(self.directory),
            "tree": None if self.tree is None else {"pid": self.tree.pid, "start_time": self.tree.start_time},
            "result": self.result,
        }


def runtime_directory() -> str:
    """The directory for entries of living sessions; made, and checked. Raises SandlockError."""
    place = runtime_places()[0]
    with place.opened(make=True):
        return place.path


def state_directory() -> str:
    """The directory in which each run has one of its own; made, and checked. Raises SandlockError."""
    place = state_place()
    with place.opened(make=True):
        return place.path


def sessions(*, clean_up: bool = True) -> list[SessionRecord]:
    """The sessions that have an entry, the oldest first. `clean_up`: remove those whose host is proven dead.

    Raises SandlockError for a runtime directory that may be somebody else's."""
    found: list[SessionRecord] = []
    for place in runtime_places():
        try:
            with place.opened() as fd:
                entries = [(name, read_entry(fd, name, place)) for name in sorted(os.listdir(fd))]
                found += [entry for _, entry in entries if entry is not None]
                dead = [name for name, entry in entries if _is_left_over(fd, name, entry)]
                if dead and clean_up:
                    with locked(fd):
                        remove_dead(fd, place)
                    sweep()
        except FileNotFoundError:
            continue
    return sorted((each for each in found if not each.host.is_dead), key=lambda each: each.id)


def runs() -> list[SessionRecord]:
    """All that is kept of runs, also of those that live, the oldest first. Raises SandlockError."""
    living = {each.id: each for each in sessions(clean_up=False)}
    try:
        with state_place().opened() as fd:
            for name in os.listdir(fd):
                if is_id(name) and name not in living:
                    entry = _read(fd, name, directory=os.path.join(state_place().path, name), runtime="")
                    if entry is not None:
                        living[name] = entry
    except FileNotFoundError:
        pass
    return [living[id] for id in sorted(living)]


def find(text: str) -> SessionRecord:
    """The run that an id, a unique prefix of one, a name, or "last" means. A name means the newest run that has it, a
    living one before all others. Raises SandlockError."""
    known = runs()
    if text == "last" and known:
        return known[-1]
    named = [each for each in known if each.name == text and text]
    if named:
        return ([each for each in named if each.alive] or named)[-1]
    found = [each for each in known if each.id == text] or [
        each for each in known if text[:1].isdigit() and each.id.startswith(text)
    ]
    if len(found) == 1:
        return found[0]
    from ..result import printable

    shown = printable(text)
    if found:
        raise SandlockError(f"{shown}: {len(found)} runs begin so; write more of the id (see `sandlock ps -a`)")
    raise SandlockError(f"{shown}: no such run; see `sandlock ps -a`")


def log_of(text: str) -> str:
    """The log that a RUN argument means: of a run, as `find` takes it, or the path of a file that ends in .jsonl.

    Raises SandlockError."""
    return text if text.endswith(".jsonl") else find(text).log


def is_id(text: str) -> bool:
    """Whether this has the form of a session's id."""
    return _ID.fullmatch(text) is not None


def clean(text: str) -> str:
    """Text for JSON: file names that are not UTF-8 hold lone surrogates, which its readers reject."""
    return text.encode("utf-8", "backslashreplace").decode()


# Processes -----------------------------------------------------------------------------------------------------------


def start_time_of(pid: int) -> int:
    """When a process was started, in clock ticks since boot; -1 if it is gone, or ended and only not reaped yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return -1


def name_of(pid: int) -> str:
    """The name that a process has given itself; "" if it is gone."""
    return _line(f"/proc/{pid}/comm")


def own_identity() -> Identity:
    """Of this process."""
    here = _here()
    return Identity(
        pid=os.getpid(),
        start_time=start_time_of(os.getpid()),
        boot_id=here.boot_id,
        machine=here.machine,
        pid_namespace=here.pid_namespace,
    )


def _here() -> Identity:
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    boot_id, machine = _line("/proc/sys/kernel/random/boot_id"), _line("/etc/machine-id")
    return Identity(pid=0, start_time=0, boot_id=boot_id, machine=machine, pid_namespace=namespace)


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
    except OSError:
        return ""


# Entries -------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(fd: int) -> Iterator[None]:
    """Alone among all who start sessions in this open runtime directory, or clean it up."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
    try:
        until = monotonic() + LOCK_LIMIT
        while True:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > until:
                    raise SandlockError(
                        f"lock the runtime directory: another process has held {LOCK} for {LOCK_LIMIT:.0f} s; end it"
                    ) from None
                sleep(0.01)
        yield
    finally:
        os.close(lock)


def read_entry(fd: int, name: str, place: Place) -> SessionRecord | None:
    """The entry of this name in an open runtime directory, None for what is none."""
    return _read(fd, name, runtime=os.path.join(place.path, name)) if is_id(name) else None


def remove_dead(fd: int, place: Place) -> None:
    """Removes the entries of an open runtime directory whose hosts are proven dead. The lock is held."""
    for name in os.listdir(fd):
        if _is_left_over(fd, name, read_entry(fd, name, place)):
            remove_entry(fd, name)


def remove_entry(fd: int, name: str) -> None:
    """Removes an entry from an open runtime directory."""
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return
    try:
        for each in os.listdir(inner):
            os.unlink(each, dir_fd=inner)
        os.rmdir(name, dir_fd=fd)
    except OSError:
        return  # somebody put something there: it stays visible, and harmless
    finally:
        os.close(inner)


def prune(keep: int = KEPT) -> None:
    """Removes the records of the oldest runs, but for `keep`; never of one that lives. Raises SandlockError."""
    place = state_place()
    with place.opened() as fd:
        names = sorted(name for name in os.listdir(fd) if is_id(name))
        for name in names[: -keep or None]:
            if not _is_needed(fd, name, place):
                try:
                    remove_tree(os.path.join(place.path, name), forced=True)
                except OSError:
                    continue  # the next run tries again


def sweep() -> None:
    """Removes what runs whose host was killed had for themselves: the temporary directory, and the home directory if
    nothing of the agent's is in it. Only where the host, and what ends the sandbox's tree, are proven dead."""
    place = state_place()
    try:
        with place.opened() as fd:
            for name in filter(is_id, os.listdir(fd)):
                top = os.path.join(place.path, name)
                left = [each for each in ("tmp", "home") if os.path.isdir(os.path.join(top, each))]
                entry = _read(fd, name, directory=top, runtime="") if left else None
                if entry is None or not entry.host.is_dead or (entry.tree is not None and not entry.tree.is_dead):
                    continue
                for path in (os.path.join(top, each) for each in left):
                    if os.path.basename(path) == "tmp" or not holds_files(path):
                        with suppress(OSError):  # another process does the same; or the next run tries again
                            remove_tree(path, forced=True)
    except (OSError, SandlockError):
        return


def _is_needed(fd: int, name: str, place: Place) -> bool:
    """Whether a run that may live writes its record there."""
    entry = _read(fd, name, directory=os.path.join(place.path, name), runtime="")
    if entry is not None:
        return entry.ended is None and not entry.host.is_dead
    try:
        found = os.lstat(name, dir_fd=fd)
    except OSError:
        return True
    return not stat.S_ISDIR(found.st_mode) or time() - found.st_mtime < YOUNG


def _is_left_over(fd: int, name: str, entry: SessionRecord | None) -> bool:
    if entry is not None:
        return entry.host.is_dead
    unfinished = _UNFINISHED.fullmatch(name)
    if unfinished is None:
        return False
    return start_time_of(int(unfinished[1])) != int(unfinished[2])


def _read(fd: int, name: str, *, runtime: str, directory: str = "") -> SessionRecord | None:
    """What the session.json in a directory says; None if it says nothing that can be understood."""
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return None
    try:
        value = json.loads(read_file("session.json", inner))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(inner)
    return _record_of(value, name, runtime, directory) if isinstance(value, dict) else None


def _record_of(value: dict[str, Any], id: str, runtime: str, directory: str) -> SessionRecord | None:
    def take(name: str, kind: type, default: Any) -> Any:
        found = value.get(name, default)
        return found if type(found) is kind else default

    host = Identity(
        pid=take("pid", int, 0),
        start_time=take("start_time", int, 0),
        boot_id=take("boot_id", str, ""),
        machine=take("machine", str, ""),
        pid_namespace=take("pid_namespace", int, 0),
    )
    if host.pid <= 0 or host.start_time <= 0:
        return None
    tree, above = take("tree", dict, {}), None
    if type(tree.get("pid")) is int and type(tree.get("start_time")) is int and tree["pid"] > 1:
        above = Identity(
            pid=tree["pid"],
            start_time=tree["start_time"],
            boot_id=host.boot_id,
            machine=host.machine,
            pid_namespace=host.pid_namespace,
        )
    ended = take("ended", float, None)
    return SessionRecord(
        id=id,
        name=take("name", str, ""),
        host=host,
        argv=tuple(word for word in take("argv", list, []) if isinstance(word, str)),
        cwd=take("cwd", str, ""),
        profile=take("profile", str, ""),
        started=float(take("started", float, 0.0)),
        ended=ended,
        directory=directory or take("state", str, ""),
        runtime=runtime,
        alive=ended is None and host.is_alive,
        tree=above,
        result=take("result", dict, None),
    )
