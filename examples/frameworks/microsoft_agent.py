"""Microsoft Agent Framework: an agent that works in a sandbox, and asks before it publishes. No model, no network.

Needs `pip install "sandlock[agent-framework]"`.
"""

import asyncio

from agent_framework import Agent, BaseChatClient, ChatResponse, Content, FunctionInvocationLayer, Message

from sandlock.agents.agent_framework import SandlockSandbox

TURNS = [
    ("write_file", {"path": "src/sum.py", "content": "print(sum(range(10)))\n"}),
    ("run_shell", {"command": "touch released; python3 src/sum.py; cat ~/.ssh/id_ed25519"}),
    ("run_python", {"code": "import socket; socket.create_connection(('192.0.2.1', 80))"}),
    ("list_files", {}),
]


class Scripted(FunctionInvocationLayer, BaseChatClient):  # a client of the framework, in earnest
    async def _inner_get_response(self, *, messages, stream, options, **keywords):
        content = Content.from_text("done")
        if TURNS:
            name, arguments = TURNS.pop(0)
            content = Content.from_function_call(call_id=f"call-{len(TURNS)}", name=name, arguments=arguments)
        return ChatResponse(messages=[Message(role="assistant", contents=[content])])


async def main() -> None:
    async with SandlockSandbox(exec_allow=["*"], exec_ask=["touch *"]) as sandbox:
        agent = Agent(Scripted(), context_providers=[sandbox])
        session, contents = agent.create_session(), ["release it"]
        while contents:
            response = await agent.run(Message(role="user", contents=contents), session=session)
            results = [each for message in response.messages for each in message.contents]
            print(*(each.result for each in results if each.type == "function_result"), sep="\n")
            contents = []
            for request in response.user_input_requests:
                asked = request.additional_properties["sandlock"]["summary"]
                print("asked:", asked)
                contents.append(request.to_function_approval_response("released" in asked))


asyncio.run(main())
