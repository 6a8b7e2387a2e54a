"""A client of `sandlock agent mcp`: tools whose effects stay in the workspace, and a user who is asked."""

import asyncio
import os
import shutil
import tempfile

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitResult


async def form(context, params):
    print("asked:", params.message.splitlines()[0])
    return ElicitResult(action="accept", content={"choice": "o"})  # once


async def main(top):
    project = os.path.join(top, "project")
    os.mkdir(project)
    words = ["agent", "mcp", "--workspace", project, "--exec-allow", "*", "--exec-ask", "mkdir *"]
    server = StdioServerParameters(command=shutil.which("sandlock"), args=words, env=dict(os.environ))
    async with Client(stdio_client(server), elicitation_callback=form) as client:
        print(*sorted(tool.name for tool in (await client.list_tools()).tools))
        for command in ("mkdir made; ls", f"echo x > {top}/outside", "exit 3"):
            print((await client.call_tool("run", {"command": command})).content[0].text)
    print(os.listdir(top))


with tempfile.TemporaryDirectory() as top:
    asyncio.run(main(top))
