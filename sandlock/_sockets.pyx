"""A socket of the guest, as a duplicate in our own table, and what is done to it on the guest's behalf.

The guest can swap what its descriptor number means at any time, but not the socket behind our duplicate: what was
looked at is what is acted on. Nothing here waits: where the guest's socket is a blocking one, O_NONBLOCK is set on it
for the length of one connect(2), and whoever called waits for the end elsewhere (_poller).
"""

from libc.stdint cimport uint16_t, uint64_t, uint8_t
from libc.string cimport memset
from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_SEND
from sandlock._linux cimport (
    Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_bind, SYS_close, SYS_connect, SYS_fcntl, SYS_getsockname,
    SYS_getsockopt, SYS_ioctl, SYS_listen, SYS_pidfd_getfd, SYS_pidfd_open, SYS_shutdown, raw_syscall,
)
from sandlock._run cimport Run
from sandlock._tasks cimport thread_group_of

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EALREADY
    const int EINPROGRESS
    const int EINVAL
    const int ESRCH

cdef extern from "<fcntl.h>" nogil:
    const int F_GETFL
    const int F_SETFL
    const int O_NONBLOCK

cdef extern from "<sys/socket.h>" nogil:
    const int AF_INET
    const int AF_INET6
    const int MSG_DONTWAIT
    const int SHUT_RDWR
    const int SOCK_STREAM
    const int SOCK_SEQPACKET
    const int SOL_SOCKET

cdef extern from * nogil:
    """
    #include <asm/socket.h>
    #ifndef SO_COOKIE
    #define SO_COOKIE 57                       /* Linux 4.6 */
    #endif
    #ifdef SO_SNDTIMEO_OLD
    #define SANDLOCK_SO_SNDTIMEO SO_SNDTIMEO_OLD
    #else
    #define SANDLOCK_SO_SNDTIMEO SO_SNDTIMEO
    #endif
    """
    const int SO_COOKIE
    const int SO_DOMAIN
    const int SO_PROTOCOL
    const int SO_SNDTIMEO "SANDLOCK_SO_SNDTIMEO"
    const int SO_TYPE

cdef enum:
    PIDFD_THREAD = 0o200               # Linux 6.9
    LANDLOCK_ACCESS_NET_BIND_TCP = 1

cdef struct SocketAddress:
    uint16_t family
    uint8_t port[2]
    uint8_t rest[124]


cdef long take(long pidfd, long descriptor) noexcept nogil:
    return raw_syscall(SYS_pidfd_getfd, pidfd, descriptor, 0, 0, 0, 0)


cdef void forget_caller(Caller *caller) noexcept nogil:
    if caller.tid != 0:
        raw_syscall(SYS_close, caller.pidfd, 0, 0, 0, 0, 0)
        caller.tid = 0


cdef long duplicate(Caller *caller, int listener, uint64_t id, pid_t tid, long descriptor) noexcept nogil:
    """A descriptor of a caller that waits for our answer to `id`, in our table; or -errno. pidfd_getfd(2)."""
    cdef long pidfd, duplicated
    cdef int lasting = 1
    if caller.tid == tid:
        # A pidfd stays with its task, and as long as that lives nobody else has its number: it is the caller.
        duplicated = take(caller.pidfd, descriptor)
        if duplicated != -ESRCH:
            return duplicated
    pidfd = raw_syscall(SYS_pidfd_open, tid, PIDFD_THREAD, 0, 0, 0, 0)
    if pidfd == -EINVAL:
        lasting = 0          # of the process: that may outlive the thread, and the thread's number
        pidfd = raw_syscall(SYS_pidfd_open, thread_group_of(tid), 0, 0, 0, 0, 0)
    if pidfd < 0:
        return pidfd
    # Still waiting for our answer, so the pidfd is the caller's and not that of a recycled number.
    if raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&id, 0, 0, 0) < 0:
        lasting = 0
        duplicated = -ESRCH
    else:
        duplicated = take(pidfd, descriptor)
    if not lasting:
        raw_syscall(SYS_close, pidfd, 0, 0, 0, 0, 0)
        return duplicated
    forget_caller(caller)
    caller.tid = tid
    caller.pidfd = <int>pidfd
    return duplicated


# What it is ----------------------------------------------------------------------------------------------------------

cdef long option_of(long descriptor, int name, void *into, unsigned int size) noexcept nogil:
    return raw_syscall(SYS_getsockopt, descriptor, SOL_SOCKET, name, <long>into, <long>&size, 0)


cdef int look_at(long descriptor, SocketFacts *out) noexcept nogil:
    """Returns 0, or -errno: -ENOTSOCK for what is no socket."""
    cdef long result
    memset(out, 0, sizeof(SocketFacts))
    result = option_of(descriptor, SO_DOMAIN, &out.domain, sizeof(int))
    if result == 0:
        result = option_of(descriptor, SO_TYPE, &out.type, sizeof(int))
    if result == 0:
        result = option_of(descriptor, SO_PROTOCOL, &out.protocol, sizeof(int))
    if result == 0:
        result = raw_syscall(SYS_fcntl, descriptor, F_GETFL, 0, 0, 0, 0)
        out.flags = <int>result
    return <int>result if result < 0 else 0


cdef uint64_t cookie_of(long descriptor) noexcept nogil:
    """Who a socket is, for as long as the machine runs; 0 for what is no socket."""
    cdef uint64_t cookie = 0
    option_of(descriptor, SO_COOKIE, &cookie, sizeof(cookie))
    return cookie


cdef int may_wait(const SocketCall *call) noexcept nogil:
    """Whether the guest expects this call to wait where it cannot be done at once."""
    if call.endpoint.operation == OPERATION_SEND and call.flags & MSG_DONTWAIT:
        return 0
    return not call.facts.flags & O_NONBLOCK


cdef long send_limit_ms(long descriptor) noexcept nogil:
    """SO_SNDTIMEO, which also limits connect(2), in ms; -1 for none. socket(7)."""
    cdef long limit[2]
    if option_of(descriptor, SO_SNDTIMEO, limit, sizeof(limit)) < 0 or (limit[0] == 0 and limit[1] == 0):
        return -1
    return limit[0] * 1000 + (limit[1] + 999) // 1000


# Connect -------------------------------------------------------------------------------------------------------------

cdef long start_connect(long descriptor, const SocketCall *call) noexcept nogil:
    """connect(2) without waiting. Where the guest's own call would wait, it is -EINPROGRESS (a unix socket: -EAGAIN),
    and to be called again when the socket can be written to: that also tells the socket that it is connected."""
    cdef int waits = call.facts.type == SOCK_STREAM or call.facts.type == SOCK_SEQPACKET
    cdef long result
    if not waits or not may_wait(call):
        return raw_syscall(SYS_connect, descriptor, <long>call.address, call.address_length, 0, 0, 0)
    raw_syscall(SYS_fcntl, descriptor, F_SETFL, call.facts.flags | O_NONBLOCK, 0, 0, 0)
    result = raw_syscall(SYS_connect, descriptor, <long>call.address, call.address_length, 0, 0, 0)
    if result == -EINPROGRESS:       # over the loopback the answer is there already
        result = raw_syscall(SYS_connect, descriptor, <long>call.address, call.address_length, 0, 0, 0)
    raw_syscall(SYS_fcntl, descriptor, F_SETFL, call.facts.flags, 0, 0, 0)
    return -EINPROGRESS if result == -EALREADY else result


cdef long bind_anywhere(long descriptor, int domain) noexcept nogil:
    """Gives an internet socket the port that its first send would have given it. Returns 0 or -errno."""
    cdef SocketAddress address
    memset(&address, 0, sizeof(address))
    address.family = <uint16_t>domain
    return raw_syscall(SYS_bind, descriptor, <long>&address, 16 if domain == AF_INET else 28, 0, 0, 0)


# Listen --------------------------------------------------------------------------------------------------------------
#
# A socket that was never bound gets a port of the kernel's choice from listen(2), on every address, and Landlock's bind
# right does not see it. So the port is looked at on the socket itself.

cdef long bound_port(long descriptor) noexcept nogil:
    """The port that an internet socket is bound to, 0 for none (yet); -1 for other families; or -errno."""
    cdef SocketAddress address
    cdef unsigned int length = sizeof(address)
    cdef long result = raw_syscall(SYS_getsockname, descriptor, <long>&address, <long>&length, 0, 0, 0)
    if result < 0:
        return result
    if address.family != AF_INET and address.family != AF_INET6:
        return -1
    return (<long>address.port[0] << 8) | address.port[1]


cdef long listen_here(long descriptor, int backlog, long port) noexcept nogil:
    """listen(2) on a socket that was found bound to `port`. Returns 0 or -errno."""
    cdef long result = raw_syscall(SYS_listen, descriptor, backlog, 0, 0, 0, 0)
    # A port can only have changed if the guest dissolved the binding in between: it gets no listener for that.
    if result == 0 and port != 0 and bound_port(descriptor) != port:
        raw_syscall(SYS_shutdown, descriptor, SHUT_RDWR, 0, 0, 0, 0)
        return -EACCES
    return result


cdef int port_is_granted(const Run *run, long port) noexcept nogil:
    cdef int i
    if port == -1:
        return 1                       # no port, nothing to grant
    for i in range(run.program.guest.port_count):
        if <long>run.program.guest.ports[i].port == port:
            return run.program.guest.ports[i].access & LANDLOCK_ACCESS_NET_BIND_TCP != 0
    return 0


cdef int listen_on_behalf(const Run *run, Caller *caller, const Notification *notification) noexcept nogil:
    """listen(2) for the caller, on a port that Landlock lets it bind. Returns 0 or the (positive) errno."""
    cdef long port, result
    cdef long descriptor = duplicate(
        caller, run.listener, notification.id, <pid_t>notification.pid, <int>notification.data.args[0]
    )
    if descriptor < 0:
        return <int>-descriptor
    port = bound_port(descriptor)
    if port < -1:
        result = port
    elif not port_is_granted(run, port):
        result = -EACCES
    else:
        result = listen_here(descriptor, <int>notification.data.args[1], port)
    raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    return <int>-result
