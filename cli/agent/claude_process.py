"""`sandlock-claude-process`, for CLAUDE_CODE_PROCESS_WRAPPER: sessions that Claude Code starts of itself run confined.

Rules: Claude Code puts it before its own program and words. Its service and its terminals are left as they are: they
start every session through here again, in its project. A session that is made before its project is known is refused.
What fails here has run nothing.
"""

from __future__ import annotations

import os
import sys

from .claude_launch import CANNOT, execute, options_of

__all__ = ["main", "words_of"]

NAME = "sandlock-claude-process"
HOSTS = ("daemon", "--bg-pty-host")
SPARE = "--bg-spare"


def main() -> int:
    """Executes `sandlock agent run -p claude ... -- PROGRAM WORDS`, or the words as they are."""
    given = sys.argv[1:]
    if given[1:2] and given[1] in HOSTS:
        try:
            os.execvp(given[0], given)  # noqa: S606
        except OSError as error:
            print(f"{NAME}: {error}; nothing was run", file=sys.stderr)
            return CANNOT
    return execute(NAME, words_of)


def words_of(given: list[str], options: str) -> list[str]:
    """The words for `sandlock`. `options`: those of `sandlock agent run`, as a shell reads them. Raises ValueError."""
    if not given:
        raise ValueError("no program; name this one in CLAUDE_CODE_PROCESS_WRAPPER, by its absolute path")
    if given[1:2] == [SPARE]:
        raise ValueError("a session is confined to its project, and this one has none yet")
    return ["agent", "run", "-p", "claude", *options_of(options, []), "--", *given]


if __name__ == "__main__":
    sys.exit(main())
