"""The fast lane's part of a fork that is asked about: fork(2), vfork(2) and clone(2) of a process, not of a thread.

All that is decided about is in registers, so an approved call goes on to the kernel as it is.
"""

from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_FORK
from sandlock._slots cimport (
    CAUSE_FULL, Slot, Table, ask, give_back, load_int, note_plain, still_waits, take_slot,
)
from sandlock._tasks cimport now_ns, thread_group_of
from sandlock._workers cimport start_worker

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int ESRCH


cdef int vet_fork(Crew *crew, const Notification *notification) noexcept nogil:
    """Puts a fork where it is decided. Returns 0 when it is there, or the errno to answer with."""
    cdef Table *table = crew.table
    cdef pid_t tid = <pid_t>notification.pid
    cdef Slot *slot = NULL
    table.since_ns = now_ns()
    table.tid = tid
    if load_int(&table.idle) > 0 or start_worker(crew) == 0:
        slot = take_slot(table)
    if slot == NULL:
        note_plain(table, OPERATION_FORK, CAUSE_FULL, EAGAIN, notification.data.nr, thread_group_of(tid))
        return EAGAIN
    slot.operation = OPERATION_FORK
    slot.rule = -1
    slot.recorded = 0
    slot.since_ns = table.since_ns
    slot.decided_ns = 0
    slot.id = notification.id
    slot.tid = tid
    slot.tgid = thread_group_of(tid)
    slot.number = notification.data.nr
    if not still_waits(table, slot):
        give_back(slot)
        return ESRCH
    ask(table, slot)
    return 0
