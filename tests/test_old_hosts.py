"""Old kernels and stock containers refuse what judging calls needs: nothing runs unjudged, and the doctor says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ordinary import Person
from test_doctor import SAY, WITHOUT, examined, missing

pytestmark = pytest.mark.needs(landlock=6, kernel=(5, 19))

RUN = """
import json, os, sandlock
asked = []
def vet(event, box):
    asked.append(event.argv[-1])
    return sandlock.Allow()
def result_of(**fields):
    try:
        done = sandlock.run(["/bin/sh", "-c", ": >made"], presets=["system"], cwd=place, fs_writable=[place],
                            allow_degraded=["fs-metadata"], **fields)
    except sandlock.Unsupported as error:
        return ["unsupported", sorted(error.missing), str(error)]
    return [done.reason, [each.cause for each in done.denials], done.explain()]
place = os.path.expanduser("~/place")
os.makedirs(place, exist_ok=True)
results = {
    "policy_fn": result_of(policy_fn=vet),
    "rules": result_of(exec_allow=["sh *"]),
    "audit": result_of(audit=os.path.expanduser("~/audit")),
    "network": result_of(net_allow=["127.0.0.1:80"]),
}
print(json.dumps([results, os.listdir(place), asked]))
"""


def results(person: Person, *without: str) -> tuple[dict[str, list[Any]], list[str], list[str]]:
    found, made, asked = json.loads(person.script(WITHOUT + RUN, *without))
    return found, made, asked


def test_without_pidfd_getfd_the_network_is_not_judged(visitor: Person) -> None:
    found, made, asked = results(visitor, "pidfd_getfd=1")
    for name in ("policy_fn", "audit", "network"):
        reason, lacks, text = found[name]
        assert (reason, lacks) == ("unsupported", ["pidfd-getfd"]), name
        assert "allow it in the container's seccomp profile" in text
    assert found["rules"][0] == "exited"  # attesting an exec needs none
    assert (made, asked) == (["made"], [])
    _, checks = examined(visitor, WITHOUT + SAY, "pidfd_getfd=1")
    assert "pidfd-getfd" in missing(checks)
    assert "trace-child" not in missing(checks)


@pytest.mark.parametrize("number", [1, 38])
def test_without_ptrace_no_exec_is_allowed(visitor: Person, number: int) -> None:
    found, made, asked = results(visitor, f"ptrace={number}")
    for name in ("policy_fn", "audit", "rules"):
        reason, causes, text = found[name]
        assert (reason, causes) == ("denied", ["no-ptrace"]), name
        assert "ptrace(2) is refused here" in text
    assert asked == [": >made"]
    assert found["network"][0] == "exited"  # nothing of it is attested
    assert made == ["made"]
    strict_ok, checks = examined(visitor, WITHOUT + SAY, f"ptrace={number}")
    assert strict_ok  # what the kernel decides is not touched
    assert "trace-child" in missing(checks)
    assert "--cap-add SYS_PTRACE" in checks["trace-child"][2]


def test_what_cannot_be_read_is_not_allowed(visitor: Person) -> None:
    found, made, asked = results(visitor, "process_vm_readv=1")
    for name in ("policy_fn", "audit", "rules"):
        assert found[name][:2] == ["denied", ["unreadable"]], name
    assert (made, asked) == (["made"] if found["network"][0] == "exited" else [], [])
    strict_ok, checks = examined(visitor, WITHOUT + SAY, "process_vm_readv=1")
    assert not strict_ok
    assert "read-memory" in missing(checks)
    assert "fs-metadata" in checks["read-memory"][2]
