"""How trees end: whatever a tree does, nothing of it outlives its run, its sandbox or its host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import ordinary
import pytest
from programs.tools import (
    Host,
    alive,
    descriptors,
    guest,
    host,
    marked,
    read,
    seconds_until_gone,
    session,
    state,
    wait_until,
)

from sandlock import Sandbox, SandlockError

pytestmark = pytest.mark.needs(landlock=6)
SOON = 5.0
"""Seconds that the end of a tree may take when nobody waits for it."""
CROWD = 11
"""What `life everything` has: daemons, an orphan, a stopped task, a vfork, one without its first thread, bombs."""
CALM = 8
"""How many of these can be counted; a look at /proc does not catch the bombs."""


@pytest.fixture
def mark() -> Iterator[str]:
    """A word on the command line of a tree that the test starts."""
    with marked() as word:
        yield word


def box(**fields: object) -> Sandbox:
    """A sandbox that can execute the guests."""
    where = os.path.dirname(guest("life"))
    return Sandbox(presets=["system"], fs_readable=[where], **fields)  # type: ignore[arg-type]


def embed(code: str, mark: str, *, person: ordinary.Person | None = None) -> contextlib.AbstractContextManager[Host]:
    """A host in which `program`, `mark`, `fields` and `argv` (of the worst tree) are set."""
    # Not among its arguments: the mark is how the tests find what the host starts.
    return host(PRELUDE + code, guest("life"), person=person, env={"MARK": mark})


PRELUDE = """
program, mark = sys.argv[1], os.environ['MARK']
fields = {"presets": ["system"], "fs_readable": [os.path.dirname(program)]}
argv = [program, "everything", mark]
def children(thread):
    try:
        return open(f"/proc/self/task/{thread}/children").read().split()
    except FileNotFoundError:  # the thread has just ended
        return []
def holds():
    threads = os.listdir("/proc/self/task")
    return len(os.listdir("/proc/self/fd")), len(threads), sum(len(children(thread)) for thread in threads)
def told(result):
    say(result.reason, "timed out" if result.timed_out else "in time", "ok" if result.ok else "not ok")
def compare(before):
    for _ in range(200):
        if holds() == before:
            break
        time.sleep(0.01)
    say("same" if holds() == before else f"{before} became {holds()}")
"""

# ---- every way to end a run

ENDINGS = {
    "timeout": """
with Sandbox(**fields) as box:
    told(box.run(argv, stdout=INHERIT, timeout=1.2))
""",
    "timeout of the policy": """
with Sandbox(**fields, timeout=1.2) as box, box.start(argv, stdout=INHERIT) as process:
    told(process.wait())
""",
    "kill from another thread": """
with Sandbox(**fields) as box:
    process = box.start(argv, stdout=INHERIT)
    threading.Thread(target=lambda: (sys.stdin.readline(), process.kill())).start()
    told(process.wait())
    process.close()
""",
    "closing the sandbox from another thread": """
with Sandbox(**fields) as box:
    threading.Thread(target=lambda: (sys.stdin.readline(), box.close())).start()
    told(box.run(argv, stdout=INHERIT))
""",
    "leaving the process": """
with Sandbox(**fields) as box:
    with box.start(argv, stdout=INHERIT) as process:
        sys.stdin.readline()
    told(process.wait())
""",
    "leaving the sandbox": """
with Sandbox(**fields) as box:
    process = box.start(argv, stdout=INHERIT)
    sys.stdin.readline()
told(process.wait())
process.close()
""",
    "an exception": """
try:
    with Sandbox(**fields) as box, box.start(argv, stdout=INHERIT) as process:
        sys.stdin.readline()
        raise ZeroDivisionError
except ZeroDivisionError:
    told(process.wait())
""",
    "its own exit": """
with Sandbox(**fields) as box:
    told(box.run([*argv, "exit"], stdout=INHERIT))
""",
}
TOLD = {
    "timeout": "timeout timed out not ok",
    "timeout of the policy": "timeout timed out not ok",
    "its own exit": "exited in time ok",
}


@pytest.mark.slow
@pytest.mark.parametrize("supervised", [False, True], ids=["", "supervised"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_of_a_tree_is_left(as_user: ordinary.Person, ending: str, supervised: bool, mark: str) -> None:
    rules = "fields['max_processes'] = 200\n" if supervised else ""
    first = "with Sandbox(**fields) as box: box.run([program, 'end', '0'])\nbefore = holds()\n"
    with embed(rules + first + ENDINGS[ending] + "compare(before)", mark, person=as_user) as embedding:
        assert embedding.line() == f"ready {CROWD}"
        if ending != "its own exit":
            there = alive(mark)
            assert len(there) >= CALM
            assert len({session(pid) for pid in there}) > 2, "nobody left the session: this proves little"
            embedding.tell("go")  # the other one waits for nobody, and may have ended
        assert embedding.line() == TOLD.get(ending, "killed in time not ok")
        assert alive(mark) == []  # the result comes when the tree is gone, not before
        assert embedding.line() == "same"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["run", "wait"])
def test_keyboard_interrupt(as_user: ordinary.Person, how: str, mark: str) -> None:
    code = """
with Sandbox(**fields) as box:
    box.run([program, "end", "0"])
    before = holds()
    try:
        if HOW == "run":
            box.run(argv, stdout=INHERIT)
        else:
            with box.start(argv, stdout=INHERIT) as process:
                process.wait()
    except KeyboardInterrupt:
        say("interrupted")
    compare(before)
    told(box.run([program, "end", "0"]))
"""
    with embed(code.replace("HOW", repr(how)), mark, person=as_user) as embedding:
        assert embedding.line() == f"ready {CROWD}"
        os.kill(embedding.pid, signal.SIGINT)
        assert embedding.line() == "interrupted"
        assert alive(mark) == []
        assert embedding.line() == "same"
        assert embedding.line() == "exited in time ok"


def test_daemons_outlive_a_command_that_is_not_sandboxed(mark: str) -> None:
    subprocess.run([guest("life"), "daemons", mark, "3", "exit"], stdout=subprocess.DEVNULL, check=True)
    left = alive(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    seconds_until_gone(mark, SOON)
    assert len(left) == 3


def test_forgetting_a_process_ends_it(mark: str) -> None:
    process = box().start([guest("life"), "daemons", mark, "3"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready 3\n"
    assert len(alive(mark)) == 4
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    del process
    seconds_until_gone(mark, SOON)


def test_an_ended_process_can_be_asked_and_killed_again() -> None:
    with box() as sandbox, sandbox.start([guest("life"), "end", "-5"]) as process:
        first = process.wait()
        process.kill()
        assert first.exit_code == 5
        assert process.poll() is first
        assert process.wait() is first
        process.close()
        process.close()
        sandbox.close()
        assert sandbox.run([guest("life"), "end", "-6"]).exit_code == 6


# ---- the end of the host

STARTS = """
box = Sandbox(**fields)
process = box.start(argv, stdout=INHERIT)
"""


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


# ---- the guest against what watches over it


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("wait", [False, True], ids=["warden", "init"])
def test_the_guest_cannot_signal_its_init(interactive: bool, wait: bool) -> None:
    order = f"sleep 0.06; {guest('life')} signal $PPID 1 64" if wait else f"exec {guest('life')} signal 0 1 64"
    with box() as sandbox:
        result = sandbox.run(["sh", "-c", order], interactive=interactive)
    assert result.reason == "exited"
    words = result.stdout_text.split()
    assert words[0] == "parent"
    assert words[2:] == ["sent", "0"]


def test_a_free_program_can_signal_its_parent() -> None:
    order = f"trap '' USR1; {guest('life')} signal 0 10 10; true"
    done = subprocess.run(["sh", "-c", order], capture_output=True, text=True, check=True)
    assert done.stdout.split()[2:] == ["sent", "6"]


def test_the_guest_cannot_signal_the_group_that_it_shares_with_the_host(mark: str) -> None:
    code = """
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
if mark == "free":
    out = subprocess.run([program, "group", "10"], capture_output=True, text=True).stdout
else:
    out = Sandbox(**fields).run([program, "group", "10"], interactive=True).stdout_text
say(out.strip(), len(heard))
"""
    with embed(code, "free") as embedding:
        assert embedding.line() == "group 0 1"
    with embed(code, "confined") as embedding:
        assert embedding.line() == "group 0 0"


def test_the_guest_inherits_no_signal_state_and_the_host_keeps_its_own() -> None:
    before_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with box() as sandbox:
            result = sandbox.run([guest("life"), "signals"])
            with pytest.raises(SandlockError):
                sandbox.run(["/no/such/program"])
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before_mask)
    values = dict(line.split(":\t") for line in result.stdout_text.splitlines())
    assert {
        name: int(values[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")
    } == dict.fromkeys(("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"), 0)


# ---- hosts of every kind

HOSTS = {
    "ignores SIGCHLD": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "handles SIGCHLD": "signal.signal(signal.SIGCHLD, lambda *_: None)",
    "reaps everything in a handler": """
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, reap)
""",
    "reaps everything in a loop": """
def loop():
    while True:
        try: os.waitpid(-1, 0)
        except ChildProcessError: time.sleep(0.0005)
threading.Thread(target=loop, daemon=True).start()
""",
    "is a subreaper": """
import ctypes
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
""",
    "blocks all signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "is low on descriptors": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
""",
    "interrupts itself": """
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
""",
}
RESULTS = """
quick = [program, "end", "-7"]
slow = ["sh", "-c", "sleep 0.04; exit 8"]
crash = ["sh", "-c", f"sleep 0.03; exec {program} end 6"]
leaves = ["sh", "-c", f"{program} daemons {mark} 2 exit; exit 9"]
found = set()
with Sandbox(**fields) as box:
    box.run(quick)
    before = holds()
    for _ in range(8):
        for argv in (quick, slow, crash, leaves):
            result = box.run(argv)
            found.add((result.exit_code, result.signal, result.reason))
say(sorted(found, key=str))
compare(before)
"""
FOUND = str(
    sorted(
        {(7, None, "exited"), (8, None, "exited"), (134, 6, "signaled"), (9, None, "exited")},
        key=str,
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("supervised", [False, True], ids=["", "supervised"])
@pytest.mark.parametrize("kind", HOSTS)
def test_a_host_that(kind: str, supervised: bool, mark: str) -> None:
    rules = "fields['max_processes'] = 50\n" if supervised else ""
    with embed(rules + HOSTS[kind] + "\n" + RESULTS, mark) as embedding:
        assert embedding.line() == FOUND
        assert embedding.line() == "same"
        assert alive(mark) == []


@pytest.mark.slow
def test_a_host_that_is_process_1(mark: str) -> None:
    """As in a container. Its own namespaces come from root, or from a user namespace."""
    options = ["--pid", "--fork", "--kill-child", "--mount-proc"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    from programs.tools import PREAMBLE

    code = PREAMBLE + PRELUDE + "assert os.getpid() == 1\n" + RESULTS
    command = ["unshare", *options, ordinary.sys.executable, "-c", code, guest("life")]
    env = os.environ | {"MARK": mark}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [FOUND, "same"]


@pytest.mark.slow
def test_a_host_without_standard_streams(tmp_path: os.PathLike[str]) -> None:
    """All of 0, 1 and 2 are closed: what the launch opens must not be taken for a stream."""
    report = os.path.join(tmp_path, "report")
    code = """
import os, sys
os.closerange(0, 3)
import sandlock
program, report = sys.argv[1:3]
shell = "cat; echo out; echo err >&2; ls -l /proc/self/fd | grep -c -e '->'"
found = []
for more in ({}, {"max_processes": 50}):
    with sandlock.Sandbox(presets=["system"], **more) as box:
        for _ in range(3):
            result = box.run(["sh", "-c", shell], input="in ")
            found.append((result.exit_code, result.stdout, result.stderr))
            with box.start(["sh", "-c", "echo streamed"]) as process:
                found.append((process.stdout.read(), process.wait().exit_code))
open(report, "w").write(repr(found) + repr(sorted(os.listdir("/proc/self/fd"))))
"""
    subprocess.run([ordinary.sys.executable, "-c", code, guest("life"), report], timeout=30, check=True)
    expected = [(0, b"in out\n4\n", b"err\n"), (b"streamed\n", 0)] * 6
    with open(report) as file:
        text = file.read()
    assert text.startswith(repr(expected)), text
    assert text.endswith("]")


@pytest.mark.slow
def test_after_a_fork_the_child_gets_an_error_and_the_parent_keeps_its_run(mark: str) -> None:
    code = """
box = Sandbox(**fields)
box.run([program, "end", "0"])
with box.start([program, "wait", mark], stdout=INHERIT) as process:
    sys.stdin.readline()
    child = os.fork()
    if child == 0:
        said = []
        for what in (lambda: box.run([program, "end", "0"]), lambda: box.start([program, "end", "0"])):
            try:
                what()
            except SandlockError as error:
                said.append("fork" in str(error))
        say(said)
        say(Sandbox(**fields).run([program, "end", "-3"]).exit_code)
        sys.exit(0)     # leaves the blocks, collects the objects: none of this may reach the parent's run
    status = os.waitpid(child, 0)[1]
    say("child", status)
    time.sleep(0.1)
    say("runs" if process.poll() is None else "dead")
told(process.wait())
"""
    for rules in ("", "fields['max_processes'] = 50\n"):
        with embed(rules + code, mark) as embedding:
            assert embedding.line() == "ready"
            embedding.tell("go")
            assert embedding.line() == "[True, True]"
            assert embedding.line() == "3"
            assert embedding.line() == "child 0"
            assert embedding.line() == "runs"
            assert embedding.line() == "killed in time not ok"


# ---- many at once


@pytest.mark.slow
def test_many_runs_at_once_in_one_sandbox() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(25):
            text = f"{number} {turn}"
            result = sandbox.run(["sh", "-c", f"cat; echo {text} >&2; exit {number}"], input=text)
            found = (result.stdout_text, result.stderr_text, result.exit_code)
            if found != (text, text + "\n", number):
                wrong.append(found)

    with box() as sandbox:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("supervised", [False, True], ids=["", "supervised"])
def test_a_hundred_sandboxes_alive_at_once(supervised: bool) -> None:
    fields: dict[str, Any] = {"max_processes": 4} if supervised else {"disable": ["fs-metadata"]}
    boxes = [box(**fields) for _ in range(100)]
    before = len(descriptors()), len(os.listdir("/proc/self/task"))
    processes = [each.start([guest("life"), "wait"]) for each in boxes]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        assert len({process.pid for process in processes}) == 100
        assert (len(descriptors()) - before[0]) / 100 <= 4
        assert len(os.listdir("/proc/self/task")) - before[1] == (100 if supervised else 0)
        assert all(process.poll() is None for process in processes)
    finally:
        for process in processes:
            process.kill()
        results = [process.wait() for process in processes]
        for process in processes:
            process.close()
    assert {result.reason for result in results} == {"killed"}


@pytest.mark.slow
def test_starting_and_killing_from_many_threads(mark: str) -> None:
    """kill at every moment of a launch, from another thread than the one that waits."""
    reasons: list[str] = []

    def work(number: int) -> None:
        for turn in range(20):
            process = sandbox.start([guest("life"), "daemons", mark, "1"])
            killer = threading.Timer((number * 20 + turn) * 0.00002, process.kill)
            killer.start()
            reasons.append(process.wait().reason)
            killer.join()
            process.close()

    with box() as sandbox:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert reasons == ["killed"] * 120
    assert alive(mark) == []


@pytest.mark.slow
def test_closing_a_sandbox_during_launches_ends_them_all(mark: str) -> None:
    outcomes: list[str] = []

    def work() -> None:
        while not over.is_set():
            try:
                outcomes.append(sandbox.run([guest("life"), "daemons", mark, "1"], timeout=5).reason)
            except SandlockError as error:
                outcomes.append(f"{type(error).__name__}: {error}")

    over = threading.Event()
    with box() as sandbox:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            time.sleep(0.005)
            sandbox.close()
        over.set()
        while any(thread.is_alive() for thread in threads):
            sandbox.close()
            time.sleep(0.005)
    assert set(outcomes) <= {"killed"}, set(outcomes)
    assert outcomes
    assert alive(mark) == []
