from libc.stdint cimport uint64_t
from posix.types cimport pid_t

cdef enum:
    MAX_PATH = 4096          # PATH_MAX
    MAX_ARGV = 16384         # bytes of an argv that are read

# A process as /proc shows it now.
cdef struct Glance:
    char state
    pid_t parent
    uint64_t start_time      # clock ticks since boot: tells the process from a later one with its id
    uint64_t image           # differs between the images of a process; 0: it has none, or none to be seen
    int exit_status          # of a zombie, as wait4(2) says it

# The program in a process as /proc shows it now.
cdef struct Loaded:
    char exe[MAX_PATH]       # not terminated
    char argv[MAX_ARGV + 2]  # each word with its NUL
    int exe_length
    int argv_length
    int truncated

cdef int look(pid_t pid, Glance *glance) noexcept nogil
cdef int read_loaded(pid_t pid, Loaded *loaded) noexcept nogil
cdef int zombie_status(pid_t pid, int descriptor) noexcept nogil
cdef long absolute_path(pid_t tid, int directory, char *path, long length) noexcept nogil
cdef int looks_executable(const char *path) noexcept nogil
