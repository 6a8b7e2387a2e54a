"""The fast lane's part of an open that is decided: read its arguments once, and put it where the path is followed.

Following a path may wait for a disk or a server, and opening for whoever is at the other end of a FIFO; so all that
comes after the reading is done by openers (_openers).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_OPEN
from sandlock._linux cimport SYS_openat, SYS_openat2, raw_syscall
from sandlock._memory cimport read_memory, read_string
from sandlock._paths cimport MAX_LAST, OpenCall
from sandlock._programs cimport MAX_PATH
from sandlock._slots cimport (
    ACT_ALLOW, CAUSE_FULL, CAUSE_UNREADABLE, MAX_ALL_FACTS, READY, Slot, Table, fence, give_back, load_int, load_word,
    note_open, still_waits, store_word, take_slot, with_state,
)
from sandlock._tasks cimport now_ns, thread_group_of
from sandlock._wakeups cimport wake_openers, wake_workers
from sandlock._workers cimport start_opener, start_worker

cdef extern from "<errno.h>" nogil:
    const int E2BIG
    const int EACCES
    const int EAGAIN
    const int EINVAL
    const int ENOENT
    const int ENOMEM
    const int ENOSYS
    const int EPERM
    const int ESRCH

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CREAT
    const int O_TRUNC
    const int O_WRONLY

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    #define SANDLOCK_O_PATH 010000000
    #ifndef SYS_open
    #define SYS_open -1                        /* not on aarch64 */
    #endif
    #ifndef SYS_creat
    #define SYS_creat -1
    #endif
    """
    const int O_PATH "SANDLOCK_O_PATH"
    const long SYS_creat
    const long SYS_open

cdef enum:
    SIZE_OF_HOW = 24         # OPEN_HOW_SIZE_VER0: the first version, and the only one that is understood
    PAGE = 4096              # what openat2(2) takes at most; pages of other sizes take more, which is refused here

cdef struct OpenHow:
    uint64_t flags
    uint64_t mode
    uint64_t resolve


cdef int read_how(pid_t tid, uint64_t address, uint64_t size, OpenHow *how) noexcept nogil:
    """struct open_how, as openat2(2) takes it. Returns 0 or -errno."""
    cdef char tail[PAGE]
    cdef long result
    cdef uint64_t i
    if size < SIZE_OF_HOW:
        return -EINVAL
    if size > PAGE:
        return -E2BIG
    if size > SIZE_OF_HOW:
        result = read_memory(tid, address + SIZE_OF_HOW, tail, size - SIZE_OF_HOW)
        if result < 0:
            return <int>result
        for i in range(size - SIZE_OF_HOW):
            if tail[i] != 0:         # something newer, that nobody here knows
                return -E2BIG
    result = read_memory(tid, address, how, SIZE_OF_HOW)
    return <int>result if result < 0 else 0


cdef int read_call(const Notification *notification, OpenCall *call, uint64_t *path) noexcept nogil:
    """The call's arguments but for the path, whose address it tells. Returns 0 or -errno."""
    cdef const unsigned long long *args = <const unsigned long long *>notification.data.args
    cdef int number = notification.data.nr
    cdef OpenHow how
    cdef int result
    memset(call, 0, sizeof(call[0]))
    memset(&how, 0, sizeof(how))
    call.directory = AT_FDCWD
    if number == SYS_openat or number == SYS_openat2:
        call.directory = <int>args[0]
        path[0] = args[1]
    else:
        path[0] = args[0]
    if number == SYS_openat2:
        result = read_how(<pid_t>notification.pid, args[2], args[3], &how)
        if result < 0:
            return result
    elif number == SYS_openat:
        how.flags = <uint32_t>args[2]
        how.mode = <uint32_t>args[3]
    elif number == SYS_open:
        how.flags = <uint32_t>args[1]
        how.mode = <uint32_t>args[2]
    else:                        # creat(2)
        how.flags = O_CREAT | O_WRONLY | O_TRUNC
        how.mode = <uint32_t>args[1]
    call.flags = how.flags
    call.mode = how.mode
    call.resolve = how.resolve
    return 0


cdef int check_flags(int number, OpenCall *call) noexcept nogil:
    """What the kernel says of the flags, before it looks at the path: told by an empty one. Returns 0 or -errno."""
    cdef OpenHow how
    cdef long result
    if number == SYS_openat2:
        how.flags = call.flags
        how.mode = call.mode
        how.resolve = call.resolve
        result = raw_syscall(SYS_openat2, AT_FDCWD, <long><const char *>b"", <long>&how, SIZE_OF_HOW, 0, 0)
    else:
        result = raw_syscall(SYS_openat, AT_FDCWD, <long><const char *>b"", <long>call.flags, <long>call.mode, 0, 0)
    if result != -ENOENT:
        return <int>result if result < 0 else -EINVAL
    # Such a descriptor cannot be handed over (SECCOMP_IOCTL_NOTIF_ADDFD), and the call cannot go on, for its flags lie
    # in memory. The filter lets those of open and openat pass: programs use these where there is no openat2.
    return -ENOSYS if call.flags & O_PATH else 0


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


cdef Slot *fill_slot(Crew *crew, const Notification *notification, const char *path, long length) noexcept nogil:
    """A slot with the call, or NULL."""
    cdef Table *table = crew.table
    cdef Slot *slot
    if start_opener(crew) < 0 or (load_int(&table.idle) == 0 and start_worker(crew) < 0):
        return NULL
    slot = take_slot(table)
    if slot == NULL:
        return NULL
    slot.operation = OPERATION_OPEN
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


cdef int vet_open(Crew *crew, const Notification *notification, int asks) noexcept nogil:
    """Puts an open where its path is followed. Returns 0 when it is there, or the errno to answer with."""
    cdef Table *table = crew.table
    cdef OpenCall call
    cdef char path[MAX_PATH]
    cdef uint64_t address = 0
    cdef long length = 0
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
        note_open(table, CAUSE_UNREADABLE, EACCES, notification.data.nr, thread_group_of(table.tid), b"", 0)
        return EACCES
    if result < 0:
        return -result
    call.asks = asks
    slot = fill_slot(crew, notification, path, length)
    if slot == NULL:
        note_open(
            table, CAUSE_FULL, EAGAIN, notification.data.nr, thread_group_of(<pid_t>notification.pid), path, length
        )
        return EAGAIN
    slot.opened = call
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
