from sandlock._places cimport Place

cdef int follow_cached(long base, const char *path, int following, int no_links, Place *place) noexcept nogil
