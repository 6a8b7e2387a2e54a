"""What each syscall gets, for each kind of policy: the filter of a plan, tried on a BPF machine."""

from __future__ import annotations

import errno
import fcntl
import socket
import termios
from typing import TYPE_CHECKING, Any

import bpf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import ALL, ARCHES, EACCES, ENOSYS, EPERM, TYPICAL, Box
from test_filter import interesting, meaning

from sandlock import syscalls
from sandlock._landlock import BIND_TCP, CONNECT_TCP, PROTECTIONS
from sandlock._path_rules import DEVICES, METADATA

if TYPE_CHECKING:
    from sandlock._filter import Answer

CLONE_THREAD = 0x3D0F00  # what pthread_create asks for
FORK = 0x1200011


# --- the filter means the plan -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("fields", TYPICAL)
def test_every_instruction_does_what_the_plan_says(fields: dict[str, Any], arch: str) -> None:
    box = Box(arch=arch, **fields)
    answers: dict[int, Answer] = {}
    for name, answer in box.plan.answers:
        nr = syscalls.number(name, arch)
        assert nr is not None
        answers[nr] = answer
    seen: set[tuple[int, bool]] = set()
    for nr in [*range(syscalls.limit(arch) + 2), 1023, 0x40000000, 0x40000000 | 59, 0x7FFFFFFF, 0xFFFFFFFF]:
        for args in interesting(answers.get(nr, 0), limit=600):
            assert bpf.run(box.code, bpf.data(nr, arch, args), seen) == meaning(answers, nr, args), (nr, args)
    for foreign in set(bpf.AUDIT_ARCH) - {arch}:
        assert bpf.run(box.code, bpf.data(1, foreign), seen) == bpf.KILL_PROCESS
    assert {place for place, _ in seen} == set(range(len(box.code)))
    branches = {(at, way) for at, one in enumerate(box.code) if one.code in bpf.JUMPS for way in (True, False)}
    assert branches <= seen


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ARCHES), st.integers(0, 6), st.sampled_from(TYPICAL[:3]),
    st.lists(
        st.tuples(st.sampled_from(sorted(syscalls.TABLE)), st.tuples(*[st.integers(0, ALL)] * 6)), max_size=30
    ),
)  # fmt: skip
def test_meaning_and_filter_agree_on_anything(
    arch: str, disabled: int, fields: dict[str, Any], calls: list[tuple[str, tuple[int, ...]]]
) -> None:
    box = Box(arch=arch, **fields, disable=list(PROTECTIONS)[:disabled])
    answers = dict(box.plan.answers)
    for name, args in calls:
        nr = syscalls.number(name, arch)
        if nr is not None:
            assert bpf.run(box.code, bpf.data(nr, arch, args)) == meaning({nr: answers[name]}, nr, args)


@pytest.mark.parametrize("arch", ARCHES)
def test_every_syscall_has_an_answer_and_no_other_has(arch: str) -> None:
    box = Box(arch=arch)
    known = {call.number(arch) for call in syscalls.TABLE.values()}
    for nr in range(2048):
        if nr not in known:
            assert bpf.run(box.code, bpf.data(nr, arch)) == ENOSYS
    assert {name for name, _ in box.plan.answers} == {
        name for name, call in syscalls.TABLE.items() if call.number(arch) is not None
    }


@pytest.mark.parametrize("arch", ARCHES)
def test_untouched_syscalls_are_answered_from_the_kernels_bitmap(arch: str) -> None:
    box = Box(arch=arch, disable="fs-metadata")
    metadata = Box(arch=arch)
    for call in syscalls.TABLE.values():
        if call.number(arch) is not None:
            untouched = (call.default == "allow" and call.name not in DEVICES) or call.name == "kill"
            assert box.always_allows(call.name) == untouched, call.name
            assert metadata.always_allows(call.name) == (untouched and call.name not in METADATA), call.name


@pytest.mark.parametrize(("arch", "foreign"), [("x86_64", "i386"), ("x86_64", "aarch64"), ("aarch64", "arm")])
def test_a_foreign_architecture_is_killed(arch: str, foreign: str) -> None:
    assert bpf.run(Box(arch=arch).code, bpf.data(1, foreign)) == bpf.KILL_PROCESS


@pytest.mark.parametrize("nr", [0, 1, 59, 520, 547])
def test_x32_calls_do_not_exist(nr: int) -> None:
    assert bpf.run(Box().code, bpf.data(0x40000000 | nr)) == ENOSYS


# --- what each syscall gets by default ---------------------------------------------------------------------

NEVER = {
    "mounts": "mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick move_mount open_tree "
    "open_tree_attr mount_setattr",
    "machine": "swapon swapoff reboot sethostname setdomainname kexec_load kexec_file_load init_module "
    "finit_module delete_module acct quotactl quotactl_fd clock_settime settimeofday adjtimex clock_adjtime",
    "kernel": "perf_event_open bpf userfaultfd keyctl add_key request_key syslog",
    "others": "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp setns",
    "files": "open_by_handle_at name_to_handle_at fanotify_init fanotify_mark",
    "ipc": "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open "
    "mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    "rest": "vhangup lsm_set_self_attr",
}
NEVER_X86 = "iopl ioperm modify_ldt uselib"
LIKE_AN_OLD_KERNEL = (
    "clone3 io_uring_setup io_uring_enter io_uring_register io_setup io_submit io_getevents io_pgetevents "
    "io_cancel io_destroy memfd_secret process_mrelease statmount listmount"
)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("fields", TYPICAL[:2])
def test_denied_for_everybody(fields: dict[str, Any], arch: str) -> None:
    box = Box(arch=arch, **fields)
    for name in " ".join(NEVER.values()).split() + (NEVER_X86.split() if arch == "x86_64" else []):
        assert box(name, 0, 0, 0) == box(name, *[ALL] * 6) == EPERM, name
    for name in LIKE_AN_OLD_KERNEL.split():
        assert box(name, 0, 0, 0) == box(name, *[ALL] * 6) == ENOSYS, name


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_no_new_namespace_by_clone_or_unshare(flag: int, arch: str) -> None:
    for fields in TYPICAL:
        box = Box(arch=arch, **fields)
        for flags in (flag, flag | 17, flag | CLONE_THREAD, flag | 1 << 32, flag | FORK | ALL << 32 & ALL):
            assert box("clone", flags) == EPERM
            assert box("unshare", flags) == EPERM


def test_clone_and_unshare_without_namespaces() -> None:
    box = Box()
    for flags in (17, FORK, CLONE_THREAD, 0x4111, 0x80 | 17):  # 0x80 is part of the exit signal here
        assert box("clone", flags) == bpf.ALLOW
    for flags in (0, 0x200, 0x400, 0x600, 0x40000):
        assert box("unshare", flags) == bpf.ALLOW
    assert box("unshare", 0x80) == EPERM  # CLONE_NEWTIME
    assert box("unshare", 1 << 35) == EPERM  # a flag of the future
    assert box("fork") == box("vfork") == bpf.ALLOW


@pytest.mark.parametrize(
    "name",
    ["sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "prlimit64",
     "get_robust_list", "move_pages", "migrate_pages"],
)  # fmt: skip
def test_only_the_caller_itself_may_be_aimed_at(name: str) -> None:
    box = Box()
    assert box(name, 0, 7, 7, 7) == box(name, 1 << 32, 7) == bpf.ALLOW  # pid_t has 32 bits
    for pid in (1, 2, 4194304, ALL, 0xFFFFFFFF, 1 << 31):
        assert box(name, pid, 0) == EPERM


def test_priorities_of_the_caller_only() -> None:
    box = Box()
    assert box("setpriority", 0, 0, 5) == bpf.ALLOW
    assert box("ioprio_set", 1, 0, 5) == bpf.ALLOW
    for which, who in ((0, 1), (1, 0), (2, 0), (1, 5), (0, ALL)):
        assert box("setpriority", which, who, 0) == EPERM
    for which, who in ((1, 1), (0, 0), (2, 0), (3, 0), (3, 1000)):
        assert box("ioprio_set", which, who, 0) == EPERM


def test_personalities() -> None:
    box = Box()
    assert box("personality", 0xFFFFFFFF) == box("personality", ALL) == box("personality", 0) == bpf.ALLOW
    for persona in (0x0040000, 8, 0x0400000, 0x20000):
        assert box("personality", persona) == EPERM


TERMINAL = {
    "TIOCSTI": termios.TIOCSTI, "TIOCSETD": termios.TIOCSETD, "TIOCCONS": termios.TIOCCONS,
    "TIOCEXCL": termios.TIOCEXCL,
    "TIOCLINUX": termios.TIOCLINUX, "KDSKBENT": 0x4B47, "KDSETMODE": 0x4B3A, "VT_ACTIVATE": 0x5606,
}  # fmt: skip


@pytest.mark.parametrize("name", TERMINAL)
def test_no_terminal_injection(name: str) -> None:
    box = Box(net_allow="*")
    for dirt in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert box("ioctl", 0, TERMINAL[name] | dirt, 0) == EPERM


def test_ordinary_terminal_work_goes_on() -> None:
    box = Box()
    for name in ("TCGETS", "TCSETS", "TIOCGWINSZ", "TIOCSWINSZ", "TIOCGPGRP", "TIOCSPGRP", "TIOCSCTTY",
                 "FIONREAD", "FIONBIO", "TIOCNOTTY", "TIOCOUTQ"):  # fmt: skip
        assert box("ioctl", 0, getattr(termios, name), 0) == bpf.ALLOW


@pytest.mark.parametrize("command", [0x40086602, 0x401C5820, 0x40087602, 0x40086604])
def test_inode_flags_are_the_supervisors_or_nobodys(command: int) -> None:
    assert Box()("ioctl", 3, command) == bpf.NOTIFY
    assert Box(disable="fs-metadata")("ioctl", 3, command) == EPERM


@pytest.mark.parametrize(
    "command", [0x40046602, 0x40047602, 0x40047211, 0x40806685, 0x800C6613, 0x5000940E, 0x5000940F, 0xD000943E]
)
def test_no_verity_and_no_subvolumes_through_read_only_descriptors(command: int) -> None:
    assert Box()("ioctl", 3, command) == EPERM


CHARACTER, BLOCK, FIFO, WHITEOUT = 0o020000, 0o060000, 0o010000, 4


@pytest.mark.parametrize("arch", ARCHES)
def test_nobody_makes_device_nodes(arch: str) -> None:
    for box in (Box(arch=arch), Box(arch=arch, keep_capabilities="mknod", fs_writable="/", disable="fs-metadata")):
        for kind in (CHARACTER, BLOCK, CHARACTER | 0o777 | 1 << 40):
            assert box("mknodat", 3, 0x1000, kind, 0) == EPERM
            assert arch != "x86_64" or box("mknod", 0x1000, kind, 0) == EPERM
        assert box("mknodat", 3, 0x1000, FIFO | 0o600, 0) == bpf.ALLOW
        assert box("renameat2", 3, 0x1000, 3, 0x1000, WHITEOUT) == EPERM
        assert box("renameat2", 3, 0x1000, 3, 0x1000, 1) == bpf.ALLOW


@pytest.mark.parametrize("command", [0x80086601, 0x801C581F, 0x40049409, 0x4020940D, 0xC0189436, 0xC020660B])
def test_reading_inode_flags_and_cloning_files_goes_on(command: int) -> None:
    assert Box()("ioctl", 3, command) == bpf.ALLOW


def test_interfaces_are_shown_with_a_network_grant_only() -> None:
    nothing, connect, bind = Box(), Box(net_allow=":443"), Box(net_allow_bind=80)
    for command in (0x8910, 0x8912, 0x8913, 0x8915, 0x8927, 0x8933):  # SIOCGIF*
        assert nothing("ioctl", 3, command) == EPERM
        assert connect("ioctl", 3, command) == bind("ioctl", 3, command) == bpf.ALLOW
    for command in (
        0x8914,
        0x8916,
        0x8946,
        0x890B,
        0x89E0,
        0x89F0,
        0x8B01,
        0x8B04,
    ):  # changes, ethtool, private, wireless
        assert nothing("ioctl", 3, command) == connect("ioctl", 3, command) == EPERM
    for command in (0x8905, 0x8906, 0x80108906):
        assert nothing("ioctl", 3, command) == bpf.ALLOW


def test_leases() -> None:
    box = Box()
    assert box("fcntl", 3, fcntl.F_SETLEASE, 0) == box("fcntl", 3, 1040, 0) == EPERM
    for command in (
        fcntl.F_GETFL,
        fcntl.F_SETFL,
        fcntl.F_DUPFD_CLOEXEC,
        fcntl.F_SETLK,
        fcntl.F_ADD_SEALS,
        1031,
    ):
        assert box("fcntl", 3, command, 0) == bpf.ALLOW


PR_SET_DUMPABLE = 4


def test_a_signal_to_everybody_needs_the_signal_scope() -> None:
    everybody = (ALL, 0xFFFF_FFFF, 0xFFFF_FFFF | 7 << 32)
    for pid in everybody:
        assert Box()("kill", pid, 9) == bpf.ALLOW
        assert Box(disable=["signal-scope"])("kill", pid, 9) == EPERM
        assert Box(abi=5, allow_degraded=["signal-scope", "abstract-unix-socket-scope"])("kill", pid, 9) == EPERM
    for pid in (0, 1, 4711, ALL - 1):
        assert Box(disable=["signal-scope"])("kill", pid, 9) == bpf.ALLOW


def test_prctl() -> None:
    box = Box()
    for option in (28, 35, 0x59616D61, 62):
        assert box("prctl", option) == box("prctl", option | 1 << 40) == EPERM
    for option in (1, 15, 16, 22, 23, 36, 38, PR_SET_DUMPABLE, 0x53564D41):
        assert box("prctl", option, 1) == bpf.ALLOW
    assert Box(max_processes=5)("prctl", PR_SET_DUMPABLE, 0) == EPERM
    assert Box(max_processes=5)("prctl", 3) == bpf.ALLOW  # PR_GET_DUMPABLE


def test_guests_may_stack_filters_but_get_no_listener() -> None:
    box = Box()
    for flags in (0, 1, 2, 4, 16):
        assert box("seccomp", 1, flags, 0x1000) == bpf.ALLOW
    for flags in (8, 9, 8 | 32, 8 | 1 << 32, ALL):
        assert box("seccomp", 1, flags, 0x1000) == EPERM
    for name in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
        assert box.always_allows(name)


# --- network -----------------------------------------------------------------------------------------------

INET, INET6, UNIX, NETLINK = 2, 10, 1, 16
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
FASTOPEN = 0x20000000
NONBLOCK, CLOEXEC = 0o4000, 0o2000000

BAD_SOCKETS = {
    "udp": (INET, DGRAM, 0),
    "udp by number": (INET, DGRAM, 17),
    "udp6": (INET6, DGRAM, 0),
    "mptcp": (INET, STREAM, 262),
    "mptcp6": (INET6, STREAM, 262),
    "smc": (INET, STREAM, 256),
    "sctp": (INET, STREAM, 132),
    "sctp seqpacket": (INET, SEQPACKET, 132),
    "dccp": (INET, 6, 33),
    "raw": (INET, RAW, 6),
    "icmp": (INET, DGRAM, 1),
    "packet": (17, RAW, 0),
    "packet by inet": (INET, 10, 0),
    "unix": (UNIX, STREAM, 0),
    "unix datagram": (UNIX, DGRAM, 0),
    "unspecified": (0, STREAM, 0),
    "netlink audit": (NETLINK, RAW, 9),
    "netlink uevent": (NETLINK, DGRAM, 15),
    "netlink netfilter": (NETLINK, RAW, 12),
    "vsock": (40, STREAM, 0),
    "alg": (38, SEQPACKET, 0),
    "tipc": (30, STREAM, 0),
    "bluetooth": (31, RAW, 1),
    "can": (29, RAW, 1),
    "smc family": (43, STREAM, 0),
    "rds": (21, SEQPACKET, 0),
    "xdp": (44, RAW, 0),
    "qipcrtr": (42, DGRAM, 0),
}


@pytest.mark.parametrize("fields", TYPICAL)
@pytest.mark.parametrize("name", BAD_SOCKETS)
def test_sockets_that_nothing_decides_about_do_not_open(name: str, fields: dict[str, Any]) -> None:
    family, kind, protocol = BAD_SOCKETS[name]
    box = Box(**fields)
    for flags in (0, NONBLOCK, CLOEXEC, NONBLOCK | CLOEXEC, 1 << 32):
        assert box("socket", family, kind | flags, protocol) == EACCES
        assert box("socket", family | 7 << 32, kind | flags, protocol | 1 << 33) == EACCES


@pytest.mark.parametrize("family", [INET, INET6])
@pytest.mark.parametrize("protocol", [0, 6])
@pytest.mark.parametrize("flags", [0, NONBLOCK, CLOEXEC, NONBLOCK | CLOEXEC, 1 << 40])
def test_tcp_sockets_open(family: int, protocol: int, flags: int) -> None:
    assert Box()("socket", family, STREAM | flags, protocol) == bpf.ALLOW
    assert Box(net_allow=":443")("socket", family, STREAM | flags, protocol) == bpf.ALLOW


@pytest.mark.parametrize("kind", [RAW, DGRAM])
def test_route_netlink_with_a_network_grant_only(kind: int) -> None:
    assert Box()("socket", NETLINK, kind | CLOEXEC, 0) == EACCES
    for fields in ({"net_allow": ":443"}, {"net_allow": "*"}, {"net_allow_bind": 80}):
        box = Box(**fields)
        assert box("socket", NETLINK, kind | CLOEXEC, 0) == bpf.ALLOW
        assert box("bind", 3, 0x1000, 12) == bpf.ALLOW  # libc binds it before it asks


def test_socketpairs() -> None:
    box = Box()
    for kind in (STREAM, SEQPACKET, STREAM | CLOEXEC, SEQPACKET | NONBLOCK):
        assert box("socketpair", UNIX, kind, 0) == bpf.ALLOW
    for args in ((UNIX, DGRAM, 0), (UNIX, RAW, 0), (UNIX, STREAM, 1), (INET, STREAM, 0), (30, STREAM, 0)):
        assert box("socketpair", *args) == EACCES


def test_without_a_grant_no_address_is_used() -> None:
    box = Box()
    for name in ("connect", "bind", "listen"):
        assert box(name, 3, 0x1000, 16) == EACCES
    assert (box.plan.guest_ruleset.handled_net, box.plan.guest_ruleset.ports) == (BIND_TCP | CONNECT_TCP, ())
    assert {rule.rule for rule in box.plan.rules} == {"path"}


@pytest.mark.parametrize("fields", [{}, {"net_allow": ":443"}, {"net_allow_bind": "*"}, {"disable": ["net-tcp"]}])
def test_no_fast_open_where_ports_are_told_apart(fields: dict[str, Any]) -> None:
    box = Box(**fields)
    for flags in (FASTOPEN, FASTOPEN | 0x4000, FASTOPEN | 1 << 32, ALL):
        assert box("sendto", 3, 1, 1, flags, 1, 16) == EACCES
        assert box("sendmsg", 3, 1, flags) == EACCES
        assert box("sendmmsg", 3, 1, 1, flags) == EACCES
    assert (
        box("sendto", 3, 1, 1, 0x4000) == box("sendmsg", 3, FASTOPEN, 0) == box("sendmmsg", 3, 1, FASTOPEN) == bpf.ALLOW
    )
    assert box("sendto", 3, 1, 1, FASTOPEN << 32) == bpf.ALLOW  # the upper half is no flag


def test_no_upper_layer_protocol_takes_a_socket_over() -> None:
    for fields in TYPICAL:
        box = Box(**fields)
        assert box("setsockopt", 3, 6, 31, 0x1000, 3) == bpf.ERRNO | errno.ENOPROTOOPT
        assert box("setsockopt", 3, 6, socket.TCP_NODELAY) == box("setsockopt", 3, 1, 31) == bpf.ALLOW


def test_ports_to_connect_to() -> None:
    box = Box(net_allow=[":443", "*:80,443", "tcp://:8000-8002"])
    assert box("connect", 3, 0x1000, 16) == box("bind", 3, 0x1000, 16) == bpf.ALLOW  # Landlock decides
    assert box("listen", 3, 1) == EACCES
    ruleset = box.plan.guest_ruleset
    assert ruleset.handled_net == BIND_TCP | CONNECT_TCP
    assert ruleset.ports == tuple((port, CONNECT_TCP) for port in (80, 443, 8000, 8001, 8002))


def test_ports_to_bind() -> None:
    box = Box(net_allow=":443", net_allow_bind=[443, "8080-8081"])
    assert box("bind", 3, 0x1000, 16) == bpf.ALLOW
    assert box("listen", 3, 1) == bpf.NOTIFY
    assert box.plan.guest_ruleset.ports == ((443, BIND_TCP | CONNECT_TCP), (8080, BIND_TCP), (8081, BIND_TCP))
    assert [rule.syscall for rule in box.plan.rules if rule.rule != "path"] == ["listen"]
    assert box.plan.needs_listener
    assert Box(net_allow_bind=80)("connect", 3, 0x1000, 16) == EACCES


def test_unrestricted_is_spelled_with_a_star() -> None:
    for star in ("*", "*:*", "tcp://*"):
        box = Box(net_allow=star)
        assert box.plan.guest_ruleset.handled_net == BIND_TCP
        assert box("connect", 3, 0x1000, 16) == box("sendto", 3, 1, 1, FASTOPEN) == bpf.ALLOW
        assert box("listen", 3, 1) == EACCES
    box = Box(net_allow_bind="*")
    assert box.plan.guest_ruleset.handled_net == CONNECT_TCP
    assert box("bind", 3, 0x1000, 16) == box("listen", 3, 1) == bpf.ALLOW
    assert {rule.rule for rule in box.plan.rules} == {"path"}, "nothing of the network is left to look at"
    assert box("connect", 3, 0x1000, 16) == EACCES
    both = Box(net_allow=["*", ":443"], net_allow_bind=["*", 80])
    assert (both.plan.guest_ruleset.handled_net, both.plan.guest_ruleset.ports) == (0, ())
    assert "net-tcp" not in both.plan.enforced


@pytest.mark.parametrize("abi", [3, 7])
def test_without_the_tcp_barrier_only_a_star_opens_anything(abi: int) -> None:
    missing = [name for name, (since, _, _) in PROTECTIONS.items() if since > abi]
    waive: dict[str, Any] = {"disable": ["net-tcp"], "allow_degraded": missing}
    for fields in (
        {},
        {"net_allow": ":443"},
        {"net_allow_bind": 80},
        {"net_allow": ":1", "net_allow_bind": [80, 81]},
    ):
        box = Box(abi, **fields, **waive)
        assert box("socket", INET, STREAM, 0) == box("socket", INET6, STREAM, 6) == EACCES
        assert box("connect", 3, 1, 16) == box("bind", 3, 1, 16) == box("listen", 3, 1) == EACCES
        assert (box.plan.guest_ruleset.handled_net, box.plan.guest_ruleset.ports) == (0, ())
        assert {rule.rule for rule in box.plan.rules} == {"path"}
    connect = Box(abi, net_allow="*", **waive)
    assert connect("socket", INET, STREAM, 0) == connect("connect", 3, 1, 16) == bpf.ALLOW
    assert connect("bind", 3, 1, 16) == connect("listen", 3, 1) == EACCES
    bind = Box(abi, net_allow_bind="*", **waive)
    assert bind("socket", INET, STREAM, 0) == bind("bind", 3, 1, 16) == bind("listen", 3, 1) == bpf.ALLOW
    assert bind("connect", 3, 1, 16) == bind("sendmsg", 3, 1, FASTOPEN) == EACCES
