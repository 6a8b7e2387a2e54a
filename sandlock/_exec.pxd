from sandlock._linux cimport Notification
from sandlock._slots cimport Table
from sandlock._workers cimport Crew

cdef int vet_exec(Table *table, Crew *crew, const Notification *notification) noexcept nogil
