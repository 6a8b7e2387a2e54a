"""`sandlock agent hook`: the PreToolUse hook of Claude Code, for settings.json."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from sandlock.agents.claude_hook import hook_output

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["answer"]

MAX_INPUT = 16 * 2**20


def answer(options: Sequence[str]) -> int:
    """Reads the hook's input from stdin and prints its answer. Whatever it raises blocks the call (`cli.main`)."""
    given = json.loads(sys.stdin.buffer.read(MAX_INPUT))
    data = json.dumps(hook_output(given, options)).encode() + b"\n"
    # Not by sys.stdout: what that could not write it tries again at the end, which gives exit code 120.
    while data:
        data = data[os.write(1, data) :]
    return 0
