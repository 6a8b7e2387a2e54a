"""Exec observation: what ran, what only tried to, who started it, when and how it ended."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import sandlock
from sandlock import ExecRecord, Result

PYTHON = sys.executable
SH = Path("/bin/sh").resolve()

# A program without a libc: it never tells that it has started. Sleeps NAP milliseconds, then exits with 7.
BARE = r"""
#include <sys/syscall.h>
static long call(long number, long a, long b)
{
    long result;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
#else
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1) : "memory");
    result = x0;
#endif
    return result;
}
void _start(void)
{
    long nap[2] = {0, NAP * 1000000L};
    if (NAP)
        call(SYS_nanosleep, (long)nap, 0);
    for (;;)
        call(SYS_exit_group, 7, 0);
}
"""


def observe(argv: Sequence[str], **fields: object) -> Result:
    """Runs a program that may read the system and Python, and observes it."""
    return sandlock.run(argv, presets=["system", "proc", "python"], record_execs=True, **fields)  # type: ignore[arg-type]


def shell(script: str, **fields: object) -> Result:
    return observe(["sh", "-c", script], **fields)


def execs(result: Result) -> tuple[ExecRecord, ...]:
    assert result.execs is not None
    return result.execs


def words(result: Result) -> list[tuple[str, ...]]:
    """The argv of each record, without the first: the shell or Python that runs the test's script."""
    return [record.argv for record in execs(result)[1:]]


def only(result: Result, *argv: str) -> ExecRecord:
    """The one record with this argv."""
    (record,) = [record for record in execs(result) if record.argv == argv]
    return record


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `quick` and `slow`, programs without a libc."""
    place = tmp_path_factory.mktemp("bare")
    place.chmod(0o755)
    source = place / "bare.c"
    source.write_text(BARE)
    compiler = os.environ.get("CC", "cc")
    for name, nap in (("quick", 0), ("slow", 150)):
        options = ["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", f"-DNAP={nap}"]
        subprocess.run([compiler, *options, source, "-o", place / name], check=True)
    return place


# ---- the tree


def test_without_being_asked_nothing_is_observed() -> None:
    assert sandlock.run(["true"], presets=["system"]).execs is None


def test_one_program() -> None:
    (record,) = execs(observe(["true"]))
    assert record.exe == os.path.realpath(shutil.which("true") or "")
    assert record.argv == ("true",)
    assert (record.parent_pid, record.exit_code, record.signal) == (0, 0, None)
    assert record.confirmed
    assert not record.truncated


def test_a_pipeline_and_a_subshell() -> None:
    result = shell("echo b a | tr ' ' '\\n' | sort; (cat /dev/null; (/bin/false)); true x && env true y")
    first = execs(result)[0]
    assert first.exe == str(SH)
    assert Counter(words(result)) == Counter(
        [("tr", " ", "\\n"), ("sort",), ("cat", "/dev/null"), ("/bin/false",), ("env", "true", "y"), ("true", "y")]
    )
    assert {record.parent_pid for record in execs(result)[1:]} == {first.pid}
    assert only(result, "/bin/false").exit_code == 1
    assert only(result, "sort").exit_code == 0
    assert all(record.confirmed for record in execs(result))


def test_times_are_ordered() -> None:
    before = time.monotonic()
    result = shell("sleep 0.05; true x; /bin/true y")
    took = time.monotonic() - before
    records = execs(result)
    starts = [record.started for record in records]
    assert starts == sorted(starts)
    assert all(record.ended is not None and 0 <= record.started <= record.ended < took for record in records)
    sleep = only(result, "sleep", "0.05")
    assert sleep.ended is not None
    assert 0.05 <= sleep.ended - sleep.started < 0.5
    assert only(result, "/bin/true", "y").started >= sleep.ended - 0.01


def test_parents_over_forks_that_do_not_exec() -> None:
    script = "import os\nos.fork() or os.fork() or os.execlp('sh', 'sh', '-c', '/bin/true a; env true')\n"
    script += "os.wait()"
    result = observe([PYTHON, "-c", script])
    python, sh = execs(result)[0], only(result, "sh", "-c", "/bin/true a; env true")
    assert sh.parent_pid == python.pid
    assert only(result, "/bin/true", "a").parent_pid == sh.pid


def test_a_chain_in_one_process() -> None:
    result = shell("exec env env true")
    sh, env, again, true = execs(result)
    assert len({record.pid for record in execs(result)}) == 1
    assert [record.argv[0] for record in (env, again, true)] == ["env", "env", "true"]
    for record, following in ((sh, env), (env, again), (again, true)):
        assert record.ended == following.started
        assert (record.exit_code, record.signal) == (None, None)
    assert true.exit_code == 0


def test_a_script_is_what_was_loaded(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\nexit 5\n")
    script.chmod(0o755)
    result = shell(f"{script} one two; true", fs_readable=[str(tmp_path)])
    record = execs(result)[1]
    assert record.exe == str(SH)
    assert record.argv == ("/bin/sh", "-e", str(script), "one", "two")
    assert record.exit_code == 5


# ---- vfork, posix_spawn, threads


def test_subprocess_and_posix_spawn() -> None:
    result = observe(
        [
            PYTHON, "-c",
            "import os, subprocess\n"
            "subprocess.run(['true', 'run'])\n"
            "subprocess.run('exit 3', shell=True)\n"
            "os.waitpid(os.posix_spawnp('true', ['true', 'spawn'], os.environ), 0)\n",
        ]
    )  # fmt: skip
    python = execs(result)[0]
    assert words(result) == [("true", "run"), ("/bin/sh", "-c", "exit 3"), ("true", "spawn")]
    assert only(result, "/bin/sh", "-c", "exit 3").exit_code == 3
    assert {record.parent_pid for record in execs(result)[1:]} == {python.pid}


@pytest.mark.parametrize("end_of_first", ["thread.join()", "import ctypes; ctypes.CDLL(None).pthread_exit(None)"])
def test_a_thread_that_execs(end_of_first: str) -> None:
    """Its process lives on under the same id, also when its first thread has ended before."""
    result = observe(
        [
            PYTHON, "-c",
            "import os, threading, time\n"
            "def later():\n"
            "    time.sleep(0.05)\n"
            "    try: os.execv('/nosuch', ['nosuch'])\n"
            "    except OSError: os.execv('/bin/sh', ['sh', '-c', 'exit 9'])\n"
            "thread = threading.Thread(target=later)\n"
            "thread.start()\n" + end_of_first,
        ]
    )  # fmt: skip
    python, sh = execs(result)
    assert result.exit_code == 9
    assert (sh.pid, sh.argv, sh.exit_code, sh.confirmed) == (python.pid, ("sh", "-c", "exit 9"), 9, True)
    assert python.ended == sh.started


# ---- what did not run


@pytest.mark.parametrize(
    "script",
    [
        "nosuch; env nosuch; true",
        "PATH=/nosuch:/etc:$PATH env env; true",
        "exec /etc/passwd",
        "/tmp; /etc/passwd; true",
        "./relative; /dev/null; true",
    ],
)
def test_an_exec_that_fails_is_not_recorded(script: str) -> None:
    assert set(words(shell(script))) <= {("env", "nosuch"), ("env", "env"), ("env",)}


def test_candidates_of_a_path_search(tmp_path: Path) -> None:
    """Children of Python try each directory with execve; only the one that is there counts."""
    (tmp_path / "true").write_text("not a program")
    script = "import subprocess\nsubprocess.run(['true'])\nfor name in ['nosuch', '/etc/passwd']:\n"
    script += "    try: subprocess.run([name])\n    except OSError: pass"
    path = f"/nosuch:{tmp_path}:/etc/passwd:{os.environ['PATH']}"
    result = observe([PYTHON, "-c", script], fs_readable=[str(tmp_path)], env={"PATH": path})
    assert words(result) == [("true",)]


def test_set_tid_address_says_nothing_without_an_exec() -> None:
    number = "218 if os.uname().machine == 'x86_64' else 96"
    script = "import ctypes, os, time\ncall = lambda: ctypes.CDLL(None).syscall({}, 0)\ncall()\n"
    script += "try: os.execv('/etc/passwd', ['forged'])\nexcept OSError: call()\n"
    script += "if os.fork() == 0: call(); os._exit(0)\nos.wait()"
    assert words(observe([PYTHON, "-c", script.format(number)])) == []


def test_an_exec_outside_the_policy_is_not_recorded(tmp_path: Path) -> None:
    shutil.copy("/bin/true", tmp_path / "denied")
    assert words(shell(f"{tmp_path}/denied; true")) == []


# ---- programs without a libc


@pytest.mark.needs(program="cc")
def test_programs_that_do_not_tell(bare: Path) -> None:
    result = shell("./slow; ./quick; exec ./slow", cwd=str(bare), fs_readable=[str(bare)])
    slow, quick, last = execs(result)[1:]
    assert [record.argv for record in (slow, quick, last)] == [("./slow",), ("./quick",), ("./slow",)]
    assert [record.exit_code for record in (slow, quick, last)] == [7, 7, 7]
    assert slow.confirmed
    assert slow.exe == last.exe == str(bare / "slow")
    assert os.path.normpath(quick.exe) == str(bare / "quick")
    assert last.pid == execs(result)[0].pid


@pytest.mark.needs(program="cc")
def test_many_quick_ones(bare: Path) -> None:
    """No evidence of them is left when they can be looked at: their file has to do."""
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do ./quick $i; done"
    result = shell(script, cwd=str(bare), fs_readable=[str(bare)])
    assert words(result) == [("./quick", str(i)) for i in range(1, 11)]
    assert {record.exit_code for record in execs(result)[1:]} == {7}


# ---- ends


def test_a_signal_is_in_the_status() -> None:
    result = shell("sh -c 'kill -TERM $$'; sh -c 'kill -KILL $$'; true")
    assert only(result, "sh", "-c", "kill -TERM $$").signal == 15
    killed = only(result, "sh", "-c", "kill -KILL $$")
    assert (killed.signal, killed.exit_code) == (9, 137)


def test_a_zombie_ends_when_it_dies() -> None:
    """Its parent never waits for it; the init reaps it at the end of the run."""
    script = "import os, time\nif os.fork() == 0: os.execv('/bin/sh', ['sh', '-c', 'exit 4'])\n"
    script += "time.sleep(0.2)"
    result = observe([PYTHON, "-c", script])
    sh = execs(result)[1]
    assert sh.exit_code == 4
    assert sh.ended is not None
    assert sh.ended - sh.started < 0.15


def test_daemons_are_killed_at_the_end() -> None:
    result = shell("setsid sleep 50 & (setsid sleep 60 &); sleep 0.1")
    for seconds in ("50", "60"):
        daemon = only(result, "sleep", seconds)
        assert daemon.signal == 9
        assert daemon.ended is not None
    assert only(result, "sleep", "0.1").exit_code == 0


def test_a_time_limit() -> None:
    result = shell("sleep 50", timeout=0.2)
    assert result.timed_out
    assert [record.signal for record in execs(result)] == [9, 9]


# ---- much of it


@pytest.mark.slow
def test_300_processes_at_once_need_no_descriptors_of_the_host() -> None:
    before = len(os.listdir("/proc/self/fd"))
    peak = before
    done = threading.Event()

    def count() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, len(os.listdir("/proc/self/fd")))

    counting = threading.Thread(target=count)
    counting.start()
    try:
        result = shell("i=0; while [ $i -lt 300 ]; do sleep 0.5 & i=$((i+1)); done; wait")
    finally:
        done.set()
        counting.join()
    assert Counter(words(result)) == {("sleep", "0.5"): 300}
    assert {record.exit_code for record in execs(result)} == {0}
    assert peak - before < 20


@pytest.mark.slow
def test_a_storm_of_execs_ends_with_the_run() -> None:
    script = """
import os, subprocess
for i in range(4): os.fork()
while True:
    try: subprocess.run(['sh', '-c', 'true & /bin/true'])
    except OSError: pass
"""
    result = observe([PYTHON, "-c", script], max_processes=40, timeout=1.0)
    assert result.timed_out
    records = execs(result)
    assert len(records) > 20
    assert all(record.ended is not None for record in records)


def test_long_arguments_are_cut() -> None:
    script = "import subprocess\nfor size in (20000, 16377): subprocess.run(['true', 'x' * size])"
    cut, whole = execs(observe([PYTHON, "-c", script]))[1:]
    assert cut.truncated
    assert cut.argv == ("true", "x" * (16384 - 5))
    assert not whole.truncated
    assert whole.argv == ("true", "x" * 16377)


@pytest.mark.slow
def test_all_records_together_are_bounded() -> None:
    script = "import os\nfor i in range(600):\n"
    script += "    os.waitpid(os.posix_spawn('/bin/true', ['x' * 16300], {}), 0)"
    result = observe([PYTHON, "-c", script])
    assert result.ok
    assert 500 < len(execs(result)) < 520


def test_odd_bytes_and_empty_words() -> None:
    script = "import subprocess\nfor argv in [[b'\\xff\\n', b'', b'a b', b''], [b'']]:\n"
    script += "    subprocess.run(argv, executable='/bin/true')"
    result = observe([PYTHON, "-c", script])
    assert words(result) == [("\udcff\n", "", "a b", ""), ("",)]


FEW = """
import resource, sandlock
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 64))
result = sandlock.run(
    ["sh", "-c", "i=0; while [ $i -lt 60 ]; do sleep 0.3 & i=$((i+1)); done; wait"],
    presets=["system"], record_execs=True,
)
known = [record.exit_code for record in result.execs[1:]]
assert result.ok and len(known) == 60 and set(known) == {0, None}, (result, known)
"""


@pytest.mark.slow
def test_without_descriptors_only_exits_are_lost() -> None:
    """The watching thread is short of descriptors, and nobody else notices."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 64
    subprocess.run([PYTHON, "-c", FEW], check=True)
