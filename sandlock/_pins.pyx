"""The addresses that the names of a policy stand for in one run, and where lookups of names are taken. See _pins.pxd
for who reads and writes. Values only; no system call is made here.
"""

from libc.stdint cimport uint16_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from * nogil:
    """
    #define sandlock_pins_load(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define sandlock_pins_store(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    """
    int load "sandlock_pins_load"(const int *at) noexcept
    void store "sandlock_pins_store"(int *at, int value) noexcept

cdef extern from "<errno.h>" nogil:
    const int ENOSPC

cdef extern from "<sys/socket.h>" nogil:
    const int AF_INET6


# What the fast lane reads ---------------------------------------------------------------------------------------------

cdef void find_hosts(const Pins *pins, const uint8_t *bytes, int width, Hosts *out) noexcept nogil:
    """The names of the policy that led to this address."""
    cdef const Pin *each
    cdef int i
    memset(out, 0, sizeof(Hosts))
    for i in range(load(&pins.count)):
        each = &pins.entries[i]
        if each.width == width and memcmp(each.bytes, bytes, width) == 0:
            out.bits[each.host // 64] |= <uint64_t>1 << (each.host % 64)


cdef int has_host(const Hosts *hosts, int host) noexcept nogil:
    return (hosts.bits[host // 64] >> (host % 64)) & 1


cdef void write_port(uint8_t *address, uint16_t port) noexcept nogil:
    address[2] = <uint8_t>(port >> 8)
    address[3] = <uint8_t>(port & 0xFF)


cdef void aim_at_resolver(const Pins *pins, uint8_t *address, int width) noexcept nogil:
    """Puts the resolver's address into a sockaddr_in, or a sockaddr_in6 whose address has `width` bytes that count."""
    cdef uint16_t family
    memcpy(&family, address, 2)
    if family != AF_INET6:
        write_port(address, pins.port)
        memset(address + 4, 0, 4)
        address[4] = 127
        address[7] = 1
        return
    memset(address + 4, 0, 24)       # flow, address, scope
    if width == 16 and pins.port6 != 0:
        write_port(address, pins.port6)
        address[23] = 1
        return
    write_port(address, pins.port)   # IPv4 in IPv6
    address[18] = address[19] = 0xFF
    address[20] = 127
    address[23] = 1


# Who asks -------------------------------------------------------------------------------------------------------------

cdef void note_asker(Pins *pins, long port, int pid) noexcept nogil:
    """A socket of the tree with this local port is about to be sent to the resolver."""
    if 0 < port < 65536:
        store(&pins.askers[port], pid)


cdef int asker_of(const Pins *pins, int port) noexcept nogil:
    """The process whose socket that was, 0 for none of the tree's."""
    return load(&pins.askers[port]) if 0 < port < 65536 else 0


# What Python writes ---------------------------------------------------------------------------------------------------

cdef int add_pin(Pins *pins, int host, const uint8_t *bytes, int width) noexcept nogil:
    """The address now belongs to the name. Returns 0 or -ENOSPC. One writer at a time."""
    cdef int i
    cdef Pin *entry
    for i in range(pins.count):
        entry = &pins.entries[i]
        if entry.host == host and entry.width == width and memcmp(entry.bytes, bytes, width) == 0:
            return 0
    if pins.count >= MAX_PINS:
        store(&pins.full, 1)
        return -ENOSPC
    entry = &pins.entries[pins.count]
    entry.host = host
    entry.width = width
    memcpy(entry.bytes, bytes, width)
    store(&pins.count, pins.count + 1)
    return 0
