"""The fast lane's part of an open, or another path call, that may wait: read its arguments once, and put it where the
path is followed.

Following a path may wait for a disk or a server, and opening for whoever is at the other end of a FIFO; so all that
comes after the reading is done by openers (_openers).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_OPEN, OPERATION_PATH
from sandlock._linux cimport Notification
from sandlock._memory cimport read_string
from sandlock._opening cimport check_flags, give_at_once, read_call
from sandlock._paths cimport MAX_LAST, OpenCall
from sandlock._programs cimport MAX_PATH
from sandlock._promises cimport has_promises, take_promised
from sandlock._slots cimport (
    ACT_ALLOW, CAUSE_FULL, CAUSE_UNREADABLE, MAX_ALL_FACTS, READY, Slot, Table, fence, give_back, load_int, load_word,
    note_path, still_waits, store_word, take_slot, with_state,
)
from sandlock._tasks cimport now_ns, thread_group_of
from sandlock._wakeups cimport wake_openers, wake_workers
from sandlock._workers cimport start_opener, start_worker

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int ENOMEM
    const int EPERM
    const int ESRCH


cdef int keep_path(Table *table, Slot *slot, const char *path, long length) noexcept nogil:
    """Copies the path into the slot, with room behind it for the one without links. Returns 0 or -errno."""
    cdef uint32_t size = <uint32_t>length + 1 + MAX_PATH + MAX_LAST
    if table.held + size > MAX_ALL_FACTS:
        return -EAGAIN
    slot.data = <char *>malloc(size)
    if slot.data == NULL:
        return -ENOMEM
    slot.size = size
    table.held += size
    slot.path_length = <uint32_t>length + 1
    slot.exe_length = 0
    memcpy(slot.data, path, slot.path_length)
    return 0


cdef Slot *fill_slot(
    Crew *crew, const Notification *notification, int operation, const char *path, long length
) noexcept nogil:
    """A slot with the call, or NULL."""
    cdef Table *table = crew.table
    cdef Slot *slot
    if start_opener(crew) < 0 or (load_int(&table.idle) == 0 and start_worker(crew) < 0):
        return NULL
    slot = take_slot(table)
    if slot == NULL:
        return NULL
    slot.operation = operation
    slot.rule = -1
    slot.asked = slot.waited = slot.seen = 0
    slot.act = ACT_ALLOW
    slot.cause = 0
    slot.environment_count = -1
    slot.id = notification.id
    slot.tid = <pid_t>notification.pid
    slot.tgid = thread_group_of(slot.tid)
    slot.number = notification.data.nr
    if keep_path(table, slot, path, length) < 0:
        give_back(slot)
        return NULL
    return slot


cdef int put_down(Crew *crew, Slot *slot) noexcept nogil:
    """Has an opener see to it. Returns 0 or an errno."""
    cdef Table *table = crew.table
    # Whose memory was read: the caller's, if it still waits.
    if slot.tgid == 0 or not still_waits(table, slot):
        give_back(slot)
        return ESRCH
    store_word(&slot.word, with_state(load_word(&slot.word), READY))
    wake_openers(table, 1)
    table.asked_ms = table.since_ns // 1000000
    fence()                      # as for a question, see `offer`: somebody has to notice if the opener dies
    if not load_int(&table.watched):
        wake_workers(table, 1)
    return 0


cdef int refuse_full(
    Crew *crew, const Notification *notification, int operation, const char *path, long length
) noexcept nogil:
    note_path(
        crew.table, operation, CAUSE_FULL, -1, EAGAIN, notification.data.nr,
        thread_group_of(<pid_t>notification.pid), path, length
    )
    return EAGAIN


cdef int queue_path(
    Crew *crew, const Notification *notification, int64_t rule, const char *path, long length
) noexcept nogil:
    """Puts a path call where somebody may wait, who reads it again from the start. Returns 0 or an errno."""
    cdef Slot *slot = fill_slot(crew, notification, OPERATION_PATH, path, length)
    cdef int i
    if slot == NULL:
        return refuse_full(crew, notification, OPERATION_PATH, path, length)
    for i in range(6):
        slot.handled.args[i] = notification.data.args[i]
    slot.handled.rule = rule
    return put_down(crew, slot)


cdef int vet_open(Crew *crew, const Notification *notification, int asks) noexcept nogil:
    """Puts an open where its path is followed. Returns 0 when it is there, or the errno to answer with."""
    cdef Table *table = crew.table
    cdef OpenCall call
    cdef char path[MAX_PATH]
    cdef uint64_t address = 0
    cdef long length = 0, promised
    cdef Slot *slot
    cdef int result
    table.since_ns = now_ns()
    table.tid = <pid_t>notification.pid
    result = read_call(notification, &call, &address)
    if result == 0:
        result = check_flags(notification.data.nr, &call)
    if result == 0:
        length = read_string(<pid_t>notification.pid, address, path, MAX_PATH)
        result = <int>length if length < 0 else 0
    if result == -EPERM:         # its memory is shut to us: another user, or not dumpable
        note_path(
            table, OPERATION_OPEN, CAUSE_UNREADABLE, -1, EACCES, notification.data.nr, thread_group_of(table.tid), b"",
            0
        )
        return EACCES
    if result < 0:
        return -result
    if has_promises(&table.promises):    # a loader opens the program that was judged when it was executed
        promised = take_promised(&table.promises, thread_group_of(table.tid), path)
        if promised >= 0:
            give_at_once(table.run.listener, notification.id, promised, call.flags, 0)
            return 0
    call.asks = asks
    slot = fill_slot(crew, notification, OPERATION_OPEN, path, length)
    if slot == NULL:
        return refuse_full(crew, notification, OPERATION_OPEN, path, length)
    slot.opened = call
    return put_down(crew, slot)
