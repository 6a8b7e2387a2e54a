"""The slow lane: what may block or must follow a verdict, so that the fast lane need not wait for it.

Workers are tasks cloned by the fast lane, so they are in the run's outer domain. They share the host's memory but are
processes of their own: what they trace is theirs, and no wait(2) of the host can take it away. They end with the lane
(PR_SET_PDEATHSIG); the kernel then kills what they were about to let through (PTRACE_O_EXITKILL).

Rules: raw system calls only; a worker may be killed at any point (the init's kill(-1) reaches the whole domain).
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.types cimport pid_t

from sandlock._attest cimport refuse, run_attested
from sandlock._handling cimport carry_out
from sandlock._linux cimport (
    Duration, PR_SET_NAME, SECCOMP_USER_NOTIF_FLAG_CONTINUE, SYS_futex, SYS_kill,
    SYS_sched_yield, SYS_wait4, dies_with, duration_of, raw_clone, raw_syscall, set_prctl,
)
from sandlock._destinations cimport OPERATION_EXEC, OPERATION_FORK, OPERATION_HANDLER, is_of_network, is_of_paths
from sandlock._journal cimport LANE, enlist
from sandlock._openers cimport (
    BLOCKED_STACK, MAX_BLOCKED, Opener, end_blocked, free_opener, opener_main, reap_blocked, see_to_orphans,
)
from sandlock._poller cimport Poller, poller_main
from sandlock._redirect cimport Redirect
from sandlock._slots cimport (
    ACT_ALLOW, ACT_AUDIT, ACT_KILL, ACT_WAIT, ASKED, CAUSE_AUDIT, CAUSE_TIMEOUT, CAUSE_VERDICT, LOOK_MS, READY, Seat,
    Slot, WORKING, add_int, answer, finish, load_int, load_word, move, note_audited, note_slot, permit_slot,
    record_slot, state_of, still_waits, store_int, store_word, swap_int_if, swap_word_if, with_state,
)
from sandlock._tasks cimport kill_task, now_ms
from sandlock._wakeups cimport wait_for_work, wake_openers, wake_poller, wake_workers

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int EINTR

cdef extern from "<signal.h>" nogil:
    const int SIGKILL

cdef extern from * nogil:
    """
    #include <linux/sched.h>
    """
    const unsigned long CLONE_VM
    const unsigned long CLONE_FILES
    const unsigned long CLONE_CHILD_CLEARTID

cdef enum:
    FUTEX_WAIT = 0
    STACK = 131072
    WALL = 0x40000000
    PATIENCE_MS = 1000       # for a worker to end by itself


# Choosing ------------------------------------------------------------------------------------------------------------

cdef int process_is_busy(Table *table, pid_t tgid) noexcept nogil:
    """Another thread of this process is in an exec of ours: if that works, this one is gone."""
    cdef int i
    for i in range(load_int(&table.top)):
        if state_of(load_word(&table.slots[i].word)) != WORKING or table.slots[i].operation != OPERATION_EXEC:
            continue
        if table.slots[i].tgid == tgid:
            return 1
    return 0


cdef Slot *pick(Table *table) noexcept nogil:
    """A call to act on, now this worker's, or NULL."""
    cdef Slot *slot
    cdef Slot *found = NULL
    cdef int i
    while not swap_int_if(&table.picking, 0, 1):
        raw_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0)
    for i in range(load_int(&table.top)):
        slot = &table.slots[i]
        if state_of(load_word(&slot.word)) != READY:
            continue
        if slot.act == ACT_ALLOW and (is_of_network(slot.operation) or is_of_paths(slot.operation)):
            continue             # the poller's, and the openers'
        if slot.act == ACT_ALLOW and process_is_busy(table, slot.tgid):
            continue
        if move(slot, READY, WORKING):
            found = slot
            break
    store_int(&table.picking, 0)
    return found


# Acting --------------------------------------------------------------------------------------------------------------

cdef int act_on(Table *table, Slot *slot, Redirect *redirect) noexcept nogil:
    """Carries out a verdict. Returns 1 when this worker must end."""
    if slot.act == ACT_ALLOW and is_of_network(slot.operation):
        store_word(&slot.word, with_state(load_word(&slot.word), READY))
        wake_poller(table)
        return 0
    if slot.act == ACT_ALLOW and is_of_paths(slot.operation):
        store_word(&slot.word, with_state(load_word(&slot.word), READY))
        wake_openers(table, 1)
        return 0
    if slot.act == ACT_ALLOW and slot.operation == OPERATION_FORK and not permit_slot(table, slot):
        refuse(table, slot, CAUSE_AUDIT, EAGAIN)
        return 0
    if slot.act == ACT_ALLOW and slot.operation == OPERATION_FORK:
        # Nothing of it was decided from memory: its flags are registers.
        if answer(table, slot, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) < 0:
            kill_task(slot.tid)
        finish(table, slot)
        return 0
    if slot.act == ACT_ALLOW and slot.operation == OPERATION_HANDLER:
        carry_out(table, slot)
        return 0
    if slot.act == ACT_ALLOW:
        return run_attested(table, slot, redirect)
    if slot.act == ACT_KILL:
        if slot.cause != CAUSE_VERDICT:
            note_slot(table, slot, slot.cause, 0)
        else:
            record_slot(table, slot, ACT_KILL, slot.cause, 0)
        kill_task(slot.tid)
        finish(table, slot)
        return 0
    refuse(table, slot, slot.cause, slot.error)
    return 0


cdef int64_t tend(Table *table, Redirect *redirect, int *retire) noexcept nogil:
    """Looks after calls that wait for Python: deadlines, callers that are gone. Returns the ms until the next look,
    -1 for never."""
    cdef Slot *slot
    cdef int64_t now = now_ms()
    cdef int64_t next = LOOK_MS if now - table.asked_ms < LOOK_MS else -1     # the next question will come soon
    cdef int i
    for i in range(load_int(&table.top)):
        slot = &table.slots[i]
        if state_of(load_word(&slot.word)) != ASKED:
            continue
        if slot.deadline_ms > 0 and slot.deadline_ms <= now:
            if table.on_timeout == ACT_WAIT:
                if swap_word_if(<uint64_t *>&slot.deadline_ms, <uint64_t>slot.deadline_ms, 0):
                    add_int(&table.overdue, 1)
            elif move(slot, ASKED, WORKING):
                slot.act = table.on_timeout
                slot.error = table.on_timeout_error
                slot.cause = CAUSE_TIMEOUT
                if slot.act == ACT_AUDIT:
                    slot.act = ACT_ALLOW
                    slot.audited = 1
                    note_audited(table, slot)
                retire[0] |= act_on(table, slot, redirect)
        elif not still_waits(table, slot):
            if move(slot, ASKED, WORKING):
                finish(table, slot)
        else:
            if next < 0 or next > LOOK_MS:
                next = LOOK_MS
            if slot.deadline_ms > 0 and slot.deadline_ms - now < next:
                next = slot.deadline_ms - now
    if see_to_orphans(table) and (next < 0 or next > LOOK_MS):
        next = LOOK_MS
    return next


cdef void leave_watch(Table *table) noexcept nogil:
    """From here on, who puts a question has to wake somebody."""
    swap_int_if(&table.watched, 1, 0)     # a full barrier, too: see `offer`


cdef int worker_main(void *argument) noexcept nogil:
    cdef Table *table = (<Worker *>argument).table
    cdef Seat *seat = (<Worker *>argument).seat
    cdef Redirect *redirect = &table.redirects[seat - &table.seats[0]]
    cdef Slot *slot
    cdef int64_t pause
    cdef int seen, watches = 0, retire = 0
    if not dies_with(table.run.host_pid):
        return 1
    set_prctl(PR_SET_NAME, <long><const char *>b"sandlock-exec", 0)
    if table.journal != NULL:
        enlist(table.journal, (<Worker *>argument).place, &seat.lives)
    while not load_int(&table.closing):
        seen = load_int(&table.work)
        slot = pick(table)
        if slot != NULL:
            if watches:
                leave_watch(table)
                watches = 0
                wake_workers(table, 1)
            retire |= act_on(table, slot, redirect)
        else:
            pause = tend(table, redirect, &retire)
            if pause >= 0 and not watches:
                watches = swap_int_if(&table.watched, 0, 1)
            elif pause < 0 and watches:
                leave_watch(table)
                watches = 0
                continue       # one more look, for who asked in the meantime woke nobody
            if not retire:
                wait_for_work(table, seat, seen, pause if watches else -1, watches)
        if retire:
            break
    if watches:
        leave_watch(table)
    wake_workers(table, 1)      # what this one would have looked at next
    return 0


# Starting and ending, in the fast lane -------------------------------------------------------------------------------

cdef void reap(Crew *crew, Worker *worker) noexcept nogil:
    cdef long result = -EINTR
    while result == -EINTR:
        result = raw_syscall(SYS_wait4, worker.pid, 0, WALL, 0, 0, 0)
    crew.ledger.helpers[worker - &crew.workers[0]] = 0
    worker.pid = 0


cdef int launch(Crew *crew, int place, int (*function)(void *) noexcept nogil, void *argument) noexcept nogil:
    """Starts a task in a free place of the crew. Returns 0 or -1."""
    cdef Worker *worker = &crew.workers[place]
    cdef long pid
    if worker.stack == NULL:
        worker.stack = <char *>malloc(STACK)
        if worker.stack == NULL:
            return -1
    worker.table = crew.table
    worker.place = LANE + 1 + place
    worker.seat = &crew.table.seats[place]
    worker.seat.waits = 0
    worker.seat.lives = 1
    pid = raw_clone(
        CLONE_VM | CLONE_FILES | CLONE_CHILD_CLEARTID, worker.stack + STACK, &worker.seat.lives, function, argument
    )
    if pid < 0:
        return -1
    worker.pid = <pid_t>pid
    crew.ledger.helpers[place] = <pid_t>pid
    return 0


cdef int is_vacant(Crew *crew, int place) noexcept nogil:
    """Nobody lives there (any more)."""
    cdef Worker *worker = &crew.workers[place]
    if worker.pid != 0 and load_int(&worker.seat.lives) == 0:
        reap(crew, worker)
    return worker.pid == 0


cdef int start_worker(Crew *crew) noexcept nogil:
    """One more worker, if there may be one more. Returns 0, or -1 if there is none at all."""
    cdef int running = 0, i
    for i in range(MAX_WORKERS):
        if not is_vacant(crew, i):
            running += 1
        elif launch(crew, i, worker_main, &crew.workers[i]) == 0:
            return 0
        else:
            break
    return 0 if running > 0 else -1


cdef int start_poller(Crew *crew) noexcept nogil:
    """The poller, if it does not run. Returns 0, or -1 if it cannot."""
    if not is_vacant(crew, MAX_WORKERS):
        return 0
    if crew.poller == NULL:
        crew.poller = <Poller *>malloc(sizeof(Poller))
        if crew.poller == NULL:
            return -1
    crew.poller.table = crew.table
    crew.poller.lives = &crew.table.seats[MAX_WORKERS].lives
    crew.poller.count = 0
    crew.poller.caller.tid = 0
    return launch(crew, MAX_WORKERS, poller_main, crew.poller)


cdef int start_opener(Crew *crew) noexcept nogil:
    """One more opener, if fewer than two have nothing to do and there may be more. Returns 0, or -1 if there is none at
    all."""
    cdef Opener *opener
    cdef int running = 0, idle = 0, i, place
    for i in range(MAX_OPENERS):
        place = MAX_WORKERS + 1 + i
        if crew.openers[i] != NULL:
            reap_blocked(crew.openers[i])
        if not is_vacant(crew, place):
            running += 1
            idle += load_int(&crew.table.seats[place].waits)
    if idle >= 2:
        return 0
    for i in range(MAX_OPENERS):
        place = MAX_WORKERS + 1 + i
        if crew.workers[place].pid != 0:
            continue
        if crew.openers[i] != NULL:      # it has died, and what it was at must not seem to be its successor's
            see_to_orphans(crew.table)
            if not end_blocked(crew.openers[i]):
                continue
            free_opener(crew.openers[i])
            crew.openers[i] = NULL
        opener = <Opener *>calloc(1, sizeof(Opener))
        if opener == NULL:
            break
        opener.stacks = <char *>malloc(MAX_BLOCKED * BLOCKED_STACK)      # touched as far as they are used
        if opener.stacks == NULL:
            free(opener)
            break
        opener.table = crew.table
        opener.ledger = crew.ledger
        opener.seat = &crew.table.seats[place]
        opener.number = i
        opener.place = LANE + 1 + place
        if launch(crew, place, opener_main, opener) == 0:
            crew.openers[i] = opener
            return 0
        free_opener(opener)
        break
    return 0 if running > 0 else -1


cdef void stop_workers(Crew *crew) noexcept nogil:
    """The tree is gone: ends the workers and the poller, and waits for them."""
    cdef Worker *worker
    cdef Duration limit = duration_of(PATIENCE_MS)
    cdef int i
    store_int(&crew.table.closing, 1)
    wake_workers(crew.table, MAX_WORKERS)
    if crew.workers[MAX_WORKERS].pid != 0:
        wake_poller(crew.table)
    wake_openers(crew.table, MAX_OPENERS)
    for i in range(MAX_WORKERS + 1 + MAX_OPENERS):
        worker = &crew.workers[i]
        if worker.pid != 0:
            if load_int(&worker.seat.lives) != 0:
                raw_syscall(SYS_futex, <long>&worker.seat.lives, FUTEX_WAIT, 1, <long>&limit, 0, 0)
            if load_int(&worker.seat.lives) != 0:
                raw_syscall(SYS_kill, worker.pid, SIGKILL, 0, 0, 0, 0)
            reap(crew, worker)
        free(worker.stack)
        worker.stack = NULL
    free(crew.poller)
    crew.poller = NULL
    for i in range(MAX_OPENERS):
        if crew.openers[i] != NULL:
            free_opener(crew.openers[i])
            crew.openers[i] = NULL
