/* Processes made in every way, and counted: by themselves, and by the tests from outside. */
#include "guest.h"

static char *self, *mark;

static void stay(void)
{
    char byte;
    alarm(LIFETIME);
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

static pid_t raw_clone(unsigned long flags)
{
    return (pid_t)syscall(SYS_clone, flags, 0, 0, 0, 0);
}

static int on_stack(void *unused)
{
    (void)unused;
    stay();
    return 0;
}

/* vfork lets the parent go on when the child has executed something. */
static pid_t finish_vfork(pid_t child)
{
    if (child == 0) {
        execl(self, self, "stay", mark, (char *)NULL);
        _exit(127);
    }
    return child;
}

/* A process that lives until stdin ends. -1 with errno. */
static pid_t make(const char *how)
{
    pid_t child = -1;
    if (!strcmp(how, "fork")) {
        child = fork();
    } else if (!strcmp(how, "raw-clone")) {
        child = raw_clone(SIGCHLD);
    } else if (!strcmp(how, "raw-clone-no-signal")) {
        child = raw_clone(0);
    } else if (!strcmp(how, "clone-vm")) {
        char *stack = malloc(65536);
        return clone(on_stack, stack + 65536, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
    } else if (!strcmp(how, "clone-parent")) {
        child = raw_clone(CLONE_PARENT | SIGCHLD);
    } else if (!strcmp(how, "vfork")) {
        child = vfork();
        return finish_vfork(child);
    } else if (!strcmp(how, "clone-vfork")) {
        child = raw_clone(CLONE_VFORK | SIGCHLD);
        return finish_vfork(child);
    } else if (!strcmp(how, "posix_spawn")) {
        char *arguments[] = {self, "stay", mark, NULL}, *environment[] = {NULL};
        errno = posix_spawn(&child, self, NULL, NULL, arguments, environment);
        return errno ? -1 : child;
#ifdef SYS_fork
    } else if (!strcmp(how, "raw-fork")) {
        child = (pid_t)syscall(SYS_fork);
    } else if (!strcmp(how, "raw-vfork")) {
        if (fork() == 0) { /* this one sleeps until its child ends */
            child = (pid_t)syscall(SYS_vfork);
            if (child == 0)
                stay();
            _exit(child < 0 ? errno : 0);
        }
        return -2;
#endif
    } else {
        exit(2);
    }
    if (child == 0)
        stay();
    return child;
}

/* until HOW MARK: makes processes until one is denied, then says how many there were and the errno, and stays. */
static int until(int count, char **argument)
{
    (void)count;
    mark = argument[1];
    int made = 0;
    for (; made < 200; made++)
        if (make(argument[0]) == -1)
            break;
    say("made %d %s", made, made == 200 ? "0" : word(errno));
    stay();
    return 0;
}

static int stay_only(int count, char **argument)
{
    (void)count;
    (void)argument;
    stay();
    return 0;
}

static void noticed(int number)
{
    (void)number;
}

/* Makes one child that ends at once and lets it end, in the style that is named. Returns 0, or the errno of fork. */
static int one_short(const char *style)
{
    int pipes[2], status;
    char byte;
    if (!strcmp(style, "double-fork")) {
        if (pipe(pipes))
            return errno;
        pid_t middle = fork();
        if (middle == 0) {
            pid_t child = fork();
            _exit(child < 0 ? 1 : 0);
        }
        close(pipes[1]);
        if (middle > 0)
            status = wait_for(middle);
        else
            status = errno << 8;
        while (read(pipes[0], &byte, 1) > 0)
            ;
        close(pipes[0]);
        return WEXITSTATUS(status);
    }
    if (!strcmp(style, "never") && pipe(pipes))
        return errno;
    pid_t child = !strcmp(style, "vfork") ? vfork() : fork();
    if (child == 0)
        _exit(0);
    if (child < 0)
        return errno;
    if (!strcmp(style, "wait") || !strcmp(style, "vfork")) {
        wait_for(child);
    } else if (!strcmp(style, "nohang")) {
        while (waitpid(child, &status, WNOHANG) == 0)
            sched_yield();
    } else if (!strcmp(style, "ignore")) {
        waitpid(child, &status, 0); /* comes back with ECHILD when it is gone */
    } else if (!strcmp(style, "peek")) {
        siginfo_t information;
        waitid(P_PID, (id_t)child, &information, WEXITED | WNOWAIT);
    } else if (!strcmp(style, "never")) {
        close(pipes[1]);
        while (read(pipes[0], &byte, 1) > 0)
            ;
        close(pipes[0]);
    }
    return 0;
}

/* short STYLE COUNT: so many short-lived children, one after the other; how many were denied. */
static int short_ones(int count, char **argument)
{
    (void)count;
    int denied = 0, last = 0;
    if (!strcmp(argument[0], "ignore"))
        signal(SIGCHLD, SIG_IGN);
    if (!strcmp(argument[0], "handler"))
        signal(SIGCHLD, noticed);
    for (int i = 0; i < atoi(argument[1]); i++) {
        int error = one_short(argument[0]);
        denied += error != 0;
        last = error ? error : last;
    }
    say("denied %d %s", denied, word(last));
    return 0;
}

/* bomb MARK SECONDS: everybody forks as fast as possible; no more than 300 of them even when nobody counts. */
static int bomb(int count, char **argument)
{
    (void)count;
    double end = now() + atof(argument[1]);
    struct { int living, made, denied, other; } *shared =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared->living = 1;
    signal(SIGCHLD, SIG_IGN);
    pid_t first = getpid();
    while (now() < end) {
        if (__atomic_add_fetch(&shared->living, 1, __ATOMIC_SEQ_CST) > 300) {
            __atomic_sub_fetch(&shared->living, 1, __ATOMIC_SEQ_CST);
            continue;
        }
        pid_t child = fork();
        if (child < 0) {
            __atomic_sub_fetch(&shared->living, 1, __ATOMIC_SEQ_CST);
            int many = __atomic_add_fetch(errno == EAGAIN ? &shared->denied : &shared->other, 1, __ATOMIC_SEQ_CST);
            if (getpid() != first && many % 3 == 0) { /* make room, so that it goes on */
                __atomic_sub_fetch(&shared->living, 1, __ATOMIC_SEQ_CST);
                _exit(0);
            }
        } else if (child > 0) {
            __atomic_add_fetch(&shared->made, 1, __ATOMIC_SEQ_CST);
        }
    }
    if (getpid() != first)
        _exit(0);
    say("made %d denied %d other %d", shared->made, shared->denied, shared->other);
    return 0;
}

static void *thread_main(void *unused)
{
    linger();
    return unused;
}

/* threads COUNT: how many there are. */
static int threads(int count, char **argument)
{
    (void)count;
    int made = 0, error = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    for (; made < atoi(argument[0]); made++) {
        pthread_t thread;
        error = pthread_create(&thread, &attributes, thread_main, NULL);
        if (error)
            break;
    }
    say("made %d %s", made, word(error));
    pid_t child = fork(); /* a process does count */
    if (child == 0)
        _exit(0);
    say("fork %s", child < 0 ? word(errno) : "0");
    return 0;
}

static int clone_three(int count, char **argument)
{
    (void)count;
    (void)argument;
    struct { unsigned long long words[11]; } arguments = {{0}};
    arguments.words[4] = SIGCHLD;
    long result = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (result == 0)
        _exit(0);
    say("clone3 %s", result < 0 ? word(errno) : "0");
    return 0;
}

int main(int argc, char **argv)
{
    static const struct task tasks[] = {{"until", until},     {"stay", stay_only},     {"short", short_ones},
                                        {"bomb", bomb},       {"threads", threads},    {"clone3", clone_three},
                                        {0}};
    self = argv[0];
    return choose(tasks, argc, argv);
}
