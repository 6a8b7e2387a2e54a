# What the supervisor does to the kernel with a call: the answer of a rule or of a handler.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum ActionKind:
    ACTION_ERRNO
    ACTION_VALUE
    ACTION_CONTINUE
    ACTION_INJECT
    ACTION_HOLD
    ACTION_KILL_TASK
    ACTION_KILL_TREE

cdef struct Action:
    ActionKind kind
    int64_t value             # errno, return value or host descriptor, by kind

# What a handler has used of its share of the caller's memory.
cdef struct Share:
    int accesses
    uint64_t bytes

# A call that waits for a handler in Python, in its slot.
cdef struct HandledCall:
    uint64_t args[6]
    int64_t rule              # of a path call, which shares this place: how its arguments are read
    int observes
    int has_read
    Share share
    Action action
    uint32_t flags            # of a descriptor: O_CLOEXEC or 0

cdef inline Action errno_action(int error) noexcept nogil:
    return Action(kind=ACTION_ERRNO, value=error)

cdef inline Action plain_action(ActionKind kind) noexcept nogil:
    return Action(kind=kind, value=0)
