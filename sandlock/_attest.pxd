from sandlock._slots cimport Slot, Table

cdef int run_attested(Table *table, Slot *slot) noexcept nogil
cdef void refuse(Table *table, Slot *slot, int cause, int error) noexcept nogil
