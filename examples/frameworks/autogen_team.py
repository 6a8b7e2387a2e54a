"""AutoGen: an agent that executes the code of messages, in a sandbox. No model, no network.

Needs `pip install "sandlock[autogen]" autogen-agentchat`.
"""

import asyncio

from autogen_agentchat.agents import CodeExecutorAgent
from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken

import sandlock
from sandlock.agents.autogen import SandlockCodeExecutor

MESSAGE = """Two things to do:

```python
print(sum(range(10)))
```

```bash
touch made; touch other; cat ~/.ssh/id_ed25519
```
"""


async def approve(request: object) -> object:
    print("asked:", request.summary)
    return sandlock.Allow() if "made" in request.summary else sandlock.Deny("one file is enough")


async def main() -> None:
    async with SandlockCodeExecutor(exec_ask=["touch *"], exec_allow=["*"], approve=approve) as executor:
        agent = CodeExecutorAgent("executor", code_executor=executor, supported_languages=["python", "bash"])
        message = TextMessage(content=MESSAGE, source="user")
        print((await agent.on_messages([message], CancellationToken())).chat_message.content)


asyncio.run(main())
