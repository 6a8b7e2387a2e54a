"""`sandlock agent mcp`: the MCP server of sandbox tools, on standard input and output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from sandlock import PolicyError

if TYPE_CHECKING:
    from .. import direct

__all__ = ["serve"]


def serve(request: direct.Request) -> int:
    """Serves until the client closes our input. The policy is that of an agent run, with these options."""
    try:
        from sandlock.agents.mcp import SandboxServer
        from sandlock.agents.mcp_tools import read_tools
    except ImportError as error:
        raise PolicyError(f'agent mcp needs {error.name}: pip install "sandlock[mcp]"') from error
    given: dict[str, Any] = dict(request.given)
    workspace, tools, add = given.pop("workspace", None), given.pop("tools", None), given.pop("add", ())
    if request.words:
        raise PolicyError(f"agent mcp runs no command of its own; leave {request.words[0]!r} out")
    server = SandboxServer(
        str(workspace or os.getcwd()),
        tools=read_tools(_text(str(tools)), str(tools)) if tools else None,
        add=[str(each) for each in add] if isinstance(add, list) else [],
        **{name: value for name, value in given.items() if value is not None},
    )
    trio.run(server.run_stdio)
    return 0


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(2**20)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"--tools: {path}: {error}; name a TOML file of tools") from error
