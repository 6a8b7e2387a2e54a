/* Raw system calls: no errno, no TLS, no library. They answer -errno as the kernel does.
 *
 * Between clone and exec our code runs on memory that it shares with the embedding process (CLONE_VM), with that
 * process's thread pointer; a library call there could write the host's errno or take the host's locks. */
#ifndef SANDLOCK_RAWSYS_H
#define SANDLOCK_RAWSYS_H

#define RAW_NR_CLONE3 435
#define RAW_CLONE_CLEAR_SIGHAND 0x100000000ULL /* Linux 5.5, clone3 only */

/* struct clone_args of linux/sched.h in its first version (Linux 5.3). */
struct raw_clone_arguments {
    unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

#if defined(__x86_64__)

#define RAW_NR_CLONE 56
#define RAW_NR_EXIT_GROUP 231

/* The call, then in the child: function(argument) from the top of its stack, and the end with its result. */
#define RAW_CLONE_CALL             \
    "syscall\n\t"                  \
    "test %%rax, %%rax\n\t"        \
    "jnz 1f\n\t"                   \
    "xor %%ebp, %%ebp\n\t"         \
    "pop %%rax\n\t"                \
    "pop %%rdi\n\t"                \
    "call *%%rax\n\t"              \
    "mov %%eax, %%edi\n\t"         \
    "mov $231, %%eax\n\t"          \
    "syscall\n\t"                  \
    "hlt\n\t"                      \
    "1:"

static inline long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* clone(2) on a stack of its own: the child calls function(argument) and ends with its result. */
static inline long raw_clone(unsigned long flags, void *stack_top, int *child_tid, int (*function)(void *), void *argument)
{
    long result;
    void **stack = (void **)((unsigned long)stack_top & ~15UL);
    register long r10 __asm__("r10") = (long)child_tid;
    register long r8 __asm__("r8") = 0;
    *--stack = argument;
    *--stack = (void *)function;
    __asm__ volatile(RAW_CLONE_CALL
                     : "=a"(result)
                     : "a"((long)RAW_NR_CLONE), "D"(flags), "S"(stack), "d"(0L), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

/* clone3(2), for flags that clone(2) cannot take; the child as above. `stack` and `stack_size` are the room. */
static inline long raw_clone3(struct raw_clone_arguments *arguments, int (*function)(void *), void *argument)
{
    long result;
    void **stack = (void **)((unsigned long)(arguments->stack + arguments->stack_size) & ~15UL);
    *--stack = argument;
    *--stack = (void *)function;
    arguments->stack_size = (unsigned long)stack - arguments->stack;
    __asm__ volatile(RAW_CLONE_CALL
                     : "=a"(result)
                     : "a"((long)RAW_NR_CLONE3), "D"(arguments), "S"(sizeof *arguments)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

#define RAW_NR_CLONE 220
#define RAW_NR_EXIT_GROUP 94

#define RAW_CLONE_CALL             \
    "svc #0\n\t"                   \
    "cbnz x0, 1f\n\t"              \
    "mov x29, #0\n\t"              \
    "mov x30, #0\n\t"              \
    "ldp x1, x0, [sp], #16\n\t"    \
    "blr x1\n\t"                   \
    "mov x8, #94\n\t"              \
    "svc #0\n\t"                   \
    "1:"

static inline long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

static inline long raw_clone(unsigned long flags, void *stack_top, int *child_tid, int (*function)(void *), void *argument)
{
    void **stack = (void **)((unsigned long)stack_top & ~15UL);
    register long x8 __asm__("x8") = RAW_NR_CLONE;
    register long x0 __asm__("x0") = (long)flags;
    register long x1 __asm__("x1");
    register long x2 __asm__("x2") = 0;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = (long)child_tid;
    *--stack = argument;
    *--stack = (void *)function;
    x1 = (long)stack;
    __asm__ volatile(RAW_CLONE_CALL
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                     : "memory");
    return x0;
}

static inline long raw_clone3(struct raw_clone_arguments *arguments, int (*function)(void *), void *argument)
{
    register long x8 __asm__("x8") = RAW_NR_CLONE3;
    register long x0 __asm__("x0") = (long)arguments;
    register long x1 __asm__("x1") = sizeof *arguments;
    void **stack = (void **)((unsigned long)(arguments->stack + arguments->stack_size) & ~15UL);
    *--stack = argument;
    *--stack = (void *)function;
    arguments->stack_size = (unsigned long)stack - arguments->stack;
    __asm__ volatile(RAW_CLONE_CALL : "+r"(x0) : "r"(x8), "r"(x1) : "x30", "memory");
    return x0;
}

#else
#error "sandlock knows x86-64 and aarch64"
#endif

#endif
