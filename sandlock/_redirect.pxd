# A caller that runs another system call than the one it made.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.types cimport pid_t

from sandlock._linux cimport Notification

cdef enum:
    MAX_REGISTERS = 40
    LOST = -5000             # no errno: the task has ended
    EXECUTED = 5000          # no result of a call: another program stands before its first instruction

# The call that a helper has somebody run, for the fast lane: should the filter trap it, it knows it again. Each helper
# has one of its own, which counts only while it lives.
cdef struct Redirect:
    int tid                  # 0: none
    int number
    uint64_t args[6]

# A task that stands still, with what has to be put back.
cdef struct Borrowed:
    Redirect *redirect
    pid_t tid
    int sets_mask            # `mask` is the task's own, and not in force
    uint64_t mask
    int64_t descriptor       # the one that it was given
    size_t size              # of the registers
    uint64_t registers[MAX_REGISTERS]

# What a wait for a stop may say (enum, else the signal of a signal-delivery-stop).
cdef enum Stop:
    STOP_GONE = -1
    STOP_CALL = -2           # at the entry or the end of a system call
    STOP_EXEC = -3
    STOP_OTHER = -4          # a group stop, or the stop that was asked for

cdef void forget_redirect(Redirect *redirect) noexcept nogil
cdef int is_redirected(const Redirect *redirect, const Notification *notification) noexcept nogil
cdef int sort_stop(int status) noexcept nogil
cdef int borrow(
    Redirect *redirect, int listener, uint64_t id, pid_t tid, long given, long options, Borrowed *task
) noexcept nogil
cdef int keep_registers(Borrowed *task) noexcept nogil
cdef int aim(
    Borrowed *task, uint64_t instruction, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f
) noexcept nogil
cdef long run_call(Borrowed *task, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef long finish_call(Borrowed *task, uint64_t instruction) noexcept nogil
cdef int resume(Borrowed *task, int signal) noexcept nogil
cdef void give_back_task(Borrowed *task, long result) noexcept nogil
cdef int release_task(Borrowed *task) noexcept nogil
cdef long lose(Borrowed *task) noexcept nogil
cdef uint64_t stack_of(const Borrowed *task) noexcept nogil
cdef int set_stack(Borrowed *task, uint64_t stack) noexcept nogil
cdef uint64_t find_instruction(pid_t tid, uint64_t code) noexcept nogil
cdef int is_interrupted(long result) noexcept nogil
cdef int aim_again(Borrowed *task, uint64_t instruction) noexcept nogil
cdef int go_to_call(Borrowed *task) noexcept nogil
cdef long result_of(Borrowed *task) noexcept nogil
cdef int change_directory(
    Redirect *redirect, int listener, uint64_t id, pid_t tid, long directory
) noexcept nogil
