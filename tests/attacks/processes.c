/* Signals to, and limits of, processes outside; and what a program may expect of its own. */
#include "attacks.h"
#include <linux/ioprio.h>
#include <sys/resource.h>
#include <sys/time.h>

/* victim FILE: counts signals, holds secrets, and tells about itself whenever a line arrives on stdin */

static volatile sig_atomic_t counted;
/* Read and changed from outside only: volatile, and on a page of its own. */
volatile char victims_secret[4096] __attribute__((aligned(4096)));

static void count(int number)
{
    (void)number;
    counted++;
}

static int victim(char **argument)
{
    const int counting[] = {SIGUSR1, SIGIO, SIGURG, SIGRTMIN};
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    char line[16];
    int fd = (int)TRY(open(argument[0], O_RDONLY));
    TRY(read(fd, (char *)victims_secret, sizeof victims_secret - 1));
    for (size_t i = 0; i < sizeof counting / sizeof *counting; i++)
        TRY(sigaction(counting[i], &action, 0));
    say("victim %d %p %d", getpid(), (void *)victims_secret, fd);
    for (;;) {
        struct pollfd input = {0, POLLIN, 0};
        if (poll(&input, 1, -1) < 0)
            continue;
        if (read(0, line, sizeof line) <= 0)
            return 0;
        say("signals %d secret %.64s", (int)counted, (const char *)victims_secret);
    }
}

static int pidfd(pid_t pid, unsigned flags)
{
    return (int)syscall(NR_pidfd_open, pid, flags);
}

static int own_descriptor(struct f_owner_ex owner, int by_type)
{
    int ends[2];
    TRY(pipe2(ends, O_NONBLOCK));
    if (by_type)
        TRY(fcntl(ends[0], F_SETOWN_EX, &owner));
    else
        TRY(fcntl(ends[0], F_SETOWN, owner.pid));
    TRY(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    TRY(write(ends[1], "x", 1));
    return 0;
}

static int own_socket(pid_t pid)
{
    int pair[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    TRY(ioctl(pair[0], 0x8901 /* FIOSETOWN */, &pid));
    TRY(fcntl(pair[0], F_SETFL, O_ASYNC));
    TRY(write(pair[1], "x", 1));
    return 0;
}

static int queue(long call, pid_t pid, int number)
{
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    if (call == SYS_rt_sigqueueinfo)
        return (int)syscall(call, pid, number, &info);
    return (int)syscall(call, pid, pid, number, &info);
}

/* signal HOW PID NUMBER */
static int send_signal(char **argument)
{
    const char *how = argument[0];
    pid_t pid = atoi(argument[1]);
    int number = atoi(argument[2]);
    if (IS("kill"))
        TRY(kill(pid, number));
    else if (IS("kill-high-bits"))
        TRY(syscall(SYS_kill, (1L << 32) | (unsigned)pid, number));
    else if (IS("kill-group"))
        TRY(kill(-pid, number));
    else if (IS("tkill"))
        TRY(syscall(SYS_tkill, pid, number));
    else if (IS("tgkill"))
        TRY(syscall(SYS_tgkill, pid, pid, number));
    else if (IS("sigqueue"))
        TRY(queue(SYS_rt_sigqueueinfo, pid, number));
    else if (IS("tgsigqueue"))
        TRY(queue(SYS_rt_tgsigqueueinfo, pid, number));
    else if (IS("pidfd"))
        TRY(syscall(NR_pidfd_send_signal, pidfd(pid, 0), number, 0, 0));
    else if (IS("pidfd-thread"))
        TRY(syscall(NR_pidfd_send_signal, pidfd(pid, O_EXCL), number, 0, 0));
    else if (IS("pidfd-group"))
        TRY(syscall(NR_pidfd_send_signal, pidfd(pid, 0), number, 0, 4 /* PIDFD_SIGNAL_PROCESS_GROUP */));
    else if (IS("proc-pidfd")) {
        char name[32];
        snprintf(name, sizeof name, "/proc/%d", pid);
        TRY(syscall(NR_pidfd_send_signal, open(name, O_RDONLY | O_DIRECTORY), number, 0, 0));
    } else if (IS("owner"))
        return own_descriptor((struct f_owner_ex){0, pid}, 0);
    else if (IS("owner-process"))
        return own_descriptor((struct f_owner_ex){F_OWNER_PID, pid}, 1);
    else if (IS("owner-thread"))
        return own_descriptor((struct f_owner_ex){F_OWNER_TID, pid}, 1);
    else if (IS("owner-group"))
        return own_descriptor((struct f_owner_ex){F_OWNER_PGRP, pid}, 1);
    else if (IS("owner-socket"))
        return own_socket(pid);
    else
        return EINVAL;
    return 0;
}

/* signal-threads NUMBER PID TID...: every thread of a process */
static int signal_threads(char **argument)
{
    int error = 0;
    for (char **tid = argument + 2; *tid; tid++)
        if (syscall(SYS_tgkill, atoi(argument[1]), atoi(*tid), atoi(argument[0])) < 0)
            error = errno;
    return error;
}

/* signal-parent NUMBER: the run's init */
static int signal_parent(char **argument)
{
    TRY(kill(getppid(), atoi(argument[0])));
    return 0;
}

/* signal-own-group NUMBER: everybody in the group that we were started in, and the sender too */
static int signal_own_group(char **argument)
{
    signal(atoi(argument[0]), SIG_IGN);
    TRY(kill(0, atoi(argument[0])));
    return 0;
}

struct attributes { /* struct sched_attr, by the kernel's first version of it */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static int write_number(pid_t pid, const char *file, const char *value)
{
    char name[64];
    int fd;
    snprintf(name, sizeof name, "/proc/%d/%s", pid, file);
    fd = (int)TRY(open(name, O_WRONLY));
    TRY(write(fd, value, strlen(value)));
    return 0;
}

/* cripple HOW PID */
static int cripple(char **argument)
{
    const char *how = argument[0];
    pid_t pid = atoi(argument[1]);
    struct attributes attributes = {.size = sizeof attributes, .policy = SCHED_BATCH, .nice = 7};
    struct sched_param none = {0};
    struct rlimit few = {3, 3}, old;
    unsigned long first_cpu = 1;
    if (IS("prlimit"))
        TRY(syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, &few, 0));
    else if (IS("prlimit-read")) {
        TRY(syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, 0, &old));
        say("limit %lu", (unsigned long)old.rlim_cur);
    } else if (IS("setpriority"))
        TRY(setpriority(PRIO_PROCESS, (id_t)pid, 7));
    else if (IS("setpriority-group"))
        TRY(setpriority(PRIO_PGRP, (id_t)pid, 7));
    else if (IS("sched_setscheduler"))
        TRY(syscall(SYS_sched_setscheduler, pid, SCHED_BATCH, &none));
    else if (IS("sched_setparam"))
        TRY(syscall(SYS_sched_setparam, pid, &none));
    else if (IS("sched_setattr"))
        TRY(syscall(SYS_sched_setattr, pid, &attributes, 0));
    else if (IS("sched_setaffinity"))
        TRY(syscall(SYS_sched_setaffinity, pid, sizeof first_cpu, &first_cpu));
    else if (IS("ioprio_set"))
        TRY(syscall(SYS_ioprio_set, 1, pid, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)));
    else if (IS("ioprio_set-group"))
        TRY(syscall(SYS_ioprio_set, 2, pid, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)));
    else if (IS("oom_score_adj"))
        return write_number(pid, "oom_score_adj", "777");
    else if (IS("coredump_filter"))
        return write_number(pid, "coredump_filter", "0x1");
    else if (IS("robust-list")) {
        void *head;
        size_t length;
        TRY(syscall(SYS_get_robust_list, pid, &head, &length));
        say("robust %p", head);
    } else if (IS("core-scheduling"))
        TRY(syscall(SYS_prctl, 62, 1 /* CREATE */, pid, 0, 0));
    else
        return EINVAL;
    return 0;
}

/* cripple-user HOW: every process of the user at once, us included; so only tried where it must fail */
static int cripple_user(char **argument)
{
    const char *how = argument[0];
    if (IS("setpriority"))
        TRY(setpriority(PRIO_USER, getuid(), 1));
    else if (IS("ioprio_set"))
        TRY(syscall(SYS_ioprio_set, 3, getuid(), IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 4)));
    else
        return EINVAL;
    return 0;
}

/* io-priority PID */
static int io_priority(char **argument)
{
    long priority = TRY(syscall(SYS_ioprio_get, 1, atoi(argument[0])));
    say("class %ld", priority >> 13);
    return 0;
}

/* What must work inside */

static void *thread(void *argument)
{
    *(int *)argument += 1;
    return argument;
}

static int some_threads(void)
{
    pthread_t threads[8];
    int seen[8] = {0}, total = 0;
    for (int i = 0; i < 8; i++)
        if ((errno = pthread_create(&threads[i], 0, thread, &seen[i])))
            return errno;
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], 0);
    for (int i = 0; i < 8; i++)
        total += seen[i];
    return total == 8 ? 0 : EIO;
}

static pid_t sleeper(int group)
{
    pid_t child = fork();
    if (!child) {
        if (group)
            setpgid(0, 0);
        for (;;)
            pause();
    }
    if (child > 0 && group)
        setpgid(child, child);
    return child;
}

static int expect_killed(pid_t child, int number)
{
    int status = children_status(child);
    return WIFSIGNALED(status) && WTERMSIG(status) == number ? 0 : EIO;
}

static int signals_inside(void)
{
    static const char *const calls[] = {"kill", "tgkill", "sigqueue", "pidfd", "kill-group", "pidfd-thread"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        char pid[16];
        pid_t child = (pid_t)TRY(sleeper(1));
        int error;
        snprintf(pid, sizeof pid, "%d", child);
        error = send_signal((char *[]){(char *)calls[i], pid, "15", 0});
        if (error) {
            say("inside %s", calls[i]);
            kill(child, SIGKILL);
            return error;
        }
        TRY(expect_killed(child, SIGTERM) ? (errno = EIO, -1) : 0);
    }
    return 0;
}

static int timers_inside(void)
{
    struct sigaction action = {.sa_handler = count};
    struct itimerval soon = {.it_value = {0, 1000}};
    counted = 0;
    TRY(sigaction(SIGALRM, &action, 0));
    TRY(setitimer(ITIMER_REAL, &soon, 0));
    while (!counted)
        usleep(100);
    return 0;
}

/* own-processes: threads, signals inside the tree, limits and priorities of its own */
static int own_processes(char **argument)
{
    struct attributes attributes = {.size = sizeof attributes, .policy = SCHED_OTHER, .nice = 1};
    struct sched_param none = {0};
    struct rlimit limit;
    unsigned long cpus = 0;
    int error;
    (void)argument;
    if ((error = some_threads()) || (error = signals_inside()) || (error = timers_inside()))
        return error;
    TRY(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 64;
    TRY(syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, 0));
    TRY(setpriority(PRIO_PROCESS, 0, 1));
    TRY(syscall(SYS_sched_getaffinity, 0, sizeof cpus, &cpus));
    TRY(syscall(SYS_sched_setaffinity, 0, sizeof cpus, &cpus));
    TRY(sched_setscheduler(0, SCHED_OTHER, &none));
    TRY(sched_setparam(0, &none));
    TRY(syscall(SYS_sched_setattr, 0, &attributes, 0));
    TRY(syscall(SYS_ioprio_set, 1, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 5)));
    TRY(sched_getscheduler(getpid()));
    TRY(getpriority(PRIO_PROCESS, (id_t)getpid()));
    TRY(getpgid(getppid()));
    signal(SIGIO, SIG_IGN);
    return own_descriptor((struct f_owner_ex){F_OWNER_PID, getpid()}, 1);
}

/* thread-affinity: pthread_setaffinity_np, which names the thread by its number */
static int thread_affinity(char **argument)
{
    cpu_set_t cpus;
    int error;
    (void)argument;
    error = pthread_getaffinity_np(pthread_self(), sizeof cpus, &cpus);
    return error ? error : pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
}

const struct attack process_attacks[] = {
    {"victim", 1, victim},
    {"signal", 3, send_signal},
    {"signal-threads", 3, signal_threads},
    {"signal-parent", 1, signal_parent},
    {"signal-own-group", 1, signal_own_group},
    {"cripple", 2, cripple},
    {"cripple-user", 1, cripple_user},
    {"io-priority", 1, io_priority},
    {"own-processes", 0, own_processes},
    {"thread-affinity", 0, thread_affinity},
    {0},
};
