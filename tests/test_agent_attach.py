"""`sandlock agent attach`: the same questions in a second terminal, and what else one can do there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, cast

import ordinary
import pytest
import trio
from agent_terminal import Terminal, runs_of, until, workspace, write
from fake_session import fake_session, question

from sandlock.cli.agent.attach import _Attachment

if TYPE_CHECKING:
    from sandlock.cli.agent.terminal import Console

RUN = ("agent", "run", "--exec-ask", "git push *")


def started(who: ordinary.Person, name: str, script: str, *more: str) -> subprocess.Popen[str]:
    """An agent without a terminal, and its session."""
    words = [who.python, "-m", "sandlock.cli", *RUN, "-n", name, *more, "--", "sh", "-c", script]
    agent = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=workspace(who),
        env=who.environment(),
        start_new_session=True,
        **who.identity,  # type: ignore[call-overload]
    )
    until(lambda: name in map(name_of, runs_of(who)), 20)
    return agent


def name_of(run: str) -> str:
    """The name of the session of this directory; "" while it is being made."""
    try:
        with open(os.path.join(run, "session.json"), encoding="utf-8") as file:
            return str(json.load(file)["name"])
    except (OSError, ValueError, KeyError):
        return ""


@pytest.mark.slow
def test_questions_are_answered_in_a_second_terminal(visitor: ordinary.Person) -> None:
    """Nobody is there: denied at once. Somebody attaches: asked there, and decisions are seen."""
    script = "git push a; echo rc $?; read go; git push b; echo rc $?; read go; git push c; echo rc $?"
    agent = started(visitor, f"first{os.getpid()}", script)
    try:
        assert agent.stdin is not None
        assert agent.stdout is not None
        assert "<sandbox_violations>" in agent.stdout.readline()
        assert "Permission denied" in agent.stdout.readline()
        assert agent.stdout.readline() == "rc 126\n"
        with Terminal(visitor, "agent", "attach", f"first{os.getpid()}") as attached:
            attached.expect("p pauses and resumes, K kills")
            attached.expect(r"deny .*exec .*git push a")
            agent.stdin.write("go\n")
            agent.stdin.flush()
            attached.question("git push b")
            attached.press("w")
            attached.expect("why: ")
            attached.press("not on fridays\r")
            attached.expect("answered by")
            assert "deny exec git push b (rule git push *: not on fridays)" in agent.stdout.readline()
            assert "Permission denied" in agent.stdout.readline()
            assert agent.stdout.readline() == "rc 126\n"
            agent.stdin.write("go\n")
            agent.stdin.flush()
            attached.question("git push c")
            attached.press("o")
            attached.expect("has ended, exit code 0")
            assert attached.end() == 0
        rest = agent.stdout.read()
        assert re.search(r"^rc (?!126)", rest, re.M), rest
        assert agent.wait(20) == 0
    finally:
        finish(agent)


def finish(agent: subprocess.Popen[str]) -> None:
    agent.kill()
    agent.wait()
    for stream in (agent.stdin, agent.stdout):
        if stream is not None:
            stream.close()


@pytest.mark.slow
def test_whoever_leaves_is_nobody_to_ask(visitor: ordinary.Person) -> None:
    """The question that waits for who leaves is denied, with that cause; the session goes on; the terminal is sane."""
    name = f"leaves{os.getpid()}"
    agent = started(visitor, name, "read go; git push a; echo rc $?; read go; echo end")
    try:
        assert agent.stdin is not None
        assert agent.stdout is not None
        with Terminal(visitor, "agent", "attach", name) as attached:
            attached.expect("p pauses")
            agent.stdin.write("go\n")
            agent.stdin.flush()
            attached.question("git push a")
            os.kill(attached.child.pid, signal.SIGKILL)
            assert "who could have answered has left" in agent.stdout.readline()
            assert "Permission denied" in agent.stdout.readline()
            assert agent.stdout.readline() == "rc 126\n"
        with Terminal(visitor, "agent", "attach", name) as attached:
            attached.expect("p pauses")
            attached.press("q")
            assert attached.end() == 0
        agent.stdin.write("go\n")
        agent.stdin.flush()
        assert agent.stdout.readline() == "end\n"
        assert agent.wait(20) == 0
    finally:
        finish(agent)


@pytest.mark.slow
def test_pause_resume_and_kill(visitor: ordinary.Person) -> None:
    name = f"stops{os.getpid()}"
    beat = os.path.join(workspace(visitor), "beat")
    agent = started(visitor, name, "while :; do echo x >> beat; sleep 0.05; done")
    try:
        with Terminal(visitor, "agent", "attach", name) as attached:
            attached.expect("p pauses")
            until(lambda: os.path.exists(beat))
            attached.press("p")
            attached.expect("paused")
            time.sleep(0.3)
            size = os.path.getsize(beat)
            time.sleep(0.5)
            assert os.path.getsize(beat) == size
            attached.press("p")
            attached.expect("resumed")
            until(lambda: os.path.getsize(beat) > size)
            attached.press("K")
            attached.expect("kill everything")
            attached.press("n")
            attached.expect("not killed")
            attached.press("K")
            attached.expect("kill everything")
            attached.press("y")
            attached.expect("has ended")
            assert attached.end() == 0
        assert agent.wait(20) == 137
    finally:
        finish(agent)


@pytest.mark.slow
def test_a_full_screen_agent_is_answered_here(visitor: ordinary.Person) -> None:
    """It keeps its screen; the question is put in the second terminal."""
    code = """
import subprocess, sys, tty
tty.setraw(0)
sys.stdout.write("\\x1b[?1049hdrawn-by-me"); sys.stdout.flush()
print("result", subprocess.call(["sh", "-c", "git push x >/dev/null 2>&1"]), end="", flush=True)
sys.stdin.read(1)
"""
    path = write(visitor, "screen.py", code)
    name = f"screen{os.getpid()}"
    with Terminal(visitor, *RUN, "-n", name, "--", "/usr/bin/python3", path) as agent:
        agent.expect("drawn-by-me")
        agent.expect("a question waits")
        with Terminal(visitor, "agent", "attach", name) as attached:
            attached.question("git push x")
            attached.press("d")
            agent.expect("result 126")
            assert "sandlock asks" not in str(agent.child.before)
            agent.press("x")
            attached.expect("has ended")
            assert attached.end() == 0
        assert agent.end() == 0


@pytest.mark.slow
def test_what_the_program_says_draws_nothing_here(visitor: ordinary.Person) -> None:
    name = f"draws{os.getpid()}"
    script = "read go; git push \"$(printf 'x\\033[2J\\007')\"; /bin/echo \"$(printf '\\033[31m')\""
    agent = started(visitor, name, script)
    try:
        assert agent.stdin is not None
        with Terminal(visitor, "agent", "attach", name) as attached:
            attached.expect("p pauses")
            agent.stdin.write("go\n")
            agent.stdin.flush()
            drawn = attached.question("git push")
            assert "\x1b[2J" not in drawn
            assert "\\x1b[2J" in drawn
            attached.press("d")
            attached.expect("has ended")
            assert "\x1b[2J" not in str(attached.child.before)
            assert attached.end() == 0
        assert agent.wait(20) == 0
    finally:
        finish(agent)


@pytest.mark.slow
def test_nothing_to_attach_to(visitor: ordinary.Person) -> None:
    with Terminal(visitor, "agent", "attach", "nonesuch") as attached:
        assert attached.end() == 125
        assert "Traceback" not in attached.rest
    done = visitor.run([visitor.python, "-m", "sandlock.cli", *RUN, "--", "true"], cwd=workspace(visitor))
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(visitor)
    with Terminal(visitor, "agent", "attach", os.path.basename(run)) as attached:
        assert attached.end() == 125
        assert "has ended" in attached.rest


class Glass:
    """A terminal that only keeps what is shown; nobody types."""

    size = (24, 80)

    def __init__(self) -> None:
        self.shown = b""

    async def send(self, data: bytes) -> None:
        self.shown += data
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    def forget_typed(self) -> None:
        """There is nothing."""


def test_a_question_that_was_missed_is_asked(tmp_path: str) -> None:
    """A program that makes more decisions than a reader takes does not hide its question among them."""

    async def main() -> None:
        glass = Glass()
        async with fake_session(tmp_path) as session, trio.open_nursery() as nursery:
            nursery.start_soon(_Attachment(cast("Console", glass), session.record).run)
            with trio.fail_after(20):
                while b"p pauses" not in glass.shown:
                    await trio.sleep(0.01)
                session.state["pending"].append(question())
                await session.push(push="missed", count=7)
                while b"git push origin main" not in glass.shown:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
