"""`sandlock ps`, `kill`, `pause`, `resume`, `logs`, `inspect SESSION` and `run --name`, by real sessions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from session_place import LIMIT, session_place

from sandlock.sessions.directory import find, start_time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ESCAPE = "\x1b]0;owned\x07"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime and a state directory of the test's own, and one to work in."""
    for made in session_place(monkeypatch):
        (made / "work").mkdir()
        yield made


def sandlock(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sandlock.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `sandlock run --name NAME`, and returns when the program writes its first line."""
    started: list[subprocess.Popen[str]] = []

    def run(name: str, command: str, *options: str) -> subprocess.Popen[str]:
        words = [
            "run",
            "--name",
            name,
            "--preset",
            "system",
            "-w",
            str(place / "work"),
            *options,
            "--",
            "sh",
            "-c",
            command,
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "sandlock.cli", *words],
            cwd=place / "work", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: find(name).tree is not None)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def rows(*more: str) -> dict[str, dict[str, object]]:
    """The sessions of these tests, by name."""
    listed = json.loads(sandlock("ps", "--json", *more))
    return {str(row["name"]): row for row in listed if row["name"]}


def test_a_session_from_its_start_to_its_end(start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
    process = start("one", "echo; ls /root; while :; do echo x >> count; /bin/sleep 0.01; done")
    count = place / "work" / "count"
    row = rows()["one"]
    assert (row["state"], row["pid"], row["alive"]) == ("running", process.pid, True)
    assert "one" in sandlock("ps")
    assert "'sh'" not in sandlock("ps")

    assert "presets = ['system']" in sandlock("inspect", "one")
    sandlock("pause", "one")
    assert rows()["one"]["state"] == "paused"
    size = count.stat().st_size
    time.sleep(0.1)
    assert count.stat().st_size == size
    sandlock("resume", "one")
    wait_until(lambda: count.stat().st_size > size)

    sandlock("kill", "one")
    size = count.stat().st_size
    assert process.wait(LIMIT) == 137
    assert count.stat().st_size == size
    assert "one" not in rows()
    assert rows("-a")["one"]["state"] == "ended"
    for command in ("kill", "pause", "resume"):
        assert "has ended" in sandlock(command, "one", code=1)
    assert "sh -c 'echo; ls /root;" in sandlock("logs", "one")
    assert "presets = " in sandlock("inspect", "one")
    assert "ended: killed" in sandlock("logs", "last")


def test_logs_say_what_was_denied_and_what_would_allow_it(start: Callable[..., subprocess.Popen[str]]) -> None:
    command = f"echo; /bin/true '{ESCAPE}'; ls /; cat; exit 3"
    process = start("two", command, "--exec-allow", "*", "--exec-deny", "ls *")
    with subprocess.Popen(
        [sys.executable, "-m", "sandlock.cli", "logs", "-f", "two"], stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        assert "started: sh -c" in first
        process.communicate("", timeout=LIMIT)
        told = first + following.stdout.read()  # until the session is over
    assert process.returncode == 3
    assert "DENIED   exec ls /" in told
    assert "[rule ls *]" in told or "rule" in told
    assert "allowed  exec /bin/true" in told
    assert "ended: exited, exit code 3" in told
    assert told == sandlock("logs", "two")
    assert "\x1b" not in told
    lines = [json.loads(line) for line in sandlock("logs", "--json", "two").splitlines()]
    assert {line["record"] for line in lines} == {"run_start", "decision", "run_end"}
    assert sandlock("logs", find("two").log) == told
    assert "there is none" in sandlock("logs", "nothing.jsonl", code=125)


def test_a_deaf_host_is_not_waited_for(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("three", "echo; setsid sleep 1000 & sleep 1000")
    record = find("three")
    assert record.tree is not None
    process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    assert rows()["three"]["state"] == "no answer"
    assert "sandlock kill --force" in sandlock("kill", "three", code=1)
    assert "sandlock kill --force" in sandlock("pause", "three", code=1)
    assert start_time_of(record.tree.pid) > 0
    sandlock("kill", "--force", "three")
    assert start_time_of(record.tree.pid) < 0
    assert time.monotonic() - begin < 60
    process.send_signal(signal.SIGCONT)
    assert process.wait(LIMIT) == 137
    assert "three" not in rows()


def test_a_killed_host_is_cleaned_up(start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
    process = start("four", "echo; setsid sleep 1000 & sleep 1000")
    tree = find("four").tree
    assert tree is not None
    process.kill()
    process.wait()
    wait_until(lambda: start_time_of(tree.pid) < 0)
    assert os.listdir(place / "runtime/sandlock") != [".lock"]
    assert "four" not in rows()
    assert os.listdir(place / "runtime/sandlock") == [".lock"]
    assert rows("-a")["four"]["state"] == "died"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_named_run(
    number: signal.Signals, start: Callable[..., subprocess.Popen[str]], place: Path
) -> None:
    process = start("five", "echo; sleep 1000")
    process.send_signal(number)
    assert process.wait(LIMIT) == 137
    assert os.listdir(place / "runtime/sandlock") == [".lock"]


def test_ctrl_c_ends_a_named_run(start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
    process = start("six", "echo; sleep 1000")
    tree = find("six").tree
    assert tree is not None
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert start_time_of(tree.pid) < 0
    assert os.listdir(place / "runtime/sandlock") == [".lock"]


def test_a_named_run_is_as_one_without_a_name() -> None:
    words = ("--preset", "system", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert sandlock("run", "--name", "x", *words, code=7) == sandlock("run", *words, code=7) == "out\nerr\n"
    assert "not found" in sandlock("run", "--name", "x", "--preset", "system", "--", "nothing-there", code=127).replace(
        "no such program", "not found"
    )
    assert "no name" in sandlock("run", "--name", "../x", *words, code=125)
    assert "leave it out" in sandlock("run", "--name", "x", "--audit", "f", *words, code=125)
    assert "time limit" in sandlock(
        "run", "--name", "x", "--preset", "system", "--timeout", "0.3", "--", "sleep", "100", code=124
    )


def test_a_taken_name(start: Callable[..., subprocess.Popen[str]]) -> None:
    start("seven", "echo; sleep 1000")
    told = sandlock("run", "--name", "seven", "--preset", "system", "--", "true", code=125)
    assert "seven lives already" in told


@pytest.mark.needs(program="script")
def test_a_named_interactive_run_has_the_terminal() -> None:
    command = f"{sys.executable} -m sandlock.cli run -i --name tty --preset system -- sh -c 'tty; exit 4'"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert "/dev/pts/" in done.stdout


def test_inspect_with_options_is_as_before() -> None:
    assert 'presets = ["system"]' in sandlock("inspect", "--preset", "system", "--", "ls")
    assert "no such run" in sandlock("inspect", "nothing", code=125)
    sandlock("inspect")


def test_several_at_once(start: Callable[..., subprocess.Popen[str]]) -> None:
    first, second = start("a1", "echo; sleep 1000"), start("a2", "echo; sleep 1000")
    assert "nothing: no such run" in sandlock("kill", "a1", "nothing", "a2", code=1)
    assert first.wait(LIMIT) == second.wait(LIMIT) == 137
