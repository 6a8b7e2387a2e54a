"""smolagents: an agent whose code runs in a sandbox, and its tools outside. A scripted model, no network."""

from smolagents import ChatMessage, CodeAgent, LogLevel, Model, tool

import sandlock
from sandlock.agents.smolagents import SandlockExecutor

STEPS = (
    "found = price('tea')\nprint('tea is', found)\nopen('/etc/hostname', 'w')",
    "import subprocess\nsubprocess.run(['touch', 'made'])\nsubprocess.run(['touch', 'other'])",
    "final_answer({'tea': found * 2})",
)


class Scripted(Model):
    def generate(self, messages, **options):
        done = sum(message.role == "assistant" for message in messages)
        return ChatMessage(role="assistant", content=f"<code>\n{STEPS[done]}\n</code>")


@tool
def price(name: str) -> float:
    """What something costs. It runs in this process, with whatever it needs: keys, the network.

    Args:
        name: of the thing
    """
    return {"tea": 2.5}[name]


def approve(request):
    print("asked:", request.summary)
    return sandlock.Allow() if "made" in request.summary else sandlock.Deny("one file is enough")


with SandlockExecutor(exec_ask=["touch *"], exec_allow=["*"], approve=approve) as executor:
    agent = CodeAgent([price], Scripted(), executor=executor, verbosity_level=LogLevel.OFF)
    print(agent.run("What do two teas cost?"))
    for step in agent.memory.steps[1:3]:
        print(step.error)
