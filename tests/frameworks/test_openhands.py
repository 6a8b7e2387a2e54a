"""The recipe for OpenHands, from its page: conversations with its TestLLM. Needs Python 3.12."""

from __future__ import annotations

import os

from recipes import home_of_its_own, recipe

os.environ |= {"OTEL_SDK_DISABLED": "true", "OPENHANDS_SUPPRESS_BANNER": "1"}
os.environ |= home_of_its_own()

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loops import wait_alive
from openhands.sdk.llm import Message, MessageToolCall, TextContent
from openhands.sdk.testing import TestLLM
from ten_cases import Job, cases_of

page = recipe("OpenHands")


class Remembering(TestLLM):
    """Scripted; keeps the tools' answers."""

    def completion(self, messages: list[Message], *arguments: Any, **keywords: Any) -> Any:
        found = [part.text for message in messages if message.role == "tool" for part in message.content]  # type: ignore[union-attr]
        SEEN.setdefault(id(self), []).append("\n".join(found))
        return super().completion(messages, *arguments, **keywords)


SEEN: dict[int, list[str]] = {}


def scripted(*commands: str) -> TestLLM:
    steps: list[Message | Exception] = []
    for number, command in enumerate(commands):
        arguments = json.dumps({"command": command})
        call = MessageToolCall(id=f"call_{number}", name="shell", arguments=arguments, origin="completion")
        steps.append(Message(role="assistant", content=[TextContent(text="")], tool_calls=[call]))
    return Remembering.from_messages([*steps, Message(role="assistant", content=[TextContent(text="Done.")])])


def solve(llm: TestLLM, work: Path) -> None:
    asyncio.run(page.solve("go on", llm, str(work)))


@pytest.fixture(scope="module", autouse=True)
def first_conversation(lasting_thread: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What it imports and starts is there before anything is counted."""
    solve(scripted("true"), tmp_path_factory.mktemp("work"))


async def ask(job: Job) -> str:
    llm = scripted(job.command)
    await page.solve("go on", llm, str(job.work), job.timeout or 60.0, **job.keywords)
    return SEEN.pop(id(llm))[-1]


test_ten_cases, test_ten_at_once = cases_of(ask)


def test_a_conversation_in_plain_code(tmp_path: Path) -> None:
    agent = page.Agent(llm=scripted("echo made > made"), tools=[page.Tool(name="shell")])
    with page.SandlockWorkspace(working_dir=tmp_path) as place:
        conversation = page.Conversation(agent=agent, workspace=place)
        conversation.send_message("go on")
        conversation.run()
        conversation.close()
    assert (tmp_path / "made").read_text() == "made\n"


def test_an_interrupted_conversation_ends_its_command(tmp_path: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    agent = page.Agent(llm=scripted(f"bash -c 'exec -a {mark} sleep 90'"), tools=[page.Tool(name="shell")])
    with page.SandlockWorkspace(working_dir=tmp_path) as place:
        conversation = page.Conversation(agent=agent, workspace=place)
        conversation.send_message("go on")
        thread = threading.Thread(target=lambda: asyncio.run(conversation.arun()))
        thread.start()
        assert len(wait_alive(mark, 1, 30)) == 1
        started = time.monotonic()
        conversation.interrupt()
        thread.join(50)
        assert time.monotonic() - started < 30  # its time limit is 60 seconds
        assert not thread.is_alive()
        assert wait_alive(mark, 0) == []
        assert place.execute_command("echo on").stdout == "on\n"
        conversation.close()


def test_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "work" / "sub").mkdir(parents=True)
    (tmp_path / "given").write_text("content")
    rules = {"exec_allow": ["*"], "exec_deny": ["touch * # files are made by people"]}
    with page.SandlockWorkspace(working_dir=tmp_path / "work", **rules) as place:
        done = place.execute_command("touch made; pwd; cat; exit 3", cwd="sub")
        assert (done.exit_code, done.stdout) == (3, f"{tmp_path}/work/sub\n")
        assert "files are made by people" in done.stderr
        slow = place.execute_command("sleep 90", timeout=0.5)
        assert (slow.exit_code, slow.timeout_occurred) == (-1, True)
        assert place.file_upload(tmp_path / "given", "deep/taken").success
        assert place.file_download("deep/taken", tmp_path / "back").success
        place.execute_command(f"ln -s {tmp_path} out")
        for path in ("../stolen", str(tmp_path / "stolen"), "out/stolen"):
            assert not place.file_upload(tmp_path / "given", path).success
        assert not place.file_download("missing", tmp_path / "none").success
        with pytest.raises(NotImplementedError, match="outside the box"):
            place.git_changes(".")
    assert (tmp_path / "back").read_text() == "content"
    assert sorted(os.listdir(tmp_path)) == ["back", "given", "work"]
    assert os.listdir(tmp_path / "work" / "sub") == []


HOOKS = ".agents/plugins/mine/hooks"


def plant(mark: Path) -> str:
    """A plugin in the workspace, whose hook leaves a mark outside."""
    hook = {"type": "command", "command": f"touch {mark}"}
    hooks = json.dumps({"hooks": {"SessionStart": [{"matcher": "*", "hooks": [hook]}]}})
    manifest = json.dumps({"name": "mine", "version": "1.0.0", "description": "d"})
    folder = HOOKS.rpartition("/")[0]
    lines = [f"mkdir -p {HOOKS} {folder}/.plugin", f"echo '{manifest}' > {folder}/.plugin/plugin.json"]
    return "; ".join([*lines, f"echo '{hooks}' > {HOOKS}/hooks.json"])


def test_a_plugin_that_the_agent_plants_is_not_executed_outside(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for confined in (True, False):
        work = tmp_path / f"work-{confined}"
        work.mkdir()
        if confined:
            solve(scripted(plant(mark)), work)
        else:
            assert os.system(f"cd {work}; {plant(mark)}") == 0
        solve(scripted("true"), work)  # the next conversation
        assert mark.exists() != confined
        assert (work / ".agents").exists() != confined
