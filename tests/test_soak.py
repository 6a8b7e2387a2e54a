"""2,000 runs of every kind in one process: nothing of ours is left, and nothing grows."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest
from programs.tools import alive, marked, wait_until

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


def thread_count() -> int:
    """Our threads. One that was joined may still be on its way out."""
    return len(os.listdir("/proc/self/task"))


def holdings() -> dict[str, object]:
    """What a run could leave behind in the host and around it."""
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": thread_count(),
        "children": [read_children(task) for task in os.listdir("/proc/self/task")],
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

    threads = [threading.Thread(target=work, args=(start,)) for start in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_nothing_is_left_after_two_thousand_runs(mark: str) -> None:
    sandboxes, runs = kinds(mark)
    threads = thread_count()
    repeat(runs, WARM_UP)
    wait_until(lambda: thread_count() == threads, "the threads of the warm-up are gone")
    before, memory = holdings(), resident()
    repeat(runs, RUNS)
    wait_until(lambda: thread_count() == threads, "the threads of the runs are gone")
    assert holdings() == before
    assert alive(mark) == []
    assert resident() - memory < MEMORY
    for sandbox in sandboxes:
        sandbox.close()
