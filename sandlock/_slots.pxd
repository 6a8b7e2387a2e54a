# Calls that wait for a verdict. A slot holds one notification and what was read of it, from the moment when the fast
# lane cannot answer it by itself until it is answered.
#
# Who may do what is said by the slot's word (generation and state), which changes hands atomically and without locks:
# a party that is killed in between leaves nothing locked.
#   FREE    -> the fast lane fills it       -> ASKED (Python decides) or READY (a worker acts)
#   ASKED   -> Python's verdict             -> READY
#   ASKED   -> a worker, at its deadline or when the caller is gone -> WORKING
#   READY   -> a worker                     -> WORKING; an opener -> OPENING and its number, to be found when it dies
#   WORKING -> the worker, when answered    -> GONE if Python was asked and gave no verdict, or keeps one for a record
#                                              that is not made; else DONE
#   GONE    -> Python has heard of it       -> DONE
#   DONE    -> the fast lane frees its data -> FREE

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from posix.types cimport pid_t

from sandlock._actions cimport Action, HandledCall
from sandlock._approvals cimport Approvals
from sandlock._atomics cimport (
    add_int, fence, load_int, load_word, store_int, store_word, swap_int_if, swap_word_if,
)
from sandlock._destinations cimport Endpoint
from sandlock._journal cimport Journal
from sandlock._linux cimport Notification
from sandlock._path_table cimport PathTable, hiding
from sandlock._paths cimport OpenCall
from sandlock._pins cimport Pins
from sandlock._programs cimport MAX_LEVELS, FileIdentity, Viewer
from sandlock._promises cimport Promises
from sandlock._redirect cimport Redirect
from sandlock._run cimport NetRules, Run
from sandlock._sockets cimport SocketCall
from sandlock._view_table cimport ViewTable
from sandlock._tasks cimport Ledger
from sandlock._writers cimport Writers

# As _atomics, for pointers.
cdef extern from * nogil:
    const NetRules *load_rules "sandlock_load"(const NetRules *const *at) noexcept
    const PathTable *load_paths "sandlock_load"(const PathTable *const *at) noexcept
    void store_paths "sandlock_store"(const PathTable **at, const PathTable *value) noexcept
    void store_rules "sandlock_store"(const NetRules **at, const NetRules *value) noexcept

cdef enum:
    MAX_SLOTS = 1024
    MAX_WORKERS = 8
    MAX_OPENERS = 4
    MAX_DENIALS = 256
    EXECUTED = 4096
    DENIAL_TEXT = 480
    LOOK_MS = 100           # between two looks at whether those who wait for Python are alive, and in time
    CHAIN_TEXT = 512
    MAX_FACTS = 6 * 1024 * 1024 + 65536   # bytes of one call: more argv than the kernel takes (3/4 of _STK_LIM)
    MAX_ALL_FACTS = 64 * 1024 * 1024      # bytes of all that wait

cdef enum State:
    FREE = 0
    FILLING = 1
    ASKED = 2
    READY = 3
    WORKING = 4
    GONE = 5
    DONE = 6
    OPENING = 16            # and up: which opener

# Why a call was denied (events.CAUSES has the words).
cdef enum Cause:
    CAUSE_NONE = 0
    CAUSE_RULE = 1
    CAUSE_VERDICT = 2
    CAUSE_TIMEOUT = 3
    CAUSE_FULL = 4          # too many calls wait, or their arguments are too large
    CAUSE_NOBODY = 5        # nobody listens
    CAUSE_CHANGED = 6       # the facts changed between the question and the effect
    CAUSE_ATTEST = 7        # what the kernel loaded is not what was approved: killed
    CAUSE_UNREADABLE = 8    # the call's arguments, or its file, cannot be looked at
    CAUSE_NO_TRACE = 9      # ptrace(2) is refused here
    CAUSE_NO_RULE = 10
    CAUSE_AUDIT = 11        # it could not be recorded
    CAUSE_APPROVED = 12     # a verdict has allowed what is like it
    CAUSE_HANDLER = 13      # a handler answered so
    CAUSE_HANDLER_ERROR = 14  # what a handler answered is no action, or cannot be done
    CAUSE_REREAD = 15       # a handler has read memory that the kernel would read again

cdef enum Act:
    ACT_DENY = 0
    ACT_ALLOW = 1
    ACT_KILL = 2
    ACT_AUDIT = 3           # allowed, and on record wherever else nothing is
    ACT_WAIT = 4            # at a question's deadline: it goes on waiting

cdef struct Slot:
    uint64_t word           # generation << 8 | state
    int operation           # enum Operation: which of the facts below count
    int rule                # the number of the policy's rule that sent it here, -1 for none
    uint64_t id             # of the notification
    pid_t tid
    pid_t tgid
    int number              # of the syscall
    int waited              # it waited for a verdict: what was read may have changed
    int asked               # Python has to hear of the end before the facts are freed
    int seen                # Python has taken the question
    int act                 # enum Act: what the verdict was
    int error               # errno of a denial
    int cause               # enum Cause of a denial
    int64_t deadline_ms     # CLOCK_MONOTONIC; 0: none
    int64_t since_ns        # when the notification came
    int64_t decided_ns      # 0: at the moment when it is recorded
    int recorded            # in the journal, as allowed
    int written             # what was decided is in the journal
    int audited             # if it is allowed, as ACT_AUDIT
    int directory           # the descriptor that a path is relative to, or AT_FDCWD
    int flags               # of execveat(2)
    uint64_t path_address
    uint64_t argv_address
    uint64_t envp_address
    FileIdentity named      # the file that was named
    FileIdentity loaded     # the file that runs: the same, or the interpreter of a script
    FileIdentity loader     # in a virtual root: what the kernel loads for it; the program may want none
    int has_loader
    int takes_name          # that loader can be told what its program shall be called
    uint32_t path_length    # facts, each with a NUL, one after the other in `data`
    uint32_t exe_length
    uint32_t cwd_length
    uint32_t prefix_length  # of a script: what the kernel puts in place of argv[0]
    int prefix_count
    int levels              # the script's interpreters, as in Prefix
    int rests[MAX_LEVELS]
    uint32_t files_length   # behind the words: which files they are
    uint32_t argv_length
    int argv_count
    int argv_empty          # execve(2) with no argv: the kernel makes it one empty word (Linux 5.18)
    uint32_t size
    char *data
    int environment_count   # -1: nobody wanted to know it
    size_t environment_length
    char *environment       # what the verdict rests on as well
    SocketCall call         # what a socket call is about
    HandledCall handled     # what a handler is asked about
    int watches[3]          # on the named file, what runs, and its loader, where the program could write them; 0: none
    int writers[3]          # how many had closed them when the question was put
    OpenCall opened         # what an open is about

# Equal denials are one, counted. What was audited without Python is kept beside them.
cdef struct Denial:
    int ready
    int act                 # ACT_AUDIT, else denied
    int count
    int operation           # enum Operation
    int cause
    int rule
    int protocol            # of a socket call, as in Endpoint
    int port
    int width
    int abstract
    uint8_t bytes[16]
    int error
    int number
    pid_t pid
    uint32_t length
    int64_t at_ns           # CLOCK_MONOTONIC, of the first
    int64_t since_ns
    uint32_t chain_length
    char chain[CHAIN_TEXT]  # the files of the processes above, nearest first, each with a NUL
    char text[DENIAL_TEXT]  # exe, then argv as far as it goes, each with a NUL; or the path of a socket

# Of one worker, of the poller, or of an opener.
cdef struct Seat:
    int waits               # futex, see _wakeups; of an opener only a flag
    int lives               # cleared and woken by the kernel at its end

cdef struct Table:
    Run *run
    const Ledger *ledger
    int listens             # Python serves questions
    int wake_fd             # eventfd: something for Python to take
    int poller_fd           # eventfd: something for the poller to do, or -1
    int64_t timeout_ms      # of a question; 0: none
    int on_timeout          # enum Act
    int on_timeout_error
    int closing
    int work                # counts what there was for workers to do
    int picking             # a worker chooses
    int open_work           # futex: something for an opener to do
    int idle                # workers that wait
    int watched             # one of them looks at the questions at least every LOOK_MS
    int64_t asked_ms        # when the last question was put
    int top                 # no slot from here on was ever used
    uint64_t held           # bytes of facts, counted by the fast lane
    char *scratch           # MAX_FACTS, of the fast lane
    int64_t since_ns        # when the notification came that the fast lane is at
    pid_t tid               # whose it is
    Journal *journal        # NULL where nobody wants to know every decision
    Pins *pins              # NULL where names are not looked up
    Writers writers         # of files that are judged
    int denial_count
    int denials_dropped
    int audits_dropped
    int overdue             # questions that waited on beyond their deadline
    const NetRules *net_rules    # in force now
    const ViewTable *views       # NULL where nothing is shown instead of what is there
    const PathTable *paths       # in force now, NULL where the supervisor carries out no path calls
    Approvals approvals
    uint64_t executed[EXECUTED]  # what the last attested exec of a process was, by its number; others share a place
    Seat seats[MAX_WORKERS + 1 + MAX_OPENERS]    # behind the workers the poller, then the openers
    FileIdentity known_loader    # which the fast lane looked at last, and what it saw
    int known_takes_name
    Promises promises
    Redirect redirects[MAX_WORKERS + 1 + MAX_OPENERS]    # what these have a caller do, see _redirect
    Slot slots[MAX_SLOTS]
    Denial denials[MAX_DENIALS]

cdef inline int state_of(uint64_t word) noexcept nogil:
    return <int>(word & 0xFF)

cdef inline uint64_t with_state(uint64_t word, int state) noexcept nogil:
    return (word & ~<uint64_t>0xFF) | <uint64_t>state

cdef inline void viewer_of(const Table *table, const Slot *slot, Viewer *viewer) noexcept nogil:
    viewer.tid = slot.tid
    viewer.tgid = slot.tgid
    viewer.root = table.run.virtual_root
    viewer.run = table.run
    viewer.ledger = table.ledger
    viewer.hiding = hiding(load_paths(&table.paths))

cdef Slot *take_slot(Table *table) noexcept nogil
cdef void free_done(Table *table) noexcept nogil
cdef char *scratch_of(Table *table) noexcept nogil
cdef int move(Slot *slot, int old, int new) noexcept nogil
cdef void offer(Table *table, Slot *slot, int state) noexcept nogil
cdef void ask(Table *table, Slot *slot) noexcept nogil
cdef void give_back(Slot *slot) noexcept nogil
cdef void finish(Table *table, Slot *slot) noexcept nogil
cdef int was_written(Table *table, const Slot *slot) noexcept nogil
cdef int still_waits(const Table *table, const Slot *slot) noexcept nogil
cdef int answer(const Table *table, const Slot *slot, int error, uint32_t flags) noexcept nogil
cdef int send_answer(const Table *table, const Slot *slot, int64_t value, int error, uint32_t flags) noexcept nogil
cdef int answer_value(const Table *table, const Slot *slot, int64_t value) noexcept nogil
cdef void note_denial(
    Table *table, int cause, int rule, int error, int number, pid_t pid, const char *text, size_t length
) noexcept nogil
cdef void note_plain(
    Table *table, int operation, int cause, int error, int number, pid_t pid
) noexcept nogil
cdef void note_path(
    Table *table, int operation, int cause, int rule, int error, int number, pid_t pid, const char *path, size_t length
) noexcept nogil
cdef void record_path(
    Table *table, int operation, int number, pid_t pid, pid_t tid, int done, const char *path, size_t length
) noexcept nogil
cdef void note_call(
    Table *table, int cause, int rule, int error, int number, pid_t pid, const Endpoint *endpoint
) noexcept nogil
cdef const char *argv_of(const Slot *slot) noexcept nogil
cdef uint64_t question_of(const Table *table, const Slot *slot) noexcept nogil
cdef void note_executed(Table *table, const Slot *slot) noexcept nogil
cdef uint64_t executed_last(const Table *table, pid_t pid) noexcept nogil
cdef const char *exe_of(const Slot *slot) noexcept nogil
cdef void note_slot(Table *table, Slot *slot, int cause, int error) noexcept nogil
cdef void note_audited(Table *table, const Slot *slot) noexcept nogil
cdef void record_slot(Table *table, Slot *slot, int act, int cause, int error) noexcept nogil
cdef int permit_slot(Table *table, Slot *slot) noexcept nogil
cdef int permit_call(
    Table *table, int cause, int rule, int number, pid_t pid, const Endpoint *endpoint
) noexcept nogil
cdef Table *make_table() noexcept
cdef void free_table(Table *table) noexcept
