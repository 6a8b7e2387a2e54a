"""Claude Code itself, as its SDK brings it, with a model on the loopback: each way into the sandbox, from outside."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import claude_agent_sdk
import pytest
from claude_agent_sdk import ClaudeAgentOptions, query
from claude_api import Model, serving
from framework_pages import run_example, run_page

from sandlock.agents.claude import ClaudeSandbox

CLAUDE = str(Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude")
BIN = os.path.dirname(sys.executable)
ESCAPE = "echo hello; echo evil > {outside}; mkdir made; cd made"


class Place:
    """A project, what lies beside it, and Claude Code's own home."""

    def __init__(self, top: Path) -> None:
        self.work, self.home, self.outside = top / "work", top / "home", top / "outside"
        for each in (self.work, self.home, top / "run"):
            each.mkdir(mode=0o700)
        self.outside.write_text("mine")
        self.env = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(top / "run"), "ANTHROPIC_API_KEY": "none", "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
        }  # fmt: skip
        if os.geteuid() == 0:
            self.env["IS_SANDBOX"] = "1"

    @property
    def script(self) -> dict[str, str]:
        return {"command": ESCAPE.format(outside=self.outside), "description": "work"}

    def run(self, model: Model, *words: str, launcher: tuple[str, ...] = (), **env: str) -> str:
        """`claude -p`; what it says at the end."""
        variables = self.env | {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model.port}"} | env
        done = subprocess.run(
            [*launcher, CLAUDE, "-p", "go", *words], cwd=self.work, env=variables, capture_output=True, text=True,
            timeout=100, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def is_unharmed(self) -> bool:
        return self.outside.read_text() == "mine"


def grants(model: Model) -> list[str]:
    """What all of Claude Code needs, where its program and model are."""
    where = BIN.rpartition("/")[0]
    return ["-p", "claude", "--fs-read", where, "--net-allow", f"tcp://127.0.0.1:{model.port}"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_a_sandbox(place: Place) -> None:
    """The control: what the model says is done."""
    with serving([place.script, "done"]) as model:
        assert place.run(model, "--allowedTools", "Bash") == "done"
    assert not place.is_unharmed()
    assert os.listdir(place.work) == ["made"]


def test_the_hook_in_its_settings(place: Place) -> None:
    command = "sandlock agent hook -- --add git --exec-deny 'touch *' --ask none || exit 2"
    hooks = {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": command}]}]}}
    with serving([place.script, {"command": "touch other", "description": "x"}, "done"]) as model:
        assert place.run(model, "--settings", json.dumps(hooks)) == "done"
    assert place.is_unharmed()
    assert os.listdir(place.work) == ["made"]
    assert "hello" in model.results[0]
    assert "<sandbox_violations>deny exec touch other" in model.results[1]


@pytest.mark.parametrize("command", ["no-such-sandlock agent hook", "sandlock agent hook --no-such-option"])
def test_a_hook_that_cannot_do_its_work_blocks(place: Place, command: str) -> None:
    hook = {"type": "command", "command": f"{command} || exit 2"}
    hooks = {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [hook]}]}}
    with serving([place.script, "done"]) as model:
        assert place.run(model, "--settings", json.dumps(hooks), "--allowedTools", "Bash") == "done"
    assert place.is_unharmed()
    assert os.listdir(place.work) == []


def test_the_shell_prefix(place: Place) -> None:
    """The directory that a command changes to is the next one's."""
    prefix = {"CLAUDE_CODE_SHELL_PREFIX": "sandlock-claude-shell --add=git"}
    options = {"SANDLOCK_CLAUDE_OPTIONS": "--exec-deny 'touch *'"}
    turns = [place.script, {"command": "pwd; touch other", "description": "x"}, "done"]
    with serving(turns) as model:
        assert place.run(model, "--allowedTools", "Bash", **prefix, **options) == "done"
    assert place.is_unharmed()
    assert os.listdir(place.work) == ["made"]
    assert str(place.work / "made") in model.results[1]
    assert "<sandbox_violations>deny exec touch other" in model.results[1]
    assert os.listdir(place.work / "made") == []


def test_a_prefix_that_fails_runs_nothing(place: Place) -> None:
    prefix = {"CLAUDE_CODE_SHELL_PREFIX": "sandlock-claude-shell --no-such-option"}
    with serving([place.script, "done"]) as model:
        assert place.run(model, "--allowedTools", "Bash", **prefix) == "done"
    assert place.is_unharmed()
    assert os.listdir(place.work) == []


def test_all_of_it(place: Place) -> None:
    """Its own file tools too: Write of a file outside fails, of one inside does not."""
    turns = [
        place.script,
        ("Write", {"file_path": str(place.outside), "content": "evil"}),
        ("Write", {"file_path": str(place.work / "written"), "content": "good"}),
        ("Write", {"file_path": str(place.work / ".git/hooks/pre-commit"), "content": "evil"}),
        "done",
    ]
    subprocess.run(["git", "init", "-q", place.work], check=True)
    with serving(turns) as model:
        launcher = (f"{BIN}/sandlock", "agent", "run", "--ask", "none", *grants(model), "--")
        said = place.run(model, "--permission-mode", "acceptEdits", "--allowedTools", "Bash,Write", launcher=launcher)
    assert said == "done"
    assert place.is_unharmed()
    assert sorted(os.listdir(place.work)) == [".git", "made", "written"]
    assert (place.work / "written").read_text() == "good"
    assert not (place.work / ".git/hooks/pre-commit").exists()


# ---- by the SDK


async def by_sdk(place: Place, model: Model, **options: Any) -> str:
    async def prompts() -> AsyncIterator[dict[str, Any]]:
        yield {
            "type": "user",
            "message": {"role": "user", "content": "go"},
            "parent_tool_use_id": None,
            "session_id": "s",
        }

    env = place.env | {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model.port}"}
    said = ""
    async for message in query(prompt=prompts(), options=ClaudeAgentOptions(cwd=place.work, env=env, **options)):
        said = getattr(message, "result", said)
    return said


def test_hooks_of_the_sdk(place: Place) -> None:
    asked: list[list[str]] = []

    def approve(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question["argv"])
        return {"verdict": "allow"} if question["argv"][1] == "made" else {"verdict": "deny", "reason": "not that"}

    async def main() -> None:
        async with ClaudeSandbox(["--exec-ask", "mkdir *"], approve=approve) as sandbox:
            turns = [place.script, {"command": "mkdir other", "description": "x"}, "done"]
            with serving(turns) as model:
                assert await by_sdk(place, model, hooks=sandbox.hooks(), allowed_tools=["Bash"]) == "done"
            assert "deny exec mkdir other" in model.results[1]
            assert "not that" in model.results[1]

    asyncio.run(main())
    assert asked == [["mkdir", "made"], ["mkdir", "other"]]
    assert place.is_unharmed()
    assert os.listdir(place.work) == ["made"]


def test_can_use_tool(place: Place) -> None:
    other: list[str] = []

    async def otherwise(tool: str, given: dict[str, Any], context: Any) -> Any:
        other.append(tool)
        return claude_agent_sdk.PermissionResultDeny(message="no files")

    async def main() -> None:
        async with ClaudeSandbox() as sandbox:
            write = ("Write", {"file_path": str(place.work / "written"), "content": "x"})
            with serving([place.script, write, "done"]) as model:
                assert await by_sdk(place, model, can_use_tool=sandbox.can_use_tool(otherwise)) == "done"
            assert "no files" in model.results[1]

    asyncio.run(main())
    assert other == ["Write"]
    assert place.is_unharmed()
    assert os.listdir(place.work) == ["made"]


def test_cli_path(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        with serving([place.script, "done"]) as model:
            options = [
                "-p",
                "claude",
                "--fs-read",
                BIN.rpartition("/")[0],
                "--net-allow",
                f"tcp://127.0.0.1:{model.port}",
            ]
            async with ClaudeSandbox(options) as sandbox:
                path = sandbox.cli_path(CLAUDE)
                assert await by_sdk(place, model, cli_path=path, allowed_tools=["Bash"]) == "done"

    asyncio.run(main())
    assert place.is_unharmed()
    assert os.listdir(place.work) == ["made"]


# ---- what is written about it


def test_the_page(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.work)
    turns = [{"command": "git init -q; git push origin; ls -a", "description": "publish"}, "done"]
    with serving(turns) as model:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{model.port}")
        run_page("agents-claude.md")
    assert "the mirror is read-only" in model.results[0]


def test_the_example() -> None:
    expected = """
asked: mkdir made
asked: mkdir other
hello
cat: /etc/shadow: ...
<sandbox_violations>deny exec mkdir other ...not that one)</sandbox_violations>
...
made
...
"""
    run_example("claude_hook.py", expected)
