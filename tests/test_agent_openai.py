"""The OpenAI Agents SDK with its scripted model: sessions, terminals, files, snapshots, approvals, and ShellTool."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, ShellTool
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.errors import ExecTimeoutError, WorkspaceArchiveReadError, WorkspaceArchiveWriteError
from agents.testing import ScriptedModel, assistant_message, function_call
from loops import wait_alive
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.openai import SandlockSandboxClient, shell_executor
from sandlock.agents.sandbox import AgentSandbox, Request

pytestmark = pytest.mark.usefixtures("lasting_thread")


def in_session(body: Callable[[Any], Awaitable[None]], *, manifest: Manifest | None = None, **keywords: Any) -> None:
    """`body(session)` in a session that is deleted afterwards."""

    async def main() -> None:
        client = SandlockSandboxClient(**keywords)
        session = await client.create(manifest=manifest)
        root = session.state.manifest.root
        async with session:
            await body(session)
        await client.delete(session)
        assert manifest is not None or not os.path.exists(root)

    asyncio.run(main())


def test_commands_are_confined(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")

    async def body(session: Any) -> None:
        done = await session.exec("echo out; echo err >&2; exit 3")
        assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 3)
        assert b"secret" not in (await session.exec(f"cat {secret}")).stdout
        await session.exec(f"echo changed > {secret}")
        assert (await session.exec("no-such-program-at-all")).exit_code == 127
        big = await session.exec("head -c 3000000 /dev/zero")
        assert len(big.stdout) == 3_000_000
        started = time.monotonic()
        with pytest.raises(ExecTimeoutError):
            await session.exec("sleep 60", timeout=0.4)
        assert time.monotonic() - started < 20

    in_session(body)
    assert secret.read_text() == "secret"


def test_a_cancelled_command_ends_with_all_it_started() -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def body(session: Any) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.exec(f"bash -c 'exec -a {mark} sleep 60'; true"), 0.7)

    in_session(body)
    assert wait_alive(mark, 0) == []


def test_files_are_read_and_written_without_a_process(tmp_path: Path) -> None:
    asked: list[str] = []

    def approve(request: Request) -> None:
        asked.append(request.summary)

    async def body(session: Any) -> None:
        await session.write(Path("dir/a.bin"), io.BytesIO(bytes(range(256))))
        assert (await session.read(Path("dir/a.bin"))).read() == bytes(range(256))
        assert [Path(entry.path).name for entry in await session.ls(Path("dir"))] == ["a.bin"]
        await session.rm(Path("dir"), recursive=True)
        assert asked == []

    in_session(body, approve=approve)


def test_a_workspace_is_kept_and_resumed() -> None:
    async def main() -> None:
        client = SandlockSandboxClient()
        session = await client.create()
        async with session:
            await session.exec("mkdir d; echo kept > d/file")
            archive = await session.persist_workspace()
        payload = session.state.model_dump(mode="json")
        again = await client.resume(client.deserialize_session_state(payload))
        async with again:
            assert (await again.exec("cat d/file")).stdout == b"kept\n"
        await client.delete(again)
        other = await client.create()
        async with other:
            await other.hydrate_workspace(archive)
            assert (await other.exec("cat d/file")).stdout == b"kept\n"
        await client.delete(other)

    asyncio.run(main())


def test_a_manifest_has_its_way(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("data")
    manifest = Manifest(
        root=str(tmp_path / "root"),
        environment={"value": {"COLOUR": "green"}},  # type: ignore[arg-type]
        extra_path_grants=[{"path": str(tmp_path / "data"), "read_only": True}],  # type: ignore[list-item]
    )

    async def body(session: Any) -> None:
        assert (await session.exec(f"pwd; echo $COLOUR; cat {tmp_path}/data/x")).stdout.decode().split() == [
            str(tmp_path / "root"), "green", "data",
        ]  # fmt: skip
        await session.exec(f"echo changed > {tmp_path}/data/x")

    in_session(body, manifest=manifest)
    assert (tmp_path / "data" / "x").read_text() == "data"


def test_terminals() -> None:
    async def body(session: Any) -> None:
        update = await session.pty_exec_start("read x; echo got $x; tty; exit 5", tty=True, yield_time_s=0.3)
        assert update.exit_code is None
        update = await session.pty_write_stdin(session_id=update.process_id, chars="hello\n", yield_time_s=5)
        assert b"got hello" in update.output
        assert b"/dev/pts/" in update.output
        assert update.exit_code == 5
        update = await session.pty_exec_start("sleep 60", tty=True, yield_time_s=0.3)
        assert update.exit_code is None
        await session.pty_terminate_all()
        update = await session.pty_exec_start("echo out; echo err >&2", tty=False, yield_time_s=5)
        assert (update.output, update.exit_code) == (b"out\nerr\n", 0)

    in_session(body)


def run_agent(lines: list[str], **keywords: Any) -> list[str]:
    """What a scripted agent's tool calls give, one after the other."""
    calls = [[function_call("exec_command", {"cmd": line}, call_id=f"c{i}")] for i, line in enumerate(lines)]
    model = ScriptedModel([*calls, [assistant_message("done")]])
    agent = SandboxAgent(name="agent", model=model, instructions="work")

    async def main() -> list[str]:
        config = RunConfig(sandbox=SandboxRunConfig(client=SandlockSandboxClient(**keywords)), tracing_disabled=True)
        result = await Runner.run(agent, "go", run_config=config)
        assert result.final_output == "done"
        return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]

    return asyncio.run(main())


def test_an_agent_is_told_what_was_denied(tmp_path: Path) -> None:
    asked: list[str] = []

    async def approve(request: Request) -> sandlock.Allow | sandlock.Deny:
        asked.append(request.summary)
        return sandlock.Allow() if "made" in request.summary else sandlock.Deny("not that one")

    outputs = run_agent(
        ["mkdir made; ls", "mkdir other; ls", "cat /etc/shadow"],
        approve=approve,
        exec_allow=["*"],
        exec_ask=["mkdir *"],
    )
    assert asked == ["exec mkdir made", "exec mkdir other"]
    assert "made" in outputs[0]
    assert "<sandbox_violations>deny exec mkdir other" in outputs[1]
    assert "not that one" in outputs[1]
    assert "Permission denied" in outputs[2]


def test_an_agent_asks_before_it_connects() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answers = [sandlock.Deny("no"), sandlock.Allow()]
        line = f"python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('connected')\""
        outputs = run_agent([line, line], approve=lambda request: answers.pop(0), exec_allow=["*"])
        assert "connected" not in outputs[0]
        assert f"deny connect tcp://127.0.0.1:{port}" in outputs[0]
        assert "connected" in outputs[1]
        server.settimeout(5)
        server.accept()[0].close()
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_file_tools_may_do_what_commands_may(tmp_path: Path) -> None:
    """The SDK's apply_patch and the session's files: what users and editors execute later is not theirs to write."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".env").write_text("secret")
    (tmp_path / "trap").symlink_to(".git/hooks")

    async def body(session: Any) -> None:
        for name in (
            ".git/hooks/pre-commit",
            ".git/config",
            ".mcp.json",
            ".vscode/tasks.json",
            "trap/pre-push",
            ".env",
        ):
            with pytest.raises(WorkspaceArchiveWriteError):
                await session.write(Path(name), io.BytesIO(b"evil"))
        for act in (
            lambda: session.read(Path(".env")),
            lambda: session.rm(".git", recursive=True),
            lambda: session.mv(".git", "moved"),
            lambda: session.mkdir(".vscode"),
        ):
            with pytest.raises((WorkspaceArchiveReadError, WorkspaceArchiveWriteError)):
                await act()
        with pytest.raises(WorkspaceArchiveWriteError):
            await session.apply_patch({"type": "create_file", "path": ".git/hooks/post-merge", "diff": "+evil"})
        await session.write(Path("src/main.py"), io.BytesIO(b"good"))
        await session.apply_patch({"type": "create_file", "path": "src/more.py", "diff": "+good"})
        assert sorted(Path(entry.path).name for entry in await session.ls("src")) == ["main.py", "more.py"]

    in_session(body, manifest=Manifest(root=str(tmp_path)), add=["git"])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"evil" in path.read_bytes()]
    assert (tmp_path / ".git/hooks").is_dir()


def test_shell_tool(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def approve(request: Request) -> sandlock.Deny:
        seen.append((request.summary, request.call_id))
        return sandlock.Deny("no")

    async def main() -> None:
        async with AgentSandbox(tmp_path, approve=approve, exec_allow=["*"], exec_ask=["touch *"]) as box:
            tool = ShellTool(executor=shell_executor(box, max_output=50))
            call = {
                "type": "shell_call", "call_id": "call-1", "id": "x", "status": "completed",
                "action": {"commands": ["echo one", "touch x; exit 4", "seq 1 1000", "sleep 60", "echo never"],
                           "timeout_ms": 700},
            }  # fmt: skip
            model = ScriptedModel([[call], [assistant_message("done")]])  # type: ignore[list-item]
            agent = Agent(name="agent", model=model, tools=[tool])
            result = await Runner.run(agent, "go", run_config=RunConfig(tracing_disabled=True))
            (output,) = [item for item in result.new_items if item.type == "tool_call_output_item"]
            text = str(output.output)
            assert "one" in text
            assert "sandbox_violations" in text
            assert "characters left out" in text
            assert "never" not in text

    asyncio.run(main())
    assert seen == [("exec touch x", "call-1")]
    assert os.listdir(tmp_path) == []


# ---- what every adapter does


async def ask(job: Job) -> str:
    """By the tool that the SDK makes of a session."""
    arguments: dict[str, Any] = {"cmd": job.command, "yield_time_ms": 60_000}
    model = ScriptedModel([[function_call("exec_command", arguments, call_id="c")], [assistant_message("done")]])
    agent = SandboxAgent(name="agent", model=model, instructions="work")
    client = SandlockSandboxClient(timeout=job.timeout, **job.keywords)
    session = await client.create(manifest=Manifest(root=str(job.work)))
    async with session:
        sandbox = SandboxRunConfig(client=client, session=session)
        result = await Runner.run(agent, "go", run_config=RunConfig(sandbox=sandbox, tracing_disabled=True))
    (output,) = [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]
    return output


test_ten_cases, test_ten_at_once = cases_of(ask)
