"""Microsoft Agent Framework with a scripted model: the executor, an agent and its tools, files."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from agent_framework import Agent, Content, create_harness_agent
from agent_framework_tools.shell import LocalShellTool, ShellEnvironmentProvider, ShellExecutor
from framework_pages import run_example, run_page
from loops import wait_alive
from scripted_agent import ASKED, Model, Talk, commands
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.agent_framework import SandlockSandbox
from sandlock.agents.sandbox import Request

pytestmark = pytest.mark.usefixtures("lasting_thread")

LINE = "{ echo begun; echo wrong >&2; exit 3; }"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# ---- the executor


@pytest.mark.parametrize(
    ("command", "timeout"),
    [
        (LINE, None),
        ("printf '%s\\n' \"$0\" | wc -l; cd /; pwd; cat", None),
        ("exit 255", None),
        ("kill -9 $$", None),
        ("nothing-of-this-name", None),
        ("printf '\\377\\n'; yes | head -c 100000", None),
        ("echo begun; sleep 60; echo never", 0.5),
    ],
)
def test_results_are_those_of_the_local_shell(work: Path, command: str, timeout: float | None) -> None:
    async def main() -> tuple[Any, Any]:
        theirs = LocalShellTool(mode="stateless", workdir=work, shell=["bash", "--noprofile", "--norc"])
        async with SandlockSandbox(work, max_output_chars=64 * 1024) as ours:
            assert isinstance(ours, ShellExecutor)
            return await theirs.run(command, timeout=timeout), await ours.run(command, timeout=timeout)

    theirs, ours = asyncio.run(main())
    assert (ours.truncated, ours.timed_out) == (theirs.truncated, theirs.timed_out)
    if not theirs.timed_out:  # a signal is a number below zero there, as in Python
        assert ours.exit_code == (theirs.exit_code if theirs.exit_code >= 0 else 128 - theirs.exit_code)
    if not theirs.truncated and not theirs.timed_out:
        assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    if theirs.timed_out:  # theirs loses what was printed
        assert ours.stdout == "begun\n"
    elif theirs.exit_code >= 0 and not theirs.truncated:
        assert ours.format_for_model() == theirs.format_for_model()
    assert ours.duration_ms >= (timeout or 0) * 1000


def test_it_opens_once_closes_twice_and_opens_again(work: Path) -> None:
    async def main() -> None:
        box = SandlockSandbox()
        with pytest.raises(sandlock.SandlockError, match="not open"):
            _ = box.sandbox
        first, second = await asyncio.gather(box.run("pwd; touch here"), box.run("pwd"))
        assert first.stdout == second.stdout
        await box.close()
        await box.close()
        assert not os.path.exists(first.stdout.strip())
        await box.start()
        again = await box.run("pwd")
        assert again.stdout != first.stdout
        await box.close()

    asyncio.run(main())


def test_the_frameworks_provider_and_harness_take_it(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work) as box:
            found = await ShellEnvironmentProvider(box).refresh()
            assert found.working_directory == str(work)
            model = Model(commands("pwd; echo $((6 * 7)) > made"))
            agent = create_harness_agent(model, shell_executor=box, disable_web_search=True, disable_file_memory=True)
            await agent.run("go", session=agent.create_session())
        assert (work / "made").read_text() == "42\n"

    asyncio.run(main())


def test_a_time_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(sandlock.PolicyError, match="timeout"):
        SandlockSandbox(timeout=0)


# ---- an agent and its tools


def test_an_agent_works_confined(work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    found: list[sandlock.Result] = []
    line = f"echo out; cat {secret}; echo x > {secret}; echo made > made; exit 3"
    code = f"print(6 * 7); open({str(secret)!r}, 'a')"

    async def main() -> list[str]:
        outside = await LocalShellTool(mode="stateless").run(f"cat {secret}")
        assert outside.stdout == "hidden-word"  # without the sandbox
        async with SandlockSandbox(work, on_result=found.append) as box:
            return await Talk(box, commands(line), [("run_python", {"code": code})]).say()

    shell, python = asyncio.run(main())
    assert shell.startswith("out\n\nstderr: cat: ")
    assert shell.endswith("exit_code: 3")
    assert python.startswith("42\n")
    assert "PermissionError" in python
    assert "hidden-word" not in shell + python
    assert secret.read_text() == "hidden-word"
    assert (work / "made").read_text() == "made\n"
    assert [each.exit_code for each in found] == [3, 1]


def test_files_are_touched_without_a_process_and_stay_inside(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden-word")
    (work / "link").symlink_to(tmp_path / "secret")
    turns = [
        [("write_file", {"path": "deep/a.txt", "content": "one\n"})],
        [("read_file", {"path": str(work / "deep/a.txt")}), ("list_files", {"path": "deep"})],
        [("read_file", {"path": name}) for name in ("missing", "link", "../secret", "deep")],
        [("write_file", {"path": name, "content": "x"}) for name in ("link", "../x", ".mcp.json")],
        commands("true"),
    ]

    async def main() -> list[str]:
        async with SandlockSandbox(work, exec_deny=["*"]) as box:
            return await Talk(box, *turns).say()

    answers = asyncio.run(main())
    assert answers[:2] == ["wrote 4 characters to deep/a.txt", "one\n"]
    assert answers[2].split() == ["file", "4", "deep/a.txt"]
    assert [each.startswith("Error: ") for each in answers[3:10]] == [True] * 7
    assert "deny exec" in answers[10]  # no process could have done it
    assert "hidden-word" not in str(answers)
    assert (tmp_path / "secret").read_text() == "hidden-word"
    assert not (tmp_path / "x").exists()
    assert not (work / ".mcp.json").exists()


def test_denials_and_limits_are_told_beside_the_text(work: Path) -> None:
    rules = {"exec_allow": ["*"], "exec_deny": ["touch * # by hand"]}

    async def main() -> list[Content]:
        async with SandlockSandbox(work, max_output_chars=100, **rules) as box:
            response = await Agent(Model(commands("touch x; seq 1000; exit 4")), context_providers=[box]).run("go")
        return [each for message in response.messages for each in message.contents if each.type == "function_result"]

    (answer,) = asyncio.run(main())
    (item,) = answer.items
    fields = item.additional_properties
    assert (fields["exit_code"], fields["truncated"], fields["timed_out"]) == (4, True, False)
    assert "characters left out" in fields["stdout"]
    assert len(fields["stdout"]) < 200
    assert "<sandbox_violations>deny exec touch x (rule touch *: by hand)" in fields["stderr"]
    assert ["by hand" in each for each in fields["denials"]] == [True]
    json.dumps(fields)  # sessions are stored


def test_without_the_provider_nobody_is_asked(work: Path) -> None:
    async def main() -> list[str]:
        async with SandlockSandbox(work, **ASKED) as box:
            return await Talk(box, commands("touch made; ls"), context_providers=[], tools=box.tools()).say()

    (answer,) = asyncio.run(main())
    assert "no tool call is there that could be interrupted to ask" in answer
    assert os.listdir(work) == []


@pytest.mark.parametrize("asks", [False, True])
def test_a_cancelled_run_ends_the_command(work: Path, asks: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    more: dict[str, Any] = {} if asks else {"approve": lambda request: None}

    async def main() -> None:
        async with SandlockSandbox(work, **more) as box:
            talk = Talk(box, commands(f"(exec -a {mark} sleep 60) & wait"), commands("echo on"))
            task = asyncio.create_task(talk.say())
            assert len(await asyncio.to_thread(wait_alive, mark, 1, 20)) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert wait_alive(mark, 0, 0.0) == []
            assert (await talk.say())[-1] == "on\n\nexit_code: 0"

    asyncio.run(main())


def test_a_function_decides_in_the_loop_of_the_agent(work: Path) -> None:
    asked: list[str] = []

    async def approve(request: Request) -> sandlock.Allow | sandlock.Deny:
        asyncio.get_running_loop()
        asked.append(request.summary)
        return sandlock.Allow() if "made" in request.summary else sandlock.Deny("not that one")

    async def main() -> list[str]:
        async with SandlockSandbox(work, approve=approve, **ASKED) as box:
            talk = Talk(box, commands("touch made; touch other"))
            found = await talk.say()
            assert talk.requests == []
            return found

    (answer,) = asyncio.run(main())
    assert asked == ["exec touch made", "exec touch other"]
    assert "<sandbox_violations>deny exec touch other (not that one)" in answer
    assert os.listdir(work) == ["made"]


# ---- what every adapter has to do


async def ask(job: Job) -> str:
    async with SandlockSandbox(job.work, timeout=job.timeout or 60.0, **job.keywords) as box:
        return "\n".join(await Talk(box, commands(job.command)).say())


test_ten_cases, test_ten_at_once = cases_of(ask)


# ---- the page and the example


def test_the_page() -> None:
    run_page("agents-agent-framework.md")


def test_the_example() -> None:
    run_example(
        "microsoft_agent.py",
        """
wrote 22 characters to src/sum.py
asked: exec touch released
45

stderr: cat: ...: No such file or directory

exit_code: 1
asked: connect tcp://192.0.2.1:80
Error: Tool call invocation was rejected by user.
file               0 released
directory       4096 src
""",
    )
