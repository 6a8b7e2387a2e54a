"""The journal of decisions: see _journal.pxd for who does what.

Rules: no locks, for a writer may be killed at any point. Nobody waits without end: a writer whose room does not come
closes the gate for good, so that nothing happens that is not on record.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_EXEC
from sandlock._linux cimport Duration, SYS_futex, SYS_gettid, duration_of, raw_syscall
from sandlock._slots cimport ACT_DENY, ACT_KILL
from sandlock._tasks cimport format_proc_path, now_ms, parent_of

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    """
    const long SYS_readlinkat

cdef extern from * nogil:
    """
    /* Sequentially consistent: "I wait" and "there is something" must not pass each other unseen. */
    #define sandlock_see(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
    #define sandlock_say(at, value) __atomic_store_n(at, value, __ATOMIC_SEQ_CST)
    #define sandlock_count(at) __atomic_add_fetch(at, 1, __ATOMIC_SEQ_CST)
    #define sandlock_replace(at, old, new) __sync_bool_compare_and_swap(at, old, new)
    """
    uint64_t see_word "sandlock_see"(const uint64_t *at) noexcept
    void say_word "sandlock_say"(uint64_t *at, uint64_t value) noexcept
    int see_int "sandlock_see"(const int *at) noexcept
    void say_int "sandlock_say"(int *at, int value) noexcept
    int count_int "sandlock_count"(int *at) noexcept
    int replace_word "sandlock_replace"(uint64_t *at, uint64_t old, uint64_t new) noexcept
    int replace_int "sandlock_replace"(int *at, int old, int new) noexcept

cdef enum:
    FUTEX_WAIT = 0
    FUTEX_WAKE = 1
    EVERYBODY = 0x7FFFFFFF
    PATIENCE_MS = 5000       # for room, and for the gate; after that nothing more is allowed
    TORN_LOOK_MS = 20        # between two looks at a writer that has not finished


# Turns: place p of round r is free at 2r, to be read at 2r + 1; a fresh ring is all zeros.

cdef uint64_t free_turn(uint64_t place) noexcept nogil:
    return place // ENTRIES * 2


cdef void wake(int *futex) noexcept nogil:
    count_int(futex)
    raw_syscall(SYS_futex, <long>futex, FUTEX_WAKE, EVERYBODY, 0, 0, 0)


# Writing -------------------------------------------------------------------------------------------------------------

cdef void enlist(Journal *journal, int place, const int *lives) noexcept nogil:
    """This task writes from now on, in the place of one that has ended."""
    cdef pid_t tid = <pid_t>raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0)
    cdef int i
    for i in range(MAX_WRITERS):
        if journal.writers[i] == tid:        # of somebody who has ended: the number is ours now
            journal.writers[i] = 0
    journal.lives[place] = lives
    say_word(&journal.claims[place], 0)
    journal.writers[place] = tid


cdef int own_place(const Journal *journal) noexcept nogil:
    cdef pid_t tid = <pid_t>raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0)
    cdef int i
    for i in range(MAX_WRITERS):
        if journal.writers[i] == tid:
            return i
    return -1


cdef int wait_for_room(Journal *journal, const Entry *entry, uint64_t place) noexcept nogil:
    """Whether there is room now. If it does not come in time, nothing more is allowed."""
    cdef int64_t until = now_ms() + PATIENCE_MS
    cdef int64_t left
    cdef Duration limit
    cdef int seen
    while journal.patient and see_int(&journal.gate) != GATE_REFUSES and not see_int(&journal.closing):
        say_int(&journal.waiting, 1)
        seen = see_int(&journal.room)
        if see_word(&entry.turn) == free_turn(place) or see_word(&journal.head) != place:
            return 1
        left = until - now_ms()
        if left <= 0:
            break
        limit = duration_of(left)
        raw_syscall(SYS_futex, <long>&journal.room, FUTEX_WAIT, seen, <long>&limit, 0, 0)
    count_int(&journal.lost)
    if journal.patient:
        set_gate(journal, GATE_REFUSES)
    return 0


cdef Entry *take_place(Journal *journal, int writer) noexcept nogil:
    """A place for this writer to fill, or NULL: then the decision is lost, and counted."""
    cdef Entry *entry
    cdef uint64_t place
    while True:
        place = see_word(&journal.head)
        entry = &journal.entries[place % ENTRIES]
        if see_word(&entry.turn) != free_turn(place):
            if see_word(&journal.head) == place and not wait_for_room(journal, entry, place):
                return NULL
            continue
        say_word(&journal.claims[writer], place + 1)
        if replace_word(&journal.head, place, place + 1):
            return entry
        say_word(&journal.claims[writer], 0)     # another one has it: while we wait, nobody shall wait for us


cdef size_t put(Entry *entry, const char *bytes, size_t length) noexcept nogil:
    """Adds text. Returns how much of it did not fit."""
    cdef size_t room = ENTRY_TEXT - entry.text_length
    cdef size_t fits = length if length < room else room
    if fits > 0:
        memcpy(entry.text + entry.text_length, bytes, fits)
        entry.text_length += <uint32_t>fits
    return length - fits


cdef void add_exe(Entry *entry) noexcept nogil:
    """Of a socket call: the caller's program."""
    cdef char link[64]
    cdef long length
    format_proc_path(link, entry.judged.tid, b"exe")
    length = raw_syscall(
        SYS_readlinkat, AT_FDCWD, <long>link, <long>(entry.text + entry.text_length), ENTRY_TEXT - entry.text_length, 0,
        0,
    )
    if length > 0:
        entry.judged.exe_length = <size_t>length
        entry.text_length += <uint32_t>length


cdef void add_parents(Entry *entry) noexcept nogil:
    """Of what is denied: its reader may want to tell somebody, and who was denied is soon gone."""
    cdef pid_t pid = entry.judged.pid
    cdef int i
    memset(entry.parents, 0, sizeof(entry.parents))
    if entry.judged.act != ACT_DENY and entry.judged.act != ACT_KILL:
        return
    for i in range(PARENTS):
        pid = parent_of(pid)
        if pid <= 1:
            break
        entry.parents[i] = pid


cdef void fill(Entry *entry, const Judged *judged) noexcept nogil:
    cdef const Endpoint *to = judged.endpoint
    entry.judged = judged[0]
    entry.text_length = 0
    entry.cut = 0
    entry.protocol = entry.port = entry.width = entry.abstract = 0
    add_parents(entry)
    if to != NULL:
        entry.protocol = to.protocol
        entry.port = to.port
        entry.width = to.width
        entry.abstract = to.abstract
        memcpy(entry.bytes, to.bytes, sizeof(entry.bytes))
        put(entry, to.path, to.path_length)
        add_exe(entry)
        return
    if judged.operation != OPERATION_EXEC:
        put(entry, judged.cwd, judged.cwd_length)
        add_exe(entry)
        return
    if judged.exe_length + judged.cwd_length > ENTRY_TEXT:
        entry.judged.cwd_length = 0
    put(entry, judged.exe, judged.exe_length)
    put(entry, judged.cwd, entry.judged.cwd_length)
    entry.cut = put(entry, judged.argv, judged.argv_length) > 0


cdef int record(Journal *journal, const Judged *judged) noexcept nogil:
    """Writes a decision down. Returns whether there was room for it."""
    cdef int writer = own_place(journal)
    cdef Entry *entry
    if writer < 0:
        count_int(&journal.lost)
        return 0
    entry = take_place(journal, writer)
    if entry == NULL:
        say_word(&journal.claims[writer], 0)
        return 0
    fill(entry, judged)
    say_word(&entry.turn, see_word(&entry.turn) + 1)
    say_word(&journal.claims[writer], 0)
    wake_reader(journal)
    return 1


cdef void wake_reader(Journal *journal) noexcept nogil:
    count_int(&journal.written)
    if see_int(&journal.reading):
        raw_syscall(SYS_futex, <long>&journal.written, FUTEX_WAKE, EVERYBODY, 0, 0, 0)


# The gate ------------------------------------------------------------------------------------------------------------

cdef void set_gate(Journal *journal, int gate) noexcept nogil:
    """Once it refuses, it stays so."""
    cdef int before = see_int(&journal.gate)
    while before != GATE_REFUSES and not replace_int(&journal.gate, before, gate):
        before = see_int(&journal.gate)
    raw_syscall(SYS_futex, <long>&journal.gate, FUTEX_WAKE, EVERYBODY, 0, 0, 0)
    wake(&journal.room)


cdef int pass_gate(Journal *journal) noexcept nogil:
    """Whether something may be allowed. Waits until the record has begun; if it does not, then never."""
    cdef Duration limit
    cdef int64_t until, left
    cdef int gate = see_int(&journal.gate)
    if gate == GATE_OPEN:
        return 1
    until = now_ms() + PATIENCE_MS
    while gate == GATE_CLOSED and not see_int(&journal.closing):
        left = until - now_ms()
        if left <= 0:
            set_gate(journal, GATE_REFUSES)
            break
        limit = duration_of(left)
        raw_syscall(SYS_futex, <long>&journal.gate, FUTEX_WAIT, GATE_CLOSED, <long>&limit, 0, 0)
        gate = see_int(&journal.gate)
    return gate == GATE_OPEN


cdef void close_journal(Journal *journal) noexcept nogil:
    """The run is over: whoever waits here goes on."""
    say_int(&journal.closing, 1)
    if see_int(&journal.gate) == GATE_CLOSED:
        set_gate(journal, GATE_REFUSES)
    wake(&journal.room)
    wake_reader(journal)


# Reading, by one thread ----------------------------------------------------------------------------------------------

cdef int is_torn(const Journal *journal, uint64_t place) noexcept nogil:
    """A place that is taken and not finished: whether nobody alive is at it."""
    cdef const int *lives
    cdef int i
    for i in range(MAX_WRITERS):
        if see_word(&journal.claims[i]) != place + 1:
            continue
        lives = journal.lives[i]
        if lives == NULL or see_int(lives):
            return 0
    # It may have been finished just now, and its claim given up.
    return see_word(&journal.entries[place % ENTRIES].turn) == free_turn(place)


cdef Entry *next_entry(Journal *journal, bint final) noexcept nogil:
    """The next decision, or NULL where there is none yet. Skips what is torn; `final`: no writer is left."""
    cdef Entry *entry
    while journal.tail != see_word(&journal.head):
        entry = &journal.entries[journal.tail % ENTRIES]
        if see_word(&entry.turn) == free_turn(journal.tail) + 1:
            return entry
        if not final and not is_torn(journal, journal.tail):
            return NULL
        count_int(&journal.torn)
        free_entry(journal, entry)
    return NULL


cdef void free_entry(Journal *journal, Entry *entry) noexcept nogil:
    say_word(&entry.turn, free_turn(journal.tail) + 2)
    journal.tail += 1
    if see_int(&journal.waiting):
        say_int(&journal.waiting, 0)
        wake(&journal.room)


cdef void wait_for_entries(Journal *journal, int64_t milliseconds) noexcept nogil:
    """Waits until there is something to read, at most this long. Returns early now and then."""
    cdef Duration limit
    cdef int seen
    say_int(&journal.reading, 1)
    seen = see_int(&journal.written)
    if next_entry(journal, 0) == NULL and not see_int(&journal.closing):
        if journal.tail != see_word(&journal.head) and milliseconds > TORN_LOOK_MS:
            milliseconds = TORN_LOOK_MS
        limit = duration_of(milliseconds)
        raw_syscall(SYS_futex, <long>&journal.written, FUTEX_WAIT, seen, <long>&limit, 0, 0)
    say_int(&journal.reading, 0)


cdef tuple entry_values(const Entry *entry):
    cdef const Judged *judged = &entry.judged
    cdef bytes text = entry.text[:entry.text_length]
    cdef bytes address = (<const char *>entry.bytes)[:entry.width]
    cdef bytes exe = b"", cwd = b""
    cdef list argv = []
    cdef int i
    if judged.operation == OPERATION_EXEC:
        exe = text[:judged.exe_length].rstrip(b"\0")
        cwd = text[judged.exe_length:judged.exe_length + judged.cwd_length].rstrip(b"\0")
        argv = text[judged.exe_length + judged.cwd_length:].split(b"\0")
        if argv and not argv[-1]:
            argv.pop()
        text = b""
    else:
        exe = text[entry.text_length - judged.exe_length:]
        text = text[:entry.text_length - judged.exe_length]
    return (
        judged.operation, judged.act, judged.cause, judged.rule, judged.error, judged.number, judged.pid, judged.tid,
        judged.since_ns, judged.decided_ns, judged.question, exe, cwd, argv, bool(entry.cut),
        (entry.protocol, address, entry.port, text, bool(entry.abstract)), judged.done,
        tuple([entry.parents[i] for i in range(PARENTS) if entry.parents[i] != 0]),
    )


cdef list take_entries(Journal *journal, bint final, int limit):
    """The decisions that have come, at most `limit`, each (operation, act, cause, rule, errno, syscall number, pid,
    tid, since and decided in ns of CLOCK_MONOTONIC, question, exe, cwd, argv, whether argv is cut, endpoint, what was
    done to a file, parents)."""
    cdef Entry *entry
    cdef list found = []
    while len(found) < limit:
        entry = next_entry(journal, final)
        if entry == NULL:
            break
        found.append(entry_values(entry))
        free_entry(journal, entry)
    return found


cdef Journal *make_journal(bint patient, bint gated) except NULL:
    cdef Journal *journal = <Journal *>calloc(1, sizeof(Journal))
    if journal == NULL:
        raise MemoryError
    journal.patient = patient
    journal.gate = GATE_CLOSED if gated else GATE_OPEN
    return journal


# By itself, for tests ------------------------------------------------------------------------------------------------

cdef class Ring:
    """A journal without a run: whoever calls writes, in the place that it has taken."""

    cdef Journal *journal
    cdef int lives[MAX_WRITERS]

    def __cinit__(self, *, bint patient=False):
        self.journal = make_journal(patient, False)

    def __dealloc__(self):
        free(self.journal)

    def enlist(self, int place) -> None:
        """The calling thread writes in this place from now on, and is alive."""
        self.lives[place] = 1
        enlist(self.journal, place, &self.lives[place])

    def end(self, int place) -> None:
        """Who writes in this place has ended."""
        say_int(&self.lives[place], 0)

    def write(self, int first, int count) -> int:
        """Records decisions with these numbers as their errno. Returns how many found room."""
        cdef Judged judged
        cdef int i, found = 0
        memset(&judged, 0, sizeof(judged))
        judged.exe = b"exe"
        judged.exe_length = 4
        judged.pid = first
        with nogil:
            for i in range(first, first + count):
                judged.error = i
                found += record(self.journal, &judged)
        return found

    def take_place(self) -> None:
        """Takes a place and does not finish, as one who is killed there."""
        take_place(self.journal, own_place(self.journal))

    def take(self, bint final=False, int limit=ENTRIES) -> list:
        """As `take_entries`."""
        return take_entries(self.journal, final, limit)

    def wait(self, int milliseconds) -> None:
        """As `wait_for_entries`."""
        with nogil:
            wait_for_entries(self.journal, milliseconds)

    def counts(self) -> tuple:
        """Decisions that found no room, those that were torn, and whether nothing is allowed any more."""
        return self.journal.lost, self.journal.torn, bool(self.journal.gate == GATE_REFUSES)
