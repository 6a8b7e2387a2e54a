"""Signals of the guest that must not interrupt a call which the supervisor answers.

Until a notification is received, the kernel (as of Linux 6.18) lets a signal interrupt its caller. With SA_RESTART the
call then starts again; without, it fails with EINTR, even fork, which never does so elsewhere and which no program
retries. SIGCHLD comes when children end, that is, all the time between forks; dash handles it without SA_RESTART.
"""

from libc.stdint cimport uint64_t
from posix.types cimport pid_t

from sandlock._linux cimport Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_ioctl, SYS_process_vm_writev, raw_syscall
from sandlock._memory cimport IoVector, read_memory
from sandlock._run cimport Run

cdef enum:
    SA_RESTART = 0x10000000

cdef struct Action:           # the kernel's struct sigaction, as far as all architectures agree
    uint64_t handler
    uint64_t flags


cdef void add_restart(const Run *run, const Notification *notification) noexcept nogil:
    """Adds SA_RESTART to the action that the caller hands to rt_sigaction(2), in the caller's memory: the copy that its
    C library made for the call. Memory that cannot be written leaves everything as it was."""
    cdef Action action
    cdef IoVector local, remote
    cdef uint64_t address = notification.data.args[1]
    cdef pid_t tid = <pid_t>notification.pid
    if address == 0 or read_memory(tid, address, &action, sizeof(action)) < 0:
        return
    if action.handler <= 1 or action.flags & SA_RESTART:      # SIG_DFL, SIG_IGN
        return
    # Still waiting for our answer, so this is the caller's memory and not that of a recycled number.
    if raw_syscall(SYS_ioctl, run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&notification.id, 0, 0, 0) < 0:
        return
    action.flags |= SA_RESTART
    local.base = <uint64_t>&action.flags
    remote.base = address + sizeof(action.handler)
    local.length = remote.length = sizeof(action.flags)
    raw_syscall(SYS_process_vm_writev, tid, <long>&local, 1, <long>&remote, 1, 0)
