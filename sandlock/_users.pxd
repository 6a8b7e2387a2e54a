# Users and groups, of a run that sees others than the host's.

from libc.stdint cimport uint32_t

from sandlock._run cimport Run

cdef long user_from(const Run *run, uint32_t user) noexcept nogil
cdef long group_from(const Run *run, uint32_t group) noexcept nogil
cdef uint32_t user_for(const Run *run, uint32_t user) noexcept nogil
cdef uint32_t group_for(const Run *run, uint32_t group) noexcept nogil
