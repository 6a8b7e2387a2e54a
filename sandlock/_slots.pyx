"""The table of calls that wait for a verdict, and the log of those that were denied. See _slots.pxd for who does what.

Rules: no locks, for a party may be killed at any point. A verdict that comes too late finds another generation.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_EXEC, Endpoint
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


cdef char *scratch_of(Table *table) noexcept nogil:
    """MAX_FACTS bytes for the fast lane, or NULL. Touched as far as they are used."""
    if table.scratch == NULL:
        table.scratch = <char *>malloc(MAX_FACTS)
    return table.scratch


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


cdef void wake_poller(Table *table) noexcept nogil:
    cdef uint64_t one = 1
    raw_syscall(SYS_write, table.poller_fd, <long>&one, sizeof(one), 0, 0, 0)


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


cdef int send_answer(const Table *table, const Slot *slot, int64_t value, int error, uint32_t flags) noexcept nogil:
    cdef Response response
    cdef long result
    response.id = slot.id
    response.val = value
    response.error = -error
    response.flags = flags
    while True:
        result = raw_syscall(SYS_ioctl, table.run.listener, <long>SECCOMP_IOCTL_NOTIF_SEND, <long>&response, 0, 0, 0)
        if result != -EINTR:
            return <int>result


cdef int answer(const Table *table, const Slot *slot, int error, uint32_t flags) noexcept nogil:
    """Sends the answer: a (positive) errno, or 0 with flags. Returns 0 or -errno."""
    return send_answer(table, slot, 0, error, flags)


cdef int answer_value(const Table *table, const Slot *slot, int64_t value) noexcept nogil:
    """Sends a value (0 or more), or a negative errno, as the call's own result. Returns 0 or -errno."""
    if value < 0:
        return send_answer(table, slot, 0, <int>-value, 0)
    return send_answer(table, slot, value, 0, 0)


# What was denied ------------------------------------------------------------------------------------------------------

cdef const char *exe_of(const Slot *slot) noexcept nogil:
    return slot.data + slot.path_length


cdef const char *argv_of(const Slot *slot) noexcept nogil:
    return slot.data + slot.path_length + slot.exe_length + slot.cwd_length + slot.prefix_length


cdef int same_denial(const Denial *one, const Denial *other) noexcept nogil:
    return (
        one.operation == other.operation and one.cause == other.cause and one.rule == other.rule
        and one.protocol == other.protocol and one.port == other.port and one.width == other.width
        and one.error == other.error and one.abstract == other.abstract and one.length == other.length
        and memcmp(one.bytes, other.bytes, sizeof(one.bytes)) == 0 and memcmp(one.text, other.text, one.length) == 0
    )


cdef void note(Table *table, Denial *denial) noexcept nogil:
    """Keeps a denial: counts it where it is known already, drops it where there is no more room."""
    cdef int i, at
    denial.at_ms = now_ms()
    denial.count = 1
    for i in range(min(load_int(&table.denial_count), MAX_DENIALS)):
        if load_int(&table.denials[i].ready) and same_denial(&table.denials[i], denial):
            add_int(&table.denials[i].count, 1)
            return
    at = add_int(&table.denial_count, 1) - 1
    if at < 0 or at >= MAX_DENIALS:
        store_int(&table.denial_count, MAX_DENIALS)
        add_int(&table.denials_dropped, 1)
        return
    denial.ready = 0
    table.denials[at] = denial[0]
    store_int(&table.denials[at].ready, 1)


cdef void note_denial(
    Table *table, int cause, int rule, int error, int number, pid_t pid, const char *text, size_t length
) noexcept nogil:
    """Logs the denial of an exec."""
    cdef Denial denial
    memset(&denial, 0, sizeof(denial))
    denial.cause = cause
    denial.rule = rule
    denial.error = error
    denial.number = number
    denial.pid = pid
    denial.length = <uint32_t>(length if length < DENIAL_TEXT else DENIAL_TEXT)
    memcpy(denial.text, text, denial.length)
    note(table, &denial)


cdef void note_call(
    Table *table, int cause, int rule, int error, int number, pid_t pid, const Endpoint *endpoint
) noexcept nogil:
    """Logs the denial of a socket call."""
    cdef Denial denial
    memset(&denial, 0, sizeof(denial))
    denial.operation = endpoint.operation
    denial.cause = cause
    denial.rule = rule
    denial.error = error
    denial.number = number
    denial.pid = pid
    denial.protocol = endpoint.protocol
    denial.port = endpoint.port
    denial.width = endpoint.width
    denial.abstract = endpoint.abstract
    memcpy(denial.bytes, endpoint.bytes, sizeof(denial.bytes))
    denial.length = <uint32_t>(endpoint.path_length if endpoint.path_length < DENIAL_TEXT else DENIAL_TEXT)
    memcpy(denial.text, endpoint.path, denial.length)
    note(table, &denial)


cdef void note_slot(Table *table, const Slot *slot, int cause, int error) noexcept nogil:
    """Logs the denial of a call whose facts are known: what would have run, and how; or where it leads."""
    cdef char text[DENIAL_TEXT]
    cdef size_t length = slot.exe_length
    cdef size_t more = slot.argv_length
    if slot.operation != OPERATION_EXEC:
        note_call(table, cause, slot.rule, error, slot.number, slot.tgid, &slot.call.endpoint)
        return
    if length > DENIAL_TEXT:
        length = DENIAL_TEXT
    memcpy(text, exe_of(slot), length)
    if more > DENIAL_TEXT - length:
        more = DENIAL_TEXT - length
    memcpy(text + length, argv_of(slot), more)
    note_denial(table, cause, slot.rule, error, slot.number, slot.tgid, text, length + more)


# For Python ----------------------------------------------------------------------------------------------------------

cdef list split_words(const char *start, size_t length):
    return (<bytes>start[:length]).split(b"\0")[:-1]


cdef tuple endpoint_values(int protocol, int port, int width, const uint8_t *address, int abstract, bytes path):
    """(protocol, address, port, path, abstract), as Python's events and denials want it."""
    return protocol, (<const char *>address)[:width], port, path, bool(abstract)


cdef tuple facts_of(const Slot *slot):
    """Of a socket call: protocol, address, port, path, abstract, scope and size. Of an exec: path, exe, cwd, the
    interpreter's words and argv, in bytes."""
    cdef const char *at = slot.data
    cdef const Endpoint *to = &slot.call.endpoint
    cdef bytes path, exe, cwd
    if slot.operation != OPERATION_EXEC:
        return (
            *endpoint_values(to.protocol, to.port, to.width, to.bytes, to.abstract, to.path[:to.path_length]),
            to.scope_id, slot.call.size,
        )
    path = at[:slot.path_length - 1]
    at += slot.path_length
    exe = at[:slot.exe_length - 1]
    at += slot.exe_length
    cwd = at[:slot.cwd_length - 1]
    at += slot.cwd_length
    return (
        path, exe, cwd, split_words(at, slot.prefix_length), split_words(at + slot.prefix_length, slot.argv_length),
    )


cdef tuple take_questions(Table *table):
    """The new questions, each (id, operation, syscall number, rule, tid, tgid, facts as in `facts_of`), and the ids of
    those that are over."""
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
            new.append((
                with_state(word, 0) | <uint64_t>i << 48, slot.operation, slot.number, slot.rule, slot.tid, slot.tgid,
                facts_of(slot),
            ))
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
    if act == ACT_ALLOW and slot.operation != OPERATION_EXEC:
        wake_poller(table)
    else:
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
    """What was denied without a verdict of Python's, each (operation, cause, rule, errno, syscall number, pid, count,
    CLOCK_MONOTONIC in ms, text, endpoint as in `endpoint_values`)."""
    cdef Denial *denial
    cdef bytes text
    cdef int i
    cdef list found = []
    if table != NULL:
        for i in range(min(load_int(&table.denial_count), MAX_DENIALS)):
            denial = &table.denials[i]
            if load_int(&denial.ready):
                text = denial.text[:denial.length]
                found.append((
                    denial.operation, denial.cause, denial.rule, denial.error, denial.number, denial.pid, denial.count,
                    denial.at_ms, text, endpoint_values(
                        denial.protocol, denial.port, denial.width, denial.bytes, denial.abstract, text
                    ),
                ))
    return found


cdef void free_table(Table *table) noexcept:
    """After the lane and its helpers have ended."""
    cdef int i
    if table == NULL:
        return
    if table.wake_fd >= 0:
        raw_syscall(SYS_close, table.wake_fd, 0, 0, 0, 0, 0)
    if table.poller_fd >= 0:
        raw_syscall(SYS_close, table.poller_fd, 0, 0, 0, 0, 0)
    for i in range(min(table.top, MAX_SLOTS)):      # the others were never touched, and shall not be for this
        free(table.slots[i].data)
    free(table.scratch)
    free(table)
