"""The doctor: sees what is there, sees what is not, and is not fooled by a kernel that only says yes."""

from __future__ import annotations

import errno
import json
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ordinary import Person

from sandlock import _doctor

SAY = """
import json
from sandlock._doctor import examine
report = examine()
checks = {check.name: [check.ok, check.detail, check.fix] for check in report.checks}
print(json.dumps([report.strict_ok, checks]))
"""

WITHOUT = """
import errno, sys
from sandlock._host import probe
from sandlock._probes import install
from sandlock._sys import lib
for argument in sys.argv[1:]:
    call, _, answer = argument.partition("=")
    install(probe(), lib.SECCOMP_RET_ERRNO | int(answer), call=call)
"""

LANDLOCK = [
    "landlock-files", "fs-refer", "fs-truncate", "fs-ioctl-dev", "net-tcp", "signal-scope",
    "abstract-unix-socket-scope",
]  # fmt: skip


def examined(person: Person, code: str = SAY, *args: str, **env: str) -> tuple[bool, dict[str, list[str]]]:
    """What the doctor says to a person, after something was done to their process."""
    strict_ok, checks = json.loads(person.script(code, *args, env=env))
    return strict_ok, checks


def missing(checks: dict[str, list[str]]) -> set[str]:
    return {name for name, (ok, _, _) in checks.items() if not ok}


@pytest.mark.needs(landlock=6)
def test_everything_is_proved_here(as_user: Person) -> None:
    strict_ok, checks = examined(as_user)
    assert strict_ok
    assert missing(checks) <= {"cgroup", "user-namespaces", "yama", "pidfd-getfd", "read-memory"}
    assert all(fix for name, (ok, _, fix) in checks.items() if not ok)


@pytest.mark.needs(landlock=6)
def test_an_older_landlock_misses_exactly_what_is_younger(ordinary_user: Person) -> None:
    strict_ok, checks = examined(ordinary_user, SANDLOCK_LANDLOCK_ABI="4")
    assert not strict_ok
    assert missing(checks) & set(LANDLOCK) == {"fs-ioctl-dev", "signal-scope", "abstract-unix-socket-scope"}
    assert 'allow_degraded=["signal-scope"]' in checks["signal-scope"][2]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSYS, "CONFIG_SECURITY_LANDLOCK"), (errno.EOPNOTSUPP, "lsm="), (errno.EPERM, "container")],
)
def test_each_reason_for_no_landlock_has_its_cure(ordinary_user: Person, number: int, advice: str) -> None:
    strict_ok, checks = examined(ordinary_user, WITHOUT + SAY, f"landlock_create_ruleset={number}")
    assert not strict_ok
    assert missing(checks) >= {"landlock", *LANDLOCK}
    assert advice in checks["landlock"][2]


@pytest.mark.needs(landlock=6)
def test_a_kernel_that_only_says_yes_is_found_out(as_user: Person) -> None:
    strict_ok, checks = examined(as_user, WITHOUT + SAY, "landlock_restrict_self=0")
    assert not strict_ok
    assert missing(checks) >= set(LANDLOCK)
    assert "ok instead of EACCES" in checks["landlock-files"][1]
    assert "ok instead of EPERM" in checks["signal-scope"][1]


def test_a_filter_that_is_not_installed_is_found_out(ordinary_user: Person) -> None:
    strict_ok, checks = examined(ordinary_user, WITHOUT + SAY, "seccomp=0")
    assert not strict_ok
    assert missing(checks) >= {"seccomp-filter", "user-notification", "wait-killable", "sync-wake-up"}


def test_a_stock_container_is_explained(ordinary_user: Person) -> None:
    calls = ["pidfd_getfd=1", "process_vm_readv=1", "unshare=1"]
    _, checks = examined(ordinary_user, WITHOUT + SAY, *calls)
    assert missing(checks) >= {"pidfd-getfd", "read-memory", "user-namespaces"}
    assert "SYS_PTRACE" in checks["pidfd-getfd"][2]
    assert "EPERM" in checks["read-memory"][1]


def test_another_sandbox_around_us_is_explained(ordinary_user: Person) -> None:
    inside = """
from sandlock._host import probe
from sandlock._probes import install
from sandlock._sys import lib
install(probe(), lib.SECCOMP_RET_USER_NOTIF, lib.SECCOMP_FILTER_FLAG_NEW_LISTENER, call="sched_getparam")
"""
    _, checks = examined(ordinary_user, inside + SAY)
    assert missing(checks) >= {"user-notification"}
    assert "EBUSY" in checks["user-notification"][1]
    assert "another sandbox" in checks["user-notification"][2]


def test_the_doctor_is_quick_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    start = time.monotonic()
    report = _doctor.examine()
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []
    assert {check.name for check in report.checks} >= set(_doctor.TOPICS)


def test_the_doctor_leaves_this_process_alone(host: object) -> None:
    with open("/proc/self/status", encoding="ascii") as file:
        before = [line for line in file if line.startswith(("NoNewPrivs", "Seccomp", "Cap"))]
    _doctor.examine()
    with open("/proc/self/status", encoding="ascii") as file:
        assert [line for line in file if line.startswith(("NoNewPrivs", "Seccomp", "Cap"))] == before


@pytest.mark.parametrize(("name", "value"), [("executable", ""), ("executable", "/nonexistent"), ("path", ["/"])])
def test_probes_that_cannot_run_prove_nothing(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setattr(sys, name, value)
    report = _doctor.examine()
    assert not report.strict_ok
    checks = {check.name: check for check in report.checks}
    assert not checks["probes"].ok
    assert not any(checks[topic].ok for topic in _doctor.TOPICS)


def test_every_probe_has_its_topic(ordinary_user: Person) -> None:
    assert set(ordinary_user.script("from sandlock._probes import PROBES; print(*PROBES)").split()) == set(
        _doctor.TOPICS
    )


def test_the_report_says_what_to_do() -> None:
    checks = (
        _doctor.Check(name="landlock", ok=True, detail="ABI 7", fix="", required=True),
        _doctor.Check(name="net-tcp", ok=False, detail="no", fix="run another kernel", required=True),
        _doctor.Check(name="cgroup", ok=False, detail="none", fix="nothing needs it", required=False),
    )
    report = _doctor.Report(checks=checks, host=_doctor.probe())
    text = report.describe()
    assert not report.strict_ok
    assert "MISSING net-tcp" in text
    assert "-> run another kernel" in text
    assert "without cgroup" in text
    assert text.endswith("cannot be enforced here; missing: net-tcp.")
    assert _doctor.Report(checks=checks[:1], host=report.host).strict_ok
