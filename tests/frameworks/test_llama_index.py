"""The recipe for LlamaIndex, from its page: a CodeActAgent and a FunctionAgent, with a scripted model."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from loops import wait_alive
from recipes import recipe
from ten_cases import ASKED, Job, cases_of

page = recipe("LlamaIndex")
pytestmark = pytest.mark.usefixtures("lasting_thread")


def seen(messages: list[ChatMessage]) -> str:
    return "\n".join(str(message.content) for message in messages if message.role == "user")


async def ask(job: Job) -> str:
    """The model calls the shell tool, and answers with what it has seen."""

    def answer(messages: Any, **_: Any) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(role="assistant", content=messages[-1].content)
        call = ToolCallBlock(tool_call_id="call-1", tool_name="shell", tool_kwargs={"command": job.command})
        return ChatMessage(role="assistant", blocks=[call])

    llm = MockFunctionCallingLLM(response_generator=answer)
    timeout = job.timeout or 60.0
    found: str = await page.solve_by_commands("go on", llm, str(job.work), timeout=timeout, **job.keywords)
    return found


test_ten_cases, test_ten_at_once = cases_of(ask)


def coded(work: Path, *pieces: str, timeout: float = 60.0, **options: Any) -> str:
    """The model says one piece of code after the other, and at the end what it has seen of them."""

    def answer(messages: Any, **_: Any) -> ChatMessage:
        done = sum(message.role == "assistant" for message in messages)
        text = f"<execute>\n{pieces[done]}\n</execute>" if done < len(pieces) else seen(messages)
        return ChatMessage(role="assistant", content=text)

    llm = MockFunctionCallingLLM(response_generator=answer)
    found: str = asyncio.run(page.solve_by_code("go on", llm, str(work), timeout=timeout, **options))
    return found


def job(top: Path, answer: bool | str, **fields: Any) -> Job:
    (top / "work").mkdir()
    return Job(top / "work", "", answer=answer, fields=fields)


def test_code_is_confined_and_lives_on(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    here = job(tmp_path, answer=True)
    text = coded(
        here.work, "x = 20", f"print(open({str(secret)!r}).read())", "open('made', 'w').write('y')\nprint(x + 22)"
    )
    assert "PermissionError" in text
    assert "42" in text
    assert "hidden-word" not in text
    assert (here.work / "made").read_text() == "y"
    assert secret.read_text() == "hidden-word"


TOUCH = "import subprocess\nprint(subprocess.run(['sh', '-c', 'touch made; echo and on'], capture_output=True))"


def test_a_denied_exec_of_the_code_is_told(tmp_path: Path) -> None:
    here, rules = job(tmp_path, answer=True), {"exec_allow": ["*"]}
    text = coded(here.work, TOUCH, exec_deny=["touch * # files are made by people"], **rules)
    assert "files are made by people" in text
    assert "and on" in text
    assert os.listdir(here.work) == []
    assert "violations" not in coded(here.work, TOUCH, **rules)  # the control
    assert os.listdir(here.work) == ["made"]


@pytest.mark.parametrize("answer", [True, "not on fridays"])
def test_an_asked_exec_of_the_code(tmp_path: Path, answer: bool | str) -> None:
    here = job(tmp_path, answer, **ASKED)
    text = coded(here.work, TOUCH, **here.keywords)
    assert len(here.asked) == 1
    assert "touch made" in here.asked[0]
    assert ("not on fridays" in text) == (answer is not True)
    assert os.listdir(here.work) == (["made"] if answer is True else [])


def test_code_that_runs_out_of_time(tmp_path: Path) -> None:
    here, mark = job(tmp_path, answer=True), f"mark-{os.urandom(6).hex()}"
    slow = f"import subprocess\nopen('begun', 'w')\nsubprocess.run(['bash', '-c', 'exec -a {mark} sleep 90'])"
    text = coded(here.work, "x = 1", slow, "x", timeout=2.0)
    assert os.listdir(here.work) == ["begun"]
    assert wait_alive(mark, 0) == []
    assert "it ran out of time" in text
    assert "what was defined is gone" in text
    assert "NameError" in text
