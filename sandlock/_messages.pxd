# What a guest sends: its message as the kernel would take it, and sending it on the guest's behalf.

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._memory cimport MAX_IOVECS, IoVector
from sandlock._sockets cimport Caller, SocketCall

cdef enum:
    MAX_PAYLOAD = 1 << 18    # bytes of one datagram, and of what is sent of a stream at once
    MAX_CONTROL = 8192       # bytes of ancillary data

cdef struct Outgoing:
    int count
    IoVector vectors[MAX_IOVECS]
    uint64_t total
    int passes_descriptors
    size_t control_length
    char control[MAX_CONTROL]

cdef int read_outgoing(pid_t tid, const SocketCall *call, Outgoing *out) noexcept nogil
cdef int64_t send_some(
    Caller *caller, int listener, uint64_t id, pid_t tid, long descriptor, SocketCall *call, Outgoing *message,
    char *room
) noexcept nogil
cdef void break_pipe(pid_t tgid, pid_t tid, const SocketCall *call, int64_t result) noexcept nogil
cdef int write_count(pid_t tid, const SocketCall *call, int64_t count) noexcept nogil
