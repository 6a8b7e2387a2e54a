/* The init of one run: parent and subreaper of everything the sandboxed program starts.
 *
 * A freestanding static program of a few KiB, executed from memory by the launch, inside the run's outer Landlock
 * domain. It has memory of its own (nothing of the host's) and does four things: reap, watch, kill, report.
 *
 * Rules:
 * 1. kill(-1) is called only after a proof, made while the host was alive, that the signal scope holds. Unproven,
 *    the tree is killed by walking /proc, and never by kill(-1).
 * 2. It leaves only when no descendant is left, or after saying that one survived.
 *
 * Descriptors: 0 control socket, 1 pidfd of the host. Arguments: guest pid, host pid, deadline in ms (-1: none),
 * 1 if the signal scope is expected to hold. All signals arrive blocked. */
#include "_message.h"
#include "_rawsys.h"
#include <asm/unistd.h>
#include <linux/time_types.h>

#define SIGKILL 9
#define SIGCHLD 17
#define SIGSTOP 19
#define EINTR 4
#define ESRCH 3
#define EPERM 1
#define POLLIN 1
#define POLLHUP 16
#define PR_SET_NAME 15
#define PR_SET_CHILD_SUBREAPER 36
#define WNOHANG 1
#define WALL 0x40000000
#define SFD_FLAGS (02000000 | 04000) /* SFD_CLOEXEC | SFD_NONBLOCK */
#define O_RDONLY_CLOEXEC 02000000
#define SURVIVOR_MS 5000

struct pollfd { int fd; short events; short revents; };
struct timeval { long sec, usec; };
struct rusage { struct timeval user, system; long maxrss; long rest[13]; };

struct run {
    int guest, host, scoped;
    int guest_status, guest_ended;
    int signals;        /* signalfd for SIGCHLD */
    long long deadline; /* CLOCK_MONOTONIC ms, or -1 */
};

#define call(nr, ...) call_(nr, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define call_(nr, a, b, c, d, e, ...) raw_syscall(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static long long now_ms(void)
{
    struct __kernel_timespec t;
    call(__NR_clock_gettime, 1, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

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

/* Landlock's signal scope (ABI 6) holds if we may not even probe processes of our own user outside of it. */
static int scope_holds(const struct run *run)
{
    return call(__NR_kill, run->host, 0) == -EPERM && call(__NR_kill, 1, 0) == -EPERM;
}

/* Reaps everything that has ended. Returns 1 while there are children left. */
static int reap(struct run *run)
{
    for (;;) {
        int status = 0;
        long pid = call(__NR_wait4, -1, &status, WNOHANG | WALL, 0);
        if (pid == run->guest) {
            run->guest_status = status;
            run->guest_ended = 1;
        }
        if (pid == 0)
            return 1;
        if (pid < 0)
            return 0; /* ECHILD */
    }
}

static int put_number(char *at, long value)
{
    char digits[20];
    int n = 0, length;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    for (length = 0; n; length++)
        at[length] = digits[--n];
    return length;
}

/* Stops, then kills, every descendant that /proc shows. We are the subreaper: nobody can leave our subtree, so
 * walking it from the top finds all. Only used where the signal scope is missing. Depth and width are bounded by
 * the caller's repetition, not by this pass. */
static void kill_descendants(long pid, int self, int depth)
{
    char path[96] = "/proc/", list[2048];
    long fd, length, child = 0, i;
    int n = 6;
    n += put_number(path + n, pid);
    for (const char *s = "/task/"; *s; s++)
        path[n++] = *s;
    n += put_number(path + n, pid);
    for (const char *s = "/children"; *s; s++)
        path[n++] = *s;
    path[n] = 0;
    if (!self)
        call(__NR_kill, pid, SIGSTOP);
    fd = call(__NR_openat, -100, path, O_RDONLY_CLOEXEC, 0);
    if (fd >= 0) {
        length = call(__NR_read, fd, list, sizeof list);
        call(__NR_close, fd);
        for (i = 0; i < length && depth < 64; i++) {
            if (list[i] >= '0' && list[i] <= '9') {
                child = child * 10 + (list[i] - '0');
            } else {
                if (child > 1)
                    kill_descendants(child, 0, depth + 1);
                child = 0;
            }
        }
    }
    if (!self)
        call(__NR_kill, pid, SIGKILL);
}

static void wait_for_signal(const struct run *run, int ms)
{
    struct pollfd poll = {run->signals, POLLIN, 0};
    struct __kernel_timespec timeout = {ms / 1000, (ms % 1000) * 1000000LL};
    char buffer[128];
    call(__NR_ppoll, &poll, 1, &timeout, 0, 8);
    while (call(__NR_read, run->signals, buffer, sizeof buffer) > 0)
        ;
}

/* Ends the whole tree. Returns 1 if something survived (a task in uninterruptible sleep). */
static int kill_tree(struct run *run)
{
    long long limit = now_ms() + SURVIVOR_MS;
    while (reap(run)) {
        if (run->scoped)
            call(__NR_kill, -1, SIGKILL);
        else
            kill_descendants(call(__NR_getpid), 1, 0);
        if (!reap(run))
            break;
        wait_for_signal(run, 5);
        if (now_ms() > limit)
            return 1;
    }
    return 0;
}

/* Waits for the first of: the program's end, the host's word or death, the deadline. */
static int wait_for_end(struct run *run)
{
    for (;;) {
        struct pollfd polls[3] = {{0, POLLIN, 0}, {1, POLLIN, 0}, {run->signals, POLLIN, 0}};
        struct __kernel_timespec timeout = {0, 0};
        long long left = run->deadline < 0 ? -1 : run->deadline - now_ms();
        reap(run);
        if (run->guest_ended)
            return END_EXITED;
        if (run->deadline >= 0 && left <= 0)
            return END_TIMEOUT;
        timeout.tv_sec = left / 1000;
        timeout.tv_nsec = (left % 1000) * 1000000;
        if (call(__NR_ppoll, polls, 3, left < 0 ? 0 : &timeout, 0, 8) < 0)
            continue;
        if (polls[0].revents)
            return END_KILLED; /* the host never writes: readable means closed */
        if (polls[1].revents)
            return END_HOST_GONE;
        if (polls[2].revents)
            wait_for_signal(run, 0);
    }
}

static void report(const struct run *run, int reason, int survivors)
{
    struct rusage usage = {0};
    struct message message = {0};
    call(__NR_getrusage, -1, &usage);
    message.kind = MESSAGE_ENDED;
    message.pid = run->guest;
    message.subject = -1;
    message.status = run->guest_status;
    message.reason = reason;
    message.survivors = survivors;
    message.user_microseconds = usage.user.sec * 1000000LL + usage.user.usec;
    message.system_microseconds = usage.system.sec * 1000000LL + usage.system.usec;
    message.peak_kibibytes = usage.maxrss;
    call(__NR_sendto, 0, &message, sizeof message, 0x4000 /* MSG_NOSIGNAL */, 0);
}

__attribute__((used)) static int main_(long *stack)
{
    char **argument = (char **)(stack + 1);
    unsigned long long child_signal = 1ULL << (SIGCHLD - 1);
    struct run run = {0};
    int reason, survivors;
    if (stack[0] < 5)
        return 2;
    run.guest = (int)parse(argument[1]);
    run.host = (int)parse(argument[2]);
    run.deadline = parse(argument[3]);
    if (run.deadline >= 0)
        run.deadline += now_ms();
    call(__NR_prctl, PR_SET_NAME, "sandlock-init");
    call(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1);
    run.signals = (int)call(__NR_signalfd4, -1, &child_signal, 8, SFD_FLAGS);
    run.scoped = parse(argument[4]) == 1 && scope_holds(&run);
    /* A scope that should hold and does not is a broken confinement: end the run at once, by walking. A host that
     * died before the proof ends it too. */
    reason = run.signals < 0 || (parse(argument[4]) == 1 && !run.scoped) ? END_KILLED : wait_for_end(&run);
    survivors = kill_tree(&run);
    report(&run, reason, survivors);
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
