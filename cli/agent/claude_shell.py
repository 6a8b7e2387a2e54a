"""`sandlock-claude-shell`, for CLAUDE_CODE_SHELL_PREFIX: each shell command of Claude Code runs in the sandbox.

Rules: Claude Code executes it with one command line as the last word, and can give it no more than one option. What
fails here has run nothing.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

from .claude_launch import execute, options_of

__all__ = ["main", "words_of"]

WHERE = re.compile(r" && pwd -P >\| (/\S*/claude-[0-9a-f]+-cwd)\Z")
"""How Claude Code ends a command, to learn the directory that it has changed to."""


def main() -> int:
    """Executes `sandlock agent run ... -- bash -c COMMAND`."""
    return execute("sandlock-claude-shell", words_of)


def words_of(given: list[str], options: str) -> list[str]:
    """The words for `sandlock`. `options`: those of `sandlock agent run`, as a shell reads them. Raises ValueError."""
    if not given:
        raise ValueError("no command; name this program in CLAUDE_CODE_SHELL_PREFIX")
    command = given[-1]
    wanted = options_of(options, given[:-1])
    place = WHERE.search(command)
    if place is not None:
        with suppress(FileExistsError):
            os.close(os.open(place[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            wanted += ["--fs-write", place[1]]
    return ["agent", "run", *wanted, "--", "bash", "-c", command]


if __name__ == "__main__":
    sys.exit(main())
