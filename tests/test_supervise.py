"""The fast lane: each action of a rule, and the live count of processes, as the program and the outside see them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from programs.tools import alive, guest, marked, read, seconds_until_gone, state, wait_until

from sandlock import NULL, PIPE, Process, Result, Sandbox, _filter, _program, syscalls
from sandlock._host import probe
from sandlock._plan import TrapRule

pytestmark = pytest.mark.needs(landlock=6)

CALL = "sched_get_priority_max"
"""What is trapped in these tests: takes one number, is called by nobody, and answers EINVAL to what we ask."""
NUMBER = syscalls.number(CALL, probe().arch)


@pytest.fixture
def mark() -> Iterator[str]:
    """A word on the command line of a tree that the test starts."""
    with marked() as word:
        yield word


def box(**fields: object) -> Sandbox:
    """A sandbox that can execute the guests."""
    where = [os.path.dirname(guest(name)) for name in ("calls", "forks")]
    return Sandbox(presets=["system"], fs_readable=where, **fields)  # type: ignore[arg-type]


def trapping(rule: str | None, value: int = 0, **fields: object) -> Sandbox:
    """A sandbox whose supervisor answers CALL by this rule; None: it is asked, and has no rule."""
    sandbox = box(**{"max_processes": 100} | fields)
    confinement, host = sandbox._confinement, probe()
    plan = confinement.plan
    answers = {**dict(plan.answers), CALL: _filter.NOTIFY}
    numbers = {syscalls.number(name, host.arch): answer for name, answer in answers.items()}
    rules = plan.rules
    if rule is not None:
        rules = (*rules, TrapRule(syscall=CALL, nr=NUMBER, rule=rule, value=value, reason="the test asks"))
    confinement.plan = plan.__replace__(filter=_filter.assemble(numbers, host.arch), rules=rules)
    confinement._program = _program.Program(confinement.plan, wait_killable=host.wait_killable)
    return sandbox


def calls(task: str, *args: object) -> list[str]:
    """The command line of a guest that makes the call."""
    return [guest("calls"), task, str(NUMBER), *map(str, args)]


def tally(result: Result) -> Counter[int]:
    """How often each answer came, as the guest says."""
    assert result.ok, result
    return Counter({int(value): int(count) for value, count in map(str.split, result.stdout_text.splitlines())})


def statistics(process: Process) -> dict[str, int]:
    """The supervisor's own counts."""
    return process._execution.run.statistics()


def line(process: Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().decode().rstrip("\n")


# ---- actions


def test_free_the_call_has_an_answer_of_its_own() -> None:
    assert tally(box().run(calls("times", 3))) == {-errno.EINVAL: 3}


@pytest.mark.parametrize(
    ("rule", "value", "answer"),
    [
        ("errno", errno.EACCES, -errno.EACCES),
        ("errno", errno.ENOSYS, -errno.ENOSYS),
        ("value", 4711, 4711),
        ("value", 0, 0),
        ("value", 2**40 + 1, 2**40 + 1),
        ("continue", 0, -errno.EINVAL),
        (None, 0, -errno.EPERM),
    ],
)
def test_an_answer(rule: str | None, value: int, answer: int) -> None:
    with trapping(rule, value) as sandbox, sandbox.start(calls("times", 200)) as process:
        assert process.stdout is not None
        text = process.stdout.read().decode()
        assert process.wait().ok
        assert text == f"{answer} 200\n"
        counted = statistics(process)
    assert counted == {
        "received": 200,
        "answered": 200,
        "vanished": 0,
        "denied": 200 if answer < 0 and rule != "continue" else 0,
        "failed": 0,
    }


def test_a_rule_that_the_core_does_not_know_is_no_rule() -> None:
    with pytest.raises(KeyError):
        trapping("allow")


def test_a_rule_for_a_number_beyond_the_table_is_an_error() -> None:
    plan = box(max_processes=5).plan
    rule = TrapRule(syscall="none", nr=1 << 20, rule="value", value=0, reason="the test asks")
    with pytest.raises(ValueError, match="out of range"):
        _program.Program(plan.__replace__(rules=(rule,)), wait_killable=True)


@pytest.mark.slow
def test_many_threads_ask_at_once() -> None:
    with trapping("value", 7) as sandbox, sandbox.start(calls("crowd", 0.4, 8)) as process:
        assert line(process) == "done"
        assert process.wait().ok
        counted = statistics(process)
    assert counted["answered"] > 500
    assert counted["failed"] == 0
    # Those that were in a call when the process ended got no answer.
    assert 0 <= counted["received"] - counted["answered"] <= 8


# ---- injected descriptors


def test_an_injected_descriptor_is_known_before_the_guest_has_it() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from outside")
    try:
        with trapping("inject", reader) as sandbox, sandbox.start(calls("inject"), stdin=PIPE) as process:
            number, _, text = line(process).partition(" ")
            assert text == "from outside"
            assert process._execution.run.last_injected == int(number) == 3
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.readlink(f"/proc/self/fd/{reader}")
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait().ok
    finally:
        os.close(reader)
        os.close(writer)


def test_a_guest_without_a_free_descriptor_gets_emfile() -> None:
    with open(os.devnull, "rb") as null, trapping("inject", null.fileno()) as sandbox:
        result = sandbox.run(calls("inject-full"))
    assert result.stdout_text.split() == ["EMFILE", "0", "EMFILE"]


def test_a_descriptor_that_is_not_ours_is_a_denial() -> None:
    with trapping("inject", 900) as sandbox:
        assert tally(sandbox.run(calls("times", 5))) == {-errno.EACCES: 5}


# ---- hold and kill


@pytest.mark.slow
def test_a_held_caller_waits_and_the_others_go_on(mark: str) -> None:
    with trapping("hold") as sandbox, sandbox.start(calls("held", mark), stdin=PIPE) as process:
        assert line(process) == "calls"
        assert process.stdin is not None
        for _ in range(3):
            process.stdin.write(b".")
            process.stdin.flush()
            assert line(process) == "alive"
        (caller,) = set(alive(mark)) - {process.pid}
        wait_until(lambda: statistics(process)["received"] >= 2, "the call has been received")  # and the fork
        assert read(f"/proc/{caller}/syscall").split()[0] == str(NUMBER).encode()
        process.kill()
        assert process.wait().reason == "killed"
    assert alive(mark) == []


@pytest.mark.slow
@pytest.mark.parametrize("patience", [0.005, 0.3])
def test_a_held_program_ends_by_its_time_limit(patience: float) -> None:
    with trapping("hold") as sandbox:
        result = sandbox.run(calls("once"), timeout=patience)
    assert result.timed_out
    assert result.stdout == b""
    assert result.duration < patience + 3


@pytest.mark.slow
def test_a_held_caller_ends_with_its_host(mark: str) -> None:
    child = os.fork()
    if child == 0:
        process = trapping("hold").start(calls("held", mark), stdin=PIPE)
        line(process)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    seconds_until_gone(mark, 5.0)


def test_killing_the_caller_kills_its_process_and_no_other() -> None:
    with trapping("kill_task") as sandbox:
        result = sandbox.run(calls("child"))
        assert result.ok
        assert result.stdout_text == "signal 9 exit -1\n"
        assert sandbox.run(calls("once")).signal == 9


def test_killing_the_tree(mark: str) -> None:
    with trapping("kill_tree") as sandbox:
        start = time.monotonic()
        result = sandbox.run(calls("held", mark), stdin=NULL)
        assert time.monotonic() - start < 5
        assert alive(mark) == []
        assert result.stdout_text.startswith("calls\n") or result.reason == "exited"
        result = sandbox.run(calls("once"))
    assert (result.reason, result.signal) == ("killed", 9)


# ---- storms


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["value", "continue", "inject"])
def test_signals_do_not_spoil_answers(rule: str) -> None:
    """A timer signal every millisecond: each call is answered rightly, or was interrupted before it was seen."""
    with open(os.devnull, "rb") as null:
        value = null.fileno() if rule == "inject" else 7
        with trapping(rule, value, max_open_files=None) as sandbox:
            with sandbox.start(calls("storm", 0.7)) as process:
                assert process.stdout is not None
                *answers, ticks = process.stdout.read().decode().splitlines()
                assert process.wait().ok
                counted = statistics(process)
    found = Counter({int(answer): int(count) for answer, count in map(str.split, answers)})
    interrupted = found.pop(-errno.EINTR, 0)
    if rule == "inject":
        assert all(answer > 2 or answer == -errno.EMFILE for answer in found)
    else:
        assert set(found) == {7 if rule == "value" else -errno.EINVAL}
    assert int(ticks.split()[1]) > 200
    assert counted["failed"] == 0
    if rule != "inject":
        # Who is interrupted after its notification and before our look at it vanishes without having been received.
        assert counted["answered"] <= counted["received"] <= counted["answered"] + counted["vanished"]
        assert counted["answered"] == sum(found.values())
        assert interrupted < sum(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["value", "continue", "hold", "kill_task"])
def test_callers_that_are_killed(rule: str) -> None:
    """kill -9 at any moment of a trapped call: nobody hangs, no other caller is hit, the counts add up."""
    with trapping(rule, 7) as sandbox, sandbox.start(calls("killed", 2.0), timeout=20) as process:
        assert process.stdout is not None
        word = process.stdout.read().decode().split()
        assert process.wait().ok
        counted = statistics(process)
    assert word[0] == "killed"
    assert int(word[1]) > 100
    assert word[3] == "0"
    assert counted["failed"] == 0
    settled = counted["answered"] + counted["vanished"]
    if rule == "hold":
        assert counted["received"] >= settled
    else:
        # A task that dies between its notification and our look at it vanishes without having been received.
        assert counted["received"] <= settled


# ---- max_processes

LIMIT = 8
WAYS = ("fork", "raw-clone", "raw-clone-no-signal", "clone-vm", "clone-parent", "vfork", "clone-vfork", "posix_spawn")
if probe().arch == "x86_64":
    WAYS += ("raw-fork",)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_limit_is_exact(way: str, mark: str) -> None:
    with box(max_processes=LIMIT) as sandbox:
        with sandbox.start([guest("forks"), "until", way, mark], stdin=PIPE) as process:
            assert line(process) == f"made {LIMIT - 1} EAGAIN"
            wait_until(lambda: len(alive(mark)) == LIMIT, "as many as the limit")  # the last one is in its exec
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait().ok
    with box() as sandbox:  # without a limit
        with sandbox.start([guest("forks"), "until", way, mark], stdin=PIPE) as process:
            assert line(process) == "made 200 0"


@pytest.mark.slow
@pytest.mark.skipif(probe().arch != "x86_64", reason="the architecture has no such call")
def test_a_raw_vfork_counts(mark: str) -> None:
    """Each pair is a fork and a vfork of it that sleeps with its child."""
    with box(max_processes=LIMIT) as sandbox:
        with sandbox.start([guest("forks"), "until", "raw-vfork", mark], stdin=PIPE) as process:
            assert line(process) == "made 200 0"
            assert 1 < len(alive(mark)) <= LIMIT
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("style", ["wait", "nohang", "ignore", "double-fork", "never", "vfork", "handler-wait", "peek"])
def test_short_children_in_sequence_are_never_denied(style: str) -> None:
    with box(max_processes=LIMIT) as sandbox:
        result = sandbox.run([guest("forks"), "short", style.removeprefix("handler-"), "1000"], timeout=30)
    assert result.stdout_text == "denied 0 0\n"


@pytest.mark.parametrize(("limit", "expected"), [(1, "denied 20 EAGAIN"), (2, "denied 0 0"), (3, "denied 0 0")])
def test_small_limits(limit: int, expected: str) -> None:
    with box(max_processes=limit) as sandbox:
        assert sandbox.run([guest("forks"), "short", "wait", "20"]).stdout_text == expected + "\n"


def test_threads_are_not_counted() -> None:
    with box(max_processes=2) as sandbox:
        assert sandbox.run([guest("forks"), "threads", "50"]).stdout_text == "made 50 0\nfork 0\n"
    with box(max_processes=1) as sandbox:
        assert sandbox.run([guest("forks"), "threads", "50"]).stdout_text == "made 50 0\nfork EAGAIN\n"


@pytest.mark.parametrize("fields", [{}, {"max_processes": 5}])
def test_clone3_is_not_there(fields: dict[str, int]) -> None:
    """Its arguments lie in memory: libraries fall back to clone."""
    with box(**fields) as sandbox:
        assert sandbox.run([guest("forks"), "clone3"]).stdout_text == "clone3 ENOSYS\n"


@pytest.mark.slow
def test_a_fork_bomb_is_capped(mark: str) -> None:
    limit = 16
    most = seen = 0
    with box(max_processes=limit) as sandbox:
        with sandbox.start([guest("forks"), "bomb", mark, "1.5"], timeout=10) as process:
            while process.poll() is None:
                there = alive(mark)
                seen = max(seen, len(there))  # some may have ended while the others were looked for
                most = max(most, len([pid for pid in there if state(pid) not in "ZX"]))
            assert process.stdout is not None
            words = process.stdout.read().decode().split()
    assert words[0] == "made"
    assert words[-2:] == ["other", "0"]
    assert int(words[3]) > 20, "it was never denied"
    assert int(words[1]) > 3 * limit, "it did not go on"
    assert seen >= limit // 2
    assert most <= limit


@pytest.mark.slow
def test_sandboxes_count_for_themselves(mark: str) -> None:
    with box(max_processes=4) as first, box(max_processes=6) as second:
        starts = [(first, 3), (second, 5), (first, 3)]
        processes = [one.start([guest("forks"), "until", "fork", mark], stdin=PIPE) for one, _ in starts]
        for process, (_, expected) in zip(processes, starts, strict=True):
            assert line(process) == f"made {expected} EAGAIN"
        assert len(alive(mark)) == 4 + 6 + 4
        for process in processes:
            process.close()


SHELL_SCRIPT = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i | cat | tr 0-9 a-j; done; (sleep 0.01 & wait); echo $?"
SHELL_OUTPUT = ["b", "c", "d", "e", "f", "g", "h", "i", "j", "ba", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_ordinary_shells_live_below_a_limit(shell: str) -> None:
    """dash handles SIGCHLD without SA_RESTART: on a busy machine, most of its forks would be interrupted."""
    with box(max_processes=8) as sandbox, busy_machine():
        for _ in range(10):
            result = sandbox.run([shell, "-c", SHELL_SCRIPT], timeout=30)
            assert result.stdout_text.split() == SHELL_OUTPUT, result


@pytest.mark.slow
def test_an_interrupted_fork_is_what_we_guard_against() -> None:
    """The same shells, supervised without the rule that adds SA_RESTART: the positive control."""
    with trapping(None, max_processes=100) as sandbox, busy_machine():
        plan = sandbox._confinement.plan
        harmless = [r.__replace__(rule="continue") if r.rule == "add_restart" else r for r in plan.rules]
        sandbox._confinement._program = _program.Program(
            plan.__replace__(rules=tuple(harmless)), wait_killable=probe().wait_killable
        )
        assert any(not sandbox.run(["dash", "-c", SHELL_SCRIPT], timeout=30).ok for _ in range(100))


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """More work than CPUs, so that a supervisor that is woken has to wait for its turn."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
