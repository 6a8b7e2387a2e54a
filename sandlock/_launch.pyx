"""The launch: from a prepared Run to an executed, confined program. Raw system calls only.

The host clones a *warden* that shares its memory and descriptor table. The warden enters the outer domain, clones
the *guest* (which confines itself further and executes the program), watches over the run for its first moments
and then executes the run's init, which goes on watching.

Rules:
1. Nothing here allocates, touches errno or TLS, or calls the interpreter: this code runs on the memory of a live,
   many-threaded host.
2. Each step that fails records (step, error, subject) and ends its process. There is no path from a failed step to
   a running program.
3. Descriptors that live in the host's table for a moment are close-on-exec and closed on every path.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from sandlock._domain cimport drop_capabilities, enter_domain, restrict
from sandlock._linux cimport (
    CLONE_CLEAR_SIGHAND, CLOSE_RANGE_UNSHARE, CloneArguments, Duration, MESSAGE_FAILED, MESSAGE_LAUNCHED,
    MESSAGE_MAP_IDS, Message, POLLIN, PR_SET_NAME, PR_SET_PDEATHSIG, PollDescriptor, SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, SECCOMP_SET_MODE_FILTER, SYS_chdir, SYS_close, SYS_close_range, SYS_dup3,
    SYS_fchdir,
    SYS_execve, SYS_execveat, SYS_fcntl, SYS_futex, SYS_getpgid, SYS_getpid, SYS_ioctl, SYS_kill, SYS_memfd_create,
    SYS_personality, SYS_ppoll, SYS_prlimit64, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_sched_setaffinity, SYS_seccomp,
    SYS_sendto, SYS_setpgid, SYS_setsid, SYS_umask, SYS_unshare, SYS_wait4, SYS_write, call0, call1, call2, call3,
    call4, call5, raw_clone, raw_clone3, raw_syscall, set_prctl,
)
from sandlock._run cimport (
    Program, ResourceLimit, Run, STAGE_FAILED, STAGE_LAUNCHED, STAGE_LISTENING, STEP_AFFINITY, STEP_CAPABILITIES,
    STEP_CLONE, STEP_CLONE_GUEST, STEP_CWD, STEP_DESCRIPTORS, STEP_EXEC, STEP_FILTER, STEP_GUEST_RESTRICT,
    STEP_GUEST_RULE, STEP_GUEST_RULESET, STEP_HUGE_PAGES, STEP_ID_MAP, STEP_INIT, STEP_NO_NEW_PRIVS, STEP_PERSONALITY,
    STEP_RLIMIT, STEP_SESSION, STEP_STDIO, STEP_SUPERVISOR_RESTRICT, STEP_SUPERVISOR_RULE, STEP_SUPERVISOR_RULESET,
    STEP_TERMINAL, fail,
)
from sandlock._tasks cimport put_number

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINTR
    const int EINVAL
    const int ENOENT
    const int ENOSYS
    const int ENOTDIR
    const int EPERM
    const int ETIMEDOUT

cdef extern from "<fcntl.h>" nogil:
    const int F_DUPFD_CLOEXEC
    const int F_SETFD
    const int FD_CLOEXEC

cdef extern from * nogil:
    """
    #include <linux/sched.h>
    #include <linux/prctl.h>
    #include <linux/close_range.h>
    #include <asm/ioctls.h>
    #include <signal.h>
    #define SANDLOCK_MFD_EXEC 0x10U
    #define SANDLOCK_MFD_CLOEXEC 1U
    struct sandlock_kernel_sigaction { void *handler; unsigned long flags; void *restorer; unsigned long long mask; };
    """
    const unsigned int MFD_EXEC "SANDLOCK_MFD_EXEC"
    const unsigned int MFD_CLOEXEC "SANDLOCK_MFD_CLOEXEC"
    const int AT_EMPTY_PATH
    const unsigned long CLONE_VM
    const unsigned long CLONE_FILES
    const unsigned long CLONE_NEWUSER
    const unsigned long CLONE_CHILD_CLEARTID
    const int PR_SET_CHILD_SUBREAPER
    const int PR_SET_THP_DISABLE
    const unsigned long TIOCSCTTY
    const int SIGCHLD
    const int SIGKILL
    const int SIGPIPE
    const int SIGXFSZ
    const int SIG_SETMASK
    ctypedef struct KernelSigaction "struct sandlock_kernel_sigaction":
        void *handler
        unsigned long flags
        void *restorer
        unsigned long long mask

cdef extern from "_watch.h" nogil:
    ctypedef struct Watch "struct watch":
        int guest
        int host
        int lane
        long long deadline
    int watch_over(Watch *run, long long patience, int scope_expected) noexcept
    long long watch_now_ms() noexcept

cdef enum:
    # Most commands end within this time, and then no init is executed: that costs as much as half a small program.
    # Longer runs get one, with memory of its own, so that a parked task does not show the host's memory as its own.
    WARDEN_PATIENCE_MS = 100
    # How long the death of the host may go unseen while the guest waits for its exec.
    EXEC_CHECK_MS = 100
    FUTEX_WAIT = 0
    FUTEX_WAKE = 1
    MSG_NOSIGNAL = 0x4000
    WALL = 0x40000000
    LAST_SIGNAL = 64
    FIRST_FREE = 3


cdef void set_stage(Run *run, int stage) noexcept nogil:
    run.stage = stage
    call3(SYS_futex, <long>&run.stage, FUTEX_WAKE, 0x7FFFFFFF)


cdef void send_message(Run *run, int kind) noexcept nogil:
    cdef Message message
    memset(&message, 0, sizeof(message))
    message.kind = kind
    message.pid = run.guest
    message.step = run.step
    message.error = run.error
    message.subject = run.subject
    raw_syscall(SYS_sendto, run.control_init, <long>&message, sizeof(message), MSG_NOSIGNAL, 0, 0)


cdef void send_failure(Run *run) noexcept nogil:
    """Tells the host that the launch failed, and wakes the supervisor thread if there is one."""
    send_message(run, MESSAGE_FAILED)
    set_stage(run, STAGE_FAILED)


# The guest ---------------------------------------------------------------------------------------------------------

cdef int start_session(Run *run) noexcept nogil:
    cdef long result
    if run.new_session:
        result = call0(SYS_setsid)
    else:
        result = call2(SYS_setpgid, 0, run.host_group)
    if result < 0:
        return fail(run, STEP_SESSION, result)
    return 0


cdef int host_is_gone(const Run *run) noexcept nogil:
    cdef PollDescriptor descriptor
    cdef Duration at_once
    memset(&at_once, 0, sizeof(at_once))
    descriptor.fd = run.host_pidfd
    descriptor.events = POLLIN
    descriptor.revents = 0
    return raw_syscall(SYS_ppoll, <long>&descriptor, 1, <long>&at_once, 0, 8, 0) != 0


cdef int wait_for_command(Run *run) noexcept nogil:
    """The host prepares argv, environment and streams while we confine ourselves: wait until they are there."""
    cdef Duration limit
    limit.seconds = 0
    limit.nanoseconds = 100000000
    while run.provided == 0:
        if call4(SYS_futex, <long>&run.provided, FUTEX_WAIT, 0, <long>&limit) == -ETIMEDOUT and host_is_gone(run):
            return fail(run, STEP_EXEC, -EINTR)
    if run.provided < 0 or run.cancelled:
        return fail(run, STEP_EXEC, -EINTR)
    return 0


cdef int enter_place(Run *run) noexcept nogil:
    """The controlling terminal and the working directory."""
    cdef long result
    if run.controlling_terminal >= 0:
        result = call3(SYS_ioctl, run.controlling_terminal, TIOCSCTTY, 0)
        if result < 0:
            return fail(run, STEP_TERMINAL, result)
    if run.directory >= 0 or run.cwd != NULL:
        result = call1(SYS_fchdir, run.directory) if run.directory >= 0 else call1(SYS_chdir, <long>run.cwd)
        if result < 0:
            return fail(run, STEP_CWD, result)
    return 0


cdef int apply_attributes(Run *run) noexcept nogil:
    cdef const Program *program = run.program
    cdef const ResourceLimit *limit
    cdef uint64_t values[2]
    cdef long result
    cdef int i
    if program.umask >= 0:
        call1(SYS_umask, program.umask)
    for i in range(program.rlimit_count):
        limit = &program.rlimits[i]
        values[0] = limit.soft
        values[1] = limit.hard
        result = call4(SYS_prlimit64, 0, limit.resource, <long>values, 0)
        if result < 0:
            return fail(run, STEP_RLIMIT, result, i)
    if program.cpu_bytes > 0:
        result = call3(SYS_sched_setaffinity, 0, program.cpu_bytes, <long>program.cpus)
        if result < 0:
            return fail(run, STEP_AFFINITY, result)
    if program.personality != <unsigned long>-1:
        result = call1(SYS_personality, program.personality)
        if result < 0:
            return fail(run, STEP_PERSONALITY, result)
    if program.no_huge_pages:
        result = set_prctl(PR_SET_THP_DISABLE, 1, 0)
        if result < 0:
            return fail(run, STEP_HUGE_PAGES, result)
    return 0


cdef int wait_for_maps(Run *run) noexcept nogil:
    """The user namespace's maps can only be written from outside of the domain: the host does it, we wait."""
    cdef Duration limit
    cdef long result
    limit.seconds = 10
    limit.nanoseconds = 0
    send_message(run, MESSAGE_MAP_IDS)
    while run.mapped == 0:
        result = call4(SYS_futex, <long>&run.mapped, FUTEX_WAIT, 0, <long>&limit)
        if result == -ETIMEDOUT or run.cancelled:
            return fail(run, STEP_ID_MAP, -ETIMEDOUT)
    if run.mapped < 0:
        return fail(run, STEP_ID_MAP, run.mapped)
    result = drop_capabilities(run.program)   # the new namespace gave all of them
    if result < 0:
        return fail(run, STEP_CAPABILITIES, result)
    return 0


cdef int install_filter(Run *run) noexcept nogil:
    cdef unsigned long flags = 0
    cdef long result
    if run.program.needs_listener:
        flags = SECCOMP_FILTER_FLAG_NEW_LISTENER
        if run.program.wait_killable:
            flags |= SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    result = call3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, <long>&run.program.filter)
    if result < 0:
        return fail(run, STEP_FILTER, result)
    if run.program.needs_listener:
        # The table is still shared with the host: this number is the supervisor's listener.
        run.listener = <int>result
        set_stage(run, STAGE_LISTENING)
    return 0


cdef int arrange_stdio(Run *run) noexcept nogil:
    """Takes a descriptor table of our own and leaves exactly 0, 1 and 2 in it."""
    cdef int source[3]
    cdef long result
    cdef int i
    # An empty range at the end: the table is copied, nothing is closed yet (close_range(2), Linux 5.9).
    result = call3(SYS_close_range, <long>0xFFFFFFFF, <long>0xFFFFFFFF, CLOSE_RANGE_UNSHARE)
    if result < 0:
        return fail(run, STEP_DESCRIPTORS, result)
    run.alone = 1
    for i in range(3):
        source[i] = run.stdio[i]
        if 0 <= source[i] < FIRST_FREE and source[i] != i:
            result = call3(SYS_fcntl, source[i], F_DUPFD_CLOEXEC, FIRST_FREE)
            if result < 0:
                return fail(run, STEP_STDIO, result, i)
            source[i] = <int>result
    for i in range(3):
        if source[i] == i:
            result = call3(SYS_fcntl, i, F_SETFD, 0)
        else:
            result = call3(SYS_dup3, source[i], i, 0)
        if result < 0:
            return fail(run, STEP_STDIO, result, i)
    result = call3(SYS_close_range, FIRST_FREE, <long>0xFFFFFFFF, 0)
    if result < 0:
        return fail(run, STEP_DESCRIPTORS, result)
    return 0


cdef int execute(Run *run) noexcept nogil:
    """As execvp(3): the next candidate after ENOENT, ENOTDIR and EACCES; EACCES is remembered. Returns on failure."""
    cdef unsigned long long no_signals = 0
    cdef long result = -ENOENT
    cdef long remembered = 0
    cdef const char *const *candidate = run.executables
    call4(SYS_rt_sigprocmask, SIG_SETMASK, <long>&no_signals, 0, 8)
    while candidate[0] != NULL:
        result = call3(SYS_execve, <long>candidate[0], <long>run.argv, <long>run.envp)
        if result == -EACCES:
            remembered = result
        elif result != -ENOENT and result != -ENOTDIR:
            return fail(run, STEP_EXEC, result)
        candidate += 1
    return fail(run, STEP_EXEC, remembered if remembered != 0 else result)


cdef int guest_main(void *argument) noexcept nogil:
    """The guest's process up to the exec. Returns only when a step failed."""
    cdef Run *run = <Run *>argument
    run.guest = <int>call0(SYS_getpid)
    # The init's death, if somebody else brings it about, takes the program with it.
    set_prctl(PR_SET_PDEATHSIG, SIGKILL, 0)
    if run.program.map_ids and wait_for_maps(run) < 0:
        return 127
    if start_session(run) < 0 or apply_attributes(run) < 0:
        return 127
    if restrict(run, &run.program.guest, STEP_GUEST_RULESET, STEP_GUEST_RULE, STEP_GUEST_RESTRICT) < 0:
        return 127
    if install_filter(run) < 0:
        return 127
    # Confined from here on; these calls pass the filter (_extra_rules.NEEDED_BY_LAUNCH).
    if wait_for_command(run) < 0 or enter_place(run) < 0 or arrange_stdio(run) < 0:
        return 127
    execute(run)
    return 127


# The warden --------------------------------------------------------------------------------------------------------

cdef long open_init_image(Run *run) noexcept nogil:
    """A descriptor of the init's program in memory, or -errno."""
    cdef size_t written = 0
    cdef long result
    # MFD_EXEC keeps the image executable where vm.memfd_noexec is 1 (Linux 6.3); older kernels do not know it.
    cdef long fd = call2(SYS_memfd_create, <long><const char *>b"sandlock-init", MFD_CLOEXEC | MFD_EXEC)
    if fd == -EINVAL:
        fd = call2(SYS_memfd_create, <long><const char *>b"sandlock-init", MFD_CLOEXEC)
    if fd < 0:
        return fd
    while written < run.init_size:
        result = call3(SYS_write, fd, <long>(run.init_image + written), run.init_size - written)
        if result <= 0:
            return result if result < 0 else -EINVAL
        written += <size_t>result
    return fd


cdef int take_own_descriptors(Run *run) noexcept nogil:
    """A descriptor table of the warden's own: 0 is the control socket, 1 the host's pidfd. Tells the host that the
    program runs. Returns 0, or -1 with the failure recorded."""
    cdef long result = call1(SYS_unshare, CLONE_FILES)
    if result < 0:
        return fail(run, STEP_INIT, result)
    result = call3(SYS_dup3, run.control_init, 0, 0)
    if result >= 0:
        result = call3(SYS_dup3, run.host_pidfd, 1, 0)
    if result < 0:
        return fail(run, STEP_INIT, result)
    run.control_init = 0
    call1(SYS_close, 2)
    call3(SYS_close_range, FIRST_FREE, <long>0xFFFFFFFF, 0)
    # From here on the host may close its copies.
    set_stage(run, STAGE_LAUNCHED)
    send_message(run, MESSAGE_LAUNCHED)
    return 0


cdef int execute_init(Run *run, const Watch *watch) noexcept nogil:
    """Executes the run's init in the warden's place. Returns only on failure."""
    cdef char numbers[5][24]
    cdef const char *argv[7]
    cdef const char *envp[1]
    cdef long result
    cdef long long left = -1
    cdef long fd = open_init_image(run)
    if fd < 0:
        return fail(run, STEP_INIT, fd)
    if watch.deadline >= 0:
        left = watch.deadline - watch_now_ms()
        if left < 0:
            left = 0
    call3(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC)
    argv[0] = b"sandlock-init"
    argv[1] = numbers[0]
    put_number(numbers[0], run.guest)
    argv[2] = numbers[1]
    put_number(numbers[1], run.host_pid)
    argv[3] = numbers[2]
    put_number(numbers[2], left)
    argv[4] = numbers[3]
    put_number(numbers[3], run.program.signal_scope)
    argv[5] = numbers[4]
    put_number(numbers[4], run.lane)
    argv[6] = NULL
    envp[0] = NULL
    result = call5(SYS_execveat, fd, <long><const char *>b"", <long>argv, <long>envp, AT_EMPTY_PATH)
    return fail(run, STEP_INIT, result)


cdef void wait_for_exec(Run *run, int64_t deadline) noexcept nogil:
    """Waits until the guest has executed the program or has ended; or until it must be ended, for its exec may wait for
    an answer as long as a person takes, or for ever when the host is dead. (vfork(2) would wait on.)"""
    cdef Duration limit
    cdef int64_t left
    memset(&limit, 0, sizeof(limit))
    while run.guest_shares:
        left = -1 if deadline < 0 else deadline - watch_now_ms()
        limit.nanoseconds = 1000000 * (left if 0 <= left < EXEC_CHECK_MS else EXEC_CHECK_MS)
        if call4(SYS_futex, <long>&run.guest_shares, FUTEX_WAIT, 1, <long>&limit) != -ETIMEDOUT:
            continue
        # Killed before it is alone, it would leave its descriptors in the host's table.
        if host_is_gone(run) or (run.alone and 0 <= deadline <= watch_now_ms()):
            return


cdef int watch_run(Run *run, int64_t deadline) noexcept nogil:
    """The warden's second life: it watches over the run, soon as a program of its own. Returns 0 when the run has
    ended and was reported, -1 when the watch could not be kept."""
    cdef Watch watch
    memset(&watch, 0, sizeof(watch))
    if take_own_descriptors(run) < 0:
        return -1
    watch.guest = run.guest
    watch.host = run.host_pid
    watch.lane = run.lane
    watch.deadline = deadline
    # Without the signal scope, killing walks /proc, which needs more stack than the warden has.
    if run.program.signal_scope and watch_over(&watch, WARDEN_PATIENCE_MS, 1):
        return 0
    return execute_init(run, &watch)


cdef void default_signals(int handlers_cleared) noexcept nogil:
    """Resets what the host handles, so that no handler of it can run on shared memory; ignored stays ignored,
    except SIGPIPE and SIGXFSZ, which Python ignores for itself, and SIGCHLD: who ignores it cannot wait."""
    cdef KernelSigaction action
    cdef long number
    for number in range(1, LAST_SIGNAL + 1):
        if number != SIGPIPE and number != SIGXFSZ and number != SIGCHLD:
            if handlers_cleared:
                continue
            if call4(SYS_rt_sigaction, number, 0, <long>&action, 8) < 0 or <unsigned long>action.handler <= 1:
                continue
        memset(&action, 0, sizeof(action))
        call4(SYS_rt_sigaction, number, <long>&action, 0, 8)


cdef int warden_main(void *argument) noexcept nogil:
    cdef Run *run = <Run *>argument
    cdef unsigned long flags = CLONE_VM | CLONE_FILES | CLONE_CHILD_CLEARTID | <unsigned long>SIGCHLD
    cdef int64_t deadline = -1 if run.deadline_ms < 0 else watch_now_ms() + run.deadline_ms
    cdef long guest
    default_signals(run.handlers_cleared)     # the guest inherits them; everything is blocked until it executes
    set_prctl(PR_SET_NAME, <long><const char *>b"sandlock-init", 0)
    set_prctl(PR_SET_CHILD_SUBREAPER, 1, 0)
    # A group of our own: whoever kills or stops the host's whole group must not hit what ends the tree after it.
    run.host_group = <int>call1(SYS_getpgid, 0)
    call2(SYS_setpgid, 0, 0)
    if not run.program.needs_listener and enter_domain(run) < 0:
        send_failure(run)
        return 1
    if run.program.map_ids:
        flags |= CLONE_NEWUSER
    run.guest_shares = 1
    guest = raw_clone(flags, run.guest_stack + run.stack_size, &run.guest_shares, guest_main, run)
    if guest < 0:
        fail(run, STEP_CLONE_GUEST, guest)
    else:
        wait_for_exec(run, deadline)
    if run.step == 0:
        if watch_run(run, deadline) == 0:
            return 0
        # The program must not outlive a watch that failed.
        call2(SYS_kill, guest, SIGKILL)
    if guest > 0:
        call4(SYS_wait4, guest, 0, WALL, 0)
    send_failure(run)
    return 1


cdef int clone_warden(Run *run) noexcept nogil:
    """Starts the launch from the calling thread; all signals must be blocked. Returns 0, or -1 with run.error set."""
    cdef CloneArguments arguments
    cdef unsigned long flags = CLONE_VM | CLONE_FILES | CLONE_CHILD_CLEARTID
    cdef long warden
    run.warden_lives = 1
    run.handlers_cleared = 1
    memset(&arguments, 0, sizeof(arguments))
    arguments.flags = flags | CLONE_CLEAR_SIGHAND
    arguments.child_tid = <unsigned long>&run.warden_lives
    arguments.stack = <unsigned long>run.launch_stack
    arguments.stack_size = run.stack_size
    warden = raw_clone3(&arguments, warden_main, run)
    if warden == -ENOSYS or warden == -EPERM or warden == -EINVAL:    # before Linux 5.5, or a container's filter
        run.handlers_cleared = 0
        warden = raw_clone(flags, run.launch_stack + run.stack_size, &run.warden_lives, warden_main, run)
    if warden < 0:
        run.warden_lives = 0
        return fail(run, STEP_CLONE, warden)
    run.warden = <int>warden
    return 0


STEPS = {
    STEP_NO_NEW_PRIVS: "set no_new_privs",
    STEP_CAPABILITIES: "drop capabilities",
    STEP_SUPERVISOR_RULESET: "create the supervisor's Landlock ruleset",
    STEP_SUPERVISOR_RULE: "add a Landlock rule for the supervisor",
    STEP_SUPERVISOR_RESTRICT: "enter the supervisor's Landlock domain",
    STEP_CLONE: "clone the warden",
    STEP_CLONE_GUEST: "clone the program's process",
    STEP_SESSION: "start a session",
    STEP_TERMINAL: "take the controlling terminal",
    STEP_CWD: "change to the working directory",
    STEP_RLIMIT: "set a resource limit",
    STEP_AFFINITY: "set the CPU affinity",
    STEP_PERSONALITY: "set the personality",
    STEP_HUGE_PAGES: "disable transparent huge pages",
    STEP_ID_MAP: "map the user and group",
    STEP_GUEST_RULESET: "create the Landlock ruleset",
    STEP_GUEST_RULE: "add a Landlock rule",
    STEP_GUEST_RESTRICT: "enter the Landlock domain",
    STEP_FILTER: "install the seccomp filter",
    STEP_DESCRIPTORS: "close inherited descriptors",
    STEP_STDIO: "arrange stdin, stdout and stderr",
    STEP_EXEC: "execute the program",
    STEP_INIT: "execute the run's init",
}
