# The addresses that the names of a policy stand for in one run, and where lookups of names are taken.
#
# Python writes, under the GIL; the fast lane reads, without a lock: an entry is complete before it is counted, and
# never changes or goes afterwards.

from libc.stdint cimport uint16_t, uint64_t, uint8_t

cdef enum:
    MAX_PINS = 4096
    MAX_HOSTS = 1024         # names of a policy
    HOST_WORDS = 17          # of 64 bits: one bit for each name and for 0

cdef struct Pin:
    int host                 # the number of the name in the policy, from 1
    int width                # of `bytes`: 4 or 16
    uint8_t bytes[16]

cdef struct Pins:
    uint16_t port            # of the resolver on 127.0.0.1; 0: there is none
    uint16_t port6           # of the resolver on ::1; 0: there is none
    int full                 # an address found no room: what is denied by name cannot be told any more
    int count
    Pin entries[MAX_PINS]
    int askers[65536]    # by local port: the process whose socket there was sent to the resolver last, 0 for none

cdef struct Hosts:
    uint64_t bits[HOST_WORDS]

cdef void find_hosts(const Pins *pins, const uint8_t *bytes, int width, Hosts *out) noexcept nogil
cdef int has_host(const Hosts *hosts, int host) noexcept nogil
cdef void aim_at_resolver(const Pins *pins, uint8_t *address, int width) noexcept nogil
cdef void note_asker(Pins *pins, long port, int pid) noexcept nogil
cdef int asker_of(const Pins *pins, int port) noexcept nogil
cdef int add_pin(Pins *pins, int host, const uint8_t *bytes, int width) noexcept nogil
