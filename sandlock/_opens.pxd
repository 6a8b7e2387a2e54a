# The fast lane's part of an open that is decided.

from sandlock._linux cimport Notification
from sandlock._workers cimport Crew

cdef int vet_open(Crew *crew, const Notification *notification, int asks) noexcept nogil
