/* Trees that are hard to end. Their processes keep the command line of the first one, with a mark for the tests. */
#include "guest.h"

static int *ready; /* shared: how many have reached their place */

static void arrive(void)
{
    __atomic_add_fetch(ready, 1, __ATOMIC_SEQ_CST);
}

static void wait_arrived(int wanted)
{
    for (int i = 0; i < 5000 && __atomic_load_n(ready, __ATOMIC_SEQ_CST) < wanted; i++)
        usleep(1000);
}

static void *shared(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        exit(3);
    return memory;
}

static void start_daemon(void)
{
    pid_t middle = fork();
    if (middle == 0) {
        setsid();
        if (fork() == 0) {
            setsid();
            arrive();
            linger();
        }
        _exit(0);
    }
    wait_for(middle);
}

/* A child whose parent dies before it, and that hears nothing. */
static void start_orphan(void)
{
    pid_t middle = fork();
    if (middle == 0) {
        if (fork() == 0) {
            sigset_t all;
            sigfillset(&all);
            for (int number = 1; number < 32; number++)
                signal(number, SIG_IGN);
            sigprocmask(SIG_SETMASK, &all, NULL);
            arrive();
            for (double end = now() + LIFETIME; now() < end;)
                usleep(100000);
            _exit(0);
        }
        _exit(0);
    }
    wait_for(middle);
}

static void start_stopped(void)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(LIFETIME);
        raise(SIGSTOP);
        _exit(0);
    }
    int status;
    waitpid(child, &status, WUNTRACED);
    arrive();
}

/* A parent that sleeps in vfork for as long as its child lives. */
static void start_vfork(void)
{
    if (fork() == 0) {
        if (vfork() == 0) {
            arrive();
            linger();
        }
        _exit(0);
    }
}

static void *thread_main(void *unused)
{
    arrive();
    linger();
    return unused;
}

/* Its first thread has ended: a zombie to look at, and yet it lives. */
static void start_headless(void)
{
    if (fork() == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, thread_main, NULL);
        pthread_detach(thread);
        syscall(SYS_exit, 0);
    }
}

/* Forks and dies, forks and dies: each process lives for a moment only, in a session of its own, and there are never
 * more than `limit` of them. */
static void bomb(int *living, int limit, double end)
{
    for (;;) {
        if (now() > end)
            _exit(0);
        if (__atomic_add_fetch(living, 1, __ATOMIC_SEQ_CST) > limit) {
            __atomic_sub_fetch(living, 1, __ATOMIC_SEQ_CST);
        } else {
            pid_t child = fork();
            if (child > 0 && __atomic_load_n(living, __ATOMIC_SEQ_CST) > limit / 2) {
                __atomic_sub_fetch(living, 1, __ATOMIC_SEQ_CST);
                _exit(0);
            }
            if (child < 0)
                __atomic_sub_fetch(living, 1, __ATOMIC_SEQ_CST);
            setsid();
        }
    }
}

static void start_bombs(int bombs)
{
    double end = now() + LIFETIME / 3.0;
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < bombs; i++) {
        int *living = shared();
        *living = 1;
        if (fork() == 0) {
            arrive();
            bomb(living, 4, end);
        }
    }
}

/* everything MARK [exit]: all of these at once; says "ready" when they are there. */
static int everything(int count, char **argument)
{
    alarm(LIFETIME);
    start_daemon();
    start_daemon();
    start_orphan();
    start_stopped();
    start_vfork();
    start_headless();
    start_bombs(5);
    wait_arrived(11);
    say("ready %d", *ready);
    if (count > 1 && !strcmp(argument[1], "exit"))
        return 0;
    linger();
    return 0;
}

/* daemons MARK COUNT [exit] */
static int daemons(int count, char **argument)
{
    int wanted = atoi(argument[1]);
    for (int i = 0; i < wanted; i++)
        start_daemon();
    wait_arrived(wanted);
    say("ready %d", *ready);
    if (count > 2)
        return 0;
    linger();
    return 0;
}

static int waiting(int count, char **argument)
{
    (void)count;
    (void)argument;
    say("ready");
    linger();
    return 0;
}

static int send_every_way(pid_t pid, int number)
{
    siginfo_t information = {.si_code = SI_QUEUE};
    int sent = kill(pid, number) == 0;
    sent += syscall(SYS_tgkill, pid, pid, number) == 0;
    sent += syscall(SYS_tkill, pid, number) == 0;
    sent += syscall(SYS_rt_sigqueueinfo, pid, number, &information) == 0;
    sent += syscall(SYS_rt_tgsigqueueinfo, pid, pid, number, &information) == 0;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0) {
        sent += syscall(SYS_pidfd_send_signal, fd, number, NULL, 0) == 0;
        close(fd);
    }
    return sent;
}

/* signal PID FROM TO: every signal of that range in every way to one process (0: the parent); how many were taken. */
static int signal_one(int count, char **argument)
{
    (void)count;
    pid_t pid = atoi(argument[0]) ? atoi(argument[0]) : getppid();
    int sent = 0;
    for (int number = atoi(argument[1]); number <= atoi(argument[2]); number++)
        sent += send_every_way(pid, number);
    say("parent %d sent %d", getppid(), sent);
    return 0;
}

/* group NUMBER: a signal to our own process group, which may be the host's. */
static int signal_group(int count, char **argument)
{
    (void)count;
    int number = atoi(argument[0]);
    signal(number, SIG_IGN);
    say("group %s", kill(0, number) == 0 ? "0" : word(errno));
    return 0;
}

/* end N: by signal N, or with exit code -N. */
static int end_so(int count, char **argument)
{
    (void)count;
    int how = atoi(argument[0]);
    if (how <= 0)
        return -how;
    signal(how, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    raise(how);
    return 99;
}

/* signals: what was inherited. */
static int show_signals(int count, char **argument)
{
    (void)count;
    (void)argument;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Sig", 3) || !strncmp(line, "Shd", 3))
            fputs(line, stdout);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct task tasks[] = {
        {"everything", everything}, {"daemons", daemons}, {"wait", waiting},        {"signal", signal_one},
        {"group", signal_group},    {"end", end_so},      {"signals", show_signals}, {0}};
    ready = shared();
    return choose(tasks, argc, argv);
}
