"""What the launchers for Claude Code have in common: `sandlock agent run` takes their place, with given options."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CANNOT", "execute", "options_of"]

OPTIONS = "SANDLOCK_CLAUDE_OPTIONS"
CANNOT = 126


def execute(name: str, words_of: Callable[[list[str], str], list[str]]) -> int:
    """Executes `sandlock` with what `words_of` makes of this process's words and of the options. Returns where that
    fails, when nothing was run."""
    from sandlock import SandlockError
    from sandlock.agents.own_program import own_program

    try:
        words = words_of(sys.argv[1:], os.environ.get(OPTIONS, ""))
        program = own_program()
        os.execv(program, [program, *words])  # noqa: S606
    except (OSError, ValueError, SandlockError) as error:
        print(f"{name}: {error}; nothing was run", file=sys.stderr)
    return CANNOT


def options_of(text: str, more: list[str]) -> list[str]:
    """Those of `sandlock agent run`, as a shell reads them, and `more`; nobody is asked unless they say whom, for the
    terminal is Claude Code's. Raises ValueError."""
    options = [*shlex.split(text), *more]
    says = any(word == "--ask" or word.startswith("--ask=") for word in options)
    return options if says else [*options, "--ask", "none"]
