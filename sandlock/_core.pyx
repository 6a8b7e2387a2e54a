"""The fast lane: receive a notification, dispatch it by rule, respond. One native thread per run, without the GIL.

Rules:
1. Every notification is answered; what has no rule, and every error, is a denial. Only rules whose facts come from
   registers or that decide nothing may answer CONTINUE.
2. The lane never waits for anything but the next notification. It is confined in the run's outer domain.
3. If the listener fails in a way that is not understood, the whole tree is killed.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.types cimport pid_t

from sandlock._actions cimport (
    ACTION_CONTINUE, ACTION_ERRNO, ACTION_HOLD, ACTION_INJECT, ACTION_KILL_TASK, ACTION_KILL_TREE, ACTION_VALUE,
    Action, errno_action,
)
from sandlock._domain cimport enter_domain
from sandlock._exec cimport vet_exec
from sandlock._forks cimport vet_fork
from sandlock._handlers cimport handle
from sandlock._journal cimport LANE, enlist
from sandlock._launch cimport clone_warden, send_failure
from sandlock._machine cimport tell_names, tell_resources
from sandlock._linux cimport (
    AddDescriptor, Notification, NotificationSizes, POLLHUP, POLLIN, PollDescriptor, Response,
    SECCOMP_GET_NOTIF_SIZES, SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND,
    SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, SECCOMP_USER_NOTIF_FLAG_CONTINUE, SYS_close,
    SYS_futex, SYS_gettid, SYS_ioctl, SYS_seccomp, SYS_shutdown, raw_syscall,
)
from sandlock._opens cimport vet_open
from sandlock._observe cimport observe_exec, observe_start, open_observer, stop_observer
from sandlock._path_lane cimport start_mediating, stop_mediating, vet_path
from sandlock._paths cimport ASK_ALL, ASK_WRITES
from sandlock._run cimport (
    MAX_SYSCALLS, Program, RULE_ADD_RESTART, RULE_CONTINUE, RULE_COUNT_FORK, RULE_ERRNO, RULE_HANDLE, RULE_HOLD,
    RULE_INJECT, RULE_KILL_TASK, RULE_KILL_TREE, RULE_LISTEN, RULE_OBSERVE_EXEC, RULE_OBSERVE_START, RULE_PATH,
    RULE_TELL_NAMES, RULE_TELL_RESOURCES, RULE_VALUE, RULE_VET_EXEC, RULE_VET_FORK, RULE_VET_OPEN, RULE_VET_SOCKET,
    RULE_VET_WRITE, Rule, Run, STAGE_STARTING,
)
from sandlock._promises cimport close_promises
from sandlock._redirect cimport is_redirected
from sandlock._signals cimport add_restart
from sandlock._slots cimport MAX_OPENERS, MAX_WORKERS, Table, load_int
from sandlock._socket_calls cimport HELD, vet_socket
from sandlock._sockets cimport forget_caller, listen_on_behalf
from sandlock._tasks cimport count_fork, kill_task
from sandlock._workers cimport start_worker, stop_workers
from sandlock._writers cimport close_writers

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EINTR
    const int EMFILE
    const int ENOENT
    const int ENOMEM
    const int EPERM
    const int ESRCH

cdef extern from "<poll.h>" nogil:
    int poll(PollDescriptor *fds, unsigned long count, int timeout_ms) noexcept

cdef enum:
    FUTEX_WAIT = 0
    NOTIFICATION_ROOM = 256   # the kernel's struct may grow: SECCOMP_GET_NOTIF_SIZES says by how much
    SHUT_WR = 1


# Receive -----------------------------------------------------------------------------------------------------------

cdef int tree_is_gone(const Lane *lane) noexcept nogil:
    """The last task of the filter has ended: nobody can notify any more."""
    cdef PollDescriptor descriptor
    descriptor.fd = lane.listener
    descriptor.events = POLLIN
    descriptor.revents = 0
    return poll(&descriptor, 1, 0) == 1 and not descriptor.revents & POLLIN and descriptor.revents & POLLHUP


cdef int wait_readable(const Lane *lane) noexcept nogil:
    """Before Linux 6.6 a blocked RECV does not see the end of the tree, poll does."""
    cdef PollDescriptor descriptor
    descriptor.fd = lane.listener
    descriptor.events = POLLIN
    descriptor.revents = 0
    if poll(&descriptor, 1, -1) < 0:
        return -EINTR
    if descriptor.revents & POLLIN:
        return 0
    return -ENOENT


cdef int receive(Lane *lane, Notification *notification) noexcept nogil:
    """Blocks until a task of the tree notifies. Returns 0, or -ENOENT when the tree is gone, or another -errno."""
    cdef long result
    while True:
        if not lane.sync_wake_up:
            result = wait_readable(lane)
            if result == -EINTR:
                continue
            if result < 0:
                return <int>result
        memset(notification, 0, lane.notification_size)
        result = raw_syscall(SYS_ioctl, lane.listener, <long>SECCOMP_IOCTL_NOTIF_RECV, <long>notification, 0, 0, 0)
        if result == 0:
            lane.counters.received += 1
            return 0
        if result == -ENOENT:
            # Either the notifying task died between wake-up and copy, or there is no task left.
            if tree_is_gone(lane):
                return -ENOENT
            lane.counters.vanished += 1
        elif result != -EINTR and result != -EAGAIN and result != -ENOMEM:
            return <int>result


# Dispatch ----------------------------------------------------------------------------------------------------------

cdef inline Action continue_unsafely() noexcept nogil:
    """Lets the kernel run the call, which reads the caller's memory again. Say at the call why nothing was decided
    from that memory."""
    return Action(kind=ACTION_CONTINUE, value=0)


cdef Action act_by_rule(const Rule *rule) noexcept nogil:
    """What a rule alone says, whatever the call is about."""
    if rule.kind == RULE_ERRNO:
        return errno_action(<int>rule.value)
    if rule.kind == RULE_VALUE:
        return Action(kind=ACTION_VALUE, value=rule.value)
    if rule.kind == RULE_INJECT:
        return Action(kind=ACTION_INJECT, value=rule.value)
    if rule.kind == RULE_HOLD:
        return Action(kind=ACTION_HOLD, value=0)
    if rule.kind == RULE_KILL_TASK:
        return Action(kind=ACTION_KILL_TASK, value=0)
    if rule.kind == RULE_KILL_TREE:
        return Action(kind=ACTION_KILL_TREE, value=0)
    return errno_action(EPERM)


cdef int is_ours(Table *table, const Notification *notification) noexcept nogil:
    """Whether a helper that lives has the caller make this call. What a dead one wanted counts no more: its task is
    dead, too, and the number may be another's."""
    cdef int i
    for i in range(MAX_WORKERS + 1 + MAX_OPENERS):
        if is_redirected(&table.redirects[i], notification) and load_int(&table.seats[i].lives) != 0:
            return 1
    return 0


cdef Action look_or_tell(Lane *lane, const Rule *rule, const Notification *notification) noexcept nogil:
    """The rules that decide nothing."""
    cdef int error
    if rule.kind == RULE_ADD_RESTART:
        add_restart(lane.run, notification)
        return continue_unsafely()    # changed for the caller's own good
    if rule.kind == RULE_OBSERVE_EXEC:
        observe_exec(lane.observer, notification)
        return continue_unsafely()    # observed
    if rule.kind == RULE_OBSERVE_START:
        observe_start(lane.observer, notification)
        return continue_unsafely()    # observed
    if rule.kind == RULE_CONTINUE:
        return continue_unsafely()    # the rule is about the number alone
    if rule.kind == RULE_TELL_NAMES or rule.kind == RULE_TELL_RESOURCES:
        error = tell_names(lane.run, notification) if rule.kind == RULE_TELL_NAMES else tell_resources(
            lane.run, notification
        )
        return Action(kind=ACTION_VALUE, value=0) if error == 0 else errno_action(error)
    return act_by_rule(rule)


cdef Action dispatch(Lane *lane, const Notification *notification) noexcept nogil:
    """What to do with a notification: the rule of its number, found in the plan's table."""
    cdef const Rule *rule
    cdef int number = notification.data.nr
    cdef int error
    cdef int64_t result
    if number < 0 or number >= MAX_SYSCALLS:
        return errno_action(EPERM)
    if lane.table != NULL and is_ours(lane.table, notification):
        return continue_unsafely()    # a helper has set the registers, and what they point to is attested
    rule = &lane.run.program.rules[lane.run.program.rule_of[number]]
    if rule.kind == RULE_COUNT_FORK:
        error = count_fork(&lane.ledger, lane.run.warden, <pid_t>notification.pid)
        # Decided from the live count only: no argument was read.
        return continue_unsafely() if error == 0 else errno_action(error)
    if rule.kind == RULE_VET_FORK:
        error = count_fork(&lane.ledger, lane.run.warden, <pid_t>notification.pid) if lane.ledger.limit > 0 else 0
        if error == 0:
            error = vet_fork(&lane.crew, notification)
        return Action(kind=ACTION_HOLD, value=0) if error == 0 else errno_action(error)
    if rule.kind == RULE_LISTEN:
        error = listen_on_behalf(lane.run, &lane.crew.caller, notification)
        return Action(kind=ACTION_VALUE, value=0) if error == 0 else errno_action(error)
    if rule.kind == RULE_VET_EXEC:
        observe_exec(lane.observer, notification)
        error = vet_exec(lane.table, &lane.crew, notification)
        return Action(kind=ACTION_HOLD, value=0) if error == 0 else errno_action(error)
    if rule.kind == RULE_VET_SOCKET:
        result = vet_socket(&lane.crew, notification)
        if result == HELD:
            return Action(kind=ACTION_HOLD, value=0)
        return Action(kind=ACTION_VALUE, value=result) if result >= 0 else errno_action(<int>-result)
    if rule.kind == RULE_HANDLE:
        return handle(lane.handlers, &lane.crew, rule, notification)
    if rule.kind == RULE_PATH:
        return vet_path(&lane.crew, notification, rule.value)
    if rule.kind == RULE_VET_OPEN or rule.kind == RULE_VET_WRITE:
        error = vet_open(&lane.crew, notification, ASK_ALL if rule.kind == RULE_VET_OPEN else ASK_WRITES)
        return Action(kind=ACTION_HOLD, value=0) if error == 0 else errno_action(error)
    return look_or_tell(lane, rule, notification)


# Respond -----------------------------------------------------------------------------------------------------------

cdef int send_response(Lane *lane, uint64_t id, int64_t value, int32_t error, uint32_t flags) noexcept nogil:
    cdef Response response
    cdef long result
    response.id = id
    response.val = value
    response.error = error
    response.flags = flags
    while True:
        result = raw_syscall(SYS_ioctl, lane.listener, <long>SECCOMP_IOCTL_NOTIF_SEND, <long>&response, 0, 0, 0)
        if result != -EINTR:
            return <int>result


cdef int inject(Lane *lane, uint64_t id, int descriptor) noexcept nogil:
    """Puts a descriptor of ours into the guest and answers with its number. The number is known (and recorded)
    before the guest can use it: the call is answered after the descriptor is there. Returns 0 or -errno."""
    cdef AddDescriptor add
    cdef long number
    memset(&add, 0, sizeof(add))
    add.id = id
    add.srcfd = <uint32_t>descriptor
    while True:
        number = raw_syscall(SYS_ioctl, lane.listener, <long>SECCOMP_IOCTL_NOTIF_ADDFD, <long>&add, 0, 0, 0)
        if number != -EINTR:
            break
    if number == -ENOENT:
        return -ENOENT
    if number < 0:
        # A full descriptor table of the guest is its own affair; anything else is ours. Both are denials.
        return send_response(lane, id, 0, <int32_t>(-EMFILE if number == -EMFILE else -EACCES), 0)
    lane.last_injected = number
    return send_response(lane, id, number, 0, 0)


cdef void kill_tree(Lane *lane) noexcept nogil:
    """Ends the run: the init sees its control socket closed and kills everything in the domain."""
    raw_syscall(SYS_shutdown, lane.run.control_host, SHUT_WR, 0, 0, 0, 0)


cdef void respond(Lane *lane, const Notification *notification, Action action) noexcept nogil:
    cdef int result
    if action.kind == ACTION_ERRNO:
        lane.counters.denied += 1
        result = send_response(lane, notification.id, 0, -<int32_t>action.value, 0)
    elif action.kind == ACTION_VALUE:
        result = send_response(lane, notification.id, action.value, 0, 0)
    elif action.kind == ACTION_CONTINUE:
        result = send_response(lane, notification.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
    elif action.kind == ACTION_INJECT:
        result = inject(lane, notification.id, <int>action.value)
    elif action.kind == ACTION_HOLD:
        return                # answered later, by a worker; or by nobody, then the caller waits until the tree ends
    elif action.kind == ACTION_KILL_TASK:
        result = kill_task(<pid_t>notification.pid)
    else:
        kill_tree(lane)
        return
    if result == 0:
        lane.counters.answered += 1
    elif result == -ENOENT or result == -ESRCH:
        lane.counters.vanished += 1      # it was killed meanwhile
    else:
        # The kernel did not take the answer: the caller would wait for ever. It must not go on either.
        lane.counters.failed += 1
        if kill_task(<pid_t>notification.pid) < 0:
            kill_tree(lane)


# The loop ----------------------------------------------------------------------------------------------------------

cdef int open_lane(Lane *lane) noexcept nogil:
    """Asks the kernel for its struct size and for synchronous wake-up. Returns 0 or -errno."""
    cdef NotificationSizes sizes
    cdef long result
    lane.listener = lane.run.listener
    result = raw_syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, <long>&sizes, 0, 0, 0)
    if result < 0:
        return <int>result
    lane.notification_size = sizes.seccomp_notif
    if lane.notification_size < sizeof(Notification):
        lane.notification_size = sizeof(Notification)
    if lane.notification_size > NOTIFICATION_ROOM:
        return -ENOMEM
    # The flag goes by value (by pointer it is EINVAL); it came together with a RECV that sees the end of the tree.
    result = raw_syscall(
        SYS_ioctl, lane.listener, <long>SECCOMP_IOCTL_NOTIF_SET_FLAGS, <long>SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 0, 0, 0
    )
    lane.sync_wake_up = result == 0
    return 0


cdef void supervise(Lane *lane) noexcept nogil:
    """Receive, dispatch, respond, until the tree is gone."""
    cdef char room[NOTIFICATION_ROOM]
    cdef Notification *notification = <Notification *>room
    cdef int result = open_lane(lane)
    while result == 0:
        result = receive(lane, notification)
        if result == 0:
            respond(lane, notification, dispatch(lane, notification))
    if result != -ENOENT:
        kill_tree(lane)


cdef int must_mediate_first(const Lane *lane) noexcept nogil:
    """Whether others will share the lane's descriptor table, or it holds something: it has to be its own before."""
    cdef const Program *program = lane.run.program
    return program.mediates and (
        program.vets_exec or program.vets_network or program.record_execs or lane.handlers != NULL
    )


cdef void *lane_main(void *argument) noexcept nogil:
    """A supervisor thread: enters the run's outer domain, starts the launch, then serves the listener."""
    cdef Lane *lane = <Lane *>argument
    cdef Run *run = lane.run
    run.lane = <pid_t>raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0)
    if enter_domain(run) < 0 or clone_warden(run) < 0:
        send_failure(run)
        return NULL
    while run.stage == STAGE_STARTING:
        raw_syscall(SYS_futex, <long>&run.stage, FUTEX_WAIT, STAGE_STARTING, 0, 0, 0)
    if run.listener >= 0:
        lane.crew.stays_in_hosts_table = lane.handlers != NULL
        if must_mediate_first(lane) and start_mediating(&lane.crew) < 0:
            kill_tree(lane)
        if run.program.record_execs:
            lane.observer = open_observer(run)
        if lane.table != NULL and lane.table.journal != NULL:
            enlist(lane.table.journal, LANE, NULL)
        if run.program.vets_exec:
            start_worker(&lane.crew)
        supervise(lane)
        if lane.table != NULL:
            stop_workers(&lane.crew)
            close_promises(&lane.table.promises)
            close_writers(&lane.table.writers)
            stop_mediating(&lane.crew)
        forget_caller(&lane.crew.caller)
        stop_observer(lane.observer)
        raw_syscall(SYS_close, run.listener, 0, 0, 0, 0, 0)
        run.listener = -1
    return NULL
