"""What handlers may do: look into the caller's memory, within bounds, and have an action carried out. The same for
native handlers and for those in Python.

Rules: what a handler answers is taken for an action only as a whole; anything else is a denial. What was read counts
only if the caller still waits afterwards, for else it may be the memory of somebody who has inherited its number.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memset

from sandlock._actions cimport (
    ACTION_CONTINUE, ACTION_ERRNO, ACTION_HOLD, ACTION_INJECT, ACTION_KILL_TASK, ACTION_KILL_TREE, ACTION_VALUE,
    plain_action,
)
from sandlock._attest cimport refuse
from sandlock._linux cimport (
    AddDescriptor, SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_USER_NOTIF_FLAG_CONTINUE, SYS_ioctl,
    SYS_process_vm_writev, SYS_shutdown, raw_syscall,
)
from sandlock._memory cimport IoVector, read_memory, read_string
from sandlock._slots cimport (
    ACT_KILL, CAUSE_HANDLER, CAUSE_HANDLER_ERROR, CAUSE_NONE, CAUSE_REREAD, CAUSE_VERDICT, answer,
    finish, record_slot, send_answer,
)
from sandlock._tasks cimport kill_task

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EDQUOT
    const int EFAULT
    const int EINTR
    const int EMFILE
    const int EMSGSIZE
    const int ENOENT
    const int ESRCH

cdef extern from "<fcntl.h>" nogil:
    const unsigned int O_CLOEXEC

cdef enum:
    ADDFD_FLAG_SEND = 2       # SECCOMP_ADDFD_FLAG_SEND, Linux 5.14: the descriptor and the answer are one
    MAX_ERRNO = 4095
    MAX_DESCRIPTOR = 0x7FFFFFFF
    SHUT_WR = 1


# Memory --------------------------------------------------------------------------------------------------------------

cdef int is_waiting(int listener, uint64_t id) noexcept nogil:
    """Whether the caller is alive and waits for the answer to this call."""
    return raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&id, 0, 0, 0) == 0


cdef int take_share(Share *share, uint64_t length) noexcept nogil:
    """Counts an access. Returns 0, or -errno for one that is too large, or one too many."""
    if length > SANDLOCK_MAX_ACCESS:
        return -EMSGSIZE
    if share.accesses >= SANDLOCK_MAX_ACCESSES or length > SANDLOCK_MAX_MEMORY - share.bytes:
        return -EDQUOT
    share.accesses += 1
    share.bytes += length
    return 0


cdef int64_t read_share(
    int listener, uint64_t id, pid_t tid, Share *share, uint64_t address, void *into, uint64_t length
) noexcept nogil:
    """Reads the caller's memory. Returns `length` or -errno, as handler.h has it."""
    cdef int64_t result = take_share(share, length)
    if result < 0:
        return result
    result = read_memory(tid, address, into, length)
    return result if is_waiting(listener, id) else -ESRCH


cdef int64_t read_string_share(
    int listener, uint64_t id, pid_t tid, Share *share, uint64_t address, char *into, uint64_t size
) noexcept nogil:
    """Reads a string of the caller's. Returns its length or -errno, as handler.h has it."""
    cdef int64_t result = take_share(share, size)
    if result < 0:
        return result
    result = read_string(tid, address, into, size)
    return result if is_waiting(listener, id) else -ESRCH


cdef int64_t write_share(
    int listener, uint64_t id, pid_t tid, Share *share, uint64_t address, const void *source, uint64_t length
) noexcept nogil:
    """Writes the caller's memory. Returns `length` or -errno, as handler.h has it."""
    cdef IoVector local, remote
    cdef int64_t result = take_share(share, length)
    if result < 0:
        return result
    # It waits, so the number is its own now, and for as long as this takes: numbers are given out in turn.
    if not is_waiting(listener, id):
        return -ESRCH
    local.base = <uint64_t>source
    remote.base = address
    local.length = remote.length = length
    result = raw_syscall(SYS_process_vm_writev, tid, <long>&local, 1, <long>&remote, 1, 0)
    if not is_waiting(listener, id):
        return -ESRCH
    if result >= 0 and <uint64_t>result != length:
        return -EFAULT
    return result


# Actions -------------------------------------------------------------------------------------------------------------

cdef int judge_action(const GivenAction *given, int observes, int has_read, Action *out) noexcept nogil:
    """What is to be done: fills `out` and returns CAUSE_NONE, or the cause of a denial (`out` has its errno), also of
    one that the handler itself gave."""
    out[0] = plain_action(ACTION_ERRNO)
    out.value = EACCES
    if given.flags != 0 and not (given.kind == SANDLOCK_INJECT and given.flags == SANDLOCK_INJECT_CLOEXEC):
        return CAUSE_HANDLER_ERROR
    if given.kind == SANDLOCK_CONTINUE:
        if has_read and not observes:
            return CAUSE_REREAD
        out.kind = ACTION_CONTINUE
        return CAUSE_NONE
    if observes:
        return CAUSE_HANDLER_ERROR
    if given.kind == SANDLOCK_ERRNO and 0 < given.value <= MAX_ERRNO:
        out.value = given.value
        return CAUSE_HANDLER
    if given.kind == SANDLOCK_VALUE and not -MAX_ERRNO <= given.value < 0:
        out.kind = ACTION_VALUE
        out.value = given.value
        return CAUSE_NONE
    if given.kind == SANDLOCK_INJECT and 0 <= given.value <= MAX_DESCRIPTOR:
        out.kind = ACTION_INJECT
        out.value = given.value
        return CAUSE_NONE
    if given.kind == SANDLOCK_HOLD:
        out.kind = ACTION_HOLD
        return CAUSE_NONE
    if given.kind == SANDLOCK_KILL_TASK or given.kind == SANDLOCK_KILL_TREE:
        out.kind = ACTION_KILL_TASK if given.kind == SANDLOCK_KILL_TASK else ACTION_KILL_TREE
        out.value = 0
        return CAUSE_HANDLER
    return CAUSE_HANDLER_ERROR


cdef int inject_and_answer(int listener, uint64_t id, int descriptor, uint32_t flags) noexcept nogil:
    """Gives the caller a descriptor, and its number as the answer, in one. Returns 0 or -errno."""
    cdef AddDescriptor add
    cdef long number
    memset(&add, 0, sizeof(add))
    add.id = id
    add.flags = ADDFD_FLAG_SEND
    add.srcfd = <uint32_t>descriptor
    add.newfd_flags = flags
    while True:
        number = raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_ADDFD, <long>&add, 0, 0, 0)
        if number != -EINTR:
            return <int>number if number < 0 else 0


cdef uint32_t flags_of(const GivenAction *given) noexcept nogil:
    """Those of the descriptor that an action gives to the program."""
    return O_CLOEXEC if given.flags & SANDLOCK_INJECT_CLOEXEC else 0


# In a worker, with what a handler in Python has answered --------------------------------------------------------------

cdef void carry_out(Table *table, Slot *slot) noexcept nogil:
    """Does what a handler in Python has answered, and gives the slot back."""
    cdef Action *action = &slot.handled.action
    cdef int result = 0
    if slot.cause != CAUSE_VERDICT:        # `on_timeout` is a verdict, and a handler's is the only answer here
        refuse(table, slot, slot.cause, EACCES)
        return
    if action.kind == ACTION_CONTINUE and slot.handled.has_read and not slot.handled.observes:
        refuse(table, slot, CAUSE_REREAD, EACCES)
        return
    if action.kind == ACTION_CONTINUE:
        # Nothing of it was decided from memory: that was not read, or by an observer, who does not decide.
        result = answer(table, slot, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
    elif action.kind == ACTION_VALUE:
        result = send_answer(table, slot, action.value, 0, 0)
    elif action.kind == ACTION_INJECT:
        result = inject_and_answer(table.run.listener, slot.id, <int>action.value, slot.handled.flags)
        if result == -EMFILE:              # the program's own affair
            result = answer(table, slot, EMFILE, 0)
        elif result < 0 and result != -ENOENT:
            refuse(table, slot, CAUSE_HANDLER_ERROR, EACCES)
            return
    elif action.kind == ACTION_KILL_TREE:
        record_slot(table, slot, ACT_KILL, slot.cause, 0)
        raw_syscall(SYS_shutdown, table.run.control_host, SHUT_WR, 0, 0, 0, 0)
    elif action.kind != ACTION_HOLD:
        refuse(table, slot, CAUSE_HANDLER_ERROR, EACCES)
        return
    if result < 0 and result != -ENOENT:
        kill_task(slot.tid)
    finish(table, slot)
