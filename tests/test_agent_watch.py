"""`sandlock agent watch` and `agent run --watch`: live in a terminal, lines elsewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import ordinary
import pytest
from agent_terminal import Terminal, runs_of, until, workspace
from fake_session import decision, process, question
from test_agent_attach import finish, started

from sandlock.cli.agent.live_view import decision_line, ending_of, frame

HOSTILE = "a\x1b[2J\r\n\u202e\u200b" + "\u4e00" * 300
STATE = {
    "name": "fix",
    "started": 1000.0,
    "argv": ["agent", "--task"],
    "decisions": [],
    "processes": [],
    "network": [],
    "pending": [],
}
COLORS = re.compile(r"\x1b\[[0-9]*m")


def text_of(lines: list[str]) -> list[str]:
    return [COLORS.sub("", line) for line in lines]


def cells(line: str) -> int:
    return sum(2 if "\u4e00" <= c <= "\u9fff" else 1 for c in line)


def test_the_picture() -> None:
    state = STATE | {
        "processes": [
            process(1, 0, "agent"),
            process(3, 2, "cc", ended=1003.0),
            process(2, 1, "make", "all", started=1002.0),
        ],
        "pending": [question()],
        "network": [
            {
                "host": "pypi.org",
                "ip": "192.0.2.1",
                "port": "443",
                "target": "t",
                "allowed": 2,
                "denied": 1,
                "last": 1.0,
            }
        ],
        "decisions": [
            decision(),
            decision("connect", "deny", target="tcp://192.0.2.1:443", argv=[], host="pypi.org", by="page", reason="no"),
        ],
    }
    lines = text_of(frame(state, (30, 100), 1004.0, "footer"))
    assert len(lines) == 30
    whole = "\n".join(lines)
    assert lines[0] == "fix  running 4.00 s  agent --task"
    assert lines[-1] == "footer"
    assert (
        "  agent > sh > make wants to run  git push origin main\n"
        "    git push * # what is pushed, others build and run\n" in whole
    )
    assert "  \u2022 agent  4.00 s  [1]\n    \u2022 make all  2.00 s  [2]\n      \u00b7 cc  3.00 s  [3]\n" in whole
    assert "  pypi.org 192.0.2.1:443  2 allowed, 1 denied\n" in whole
    assert "Decisions, 1 denied\n" in whole
    assert re.search(r"deny  connect tcp://192\.0\.2\.1:443 pypi\.org by page  \(no\)\n", whole)


@pytest.mark.parametrize("size", [(1, 1), (4, 10), (10, 40), (24, 80), (100, 300)])
def test_the_picture_fits_whatever_is_in_it(size: tuple[int, int]) -> None:
    state = STATE | {
        "name": HOSTILE,
        "argv": [HOSTILE],
        "paused": True,
        "processes": [process(n, n - 1, HOSTILE) for n in range(300)] + [process(5, 5, "itself")],
        "pending": [question(f"q{n}", argv=[HOSTILE], rule=HOSTILE, kind=HOSTILE if n else "exec") for n in range(50)],
        "network": [
            {
                "host": HOSTILE,
                "ip": HOSTILE,
                "port": HOSTILE,
                "target": HOSTILE,
                "allowed": 1,
                "denied": 0,
                "last": None,
            }
        ]
        * 90,
        "decisions": [decision(HOSTILE, HOSTILE, target=HOSTILE, host=HOSTILE, by=HOSTILE, argv=[HOSTILE], time=None)]
        * 90,
    }
    lines = text_of(frame(state, size, 1004.0, "footer"))
    assert len(lines) == max(size[0], 4)
    assert max(map(cells, lines)) <= max(size[1], 10)
    for character in "\x1b\r\n\u202e\u200b":
        assert character not in "".join(lines)


def test_endings() -> None:
    assert ending_of({"result": {"exit_code": 3}}) == "has ended, exit code 3"
    assert ending_of({"result": {"exit_code": -1, "timed_out": True}}) == "has ended: time limit"
    assert "gone" in ending_of({"result": None})
    assert "\x1b" not in decision_line(decision(HOSTILE, HOSTILE, argv=[HOSTILE]))


def child_of(pid: int) -> int:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
        return int(file.read().split()[0])


@pytest.mark.slow
def test_in_a_terminal(visitor: ordinary.Person) -> None:
    """What runs, what is denied, pause, kill, the end; and the terminal is as it was."""
    name = f"watched{os.getpid()}"
    agent = started(visitor, name, "git push a; sleep 1000", "--name", name)
    try:
        with Terminal(visitor, "agent", "watch", name) as watching:
            watching.expect(re.escape("\x1b[?1049h"))
            watching.expect(r"sleep 1000 .*\[\d+\]")
            watching.expect(r"deny .*exec .*git push a")
            watching.press("K")
            watching.expect("kill everything that runs in the sandbox")
            watching.press("n")
            watching.expect("not killed")
            assert agent.poll() is None
            watching.press("K")
            watching.expect("kill everything")
            watching.press("y")
            watching.expect(re.escape("\x1b[?1049l"))
            watching.expect("has ended, exit code")
            assert watching.end() == 0
        agent.wait(20)
    finally:
        finish(agent)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["q", "\x03", signal.SIGTERM, signal.SIGKILL])
def test_the_terminal_is_put_back(visitor: ordinary.Person, how: str | signal.Signals) -> None:
    """On every way out; nobody is there to be asked because somebody watches; the session goes on."""
    import termios

    name = f"left{os.getpid()}"
    agent = started(visitor, name, "read go; git push b; echo rc $?; read end")
    try:
        assert agent.stdin is not None
        assert agent.stdout is not None
        script = f"{visitor.python} -m sandlock.cli agent watch {name}; echo back $?; read end"
        with Terminal(visitor, words=["sh", "-c", script]) as watching:
            watching.expect("Processes")
            assert termios.tcgetattr(watching.child.child_fd) != watching.modes
            agent.stdin.write("go\n")
            agent.stdin.flush()
            watching.expect("deny .*exec .*git push b")
            if isinstance(how, str):
                watching.press(how)
            else:
                os.kill(child_of(watching.child.pid), how)
            # in any order: after SIGKILL another process puts it back, and the shell goes on at the same time
            left, back = re.escape("\x1b[?1049l"), r"back \d+"
            seen = watching.expect(f"(?s){left}.*{back}|{back}.*{left}")
            assert int(re.findall(r"back (\d+)", seen[0])[0]) == {signal.SIGTERM: 143, signal.SIGKILL: 137}.get(how, 0)  # type: ignore
            until(lambda: termios.tcgetattr(watching.child.child_fd) == watching.modes, 10)
        agent.stdin.write("end\n")
        agent.stdin.flush()
        rest = agent.stdout.read()
        assert re.search(r"^rc 126$", rest, re.M), rest
        with open(os.path.join(runs_of(visitor)[-1], "log.jsonl"), encoding="utf-8") as file:
            assert [line for line in file if '"cause": "nobody-listens"' in line and '"push"' in line]
        assert agent.wait(20) == 0
    finally:
        finish(agent)


@pytest.mark.slow
def test_lines_where_there_is_no_terminal(visitor: ordinary.Person) -> None:
    name = f"lines{os.getpid()}"
    agent = started(visitor, name, "git push early; read go; git push a; /bin/true; exit 3")
    command = [visitor.python, "-m", "sandlock.cli", "agent", "watch", name]
    watching = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workspace(visitor),
        env=visitor.environment(), **visitor.identity,
    )  # type: ignore[call-overload]  # fmt: skip
    try:
        assert watching.stdout is not None
        assert agent.stdin is not None
        seen = ""
        while "git push early" not in seen:
            line = watching.stdout.readline()
            assert line
            seen += line
        agent.stdin.write("go\n")
        agent.stdin.flush()
        rest, errors = watching.communicate(timeout=20)
        assert watching.returncode == 0, errors
        assert re.search(r"deny  exec    git push a .*nobody was there to be asked", rest)
        assert re.search(r"allow exec    /bin/true", rest)
        assert rest.endswith("has ended, exit code 3\n")
        assert "\x1b" not in seen + rest
    finally:
        watching.kill()
        watching.wait()
        finish(agent)


@pytest.mark.slow
def test_run_with_watch(visitor: ordinary.Person) -> None:
    """The agent's own output stays; decisions come between, on stderr or on the terminal."""
    words = (
        "agent",
        "run",
        "--watch",
        "--ask",
        "none",
        "--exec-ask",
        "git push *",
        "--",
        "sh",
        "-c",
        "echo one; git push a; /bin/true",
    )
    done = visitor.run([visitor.python, "-m", "sandlock.cli", *words], cwd=workspace(visitor))
    assert done.stdout == "one\n"
    assert re.search(r"sandlock: .* deny  exec    git push a", done.stderr)
    assert re.search(r"sandlock: .* allow exec    /bin/true", done.stderr)
    with Terminal(visitor, *words) as running:
        running.expect(r"sandlock: .* allow exec    sh -c")
        running.expect(r"sandlock: .* deny  exec    git push a")
        running.end()
