from sandlock._path_calls cimport PathCall

cdef int changes(const PathCall *call) noexcept nogil
cdef int meets_umask(const PathCall *call) noexcept nogil
cdef long act_on(PathCall *call, int listener) noexcept nogil
