"""Google ADK with a scripted model: tools, confirmations that resume a command, files, code that lives on."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from framework_pages import run_example, run_page
from google.adk.agents import LlmAgent
from google.adk.artifacts import InMemoryArtifactService
from google.adk.code_executors.code_execution_utils import CodeExecutionInput, File
from google.adk.environment import LocalEnvironment
from google.adk.events import Event
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.environment import EnvironmentToolset
from google.genai import types
from loops import wait_alive
from pydantic import Field
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.adk import LOST, ONE_QUESTION, SandlockCodeExecutor, SandlockEnvironment, SandlockToolset
from sandlock.agents.interpreter import CodeAnswer
from sandlock.agents.sandbox import Request
from sandlock.agents.waiting_calls import Asked, Call
from sandlock.sessions.questions import Answer, Question

pytestmark = pytest.mark.usefixtures("lasting_thread")

ASKED: dict[str, Any] = {"exec_allow": ["*"], "exec_ask": ["touch *"]}
CONFIRM = "adk_request_confirmation"


class Model(BaseLlm):
    """Says one turn after the other: tool calls, a text; then "done"."""

    model: str = "scripted"
    turns: list[Any] = Field(default_factory=list)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        turn = self.turns.pop(0) if self.turns else "done"
        calls = [] if isinstance(turn, str) else turn
        parts = [types.Part.from_function_call(name=name, args=args) for name, args in calls]
        if isinstance(turn, str):
            parts = [types.Part.from_text(text=turn)]
        yield LlmResponse(content=types.Content(role="model", parts=parts))


def commands(*texts: str) -> list[tuple[str, dict[str, Any]]]:
    return [("Execute", {"command": text}) for text in texts]


class Talk:
    """One session with an agent."""

    def __init__(self, *turns: Any, **agent: Any) -> None:
        self.runner = InMemoryRunner(
            agent=LlmAgent(name="worker", model=Model(turns=list(turns)), **agent), app_name="a"
        )
        self.session: Any = None
        self.events: list[Event] = []

    async def say(self, *parts: types.Part) -> list[Event]:
        if self.session is None:
            self.session = await self.runner.session_service.create_session(app_name="a", user_id="u")
        message = types.Content(role="user", parts=list(parts) or [types.Part.from_text(text="go")])
        events = self.runner.run_async(user_id="u", session_id=self.session.id, new_message=message)
        found = [event async for event in events]
        self.events += found
        return found

    def run(self, *parts: types.Part) -> list[Any]:
        """One message, in a loop of its own; what the tools answered."""
        return responses(asyncio.run(self.say(*parts)))

    def questions(self) -> list[Any]:
        """The confirmations that the last message asks for."""
        return [call for event in self.events for call in event.get_function_calls() if call.name == CONFIRM]

    def answer(self, confirmed: bool, payload: Any = None) -> list[Any]:
        """The last question's answer."""
        return self.run(self.answering(confirmed, payload))

    def answering(self, confirmed: bool, payload: Any = None) -> types.Part:
        """The same as it is sent."""
        response = {"confirmed": confirmed, "payload": payload}
        given = types.FunctionResponse(id=self.questions()[-1].id, name=CONFIRM, response=response)
        return types.Part(function_response=given)


def responses(events: list[Event]) -> list[Any]:
    return [each.response for event in events for each in event.get_function_responses() if each.name != CONFIRM]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


Made = Callable[..., SandlockToolset]


@pytest.fixture
def toolset(work: Path) -> Any:
    made: list[SandlockToolset] = []

    def make(**keywords: Any) -> SandlockToolset:
        made.append(SandlockToolset(work, **keywords))
        return made[-1]

    yield make
    for each in made:
        asyncio.run(each.close())
        asyncio.run(each.environment.close())


# ---- tools


def test_an_agent_works_confined(toolset: Made, work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    found: list[sandlock.Result] = []
    line = f"echo out; echo err >&2; cat {secret}; echo x > {secret}; echo $COLOUR > made; exit 3"
    box = toolset(on_result=found.append, env_vars={"COLOUR": "green"})
    outside = asyncio.run(LocalEnvironment(working_dir=work).execute(f"cat {secret}"))
    assert outside.stdout == "hidden-word"  # without the sandbox
    (answer,) = Talk(commands(line), tools=[box]).run()
    assert (answer["status"], answer["exit_code"], answer["stdout"]) == ("error", 3, "out\n")
    assert answer["stderr"].startswith("err\n")
    assert "hidden-word" not in str(answer)
    assert secret.read_text() == "hidden-word"
    assert (work / "made").read_text() == "green\n"
    assert [(each.exit_code, bool(each.call_id)) for each in found] == [(3, True)]


def test_files_are_touched_without_a_process_and_stay_inside(toolset: Made, work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden-word")
    (work / "link").symlink_to(tmp_path / "secret")
    turns = [
        [("WriteFile", {"path": "deep/a.txt", "content": "one\ntwo\n"})],
        [("EditFile", {"path": "deep/a.txt", "old_string": "two", "new_string": "2"})],
        [("ReadFile", {"path": str(work / "deep/a.txt")})],
        [("ReadFile", {"path": "missing"})],
        [("ReadFile", {"path": "link"})],
        [("EditFile", {"path": "link", "old_string": "hidden", "new_string": "x"})],
        [("WriteFile", {"path": "link", "content": "x"})],
        [("WriteFile", {"path": "../x", "content": "x"})],
    ]
    answers = Talk(*turns, tools=[toolset(exec_deny=["*"])]).run()
    assert [each["status"] for each in answers] == ["ok"] * 3 + ["error"] * 5
    assert answers[2]["content"] == "     1\tone\n     2\t2\n"
    assert answers[3]["error"] == "File not found: missing"
    assert "hidden-word" not in str(answers)
    assert (tmp_path / "secret").read_text() == "hidden-word"
    assert not (tmp_path / "x").exists()


def test_a_time_limit(toolset: Made) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    talk = Talk(commands(f"(exec -a {mark} sleep 60) & echo begun; wait"), tools=[toolset(timeout=1.0)])
    (answer,) = talk.run()
    assert wait_alive(mark, 0) == []
    assert (answer["stdout"], answer["error"]) == ("begun\n", "Command timed out after 1s.")


def test_no_command_and_output_that_is_cut(toolset: Made) -> None:
    box = toolset(max_output=100, max_output_chars=20)
    first, second = Talk(commands(""), commands("seq 1000"), tools=[box]).run()
    assert first["error"] == "`command` is required."
    assert "(truncated, 100 total chars)" in second["stdout"]
    assert "stdout cut" in second["stderr"]


@pytest.mark.parametrize("asks", [False, True])
def test_a_cancelled_run_ends_the_command(toolset: Made, work: Path, asks: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    more = {"approve": lambda request: None} if asks else {}
    box = toolset(**more)
    talk = Talk(commands(f"(exec -a {mark} sleep 60) & wait"), commands("echo on"), tools=[box])

    async def main() -> None:
        task = asyncio.create_task(talk.say())
        assert len(await asyncio.to_thread(wait_alive, mark, 1, 20)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wait_alive(mark, 0, 0.0) == []

    asyncio.run(main())
    assert asyncio.run(box.environment.execute("echo on")).stdout == "on\n"


def test_a_function_decides_in_the_loop_of_the_agent(toolset: Made, work: Path) -> None:
    asked: list[tuple[str, bool]] = []
    loops: list[Any] = []

    async def approve(request: Request) -> sandlock.Allow | sandlock.Deny:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        asked.append((request.summary, bool(request.call_id)))
        return sandlock.Allow() if "made" in request.summary else sandlock.Deny("not that one")

    box = toolset(approve=approve, **ASKED)
    talk = Talk(commands("touch made; touch other"), tools=[box])

    async def main() -> list[Event]:
        loops.append(asyncio.get_running_loop())
        return await talk.say()

    (answer,) = responses(asyncio.run(main()))
    assert len(set(loops)) == 1
    assert asked == [("exec touch made", True), ("exec touch other", True)]
    assert "<sandbox_violations>deny exec touch other (not that one)" in answer["stderr"]
    assert talk.questions() == []
    assert os.listdir(work) == ["made"]


# ---- confirmations


def test_a_question_is_a_confirmation_and_its_answer_resumes_the_command(toolset: Made, work: Path) -> None:
    """Each message runs in a loop of its own, as ADK's servers and `Runner.run` do."""
    talk = Talk(commands("echo $$ > pid; touch made; echo $$ >> pid; touch other; echo end"), tools=[toolset(**ASKED)])
    (waits,) = talk.run()
    assert waits["status"] == "waiting"
    (question,) = talk.questions()
    asked = question.args["toolConfirmation"]
    assert "exec touch made" in asked["hint"]
    assert asked["payload"]["argv"] == ["touch", "made"]
    assert os.listdir(work) == ["pid"]
    (answer,) = talk.answer(True)
    assert answer["stdout"] == "end\n"
    assert ONE_QUESTION in answer["stderr"]  # about the other one
    assert sorted(os.listdir(work)) == ["made", "pid"]
    assert len(set((work / "pid").read_text().split())) == 1  # the same process, not a second one
    assert talk.events[-1].content.parts[0].text == "done"  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("confirmed", "payload", "reason"),
    [
        (False, None, "the user did not confirm it"),
        (False, {"reason": "not today"}, "not today"),
        (True, {"verdict": "deny", "reason": "no"}, "(no)"),
        (True, {"choice": "?"}, "none of the choices"),
        (True, {"verdict": "allow", "scope": "everything"}, "none of the choices"),
    ],
)
def test_what_is_not_allowed_is_denied(toolset: Made, work: Path, confirmed: bool, payload: Any, reason: str) -> None:
    talk = Talk(commands("touch made; touch other"), tools=[toolset(**ASKED)])
    talk.run()
    (answer,) = talk.answer(confirmed, payload)
    assert reason in answer["stderr"]
    assert os.listdir(work) == []


def test_an_answer_may_hold_for_the_run_and_clients_may_send_the_payload_back(toolset: Made, work: Path) -> None:
    talk = Talk(commands("touch a; touch b"), commands("touch c"), tools=[toolset(**ASKED)])
    talk.run()
    talk.answer(True, {"verdict": "allow", "scope": "run", "words": 1})
    assert sorted(os.listdir(work)) == ["a", "b"]
    talk.answer(True, talk.questions()[-1].args["toolConfirmation"]["payload"])
    assert sorted(os.listdir(work)) == ["a", "b", "c"]


def test_calls_of_one_turn_ask_each_for_itself(toolset: Made, work: Path) -> None:
    talk = Talk(commands("touch a", "touch b"), tools=[toolset(**ASKED)])
    talk.run()
    questions = talk.questions()
    assert len(questions) == 2
    wanted = {each.args["toolConfirmation"]["payload"]["argv"][1]: each.id for each in questions}
    parts = [
        types.Part(
            function_response=types.FunctionResponse(id=wanted[name], name=CONFIRM, response={"confirmed": name == "b"})
        )
        for name in ("a", "b")
    ]
    talk.run(*parts)
    assert os.listdir(work) == ["b"]


def test_a_late_answer_and_one_in_another_process_answer_nothing(toolset: Made, work: Path) -> None:
    talk = Talk(commands("touch late; echo end"), commands("touch lost"), tools=[toolset(approve_timeout=0.5, **ASKED)])
    talk.run()
    box = talk.runner.agent.tools[0]  # type: ignore[attr-defined]
    (call,) = box._calls._by_key.values()
    assert call.next().result(20) is None  # denied in the meantime, it has ended
    (answer,) = talk.answer(True)[:1]
    assert answer["stdout"] == "end\n"
    assert "deny exec touch late" in answer["stderr"]
    box._calls._by_key.clear()  # as after a restart, with a session that was kept
    (answer,) = talk.answer(True)[:1]
    assert answer == {"status": "error", "error": LOST}
    assert os.listdir(work) == []


def test_a_question_that_was_denied_unseen_is_not_put() -> None:
    """It is asked while the answer to the one before is being given."""
    call = Call("key", "thread")
    first, second = (Asked(Question(id=name, kind="exec", target=name), name) for name in ("q1", "q2"))
    assert call.ask(first)
    assert call.next().result(0) is first
    call.put.append(first)
    first.settle(Answer(verdict="allow"))
    assert call.ask(second)
    call.give_up("one is enough")
    waiting = call.next()
    assert not waiting.done()
    assert (first.answer.result(0).verdict, second.answer.result(0).verdict) == ("allow", "deny")
    assert not call.ask(Asked(second.question, "q3"))
    call.finish("result", None)
    assert waiting.result(0) is None


# ---- the environment by itself


def test_the_environment_in_adks_own_toolset(work: Path) -> None:
    environment = SandlockEnvironment(work, **ASKED)
    box = EnvironmentToolset(environment=environment)
    with pytest.raises(RuntimeError, match="initialize"):
        _ = environment.working_dir
    (answer,) = Talk(commands("touch x; pwd"), tools=[box]).run()
    assert answer["stdout"] == f"{work}\n"
    assert "deny exec touch x" in answer["stderr"]  # nobody is asked: denied
    assert environment.working_dir == work
    asyncio.run(box.close())
    with pytest.raises(sandlock.SandlockError, match="not open"):
        asyncio.run(environment.execute("true"))
    asyncio.run(environment.initialize())
    assert asyncio.run(environment.execute("echo again")).stdout == "again\n"
    asyncio.run(environment.close())
    asyncio.run(environment.close())


def test_errors_of_files_are_the_builtin_ones(work: Path, tmp_path: Path) -> None:
    asyncio.run(errors_of_files(work, tmp_path))


async def errors_of_files(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden-word")
    environment = SandlockEnvironment(work)
    await environment.initialize()
    await environment.write_file(Path("a/b.bin"), b"\0\xff")
    assert await environment.read_file(Path("a/b.bin")) == b"\0\xff"
    with pytest.raises(FileNotFoundError):
        await environment.read_file("none")
    with pytest.raises(IsADirectoryError):
        await environment.write_file("a", "x")
    with pytest.raises(PermissionError):
        await environment.read_file("../secret")
    await environment.close()


def test_the_background_lives_on_until_it_is_closed() -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> Path:
        environment = SandlockEnvironment()
        await environment.initialize()
        place = environment.working_dir
        await environment.execute(f"(exec -a {mark} sleep 60) >/dev/null 2>&1 &")
        await environment.execute("true")
        assert len(wait_alive(mark, 1)) == 1
        await environment.close()
        return place

    place = asyncio.run(main())
    assert wait_alive(mark, 0, 0.0) == []
    assert not place.exists()


# ---- code


class Context:
    artifact_service: Any = InMemoryArtifactService()


def run_code(executor: SandlockCodeExecutor, code: str, session: str | None = "s", *files: File) -> Any:
    given = CodeExecutionInput(code=code, input_files=list(files), execution_id=session)
    context: Any = Context()
    return executor.execute_code(context, given)


def test_an_agent_writes_code_that_lives_on(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    answers: list[CodeAnswer] = []
    executor = SandlockCodeExecutor(on_answer=answers.append)
    turns = [
        "```python\nx = 20\nopen('plot.png', 'wb').write(b'image')\nprint(x)\n```",
        f"```python\nprint(x + 1, open({str(secret)!r}).read())\n```",
        "```python\nx + 2\n```",
    ]
    talk = Talk(*turns, code_executor=executor)
    talk.run()
    found = [
        part.code_execution_result
        for event in talk.events
        for part in (event.content.parts if event.content else None) or []
        if part.code_execution_result
    ]
    executor.close()
    assert [each.outcome.name for each in found] == ["OUTCOME_OK", "OUTCOME_FAILED", "OUTCOME_OK"]
    assert "20" in found[0].output
    assert "plot.png" in found[0].output
    assert "PermissionError" in found[1].output
    assert "22" in found[2].output
    assert [each.ok for each in answers] == [True, False, True]
    service = talk.runner.artifact_service
    part = asyncio.run(
        service.load_artifact(app_name="a", user_id="u", session_id=talk.session.id, filename="plot.png")  # type: ignore[union-attr]
    )
    assert part.inline_data.data == b"image"  # type: ignore[union-attr]


def test_sessions_know_nothing_of_each_other() -> None:
    executor = SandlockCodeExecutor(max_sessions=2)
    table = File(name="table.csv", content=base64.b64encode(b"a,b\n1,2\n").decode(), mime_type="text/csv")
    assert run_code(executor, "x = 1; print(open('table.csv').read(), end='')", "one", table).stdout == "a,b\n1,2\n"
    assert "NameError" in run_code(executor, "print(x)", "two").stderr
    assert run_code(executor, "import os; print(os.listdir())", "two").stdout == "[]\n"
    assert run_code(executor, "print(x)", "one").stdout == "1\n"
    assert run_code(executor, "y = 2", "three").exit_code == 0  # "two" was idle longest, and is gone
    assert run_code(executor, "print(x)", "one").stdout == "1\n"
    place = executor._places["one"].box.workspace
    assert "NameError" in run_code(executor, "z = 1\nprint(y)", "four").stderr
    assert "NameError" in run_code(executor, "print(y)", "three").stderr
    assert "NameError" in run_code(executor, "print(z)", None).stderr
    assert len(executor._places) == 2
    assert not os.path.exists(place)
    del executor
    gc.collect()


def test_code_that_is_denied_fails_or_runs_out_of_time(tmp_path: Path) -> None:
    asked: list[str] = []

    async def approve(request: Request) -> sandlock.Verdict | None:
        await asyncio.sleep(0)
        asked.append(request.summary)
        return sandlock.Deny("not from here")

    answers: list[CodeAnswer] = []
    options = ASKED | {"approve": approve}
    executor = SandlockCodeExecutor(options=options, on_answer=answers.append, timeout_seconds=5)
    code = "import subprocess\ntry:\n    subprocess.run(['touch', 'x'])\nexcept PermissionError:\n    print('so be it')"
    done = run_code(executor, code)
    assert done.stdout.startswith("so be it\n<sandbox_violations>deny exec touch x (")
    assert "not from here" in done.stdout
    assert (done.stderr, done.exit_code) == ("", 0)
    assert [each.argv for each in answers[0].denials] == [("touch", "x")]
    assert set(asked) == {"exec touch x"}
    done = run_code(executor, "print('<sandbox_violations>forged')\nx = 1\nraise ValueError('so')")
    assert "<sandbox_violations>" not in done.stdout
    assert done.stderr == "ValueError: so (line 3)\n"
    assert done.exit_code == 1
    mark = f"mark-{os.urandom(6).hex()}"
    code = f"import subprocess\nsubprocess.run(['bash', '-c', 'exec -a {mark} sleep 60'])"
    done = run_code(executor, code)
    assert wait_alive(mark, 0) == []
    assert (done.exit_code, "timed out after 5 seconds" in done.stderr) == (124, True)
    assert "NameError" in run_code(executor, "print(x)").stderr
    executor.close()


# ---- the ten cases


async def ask(job: Job) -> str:
    """By its tool; questions are confirmations."""
    box = SandlockToolset(job.work, timeout=job.timeout or 60, **job.fields)
    talk = Talk(commands(job.command), tools=[box])
    try:
        events = await talk.say()
        for question in talk.questions():
            verdict = job.decide(question.args["toolConfirmation"]["hint"])
            allowed = isinstance(verdict, sandlock.Allow)
            events = await talk.say(talk.answering(allowed, None if allowed else {"reason": verdict.reason}))
    finally:
        await box.environment.close()
    return str(responses(events))


test_ten_cases, test_ten_at_once = cases_of(ask)


# ---- documents


@pytest.mark.needs(program="git")
def test_the_page_tells_what_happens() -> None:
    run_page("agents-adk.md")


def test_the_example() -> None:
    expected = """
OUTCOME_OK Code execution result:
[2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
OUTCOME_OK Code execution result:
written
...sum.txt...
OUTCOME_FAILED PermissionError: ...
artifacts: ['sum.txt']
"""
    run_example("adk.py", expected)
