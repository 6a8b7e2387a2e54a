# One open on the caller's behalf: what its flags mean, what the kernel would say, and the opening itself.

from libc.stdint cimport uint64_t
from posix.types cimport pid_t

from sandlock._paths cimport OpenCall, Place
from sandlock._procfs cimport Standing, Tree
from sandlock._slots cimport Slot

cdef int prepare(const Tree *tree, pid_t tid, Standing *caller) noexcept nogil
cdef int find(const Tree *tree, const Slot *slot, int to_parent, Place *place) noexcept nogil
cdef int check_place(const Tree *tree, const OpenCall *call, const Place *place) noexcept nogil
cdef int access_of(const OpenCall *call) noexcept nogil
cdef int is_asked(const OpenCall *call) noexcept nogil
cdef int remember_place(OpenCall *call, const Place *place) noexcept nogil
cdef int is_same(const OpenCall *call, const Place *place) noexcept nogil
cdef int probe(const OpenCall *call, const Place *place) noexcept nogil
cdef int may_wait_long(const Place *place, const OpenCall *call) noexcept nogil
cdef int table_is_full(pid_t tid) noexcept nogil
cdef long reopen(long pinned, uint64_t flags, uint64_t mode) noexcept nogil
cdef long open_judged(int listener, const Slot *slot, const Place *place) noexcept nogil
cdef void give(int listener, uint64_t id, long descriptor, uint64_t flags) noexcept nogil
cdef void answer_errno(int listener, uint64_t id, long error) noexcept nogil
