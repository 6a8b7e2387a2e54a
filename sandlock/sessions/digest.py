"""A journal, digested: what a person wants to know of a session: where it went, what was denied and by whom, what was
asked and how long that took, what it did to files, and what to add to the profile.

Rules: values only, in the order of the file; the same call with the same outcome is told once, and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._record import record
from .programs import Chains
from .remedies import merged, remedy_of, who_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .journal import Journal, JournalDecision
    from .remedies import Remedy

__all__ = ["Destination", "Digest", "FileRecord", "QuestionRecord", "Refusal", "digest"]

NETWORK = ("connect", "send", "bind", "listen")
MAX_KINDS = 50_000
"""Different destinations, refusals, files; more of them are in the totals only."""
MAX_NAMES = 8


@record
class Destination:
    """One place that the tree called, or took."""

    kind: str
    """"connect", "send", "bind", "listen"."""
    target: str
    """As a rule names it."""
    protocol: str
    address: str
    """The address, or the path of a socket."""
    port: int | None
    host: str
    """The name by which the tree looked it up; "" if it did not."""
    allowed: int
    denied: int
    first: float
    """Seconds since the epoch."""
    programs: tuple[str, ...]
    """The files of the programs that did so, up to eight."""


@record
class Refusal:
    """One call that was denied, as often as it was."""

    number: int
    """From 1, in the order of the first of each."""
    decision: JournalDecision
    """The first of them."""
    count: int
    last: float
    who: str
    """See `who_of`."""
    remedy: Remedy | None
    chain: tuple[int, ...]
    """The places of the programs above, nearest first."""


@record
class QuestionRecord:
    """One question, and what became of it."""

    decision: JournalDecision
    waited: float
    """Seconds from the call until the answer was acted on."""
    who: str


@record
class FileRecord:
    """One file, with `record_paths`, `ask_opens`, or where a call about it was denied."""

    path: str
    allowed: tuple[str, ...]
    """What was done: "read", "write", "create", ...; "open" where the record does not tell."""
    denied: int
    count: int


@record
class Digest:
    """All of it."""

    journal: Journal
    destinations: tuple[Destination, ...]
    refusals: tuple[Refusal, ...]
    questions: tuple[QuestionRecord, ...]
    files: tuple[FileRecord, ...]
    remedies: tuple[Remedy, ...]
    """What to add for what was denied to be allowed, together as little as possible. What a rule or a person denied was
    meant, and is left out."""


def digest(journal: Journal) -> Digest:
    """What a journal tells."""
    refusals = _refusals(journal)
    return Digest(
        journal=journal,
        destinations=_destinations(journal.decisions),
        refusals=refusals,
        questions=_questions(journal.decisions),
        files=_files(journal.decisions),
        remedies=merged(
            each.remedy
            for each in refusals
            if each.remedy is not None and each.remedy.adds and each.who not in ("rule", "person")
        ),
    )


def _refusals(journal: Journal) -> tuple[Refusal, ...]:
    known: dict[tuple[object, ...], list[JournalDecision]] = {}
    for each in journal.decisions:
        if each.is_denied:
            what = (each.kind, each.target, each.argv, each.host, each.access)
            _add(known, (each.run, *what, each.cause, each.reason, each.rule, each.by), each)
    chains = Chains(journal.programs)
    return tuple(
        Refusal(
            number=number,
            decision=alike[0],
            count=len(alike),
            last=alike[-1].time,
            who=who_of(alike[0]),
            remedy=remedy_of(alike[0]),
            chain=chains.of(alike[0]),
        )
        for number, alike in enumerate(known.values(), 1)
    )


def _questions(decisions: Iterable[JournalDecision]) -> tuple[QuestionRecord, ...]:
    """Each once: a shell that tries the next directory of PATH gets the answer that it had."""
    found: list[QuestionRecord] = []
    last: tuple[object, ...] = ()
    for each in decisions:
        who = who_of(each)
        if each.asked and who not in ("rule", "no-rule", "protection"):
            key = (each.run, each.pid, each.kind, each.target, each.argv, each.decision, each.reason)
            if key != last:
                found.append(QuestionRecord(decision=each, waited=max(0, each.latency_us) / 1e6, who=who))
            last = key
    return tuple(found)


def _destinations(decisions: Iterable[JournalDecision]) -> tuple[Destination, ...]:
    known: dict[tuple[object, ...], list[JournalDecision]] = {}
    for each in decisions:
        if each.kind in NETWORK:
            _add(known, (each.kind, each.target, each.host), each)
    found = []
    for alike in known.values():
        first = alike[0]
        protocol, address, port = place_of(first.target)
        denied = sum(each.is_denied for each in alike)
        found.append(
            Destination(
                kind=first.kind,
                target=first.target,
                protocol=protocol,
                address=address,
                port=port,
                host=first.host if first.host != address else "",
                allowed=len(alike) - denied,
                denied=denied,
                first=first.time,
                programs=tuple(dict.fromkeys(each.exe for each in alike))[:MAX_NAMES],
            )
        )
    return tuple(found)


def place_of(target: str) -> tuple[str, str, int | None]:
    """Protocol, address or path, and port of a destination as a rule names it."""
    if target.startswith("unix:"):
        return "unix", target.removeprefix("unix:"), None
    protocol, separator, rest = target.partition("://")
    if not separator:
        return "", target, None
    address, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]") or not (port.isascii() and port.isdigit() and len(port) < 6):
        return protocol, rest.strip("[]"), None
    return protocol, address.strip("[]"), int(port)


def _files(decisions: Iterable[JournalDecision]) -> tuple[FileRecord, ...]:
    known: dict[tuple[object, ...], list[JournalDecision]] = {}
    for each in decisions:
        if each.kind in ("open", "path"):
            _add(known, (each.target,), each)
    return tuple(
        FileRecord(
            path=alike[0].target,
            allowed=tuple(dict.fromkeys(each.access or each.kind for each in alike if not each.is_denied)),
            denied=sum(each.is_denied for each in alike),
            count=len(alike),
        )
        for alike in known.values()
    )


def _add(known: dict[tuple[object, ...], list[JournalDecision]], key: tuple[object, ...], one: JournalDecision) -> None:
    if key in known or len(known) < MAX_KINDS:
        known.setdefault(key, []).append(one)
