# What a path call says besides its paths.

from sandlock._path_calls cimport PathCall
from sandlock._sockets cimport Caller

cdef int read_details(PathCall *call, Caller *caller, int listener) noexcept nogil
cdef void forget_details(PathCall *call) noexcept nogil
