# Listings of directories in which there are mounts.

from posix.types cimport pid_t

from sandlock._run cimport VirtualRoot

cdef long add_mounts(
    const VirtualRoot *root, int mount, const char *real, int number, long directory, char *entries, long size,
    long room
) noexcept nogil
cdef int may_list_mounts(const VirtualRoot *root, pid_t tid, int descriptor) noexcept nogil
