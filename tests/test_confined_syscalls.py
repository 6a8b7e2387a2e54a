"""System calls that no sandbox needs: refused by number, by argument, through foreign ABIs and with odd high bits."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from attacks.arena import MARK, Arena, read, status_of

from sandlock import syscalls
from sandlock._path_rules import METADATA

pytest_plugins = ("attacks.fixtures",)

ARCH = platform.machine()
LISTENERS: tuple[dict[str, Any], ...] = ({}, {"max_processes": 20})
HIGH = 7 << 32

TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS = 0x5412, 0x541C, 0x5423, 0x541D
PR_SET_DUMPABLE, PR_SET_SECUREBITS, PR_SET_MM, PR_SET_PTRACER = 4, 28, 35, 0x59616D61
NAMESPACES = {
    "mnt": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


# ---- by number


def by_treatment(*treatments: str) -> dict[str, int]:
    """The calls of this machine that get one of these treatments, by name; but for the supervisor's."""
    calls = [call for call in syscalls.TABLE.values() if call.default in treatments and call.name not in METADATA]
    return {call.name: nr for call in calls if (nr := call.number(ARCH)) is not None}


def answers(arena: Arena, numbers: Iterable[int], *, confined: bool) -> dict[int, str]:
    """What each number answers to arguments that make no sense: -1 everywhere."""
    attack = ("numbers", *numbers)
    outcome = arena.confined(*attack) if confined else arena.free(*attack)
    assert outcome.word == "0"
    return {int(nr, 0): word for nr, word in (line.split() for line in outcome.lines)}


def test_every_denied_call_is_denied(arena: Arena) -> None:
    denied = by_treatment("deny")
    assert set(answers(arena, denied.values(), confined=True).values()) == {"EPERM"}


def test_every_call_that_is_said_not_to_exist_does_not(arena: Arena) -> None:
    silent = by_treatment("enosys")
    assert set(answers(arena, silent.values(), confined=True).values()) == {"ENOSYS"}


# Not asked free: makes a queue whatever it is told; takes no arguments and hangs up a terminal.
HARMFUL = {"msgget", "vhangup"}
# What root may not either (or is a stub) on some kernels: their denial is stated, not proven.
UNPROVEN = {
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "uselib", "open_tree_attr"),
    *("lsm_set_self_attr", "quotactl", "quotactl_fd", "modify_ldt", "memfd_secret", "process_mrelease"),
    *("perf_event_open", "syslog", "acct", "swapon", "swapoff", "userfaultfd", "fanotify_init", "fanotify_mark"),
    *("statmount", "listmount", "io_pgetevents", "iopl", "ioperm"),
}


def test_it_is_the_sandbox_that_denies_them(arena: Arena) -> None:
    """Free, root gets to the checks of the arguments: another errno. (Ordinary users lack the privilege for many.)"""
    if not arena.is_root:
        return
    obsolete = set(syscalls.GROUPS["obsolete"].members)
    calls = {
        name: nr for name, nr in by_treatment("deny", "enosys").items() if name not in HARMFUL | UNPROVEN | obsolete
    }
    assert len(calls) > 50
    free = answers(arena, calls.values(), confined=False)
    assert [name for name, nr in calls.items() if free[nr] in ("EPERM", "ENOSYS")] == []


def test_numbers_that_nobody_knows_do_not_exist(arena: Arena) -> None:
    limit = syscalls.limit(ARCH)
    numbers = [*range(limit, limit + 64), 1000, 0x3FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    known = {call.number(ARCH) for call in syscalls.TABLE.values()}
    numbers += [nr for nr in range(limit) if nr not in known]
    assert set(answers(arena, numbers, confined=True).values()) == {"ENOSYS"}


@pytest.mark.skipif(ARCH != "x86_64", reason="x32 is an ABI of x86-64")
def test_the_x32_numbers_do_not_exist(arena: Arena) -> None:
    numbers = [0x40000000 | nr for nr in (*range(syscalls.limit(ARCH)), *range(512, 548))]
    assert set(answers(arena, numbers, confined=True).values()) == {"ENOSYS"}


def test_bits_above_the_number_do_not_matter(arena: Arena) -> None:
    """The kernel takes 32 bits of the number, and so does the filter."""
    denied = by_treatment("deny")
    numbers = [nr | HIGH for nr in denied.values()]
    assert set(answers(arena, numbers, confined=True).values()) == {"EPERM"}


@pytest.mark.skipif(ARCH != "x86_64", reason="the 32-bit ABI of x86")
@pytest.mark.parametrize("how", ["int80", "far-call"])
def test_the_32_bit_abi_kills(arena: Arena, how: str) -> None:
    room = arena.room()
    path = f"{room}/made"
    outcome = arena.confined("foreign", how, path, policy={"fs_writable": [room]})
    assert outcome.signal == signal.SIGSYS
    assert not os.path.exists(path)
    assert arena.free("foreign", how, path).word == "0"
    assert os.path.exists(path)


# ---- what works free


FORBIDDEN = {
    # how: (the errno inside, whether an ordinary user can do it free)
    "bpf": ("EPERM", False),
    "perf": ("EPERM", True),
    "ptrace": ("EPERM", True),
    "name-to-handle": ("EPERM", True),
    "userfaultfd": ("EPERM", True),
    "add-key": ("EPERM", True),
    "keyctl": ("EPERM", True),
    "shmget": ("EPERM", True),
    "semget": ("EPERM", True),
    "msgget": ("EPERM", True),
    "mq_open": ("EPERM", True),
    "process_vm_readv-self": ("EPERM", True),
    "kcmp-self": ("EPERM", True),
    "fanotify": ("EPERM", True),
    "statmount": ("ENOSYS", True),
    "chroot": ("EPERM", False),
    "seccomp-listener": ("EPERM", True),
    "seccomp-listener-high-bits": ("EPERM", True),
} | ({"modify_ldt": ("EPERM", True)} if ARCH == "x86_64" else {})


@pytest.mark.parametrize("how", FORBIDDEN)
def test_a_call_that_works_free_is_refused(arena: Arena, how: str) -> None:
    errno, for_all = FORBIDDEN[how]
    if for_all or arena.is_root:
        assert arena.free("forbidden", how).word == "0"
    for more in LISTENERS:
        policy = {"presets": ["system"]} | more
        assert arena.confined("forbidden", how, policy=policy).word == errno


def test_io_uring_opens_nothing(arena: Arena) -> None:
    secret = arena.secret()
    path = arena.write(f"{arena.room()}/file", secret)
    outcome = arena.confined("uring", path, policy={"fs_readable": [path]})
    assert outcome.word == "ENOSYS"
    assert secret in arena.free("uring", path).out


def test_aio_writes_nothing(arena: Arena) -> None:
    room = arena.room()
    path = arena.write(f"{room}/file", "untouched")
    assert arena.confined("aio", path, policy={"fs_writable": [room]}).word == "ENOSYS"
    assert read(path) == "untouched"
    assert arena.free("aio", path).word == "0"
    assert read(path).startswith(MARK)


# ---- namespaces, mounts, roots


def namespace_of(pid: int, name: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")


@pytest.mark.parametrize("name", NAMESPACES)
@pytest.mark.parametrize("how", ["unshare", "clone", "clone3"])
def test_no_new_namespace(arena: Arena, how: str, name: str) -> None:
    flag = NAMESPACES[name]
    for value in (flag, flag | HIGH):
        outcome = arena.confined("enter-namespace", how, value, policy={"fs_data": ["/proc"]})
        assert outcome.word == ("ENOSYS" if how == "clone3" else "EPERM"), outcome
    if not arena.is_root and name != "user":
        return  # needs a namespace of users first, which is refused
    with arena.running("enter-namespace", how, flag, confined=False) as entered:
        assert entered.line() == f"entered {flag}"
        in_child = how != "unshare" or name == "pid"
        pid = int(read(f"/proc/{entered.pid}/task/{entered.pid}/children")) if in_child else entered.pid
        assert namespace_of(pid, name) != namespace_of(os.getpid(), name)


def test_unshare_takes_only_flags_that_are_known_to_be_harmless(arena: Arena) -> None:
    """CLONE_NEWTIME, which is no flag of clone; flags to come; bits above the 32nd, which the kernel does look at."""
    unshare = syscalls.number("unshare", ARCH)
    for flags in (0x80, 0x1000, 0x8000_0000, 1 << 32, 1 << 63):
        assert arena.confined("call", unshare, flags).word == "EPERM"
    if arena.is_root:
        assert arena.free("call", unshare, 0x80).word == "0"


def test_no_namespace_is_entered(arena: Arena) -> None:
    assert arena.free("set-namespace", "uts").word == ("0" if arena.is_root else "EPERM")
    for name in NAMESPACES:
        outcome = arena.confined("set-namespace", name, policy={"fs_data": ["/proc"]})
        assert outcome.word == "EPERM"


def mounts_on(path: str) -> bool:
    return any(line.split()[1] == path for line in read("/proc/self/mounts").splitlines())


@pytest.mark.parametrize("how", ["mount", "bind", "fsopen", "open_tree"])
def test_nothing_is_mounted(arena: Arena, how: str) -> None:
    room = arena.room()
    for policy in ({}, {"keep_capabilities": ["sys_admin"]}):
        outcome = arena.confined("mount", how, room, policy={"fs_writable": [room]} | policy)
        assert outcome.word == "EPERM"
        assert not mounts_on(room)
    if not arena.is_root:
        return  # needs a namespace of users first, which is refused
    try:
        assert arena.free("mount", how, room).word == "0"
        assert mounts_on(room)
    finally:
        subprocess.run(["umount", room], check=False)


def test_the_root_is_not_changed(arena: Arena) -> None:
    room = arena.room()
    arena.write(f"{room}/inside")
    for policy in ({}, {"keep_capabilities": ["sys_chroot"]}):
        outcome = arena.confined("change-root", room, policy={"fs_writable": [room]} | policy)
        assert (outcome.word, outcome.lines) == ("EPERM", [])
    if arena.is_root:
        assert arena.free("change-root", room).lines == ["inside"]


# ---- attributes of the process


@pytest.mark.parametrize("value", [0x0040000, 0x0400000, 0x0200000, 0x8, 0x0040000 | HIGH])
def test_the_personality_stays(arena: Arena, value: int) -> None:
    """ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, ADDR_COMPAT_LAYOUT, PER_LINUX32."""
    assert arena.confined("set-personality", value).word == "EPERM"
    with arena.running("set-personality", value, confined=False) as free:
        assert free.line() == "persona"
        assert int(read(f"/proc/{free.pid}/personality"), 16) == value & 0xFFFFFFFF


def test_prctl_keeps_what_the_confinement_stands_on(arena: Arena) -> None:
    """PR_SET_MM and PR_SET_SECUREBITS need capabilities, PR_SET_PTRACER needs Yama; elsewhere there is no control."""
    for option in (PR_SET_SECUREBITS, PR_SET_MM, PR_SET_PTRACER, PR_SET_PTRACER | HIGH):
        assert arena.confined("prctl", option, 0).word == "EPERM"
    if arena.is_root:
        assert arena.free("prctl", PR_SET_SECUREBITS, 0).word == "0"


def test_a_supervised_guest_stays_dumpable(arena: Arena) -> None:
    """Else the supervisor could not look at it. Alone, a program may hide from its own kind: ssh-agent does."""
    assert arena.confined("prctl", PR_SET_DUMPABLE, 0, policy=LISTENERS[1]).word == "EPERM"
    with arena.running("prctl", PR_SET_DUMPABLE, 0, confined=True) as guest:
        assert guest.line() == "set"
        assert os.stat(f"/proc/{guest.pid}/environ").st_uid == 0  # whose files of /proc are root's now


# ---- terminals


@pytest.mark.parametrize("command", [TIOCSTI, TIOCSTI | HIGH])
def test_nothing_is_typed_into_the_terminal(arena: Arena, command: int) -> None:
    """What is typed comes back as an echo, which the other end of the terminal sees."""
    for options in ({}, {"presets": ["system"]}, {"max_processes": 5}):
        with arena.running("type-in", "INJECTED\n", command, confined=True, policy=options, pty=True) as guest:
            assert guest.line() == "EPERM"
            assert guest.line() == ""
    with open("/proc/sys/dev/tty/legacy_tiocsti", encoding="ascii") as file:
        allowed = file.read().strip() == "1"
    with arena.running("type-in", "INJECTED\n", command, confined=False, pty=True) as free:
        assert free.line() == ("INJECTED" if allowed or arena.is_root else "EIO")


@pytest.mark.parametrize("command", [TIOCLINUX, TIOCSETD, TIOCCONS, TIOCLINUX | HIGH])
def test_the_kin_of_tiocsti_are_refused(arena: Arena, command: int) -> None:
    """They need a console or a privilege, so the answer is judged: free, it is another one."""
    with arena.running("type-in", "\x02", command, confined=True, pty=True) as guest:
        assert guest.line() == "EPERM"


# ---- what must work


@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_programs_may_confine_themselves_further(arena: Arena, more: dict[str, Any]) -> None:
    path = arena.write(f"{arena.room()}/file", "content")
    assert arena.confined("stack", path, policy={"fs_readable": [path]} | more).word == "0"


@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_programs_cope_with_what_is_missing(arena: Arena, more: dict[str, Any]) -> None:
    assert arena.confined("fallbacks", policy=more).word == "0"


def test_the_guest_shows_its_filter(arena: Arena) -> None:
    with arena.running("whoami", confined=True) as guest:
        guest.line()
        assert status_of(guest.pid, "Seccomp") == "2"
        assert status_of(guest.pid, "NoNewPrivs") == "1"
