from sandlock._path_calls cimport PathCall
from sandlock._paths cimport Place
from sandlock._run cimport Run

cdef long change_metadata(PathCall *call, const Run *run) noexcept nogil
cdef int may_read(const Place *place) noexcept nogil
