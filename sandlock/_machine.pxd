# What the machine is said to be.

from sandlock._linux cimport Notification
from sandlock._run cimport Run

cdef int tell_names(const Run *run, const Notification *notification) noexcept nogil
cdef int tell_resources(const Run *run, const Notification *notification) noexcept nogil
