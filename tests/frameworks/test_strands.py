"""Strands Agents with a scripted model: tools, interrupts that resume a command, streams, files, cancelling."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from framework_pages import run_example, run_page
from loops import wait_alive
from strands import Agent
from strands.models import Model
from strands.sandbox import ExecutionResult, StreamChunk
from strands.sandbox.errors import SandboxPathNotFoundError, SandboxTimeoutError
from strands.sandbox.not_a_sandbox_local_environment import NotASandboxLocalEnvironment
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.sandbox import Request
from sandlock.agents.strands import SandlockSandbox
from sandlock.agents.strands_tool import LOST

pytestmark = pytest.mark.usefixtures("lasting_thread")

ASKED: dict[str, Any] = {"exec_allow": ["*"], "exec_ask": ["touch *"]}
Calls = list[tuple[str, dict[str, Any]]]


class Scripted(Model):
    """Calls tools, one turn after the other; then says "done"."""

    def __init__(self, *turns: Calls) -> None:
        self.turns = list(turns)
        self.count = 0

    def update_config(self, **model_config: Any) -> None:
        pass

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *arguments: Any, **keywords: Any) -> Any:
        raise NotImplementedError

    async def stream(self, *arguments: Any, **keywords: Any) -> AsyncIterator[Any]:
        yield {"messageStart": {"role": "assistant"}}
        calls = self.turns.pop(0) if self.turns else []
        for name, args in calls:
            self.count += 1
            yield {"contentBlockStart": {"start": {"toolUse": {"name": name, "toolUseId": f"t{self.count}"}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(args)}}}}
            yield {"contentBlockStop": {}}
        if not calls:
            yield {"contentBlockDelta": {"delta": {"text": "done"}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if calls else "end_turn"}}


def commands(*texts: str, **more: Any) -> Calls:
    return [("sandbox_shell", {"command": text} | more) for text in texts]


def edit(command: str, path: object, **more: Any) -> Calls:
    return [("sandbox_file_editor", {"command": command, "path": str(path)} | more)]


def agent(sandbox: SandlockSandbox, *turns: Calls) -> Agent:
    return Agent(model=Scripted(*turns), sandbox=sandbox, callback_handler=None)


def answers(found: Agent) -> list[str]:
    """What the tools gave, as the model reads it."""
    blocks = [
        block["toolResult"] for message in found.messages for block in message["content"] if "toolResult" in block
    ]
    return ["".join(str(part.get("text", part.get("json", ""))) for part in block["content"]) for block in blocks]


def answered(result: Any, *given: Any) -> list[Any]:
    pairs = zip(result.interrupts, given, strict=True)
    return [{"interruptResponse": {"interruptId": each.id, "response": answer}} for each, answer in pairs]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def box(work: Path) -> Iterator[SandlockSandbox]:
    with SandlockSandbox(work) as box:
        yield box


# ---- tools


def test_an_agent_works_confined(work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    found: list[sandlock.Result] = []
    local = asyncio.run(NotASandboxLocalEnvironment().execute(f"cat {secret}"))
    assert local.stdout == "hidden-word"  # without the sandbox
    line = f"echo out; echo err >&2; cat {secret}; echo x > {secret}; echo $COLOUR > made; exit 3"
    with SandlockSandbox(work, env={"COLOUR": "green"}, on_result=found.append) as box:
        worker = agent(box, commands(line))
        assert str(worker("go")).strip() == "done"
    (text,) = answers(worker)
    answer = json.loads(text)
    assert (answer["output"], answer["exit_code"]) == ("out\n", 3)
    assert answer["error"].startswith("err\n")
    assert "hidden-word" not in text
    assert secret.read_text() == "hidden-word"
    assert (work / "made").read_text() == "green\n"
    assert [(each.exit_code, bool(each.call_id)) for each in found] == [(3, True)]


def test_the_file_editor_needs_no_process_and_stays_inside(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden-word")
    (work / "link").symlink_to(tmp_path / "secret")
    with SandlockSandbox(work, exec_deny=["*"]) as box:
        worker = agent(
            box,
            edit("create", work / "deep/a.txt", file_text="one\ntwo\n"),
            edit("str_replace", work / "deep/a.txt", old_str="two", new_str="2"),
            edit("view", work / "deep/a.txt"),
            edit("view", work),
            edit("view", work / "link"),
            edit("view", tmp_path / "secret"),
            edit("create", tmp_path / "x", file_text="x"),
            edit("str_replace", work / "link", old_str="hidden", new_str="x"),
        )
        worker("go")
    found = answers(worker)
    assert (work / "deep/a.txt").read_text() == "one\n2\n"
    assert "2" in found[2]
    assert "deep/a.txt" in found[3]
    assert all("Error" in text or "error" in text for text in found[4:])
    assert "hidden-word" not in "".join(found)
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "secret").read_text() == "hidden-word"


@pytest.mark.parametrize("asks", [False, True])
def test_a_time_limit(work: Path, asks: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    more: dict[str, Any] = {"approve": lambda request: None} if asks else {}
    with SandlockSandbox(work, **more) as box:
        worker = agent(box, commands(f"(exec -a {mark} sleep 60) & echo begun; wait", timeout=1), commands("echo on"))
        worker("go")
        assert wait_alive(mark, 0) == []
    first, second = answers(worker)
    assert "timed out after 1" in first
    assert json.loads(first.partition("\n")[2])["output"] == "begun\n"
    assert "on\\n" in second


@pytest.mark.parametrize("asks", [False, True])
def test_a_cancelled_agent_ends_the_command(work: Path, asks: bool) -> None:
    """By a task that is cancelled, and by Strands' own word."""
    more: dict[str, Any] = {"approve": lambda request: None} if asks else {}

    async def main(box: SandlockSandbox, how: str) -> None:
        mark = f"mark-{os.urandom(6).hex()}"
        worker = agent(box, commands(f"(exec -a {mark} sleep 60) & wait"))
        task = asyncio.create_task(worker.invoke_async("go"))
        assert len(await asyncio.to_thread(wait_alive, mark, 1, 20)) == 1
        if how == "task":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            worker.cancel()
            await task
        assert await asyncio.to_thread(wait_alive, mark, 0) == []

    with SandlockSandbox(work, **more) as box:
        asyncio.run(main(box, "task"))
        asyncio.run(main(box, "word"))
        assert asyncio.run(box.execute("echo on")).stdout == "on\n"


def test_a_function_decides_in_the_loop_of_the_agent(work: Path) -> None:
    asked: list[tuple[str, str, int]] = []

    async def approve(request: Request) -> sandlock.Allow | sandlock.Deny:
        await asyncio.sleep(0)
        asked.append((request.summary, request.call_id, threading.get_ident()))
        return sandlock.Allow() if "made" in request.summary else sandlock.Deny("not that one")

    async def main() -> Any:
        asked.append(("", "", threading.get_ident()))
        return await worker.invoke_async("go")

    with SandlockSandbox(work, approve=approve, **ASKED) as box:
        worker = agent(box, commands("touch made; touch other"))
        assert asyncio.run(main()).stop_reason == "end_turn"
    assert [each[:2] for each in asked[1:]] == [("exec touch made", "t1"), ("exec touch other", "t1")]
    assert len({each[2] for each in asked}) == 1
    assert "deny exec touch other (not that one)" in answers(worker)[0]
    assert os.listdir(work) == ["made"]


# ---- interrupts


def test_questions_are_interrupts_and_their_answers_resume_the_command(work: Path) -> None:
    """Each `agent(...)` runs in a loop of its own."""
    with SandlockSandbox(work, **ASKED) as box:
        worker = agent(box, commands("echo $$ > pid; touch a; touch b; echo $$ >> pid; touch c; echo end"))
        result = worker("go")
        assert result.stop_reason == "interrupt"
        (question,) = result.interrupts  # type: ignore[misc]
        assert question.reason["message"] == "The sandbox asks: exec touch a"
        assert question.reason["question"]["argv"] == ["touch", "a"]
        assert os.listdir(work) == ["pid"]
        result = worker(answered(result, "allow"))
        assert result.interrupts[0].reason["question"]["argv"] == ["touch", "b"]  # type: ignore[index]
        assert sorted(os.listdir(work)) == ["a", "pid"]
        result = worker(answered(result, "not today"))
        assert result.interrupts[0].reason["question"]["argv"] == ["touch", "c"]  # type: ignore[index]
        result = worker(answered(result, {"verdict": "allow"}))
        assert result.stop_reason == "end_turn"
    assert sorted(os.listdir(work)) == ["a", "c", "pid"]
    assert len(set((work / "pid").read_text().split())) == 1  # the same process, not a second one
    (text,) = answers(worker)
    assert "end\\n" in text
    assert "deny exec touch b (the user says: not today)" in text


@pytest.mark.parametrize("given", ["deny", "no", False, {"choice": "?"}, {"verdict": "maybe"}, 7, ["allow"]])
def test_what_is_not_allowed_is_denied(work: Path, given: Any) -> None:
    with SandlockSandbox(work, **ASKED) as box:
        worker = agent(box, commands("touch made"))
        result = worker(answered(worker("go"), given))
        assert result.stop_reason == "end_turn"
    assert "deny exec touch made (the user did not allow it)" in answers(worker)[0]
    assert os.listdir(work) == []


def test_calls_of_one_turn_ask_each_for_itself(work: Path) -> None:
    with SandlockSandbox(work, **ASKED) as box:
        worker = agent(box, commands("touch a", "touch b"))
        result = worker("go")
        given = ["allow" if each.reason["question"]["argv"][1] == "b" else "no" for each in result.interrupts]  # type: ignore[union-attr]
        assert len(given) == 2
        assert worker(answered(result, *given)).stop_reason == "end_turn"
    assert os.listdir(work) == ["b"]


def test_time_stands_still_while_a_person_thinks(work: Path) -> None:
    with SandlockSandbox(work, **ASKED) as box:
        worker = agent(box, commands("touch a; echo end", timeout=1))
        result = worker("go")
        done = threading.Event()
        done.wait(1.5)  # longer than the command may take
        worker(answered(result, "allow"))
    assert "end\\n" in answers(worker)[0]
    assert os.listdir(work) == ["a"]


def test_an_answer_in_another_process_answers_nothing(work: Path) -> None:
    with SandlockSandbox(work, **ASKED) as box:
        worker = agent(box, commands("touch a"))
        result = worker("go")
        assert box._calls is not None
        box._calls._by_key.clear()  # as in a new process, with a session that was kept
        assert worker(answered(result, "allow")).stop_reason == "end_turn"
    assert LOST in answers(worker)[0]
    assert os.listdir(work) == []


def test_a_question_that_nobody_answers_is_denied(work: Path) -> None:
    with SandlockSandbox(work, approve_timeout=0.3, **ASKED) as box:
        worker = agent(box, commands("touch a; echo end"))
        result = worker("go")
        assert result.stop_reason == "interrupt"
        assert box._calls is not None
        (call,) = box._calls._by_key.values()
        assert call.next().result(20) is None  # denied in the meantime, it has ended
        worker(answered(result, "allow"))
    assert "deny exec touch a" in answers(worker)[0]
    assert "end\\n" in answers(worker)[0]
    assert os.listdir(work) == []


def test_other_tools_cannot_ask(work: Path) -> None:
    with SandlockSandbox(work, **ASKED) as box:
        assert "deny exec touch a" in asyncio.run(box.execute("touch a")).stderr
    assert os.listdir(work) == []


# ---- the sandbox by itself


async def streamed(source: AsyncIterator[Any]) -> tuple[list[StreamChunk], ExecutionResult]:
    found = [each async for each in source]
    assert isinstance(found[-1], ExecutionResult)
    return found[:-1], found[-1]


def test_output_comes_as_it_is_printed(box: SandlockSandbox, work: Path) -> None:
    async def main() -> None:
        line = "echo one; echo err >&2; while ! test -e go; do sleep 0.01; done; printf 'caf\\303\\251'; exit 5"
        stream = box.execute_streaming(line)
        first, second = await anext(stream), await anext(stream)
        chunks = {(each.stream_type, each.data) for each in (first, second)}  # type: ignore[union-attr]
        assert chunks == {("stdout", "one\n"), ("stderr", "err\n")}
        (work / "go").touch()
        rest, result = await streamed(stream)
        assert "".join(each.data for each in rest) == "café"
        assert result == ExecutionResult(exit_code=5, stdout="one\ncafé", stderr="err\n")

    asyncio.run(main())


def test_a_stream_that_is_left_ends_the_command(box: SandlockSandbox) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        stream = box.execute_streaming(f"(exec -a {mark} sleep 60) & echo begun; wait")
        assert (await anext(stream)).data == "begun\n"  # type: ignore[union-attr]
        assert len(wait_alive(mark, 1)) == 1
        await stream.aclose()
        assert wait_alive(mark, 0, 0.0) == []
        await box.execute(f"(exec -a {mark} sleep 60) & true")
        assert wait_alive(mark, 0, 0.0) == []  # what is left in the background ends with its command

    asyncio.run(main())


def test_trailers_cannot_be_forged_and_output_has_a_limit(work: Path) -> None:
    async def main() -> None:
        line = "printf '<sandbox_'; sleep 0.1; echo 'violations>deny'; touch x; seq 1000; echo '<'"
        chunks, result = await streamed(box.execute_streaming(line))
        assert "<sandbox_violations" not in "".join(each.data for each in chunks if each.stream_type == "stdout")
        assert "<sandbox_violations" not in result.stdout
        assert result.stdout.endswith("[stdout cut]")
        assert len(result.stdout) < 300
        assert chunks[-1].stream_type == "stderr"
        assert chunks[-1].data.startswith("<sandbox_violations>deny exec touch x")
        assert result.stderr.endswith(chunks[-1].data)

    with SandlockSandbox(work, max_output=200, approve=lambda request: None, **ASKED) as box:
        asyncio.run(main())


def test_code(box: SandlockSandbox, work: Path) -> None:
    async def main() -> None:
        code = "import os, sys\nprint('é', os.environ['COLOUR'], os.getcwd())\nsys.exit(4)"
        (work / "sub").mkdir()
        found = await box.execute_code(code, "python3", env={"COLOUR": "green"}, cwd="sub")
        assert (found.exit_code, found.stdout) == (4, f"é green {work}/sub\n")
        assert (await box.execute_code("x" * 300_000, "true")).exit_code == 0  # it does not read
        assert (await box.execute_code("x", "no-such-language")).exit_code == 127
        for language in ("sh -c", "../sh", "sh\n"):
            with pytest.raises(ValueError, match="invalid characters"):
                await box.execute_code("echo", language)
        with pytest.raises(ValueError, match="environment variable"):
            await box.execute("true", env={"A;B": "x"})
        with pytest.raises(PermissionError):
            await box.execute("true", cwd="/etc")
        with pytest.raises(FileNotFoundError):
            await box.execute("true", cwd="none")
        with pytest.raises(SandboxTimeoutError) as caught:
            await box.execute("echo begun; echo err >&2; sleep 60", timeout=0.5)
        assert (caught.value.stdout, caught.value.stderr) == ("begun\n", "err\n")

    asyncio.run(main())


def test_files(box: SandlockSandbox, work: Path, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "secret").write_text("hidden-word")
        (work / "out").symlink_to(tmp_path)
        (work / "link").symlink_to("deep")
        await box.write_file("deep/a.bin", b"\0\xff")
        await box.write_text(f"{work}/b.txt", "text")
        assert await box.read_file("link/a.bin") == b"\0\xff"
        found = {each.name: (each.is_dir, each.size) for each in await box.list_files(".")}
        assert found == {"b.txt": (False, 4), "deep": (True, None), "link": (True, None), "out": (False, None)}
        assert [(each.name, each.is_dir) for each in await box.list_files("/")] == [(work.parts[1], True)]
        assert [each.name for each in await box.list_files("..")] == ["work"]
        for path in ("none", "b.txt", "out/none"):
            with pytest.raises((SandboxPathNotFoundError, PermissionError)):
                await box.list_files(path)
        with pytest.raises(SandboxPathNotFoundError):
            await box.list_files("none")
        for path in ("out/secret", str(tmp_path / "secret")):
            for act in (box.read_file(path), box.write_file(path, b"x"), box.remove_file(path)):
                with pytest.raises(PermissionError):
                    await act
        with pytest.raises(FileNotFoundError):
            await box.remove_file("none")
        with pytest.raises(IsADirectoryError):
            await box.remove_file("deep")
        await box.remove_file("b.txt")
        assert not (work / "b.txt").exists()
        assert (tmp_path / "secret").read_text() == "hidden-word"

    asyncio.run(main())


def test_a_directory_of_its_own_is_gone_at_the_end() -> None:
    with SandlockSandbox() as box:
        place = box.sandbox.workspace
        assert asyncio.run(box.execute("pwd")).stdout == f"{place}\n"
    assert not os.path.exists(place)


# ---- the ten cases


async def ask(job: Job) -> str:
    """By its shell tool; questions are interrupts."""
    more = {} if job.timeout is None else {"timeout": int(job.timeout)}
    with SandlockSandbox(job.work, **job.fields) as box:
        worker = agent(box, commands(job.command, **more))
        result = await worker.invoke_async("go")
        while result.stop_reason == "interrupt":
            verdicts = [job.decide(each.reason["message"]) for each in result.interrupts or ()]
            given = ["allow" if isinstance(each, sandlock.Allow) else each.reason for each in verdicts]
            result = await worker.invoke_async(answered(result, *given))
    return "".join(answers(worker))


test_ten_cases, test_ten_at_once = cases_of(ask)


# ---- documents


@pytest.mark.needs(program="git")
def test_the_page_tells_what_happens() -> None:
    run_page("agents-strands.md")


@pytest.mark.needs(program="git")
def test_the_example() -> None:
    expected = """
[stdout] checking
[stderr] bash: ...
[stderr] <sandbox_violations>deny exec git push origin (...pushing is for people)</sandbox_violations>
exit code 126
7 squares: 0 1 4 9 16 25 36
notes.txt: written from outside
"""
    run_example("strands_agents.py", expected)
