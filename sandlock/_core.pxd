from libc.stdint cimport int64_t, uint64_t

from sandlock._handlers cimport Handlers
from sandlock._run cimport Run
from sandlock._slots cimport Table
from sandlock._tasks cimport Ledger
from sandlock._workers cimport Crew

cdef struct Counters:
    uint64_t received
    uint64_t answered
    uint64_t vanished        # the caller was killed before the answer reached it
    uint64_t denied          # answered with an errno by us
    uint64_t failed          # the kernel refused our answer: the task was killed

cdef struct Lane:
    Run *run
    int listener
    int sync_wake_up         # 1: RECV ends when the tree is gone (Linux 6.6); 0: poll first
    size_t notification_size
    Counters counters
    Ledger ledger
    int64_t last_injected    # the descriptor number that the guest was given last
    void *observer           # records execs, or NULL
    Table *table             # calls that wait for a verdict, or NULL
    Crew crew
    Handlers *handlers       # the users' own, or NULL

cdef void *lane_main(void *argument) noexcept nogil
