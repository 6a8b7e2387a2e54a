/* Watching over one run: reap, watch, pause, kill, report. Freestanding: raw system calls and the caller's memory only.
 *
 * Used twice. The warden, which still shares the host's memory, watches for the first moments: most commands end in
 * them. Then the run's init (init.c), a tiny program with memory of its own, takes over.
 *
 * Rules:
 * 1. kill(-1) is called, with whatever signal, only after a proof, made while the host was alive, that the signal
 *    scope holds. Unproven, the tree is killed, stopped and continued by walking /proc, and never by kill(-1).
 * 2. It ends only when no descendant is left, or after saying that one survived.
 *
 * Descriptors: 0 control socket, 1 pidfd of the host. All signals are blocked. */
#ifndef SANDLOCK_WATCH_H
#define SANDLOCK_WATCH_H

#include "_message.h"
#include "_rawsys.h"
#include <asm/unistd.h>
#include <linux/time_types.h>

#define WATCH_SIGKILL 9
#define WATCH_SIGCHLD 17
#define WATCH_SIGCONT 18
#define WATCH_SIGSTOP 19
#define WATCH_EPERM 1
#define WATCH_EINTR 4
#define WATCH_EAGAIN 11
#define WATCH_MSG_DONTWAIT 0x40
#define WATCH_POLLIN 1
#define WATCH_WNOHANG 1
#define WATCH_WALL 0x40000000
#define WATCH_SFD_FLAGS (02000000 | 04000) /* SFD_CLOEXEC | SFD_NONBLOCK */
#define WATCH_O_CLOEXEC 02000000
#define WATCH_SURVIVOR_MS 5000
#define WATCH_DEPTH 200
#define WATCH_ROUNDS 3

struct watch_poll { int fd; short events; short revents; };
struct watch_timeval { long sec, usec; };
struct watch_usage { struct watch_timeval user, system; long maxrss; long rest[13]; };

struct watch_span { const void *at; unsigned long length; };
struct watch_rights { unsigned long length; int level, type, fd, padding; };   /* struct cmsghdr and its data */
struct watch_parcel {                                                          /* struct user_msghdr */
    void *name;
    long name_length;
    struct watch_span *spans;
    unsigned long span_count;
    struct watch_rights *rights;
    unsigned long rights_length;
    long flags;
};

struct watch {
    int guest, host, scoped;
    int lane;           /* the supervisor's thread, or 0: its helpers are in the domain, too, and must never stop */
    int reapable;       /* a reaper of the host's own can reap us: we executed a program */
    int guest_status, guest_ended;
    int signals;        /* signalfd for WATCH_SIGCHLD */
    long long deadline; /* CLOCK_MONOTONIC ms, or -1 */
};

enum { WATCH_IMPATIENT = -1 };

#define watch_call(nr, ...) watch_call_(nr, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define watch_call_(nr, a, b, c, d, e, ...) raw_syscall(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static long long watch_now_ms(void)
{
    struct __kernel_timespec t;
    watch_call(__NR_clock_gettime, 1, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Landlock's signal scope (ABI 6) holds if we may not even probe processes of our own user outside of it. */
static int scope_holds(const struct watch *run)
{
    return watch_call(__NR_kill, run->host, 0) == -WATCH_EPERM && watch_call(__NR_kill, 1, 0) == -WATCH_EPERM;
}

/* Reaps everything that has ended. Returns 1 while there are children left. */
static int reap(struct watch *run)
{
    for (;;) {
        int status = 0;
        long pid = watch_call(__NR_wait4, -1, &status, WATCH_WNOHANG | WATCH_WALL, 0);
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

static int watch_put_number(char *at, long value)
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

/* What lies in a directory of /proc about a process, or about one of its threads (0: the process); or -errno. */
static long open_about(long pid, long thread, const char *name)
{
    char path[96] = "/proc/";
    int n = 6;
    n += watch_put_number(path + n, pid);
    for (const char *s = "/task/"; *s && thread; s++)
        path[n++] = *s;
    if (thread)
        n += watch_put_number(path + n, thread);
    for (path[n++] = '/'; *name; name++)
        path[n++] = *name;
    path[n] = 0;
    return watch_call(__NR_openat, -100, path, WATCH_O_CLOEXEC, 0);
}

/* Numbers in a file of /proc, such as a list of children, one after the other. */
struct watch_list { long fd, length, at; char text[512]; };

/* The next one, 0 at the end. */
static long next_number(struct watch_list *list)
{
    long number = 0;
    for (;;) {
        char c;
        if (list->at >= list->length) {
            list->at = 0;
            list->length = watch_call(__NR_read, list->fd, list->text, sizeof list->text);
            if (list->length <= 0)
                return number;
        }
        c = list->text[list->at++];
        if (c >= '0' && c <= '9')
            number = number * 10 + (c - '0');
        else if (number)
            return number;
    }
}

/* The next number among the names of a directory, which are linux_dirent64 entries; 0 at the end. */
static long next_entry(struct watch_list *list)
{
    for (;;) {
        const char *entry = list->text + list->at;
        long number = 0;
        if (list->at >= list->length) {
            list->at = 0;
            list->length = watch_call(__NR_getdents64, list->fd, list->text, sizeof list->text);
            if (list->length <= 0)
                return 0;
            continue;
        }
        list->at += *(const unsigned short *)(entry + 16);
        for (entry += 19; *entry >= '0' && *entry <= '9'; entry++)
            number = number * 10 + (*entry - '0');
        if (number)
            return number;
    }
}

/* Sends a signal to every descendant that /proc shows, and then, when all below it have had theirs, another; 0: none.
 * We are the subreaper: nobody can leave our subtree, so walking it from the top finds all. What starts meanwhile is
 * left to the caller's repetition. */
static void signal_descendants(long pid, int self, int depth, int before, int after)
{
    struct watch_list threads __attribute__((aligned(8)));
    struct watch_list children;
    long thread, child;
    threads.length = threads.at = 0;
    if (!self && before)
        watch_call(__NR_kill, pid, before);
    threads.fd = depth < WATCH_DEPTH ? open_about(pid, 0, "task") : -1;
    while (threads.fd >= 0 && (thread = next_entry(&threads)) > 0) {
        children.length = children.at = 0;
        children.fd = open_about(pid, thread, "children");
        while (children.fd >= 0 && (child = next_number(&children)) > 0)
            if (child > 1)
                signal_descendants(child, 0, depth + 1, before, after);
        if (children.fd >= 0)
            watch_call(__NR_close, children.fd);
    }
    if (threads.fd >= 0)
        watch_call(__NR_close, threads.fd);
    if (!self && after)
        watch_call(__NR_kill, pid, after);
}

static void wait_for_signal(const struct watch *run, int ms)
{
    struct watch_poll poll = {run->signals, WATCH_POLLIN, 0};
    struct __kernel_timespec timeout = {ms / 1000, (ms % 1000) * 1000000LL};
    char buffer[128];
    watch_call(__NR_ppoll, &poll, 1, &timeout, 0, 8);
    while (watch_call(__NR_read, run->signals, buffer, sizeof buffer) > 0)
        ;
}

/* Ends the whole tree. Returns 1 if something survived (a task in uninterruptible sleep). */
static int kill_tree(struct watch *run)
{
    long long limit = watch_now_ms() + WATCH_SURVIVOR_MS;
    while (reap(run)) {
        if (run->scoped)
            watch_call(__NR_kill, -1, WATCH_SIGKILL);
        else
            signal_descendants(watch_call(__NR_getpid), 1, 0, WATCH_SIGSTOP, WATCH_SIGKILL);
        if (!reap(run))
            break;
        wait_for_signal(run, 5);
        if (watch_now_ms() > limit)
            return 1;
    }
    return 0;
}

/* Whether a thread lives. The supervisor's ends with the last task of the tree, and its helpers have ended before. */
static int is_there(long pid, long thread)
{
    long fd = open_about(pid, thread, "stat");
    if (fd >= 0)
        watch_call(__NR_close, fd);
    return fd >= 0;
}

/* Stops all tasks of the tree. Returns 0 or an errno.
 *
 * In one call they get the signal all at once, and what is being forked gets it as well; it is repeated for those that
 * another one has continued just before it stopped. The supervisor's helpers are in the domain too. They may hold what
 * others wait for, so they are continued at once: all children of the supervisor's thread are such, or are ours. */
static int pause_tree(const struct watch *run)
{
    struct watch_list helpers;
    long self = watch_call(__NR_getpid), helper;
    for (int round = 0; round < WATCH_ROUNDS; round++) {
        if (!run->scoped) {
            signal_descendants(self, 1, 0, WATCH_SIGSTOP, 0);
            continue;
        }
        helpers.fd = run->lane ? open_about(run->host, run->lane, "children") : -1;
        if (run->lane && helpers.fd < 0 && is_there(run->host, run->lane))
            return (int)-helpers.fd; /* before anything is stopped */
        watch_call(__NR_kill, -1, WATCH_SIGSTOP);
        helpers.length = helpers.at = 0;
        while (helpers.fd >= 0 && (helper = next_number(&helpers)) > 0)
            if (helper > 1 && helper != self)
                watch_call(__NR_kill, helper, WATCH_SIGCONT);
        if (helpers.fd >= 0)
            watch_call(__NR_close, helpers.fd);
    }
    return 0;
}

/* Lets all tasks of the tree go on, children first where that can be: a shell that wakes up before its child would take
 * it for one that the terminal has stopped. */
static int resume_tree(const struct watch *run)
{
    if (run->reapable || !run->scoped)
        signal_descendants(watch_call(__NR_getpid), 1, 0, 0, WATCH_SIGCONT);
    if (run->scoped)
        watch_call(__NR_kill, -1, WATCH_SIGCONT);
    return 0;
}

/* Carries out what the host says. Returns 0 if it says no more. */
static int obey(const struct watch *run)
{
    struct message message = {0};
    int command = 0;
    long length = watch_call(__NR_recvfrom, 0, &command, sizeof command, WATCH_MSG_DONTWAIT);
    if (length == -WATCH_EINTR || length == -WATCH_EAGAIN)
        return 1;
    if (length != sizeof command || (command != COMMAND_PAUSE && command != COMMAND_RESUME))
        return 0;
    message.kind = command == COMMAND_PAUSE ? MESSAGE_PAUSED : MESSAGE_RESUMED;
    message.pid = run->guest;
    message.subject = -1;
    message.error = command == COMMAND_PAUSE ? pause_tree(run) : resume_tree(run);
    watch_call(__NR_sendto, 0, &message, sizeof message, 0x4000 /* MSG_NOSIGNAL */ | WATCH_MSG_DONTWAIT);
    return 1;
}

/* Waits for the first of: the program's end, the host's word or death, the deadline; or for `until`, if not -1. */
static int wait_for_end(struct watch *run, long long until)
{
    for (;;) {
        struct watch_poll polls[3] = {{0, WATCH_POLLIN, 0}, {1, WATCH_POLLIN, 0}, {run->signals, WATCH_POLLIN, 0}};
        struct __kernel_timespec timeout = {0, 0};
        long long now, next = until;
        reap(run);
        if (run->guest_ended)
            return END_EXITED;
        now = watch_now_ms();
        if (run->deadline >= 0 && now >= run->deadline)
            return END_TIMEOUT;
        if (until >= 0 && now >= until)
            return WATCH_IMPATIENT;
        if (run->deadline >= 0 && (next < 0 || run->deadline < next))
            next = run->deadline;
        timeout.tv_sec = (next - now) / 1000;
        timeout.tv_nsec = ((next - now) % 1000) * 1000000;
        if (watch_call(__NR_ppoll, polls, 3, next < 0 ? 0 : &timeout, 0, 8) < 0)
            continue;
        if (polls[0].revents && !obey(run))
            return END_KILLED;
        if (polls[1].revents)
            return END_HOST_GONE;
        if (polls[2].revents)
            wait_for_signal(run, 0);
    }
}

/* With a pidfd of ours where the host needs it: once its own reaper has taken us, our number may belong to another of
 * its children. On the way, in the socket, it takes no place in the host's table. */
static void send_report(const struct watch *run, const struct message *message, unsigned long length)
{
    struct watch_span span = {message, length};
    struct watch_rights rights = {20, 1 /* SOL_SOCKET */, 1 /* SCM_RIGHTS */, -1, 0};
    struct watch_parcel parcel = {0, 0, &span, 1, &rights, sizeof rights, 0};
    if (run->reapable) {
        long self = watch_call(__NR_getpid);
        rights.fd = (int)watch_call(__NR_pidfd_open, self, 0);
    }
    if (rights.fd < 0)
        parcel.rights_length = 0;
    watch_call(__NR_sendmsg, 0, &parcel, 0x4000 /* MSG_NOSIGNAL */);
}

static void report(const struct watch *run, int reason, int survivors)
{
    struct watch_usage usage = {0};
    struct message message = {0};
    watch_call(__NR_getrusage, -1, &usage);
    message.kind = MESSAGE_ENDED;
    message.pid = run->guest;
    message.subject = -1;
    message.status = run->guest_status;
    message.reason = reason;
    message.survivors = survivors;
    message.user_microseconds = usage.user.sec * 1000000LL + usage.user.usec;
    message.system_microseconds = usage.system.sec * 1000000LL + usage.system.usec;
    send_report(run, &message, sizeof message);
}

/* Watches for at most `patience` ms (-1: without end). Returns 1 when the tree has ended, which was then reported;
 * 0 when patience ran out and nothing had happened. */
static int watch_over(struct watch *run, long long patience, int scope_expected)
{
    unsigned long long child_signal = 1ULL << (WATCH_SIGCHLD - 1);
    int reason, survivors;
    run->signals = (int)watch_call(__NR_signalfd4, -1, &child_signal, 8, WATCH_SFD_FLAGS);
    run->scoped = scope_expected && scope_holds(run);
    /* A scope that should hold and does not is a broken confinement: the run ends at once, by walking. A host that
     * died before the proof ends it too. */
    if (run->signals < 0 || (scope_expected && !run->scoped))
        reason = END_KILLED;
    else
        reason = wait_for_end(run, patience < 0 ? -1 : watch_now_ms() + patience);
    if (reason == WATCH_IMPATIENT)
        return 0;
    survivors = kill_tree(run);
    report(run, reason, survivors);
    return 1;
}

#endif
