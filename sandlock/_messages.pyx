"""What a guest sends: its message as the kernel would take it, and sending it on the guest's behalf.

Only the destination is judged, and that is in a private copy (SocketCall.address) from the moment it was read. What is
sent to it is the guest's own affair and is read when it is sent.

Rules:
1. Nothing here waits: MSG_DONTWAIT always. The signal of a broken pipe is the guest's, not ours.
2. Ancillary data that could say where a packet goes (routing headers), or who sends it, is refused.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._linux cimport SYS_close, SYS_process_vm_writev, SYS_sendmsg, SYS_tgkill, raw_syscall
from sandlock._memory cimport (
    MAX_IOVECS, MAX_READ, IoVector, MessageHeader, read_iovecs, read_memory, read_msghdr,
)
from sandlock._sockets cimport duplicate

cdef extern from "<errno.h>" nogil:
    const int EFAULT
    const int EINVAL
    const int EMSGSIZE
    const int ENOBUFS
    const int EPERM
    const int EPIPE

cdef extern from "<signal.h>" nogil:
    const int SIGPIPE

cdef extern from "<sys/socket.h>" nogil:
    const int AF_UNIX
    const int MSG_DONTWAIT
    const int MSG_NOSIGNAL
    const int SCM_RIGHTS
    const int SOCK_STREAM
    const int SOL_SOCKET

cdef extern from * nogil:
    """
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <netinet/in.h>
    #ifndef MSG_ZEROCOPY
    #define MSG_ZEROCOPY 0x4000000
    #endif
    """
    const int IP_PKTINFO
    const int IP_TOS
    const int IP_TTL
    const int IPPROTO_IP
    const int IPPROTO_IPV6
    const int IPPROTO_UDP
    const int IPV6_HOPLIMIT
    const int IPV6_PKTINFO
    const int IPV6_TCLASS
    const int MSG_ZEROCOPY
    ctypedef struct Span "struct iovec":
        void *iov_base
        size_t iov_len
    ctypedef struct Parcel "struct msghdr":
        void *msg_name
        unsigned int msg_namelen
        Span *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen

cdef enum:
    HEADER = 16              # struct cmsghdr: length, level, type
    MAX_PASSED = 253         # SCM_MAX_FD
    UDP_SEGMENT = 103

cdef struct ControlHeader:
    size_t length            # with this header
    int level
    int type


cdef inline size_t aligned(size_t length) noexcept nogil:
    return (length + 7) & ~<size_t>7


# Reading -------------------------------------------------------------------------------------------------------------

cdef int may_say(const ControlHeader *header, int domain) noexcept nogil:
    """Whether a guest may send this kind of ancillary data along."""
    if header.level == SOL_SOCKET:
        return header.type == SCM_RIGHTS and domain == AF_UNIX
    if header.level == IPPROTO_IP:
        return header.type == IP_TOS or header.type == IP_TTL or header.type == IP_PKTINFO
    if header.level == IPPROTO_IPV6:
        return header.type == IPV6_HOPLIMIT or header.type == IPV6_TCLASS or header.type == IPV6_PKTINFO
    return header.level == IPPROTO_UDP and header.type == UDP_SEGMENT


cdef int control_at(const Outgoing *message, size_t at, ControlHeader *header) noexcept nogil:
    """Reads the header of the ancillary data at `at`. Returns 1, 0 behind the last one, or -EINVAL."""
    if at > message.control_length or message.control_length - at < HEADER:
        return 0
    memcpy(header, message.control + at, HEADER)
    return -EINVAL if header.length < HEADER or header.length > message.control_length - at else 1


cdef int check_control(Outgoing *out, int domain) noexcept nogil:
    """Whether all of the ancillary data may be sent. Returns 0; -EINVAL for what sendmsg(2) refuses, -EPERM."""
    cdef ControlHeader header
    cdef size_t at = 0
    cdef int found = control_at(out, at, &header)
    while found > 0:
        if not may_say(&header, domain):
            return -EPERM
        if header.level == SOL_SOCKET:
            if (header.length - HEADER) // 4 > MAX_PASSED:
                return -EINVAL
            out.passes_descriptors = 1
        at += aligned(header.length)
        found = control_at(out, at, &header)
    return found


cdef int read_outgoing(pid_t tid, const SocketCall *call, Outgoing *out) noexcept nogil:
    """Reads what is to be sent, all but the bytes themselves. Returns 0 or -errno."""
    cdef MessageHeader header
    cdef long result
    out.count = 1
    out.passes_descriptors = 0
    out.control_length = 0
    if call.flags & MSG_ZEROCOPY:
        return -ENOBUFS      # its notifications would be ours; programs then copy
    if call.message == 0:
        out.vectors[0].base = call.buffer
        out.vectors[0].length = call.size
        out.total = call.size
        return 0
    result = read_msghdr(tid, call.message, &header)
    if result < 0:
        return <int>result
    result = read_iovecs(tid, header.iovecs, header.iovec_count, out.vectors, MAX_IOVECS)
    if result < 0:
        return <int>result
    out.total = <uint64_t>result
    out.count = <int>header.iovec_count
    if header.control_length > MAX_CONTROL:
        return -ENOBUFS
    if header.control == 0 or header.control_length == 0:
        return 0
    result = read_memory(tid, header.control, out.control, header.control_length)
    if result < 0:
        return <int>result
    out.control_length = header.control_length
    return check_control(out, call.facts.domain)


cdef int64_t gather(pid_t tid, const Outgoing *message, uint64_t skip, char *into, size_t room) noexcept nogil:
    """Reads the bytes from `skip` on, as many as there is room for. Returns how many, or -errno."""
    cdef uint64_t length, part
    cdef size_t done = 0
    cdef long result
    cdef int i
    for i in range(message.count):
        length = message.vectors[i].length
        if skip >= length:
            skip -= length
            continue
        part = length - skip
        if part > room - done:
            part = room - done
        if part > MAX_READ:
            part = MAX_READ
        result = read_memory(tid, message.vectors[i].base + skip, into + done, part)
        if result < 0:
            return result if done == 0 else <int64_t>done
        done += part
        if done == room or part < length - skip:
            break
        skip = 0
    return <int64_t>done


# Sending -------------------------------------------------------------------------------------------------------------

cdef int take_passed(
    Caller *caller, int listener, uint64_t id, pid_t tid, Outgoing *message, int *taken, int *count
) noexcept nogil:
    """Puts duplicates of the descriptors that are passed in place of their numbers. Returns 0 or -errno."""
    cdef ControlHeader header
    cdef size_t at = 0, place
    cdef int32_t number
    cdef long ours
    while control_at(message, at, &header) > 0:
        if header.level == SOL_SOCKET and header.type == SCM_RIGHTS:
            place = at + HEADER
            while place + 4 <= at + header.length:
                memcpy(&number, message.control + place, 4)
                ours = -EINVAL if count[0] == MAX_PASSED else duplicate(caller, listener, id, tid, number)
                if ours < 0:
                    return <int>ours
                taken[count[0]] = <int>ours
                count[0] += 1
                number = <int32_t>ours
                memcpy(message.control + place, &number, 4)
                place += 4
        at += aligned(header.length)
    return 0


cdef int64_t send_some(
    Caller *caller, int listener, uint64_t id, pid_t tid, long descriptor, SocketCall *call, Outgoing *message,
    char *room
) noexcept nogil:
    """Sends the message, or of a stream's what is left of it as far as it goes now. `room`: MAX_PAYLOAD bytes. Returns
    how many bytes were sent, -EAGAIN if it would wait, or another -errno. Overwrites the message's ancillary data."""
    cdef Parcel parcel
    cdef Span span
    cdef int taken[MAX_PASSED]
    cdef int count = 0, i
    cdef int64_t result
    if call.facts.type != SOCK_STREAM and message.total > MAX_PAYLOAD:
        return -EMSGSIZE
    result = gather(tid, message, <uint64_t>call.progress, room, MAX_PAYLOAD)
    if result < 0:
        return result
    if call.facts.type != SOCK_STREAM and <uint64_t>result != message.total:
        return -EFAULT
    memset(&parcel, 0, sizeof(parcel))
    span.iov_base = room
    span.iov_len = <size_t>result
    parcel.msg_iov = &span
    parcel.msg_iovlen = 1
    if call.address_length > 0:
        parcel.msg_name = call.address
        parcel.msg_namelen = call.address_length
    result = 0
    if call.progress == 0 and message.control_length > 0:
        result = take_passed(caller, listener, id, tid, message, taken, &count)
        parcel.msg_control = message.control
        parcel.msg_controllen = message.control_length
    if result == 0:
        result = raw_syscall(
            SYS_sendmsg, descriptor, <long>&parcel, call.flags | MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0
        )
    for i in range(count):
        raw_syscall(SYS_close, taken[i], 0, 0, 0, 0, 0)
    return result


cdef void break_pipe(pid_t tgid, pid_t tid, const SocketCall *call, int64_t result) noexcept nogil:
    """The signal that comes with EPIPE, send(2)."""
    if result == -EPIPE and call.facts.type == SOCK_STREAM and not call.flags & MSG_NOSIGNAL:
        raw_syscall(SYS_tgkill, tgid, tid, SIGPIPE, 0, 0, 0)


cdef int write_count(pid_t tid, const SocketCall *call, int64_t count) noexcept nogil:
    """Writes msg_len of a struct mmsghdr. Returns 0 or -errno."""
    cdef uint32_t value = <uint32_t>count
    cdef IoVector local, remote
    cdef long result
    local.base = <uint64_t>&value
    local.length = 4
    remote.base = call.count_at
    remote.length = 4
    result = raw_syscall(SYS_process_vm_writev, tid, <long>&local, 1, <long>&remote, 1, 0)
    return 0 if result == 4 else -EFAULT
