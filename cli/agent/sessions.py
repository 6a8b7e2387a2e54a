"""`sandlock ps`, `kill`, `pause`, `resume`, `logs` and `inspect SESSION`: sessions as seen from another terminal.

Rules: names, arguments and everything in a log were written, in part, by sandboxed programs: they are escaped. A
session that does not answer delays a command by two seconds, and no other session.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandlock import SandlockError, SandlockTimeout
from sandlock.result import printable

from .. import direct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandlock.sessions.directory import SessionRecord

__all__ = ["inspect_session", "kill", "logs", "pause", "ps", "resume"]

PATIENCE = 2.0
"""Seconds that a session gets to answer."""
END_LIMIT = 10.0
EACH = 0.1

Sessions = Annotated[list[str], typer.Argument(metavar="SESSION...", help="Ids, beginnings of ids, names, or last.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def ps(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also what is kept of sessions that are over.")
    ] = False,
    as_json: Json = False,
) -> int:
    """List sessions: those that live, or all."""
    from sandlock.sessions.directory import runs, sessions

    living = [each for each in sessions() if each.alive]
    found = runs() if everything else living
    states = _ask_all([each for each in found if each.alive])
    rows = [_row(each, states.get(each.id)) for each in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return 0
    table = [("ID", "NAME", "PID", "STATE", "STARTED", "ASKS", "DENIED", "COMMAND")]
    for row in rows:
        started = time.strftime("%m-%d %H:%M:%S", time.localtime(float(row["started"])))
        command = printable(shlex.join(row["argv"]), 60)
        cells = (row["id"], row["name"], row["pid"], row["state"], started, row["pending"], row["denied"], command)
        table.append(tuple("-" if each in (None, "") else printable(str(each), 80) for each in cells))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    for line in table:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        typer.echo("  ".join([*padded, line[-1]]).rstrip())
    return 0


def kill(
    sessions: Sessions,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the host does not answer: by the tree's own processes.")
    ] = False,
) -> int:
    """End what runs in a session's sandbox: all of it. The process that hosts it goes on."""
    return _each(sessions, lambda record: _kill(record, force=force))


def pause(sessions: Sessions) -> int:
    """Stop all processes of a session's sandbox, until `resume`. Its time limits go on counting."""
    return _each(sessions, lambda record: _tell(record, "pause"))


def resume(sessions: Sessions) -> int:
    """Let the processes of a paused session go on."""
    return _each(sessions, lambda record: _tell(record, "resume"))


def logs(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="An id, a name, last, or a .jsonl file.")] = "last",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the session ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are, JSON.")] = False,
) -> int:
    """Print the decisions of a run, one a line."""
    from sandlock.sessions.directory import find
    from sandlock.sessions.log_tail import LogTail

    record = None if run.endswith(".jsonl") else find(run)
    path = run if record is None else record.log
    if not os.path.exists(path) and not (follow and record is not None and record.alive):
        raise SandlockError(f"read the log {printable(path)}: there is none; see `sandlock ps -a`")
    tail = LogTail(path)
    try:
        for line in _lines(tail, record, follow=follow):
            text = json.dumps(line) if as_json else _told(line)
            if text:
                print(text, flush=follow)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    finally:
        tail.close()
    if tail.skipped:
        direct.say(f"{tail.skipped} lines were too many, or too long, and are left out")
    return 0


def inspect_session(name: str) -> int:
    """Print the effective policy of a session, and what it is."""
    from sandlock.sessions.directory import find

    record = find(name)
    if not record.alive:
        for line in _lines_of(record):
            if line.get("record") == "run_start":
                typer.echo(f"# {record.id}: {printable(shlex.join(record.argv), 2000)}")
                for field, value in dict(line.get("policy") or {}).items():
                    typer.echo(f"{printable(str(field))} = {printable(json.dumps(value), 20000)}")
                return 0
        raise SandlockError(f"inspect {record.id}: it is over, and its log says nothing of its policy")
    typer.echo(f"# {record.id}: {printable(shlex.join(record.argv), 2000)}")
    text = str(_request(record, "policy").get("policy", ""))
    typer.echo("\n".join(printable(line, 20000) for line in text.splitlines()))
    return 0


# Talking --------------------------------------------------------------------------------------------------------------


def _request(record: SessionRecord, op: str) -> dict[str, Any]:
    """The session's reply. Raises SandlockError, SandlockTimeout."""
    import trio

    return trio.run(_ask, record, op)


async def _ask(record: SessionRecord, op: str) -> dict[str, Any]:
    import trio

    from sandlock.sessions.client import connect

    if not record.alive:
        raise SandlockError(f"{op} {record.id}: it has ended")
    with trio.move_on_after(PATIENCE) as limit:
        async with connect(record) as client:
            return await client.request(op, timeout=PATIENCE)
    assert limit.cancelled_caught
    raise SandlockTimeout(f"{op} {record.id}: its host (process {record.pid}) cannot be reached")


def _ask_all(records: list[SessionRecord]) -> dict[str, dict[str, Any]]:
    """The states of those that answer, by id."""
    import trio

    states: dict[str, dict[str, Any]] = {}

    async def ask(record: SessionRecord) -> None:
        try:
            states[record.id] = dict((await _ask(record, "state"))["state"])
        except SandlockError:
            return

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for record in records:
                nursery.start_soon(ask, record)

    trio.run(main)
    return states


def _each(names: list[str], act: Callable[[SessionRecord], None]) -> int:
    """All of them, whatever becomes of the others; 1 if one failed."""
    from sandlock.sessions.directory import find

    code = 0
    for name in names:
        try:
            act(find(name))
        except SandlockError as error:
            direct.say(direct.describe(error))
            code = 1
    return code


def _tell(record: SessionRecord, op: str) -> None:
    try:
        _request(record, op)
    except SandlockTimeout as error:
        raise SandlockError(f"{error}; end it with: sandlock kill --force {record.id}") from None


def _kill(record: SessionRecord, *, force: bool) -> None:
    if not record.alive:
        raise SandlockError(f"kill {record.id}: it has ended")
    try:
        _request(record, "kill")
    except SandlockError as error:
        if not force:
            hint = f"; try: sandlock kill --force {record.id}" if isinstance(error, SandlockTimeout) else ""
            raise SandlockError(f"{error}{hint}") from None
        from sandlock.sessions.ending import end_tree

        end_tree(record)
        return
    until = time.monotonic() + END_LIMIT
    while record.tree is not None and record.tree.is_alive:
        if time.monotonic() > until:
            raise SandlockError(f"kill {record.id}: it was told to end, and is not gone after {END_LIMIT:.0f} s")
        time.sleep(EACH / 5)


# Telling --------------------------------------------------------------------------------------------------------------


def _row(record: SessionRecord, state: dict[str, Any] | None) -> dict[str, Any]:
    """One session, JSON-ready."""
    row = {key: value for key, value in record.to_dict().items() if key not in ("schema", "machine", "pid_namespace")}
    if not record.alive:
        name = "ended" if record.ended is not None else "died"
    elif state is None:
        name = "no answer"
    else:
        name = "ended" if state.get("ended") else "paused" if state.get("paused") else "running"
    counts = (state or {}).get("counts") or {}
    return row | {
        "alive": record.alive,
        "state": name,
        "pending": None if state is None else len(state.get("pending") or ()),
        "denied": None if state is None else sum(counts[key] for key in counts if key.endswith((":deny", ":kill"))),
    }


def _lines(tail: Any, record: SessionRecord | None, *, follow: bool) -> Iterator[dict[str, Any]]:
    """What a log has, and with `follow` what comes, until the session is over."""
    from sandlock.sessions.directory import find

    while True:
        lives = follow and record is not None and find(record.id).alive
        while lines := tail.read_now():
            yield from lines
        if not lives and (record is not None or not follow):  # it was over before the last look
            return
        time.sleep(EACH)


def _lines_of(record: SessionRecord) -> Iterator[dict[str, Any]]:
    from sandlock.sessions.log_tail import LogTail

    tail = LogTail(record.log)
    try:
        yield from _lines(tail, record, follow=False)
    finally:
        tail.close()


def _told(line: dict[str, Any]) -> str:
    """A line of a log in plain words; "" for what has nothing to tell."""
    at = line.get("time")
    when = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, int | float) and 0 < at < 2**40 else "-"
    match line.get("record"):
        case "run_start":
            return f"{when} started: {_words(line.get('argv'))}"
        case "run_end":
            how = f"signal {line.get('signal')}" if line.get("signal") else f"exit code {line.get('exit_code')}"
            return f"{when} ended: {_safe(line.get('reason'))}, {_safe(how)}"
        case "dropped":
            return f"{when} {_safe(line.get('count'))} decisions are lost"
        case "decision":
            return f"{when} {_decision(line)}"
    return ""


DONE = {"allow": "allowed", "audit": "allowed", "deny": "DENIED", "kill": "KILLED"}


def _decision(line: dict[str, Any]) -> str:
    done = DONE.get(str(line.get("decision")), _safe(line.get("decision")))
    kind = _safe(line.get("syscall") or line.get("kind"))
    target = line.get("target")
    what = _words(line.get("argv")) if line.get("kind") == "exec" and line.get("argv") else _safe(target, 300)
    host = f" ({_safe(line['host'])})" if line.get("host") and line.get("host") != target else ""
    by = f" by {_safe(line['by'])}" if line.get("by") else ""
    plain = line.get("decision") == "allow" and not line.get("asked")  # as the rules have it: nothing to explain
    reason = f": {_safe(line['reason'], 300)}" if line.get("reason") and not plain else ""
    is_said = bool(reason) and str(line.get("rule")) in str(line.get("reason"))
    rule = f" [rule {_safe(line['rule'])}]" if line.get("rule") and not is_said else ""
    fix = f"; to allow it: {_safe(line['fix'], 300)}" if line.get("fix") else ""
    return f"{done:8} {kind} {what}{host}{by}{reason}{rule}{fix}"


def _words(words: object) -> str:
    return printable(shlex.join(map(str, words)), 300) if isinstance(words, list) else "?"


def _safe(value: object, limit: int = 200) -> str:
    return printable(str(value), limit)
