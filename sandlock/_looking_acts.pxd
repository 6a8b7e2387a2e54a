from sandlock._path_calls cimport PathCall
from sandlock._run cimport Run

cdef long look(PathCall *call, const Run *run) noexcept nogil
