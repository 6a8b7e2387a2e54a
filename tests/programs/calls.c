/* Callers of a syscall that the supervisor answers. The first argument of each task is the syscall's number. */
#include "guest.h"

#define KINDS 16

static long number;

/* What a syscall answered, as one number: its result, or -errno. Its argument makes no sense to the kernel. */
static long call(void)
{
    long result = syscall(number, -1L, 0, 0, 0, 0, 0);
    return result < 0 ? -errno : result;
}

static struct { long value, count; } tally[KINDS];

static void note(long value)
{
    for (int i = 0; i < KINDS; i++) {
        if (tally[i].count == 0 || tally[i].value == value) {
            tally[i].value = value;
            tally[i].count++;
            return;
        }
    }
}

static void report(void)
{
    for (int i = 0; i < KINDS && tally[i].count; i++)
        say("%ld %ld", tally[i].value, tally[i].count);
}

/* times NR COUNT: each answer and how often it came. */
static int times(int count, char **argument)
{
    (void)count;
    for (long i = atol(argument[1]); i > 0; i--)
        note(call());
    report();
    return 0;
}

static volatile long ticks;

static void tick(int unused)
{
    (void)unused;
    ticks++;
}

/* storm NR SECONDS: the same under a timer signal every millisecond, without SA_RESTART. */
static int storm(int count, char **argument)
{
    (void)count;
    struct sigaction action = {.sa_handler = tick};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (double end = now() + atof(argument[1]); now() < end;)
        note(call());
    setitimer(ITIMER_REAL, &never, NULL);
    report();
    say("ticks %ld", ticks);
    return 0;
}

static void *call_for_ever(void *unused)
{
    for (;;)
        note(call());
    return unused;
}

/* crowd NR SECONDS THREADS: many at once. */
static int crowd(int count, char **argument)
{
    (void)count;
    for (int i = atoi(argument[2]); i > 0; i--) {
        pthread_t thread;
        pthread_create(&thread, NULL, call_for_ever, NULL);
    }
    usleep((useconds_t)(atof(argument[1]) * 1e6));
    say("done");
    exit(0);
}

/* killed NR SECONDS: children that call all the time are killed, after less and less orderly spans. */
static int killed(int count, char **argument)
{
    (void)count;
    long rounds = 0, wrong = 0;
    unsigned seed = 1;
    for (double end = now() + atof(argument[1]); now() < end; rounds++) {
        pid_t child = fork();
        if (child == 0) {
            if (rounds & 1) {
                pthread_t thread;
                pthread_create(&thread, NULL, call_for_ever, NULL);
            }
            call_for_ever(NULL);
        }
        usleep((useconds_t)(rand_r(&seed) % 3000));
        kill(child, SIGKILL);
        int status = wait_for(child);
        wrong += !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    say("killed %ld wrong %ld", rounds, wrong);
    return 0;
}

/* once NR: the answer. */
static int once(int count, char **argument)
{
    (void)count;
    (void)argument;
    say("%ld", call());
    return 0;
}

/* held NR MARK: a child calls; we go on. */
static int held(int count, char **argument)
{
    (void)count;
    (void)argument;
    if (fork() == 0) {
        alarm(LIFETIME);
        say("calls");
        say("answered %ld", call());
        _exit(0);
    }
    alarm(LIFETIME);
    char byte;
    while (read(0, &byte, 1) > 0)
        say("alive");
    return 0;
}

/* child NR: a child of two threads calls; its wait status. */
static int child_calls(int count, char **argument)
{
    (void)count;
    (void)argument;
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        alarm(LIFETIME);
        pthread_create(&thread, NULL, call_for_ever, NULL);
        for (;;)
            pause();
    }
    int status = wait_for(child);
    say("signal %d exit %d", WIFSIGNALED(status) ? WTERMSIG(status) : 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return 0;
}

/* inject NR: what can be read from the descriptor that the call gives; stays until stdin ends. */
static int inject(int count, char **argument)
{
    (void)count;
    (void)argument;
    char text[64] = "", byte;
    long fd = call();
    long length = fd >= 0 ? read((int)fd, text, sizeof text - 1) : 0;
    say("%ld %.*s", fd, length > 0 ? (int)length : 0, text);
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}

/* inject-full NR: the same with a full table, then with one free place, which must be the one that is used. */
static int inject_full(int count, char **argument)
{
    (void)count;
    (void)argument;
    struct rlimit limit = {3, 3};
    setrlimit(RLIMIT_NOFILE, &limit);
    say("%s", word((int)-call()));
    close(0);
    say("%ld", call());
    say("%s", word((int)-call()));
    return 0;
}

int main(int argc, char **argv)
{
    static const struct task tasks[] = {{"times", times},   {"storm", storm}, {"crowd", crowd},
                                        {"killed", killed}, {"once", once},   {"held", held},
                                        {"child", child_calls}, {"inject", inject}, {"inject-full", inject_full},
                                        {0}};
    if (argc > 2)
        number = atol(argv[2]);
    return choose(tasks, argc, argv);
}
