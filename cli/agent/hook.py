"""`sandlock agent hook`: the PreToolUse hook of Claude Code, for settings.json."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from sandlock.agents.claude import hook_output

from .. import direct

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["answer"]

BLOCK = 2
"""The exit code by which a hook of Claude Code blocks the call; any other failure would let it pass."""
MAX_INPUT = 16 * 2**20


def answer(options: Sequence[str]) -> int:
    """Reads the hook's input from stdin and prints its answer. Whatever goes wrong blocks the call."""
    try:
        given = json.loads(sys.stdin.buffer.read(MAX_INPUT))
        print(json.dumps(hook_output(given, options)))
    except Exception as error:
        direct.say(f"agent hook: {error}")
        return BLOCK
    return 0
