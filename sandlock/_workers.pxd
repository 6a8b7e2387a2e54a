from posix.types cimport pid_t

from sandlock._mediate cimport Mediator
from sandlock._openers cimport Opener
from sandlock._poller cimport Poller
from sandlock._slots cimport MAX_OPENERS, MAX_WORKERS, Seat, Table
from sandlock._sockets cimport Caller
from sandlock._tasks cimport Ledger

cdef struct Worker:
    Table *table
    char *stack
    pid_t pid
    Seat *seat
    int place               # among all who write the journal

cdef struct Crew:
    Table *table
    Ledger *ledger
    Worker workers[MAX_WORKERS + 1 + MAX_OPENERS]      # behind the workers the poller, then the openers
    Poller *poller
    Opener *openers[MAX_OPENERS]
    Caller caller           # of the fast lane
    int stays_in_hosts_table
    Mediator *mediator      # of the fast lane; NULL where no path calls are carried out

cdef int start_worker(Crew *crew) noexcept nogil
cdef int start_poller(Crew *crew) noexcept nogil
cdef int start_opener(Crew *crew) noexcept nogil
cdef void stop_workers(Crew *crew) noexcept nogil
