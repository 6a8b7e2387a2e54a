"""Openers: tasks that follow the paths of opens, have them judged, and open for the caller what was judged.

They are cloned by the fast lane, so they are in the run's outer domain: what Landlock forbids the program it forbids
them. They share the host's memory but have descriptors (closing one of the host's would drop its file locks), a working
directory and a umask of their own. What may have to wait for somebody else (a FIFO) is opened by a task of its own.

Rules: raw system calls only, and nothing that locks: who is killed in malloc leaves the host's heap locked. What is
opened is the pinned object that was judged; a name is never given to the kernel again, but for the last one of a file
that is made, in its pinned directory, where it must not exist. No answer lets the call go on: it is a descriptor or an
errno. An opener may be killed at any point: whoever notices denies what it was at.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strcmp, strlen
from posix.types cimport pid_t

from sandlock._approvals cimport approves_open
from sandlock._attest cimport refuse
from sandlock._destinations cimport OPERATION_PATH, is_of_paths
from sandlock._journal cimport enlist
from sandlock._linux cimport (
    Duration, Notification, PR_SET_NAME, SYS_futex, SYS_gettid, SYS_kill, SYS_umask, SYS_wait4,
    call0, dies_with, duration_of, raw_clone, raw_syscall, set_prctl,
)
from sandlock._mediate cimport DENIED, GIVEN, Mediator, as_seen, mediate
from sandlock._opening cimport (
    access_of, answer_errno, check_place, find, give, is_asked, is_same, may_wait_long, open_judged, prepare, probe,
    remember_place, reopen, table_is_full,
)
from sandlock._path_records cimport may_record, record_open
from sandlock._path_table cimport (
    WANT_READ, PathTable, denied_by, hidden_error, hides, hiding, is_hidden, judge_open,
)
from sandlock._paths cimport (
    ACCESS_READ, ACCESS_WRITE, FOLLOW_TO_PARENT, MAX_LAST, OpenCall, Place, leave, path_of_place,
)
from sandlock._procfs cimport Standing, know_tree, may_have
from sandlock._programs cimport MAX_PATH
from sandlock._slots cimport (
    ACT_ALLOW, CAUSE_APPROVED, CAUSE_AUDIT, CAUSE_CHANGED, CAUSE_FULL, CAUSE_NOBODY, CAUSE_NONE, CAUSE_NO_RULE,
    CAUSE_RULE, CAUSE_UNREADABLE, LOOK_MS, MAX_OPENERS, MAX_WORKERS, OPENING, READY, WORKING, add_int, answer_value,
    ask, exe_of, finish, load_int, load_paths, load_word, permit_slot, state_of, still_waits, store_int, store_word,
    swap_int_if, swap_word_if, with_state,
)
from sandlock._tasks cimport caught_signals
from sandlock._view_table cimport is_there, is_view, keep_with_views, show_view
from sandlock._virtual_root cimport show_path
from sandlock._wakeups cimport wake_openers

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EEXIST
    const int EINTR
    const int EMFILE
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int O_EXCL

cdef extern from "<signal.h>" nogil:
    const int SIGKILL

cdef extern from * nogil:
    """
    #include <linux/sched.h>
    #include <sys/stat.h>
    """
    const unsigned long CLONE_VM
    const unsigned long CLONE_PARENT
    const unsigned long CLONE_CHILD_CLEARTID
    const unsigned int S_IFDIR
    const unsigned int S_IFMT

cdef enum:
    FUTEX_WAIT = 0
    WALL = 0x40000000
    MAX_AGAIN = 4            # questions about one call
    PATIENCE_MS = 1000       # for a task that was killed to be gone


# Ending a call -------------------------------------------------------------------------------------------------------

cdef void end_open(Table *table, Slot *slot, long result) noexcept nogil:
    """Answers with an errno that the caller's own call would have got."""
    answer_errno(table.run.listener, slot.id, result)
    finish(table, slot)


# What waits for somebody else ----------------------------------------------------------------------------------------

cdef int blocked_main(void *argument) noexcept nogil:
    cdef Blocked *blocked = <Blocked *>argument
    cdef long opened
    if not dies_with(blocked.host):
        return 1
    store_int(&blocked.pid, <int>call0(SYS_gettid))      # its opener may be killed before it does
    opened = reopen(0, blocked.pinned, blocked.flags, 0)
    if not swap_int_if(&blocked.end, END_OPEN, END_ANSWERED):
        return 0             # it is being killed, and the caller has its answer from who does that
    if opened < 0:
        answer_errno(blocked.listener, blocked.id, opened)
    else:
        give(blocked.listener, blocked.id, opened, blocked.flags)
    return 0


cdef int start_blocked(Opener *opener, Slot *slot, const Place *place) noexcept nogil:
    """Opens in a task of its own. Returns 0, or -EAGAIN when there are too many."""
    cdef Blocked *blocked = NULL
    cdef char *top
    cdef long pid
    cdef int i
    for i in range(MAX_BLOCKED):
        if load_int(&opener.blocked[i].pid) == 0:
            blocked = &opener.blocked[i]
            break
    if blocked == NULL:
        return -EAGAIN
    blocked.listener = opener.table.run.listener
    blocked.host = opener.table.run.host_pid
    blocked.id = slot.id
    blocked.flags = slot.opened.flags
    blocked.pinned = place.descriptor
    blocked.end = END_OPEN
    blocked.lives = 1
    top = opener.stacks + (blocked - &opener.blocked[0] + 1) * BLOCKED_STACK
    # A child of the lane: an opener that is killed would leave it to whoever reaps orphans, perhaps to the host.
    pid = raw_clone(CLONE_VM | CLONE_PARENT | CLONE_CHILD_CLEARTID, top, &blocked.lives, blocked_main, blocked)
    if pid < 0:
        blocked.lives = 0
        return -EAGAIN
    blocked.pid = <pid_t>pid
    blocked.slot = slot
    opener.blocked_count += 1
    return 0


cdef void look_after(Opener *opener, Blocked *blocked) noexcept nogil:
    """Ends what nobody waits for any more, or who waits is interrupted; and what is done."""
    cdef Slot *slot = blocked.slot
    if slot != NULL and load_int(&blocked.lives) != 0:
        if still_waits(opener.table, slot) and caught_signals(slot.tid) == 0:
            return
        if not swap_int_if(&blocked.end, END_OPEN, END_KILLED):
            return           # it has opened, and is answering
        raw_syscall(SYS_kill, blocked.pid, SIGKILL, 0, 0, 0, 0)
    if slot != NULL:
        # Interrupted, or its task was killed by others; if it was answered, this one finds nobody.
        answer_errno(blocked.listener, blocked.id, -EINTR)
        blocked.slot = NULL
        finish(opener.table, slot)
    if load_int(&blocked.lives) == 0:
        opener.blocked_count -= 1
        store_int(&blocked.done, 1)
        add_int(&opener.done_count, 1)


cdef void reap_blocked(Opener *opener) noexcept nogil:
    """By the lane, whose children they are: those that their opener is done with."""
    cdef Blocked *blocked
    cdef int i
    if load_int(&opener.done_count) == 0:
        return
    for i in range(MAX_BLOCKED):
        blocked = &opener.blocked[i]
        if load_int(&blocked.done) != 0:
            raw_syscall(SYS_wait4, blocked.pid, 0, WALL, 0, 0, 0)
            add_int(&opener.done_count, -1)
            store_int(&blocked.done, 0)
            store_int(&blocked.pid, 0)       # from here on it is the opener's again


cdef int end_blocked(Opener *opener) noexcept nogil:
    """By the lane, after the opener has ended: ends its blocked opens. Returns whether nobody uses its memory any
    more."""
    cdef int used = 0, i
    for i in range(MAX_BLOCKED):
        if load_int(&opener.blocked[i].lives) != 0:
            used = 1
            if load_int(&opener.blocked[i].pid) > 0:
                raw_syscall(SYS_kill, opener.blocked[i].pid, SIGKILL, 0, 0, 0, 0)
    return not used


cdef void free_opener(Opener *opener) noexcept nogil:
    """By the lane, after its task has ended, perhaps by a signal."""
    cdef Duration limit = duration_of(PATIENCE_MS)
    cdef int i
    end_blocked(opener)
    for i in range(MAX_BLOCKED):
        if load_int(&opener.blocked[i].lives) != 0:
            raw_syscall(SYS_futex, <long>&opener.blocked[i].lives, FUTEX_WAIT, 1, <long>&limit, 0, 0)
            if load_int(&opener.blocked[i].lives) != 0:
                return       # stuck in the kernel: rather this memory than its
        if opener.blocked[i].pid > 0:
            raw_syscall(SYS_wait4, opener.blocked[i].pid, 0, WALL, 0, 0, 0)
    free(opener.stacks)
    free(opener)


# Opening -------------------------------------------------------------------------------------------------------------

cdef void judge_anew(Table *table, Slot *slot) noexcept nogil:
    """A file was to be made, and somebody was faster. What is there now may be anything, so it is judged, too."""
    if slot.asked or slot.opened.again == MAX_AGAIN:     # Python has not answered, and may be looking at the facts
        refuse(table, slot, CAUSE_CHANGED, EACCES)
        return
    slot.opened.again += 1
    slot.opened.judged = 0
    slot.act = ACT_ALLOW
    slot.cause = CAUSE_NONE
    slot.waited = slot.recorded = slot.audited = 0
    # For Python the next generation is a question of its own. This opener sees to it if no other one does.
    store_word(&slot.word, with_state(load_word(&slot.word) + 0x100, READY))


cdef void record(Opener *opener, const Slot *slot, const Place *place) noexcept nogil:
    """An open that needed no verdict; those that did are on record as that."""
    if slot.cause == CAUSE_NONE:
        record_open(
            opener.table, &opener.mediator.records, &slot.opened, place, slot.number, slot.tid, exe_of(slot)
        )


cdef void act(Opener *opener, Slot *slot, const Standing *caller, Place *place) noexcept nogil:
    """Opens what was judged, and gives it to the caller."""
    cdef Table *table = opener.table
    cdef OpenCall *call = &slot.opened
    cdef long opened
    cdef int result
    if not (permit_slot(table, slot) if slot.cause != CAUSE_NONE else may_record(table)):
        refuse(table, slot, CAUSE_AUDIT, EACCES)
        return
    if call.access & ACCESS_WRITE and table_is_full(slot.tid):
        end_open(table, slot, -EMFILE)       # before anything is made, or cut off
        return
    result = show_view(table.views, place, exe_of(slot), 1)
    if result < 0:
        end_open(table, slot, result)
        return
    if call.where.exists and may_wait_long(place, call):
        record(opener, slot, place)
        if start_blocked(opener, slot, place) < 0:
            refuse(table, slot, CAUSE_FULL, EAGAIN)
        return
    raw_syscall(SYS_umask, caller.umask, 0, 0, 0, 0, 0)
    opened = open_judged(table.run.listener, slot.id, slot.tid, call, place)
    if opened == -EEXIST and not call.flags & O_EXCL:
        judge_anew(table, slot)
    elif opened < 0:
        end_open(table, slot, opened)
    else:
        record(opener, slot, place)
        give(table.run.listener, slot.id, opened, call.flags)
        finish(table, slot)


cdef void decide_open(Opener *opener, Slot *slot, const Standing *caller, Place *place) noexcept nogil:
    """What becomes of an open whose object is known."""
    cdef OpenCall *call = &slot.opened
    cdef int result = remember_place(call, place)
    call.access = access_of(call)
    if result < 0:
        refuse(opener.table, slot, CAUSE_UNREADABLE, EACCES)
        return
    if not is_asked(call):
        act(opener, slot, caller, place)
        return
    if approves_open(&opener.table.approvals, &call.where, call.access):
        slot.cause = CAUSE_APPROVED
        act(opener, slot, caller, place)
        return
    result = probe(call, place)
    if result < 0:
        end_open(opener.table, slot, result)
        return
    call.judged = 1
    leave(place)             # it is found again, and compared, when there is a verdict
    ask(opener.table, slot)


cdef int may_be_given(const Opener *opener, const Slot *slot, const Place *place, const char *path) noexcept nogil:
    """What is not for Landlock to say: 0 or -EACCES."""
    return may_have(
        &opener.tree, slot.tgid, path, place.on_procfs, place.mode & S_IFMT == S_IFDIR,
        access_of(&slot.opened) & ACCESS_READ
    )


cdef int is_still_the_trees(const Opener *opener, const Slot *slot, const Place *place) noexcept nogil:
    """Numbers of processes, and of inodes in /proc, are used again: whose a file is, is looked at once more."""
    cdef char path[MAX_PATH + MAX_LAST]
    cdef char seen[MAX_PATH + MAX_LAST]
    if not place.on_procfs:
        return 1
    return (
        path_of_place(place, path, sizeof(path)) >= 0
        and show_path(opener.table.run.virtual_root, path, seen, sizeof(seen)) >= 0
        and strcmp(seen, exe_of(slot)) == 0 and may_be_given(opener, slot, place, path) == 0
    )


cdef void keep_denied(Slot *slot, const char *path) noexcept nogil:
    """For the record: what was denied, in the room behind the path that the caller gave."""
    cdef size_t length = strlen(path)
    if slot.path_length + length + 1 <= slot.size:
        memcpy(slot.data + slot.path_length, path, length + 1)
        slot.exe_length = <unsigned int>length + 1


cdef int is_missed(Opener *opener, Slot *slot, const Place *place) noexcept nogil:
    """Whether there is no such file for the program; then it has been told."""
    cdef const PathTable *paths = load_paths(&opener.table.paths)
    cdef char path[MAX_PATH + MAX_LAST]
    path[0] = 0
    if path_of_place(place, path, MAX_PATH + MAX_LAST) >= 0 and not is_hidden(paths, place, path):
        return 0
    slot.rule = denied_by(paths, place, path, WANT_READ)
    if slot.rule < 0:
        end_open(opener.table, slot, -ENOENT)
        return 1
    keep_denied(slot, path)
    refuse(opener.table, slot, CAUSE_RULE, ENOENT)
    return 1


cdef void judge(Opener *opener, Slot *slot, const Standing *caller, Place *place) noexcept nogil:
    """Looks at what an open is about, for the first time."""
    cdef const PathTable *paths = load_paths(&opener.table.paths)
    cdef OpenCall *call = &slot.opened
    cdef char path[MAX_PATH + MAX_LAST]
    cdef char *seen = slot.data + slot.path_length
    cdef int cause, result = find(
        &opener.tree, hiding(paths), slot.tid, slot.tgid, call, slot.data, 0, place
    )
    cdef long length
    if hides(paths):
        result = hidden_error(result)
        if result == 0 and is_missed(opener, slot, place):
            return
    if result == 0:
        result = check_place(&opener.tree, call, place)
    if result < 0:
        # Of what is hidden nobody may be told more than of what is not there.
        end_open(opener.table, slot, -EMFILE if not hides(paths) and table_is_full(slot.tid) else result)
        return
    length = path_of_place(place, path, sizeof(path))
    if length >= 0:
        path[length] = 0
        length = show_path(opener.table.run.virtual_root, path, seen, MAX_PATH + MAX_LAST)
    if length < 0:
        refuse(opener.table, slot, CAUSE_UNREADABLE, <int>-length)
        return
    slot.exe_length = <unsigned int>length + 1
    if not still_waits(opener.table, slot):
        finish(opener.table, slot)
        return
    call.where.exists = place.descriptor >= 0
    if not is_there(opener.table.views, &opener.tree, path):
        end_open(opener.table, slot, -ENOENT)
        return
    if may_be_given(opener, slot, place, path) < 0:
        refuse(opener.table, slot, CAUSE_NO_RULE, EACCES)
        return
    cause = judge_open(paths, call, place, path, &slot.rule)
    if cause != CAUSE_NONE:
        refuse(opener.table, slot, cause, EACCES)
        return
    if access_of(call) & ACCESS_WRITE and is_view(opener.table.views, place, path):
        refuse(opener.table, slot, CAUSE_NO_RULE, EACCES)
        return
    decide_open(opener, slot, caller, place)


cdef int judge_now(const Opener *opener, Slot *slot, const Place *place) noexcept nogil:
    """What was denied, or no longer granted, while somebody thought, is denied. Returns an enum Cause."""
    cdef char path[MAX_PATH + MAX_LAST]
    cdef int cause, before = slot.rule, rule = -1
    if path_of_place(place, path, MAX_PATH + MAX_LAST) < 0:
        return CAUSE_UNREADABLE
    cause = judge_open(load_paths(&opener.table.paths), &slot.opened, place, path, &rule)
    slot.rule = before if cause == CAUSE_NONE else rule
    return cause


cdef void carry_out(Opener *opener, Slot *slot, const Standing *caller, Place *place) noexcept nogil:
    """A verdict allows it: if the name still means what was judged."""
    cdef int how = 0 if slot.opened.where.exists else FOLLOW_TO_PARENT
    cdef int cause, result = find(
        &opener.tree, hiding(load_paths(&opener.table.paths)), slot.tid, slot.tgid, &slot.opened, slot.data, how, place
    )
    if not still_waits(opener.table, slot):
        finish(opener.table, slot)
    elif result < 0 or not is_same(&slot.opened, place) or not is_still_the_trees(opener, slot, place):
        refuse(opener.table, slot, CAUSE_CHANGED, EACCES)
    else:
        cause = judge_now(opener, slot, place)
        if cause == CAUSE_NONE:
            act(opener, slot, caller, place)
        else:
            refuse(opener.table, slot, cause, ENOENT if hides(load_paths(&opener.table.paths)) else EACCES)


cdef void serve_call(Opener *opener, Slot *slot) noexcept nogil:
    """Another path call than an open: from the start, and it may take its time."""
    cdef Mediator *mediator = &opener.mediator
    cdef Notification notification
    cdef long result
    cdef int i
    memset(&notification, 0, sizeof(notification))
    notification.id = slot.id
    notification.pid = <unsigned int>slot.tid
    notification.data.nr = slot.number
    for i in range(6):
        notification.data.args[i] = slot.handled.args[i]
    result = mediate(mediator, &notification, slot.handled.rule)
    if result == DENIED:
        keep_denied(slot, as_seen(mediator))
        slot.rule = mediator.rule
        refuse(opener.table, slot, mediator.cause, mediator.error)
    elif result == GIVEN:
        finish(opener.table, slot)
    elif result < 0:
        end_open(opener.table, slot, result)
    else:
        answer_value(opener.table, slot, result)
        finish(opener.table, slot)


cdef void serve(Opener *opener, Slot *slot) noexcept nogil:
    cdef Standing caller
    cdef Place place
    cdef int result
    if slot.operation == OPERATION_PATH:
        serve_call(opener, slot)
        return
    result = prepare(&opener.tree, slot.tid, &caller)
    place.descriptor = place.parent = -1
    if not still_waits(opener.table, slot):
        finish(opener.table, slot)
    elif result < 0:
        # Another user, another root: what we may is not what it may. Or nobody can tell.
        refuse(opener.table, slot, CAUSE_UNREADABLE, EACCES)
    elif slot.opened.judged:
        carry_out(opener, slot, &caller, &place)
    else:
        judge(opener, slot, &caller, &place)
    leave(&place)


# The loop ------------------------------------------------------------------------------------------------------------

cdef int see_to_orphans(Table *table) noexcept nogil:
    """Denies what openers were at that have died, and, where none is left, what waits for one. Returns whether other
    opens are under way."""
    cdef Slot *slot
    cdef uint64_t word
    cdef int lives[MAX_OPENERS]
    cdef int state, orphaned, alive = 0, ready = 0, under_way = 0, i
    for i in range(MAX_OPENERS):
        lives[i] = load_int(&table.seats[MAX_WORKERS + 1 + i].lives)
        alive |= lives[i]
    for i in range(load_int(&table.top)):
        slot = &table.slots[i]
        word = load_word(&slot.word)
        state = state_of(word)
        if state >= OPENING:
            orphaned = not lives[state - OPENING]
        elif state == READY and is_of_paths(slot.operation) and slot.act == ACT_ALLOW:
            orphaned = not alive
            ready = 1
        else:
            continue
        # The next generation: whoever else notices it as well finds another word.
        if orphaned and swap_word_if(&slot.word, word, with_state(word + 0x100, WORKING)):
            if still_waits(table, slot):
                refuse(table, slot, CAUSE_NOBODY, EACCES)
            else:                # the run ends, and its callers with it
                finish(table, slot)
        under_way |= not orphaned
    if alive and ready:
        wake_openers(table, MAX_OPENERS)     # who was woken for it may have died of that
    return under_way


cdef Slot *pick(Opener *opener) noexcept nogil:
    """An open to see to, now this opener's, or NULL."""
    cdef Table *table = opener.table
    cdef Slot *slot
    cdef uint64_t word
    cdef int i
    for i in range(load_int(&table.top)):
        slot = &table.slots[i]
        word = load_word(&slot.word)
        if state_of(word) != READY or not is_of_paths(slot.operation) or slot.act != ACT_ALLOW:
            continue
        if swap_word_if(&slot.word, word, with_state(word, OPENING + opener.number)):
            return slot
    return NULL


cdef int opener_main(void *argument) noexcept nogil:
    cdef Opener *opener = <Opener *>argument
    cdef Table *table = opener.table
    cdef Duration limit = duration_of(LOOK_MS)
    cdef Slot *slot
    cdef int keep[2]
    cdef int seen, i
    if not dies_with(table.run.host_pid):
        return 1
    set_prctl(PR_SET_NAME, <long><const char *>b"sandlock-open", 0)
    if table.journal != NULL:
        enlist(table.journal, opener.place, &opener.seat.lives)
    opener.mediator.table = table
    opener.mediator.ledger = opener.ledger
    opener.mediator.may_block = 1
    opener.mediator.redirect = &table.redirects[MAX_WORKERS + 1 + opener.number]
    opener.tree.run = table.run
    opener.tree.ledger = opener.ledger
    keep[0] = table.run.listener
    keep[1] = table.wake_fd
    if keep_with_views(table.views, table.run.virtual_root, keep, 2) < 0 or know_tree(&opener.tree) < 0:
        return 1
    while not load_int(&table.closing):
        seen = load_int(&table.open_work)
        slot = pick(opener)
        if slot != NULL:
            serve(opener, slot)
            continue
        for i in range(MAX_BLOCKED if opener.blocked_count > 0 else 0):
            if load_int(&opener.blocked[i].pid) != 0 and load_int(&opener.blocked[i].done) == 0:
                look_after(opener, &opener.blocked[i])
        store_int(&opener.seat.waits, 1)
        raw_syscall(
            SYS_futex, <long>&table.open_work, FUTEX_WAIT, seen, <long>&limit if opener.blocked_count > 0 else 0, 0, 0
        )
        store_int(&opener.seat.waits, 0)
    return 0
