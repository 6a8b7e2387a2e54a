from sandlock._path_calls cimport Name, PathCall
from sandlock._run cimport Run

cdef int meets_umask(const PathCall *call) noexcept nogil
cdef int waits(const PathCall *call) noexcept nogil
cdef long act_on(PathCall *call, const Run *run) noexcept nogil
