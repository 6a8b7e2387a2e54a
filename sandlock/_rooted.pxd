from posix.types cimport pid_t

from sandlock._programs cimport Viewer

cdef long open_in_root(const Viewer *viewer, int directory, const char *path, int how) noexcept nogil
cdef int has_no_name(long descriptor) noexcept nogil
cdef int is_own_exe(const char *path) noexcept nogil
cdef long seen_exe(pid_t pid, char *into) noexcept nogil
cdef int is_closed_by_exec(pid_t tid, int descriptor) noexcept nogil
