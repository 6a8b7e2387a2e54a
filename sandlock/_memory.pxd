# Decoders of guest memory. What they read may change at the next moment and may be hostile: a call reads a fact
# into memory of ours, and the caller decides and acts on that copy only.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from posix.types cimport pid_t

cdef enum:
    MAX_READ = 1 << 20       # bytes of one read_memory
    MAX_SOCKADDR = 128       # sizeof(struct sockaddr_storage)
    MAX_IOVECS = 1024        # UIO_MAXIOV

cdef struct Address:
    uint16_t family
    uint16_t port            # host order; AF_INET, AF_INET6, and see AF_UNSPEC
    uint32_t scope_id        # AF_INET6
    uint32_t netlink_pid     # AF_NETLINK
    uint32_t netlink_groups  # AF_NETLINK
    int mapped               # AF_INET6 that reaches IPv4 (::ffff:a.b.c.d): bytes hold the four of IPv4
    int abstract             # AF_UNIX: path is an abstract name (any bytes, without its leading NUL)
    int width                # how many of `bytes` count: 4, 16, or 0
    uint8_t bytes[16]        # network order
    int path_length          # AF_UNIX: 0 and not abstract: unnamed
    char path[108]           # not terminated
    int length               # how many of `raw` count
    uint8_t raw[MAX_SOCKADDR]  # what was decoded, to act on

cdef struct IoVector:
    uint64_t base
    uint64_t length

# struct user_msghdr, as sendmsg(2) will take it: name_length is 0 without a name and at most MAX_SOCKADDR.
cdef struct MessageHeader:
    uint64_t name
    int name_length
    uint64_t iovecs
    uint64_t iovec_count
    uint64_t control
    uint64_t control_length
    uint32_t flags

cdef long read_memory(pid_t tid, uint64_t address, void *into, size_t length) noexcept nogil
cdef int write_memory(pid_t tid, uint64_t address, const void *from_, size_t length) noexcept nogil
cdef long read_string(pid_t tid, uint64_t address, char *into, size_t size) noexcept nogil
cdef long read_strings(
    pid_t tid, uint64_t array, char *into, size_t size, int limit, int *count
) noexcept nogil
cdef int decode_sockaddr(const uint8_t *raw, size_t length, Address *out) noexcept nogil
cdef int read_sockaddr(pid_t tid, uint64_t address, long length, Address *out) noexcept nogil
cdef int read_msghdr(pid_t tid, uint64_t address, MessageHeader *out) noexcept nogil
cdef long read_iovecs(pid_t tid, uint64_t address, uint64_t count, IoVector *out, int limit) noexcept nogil
