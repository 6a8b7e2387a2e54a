from libc.stdint cimport int64_t

from sandlock._linux cimport Notification
from sandlock._workers cimport Crew

cdef enum:
    HELD = -100000           # no result: somebody else answers

cdef int64_t vet_socket(Crew *crew, const Notification *notification) noexcept nogil
