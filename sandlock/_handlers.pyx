"""The users' handlers of one run. A native one is called by the fast lane, without the GIL; one in Python is asked, as
a callback is, while its caller waits in a slot.

Rules: a handler sees only what the filter would have allowed, so its CONTINUE widens nothing. What it answers is judged
by `_handling.judge_action` before anything is done. Denials are written down before they are answered.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t, uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset
from posix.types cimport pid_t

from sandlock._actions cimport (
    ACTION_CONTINUE, ACTION_ERRNO, ACTION_HOLD, ACTION_INJECT, ACTION_KILL_TREE, Action, errno_action, plain_action,
)
from sandlock._destinations cimport OPERATION_HANDLER
from sandlock._handling cimport (
    SANDLOCK_MAX_ACCESS, flags_of, inject_and_answer, is_waiting, judge_action, read_share, read_string_share,
    write_share,
)
from sandlock._linux cimport raw_syscall
from sandlock._memory cimport read_memory
from sandlock._questions cimport asked_slot, settle_action
from sandlock._run cimport Run, STAGE_LAUNCHED
from sandlock._slots cimport (
    CAUSE_FULL, CAUSE_HANDLER_ERROR, CAUSE_NONE, Slot, ask, give_back, load_int, note_plain, still_waits, take_slot,
)
from sandlock._tasks cimport now_ns, thread_group_of
from sandlock._workers cimport start_worker

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EMFILE
    const int ENOENT
    const int EPERM
    const int ESRCH

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    """
    const long SYS_getrandom

cdef enum:
    NONCE = 16


# What native handlers look at the call with ---------------------------------------------------------------------------

cdef int32_t tgid_of_call(const PublicCall *public) noexcept nogil:
    cdef const NativeCall *call = <const NativeCall *>public
    cdef pid_t found
    if call.id == 0:
        return -ESRCH
    found = thread_group_of(<pid_t>public.tid)
    return found if found > 0 and is_waiting(call.listener, call.id) else -ESRCH


cdef int64_t read_of_call(const PublicCall *public, uint64_t address, void *into, uint64_t length) noexcept nogil:
    cdef NativeCall *call = <NativeCall *>public
    if call.id == 0:
        return -ESRCH
    call.has_read = 1
    return read_share(call.listener, call.id, <pid_t>public.tid, &call.share, address, into, length)


cdef int64_t read_string_of_call(const PublicCall *public, uint64_t address, char *into, uint64_t size) noexcept nogil:
    cdef NativeCall *call = <NativeCall *>public
    if call.id == 0:
        return -ESRCH
    call.has_read = 1
    return read_string_share(call.listener, call.id, <pid_t>public.tid, &call.share, address, into, size)


cdef int64_t write_of_call(
    const PublicCall *public, uint64_t address, const void *source, uint64_t length
) noexcept nogil:
    cdef NativeCall *call = <NativeCall *>public
    if call.id == 0:
        return -ESRCH
    if call.observes:
        return -EPERM
    return write_share(call.listener, call.id, <pid_t>public.tid, &call.share, address, source, length)


# In the fast lane ----------------------------------------------------------------------------------------------------

cdef int is_launch(const Run *run, pid_t tid) noexcept nogil:
    """Our own launch makes this call: the task is in the host's memory still, where no program of the guest ever is. It
    finds there what we have just made up. (kcmp(2) would say so too, but containers forbid it.)"""
    cdef uint8_t ours[NONCE]
    cdef uint8_t theirs[NONCE]
    if run.stage == STAGE_LAUNCHED or tid != run.guest:
        return 0
    if raw_syscall(SYS_getrandom, <long>ours, NONCE, 0, 0, 0, 0) != NONCE:
        return 0
    memset(theirs, 0, NONCE)
    return read_memory(tid, <uint64_t>ours, theirs, NONCE) == NONCE and memcmp(ours, theirs, NONCE) == 0


cdef Action deny(Table *table, int cause, int error, const Notification *notification) noexcept nogil:
    """Writes a denial down (error 0: an end), for the caller to carry out."""
    note_plain(
        table, OPERATION_HANDLER, cause, error, notification.data.nr, thread_group_of(<pid_t>notification.pid)
    )
    return errno_action(error)


cdef Action call_native(
    Handlers *handlers, const HandlerEntry *entry, Table *table, const Notification *notification
) noexcept nogil:
    """Has a native handler answer."""
    cdef NativeCall *call = &handlers.call
    cdef GivenAction given
    cdef Action action
    cdef int cause, result, i
    memset(call, 0, sizeof(NativeCall))
    call.public.abi = SANDLOCK_HANDLER_ABI
    call.public.arch = notification.data.arch
    call.public.number = notification.data.nr
    call.public.tid = <int32_t>notification.pid
    for i in range(6):
        call.public.args[i] = notification.data.args[i]
    call.public.tgid = tgid_of_call
    call.public.read = read_of_call
    call.public.read_string = read_string_of_call
    call.public.write = write_of_call
    call.listener = table.run.listener
    call.id = notification.id
    call.observes = entry.observes
    given = entry.function(&call.public, entry.context)
    call.id = 0
    cause = judge_action(&given, entry.observes, call.has_read, &action)
    if action.kind == ACTION_INJECT:
        result = inject_and_answer(call.listener, notification.id, <int>action.value, flags_of(&given))
        if result == -EMFILE:                  # the program's own affair
            return errno_action(EMFILE)
        if result < 0 and result != -ENOENT:
            return deny(table, CAUSE_HANDLER_ERROR, EACCES, notification)
        return plain_action(ACTION_HOLD)       # it is answered
    if cause != CAUSE_NONE:
        deny(table, cause, <int>action.value if action.kind == ACTION_ERRNO else 0, notification)
    return action


cdef int ask_python(const HandlerEntry *entry, Crew *crew, const Notification *notification) noexcept nogil:
    """Puts a call where a handler in Python is asked about it. Returns 0 when it is there, or the errno to answer."""
    cdef Table *table = crew.table
    cdef pid_t tid = <pid_t>notification.pid
    cdef Slot *slot = NULL
    cdef int i
    if load_int(&table.idle) > 0 or start_worker(crew) == 0:
        slot = take_slot(table)
    if slot == NULL:
        deny(table, CAUSE_FULL, EAGAIN, notification)
        return EAGAIN
    slot.operation = OPERATION_HANDLER
    slot.rule = -1
    slot.id = notification.id
    slot.tid = tid
    slot.tgid = thread_group_of(tid)
    slot.number = notification.data.nr
    memset(&slot.handled, 0, sizeof(slot.handled))
    for i in range(6):
        slot.handled.args[i] = notification.data.args[i]
    slot.handled.observes = entry.observes
    slot.handled.action.kind = ACTION_ERRNO
    if not still_waits(table, slot):
        give_back(slot)
        return ESRCH
    ask(table, slot)
    return 0


cdef Action handle(Handlers *handlers, Crew *crew, const Rule *rule, const Notification *notification) noexcept nogil:
    """What to do with a call that has a handler."""
    cdef const HandlerEntry *entry
    cdef Table *table = crew.table
    cdef int error
    if handlers == NULL or table == NULL or rule.value < 0 or rule.value >= handlers.count:
        return errno_action(EPERM)
    if is_launch(table.run, <pid_t>notification.pid):
        return plain_action(ACTION_CONTINUE)   # nobody else's call: there is nothing to decide
    table.since_ns = now_ns()
    table.tid = <pid_t>notification.pid
    entry = &handlers.entries[rule.value]
    if entry.function != NULL:
        # Its CONTINUE is decided from registers: it has read no memory, or observes, which decides nothing.
        return call_native(handlers, entry, table, notification)
    error = ask_python(entry, crew, notification)
    return plain_action(ACTION_HOLD) if error == 0 else errno_action(error)


# For Python ----------------------------------------------------------------------------------------------------------

cdef class HandlerSet:
    """The handlers of one run, by the number that the plan's rules have: each (address of a native function or 0 for
    Python's, address of its context, whether it observes, what is to be kept alive for it).

    It looks into calls only as long as its Run lives, which whoever uses it has to see to."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self.table = NULL
        self._kept = []

    def __init__(self, list entries):
        cdef HandlerEntry *entry
        cdef int i
        if len(entries) > MAX_HANDLERS:
            raise ValueError("too many handlers")
        for i, (function, context, observes, keep) in enumerate(entries):
            entry = &self.c.entries[i]
            entry.function = <HandlerFunction><uintptr_t>function
            entry.context = <void *><uintptr_t>context
            entry.observes = observes
            self._kept.append(keep)
        self.c.count = <int>len(entries)

    cdef void attach(self, Table *table) noexcept:
        self.table = table

    def act(self, uint64_t question, unsigned int kind, int64_t value, unsigned int flags) -> bool:
        """Carries out what a handler has answered, in the numbers of handler.h. False when the call is over."""
        cdef GivenAction given = GivenAction(kind=kind, flags=flags, value=value)
        cdef Action action
        if judge_action(&given, 0, 0, &action) != CAUSE_NONE and action.kind != ACTION_KILL_TREE:
            raise ValueError("no action for the core to carry out")
        return settle_action(self.table, question, &action, flags_of(&given))

    def read(self, uint64_t question, uint64_t address, uint64_t length) -> bytes:
        """Memory of the caller. Raises LookupError when the call is over, OSError."""
        cdef Slot *slot = asked_slot(self.table, question)
        cdef char *room
        cdef int64_t result
        slot.handled.has_read = 1
        room = new_room(length)
        try:
            with nogil:
                result = read_share(
                    self.table.run.listener, slot.id, slot.tid, &slot.handled.share, address, room, length
                )
            return room[:check(self.table, question, result)]
        finally:
            free(room)

    def read_string(self, uint64_t question, uint64_t address, uint64_t limit) -> bytes:
        """A string of the caller's, at most `limit` bytes with its NUL. Raises as `read`."""
        cdef Slot *slot = asked_slot(self.table, question)
        cdef char *room
        cdef int64_t result
        slot.handled.has_read = 1
        room = new_room(limit)
        try:
            with nogil:
                result = read_string_share(
                    self.table.run.listener, slot.id, slot.tid, &slot.handled.share, address, room, limit
                )
            return room[:check(self.table, question, result)]
        finally:
            free(room)

    def write(self, uint64_t question, uint64_t address, bytes data) -> None:
        """Writes memory of the caller. Raises as `read`."""
        cdef Slot *slot = asked_slot(self.table, question)
        cdef uint64_t length = <uint64_t>len(data)
        cdef const char *source = data
        cdef int64_t result
        if slot.handled.observes:
            raise OSError(EPERM, "an observer writes nothing")
        with nogil:
            result = write_share(
                self.table.run.listener, slot.id, slot.tid, &slot.handled.share, address, source, length
            )
        check(self.table, question, result)


cdef char *new_room(uint64_t size) except NULL:
    # What is larger is refused before anything is read.
    cdef char *room = <char *>malloc(size + 1 if size <= SANDLOCK_MAX_ACCESS else 1)
    if room == NULL:
        raise MemoryError
    return room


cdef int64_t check(Table *table, uint64_t question, int64_t result) except -1:
    """The result of an access to what still waits. Raises LookupError, OSError."""
    if result == -ESRCH:
        raise LookupError("the caller waits no more")
    asked_slot(table, question)        # the slot may be another call's by now
    if result < 0:
        raise OSError(<int>-result, "look into the program's memory")
    return result
