# A socket of the guest, as a duplicate in our own table, and what is done to it on the guest's behalf.

from libc.stdint cimport int64_t, uint64_t, uint8_t
from posix.types cimport pid_t

from sandlock._destinations cimport Endpoint
from sandlock._linux cimport Notification
from sandlock._memory cimport MAX_SOCKADDR
from sandlock._programs cimport FileIdentity
from sandlock._run cimport Run
from sandlock._tasks cimport Ledger

cdef enum:
    CHANGED = -4096          # a result that no call has: what was judged is not what is there now

# Who called last: its calls come in rows.
cdef struct Caller:
    pid_t tid                # 0 for none
    int pidfd

cdef struct SocketFacts:
    int domain
    int type                 # SOCK_STREAM, ...
    int protocol             # IPPROTO_*
    int flags                # fcntl F_GETFL

# A socket call, as it was read once.
cdef struct SocketCall:
    Endpoint endpoint
    SocketFacts facts
    int descriptor           # the caller's number for the socket
    uint64_t cookie          # who the socket is, if the call was held
    int flags                # of a send, or listen's backlog
    int address_length       # 0: no address
    uint8_t address[MAX_SOCKADDR]   # to act on
    FileIdentity file        # the unix socket that a path named
    const void *hiding       # of a path: see _paths.Origin and _procfs.Tree
    const Ledger *ledger
    uint64_t message         # sendmsg: where the msghdr is; 0 for sendto
    uint64_t buffer          # sendto
    uint64_t size            # bytes to send; of a sendmsg that somebody judges, as its vectors were then
    uint64_t count_at        # sendmmsg: where the number of sent bytes goes; 0: nowhere
    int64_t progress         # bytes that are sent
    int started              # the connection is under way
    int may_hold             # it may wait for somebody else to answer

cdef void forget_caller(Caller *caller) noexcept nogil
cdef long duplicate(Caller *caller, int listener, uint64_t id, pid_t tid, long descriptor) noexcept nogil
cdef int look_at(long descriptor, SocketFacts *out) noexcept nogil
cdef uint64_t cookie_of(long descriptor) noexcept nogil
cdef int may_wait(const SocketCall *call) noexcept nogil
cdef long start_connect(long descriptor, const SocketCall *call) noexcept nogil
cdef long send_limit_ms(long descriptor) noexcept nogil
cdef long bind_anywhere(long descriptor, int domain) noexcept nogil
cdef long bound_port(long descriptor) noexcept nogil
cdef long listen_here(long descriptor, int backlog, long port) noexcept nogil
cdef int listen_on_behalf(const Run *run, Caller *caller, const Notification *notification) noexcept nogil
