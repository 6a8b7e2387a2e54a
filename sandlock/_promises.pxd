# What a loader is about to open: the program, by the descriptor that was judged.

from posix.types cimport pid_t

from sandlock._programs cimport MAX_PATH

cdef enum:
    MAX_PROMISES = 64

cdef enum PromiseState:
    PROMISE_FREE = 0
    PROMISE_HELD = 1         # by who fills it or takes it
    PROMISE_KEPT = 2

cdef struct Promise:
    int state                # enum PromiseState
    pid_t tgid
    int descriptor           # in the table that the fast lane shares with its workers
    char path[MAX_PATH]      # as the loader was told it

cdef struct Promises:
    int count                # at least as many as are kept
    Promise entries[MAX_PROMISES]

cdef int promise(Promises *promises, pid_t tgid, long descriptor, const char *path) noexcept nogil
cdef long take_promised(Promises *promises, pid_t tgid, const char *path) noexcept nogil
cdef int has_promises(const Promises *promises) noexcept nogil
cdef void close_promises(Promises *promises) noexcept nogil
