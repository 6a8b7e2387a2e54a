/* Leaves a mark: makes the file WORD, or without one the file that its first argument names. A freestanding program of
 * a few hundred bytes, so that thousands of them run in a second. */
#include "../../sandlock/_rawsys.h"

#if defined(__x86_64__)
#define NR_OPENAT 257
#else
#define NR_OPENAT 56
#endif
#define AT_FDCWD -100
#define O_WRONLY_O_CREAT 0101

__attribute__((used)) static int main_(long *stack)
{
#ifdef WORD
    const char *name = WORD;
    (void)stack;
#else
    const char *name = stack[0] > 1 ? (const char *)stack[2] : "none";
#endif
    return raw_syscall(NR_OPENAT, AT_FDCWD, (long)name, O_WRONLY_O_CREAT, 0644, 0, 0) < 0;
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall main_\n\t"
        "mov %eax, %edi\n\tmov $231, %eax\n\tsyscall\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl main_\n\tmov x8, #94\n\tsvc #0\n");
#endif
