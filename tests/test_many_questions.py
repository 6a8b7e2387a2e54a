"""Many questions at once: none is lost, none is allowed by a lack of room, and the room comes back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from loops import Trio
from test_faults import made
from test_vet_exec import vetted

from sandlock import Allow, AsyncSandbox, Deny, Result

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]

MANY = """
import os, sys
children, each = int(sys.argv[1]), int(sys.argv[2])
for child in range(children):
    if os.fork() == 0:
        for number in range(each):
            try:
                os.execv("/bin/touch", ["touch", "bad", str(child), str(number)])
            except PermissionError:
                continue
            os._exit(1)
        os._exit(0)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(children)] == [0] * children)
"""


@pytest.mark.slow
def test_ten_thousand_questions(tmp_path: Path) -> None:
    count = 0

    async def vet(event: Any, box: AsyncSandbox) -> object:
        nonlocal count
        if event.argv[0] != "touch":
            return Allow()
        count += 1
        if count % 100 == 0:
            await trio.lowlevel.checkpoint()
        return Deny("no")

    result = vetted(
        Trio, tmp_path, vet, sys.executable, "-c", MANY, "100", "100", fs_readable=[sys.base_prefix, sys.prefix]
    )
    assert result.stdout == b"True\n", result
    assert (count, made(tmp_path)) == (10_000, [])
    assert len(result.denials) + result.dropped_denials == 10_000
    assert len(result.denials) == 1024


BURST = """
import ctypes, os, sys, threading
from collections import Counter
libc = ctypes.CDLL(None, use_errno=True)
processes, each = int(sys.argv[1]), int(sys.argv[2])
def execute(argv):
    libc.execv(b"/bin/touch", argv)
    found[ctypes.get_errno()] += 1
for process in range(processes):
    if os.fork() == 0:
        found = Counter()
        words = [(ctypes.c_char_p * 4)(b"touch", b"bad", b"%d %d" % (process, n), None) for n in range(each)]
        threads = [threading.Thread(target=execute, args=(argv,)) for argv in words]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(found[13], found[11], flush=True)
        os._exit(0)
for _ in range(processes): os.wait()
"""


@pytest.mark.slow
def test_more_questions_than_there_is_room_for(tmp_path: Path) -> None:
    """1,024 wait; who comes then is denied at once. No slot is lost: afterwards there is room for as many."""
    most = waiting = 0

    async def vet(event: Any, box: AsyncSandbox) -> object:
        nonlocal most, waiting
        if event.argv[0] != "touch":
            return Allow()
        waiting += 1
        most = max(most, waiting)
        while most < 1024 and waiting:
            await trio.sleep(0.02)
        await trio.sleep(0.2)
        waiting -= 1
        return Deny("no")

    async def main() -> tuple[Result, Result]:
        nonlocal most
        async with AsyncSandbox(presets=["python"], fs_writable=[tmp_path], cwd=tmp_path, policy_fn=vet) as box:
            first = await box.run([sys.executable, "-c", BURST * 2, "24", "50"], timeout=200)
            return first, await box.run(["/bin/true"])

    result, after = trio.run(main)
    assert (after.ok, made(tmp_path), most) == (True, [], 1024)
    answers = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert len(answers) == 48, result
    assert sum(map(sum, answers)) == 2400
    assert sum(full for _, full in answers[:24]) == 1200 - 1024
    assert {denial.cause for denial in result.denials} == {"verdict", "full"}
    assert sum(denied for denied, _ in answers[24:]) >= 1024, "there is room for as many again"


LARGE = """
import os, sys
def burst(small, large):
    for number in range(small + large):
        if os.fork() == 0:
            words = ["true", str(number)] + (["x" * 100000] * 19 if number >= small else [])
            try: os.execv("/bin/true", words)
            except OSError as error: os._exit(error.errno)
    return {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(small + large)}
print(burst(8, 34), burst(0, 1), burst(0, 8))
"""


@pytest.mark.slow
def test_what_a_burst_has_left_does_not_count(tmp_path: Path) -> None:
    """64 MiB of arguments may wait: of calls that wait, not of those that did."""
    ready = 0

    async def vet(event: Any, box: AsyncSandbox) -> object:
        nonlocal ready
        if event.argv[0] == "true":
            ready += 1
            while ready < 42:
                await trio.sleep(0.01)
        return Allow()

    options: dict[str, Any] = {"fs_readable": [sys.base_prefix, sys.prefix]}
    result = vetted(Trio, tmp_path, vet, sys.executable, "-c", LARGE, **options)
    assert result.stdout == b"{0} {0} {0}\n", result.explain()
