"""Hosts that lack a disk, descriptors or time while questions wait: never an allow, a hang or anything left."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import ordinary
import pytest
from attacks.arena import tcp
from loops import Loop
from test_faults import BOTH, is_bad, made, soon
from test_supervised_network import Counter
from test_vet_exec import vetted

from sandlock import Allow, AsyncSandbox, Connect, Deny, Result, SandlockError

__all__ = ["soon"]
pytestmark = [
    pytest.mark.needs(landlock=6, kernel=(5, 19)),
    pytest.mark.usefixtures("lasting_thread"),
    pytest.mark.slow,
]


FULL = """
import os, resource, sys, time, warnings
import sandlock
audit, work = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
def vet(event, box):
    if event.argv[:2] == ("touch", "bad"):
        while os.path.getsize(audit) < 19500:
            time.sleep(0.01)
        time.sleep(0.5)
    return sandlock.Allow()
script = "touch bad & touch good; i=0; while [ $i -lt 60 ]; do /bin/true $i; i=$((i+1)); done; wait"
result = sandlock.run(["/bin/sh", "-c", script], presets=["system"], fs_writable=[work], cwd=work, audit=audit,
                      policy_fn=vet)
print(sorted(os.listdir(work)), {each.cause for each in result.denials}, "EFBIG" in result.audit_error)
"""


def test_a_disk_that_fills_up_while_somebody_thinks(visitor: ordinary.Person) -> None:
    work, audit = os.path.join(visitor.home, "work"), os.path.join(visitor.home, "audit")
    os.mkdir(work)
    os.chown(work, visitor.uid, visitor.gid)
    assert visitor.script(FULL, audit, work) == "['good'] {'audit'} True\n"


def test_a_host_without_descriptors(loop: Loop, tmp_path: Path) -> None:
    """Nothing can be opened while a question waits: what comes meanwhile is denied, and afterwards all is well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv == ("touch", "first"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
            await loop.sleep(0.5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return Deny("no")
        return Allow()

    try:
        script = "touch first & sleep 0.2; touch bad; wait; touch good"
        result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", script)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert made(tmp_path) in (["good"], ["bad", "good"])
    assert result.exit_code == 0
    assert "first" not in made(tmp_path)


def test_a_fork_of_the_host_while_questions_wait(loop: Loop, tmp_path: Path) -> None:
    """The copy has copies of everything, and ends nothing and answers nothing."""
    said: list[int] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] != "touch":
            return Allow()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.new_event_loop().run_until_complete(box.run(["touch", "copy"]))
            except SandlockError:
                status = 7
            finally:
                os._exit(status)
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            await loop.sleep(0.01)
        said.append(os.waitstatus_to_exitcode(done[1]))
        return Deny("no") if is_bad(event) else Allow()

    result = vetted(loop, tmp_path, vet, *BOTH)
    assert (made(tmp_path), said, result.exit_code) == (["good"], [7, 7], 0)


CONNECTS = """
import socket, sys
for _ in range(int(sys.argv[2])):
    with socket.socket() as s:
        error = s.connect_ex(("127.0.0.1", int(sys.argv[1])))
        assert error in (0, 13), error
"""


def test_callbacks_that_widen_and_narrow_at_once(loop: Loop) -> None:
    """In the end nothing is granted, whoever came last."""
    good = Counter()
    with tcp(socket.AF_INET) as bad:
        grant = f"127.0.0.1:{good.port}"

        async def vet(event: Any, box: AsyncSandbox) -> object:
            if not isinstance(event, Connect):
                return Allow()
            box.grant(net_allow=[grant])
            await loop.sleep(0.001)
            box.restrict(net_allow=[])
            return Allow() if event.port == good.port else Deny("no")

        async def main() -> list[Result]:
            async with AsyncSandbox(presets=["python"], policy_fn=vet, ceiling={"net_allow": [grant]}) as box:
                words = [sys.executable, "-c", CONNECTS]
                ports = [good.port, bad.port, good.port, bad.port]
                results = await loop.together(*(lambda p=port: box.run([*words, str(p), "60"]) for port in ports))
                assert box.policy.net_allow == ()
                return results  # type: ignore[no-any-return]

        assert [result.exit_code for result in loop.run(main)] == [0] * 4
        assert (bad.visits(), good.close()) == ([], 120)
