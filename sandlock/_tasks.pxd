from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

# A fork that was let go and may not have happened yet.
cdef struct PendingFork:
    pid_t tid
    int64_t since_ms

# The live count of the tree (max_processes): an upper bound that is made exact only when it reaches the limit.
cdef struct Ledger:
    int limit
    pid_t host               # where the supervisor thread lives: no member, though the scope lets it signal itself
    int scoped               # the signal scope tells members from others
    int bound
    int pending_count
    PendingFork pending[256]
    pid_t helpers[13]        # the supervisor's own workers: in the domain, and no members either

cdef int kill_task(pid_t tid) noexcept nogil
cdef int count_fork(Ledger *ledger, pid_t init, pid_t caller) noexcept nogil
cdef long read_proc_file(const char *path, char *into, size_t size) noexcept nogil
cdef int keep_few(int *descriptors, int count) noexcept nogil
cdef int put_number(char *into, long value) noexcept nogil
cdef int format_proc_path(char *into, pid_t pid, const char *name) noexcept nogil
cdef pid_t parent_of(pid_t pid) noexcept nogil
cdef pid_t thread_group_of(pid_t tid) noexcept nogil
cdef int is_single_threaded(pid_t pid) noexcept nogil
cdef long umask_of(pid_t tid) noexcept nogil
cdef uint64_t caught_signals(pid_t tid) noexcept nogil
cdef int64_t now_ms() noexcept nogil
cdef int64_t now_ns() noexcept nogil
cdef long list_chain(pid_t pid, pid_t init, char *into, long size) noexcept nogil
cdef int list_tasks(pid_t pid, pid_t *into, int limit) noexcept nogil
cdef const char *stat_field(const char *stat, long length, int number) noexcept nogil
cdef const char *status_field(const char *status, long length, const char *name) noexcept nogil
cdef uint64_t parse_digits(const char *text, int base) noexcept nogil
cdef long parse_number(const char *text) noexcept nogil
cdef int is_member(const Ledger *ledger, pid_t pid, pid_t init) noexcept nogil
