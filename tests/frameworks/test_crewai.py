"""The recipe for CrewAI, from its page: agents with a scripted model that writes its calls, or has tools to call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recipes import home_of_its_own, recipe

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false"}
os.environ |= home_of_its_own()

import json
import threading

from crewai import Agent, Crew, Task
from crewai.events.event_bus import crewai_event_bus
from crewai.llms.base_llm import BaseLLM
from loops import wait_alive
from ten_cases import ASKED, Job, cases_of

page = recipe("CrewAI")
Call = tuple[str, dict[str, Any]]


class Scripted(BaseLLM):
    """Makes one call after the other, and at the end says what it has seen."""

    calls: list[Call]
    has_tools: bool = False
    done: int = 0

    def supports_function_calling(self) -> bool:
        return self.has_tools

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        if self.done == len(self.calls):
            return "Thought: I now know the final answer\nFinal Answer: " + seen(messages)
        name, arguments = self.calls[self.done]
        self.done += 1
        if self.has_tools:
            function = {"name": name, "arguments": json.dumps(arguments)}
            return [{"id": f"call-{self.done}", "type": "function", "function": function}]
        return f"Thought: go on\nAction: {name}\nAction Input: {json.dumps(arguments)}"

    def get_context_window_size(self) -> int:
        return 1_000_000  # else it puts long answers into files

    async def acall(self, messages: Any, *_: Any, **__: Any) -> Any:
        return self.call(messages)


def seen(messages: Any) -> str:
    """The tools' answers."""
    texts = [str(message.get("content")) for message in messages if message["role"] in ("assistant", "tool")]
    return "\n".join(text.partition("Observation:")[2] or text for text in texts)


@pytest.fixture(scope="module", autouse=True)
def threads_of_crewai(lasting_thread: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those that it starts with its first agents, and never ends; all that handle its events."""
    work = tmp_path_factory.mktemp("work")
    for has_tools in (False, True):
        llm = Scripted(model="scripted", calls=[("shell", {"command": "true"})], has_tools=has_tools)
        asyncio.run(page.solve("go on", llm, str(work)))
    handlers = crewai_event_bus._sync_executor
    everybody = threading.Barrier(handlers._max_workers)
    for waiting in [handlers.submit(everybody.wait, 30) for _ in range(handlers._max_workers)]:
        waiting.result()


def tools_of(box: Any, *kinds: Any) -> list[Any]:
    return [kind(box=box) for kind in kinds or (page.SandboxShell, page.SandboxPython)]


def answered(llm: Scripted, tools: Sequence[Any], **options: Any) -> str:
    """By a crew, in plain code."""
    agent = Agent(role="engineer", goal="g", backstory="b", llm=llm, tools=list(tools))
    task = Task(description="go on", expected_output="the answer", agent=agent)
    return str(Crew(agents=[agent], tasks=[task], **options).kickoff().raw)


def asking(has_tools: bool) -> Any:
    async def ask(job: Job) -> str:
        llm = Scripted(model="scripted", calls=[("shell", {"command": job.command})], has_tools=has_tools)
        found: str = await page.solve("go on", llm, str(job.work), timeout=job.timeout or 60.0, **job.keywords)
        return found

    return ask


test_ten_cases, test_ten_at_once = cases_of(asking(has_tools=False))
test_ten_cases_with_tools, test_ten_at_once_with_tools = cases_of(asking(has_tools=True))


@pytest.mark.parametrize("has_tools", [False, True])
def test_a_crew_in_plain_code(tmp_path: Path, has_tools: bool) -> None:
    code = "import subprocess; x = 20; subprocess.run(['sh', '-c', 'touch made; touch kept']).returncode"
    calls: list[Call] = [("python", {"code": code}), ("python", {"code": "x + 22"})]
    rules = {"exec_allow": ["*"], "exec_deny": ["touch kept # it is kept"]}
    with page.SyncAgentSandbox(str(tmp_path), **rules) as box:
        text = answered(Scripted(model="scripted", calls=calls, has_tools=has_tools), tools_of(box))
    assert "42" in text
    assert "it is kept" in text
    assert os.listdir(tmp_path) == ["made"]


class Caching(page.SandboxShell):  # type: ignore[misc, name-defined]
    cache_function: Any = lambda arguments=None, result=None: True


@pytest.mark.parametrize(("kind", "times"), [(page.SandboxShell, 2), (Caching, 1)])
def test_the_same_command_is_run_again_where_results_are_kept(tmp_path: Path, kind: Any, times: int) -> None:
    grow = {"command": "echo line >> file"}
    calls: list[Call] = [("shell", grow), ("shell", {"command": "true"}), ("shell", grow)]
    with page.SyncAgentSandbox(str(tmp_path)) as box:
        answered(Scripted(model="scripted", calls=calls, has_tools=True), tools_of(box, kind), cache=True)
    assert (tmp_path / "file").read_text() == "line\n" * times


def test_tools_that_are_awaited(tmp_path: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main(job: Job) -> None:
        with page.SyncAgentSandbox(str(tmp_path), **job.keywords) as box:
            shell, python = tools_of(box)
            assert "not on fridays" in await shell.arun(command="touch made")
            await python.arun(code="x = 20")
            assert await python.arun(code="x + 22") == "42"
            waiting = asyncio.ensure_future(shell.arun(command=f"bash -c 'exec -a {mark} sleep 90'"))
            assert len(await asyncio.to_thread(wait_alive, mark, 1, 30)) == 1
            waiting.cancel()
            await asyncio.wait([waiting])
            assert await asyncio.to_thread(wait_alive, mark, 0) == []

    job = Job(tmp_path, "", answer="not on fridays", fields=ASKED)
    asyncio.run(main(job))
    assert len(job.asked) == 1
    assert os.listdir(tmp_path) == []
