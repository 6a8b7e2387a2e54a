from sandlock._linux cimport Notification
from sandlock._run cimport Run

cdef int listen_on_behalf(const Run *run, const Notification *notification) noexcept nogil
