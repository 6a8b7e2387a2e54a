"""The table of calls that wait for a verdict, and the log of those that were denied. See _slots.pxd for who does what.

Rules: no locks, for a party may be killed at any point. A verdict that comes too late finds another generation.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.types cimport pid_t

from sandlock._linux cimport (
    Response, SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_IOCTL_NOTIF_SEND, SYS_close, SYS_futex, SYS_ioctl, SYS_write,
    raw_syscall,
)
from sandlock._tasks cimport now_ms

cdef extern from "<errno.h>" nogil:
    const int EINTR

cdef enum:
    FUTEX_WAKE = 1


cdef Slot *take_slot(Table *table) noexcept nogil:
    """A slot for the fast lane to fill, or NULL when all are taken. Frees the data of those that are done."""
    cdef Slot *slot
    cdef uint64_t word
    cdef int i
    for i in range(MAX_SLOTS):      # the lowest that is free: who looks for work looks at few
        slot = &table.slots[i]
        word = load_word(&slot.word)
        if state_of(word) == DONE:
            free(slot.data)
            slot.data = NULL
            table.held -= slot.size
            slot.size = 0
            word = with_state(word, FREE)
            store_word(&slot.word, word)
        if state_of(word) == FREE:
            # The next generation: answers to the last question of this slot no longer count.
            store_word(&slot.word, with_state(word + 0x100, FILLING))
            if i >= table.top:
                store_int(&table.top, i + 1)
            return slot
    return NULL


cdef int move(Slot *slot, int old, int new) noexcept nogil:
    """Whether the slot was ours to move from one state to the next."""
    cdef uint64_t word = load_word(&slot.word)
    return state_of(word) == old and swap_word_if(&slot.word, word, with_state(word, new))


cdef void wake_workers(Table *table, int how_many) noexcept nogil:
    add_int(&table.work, 1)
    raw_syscall(SYS_futex, <long>&table.work, FUTEX_WAKE, how_many, 0, 0, 0)


cdef void wake_python(Table *table) noexcept nogil:
    cdef uint64_t one = 1
    raw_syscall(SYS_write, table.wake_fd, <long>&one, sizeof(one), 0, 0, 0)


cdef void offer(Table *table, Slot *slot, int state) noexcept nogil:
    """The fast lane has filled the slot: for Python (ASKED) or for a worker (READY)."""
    store_word(&slot.word, with_state(load_word(&slot.word), state))
    if state == ASKED:
        wake_python(table)
    wake_workers(table, 1)    # also for a question: somebody has to keep an eye on its deadline


cdef void finish(Table *table, Slot *slot) noexcept nogil:
    """The worker has answered, or nobody is left to answer."""
    cdef int asked = slot.asked
    store_word(&slot.word, with_state(load_word(&slot.word), GONE if asked else DONE))
    if asked:
        wake_python(table)


cdef int still_waits(const Table *table, const Slot *slot) noexcept nogil:
    """Whether the caller is alive and waits for this answer."""
    return raw_syscall(
        SYS_ioctl, table.run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&slot.id, 0, 0, 0
    ) == 0


cdef int answer(const Table *table, const Slot *slot, int error, uint32_t flags) noexcept nogil:
    """Sends the answer: a (positive) errno, or 0 with flags. Returns 0 or -errno."""
    cdef Response response
    cdef long result
    response.id = slot.id
    response.val = 0
    response.error = -error
    response.flags = flags
    while True:
        result = raw_syscall(SYS_ioctl, table.run.listener, <long>SECCOMP_IOCTL_NOTIF_SEND, <long>&response, 0, 0, 0)
        if result != -EINTR:
            return <int>result


# What was denied ------------------------------------------------------------------------------------------------------

cdef const char *exe_of(const Slot *slot) noexcept nogil:
    return slot.data + slot.path_length


cdef const char *argv_of(const Slot *slot) noexcept nogil:
    return slot.data + slot.path_length + slot.exe_length + slot.cwd_length + slot.prefix_length


cdef void note_denial(
    Table *table, int cause, int error, int number, pid_t pid, const char *text, size_t length
) noexcept nogil:
    cdef Denial *denial
    cdef int at = add_int(&table.denial_count, 1) - 1
    if at < 0 or at >= MAX_DENIALS:
        store_int(&table.denial_count, MAX_DENIALS)
        add_int(&table.denials_dropped, 1)
        return
    denial = &table.denials[at]
    denial.cause = cause
    denial.error = error
    denial.number = number
    denial.pid = pid
    denial.at_ms = now_ms()
    denial.length = <uint32_t>(length if length < DENIAL_TEXT else DENIAL_TEXT)
    memcpy(denial.text, text, denial.length)
    store_int(&denial.ready, 1)


cdef void note_slot(Table *table, const Slot *slot, int cause, int error) noexcept nogil:
    """Logs the denial of a call whose facts are known: what would have run, and how."""
    cdef char text[DENIAL_TEXT]
    cdef size_t length = slot.exe_length
    cdef size_t more = slot.argv_length
    if length > DENIAL_TEXT:
        length = DENIAL_TEXT
    memcpy(text, exe_of(slot), length)
    if more > DENIAL_TEXT - length:
        more = DENIAL_TEXT - length
    memcpy(text + length, argv_of(slot), more)
    note_denial(table, cause, error, slot.number, slot.tgid, text, length + more)


# For Python ----------------------------------------------------------------------------------------------------------

cdef list split_words(const char *start, size_t length):
    return (<bytes>start[:length]).split(b"\0")[:-1]


cdef tuple facts_of(const Slot *slot):
    """Number, ids, path, exe, cwd, interpreter's words and argv of a call, in bytes."""
    cdef const char *at = slot.data
    cdef bytes path = at[:slot.path_length - 1]
    cdef bytes exe, cwd
    at += slot.path_length
    exe = at[:slot.exe_length - 1]
    at += slot.exe_length
    cwd = at[:slot.cwd_length - 1]
    at += slot.cwd_length
    return (
        slot.number, slot.tid, slot.tgid, path, exe, cwd, split_words(at, slot.prefix_length),
        split_words(at + slot.prefix_length, slot.argv_length),
    )


cdef tuple take_questions(Table *table):
    """The new questions, each (id, syscall number, tid, tgid, path, exe, cwd, interpreter's words, argv), and the
    ids of those that are over."""
    cdef Slot *slot
    cdef uint64_t word
    cdef int i
    cdef list new = [], gone = []
    for i in range(load_int(&table.top)):
        slot = &table.slots[i]
        word = load_word(&slot.word)
        if state_of(word) == ASKED and not slot.seen:
            # Even if it is over at this moment: as long as we have not said that we know, its facts stay.
            slot.seen = 1
            new.append((with_state(word, 0) | <uint64_t>i << 48, *facts_of(slot)))
        elif state_of(word) == GONE:
            gone.append(with_state(word, 0) | <uint64_t>i << 48)
            move(slot, GONE, DONE)
    return new, gone


cdef bint settle_question(Table *table, uint64_t question, int act, int error) except -1:
    """Python's verdict. False when the question is over already."""
    cdef uint64_t i = question >> 48
    cdef uint64_t word = with_state(question & 0xFFFFFFFFFFFF, ASKED)
    cdef Slot *slot
    if i >= MAX_SLOTS:
        raise ValueError("no such question")
    slot = &table.slots[i]
    if load_word(&slot.word) != word:
        return False
    slot.act = act
    slot.error = error
    slot.cause = CAUSE_VERDICT
    if not swap_word_if(&slot.word, word, with_state(word, READY)):
        return False
    wake_workers(table, 1)
    return True


cdef void stop_listening(Table *table) noexcept:
    """Denies what is asked, and what will be."""
    cdef int i
    store_int(&table.listens, 0)
    for i in range(load_int(&table.top)):
        move(&table.slots[i], ASKED, READY)
        move(&table.slots[i], GONE, DONE)
    wake_workers(table, 1)


cdef list take_denials(Table *table):
    """What was denied without a verdict of Python's, each (cause, errno, syscall number, pid, text)."""
    cdef Denial *denial
    cdef int i
    cdef list found = []
    if table != NULL:
        for i in range(min(load_int(&table.denial_count), MAX_DENIALS)):
            denial = &table.denials[i]
            if load_int(&denial.ready):
                found.append((denial.cause, denial.error, denial.number, denial.pid, denial.text[:denial.length]))
    return found


cdef void free_table(Table *table) noexcept:
    """After the lane and its workers have ended."""
    cdef int i
    if table == NULL:
        return
    if table.wake_fd >= 0:
        raw_syscall(SYS_close, table.wake_fd, 0, 0, 0, 0, 0)
    for i in range(MAX_SLOTS):
        free(table.slots[i].data)
    free(table.scratch)
    free(table)
