from posix.types cimport pid_t

cdef int is_own_exe(const char *path) noexcept nogil
cdef long seen_exe(pid_t pid, char *into) noexcept nogil
cdef int is_closed_by_exec(pid_t tid, int descriptor) noexcept nogil
