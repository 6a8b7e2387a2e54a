"""Claude: what the hook makes of a tool call, that it is confined, and that questions come back to the application."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import HookMatcher
from loops import Loop
from ten_cases import Job, cases_of

from sandlock.agents.claude import ClaudeSandbox, hook_output, wrapped_command
from sandlock.agents.loops import in_thread

pytestmark = pytest.mark.usefixtures("lasting_thread")


@pytest.fixture
def program(tmp_path: Path) -> str:
    """`sandlock` as this test has it."""
    file = tmp_path / "bin" / "sandlock"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m sandlock.cli "$@"\n')
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "inside").mkdir()
    return tmp_path


def carried_out(output: dict[str, Any], place: Path) -> subprocess.CompletedProcess[str]:
    """What Claude Code does with a rewritten command: its own shell runs it, unconfined."""
    decided = output["hookSpecificOutput"]
    assert decided["permissionDecision"] == "allow"
    command = decided["updatedInput"]["command"]
    return subprocess.run(
        ["bash", "-c", command], cwd=place / "inside", capture_output=True, text=True, check=False, timeout=100
    )


def call(command: object, **more: object) -> dict[str, Any]:
    return {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": command, **more}}


def test_a_command_runs_confined_word_for_word(place: Path, program: str) -> None:
    (place / "secret").write_text("secret")
    line = (
        f'echo "it\'s" \'$X\' `echo tick` "$(echo sub)"; X=1; echo $X; '
        f"cat {place}/secret; echo y > {place}/secret; exit 3"
    )
    given = call(line, description="d", timeout=5, dangerouslyDisableSandbox=True)
    output = hook_output(given, ["--ask", "none"], program=program)
    updated = output["hookSpecificOutput"]["updatedInput"]
    assert (updated["description"], updated["timeout"]) == ("d", 5)
    assert "dangerouslyDisableSandbox" not in updated
    done = carried_out(output, place)
    assert done.stdout == "it's $X tick sub\n1\n"
    assert done.returncode == 3
    assert (place / "secret").read_text() == "secret"


@pytest.mark.parametrize("command", [None, 3, ["ls"], "a\0b"])
def test_what_cannot_be_read_is_denied(command: object) -> None:
    decided = hook_output(call(command), [])["hookSpecificOutput"]
    assert decided["permissionDecision"] == "deny"


def test_other_tools_are_left_alone() -> None:
    assert hook_output({"tool_name": "Read", "tool_input": {"file_path": "x"}}, []) == {}


def test_the_hook_fails_closed(loop: Loop) -> None:
    async def body() -> None:
        async with ClaudeSandbox() as sandbox:
            (matcher,) = sandbox.hooks()["PreToolUse"]
            assert isinstance(matcher, HookMatcher)
            assert (matcher.matcher, matcher.on_failure) == ("Bash", "block")
            output = await sandbox.pre_tool_use(call("ls"), "toolu_1", None)
            words = output["hookSpecificOutput"]["updatedInput"]["command"]
            assert "--ask none --name toolu_1 -- bash -c ls" in words

    loop.run(body)


def test_questions_come_back_to_the_application(loop: Loop, place: Path, program: str) -> None:
    asked: list[list[str]] = []

    async def approve(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question["argv"])
        if question["argv"][1] == "raises":
            raise ValueError("no")
        if question["argv"][1] == "denied":
            return {"choice": "w", "reason": "use another name"}
        return {"verdict": "allow"}

    async def body() -> None:
        options = ["--exec-ask", "mkdir *"]
        async with ClaudeSandbox(options, approve=approve, program=program) as sandbox:
            for name in ("made", "denied", "raises"):
                output = await sandbox.pre_tool_use(call(f"mkdir {name}"), None, None)
                done = await in_thread(carried_out, output, place)
                if name == "denied":
                    assert "use another name" in done.stderr

    loop.run(body)
    assert asked == [["mkdir", "made"], ["mkdir", "denied"], ["mkdir", "raises"]]
    assert os.listdir(place / "inside") == ["made"]


def test_the_command_is_a_hook_of_claude_code(place: Path) -> None:
    line = [sys.executable, "-m", "sandlock.cli", "agent", "hook", "--", "--add", "git"]

    def hook(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, input=text, capture_output=True, text=True, check=False, timeout=100)

    done = hook(json.dumps(call("git status")))
    assert done.returncode == 0
    command = json.loads(done.stdout)["hookSpecificOutput"]["updatedInput"]["command"]
    assert command.endswith("agent run --add git -- bash -c 'git status'")
    assert hook("rubbish").returncode == 2
    assert hook("[]").returncode == 2


def test_a_command_line_is_one_word(program: str) -> None:
    assert wrapped_command("a; b", [], program="/x y/sandlock").startswith(
        "'/x y/sandlock' agent run -- bash -c 'a; b'"
    )


# ---- what every adapter does


MOST_OF_CLAUDE = 30_000
"""Characters of an output that Claude Code shows to the model (BASH_MAX_OUTPUT_LENGTH)."""


async def ask(job: Job) -> str:
    """As Claude Code does it: its own shell carries out what the hook has made of the command, and kills it."""
    program = job.work.parent / f"sandlock-{job.work.name}"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sandlock.cli "$@"\n')
    program.chmod(0o755)

    async def approve(question: dict[str, Any]) -> dict[str, Any]:
        job.asked.append(" ".join(question["argv"]) or question["target"])
        return {"verdict": "allow"} if job.answer is True else {"verdict": "deny", "reason": str(job.answer)}

    options = [word for name, value in job.fields.items() for word in flags(name, value)]
    options += [] if job.timeout is None else ["--timeout", f"{job.timeout}s"]
    async with ClaudeSandbox(options, approve=approve, program=str(program)) as sandbox:
        output = await sandbox.pre_tool_use(call(job.command), None, None)
        command = output["hookSpecificOutput"]["updatedInput"]["command"]
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", command, cwd=job.work, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        try:
            said, _ = await shell.communicate()
        except asyncio.CancelledError:
            os.killpg(shell.pid, signal.SIGKILL)
            await shell.wait()
            raise
    text = said.decode(errors="replace")
    return f"{shell.returncode}\n{text[:MOST_OF_CLAUDE]}"


def flags(name: str, value: object) -> list[str]:
    """A field of Policy, as options of the command line."""
    flag = "--" + name.replace("_", "-")
    return [word for each in (value if isinstance(value, list) else [value]) for word in (flag, str(each))]


test_ten_cases, test_ten_at_once = cases_of(ask)
