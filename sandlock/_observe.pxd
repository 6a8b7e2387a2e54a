from sandlock._linux cimport Notification
from sandlock._run cimport Run

cdef void *open_observer(const Run *run) noexcept nogil
cdef void stop_observer(void *observer) noexcept nogil
cdef void observe_exec(void *observer, const Notification *notification) noexcept nogil
cdef void observe_start(void *observer, const Notification *notification) noexcept nogil
cdef list take_records(void *observer)
cdef void free_observer(void *observer) noexcept nogil
