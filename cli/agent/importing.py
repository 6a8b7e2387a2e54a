"""`sandlock agent import`: rules of other tools as a profile, with a report of what became of each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock import PolicyError
from sandlock.result import printable
from sandlock.sessions.imported import import_rules

from .. import direct
from ..profile_text import describe

if TYPE_CHECKING:
    from sandlock.sessions.imported import Imported

__all__ = ["import_file"]


def import_file(path: str, *, format: str | None, unmatched: str, workspace: str | None, output: str | None) -> int:
    """Writes the profile to `output` or stdout, and the report above it as comments."""
    if unmatched not in ("ask", "allow"):
        raise PolicyError(f"--unmatched: {unmatched!r} is neither; write ask or allow")
    imported = import_rules(
        path, format=format, workspace=workspace, unmatched="ask" if unmatched == "ask" else "allow"
    )
    text = profile_of(imported)
    if output is None:
        print(text, end="")
        return 0
    try:
        # never over what is there: a profile is a person's work
        with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise PolicyError(f"-o {output}: {error.strerror}; name a file that is not there yet") from error
    dropped = sum(note.effect in ("dropped", "weaker") for note in imported.notes)
    direct.say(f"{output}: {len(imported.notes)} rules, {dropped} of them not carried over in full; see its comments")
    return 0


def profile_of(imported: Imported) -> str:
    """The rules as the text of a profile."""
    lines = [f"# Rules of {printable(imported.path)} ({imported.format}). What became of each:"]
    lines += [f"#   {printable(line, 400)}" for line in imported.describe()]
    return "\n".join([*lines, "", *describe(imported.policy())]) + "\n"
