"""The one table of system calls: numbers, what kind of argument each takes, and what a guest gets by default.

Rules: everything that filters, traps or explains a syscall derives it from here, and nowhere else is a list
of syscalls written down (hand-written lists always miss a variant). A number that stands here for no
architecture answers ENOSYS. Must not know: policies, filters, the host.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (aarch64), Linux 6.18. aarch64 has
no call of the kind that `*at` replaced; from 424 on both architectures share their numbers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Treatment = Literal["allow", "filter", "deny", "enosys"]

__all__ = ["GROUPS", "TABLE", "Group", "Syscall", "expand", "limit", "name", "number"]

# A section is `[group] treatment: reason`; its entries are `name x86-64 aarch64 kinds...`, `-` for "not there".
#
# Treatments: allow; filter (by arguments: `_arguments.py`, or by the network grants: `_plan.py`); deny
# (EPERM); enosys, where programs know a fallback for a kernel without the call and would give up on EPERM.
#
# Kinds: path (takes the name or handle of a file), sockaddr (takes a socket address), pid (aims at a task or
# process by number or pidfd), fd-metadata (changes metadata through a descriptor, which Landlock does not
# see).
_TEXT = """
[descriptors] allow: acts on descriptors, which were granted when they were opened
read 0 63, write 1 64, close 3 57, fstat 5 80, poll 7 -, lseek 8 62, pread64 17 67, pwrite64 18 68,
readv 19 65, writev 20 66, pipe 22 -, select 23 -, dup 32 23, dup2 33 -, dup3 292 24, sendfile 40 71,
flock 73 32, fsync 74 82, fdatasync 75 83, ftruncate 77 46, getdents 78 -, getdents64 217 61,
fchdir 81 50, fstatfs 138 44, readahead 187 213, fgetxattr 193 10, flistxattr 196 13, sync 162 81,
syncfs 306 267, sync_file_range 277 84, fadvise64 221 223, fallocate 285 47, splice 275 76,
tee 276 77, vmsplice 278 75, preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287,
copy_file_range 326 285, pipe2 293 59, pselect6 270 72, ppoll 271 73, epoll_create 213 -,
epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441,
eventfd 284 -, eventfd2 290 19, signalfd 282 -, signalfd4 289 74, timerfd_create 283 85,
timerfd_settime 286 86, timerfd_gettime 287 87, memfd_create 319 279, close_range 436 436,
cachestat 451 451, inotify_init 253 -, inotify_init1 294 26, inotify_rm_watch 255 28

[descriptor_commands] filter: terminal injection, inode flags and leases hide among harmless commands
ioctl 16 29 fd-metadata, fcntl 72 25 pid

[files] allow: Landlock decides by the file
open 2 - path, creat 85 - path, openat 257 56 path, openat2 437 437 path, truncate 76 45 path,
rename 82 - path, renameat 264 38 path, renameat2 316 276 path, mkdir 83 - path, mkdirat 258 34 path,
rmdir 84 - path, link 86 - path, linkat 265 37 path, unlink 87 - path, unlinkat 263 35 path,
symlink 88 - path, symlinkat 266 36 path, mknod 133 - path, mknodat 259 33 path

[file_information] allow: what a file is called and looks like; Landlock does not see these calls
stat 4 - path, lstat 6 - path, newfstatat 262 79 path, statx 332 291 path, access 21 - path,
faccessat 269 48 path, faccessat2 439 439 path, readlink 89 - path, readlinkat 267 78 path,
statfs 137 43 path, getcwd 79 17, chdir 80 49 path, getxattr 191 8 path, lgetxattr 192 9 path,
getxattrat 464 464 path, listxattr 194 11 path, llistxattr 195 12 path, listxattrat 465 465 path,
file_getattr 468 468 path, inotify_add_watch 254 27 path

[file_metadata] allow: what Landlock does not see: the supervisor's, inside the writable grants (fs-metadata)
chmod 90 - path, fchmod 91 52 fd-metadata, fchmodat 268 53 path, fchmodat2 452 452 path fd-metadata,
chown 92 - path, fchown 93 55 fd-metadata, lchown 94 - path, fchownat 260 54 path fd-metadata,
utime 132 - path, utimes 235 - path, futimesat 261 - path fd-metadata,
utimensat 280 88 path fd-metadata, setxattr 188 5 path, lsetxattr 189 6 path,
fsetxattr 190 7 fd-metadata, setxattrat 463 463 path fd-metadata, removexattr 197 14 path,
lremovexattr 198 15 path, fremovexattr 199 16 fd-metadata, removexattrat 466 466 path fd-metadata

[inode_flags] deny: makes files of the user immutable or append-only; the supervisor's inside the writable grants
file_setattr 469 469 path fd-metadata

[memory] allow: acts on the caller's own memory
mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, msync 26 227, mincore 27 232,
madvise 28 233, mlock 149 228, munlock 150 229, mlockall 151 230, munlockall 152 231, mlock2 325 284,
remap_file_pages 216 234, mbind 237 235, set_mempolicy 238 237, get_mempolicy 239 236,
set_mempolicy_home_node 450 450, pkey_mprotect 329 288, pkey_alloc 330 289, pkey_free 331 290,
membarrier 324 283, mseal 462 462, map_shadow_stack 453 453

[threads] allow: acts on the calling thread
futex 202 98, futex_waitv 449 449, futex_wake 454 454, futex_wait 455 455, futex_requeue 456 456,
set_robust_list 273 99, rseq 334 293, set_tid_address 218 96, gettid 186 178, sched_yield 24 124,
getcpu 309 168, arch_prctl 158 -, restart_syscall 219 128, uretprobe 335 -, uprobe 336 -

[signals] allow: reaches the sandbox only (Landlock's signal scope)
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, pause 34 -,
tkill 200 130 pid, tgkill 234 131 pid, rt_sigqueueinfo 129 138 pid, rt_tgsigqueueinfo 297 240 pid,
pidfd_open 434 434 pid, pidfd_send_signal 424 424 pid

[signals_to_many] filter: kill(-1) ends all of the user's processes where Landlock's signal scope is waived
kill 62 129 pid

[processes] allow: starts, ends and waits for processes of the sandbox
fork 57 -, vfork 58 -, execve 59 221 path, execveat 322 281 path, exit 60 93, exit_group 231 94,
wait4 61 260 pid, waitid 247 95 pid

[process_creation] filter: namespaces would change what names, ids and paths mean
clone 56 220, unshare 272 97

[process_creation_by_struct] enosys: its flags lie in memory, unseen by filters; libc falls back to clone
clone3 435 435

[process_information] allow: tells about the caller, or how another process is scheduled
getpid 39 172, getppid 110 173, getpgrp 111 -, getpgid 121 155 pid, getsid 124 156 pid,
setpgid 109 154 pid, setsid 112 157, getrlimit 97 163, setrlimit 160 164, getrusage 98 165,
times 100 153, sched_getparam 143 121 pid, sched_getscheduler 145 120 pid,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, sched_rr_get_interval 148 127 pid,
sched_getaffinity 204 123 pid, sched_getattr 315 275 pid, getpriority 140 141 pid,
ioprio_get 252 31 pid, umask 95 166

[scheduling] filter: aimed at another process it would slow or cripple the host's
sched_setparam 142 118 pid, sched_setscheduler 144 119 pid, sched_setaffinity 203 122 pid,
sched_setattr 314 274 pid, setpriority 141 140 pid, ioprio_set 251 30 pid

[resources_of_others] filter: aimed at another process it would cripple the host's
prlimit64 302 261 pid, get_robust_list 274 100 pid, migrate_pages 256 238 pid,
move_pages 279 239 pid

[process_control] filter: some of its commands attach tracers, rewrite the memory map or the capability rules
prctl 157 167 pid

[persona] filter: other personalities weaken address randomisation or emulate foreign systems
personality 135 92

[identity] allow: without capabilities it moves between the caller's own ids only
getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, setuid 105 146, setgid 106 144,
setreuid 113 145, setregid 114 143, getgroups 115 158, setgroups 116 159, setresuid 117 147,
getresuid 118 148, setresgid 119 149, getresgid 120 150, setfsuid 122 151, setfsgid 123 152,
capget 125 90 pid, capset 126 91 pid

[timers] allow: reads clocks and sleeps
nanosleep 35 101, getitimer 36 102, setitimer 38 103, alarm 37 -, gettimeofday 96 169, time 201 -,
timer_create 222 107, timer_settime 223 110, timer_gettime 224 108, timer_getoverrun 225 109,
timer_delete 226 111, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115

[system_information] allow: tells what kernel and machine this is
uname 63 160, sysinfo 99 179, getrandom 318 278, lsm_get_self_attr 459 459, lsm_list_modules 461 461

[landlock] allow: a guest may confine itself further
landlock_create_ruleset 444 444, landlock_add_rule 445 445, landlock_restrict_self 446 446

[seccomp_filters] filter: a guest may stack filters of its own, but gets no listener
seccomp 317 277

[socket_creation] filter: only families, types and protocols that Landlock or the policy decides about
socket 41 198, socketpair 53 199

[socket_addresses] filter: aims a socket at an address
connect 42 203 sockaddr, bind 49 200 sockaddr, listen 50 201, sendto 44 206 sockaddr,
sendmsg 46 211 sockaddr, sendmmsg 307 269 sockaddr

[socket_options] filter: an upper-layer protocol would replace the socket under Landlock's eyes
setsockopt 54 208

[sockets] allow: acts on a socket that exists already
accept 43 202, accept4 288 242, recvfrom 45 207, recvmsg 47 212, recvmmsg 299 243, shutdown 48 210,
getsockname 51 204, getpeername 52 205, getsockopt 55 209

[sysv_ipc] deny: its objects are shared with all processes of the host
shmget 29 194, shmat 30 196, shmctl 31 195, shmdt 67 197, semget 64 190, semop 65 193, semctl 66 191,
semtimedop 220 192, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187

[posix_mq] deny: its queues are shared with all processes of the host
mq_open 240 180, mq_unlink 241 181, mq_timedsend 242 182, mq_timedreceive 243 183, mq_notify 244 184,
mq_getsetattr 245 185

[io_uring] enosys: its requests pass no filter
io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427

[aio] enosys: it writes the caller's memory while all its threads are stopped
io_setup 206 0, io_destroy 207 1, io_getevents 208 4, io_pgetevents 333 292, io_submit 209 2,
io_cancel 210 3

[secret_memory] enosys: memory that the supervisor cannot read
memfd_secret 447 447

[process_reaping] enosys: takes the memory of a dying process
process_mrelease 448 448 pid

[mounts] deny: changes what every path means
mount 165 40 path, umount2 166 39 path, pivot_root 155 41 path, chroot 161 51 path, fsopen 430 430,
fsconfig 431 431 path, fsmount 432 432, fspick 433 433 path, move_mount 429 429 path,
open_tree 428 428 path, open_tree_attr 467 467 path, mount_setattr 442 442 path

[mount_information] enosys: shows the host's mounts
statmount 457 457, listmount 458 458

[namespaces] deny: enters a namespace of another process
setns 308 268 pid

[tracing] deny: reads, changes or takes from other processes
ptrace 101 117 pid, process_vm_readv 310 270 pid, process_vm_writev 311 271 pid,
process_madvise 440 440 pid, pidfd_getfd 438 438 pid, kcmp 312 272 pid

[security_labels] deny: changes the label that other security modules judge by
lsm_set_self_attr 460 460

[user_faults] deny: makes page faults, also the supervisor's, wait for the guest
userfaultfd 323 282

[programs_in_kernel] deny: loads programs into the kernel
bpf 321 280 path

[profiling] deny: samples the kernel and other processes
perf_event_open 298 241 pid

[keyrings] deny: keys are shared with the user's other processes
add_key 248 217, request_key 249 218, keyctl 250 219

[file_handles] deny: opens files around the paths that lead to them
open_by_handle_at 304 265 path, name_to_handle_at 303 264 path

[file_events] deny: watches whole file systems
fanotify_init 300 262, fanotify_mark 301 263 path

[modules] deny: changes the kernel
init_module 175 105, finit_module 313 273, delete_module 176 106

[boot] deny: ends or replaces the running system
reboot 169 142, kexec_load 246 104, kexec_file_load 320 294

[swap] deny: belongs to the whole machine
swapon 167 224 path, swapoff 168 225 path

[quotas] deny: belongs to the whole file system
quotactl 179 60 path, quotactl_fd 443 443

[accounting] deny: belongs to the whole machine
acct 163 89 path

[host_name] deny: belongs to the whole machine
sethostname 170 161, setdomainname 171 162

[clocks] deny: sets the clock of the whole machine
settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266

[kernel_log] deny: the kernel's log tells about the host and its addresses
syslog 103 116

[terminal_hangup] deny: takes the terminal away from its other users
vhangup 153 58

[ports] deny: reaches hardware directly
iopl 172 -, ioperm 173 -

[segments] deny: builds x86 segments, a corner of the kernel that hardly any program needs
modify_ldt 154 -

[libraries] deny: maps a file around the usual checks
uselib 134 - path

[obsolete] enosys: no program needs it, and most kernels lack it
ustat 136 -, sysfs 139 -, _sysctl 156 -, lookup_dcookie 212 18, create_module 174 -,
get_kernel_syms 177 -, query_module 178 -, nfsservctl 180 42, getpmsg 181 -, putpmsg 182 -,
afs_syscall 183 -, tuxcall 184 -, security 185 -, vserver 236 -, set_thread_area 205 -,
get_thread_area 211 -, epoll_ctl_old 214 -, epoll_wait_old 215 -
"""


# Plain classes, not records: there are hundreds of these at every start. Nothing changes them.


class Group:
    """A set of syscalls that are treated alike, for one reason."""

    __slots__ = ("default", "members", "name", "reason")

    def __init__(self, name: str, default: Treatment, reason: str, members: tuple[str, ...]) -> None:
        self.name = name
        self.default = default
        self.reason = reason
        self.members = members


class Syscall:
    """One system call. A number is None where the architecture does not have the call."""

    __slots__ = ("aarch64", "default", "group", "kind", "name", "reason", "x86_64")

    def __init__(
        self,
        name: str,
        x86_64: int | None,
        aarch64: int | None,
        kind: frozenset[str],
        default: Treatment,
        group: str,
        reason: str,
    ) -> None:
        self.name = name
        self.x86_64 = x86_64
        self.aarch64 = aarch64
        self.kind = kind
        self.default = default
        self.group = group
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.name}: x86_64 {self.x86_64}, aarch64 {self.aarch64}, {self.default}: {self.reason}>"

    def number(self, arch: str) -> int | None:
        """The number on `arch` (`x86_64` or `aarch64`), or None."""
        return self.x86_64 if arch == "x86_64" else self.aarch64


def _parse(text: str) -> tuple[dict[str, Group], dict[str, Syscall]]:
    groups: dict[str, Group] = {}
    table: dict[str, Syscall] = {}
    numbers: dict[str, int | None] = {"-": None}
    kinds: dict[str, frozenset[str]] = {"": frozenset()}
    for section in text.strip().split("\n\n"):
        heading, _, entries = section.partition("\n")
        group, _, rest = heading[1:].partition("] ")
        default, _, reason = rest.partition(": ")
        treatment: Treatment = default  # type: ignore[assignment]
        names = []
        for entry in entries.replace(",\n", ", ").split(", "):
            call, x86_64, rest = entry.split(" ", 2)
            aarch64, _, words = rest.partition(" ")
            for digits in (x86_64, aarch64):
                if digits not in numbers:
                    numbers[digits] = int(digits)
            if words not in kinds:
                kinds[words] = frozenset(words.split(" "))
            table[call] = Syscall(call, numbers[x86_64], numbers[aarch64], kinds[words], treatment, group, reason)
            names.append(call)
        groups[group] = Group(group, treatment, reason, tuple(names))
    return groups, table


GROUPS, TABLE = _parse(_TEXT)
"""By name. Both are read only."""


def number(name: str, arch: str) -> int | None:
    """The number of syscall `name` on `arch`; None where that architecture does not have it.

    Raises KeyError for a name that no architecture has.
    """
    return TABLE[name].number(arch)


def name(nr: int, arch: str) -> str | None:
    """The syscall with number `nr` on `arch`, or None: the table does not know that number."""
    for call in TABLE.values():
        if call.number(arch) == nr:
            return call.name
    return None


def limit(arch: str) -> int:
    """The first number above the table of `arch`: from there on everything answers ENOSYS."""
    return 1 + max(nr for call in TABLE.values() if (nr := call.number(arch)) is not None)


def expand(word: str) -> tuple[str, ...]:
    """The syscalls that `word`, a syscall or a group of them, stands for. Raises KeyError for an unknown
    word."""
    if word in GROUPS:
        return GROUPS[word].members
    return (TABLE[word].name,)
