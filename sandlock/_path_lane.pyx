"""The fast lane's part of path calls: those that wait for nobody it carries out by itself; the others it puts where
somebody may wait (_openers).
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strlen
from posix.types cimport pid_t

from sandlock._actions cimport ACTION_CONTINUE, ACTION_HOLD, ACTION_VALUE, Action, errno_action, plain_action
from sandlock._destinations cimport OPERATION_OPEN, OPERATION_PATH
from sandlock._linux cimport Notification, SYS_close, raw_syscall
from sandlock._mediate cimport DENIED, GIVEN, LATER, Mediator, as_seen, mediate, open_quickly
from sandlock._opens cimport queue_path, vet_open
from sandlock._path_calls cimport ACT_LIST_DIRECTORY, ACT_OPEN
from sandlock._paths cimport ASK_NOTHING
from sandlock._run cimport VirtualRoot
from sandlock._slots cimport note_path
from sandlock._sockets cimport forget_caller
from sandlock._tasks cimport thread_group_of
from sandlock._view_table cimport keep_with_views
from sandlock._virtual_listing cimport may_list_mounts

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int ENOMEM

cdef extern from "<time.h>" nogil:
    const int CLOCK_MONOTONIC
    ctypedef struct Clock "struct timespec":
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, Clock *time) noexcept

cdef extern from * nogil:
    """
    #include <linux/sched.h>
    #include <sys/syscall.h>
    """
    const long CLONE_FS
    const long SYS_unshare


cdef int take_table(Crew *crew) noexcept nogil:
    """Gives the fast lane a descriptor table of its own. Returns 0 or -errno."""
    cdef int keep[4]
    cdef int result
    forget_caller(&crew.caller)      # a descriptor of the table that is left
    keep[0] = crew.table.run.listener
    keep[1] = crew.table.wake_fd
    keep[2] = crew.table.poller_fd
    keep[3] = crew.table.run.control_host
    result = <int>keep_with_views(crew.table.views, crew.table.run.virtual_root, keep, 4)
    if result == 0:
        crew.table.run.host_listener = crew.table.run.listener
    return result


cdef int start_mediating(Crew *crew) noexcept nogil:
    """Gives the fast lane a umask of its own, and a descriptor table: to close a file in the host's would drop the
    locks that the host has on it (fcntl(2)). Handlers may give the program descriptors of the host's, so with them it
    stays in that table, and opens nothing but by O_PATH, which holds no locks. Returns 0 or -errno."""
    cdef Mediator *mediator
    cdef long result = raw_syscall(SYS_unshare, CLONE_FS, 0, 0, 0, 0, 0)
    if result < 0:
        return <int>result
    mediator = <Mediator *>calloc(1, sizeof(Mediator))
    if mediator == NULL:
        return -ENOMEM
    mediator.table = crew.table
    mediator.ledger = crew.ledger
    mediator.uniform = crew.table.run.program.keep_capabilities == 0 and crew.table.run.one_user
    mediator.shares_table = crew.stays_in_hosts_table
    result = 0 if crew.stays_in_hosts_table else take_table(crew)
    if result < 0:
        free(mediator)
        return <int>result
    crew.mediator = mediator
    return 0


cdef void stop_mediating(Crew *crew) noexcept nogil:
    """At the lane's end: closes what is open in a table that may be the host's."""
    cdef Mediator *mediator = crew.mediator
    if mediator == NULL:
        return
    forget_caller(&mediator.holder)
    forget_caller(&mediator.lister)
    if mediator.tree.own_table > 0:
        raw_syscall(SYS_close, mediator.tree.own_table, 0, 0, 0, 0, 0)
    crew.mediator = NULL
    free(mediator)


cdef int64_t lane_ns() noexcept nogil:
    """As _tasks.now_ns, without a system call: the lane is a thread, and has a libc."""
    cdef Clock time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * <int64_t>1000000000 + time.tv_nsec


cdef Action vet_path(Crew *crew, const Notification *notification, int64_t rule) noexcept nogil:
    """Carries a path call out, now or later."""
    cdef Mediator *mediator = crew.mediator
    cdef int opens = rule & 0xFF == ACT_OPEN
    cdef const char *denied
    cdef const VirtualRoot *root = crew.table.run.virtual_root
    cdef long result
    if (
        rule & 0xFF == ACT_LIST_DIRECTORY and crew.table.views == NULL
        and not may_list_mounts(root, <pid_t>notification.pid, <int>notification.data.args[0])
    ):
        # Nothing was read from memory. If it is another directory by then, the program does not find its own mounts.
        return plain_action(ACTION_CONTINUE)
    if mediator == NULL:     # most runs make no such call, and need not pay for it before the first
        if start_mediating(crew) < 0:
            return errno_action(EACCES)
        mediator = crew.mediator
    crew.table.since_ns = lane_ns()
    crew.table.tid = <pid_t>notification.pid
    result = open_quickly(mediator, notification) if opens else mediate(mediator, notification, rule)
    if result == GIVEN:
        return plain_action(ACTION_HOLD)
    if result == LATER and opens:
        result = vet_open(crew, notification, ASK_NOTHING)
        return plain_action(ACTION_HOLD) if result == 0 else errno_action(<int>result)
    if result == LATER:
        result = queue_path(crew, notification, rule, mediator.call.first.text, mediator.call.first.length)
        return plain_action(ACTION_HOLD) if result == 0 else errno_action(<int>result)
    if result == DENIED:
        denied = as_seen(mediator)
        note_path(
            crew.table, OPERATION_OPEN if opens else OPERATION_PATH, mediator.cause, mediator.rule, mediator.error,
            notification.data.nr, thread_group_of(crew.table.tid), denied, strlen(denied)
        )
        return errno_action(mediator.error)
    return Action(kind=ACTION_VALUE, value=result) if result >= 0 else errno_action(<int>-result)
