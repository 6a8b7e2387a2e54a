from sandlock._programs cimport Viewer
from sandlock._slots cimport Slot, Table

cdef void viewer_of(const Table *table, const Slot *slot, Viewer *viewer) noexcept nogil
