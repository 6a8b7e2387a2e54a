/* races KIND MILLISECONDS MARK: executes something harmless again and again, while somebody makes something else of it.
 *
 * What was executed is told by files in the working directory: `good`, and `evil` if the race is won. With an `evil` it
 * ends at once. Prints how many times it tried. */
#include "guest.h"
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LENGTH 65536

struct shared {
    volatile int over, pid;
    volatile int forward; /* the flipping process waits for its turn */
    char word[8];
    char *volatile address;
};

static struct shared *shared;
static char own_word[8] = "good";
static char good[LENGTH], evil[LENGTH];
static ssize_t good_length, evil_length;
static const char *kind;
static unsigned seed;

#define IS(name) (!strcmp(kind, name))

static long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

/* Short waits and long ones: the windows to hit are a few microseconds long, at the end of some hundred. */
static void pause_a_little(void)
{
    static const unsigned most[] = {1, 20, 100, 300, 1000};
    long until = now_us() + rand_r(&seed) % most[rand_r(&seed) % 5];
    while (now_us() < until)
        sched_yield();
}

static ssize_t read_whole(const char *path, char *into)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, into, LENGTH);
    close(fd);
    return length;
}

static void overwrite(const char *content, ssize_t length)
{
    int fd = open("target", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && pwrite(fd, content, (size_t)length, 0) != length)
        _exit(4);
    close(fd);
}

/* As `overwrite`, without a write(2). */
static void overwrite_mapped(const char *content, ssize_t length)
{
    int fd = open("target", O_RDWR | O_CLOEXEC);
    char *at;
    if (fd < 0)
        return;
    at = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return;
    *(volatile char *)at; /* read first: some file systems then see no write at all */
    memcpy(at, content, (size_t)length);
    munmap(at, LENGTH);
}

static void write_memory(const char *word)
{
    static int fd = -1, pid;
    if (pid != shared->pid) {
        char path[64];
        close(fd);
        pid = shared->pid;
        snprintf(path, sizeof path, "/proc/%d/mem", pid);
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    if (fd >= 0 && pwrite(fd, word, 5, (off_t)(size_t)shared->address) < 0)
        pid = 0;
}

static void swap_links(const char *to)
{
    unlink("next");
    if (!symlink(to, "next"))
        rename("next", "target");
}

static void flip_once(int bad)
{
    if (IS("sibling") || IS("peer"))
        memcpy(own_word, bad ? "evil" : "good", 5);
    else if (IS("shared"))
        memcpy(shared->word, bad ? "evil" : "good", 5);
    else if (IS("memory"))
        write_memory(bad ? "evil" : "good");
    else if (IS("rename"))
        syscall(SYS_renameat2, AT_FDCWD, "target", AT_FDCWD, "spare", RENAME_EXCHANGE);
    else if (IS("directory"))
        syscall(SYS_renameat2, AT_FDCWD, "folder", AT_FDCWD, "other", RENAME_EXCHANGE);
    else if (IS("link"))
        swap_links(bad ? "./evil-program" : "./good-program");
    else if (IS("script"))
        swap_links(bad ? "./evil-script" : "./good-script");
    else if (IS("mapped"))
        overwrite_mapped(bad ? evil : good, bad ? evil_length : good_length);
    else
        overwrite(bad ? evil : good, bad ? evil_length : good_length);
}

static void *flip(void *unused)
{
    for (int bad = 1; !shared->over; bad = !bad) {
        pause_a_little();
        flip_once(bad);
    }
    return unused;
}

static void try_once(char *const words[], const char *path)
{
    pthread_t thread;
    pid_t child;
    seed = seed * 2654435761u + 1; /* children start with a copy */
    child = IS("peer") ? vfork() : fork();
    if (child == 0) {
        if (IS("sibling"))
            pthread_create(&thread, NULL, flip, NULL);
        if (!IS("peer")) { /* a vforked child would use its parent's stack for longer than it may */
            shared->pid = getpid();
            pause_a_little();
        }
        execv(path, words);
        _exit(9);
    }
    if (child < 0)
        _exit(5);
    waitpid(child, NULL, 0);
}

int main(int count, char **argument)
{
    pthread_t thread;
    pid_t flipper = 0;
    long tries = 0, until;
    const char *path = "./target";
    char *words[] = {"target", NULL, NULL};
    if (count != 4)
        return 2;
    kind = argument[1];
    seed = (unsigned)getpid();
    until = now_us() + atol(argument[2]) * 1000;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(shared->word, "good");
    if (IS("sibling") || IS("peer") || IS("shared") || IS("memory")) {
        path = words[0] = argument[3];
        words[1] = IS("shared") ? shared->word : own_word;
        shared->address = own_word;
    } else if (IS("directory"))
        path = "folder/program";
    else if (IS("words")) {
        good_length = read_whole("good-script", good);
        evil_length = read_whole("evil-script", evil);
    } else {
        good_length = read_whole("good-program", good);
        evil_length = read_whole("evil-program", evil);
    }
    if (IS("peer"))
        pthread_create(&thread, NULL, flip, NULL);
    else if (!IS("sibling") && (flipper = fork()) == 0) {
        seed++;
        flip(NULL);
        _exit(0);
    }
    for (; now_us() < until && access("evil", F_OK); tries++)
        try_once(words, path);
    shared->over = 1;
    if (flipper)
        waitpid(flipper, NULL, 0);
    say("%ld", tries);
    return 0;
}
