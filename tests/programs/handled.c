/* Callers of what handlers answer. Each task prints what it got: a result, or -errno. */
#include "guest.h"

#define ROOM (1 << 20)

static char *room;

static long result_of(long result)
{
    return result < 0 ? -errno : result;
}

/* A number; or with a leading @ a pointer to memory of ours that starts with this text. */
static long word_of(const char *text)
{
    if (text[0] != '@')
        return (long)strtoull(text, NULL, 0);
    strcpy(room, text + 1);
    return (long)room;
}

static long call(char **argument)
{
    long words[4] = {0, 0, 0, 0};
    for (int i = 0; i < 4 && argument[i]; i++)
        words[i] = word_of(argument[i]);
    return result_of(syscall(words[0], words[1], words[2], words[3], 0, 0, 0));
}

/* call NR ARGUMENTS...: the result, and the text in memory. */
static int once(int count, char **argument)
{
    (void)count;
    long result = call(argument);
    say("%ld %.100s", result, room);
    return 0;
}

/* times COUNT NR ARGUMENTS...: the sum of the results. */
static int times(int count, char **argument)
{
    (void)count;
    long sum = 0;
    for (long i = atol(argument[0]); i > 0; i--)
        sum += call(argument + 1);
    say("%ld", sum);
    return 0;
}

/* inject NR: the descriptor's flags, what can be read from it, and whether it can be changed. */
static int inject(int count, char **argument)
{
    (void)count;
    char text[64] = "";
    long fd = call(argument);
    if (fd < 0) {
        say("%ld", fd);
        return 0;
    }
    long flags = fcntl((int)fd, F_GETFD), length = read((int)fd, text, sizeof text - 1);
    say("%ld %ld %s %s", flags, length, length > 0 ? text : "-", word(write((int)fd, "x", 1) < 0 ? errno : 0));
    return 0;
}

static const char *other;

static void *rewrite(void *unused)
{
    usleep(100000);
    strcpy(room, other);
    return unused;
}

/* race PATH OTHER: opens PATH while another thread makes another path of it. */
static int race(int count, char **argument)
{
    (void)count;
    char text[64] = "";
    pthread_t thread;
    other = argument[1];
    strcpy(room, argument[0]);
    pthread_create(&thread, NULL, rewrite, NULL);
    long fd = result_of(syscall(SYS_openat, AT_FDCWD, room, O_RDONLY, 0));
    if (fd < 0)
        say("%ld", fd);
    else
        say("%s", read((int)fd, text, sizeof text - 1) > 0 ? text : "-");
    pthread_join(thread, NULL);
    return 0;
}

/* killed NR ARGUMENTS...: a child that calls is killed after a while. */
static int killed(int count, char **argument)
{
    (void)count;
    pid_t child = fork();
    if (child == 0) {
        call(argument);
        _exit(0);
    }
    usleep(150000);
    kill(child, SIGKILL);
    int status = wait_for(child);
    say("%d", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    usleep(400000);
    return 0;
}

static char **crowd_argument;

static void *call_in_crowd(void *unused)
{
    call(crowd_argument);
    return unused;
}

/* crowd THREADS NR: so many at once, each once. */
static int crowd(int count, char **argument)
{
    (void)count;
    pthread_t threads[256];
    int size = atoi(argument[0]);
    crowd_argument = argument + 1;
    for (int i = 0; i < size; i++)
        pthread_create(&threads[i], NULL, call_in_crowd, NULL);
    for (int i = 0; i < size; i++)
        pthread_join(threads[i], NULL);
    say("done");
    return 0;
}

/* status NR: a child calls; how it ended, and then what we are. */
static int status(int count, char **argument)
{
    (void)count;
    pid_t child = fork();
    if (child == 0)
        _exit(call(argument) < 0 ? 1 : 0);
    int ended = wait_for(child);
    say("%d", WIFSIGNALED(ended) ? -WTERMSIG(ended) : WEXITSTATUS(ended));
    return 0;
}

int main(int count, char **word)
{
    static const struct { const char *name; int (*task)(int, char **); } tasks[] = {
        {"call", once}, {"times", times}, {"inject", inject}, {"race", race},
        {"killed", killed}, {"crowd", crowd}, {"status", status},
    };
    room = calloc(1, ROOM);
    alarm(LIFETIME);
    for (unsigned i = 0; i < sizeof tasks / sizeof tasks[0]; i++)
        if (count > 1 && !strcmp(word[1], tasks[i].name))
            return tasks[i].task(count - 2, word + 2);
    return 2;
}
