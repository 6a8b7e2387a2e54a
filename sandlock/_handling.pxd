# What handlers may do: look into the caller's memory, within bounds, and have an action carried out.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.types cimport pid_t

from sandlock._actions cimport Action, Share
from sandlock._slots cimport Slot, Table

cdef extern from "sandlock/handler.h" nogil:
    ctypedef struct GivenAction "struct sandlock_action":
        unsigned int kind
        unsigned int flags
        int64_t value
    const unsigned int SANDLOCK_CONTINUE
    const unsigned int SANDLOCK_ERRNO
    const unsigned int SANDLOCK_VALUE
    const unsigned int SANDLOCK_INJECT
    const unsigned int SANDLOCK_HOLD
    const unsigned int SANDLOCK_KILL_TASK
    const unsigned int SANDLOCK_KILL_TREE
    const unsigned int SANDLOCK_INJECT_CLOEXEC
    const uint64_t SANDLOCK_MAX_ACCESS
    const uint64_t SANDLOCK_MAX_MEMORY
    const int SANDLOCK_MAX_ACCESSES

cdef int is_waiting(int listener, uint64_t id) noexcept nogil
cdef int64_t read_share(
    int listener, uint64_t id, pid_t tid, Share *share, uint64_t address, void *into, uint64_t length
) noexcept nogil
cdef int64_t read_string_share(
    int listener, uint64_t id, pid_t tid, Share *share, uint64_t address, char *into, uint64_t size
) noexcept nogil
cdef int64_t write_share(
    int listener, uint64_t id, pid_t tid, Share *share, uint64_t address, const void *source, uint64_t length
) noexcept nogil
cdef int judge_action(const GivenAction *given, int observes, int has_read, Action *out) noexcept nogil
cdef uint32_t flags_of(const GivenAction *given) noexcept nogil
cdef int inject_and_answer(int listener, uint64_t id, int descriptor, uint32_t flags) noexcept nogil
cdef void carry_out(Table *table, Slot *slot) noexcept nogil
