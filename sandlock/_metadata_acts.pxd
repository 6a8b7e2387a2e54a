from sandlock._path_calls cimport PathCall
from sandlock._run cimport Run

cdef long change_metadata(PathCall *call, const Run *run) noexcept nogil
