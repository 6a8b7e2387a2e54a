"""What a PreToolUse hook of Claude Code answers, as JSON data: every Bash command of the model runs in a sandbox.

Needs no SDK: `sandlock agent hook` prints it. `sandlock.agents.claude` has it for the SDK.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from .own_program import own_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TOOLS", "hook_output", "wrapped_command"]

TOOLS = ("Bash",)


def wrapped_command(command: str, options: Sequence[str], *, program: str | None = None) -> str:
    """The command line that runs this one confined. `options`: those of `sandlock agent run`."""
    words = [program or own_program(), "agent", "run", *options, "--", "bash", "-c", command]
    return shlex.join(words)


def hook_output(given: Mapping[str, Any], options: Sequence[str], *, program: str | None = None) -> dict[str, Any]:
    """What a PreToolUse hook answers to this input: Bash is rewritten, unless it runs outside the sandbox's reach.

    A background command is confined alike. A command that cannot be read is denied.
    """
    if given.get("tool_name") not in TOOLS:
        return {}
    tool_input = given.get("tool_input")
    command = tool_input.get("command") if isinstance(tool_input, dict) else None
    if not isinstance(tool_input, dict) or not isinstance(command, str) or "\0" in command:
        return _decided("deny", "the sandbox cannot read this command")
    updated = {**tool_input, "command": wrapped_command(command, options, program=program)}
    updated.pop("dangerouslyDisableSandbox", None)  # nothing the model says takes it out of the box
    return _decided("allow", "runs in the sandbox", updatedInput=updated)


def _decided(decision: str, reason: str, **more: Any) -> dict[str, Any]:
    facts = {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason, **more}
    return {"hookSpecificOutput": facts}
