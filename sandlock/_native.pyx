"""The border between Python and the native launch and supervision: runs.

A Run is one command. It owns the memory that native code reads, and frees it when launch and thread have let go of it.
"""

from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint16_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from sandlock._core cimport Lane, lane_main
from sandlock._handlers cimport HandlerSet
from sandlock._launch cimport clone_warden, send_failure
from sandlock._linux cimport (
    COMMAND_PAUSE, COMMAND_RESUME, MESSAGE_ENDED, MESSAGE_FAILED, MESSAGE_LAUNCHED, MESSAGE_MAP_IDS, MESSAGE_PAUSED,
    MESSAGE_RESUMED, Message, SYS_close, SYS_eventfd2, SYS_fcntl, SYS_futex, SYS_getpid, SYS_kill,
    SYS_landlock_create_ruleset, SYS_pidfd_open, SYS_rt_sigprocmask, SYS_sendto, SYS_shutdown, SYS_socketpair,
    SYS_wait4, SYS_waitid, raw_syscall,
)
from sandlock._observe cimport dropped_records, free_observer, take_records
from sandlock._path_table cimport PathRules
from sandlock._pins cimport MAX_HOSTS, Pins, add_pin, asker_of
from sandlock._program cimport NetRuleSet, Program, pointers
from sandlock._run cimport Run as RunStruct, STAGE_LAUNCHED, STEP_THREAD
from sandlock._approvals cimport add_approval, revoke_approvals
from sandlock._journal cimport (
    GATE_OPEN, GATE_REFUSES, close_journal, make_journal, set_gate, take_entries, wait_for_entries, wake_reader,
)
from sandlock._questions cimport (
    expected_calls, read_environment, remember, settle_question, stop_listening, take_denials, take_questions,
)
from sandlock._slots cimport CHAIN_TEXT, executed_last, free_table, load_int, make_table, store_paths, store_rules
from sandlock._tasks cimport list_chain
from sandlock._view_table cimport ViewSet
from sandlock._virtual_root cimport VirtualMounts

from os import getresgid, getresuid

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t *attr) noexcept
    int pthread_attr_setstacksize(pthread_attr_t *attr, size_t size) noexcept
    int pthread_attr_destroy(pthread_attr_t *attr) noexcept
    int pthread_create(
        pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *) noexcept nogil, void *argument
    ) noexcept
    int pthread_detach(pthread_t thread) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int EINTR
    const int EPIPE

cdef extern from "<fcntl.h>" nogil:
    const int F_DUPFD_CLOEXEC
    const int O_CLOEXEC
    const int O_NONBLOCK

cdef extern from "<sys/socket.h>" nogil:
    const int AF_UNIX
    const int SOCK_CLOEXEC
    const int SOCK_SEQPACKET

cdef enum:
    LAUNCH_STACK = 16384
    LANE_STACK = 131072
    FUTEX_WAIT = 0
    FUTEX_WAKE = 1
    MSG_DONTWAIT = 0x40
    MSG_NOSIGNAL = 0x4000
    SIG_SETMASK = 2
    SIGKILL = 9
    P_PIDFD = 3
    WALL = 0x40000000
    WEXITED = 4
    WNOHANG = 1
    SHUT_WR = 1

cdef extern from "_control.h" nogil:
    ssize_t receive_with_descriptor "sandlock_receive"(
        int socket, void *buffer, size_t size, int flags, int *descriptor
    ) noexcept

LAUNCHED = MESSAGE_LAUNCHED
FAILED = MESSAGE_FAILED
MAP_IDS = MESSAGE_MAP_IDS
ENDED = MESSAGE_ENDED
PAUSED = MESSAGE_PAUSED
RESUMED = MESSAGE_RESUMED


def landlock_abi() -> int:
    """The kernel's Landlock ABI version, 0 without Landlock. landlock_create_ruleset(2)."""
    return max(raw_syscall(SYS_landlock_create_ruleset, 0, 0, 1, 0, 0, 0), 0)


cdef int above_stdio(int fd) except -1:
    """The descriptor, moved out of 0..2 where the host runs with closed standard streams. Raises OSError."""
    cdef long moved
    if fd > 2:
        return fd
    moved = raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3, 0, 0, 0)
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0)
    if moved < 0:
        raise OSError(-moved, "fcntl F_DUPFD_CLOEXEC")
    return <int>moved


cdef void close_once(int *descriptor) noexcept nogil:
    if descriptor[0] >= 0:
        raw_syscall(SYS_close, descriptor[0], 0, 0, 0, 0, 0)
        descriptor[0] = -1


cdef class Run:
    """One command: from launch to the end of its tree.

    `start` returns at once; what happens then is told by messages on the control socket (`receive`): LAUNCHED or
    FAILED, then ENDED. `kill` may be called at any time from any thread. `finish` waits for the thread and the init.
    """

    cdef RunStruct c
    cdef Lane lane
    cdef Program program
    cdef pthread_t thread
    cdef bint threaded
    cdef bint started
    cdef bint finished
    cdef bint abandoned
    cdef int init_pidfd       # came with the init's last word: its number may be another process's by then
    cdef list _alive

    def __cinit__(self):
        self.init_pidfd = -1
        memset(&self.c, 0, sizeof(self.c))
        memset(&self.lane, 0, sizeof(self.lane))
        self.c.listener = self.c.host_listener = self.c.directory = -1
        self.c.one_user = len({*getresuid()}) == len({*getresgid()}) == 1
        self.c.control_host = self.c.control_init_copy = self.c.host_pidfd = -1
        self.finished = True

    def __init__(self, Program program, *, bint new_session, deadline_ms, bytes init_image):
        self.program = program
        self._alive = [init_image]
        self.c.program = &program.c
        self.c.controlling_terminal = -1
        self.c.new_session = new_session
        self.c.deadline_ms = -1 if deadline_ms is None else deadline_ms
        self.c.init_image = <const uint8_t *><char *>init_image
        self.c.init_size = len(init_image)
        self.c.stack_size = LAUNCH_STACK
        self.c.launch_stack = <char *>malloc(LAUNCH_STACK)
        self.c.guest_stack = <char *>malloc(LAUNCH_STACK)
        if self.c.launch_stack == NULL or self.c.guest_stack == NULL:
            raise MemoryError
        self.c.host_pid = <int>raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0)
        self._open_control()
        self.lane.run = &self.c
        self.lane.ledger.limit = program.c.max_processes
        self.lane.ledger.bound = 1
        self.lane.ledger.host = self.c.host_pid
        self.lane.ledger.scoped = program.c.signal_scope
        if program.c.vets:
            self.lane.table = make_table()
            if self.lane.table == NULL:
                raise MemoryError
            self.lane.table.run = &self.c
            self.lane.table.ledger = &self.lane.ledger
            self.lane.table.net_rules = &program.c.net_rules
            self.lane.table.paths = NULL
            self.lane.table.wake_fd = self.lane.table.poller_fd = -1
            self.lane.crew.table = self.lane.table
            self.lane.crew.ledger = &self.lane.ledger
        if program.c.looks_up:
            self.lane.table.pins = <Pins *>calloc(1, sizeof(Pins))
            if self.lane.table.pins == NULL:
                raise MemoryError
        if program.c.vets_network:
            self.lane.table.poller_fd = self._open_wake_up()

    cdef int _open_wake_up(self) except -1:
        cdef long result = raw_syscall(SYS_eventfd2, 0, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0)
        if result < 0:
            raise OSError(-result, "eventfd")
        return above_stdio(<int>result)

    def listen(self, int wake_fd, timeout_ms, int on_timeout, int error) -> None:
        """Questions will be answered; to be called before `start`. `wake_fd`: an eventfd, ours from now on, that is
        written when `take_questions` has something. `timeout_ms` of a question, None for no limit."""
        if self.lane.table == NULL or self.started:
            raise RuntimeError("only a run that vets listens, and before it starts")
        self.lane.table.wake_fd = wake_fd
        self.lane.table.timeout_ms = 0 if timeout_ms is None else max(1, timeout_ms)
        self.lane.table.on_timeout = on_timeout
        self.lane.table.on_timeout_error = error
        self.lane.table.listens = 1

    def handle(self, HandlerSet handlers) -> None:
        """These answer what the plan leaves to handlers; to be called before `start`. They are kept."""
        if self.lane.table == NULL or self.started:
            raise RuntimeError("only a run whose plan has handlers, and before it starts")
        self._alive.append(handlers)
        handlers.attach(self.lane.table)
        self.lane.handlers = &handlers.c

    @property
    def wake_fd(self) -> int:
        """Readable when there are questions, or questions that need no answer any more."""
        return -1 if self.lane.table == NULL else self.lane.table.wake_fd

    def take_questions(self):
        """The new questions, and the ids of those that are over, see `_questions.take_questions`."""
        return take_questions(self.lane.table)

    def verdict(self, unsigned long long question, int act, int error) -> bool:
        """Answers a question. False when it is over already."""
        return settle_question(self.lane.table, question, act, error)

    def remember(self, unsigned long long question, int words) -> bytes:
        """An approval of what is asked, for `approve`, see `_questions.remember`. Raises LookupError if it is over."""
        return remember(self.lane.table, question, words)

    def approve(self, bytes approval) -> bool:
        """From now on this is allowed where it would be asked about. False when there are too many approvals."""
        return self.lane.table != NULL and add_approval(&self.lane.table.approvals, approval)

    def revoke(self) -> None:
        """What was approved so far is asked about again."""
        if self.lane.table != NULL:
            revoke_approvals(&self.lane.table.approvals)

    def environment(self, unsigned long long question) -> tuple:
        """The environment of an exec that waits, see `_questions.read_environment`."""
        return read_environment(self.lane.table, question)

    @property
    def expected_calls(self) -> int:
        """How many calls helpers that live have tasks make, which nobody judges; for tests."""
        return expected_calls(self.lane.table)

    @property
    def supervised(self) -> bool:
        """Whether the supervisor decides about the network."""
        return self.c.program.vets_network != 0

    def set_net_rules(self, NetRuleSet rules) -> None:
        """These rules are in force from now on. Only for a run whose network is supervised."""
        if self.lane.table == NULL:
            raise RuntimeError("this run's network is not supervised")
        self._alive.append(rules)      # a call that is being decided may still look at the last ones
        store_rules(&self.lane.table.net_rules, &rules.c)

    def set_paths(self, PathRules rules) -> None:
        """This is what holds of paths from now on. For a run that carries out path calls."""
        if self.lane.table == NULL:
            raise RuntimeError("this run carries out no path calls")
        self._alive.append(rules)      # a call that is being decided may still look at the last ones
        store_paths(&self.lane.table.paths, &rules.c)

    def set_virtual_root(self, VirtualMounts root) -> None:
        """This is what the program sees as its files, from the start; its descriptors stay open until `finish`."""
        if self.lane.table == NULL or self.started:
            raise RuntimeError("only a run that carries out path calls, and before it starts")
        self._alive.append(root)
        self.c.virtual_root = &root.c

    def set_views(self, ViewSet views, unsigned long long memory, unsigned long long available) -> None:
        """Files show these instead of what they hold, and sysinfo(2) so many bytes. Before the run starts."""
        if self.lane.table == NULL or self.started:
            raise RuntimeError("this run carries out no path calls, or has started")
        self.c.memory_total = memory
        self.c.memory_free = available
        self._alive.append(views)
        self.lane.table.views = &views.c

    def set_max_processes(self, int limit) -> None:
        """From now on a fork fails where so many processes live. Only for a run that counts them."""
        self.lane.ledger.limit = limit

    def stop_listening(self) -> None:
        """Denies what is asked, and what will be."""
        stop_listening(self.lane.table)

    def denials(self) -> list:
        """What was denied without a verdict of Python's, see `_questions.take_denials`."""
        return take_denials(self.lane.table, False)

    def audited(self) -> list:
        """What was allowed without a verdict of Python's, to be audited; as `denials`."""
        return take_denials(self.lane.table, True)

    @property
    def dropped_audited(self) -> int:
        """How many more of these there were than are kept."""
        return 0 if self.lane.table == NULL else load_int(&self.lane.table.audits_dropped)

    @property
    def overdue(self) -> int:
        """How many questions went on waiting beyond their time."""
        return 0 if self.lane.table == NULL else load_int(&self.lane.table.overdue)

    def chain(self, int pid) -> list:
        """The files of the processes above one, nearest first, as far as it can be seen now."""
        cdef char text[CHAIN_TEXT]
        return text[:list_chain(pid, self.c.warden, text, CHAIN_TEXT)].split(b"\0")[:-1]

    def executed(self, int pid) -> int:
        """The id of the question, if it was one, about this process's last exec. 0, or another's, if not known."""
        return 0 if self.lane.table == NULL else executed_last(self.lane.table, pid)

    # The journal: every decision, where somebody wants to know them.

    def keep_journal(self, bint patient, bint gated) -> None:
        """Decisions shall be kept for `take_decisions`; to be called before `start`. `patient`: rather than lose one,
        the program waits for room. `gated`: nothing is allowed before `open_gate`."""
        if self.lane.table == NULL or self.started:
            raise RuntimeError("only a run that vets has decisions, and before it starts")
        self.lane.table.journal = make_journal(patient, gated)

    @property
    def has_journal(self) -> bool:
        """Whether decisions are kept."""
        return self.lane.table != NULL and self.lane.table.journal != NULL

    def open_gate(self) -> None:
        """The record has begun."""
        set_gate(self.lane.table.journal, GATE_OPEN)

    def refuse(self) -> None:
        """There is no record (any more): what would be allowed is denied from now on."""
        set_gate(self.lane.table.journal, GATE_REFUSES)

    def take_decisions(self, bint final, int limit) -> list:
        """Decisions that were not taken yet, see `_journal.take_entries`. By one thread. `final`: after `finish`."""
        return take_entries(self.lane.table.journal, final, limit)

    def wait_for_decisions(self, int milliseconds) -> None:
        """Waits until there are some, at most so long."""
        with nogil:
            wait_for_entries(self.lane.table.journal, milliseconds)

    def wake_reader(self) -> None:
        """Ends the reader's wait."""
        wake_reader(self.lane.table.journal)

    @property
    def lost_decisions(self) -> int:
        """How many found no room, or were being written by a task that was killed."""
        return load_int(&self.lane.table.journal.lost) + load_int(&self.lane.table.journal.torn)

    @property
    def dropped_denials(self) -> int:
        """How many more there were than are kept."""
        return 0 if self.lane.table == NULL else load_int(&self.lane.table.denials_dropped)

    def lead_lookups_to(self, int port, int port6) -> None:
        """Lookups of names go to these UDP ports, of 127.0.0.1 and ::1 (0: none); to be called before `start`."""
        if self.lane.table == NULL or self.lane.table.pins == NULL or self.started:
            raise RuntimeError("only a run that looks names up, and before it starts")
        self.lane.table.pins.port = <uint16_t>port
        self.lane.table.pins.port6 = <uint16_t>port6

    def pin(self, int host, bytes address) -> bool:
        """From now on the address (4 or 16 bytes) is one of this name's, a number of the plan's `hosts` from 1. False
        where there is no more room."""
        if len(address) not in (4, 16) or not 0 < host <= MAX_HOSTS:
            raise ValueError("no address, or no name")
        cdef const char *bytes_of = address
        return add_pin(self.lane.table.pins, host, <const uint8_t *>bytes_of, <int>len(address)) == 0

    def asker(self, int port) -> int:
        """The process of the tree that asked the resolver from this local port last, 0 if none did."""
        return asker_of(self.lane.table.pins, port)

    def provide(self, *, list executables, list argv, list envp, cwd, stdio, int terminal, int directory=-1) -> None:
        """What to execute, and on which descriptors; `directory`: to start in, not `cwd`. The launch waits for it."""
        if self.c.provided != 0:
            raise RuntimeError("a Run is provided once")
        self._alive += [executables, argv, envp, cwd]
        self.c.executables = pointers(executables)
        self.c.argv = pointers(argv)
        self.c.envp = pointers(envp)
        self.c.cwd = NULL if cwd is None else <const char *><bytes>cwd
        self.c.directory = directory
        self.c.stdio[0], self.c.stdio[1], self.c.stdio[2] = stdio
        self.c.controlling_terminal = terminal
        self._set_provided(1)

    cdef void _set_provided(self, int value) noexcept:
        self.c.provided = value
        raw_syscall(SYS_futex, <long>&self.c.provided, FUTEX_WAKE, 1, 0, 0, 0)

    cdef _open_control(self):
        """The control socket and a pidfd of ours for the init to watch. Raises OSError."""
        cdef int pair[2]
        cdef long result = raw_syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, <long>pair, 0, 0)
        if result < 0:
            raise OSError(-result, "socketpair for the run's control socket")
        self.c.control_host = above_stdio(pair[0])
        self.c.control_init = self.c.control_init_copy = above_stdio(pair[1])
        result = raw_syscall(SYS_pidfd_open, self.c.host_pid, 0, 0, 0, 0, 0)
        if result < 0:
            raise OSError(-result, "pidfd_open on the host process")
        self.c.host_pidfd = above_stdio(<int>result)

    def let_go(self) -> None:
        """Closes what was held for the launch: the init's end of the control socket, the pidfd."""
        close_once(&self.c.control_init_copy)
        close_once(&self.c.host_pidfd)

    def start(self) -> None:
        """Starts the launch. Never raises for what the launch meets: that comes as a FAILED message."""
        cdef unsigned long long every = ~0ULL, before = 0
        cdef pthread_attr_t attr
        cdef int error
        if self.started:
            raise RuntimeError("a Run starts once")
        self.started = True
        self.finished = False
        with nogil:
            # No handler of the host may run in the new tasks, and none of them may take the host's signals.
            raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, <long>&every, <long>&before, 8, 0, 0)
            if self.c.program.needs_listener:
                pthread_attr_init(&attr)
                pthread_attr_setstacksize(&attr, LANE_STACK)
                error = pthread_create(&self.thread, &attr, lane_main, &self.lane)
                pthread_attr_destroy(&attr)
                self.threaded = error == 0
                if error != 0:
                    self.c.step = STEP_THREAD
                    self.c.error = error
                    send_failure(&self.c)
            elif clone_warden(&self.c) < 0:
                send_failure(&self.c)
            raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, <long>&before, 0, 8, 0, 0)

    def receive(self):
        """The next message as (kind, pid, step, error, subject, status, reason, survivors, user_us, system_us);
        None when there is none yet; False when the other side is gone."""
        cdef Message message
        cdef ssize_t length = self.take_message(&message, MSG_DONTWAIT)
        if length < 0:
            return None
        if length != sizeof(message):
            return False
        return (
            message.kind, message.pid, message.step, message.error, message.subject, message.status, message.reason,
            message.survivors, message.user_microseconds, message.system_microseconds,
        )

    cdef ssize_t take_message(self, Message *message, int flags) noexcept nogil:
        cdef int descriptor
        cdef ssize_t length = receive_with_descriptor(
            self.c.control_host, message, sizeof(message[0]), flags, &descriptor
        )
        if descriptor >= 0:
            self.init_pidfd = descriptor
        return length

    def kill(self) -> None:
        """Ends the whole tree: the init is told; a launch that is still under way is stopped where it is."""
        if not self.started or self.finished:
            return
        self.c.cancelled = 1
        if self.c.provided == 0:
            self._set_provided(-1)
        raw_syscall(SYS_shutdown, self.c.control_host, SHUT_WR, 0, 0, 0, 0)
        if self.c.alone and self.c.stage != STAGE_LAUNCHED and self.c.guest > 0 and self.c.step == 0:
            # Before that it would leave its descriptors in our table; it sees `cancelled` by itself. The warden waits
            # for the guest's exec and has not reaped it, so the number is still the guest's. Later the warden listens.
            raw_syscall(SYS_kill, self.c.guest, SIGKILL, 0, 0, 0, 0)

    def order(self, bint pause) -> int:
        """Tells the init to stop the tree, or to let it go on; it answers PAUSED or RESUMED. Returns 0 or an errno:
        EPIPE when it was told to die, EAGAIN when it does not listen. Only after LAUNCHED."""
        cdef int command = COMMAND_PAUSE if pause else COMMAND_RESUME
        cdef long result
        if not self.started or self.finished or self.c.control_host < 0:
            return EPIPE
        result = raw_syscall(
            SYS_sendto, self.c.control_host, <long>&command, sizeof(command), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0
        )
        return <int>-result if result < 0 else 0

    def maps_written(self, int error) -> None:
        """Lets a child that asked for its id maps go on (0), or fail with `error`."""
        self.c.mapped = 1 if error == 0 else -error
        raw_syscall(SYS_futex, <long>&self.c.mapped, FUTEX_WAKE, 1, 0, 0, 0)

    def finish(self) -> None:
        """Waits until nothing native of this run is left: launch, init, thread. Call after ENDED or FAILED, or
        after `kill`."""
        if self.finished:
            return
        if self.has_journal:
            close_journal(self.lane.table.journal)
        with nogil:
            self.wait_native()
        self.finished = True

    def abandon(self) -> None:
        """Instead of `close`, when a task of the tree cannot be killed now (uninterruptible sleep): the supervisor
        thread, and a guest that has executed nothing yet, are on our memory until it ends, so this object stays."""
        self.abandoned = self.threaded or self.c.guest_shares
        if self.threaded:
            pthread_detach(self.thread)
            self.threaded = False
        if self.abandoned:
            Py_INCREF(self)
        self.close()

    def close(self) -> None:
        """Finishes and gives the control socket back."""
        self.let_go()
        self.finish()
        if self.lane.table != NULL and not self.abandoned:
            close_once(&self.lane.table.wake_fd)
            close_once(&self.lane.table.poller_fd)
        close_once(&self.c.control_host)

    @property
    def control_fd(self) -> int:
        """The control socket: readable when there is a message."""
        return self.c.control_host

    cdef void wait_native(self) noexcept nogil:
        cdef long result
        if self.threaded:
            pthread_join(self.thread, NULL)
            self.threaded = False
        close_once(&self.c.host_listener)
        while self.c.warden_lives:
            raw_syscall(SYS_futex, <long>&self.c.warden_lives, FUTEX_WAIT, 1, 0, 0, 0)
        while self.c.warden > 0:
            if self.init_pidfd >= 0:
                result = raw_syscall(SYS_waitid, P_PIDFD, self.init_pidfd, 0, WEXITED | WALL, 0, 0)
            else:
                result = raw_syscall(SYS_wait4, self.c.warden, 0, WALL, 0, 0, 0)
            if result != -EINTR:
                break
        close_once(&self.init_pidfd)

    def execs(self) -> list:
        """The recorded execs so far, see `_observe.take_records`."""
        if self.lane.observer == NULL:
            return []
        return take_records(self.lane.observer)

    @property
    def dropped_execs(self) -> int:
        """How many programs of a finished run ran (or may have run) without a record, for want of room."""
        return dropped_records(self.lane.observer)

    @property
    def guest_pid(self) -> int:
        """The program's process, 0 before it exists."""
        return self.c.guest

    @property
    def init_pid(self) -> int:
        """The run's init (before the launch ends: its warden)."""
        return self.c.warden

    @property
    def last_injected(self) -> int:
        """The descriptor number that an `inject` rule gave the guest last."""
        return self.lane.last_injected

    def statistics(self) -> dict:
        """How many notifications were received, answered, ..., so far."""
        return self.lane.counters

    def __dealloc__(self):
        cdef Message unread
        # In a fork of the host the memory is a copy, and the launch, the thread and the init are the host's.
        if self.started and not self.finished and self.c.host_pid == raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0):
            if self.has_journal:
                close_journal(self.lane.table.journal)
            self.c.cancelled = 1
            if self.c.provided == 0:
                self._set_provided(-1)
            raw_syscall(SYS_shutdown, self.c.control_host, SHUT_WR, 0, 0, 0, 0)
            while self.take_message(&unread, 0) > 0 and unread.kind != MESSAGE_ENDED and unread.kind != MESSAGE_FAILED:
                pass
            self.wait_native()
        self.let_go()
        close_once(&self.c.control_host)
        free_observer(self.lane.observer)
        free_table(self.lane.table)
        free(<void *>self.c.executables)
        free(<void *>self.c.argv)
        free(<void *>self.c.envp)
        free(self.c.launch_stack)
        free(self.c.guest_stack)
