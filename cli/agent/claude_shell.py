"""`sandlock-claude-shell`, for CLAUDE_CODE_SHELL_PREFIX: each shell command of Claude Code runs in the sandbox.

Rules: Claude Code executes it with one command line as the last word, and can give it no more than one option. What
fails here has run nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import suppress

__all__ = ["CANNOT", "OPTIONS", "main", "nobody_asked", "words_of"]

OPTIONS = "SANDLOCK_CLAUDE_OPTIONS"
CANNOT = 126
WHERE = re.compile(r" && pwd -P >\| (/\S*/claude-[0-9a-f]+-cwd)\Z")
"""How Claude Code ends a command, to learn the directory that it has changed to."""


def main() -> int:
    """Executes `sandlock agent run ... -- bash -c COMMAND`."""
    from sandlock import SandlockError
    from sandlock.agents.own_program import own_program

    try:
        program = own_program()
        words = words_of(sys.argv[1:], os.environ.get(OPTIONS, ""))
        os.execv(program, [program, *words])  # noqa: S606
    except (OSError, ValueError, SandlockError) as error:
        print(f"sandlock-claude-shell: {error}; nothing was run", file=sys.stderr)
    return CANNOT


def words_of(given: list[str], options: str) -> list[str]:
    """The words for `sandlock`. `options`: those of `sandlock agent run`, as a shell reads them. Raises ValueError."""
    if not given:
        raise ValueError("no command; name this program in CLAUDE_CODE_SHELL_PREFIX")
    command = given[-1]
    wanted = nobody_asked([*shlex.split(options), *given[:-1]])
    place = WHERE.search(command)
    if place is not None:
        with suppress(FileExistsError):
            os.close(os.open(place[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            wanted += ["--fs-write", place[1]]
    return ["agent", "run", *wanted, "--", "bash", "-c", command]


def nobody_asked(options: list[str]) -> list[str]:
    """These options; nobody is asked unless they say whom, for the terminal is Claude Code's."""
    says = any(word == "--ask" or word.startswith("--ask=") for word in options)
    return options if says else [*options, "--ask", "none"]


if __name__ == "__main__":
    sys.exit(main())
