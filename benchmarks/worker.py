"""The host process of a measurement: takes orders as JSON lines on descriptor 0, answers on descriptor 1.

Each side runs inside such a process, so that two packages of one name never meet, a big host is big only for
its own benchmark, and nothing of one benchmark is left for the next.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import sys
import time
from typing import Any

from commands import Command
from sides import SIDES, WAITING, wait_until_running

PAGE = mmap.PAGESIZE


class Worker:
    """The orders, one method each."""

    def __init__(self) -> None:
        self.sides: dict[str, Any] = {}
        self.ballast: mmap.mmap | None = None

    def side(self, name: str) -> Any:
        if name not in self.sides:
            self.sides[name] = SIDES[name]()
        return self.sides[name]

    def hello(self, package: bool) -> dict[str, str]:
        """What this process is: the Python, and `sandlock` if it is asked for."""
        facts = {"python": sys.version.split()[0]}
        if package:
            import sandlock

            facts["where"] = os.path.dirname(sandlock.__file__ or "?")
            facts["sandlock"] = getattr(sandlock, "__version__", "") or _version()
            assert sandlock.Sandbox
        return facts

    def touch(self, size: int) -> dict[str, int]:
        """Make this process big: `size` bytes of private memory in small pages, each written."""
        self.ballast = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.ballast.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, size, PAGE):
            self.ballast[offset] = 1
        return {"resident": resident()}

    def run(self, side: str, command: dict[str, object], times: int) -> dict[str, Any]:
        """Run a command `times` times, back to back."""
        wanted = Command.from_json(command)
        numbers = []
        for _ in range(times):
            outcome = self.side(side).run(wanted)
            if outcome.code:
                tail = outcome.stderr.decode(errors="replace").strip()[-300:]
                return {"error": f"exit {outcome.code}: {tail}"}
            numbers.append(float(outcome.stdout.split()[-1]) if wanted.number else outcome.seconds)
        return {"numbers": numbers}

    def alive(self, side: str, count: int) -> dict[str, Any]:
        """Start `count` commands from one thread, wait until all run; what they cost while they live."""
        command, side_object = Command(argv=WAITING), self.side(side)
        side_object.finish(side_object.start(command))  # imports and caches belong to nobody
        gc.collect()
        memory, descriptors, live = resident(), open_descriptors(), []
        start = time.perf_counter()
        try:
            for _ in range(count):
                live.append(side_object.start(command))  # noqa: PERF401  # all are finished if one fails
            for process in live:
                wait_until_running(process)
            seconds = time.perf_counter() - start
            gc.collect()
            helpers = [pid for pid in descendants() if not is_guest(pid)]
            return {
                "seconds": seconds,
                "memory": (resident() - memory) / count,
                "descriptors": (open_descriptors() - descriptors) / count,
                "helpers": len(helpers) / count,
                "helper_memory": sum(map(proportional, helpers)) / count,
            }
        finally:
            for process in live:
                side_object.finish(process)

    def notify(self, argv: list[str], value: int) -> dict[str, Any]:
        """Run the getppid guest under this package's core, getppid answered by a rule."""
        from notify import run_with_getppid_answered

        return {"numbers": [run_with_getppid_answered(Command(argv=tuple(argv)), value)]}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sandlock")
    except PackageNotFoundError:
        return "not installed"


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/smaps_rollup", "rb") as file:
        return _field(file.read(), b"Rss:")


def proportional(pid: int) -> int:
    """Bytes of a process in memory, shared pages divided among those who share them; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return _field(file.read(), b"Pss:")
    except OSError:
        return 0


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def descendants() -> list[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def is_guest(pid: int) -> bool:
    """Whether a process is the waiting command itself (not what holds it)."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read() == b"\0".join(map(os.fsencode, WAITING)) + b"\0"
    except OSError:
        return False


def main() -> None:
    """Serve until the orders end. The guests' own stdin is empty and their stdout cannot be the answers."""
    orders, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    worker = Worker()
    for line in orders:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("order"))(**order)
        except Exception as error:  # whatever it is, the driver reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
