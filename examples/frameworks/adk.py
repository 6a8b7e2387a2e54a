"""Google ADK with a Python that lives on in a sandbox: a scripted model computes, and looks where it may not."""

import asyncio

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from sandlock.agents.adk import SandlockCodeExecutor

SAYS = [
    "```python\nprimes = [n for n in range(2, 30) if all(n % d for d in range(2, n))]\nprint(primes)\n```",
    "```python\nopen('sum.txt', 'w').write(str(sum(primes)))\nprint('written')\n```",
    "```python\nimport socket\nsocket.create_connection(('192.0.2.1', 80))\n```",
    "I am done.",
]


class Scripted(BaseLlm):
    async def generate_content_async(self, llm_request, stream=False):
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part.from_text(text=SAYS.pop(0))]))


async def main():
    executor = SandlockCodeExecutor(timeout_seconds=60)
    agent = LlmAgent(name="worker", model=Scripted(model="scripted"), code_executor=executor)
    runner = InMemoryRunner(agent=agent, app_name="demo")
    session = await runner.session_service.create_session(app_name="demo", user_id="me")
    message = types.Content(role="user", parts=[types.Part.from_text(text="primes, please")])
    async for event in runner.run_async(user_id="me", session_id=session.id, new_message=message):
        for part in event.content.parts if event.content else []:
            if part.code_execution_result:
                print(part.code_execution_result.outcome.name, part.code_execution_result.output.strip())
    artifacts = runner.artifact_service
    names = await artifacts.list_artifact_keys(app_name="demo", user_id="me", session_id=session.id)
    print("artifacts:", names)
    executor.close()


asyncio.run(main())
