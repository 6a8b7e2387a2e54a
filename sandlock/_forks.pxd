# The fast lane's part of a fork that is asked about.

from sandlock._linux cimport Notification
from sandlock._workers cimport Crew

cdef int vet_fork(Crew *crew, const Notification *notification) noexcept nogil
