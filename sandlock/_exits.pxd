from libc.stdint cimport int64_t, uint32_t
from posix.types cimport pid_t

cdef enum:
    NO_STATUS = -1
    NO_TIME = -1

# Both are called by the watching thread. `Ended` comes once for each watched process: when it ended (now_ns) and its
# status as wait4(2) says it, each if it was seen. `Idle` comes whenever the thread is about to sleep, and answers after
# how many milliseconds it wants to be called again at the latest, -1 for never.
ctypedef void (*Ended)(void *owner, uint32_t serial, int64_t ended_ns, int status) noexcept nogil
ctypedef int (*Idle)(void *owner) noexcept nogil

cdef struct Watch:
    void *owner
    Ended ended
    Idle idle
    unsigned long thread     # pthread_t
    int running
    int our_end              # of the socket pair, in the host's table; -1: no process is watched
    int its_end              # in the thread's table

cdef int64_t now_ns() noexcept nogil
cdef void start_watch(Watch *watch, void *owner, Ended ended, Idle idle) noexcept nogil
cdef void watch_process(Watch *watch, uint32_t serial, pid_t pid, int descriptor) noexcept nogil
cdef void stop_watch(Watch *watch) noexcept nogil
