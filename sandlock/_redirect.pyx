"""A caller that runs another system call than the one it made: chdir becomes fchdir of a descriptor that it is given.

The caller waits for the answer to its call. It is seized (ptrace(2)), and gets a descriptor as that answer
(SECCOMP_ADDFD_FLAG_SEND); before it is back in its program it stands still, for PTRACE_INTERRUPT was asked for. There
its registers are rewritten, so that it executes its own system call instruction again, for another call; and then they
are put back, with the result that it is to see. Its signals are blocked in the meantime, or a handler could run with
our registers, and not come back.

What the kernel is told is in registers only, so nobody can rewrite it. The descriptor lies in a table that the caller's
threads share: one that puts another in its place, or closes it, does to its own process what it could do anyway.

Rules:
1. Raw system calls only, on the stack of a helper that is a process of its own: who waits here for a stop must not be
   the host, whose other threads wait for their children.
2. Whatever happens, the caller is either as it was (registers, signal mask, descriptors, no tracer), with a result, or
   dead: a helper that is killed takes its caller along (PTRACE_O_EXITKILL), and so does a call that went wrong halfway.
3. A call that the filter traps is known again by the fast lane, by task, number and all arguments (`is_redirected`).
   Nothing of it was read from memory, or what is done is attested.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset
from posix.types cimport pid_t

from sandlock._atomics cimport load_int, store_int
from sandlock._linux cimport (
    AddDescriptor, SECCOMP_IOCTL_NOTIF_ADDFD, SYS_close, SYS_fchdir, SYS_ioctl,
    SYS_openat, SYS_ptrace, SYS_sendmsg, SYS_socketpair, SYS_wait4, raw_syscall,
)
from sandlock._memory cimport read_memory, write_memory
from sandlock._opening cimport answer_errno
from sandlock._tasks cimport kill_task

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EBADF
    const int EINTR
    const int EIO
    const int EMFILE
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int O_CLOEXEC
    const int O_DIRECTORY
    const int O_RDONLY

cdef extern from "<sys/mman.h>" nogil:
    const int MAP_ANONYMOUS
    const int MAP_PRIVATE
    const int PROT_READ
    const int PROT_WRITE

cdef extern from "<sys/socket.h>" nogil:
    const int AF_UNIX
    const int MSG_CMSG_CLOEXEC
    const int MSG_DONTWAIT
    const int SCM_RIGHTS
    const int SOCK_CLOEXEC
    const int SOCK_DGRAM
    const int SOL_SOCKET

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <sys/syscall.h>
    #if defined(__x86_64__)                    /* struct user_regs_struct */
    static const unsigned char sandlock_argument_registers[6] = {14, 13, 12, 7, 9, 8};
    #define SANDLOCK_RESULT 10                 /* rax */
    #define SANDLOCK_NUMBER 10
    #define SANDLOCK_RESTART 15                /* orig_rax: -1, and the kernel restarts nothing */
    #define SANDLOCK_PROGRAM_COUNTER 16
    #define SANDLOCK_STACK_POINTER 19
    #define SANDLOCK_INSTRUCTION 2             /* syscall */
    static const unsigned char sandlock_call_instruction[2] = {0x0f, 0x05};
    #elif defined(__aarch64__)                 /* struct user_pt_regs */
    static const unsigned char sandlock_argument_registers[6] = {0, 1, 2, 3, 4, 5};
    #define SANDLOCK_RESULT 0
    #define SANDLOCK_NUMBER 8
    #define SANDLOCK_RESTART -1                /* there is no such register: a result that says restart does it */
    #define SANDLOCK_PROGRAM_COUNTER 32
    #define SANDLOCK_STACK_POINTER 31
    #define SANDLOCK_INSTRUCTION 4             /* svc #0 */
    static const unsigned char sandlock_call_instruction[4] = {0x01, 0x00, 0x00, 0xd4};
    #else
    #error "sandlock knows x86-64 and aarch64"
    #endif
    #ifndef SECCOMP_ADDFD_FLAG_SEND            /* Linux 5.14 */
    #define SECCOMP_ADDFD_FLAG_SEND (1UL << 1)
    #endif
    /* The part of struct ptrace_syscall_info (Linux 5.3) that all kernels have. */
    struct sandlock_call_info {
        uint8_t op, reserved, pad[2]; uint32_t arch; uint64_t instruction, stack; int64_t result; uint8_t is_error;
        uint64_t more[8];
    };
    struct sandlock_span { void *at; uint64_t size; };
    /* What one descriptor is sent and received with: struct msghdr and what it points to, in one piece. */
    struct sandlock_letter {
        uint64_t name; uint32_t name_length, pad; uint64_t vectors, vector_count, control, control_length;
        uint32_t flags, pad2;
        uint64_t vector_base, vector_length;
        uint64_t header_length; int32_t level, type, descriptor, pad3;
        uint64_t content;
    };
    #define SANDLOCK_LETTER_CONTROL 24         /* CMSG_SPACE(sizeof(int)) */
    #define SANDLOCK_LETTER_HEADER 20          /* CMSG_LEN(sizeof(int)) */
    """
    const uint8_t *ARGUMENTS "sandlock_argument_registers"
    const int RESULT "SANDLOCK_RESULT"
    const int NUMBER "SANDLOCK_NUMBER"
    const int RESTART "SANDLOCK_RESTART"
    const int PROGRAM_COUNTER "SANDLOCK_PROGRAM_COUNTER"
    const int STACK_POINTER "SANDLOCK_STACK_POINTER"
    const int INSTRUCTION "SANDLOCK_INSTRUCTION"
    const uint8_t *CALL_INSTRUCTION "sandlock_call_instruction"
    const uint32_t SECCOMP_ADDFD_FLAG_SEND
    const uint64_t LETTER_CONTROL "SANDLOCK_LETTER_CONTROL"
    const uint64_t LETTER_HEADER "SANDLOCK_LETTER_HEADER"
    const long SYS_mmap
    const long SYS_munmap
    const long SYS_recvmsg
    ctypedef struct CallInfo "struct sandlock_call_info":
        uint8_t op
        uint64_t instruction
        int64_t result
    ctypedef struct Span "struct sandlock_span":
        void *at
        uint64_t size
    ctypedef struct Letter "struct sandlock_letter":
        uint64_t vectors
        uint64_t vector_count
        uint64_t control
        uint64_t control_length
        uint64_t vector_base
        uint64_t vector_length
        uint64_t header_length
        int32_t level
        int32_t type
        int32_t descriptor
        uint64_t content

cdef enum:
    PTRACE_DETACH = 17
    PTRACE_SYSCALL = 24
    PTRACE_GETREGSET = 0x4204
    PTRACE_SETREGSET = 0x4205
    PTRACE_SEIZE = 0x4206
    PTRACE_INTERRUPT = 0x4207
    PTRACE_GETSIGMASK = 0x420A
    PTRACE_SETSIGMASK = 0x420B
    PTRACE_GET_SYSCALL_INFO = 0x420E
    PTRACE_O_TRACESYSGOOD = 1
    PTRACE_O_EXITKILL = 0x100000
    PTRACE_EVENT_EXEC = 4
    SYSCALL_INFO_EXIT = 2
    NT_PRSTATUS = 1
    SIGTRAP = 5
    WALL = 0x40000000
    WNOTHREAD = 0x20000000
    PAGE = 4096
    VDSO_PAGES = 4
    ERESTART_FIRST = 512     # linux/errno.h: ERESTARTSYS
    ERESTART_LAST = 516

cdef inline long trace(long request, pid_t tid, uint64_t address, uint64_t data) noexcept nogil:
    return raw_syscall(SYS_ptrace, request, tid, <long>address, <long>data, 0, 0)


# Knowing it again ----------------------------------------------------------------------------------------------------

cdef void announce(Redirect *redirect, pid_t tid, long number, const uint64_t *args) noexcept nogil:
    store_int(&redirect.tid, 0)
    redirect.number = <int>number
    memcpy(redirect.args, args, sizeof(redirect.args))
    store_int(&redirect.tid, tid)


cdef void forget_redirect(Redirect *redirect) noexcept nogil:
    """That call is over."""
    store_int(&redirect.tid, 0)


cdef int is_redirected(const Redirect *redirect, const Notification *notification) noexcept nogil:
    """By the fast lane: whether this call is the one that a helper has the task run. The helper must be alive."""
    cdef int i
    if load_int(&redirect.tid) != <int>notification.pid or redirect.number != notification.data.nr:
        return 0
    for i in range(6):
        if redirect.args[i] != notification.data.args[i]:
            return 0
    return 1


# Stops ---------------------------------------------------------------------------------------------------------------

cdef int sort_stop(int status) noexcept nogil:
    """What a status of wait4(2) says: an enum Stop, or the signal of a signal-delivery-stop."""
    if (status & 0xFF) != 0x7F:
        return STOP_GONE
    if (status >> 8) & 0xFF == (SIGTRAP | 0x80):
        return STOP_CALL
    if status >> 16 == PTRACE_EVENT_EXEC:
        return STOP_EXEC
    if status >> 16 != 0:
        return STOP_OTHER
    return (status >> 8) & 0xFF


cdef int wait_for_stop(pid_t tid) noexcept nogil:
    cdef int status = 0
    cdef long result = -EINTR
    while result == -EINTR:
        result = raw_syscall(SYS_wait4, tid, <long>&status, WALL | WNOTHREAD, 0, 0, 0)
    return STOP_GONE if result < 0 else sort_stop(status)


cdef long lose(Borrowed *task) noexcept nogil:
    """What cannot be put back does not go on. Returns LOST, when the task is gone."""
    kill_task(task.tid)
    while wait_for_stop(task.tid) != STOP_GONE:
        pass
    forget_redirect(task.redirect)
    return LOST


# Registers -----------------------------------------------------------------------------------------------------------

cdef uint64_t stack_of(const Borrowed *task) noexcept nogil:
    return task.registers[STACK_POINTER]


cdef int set_stack(Borrowed *task, uint64_t stack) noexcept nogil:
    """Has the task go on with this stack pointer. Returns 0 or -errno."""
    task.registers[STACK_POINTER] = stack
    return set_registers(task, task.registers)


cdef uint64_t find_instruction(pid_t tid, uint64_t code) noexcept nogil:
    """Where in the pages from an address on (the vDSO) an instruction is that makes a system call; 0: nowhere."""
    cdef uint8_t page[PAGE]
    cdef int number, i
    for number in range(VDSO_PAGES):
        if read_memory(tid, code + <uint64_t>number * PAGE, page, PAGE) < 0:
            return 0
        i = 0
        while i + INSTRUCTION <= PAGE:
            if memcmp(page + i, CALL_INSTRUCTION, INSTRUCTION) == 0:
                return code + <uint64_t>number * PAGE + <uint64_t>i
            i += 4 if INSTRUCTION == 4 else 1
    return 0


cdef long result_of(Borrowed *task) noexcept nogil:
    """At the end of a call: its result, or LOST."""
    cdef CallInfo info
    cdef long result = trace(PTRACE_GET_SYSCALL_INFO, task.tid, sizeof(info), <uint64_t>&info)
    return info.result if result >= 0 else lose(task)


cdef int keep_registers(Borrowed *task) noexcept nogil:
    """Notes the registers of a task that stands still, and blocks its signals. Returns 0 or -errno."""
    cdef uint64_t every = ~<uint64_t>0
    cdef Span span
    cdef long result
    span.at = task.registers
    span.size = sizeof(task.registers)
    result = trace(PTRACE_GETREGSET, task.tid, NT_PRSTATUS, <uint64_t>&span)
    if result < 0:
        return <int>result
    if span.size <= PROGRAM_COUNTER * 8:       # another word size
        return -EIO
    task.size = span.size
    if task.sets_mask:
        return 0
    result = trace(PTRACE_GETSIGMASK, task.tid, 8, <uint64_t>&task.mask)
    if result == 0:
        task.sets_mask = 1
        result = trace(PTRACE_SETSIGMASK, task.tid, 8, <uint64_t>&every)
    return <int>result


cdef int set_registers(Borrowed *task, uint64_t *registers) noexcept nogil:
    cdef Span span
    span.at = registers
    span.size = task.size
    return <int>trace(PTRACE_SETREGSET, task.tid, NT_PRSTATUS, <uint64_t>&span)


cdef int aim(
    Borrowed *task, uint64_t instruction, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f
) noexcept nogil:
    """Has the task, when it goes on, make this call with the instruction at an address (0: its own). Returns 0 or
    -errno."""
    cdef uint64_t registers[MAX_REGISTERS]
    cdef uint64_t args[6]
    cdef int i
    args[0], args[1], args[2], args[3], args[4], args[5] = a, b, c, d, e, f
    memcpy(registers, task.registers, sizeof(registers))
    registers[PROGRAM_COUNTER] = instruction if instruction != 0 else task.registers[PROGRAM_COUNTER] - INSTRUCTION
    if RESTART >= 0:
        registers[RESTART] = ~<uint64_t>0
    registers[NUMBER] = <uint64_t>number
    for i in range(6):
        registers[ARGUMENTS[i]] = args[i]
    announce(task.redirect, task.tid, number, args)
    return set_registers(task, registers)


cdef int aim_again(Borrowed *task, uint64_t instruction) noexcept nogil:
    """The same call once more. Returns 0 or -errno."""
    cdef uint64_t args[6]
    memcpy(args, task.redirect.args, sizeof(args))
    return aim(task, instruction, task.redirect.number, args[0], args[1], args[2], args[3], args[4], args[5])


cdef uint64_t behind(const Borrowed *task, uint64_t instruction) noexcept nogil:
    """Where the task is after a call with the instruction at an address (0: its own)."""
    return task.registers[PROGRAM_COUNTER] if instruction == 0 else instruction + INSTRUCTION


cdef int resume(Borrowed *task, int signal) noexcept nogil:
    """Lets the task go on to the entry or end of its next call. Returns 0 or -errno."""
    return <int>trace(PTRACE_SYSCALL, task.tid, 0, <uint64_t>signal if signal > 0 else 0)


# Calls ---------------------------------------------------------------------------------------------------------------

cdef int go_to_call(Borrowed *task) noexcept nogil:
    """Lets the task go on to the entry, or the end, of a system call. Returns 0 or LOST."""
    cdef int stop = STOP_OTHER
    while stop != STOP_CALL:
        # A signal that nobody can block (SIGSTOP) is passed on, and a group stop is gone through: the kernel stops the
        # task again when it is let go, if its process is still stopped then.
        if resume(task, stop) < 0:
            return <int>lose(task)
        stop = wait_for_stop(task.tid)
        if stop == STOP_GONE:
            forget_redirect(task.redirect)
            return LOST
    return 0


cdef int is_interrupted(long result) noexcept nogil:
    """A call that a signal has interrupted, before it had any effect, and that the kernel would make again by itself:
    one that the filter traps, as long as it was not received, by a SIGSTOP."""
    return -ERESTART_LAST <= result <= -ERESTART_FIRST


cdef long finish_call(Borrowed *task, uint64_t instruction) noexcept nogil:
    """Waits for the end of the call that `aim` has prepared. Returns its result, or LOST."""
    cdef CallInfo info
    while True:
        if go_to_call(task) == LOST or go_to_call(task) == LOST:       # its entry, and its end
            return LOST
        if trace(PTRACE_GET_SYSCALL_INFO, task.tid, sizeof(info), <uint64_t>&info) < 0:
            return lose(task)
        # The instruction was no system call, for somebody has rewritten it: that call may be any.
        if info.op != SYSCALL_INFO_EXIT or info.instruction != behind(task, instruction):
            return lose(task)
        if not is_interrupted(info.result):
            forget_redirect(task.redirect)
            return info.result
        if aim_again(task, instruction) < 0:
            return lose(task)


cdef long run6(
    Borrowed *task, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f
) noexcept nogil:
    if aim(task, 0, number, a, b, c, d, e, f) < 0:
        return lose(task)
    return finish_call(task, 0)


cdef long run_call(Borrowed *task, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil:
    """Has the task make this call. Returns its result, or LOST."""
    return run6(task, number, a, b, c, d, 0, 0)


# Borrowing, and giving back ------------------------------------------------------------------------------------------

cdef int release_task(Borrowed *task) noexcept nogil:
    """Lets go of a task that stands still, with the registers that it has. Returns 0, or LOST."""
    forget_redirect(task.redirect)
    if task.sets_mask and trace(PTRACE_SETSIGMASK, task.tid, 8, <uint64_t>&task.mask) < 0:
        return <int>lose(task)
    if trace(PTRACE_DETACH, task.tid, 0, 0) < 0:
        return <int>lose(task)
    return 0


cdef void give_back_task(Borrowed *task, long result) noexcept nogil:
    """Lets go of a task as it was, with the result of the call that it made."""
    task.registers[RESULT] = <uint64_t>result
    if set_registers(task, task.registers) < 0:
        lose(task)
    else:
        release_task(task)


cdef int borrow(
    Redirect *redirect, int listener, uint64_t id, pid_t tid, long given, long options, Borrowed *task
) noexcept nogil:
    """Gives the caller a descriptor and has it stand still, its call over. Returns 0; 1 if it has an answer (or is
    gone) and nothing is to be done any more; -errno if nothing happened, and it still waits for an answer."""
    cdef AddDescriptor add
    cdef long number = -EINTR
    cdef int stop, result
    memset(task, 0, sizeof(Borrowed))
    memset(&add, 0, sizeof(add))
    task.redirect = redirect
    task.tid = tid
    result = <int>trace(PTRACE_SEIZE, tid, 0, <uint64_t>options | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
    if result < 0:
        return result
    trace(PTRACE_INTERRUPT, tid, 0, 0)         # fails only for who is gone
    add.id = id
    add.flags = SECCOMP_ADDFD_FLAG_SEND
    add.srcfd = <uint32_t>given
    add.newfd_flags = O_CLOEXEC
    while number == -EINTR:
        number = raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_ADDFD, <long>&add, 0, 0, 0)
    if number < 0 and number != -ENOENT:
        answer_errno(listener, id, -EMFILE if number == -EMFILE else -EACCES)
    stop = wait_for_stop(tid)
    if stop == STOP_GONE:
        return 1
    if number < 0:
        release_task(task)
        return 1
    task.descriptor = number
    if keep_registers(task) < 0:
        lose(task)
        return 1
    return 0


# chdir ---------------------------------------------------------------------------------------------------------------

cdef void address_letter(Letter *letter, uint64_t at, int descriptor) noexcept nogil:
    """A message with one descriptor, as it lies at an address."""
    cdef Letter *there = <Letter *>at
    memset(letter, 0, sizeof(Letter))
    letter.vectors = <uint64_t>&there.vector_base
    letter.vector_count = 1
    letter.vector_base = <uint64_t>&there.content
    letter.vector_length = 1
    letter.control = <uint64_t>&there.header_length
    letter.control_length = LETTER_CONTROL
    letter.header_length = LETTER_HEADER
    letter.level = SOL_SOCKET
    letter.type = SCM_RIGHTS
    letter.descriptor = descriptor


cdef int open_letter_box(long descriptor, int *pair) noexcept nogil:
    """A socket in which a message with this descriptor lies, which may be one that opens nothing (O_PATH): `pair[1]`.
    Returns 0 or -errno."""
    cdef Letter letter
    cdef long result = raw_syscall(SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, <long>pair, 0, 0)
    if result < 0:
        return <int>result
    address_letter(&letter, <uint64_t>&letter, <int>descriptor)
    result = raw_syscall(SYS_sendmsg, pair[0], <long>&letter, MSG_DONTWAIT, 0, 0, 0)
    raw_syscall(SYS_close, pair[0], 0, 0, 0, 0, 0)
    if result < 0:
        raw_syscall(SYS_close, pair[1], 0, 0, 0, 0, 0)
    return 0 if result >= 0 else <int>result


cdef long read_letter(Borrowed *task, uint64_t page) noexcept nogil:
    """Has the task receive the descriptor that lies in its socket, with the help of a page of its own. Returns the
    descriptor, -errno or LOST."""
    cdef Letter letter
    cdef long result
    address_letter(&letter, page, -1)
    if write_memory(task.tid, page, &letter, sizeof(letter)) < 0:
        return -EACCES
    result = run_call(task, SYS_recvmsg, <uint64_t>task.descriptor, page, MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0)
    if result < 0:
        return result
    if read_memory(task.tid, page, &letter, sizeof(letter)) < 0 or letter.header_length != LETTER_HEADER:
        return -EMFILE                         # where there is no room for it, it is dropped
    return letter.descriptor if letter.descriptor >= 0 else -EBADF


cdef long enter(Borrowed *task, long descriptor) noexcept nogil:
    """fchdir, and the descriptor is gone again."""
    cdef long result = run_call(task, SYS_fchdir, <uint64_t>descriptor, 0, 0, 0)
    if result == LOST or run_call(task, SYS_close, <uint64_t>descriptor, 0, 0, 0) == LOST:
        return LOST
    return result


cdef long enter_unopened(Borrowed *task) noexcept nogil:
    """fchdir to what lies in the task's socket, and both are gone again. Returns the result of fchdir, or LOST."""
    cdef long result, mapped = run6(
        task, SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~<uint64_t>0, 0
    )
    if mapped == LOST:
        return LOST
    result = mapped
    if mapped >= 0 or mapped < -PAGE:
        result = read_letter(task, <uint64_t>mapped)
        if result >= 0:
            result = enter(task, result)
        if result == LOST or run_call(task, SYS_munmap, <uint64_t>mapped, PAGE, 0, 0) == LOST:
            return LOST
    if run_call(task, SYS_close, <uint64_t>task.descriptor, 0, 0, 0) == LOST:
        return LOST
    return result


cdef int change_with(
    Redirect *redirect, int listener, uint64_t id, pid_t tid, long given, int unopened
) noexcept nogil:
    """As `change_directory`, with the open directory, or with the socket that it lies in."""
    cdef Borrowed task
    cdef long outcome
    cdef int result = borrow(redirect, listener, id, tid, given, 0, &task)
    if result != 0:
        return 0 if result > 0 else result
    outcome = enter_unopened(&task) if unopened else enter(&task, task.descriptor)
    if outcome != LOST:
        give_back_task(&task, outcome)
    return 0


cdef int change_unopened(Redirect *redirect, int listener, uint64_t id, pid_t tid, long directory) noexcept nogil:
    cdef int pair[2]
    cdef int result = open_letter_box(directory, pair)
    if result < 0:
        return result
    result = change_with(redirect, listener, id, tid, pair[1], 1)
    raw_syscall(SYS_close, pair[1], 0, 0, 0, 0, 0)
    return result


cdef int change_directory(
    Redirect *redirect, int listener, uint64_t id, pid_t tid, long directory
) noexcept nogil:
    """Changes the caller's working directory to one that we have as a descriptor, also as O_PATH. Returns 0 when the
    caller has its answer, or is gone; -errno when it still waits for one. `redirect`: this helper's own."""
    cdef int result
    # Only what is open can be given as an answer, and for that it must be readable, also to Landlock.
    cdef long opened = raw_syscall(
        SYS_openat, directory, <long><const char *>b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0, 0
    )
    if opened == -EACCES:
        return change_unopened(redirect, listener, id, tid, directory)
    if opened < 0:
        return <int>opened
    result = change_with(redirect, listener, id, tid, opened, 0)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return result


# The Python face, for tests ------------------------------------------------------------------------------------------

cdef Redirect announced


def lead(int listener, uint64_t id, pid_t tid, int directory, bint unopened=False) -> int:
    """`change_directory` for who waits with this notification, by the thread that calls this. Returns 0 or -errno.
    `unopened`: as if the directory could not be opened."""
    cdef int result
    with nogil:
        if unopened:
            result = change_unopened(&announced, listener, id, tid, directory)
        else:
            result = change_directory(&announced, listener, id, tid, directory)
    return result


def expects(bytes notification) -> bool:
    """Whether this is a call that `lead` has a task make."""
    cdef const char *start = notification
    return is_redirected(&announced, <const Notification *>start) != 0
