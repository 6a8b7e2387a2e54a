"""What verdicts have approved for the rest of a run: the core decides the same call by itself from then on.

An exec is the same if file, interpreter and words are; a destination if address, port and protocol are. Denials by rule
come first, and an approved exec is attested like any other.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strcmp, strlen

from sandlock._destinations cimport OPERATION_CONNECT, OPERATION_EXEC, OPERATION_OPEN, OPERATION_SEND, is_of_network
from sandlock._paths cimport ACCESS_READ, ACCESS_WRITE
from sandlock._programs cimport same_file

cdef extern from * nogil:
    """
    #define sandlock_load_count(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define sandlock_store_count(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    """
    int load_count "sandlock_load_count"(const int *at) noexcept
    void store_count "sandlock_store_count"(int *at, int value) noexcept


cdef inline const char *words_of(const Approval *approval) noexcept nogil:
    return <const char *>approval + sizeof(Approval)


cdef int begins_with(const char *words, int count, const Approval *approval) noexcept nogil:
    """Whether these words are the approved ones, and no more of them than that allows."""
    cdef const char *wanted = words_of(approval)
    cdef int _i
    if count < approval.word_count or (count > approval.word_count and not approval.further):
        return 0
    for _i in range(approval.word_count):
        if strcmp(words, wanted) != 0:
            return 0
        words += strlen(words) + 1
        wanted += strlen(wanted) + 1
    return 1


cdef int approves_exec(
    const Approvals *approvals, const FileIdentity *named, const FileIdentity *loaded, const char *words, int count
) noexcept nogil:
    """Whether this exec was approved before: `words` is its argv."""
    cdef const Approval *each
    cdef int i
    for i in range(load_count(&approvals.first), load_count(&approvals.count)):
        each = approvals.entries[i]
        if each.operation != OPERATION_EXEC or not same_file(&each.named, named):
            continue
        if same_file(&each.loaded, loaded) and begins_with(words, count, each):
            return 1
    return 0


cdef inline int kind_of(int operation) noexcept nogil:
    return OPERATION_CONNECT if operation == OPERATION_SEND else operation    # both go there


cdef int same_place(const Endpoint *one, const Endpoint *other) noexcept nogil:
    return (
        kind_of(one.operation) == kind_of(other.operation) and one.protocol == other.protocol
        and one.port == other.port and one.scope_id == other.scope_id and one.width == other.width
        and memcmp(one.bytes, other.bytes, one.width) == 0 and one.abstract == other.abstract
        and one.path_length == other.path_length and memcmp(one.path, other.path, one.path_length) == 0
    )


cdef int approves_call(const Approvals *approvals, const Endpoint *endpoint) noexcept nogil:
    """Whether this destination was approved before."""
    cdef int i
    for i in range(load_count(&approvals.first), load_count(&approvals.count)):
        if is_of_network(approvals.entries[i].operation) and same_place(&approvals.entries[i].endpoint, endpoint):
            return 1
    return 0


cdef int approves_open(const Approvals *approvals, const FilePlace *where, int access) noexcept nogil:
    """Whether this access to this file was approved before; writing it covers reading it. A file is told from a later
    one with its number by when it was made; of what is to be made, the directory is, and the name."""
    cdef const Approval *each
    cdef int i
    for i in range(load_count(&approvals.first), load_count(&approvals.count)):
        each = approvals.entries[i]
        if (
            each.operation == OPERATION_OPEN and each.where.exists == where.exists
            and each.where.device == where.device and each.where.inode == where.inode
            and each.where.birth_ns == where.birth_ns and strcmp(each.where.last, where.last) == 0
            and access & ~(each.access | (ACCESS_READ if each.access & ACCESS_WRITE else 0)) == 0
        ):
            return 1
    return 0


# For Python ----------------------------------------------------------------------------------------------------------

cdef bytes approval_of_exec(
    const FileIdentity *named, const FileIdentity *loaded, const char *words, int count, int further
):
    """An approval of this file with these words."""
    cdef Approval approval
    cdef const char *end = words
    cdef int _i
    memset(&approval, 0, sizeof(approval))
    for _i in range(count):
        end += strlen(end) + 1
    approval.operation = OPERATION_EXEC
    approval.named = named[0]
    approval.loaded = loaded[0]
    approval.further = further
    approval.word_count = count
    approval.length = <uint32_t>(end - words)
    return (<char *>&approval)[:sizeof(approval)] + words[:approval.length]


cdef bytes approval_of_call(const Endpoint *endpoint):
    """An approval of this destination."""
    cdef Approval approval
    memset(&approval, 0, sizeof(approval))
    approval.operation = endpoint.operation
    approval.endpoint = endpoint[0]
    return (<char *>&approval)[:sizeof(approval)]


cdef bytes approval_of_open(const FilePlace *where, int access):
    """An approval of this access to this file."""
    cdef Approval approval
    memset(&approval, 0, sizeof(approval))
    approval.operation = OPERATION_OPEN
    approval.where = where[0]
    approval.access = access
    return (<char *>&approval)[:sizeof(approval)]


cdef bint add_approval(Approvals *approvals, bytes approval) except -1:
    """From now on what it says is allowed. False when there are too many already."""
    cdef Approval *entry
    cdef size_t size = len(approval)
    cdef int i
    for i in range(approvals.first, approvals.count):
        entry = approvals.entries[i]
        if sizeof(Approval) + entry.length == size and memcmp(entry, <const char *>approval, size) == 0:
            return True
    if approvals.count == MAX_APPROVALS:
        return False
    entry = <Approval *>malloc(size)
    if entry == NULL:
        raise MemoryError
    memcpy(entry, <const char *>approval, size)
    approvals.entries[approvals.count] = entry
    store_count(&approvals.count, approvals.count + 1)
    return True


cdef void revoke_approvals(Approvals *approvals) noexcept:
    """What was approved so far is asked about again. The entries stay: the fast lane may be reading them."""
    store_count(&approvals.first, approvals.count)


cdef void free_approvals(Approvals *approvals) noexcept:
    cdef int i
    for i in range(approvals.count):
        free(approvals.entries[i])
