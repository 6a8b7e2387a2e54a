"""2,000 runs of every kind in one process: nothing of ours is left, and nothing grows."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs.tools import alive, marked

from sandlock import ConfinementError, Sandbox

pytestmark = [pytest.mark.needs(landlock=6), pytest.mark.slow]

RUNS, WARM_UP, THREADS = 2000, 200, 4
MEMORY = 8 << 20
"""Bytes that the host may have grown by after the warm-up: pools and arenas of the interpreter."""


@pytest.fixture
def mark() -> Iterator[str]:
    """A word on the command line of everything that is started here."""
    with marked() as word:
        yield word


def resident() -> int:
    """Bytes of memory that this process occupies."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def threads() -> dict[str, str]:
    """Our threads, by their numbers, and what they are called. One that was joined may still be on its way out."""
    found = {}
    for number in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[number] = Path(f"/proc/self/task/{number}/comm").read_text(encoding="utf-8").strip()
    return found


def wait_for_none_but(old: dict[str, str]) -> None:
    """Until the new threads are gone. Old ones may go when they like: idle threads of trio's, left by other tests, end
    after some seconds. Raises AssertionError."""
    end = time.monotonic() + 30
    while new := {number: name for number, name in threads().items() if number not in old}:
        assert time.monotonic() < end, f"threads of the runs are left: {new}"
        time.sleep(0.01)


def holdings() -> dict[str, object]:
    """What a run could leave behind in the host and around it."""
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "children": "".join(sorted(read_children(task) for task in os.listdir("/proc/self/task"))),
        "temporary files": sorted(name for name in os.listdir(tempfile.gettempdir()) if "sandlock-init" in name),
        "shared memory": sorted(name for name in os.listdir("/dev/shm") if "sandlock" in name),
    }


def read_children(task: str) -> str:
    """The child processes of one of our threads."""
    try:
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def kinds(mark: str) -> tuple[list[Sandbox], list[Callable[[], object]]]:
    """The sandboxes, and one function for each kind of run."""
    plain = Sandbox(presets=["system"])
    supervised = Sandbox(presets=["system"], max_processes=20, record_execs=True)
    daemon = f"(setsid sleep 100 {mark} >/dev/null 2>&1 &) ; exec sleep 100"

    def killed() -> None:
        with plain.start(["sleep", "100", mark]) as process:
            process.kill()

    def failing() -> None:
        with pytest.raises(ConfinementError):
            plain.run([f"no-such-program-{mark}"])

    def check(sandbox: Sandbox) -> None:
        assert sandbox.run(["echo", mark]).stdout_text.strip() == mark

    def late(sandbox: Sandbox) -> None:
        assert sandbox.run(["sh", "-c", daemon, "sh", mark], timeout=0.01).timed_out

    runs: list[Callable[[], object]] = [
        *[lambda: check(plain)] * 4,
        *[lambda: check(supervised)] * 2,
        killed,
        failing,
        lambda: late(plain),
        lambda: late(supervised),
    ]
    return [plain, supervised], runs


def repeat(runs: list[Callable[[], object]], count: int) -> None:
    """So many runs, from several threads at once."""
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for number in range(start, count, THREADS):
                runs[number // THREADS % len(runs)]()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(start,)) for start in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def test_nothing_is_left_after_two_thousand_runs(mark: str) -> None:
    sandboxes, runs = kinds(mark)
    old = threads()
    repeat(runs, WARM_UP)
    wait_for_none_but(old)
    before, memory = holdings(), resident()
    repeat(runs, RUNS)
    wait_for_none_but(old)
    assert holdings() == before
    assert alive(mark) == []
    assert resident() - memory < MEMORY
    for sandbox in sandboxes:
        sandbox.close()
