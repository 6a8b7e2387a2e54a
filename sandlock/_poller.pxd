from libc.stdint cimport int64_t

from sandlock._linux cimport PollDescriptor
from sandlock._messages cimport MAX_PAYLOAD, Outgoing
from sandlock._sockets cimport Caller
from sandlock._slots cimport MAX_SLOTS, Slot, Table

# A socket call under way: its caller waits until the socket is ready for it.
cdef struct Waiting:
    Slot *slot
    int descriptor
    int retries              # the socket cannot be polled for this: it is tried again
    int64_t deadline_ms      # SO_SNDTIMEO; 0 for none

cdef struct Poller:
    Table *table
    const int *lives         # 0 when the task has ended
    int count
    Waiting waiting[MAX_SLOTS]
    PollDescriptor polled[MAX_SLOTS + 1]
    Caller caller
    Outgoing message
    char room[MAX_PAYLOAD]

cdef int poller_main(void *argument) noexcept nogil
