/* What the guests of the tests share. Each is one program: its first argument says what it does.
 *
 * None of them can hurt the machine where a sandbox fails: whatever lives long or multiplies ends by itself
 * (LIFETIME), and the number of processes of a bomb is counted in memory that they share. */
#ifndef GUEST_H
#define GUEST_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIFETIME 30 /* seconds */

static inline void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

static inline void linger(void)
{
    alarm(LIFETIME);
    for (;;)
        pause();
}

static inline const char *word(int error)
{
    const char *name = error ? strerrorname_np(error) : "0";
    return name ? name : "?";
}

static inline int wait_for(pid_t child)
{
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

typedef int (*guest)(int count, char **argument);
struct task {
    const char *name;
    guest run;
};

static inline int choose(const struct task *tasks, int argc, char **argv)
{
    for (; argc > 1 && tasks->name; tasks++)
        if (!strcmp(tasks->name, argv[1]))
            return tasks->run(argc - 2, argv + 2);
    fprintf(stderr, "no such task: %s\n", argc > 1 ? argv[1] : "");
    return 2;
}

#endif
