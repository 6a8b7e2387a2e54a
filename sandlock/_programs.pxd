# Which file an exec names, and which one the kernel will load for it.

from posix.types cimport pid_t

from sandlock._slots cimport FileIdentity

cdef enum:
    MAX_PATH = 4096
    MAX_PREFIX = 2048        # bytes that the #! lines of one exec may come to: 5 levels of at most 256

cdef struct Prefix:
    int count
    int length
    char words[MAX_PREFIX]   # each with its NUL

cdef long open_named(pid_t tid, pid_t tgid, int directory, const char *path, int flags) noexcept nogil
cdef int identify(long descriptor, FileIdentity *out) noexcept nogil
cdef int same_file(const FileIdentity *one, const FileIdentity *other) noexcept nogil
cdef int is_executable(long descriptor) noexcept nogil
cdef int resolve_program(
    pid_t tid, pid_t tgid, int directory, const char *path, int flags, FileIdentity *named, FileIdentity *loaded,
    Prefix *prefix, char *exe, long *exe_length
) noexcept nogil
