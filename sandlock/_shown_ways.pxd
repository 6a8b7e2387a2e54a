# Paths of a run in which something is hidden.

from libc.stdint cimport uint64_t

from sandlock._paths cimport Origin, Place

cdef int leaves_hidden(const Origin *origin, long directory) noexcept nogil
cdef int follow_shown(
    const Origin *origin, long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil
