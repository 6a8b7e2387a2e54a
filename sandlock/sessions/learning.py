"""Learning: from the record of a run to the rules that allow what it did, and no more.

Rules: values in, values out. The record is what a sandboxed program made happen, so every line of it is untrusted; it
is read up to bounds. What was refused is told, and proposed at most: it becomes no rule.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .. import presets as _presets
from .._record import record, replace
from .call_rules import Executed, Reached, Rule, bind_rules, connect_rules, exec_rules
from .generalising import Covering, LeftOut, Limits, Proposal, Touch, is_below, read_grants, write_grants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = ["PRESETS", "Learned", "Observed", "Refused", "learn", "observe"]

MAX_LINE = 1 << 20
MAX_PATHS = 100_000
MAX_CALLS = 20_000
"""Distinct ones that are kept; what is more is counted."""
PRESETS = ("system", "python", "node", "git", "build", "tmp", "shm", "pty")
"""The presets that may take the place of paths, in the order in which they are tried."""
ACCESSES = {
    "read": "reads", "list": "lists", "write": "writes", "create": "creates", "remove": "removes", "change": "changes",
}  # fmt: skip


@record
class Refused:
    """What was tried and denied."""

    kind: str
    target: str
    how: str
    """The system call, or the protocol."""
    reason: str
    by_rule: bool
    """A rule denies it: of a file, it is a secret."""
    fix: str
    program: str
    count: int


@record
class Observed:
    """What a run did, put together."""

    touches: tuple[Touch, ...] = ()
    executed: tuple[Executed, ...] = ()
    reached: tuple[Reached, ...] = ()
    bound: tuple[Reached, ...] = ()
    refused: tuple[Refused, ...] = ()
    lost: int = 0
    """Decisions that are not in the record, or for which there was no room here."""
    damaged: int = 0
    """Lines that could not be read."""


@record
class Learned:
    """The rules, with their reasons."""

    presets: tuple[Rule, ...] = ()
    grants: tuple[Proposal, ...] = ()
    denied: tuple[str, ...] = ()
    """Secrets below something that is granted."""
    connect: tuple[Rule, ...] = ()
    bind: tuple[Rule, ...] = ()
    execs: tuple[Rule, ...] = ()
    unnamed: tuple[LeftOut, ...] = ()
    """Programs that no rule can name: then there are no rules about programs at all."""
    uses_temporary: bool = False
    left_out: tuple[LeftOut, ...] = ()


# Reading the record --------------------------------------------------------------------------------------------------


class _Observer:
    """Puts decisions together. Each of its tables is bounded."""

    def __init__(self) -> None:
        self.touches: dict[str, dict[str, Any]] = {}
        self.executed: dict[tuple[str, tuple[str, ...], bool], int] = {}
        self.reached: dict[tuple[Any, ...], list[Any]] = {}
        self.bound: dict[tuple[Any, ...], list[Any]] = {}
        self.refused: dict[tuple[str, str, str], list[Any]] = {}
        self.lost = self.damaged = 0

    def take(self, line: Mapping[str, Any]) -> None:
        kind, target = _text(line, "kind"), _text(line, "target")
        program = _text(line, "exe")
        if _text(line, "decision") not in ("allow", "audit"):
            how = _text(line, "syscall") or kind
            facts = [_text(line, "reason"), _text(line, "cause") == "rule", _text(line, "fix"), program]
            self.count(self.refused, (kind, target, how), facts)
        elif kind in ("open", "path"):
            self.touch(target, ACCESSES.get(_text(line, "access"), ""), program)
        elif kind == "exec":
            words = line.get("argv")
            argv = tuple(map(str, words)) if isinstance(words, list) else ()
            key = (target, argv, bool(line.get("truncated")))
            if key in self.executed or len(self.executed) < MAX_CALLS:
                self.executed[key] = self.executed.get(key, 0) + 1
            else:
                self.lost += 1
        elif kind in ("connect", "send"):
            self.count(self.reached, (target, _text(line, "host")), [program])
        elif kind in ("bind", "listen"):
            self.count(self.bound, (target, kind), [program])

    def touch(self, path: str, access: str, program: str) -> None:
        if not access or not path.startswith("/"):
            return
        if path not in self.touches and len(self.touches) >= MAX_PATHS:
            self.lost += 1
            return
        self.touches.setdefault(path, {"program": program})[access] = True

    def count(self, table: dict[Any, list[Any]], key: Any, facts: list[Any]) -> None:
        if key in table:
            table[key][-1] += 1
        elif len(table) < MAX_CALLS:
            table[key] = [*facts, 1]
        else:
            self.lost += 1


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key, "")
    return value if isinstance(value, str) else ""


def observe(lines: Iterable[str]) -> Observed:
    """What the lines of an audit file say that was done, with `record_paths`."""
    observer = _Observer()
    for text in lines:
        line = _parsed(text)
        if line is None:
            observer.damaged += 1
        elif line.get("record") == "decision":
            observer.take(line)
        elif line.get("record") == "dropped":
            count = line.get("count")
            observer.lost += count if isinstance(count, int) and count > 0 else 1
    touches = (Touch(path=path, **facts) for path, facts in sorted(observer.touches.items()))
    return Observed(
        touches=tuple(touches),
        executed=tuple(Executed(*key, count) for key, count in sorted(observer.executed.items())),
        reached=_places(observer.reached),
        bound=_places(observer.bound),
        refused=tuple(
            Refused(
                kind=kind, target=target, how=how, reason=why, by_rule=by_rule, fix=fix, program=program, count=count
            )
            for (kind, target, how), (why, by_rule, fix, program, count) in sorted(observer.refused.items())
        ),
        lost=observer.lost,
        damaged=observer.damaged,
    )


def _parsed(text: str) -> dict[str, Any] | None:
    if len(text) > MAX_LINE or not text.strip():
        return None
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _places(table: Mapping[tuple[str, str], list[Any]]) -> tuple[Reached, ...]:
    found = (_place(target, host, program, count) for (target, host), (program, count) in sorted(table.items()))
    return tuple(each for each in found if each is not None)


def _place(target: str, host: str, program: str, count: int) -> Reached | None:
    """A destination as decisions name it: "tcp://127.0.0.1:443", "unix:/run/x.sock"."""
    if target.startswith("unix:"):
        return Reached("unix", path=target.removeprefix("unix:"), count=count, program=program)
    protocol, _, rest = target.partition("://")
    ip, _, port = rest.rpartition(":") if protocol != "icmp" else (rest, "", "0")
    if protocol not in ("tcp", "udp", "icmp") or not port.isascii() or not port.isdigit():
        return None
    return Reached(protocol, ip.strip("[]"), int(port), host, count=count, program=program)


# Making rules --------------------------------------------------------------------------------------------------------


def learn(
    observed: Observed,
    limits: Limits,
    *,
    presets: Mapping[str, Covering],
    find: Callable[[str], str],
    loaders: Mapping[str, tuple[str, ...]],
    granted: Covering | None = None,
    collapse_hosts: bool = False,
    terminals: Iterable[str] = (),
) -> Learned:
    """The rules for what was observed. `presets`: what each covers here, those of PRESETS that may be used; `find`: as
    in `exec_rules`; `loaders`: what else the kernel opens to execute a program: interpreters, the loader; `granted`:
    what a profile covers that is to be extended; `terminals`: devices that a program is handed anyway."""
    handed = frozenset(terminals)
    touches = _with_programs(observed, loaders)
    touches = [each for each in touches if each.path not in handed and not each.path.startswith("/dev/pts/")]
    uses_temporary = bool(limits.temporary) and any(_writes_below(each, limits.temporary) for each in touches)
    base = granted or Covering()
    ours = [each for each in touches if not limits.holds_secret(each.path) and not base.covers(each)]
    chosen, covering = _choose(ours, presets, base, limits)
    writing, left_writing = write_grants(ours, covering, limits)
    covering = Covering((*covering.grants, *((each.path, "write") for each in writing)))
    reading, left_reading = read_grants(ours, covering, limits)
    writable = (*limits.writable, *(each.path for each in writing))
    execs, unnamed = exec_rules(observed.executed, find=find, writable=writable, temporary=limits.temporary)
    grants = tuple(sorted((*writing, *reading), key=lambda each: (each.kind, each.path)))
    if any(each.kind == "write" and each.path == limits.workspace for each in grants):
        chosen.append(_workspace_rule(next(each for each in grants if each.path == limits.workspace)))
        grants = tuple(each for each in grants if each.path != limits.workspace)
    whole = [each.path for each in (*writing, *reading)]
    return Learned(
        presets=tuple(sorted(chosen, key=lambda each: each.text)),
        grants=grants,
        denied=tuple(sorted(each for each in limits.secrets if any(is_below(each, path) for path in whole))),
        connect=tuple(connect_rules(observed.reached, collapse_hosts=collapse_hosts, limits=limits)),
        bind=tuple(bind_rules(observed.bound, limits)),
        execs=tuple(execs),
        unnamed=tuple(unnamed),
        uses_temporary=uses_temporary,
        left_out=(*left_writing, *left_reading),
    )


def _with_programs(observed: Observed, loaders: Mapping[str, tuple[str, ...]]) -> list[Touch]:
    """What was touched, sockets that were made, and what was executed for it."""
    found = {each.path: each for each in observed.touches}
    for place in observed.bound:
        if place.protocol == "unix" and place.path.startswith("/"):
            known = found.get(place.path, Touch(path=place.path, program=place.program))
            found[place.path] = replace(known, creates=True)
    for each in observed.executed:
        for path in (each.exe, *loaders.get(each.exe, ())):
            known = found.get(path, Touch(path=path, program=each.exe))
            found[path] = replace(known, executes=True)
    return [found[path] for path in sorted(found)]


def _writes_below(touch: Touch, directory: str) -> bool:
    return (touch.writes or touch.creates) and is_below(touch.path, directory)


def _choose(
    touches: list[Touch], presets: Mapping[str, Covering], base: Covering, limits: Limits
) -> tuple[list[Rule], Covering]:
    """The presets that cover something which nothing else does; one that grants writing only where all of that was
    allowed, and something was written."""
    chosen: dict[str, Rule] = {}
    covering = base
    own = (limits.workspace, *((limits.temporary,) if limits.temporary else ()))
    outside = [each for each in touches if not any(is_below(each.path, place) for place in own)]
    for name in PRESETS:
        here = presets.get(name)
        if here is None:
            continue
        new = [each for each in outside if here.covers(each) and not covering.covers(each)]
        written = [path for path, kind in here.grants if kind == "write"]
        allowed = [path for path in written if any(is_below(path, root) for root in limits.writable)]
        if written and not any(_writes_below(each, path) for each in new for path in allowed):
            continue
        if new:
            example = max(new, key=lambda each: (each.executes, each.path))
            chosen[name] = Rule(text=name, count=len(new), example=example.path, why="paths that it covers")
            covering = Covering((*covering.grants, *here.grants))
    for name, rule in tuple(chosen.items()):
        including = next((each for each in chosen if name != each and name in _presets.closure((each,))), None)
        if including is not None:
            chosen[including] = replace(chosen[including], count=chosen[including].count + rule.count)
            del chosen[name]
    return list(chosen.values()), covering


def _workspace_rule(grant: Proposal) -> Rule:
    return Rule(text="workspace", count=grant.count, example=grant.example, why=f"the current directory: {grant.why}")
