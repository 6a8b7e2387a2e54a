"""Calls that tell about the machine: answered with what the kernel says, but for what the policy shows instead.

Rules: such a call only writes, so nothing of the caller's is read and nothing is decided. What cannot be written is
EFAULT, as it is for the kernel; no answer lets the call go on, for that would tell what is not to be told.
"""

from libc.string cimport memset, strncpy
from posix.types cimport pid_t

from sandlock._linux cimport Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_ioctl, raw_syscall
from sandlock._memory cimport write_memory
from sandlock._run cimport Run

cdef extern from "<errno.h>" nogil:
    const int EFAULT

cdef extern from * nogil:
    """
    #include <linux/sysinfo.h>
    #include <sys/syscall.h>
    #include <linux/utsname.h>
    """
    const long SYS_sysinfo
    const long SYS_uname
    ctypedef struct Names "struct new_utsname":
        char nodename[65]
        char domainname[65]
    ctypedef struct Resources "struct sysinfo":
        unsigned long loads[3]
        unsigned long totalram
        unsigned long freeram
        unsigned long sharedram
        unsigned long bufferram
        unsigned long totalswap
        unsigned long freeswap
        unsigned short procs
        unsigned long totalhigh
        unsigned long freehigh
        unsigned int mem_unit


cdef int hand_over(
    const Run *run, const Notification *notification, unsigned long long address, const void *source, size_t size
) noexcept nogil:
    """Writes an answer into the caller's memory. Returns 0 or an errno."""
    # Still waiting for our answer, so this is the caller's memory and not that of a recycled number.
    if raw_syscall(SYS_ioctl, run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&notification.id, 0, 0, 0) < 0:
        return EFAULT
    return 0 if write_memory(<pid_t>notification.pid, address, source, size) == 0 else EFAULT


cdef int tell_names(const Run *run, const Notification *notification) noexcept nogil:
    """uname(2), with the policy's name of the machine. Returns 0 or an errno."""
    cdef Names names
    cdef long result
    memset(&names, 0, sizeof(names))
    result = raw_syscall(SYS_uname, <long>&names, 0, 0, 0, 0, 0)
    if result < 0:
        return <int>-result
    # strncpy fills up with NULs: nothing is left of a longer name.
    strncpy(names.nodename, run.program.hostname, sizeof(names.nodename))
    strncpy(names.domainname, b"(none)", sizeof(names.domainname))
    return hand_over(run, notification, notification.data.args[0], &names, sizeof(names))


cdef int tell_resources(const Run *run, const Notification *notification) noexcept nogil:
    """sysinfo(2): the time since the boot, which every clock tells, and the memory as /proc/meminfo shows it; nothing
    of what others do. Returns 0 or an errno."""
    cdef Resources resources
    cdef long result
    memset(&resources, 0, sizeof(resources))
    result = raw_syscall(SYS_sysinfo, <long>&resources, 0, 0, 0, 0, 0)
    if result < 0:
        return <int>-result
    memset(resources.loads, 0, sizeof(resources.loads))
    resources.totalram = <unsigned long>run.memory_total
    resources.freeram = <unsigned long>run.memory_free
    resources.sharedram = resources.bufferram = resources.totalswap = resources.freeswap = 0
    resources.totalhigh = resources.freehigh = 0
    resources.procs = 1
    resources.mem_unit = 1
    return hand_over(run, notification, notification.data.args[0], &resources, sizeof(resources))
