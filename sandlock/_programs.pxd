# Which file an exec names, and which one the kernel will load for it.

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._run cimport Ruleset, Run, VirtualRoot
from sandlock._tasks cimport Ledger

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
    int lacks_loader         # it names one, and there is none
    FileIdentity loader_file
    char loader[MAX_PATH]    # its path, without links

# Who names a file.
cdef struct Viewer:
    pid_t tid
    pid_t tgid
    const VirtualRoot *root  # what is / to it; NULL: the host's
    const void *hiding       # see _paths.Origin
    const Run *run           # the following only with one of these
    const Ledger *ledger

# What an exec of a script or a program comes to.
cdef struct Resolved:
    FileIdentity named       # the file that was named
    FileIdentity runs        # the same; of a script, its interpreter
    Prefix prefix            # of a script: what comes in place of argv[0]
    char exe[MAX_PATH]       # the path of the named file, without links
    long exe_length
    long opened              # the program that runs, for who closes it; -1

cdef const char *last_part(const char *path) noexcept nogil
cdef long open_descriptor_of(pid_t tid, int descriptor) noexcept nogil
cdef long open_named(const Viewer *viewer, int directory, const char *path, int flags) noexcept nogil
cdef long open_as_named(const Viewer *viewer, int directory, const char *path, int flags, int how) noexcept nogil
cdef long open_program(const Viewer *viewer, int directory, const char *path, int flags) noexcept nogil
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
cdef int name_for_interpreter(int directory, const char *path, char *out) noexcept nogil
cdef long seen_path(const Viewer *viewer, long descriptor, char *into) noexcept nogil
cdef int resolve_program(
    const Viewer *viewer, int directory, const char *path, int flags, Resolved *out
) noexcept nogil
