"""The guests of the tests, compiled; embedding processes of their own; and looks from outside."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ordinary

SOURCES = os.path.dirname(os.path.abspath(__file__))
FLAGS = ("-O1", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-pthread")
numbers = itertools.count(1)


@functools.cache
def guest(name: str, *flags: str) -> str:
    """A program of this directory, compiled; everybody can execute it. Raises AssertionError."""
    place = ordinary.scratch()
    os.chmod(place, 0o755)
    program = os.path.join(place, name)
    command = ["gcc", *FLAGS, *flags, "-o", program, os.path.join(SOURCES, f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


# ---- looks from outside


def alive(mark: str) -> list[int]:
    """The processes with this word on their command line. Zombies have none, unless threads of them live on."""
    found = []
    wanted = mark.encode()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        words = read(f"/proc/{name}/cmdline")
        if not words:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = b"".join(read(f"/proc/{name}/task/{tid}/cmdline") for tid in os.listdir(f"/proc/{name}/task"))
        if wanted in words.split(b"\0"):
            found.append(int(name))
    return found


def read(path: str) -> bytes:
    """A file of /proc, or nothing if its owner has just ended."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def state(pid: int) -> str:
    """The state letter of a process, "" if there is none."""
    stat = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return stat[0].decode() if stat else ""


def session(pid: int) -> int:
    """The session of a process, 0 if it is gone."""
    stat = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(stat[3]) if stat else 0


@contextlib.contextmanager
def marked() -> Iterator[str]:
    """A word for one test. After it no process with that word may be left; what is left is killed, by its number."""
    word = f"mark-{os.getpid()}-{next(numbers)}"
    yield word
    time.sleep(0.001)
    left = [(pid, state(pid)) for pid in alive(word)]
    for _ in range(20):
        for pid in alive(word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert not left, f"left behind: {left}"


def seconds_until_gone(mark: str, limit: float) -> float:
    """How long it takes until nobody with this mark is left. Raises AssertionError after `limit`."""
    start = time.monotonic()
    while left := alive(mark):
        passed = time.monotonic() - start
        assert passed < limit, f"after {passed:.2f} s still alive: {[(pid, state(pid)) for pid in left]}"
        time.sleep(0.001)
    return time.monotonic() - start


def wait_until(condition: Any, what: str, limit: float = 30.0) -> None:
    """Waits for something that is seen from outside. Raises AssertionError."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"after {limit} s still not: {what}"
        time.sleep(0.002)


def descriptors(pid: int | str = "self") -> dict[int, str]:
    """The open descriptors of a process, without the one that lists them."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


# ---- embedding processes


PREAMBLE = """
import json, os, select, signal, subprocess, sys, threading, time
import sandlock
from sandlock import INHERIT, NULL, PIPE, STDOUT, Sandbox, SandlockError
def say(*what):
    print(*what, flush=True)
"""


NOTHING: Mapping[str, str] = {}


class Host:
    """A process that embeds sandlock and runs the code of a test; `say` in it writes a line that `line` returns."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self._unread = b""

    def line(self, limit: float = 15.0) -> str:
        """What it says next, without the newline. Raises AssertionError when it has ended, or says nothing."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self._unread:
            assert select.select([fd], [], [], limit)[0], f"the host says nothing for {limit} s"
            chunk = os.read(fd, 4096)
            assert chunk, f"the host has ended: {self.process.wait()}"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def tell(self, text: str) -> None:
        """Writes a line to its stdin."""
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), text.encode() + b"\n")


@contextlib.contextmanager
def host(
    code: str, *args: str, person: ordinary.Person | None = None, env: Mapping[str, str] = NOTHING, **options: Any
) -> Iterator[Host]:
    """A host in a session of its own, as this person or as ourselves. It is gone at the end of the block."""
    python = sys.executable if person is None else person.python
    more: dict[str, Any] = {"env": os.environ | env}
    if person is not None:
        more = {"env": person.environment(env), "cwd": person.home, **person.identity}
    process = subprocess.Popen(
        [python, "-c", PREAMBLE + code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **{"start_new_session": True} | more | options,
    )
    try:
        yield Host(process)
    finally:
        process.kill()
        process.wait()  # not for the end of its streams: a guest that wrongly lives on may hold them
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def confined(person: ordinary.Person, argv: list[str], *, limit: float = 60, **fields: Any) -> Confined:
    """Runs one command in a sandbox, as this person. Keywords `input`, `cwd`, `env`, `timeout` are for the run, all
    others are fields of the policy. Text in and out."""
    order = {"argv": argv, "run": {}, "policy": fields}
    for name in ("input", "cwd", "timeout"):
        if name in fields:
            order["run"][name] = fields.pop(name)  # type: ignore[index]
    done = person.run([person.python, "-c", ONE_RUN], input=json.dumps(order), timeout=limit)
    assert done.returncode == 0, done.stderr
    return Confined(**json.loads(done.stdout))


class Confined:
    """How a confined command ended."""

    def __init__(self, exit_code: int, reason: str, stdout: str, stderr: str, **others: Any) -> None:
        self.exit_code = exit_code
        self.reason = reason
        self.stdout = stdout
        self.stderr = stderr
        self.others = others

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.reason == "exited"

    def __repr__(self) -> str:
        return f"<{self.reason} {self.exit_code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}>"


ONE_RUN = """
import json, sys
import sandlock
order = json.load(sys.stdin)
with sandlock.Sandbox(**order["policy"]) as box:
    json.dump(box.run(order["argv"], **order["run"]).to_dict(output=True), sys.stdout)
"""
