"""A deep agent whose commands and files are confined to one directory; a function decides what is asked."""

from deepagents import create_deep_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

import sandlock
from sandlock.agents.deepagents import SandlockBackend


class Scripted(GenericFakeChatModel):
    """A model that writes a file, lists, and tries to publish."""

    def bind_tools(self, tools, **keywords):
        return self


def call(number, name, **arguments):
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{number}"}])


def approve(request):
    print("asked:", request.summary)
    return sandlock.Deny("publishing is for people")


turns = [
    call(1, "write_file", file_path="/notes.txt", content="draft"),
    call(2, "execute", command="cat notes.txt; git init -q; git push origin"),
    AIMessage("done"),
]
rules = {"add": ["git"], "exec_allow": ["*"], "exec_ask": ["git push *"]}
with SandlockBackend(approve=approve, **rules) as backend:
    agent = create_deep_agent(model=Scripted(messages=iter(turns)), backend=backend)
    for message in agent.invoke({"messages": [("user", "publish the notes")]})["messages"]:
        if message.type == "tool":
            print(message.content)
