# One open on the caller's behalf: what its flags mean, what the kernel would say, and the opening itself.

from libc.stdint cimport uint64_t
from posix.types cimport pid_t

from sandlock._linux cimport Notification
from sandlock._paths cimport OpenCall, Place
from sandlock._procfs cimport Standing, Tree

cdef int read_call(const Notification *notification, OpenCall *call, uint64_t *path) noexcept nogil
cdef int check_flags(int number, OpenCall *call) noexcept nogil
cdef int prepare(const Tree *tree, pid_t tid, Standing *caller) noexcept nogil
cdef int find(
    const Tree *tree, const void *hiding, pid_t tid, pid_t tgid, const OpenCall *call, const char *path, int how,
    Place *place
) noexcept nogil
cdef int check_place(const Tree *tree, const OpenCall *call, const Place *place) noexcept nogil
cdef int access_of(const OpenCall *call) noexcept nogil
cdef int is_asked(const OpenCall *call) noexcept nogil
cdef int remember_place(OpenCall *call, const Place *place) noexcept nogil
cdef int is_same(const OpenCall *call, const Place *place) noexcept nogil
cdef int probe(const OpenCall *call, const Place *place) noexcept nogil
cdef int may_wait_long(const Place *place, const OpenCall *call) noexcept nogil
cdef int table_is_full(pid_t tid) noexcept nogil
cdef long reopen(long own_table, long pinned, uint64_t flags, uint64_t mode) noexcept nogil
cdef long open_judged(
    int listener, uint64_t id, pid_t tid, const OpenCall *call, const Place *place
) noexcept nogil
cdef void give(int listener, uint64_t id, long descriptor, uint64_t flags) noexcept nogil
cdef void answer_errno(int listener, uint64_t id, long error) noexcept nogil
cdef int waits_for_nobody(const Place *place) noexcept nogil
cdef void give_at_once(int listener, uint64_t id, long descriptor, uint64_t flags, int writes) noexcept nogil
