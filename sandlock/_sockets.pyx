"""Socket calls that the supervisor makes on the guest's behalf, on a duplicate of the guest's socket.

listen(2) is the first of them: a socket that was never bound gets a port of the kernel's choice there, on every
address, and Landlock's bind right does not see it. So the port is looked at on the socket itself, and the call is
made here, on the same socket: the guest can swap its descriptor, but not what was looked at.
"""

from libc.stdint cimport uint16_t, uint8_t
from posix.types cimport pid_t

from sandlock._linux cimport (
    Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_close, SYS_getsockname, SYS_ioctl, SYS_listen, SYS_pidfd_getfd,
    SYS_pidfd_open, SYS_shutdown, raw_syscall,
)
from sandlock._run cimport Run
from sandlock._tasks cimport thread_group_of

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINVAL
    const int ENOENT
    const int ESRCH

cdef extern from "<sys/socket.h>" nogil:
    const int AF_INET
    const int AF_INET6
    const int SHUT_RDWR

cdef enum:
    PIDFD_THREAD = 0o200               # Linux 6.9
    LANDLOCK_ACCESS_NET_BIND_TCP = 1

cdef struct SocketAddress:
    uint16_t family
    uint8_t port[2]
    uint8_t rest[124]


cdef long duplicate(const Run *run, const Notification *notification, long descriptor) noexcept nogil:
    """The caller's descriptor in our table, or -errno."""
    cdef pid_t tid = <pid_t>notification.pid
    cdef long duplicated
    cdef long pidfd = raw_syscall(SYS_pidfd_open, tid, PIDFD_THREAD, 0, 0, 0, 0)
    if pidfd == -EINVAL:
        pidfd = raw_syscall(SYS_pidfd_open, thread_group_of(tid), 0, 0, 0, 0, 0)
    if pidfd < 0:
        return pidfd
    # Still waiting for our answer, so the pidfd is the caller's and not that of a recycled number.
    if raw_syscall(SYS_ioctl, run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&notification.id, 0, 0, 0) < 0:
        duplicated = -ESRCH
    else:
        duplicated = raw_syscall(SYS_pidfd_getfd, pidfd, descriptor, 0, 0, 0, 0)
    raw_syscall(SYS_close, pidfd, 0, 0, 0, 0, 0)
    return duplicated


cdef int port_is_granted(const Run *run, unsigned int port) noexcept nogil:
    cdef int i
    for i in range(run.program.guest.port_count):
        if run.program.guest.ports[i].port == port:
            return run.program.guest.ports[i].access & LANDLOCK_ACCESS_NET_BIND_TCP != 0
    return 0


cdef int is_bound_as_granted(const Run *run, long descriptor) noexcept nogil:
    """Bound to a port of the policy; other families than the internet's have no port."""
    cdef SocketAddress address
    cdef unsigned int length = sizeof(address)
    if raw_syscall(SYS_getsockname, descriptor, <long>&address, <long>&length, 0, 0, 0) < 0:
        return 0
    if address.family != AF_INET and address.family != AF_INET6:
        return 1
    return port_is_granted(run, (<unsigned int>address.port[0] << 8) | address.port[1])


cdef int listen_on_behalf(const Run *run, const Notification *notification) noexcept nogil:
    """listen(2) for the caller. Returns 0 or the (positive) errno."""
    cdef long result
    cdef long descriptor = duplicate(run, notification, <int>notification.data.args[0])
    if descriptor < 0:
        return <int>-descriptor
    if not is_bound_as_granted(run, descriptor):
        result = -EACCES
    else:
        result = raw_syscall(SYS_listen, descriptor, <int>notification.data.args[1], 0, 0, 0, 0)
        # A port can only have changed if the guest dissolved the binding in between: it gets no listener for that.
        if result == 0 and not is_bound_as_granted(run, descriptor):
            raw_syscall(SYS_shutdown, descriptor, SHUT_RDWR, 0, 0, 0, 0)
            result = -EACCES
    raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    return <int>-result
