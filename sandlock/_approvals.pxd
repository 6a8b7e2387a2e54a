# What verdicts have approved for the rest of a run.

from libc.stdint cimport uint32_t

from sandlock._destinations cimport Endpoint
from sandlock._paths cimport FilePlace
from sandlock._programs cimport FileIdentity

cdef enum:
    MAX_APPROVALS = 4096

# An exec by its file and its words, a destination, or a file for an access. Its words, each with a NUL, come behind it.
cdef struct Approval:
    int operation            # enum Operation
    FileIdentity named
    FileIdentity loaded
    int further              # any words may follow
    int word_count
    uint32_t length          # of the words
    Endpoint endpoint
    FilePlace where
    int access               # enum Access

# Python appends, the fast lane reads: an entry counts from the moment when `count` says so, and is never changed.
cdef struct Approvals:
    int first                # those before it have been revoked
    int count
    Approval *entries[MAX_APPROVALS]

cdef int approves_exec(
    const Approvals *approvals, const FileIdentity *named, const FileIdentity *loaded, const char *words, int count
) noexcept nogil
cdef int approves_call(const Approvals *approvals, const Endpoint *endpoint) noexcept nogil
cdef int approves_open(const Approvals *approvals, const FilePlace *where, int access) noexcept nogil
cdef bytes approval_of_exec(
    const FileIdentity *named, const FileIdentity *loaded, const char *words, int count, int further
)
cdef bytes approval_of_call(const Endpoint *endpoint)
cdef bytes approval_of_open(const FilePlace *where, int access)
cdef bint add_approval(Approvals *approvals, bytes approval) except -1
cdef void revoke_approvals(Approvals *approvals) noexcept
cdef void free_approvals(Approvals *approvals) noexcept
