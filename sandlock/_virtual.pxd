from sandlock._actions cimport Action
from sandlock._linux cimport Notification
from sandlock._slots cimport Table

cdef Action open_virtually(Table *table, const Notification *notification) noexcept nogil
