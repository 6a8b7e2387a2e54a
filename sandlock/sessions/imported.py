"""Rules that people already have (Claude Code, Codex, srt), as fields of a policy, with a report.

Rules: nothing is carried over silently: each rule has a note. Where a rule cannot be said exactly, a denial or a
question is about more and an allowance about less; a denial that can only be about what is there today is said to be
weaker. Nothing is executed to read a file.
"""

from __future__ import annotations

import os
from glob import has_magic, iglob
from itertools import islice
from typing import TYPE_CHECKING, Literal

from sandlock import Policy, PolicyError

from .._record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Effect = Literal["carried", "wider", "narrower", "weaker", "dropped"]
__all__ = ["Collector", "Imported", "Note", "import_rules", "static_paths"]

MAX_BYTES = 4 * 2**20
MAX_MATCHES = 1000
"""Files that one pattern may stand for."""
FORMATS = ("claude", "codex", "srt")


@record
class Note:
    """What became of one rule."""

    effect: Effect
    """"wider": it denies, or asks about, more than it says there. "narrower": it allows less. "weaker": it denies
    less, and wants a look."""
    source: str
    """The rule as it stands there."""
    became: str = ""
    """What it is now: `field: value`."""
    why: str = ""


@record
class Imported:
    """The rules of one file."""

    format: str
    path: str
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Keywords of Policy, those that are lists."""
    unmatched: Literal["ask", "allow"] = "ask"
    """What becomes of programs that no rule names: somebody is asked, or they run confined."""
    notes: tuple[Note, ...] = ()

    def policy(self, base: Policy | None = None) -> Policy:
        """A policy of these rules; lists of `base` are extended. Raises PolicyError."""
        start = Policy() if base is None else base
        values: dict[str, object] = {name: (*getattr(start, name), *value) for name, value in self.fields}
        if self.unmatched == "allow":
            values["exec_allow"] = (*values.get("exec_allow", start.exec_allow), "*")  # type: ignore[misc]
        return start.but(**values)  # type: ignore[arg-type]  # each is read by the option table

    def describe(self) -> list[str]:
        """The report, a line for each rule; first what could not be carried over."""
        order = ("dropped", "weaker", "wider", "narrower", "carried")
        lines = []
        for note in sorted(self.notes, key=lambda each: order.index(each.effect)):
            text = f"{note.effect}: {note.source}"
            text += f" -> {note.became}" if note.became else ""
            lines.append(text + (f" ({note.why})" if note.why else ""))
        ending = "somebody is asked" if self.unmatched == "ask" else "they run, confined"
        return [*lines, f"programs that no rule names: {ending}"]


class Collector:
    """Fields and notes, while a file is read."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[str, None]] = {}
        self.notes: list[Note] = []

    def add(
        self,
        field: str,
        value: str,
        source: str,
        *,
        effect: Effect = "carried",
        why: str = "",
    ) -> None:
        """One element of a list field. What the policy does not understand is dropped, and said."""
        try:
            Policy.of(**{field: [value]})  # type: ignore[arg-type]  # that it is understood is what is tried
        except PolicyError as error:
            self.drop(source, str(error))
            return
        self.fields.setdefault(field, {})[value] = None
        self.notes.append(Note(effect=effect, source=source, became=f"{field}: {value}", why=why))

    def drop(self, source: str, why: str) -> None:
        """A rule that is not carried over."""
        self.notes.append(Note(effect="dropped", source=source, why=why))

    def result(self, format: str, path: str, unmatched: Literal["ask", "allow"]) -> Imported:
        """What was collected."""
        fields = tuple((name, tuple(values)) for name, values in self.fields.items())
        return Imported(format=format, path=path, fields=fields, unmatched=unmatched, notes=tuple(self.notes))


def import_rules(
    path: str, *, format: str | None = None, workspace: str | None = None, unmatched: Literal["ask", "allow"] = "ask"
) -> Imported:
    """The rules of this file. `format`: one of "claude", "codex", "srt"; None: told from its name and content.

    `workspace`: where relative paths begin (default: the current directory). Raises PolicyError: the file cannot be
    read, or is in none of these formats.
    """
    text = _read(path)
    where = os.path.abspath(workspace or os.getcwd())
    chosen = format or _format_of(path, text)
    match chosen:
        case "claude":
            from .imported_claude import read_claude

            return read_claude(text, path, where, unmatched)
        case "codex":
            from .imported_codex import read_codex

            return read_codex(text, path, where, unmatched)
        case "srt":
            from .imported_srt import read_srt

            return read_srt(text, path, where, unmatched)
    raise PolicyError(f"import: {chosen!r} is no format; known: {', '.join(FORMATS)}")


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"import: {path}: {error.strerror}; name a file that can be read") from error
    if len(content) > MAX_BYTES:
        raise PolicyError(f"import: {path}: longer than {MAX_BYTES} bytes; it is no file of rules")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"import: {path}: not UTF-8 at byte {error.start}") from error


def _format_of(path: str, text: str) -> str:
    name = os.path.basename(path)
    if name.endswith((".rules", ".toml")) or "prefix_rule(" in text:
        return "codex"
    if '"permissions"' in text or '"sandbox"' in text:
        return "claude"
    if "srt" in name or '"allowedDomains"' in text or '"denyRead"' in text or '"allowWrite"' in text:
        return "srt"
    raise PolicyError(f"import: {path}: cannot tell what this is; say --format claude, codex or srt")


def read_json(text: str, path: str) -> dict[str, object]:
    """The object that this JSON text is; // and /* */ comments are refused as JSON does. Raises PolicyError."""
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"import: {path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise PolicyError(f"import: {path}: not a JSON object")
    return document


def texts(collector: Collector, source: str, value: object) -> list[str]:
    """The texts of a JSON list; anything else is said to be dropped."""
    if value is None:
        return []
    if not isinstance(value, list):
        collector.drop(f"{source}: {value!r}"[:200], "it is not a list of texts")
        return []
    for each in value:
        if not isinstance(each, str):
            collector.drop(f"{source}: {each!r}"[:200], "it is not a text")
    return [each for each in value if isinstance(each, str)]


# Paths ---------------------------------------------------------------------------------------------------------------


def static_paths(pattern: str, base: str) -> tuple[list[str], bool]:
    """The paths that a pattern in the manner of .gitignore stands for, below `base`; whether they are all, for ever.

    `dir/**` and `dir/*` are the directory. Other wildcards, and bare names, which may be at any depth, are looked up
    now: False says that what comes later is not among them.
    """
    path = pattern
    while path.endswith(("/**", "/*", "/")):
        path = path.rpartition("/")[0]
    if pattern.startswith("~"):
        path = os.path.expanduser(path)
    path = os.path.join(base, path or "/" if pattern.startswith("/") else path)
    anywhere = "/" not in pattern.rstrip("/") and pattern not in ("", ".", "~", "**", "*")
    if not has_magic(path) and not anywhere:
        return [os.path.normpath(path)], True
    where = os.path.join(base, "**", pattern) if anywhere else path
    found = set(islice(iglob(where, recursive=True, include_hidden=True), MAX_MATCHES))
    if anywhere and not has_magic(path):
        found.add(os.path.normpath(path))
    return sorted(os.path.normpath(each) for each in found), False


def add_paths(collector: Collector, field: str, pattern: str, base: str, source: str, *, why: str = "") -> None:
    """A pattern of paths, as elements of a path field."""
    paths, complete = static_paths(pattern, base)
    if complete:
        collector.add(field, paths[0], source, why=why)
        return
    later = "the files that match now; what is made later is not among them"
    if not paths:
        collector.drop(source, "nothing matches it now, and what is made later is not looked at")
    effect: Effect = "weaker" if field in ("fs_denied", "fs_protected") else "narrower"
    for path in paths:
        collector.add(field, path, source, effect=effect, why=later)


# Programs ------------------------------------------------------------------------------------------------------------


def add_command(
    collector: Collector,
    action: Literal["deny", "ask", "allow"],
    words: Sequence[str],
    further: bool,
    source: str,
    *,
    reason: str = "",
) -> None:
    """A rule about programs, by its first words."""
    literal = _literal(words)
    whole = len(literal) == len(words)
    if not literal or (action == "allow" and not whole):
        collector.drop(source, "its words have wildcards inside; rules here are whole words, and a last * for the rest")
        return
    rule = _quoted([*literal, *(["*"] if further or not whole else [])])
    rule += f" # {' '.join(reason.split())}" if reason.strip() else ""
    effect: Effect = "carried" if whole else "wider"
    why = "" if whole else "words with wildcards inside are left out, so that it is about more"
    collector.add(f"exec_{action}", rule, source, effect=effect, why=why)


def _literal(words: Iterable[str]) -> list[str]:
    """The first words that have no wildcard."""
    found = []
    for word in words:
        if "*" in word or "?" in word:
            break
        found.append(word)
    return found


def _quoted(words: Sequence[str]) -> str:
    from shlex import quote

    return " ".join(word if word == "*" else quote(word) for word in words)


def add_host(
    collector: Collector, field: str, host: str, source: str, *, ports: Sequence[int] = (443, 80), why: str = ""
) -> None:
    """A host by name, perhaps with a port: "example.com", "*.example.com", "example.com:8443"."""
    name, colon, port = host.strip().rpartition(":") if host.count(":") == 1 else (host.strip(), "", "")
    if name == "*":
        target = f"*:{port}" if colon else ("*" if field == "net_deny" else "")
        if not target:
            for each in ports:
                collector.add(field, f"*:{each}", source, why=why)
            return
        collector.add(field, target, source, why=why)
        return
    if field == "net_deny" or colon:
        collector.add(field, f"{name}:{port}" if colon else name, source, why=why)
        return
    for each in ports:
        collector.add(field, f"{name}:{each}", source, why=why)
