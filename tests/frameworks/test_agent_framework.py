"""Microsoft Agent Framework with a scripted model: tools, the executor, approvals that resume a command, files."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
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
    create_harness_agent,
)
from agent_framework_tools.shell import LocalShellTool, ShellEnvironmentProvider, ShellExecutor
from framework_pages import run_example, run_page
from loops import wait_alive
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.agent_framework import SandlockSandbox
from sandlock.agents.agent_framework_approvals import LOST
from sandlock.agents.sandbox import Request

pytestmark = [
    pytest.mark.usefixtures("lasting_thread"),
    pytest.mark.filterwarnings("error:.*legacy:FutureWarning"),  # ways of asking that the framework gives up
]

ASKED: dict[str, Any] = {"exec_allow": ["*"], "exec_ask": ["touch *"]}
REJECTED = "Error: Tool call invocation was rejected by user."
LINE = "{ echo begun; echo wrong >&2; exit 3; }"


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


# ---- approvals


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_is_an_approval_request_and_its_approval_resumes_the_command(work: Path, stream: bool) -> None:
    line = "echo $$ > pid; touch made; echo $$ >> pid; touch other; echo end"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(line, "echo beside"), commands("echo next"), stream=stream)
            assert await talk.say() == ["beside\n\nexit_code: 0"]
            (request,) = talk.requests
            assert (request.type, talk.asks()) == ("function_approval_request", ["exec touch made"])
            assert request.function_call.name == "run_shell"
            assert request.function_call.parse_arguments() == {"command": line}
            assert request.additional_properties["sandlock"]["question"]["argv"] == ["touch", "made"]
            assert os.listdir(work) == ["pid"]
            assert await talk.answer(True) == []
            assert talk.asks() == ["exec touch other"]
            assert sorted(os.listdir(work)) == ["made", "pid"]
            assert await talk.answer(True) == ["end\n\nexit_code: 0", "next\n\nexit_code: 0"]
            assert talk.requests == []

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["made", "other", "pid"]
    assert len(set((work / "pid").read_text().split())) == 1  # the same process, not a second one


@pytest.mark.parametrize("stream", [False, True])
def test_a_rejection_ends_the_command_where_it_stands(work: Path, stream: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            line = f"(exec -a {mark} sleep 60) & touch made; echo end > end"
            talk = Talk(box, commands(line), commands("echo on"), stream=stream)
            await talk.say()
            assert len(wait_alive(mark, 1)) == 1
            assert await talk.answer(False) == [REJECTED, "on\n\nexit_code: 0"]
            assert wait_alive(mark, 0, 0.0) == []

    asyncio.run(main())
    assert os.listdir(work) == []


def test_calls_of_one_turn_ask_each_for_itself(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(*(f"touch {name}; echo on > on-{name}" for name in "abcdefgh")))
            await talk.say()
            assert talk.asks() == [f"exec touch {name}" for name in "abcdefgh"]
            answers = await talk.answer(*(name == "b" for name in "abcdefgh"))
            assert [each == REJECTED for each in answers] == [name != "b" for name in "abcdefgh"]

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["b", "on-b"]  # the others did not go on either


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ({"choice": "r"}, ["a", "b"]),
        ({"verdict": "allow", "scope": "run", "words": 1}, ["a", "b"]),
        ({"choice": "?"}, []),
        ("yes", []),
        ({"verdict": "deny", "reason": "not today"}, []),
    ],
)
def test_an_approval_may_say_more_than_yes(work: Path, answer: Any, made: list[str]) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands("touch a; touch b"))
            await talk.say()
            for _ in range(2):
                if talk.requests:
                    response = talk.requests[0].to_function_approval_response(True)
                    response.additional_properties["sandlock"]["answer"] = answer
                    await talk.say(response)

    asyncio.run(main())
    assert sorted(os.listdir(work)) == made


def test_an_approval_of_another_question_approves_nothing(work: Path) -> None:
    async def main() -> str:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands("touch a; touch b"))
            await talk.say()
            first = talk.requests[0].additional_properties
            await talk.answer(True)
            response = talk.requests[0].to_function_approval_response(True)
            response.additional_properties["sandlock"] = first["sandlock"]
            return (await talk.say(response))[0]

    assert "the approval is for another question" in asyncio.run(main())
    assert os.listdir(work) == ["a"]


def test_responses_of_other_sessions_approve_nothing(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk, other = (Talk(box, commands(f"(exec -a {mark} sleep 60) & touch made")) for _ in range(2))
            await talk.say()
            other.agent.client.turns = []  # type: ignore[attr-defined]
            other.requests = talk.requests
            assert await other.answer(True) == []
            assert await other.say(talk.requests[0].to_function_approval_response(False)) == []
            assert os.listdir(work) == []
            assert len(wait_alive(mark, 1)) == 1  # nor do they reject
            await talk.answer(True)

    asyncio.run(main())
    assert os.listdir(work) == ["made"]


def test_a_late_approval_and_one_in_another_process_approve_nothing(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, approve_timeout=0.5, **ASKED) as box:
            talk = Talk(box, commands("touch late; echo end"), commands("touch lost"))
            await talk.say()
            assert box._calls is not None
            (call,) = box._calls._by_key.values()
            assert await asyncio.wrap_future(call.next()) is None  # denied in the meantime, it has ended
            (answer, *_) = await talk.answer(True)
            assert answer.startswith("end\n")
            assert "deny exec touch late" in answer
            assert talk.asks() == ["exec touch lost"]
            kept = json.loads(json.dumps(talk.session.to_dict()))
        async with SandlockSandbox(work, **ASKED) as box:
            after = Talk(box)
            after.session, after.requests = AgentSession.from_dict(kept), talk.requests
            assert await after.answer(True) == [LOST]

    asyncio.run(main())
    assert os.listdir(work) == []


@pytest.mark.parametrize("approved", [True, False])
def test_a_command_whose_loop_is_gone_is_gone(work: Path, approved: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    box = SandlockSandbox(work, **ASKED)
    talk = Talk(box, commands(f"(exec -a {mark} sleep 60) & touch made"), commands("echo on"))
    asyncio.run(talk.say())
    assert wait_alive(mark, 0) == []
    assert asyncio.run(talk.answer(approved)) == [LOST if approved else REJECTED, "on\n\nexit_code: 0"]
    asyncio.run(box.close())
    assert os.listdir(work) == []


def test_whole_calls_can_be_approved_as_well(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, approval_mode="always_require", **ASKED) as box:
            talk = Talk(box, commands("echo x > begun; touch made; echo end"), commands("echo x > never"))
            await talk.say()
            assert [each.type for each in talk.requests] == ["function_approval_request"]
            assert os.listdir(work) == []
            assert await talk.answer(True) == []
            assert talk.asks() == ["exec touch made"]
            assert os.listdir(work) == ["begun"]
            assert await talk.answer(True) == ["end\n\nexit_code: 0"]
            assert await talk.answer(False) == [REJECTED]

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["begun", "made"]


def test_a_run_that_is_cancelled_at_a_resumed_command_ends_it(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(f"touch made; (exec -a {mark} sleep 60) & wait"))
            await talk.say()
            task = asyncio.create_task(talk.answer(True))
            assert len(await asyncio.to_thread(wait_alive, mark, 1, 20)) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert wait_alive(mark, 0, 0.0) == []

    asyncio.run(main())


def test_closing_ends_commands_that_wait(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            await Talk(box, commands(f"(exec -a {mark} sleep 60) & touch made")).say()
            assert len(wait_alive(mark, 1)) == 1
        assert wait_alive(mark, 0, 0.0) == []
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not tasks or (await asyncio.wait(tasks, timeout=10))[1] == set()

    asyncio.run(main())
    assert os.listdir(work) == []


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


def test_ten_agents_ask_at_once(work: Path) -> None:
    """On one sandbox: each in its session, each about its own."""

    async def one(box: SandlockSandbox, number: int) -> list[str]:
        talk = Talk(box, commands(f"touch made-{number}; echo end {number}"))
        await talk.say()
        assert talk.asks() == [f"exec touch made-{number}"]
        return await talk.answer(number % 2 == 0)

    async def main() -> list[list[str]]:
        async with SandlockSandbox(work, **ASKED) as box:
            return await asyncio.gather(*(one(box, number) for number in range(10)))

    for number, answers in enumerate(asyncio.run(main())):
        assert answers == [REJECTED if number % 2 else f"end {number}\n\nexit_code: 0"]
    assert sorted(os.listdir(work)) == [f"made-{number}" for number in range(0, 10, 2)]


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
