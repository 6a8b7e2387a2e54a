"""The table of calls that wait for a verdict, and the log of those that were denied. See _slots.pxd for who does what.

Rules: no locks, for a party may be killed at any point. A verdict that comes too late finds another generation.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.types cimport pid_t

from sandlock._approvals cimport free_approvals
from sandlock._destinations cimport OPERATION_EXEC, OPERATION_HANDLER, Endpoint, is_of_network, is_of_paths
from sandlock._journal cimport Judged, pass_gate, record
from sandlock._linux cimport (
    Response, SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_IOCTL_NOTIF_SEND, SYS_close, SYS_ioctl,
    raw_syscall,
)
from sandlock._tasks cimport list_chain, now_ms, now_ns
from sandlock._wakeups cimport wake_python, wake_workers
from sandlock._writers cimport close_writers, count_writers, stop_watch

cdef extern from "<sys/mman.h>" nogil:
    const int MAP_ANONYMOUS
    const int MAP_PRIVATE
    const int PROT_READ
    const int PROT_WRITE
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset) noexcept
    int munmap(void *address, size_t length) noexcept

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINTR
    const int ESRCH

cdef enum:
    MAX_WORDS = 0x7FFFFFFF


cdef void free_slot(Table *table, Slot *slot) noexcept nogil:
    """Frees the data of a slot that is done."""
    cdef uint64_t word = load_word(&slot.word)
    cdef int i
    if state_of(word) == DONE:
        free(slot.data)
        free(slot.environment)
        slot.data = slot.environment = NULL
        table.held -= slot.size
        slot.size = 0
        for i in range(3):
            stop_watch(&table.writers, slot.watches[i])
            slot.watches[i] = 0
        store_word(&slot.word, with_state(word, FREE))


cdef void free_done(Table *table) noexcept nogil:
    """Frees the data of all that are done: high ones, that a burst has left, are not used again for long."""
    cdef int i
    for i in range(table.top):
        free_slot(table, &table.slots[i])


cdef Slot *take_slot(Table *table) noexcept nogil:
    """A slot for the fast lane to fill, or NULL when all are taken. Frees the data of those that are done."""
    cdef Slot *slot
    cdef uint64_t word
    cdef int i
    for i in range(MAX_SLOTS):      # the lowest that is free: who looks for work looks at few
        slot = &table.slots[i]
        free_slot(table, slot)
        word = load_word(&slot.word)
        if state_of(word) == FREE:
            slot.since_ns = table.since_ns
            slot.decided_ns = 0
            slot.recorded = slot.written = slot.audited = slot.asked = 0
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


cdef void offer(Table *table, Slot *slot, int state) noexcept nogil:
    """The fast lane has filled the slot: for Python (ASKED) or for a worker (READY)."""
    store_word(&slot.word, with_state(load_word(&slot.word), state))
    if state == ASKED:
        wake_python(table)
        fence()                # against `leave_watch`: either we see that nobody watches, or that one sees the question
        if load_int(&table.watched) and (table.timeout_ms == 0 or table.timeout_ms > LOOK_MS):
            return
    wake_workers(table, 1)     # also for a question: somebody has to keep an eye on its deadline


cdef void ask(Table *table, Slot *slot) noexcept nogil:
    """The fast lane has filled the slot with what nobody has decided: for Python, if that listens."""
    # What becomes of it if nobody says anything.
    slot.act = ACT_DENY
    slot.error = EACCES
    slot.cause = CAUSE_NOBODY
    slot.seen = 0
    slot.waited = 1
    slot.environment_count = -1
    slot.asked = load_int(&table.listens)
    table.asked_ms = now_ms()
    slot.deadline_ms = table.asked_ms + table.timeout_ms if table.timeout_ms > 0 else 0
    offer(table, slot, ASKED if slot.asked else READY)
    if slot.asked and not load_int(&table.listens):     # it stopped to, in between
        move(slot, ASKED, READY)


cdef void give_back(Slot *slot) noexcept nogil:
    """The fast lane does not need the slot after all."""
    store_word(&slot.word, with_state(slot.word, DONE))


cdef void finish(Table *table, Slot *slot) noexcept nogil:
    """The worker has answered, or nobody is left to answer."""
    cdef int tells = slot.asked or (awaits_record(table, slot) and load_int(&table.listens))
    store_word(&slot.word, with_state(load_word(&slot.word), GONE if tells else DONE))
    if tells:
        wake_python(table)


cdef int awaits_record(const Table *table, const Slot *slot) noexcept nogil:
    """Python keeps its verdict for a record, and there will be none: the call was over, or there was no room."""
    return table.journal != NULL and slot.waited and not slot.written and slot.operation != OPERATION_HANDLER


cdef int was_written(Table *table, const Slot *slot) noexcept nogil:
    """Whether somebody who could write the files of an exec has closed one since the question was put."""
    cdef int i
    for i in range(3):
        if slot.watches[i] > 0 and count_writers(&table.writers, slot.watches[i]) != slot.writers[i]:
            return 1
    return 0


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
        one.operation == other.operation and one.act == other.act and one.cause == other.cause
        and one.rule == other.rule and one.protocol == other.protocol and one.port == other.port
        and one.width == other.width and (one.number == other.number or not is_of_paths(one.operation))
        and one.error == other.error and one.abstract == other.abstract and one.length == other.length
        and memcmp(one.bytes, other.bytes, sizeof(one.bytes)) == 0 and memcmp(one.text, other.text, one.length) == 0
    )


cdef void keep(Table *table, Denial *denial) noexcept nogil:
    """Keeps a denial: counts it where it is known already, drops it where there is no more room."""
    cdef int i, at
    denial.count = 1
    for i in range(min(load_int(&table.denial_count), MAX_DENIALS)):
        if load_int(&table.denials[i].ready) and same_denial(&table.denials[i], denial):
            add_int(&table.denials[i].count, 1)
            return
    at = add_int(&table.denial_count, 1) - 1
    if at < 0 or at >= MAX_DENIALS:
        store_int(&table.denial_count, MAX_DENIALS)
        add_int(&table.audits_dropped if denial.act == ACT_AUDIT else &table.denials_dropped, 1)
        return
    denial.ready = 0
    denial.chain_length = <uint32_t>list_chain(denial.pid, table.run.warden, denial.chain, CHAIN_TEXT)
    table.denials[at] = denial[0]
    store_int(&table.denials[at].ready, 1)


cdef void add_text(Denial *denial, const char *text, size_t length) noexcept nogil:
    if length > DENIAL_TEXT - denial.length:
        length = DENIAL_TEXT - denial.length
    if length > 0:
        memcpy(denial.text + denial.length, text, length)
        denial.length += <uint32_t>length


cdef int note(Table *table, const Judged *judged) noexcept nogil:
    """Logs a denial, and records it where all decisions are. Returns whether it is there."""
    cdef int written = table.journal != NULL and record(table.journal, judged)
    log(table, judged, ACT_DENY)
    return written


cdef void log(Table *table, const Judged *judged, int act) noexcept nogil:
    cdef Denial denial
    cdef const Endpoint *to = judged.endpoint
    memset(&denial, 0, sizeof(denial))
    denial.act = act
    denial.operation = judged.operation
    denial.cause = judged.cause
    denial.rule = judged.rule
    denial.error = judged.error
    denial.number = judged.number
    denial.pid = judged.pid
    denial.since_ns = judged.since_ns
    denial.at_ns = judged.decided_ns
    if to == NULL:
        add_text(&denial, judged.exe, judged.exe_length)
        add_text(&denial, judged.argv, judged.argv_length)
        if is_of_paths(judged.operation):
            add_text(&denial, judged.cwd, judged.cwd_length)
    else:
        denial.protocol = to.protocol
        denial.port = to.port
        denial.width = to.width
        denial.abstract = to.abstract
        memcpy(denial.bytes, to.bytes, sizeof(denial.bytes))
        add_text(&denial, to.path, to.path_length)
    keep(table, &denial)


cdef Judged judged_now(const Table *table, int cause, int rule, int error, int number, pid_t pid) noexcept nogil:
    """A decision of the fast lane about the call that it is at, a denial unless said otherwise."""
    cdef Judged judged
    memset(&judged, 0, sizeof(judged))
    judged.act = ACT_DENY
    judged.cause = cause
    judged.rule = rule
    judged.error = error
    judged.number = number
    judged.pid = pid
    judged.tid = table.tid
    judged.since_ns = table.since_ns
    judged.decided_ns = now_ns()
    return judged


cdef const char *path_of_open(const Slot *slot, size_t *length) noexcept nogil:
    """Without links, or, where that is not known, as the call names it; without its NUL."""
    length[0] = (slot.exe_length if slot.exe_length > 0 else slot.path_length) - 1
    return exe_of(slot) if slot.exe_length > 0 else slot.data


cdef Judged judged_of(const Table *table, const Slot *slot, int act, int cause, int error) noexcept nogil:
    """A decision about a call whose facts are known: what would have run, and how; or where it leads."""
    cdef Judged judged = judged_now(table, cause, slot.rule, error, slot.number, slot.tgid)
    judged.operation = slot.operation
    judged.act = ACT_AUDIT if slot.audited and act == ACT_ALLOW else act
    judged.tid = slot.tid
    judged.since_ns = slot.since_ns
    if slot.decided_ns != 0:
        judged.decided_ns = slot.decided_ns
    if slot.waited:
        judged.question = question_of(table, slot)
    if is_of_paths(slot.operation):
        judged.cwd = path_of_open(slot, &judged.cwd_length)
    if is_of_network(slot.operation):
        judged.endpoint = &slot.call.endpoint
    if slot.operation != OPERATION_EXEC:
        return judged
    judged.exe = exe_of(slot)
    judged.exe_length = slot.exe_length
    judged.cwd = judged.exe + slot.exe_length
    judged.cwd_length = slot.cwd_length
    judged.argv = argv_of(slot)
    judged.argv_length = slot.argv_length
    return judged


cdef void note_denial(
    Table *table, int cause, int rule, int error, int number, pid_t pid, const char *text, size_t length
) noexcept nogil:
    """Logs the denial of the exec that the fast lane is at."""
    cdef Judged judged = judged_now(table, cause, rule, error, number, pid)
    judged.exe = text
    judged.exe_length = length
    note(table, &judged)


cdef void note_plain(
    Table *table, int operation, int cause, int error, int number, pid_t pid
) noexcept nogil:
    """Logs the denial of the call that the fast lane is at, of which no more is known; with error 0, its end."""
    cdef Judged judged = judged_now(table, cause, -1, error, number, pid)
    judged.operation = operation
    if error == 0:
        judged.act = ACT_KILL
    note(table, &judged)


cdef void note_path(
    Table *table, int operation, int cause, int rule, int error, int number, pid_t pid, const char *path, size_t length
) noexcept nogil:
    """Logs the denial of the open, or of the other call on a path, that the fast lane is at."""
    cdef Judged judged = judged_now(table, cause, rule, error, number, pid)
    judged.operation = operation
    judged.cwd = path
    judged.cwd_length = length
    note(table, &judged)


cdef void note_call(
    Table *table, int cause, int rule, int error, int number, pid_t pid, const Endpoint *endpoint
) noexcept nogil:
    """Logs the denial of the socket call that the fast lane is at."""
    cdef Judged judged = judged_now(table, cause, rule, error, number, pid)
    judged.operation = endpoint.operation
    judged.endpoint = endpoint
    note(table, &judged)


cdef void note_slot(Table *table, Slot *slot, int cause, int error) noexcept nogil:
    """Logs the denial of a call in a slot; with error 0, its end."""
    cdef Judged judged = judged_of(table, slot, ACT_DENY if error != 0 else ACT_KILL, cause, error)
    slot.written |= note(table, &judged)


cdef void note_audited(Table *table, const Slot *slot) noexcept nogil:
    """Logs that a call is about to be allowed; the journal has it when it is."""
    cdef Judged judged = judged_of(table, slot, ACT_AUDIT, slot.cause, 0)
    log(table, &judged, ACT_AUDIT)


# What was decided, where all of it is wanted --------------------------------------------------------------------------

cdef void record_slot(Table *table, Slot *slot, int act, int cause, int error) noexcept nogil:
    """Records a decision that is no denial, or that Python itself logs as one."""
    cdef Judged judged
    if table.journal != NULL:
        judged = judged_of(table, slot, act, cause, error)
        slot.written |= record(table.journal, &judged)


cdef void record_path(
    Table *table, int operation, int number, pid_t pid, pid_t tid, int done, const char *path, size_t length
) noexcept nogil:
    """Records what was done to a file."""
    cdef Judged judged = judged_now(table, CAUSE_NONE, -1, 0, number, pid)
    judged.operation = operation
    judged.act = ACT_ALLOW
    judged.tid = tid
    judged.since_ns = judged.decided_ns
    judged.done = done
    judged.cwd = path
    judged.cwd_length = length
    record(table.journal, &judged)


cdef int permit_slot(Table *table, Slot *slot) noexcept nogil:
    """Records that a call is allowed, once. Returns whether it may be: not without a record that has to be."""
    if table.journal == NULL:
        return 1
    if not pass_gate(table.journal):
        return 0
    if not slot.recorded:
        slot.recorded = 1
        record_slot(table, slot, ACT_ALLOW, slot.cause, 0)
    return pass_gate(table.journal)


cdef int permit_call(
    Table *table, int cause, int rule, int number, pid_t pid, const Endpoint *endpoint
) noexcept nogil:
    """The same for the socket call that the fast lane is at."""
    cdef Judged judged
    if table.journal == NULL:
        return 1
    if not pass_gate(table.journal):
        return 0
    judged = judged_now(table, cause, rule, 0, number, pid)
    judged.operation = endpoint.operation
    judged.endpoint = endpoint
    judged.act = ACT_ALLOW
    record(table.journal, &judged)
    return pass_gate(table.journal)


# What runs ------------------------------------------------------------------------------------------------------------

cdef void note_executed(Table *table, const Slot *slot) noexcept nogil:
    """The exec has happened: before the first instruction of the new program."""
    store_word(&table.executed[<unsigned int>slot.tgid % EXECUTED], question_of(table, slot))


cdef uint64_t executed_last(const Table *table, pid_t pid) noexcept nogil:
    """The question, or what would have been its id, of the exec that a process last made; it may be another's."""
    return load_word(&table.executed[<unsigned int>pid % EXECUTED])


# Its name for Python, and the end ------------------------------------------------------------------------------------

cdef uint64_t question_of(const Table *table, const Slot *slot) noexcept nogil:
    """The id of the question that a slot is about: the generation, and which slot it is."""
    return with_state(load_word(&slot.word), 0) | <uint64_t>(slot - &table.slots[0]) << 48


cdef Table *make_table() noexcept:
    """An empty one, or NULL. From the kernel, which gives memory where it is touched: calloc would clear all of it."""
    cdef void *room = mmap(NULL, sizeof(Table), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return NULL if room == MAP_FAILED else <Table *>room


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
        free(table.slots[i].environment)
    free_approvals(&table.approvals)
    close_writers(&table.writers)
    free(table.journal)
    free(table.scratch)
    free(table.pins)
    munmap(table, sizeof(Table))
