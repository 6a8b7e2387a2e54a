"""Pydantic AI: its own conformance suite, on asyncio and trio, and an agent that works in the sandbox."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from framework_pages import run_example, run_page
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.workspaces import WorkspaceBackend, WorkspaceOutputLimitError, WorkspaceRef, WorkspaceTimeoutError
from pydantic_ai.workspaces.conformance import WorkspaceBackendSuite
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.pydantic_ai import SandlockBackend, SandlockSandbox
from sandlock.agents.sandbox import Request

pytestmark = pytest.mark.usefixtures("lasting_thread")


class TestConformance(WorkspaceBackendSuite):
    if os.geteuid() == 0:  # root reads what nobody may read, and the rule would be skipped
        test_permission_denied_uses_builtin_error = None  # type: ignore[assignment]

    @pytest.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[WorkspaceBackend]:
        async with SandlockBackend(tmp_path) as backend:
            yield backend

    @pytest.fixture
    async def made(self) -> AsyncIterator[list[SandlockBackend]]:
        found: list[SandlockBackend] = []
        yield found
        for backend in found:
            await backend.aclose()
            if backend.ref is not None:
                shutil.rmtree(backend.ref.id, ignore_errors=True)

    @pytest.fixture
    def fresh_backend(self, made: list[SandlockBackend]) -> Callable[[], WorkspaceBackend]:
        def fresh() -> WorkspaceBackend:
            made.append(SandlockBackend())
            return made[-1]

        return fresh

    @pytest.fixture
    def attach_backend(self, made: list[SandlockBackend]) -> Callable[[WorkspaceRef], WorkspaceBackend]:
        def attach(ref: WorkspaceRef) -> WorkspaceBackend:
            made.append(SandlockBackend(ref=ref))
            return made[-1]

        return attach

    @pytest.fixture
    def destroy_environment(self) -> Callable[[WorkspaceBackend], Awaitable[None]]:
        async def destroy(backend: WorkspaceBackend) -> None:
            assert backend.ref is not None
            shutil.rmtree(backend.ref.id)

        return destroy


def test_an_agent_works_in_the_sandbox(tmp_path: Path) -> None:
    """Its model calls the workspace's tools; what is denied comes back in words, and what is asked is answered."""
    asked: list[str] = []
    (tmp_path / "inside").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("secret")

    async def approve(request: Request) -> sandlock.Allow | sandlock.Deny:
        asked.append(request.summary)
        return sandlock.Allow() if "made" in request.summary else sandlock.Deny("not that one")

    lines = ["mkdir made", "mkdir other", f"cat {secret}"]
    seen: list[str] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.extend(str(part.content) for part in messages[-1].parts if isinstance(part, ToolReturnPart))
        if len(seen) < len(lines):
            return ModelResponse(parts=[ToolCallPart("shell", {"line": lines[len(seen)]})])
        return ModelResponse(parts=[TextPart("done")])

    options = {"approve": approve, "exec_allow": ["*"], "exec_ask": ["mkdir *"]}
    sandbox = SandlockSandbox(tmp_path / "inside", options=options)
    agent = Agent(FunctionModel(model), capabilities=[sandbox])

    @agent.tool
    async def shell(ctx: RunContext[None], line: str) -> str:
        result = await ctx.workspace.run(line, shell=True)
        return f"{result.exit_code} {result.stdout}{result.stderr}"

    async def main() -> None:
        try:
            assert (await agent.run("go")).output == "done"
        finally:
            await sandbox.aclose()

    asyncio.run(main())
    assert asked == ["exec mkdir made", "exec mkdir other"]
    assert os.listdir(tmp_path / "inside") == ["made"]
    assert "not that one" in seen[1]
    assert not any("secret\n" in each or each.endswith("secret") for each in seen)


async def ask(job: Job) -> str:
    """By a tool that uses the agent's workspace."""
    seen: list[str] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.extend(str(part.content) for part in messages[-1].parts if isinstance(part, ToolReturnPart))
        if not seen:
            return ModelResponse(parts=[ToolCallPart("shell", {"line": job.command})])
        return ModelResponse(parts=[TextPart("done")])

    sandbox = SandlockSandbox(job.work, options=job.keywords)
    agent = Agent(FunctionModel(model), capabilities=[sandbox])

    @agent.tool
    async def shell(ctx: RunContext[None], line: str) -> str:
        try:
            result = await ctx.workspace.run(line, shell=True, timeout=job.timeout)
        except WorkspaceTimeoutError as error:
            return str(error)
        except WorkspaceOutputLimitError as error:
            return f"{error}: {error.stdout}"
        return f"{result.exit_code} {result.stdout}{result.stderr}"

    try:
        await agent.run("go")
    finally:
        await sandbox.aclose()
    return seen[0]


test_ten_cases, test_ten_at_once = cases_of(ask)


def test_the_page() -> None:
    run_page("agents-pydantic-ai.md")


def test_the_example() -> None:
    expected = """
asked: connect tcp://127.0.0.1
{"files":"written from outside","connect":"connected"}
"""
    run_example("pydantic_ai_agent.py", expected)
