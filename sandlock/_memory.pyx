"""Guest memory: read once, bounded, and decoded as the kernel would decode it. Native, without the GIL.

Rules:
1. Every length and count that the guest controls is checked before it is used. Nothing is silently cut short:
   the answer is whole, or it is an error.
2. Decoders take and fill plain structs and answer 0, a length, or -errno; they do not allocate, touch errno,
   or call the interpreter. Where the kernel would refuse, they answer the kernel's errno.
3. What a decoder answers comes from one private copy. To decide on one read and act on another is the race
   that we do not have: `Address.raw` is there to act on.

The Python face at the end is for tests and fuzzers; nothing in the SDK calls it.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset, strerror
from posix.types cimport pid_t

from sandlock._linux cimport (
    AddDescriptor, NetPortAttr, Notification, NotificationData, PathBeneathAttr, Response, RulesetAttr,
    SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND,
    SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYS_process_vm_readv, SYS_process_vm_writev, raw_syscall,
)

cdef extern from "<errno.h>" nogil:
    const int E2BIG
    const int EAFNOSUPPORT
    const int EFAULT
    const int EINVAL
    const int EMSGSIZE
    const int ENAMETOOLONG
    const int ENOBUFS

cdef extern from * nogil:
    """
    #include <limits.h>
    #include <stdint.h>
    #include <sys/socket.h>
    #include <unistd.h>

    /* struct iovec, for addresses of another process */
    struct sandlock_range { uint64_t address, length; };
    /* struct user_msghdr of linux/socket.h */
    struct sandlock_user_msghdr {
        uint64_t name;
        int name_length;
        uint64_t iovecs, iovec_count, control, control_length;
        uint32_t flags;
    };
    /* The kernel's writes are invisible to AddressSanitizer; a write of our own before them is not. */
    #ifdef __SANITIZE_ADDRESS__
    #include <string.h>
    #define sandlock_expect_room(into, length) memset(into, 0xA5, length)
    #else
    #define sandlock_expect_room(into, length) ((void)0)
    #endif
    """
    void expect_room "sandlock_expect_room"(void *into, size_t length) noexcept
    ctypedef struct Range "struct sandlock_range":
        uint64_t address
        uint64_t length
    ctypedef struct UserMessageHeader "struct sandlock_user_msghdr":
        uint64_t name
        int name_length
        uint64_t iovecs
        uint64_t iovec_count
        uint64_t control
        uint64_t control_length
        uint32_t flags
    const int AF_UNSPEC
    const int AF_UNIX
    const int AF_INET
    const int AF_INET6
    const int AF_NETLINK
    const int INT_MAX
    const int _SC_PAGESIZE
    long sysconf(int name) noexcept

cdef enum:
    # Strings are read in aligned blocks. Every page size of Linux is a multiple of it, so a block lies in one
    # page and is readable as a whole or not at all; a string's last block is the last that is touched.
    BLOCK = 4096
    POINTERS = 64            # of argv or envp, per read
    SUN_PATH_OFFSET = 2      # struct sockaddr_un: the family, then 108 bytes
    SUN_PATH_SIZE = 108
    SIZE_OF_INET = 16        # struct sockaddr_in
    SIZE_OF_INET6_SHORT = 24  # struct sockaddr_in6 without the scope: SIN6_LEN_RFC2133
    SIZE_OF_INET6 = 28
    SIZE_OF_NETLINK = 12

cdef uint64_t MAX_ADDRESS = <uint64_t>-1
# The kernel moves no more than this in one call: MAX_RW_COUNT of linux/fs.h.
cdef uint64_t MAX_TRANSFER = <uint64_t>INT_MAX & ~(<uint64_t>sysconf(_SC_PAGESIZE) - 1)


# Bytes ------------------------------------------------------------------------------------------------------

cdef long read_memory(pid_t tid, uint64_t address, void *into, size_t length) noexcept nogil:
    """Reads `length` bytes of a task's memory. Returns `length`, or -EMSGSIZE over MAX_READ, -EFAULT if any
    byte of them cannot be read, or another errno of process_vm_readv(2)."""
    cdef Range local, remote
    cdef long result
    if length > MAX_READ:
        return -EMSGSIZE
    if length > MAX_ADDRESS - address:
        return -EFAULT
    expect_room(into, length)
    local.address = <uint64_t>into
    local.length = length
    remote.address = address
    remote.length = length
    result = raw_syscall(SYS_process_vm_readv, tid, <long>&local, 1, <long>&remote, 1, 0)
    if result >= 0 and <size_t>result != length:
        return -EFAULT
    return result


cdef int write_memory(pid_t tid, uint64_t address, const void *from_, size_t length) noexcept nogil:
    """Writes the memory of a task that waits for an answer. Returns 0, or -EFAULT if any byte of it cannot be written,
    of which others may be; or another errno of process_vm_writev(2)."""
    cdef Range local, remote
    cdef long result
    if length == 0:
        return 0
    if length > MAX_ADDRESS - address:
        return -EFAULT
    local.address = <uint64_t>from_
    remote.address = address
    local.length = remote.length = length
    result = raw_syscall(SYS_process_vm_writev, tid, <long>&local, 1, <long>&remote, 1, 0)
    if result >= 0 and <size_t>result != length:
        return -EFAULT
    return 0 if result >= 0 else <int>result


# Strings ----------------------------------------------------------------------------------------------------

# The block that was read last: strings of an argv or envp lie close together, mostly many in one block.
cdef struct Window:
    uint64_t start           # a multiple of BLOCK, or MAX_ADDRESS for none
    char bytes[BLOCK]


cdef long copy_string(Window *window, pid_t tid, uint64_t address, char *into, size_t size) noexcept nogil:
    """Copies a string and its NUL. Returns the length without the NUL, -ENAMETOOLONG if that does not fit, or
    another -errno."""
    cdef size_t done = 0, offset, room
    cdef const char *found
    cdef const char *source
    cdef uint64_t start
    cdef long result
    while done < size:
        if done > MAX_ADDRESS - address:
            return -EFAULT
        offset = (address + done) & (BLOCK - 1)
        start = address + done - offset
        if window.start != start:
            window.start = MAX_ADDRESS
            result = read_memory(tid, start, window.bytes, BLOCK)
            if result < 0:
                return result
            window.start = start
        source = window.bytes + offset
        room = BLOCK - offset
        if room > size - done:
            room = size - done
        found = <const char *>memchr(source, 0, room)
        if found != NULL:
            memcpy(into + done, source, <size_t>(found - source) + 1)
            return <long>(done + <size_t>(found - source))
        memcpy(into + done, source, room)
        done += room
    return -ENAMETOOLONG


cdef long read_string(pid_t tid, uint64_t address, char *into, size_t size) noexcept nogil:
    """Reads a NUL-terminated string. Returns its length, -ENAMETOOLONG if `size` bytes hold no NUL, or
    another -errno. On an error `into` holds nothing of use."""
    cdef size_t done = 0, room
    cdef const char *found
    cdef long result
    while done < size:
        if done > MAX_ADDRESS - address:
            return -EFAULT
        room = BLOCK - <size_t>((address + done) & (BLOCK - 1))      # no further than its page, as above
        if room > size - done:
            room = size - done
        result = read_memory(tid, address + done, into + done, room)
        if result < 0:
            return result
        found = <const char *>memchr(into + done, 0, room)
        if found != NULL:
            return <long>(found - into)
        done += room
    return -ENAMETOOLONG


cdef long read_pointers(pid_t tid, uint64_t array, uint64_t *into) noexcept nogil:
    """Reads the next pointers of an array, one to POINTERS of them, as far as their page goes (beyond it may
    lie nothing). Returns how many, or -errno."""
    cdef size_t count = (BLOCK - (array & (BLOCK - 1))) >> 3
    cdef long result
    if count == 0:           # the array is not aligned: this pointer lies in two blocks
        count = 1
    if count > POINTERS:
        count = POINTERS
    result = read_memory(tid, array, into, count << 3)
    return result if result < 0 else <long>count


cdef long read_strings(
    pid_t tid, uint64_t array, char *into, size_t size, int limit, int *count
) noexcept nogil:
    """Reads an argv or envp of 64-bit pointers: its strings, each with its NUL, one after the other.

    Returns the bytes used and sets `count`; -E2BIG if there are more than `limit` strings or than `size`
    bytes, or another -errno. No array at all is an empty one: execve(2)."""
    cdef uint64_t pointers[POINTERS]
    cdef Window window
    cdef size_t used = 0
    cdef long available, length, i
    count[0] = 0
    if array == 0:
        return 0
    window.start = MAX_ADDRESS
    while True:
        available = read_pointers(tid, array, pointers)
        if available < 0:
            return available
        for i in range(available):
            if pointers[i] == 0:
                return <long>used
            if count[0] >= limit:
                return -E2BIG
            length = copy_string(&window, tid, pointers[i], into + used, size - used)
            if length < 0:
                return -E2BIG if length == -ENAMETOOLONG else length
            used += <size_t>length + 1
            count[0] += 1
        array += <uint64_t>available << 3


# Socket addresses -------------------------------------------------------------------------------------------

cdef inline uint16_t big_endian_16(const uint8_t *bytes) noexcept nogil:
    return <uint16_t>((bytes[0] << 8) | bytes[1])


cdef inline uint32_t native_32(const uint8_t *bytes) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, bytes, 4)
    return value


cdef inline int is_mapped(const uint8_t *bytes) noexcept nogil:
    """::ffff:0:0/96, which the kernel sends over IPv4."""
    cdef int i
    for i in range(10):
        if bytes[i] != 0:
            return 0
    return bytes[10] == 0xFF and bytes[11] == 0xFF


cdef void take_inet(const uint8_t *raw, Address *out) noexcept nogil:
    out.port = big_endian_16(raw + 2)
    out.width = 4
    memcpy(out.bytes, raw + 4, 4)


cdef void take_inet6(const uint8_t *raw, size_t length, Address *out) noexcept nogil:
    out.port = big_endian_16(raw + 2)
    if length >= SIZE_OF_INET6:
        out.scope_id = native_32(raw + 24)
    if is_mapped(raw + 8):
        out.mapped = 1
        out.width = 4
        memcpy(out.bytes, raw + 20, 4)
    else:
        out.width = 16
        memcpy(out.bytes, raw + 8, 16)


cdef void take_unix(const uint8_t *raw, size_t length, Address *out) noexcept nogil:
    cdef const uint8_t *path = raw + SUN_PATH_OFFSET
    cdef size_t size = length - SUN_PATH_OFFSET
    cdef const void *end
    if size == 0:
        return
    if path[0] == 0:         # abstract: all of the rest, NULs too
        out.abstract = 1
        path += 1
        size -= 1
    else:                    # a path: up to its NUL, or all 108 bytes
        end = memchr(path, 0, size)
        if end != NULL:
            size = <size_t>(<const uint8_t *>end - path)
    out.path_length = <int>size
    memcpy(out.path, path, size)


cdef int decode_sockaddr(const uint8_t *raw, size_t length, Address *out) noexcept nogil:
    """Decodes a socket address. Returns 0; -EINVAL for a length that the family's connect(2) or bind(2)
    refuses; -EAFNOSUPPORT for a family that we do not know (then only family, length and raw are set).

    An AF_UNIX address of two bytes is unnamed: bind(2) takes it (autobind), connect(2) does not.
    AF_UNSPEC disconnects a socket, except that sendto(2) on UDP over IPv4 takes one of 16 bytes as AF_INET
    (net/ipv4/udp.c): such a one has port, bytes and width filled in, and a rule has to look at them.
    """
    memset(out, 0, sizeof(Address))
    if length < 2 or length > MAX_SOCKADDR:
        return -EINVAL
    memcpy(out.raw, raw, length)
    out.length = <int>length
    memcpy(&out.family, raw, 2)
    if out.family == AF_INET:
        if length < SIZE_OF_INET:
            return -EINVAL
        take_inet(raw, out)
    elif out.family == AF_INET6:
        if length < SIZE_OF_INET6_SHORT:
            return -EINVAL
        take_inet6(raw, length, out)
    elif out.family == AF_UNIX:
        if length > SUN_PATH_OFFSET + SUN_PATH_SIZE:
            return -EINVAL
        take_unix(raw, length, out)
    elif out.family == AF_NETLINK:
        if length < SIZE_OF_NETLINK:
            return -EINVAL
        out.netlink_pid = native_32(raw + 4)
        out.netlink_groups = native_32(raw + 8)
    elif out.family == AF_UNSPEC:
        if length >= SIZE_OF_INET:
            take_inet(raw, out)
    else:
        return -EAFNOSUPPORT
    return 0


cdef int read_sockaddr(pid_t tid, uint64_t address, long length, Address *out) noexcept nogil:
    """Reads and decodes a socket address. Returns 0 or -errno; -EINVAL for a length that no address has."""
    cdef uint8_t raw[MAX_SOCKADDR]
    cdef long result
    memset(out, 0, sizeof(Address))
    if length < 0 or length > MAX_SOCKADDR:
        return -EINVAL
    result = read_memory(tid, address, raw, <size_t>length)
    if result < 0:
        return <int>result
    return decode_sockaddr(raw, <size_t>length, out)


# Messages ---------------------------------------------------------------------------------------------------

cdef int read_msghdr(pid_t tid, uint64_t address, MessageHeader *out) noexcept nogil:
    """Reads a msghdr with the checks of sendmsg(2) (copy_msghdr_from_user in net/socket.c). Returns 0 or
    -errno.

    A name that is too long is cut to MAX_SOCKADDR, as the kernel does it for messages (connect refuses
    it)."""
    cdef UserMessageHeader header
    cdef long result
    memset(out, 0, sizeof(MessageHeader))
    result = read_memory(tid, address, &header, sizeof(header))
    if result < 0:
        return <int>result
    if header.name == 0:
        header.name_length = 0
    if header.name_length < 0:
        return -EINVAL
    if header.name_length > MAX_SOCKADDR:
        header.name_length = MAX_SOCKADDR
    if header.iovec_count > MAX_IOVECS:
        return -EMSGSIZE
    if header.control_length > <uint64_t>INT_MAX:
        return -ENOBUFS
    out.name = header.name if header.name_length > 0 else 0
    out.name_length = header.name_length
    out.iovecs = header.iovecs
    out.iovec_count = header.iovec_count
    out.control = header.control
    out.control_length = header.control_length
    out.flags = header.flags
    return 0


cdef long read_iovecs(pid_t tid, uint64_t address, uint64_t count, IoVector *out, int limit) noexcept nogil:
    """Reads an array of iovec. Returns the sum of their lengths; -EMSGSIZE for more of them than the kernel
    or `limit` allows, -EINVAL for a negative length, -EFAULT for one beyond the end of memory, or another
    -errno.

    As in import_iovec (lib/iov_iter.c) the sum stops at MAX_RW_COUNT: what is over it is taken from the
    lengths."""
    cdef uint64_t total = 0
    cdef uint64_t i
    cdef long result
    if count > MAX_IOVECS or limit < 0 or count > <uint64_t>limit:
        return -EMSGSIZE
    result = read_memory(tid, address, out, count * sizeof(IoVector))
    if result < 0:
        return result
    for i in range(count):
        if <int64_t>out[i].length < 0:
            return -EINVAL
    for i in range(count):
        if out[i].length > MAX_ADDRESS - out[i].base:
            return -EFAULT
        if out[i].length > MAX_TRANSFER - total:
            out[i].length = MAX_TRANSFER - total
        total += out[i].length
    return <long>total


# The Python face, for tests and fuzzers ---------------------------------------------------------------------

__all__ = (
    "fetch_iovecs", "fetch_memory", "fetch_msghdr", "fetch_sockaddr", "fetch_string", "fetch_strings",
    "parse_sockaddr",
)


cdef enum:
    MAX_BUFFER = 1 << 30


cdef long check(long result) except -1:
    if result < 0:
        raise OSError(-result, strerror(<int>-result).decode())
    return result


cdef char *new_buffer(size_t size) except NULL:
    cdef char *buffer = <char *>malloc(size + 1) if size < MAX_BUFFER else NULL
    if buffer == NULL:
        raise MemoryError
    return buffer


cdef tuple address_values(const Address *address):
    return (
        address.family, address.port, address.scope_id, address.netlink_pid, address.netlink_groups,
        bool(address.mapped), bool(address.abstract), (<const char *>address.bytes)[:address.width],
        address.path[:address.path_length], (<const char *>address.raw)[:address.length],
    )


def fetch_memory(pid_t tid, uint64_t address, size_t length):
    """`length` bytes at an address of a task."""
    cdef char *buffer = new_buffer(length if length <= MAX_READ else 0)
    cdef long result
    try:
        with nogil:
            result = read_memory(tid, address, buffer, length)
        return buffer[:check(result)]
    finally:
        free(buffer)


def fetch_string(pid_t tid, uint64_t address, size_t size):
    """The string at an address, which with its NUL may take `size` bytes."""
    cdef char *buffer = new_buffer(size)
    cdef long result
    try:
        with nogil:
            result = read_string(tid, address, buffer, size)
        return buffer[:check(result)]
    finally:
        free(buffer)


def fetch_strings(pid_t tid, uint64_t array, size_t size, int limit):
    """The strings of an argv or envp: at most `limit` of them, in at most `size` bytes with their NULs."""
    cdef char *buffer = new_buffer(size)
    cdef int count = 0
    cdef long result
    try:
        with nogil:
            result = read_strings(tid, array, buffer, size, limit, &count)
        packed = buffer[:check(result)]
    finally:
        free(buffer)
    strings = packed.split(b"\0")[:-1]
    if len(strings) != count:
        raise AssertionError(f"{count} strings counted, {len(strings)} packed")
    return strings


def parse_sockaddr(bytes raw):
    """A socket address given as bytes: (family, port, scope_id, netlink_pid, netlink_groups, mapped,
    abstract, bytes, path, raw)."""
    cdef const char *start = raw
    cdef Address address
    check(decode_sockaddr(<const uint8_t *>start, len(raw), &address))
    return address_values(&address)


def fetch_sockaddr(pid_t tid, uint64_t address, long length):
    """The socket address at an address, as parse_sockaddr() has it."""
    cdef Address decoded
    check(read_sockaddr(tid, address, length, &decoded))
    return address_values(&decoded)


def fetch_msghdr(pid_t tid, uint64_t address):
    """(name, name_length, iovecs, iovec_count, control, control_length, flags) of a msghdr."""
    cdef MessageHeader header
    check(read_msghdr(tid, address, &header))
    return (
        header.name, header.name_length, header.iovecs, header.iovec_count, header.control,
        header.control_length, header.flags,
    )


def fetch_iovecs(pid_t tid, uint64_t address, uint64_t count, int limit=MAX_IOVECS):
    """(total, [(base, length), ...]) of an array of iovec."""
    cdef IoVector vectors[MAX_IOVECS]
    cdef long total
    if limit > MAX_IOVECS:
        raise ValueError(f"limit is at most {MAX_IOVECS}")
    total = check(read_iovecs(tid, address, count, vectors, limit))
    return total, [(vectors[i].base, vectors[i].length) for i in range(count)]


# Sizes and numbers as this module was compiled: a test holds them against cffi's reading of the kernel headers.
ABI = {
    "sizeof seccomp_notif": sizeof(Notification),
    "sizeof seccomp_data": sizeof(NotificationData),
    "sizeof seccomp_notif_resp": sizeof(Response),
    "sizeof seccomp_notif_addfd": sizeof(AddDescriptor),
    "sizeof landlock_ruleset_attr": sizeof(RulesetAttr),
    "sizeof landlock_path_beneath_attr": sizeof(PathBeneathAttr),
    "sizeof landlock_net_port_attr": sizeof(NetPortAttr),
    "SECCOMP_IOCTL_NOTIF_RECV": SECCOMP_IOCTL_NOTIF_RECV,
    "SECCOMP_IOCTL_NOTIF_SEND": SECCOMP_IOCTL_NOTIF_SEND,
    "SECCOMP_IOCTL_NOTIF_ID_VALID": SECCOMP_IOCTL_NOTIF_ID_VALID,
    "SECCOMP_IOCTL_NOTIF_ADDFD": SECCOMP_IOCTL_NOTIF_ADDFD,
    "SECCOMP_IOCTL_NOTIF_SET_FLAGS": SECCOMP_IOCTL_NOTIF_SET_FLAGS,
}
