/* The init of one run: parent and subreaper of everything the sandboxed program starts.
 *
 * A freestanding static program of a few KiB, executed from memory by the warden, inside the run's outer Landlock
 * domain. It has memory of its own, nothing of the host's. What it does is in _watch.h.
 *
 * Arguments: guest pid, host pid, deadline in ms (-1: none), 1 if the signal scope is expected to hold, the thread of
 * the host that supervises the run (0: none). */
#include "_watch.h"

static long parse(const char *text)
{
    long value = 0, sign = 1;
    if (*text == '-') {
        sign = -1;
        text++;
    }
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (*text - '0');
    return value * sign;
}

__attribute__((used)) static int main_(long *stack)
{
    char **argument = (char **)(stack + 1);
    struct watch run = {0};
    if (stack[0] < 6)
        return 2;
    run.guest = (int)parse(argument[1]);
    run.host = (int)parse(argument[2]);
    run.lane = (int)parse(argument[5]);
    run.reapable = 1;
    run.deadline = parse(argument[3]);
    if (run.deadline >= 0)
        run.deadline += watch_now_ms();
    watch_over(&run, -1, parse(argument[4]) == 1);
    return 0;
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall main_\n\t"
        "mov %eax, %edi\n\tmov $231, %eax\n\tsyscall\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl main_\n\tmov x8, #94\n\tsvc #0\n");
#endif

/* The compiler may call these for struct initialisation. */
void *memset(void *at, int value, unsigned long length)
{
    char *bytes = at;
    while (length--)
        *bytes++ = (char)value;
    return at;
}

void *memcpy(void *to, const void *from, unsigned long length)
{
    char *out = to;
    const char *in = from;
    while (length--)
        *out++ = *in++;
    return to;
}
