"""`sandlock agent hook`: the PreToolUse hook of Claude Code, for settings.json."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from sandlock.agents.claude_hook import hook_output

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
        data = json.dumps(hook_output(given, options)).encode() + b"\n"
        while (
            data
        ):  # not by sys.stdout: what it could not write, it tries again at the end, and fails with exit code 120
            data = data[os.write(1, data) :]
    except Exception as error:
        direct.say(f"agent hook: {error}")
        return BLOCK
    return 0
