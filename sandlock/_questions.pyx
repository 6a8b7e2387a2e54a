"""The questions in the table of slots as Python sees them: taken, looked into, and settled.

Rules: with the GIL, but never waiting. Facts stay as they are until Python has said that it knows of a question's end.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc

from sandlock._actions cimport ACTION_INJECT, Action
from sandlock._approvals cimport approval_of_call, approval_of_exec, approval_of_open
from sandlock._destinations cimport OPERATION_EXEC, OPERATION_HANDLER, OPERATION_OPEN, Endpoint, is_of_network
from sandlock._memory cimport read_strings
from sandlock._programs cimport FileIdentity
from sandlock._slots cimport (
    ACT_ALLOW, ACT_AUDIT, ASKED, CAUSE_VERDICT, DONE, Denial, GONE, MAX_DENIALS, MAX_FACTS, MAX_OPENERS, MAX_SLOTS,
    MAX_WORKERS, READY, argv_of, exe_of, load_int, load_word, move, question_of, state_of, still_waits, store_int,
    swap_word_if, with_state,
)
from sandlock._wakeups cimport wake_openers, wake_poller, wake_workers

cdef extern from "<sys/sysmacros.h>" nogil:
    uint64_t makedev(unsigned int major, unsigned int minor) noexcept

cdef extern from "<errno.h>" nogil:
    const int ESRCH

cdef enum:
    MAX_WORDS = 0x7FFFFFFF


cdef list split_words(const char *start, size_t length):
    return (<bytes>start[:length]).split(b"\0")[:-1]


cdef tuple endpoint_values(int protocol, int port, int width, const uint8_t *address, int abstract, bytes path):
    """(protocol, address, port, path, abstract), as Python's events and denials want it."""
    return protocol, (<const char *>address)[:width], port, path, bool(abstract)


cdef tuple identity_values(const FileIdentity *file):
    """Device, inode, size and change time in ns: as os.stat has them."""
    return file.device, file.inode, file.size, file.changed_ns


cdef tuple facts_of(const Slot *slot):
    """Of a socket call: protocol, address, port, path, abstract, scope and size. Of an exec: path, exe, cwd, the
    interpreter's words and argv, in bytes, and as in `identity_values` the named file and the one to be loaded. Of what
    a handler is asked about the arguments. Of an open: path, name, flags, mode, whether it exists, and what it is good
    for (enum Access). Of a fork nothing."""
    cdef const char *at = slot.data
    cdef const Endpoint *to = &slot.call.endpoint
    cdef bytes path, exe, cwd
    if slot.operation == OPERATION_HANDLER:
        return tuple(slot.handled.args)
    if slot.operation == OPERATION_OPEN:
        return (
            exe_of(slot)[:slot.exe_length - 1], at[:slot.path_length - 1], slot.opened.flags, slot.opened.mode,
            bool(slot.opened.where.exists), slot.opened.access, (
                makedev(slot.opened.where.device >> 32, slot.opened.where.device & 0xFFFFFFFF),
                slot.opened.where.inode, slot.opened.where.birth_ns,
            ),
        )
    if slot.operation != OPERATION_EXEC and not is_of_network(slot.operation):
        return ()
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
        identity_values(&slot.named), identity_values(&slot.loaded),
    )


cdef tuple take_questions(Table *table):
    """The new questions, each (id, ns of CLOCK_MONOTONIC when it came, operation, syscall number, rule, tid, tgid,
    facts as in `facts_of`), and the ids of those that are over."""
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
                question_of(table, slot), slot.since_ns, slot.operation, slot.number, slot.rule, slot.tid, slot.tgid,
                facts_of(slot),
            ))
        elif state_of(word) == GONE:
            gone.append(question_of(table, slot))
            move(slot, GONE, DONE)
    return new, gone


cdef Slot *asked_slot(Table *table, uint64_t question) except NULL:
    """The slot of a question that still waits. Raises LookupError."""
    cdef uint64_t i = question >> 48
    if table == NULL or i >= MAX_SLOTS or load_word(&table.slots[i].word) != with_state(
        question & 0xFFFFFFFFFFFF, ASKED
    ):
        raise LookupError("the question is over")
    return &table.slots[i]


cdef bytes remember(Table *table, uint64_t question, int words):
    """An approval of what is asked, for `add_approval`: of an exec with its first `words` words and any more, or, if
    that is -1, with exactly these. Raises LookupError."""
    cdef Slot *slot = asked_slot(table, question)
    # As long as Python has given no verdict, the facts stay, whatever becomes of the call.
    if slot.operation == OPERATION_OPEN:
        if slot.opened.where.birth_ns == 0:
            return b""         # a later file may have the same number
        return approval_of_open(&slot.opened.where, slot.opened.access)
    if slot.operation != OPERATION_EXEC:
        return approval_of_call(&slot.call.endpoint)
    if words < 0:
        return approval_of_exec(&slot.named, &slot.loaded, argv_of(slot), slot.argv_count, 0)
    return approval_of_exec(&slot.named, &slot.loaded, argv_of(slot), min(words, slot.argv_count), 1)


cdef tuple read_environment(Table *table, uint64_t question):
    """The environment of an exec that waits, each variable as bytes; from now on the exec is attested with it. Raises
    LookupError, OSError."""
    cdef Slot *slot = asked_slot(table, question)
    cdef char *room
    cdef long length
    cdef int count = 0
    if slot.environment == NULL:
        room = <char *>malloc(MAX_FACTS)
        if room == NULL:
            raise MemoryError
        length = read_strings(slot.tid, slot.envp_address, room, MAX_FACTS, MAX_WORDS, &count)
        if length < 0 or not still_waits(table, slot):
            free(room)
            raise OSError(<int>-length if length < 0 else ESRCH, "read the environment of an exec")
        slot.environment = <char *>realloc(room, length + 1)
        slot.environment_length = <size_t>length
        slot.environment_count = count
    return tuple(split_words(slot.environment, slot.environment_length))


cdef bint settle_action(Table *table, uint64_t question, const Action *action, uint32_t flags) except -1:
    """What a handler in Python has answered. False when the question is over already."""
    cdef Slot *slot
    try:
        slot = asked_slot(table, question)
    except LookupError:
        return False
    slot.handled.action = action[0]
    slot.handled.flags = flags
    return settle(table, slot, question, ACT_ALLOW, 0, action.kind == ACTION_INJECT)


cdef bint settle_question(Table *table, uint64_t question, int act, int error) except -1:
    """Python's verdict. False when the question is over already."""
    cdef uint64_t i = question >> 48
    if i >= MAX_SLOTS:
        raise ValueError("no such question")
    return settle(table, &table.slots[i], question, act, error, 0)


cdef bint settle(Table *table, Slot *slot, uint64_t question, int act, int error, int hears) noexcept:
    cdef uint64_t word = with_state(question & 0xFFFFFFFFFFFF, ASKED)
    if load_word(&slot.word) != word:
        return False
    slot.act = ACT_ALLOW if act == ACT_AUDIT else act
    slot.audited = act == ACT_AUDIT
    slot.error = error
    slot.cause = CAUSE_VERDICT
    slot.asked = hears         # what becomes of it is no news for who decided it, but for who lent a descriptor
    if not swap_word_if(&slot.word, word, with_state(word, READY)):
        return False
    if slot.act == ACT_ALLOW and is_of_network(slot.operation):
        wake_poller(table)
    elif slot.act == ACT_ALLOW and slot.operation == OPERATION_OPEN:
        wake_openers(table, 1)
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
    wake_workers(table, MAX_WORKERS)


cdef list take_denials(Table *table, bint audited):
    """What was denied, or was `audited`, without a verdict of Python's, each (operation, cause, rule, errno, syscall
    number, pid, count, when it came and when it was denied in ns of CLOCK_MONOTONIC, text, endpoint as in
    `endpoint_values`, the files of the processes above)."""
    cdef Denial *denial
    cdef bytes text
    cdef int i
    cdef list found = []
    if table != NULL:
        for i in range(min(load_int(&table.denial_count), MAX_DENIALS)):
            denial = &table.denials[i]
            if load_int(&denial.ready) and (denial.act == ACT_AUDIT) == audited:
                text = denial.text[:denial.length]
                found.append((
                    denial.operation, denial.cause, denial.rule, denial.error, denial.number, denial.pid, denial.count,
                    denial.since_ns, denial.at_ns, text, endpoint_values(
                        denial.protocol, denial.port, denial.width, denial.bytes, denial.abstract, text
                    ), split_words(denial.chain, denial.chain_length),
                ))
    return found


cdef int expected_calls(const Table *table) noexcept:
    """How many calls helpers that live have tasks make, which nobody judges (_redirect)."""
    cdef int i, found = 0
    for i in range(MAX_WORKERS + 1 + MAX_OPENERS if table != NULL else 0):
        found += load_int(&table.redirects[i].tid) != 0 and load_int(&table.seats[i].lives) != 0
    return found
