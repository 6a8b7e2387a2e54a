from libc.stdint cimport int64_t
from posix.types cimport pid_t

from sandlock._linux cimport Notification
from sandlock._path_calls cimport PathCall
from sandlock._path_records cimport PathRecords
from sandlock._path_table cimport PathTable
from sandlock._places cimport LocalMounts
from sandlock._programs cimport MAX_PATH
from sandlock._procfs cimport Standing, Tree
from sandlock._redirect cimport Redirect
from sandlock._slots cimport Table
from sandlock._sockets cimport Caller
from sandlock._tasks cimport Ledger

cdef enum:
    LATER = -5000            # results that no call has: somebody who may wait has to do it
    DENIED = -5001           # by the policy, as `cause` and `rule` say
    GIVEN = -5002            # the caller has its descriptor, and its answer

# A task that carries out path calls. It has a descriptor table, a working directory and a umask of its own.
cdef struct Mediator:
    Table *table
    const Ledger *ledger
    const PathTable *paths   # as it was when the call came
    int may_block
    int shares_table         # its descriptor table is the host's
    int knows                # who we are
    int uniform              # callers are the user that we are, with what we may, whatever they do
    Tree tree
    Standing caller          # of the call at hand, if `met`
    int met
    int cause                # of a denial: enum Cause
    int rule
    int error                # what the caller gets
    const char *denied       # what was denied
    char seen[MAX_PATH]      # the same, as the program calls it
    Redirect *redirect       # for a call that nobody can make for the caller; NULL in the fast lane
    Caller holder            # of descriptors that were duplicated last
    PathCall call            # at hand
    Caller lister            # who listed a directory last
    LocalMounts local_mounts     # that it has come across
    PathRecords records

cdef int meet_caller(Mediator *mediator) noexcept nogil
cdef int get_to_know(Mediator *mediator) noexcept nogil
cdef const char *as_seen(Mediator *mediator) noexcept nogil
cdef long mediate(Mediator *mediator, const Notification *notification, int64_t rule) noexcept nogil
cdef long open_quickly(Mediator *mediator, const Notification *notification) noexcept nogil
