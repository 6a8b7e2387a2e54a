/* Path calls as the arguments say, one line of output for each. An argument is a call and its words with '|' between;
 * a word "@" is the descriptor that the last "keep" made, "." the working directory. Linked statically: it runs where there
 * are no libraries. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#define WORDS 8

static int kept = -1;

static void tell(const char *what, long result)
{
    if (result < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, result);
}

static int base(const char *word)
{
    return strcmp(word, "@") == 0 ? kept : AT_FDCWD;
}

static int flags_of(const char *word)
{
    static const struct { char name; int flag; } known[] = {
        {'w', O_WRONLY}, {'b', O_RDWR}, {'c', O_CREAT}, {'t', O_TRUNC}, {'x', O_EXCL}, {'d', O_DIRECTORY},
        {'n', O_NOFOLLOW}, {'p', O_PATH}, {'m', O_TMPFILE}, {'a', O_APPEND},
    };
    int flags = 0;
    for (; *word; word++)
        for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
            if (known[i].name == *word)
                flags |= known[i].flag;
    return flags;
}

static void show(const char *what, int file, int flags)
{
    char text[256] = "";
    ssize_t length = 0;
    if (file < 0) {
        tell(what, file);
        return;
    }
    if ((flags & O_ACCMODE) != O_RDONLY) {
        tell(what, write(file, "new\n", 4));
    } else {
        length = read(file, text, sizeof(text) - 1);
        if (length < 0)
            tell(what, length);
        else
            printf("%s: '%.*s'\n", what, (int)strcspn(text, "\n"), text);
    }
    close(file);
}

static int by_name(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

static void list(const char *what, const char *path)
{
    static char *names[4096];
    struct dirent *entry;
    int count = 0;
    DIR *directory = opendir(path);
    if (directory == NULL) {
        tell(what, -1);
        return;
    }
    while ((entry = readdir(directory)) && count < 4096)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            names[count++] = strdup(entry->d_name);
    closedir(directory);
    qsort(names, count, sizeof(*names), by_name);
    printf("%s:", what);
    for (int i = 0; i < count; i++)
        printf(" %s", names[i]);
    printf("\n");
}

static void look(const char *what, int at, const char *path, int flags)
{
    struct stat status;
    if (fstatat(at, path, &status, flags) < 0) {
        tell(what, -1);
        return;
    }
    printf("%s: %o %ld\n", what, status.st_mode, S_ISREG(status.st_mode) ? (long)status.st_size : 0L);
}

static void look_closely(const char *what, const char *path)
{
    struct stat s;
    if (lstat(path, &s) < 0) {
        tell(what, -1);
        return;
    }
    printf("%s: %lu %lu %o %lu %u %u %lu %ld %ld %ld %ld.%09ld %ld.%09ld %ld.%09ld\n", what, (unsigned long)s.st_dev,
           (unsigned long)s.st_ino, s.st_mode, (unsigned long)s.st_nlink, s.st_uid, s.st_gid, (unsigned long)s.st_rdev,
           (long)s.st_size, (long)s.st_blksize, (long)s.st_blocks, (long)s.st_atim.tv_sec, (long)s.st_atim.tv_nsec,
           (long)s.st_mtim.tv_sec, (long)s.st_mtim.tv_nsec, (long)s.st_ctim.tv_sec, (long)s.st_ctim.tv_nsec);
}

static int address(struct sockaddr_un *name, const char *path)
{
    memset(name, 0, sizeof(*name));
    name->sun_family = AF_UNIX;
    strncpy(name->sun_path, path, sizeof(name->sun_path) - 1);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static void *turn(void *names)
{
    char **name = names;
    for (;;)
        renameat2(AT_FDCWD, name[0], AT_FDCWD, name[1], RENAME_EXCHANGE);
    return NULL;
}

static char flipped[4096];
static const char *spellings[2];

static void *flip(void *unused)
{
    for (unsigned i = 0;; i++) {
        strcpy(flipped, spellings[i & 1]);
        for (volatile int wait = 0; wait < 5000; wait++)
            ;
    }
    return unused;
}

/* race|A|B|PATH|COUNT: A and B change places while PATH is opened; what was read, each once. */
static void race(char **word)
{
    static char seen[8][64];
    char text[64];
    pthread_t thread;
    int kinds = 0;
    pthread_create(&thread, NULL, turn, &word[1]);
    for (long i = atol(word[4]); i > 0; i--) {
        int file = open(word[3], O_RDONLY);
        int known = 0;
        if (file < 0) {
            snprintf(text, sizeof(text), "%s", strerrorname_np(errno));
        } else {
            ssize_t length = read(file, text, sizeof(text) - 1);
            text[length > 0 ? length : 0] = 0;
            text[strcspn(text, "\n")] = 0;
            close(file);
        }
        for (int k = 0; k < kinds; k++)
            known |= strcmp(seen[k], text) == 0;
        if (!known && kinds < 8)
            strcpy(seen[kinds++], text);
    }
    for (int k = 0; k < kinds; k++)
        printf("race: %s\n", seen[k]);
}

/* flip|ONE|OTHER|COUNT: chdir by a path that another thread writes over; where that led, each once. */
static void flip_directory(char **word)
{
    static char seen[8][256];
    char text[256];
    pthread_t thread;
    int kinds = 0;
    spellings[0] = word[1];
    spellings[1] = word[2];
    pthread_create(&thread, NULL, flip, NULL);
    for (long i = atol(word[3]); i > 0; i--) {
        int known = 0;
        if (chdir(flipped) < 0)
            snprintf(text, sizeof(text), "%s", strerrorname_np(errno));
        else if (syscall(SYS_getcwd, text, sizeof(text)) < 0)
            snprintf(text, sizeof(text), "no cwd: %s", strerrorname_np(errno));
        for (int k = 0; k < kinds; k++)
            known |= strcmp(seen[k], text) == 0;
        if (!known && kinds < 8)
            strcpy(seen[kinds++], text);
    }
    for (int k = 0; k < kinds; k++)
        printf("flip: %s\n", seen[k]);
}

/* received: a descriptor that comes by stdin, which is a socket, is kept. */
static void receive(void)
{
    char byte, room[CMSG_SPACE(sizeof(int))];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    struct cmsghdr *control;
    if (recvmsg(0, &message, 0) < 0 || !(control = CMSG_FIRSTHDR(&message))) {
        tell("received", -1);
        return;
    }
    memcpy(&kept, CMSG_DATA(control), sizeof(kept));
    printf("received: %d\n", kept >= 0);
}

static void act(const char *what, char **word)
{
    char text[4096];
    struct stat status;
    struct statfs system;
    struct sockaddr_un name;
    struct open_how how = {0};
    long result;
    const char *call = word[0];
#define IS(name) (strcmp(call, name) == 0)
    if (IS("open")) {
        show(what, open(word[2], flags_of(word[1]), 0640), flags_of(word[1]));
    } else if (IS("legacy")) {
#ifdef SYS_open
        show(what, syscall(SYS_open, word[2], flags_of(word[1]), 0640), flags_of(word[1]));
#else
        show(what, open(word[2], flags_of(word[1]), 0640), flags_of(word[1]));
#endif
    } else if (IS("openat")) {
        show(what, openat(base(word[1]), word[3], flags_of(word[2]), 0640), flags_of(word[2]));
    } else if (IS("openat2")) {
        how.flags = flags_of(word[2]);
        how.resolve = strtoul(word[4], NULL, 16);
        show(what, syscall(SYS_openat2, base(word[1]), word[3], &how, sizeof(how)), flags_of(word[2]));
    } else if (IS("creat")) {
        show(what, creat(word[1], 0600), O_WRONLY);
    } else if (IS("keep")) {
        kept = open(word[2], flags_of(word[1]));
        tell(what, kept < 0 ? -1 : 0);
    } else if (IS("received")) {
        receive();
    } else if (IS("list")) {
        list(what, word[1]);
    } else if (IS("closely")) {
        look_closely(what, word[1]);
    } else if (IS("stat")) {
        look(what, AT_FDCWD, word[1], 0);
    } else if (IS("statat")) {
        look(what, base(word[1]), word[2], 0);
    } else if (IS("lstat")) {
        look(what, AT_FDCWD, word[1], AT_SYMLINK_NOFOLLOW);
    } else if (IS("statx")) {
        struct statx more;
        result = statx(AT_FDCWD, word[1], 0, STATX_BASIC_STATS, &more);
        tell(what, result < 0 ? result : (long)more.stx_size);
    } else if (IS("access")) {
        tell(what, access(word[1], atoi(word[2])));
    } else if (IS("readlink") || IS("readlinkat")) {
        const char *path = IS("readlink") ? word[1] : word[2];
        result = readlinkat(IS("readlink") ? AT_FDCWD : base(word[1]), path, text, sizeof(text) - 1);
        if (result < 0)
            tell(what, result);
        else
            printf("%s: %.*s\n", what, (int)result, text);
    } else if (IS("statfs")) {
        tell(what, statfs(word[1], &system));
    } else if (IS("chdir")) {
        tell(what, chdir(word[1]));
    } else if (IS("fchdir")) {
        tell(what, fchdir(kept));
    } else if (IS("getcwd")) {
        result = syscall(SYS_getcwd, text, sizeof(text));
        if (result < 0)
            tell(what, result);
        else
            printf("%s: %s %d\n", what, text, result == (long)strlen(text) + 1);
    } else if (IS("mkdir")) {
        tell(what, mkdir(word[1], 0750));
    } else if (IS("rmdir")) {
        tell(what, rmdir(word[1]));
    } else if (IS("unlink")) {
        tell(what, unlink(word[1]));
    } else if (IS("rename")) {
        tell(what, rename(word[1], word[2]));
    } else if (IS("rename2")) {
        tell(what, renameat2(AT_FDCWD, word[1], AT_FDCWD, word[2], atoi(word[3])));
    } else if (IS("link")) {
        tell(what, link(word[1], word[2]));
    } else if (IS("symlink")) {
        tell(what, symlink(word[1], word[2]));
    } else if (IS("mkfifo")) {
        tell(what, mkfifo(word[1], 0600));
    } else if (IS("chmod")) {
        tell(what, chmod(word[1], strtoul(word[2], NULL, 8)));
    } else if (IS("fchmodat2")) {
        tell(what, syscall(452, AT_FDCWD, word[1], strtoul(word[2], NULL, 8), 0));
    } else if (IS("chown")) {
        tell(what, chown(word[1], getuid(), getgid()));
    } else if (IS("lchown")) {
        tell(what, lchown(word[1], getuid(), getgid()));
    } else if (IS("truncate")) {
        tell(what, truncate(word[1], atol(word[2])));
    } else if (IS("utime")) {
        struct utimbuf times = {1, 1};
        tell(what, utime(word[1], &times));
    } else if (IS("utimes")) {
        struct timeval times[2] = {{1, 0}, {1, 0}};
        tell(what, utimes(word[1], times));
    } else if (IS("utimensat")) {
        struct timespec times[2] = {{1, 0}, {1, 0}};
        tell(what, utimensat(AT_FDCWD, word[1], times, 0));
    } else if (IS("setxattr")) {
        tell(what, setxattr(word[1], "user.sandlock", "v", 1, 0));
    } else if (IS("getxattr")) {
        tell(what, getxattr(word[1], "user.sandlock", text, sizeof(text)));
    } else if (IS("listxattr")) {
        tell(what, listxattr(word[1], text, sizeof(text)));
    } else if (IS("inotify")) {
        tell(what, inotify_add_watch(inotify_init1(0), word[1], IN_CREATE) < 0 ? -1 : 0);
    } else if (IS("bind")) {
        int socket = address(&name, word[1]);
        tell(what, socket < 0 ? -1 : bind(socket, (struct sockaddr *)&name, sizeof(name)));
        if (socket >= 0)
            listen(socket, 1);
    } else if (IS("connect")) {
        int socket = address(&name, word[1]);
        tell(what, socket < 0 ? -1 : connect(socket, (struct sockaddr *)&name, sizeof(name)));
    } else if (IS("exec")) {
        pid_t child = fork();
        int end = 0;
        fflush(stdout);
        if (child == 0) {
            char *argv[] = {word[1], word[2], NULL};
            execv(word[1], argv);
            _exit(errno == EACCES ? 126 : 127);
        }
        waitpid(child, &end, 0);
        printf("%s: %d\n", what, WIFEXITED(end) ? WEXITSTATUS(end) : -WTERMSIG(end));
    } else if (IS("raw")) {
        result = syscall(atol(word[1]), word[2], word[3], 0L, 0L, 0L, 0L);
        tell(what, result);
    } else if (IS("seek")) {        /* readdir, telldir and seekdir over a whole directory, entry by entry */
        DIR *directory = opendir(word[1]);
        int count = 0;
        for (long at = telldir(directory); readdir(directory) && count < 1000; at = telldir(directory)) {
            count++;
            (void)at;
        }
        rewinddir(directory);
        int again = 0;
        while (readdir(directory) && again < 1000)
            again++;
        printf("%s: %d %d\n", what, count, again);
    } else if (IS("race")) {
        race(word);
    } else if (IS("flip")) {
        flip_directory(word);
    } else {
        printf("%s: what?\n", what);
    }
    (void)status;
}

int main(int count, char **argument)
{
    char copy[65536];
    char *word[WORDS];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; i++) {
        int words = 0;
        memset(word, 0, sizeof(word));
        snprintf(copy, sizeof(copy), "%s", argument[i]);
        for (char *at = copy; at && words < WORDS;)
            word[words++] = strsep(&at, "|");
        for (int k = words; k < WORDS; k++)
            word[k] = "";
        act(argument[i], word);
    }
    return 0;
}
