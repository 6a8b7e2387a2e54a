/* What a program finds at its start, for comparison: words, variables, names, descriptors, signals.

   With "again" as its first word it executes the rest of them first, in one of several ways. */

#include "guest.h"

#include <dirent.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/prctl.h>

extern char **environ;

static void show_file(const char *name)
{
    char bytes[65536], path[64];
    snprintf(path, sizeof path, "/proc/self/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long length = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    close(fd);
    for (long i = 0; i < length; i++)
        if (bytes[i] == 0)
            bytes[i] = '|';
    say("%s %.*s", name, (int)(length > 400 ? 400 : length), bytes);
}

static void show(int argc, char **argv)
{
    char name[17] = "";
    sigset_t blocked, pending;
    int number = 0, descriptors = 0;
    for (int i = 0; i < argc; i++)
        say("word %s", argv[i]);
    for (char **variable = environ; *variable; variable++)
        say("variable %s", *variable);
    say("aligned %d", ((unsigned long)argv & 7) == 0);
    say("called %s", program_invocation_name);
    say("execfn %s", (const char *)getauxval(AT_EXECFN));
    say("platform %s", getauxval(AT_PLATFORM) ? (const char *)getauxval(AT_PLATFORM) : "");
    unsigned char *random = (unsigned char *)getauxval(AT_RANDOM);
    for (int i = 0; i < 16; i++)
        number |= random[i];
    say("random %d", number != 0);
    say("page %lu", getauxval(AT_PAGESZ));
    prctl(PR_GET_NAME, name);
    say("comm %s", name);
    show_file("cmdline");
    show_file("comm");
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    sigpending(&pending);
    for (int signal = 1; signal < 65; signal++)
        if (sigismember(&blocked, signal) > 0 || sigismember(&pending, signal) > 0)
            say("signal %d %d %d", signal, sigismember(&blocked, signal), sigismember(&pending, signal));
    for (int fd = 0; fd < 64; fd++)
        descriptors += fcntl(fd, F_GETFD) >= 0;
    say("descriptors %d", descriptors);
}

static void *execute_there(void *words)
{
    char **argv = words;
    execve(argv[0], argv, environ);
    say("execve %s", word(errno));
    return NULL;
}

static void ignore(int number) { (void)number; }

/* Children that are stopped, continued and interrupted while they execute. */
static void execute_pestered(char **argv)
{
    volatile pid_t *target = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const int signals[] = {SIGWINCH, SIGSTOP, SIGWINCH, SIGCONT};
    struct timespec pause = {0, 30000};
    pid_t parent = getpid(), pest = fork();
    int ended = 0;
    signal(SIGWINCH, ignore);
    if (!pest) {
        alarm(LIFETIME);
        for (unsigned i = 0; getppid() == parent; i++) {
            if (*target)
                kill(*target, signals[i & 3]);
            nanosleep(&pause, NULL);
        }
        _exit(0);
    }
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (!child) {
            *target = getpid();
            execve(argv[0], argv, environ);
            _exit(1);
        }
        ended += wait_for(child) == 0;
        *target = 0;
    }
    kill(pest, SIGKILL);
    wait_for(pest);
    say("ended %d", ended);
}

/* For a while: the compiler may not leave the write out, nor the processor show two writes as one. */
static void write_word(void *word, const char *text)
{
    memcpy(word, text, 4);
    __asm__ volatile("" ::: "memory");
    for (volatile int i = 0; i < 100; i++)
        ;
}

static void *rewrite(void *word)
{
    for (;;) {
        write_word(word, "evil");
        write_word(word, "good");
    }
    return NULL;
}

/* Children that rewrite the word behind their program's name while they execute it. */
static void execute_rewritten(char **argv)
{
    for (int i = 0; i < 150; i++) {
        pid_t child = fork();
        if (!child) {
            static char word[] = "good";
            pthread_t thread;
            argv[1] = word;
            pthread_create(&thread, NULL, rewrite, word);
            sched_yield();
            execve(argv[0], argv, environ);
            _exit(1);
        }
        wait_for(child);
    }
}

static void execute(const char *way, char **argv)
{
    pid_t child = 0;
    pthread_t thread;
    int fd;
    if (!strcmp(way, "plain"))
        execve(argv[0], argv, environ);
    else if (!strcmp(way, "blocked")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGUSR1);
        execve(argv[0], argv, environ);
    } else if (!strcmp(way, "thread")) {
        pthread_create(&thread, NULL, execute_there, argv);
        pthread_join(thread, NULL);
        return;
    } else if (!strcmp(way, "fork")) {
        if (!(child = fork()))
            execve(argv[0], argv, environ);
    } else if (!strcmp(way, "vfork")) {
        if (!(child = vfork()))
            _exit(execve(argv[0], argv, environ));
    } else if (!strcmp(way, "spawn"))
        posix_spawn(&child, argv[0], NULL, NULL, argv, environ);
    else if (!strcmp(way, "descriptor") || !strcmp(way, "memfd")) {
        fd = open(argv[0], O_RDONLY | O_CLOEXEC);
        if (!strcmp(way, "memfd")) {
            char bytes[65536];
            int copy = memfd_create("copy", MFD_CLOEXEC);
            long length;
            while ((length = read(fd, bytes, sizeof bytes)) > 0)
                if (write(copy, bytes, (size_t)length) != length)
                    say("short");
            fd = copy;
        }
        fexecve(fd, argv, environ);
    } else if (!strcmp(way, "directory")) {
        char *last = strrchr(argv[0], '/');
        *last = 0;
        fd = open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *last = '/';
        syscall(SYS_execveat, fd, last + 1, argv, environ, 0);
    } else if (!strcmp(way, "relative")) {
        syscall(SYS_execveat, AT_FDCWD, argv[0] + 1, argv, environ, 0);
    } else if (!strcmp(way, "kept")) {
        fd = open(argv[0], O_RDONLY);
        syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
    } else if (!strcmp(way, "no link")) {
        syscall(SYS_execveat, AT_FDCWD, argv[0], argv, environ, AT_SYMLINK_NOFOLLOW);
    } else if (!strcmp(way, "own")) {
        execve("/proc/self/exe", argv, environ);
    } else if (!strcmp(way, "pestered")) {
        execute_pestered(argv);
        return;
    } else if (!strcmp(way, "rewritten")) {
        execute_rewritten(argv);
        return;
    } else if (!strcmp(way, "no words")) {
        syscall(SYS_execve, argv[0], NULL, environ);
    } else if (!strcmp(way, "no variables")) {
        execve(argv[0], argv, NULL);
    } else if (!strcmp(way, "other name")) {
        const char *path = argv[0];
        argv[0] = (char *)"-other name";
        execve(path, argv, environ);
    } else if (!strcmp(way, "many words")) {
        char **more = calloc(20002, sizeof *more);
        for (int i = 0; i < 20001; i++)
            more[i] = argv[i ? 1 : 0];
        execve(argv[0], more, environ);
    }
    if (child > 0) {
        say("ended %d", wait_for(child));
        say("next descriptor %d", fcntl(0, F_DUPFD, 3));
        return;
    }
    say("%s %s", way, word(errno));
    say("next descriptor %d", fcntl(0, F_DUPFD, 3));
}

/* Which file this program was loaded from. */
static void show_file_of_main(void)
{
    char line[4096], path[4096];
    unsigned long start, end, here = (unsigned long)show_file_of_main;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %4000s", &start, &end, path) == 3 && start <= here && here < end)
            say("%s", path);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[2], "echo")) {
        say("ran %s", argv[1]);
        return 0;
    }
    if (argc > 2 && !strcmp(argv[argc - 1], "of")) {
        char path[4096] = "";
        pid_t child = fork();
        if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
            say("readlink %s", word(errno));
        say("exe %s", path);
        if (child > 0)
            wait_for(child);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    if (argc == 2 && !strcmp(argv[1], "file")) {
        show_file_of_main();
        return 0;
    }
    if (argc > 10000)
        say("%d words, the last is %s, then %s", argc, argv[argc - 1], argv[argc] ? "more" : "none");
    else if (argc > 3 && !strcmp(argv[1], "again"))
        execute(argv[2], argv + 3);
    else
        show(argc, argv);
    return 0;
}
