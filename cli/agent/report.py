"""`sandlock agent report`: a recorded run, for reading: as text, HTML, Markdown, JSON or a picture."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

from sandlock import PolicyError, SandlockError
from sandlock.sessions.digest import digest
from sandlock.sessions.journal import read_journal

from .locate import log_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock.sessions.digest import Digest

__all__ = ["FORMATS", "as_json", "rendered", "report_of", "write"]

FORMATS = ("text", "html", "json", "md", "svg")


def report_of(run: str, *, forms: Sequence[str] = (), output: str | None = None) -> int:
    """Writes the report of a run, found by `log_of`, to `output` or stdout, in one of `forms`, or as text; returns the
    exit code."""
    if len(forms) > 1:
        raise PolicyError("give one of --html, --json, --md and --svg")
    form = forms[0] if forms else "text"
    journal = read_journal(log_of(run))
    if not journal.runs:
        raise SandlockError(f"{journal.path}: no run is on record there; name the audit file of a run")
    write(rendered(digest(journal), form), output)
    return 0


def rendered(found: Digest, form: str) -> str:
    """The report in one of FORMATS."""
    match form:
        case "html":
            from .report_html import as_html

            return as_html(found)
        case "md":
            from .report_markdown import as_markdown

            return as_markdown(found)
        case "json":
            return json.dumps(as_json(found), indent=2) + "\n"
        case "svg":
            from .timeline import timeline

            return timeline(found, found.journal.runs[-1])
    from .report_text import as_text

    return as_text(found, min(shutil.get_terminal_size((100, 24)).columns, 140))


def write(text: str, output: str | None) -> None:
    """To a file, of which nobody else may read what was run, or to stdout. Raises PolicyError."""
    if output is None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # `| head`: who reads has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(output, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PolicyError(f"-o {output}: {error.strerror}; name a file that you may write") from error


def as_json(found: Digest) -> dict[str, object]:
    """All of it, nothing cut. Keys are only ever added within one schema."""
    from sandlock.sessions.remedies import flags_of, policy_of

    from ..profile_text import describe

    journal = found.journal
    return {
        "schema": 1,
        "log": journal.path,
        "runs": [_fields(each) for each in journal.runs],
        "programs": [_fields(each) for each in journal.programs],
        "destinations": [_fields(each) for each in found.destinations],
        "denials": [
            {
                "number": each.number,
                "count": each.count,
                "last": each.last,
                "who": each.who,
                "chain": list(each.chain),
                "remedy": None if each.remedy is None else each.remedy.to_dict(),
                "decision": _fields(each.decision),
            }
            for each in found.refusals
        ],
        "questions": [
            {"waited": each.waited, "who": each.who, "decision": _fields(each.decision)} for each in found.questions
        ],
        "files": [_fields(each) for each in found.files],
        "profile": {
            "changes": [each.to_dict() for each in found.remedies],
            "toml": "\n".join(describe(policy_of(found.remedies))) if found.remedies else "",
            "flags": flags_of(found.remedies),
        },
        "totals": _fields(journal.totals),
        "missing": _fields(journal.damage) | {"told": list(journal.damage.describe())},
    }


def _fields(one: object) -> dict[str, object]:
    """A record's fields, ready for JSON."""
    return {name: _plain(getattr(one, name)) for name in type(one).__slots__}  # type: ignore[attr-defined]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
