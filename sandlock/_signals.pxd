from sandlock._linux cimport Notification
from sandlock._run cimport Run

cdef void add_restart(const Run *run, const Notification *notification) noexcept nogil
