"""The plan: what each policy amounts to on each host, without a kernel."""

from __future__ import annotations

import errno
import resource
import signal
from typing import Any

import bpf
import pytest
from planned import ARCHES, ENOSYS, EPERM, TYPICAL, Box, a_host

from sandlock import _extra_rules, _landlock, _path_rules, syscalls
from sandlock._landlock import GRANTS, REFER, PathRule
from sandlock._plan import Launch, plan
from sandlock.errors import PolicyError, Unsupported
from sandlock.policy import PROTECTIONS, Policy

CLONE_THREAD = 0x3D0F00  # what pthread_create asks for
FORK = 0x1200011


# --- protections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", range(1, 8))
def test_strict_by_default(abi: int) -> None:
    lacking = {name for name, (since, _, _) in _landlock.PROTECTIONS.items() if since > abi}
    if not lacking:
        assert plan(Policy(), a_host(abi)).waived == frozenset()
        return
    with pytest.raises(Unsupported) as caught:
        plan(Policy(), a_host(abi))
    assert caught.value.missing == lacking
    assert all(name in str(caught.value) for name in lacking)
    assert "allow_degraded" in str(caught.value)
    for word in ("allow_degraded", "disable"):
        for name in lacking:  # all but one
            with pytest.raises(Unsupported) as caught:
                plan(Policy(**{word: lacking - {name}}), a_host(abi))
            assert caught.value.missing == {name}
        waived = plan(Policy(**{word: lacking}), a_host(abi))
        assert waived.waived == lacking
        assert set(waived.enforced) == {"syscalls", "fs", *PROTECTIONS} - lacking


def test_what_may_degrade_is_used_where_it_is_there() -> None:
    full = plan(Policy(allow_degraded=PROTECTIONS), a_host())
    assert full.waived == frozenset()
    assert full.guest_ruleset == plan(Policy(), a_host()).guest_ruleset


@pytest.mark.parametrize("name", PROTECTIONS)
def test_what_is_disabled_is_never_used(name: str) -> None:
    done = plan(Policy(disable=name, fs_writable="/w", fs_devices="/dev/x", net_allow=":1"), a_host())
    assert done.waived == {name}
    assert name not in done.enforced
    ruleset = done.guest_ruleset
    for rule in ruleset.paths:
        assert rule.access & ~ruleset.handled_fs == 0, "the kernel refuses rights that are not handled"
    assert name in done.describe()


@pytest.mark.parametrize(
    ("facts", "missing", "word"),
    [
        ({"abi": 0, "landlock_error": errno.EOPNOTSUPP}, "landlock", "lsm="),
        ({"abi": 0, "landlock_error": errno.ENOSYS}, "landlock", "CONFIG_SECURITY_LANDLOCK"),
        ({"abi": 0, "landlock_error": errno.EPERM}, "landlock", "seccomp profile"),
        ({"abi": 0, "landlock_error": errno.EIO}, "landlock", "errno 5"),
        ({"seccomp_filter": False}, "seccomp-filter", "CONFIG_SECCOMP_FILTER"),
        ({"arch": "riscv64"}, "riscv64", "riscv64"),
    ],
)
def test_what_no_policy_can_do_without(facts: dict[str, Any], missing: str, word: str) -> None:
    with pytest.raises(Unsupported, match=word) as caught:
        plan(Policy(allow_degraded=PROTECTIONS, disable=PROTECTIONS), a_host(**facts))
    assert caught.value.missing == {missing}


@pytest.mark.parametrize("fields", [{"max_processes": 3}, {"record_execs": True}, {"net_allow_bind": 80}])
def test_a_supervisor_needs_user_notification(fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        plan(Policy(**fields, allow_degraded="fs-metadata"), a_host(seccomp_user_notif=False))
    assert caught.value.missing == {"seccomp-user-notification"}
    assert next(iter(fields)) in str(caught.value)
    without = plan(Policy(allow_degraded="fs-metadata"), a_host(seccomp_user_notif=False))
    assert (without.rules, without.needs_listener, without.waived) == ((), False, {"fs-metadata"})


def test_metadata_needs_a_supervisor_or_a_waiver() -> None:
    with pytest.raises(Unsupported, match="allow_degraded") as caught:
        plan(Policy(fs_readable="/usr"), a_host(seccomp_user_notif=False))
    assert caught.value.missing == {"fs-metadata"}
    with pytest.raises(Unsupported, match="process_vm_readv"):
        plan(Policy(fs_readable="/usr"), a_host(reads_memory=False))
    there = plan(Policy(allow_degraded="fs-metadata"), a_host())
    assert (there.needs_listener, there.waived) == (True, frozenset())
    for policy in (Policy(disable="fs-metadata"), Policy(fs_writable="/")):
        done = plan(policy, a_host())
        assert (done.rules, done.needs_listener, "fs-metadata" in done.enforced) == ((), False, False)
    assert "fs-metadata" in plan(Policy(fs_writable="/home"), a_host()).enforced


# --- Landlock rulesets -------------------------------------------------------------------------------------


def test_grants_become_rules() -> None:
    done = plan(Policy(fs_readable="/r", fs_data="/d", fs_writable="/w", fs_devices="/dev/null"), a_host())
    assert done.guest_ruleset.paths == (
        PathRule(b"/r", GRANTS["read"]),
        PathRule(b"/d", GRANTS["data"]),
        PathRule(b"/w", GRANTS["write"]),
        PathRule(b"/dev/null", GRANTS["device"]),
    )
    assert done.guest_ruleset.handled_fs == 0xFFFF
    assert done.guest_ruleset.scoped == 3


def test_two_grants_of_a_path_are_one_rule() -> None:
    done = plan(Policy(fs_data="/proc", fs_writable="/proc", presets="proc"), a_host())
    assert done.guest_ruleset.paths == (PathRule(b"/proc", GRANTS["write"]),), "the policy's own grant is no option"
    optional = plan(Policy(presets="proc"), a_host())
    assert optional.guest_ruleset.paths == (PathRule(b"/proc", GRANTS["data"], True),)


def test_paths_are_bytes() -> None:
    done = plan(Policy(fs_readable=["/caf\udce9", b"/\xff"]), a_host())
    assert [rule.path for rule in done.guest_ruleset.paths] == [b"/caf\xe9", b"/\xff"]


def test_an_expansion_that_the_caller_has_is_used() -> None:
    policy = Policy(fs_readable="/usr")
    other = Policy(fs_readable="/opt").expand()
    assert [rule.path for rule in plan(policy, a_host(), expansion=other).guest_ruleset.paths] == [b"/opt"]


def test_without_a_supervisor_the_outer_domain_only_holds_signals_in() -> None:
    outer = plan(Policy(fs_readable="/usr", disable="fs-metadata"), a_host()).supervisor_ruleset
    assert outer is not None
    # A domain that does not handle and grant REFER denies it: linking would fail with EXDEV everywhere.
    assert (outer.handled_fs, outer.handled_net, outer.scoped) == (REFER, 0, 3)
    assert outer.paths == (PathRule(b"/", REFER, False),)
    unscoped = Policy(disable=["signal-scope", "abstract-unix-socket-scope", "fs-metadata"])
    assert plan(unscoped, a_host()).supervisor_ruleset is None


def test_a_supervisor_is_as_confined_as_its_guest_but_for_proc() -> None:
    done = plan(Policy(fs_readable="/usr", net_allow=":443", max_processes=4), a_host())
    outer, inner = done.supervisor_ruleset, done.guest_ruleset
    assert outer is not None
    assert outer.paths == (*inner.paths, PathRule(b"/proc", GRANTS["data"]))
    assert (outer.handled_fs, outer.handled_net, outer.scoped, outer.ports) == (
        inner.handled_fs,
        inner.handled_net,
        inner.scoped,
        inner.ports,
    )


def test_no_grant_is_no_rule() -> None:
    done = plan(Policy(), a_host())
    assert done.guest_ruleset.paths == ()
    assert done.guest_ruleset.handled_fs == 0xFFFF


# --- traps -------------------------------------------------------------------------------------------------


def test_nothing_but_metadata_is_trapped_unless_the_policy_needs_it() -> None:
    fields: dict[str, Any] = {"presets": "system", "net_allow": ":443", "max_open_files": 100, "cpu_cores": 0}
    assert {rule.syscall for rule in Box(**fields).plan.rules} == set(_path_rules.METADATA)
    box = Box(**fields, disable="fs-metadata")
    assert box.plan.rules == ()
    assert not any(one.k == bpf.NOTIFY for one in box.code if one.code == bpf.RET_K)


def test_counted_forks() -> None:
    box = Box(max_processes=10, disable="fs-metadata")
    counted = dict.fromkeys(("clone", "fork", "vfork"), "count_fork")
    assert {rule.syscall: rule.rule for rule in box.plan.rules} == counted | {"rt_sigaction": "add_restart"}
    assert box("rt_sigaction", signal.SIGCHLD, 1) == bpf.NOTIFY
    assert box("rt_sigaction", signal.SIGINT, 1) == Box()("rt_sigaction", signal.SIGCHLD, 1) == bpf.ALLOW
    assert box("fork") == box("vfork") == box("clone", FORK) == box("clone", 17) == box("clone", 0x4111) == bpf.NOTIFY
    assert box("clone", CLONE_THREAD) == bpf.ALLOW
    assert box("clone3", 0x1000, 88) == ENOSYS
    other = Box(arch="aarch64", max_processes=10, disable="fs-metadata")
    assert [rule.syscall for rule in other.plan.rules] == ["clone", "rt_sigaction"]


def test_recorded_execs() -> None:
    box = Box(record_execs=True, disable="fs-metadata")
    assert {rule.syscall: rule.rule for rule in box.plan.rules} == {
        "execve": "observe_exec",
        "execveat": "observe_exec",
        "set_tid_address": "observe_start",
    }
    assert box("execve") == box("execveat") == box("set_tid_address") == bpf.NOTIFY


@pytest.mark.parametrize("arch", ARCHES)
def test_traps_have_numbers_and_reasons_that_name_the_option(arch: str) -> None:
    done = Box(arch=arch, **TYPICAL[1]).plan
    for rule in done.rules:
        assert syscalls.name(rule.nr, arch) == rule.syscall
        options = ("max_processes", "record_execs", "net_allow_bind", "fs-metadata")
        assert any(option in rule.reason for option in options)
    assert done.needs_listener


# --- extra syscalls ----------------------------------------------------------------------------------------


def test_denied_on_request() -> None:
    box = Box(extra_deny_syscalls=["socket", "timers", "memfd_create", "clone3", "mount"])
    assert box("socket", 2, 1, 0) == box("clock_gettime") == box("memfd_create") == box("mount") == EPERM
    assert box("clone3") == ENOSYS, "already denied, in the way that libc can live with"


@pytest.mark.parametrize("name", sorted(_extra_rules.NEEDED_BY_LAUNCH))
def test_what_the_launch_needs_cannot_be_denied(name: str) -> None:
    for word in (name, syscalls.TABLE[name].group):
        with pytest.raises(PolicyError, match="launch") as caught:
            plan(Policy(extra_deny_syscalls=word), a_host())
        assert caught.value.field == "extra_deny_syscalls"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_processes": 3}, "fork"),
        ({"net_allow_bind": 80}, "listen"),
        ({"record_execs": True}, "execveat"),
    ],
)
def test_what_the_supervisor_answers_cannot_be_denied_too(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(PolicyError, match=next(iter(fields))):
        plan(Policy(**fields, extra_deny_syscalls=name), a_host())
    assert Box(extra_deny_syscalls=name)(name) == EPERM


def test_an_unknown_name_gets_its_nearest() -> None:
    for field in ("extra_deny_syscalls", "extra_allow_syscalls"):
        with pytest.raises(PolicyError, match="inotify_init1") as caught:
            plan(Policy(**{field: "inotify_int1"}), a_host())
        assert caught.value.field == field


def test_a_name_of_the_other_architecture_is_no_error() -> None:
    assert "fork" not in dict(Box(arch="aarch64", extra_deny_syscalls="fork").plan.answers)


@pytest.mark.parametrize("group", _extra_rules.GRANTABLE)
def test_allowed_on_request_and_at_a_price(group: str) -> None:
    box = Box(extra_allow_syscalls=group)
    for name in syscalls.expand(group):
        assert box.always_allows(name), name
    assert len(box.plan.risks) == 1
    assert box.plan.risks[0] in " ".join(box.plan.describe().split())


def test_a_single_syscall_may_be_allowed() -> None:
    box = Box(extra_allow_syscalls=["shmget", "read"])
    assert box("shmget") == bpf.ALLOW
    assert box("msgget") == EPERM
    assert box.plan.risks == ("shmget: " + _extra_rules.GRANTABLE["sysv_ipc"],), "read was allowed anyway"


OPENS_THE_SANDBOX = """
mounts mount chroot setns namespaces ptrace tracing pidfd_getfd process_vm_readv seccomp seccomp_filters clone
clone3 unshare socket connect bind listen sendto ioctl fcntl prctl prlimit64 bpf open_by_handle_at modules
boot swapon iopl file_setattr setsockopt lsm_set_self_attr process_creation socket_creation
"""


@pytest.mark.parametrize("word", OPENS_THE_SANDBOX.split())
def test_what_would_open_the_sandbox_is_never_allowed(word: str) -> None:
    with pytest.raises(PolicyError, match="would open the sandbox") as caught:
        plan(Policy(extra_allow_syscalls=word), a_host())
    assert caught.value.field == "extra_allow_syscalls"
    assert syscalls.TABLE[syscalls.expand(word)[0]].reason in str(caught.value)


def test_the_lists_of_groups_are_groups() -> None:
    assert set(_extra_rules.GRANTABLE) <= set(syscalls.GROUPS)
    assert all(syscalls.GROUPS[name].default != "allow" for name in _extra_rules.GRANTABLE)
    assert set(_extra_rules.NEEDED_BY_LAUNCH) <= set(syscalls.TABLE)


def test_allowed_and_denied_at_once_is_an_error() -> None:
    with pytest.raises(PolicyError, match="shmget"):
        plan(Policy(extra_allow_syscalls="sysv_ipc", extra_deny_syscalls="shmget"), a_host())


# --- launch, and the plan as a value -----------------------------------------------------------------------


def test_what_is_set_before_the_start() -> None:
    assert plan(Policy(), a_host()).launch == Launch(rlimits=((resource.RLIMIT_CORE, 0, 0),))
    fields: dict[str, Any] = {
        "max_open_files": 64,
        "no_coredump": False,
        "umask": "027",
        "cpu_cores": "0-1",
        "no_randomize_memory": True,
        "no_huge_pages": True,
        "keep_capabilities": ["net_bind_service", "chown"],
        "max_processes": 9,
        "uid": 0,
        "gid": 5,
    }
    assert plan(Policy(**fields), a_host()).launch == Launch(
        rlimits=((resource.RLIMIT_NOFILE, 64, 64),),
        umask=0o027,
        cpus=(0, 1),
        personality=0x0040000,
        no_huge_pages=True,
        keep_capabilities=1 << 10 | 1,
        max_processes=9,
        uid=0,
        gid=5,
    )


@pytest.mark.parametrize("fields", TYPICAL)
def test_plans_are_values(fields: dict[str, Any]) -> None:
    one, other = plan(Policy(**fields), a_host()), plan(Policy(**fields), a_host())
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, plan(Policy(umask=0, **fields), a_host())}) == 2
    assert len(repr(one)) < 20_000
    with pytest.raises(AttributeError):
        one.filter = b""  # type: ignore[misc]


WORDS = r"""
BPF instructions
fs-truncate: truncate(2) empties
/usr: read, execute
/proc: read (if it exists)
TCP connect: only port 443, 8000-8003
TCP bind: only port 8080
signals: inside the sandbox only
as for the program, and
clone (56): count_fork: max_processes=10
EPERM: changes what every path means
mount, umount2
ENOSYS: its requests pass no filter
by arguments: namespaces would
open files: 77
umask: 022
CPUs: 0-2, 5
address randomisation: off
transparent huge pages: off
capabilities: CAP_CHOWN
processes: at most 10
user namespace: uid 0, gid 0
'/\xff'
"""


def test_the_plan_in_words() -> None:
    fields: dict[str, Any] = TYPICAL[1] | {
        "fs_readable": "/usr", "fs_writable": ["/w", b"/\xff"], "presets": "proc", "disable": "fs-truncate",
        "uid": 0, "gid": 0, "umask": "022", "keep_capabilities": "chown", "cpu_cores": "0-2,5",
        "no_randomize_memory": True, "no_huge_pages": True, "max_open_files": 77,
    }  # fmt: skip
    text = plan(Policy(**fields), a_host()).describe()
    for part in WORDS.strip().splitlines():
        assert part in text, part
    assert text.endswith("\n")
    assert max(map(len, text.splitlines())) <= 100


def test_the_plan_in_words_without_anything_special() -> None:
    waived = ["signal-scope", "fs-metadata"]
    text = plan(Policy(no_coredump=False, net_allow="*", disable=waived), a_host()).describe()
    for part in ("\n  signal-scope: signals reach", "TCP connect: not decided by Landlock",
                 "signals: not held in", "Answered by the supervisor:\n  nothing",
                 "capabilities: none"):  # fmt: skip
        assert part in text, part
    waived.append("abstract-unix-socket-scope")
    bare = plan(Policy(disable=waived, extra_deny_syscalls="socket"), a_host())
    assert "init:\n  none" in bare.describe()
    assert "EPERM: extra_deny_syscalls:\n    socket" in bare.describe()
