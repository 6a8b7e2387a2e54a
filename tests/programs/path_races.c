/* Races for files that are denied, and descriptors that lead to them.
 *
 *     race FLIP MILLISECONDS free|confined ACTION...   in a directory with `good/file` and `denied/file`
 *     inherited                                        standard input is a directory
 *     received                                         standard input is a socket that brings a directory
 *     execute PATH                                     by each way that there is
 *
 * A race does its actions to `flip/file` or to what it may be rewritten to, while another task makes `flip` mean `good` and
 * `denied` in turns. It never asks first. It prints what it has read of what is denied, how often each action succeeded, and
 * `free`, when it can look: which actions have changed something in `denied`, which it then makes as it was. */
#include "guest.h"
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>

enum { SLOT = 40, FEWEST = 1000 };
static char *name; /* of the directory, in memory that both tasks share */
static int working; /* directory of the workspace */

/* ---- making one name mean two things: each turn the other one */

static int is_denied;

static void by_link(void)
{
    (void)!symlinkat(is_denied ? "denied" : "good", working, "next");
    renameat(working, "next", working, "flip");
}

static void by_exchange(void) /* `flip` is a directory like `good`, `flop` a link to `denied` */
{
    syscall(SYS_renameat2, working, "flip", working, "flop", 2 /* RENAME_EXCHANGE */);
}

static void by_text(void)
{
    memcpy(name, is_denied ? "denied" : "./good", 6);
    __asm__ volatile("" ::: "memory"); /* nobody here reads it, but others do */
}

static void by_descriptors(void)
{
    dup2(is_denied ? SLOT + 1 : SLOT + 2, SLOT);
}

static void by_working_directory(void)
{
    (void)!fchdir(is_denied ? SLOT + 1 : SLOT + 2);
}

static void by_parent(void) /* what `..` of it is */
{
    if (is_denied)
        renameat(working, "deep/in/er", working, "er");
    else
        renameat(working, "er", working, "deep/in/er");
}

struct flip {
    const char *name;
    void (*turn)(void);
    const char *path; /* of the directory */
    int threads;      /* what it changes belongs to a process */
    int times;        /* between two pauses */
} flips[] = {
    {"link", by_link, "flip", 0, 50},
    {"exchange", by_exchange, "flip", 0, 50},
    {"text", by_text, "./good", 0, 100000},
    {"descriptor", by_descriptors, "/proc/self/fd/40", 1, 50},
    {"directory", by_descriptors, ".", 1, 50},
    {"cwd", by_working_directory, ".", 1, 50},
    {"cwd-in-proc", by_working_directory, "/proc/self/cwd", 1, 50},
    {"parent", by_parent, "deep/in/er/../../..", 0, 50},
    {"parent-cwd", by_parent, "../..", 0, 50},
    {0},
};

/* ---- what is done */

static char path[4096], other[64];
static const char *beyond; /* "../../.." and so on, and a directory that is denied: for flips of a parent */
static int base = AT_FDCWD;

static void spell(const char *last)
{
    if (beyond) {
        snprintf(path, sizeof path, "%s/%s/%s", name, beyond, last);
        return;
    }
    snprintf(path, sizeof path, "%s/%s", name, last);
}

static long secrets;

static int reads(int fd)
{
    char text[16] = "";
    if (fd < 0)
        return -1;
    if (read(fd, text, 10) == 10 && !memcmp(text, "TOP-SECRET", 10))
        secrets++;
    close(fd);
    return 0;
}

static int closes(int fd)
{
    return fd < 0 ? -1 : close(fd);
}

#define FILE_ACTION(NAME, CALL) static int NAME(void) { return (int)(CALL); }
static char *shared_path; /* the path itself is rewritten */
#define P (shared_path ? shared_path : path)
FILE_ACTION(do_read, reads(openat(base, P, O_RDONLY)))
FILE_ACTION(do_write, closes(openat(base, P, O_WRONLY | O_TRUNC)))
FILE_ACTION(do_create, closes(openat(base, P, O_RDWR | O_CREAT | O_APPEND, 0600)))
FILE_ACTION(do_chmod, fchmodat(base, P, 0640, 0))
FILE_ACTION(do_times, utimensat(base, P, (struct timespec[]){{7, 7}, {7, 7}}, 0))
FILE_ACTION(do_link, linkat(base, P, working, other, AT_SYMLINK_FOLLOW))
FILE_ACTION(do_rename, renameat(base, P, working, other))
FILE_ACTION(do_unlink, unlinkat(base, P, 0))

static int do_truncate(void)
{
    return truncate(P, 3);
}

static int do_attribute(void)
{
    return setxattr(P, "user.race", "x", 1, 0);
}

static int do_pin(void) /* pinned without a question, then opened */
{
    int pinned = openat(base, P, O_PATH), opened;
    if (pinned < 0)
        return -1;
    snprintf(other, sizeof other, "/proc/self/fd/%d", pinned);
    opened = reads(open(other, O_RDONLY));
    close(pinned);
    return opened;
}

static int do_connect(void)
{
    struct sockaddr_un address = {AF_UNIX, ""};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0), result;
    memcpy(address.sun_path, P, strlen(P) + 1);
    result = connect(fd, (void *)&address, sizeof address);
    if (!result)
        result = send(fd, "x", 1, MSG_DONTWAIT) == 1 ? 0 : -1;
    close(fd);
    return result;
}

static int do_bind(void)
{
    struct sockaddr_un address = {AF_UNIX, ""};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0), result;
    memcpy(address.sun_path, P, strlen(P) + 1);
    result = bind(fd, (void *)&address, sizeof address);
    close(fd);
    return result;
}

static int do_execute(void)
{
    int status = -1;
    pid_t child = vfork();
    if (!child) {
        execv(P, (char *[]){"program", 0});
        _exit(1);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return status ? -1 : 0;
}

FILE_ACTION(do_mkdir, mkdirat(base, P, 0700))
FILE_ACTION(do_symlink, symlinkat("x", base, P))
FILE_ACTION(do_node, mknodat(base, P, S_IFIFO | 0600, 0))
FILE_ACTION(do_move_in, renameat(working, other, base, P))

struct action {
    const char *name;
    int (*run)(void);
    const char *last;
    int brings; /* needs `other` */
} actions[] = {
    {"read", do_read, "file", 0},     {"pin", do_pin, "file", 0},         {"write", do_write, "file", 0},
    {"create", do_create, "made", 0}, {"chmod", do_chmod, "file", 0},     {"times", do_times, "file", 0},
    {"truncate", do_truncate, "file", 0}, {"attribute", do_attribute, "file", 0}, {"link", do_link, "file", 0},
    {"rename", do_rename, "file", 0}, {"unlink", do_unlink, "file", 0},   {"mkdir", do_mkdir, "made", 0},
    {"symlink", do_symlink, "made", 0}, {"node", do_node, "made", 0},     {"move-in", do_move_in, "made", 1},
    {"connect", do_connect, "socket", 0}, {"bind", do_bind, "made", 0},
    {"execute", do_execute, "program", 0}, {0},
};

/* ---- the state of a directory: as it was, or not */

static void fill(int directory, const char *content)
{
    int fd;
    unlinkat(directory, "made", 0);
    unlinkat(directory, "made", AT_REMOVEDIR);
    fd = openat(directory, "file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd >= 0) {
        (void)!write(fd, content, strlen(content));
        fchmod(fd, 0600);
        fremovexattr(fd, "user.race");
        futimens(fd, NULL);
        close(fd);
    }
}

static int is_other(int directory)
{
    struct stat found, made;
    if (!unlinkat(working, "out/ran", 0))
        return 1;
    if (!fstatat(directory, "made", &made, AT_SYMLINK_NOFOLLOW) || fstatat(directory, "file", &found, 0))
        return 1;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d/file", directory);
    return found.st_size != 10 || (found.st_mode & 07777) != 0600 || found.st_nlink != 1 || found.st_mtim.tv_sec == 7 ||
           getxattr(link, "user.race", NULL, 0) >= 0;
}

static void *turns(void *flip)
{
    for (;;) {
        for (int i = ((struct flip *)flip)->times + (rand() & 1); i > 0; i--) {
            is_denied = !is_denied;
            ((struct flip *)flip)->turn();
        }
        usleep(5);
    }
    return NULL;
}

static void start_turning(struct flip *flip)
{
    pthread_t thread;
    pid_t parent = getpid();
    if (flip->threads) {
        pthread_create(&thread, NULL, turns, flip);
    } else if (!fork()) {
        alarm(LIFETIME);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) /* it may have won, and be gone */
            turns(flip);
        _exit(0);
    }
}

static void prepare(struct flip *flip)
{
    name = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(name, flip->path);
    working = open(".", O_PATH | O_DIRECTORY);
    dup2(working, SLOT + 3);
    working = SLOT + 3;
    dup2(open("denied", O_PATH | O_DIRECTORY), SLOT + 1);
    dup2(open(flip->turn == by_exchange ? "flip" : "good", O_PATH | O_DIRECTORY), SLOT + 2);
    dup2(SLOT + 2, SLOT);
    if (!strcmp(flip->name, "directory"))
        base = SLOT;
}

static int one(struct action *action, struct flip *flip, int good)
{
    snprintf(other, sizeof other, "out/%s", action->name);
    unlinkat(working, other, 0);
    if (action->brings)
        close(openat(working, other, O_WRONLY | O_CREAT, 0600));
    if (!strcmp(action->last, "file"))
        fill(good, "harmless..");
    unlinkat(good, "made", 0);
    unlinkat(good, "made", AT_REMOVEDIR);
    if (flip->turn == by_text) { /* the path that the kernel reads is in the shared memory */
        snprintf(name + 6, 32, "/%s", action->last);
        shared_path = name;
    } else {
        spell(action->last);
    }
    return action->run();
}

static int race(int count, char **words)
{
    struct flip *flip = flips;
    struct action *chosen[32];
    long done[32] = {0}, won[32] = {0}, tries = 0;
    int chosen_count = 0, is_free, left;
    double until;
    while (flip->name && strcmp(flip->name, words[0]))
        flip++;
    is_free = !strcmp(words[2], "free");
    for (int i = 3; i < count; i++)
        for (struct action *each = actions; each->name; each++)
            if (!strcmp(each->name, words[i]))
                chosen[chosen_count++] = each;
    prepare(flip);
    beyond = getenv("BEYOND");
    if (!strcmp(flip->name, "parent-cwd"))
        (void)!chdir("deep/in/er");
    alarm(LIFETIME);
    srand((unsigned)getpid());
    left = chosen_count;
    start_turning(flip);
    until = now() + atoi(words[1]) / 1e3;
    while (is_free ? now() < until && left : now() < until || tries < FEWEST) {
        for (int i = 0; i < chosen_count; i++) {
            long before = secrets;
            if (is_free && won[i])
                continue;
            tries++;
            done[i] += one(chosen[i], flip, SLOT + 2) >= 0;
            if (is_free && (secrets > before || is_other(SLOT + 1))) {
                left--;
                won[i] = 1;
                snprintf(other, sizeof other, "out/%s", chosen[i]->name);
                unlinkat(working, other, 0);
                fill(SLOT + 1, "TOP-SECRET");
            }
        }
    }
    say("tries %ld secrets %ld", tries, secrets);
    for (int i = 0; i < chosen_count; i++)
        say("%s %ld %ld", chosen[i]->name, done[i], won[i]);
    return 0;
}

/* ---- descriptors of directories */

static void try_directory(int directory)
{
    char link[64];
    reads(openat(directory, "file", O_RDONLY));
    reads(openat(directory, "sub/../file", O_RDONLY));
    snprintf(link, sizeof link, "/proc/self/fd/%d/file", directory);
    reads(open(link, O_RDONLY));
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    int again = open(link, O_RDONLY | O_DIRECTORY);
    if (again >= 0)
        reads(openat(again, "file", O_RDONLY));
    if (!fchdir(directory)) {
        reads(open("file", O_RDONLY));
        reads(open("/proc/self/cwd/file", O_RDONLY));
    }
    long made = closes(openat(directory, "made", O_WRONLY | O_CREAT, 0600)), chmods = fchmodat(directory, "file", 0666, 0);
    say("secrets %ld made %ld chmod %ld", secrets, made, chmods);
}

static int inherited(int count, char **words)
{
    (void)count, (void)words;
    try_directory(0);
    return 0;
}

static int received(int count, char **words)
{
    char room[CMSG_SPACE(sizeof(int))], byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    int directory = -1;
    (void)count, (void)words;
    if (recvmsg(0, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
        return 3;
    memcpy(&directory, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof directory);
    try_directory(directory);
    return 0;
}

/* ---- programs */

#ifdef __x86_64__
#define LOADER "/lib64/ld-linux-x86-64.so.2"
#else
#define LOADER "/lib/ld-linux-aarch64.so.1"
#endif
extern char **environ;

static void in_child(int (*way)(const char *), const char *program, const char *what)
{
    pid_t child = fork();
    if (!child) {
        way(program);
        _exit(errno == EACCES ? 100 : 101);
    }
    int status = wait_for(child);
    say("%s %d", what, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static int by_path(const char *program)
{
    return execv(program, (char *[]){(char *)program, "RAN", 0});
}

static int by_empty_path(const char *program)
{
    return (int)syscall(SYS_execveat, open(program, O_PATH), "", (char *[]){"x", "RAN", 0}, environ, AT_EMPTY_PATH);
}

static int by_link_to_descriptor(const char *program)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", open(program, O_PATH));
    return execv(link, (char *[]){"x", "RAN", 0});
}

static int by_directory(const char *program)
{
    char place[256];
    snprintf(place, sizeof place, "%.*s", (int)(strrchr(program, '/') - program), program);
    return (int)syscall(SYS_execveat, open(place, O_PATH), strrchr(program, '/') + 1, (char *[]){"x", "RAN", 0}, environ, 0);
}

static int by_loader(const char *program)
{
    return execv(LOADER, (char *[]){LOADER, (char *)program, "RAN", 0});
}

static int execute(int count, char **words)
{
    for (int i = 0; i < count; i++) {
        say("%s", words[i]);
        in_child(by_path, words[i], "path");
        in_child(by_empty_path, words[i], "empty");
        in_child(by_link_to_descriptor, words[i], "descriptor");
        if (strchr(words[i], '/'))
            in_child(by_directory, words[i], "directory");
        in_child(by_loader, words[i], "loader");
    }
    return 0;
}

int main(int count, char **words)
{
    static const struct task tasks[] = {
        {"race", race}, {"inherited", inherited}, {"received", received}, {"execute", execute}, {0}};
    return choose(tasks, count, words);
}
