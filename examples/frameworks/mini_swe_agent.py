"""mini-swe-agent in a sandbox: a scripted model mends a file, looks where it may not, and submits."""

import os
import tempfile

os.environ["MSWEA_SILENT_STARTUP"] = "1"

from minisweagent.agents.default import DefaultAgent
from minisweagent.models.test_models import DeterministicModel, make_output

import sandlock
from sandlock.agents.mini_swe_agent import SandlockEnvironment

COMMANDS = (
    "sed -i s/helo/hello/ greeting.txt; cat greeting.txt",
    "cat ../diary.txt",
    "git init -q; git push origin main",
    "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat greeting.txt",
)


def approve(request):
    print("asked:", request.summary)
    return sandlock.Deny("pushing is for people")


with tempfile.TemporaryDirectory() as place:
    work = os.path.join(place, "work")
    os.mkdir(work)
    for name, text in (("work/greeting.txt", "helo\n"), ("diary.txt", "private\n")):
        with open(os.path.join(place, name), "w") as file:
            file.write(text)

    model = DeterministicModel(outputs=[make_output("", [{"command": line}], 0) for line in COMMANDS])
    rules = {"add": ["git"], "exec_allow": ["*"], "exec_ask": ["git push *"]}
    with SandlockEnvironment(cwd=work, approve=approve, **rules) as environment:
        agent = DefaultAgent(model, environment, system_template="Mend it.", instance_template="{{task}}")
        print(agent.run("the greeting"))
    for message in agent.messages:
        if message["role"] == "user" and "returncode" in message["content"]:
            print(message["content"])
