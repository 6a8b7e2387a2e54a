# Decisions of a run, one after the other, on their way from native code to Python: a bounded ring without locks. It
# exists only where somebody asked for it.
#
# Many write (the fast lane, the workers, the poller), one reads. A place of the ring is free, being written, or to be
# read; its `turn` says which, and how often the ring went round. Who wants a place says so first (`claims`), then takes
# it by moving `head`. Writers are processes that may be killed at any point: a place that was taken, that is not
# finished, and that nobody alive claims is torn; the reader counts it and goes on.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from posix.types cimport pid_t

from sandlock._destinations cimport Endpoint

cdef enum:
    ENTRIES = 2048
    ENTRY_TEXT = 3800
    MAX_WRITERS = 15         # the fast lane, the workers, the openers, the poller
    LANE = 0                 # their places
    PARENTS = 6              # of a denied call, that are kept

cdef enum Gate:
    GATE_OPEN = 0
    GATE_CLOSED = 1          # nothing is decided before the reader is ready: it has begun the record, or could not
    GATE_REFUSES = 2         # there is no record: nothing more is allowed

# A decision, as who has made it knows it.
cdef struct Judged:
    int operation            # enum Operation
    int act                  # enum Act
    int cause                # enum Cause
    int rule
    int error
    int number               # of the syscall
    pid_t pid
    pid_t tid
    int64_t since_ns         # when the notification came
    int64_t decided_ns
    uint64_t question        # 0 where Python was not asked
    const Endpoint *endpoint  # NULL for an exec, which has the following
    const char *exe          # of an open NULL, and `cwd` is the path
    size_t exe_length        # these lengths count the final NULs
    const char *cwd
    size_t cwd_length
    const char *argv
    size_t argv_length
    int done                 # of what was done to a file: enum Done

cdef struct Entry:
    uint64_t turn
    Judged judged            # without its pointers
    int protocol
    int port
    int width
    int abstract
    uint8_t bytes[16]
    int cut                  # argv did not fit
    pid_t parents[PARENTS]   # of what is denied: the processes above, nearest first, then 0
    uint32_t text_length
    char text[ENTRY_TEXT]    # exe, cwd, argv, each word with its NUL; or the path of a socket

cdef struct Journal:
    uint64_t head            # the place that is taken next
    uint64_t tail            # the place that is read next
    uint64_t claims[MAX_WRITERS]      # place + 1
    pid_t writers[MAX_WRITERS]
    const int *lives[MAX_WRITERS]     # 0 when that writer has ended; NULL: it does not end before the reader
    int patient              # a writer waits for room rather than drop a decision
    int gate                 # enum Gate; a futex
    int closing              # nobody waits any more
    int lost                 # decisions that found no room
    int torn                 # whose writer was killed
    int written              # futex: bumped with each decision
    int reading              # the reader waits
    int room                 # futex: bumped when there is room again
    int waiting              # a writer waits for room
    Entry entries[ENTRIES]

cdef void enlist(Journal *journal, int place, const int *lives) noexcept nogil
cdef int pass_gate(Journal *journal) noexcept nogil
cdef int record(Journal *journal, const Judged *judged) noexcept nogil
cdef Journal *make_journal(bint patient, bint gated) except NULL
cdef list take_entries(Journal *journal, bint final, int limit)
cdef void wait_for_entries(Journal *journal, int64_t milliseconds) noexcept nogil
cdef void set_gate(Journal *journal, int gate) noexcept nogil
cdef void wake_reader(Journal *journal) noexcept nogil
cdef void close_journal(Journal *journal) noexcept nogil
