# The fast lane's part of an open that is decided.

from libc.stdint cimport int64_t

from sandlock._linux cimport Notification
from sandlock._workers cimport Crew

cdef int queue_path(
    Crew *crew, const Notification *notification, int64_t rule, const char *path, long length
) noexcept nogil
cdef int vet_open(Crew *crew, const Notification *notification, int asks) noexcept nogil
