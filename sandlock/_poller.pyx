"""Socket calls that have to wait, or that a verdict has just allowed: one task makes them all, and waits for all of
them at once. So any number of connections to hosts that never answer delay nobody.

The task is cloned by the fast lane and is in the run's outer domain. It shares the host's memory but has descriptors,
a working directory and a umask of its own: however many sockets wait here, the host's table does not fill.

Rules: raw system calls only; it never waits but in ppoll(2); it may be killed at any point.
"""

from libc.stdint cimport int64_t, uint64_t

from sandlock._destinations cimport (
    DECIDED_DENY, OPERATION_BIND, OPERATION_CONNECT, OPERATION_LISTEN, decide, is_of_network,
)
from sandlock._journal cimport MAX_WRITERS, enlist
from sandlock._linux cimport (
    Duration, POLLIN, POLLOUT, PR_SET_NAME, SYS_bind, SYS_close,
    SYS_ppoll, SYS_read, dies_with, duration_of, raw_syscall, set_prctl,
)
from sandlock._messages cimport break_pipe, read_outgoing, send_some, write_count
from sandlock._run cimport PROTOCOL_UNIX
from sandlock._slots cimport (
    ACT_ALLOW, CAUSE_AUDIT, CAUSE_CHANGED, CAUSE_NO_RULE, CAUSE_RULE, CAUSE_UNREADABLE, LOOK_MS, READY, Slot, Table,
    WORKING, answer_value, finish, load_int, load_paths, load_rules, load_word, move, note_slot, permit_slot, state_of,
    still_waits,
)
from sandlock._sockets cimport (
    CHANGED, SocketCall, SocketFacts, cookie_of, duplicate, listen_here, look_at, may_wait, send_limit_ms,
    start_connect,
)
from sandlock._tasks cimport caught_signals, kill_task, now_ms
from sandlock._unix_sockets cimport bind_path, connect_path, denied_socket, pin
from sandlock._view_table cimport keep_with_views

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EBADF
    const int EINPROGRESS
    const int EINTR
    const int ENOENT
    const int EPERM
    const int ESRCH

cdef extern from "<signal.h>" nogil:
    const int SIGKILL

cdef extern from "<sys/socket.h>" nogil:
    const int SOCK_STREAM

cdef enum:
    RETRY_MS = 10
    WAITS = 1                # no result yet


# Ending a call -------------------------------------------------------------------------------------------------------

cdef void end_call(Table *table, Slot *slot, int descriptor, int64_t result) noexcept nogil:
    """Answers with the result of the call, as the kernel would have given it to the guest; CHANGED is a denial."""
    cdef int error
    if result < 0 and slot.call.progress > 0:
        result = slot.call.progress          # part of it is sent: that is what counts
    if result == CHANGED:
        note_slot(table, slot, CAUSE_CHANGED, EACCES)
        result = -EACCES
    break_pipe(slot.tgid, slot.tid, &slot.call, result)
    if result >= 0 and slot.call.count_at != 0:
        write_count(slot.tid, &slot.call, result)
        result = 1
    error = answer_value(table, slot, result)
    if error < 0 and error != -ENOENT:
        kill_task(slot.tid)
    if descriptor >= 0:
        raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    finish(table, slot)


# Making a call -------------------------------------------------------------------------------------------------------

cdef int64_t go_on_sending(Poller *poller, Slot *slot, int descriptor) noexcept nogil:
    """Sends as much as goes now. Returns the bytes sent in all, -EAGAIN if it has to wait, or another -errno."""
    cdef SocketCall pinned
    cdef long opened
    cdef int64_t result = read_outgoing(slot.tid, &slot.call, &poller.message)
    if result == -EPERM:
        note_slot(poller.table, slot, CAUSE_NO_RULE, EPERM)
    if result < 0:
        return result
    if slot.waited and slot.call.message != 0 and poller.message.total != slot.call.size:
        return CHANGED
    if slot.call.endpoint.path_length > 0 and not slot.call.endpoint.abstract:
        opened = pin(poller.table.run, slot.tid, slot.tgid, &slot.call, &pinned)
        if opened < 0:
            return opened
        result = send_some(
            &poller.caller, poller.table.run.listener, slot.id, slot.tid, descriptor, &pinned, &poller.message,
            poller.room
        )
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
        return result
    while True:
        result = send_some(
            &poller.caller, poller.table.run.listener, slot.id, slot.tid, descriptor, &slot.call, &poller.message,
            poller.room
        )
        if result < 0:
            return result
        slot.call.progress += result
        if slot.call.facts.type != SOCK_STREAM or result == 0 or not may_wait(&slot.call):
            return slot.call.progress
        if <uint64_t>slot.call.progress >= poller.message.total:
            return slot.call.progress


cdef int64_t try_call(Poller *poller, Slot *slot, int descriptor) noexcept nogil:
    """Makes the call. Returns its result; -EAGAIN or -EINPROGRESS if a blocking socket has to wait for it."""
    if slot.call.endpoint.operation == OPERATION_CONNECT:
        if slot.call.endpoint.path_length > 0 and not slot.call.endpoint.abstract:
            return connect_path(poller.table.run, slot.tid, slot.tgid, descriptor, &slot.call)
        return start_connect(descriptor, &slot.call)
    if slot.call.endpoint.operation == OPERATION_BIND:
        if slot.call.endpoint.path_length > 0 and not slot.call.endpoint.abstract:
            return bind_path(poller.table.run, slot.tid, slot.tgid, descriptor, &slot.call)
        return raw_syscall(SYS_bind, descriptor, <long>slot.call.address, slot.call.address_length, 0, 0, 0)
    if slot.call.endpoint.operation == OPERATION_LISTEN:
        return listen_here(descriptor, slot.call.flags, slot.call.endpoint.port)
    return go_on_sending(poller, slot, descriptor)


cdef int must_wait(const Slot *slot, int64_t result) noexcept nogil:
    """Whether a result only says that the guest's own call would wait now."""
    if not may_wait(&slot.call):
        return 0
    if slot.call.endpoint.operation == OPERATION_CONNECT:
        return result == -EINPROGRESS or (result == -EAGAIN and slot.call.endpoint.protocol == PROTOCOL_UNIX)
    return result == -EAGAIN


cdef void keep(Poller *poller, Slot *slot, int descriptor) noexcept nogil:
    """The call has to wait for its socket."""
    cdef Waiting *waiting = &poller.waiting[poller.count]
    cdef long limit = send_limit_ms(descriptor)
    slot.call.started = slot.call.endpoint.operation == OPERATION_CONNECT
    waiting.slot = slot
    waiting.descriptor = descriptor
    waiting.deadline_ms = 0 if limit < 0 else now_ms() + limit
    waiting.retries = slot.call.started and slot.call.endpoint.protocol == PROTOCOL_UNIX
    if waiting.retries:
        slot.call.started = 0
    poller.count += 1


cdef int is_denied_now(const Table *table, Slot *slot) noexcept nogil:
    """Whether a rule has come, while somebody thought, that denies what was asked about."""
    slot.rule = denied_socket(table.run, load_paths(&table.paths), &slot.call)
    if slot.rule >= 0:
        return 1
    return decide(
        load_rules(&table.net_rules), table.pins, table.run.program.asks_network, &slot.call.endpoint, &slot.rule
    ) == DECIDED_DENY and slot.rule >= 0


cdef void begin(Poller *poller, Slot *slot) noexcept nogil:
    """Takes on a call: on the socket that it was judged with, or not at all."""
    cdef Table *table = poller.table
    cdef SocketFacts now
    cdef int64_t result
    cdef long descriptor = duplicate(&poller.caller, table.run.listener, slot.id, slot.tid, slot.call.descriptor)
    if descriptor < 0:
        if descriptor != -EBADF and descriptor != -ESRCH:
            note_slot(table, slot, CAUSE_UNREADABLE, <int>-descriptor)
        end_call(table, slot, -1, descriptor)
        return
    if look_at(descriptor, &now) < 0 or cookie_of(descriptor) != slot.call.cookie:
        end_call(table, slot, <int>descriptor, CHANGED)
        return
    if slot.waited and is_denied_now(table, slot):
        note_slot(table, slot, CAUSE_RULE, EACCES)
        end_call(table, slot, <int>descriptor, -EACCES)
        return
    if not permit_slot(table, slot):
        note_slot(table, slot, CAUSE_AUDIT, EACCES)
        end_call(table, slot, <int>descriptor, -EACCES)
        return
    slot.call.facts.flags = now.flags
    if slot.call.started:
        keep(poller, slot, <int>descriptor)
        return
    result = try_call(poller, slot, <int>descriptor)
    if must_wait(slot, result):
        keep(poller, slot, <int>descriptor)
    else:
        end_call(table, slot, <int>descriptor, result)


# The loop ------------------------------------------------------------------------------------------------------------

cdef void drop(Poller *poller, int i) noexcept nogil:
    poller.count -= 1
    poller.waiting[i] = poller.waiting[poller.count]


cdef void take_new(Poller *poller) noexcept nogil:
    cdef Slot *slot
    cdef int i
    for i in range(load_int(&poller.table.top)):
        slot = &poller.table.slots[i]
        if state_of(load_word(&slot.word)) != READY or slot.act != ACT_ALLOW or not is_of_network(slot.operation):
            continue
        if move(slot, READY, WORKING):
            begin(poller, slot)


cdef void advance(Poller *poller, int i) noexcept nogil:
    """The socket is ready, or time to try again."""
    cdef Waiting *waiting = &poller.waiting[i]
    cdef int64_t result = try_call(poller, waiting.slot, waiting.descriptor)
    if must_wait(waiting.slot, result):
        return
    end_call(poller.table, waiting.slot, waiting.descriptor, result)
    drop(poller, i)


cdef void look_after(Poller *poller, int i) noexcept nogil:
    """Ends a call whose caller is gone, is interrupted, or does not want to wait any longer."""
    cdef Waiting *waiting = &poller.waiting[i]
    cdef Slot *slot = waiting.slot
    cdef int64_t result = WAITS
    if not still_waits(poller.table, slot):
        result = -EINTR
    elif waiting.deadline_ms > 0 and waiting.deadline_ms <= now_ms():
        result = -EINPROGRESS if slot.call.started else -EAGAIN
    elif caught_signals(slot.tid) != 0:
        result = -EINTR      # as it would have been, signal(7); a fatal one ends the wait by itself
    if result != WAITS:
        end_call(poller.table, slot, waiting.descriptor, result)
        drop(poller, i)


cdef int wait_for_events(Poller *poller, int64_t until) noexcept nogil:
    """Waits for a ready socket, new work, or until `until`. Returns whether some are to be tried again by then."""
    cdef Duration limit
    cdef int64_t left = until - now_ms()
    cdef int i, retries = 0
    poller.polled[0].fd = poller.table.poller_fd
    poller.polled[0].events = POLLIN
    poller.polled[0].revents = 0
    for i in range(poller.count):
        retries |= poller.waiting[i].retries
        poller.polled[i + 1].fd = -1 if poller.waiting[i].retries else poller.waiting[i].descriptor
        poller.polled[i + 1].events = POLLOUT
        poller.polled[i + 1].revents = 0
    if left < 0:
        left = 0
    if retries and left > RETRY_MS:
        left = RETRY_MS
    limit = duration_of(left)
    raw_syscall(
        SYS_ppoll, <long>poller.polled, poller.count + 1, <long>&limit if poller.count > 0 else 0, 0, 8, 0
    )
    return retries


cdef int poller_main(void *argument) noexcept nogil:
    cdef Poller *poller = <Poller *>argument
    cdef uint64_t seen
    cdef int64_t next_look = 0
    cdef int keep[2]
    cdef int i, retries
    if not dies_with(poller.table.run.host_pid):
        return 1
    set_prctl(PR_SET_NAME, <long><const char *>b"sandlock-net", 0)
    if poller.table.journal != NULL:
        enlist(poller.table.journal, MAX_WRITERS - 1, poller.lives)
    keep[0] = poller.table.run.listener
    keep[1] = poller.table.poller_fd
    if keep_with_views(NULL, poller.table.run.virtual_root, keep, 2) < 0:
        return 1
    while not load_int(&poller.table.closing):
        take_new(poller)
        retries = wait_for_events(poller, next_look)
        if poller.polled[0].revents:
            raw_syscall(SYS_read, poller.table.poller_fd, <long>&seen, sizeof(seen), 0, 0, 0)
        i = poller.count - 1
        while i >= 0:        # downwards: who is dropped leaves its place to the last
            if poller.polled[i + 1].revents or (retries and poller.waiting[i].retries):
                advance(poller, i)
            i -= 1
        if now_ms() >= next_look:
            next_look = now_ms() + LOOK_MS
            i = poller.count - 1
            while i >= 0:
                look_after(poller, i)
                i -= 1
    return 0
