"""Who answers an agent run's questions, by each way that there is, always the same; and an agent that asks.

The agent executes `deploy WORD`, which makes a file, and connects to a port of ours for each word. `yes` is allowed,
`no` is denied, `why` is denied with a reason; or nobody says anything.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ordinary
import trio
from agent_terminal import Terminal, workspace, write
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitResult
from test_agent_attach import finish, started
from test_agent_ui import Visitor, events, exact_case

WORDS = ("yes", "no", "why")
REASON = "use the mirror"
ANSWERS: dict[str, dict[str, object]] = {
    "yes": {"verdict": "allow"},
    "no": {"verdict": "deny"},
    "why": {"verdict": "deny", "reason": REASON},
}
KEYS = {"yes": "o", "no": "d", "why": "w"}

SERVICE = """
import json, socket, sys, time
way, place, silent, ports, answers = sys.argv[1], sys.argv[2], sys.argv[3] == "True", *map(json.loads, sys.argv[4:])

def answer(question):
    while silent:
        time.sleep(60)
    words = dict(zip(ports, answers))
    return answers[question["argv"][-1] if question["kind"] == "exec" else words[question["port"]]]

if way == "exec":
    print(json.dumps(answer(json.load(sys.stdin))))
elif way == "http":
    from http.server import BaseHTTPRequestHandler, HTTPServer
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            reply = json.dumps(answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)
        def log_message(self, *words):
            pass
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    print("here", flush=True)
    if way == "leaves":
        listener.accept()[0].close()
        sys.exit()
    lines = listener.accept()[0].makefile("rw")
    for line in lines:
        if "question" in (message := json.loads(line)):
            said = answer(message["question"])
            print(json.dumps({"question": message["question"]["id"], "answer": said}), file=lines, flush=True)
"""


class Arena:
    """A workspace with `deploy`, and a listener for each word."""

    def __init__(self, who: ordinary.Person, words: tuple[str, ...], *, silent: bool) -> None:
        self.who = who
        self.words = words
        self.silent = silent
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in words]
        self.ports = [listener.getsockname()[1] for listener in self.listeners]
        write(who, "deploy", "#!/bin/sh\n: > made-$1\n", 0o755)
        self.service = os.path.join(who.home, "service.py")
        with open(self.service, "w", encoding="utf-8") as file:
            file.write(SERVICE)
        os.chmod(self.service, 0o644)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()

    @property
    def script(self) -> str:
        connects = "; ".join(f"bash -c 'echo > /dev/tcp/127.0.0.1/{port}'" for port in self.ports)
        return f"PATH=.:$PATH; for word in {' '.join(self.words)}; do deploy $word; done; {connects}; echo finished"

    @property
    def options(self) -> list[str]:
        return ["--exec-ask", "deploy *", *(("--ask-timeout", "1") if self.silent else ())]

    def command(self, *more: str) -> list[str]:
        """The words behind `sandlock`."""
        return ["agent", "run", *self.options, *more, "--", "sh", "-c", self.script]

    def service_words(self, way: str, place: str = "") -> list[str]:
        return [
            self.who.python,
            self.service,
            way,
            place,
            str(self.silent),
            json.dumps(self.ports),
            json.dumps(ANSWERS),
        ]

    def word_of(self, question: dict[str, object]) -> str:
        argv = question["argv"]
        assert isinstance(argv, list)
        return str(argv[-1]) if question["kind"] == "exec" else self.words[self.ports.index(question["port"])]

    def look(self) -> None:
        """Which words a file was made for, and for which somebody came; as seen from outside."""
        self.made = [word for word in self.words if os.path.exists(os.path.join(workspace(self.who), f"made-{word}"))]
        self.came = []
        for word, listener in zip(self.words, self.listeners, strict=True):
            listener.setblocking(False)
            with suppress(BlockingIOError):
                listener.accept()[0].close()
                self.came.append(word)


# --- nobody is there --------------------


def program_that_fails(arena: Arena) -> str:
    return run(arena, "--ask", "exec:/bin/false")


def port_of_nobody(arena: Arena) -> str:
    with socket.socket() as bound:  # and it does not listen
        bound.bind(("127.0.0.1", 0))
        return run(arena, "--ask", f"http://127.0.0.1:{bound.getsockname()[1]}/ask")


def service_that_leaves(arena: Arena) -> str:
    """A socket that somebody listened at, who hangs up and goes."""
    return at_socket(arena, "leaves")


def nobody_attached(arena: Arena) -> str:
    with waiting(arena, f"alone{os.getpid()}") as agent:
        go(agent)
        return rest(agent)


def attached_and_left(arena: Arena) -> str:
    name = f"left{os.getpid()}"
    with waiting(arena, name) as agent:
        with Terminal(arena.who, "agent", "attach", name) as attached:
            attached.expect("p pauses and resumes, K kills")
        go(agent)
        return rest(agent)


# --- each way: runs the agent to its end, and returns what it printed --------------------


def run(arena: Arena, *more: str) -> str:
    done = arena.who.run([arena.who.python, "-m", "sandlock.cli", *arena.command(*more)], cwd=workspace(arena.who))
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def bare(arena: Arena) -> str:
    """Without a sandbox, where everything happens: the control."""
    return arena.who.run(["sh", "-c", arena.script], cwd=workspace(arena.who)).stdout


def by_program(arena: Arena) -> str:
    from shlex import join

    return run(arena, "--ask", f"exec:{join(arena.service_words('exec'))}")


@contextmanager
def service(arena: Arena, way: str, place: str = "") -> Iterator[str]:
    """A service that is up, and what it said."""
    command = arena.service_words(way, place)
    environment = arena.who.environment()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **arena.who.identity)  # type: ignore[call-overload]
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.communicate()


def by_http(arena: Arena) -> str:
    with service(arena, "http") as port:
        return run(arena, "--ask", f"http://127.0.0.1:{port}/ask")


def at_socket(arena: Arena, way: str) -> str:
    place = os.path.join(arena.who.home, "s")
    with service(arena, way, place):
        return run(arena, "--ask", f"unix:{place}")


def by_unix(arena: Arena) -> str:
    return at_socket(arena, "unix")


def by_nobody(arena: Arena) -> str:
    return run(arena, "--ask", "none")


def press(arena: Arena, terminal: Terminal) -> None:
    """Answers what is asked, first the execs and then the connections."""
    for kind in ("deploy", "tcp://127.0.0.1"):
        for word in arena.words:
            terminal.question(kind)
            if not arena.silent:
                terminal.press(KEYS[word])
            if not arena.silent and word == "why":
                terminal.expect("why: ")
                terminal.press(f"{REASON}\r")


def by_terminal(arena: Arena) -> str:
    shown = io.StringIO()
    with Terminal(arena.who, *arena.command()) as terminal:
        terminal.child.logfile_read = shown
        press(arena, terminal)
        assert terminal.end() == 0
    return shown.getvalue()


@contextmanager
def waiting(arena: Arena, name: str) -> Iterator[subprocess.Popen[str]]:
    """The agent without a terminal, in a session of this name, until a line is typed."""
    agent = started(arena.who, name, f"read go; {arena.script}", *arena.options)
    try:
        yield agent
    finally:
        finish(agent)


def go(agent: subprocess.Popen[str]) -> None:
    assert agent.stdin is not None
    agent.stdin.write("go\n")
    agent.stdin.flush()


def rest(agent: subprocess.Popen[str]) -> str:
    said, _ = agent.communicate(timeout=60)
    assert agent.returncode == 0, said
    return said


def by_attaching(arena: Arena) -> str:
    name = f"every{os.getpid()}"
    with waiting(arena, name) as agent, Terminal(arena.who, "agent", "attach", name) as attached:
        attached.expect("p pauses and resumes, K kills")
        go(agent)
        press(arena, attached)
        attached.expect("has ended, exit code 0")
        attached.end()
        return rest(agent)


def by_page(arena: Arena) -> str:
    name = f"page{os.getpid()}"
    with waiting(arena, name) as agent:
        command = [arena.who.python, "-m", "sandlock.cli", "agent", "ui", name]
        environment = arena.who.environment()
        page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **arena.who.identity)  # type: ignore[call-overload]
        try:
            assert page.stdout is not None
            trio.run(visit, arena, page.stdout.readline().strip(), agent)
            return rest(agent)
        finally:
            page.send_signal(signal.SIGINT)
            page.communicate(timeout=20)


async def visit(arena: Arena, link: str, agent: subprocess.Popen[str]) -> None:
    """A browser: answers what it is shown, until the agent has ended."""
    visitor = Visitor(link)
    await exact_case(visitor)
    seen = set()
    with trio.fail_after(60):
        async with events(visitor) as following:
            await following()
            answer: dict[str, object] = {"choice": "o"}
            while not json.loads((await visitor.post("answer", {"question": "q0", "answer": answer}))[2])["ok"]:
                await trio.sleep(0.01)  # it is not yet known as somebody who could be asked
            go(agent)
            while (event := await following()).get("push") != "end":
                for question in [*event.get("state", {}).get("pending", []), event.get("question")]:
                    if isinstance(question, dict) and question["id"] not in seen and not arena.silent:
                        seen.add(question["id"])
                        answer = ANSWERS[arena.word_of(question)]
                        await visitor.post("answer", {"question": question["id"], "answer": answer})


def by_mcp(arena: Arena) -> str:
    async def answer(_: object, params: object) -> ElicitResult:
        if arena.silent:
            await trio.sleep(1.5)  # and then comes too late
        text = str(getattr(params, "message", ""))
        word = next(
            word
            for word, port in zip(arena.words, arena.ports, strict=True)
            if f"deploy {word}" in text or f":{port}" in text
        )
        return ElicitResult(action="accept", content={"choice": KEYS[word], "reason": REASON if word == "why" else ""})

    return talk(arena, answer)


def by_mcp_that_cannot_ask(arena: Arena) -> str:
    return talk(arena, None)


def talk(arena: Arena, answer: object) -> str:
    """An MCP client whose one tool is the agent."""
    words = ["-m", "sandlock.cli", *arena.command("--ask", "mcp")]
    who = arena.who
    server = StdioServerParameters(command=who.python, args=words, cwd=workspace(who), env=who.environment())

    async def main() -> str:
        with trio.fail_after(60):
            async with Client(stdio_client(server, errlog=sys.__stderr__), elicitation_callback=answer) as client:  # type: ignore[arg-type]
                result = await client.call_tool("run", {})
                return str(result.content[0].text)  # type: ignore[union-attr]

    return trio.run(main)
