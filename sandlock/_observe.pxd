from libc.stdint cimport uint64_t

from sandlock._linux cimport Notification
from sandlock._run cimport Run

# All of them take NULL for an observer that could not be opened. The supervisor thread calls the first four, in its
# domain; the others are for a run that has ended.
cdef void *open_observer(const Run *run) noexcept nogil
cdef void observe_exec(void *observer, const Notification *notification) noexcept nogil
cdef void observe_start(void *observer, const Notification *notification) noexcept nogil
cdef void stop_observer(void *observer) noexcept nogil
cdef list take_records(void *observer)
cdef uint64_t dropped_records(void *observer) noexcept nogil
cdef void free_observer(void *observer) noexcept nogil
