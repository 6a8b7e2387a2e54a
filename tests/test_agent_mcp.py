"""The MCP server: its tools, its questions in both protocols, what a client's configuration becomes. On both loops."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
import trio
from framework_pages import run_example, run_page
from loops import Loop, wait_alive
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from ten_cases import Job, cases_of

from sandlock import PolicyError
from sandlock.agents.mcp import SandboxServer
from sandlock.agents.mcp_tools import read_tools
from sandlock.cli.agent.mcp_wrap import wrapped

pytestmark = pytest.mark.usefixtures("lasting_thread")
MODES = ("legacy", "auto")
"""Elicitation while a call is under way; and, from 2026-07-28 on, between two requests."""


class Person:
    """Who answers the client's forms."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []

    async def __call__(self, context: object, params: Any) -> types.ElicitResult:
        self.seen.append(params.message)
        answer = self.answers.pop(0)
        if answer in ("decline", "cancel"):
            return types.ElicitResult(action=answer)  # type: ignore[arg-type]
        choice, _, reason = answer.partition(":")
        return types.ElicitResult(action="accept", content={"choice": choice, "reason": reason})


def served(
    loop: Loop,
    mode: str,
    body: Callable[[Callable[..., Awaitable[tuple[str, bool]]]], Awaitable[None]],
    person: Person | None = None,
    **keywords: Any,
) -> None:
    """A server, a client, and `body(call)` with `call(tool, **arguments) -> (text, is_error)`."""

    async def main() -> None:
        server = SandboxServer(**keywords)
        async with Client(server.mcp, mode=mode, elicitation_callback=person) as client:

            async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
                result = await client.call_tool(tool, arguments)
                content = result.content[0]
                assert isinstance(content, types.TextContent)
                return content.text, bool(result.is_error)

            await body(call)

    loop.run(main)


@pytest.mark.parametrize("mode", MODES)
def test_commands_files_and_python(loop: Loop, mode: str, tmp_path: Path) -> None:
    async def body(call: Any) -> None:
        assert await call("run", command="echo hi; exit 3") == ("hi\n[exit code 3]", False)
        assert await call("python", code="print(6 * 7)") == ("42", False)
        assert await call("write_file", path="a/b.txt", content="1\n2\n3\n") == ("wrote 6 characters to a/b.txt", False)
        assert await call("read_file", path="a/b.txt", first_line=2, lines=1) == ("2\n", False)
        assert await call("edit_file", path="a/b.txt", old="2", new="two") == ("edited a/b.txt", False)
        assert (await call("edit_file", path="a/b.txt", old="nine", new="x"))[1]
        assert (await call("list_files", path="a"))[0].split() == ["file", "8", "a/b.txt"]
        assert await call("run", command="cat b.txt", cwd="a") == ("1\ntwo\n3", False)
        assert await call("remove_file", path="a", recursive=True) == ("removed a", False)
        text, failed = await call("read_file", path="/etc/passwd")
        assert failed
        assert "EXDEV" in text
        text, failed = await call("run", command="sleep 60", timeout=0.3)
        assert "time limit" in text
        text, failed = await call("run", command="head -c 3000000 /dev/zero | tr '\\0' x")
        assert len(text) < 40_000
        assert "characters left out" in text
        (tmp_path / "binary").write_bytes(bytes(range(256)))
        assert "\ufffd" in (await call("read_file", path="binary"))[0]

    served(loop, mode, body, workspace=tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_questions_are_put_to_the_user(loop: Loop, mode: str, tmp_path: Path) -> None:
    person = Person("o", "w:not in this project", "decline", "cancel", "nonsense", "p")

    async def body(call: Any) -> None:
        assert await call("run", command="mkdir -v 1") == ("mkdir: created directory '1'", False)
        text, _ = await call("run", command="mkdir 2")
        assert "<sandbox_violations>deny exec mkdir 2" in text
        assert "not in this project" in text
        for number, word in ((3, "declined"), (4, "dismissed"), (5, "none of the choices")):
            assert word in (await call("run", command=f"mkdir {number}"))[0]
        await call("run", command="git init x; git init y")

    keywords = {"exec_allow": ["*"], "exec_ask": ["mkdir *", "git init *"]}
    served(loop, mode, body, person, workspace=tmp_path, add=["git"], **keywords)
    assert sorted(os.listdir(tmp_path)) == ["1", "x", "y"]
    assert len(person.seen) == 6
    assert person.seen[0].startswith(f"exec: mkdir -v 1\nfile: {os.path.realpath(shutil.which('mkdir') or '')}\nin: ")
    assert "rule: mkdir *" in person.seen[0]


def test_who_calls_itself_something_else_is_seen_through(loop: Loop, tmp_path: Path) -> None:
    """A program of the model's own with a harmless first word; the end of a long command; words with spaces."""
    person = Person("d", "d", "d")
    lie = "cp /bin/sh ./evil; (exec -a mkdir ./evil -v 1)"
    long = f"mkdir {'x' * 2000} hidden"

    async def body(call: Any) -> None:
        for command in (lie, long, "mkdir '1 2'"):
            await call("run", command=command)

    served(loop, "auto", body, person, workspace=tmp_path, exec_allow=["*"], exec_ask=["mkdir *"])
    first, second, third = (each.splitlines() for each in person.seen)
    assert first[:2] == [f"exec: mkdir -v 1 (the file {tmp_path}/evil)", f"file: {tmp_path}/evil"]
    assert second[0].endswith("x... (1013 more characters)")
    assert third[0] == "exec: mkdir '1 2'"


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_cannot_ask_has_not_allowed(loop: Loop, mode: str, tmp_path: Path) -> None:
    async def body(call: Any) -> None:
        text, _ = await call("run", command="mkdir 1")
        assert "could not put the question" in text

    served(loop, mode, body, workspace=tmp_path, exec_allow=["*"], exec_ask=["mkdir *"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_is_asked_about(loop: Loop, mode: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('connected')"
        person = Person("d", "o")

        async def body(call: Any) -> None:
            assert "connected" not in (await call("python", code=code))[0]
            server.settimeout(0.2)
            with pytest.raises(TimeoutError):
                server.accept()
            assert (await call("python", code=code))[0] == "connected"
            server.settimeout(5)
            server.accept()[0].close()

        served(loop, mode, body, person, workspace=tmp_path, exec_allow=["*"])
        assert person.seen[0].startswith(f"connect: tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("mode", MODES)
def test_a_cancelled_call_ends_what_it_started(loop: Loop, mode: str, tmp_path: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def body(call: Any) -> None:
        async def long() -> None:
            await call("run", command=f"exec -a {mark} sleep 60; true")

        async def cancelled() -> bool:
            return await loop.cut_short(0.7, long)

        assert await cancelled()
        assert (await call("run", command="echo alive"))[0] == "alive"

    served(loop, mode, body, workspace=tmp_path)
    assert wait_alive(mark, 0) == []


TOOLS = """
[greet]
description = "Greet somebody."
command = ["printf", "%s|", "hi {who}", "{who}"]
parameters = { who = "Who" }

[save]
description = "Save a note beside the workspace."
command = ["cp", "{name}", "SIDE/{name}"]
parameters = { name = "A file" }
filesystem.write = ["SIDE"]
"""


def test_tools_of_ones_own_have_a_policy_of_their_own(loop: Loop, tmp_path: Path) -> None:
    side, work = tmp_path / "side", tmp_path / "inside"
    side.mkdir()
    work.mkdir()
    tools = read_tools(TOOLS.replace("SIDE", str(side)))

    async def body(call: Any) -> None:
        assert (await call("greet", who="$(id); x y"))[0] == "hi $(id); x y|$(id); x y|"
        assert "may not begin with" in (await call("greet", who="-v"))[0]
        await call("write_file", path="note", content="x")
        assert "denied" in (await call("run", command=f"cp note {side}/by-run"))[0].lower()
        await call("save", name="note")

    served(loop, "auto", body, workspace=work, tools=tools)
    assert os.listdir(side) == ["note"]


@pytest.mark.parametrize(
    "text",
    [
        "[run]\ncommand = ['x']",
        "['a b']\ncommand = ['x']",
        "[a]\ncommand = 'x'",
        "[a]\ncommand = ['{x}']",
        "[a]\ncommand = ['x']\nparameters = {x = 'y'}",
        "[a]\ncommand = ['x']\ntimeout = -1",
        "[a]\ncommand = ['x']\nfilesystem.wriet = ['/']",
        "a = 1",
        "=",
    ],
)
def test_tools_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        read_tools(text)


def test_the_command_serves_a_client_over_pipes(tmp_path: Path) -> None:
    person = Person("o")
    words = ["-m", "sandlock.cli", "agent", "mcp", "--exec-allow", "*", "--exec-ask", "mkdir *"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    server = StdioServerParameters(command=sys.executable, args=words, cwd=str(tmp_path), env=environment)

    async def main() -> None:
        with anyio.fail_after(60):
            async with Client(stdio_client(server), mode="legacy", elicitation_callback=person) as client:
                result = await client.call_tool("run", {"command": "mkdir -v made; pwd"})
                assert result.content[0].text.splitlines()[1:] == [str(tmp_path)]  # type: ignore[union-attr]

    trio.run(main)
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_whose_questions_go_to_the_client(mode: str, tmp_path: Path) -> None:
    person = Person("o", "w:use another name")
    (tmp_path / "inside").mkdir()
    line = 'read line; echo "got $line"; mkdir made; mkdir other; exit 3'
    words = ["-m", "sandlock.cli", "agent", "run", "--ask", "mcp", "--exec-ask", "mkdir *", "--", "bash", "-c", line]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    (tmp_path / "run").mkdir(mode=0o700)
    server = StdioServerParameters(command=sys.executable, args=words, cwd=str(tmp_path / "inside"), env=environment)

    async def main() -> None:
        with anyio.fail_after(100):
            async with Client(stdio_client(server), mode=mode, elicitation_callback=person) as client:
                result = await client.call_tool("run", {"input": "hello\n"})
                text = result.content[0].text  # type: ignore[union-attr]
                assert text.startswith("got hello\n")
                assert "[exit code 3]" in text
                assert "use another name" in text

    trio.run(main)
    assert os.listdir(tmp_path / "inside") == ["made"]
    assert len(person.seen) == 2


@pytest.mark.needs(program="git")
def test_the_document_tells_what_happens(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/how-to/ask-channels.md").read_text().partition("## An MCP client")[2]
    code, text = (re.search(f"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("python", "text"))  # type: ignore[index]
    program = tmp_path / "sandlock"
    path = os.environ.get("PYTHONPATH", "")
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m sandlock.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path / "work",
        env=environment,
    )
    shown = re.sub(r"git version \S+", "git version 2.39.5", done.stdout)
    expected = text.partition("...")[0]
    assert shown.startswith(expected), done.stdout + done.stderr
    assert "only --version here" in shown.removeprefix(expected)


# ---- other people's servers

CONFIGURATION = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "server-files", "/x y"], "env": {"TOKEN": "t"}},
        "remote": {"url": "stdio-less"},
        "done": {"command": "/opt/sandlock", "args": ["run"]},
    },
    "other": [1],
}


def test_a_configuration_is_rewritten() -> None:
    text, done, left = wrapped(CONFIGURATION, ["--preset", "node"])
    made = json.loads(text)
    assert done == ["files"]
    assert dict(left).keys() == {"remote", "done"}
    assert made["mcpServers"]["files"] == {
        "command": "sandlock",
        "args": ["run", "--preset", "node", "--pass-env", "TOKEN", "--", "npx", "-y", "server-files", "/x y"],
        "env": {"TOKEN": "t"},
    }
    assert {key: made["mcpServers"][key] for key in ("remote", "done")} == {
        key: CONFIGURATION["mcpServers"][key]
        for key in ("remote", "done")  # type: ignore[call-overload, index]
    }
    assert made["other"] == [1]
    with pytest.raises(PolicyError):
        wrapped(CONFIGURATION, [], ["nobody"])
    with pytest.raises(PolicyError):
        wrapped({"a": 1}, [])


@pytest.mark.parametrize(
    "server", [{"command": "./bin/sandlock", "args": ["run"]}, {"command": "sandlock", "args": ["--version"]}]
)
def test_a_name_like_ours_confines_nothing(server: dict[str, object]) -> None:
    """A file that comes with a project is anybody's; so is the program that it names."""
    text, done, left = wrapped({"mcpServers": {"files": server}}, ["--preset", "node"])
    assert (done, left) == (["files"], [])
    assert json.loads(text)["mcpServers"]["files"]["args"][:4] == ["run", "--preset", "node", "--"]


SERVER = """
import sys
from mcp.server import MCPServer
server = MCPServer("other", log_level="ERROR")
@server.tool()
def read(path: str) -> str:
    return open(path).read()
server.run()
"""


def test_a_wrapped_server_is_confined(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "secret").write_text("secret")
    own = {"command": sys.executable, "args": [str(tmp_path / "server.py")]}
    options = [
        "--preset",
        "python",
        "-r",
        str(tmp_path / "server.py"),
        "-r",
        os.path.dirname(os.path.dirname(sys.executable)),
    ]
    made = json.loads(wrapped({"mcpServers": {"other": own}}, options)[0])["mcpServers"]["other"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}

    async def ask(command: str, args: list[str]) -> str:
        server = StdioServerParameters(command=command, args=args, env=environment, cwd="/")
        with anyio.fail_after(60):
            async with Client(stdio_client(server), mode="legacy") as client:
                result = await client.call_tool("read", {"path": str(tmp_path / "secret")})
                return result.content[0].text  # type: ignore[union-attr]

    async def main() -> None:
        assert await ask(own["command"], own["args"]) == "secret"  # type: ignore[arg-type]
        confined = await ask(sys.executable, ["-m", "sandlock.cli", *made["args"]])
        assert "secret" not in confined.replace(str(tmp_path / "secret"), "")

    trio.run(main)


def test_in_place_keeps_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / ".mcp.json"
    file.write_text(json.dumps(CONFIGURATION))
    line = [sys.executable, "-m", "sandlock.cli", "agent", "mcp-wrap", str(file), "--in-place"]
    wrong = subprocess.run([*line, "--", "--no-such-option"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 125
    assert "no such option" in wrong.stderr
    assert json.loads(file.read_text()) == CONFIGURATION
    done = subprocess.run(
        [*line, "--only", "files", "--", "--preset", "node"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text())["mcpServers"]["files"]["command"] == "sandlock"
    assert json.loads((tmp_path / ".mcp.json.before-sandlock").read_text()) == CONFIGURATION
    assert "1 of 3 servers run confined: files" in done.stderr


# ---- what every adapter does


async def ask(job: Job) -> str:
    """By the tool `run`; questions are forms that the client fills in."""

    async def form(context: object, params: Any) -> types.ElicitResult:
        job.asked.append(params.message)
        choice = {"choice": "o"} if job.answer is True else {"choice": "w", "reason": str(job.answer)}
        return types.ElicitResult(action="accept", content=choice)  # type: ignore[arg-type]

    server = SandboxServer(workspace=job.work, **job.fields)
    async with Client(server.mcp, elicitation_callback=form) as client:
        arguments = {"command": job.command} | ({} if job.timeout is None else {"timeout": job.timeout})
        result = await client.call_tool("run", arguments)
        return str(result.content[0].text)  # type: ignore[union-attr]


test_ten_cases, test_ten_at_once = cases_of(ask)


def test_the_page() -> None:
    run_page("agents-mcp.md")


def test_the_example() -> None:
    expected = """
edit_file list_files python read_file remove_file run write_file
asked: exec: mkdir made
made
[stderr]
bash: line 1: ...outside: Permission denied
[exit code 1]
[exit code 3]
['project']
"""
    run_example("mcp_client.py", expected)
