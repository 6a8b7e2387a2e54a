"""How trees end: nothing of one outlives its run or its sandbox. (Nor its host: test_host_ends.)"""

from __future__ import annotations

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
    alive,
    descriptors,
    guest,
    marked,
    seconds_until_gone,
    session,
)
from worst_tree import CALM, CROWD, PRELUDE, SOON, box, embed

from sandlock import SandlockError

pytestmark = pytest.mark.needs(landlock=6)


@pytest.fixture
def mark() -> Iterator[str]:
    """A word on the command line of a tree that the test starts."""
    with marked() as word:
        yield word


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
