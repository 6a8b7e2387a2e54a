from sandlock._redirect cimport Redirect
from sandlock._slots cimport Slot, Table

cdef int run_attested(Table *table, Slot *slot, Redirect *redirect) noexcept nogil
cdef void refuse(Table *table, Slot *slot, int cause, int error) noexcept nogil
