"""An eval of Inspect AI whose samples run in a sandbox: a scripted model mends a file, and asks to push."""

import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash
from inspect_ai.util import SandboxEnvironmentSpec, sandboxenv

import sandlock
from sandlock.agents.inspect_ai import SandlockConfig, SandlockSandboxEnvironment

COMMANDS = ["sed -i s/helo/hello/ greeting.txt; cat greeting.txt", "git init -q; git push origin main"]


@sandboxenv(name="reviewed")
class Reviewed(SandlockSandboxEnvironment):
    @staticmethod
    async def approve(request):
        print("asked:", request.summary)
        return sandlock.Deny("pushing is for people")


def model(messages, *_):
    turn = sum(message.role == "assistant" for message in messages)
    output = ModelOutput.from_content("mockllm/model", "done")
    if turn < len(COMMANDS):
        output = ModelOutput.for_tool_call("mockllm/model", "bash", {"command": COMMANDS[turn]})
    output.usage = ModelUsage()
    return output


rules = SandlockConfig(presets=["git"], exec_ask=["git push *"])
sample = Sample(input="Mend the greeting.", files={"greeting.txt": "helo\n"})
solver = [use_tools(bash(timeout=30)), generate()]
task = Task([sample], solver=solver, sandbox=SandboxEnvironmentSpec("reviewed", rules))
with tempfile.TemporaryDirectory() as logs:
    (log,) = eval(task, model=get_model("mockllm/model", custom_outputs=model), log_dir=logs, display="none")
    print(log.status)
    for message in log.samples[0].messages:
        if message.role == "tool":
            print(message.text)
