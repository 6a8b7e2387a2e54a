from libc.stdint cimport int64_t

from sandlock._actions cimport Action
from sandlock._linux cimport Notification
from sandlock._workers cimport Crew

cdef int start_mediating(Crew *crew) noexcept nogil
cdef void stop_mediating(Crew *crew) noexcept nogil
cdef Action vet_path(Crew *crew, const Notification *notification, int64_t rule) noexcept nogil
