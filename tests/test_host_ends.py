"""How trees end with their host: killed, stopped, forked, in the middle of a launch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import ordinary
import pytest
from programs.tools import alive, descriptors, marked, read, seconds_until_gone, state, wait_until
from worst_tree import CROWD, SOON, embed

pytestmark = pytest.mark.needs(landlock=6)

STARTS = """
box = Sandbox(**fields)
process = box.start(argv, stdout=INHERIT)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A word on the command line of a tree that the test starts."""
    with marked() as word:
        yield word


@pytest.mark.slow
@pytest.mark.parametrize("supervised", [False, True], ids=["", "supervised"])
@pytest.mark.parametrize("delay", [0, 0.002, 0.01, 0.025, 0.1])
def test_the_host_is_killed(as_user: ordinary.Person, delay: float, supervised: bool, mark: str) -> None:
    rules = "fields['max_processes'] = 200\n" if supervised else ""
    death = f"say(process.pid)\ntime.sleep({delay})\nos.kill(os.getpid(), signal.SIGKILL)\n"
    with embed(rules + STARTS + death, mark, person=as_user) as embedding:
        assert embedding.process.wait() == -signal.SIGKILL
        seconds_until_gone(mark, SOON)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["host", "group"])
@pytest.mark.parametrize("when", ["at once", "later"])
def test_the_host_is_killed_with_its_group(as_user: ordinary.Person, how: str, when: str, mark: str) -> None:
    """Whoever ends a host with its process group (a shell, a CI runner) does not hit what watches over the run."""
    wait = "" if when == "at once" else "sys.stdin.readline()\n"
    with embed(STARTS + wait + "say('here')\nsys.stdin.readline()", mark, person=as_user) as embedding:
        if when == "later":
            assert embedding.line() == f"ready {CROWD}"
            time.sleep(0.05)
            embedding.tell("go")
        while embedding.line() != "here":
            pass
        if how == "group":
            os.killpg(embedding.pid, signal.SIGKILL)
        else:
            os.kill(embedding.pid, signal.SIGKILL)
        embedding.process.wait()
        seconds_until_gone(mark, SOON)


@pytest.mark.slow
def test_the_host_is_killed_while_the_program_itself_is_asked_about(as_user: ordinary.Person, mark: str) -> None:
    """Then the exec waits for an answer that nobody gives, and the listener is open in a table that is still shared."""
    code = """
def ask(event, box):
    say(*(pid for task in os.listdir("/proc/self/task") for pid in children(task)))
    time.sleep(60)
Sandbox(**fields, policy_fn=ask, policy_timeout=None).run(argv)
"""
    with embed(code, mark, person=as_user) as embedding:
        (warden, *_) = (int(pid) for pid in embedding.line().split())
        (asking,) = (int(pid) for pid in read(f"/proc/{warden}/task/{warden}/children").split())
        assert state(asking) == "S"
        os.kill(embedding.pid, signal.SIGKILL)
        embedding.process.wait()
        wait_until(lambda: not {state(warden), state(asking)} - {"", "Z"}, "nothing of the launch is left", SOON)


@pytest.mark.slow
def test_forks_of_the_host_do_not_keep_a_tree_alive(as_user: ordinary.Person, mark: str) -> None:
    code = (
        STARTS + "if os.fork() == 0:\n    say('fork', os.getpid())\n    time.sleep(20)\n    os._exit(0)\ntime.sleep(20)"
    )
    with embed(code, mark, person=as_user) as embedding:
        lines = {embedding.line(), embedding.line()}
        (copy,) = (int(line.split()[1]) for line in lines if line.startswith("fork"))
        try:
            assert any("socket" in to for to in descriptors(copy).values()), "the fork holds no copy"
            os.kill(embedding.pid, signal.SIGKILL)
            embedding.process.wait()
            seconds_until_gone(mark, SOON)
            assert state(copy) == "S"
        finally:
            os.kill(copy, signal.SIGKILL)


@pytest.mark.slow
def test_a_host_that_dies_during_a_launch(mark: str) -> None:
    """At 60 moments of a launch: nothing of the program stays, whether it was executed or not."""
    code = """
argv = [program, "daemons", mark, "2"]
box = Sandbox(**fields)
for round in range(60):
    child = os.fork()
    if child == 0:
        inner = Sandbox(**fields)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        threading.Thread(target=lambda: (time.sleep(round * 0.00005), os.kill(os.getpid(), signal.SIGKILL))).start()
        inner.start(argv, stdout=NULL, stderr=NULL)
        time.sleep(5)
    os.waitpid(child, 0)
say("over")
"""
    with embed(code, mark) as embedding:
        assert embedding.line() == "over"
        seconds_until_gone(mark, SOON)


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True], ids=["later", "early"])
def test_the_host_executes_something_else(as_user: ordinary.Person, early: bool, mark: str) -> None:
    wait = "" if early else "sys.stdin.readline()\n"
    with embed(STARTS + wait + "os.execv('/bin/sleep', ['sleep', '20'])", mark, person=as_user) as embedding:
        if not early:
            assert embedding.line() == f"ready {CROWD}"
            embedding.tell("go")
        wait_until(lambda: read(f"/proc/{embedding.pid}/comm") == b"sleep\n", "the exec of the host")
        seconds_until_gone(mark, SOON)
        assert embedding.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["host", "group"])
def test_the_time_limit_of_a_stopped_host(as_user: ordinary.Person, group: bool, mark: str) -> None:
    code = "box = Sandbox(**fields)\nprocess = box.start(argv, stdout=INHERIT, timeout=1.0)\ntold(process.wait())"
    with embed(code, mark, person=as_user) as embedding:
        assert embedding.line() == f"ready {CROWD}"
        (os.killpg if group else os.kill)(embedding.pid, signal.SIGSTOP)
        wait_until(lambda: state(embedding.pid) == "T", "the host is stopped")
        assert alive(mark)
        seconds_until_gone(mark, 1.0 + SOON)
        assert state(embedding.pid) == "T"
        (os.killpg if group else os.kill)(embedding.pid, signal.SIGCONT)
        assert embedding.line() == "timeout timed out not ok"
