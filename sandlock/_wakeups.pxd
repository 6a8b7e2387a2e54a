# Waking those who wait for something to do.

from libc.stdint cimport int64_t

from sandlock._slots cimport Seat, Table

cdef void wake_workers(Table *table, int how_many) noexcept nogil
cdef void wait_for_work(Table *table, Seat *seat, int seen, int64_t milliseconds, int watches) noexcept nogil
cdef void wake_python(Table *table) noexcept nogil
cdef void wake_poller(Table *table) noexcept nogil
cdef void wake_openers(Table *table, int how_many) noexcept nogil
