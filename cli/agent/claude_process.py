"""`sandlock-claude-process`, for CLAUDE_CODE_PROCESS_WRAPPER: sessions that Claude Code starts of itself run confined.

Rules: Claude Code puts it before its own program and words. Its service and its terminals are left as they are: they
start every session through here again, in its project. A session that is made before its project is known is refused.
What fails here has run nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

from .claude_shell import CANNOT, OPTIONS, nobody_asked

__all__ = ["main", "words_of"]

HOSTS = ("daemon", "--bg-pty-host")
SPARE = "--bg-spare"


def main() -> int:
    """Executes `sandlock agent run -p claude ... -- PROGRAM WORDS`, or the words as they are."""
    from sandlock import SandlockError
    from sandlock.agents.own_program import own_program

    given = sys.argv[1:]
    try:
        if given[1:2] and given[1] in HOSTS:
            os.execvp(given[0], given)  # noqa: S606
        words = words_of(given, os.environ.get(OPTIONS, ""))
        program = own_program()
        os.execv(program, [program, *words])  # noqa: S606
    except (OSError, ValueError, SandlockError) as error:
        print(f"sandlock-claude-process: {error}; nothing was run", file=sys.stderr)
    return CANNOT


def words_of(given: list[str], options: str) -> list[str]:
    """The words for `sandlock`. `options`: those of `sandlock agent run`, as a shell reads them. Raises ValueError."""
    if not given:
        raise ValueError("no program; name this one in CLAUDE_CODE_PROCESS_WRAPPER, by its absolute path")
    if given[1:2] == [SPARE]:
        raise ValueError("a session is confined to its project, and this one has none yet")
    return ["agent", "run", "-p", "claude", *nobody_asked(shlex.split(options)), "--", *given]


if __name__ == "__main__":
    sys.exit(main())
