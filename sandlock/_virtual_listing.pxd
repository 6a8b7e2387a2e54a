# Listings of directories in which there are mounts.

from posix.types cimport pid_t

from sandlock._path_calls cimport PathCall
from sandlock._run cimport VirtualRoot
from sandlock._sockets cimport Caller

cdef long add_mounts(
    const VirtualRoot *root, int mount, const char *real, int number, long directory, char *entries, long size, long room
) noexcept nogil
cdef int may_list_mounts(const VirtualRoot *root, pid_t tid, int descriptor) noexcept nogil
cdef long list_directory(
    const VirtualRoot *root, long own_table, PathCall *call, Caller *holder, int listener, int may_block
) noexcept nogil
