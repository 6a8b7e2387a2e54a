"""The table of syscalls, against the kernel headers of this machine and against what other tools know."""

from __future__ import annotations

import functools
import shutil
import subprocess

import pytest

from sandlock import _arguments, _filter, syscalls
from sandlock.syscalls import GROUPS, TABLE

ARCHES = ("x86_64", "aarch64")
TREATMENTS = {"allow", "filter", "deny", "enosys"}
KINDS = {"path", "sockaddr", "pid", "fd-metadata"}

# What arch/*/include/asm/unistd.h says before it includes the generic table (Linux 6.1).
WANTS = {
    "x86_64": "#include <asm/unistd_64.h>",
    "aarch64": """
#define __BITS_PER_LONG 64
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_TIME32_SYSCALLS
#define __ARCH_WANT_SYS_CLONE3
#define __ARCH_WANT_MEMFD_SECRET
#include <asm-generic/unistd.h>
""",
}
NO_SYSCALL = {"syscalls", "arch_specific_syscall"}
"""__NR_ macros that are marks in the table."""


def words(text: str) -> list[str]:
    return text.split()


@functools.cache
def headers(arch: str) -> dict[str, int]:
    """The syscalls that the installed headers know, as the C compiler reads them."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests need a C compiler, as the build does"
    text = "#undef __SYSCALL\n" + WANTS[arch]
    done = subprocess.run(
        [compiler, "-E", "-dM", "-x", "c", "-"], input=text, capture_output=True, text=True, check=True
    )
    macros = dict(line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.count(" ") == 2)
    found = {}
    for macro, value in macros.items():
        if macro.startswith("__NR_") and macro.removeprefix("__NR_") not in NO_SYSCALL:
            while value in macros:
                value = macros[value]
            if value.isdigit():
                found[macro.removeprefix("__NR_")] = int(value)
    assert len(found) > 300
    return found


@pytest.mark.parametrize("arch", ARCHES)
def test_every_syscall_of_the_kernel_headers_has_its_number(arch: str) -> None:
    if arch == "x86_64" and subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout.strip() != arch:
        numbers = headers("aarch64")  # the x86 header is not installed here; from 424 on the numbers are the same
        numbers = {name: nr for name, nr in numbers.items() if nr >= 424}
    else:
        numbers = headers(arch)
    wrong = {name: nr for name, nr in numbers.items() if name not in TABLE or syscalls.number(name, arch) != nr}
    assert not wrong, f"missing from sandlock/syscalls.py, or with another number there: {wrong}"


@pytest.mark.parametrize("arch", ARCHES)
def test_the_table_has_no_number_twice_and_no_holes_at_its_end(arch: str) -> None:
    numbers = [nr for call in TABLE.values() if (nr := call.number(arch)) is not None]
    assert len(set(numbers)) == len(numbers)
    assert set(range(424, syscalls.limit(arch))) <= set(numbers)
    assert syscalls.limit(arch) == 470  # Linux 6.18 ends with file_setattr


def test_names_and_numbers_lead_to_each_other() -> None:
    for arch in ARCHES:
        for call in TABLE.values():
            nr = syscalls.number(call.name, arch)
            if nr is not None:
                assert syscalls.name(nr, arch) == call.name
    assert syscalls.number("fork", "aarch64") is None
    assert syscalls.name(57, "x86_64") == "fork"
    assert syscalls.name(350, "x86_64") is None
    with pytest.raises(KeyError):
        syscalls.number("spork", "x86_64")


def test_newer_calls_than_the_headers_of_old_distributions_know() -> None:
    """scripts/syscall.tbl of Linux 6.18."""
    names = words("""
cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr
lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat open_tree_attr
file_getattr file_setattr
""")
    for nr, name in enumerate(names, 451):
        assert TABLE[name].x86_64 == TABLE[name].aarch64 == nr
    assert (TABLE["uretprobe"].x86_64, TABLE["uprobe"].x86_64) == (335, 336)


def test_every_entry_is_classified_and_says_why() -> None:
    for group in GROUPS.values():
        assert group.default in TREATMENTS
        assert len(group.reason) > 15
        assert group.members
        assert group.name not in TABLE, "a name that is both a group and a syscall would be ambiguous"
        for name in group.members:
            assert (TABLE[name].group, TABLE[name].default) == (group.name, group.default)
    for call in TABLE.values():
        assert call.kind <= KINDS
        assert call.name in repr(call)
    assert sum(len(group.members) for group in GROUPS.values()) == len(TABLE)


def test_the_calls_decided_by_arguments_are_those_of_the_table() -> None:
    network = _arguments.Network(sockets=True, connect=True, any_connect=False, bind=True, listen=_filter.ALLOW)
    decided = _arguments.answers(network, judged=False, count_forks=False, signal_scope=True)
    assert set(decided) == {name for name, call in TABLE.items() if call.default == "filter"}


def test_words_expand_to_syscalls() -> None:
    assert syscalls.expand("read") == ("read",)
    assert "shmget" in syscalls.expand("sysv_ipc")
    with pytest.raises(KeyError):
        syscalls.expand("everything")


# What strace puts into its classes %file (takes a file name) and %network (here: those that read a
# socket address), and what credentials(7) counts as aimed at a process. A second opinion, not derived
# from the table.
STRACE_FILE = words("""
access acct chdir chmod chown chroot creat execve execveat faccessat faccessat2 fanotify_mark fchmodat
fchmodat2 fchownat file_getattr file_setattr fspick futimesat getxattr getxattrat inotify_add_watch
lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lsetxattr lstat mkdir mkdirat
mknod mknodat mount mount_setattr move_mount name_to_handle_at newfstatat open openat openat2 open_tree
open_tree_attr pivot_root quotactl readlink readlinkat removexattr removexattrat rename renameat
renameat2 rmdir setxattr setxattrat stat statfs statx swapoff swapon symlink symlinkat truncate umount2
unlink unlinkat uselib utime utimensat utimes
""")
OTHER_PATHS = ["open_by_handle_at", "fsconfig", "bpf"]
SOCKET_ADDRESS = ["bind", "connect", "sendto", "sendmsg", "sendmmsg"]
AIMED = words("""
kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd ptrace
process_vm_readv process_vm_writev process_madvise process_mrelease kcmp prlimit64 get_robust_list
move_pages migrate_pages setpriority getpriority ioprio_set ioprio_get sched_setscheduler
sched_getscheduler sched_setparam sched_getparam sched_setaffinity sched_getaffinity sched_setattr
sched_getattr sched_rr_get_interval setns setpgid getpgid getsid perf_event_open wait4 waitid capget
capset prctl fcntl
""")
CHANGES_METADATA_BY_DESCRIPTOR = words("""
fchmod fchmodat2 fchown fchownat fsetxattr fremovexattr setxattrat removexattrat utimensat futimesat
file_setattr ioctl
""")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("path", [*STRACE_FILE, *OTHER_PATHS]),
        ("sockaddr", SOCKET_ADDRESS),
        ("pid", AIMED),
        ("fd-metadata", CHANGES_METADATA_BY_DESCRIPTOR),
    ],
)
def test_no_path_socket_or_pid_call_is_unclassified(kind: str, names: list[str]) -> None:
    assert {name for name, call in TABLE.items() if kind in call.kind} == set(names)


LOOKS_LIKE_A_PATH = (
    "at",
    "at2",
    "xattr",
    "mount",
    "stat",
    "link",
    "chmod",
    "chown",
    "dir",
    "open",
    "exec",
    "name",
)
NOT_A_PATH = words("""
fstat fchdir fgetxattr flistxattr cachestat pidfd_open uname getsockname getpeername shmat mq_open
mq_unlink fsopen fsmount statmount listmount perf_event_open sethostname setdomainname ustat
""")


def test_a_newcomer_whose_name_speaks_of_files_needs_a_class() -> None:
    """For syscalls that a later header brings: whoever adds one must decide."""
    for name, call in TABLE.items():
        if name.endswith(LOOKS_LIKE_A_PATH) and not call.kind & {"path", "fd-metadata"}:
            assert name in NOT_A_PATH, f"{name}: give it the kind 'path', or say here that it takes none"
