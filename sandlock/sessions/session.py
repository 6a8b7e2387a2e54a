"""A session: one sandbox that can be seen and steered from outside while it runs, and whose record stays.

    desk = Desk()
    async with open_session(argv=argv, desk=desk, name="fix") as session:
        async with AsyncSandbox(policy, policy_fn=desk.vet, audit=session.log) as box:
            async with box.start(argv) as process:
                session.follow(box, process)
                await session.finish(await process.wait())

Rules: nothing that a client or the sandboxed program does ends the session, or holds its host up. Everything happens in
the trio loop of `open_session`; what waits for a disk does so in threads.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING, Any

import trio

from sandlock import PolicyError, SandlockError

from .._record import replace
from ..result import printable
from .directory import (
    Identity,
    SessionRecord,
    clean,
    locked,
    name_of,
    own_identity,
    prune,
    remove_dead,
    remove_entry,
    sessions,
    start_time_of,
    sweep,
)
from .log_tail import LogTail
from .outbox import LONGEST
from .places import runtime_places, state_place, write_file
from .process_table import ProcessTable, facts_of
from .serving import Server
from .trailer import descends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sandlock import AsyncProcess, AsyncSandbox, Result

    from .desk import Desk
    from .places import Place
    from .questions import Question

__all__ = ["Session", "open_session"]

DECISIONS, DENIALS = 500, 200
"""That the state has."""
LONGEST_ARGV = 2000
"""Characters of one decision's words in the state."""
LONGEST_QUESTION = 50_000
LAST_WORDS = 0.5
"""Seconds that clients get at the end to take what was pushed."""
SHORTEST, LONGEST_PAUSE = 0.01, 0.2
"""Seconds between two looks at the log."""
EACH = 0.5
"""Seconds between two looks at the processes."""


class Session:
    """From `open_session`."""

    def __init__(self, record: SessionRecord, desk: Desk | None, policy_text: str) -> None:
        self.desk = desk
        self._record = record
        self._policy_text = policy_text
        self._policy: dict[str, object] = {}
        self._server = Server(self)
        self._process: AsyncProcess | None = None
        self._followed = trio.Event()
        self._over = trio.Event()
        self._decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS)
        self._denials: deque[dict[str, Any]] = deque(maxlen=DENIALS)
        self._counts: Counter[str] = Counter()
        self._dropped = 0
        self._began = record.started
        self._records_execs = False
        self._processes = ProcessTable()
        self._tail = LogTail(record.log)

    @property
    def id(self) -> str:
        """Of the form YYYYMMDD-HHMMSS-xxxx."""
        return self._record.id

    @property
    def name(self) -> str:
        """What it was given; no two living sessions have the same, unless it is ""."""
        return self._record.name

    @property
    def directory(self) -> str:
        """Where the record stays when the session is over."""
        return self._record.directory

    @property
    def log(self) -> str:
        """For `audit=` of the sandbox."""
        return self._record.log

    @property
    def socket(self) -> str:
        """Where clients connect."""
        return self._record.socket

    @property
    def record(self) -> SessionRecord:
        """What others see of it."""
        return self._record

    @property
    def policy_text(self) -> str:
        """The effective policy, for a person."""
        return self._policy_text

    @policy_text.setter
    def policy_text(self, text: str) -> None:
        self._policy_text = text

    def follow(self, box: AsyncSandbox, process: AsyncProcess) -> None:
        """From now on clients see the run's decisions (those that the sandbox writes to `log`, also earlier ones) and
        processes, and can end, pause and resume it."""
        from .. import _audit

        self._policy = _audit.summary(box.policy)
        if not self._policy_text:
            self._policy_text = "\n".join(f"{name} = {value!r}" for name, value in self._policy.items())
        self._process = process
        self._records_execs = box.policy.record_execs
        self._followed.set()

    async def finish(self, result: Result) -> None:
        """The run is over: writes that down, and tells everybody."""
        while lines := await self._tail.read():
            self._take(lines)
        if result.execs is not None:
            top = 0 if self._process is None else self._process.init_pid
            self._processes.recorded(result.execs, self._began, top)
        self._processes.end_all(time())
        self._push_processes()
        data = result.to_dict()
        data["execs"] = None  # they are in the log
        self._record = replace(self._record, ended=time(), result=data)
        self._over.set()
        self._server.push({"push": "end", "result": data})
        await trio.to_thread.run_sync(_write_record, self._record)

    # What clients ask for.

    def state(self) -> dict[str, object]:
        """Everything that a client has to know to begin with. JSON-ready, and short enough for one line."""
        desk = self.desk
        state: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "pid": self._record.pid,
            "argv": _short([clean(word) for word in self._record.argv], LONGEST // 16),
            "cwd": clean(self._record.cwd),
            "profile": self._record.profile,
            "started": self._record.started,
            "paused": self._process is not None and self._process.paused,
            "ended": self._record.ended,
            "policy": self._policy,
            "pending": [] if desk is None else [_asked(question) for question in desk.pending],
            "listeners": [] if desk is None else list(desk.listeners),
            "processes": self._processes.to_list(),
            "decisions": list(self._decisions),
            "denials": list(self._denials),
            "dropped": self._dropped + self._tail.skipped,
            "counts": dict(self._counts),
        }
        return _fitting(state)

    def answer(self, question: str, answer: object, by: str) -> bool:
        """Raises PolicyError for what is no answer."""
        return self.desk is not None and self.desk.answer(question, answer, by)

    def kill(self) -> None:
        """Ends the sandbox's tree, not the host. Raises SandlockError where there is none."""
        self._running().kill()

    async def pause(self) -> None:
        """Stops the tree. Raises SandlockError."""
        await self._running().pause()
        self._tell_state()

    async def resume(self) -> None:
        """Lets the tree go on. Raises SandlockError."""
        await self._running().resume()
        self._tell_state()

    def is_inside(self, pid: int) -> bool:
        """Whether a process is of the sandboxed tree, or acts for it: the supervisor's tasks connect on its behalf."""
        process = self._process
        if process is not None and (pid == process.init_pid or descends(pid, process.init_pid)):
            return True
        return pid != os.getpid() and name_of(pid).startswith("sandlock-") and descends(pid)

    def _running(self) -> AsyncProcess:
        if self._process is None:
            raise SandlockError("the program is not started yet; try again")
        if self._record.ended is not None:
            raise SandlockError("the program has ended")
        return self._process

    def _tell_state(self) -> None:
        self._server.push({"push": "state", "state": self.state()})

    # What goes on meanwhile.

    async def _run(self, listener: trio.SocketListener) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.serve, listener)
            nursery.start_soon(self._watch_log)
            nursery.start_soon(self._watch_processes)
            if self.desk is not None:
                nursery.start_soon(self._watch_desk, self.desk)

    async def _watch_desk(self, desk: Desk) -> None:
        with desk.watching() as updates:
            async for update in updates:
                if update.kind == "question":
                    self._server.push({"push": "question", "question": _asked(update.question)})
                else:
                    answer = None if update.answer is None else update.answer.to_dict()
                    self._server.push(
                        {"push": update.kind, "question": update.question.id, "answer": answer, "by": update.by}
                    )

    async def _watch_log(self) -> None:
        pause = SHORTEST
        while True:
            lines = await self._tail.read()
            self._take(lines)
            pause = SHORTEST if lines else min(2 * pause, LONGEST_PAUSE)
            await trio.sleep(pause)

    def _take(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line.get("record") == "decision":
                self._take_decision(line)
            elif line.get("record") == "run_start" and isinstance(line.get("time"), float):
                self._began = line["time"]
            elif line.get("record") == "dropped" and type(line.get("count")) is int:
                self._dropped += line["count"]

    def _take_decision(self, line: dict[str, Any]) -> None:
        self._server.push({"push": "decision", "decision": line})
        short = line | {"argv": _short(line.get("argv"), LONGEST_ARGV)}
        self._decisions.append(short)
        decision = line.get("decision")
        self._counts[f"{line.get('kind')}:{decision}"] += 1
        if decision in ("deny", "kill"):
            self._denials.append(short)
        elif line.get("kind") == "exec" and not self._records_execs:
            self._processes.executed(line)

    async def _watch_processes(self) -> None:
        await self._followed.wait()
        assert self._process is not None
        tree = self._process.init_pid
        self._record = replace(self._record, tree=_identity_of(tree))
        await trio.to_thread.run_sync(_write_record, self._record)
        while True:
            await self._look_at_processes(tree)
            self._push_processes()
            await trio.sleep(EACH)

    async def _look_at_processes(self, tree: int) -> None:
        execs = None if self._process is None else self._process.execs
        if execs is not None:
            self._processes.recorded(execs, self._began, tree)
            return
        asked = self._processes.living
        facts = await trio.to_thread.run_sync(facts_of, asked, tree)
        self._processes.learn(facts, asked, time())

    def _push_processes(self) -> None:
        if self._processes.take_changed():
            processes = _fitting({"push": "processes", "processes": self._processes.to_list()})
            self._server.push(processes)


@asynccontextmanager
async def open_session(
    *,
    argv: Sequence[str],
    desk: Desk | None,
    name: str | None = None,
    cwd: str | None = None,
    profile: str = "",
    policy_text: str = "",
) -> AsyncIterator[Session]:
    """`async with open_session(...) as session:` makes a session's directories and serves its socket within the block.

    `argv`, `cwd`, `profile`: what will run, as others will see it. `name`: for commands such as `sandlock kill`; no two
    living sessions have the same. `policy_text`: the policy, for a person. Raises SandlockError where the directories
    cannot be made safely; PolicyError for a name that is taken, or none.
    """
    words = tuple(os.fsdecode(word) for word in argv)
    checked = _checked_name(name)
    record, place, listener = await trio.to_thread.run_sync(_make, words, checked, cwd or os.getcwd(), profile)
    session = Session(record, desk, policy_text)
    body: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session._run, trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
            try:
                yield session
            except BaseException as error:
                body = error
                raise
            await session._server.flush(LAST_WORDS)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if body is not None and len(group.exceptions) == 1 and group.exceptions[0] is body:
            raise body from body.__cause__  # what the block raised, as it raised it
        raise
    finally:
        session._tail.close()
        listener.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_close, session._record, place)


def _checked_name(name: str | None) -> str:
    if not name:
        return ""
    is_plain = all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)
    if not is_plain or not name[0].isalpha() or len(name) > 64 or name == "last" or name.endswith(".jsonl"):
        raise PolicyError(
            f"name: {printable(name)!r} is no name; take letters, digits, '-', '_' and '.', a letter first",
            field="name",
        )
    return name


# In threads: what waits for a disk ------------------------------------------------------------------------------------


def _make(argv: tuple[str, ...], name: str, cwd: str, profile: str) -> tuple[SessionRecord, Place, socket.socket]:
    """The directories of a new session, and its socket, which listens. Raises SandlockError, PolicyError."""
    runtime, state = runtime_places()[0], state_place()
    sweep()
    try:
        with runtime.opened(make=True) as entries, state.opened(make=True) as kept, locked(entries):
            remove_dead(entries, runtime)
            if name and any(each.name == name for each in sessions(clean_up=False)):
                raise PolicyError(
                    f"name: a session called {name} lives already; take another, or end it: sandlock kill {name}",
                    field="name",
                )
            host = own_identity()
            while True:
                id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(2)}"
                try:
                    os.mkdir(id, 0o700, dir_fd=kept)
                    break
                except FileExistsError:
                    continue
            record = SessionRecord(
                id=id,
                name=name,
                host=host,
                argv=argv,
                cwd=cwd,
                profile=profile,
                started=time(),
                ended=None,
                directory=os.path.join(state.path, id),
                runtime=os.path.join(runtime.path, id),
                alive=True,
            )
            return record, runtime, _enter(entries, record)
    except OSError as error:
        raise SandlockError(
            f"make the session's directories: {error}; see XDG_RUNTIME_DIR and XDG_STATE_HOME"
        ) from error


def _enter(entries: int, record: SessionRecord) -> socket.socket:
    """Makes the entry: seen by others when it is complete, and listened to."""
    fresh = f".new-{record.pid}-{record.start_time}-{record.id}"
    os.mkdir(fresh, 0o700, dir_fd=entries)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entries)
        try:
            listener.bind(f"/proc/self/fd/{fd}/socket")  # the path itself may be longer than a socket's can be
            os.chmod(f"/proc/self/fd/{fd}/socket", 0o600)
            listener.listen(64)
            listener.setblocking(False)
            _write(record, fd)
        finally:
            os.close(fd)
        _write_record(record)
        os.rename(fresh, record.id, src_dir_fd=entries, dst_dir_fd=entries)
    except BaseException:
        listener.close()
        remove_entry(entries, fresh)
        raise
    return listener


def _write_record(record: SessionRecord) -> None:
    """To both directories, where they are. A record that cannot be written ends nothing."""
    for path in (record.runtime, record.directory):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            _write(record, fd)
        except OSError:
            pass
        finally:
            os.close(fd)


def _write(record: SessionRecord, directory: int) -> None:
    import json

    write_file("session.json", json.dumps(record.to_dict()) + "\n", directory)


def _close(record: SessionRecord, place: Place) -> None:
    """Removes the entry, and records of runs that are too old to keep."""
    _write_record(record if record.ended is not None else replace(record, ended=time()))
    try:
        with place.opened() as entries:
            remove_entry(entries, record.id)
        prune()
    except (OSError, SandlockError):
        return


def _identity_of(pid: int) -> Identity | None:
    start = start_time_of(pid)
    return replace(own_identity(), pid=pid, start_time=start) if start > 0 else None


# Sizes ----------------------------------------------------------------------------------------------------------------


def _short(words: object, room: int) -> list[str]:
    """Words, cut where they get too long together."""
    found: list[str] = []
    for word in words if isinstance(words, list) else []:
        if not isinstance(word, str) or room <= 0:
            break
        found.append(word[:room])
        room -= len(word) + 1
    return found


def _asked(question: Question) -> dict[str, object]:
    """A question as it is sent. That words were left out stands where they were: who answers has to know."""
    found = question.to_dict()
    words = [clean(word) for word in question.argv]
    kept = _short(words, LONGEST_QUESTION)
    if kept != words:
        found["argv"] = [*kept, f"... (cut: {len(words)} words, {sum(map(len, words))} characters in all)"]
    chain = [
        {"pid": pid, "exe": clean(exe), "words": [clean(word) for word in argv]} for pid, exe, argv in question.chain
    ]
    found["chain"] = [
        {"pid": each["pid"], "exe": each["exe"], "argv": _short(each["words"], LONGEST_ARGV)} for each in chain
    ]
    return found


def _fitting(message: dict[str, Any]) -> dict[str, Any]:
    """The message, with so many of the newest entries of its long lists as fit into a line."""
    import json

    room = LONGEST - 4096
    while len(json.dumps(message)) > room:
        longest = max(
            (key for key, value in message.items() if isinstance(value, list)),
            key=lambda key: len(json.dumps(message[key])),
        )
        if not message[longest]:
            break
        message[longest] = message[longest][-(len(message[longest]) // 2) :] if len(message[longest]) > 1 else []
    return message
