"""Strands Agents' sandbox interface, confined: output as it comes, code, files; and an agent that works in it."""

import asyncio
import json

from strands import Agent
from strands.models import Model
from strands.sandbox import StreamChunk

import sandlock
from sandlock.agents.strands import SandlockSandbox


class Scripted(Model):
    """A model that reads a file with its tool, and is done."""

    update_config = get_config = structured_output = lambda self, *args, **keywords: {}
    lines = iter(["cat notes.txt", ""])

    async def stream(self, messages, *args, **keywords):
        yield {"messageStart": {"role": "assistant"}}
        if command := next(self.lines):
            yield {"contentBlockStart": {"start": {"toolUse": {"name": "sandbox_shell", "toolUseId": "t1"}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps({"command": command})}}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if command else "end_turn"}}


async def main():
    rules = {"add": ["git"], "exec_allow": ["*"], "exec_ask": ["git push *"]}
    with SandlockSandbox(approve=lambda request: sandlock.Deny("pushing is for people"), **rules) as sandbox:
        async for each in sandbox.execute_streaming("echo checking; git init -q; git push origin"):
            if isinstance(each, StreamChunk):
                print(f"[{each.stream_type}] {each.data.strip()}")
            else:
                print("exit code", each.exit_code)
        print((await sandbox.execute_code("print('7 squares:', *(n * n for n in range(7)))", "python3")).stdout, end="")
        await sandbox.write_text("notes.txt", "notes.txt: written from outside")
        agent = Agent(model=Scripted(), sandbox=sandbox, callback_handler=None)
        await agent.invoke_async("read the notes")
        print(json.loads(agent.messages[2]["content"][0]["toolResult"]["content"][0]["text"])["output"])


asyncio.run(main())
