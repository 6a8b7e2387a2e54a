"""Questions that the rules leave open, as values: what is asked, what may be answered, and what an answer means.

Rules: values in, values out. Whatever stands in a question was written by the program that is being judged, its host
names and words above all: who shows it escapes it. An answer is read key by key, and what is not understood denies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sandlock import Allow, Bind, Connect, Deny, Exec, Fork, Kill, Listen, Open, PolicyError, Resolve, Send

from .._record import record
from ..result import printable
from .call_rules import INTERPRETERS as RUNS_ANYTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..events import Event

__all__ = ["Answer", "Choice", "Question", "command_text", "question_of", "read_answer", "verdict_of"]

LONGEST_REASON = 2000
SCOPES = ("once", "run", "host")
INTERPRETERS = frozenset(("sh", "bash", "dash", "zsh", "env", "xargs", "sudo", "nohup", "time", "timeout", "nice"))
"""Programs whose first words say nothing of what they will do: no prefix of theirs is offered."""


@record
class Answer:
    """What a person or a program answers to a question."""

    verdict: Literal["allow", "deny", "kill"]
    scope: Literal["once", "run", "host"] = "once"
    """Of "allow". "run": all calls like it until the run ends. "host": all lookups of, connections and datagrams to the
    question's host name until the session ends."""
    words: int | None = None
    """With scope "run", of an exec: so many of its first words have to be the same; None: all of them."""
    reason: str = ""
    """Of "deny" and "kill": what the program's user gets to read."""

    def to_dict(self) -> dict[str, object]:
        """As JSON-ready data, as `read_answer` reads it."""
        return {"verdict": self.verdict, "scope": self.scope, "words": self.words, "reason": self.reason}


@record
class Choice:
    """One of the answers that are offered, the narrowest first."""

    key: str
    """One letter or digit, to press."""
    label: str
    """What it does, in words; has words of the program in it."""
    answer: Answer
    wants_reason: bool = False
    """Whether the reason is to be typed."""

    def to_dict(self) -> dict[str, object]:
        """As JSON-ready data."""
        answer = self.answer.to_dict()
        return {"key": self.key, "label": _clean(self.label), "answer": answer, "wants_reason": self.wants_reason}


@record
class Question:
    """One call that waits for an answer."""

    id: str
    """Of this session: "q1", "q2", ..."""
    kind: str
    """"exec", "connect", "send", "bind", "listen", "resolve", "open", "fork"."""
    target: str
    """The file; the destination as a rule names it; the name that is looked up."""
    argv: tuple[str, ...] = ()
    cwd: str = ""
    exe: str = ""
    host: str = ""
    ip: str = ""
    port: int = 0
    protocol: str = ""
    rule: str = ""
    """The rule that sent it here, its reason in it; "" if none decides."""
    chain: tuple[tuple[int, str, tuple[str, ...]], ...] = ()
    """The programs above, nearest first: process, file, words."""
    pid: int = 0
    run: str = ""
    call_id: str = ""
    time: float = 0.0
    """When it was asked: seconds since the epoch."""
    deadline: float | None = None
    """When nobody can answer it any more; None: never."""
    choices: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """As JSON-ready data: what channels and pages get."""
        chain = [
            {"pid": pid, "exe": _clean(exe), "argv": [_clean(word) for word in argv]} for pid, exe, argv in self.chain
        ]
        return {
            "id": self.id,
            "kind": self.kind,
            "target": _clean(self.target),
            "argv": [_clean(word) for word in self.argv],
            "cwd": _clean(self.cwd),
            "exe": _clean(self.exe),
            "host": _clean(self.host),
            "ip": self.ip,
            "port": self.port,
            "protocol": self.protocol,
            "rule": _clean(self.rule),
            "chain": chain,
            "pid": self.pid,
            "run": self.run,
            "call_id": self.call_id,
            "time": self.time,
            "deadline": self.deadline,
            "choices": [choice.to_dict() for choice in self.choices],
        }


def question_of(event: Event, id: str, *, time: float, deadline: float | None) -> Question:
    """The question that an event is. Looks the programs above up, which may take a moment."""
    facts: dict[str, object] = {}
    match event:
        case Exec():
            facts = {"target": event.exe, "argv": event.argv, "cwd": event.cwd, "exe": event.exe}
        case Connect() | Send():
            facts = {"target": event.target, "host": event.host}
        case Bind() | Listen():
            facts = {"target": event.target}
        case Resolve():
            facts = {"target": event.name, "host": event.name}
        case Open():
            facts = {"target": event.path}
        case Fork():
            facts = {"target": event.syscall}
    if isinstance(event, Connect | Send | Bind | Listen):
        facts |= {"ip": event.ip, "port": event.port, "protocol": event.protocol}
    above = () if isinstance(event, Resolve) else event.chain
    return Question(
        id=id,
        kind=type(event).__name__.lower(),
        rule=event.rule,
        chain=tuple((each.pid, each.exe, each.argv) for each in above),
        pid=event.pid,
        run=event.run,
        call_id=event.call_id,
        time=time,
        deadline=deadline,
        choices=choices_of(event),
        **facts,  # type: ignore[arg-type]
    )


def choices_of(event: Event) -> tuple[Choice, ...]:
    """The answers that make sense, the narrowest first."""
    found = [Choice(key="o", label="allow this once", answer=Answer(verdict="allow"))]
    if isinstance(event, Exec):
        found.append(_run_choice("r", f"allow {_words(event.argv)!r} for this run", None))
        words = prefix_of(event.argv, event.exe)
        if words is not None:
            found.append(_run_choice("p", f"allow {_words(event.argv[:words])!r} with any further words", words))
    elif isinstance(event, Connect | Send | Resolve) and _host_of(event):
        found.append(
            Choice(
                key="h",
                label=f"allow the host {_host_of(event)} for this session",
                answer=Answer(verdict="allow", scope="host"),
            )
        )
    elif not isinstance(event, Fork):
        found.append(_run_choice("r", "allow the same for this run", None))
    found += [
        Choice(key="d", label="deny", answer=Answer(verdict="deny")),
        Choice(key="w", label="deny, and say why", answer=Answer(verdict="deny"), wants_reason=True),
        Choice(key="k", label="kill the program that asks", answer=Answer(verdict="kill")),
    ]
    return tuple(found)


def command_text(argv: tuple[str, ...], exe: str, limit: int = 400) -> str:
    """A command in one line, escaped. The first word is the caller's own to choose: where it does not lead to the file
    that will run, as it would for the user, the file is named too."""
    from os.path import realpath
    from shlex import join
    from shutil import which

    text = join(argv)
    shown = printable(text, limit) + (f" ({len(text) - limit} more characters)" if len(text) > limit else "")
    first = argv[0] if argv else ""
    # A path of the caller's choice is not followed: it may be on a server that does not answer.
    named = first if "/" in first else realpath(which(first) or "")
    return shown if named == exe else f"{shown} (the file {printable(exe)})"


def prefix_of(argv: tuple[str, ...], exe: str) -> int | None:
    """How many first words name what a program does: `git push`, `npm install`; None where they do not.

    Words of options (`python3 -c`) and of programs that run others (`env`, `sh`) say nothing of the rest. The first
    word is the caller's own to choose: a shell that is called `git` is still one.
    """
    if len(argv) < 3 or argv[1].startswith("-"):
        return None
    name, file = argv[0].rpartition("/")[2], exe.rpartition("/")[2]
    if not INTERPRETERS.isdisjoint((name, file)) or (
        RUNS_ANYTHING.fullmatch(file) and not RUNS_ANYTHING.fullmatch(name)
    ):
        return None
    return 2 if argv[1].isascii() and argv[1].replace("-", "").replace("_", "").isalnum() else None


def verdict_of(answer: Answer, by: str) -> Allow | Deny | Kill:
    """What the core is told; `by`: who answered."""
    match answer.verdict:
        case "allow":
            if answer.scope == "run":
                return Allow(scope="run", words=answer.words, by=by)
            return Allow(by=by)
        case "kill":
            return Kill(answer.reason or f"killed by {by}", by=by)
    return Deny(answer.reason or f"denied by {by}", by=by)


def read_answer(value: object, question: Question) -> Answer:
    """The answer that this JSON data is; {"choice": "o"} is one of the question's choices. Raises PolicyError."""
    if not isinstance(value, dict):
        raise _unclear(value)
    if "choice" in value:
        return _chosen(value, question)
    verdict, scope = value.get("verdict"), value.get("scope", "once")
    words, reason = value.get("words"), value.get("reason", "")
    if set(value) - {"verdict", "scope", "words", "reason"} or verdict not in ("allow", "deny", "kill"):
        raise _unclear(value)
    if scope not in SCOPES or not isinstance(reason, str) or (scope == "host" and not question.host):
        raise _unclear(value)
    if words is not None and (type(words) is not int or not 0 < words <= len(question.argv) or scope != "run"):
        raise _unclear(value)
    return Answer(verdict=verdict, scope=scope, words=words, reason=reason[:LONGEST_REASON])


def _chosen(value: Mapping[str, object], question: Question) -> Answer:
    reason = value.get("reason", "")
    for choice in question.choices:
        if choice.key == value["choice"] and not set(value) - {"choice", "reason"} and isinstance(reason, str):
            return read_answer(choice.answer.to_dict() | {"reason": reason}, question)
    raise _unclear(value)


def _unclear(value: object) -> PolicyError:
    shown = repr(value)[:200]
    return PolicyError(
        f'answer: {shown} is no answer; give {{"verdict": "allow" | "deny" | "kill"}} or a choice\'s key'
    )


def _run_choice(key: str, label: str, words: int | None) -> Choice:
    return Choice(key=key, label=label, answer=Answer(verdict="allow", scope="run", words=words))


def _words(argv: tuple[str, ...]) -> str:
    from shlex import join

    text = join(argv)
    return text if len(text) <= 200 else text[:200] + "..."


def _host_of(event: Connect | Send | Resolve) -> str:
    return event.name if isinstance(event, Resolve) else event.host


def _clean(text: str) -> str:
    """File names that are not UTF-8 hold lone surrogates (os.fsdecode), which JSON readers reject."""
    return text.encode("utf-8", "backslashreplace").decode()
