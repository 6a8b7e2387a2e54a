"""Several clients of one MCP server: what one user has allowed is no other's, and no end is another's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from loops import Loop
from mcp import Client

from sandlock import SandlockError
from sandlock.agents.mcp import SandboxServer

pytestmark = pytest.mark.usefixtures("lasting_thread")
MODES = ("legacy", "auto")
LOOK_UP = "getent hosts name.invalid"


async def said(client: Any, command: str) -> str:
    content = (await client.call_tool("run", {"command": command})).content[0]
    assert isinstance(content, types.TextContent)
    return content.text


@pytest.mark.parametrize("mode", MODES)
def test_a_host_is_allowed_to_who_was_asked(loop: Loop, mode: str, tmp_path: Path) -> None:
    """Nothing tells the clients of a server apart that is not one program's own: the next call is asked about again."""
    seen: list[str] = []

    async def person(context: object, params: Any) -> types.ElicitResult:
        seen.append(params.message.splitlines()[0])
        choice = "h" if len(seen) == 1 else "d"
        return types.ElicitResult(action="accept", content={"choice": choice})

    async def body() -> None:
        server = SandboxServer(tmp_path)
        async with Client(server.mcp, mode=mode, elicitation_callback=person) as client:
            assert "knows no address" in await said(client, f"{LOOK_UP}; {LOOK_UP}")  # it was allowed, and looked up
            assert len(seen) == 1, "for this call it is"
            assert "knows no address" not in await said(client, LOOK_UP)
            assert len(seen) == 2

    loop.run(body)


@pytest.mark.parametrize("mode", MODES)
def test_another_connection_does_not_end_the_first(loop: Loop, mode: str, tmp_path: Path) -> None:
    async def body() -> None:
        server = SandboxServer(tmp_path)
        async with Client(server.mcp, mode=mode) as client:
            with pytest.raises((SandlockError, ExceptionGroup)) as caught:
                async with Client(server.mcp, mode=mode):
                    pass
            assert "serves somebody already" in "".join(map(str, getattr(caught.value, "exceptions", [caught.value])))
            assert await said(client, "echo still here") == "still here"
        async with Client(server.mcp, mode=mode) as client:
            assert await said(client, "echo later") == "later"

    loop.run(body)
