from libc.stdint cimport uint64_t
from posix.types cimport pid_t

from sandlock._mediate cimport Mediator
from sandlock._procfs cimport Tree
from sandlock._slots cimport Seat, Slot, Table
from sandlock._tasks cimport Ledger

cdef enum:
    MAX_BLOCKED = 32         # of one opener
    BLOCKED_STACK = 16384

cdef enum End:
    END_OPEN = 0
    END_ANSWERED = 1         # by the task itself, which has opened
    END_KILLED = 2           # by its opener, for nobody waits any more

# An open that waits for somebody else, in a task of its own. That looks at nothing else of ours.
cdef struct Blocked:
    int listener
    int host                 # the process that is to be served
    uint64_t id              # of the notification
    uint64_t flags
    long pinned              # what is to be opened
    int end                  # enum End: who of the two came first
    int lives                # cleared and woken by the kernel at its end
    int pid                  # 0: free
    int done                 # its opener has seen its end, the lane has not
    Slot *slot               # NULL: it is over

cdef struct Opener:
    Table *table
    const Ledger *ledger
    Seat *seat
    int number               # among the openers
    int place                # among all who write the journal
    Tree tree
    Mediator mediator
    char *stacks             # BLOCKED_STACK for each that is blocked
    int blocked_count
    int done_count
    Blocked blocked[MAX_BLOCKED]

cdef int opener_main(void *argument) noexcept nogil
cdef int see_to_orphans(Table *table) noexcept nogil
cdef void reap_blocked(Opener *opener) noexcept nogil
cdef int end_blocked(Opener *opener) noexcept nogil
cdef void free_opener(Opener *opener) noexcept nogil
