# Where a socket call leads, and what the policy's rules say of it.

from libc.stdint cimport uint16_t, uint32_t, uint8_t

from sandlock._memory cimport Address
from sandlock._pins cimport Pins
from sandlock._run cimport NetRules

cdef enum Operation:
    OPERATION_EXEC = 0       # this, and what follows the network, is here for those who tell all calls apart
    OPERATION_CONNECT = 1
    OPERATION_SEND = 2
    OPERATION_BIND = 3
    OPERATION_LISTEN = 4
    OPERATION_FORK = 5
    OPERATION_HANDLER = 6
    OPERATION_OPEN = 7
    OPERATION_PATH = 8       # another call on a path

cdef enum Decision:
    DECIDED_DENY = 0
    DECIDED_ALLOW = 1
    DECIDED_ASK = 2

cdef enum:
    MAX_SOCKET_PATH = 512    # of a unix socket, links resolved; longer ones are denied

cdef struct Endpoint:
    int operation            # enum Operation
    int protocol             # one bit of Protocols
    uint16_t port
    uint32_t scope_id
    int width                # of `bytes`: 4, 16, or 0 for none
    uint8_t bytes[16]
    int abstract
    int path_length
    char path[MAX_SOCKET_PATH]

cdef inline int is_of_paths(int operation) noexcept nogil:
    return operation == OPERATION_OPEN or operation == OPERATION_PATH

cdef inline int is_of_network(int operation) noexcept nogil:
    return OPERATION_CONNECT <= operation <= OPERATION_LISTEN

cdef int protocol_of(int domain, int number) noexcept nogil
cdef int set_destination(Endpoint *endpoint, const Address *address) noexcept nogil
cdef int decide(
    const NetRules *rules, const Pins *pins, int asks, const Endpoint *endpoint, int *rule
) noexcept nogil
cdef int is_lookup(const Endpoint *endpoint) noexcept nogil
