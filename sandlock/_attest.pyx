"""An approved exec: freeze who could rewrite it, let the kernel do it, and attest that it did what was approved.

The kernel reads path and arguments again after the answer, so the answer alone decides nothing (law 2). The caller is
seized first; its exec stops before the first instruction of the new program, and there what was really loaded is
compared with what was approved. A mismatch is killed where it stands. Attestation is what the decision rests on;
freezing the caller's threads turns most races into a plain denial, before anything has happened.

Rules:
1. Raw system calls on the caller's stack only: a worker shares the memory of a live host.
2. Whatever fails, nobody stays frozen. What cannot be released here is released by the kernel when this task, the
   tracer, ends: then `run_attested` says so.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, strlen
from posix.types cimport pid_t

from sandlock._exec_paths cimport judge_loaded, judge_program, judges_programs
from sandlock._journal cimport pass_gate
from sandlock._linux cimport (
    Duration, SECCOMP_USER_NOTIF_FLAG_CONTINUE, SYS_close, SYS_execveat, SYS_kill, SYS_nanosleep, SYS_ptrace, SYS_wait4,
    raw_syscall,
)
from sandlock._memory cimport read_memory
from sandlock._new_image cimport Image, close_image, dress, judge_image, open_image
from sandlock._programs cimport Viewer, identify, identify_path, open_named, same_file
from sandlock._redirect cimport (
    LOST, STOP_CALL, Borrowed, Redirect, aim, aim_again, borrow, forget_redirect, give_back_task, is_interrupted, lose,
    result_of, resume, run_call, sort_stop,
)
from sandlock._slots cimport (
    ACT_DENY, CAUSE_ATTEST, CAUSE_AUDIT, CAUSE_CHANGED, CAUSE_NONE, CAUSE_NO_TRACE, CAUSE_VERDICT, FileIdentity,
    answer, argv_of, finish, load_paths, note_executed, note_slot, permit_slot, record_slot, viewer_of, was_written,
)
from sandlock._tasks cimport format_proc_path, is_single_threaded, kill_task, list_tasks, now_ns

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINTR
    const int ENOENT
    const int ESRCH
    const int ESTALE

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from "<signal.h>" nogil:
    const int SIGKILL

cdef enum:
    AT_EMPTY_PATH = 0x1000
    REFUSED = 2
    PTRACE_DETACH = 17
    PTRACE_GETREGSET = 0x4204
    PTRACE_SEIZE = 0x4206
    PTRACE_INTERRUPT = 0x4207
    PTRACE_O_TRACEEXEC = 0x10
    PTRACE_O_EXITKILL = 0x100000
    PTRACE_EVENT_EXEC = 4
    NT_PRSTATUS = 1
    WNOHANG = 1
    WALL = 0x40000000
    WNOTHREAD = 0x20000000
    BLOCK = 4096
    POINTERS = 64
    REGISTERS = 64
    MAX_FROZEN = 256
    FREEZE_LOOKS = 40        # of 50 us: threads that sleep in the kernel longer than that write no memory of their own
    LOOK_NS = 50000

cdef extern from * nogil:
    """
    #if defined(__x86_64__)
    #define SANDLOCK_STACK_POINTER 19          /* rsp in struct user_regs_struct */
    #elif defined(__aarch64__)
    #define SANDLOCK_STACK_POINTER 31          /* sp in struct user_pt_regs */
    #else
    #error "sandlock knows x86-64 and aarch64"
    #endif
    struct sandlock_registers { void *at; unsigned long size; };
    """
    const int STACK_POINTER "SANDLOCK_STACK_POINTER"
    ctypedef struct Registers "struct sandlock_registers":
        void *at
        unsigned long size

# An exec under way.
cdef struct Stage:
    int in_root              # the caller was made to execute a descriptor, see _redirect
    int calls                # then: whether it has begun to, and has failed
    Borrowed task
    Image image

cdef struct Frozen:
    int count
    pid_t tids[MAX_FROZEN]
    int stopped[MAX_FROZEN]


cdef inline long trace(long request, pid_t tid, long data) noexcept nogil:
    return raw_syscall(SYS_ptrace, request, tid, 0, data, 0, 0)


cdef void refuse(Table *table, Slot *slot, int cause, int error) noexcept nogil:
    """Denies the call, says why, and gives the slot back."""
    # Written down first: who gets the answer may be the first to look. Python keeps its own verdicts, with reasons.
    if cause == CAUSE_VERDICT:
        record_slot(table, slot, ACT_DENY, cause, error)
    elif cause != CAUSE_NONE:
        note_slot(table, slot, cause, error)
    answer(table, slot, error, 0)
    finish(table, slot)


# Freezing ------------------------------------------------------------------------------------------------------------

cdef int place_of(const Frozen *frozen, pid_t tid) noexcept nogil:
    cdef int i
    for i in range(frozen.count):
        if frozen.tids[i] == tid:
            return i
    return -1


cdef int seize_siblings(const Slot *slot, Frozen *frozen) noexcept nogil:
    """Seizes the threads of the caller's process that are not seized yet. Returns how many there were."""
    cdef pid_t tids[MAX_FROZEN]
    cdef int count, new = 0, i
    if slot.tid == slot.tgid and is_single_threaded(slot.tgid):
        return 0
    count = list_tasks(slot.tgid, tids, MAX_FROZEN)
    for i in range(count):
        if tids[i] == slot.tid or frozen.count == MAX_FROZEN or place_of(frozen, tids[i]) >= 0:
            continue
        if trace(PTRACE_SEIZE, tids[i], 0) < 0:
            continue
        trace(PTRACE_INTERRUPT, tids[i], 0)
        frozen.tids[frozen.count] = tids[i]
        frozen.stopped[frozen.count] = 0
        frozen.count += 1
        new += 1
    return new


cdef int wait_until_stopped(Frozen *frozen) noexcept nogil:
    """Waits a moment for the seized threads to stop. Returns how many did not."""
    cdef Duration pause
    cdef int status = 0, running = 0, _look, i
    cdef long tid
    pause.seconds = 0
    pause.nanoseconds = LOOK_NS
    for _look in range(FREEZE_LOOKS):
        while True:
            tid = raw_syscall(SYS_wait4, -1, <long>&status, WNOHANG | WALL | WNOTHREAD, 0, 0, 0)
            if tid <= 0:
                break
            i = place_of(frozen, <pid_t>tid)
            if i >= 0:
                take_stop(frozen, i, status)
        running = 0
        for i in range(frozen.count):
            running += not frozen.stopped[i]
        if running == 0:
            break
        raw_syscall(SYS_nanosleep, <long>&pause, 0, 0, 0, 0, 0)
    return running


cdef void take_stop(Frozen *frozen, int i, int status) noexcept nogil:
    """A seized thread has stopped, or ended."""
    if (status & 0xFF) == 0x7F:
        frozen.stopped[i] = 1
    else:
        frozen.count -= 1
        frozen.tids[i] = frozen.tids[frozen.count]
        frozen.stopped[i] = frozen.stopped[frozen.count]


cdef void freeze_siblings(const Slot *slot, Frozen *frozen) noexcept nogil:
    cdef int _round
    for _round in range(3):      # a thread may have started another one before it stopped
        if seize_siblings(slot, frozen) == 0:
            return
        wait_until_stopped(frozen)


cdef int release(Frozen *frozen) noexcept nogil:
    """Lets the frozen threads go on. Returns how many could not be let go: the end of this task does that."""
    cdef int stuck = 0, i
    for i in range(frozen.count):
        if trace(PTRACE_DETACH, frozen.tids[i], 0) < 0:
            stuck += 1
    return stuck


# Comparing -----------------------------------------------------------------------------------------------------------

cdef int reads_as(pid_t tid, uint64_t address, const char *expected, size_t length) noexcept nogil:
    """Whether a task's memory holds exactly these bytes."""
    cdef char block[BLOCK]
    cdef size_t done = 0, room
    while done < length:
        room = length - done
        if room > BLOCK:
            room = BLOCK
        if read_memory(tid, address + done, block, room) < 0 or memcmp(block, expected + done, room) != 0:
            return 0
        done += room
    return 1


cdef int array_reads_as(pid_t tid, uint64_t array, const char *expected, int count) noexcept nogil:
    """Whether an argv of a task holds exactly these words, each with its NUL."""
    cdef uint64_t pointer = 0
    cdef size_t length
    cdef int i
    for i in range(count):
        length = strlen(expected) + 1
        if read_memory(tid, array + <uint64_t>i * 8, &pointer, 8) < 0 or pointer == 0:
            return 0
        if not reads_as(tid, pointer, expected, length):
            return 0
        expected += length
    return read_memory(tid, array + <uint64_t>count * 8, &pointer, 8) == 8 and pointer == 0


cdef int names_the_same(const Table *table, const Slot *slot, pid_t tid) noexcept nogil:
    """Whether the path still leads to the file that was approved."""
    cdef FileIdentity now
    cdef Viewer viewer
    cdef int mode
    cdef long opened
    viewer_of(table, slot, &viewer)
    viewer.tid = tid
    opened = open_named(&viewer, slot.directory, slot.data, slot.flags)
    if opened < 0:
        return 0
    mode = identify(opened, &now)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return mode >= 0 and same_file(&now, &slot.named)


cdef int is_unchanged(const Table *table, const Slot *slot) noexcept nogil:
    """Whether the call still says what was approved. Worth asking when time has passed, or now that all is frozen."""
    if slot.argv_address != 0 and not slot.argv_empty:
        if not array_reads_as(slot.tid, slot.argv_address, argv_of(slot), slot.argv_count):
            return 0
    return reads_as(slot.tid, slot.path_address, slot.data, slot.path_length) and names_the_same(table, slot, slot.tid)


cdef const FileIdentity *what_is_loaded(const Slot *slot, int in_root) noexcept nogil:
    """The file that the kernel is to load: in a virtual root the loader, which we found."""
    return &slot.loader if in_root and slot.has_loader else &slot.loaded


cdef int loaded_as_approved(const Table *table, const Slot *slot, pid_t pid) noexcept nogil:
    """At the exec stop: whether the kernel loaded the approved file with the approved words, and variables. execve(2),
    the new stack: argc at its top, then the pointers; the strings lie one after the other."""
    cdef uint64_t registers[REGISTERS]
    cdef uint64_t head[2]
    cdef Registers span
    cdef char path[64]
    cdef FileIdentity now
    cdef int in_root = table.run.virtual_root != NULL
    cdef const char *words = argv_of(slot)
    cdef size_t length = slot.argv_length
    cdef uint64_t count = <uint64_t>slot.argv_count
    cdef uint64_t at, end = 1
    cdef size_t skipped
    format_proc_path(path, pid, b"exe")
    if identify_path(path, &now) < 0 or not same_file(&now, what_is_loaded(slot, in_root)):
        return 0
    span.at = registers
    span.size = sizeof(registers)
    if raw_syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_PRSTATUS, <long>&span, 0, 0) < 0:
        return 0
    if span.size <= STACK_POINTER * 8:      # another word size
        return 0
    if read_memory(pid, registers[STACK_POINTER], head, sizeof(head)) < 0:
        return 0
    if slot.prefix_count > 0 and not (in_root and slot.directory != AT_FDCWD and slot.data[0] != 47):
        if not names_the_same(table, slot, pid):   # which script the interpreter was started for
            return 0
    if slot.prefix_count > 0 and not in_root:      # there we tell it ourselves
        if not reads_as(pid, head[1], words - slot.prefix_length, slot.prefix_length):
            return 0
        skipped = strlen(words) + 1
        words += skipped
        length -= skipped
        count += <uint64_t>slot.prefix_count - 1
        head[1] += slot.prefix_length
    if head[0] != count or not reads_as(pid, head[1], words, length):
        return 0
    if slot.environment_count < 0:
        return 1
    # Behind the words lie the variables, and behind the pointers to the words, with a NULL, those to the variables.
    at = registers[STACK_POINTER] + (count + 2 + <uint64_t>slot.environment_count) * 8
    if read_memory(pid, at, &end, sizeof(end)) < 0 or end != 0:
        return 0
    return reads_as(pid, head[1] + length, slot.environment, slot.environment_length)


# The exec ------------------------------------------------------------------------------------------------------------

cdef void kill_loaded(Table *table, Slot *slot, pid_t pid, int cause) noexcept nogil:
    """A program stands at its first instruction that may not run: it does not execute it."""
    cdef int status = 0
    cdef long result
    note_slot(table, slot, cause, 0)
    raw_syscall(SYS_kill, pid, SIGKILL, 0, 0, 0, 0)
    while True:
        result = raw_syscall(SYS_wait4, pid, <long>&status, WALL | WNOTHREAD, 0, 0, 0)
        if (result < 0 and result != -EINTR) or (result == pid and (status & 0xFF) != 0x7F):
            return


cdef int start_in_root(Table *table, Slot *slot, Redirect *redirect, Stage *stage) noexcept nogil:
    """In a virtual root: has the caller execute the loader of what was approved, by descriptor. Returns 0; 1 if its
    call is over, REFUSED if the slot is, too; or -errno, and it waits for an answer."""
    cdef Image *image = &stage.image
    cdef int cause, result = open_image(table, slot, image)
    if result < 0:
        return result
    cause = judge_image(table, slot, image, &slot.rule)
    if cause != CAUSE_NONE:
        refuse(table, slot, cause, EACCES)
        return REFUSED
    result = borrow(
        redirect, table.run.listener, slot.id, slot.tid, image.loader if image.loader >= 0 else image.program,
        PTRACE_O_TRACEEXEC, &stage.task
    )
    if result == 0:
        # The path of this call is empty: the end of the one that it gave. Whatever is there by now, it is attested what
        # was loaded.
        result = aim(
            &stage.task, 0, SYS_execveat, <uint64_t>stage.task.descriptor, slot.path_address + slot.path_length - 1,
            slot.argv_address, slot.envp_address, AT_EMPTY_PATH, 0
        )
        if result < 0 or resume(&stage.task, 0) < 0:
            lose(&stage.task)
            result = 1
    return result


cdef int is_over(Table *table, Slot *slot, Stage *stage, int status) noexcept nogil:
    """A stop of the caller's in its redirected exec: whether that has failed, and the caller was let go."""
    cdef int stop = sort_stop(status)
    cdef long error
    stage.calls += stop == STOP_CALL
    if stage.calls < 2:          # 1: it is about to make the call
        resume(&stage.task, stop)
        return 0
    error = result_of(&stage.task)
    if is_interrupted(error):
        stage.calls = 0
        if aim_again(&stage.task, 0) < 0 or resume(&stage.task, 0) < 0:
            lose(&stage.task)
            return 1
        return 0
    permit_slot(table, slot)
    if error != LOST and run_call(&stage.task, SYS_close, <uint64_t>stage.task.descriptor, 0, 0, 0) != LOST:
        give_back_task(&stage.task, error)
    return 1


cdef void let_run(Table *table, Slot *slot, Stage *stage, pid_t pid) noexcept nogil:
    """What was loaded is what was approved."""
    cdef int result
    if not stage.in_root:
        trace(PTRACE_DETACH, pid, 0)
        return
    result = dress(table, slot, &stage.image, &stage.task)
    if result < 0 and result != LOST:
        kill_loaded(table, slot, pid, CAUSE_ATTEST)


cdef void follow(Table *table, Slot *slot, Frozen *frozen, Stage *stage) noexcept nogil:
    """Waits until the caller has executed, failed to, or ended; siblings that die for the exec are reaped, or it
    would wait for ever (ptrace(2), execve under ptrace)."""
    cdef int status = 0, cause, i
    cdef long tid
    while True:
        tid = raw_syscall(SYS_wait4, -1, <long>&status, WALL | WNOTHREAD, 0, 0, 0)
        if tid == -EINTR:
            continue
        if tid < 0:
            return
        if (status & 0xFF) == 0x7F and status >> 16 == PTRACE_EVENT_EXEC:
            # All other threads are gone, and the caller has the number of its process.
            frozen.count = 0
            if stage.in_root:
                stage.task.tid = <pid_t>tid
                forget_redirect(stage.task.redirect)
            note_executed(table, slot)
            # Now that it is loaded nobody can open it for writing: who did before has closed it, and was seen.
            cause = CAUSE_NONE
            if was_written(table, slot) or not loaded_as_approved(table, slot, <pid_t>tid):
                cause = CAUSE_ATTEST
            elif judges_programs(load_paths(&table.paths)):
                cause = judge_loaded(load_paths(&table.paths), <pid_t>tid, &slot.rule)
            if cause != CAUSE_NONE:
                kill_loaded(table, slot, <pid_t>tid, cause)
            elif not permit_slot(table, slot):
                kill_loaded(table, slot, <pid_t>tid, CAUSE_AUDIT)
            else:
                let_run(table, slot, stage, <pid_t>tid)
            return
        if tid == slot.tid and stage.in_root and (status & 0xFF) == 0x7F:
            if is_over(table, slot, stage, status):
                return
            continue
        if tid == slot.tid:
            if (status & 0xFF) == 0x7F:
                permit_slot(table, slot)               # it was allowed, whatever the kernel said of it
                trace(PTRACE_DETACH, <pid_t>tid, 0)    # the exec failed, and the caller is back
            return
        i = place_of(frozen, <pid_t>tid)
        if i >= 0:
            take_stop(frozen, i, status)


cdef int seize_caller(const Slot *slot) noexcept nogil:
    """Returns 0 or -errno. The stop that is asked for here comes after the exec, should that fail."""
    cdef long result = trace(PTRACE_SEIZE, slot.tid, PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)
    if result == 0:
        trace(PTRACE_INTERRUPT, slot.tid, 0)      # fails only for who is gone, which `follow` sees
    return <int>result


cdef int start_exec(Table *table, Slot *slot, Redirect *redirect, Stage *stage) noexcept nogil:
    """Seizes the caller and lets it execute. Returns 0, or 1 if its call is over."""
    cdef int result
    stage.in_root = table.run.virtual_root != NULL
    stage.calls = 0
    stage.image.program = stage.image.loader = -1
    if stage.in_root:
        if table.journal != NULL:
            slot.decided_ns = now_ns()
        result = start_in_root(table, slot, redirect, stage)
    else:
        result = seize_caller(slot)
    if result == -ESTALE or result == -ENOENT:
        refuse(table, slot, CAUSE_CHANGED, EACCES)
    elif result < 0:
        refuse(table, slot, CAUSE_NONE if result == -ESRCH else CAUSE_NO_TRACE, EACCES)     # gone, or not allowed
    elif result > 0 and result != REFUSED:
        finish(table, slot)
    if result != 0:
        return 1
    if stage.in_root:
        return 0
    if table.journal != NULL:
        slot.decided_ns = now_ns()
    result = answer(table, slot, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
    if result < 0 and result != -ENOENT:
        kill_task(slot.tid)
    return 0


cdef int run_attested(Table *table, Slot *slot, Redirect *redirect) noexcept nogil:
    """Carries out an approved exec and gives the slot back. Returns 0; or 1 when this task must end, for it holds
    threads that it cannot let go."""
    cdef Frozen frozen
    cdef Stage stage
    cdef int cause, result
    if table.journal != NULL and not pass_gate(table.journal):
        refuse(table, slot, CAUSE_AUDIT, EACCES)
        return 0
    frozen.count = 0
    if slot.waited:              # else it was read a moment ago, and whoever rewrites it now is killed
        freeze_siblings(slot, &frozen)
    if slot.waited and (was_written(table, slot) or not is_unchanged(table, slot)):
        refuse(table, slot, CAUSE_CHANGED, EACCES)
        return release(&frozen) > 0
    if slot.waited and judges_programs(load_paths(&table.paths)) and table.run.virtual_root == NULL:
        # While somebody thought, what is granted may have changed.
        cause = judge_program(load_paths(&table.paths), slot, &slot.rule)
        if cause != CAUSE_NONE:
            refuse(table, slot, cause, EACCES)
            return release(&frozen) > 0
    if start_exec(table, slot, redirect, &stage) != 0:
        close_image(&stage.image)
        return release(&frozen) > 0
    follow(table, slot, &frozen, &stage)
    # Also where the caller was killed before its call: whoever gets its number next has not been judged.
    forget_redirect(redirect)
    close_image(&stage.image)
    result = release(&frozen) > 0
    finish(table, slot)
    return result
