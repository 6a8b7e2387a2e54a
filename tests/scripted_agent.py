"""A scripted model for Microsoft Agent Framework, and sessions with agents on it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from agent_framework import (
    Agent,
    AgentResponse,
    AgentSession,
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
)

from sandlock.agents.agent_framework import SandlockSandbox

__all__ = ["ASKED", "REJECTED", "Model", "Talk", "commands"]

ASKED: dict[str, Any] = {"exec_allow": ["*"], "exec_ask": ["touch *"]}
REJECTED = "Error: Tool call invocation was rejected by user."


class Model(FunctionInvocationLayer, BaseChatClient):
    """Says one turn after the other: a list of tool calls, or a text; then "done"."""

    def __init__(self, *turns: Any) -> None:
        super().__init__()
        self.turns, self.count = list(turns), 0

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **keywords: Any) -> Any:
        turn = self.turns.pop(0) if self.turns else "done"
        contents = [Content.from_text(turn)] if isinstance(turn, str) else [self._call(*each) for each in turn]

        async def updates() -> AsyncIterator[ChatResponseUpdate]:
            yield ChatResponseUpdate(role="assistant", contents=contents)

        async def response() -> ChatResponse:
            return ChatResponse(messages=[Message(role="assistant", contents=contents)])

        return ResponseStream(updates(), finalizer=ChatResponse.from_updates) if stream else response()

    def _call(self, name: str, arguments: dict[str, Any]) -> Content:
        self.count += 1
        return Content.from_function_call(call_id=f"call-{self.count}", name=name, arguments=json.dumps(arguments))

    @staticmethod
    def get_shell_tool(**keywords: Any) -> Any:
        return keywords["func"]


def commands(*texts: str) -> list[tuple[str, dict[str, Any]]]:
    return [("run_shell", {"command": text}) for text in texts]


class Talk:
    """One session with an agent."""

    def __init__(self, box: SandlockSandbox, *turns: Any, stream: bool = False, **agent: Any) -> None:
        self.box, self.stream = box, stream
        self.agent = Agent(Model(*turns), **({"context_providers": [box]} | agent))
        self.session = AgentSession()
        self.requests: list[Content] = []

    async def say(self, *contents: Content) -> list[str]:
        """What the tools answered."""
        message = Message(role="user", contents=list(contents) or ["go"])
        response: AgentResponse
        if self.stream:
            response = await self.agent.run(message, session=self.session, stream=True).get_final_response()
        else:
            response = await self.agent.run(message, session=self.session)
        self.requests = list(response.user_input_requests)
        found = [content for each in response.messages for content in each.contents]
        return [str(content.result) for content in found if content.type == "function_result"]

    def asks(self) -> list[str]:
        return [each.additional_properties["sandlock"]["summary"] for each in self.requests]

    async def answer(self, *approved: bool) -> list[str]:
        pairs = zip(self.requests, approved, strict=True)
        return await self.say(*(request.to_function_approval_response(yes) for request, yes in pairs))
