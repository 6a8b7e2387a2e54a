from sandlock._places cimport Place

cdef int follow_cached(long base, const char *path, int following, Place *place) noexcept nogil
