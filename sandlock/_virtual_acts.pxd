# Where a program is, in its virtual root, and what the links of /proc say of it.

from posix.types cimport pid_t

from sandlock._path_calls cimport PathCall
from sandlock._run cimport VirtualRoot

cdef long tell_directory(const VirtualRoot *root, long own_table, const PathCall *call) noexcept nogil
cdef long as_seen_link(const VirtualRoot *root, const char *link, char *text, long length, long size) noexcept nogil
