"""What every adapter has to do, whatever its framework: ten cases, judged from outside.

A test module says how its framework has a model call the command tool once, as an `Ask`, and runs them all:

    test_ten_cases, test_ten_at_once = cases_of(ask)
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from loops import wait_alive

import sandlock
from sandlock.agents.sandbox import Request

__all__ = ["Ask", "Job", "cases_of"]

LIMIT = 100.0
MOST = 1_000_000
"""Bytes that are kept of an output that goes on and on; frameworks may cut it further."""


@dataclass
class Job:
    """One command of a model, in a workspace."""

    work: Path
    command: str
    timeout: float | None = None
    """Seconds, by the framework's own way of saying so."""
    answer: bool | str | None = None
    """To whatever is asked: True, or why not. None: nobody answers."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the policy."""
    asked: list[str] = field(default_factory=list)
    """What was asked, in words."""

    @property
    def keywords(self) -> dict[str, Any]:
        """For what is made on an AgentSandbox."""
        return {"approve": self.approve, **self.fields}

    async def approve(self, request: Request) -> sandlock.Allow | sandlock.Deny:
        return self.decide(request.summary)

    def decide(self, what: str) -> sandlock.Allow | sandlock.Deny:
        self.asked.append(what)
        return sandlock.Allow() if self.answer is True else sandlock.Deny(str(self.answer))


Ask = Callable[[Job], Awaitable[str]]
"""Has it done; the text that the model gets."""
Case = Callable[[Ask, Path], None]


def _done(ask: Ask, job: Job) -> str:
    async def main() -> str:
        async with asyncio.timeout(LIMIT):
            return await ask(job)

    return asyncio.run(main())


def _place(top: Path) -> Path:
    work = top / "work"
    work.mkdir()
    return work


def run(ask: Ask, top: Path) -> None:
    work, secret = _place(top), top / "secret"
    secret.write_text("hidden-word")
    line = f"echo out; cat {secret}; echo changed > {secret}; echo made > made"
    assert "hidden-word" in subprocess.run(["sh", "-c", f"cat {secret}"], capture_output=True, text=True).stdout
    text = _done(ask, Job(work, line))
    assert "out" in text
    assert "hidden-word" not in text
    assert secret.read_text() == "hidden-word"
    assert (work / "made").read_text() == "made\n"


def fail(ask: Ask, top: Path) -> None:
    text = _done(ask, Job(_place(top), "echo before; exit 37"))
    assert "before" in text
    assert re.search(r"(?<![\w.])37(?![\w.])", text), text


def timeout(ask: Ask, top: Path) -> None:
    mark, work = f"mark-{os.urandom(6).hex()}", _place(top)
    started = time.monotonic()
    _done(ask, Job(work, f"touch begun; bash -c 'exec -a {mark} sleep 90' & wait; touch ended", timeout=1.0))
    assert time.monotonic() - started < 60
    assert os.path.exists(work / "begun")
    assert not os.path.exists(work / "ended")
    assert wait_alive(mark, 0) == []


def cancel(ask: Ask, top: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    work = _place(top)

    async def main() -> None:
        task = asyncio.ensure_future(ask(Job(work, f"bash -c 'exec -a {mark} sleep 90' & wait")))
        assert len(await asyncio.to_thread(wait_alive, mark, 1, 30)) == 1
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.done()
        assert await asyncio.to_thread(wait_alive, mark, 0) == []

    asyncio.run(main())


def big_output(ask: Ask, top: Path) -> None:
    command = "yes 0123456789abcdef | head -c 30000000"
    text = _done(ask, Job(_place(top), command, fields={"max_output": MOST}))
    assert "0123456789abcdef" in text
    assert len(text) < 2 * MOST


def binary_file(ask: Ask, top: Path) -> None:
    work, content = _place(top), bytes(range(256)) * 3
    (work / "given").write_bytes(content)
    text = _done(ask, Job(work, "cp given copied; printf '<'; base64 -w 0 copied; printf '>'; cat given"))
    found = re.search("<([A-Za-z0-9+/=]+)>", text)
    assert found, text
    assert base64.b64decode(found[1]) == content
    assert (work / "copied").read_bytes() == content


def denied_exec(ask: Ask, top: Path) -> None:
    work = _place(top)
    command, rules = "touch made; echo and on", {"exec_allow": ["*"]}
    text = _done(ask, Job(work, command, fields=rules | {"exec_deny": ["touch * # files are made by people"]}))
    assert "files are made by people" in text
    assert "and on" in text
    assert os.listdir(work) == []
    assert "and on" in _done(ask, Job(work, command, fields=rules))  # without the rule, the control
    assert os.listdir(work) == ["made"]


ASKED = {"exec_allow": ["*"], "exec_ask": ["touch *"]}


def asked_exec_approved(ask: Ask, top: Path) -> None:
    job = Job(_place(top), "touch made; echo and on", answer=True, fields=ASKED)
    assert "and on" in _done(ask, job)
    assert os.listdir(job.work) == ["made"]
    assert len(job.asked) == 1
    assert "touch made" in job.asked[0]


def asked_exec_declined(ask: Ask, top: Path) -> None:
    job = Job(_place(top), "touch made; echo and on", answer="not on fridays", fields=ASKED)
    text = _done(ask, job)
    assert "not on fridays" in text
    assert os.listdir(job.work) == []
    assert "touch made" in job.asked[0]


def asked_connect(ask: Ask, top: Path) -> None:
    work = _place(top)
    answers: tuple[bool | str, ...] = (True, "nothing leaves")
    for number, answer in enumerate(answers):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            line = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' && echo connected"
            job = Job(work, line, answer=answer, fields={"exec_allow": ["*"]})
            text = _done(ask, job)
            assert ("connected" in text.replace(line, "")) == (answer is True), text
            assert f"127.0.0.1:{port}" in job.asked[0]
            server.settimeout(5 if number == 0 else 0.2)
            try:
                server.accept()[0].close()
                came = True
            except TimeoutError:
                came = False
            assert came == (answer is True)


TEN_CASES: tuple[Case, ...] = (
    run,
    fail,
    timeout,
    cancel,
    big_output,
    binary_file,
    denied_exec,
    asked_exec_approved,
    asked_exec_declined,
    asked_connect,
)


def ten_at_once(ask: Ask, top: Path) -> None:
    """Ten agents in one process: each does its own, and is asked about its own."""
    jobs = []
    for number in range(10):
        work = top / str(number)
        work.mkdir()
        answer = True if number % 2 else f"not number {number}"
        jobs.append(Job(work, f"touch made-{number}; echo end {number}", answer=answer, fields=ASKED))

    async def main() -> list[str]:
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            tasks = [group.create_task(_of(ask, job)) for job in jobs]
        return [task.result() for task in tasks]

    for number, (job, text) in enumerate(zip(jobs, asyncio.run(main()), strict=True)):
        assert f"end {number}" in text
        assert os.listdir(job.work) == ([f"made-{number}"] if number % 2 else [])
        assert [f"touch made-{number}" in each for each in job.asked] == [True]
        assert (f"not number {number}" in text) == (number % 2 == 0)


async def _of(ask: Ask, job: Job) -> str:
    return await ask(job)


def cases_of(ask: Ask) -> tuple[Callable[[Case, Path], None], Callable[[Path], None]]:
    """The tests of a module: each of the ten cases, and ten agents at once."""

    @pytest.mark.parametrize("case", TEN_CASES)
    def test_ten_cases(case: Case, tmp_path: Path) -> None:
        case(ask, tmp_path)

    def test_ten_at_once(tmp_path: Path) -> None:
        ten_at_once(ask, tmp_path)

    return test_ten_cases, test_ten_at_once
