"""The OpenAI Agents SDK's ShellTool and a SandboxAgent, both confined; a function decides what is asked."""

import asyncio
import socket

from agents import Agent, RunConfig, Runner, ShellTool
from agents.sandbox import SandboxAgent, SandboxRunConfig
from agents.testing import ScriptedModel, assistant_message, function_call

import sandlock
from sandlock.agents.openai import SandlockSandboxClient, shell_executor
from sandlock.agents.sandbox import AgentSandbox


def outputs(result):
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]


async def with_shell_tool():
    commands = ["echo hello > notes.txt; cat notes.txt", "cat /etc/shadow"]
    call = {"type": "shell_call", "call_id": "c1", "id": "c1", "status": "completed", "action": {"commands": commands}}
    async with AgentSandbox() as box:
        tool = ShellTool(executor=shell_executor(box))
        agent = Agent(name="worker", tools=[tool], model=ScriptedModel([[call], [assistant_message("done")]]))
        print(*outputs(await Runner.run(agent, "go", run_config=RunConfig(tracing_disabled=True))), sep="\n")


async def with_a_session(port):
    program = f"import socket; socket.create_connection(('127.0.0.1', {port})); print('connected')"
    call = function_call("exec_command", {"cmd": f'python3 -c "{program}"'}, call_id="c1")
    agent = SandboxAgent(name="worker", model=ScriptedModel([[call], [assistant_message("done")]]))

    def approve(request):
        print("asked:", request.summary.rpartition(":")[0])
        return sandlock.Allow()

    config = RunConfig(sandbox=SandboxRunConfig(client=SandlockSandboxClient(approve=approve)), tracing_disabled=True)
    print(outputs(await Runner.run(agent, "go", run_config=config))[0].partition("Output:\n")[2])


asyncio.run(with_shell_tool())
with socket.create_server(("127.0.0.1", 0)) as server:
    asyncio.run(with_a_session(server.getsockname()[1]))
