"""The OpenAI Agents SDK: what the sandbox asks interrupts a run, and the state that is resumed has the answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, RunState
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.testing import ScriptedModel, assistant_message, function_call
from framework_pages import run_example, run_page
from loops import wait_alive

from sandlock.agents.openai import SandlockSandboxClient
from sandlock.agents.openai_approvals import SandlockApprovals
from sandlock.agents.sandbox import AgentSandbox

pytestmark = pytest.mark.usefixtures("lasting_thread")

RULES: dict[str, Any] = {"exec_allow": ["*"], "exec_ask": ["mkdir *"]}


class Desk:
    """An agent whose commands run in a session in `place`, and who resumes its runs."""

    def __init__(self, approvals: SandlockApprovals, place: Path, lines: list[str], **options: Any) -> None:
        calls = [
            [function_call("exec_command", {"cmd": line, **options}, call_id=f"c{i}")] for i, line in enumerate(lines)
        ]
        model = ScriptedModel([*calls, [assistant_message("done")]])
        self.approvals, self.place, self.config = approvals, place, RunConfig(tracing_disabled=True)
        self.agent = SandboxAgent(name="agent", model=model, instructions="work", capabilities=[approvals.shell()])

    async def run(self, given: Any) -> Any:
        return await Runner.run(self.agent, given, run_config=self.config)

    def within(self, body: Callable[[Desk], Awaitable[None]], **keywords: Any) -> None:
        async def main() -> None:
            client = SandlockSandboxClient(approve=self.approvals.approve, **(RULES | keywords))
            session = await client.create(manifest=Manifest(root=str(self.place)))
            async with session:
                self.config.sandbox = SandboxRunConfig(client=client, session=session)
                await body(self)

        asyncio.run(main())


def outputs(result: Any) -> list[str]:
    return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]


def test_an_approval_lets_the_command_go_on_where_it_stands(tmp_path: Path) -> None:
    approvals = SandlockApprovals()

    async def body(desk: Desk) -> None:
        result = await desk.run("go")
        (item,) = result.interruptions
        question = approvals.question(item)
        assert question is not None
        assert list(question.argv) == ["mkdir", "made"]
        assert os.listdir(tmp_path) == ["begun"]
        await asyncio.sleep(0.6)  # longer than the command gives its output to come
        state = result.to_state()
        state.approve(item)
        result = await desk.run(state)
        assert result.final_output == "done"
        assert "rc 0" in outputs(result)[0]
        assert (tmp_path / "begun").read_text() == "once\n"
        assert (tmp_path / "made").is_dir()

    line = "echo once >> begun; mkdir made; echo rc $?"
    Desk(approvals, tmp_path, [line], yield_time_ms=300).within(body)


def test_what_asks_nothing_interrupts_nothing(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        result = await desk.run("go")
        assert result.interruptions == []
        assert "one" in outputs(result)[0]
        assert "exit code 3" in outputs(result)[1].replace("exited with code", "exit code")

    Desk(SandlockApprovals(), tmp_path, ["echo one", "exit 3"]).within(body)


def test_a_rejection_ends_the_command(tmp_path: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def body(desk: Desk) -> None:
        result = await desk.run("go")
        assert wait_alive(mark, 1)
        state = result.to_state()
        state.reject(result.interruptions[0])
        result = await desk.run(state)
        assert result.final_output == "done"
        assert "not approved" in outputs(result)[0]
        assert await asyncio.to_thread(wait_alive, mark, 0) == []

    Desk(SandlockApprovals(), tmp_path, [f"bash -c 'exec -a {mark} sleep 60' & mkdir made; sleep 60"]).within(body)
    assert os.listdir(tmp_path) == []


def test_other_answers(tmp_path: Path) -> None:
    """A denial with which the command goes on; an approval for the rest of the run."""
    approvals = SandlockApprovals()

    async def body(desk: Desk) -> None:
        result, answers = (
            await desk.run("go"),
            [{"verdict": "deny", "reason": "not there"}, {"verdict": "allow", "scope": "run"}],
        )
        while result.interruptions:
            state = result.to_state()
            approvals.answer(result.interruptions[0], answers.pop(0))
            state.approve(result.interruptions[0])
            result = await desk.run(state)
        first, second = outputs(result)[-2:]
        assert "after" in first
        assert "(not there)" in first
        assert "sandbox_violations" not in second

    Desk(approvals, tmp_path, ["mkdir a; echo after", "mkdir b; rmdir b; mkdir b"]).within(body)
    assert os.listdir(tmp_path) == ["b"]


def test_streamed(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        result = Runner.run_streamed(desk.agent, "go", run_config=desk.config)
        async for _ in result.stream_events():
            pass
        assert os.listdir(tmp_path) == []
        state = result.to_state()
        state.approve(result.interruptions[0])
        result = Runner.run_streamed(desk.agent, state, run_config=desk.config)
        async for _ in result.stream_events():
            pass
        assert result.final_output == "done"

    Desk(SandlockApprovals(), tmp_path, ["mkdir a"]).within(body)
    assert os.listdir(tmp_path) == ["a"]


def test_two_calls_at_once(tmp_path: Path) -> None:
    """Each has its own question; one is approved and one is rejected."""
    calls = [function_call("exec_command", {"cmd": f"mkdir {name}; echo rc $?"}, call_id=name) for name in "ab"]
    approvals = SandlockApprovals()

    async def body(desk: Desk) -> None:
        desk.agent.model = ScriptedModel([calls, [assistant_message("done")]])
        result = await desk.run("go")
        state = result.to_state()
        asked = {}
        for item in result.interruptions:
            question = approvals.question(item)
            assert question is not None
            asked[question.argv[1]] = item
        state.approve(asked["b"])
        state.reject(asked["a"])
        result = await desk.run(state)
        assert [("rc 0" in each, "not approved" in each) for each in outputs(result)] in (
            [(True, False), (False, True)],
            [(False, True), (True, False)],
        )

    Desk(approvals, tmp_path, []).within(body)
    assert os.listdir(tmp_path) == ["b"]


def test_an_approval_answers_one_question(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        result = await desk.run("go")
        state = result.to_state()
        state.approve(result.interruptions[0])
        result = await desk.run(state)
        assert "deny exec mkdir b" in outputs(result)[0]
        assert "a further one" in outputs(result)[0]

    Desk(SandlockApprovals(), tmp_path, ["mkdir a; mkdir b"]).within(body)
    assert os.listdir(tmp_path) == ["a"]


def test_always_answers_no_question(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        result = await desk.run("go")
        state = result.to_state()
        state.approve(result.interruptions[0], always_approve=True)
        result = await desk.run(state)
        assert result.interruptions == []
        assert "deny exec mkdir b" in outputs(result)[-1]

    Desk(SandlockApprovals(), tmp_path, ["mkdir a", "mkdir b"]).within(body)
    assert os.listdir(tmp_path) == ["a"]


def test_a_state_that_was_written_down(tmp_path: Path) -> None:
    """Resumed in this process, it goes on; elsewhere, nothing is repeated and nothing approved."""
    approvals = SandlockApprovals()

    async def body(desk: Desk) -> None:
        text = (await desk.run("go")).to_state().to_string()
        stranger = Desk(SandlockApprovals(), tmp_path, [])
        stranger.config = desk.config
        state = await RunState.from_string(stranger.agent, text)
        state.approve(state.get_interruptions()[0])
        result = await stranger.run(state)
        assert "in a process that is gone" in outputs(result)[0]
        assert not (tmp_path / "a").exists()
        state = await RunState.from_string(desk.agent, text)
        state.approve(state.get_interruptions()[0])
        result = await desk.run(state)
        assert "rc 0" in outputs(result)[0]

    Desk(approvals, tmp_path, ["echo once >> begun; mkdir a; echo rc $?"]).within(body)
    assert (tmp_path / "begun").read_text() == "once\n"
    assert (tmp_path / "a").is_dir()


def test_nobody_answers_in_time(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        result = await desk.run("go")
        await asyncio.sleep(1.5)
        state = result.to_state()
        state.approve(result.interruptions[0])
        assert "deny exec mkdir a" in outputs(await desk.run(state))[0]

    Desk(SandlockApprovals(), tmp_path, ["mkdir a"]).within(body, approve_timeout=0.5)
    assert os.listdir(tmp_path) == []


def test_a_cancelled_run_ends_its_command(tmp_path: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def body(desk: Desk) -> None:
        run = asyncio.create_task(desk.run("go"))
        assert await asyncio.to_thread(wait_alive, mark, 1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert await asyncio.to_thread(wait_alive, mark, 0) == []

    Desk(SandlockApprovals(), tmp_path, [f"bash -c 'exec -a {mark} sleep 60'"], yield_time_ms=60_000).within(body)


def test_shell_tool(tmp_path: Path) -> None:
    async def main() -> None:
        approvals = SandlockApprovals()
        async with AgentSandbox(tmp_path, approve=approvals.approve, **RULES) as box:
            action = {"commands": ["echo one", "mkdir made; ls"]}
            call = {"type": "shell_call", "call_id": "s1", "id": "x", "status": "completed", "action": action}
            model = ScriptedModel([[call], [assistant_message("done")]])  # type: ignore[list-item]
            agent = Agent(name="agent", model=model, tools=[approvals.shell_tool(box)])
            config = RunConfig(tracing_disabled=True)
            result = await Runner.run(agent, "go", run_config=config)
            (item,) = result.interruptions
            question = approvals.question(item)
            assert question is not None
            assert list(question.argv) == ["mkdir", "made"]
            assert os.listdir(tmp_path) == []
            state = result.to_state()
            state.approve(item)
            result = await Runner.run(agent, state, run_config=config)
            (text,) = outputs(result)
            assert "one" in text
            assert "made" in text

    asyncio.run(main())
    assert os.listdir(tmp_path) == ["made"]


def test_a_rejected_shell_tool(tmp_path: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        approvals = SandlockApprovals()
        async with AgentSandbox(tmp_path, approve=approvals.approve, **RULES) as box:
            action = {"commands": [f"bash -c 'exec -a {mark} sleep 60' & mkdir made; sleep 60"]}
            call = {"type": "shell_call", "call_id": "s1", "id": "x", "status": "completed", "action": action}
            agent = Agent(
                name="agent",
                model=ScriptedModel([[call], [assistant_message("done")]]),  # type: ignore[list-item]
                tools=[approvals.shell_tool(box)],
            )
            config = RunConfig(tracing_disabled=True)
            result = await Runner.run(agent, "go", run_config=config)
            assert await asyncio.to_thread(wait_alive, mark, 1)
            state, (item,) = result.to_state(), result.interruptions
            state.reject(item)
            await approvals.end(item)
            assert await asyncio.to_thread(wait_alive, mark, 0) == []
            result = await Runner.run(agent, state, run_config=config)
            assert result.final_output == "done"
            assert "made" not in outputs(result)[0]

    asyncio.run(main())
    assert os.listdir(tmp_path) == []


def test_the_page() -> None:
    run_page("agents-openai.md")


def test_the_example() -> None:
    expected = """
$ echo hello > notes.txt; cat notes.txt
hello

$ cat /etc/shadow
stderr:
cat: /etc/shadow: Permission denied
exit code: 1
asked: connect tcp://127.0.0.1
connected
"""
    run_example("openai_agents.py", expected)
