# Which file an exec names, and which one the kernel will load for it.

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._run cimport Ruleset

cdef enum:
    MAX_PATH = 4096
    MAX_PREFIX = 2048        # bytes that the #! lines of one exec may come to: 5 levels of at most 256
    MAX_LEVELS = 5           # interpreters that are scripts themselves (fs/exec.c)
    MAX_FILES = 8192         # bytes that the paths of these interpreters may come to

cdef struct FileIdentity:
    uint64_t device
    uint64_t inode
    int64_t size
    int64_t changed_ns
    int64_t modified_ns

cdef struct Prefix:
    int count
    int length
    char words[MAX_PREFIX]   # each with its NUL
    int levels               # the interpreters, that of the script first
    int rests[MAX_LEVELS]    # how many of the words, counted from the last one, begin with each
    int files_length
    char files[MAX_FILES]    # which file each is, without links, with its NUL
    int wants_loader         # set by who asks
    int has_loader           # the program names one, and there it is
    FileIdentity loader_file
    char loader[MAX_PATH]    # its path, without links

cdef const char *last_part(const char *path) noexcept nogil
cdef long open_descriptor_of(pid_t tid, int descriptor) noexcept nogil
cdef long open_named(pid_t tid, pid_t tgid, int directory, const char *path, int flags) noexcept nogil
cdef int identify(long descriptor, FileIdentity *out) noexcept nogil
cdef int format_own_descriptor(char *into, long descriptor) noexcept nogil
cdef long open_own_table() noexcept nogil
cdef long own_descriptor(char *into, long own_table, long descriptor) noexcept nogil
cdef long real_path_in(long own_table, long descriptor, char *into) noexcept nogil
cdef long real_path(long descriptor, char *into) noexcept nogil
cdef int identify_path(const char *path, FileIdentity *out) noexcept nogil
cdef int same_file(const FileIdentity *one, const FileIdentity *other) noexcept nogil
cdef int may_write(const Ruleset *guest, const char *path) noexcept nogil
cdef int is_executable(long descriptor) noexcept nogil
cdef int resolve_program(
    pid_t tid, pid_t tgid, int directory, const char *path, int flags, FileIdentity *named, FileIdentity *loaded,
    Prefix *prefix, char *exe, long *exe_length
) noexcept nogil
