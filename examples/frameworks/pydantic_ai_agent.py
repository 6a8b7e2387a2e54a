"""An agent of Pydantic AI whose workspace is a sandbox: commands, files, a network that somebody opens."""

import asyncio
import socket
import tempfile

from pydantic_ai import Agent, RunContext
from pydantic_ai.models.test import TestModel

import sandlock
from sandlock.agents.pydantic_ai import SandlockSandbox

PROGRAM = "import socket; socket.create_connection(('127.0.0.1', {port})); print('connected')"


def approve(request):
    print("asked:", request.summary.rpartition(":")[0])
    return sandlock.Allow()


async def main(project, port):
    sandbox = SandlockSandbox(project, options={"approve": approve})
    agent = Agent(TestModel(), capabilities=[sandbox])  # it calls each tool once

    @agent.tool
    async def files(ctx: RunContext[None]) -> str:
        await ctx.workspace.write_text("notes.txt", "written from outside")
        return (await ctx.workspace.run("cat notes.txt; cat /etc/shadow", shell=True)).stdout

    @agent.tool
    async def connect(ctx: RunContext[None]) -> str:
        result = await ctx.workspace.run(["python3", "-c", PROGRAM.format(port=port)])
        return result.stdout.strip()

    print((await agent.run("go")).output)
    await sandbox.aclose()


with tempfile.TemporaryDirectory() as project, socket.create_server(("127.0.0.1", 0)) as server:
    asyncio.run(main(project, server.getsockname()[1]))
