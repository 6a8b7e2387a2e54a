/* Ways to a file that is not granted. */
#include "attacks.h"
#include <dirent.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/xattr.h>

/* Spellings: each returns a descriptor for `path`, opened with `flags`, or -1. `spare` is a directory of ours. */

static int by_open(const char *path, int flags, const char *spare)
{
    (void)spare;
#ifdef SYS_open
    return (int)syscall(SYS_open, path, flags, 0600);
#else
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
#endif
}

static int by_openat(const char *path, int flags, const char *spare)
{
    (void)spare;
    return openat(AT_FDCWD, path, flags, 0600);
}

static int by_openat2(const char *path, int flags, const char *spare)
{
    struct open_how how = {.flags = (unsigned)flags, .mode = flags & O_CREAT ? 0600 : 0};
    (void)spare;
    return (int)syscall(NR_openat2, AT_FDCWD, path, &how, sizeof how);
}

static int reopen(const char *how, int fd, int flags)
{
    char name[64];
    snprintf(name, sizeof name, how, fd);
    return open(name, flags);
}

static int by_path_descriptor(const char *path, int flags, const char *spare)
{
    (void)spare;
    return reopen("/proc/self/fd/%d", open(path, O_PATH), flags);
}

static int by_dev_fd(const char *path, int flags, const char *spare)
{
    (void)spare;
    return reopen("/dev/fd/%d", open(path, O_PATH), flags);
}

static int by_thread_self(const char *path, int flags, const char *spare)
{
    (void)spare;
    return reopen("/proc/thread-self/fd/%d", open(path, O_PATH), flags);
}

static int prefixed(const char *prefix, const char *path, int flags)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s%s", prefix, path);
    return open(name, flags, 0600);
}

static int by_proc_root(const char *path, int flags, const char *spare)
{
    (void)spare;
    return prefixed("/proc/self/root", path, flags);
}

static int by_proc_pid_root(const char *path, int flags, const char *spare)
{
    char prefix[64];
    (void)spare;
    snprintf(prefix, sizeof prefix, "/proc/%d/task/%d/root", getpid(), getpid());
    return prefixed(prefix, path, flags);
}

static int by_proc_cwd(const char *path, int flags, const char *spare)
{
    char parent[PATH_MAX];
    (void)spare;
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    if (chdir(parent) < 0)
        return -1;
    return prefixed("/proc/self/cwd/", strrchr(path, '/') + 1, flags);
}

static int by_directory(const char *path, int flags, const char *spare)
{
    char parent[PATH_MAX];
    int directory;
    (void)spare;
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    directory = open(parent, O_PATH | O_DIRECTORY);
    return openat(directory, strrchr(path, '/') + 1, flags, 0600);
}

static int by_fchdir(const char *path, int flags, const char *spare)
{
    char parent[PATH_MAX];
    (void)spare;
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    if (fchdir(open(parent, O_PATH | O_DIRECTORY)) < 0)
        return -1;
    return open(strrchr(path, '/') + 1, flags, 0600);
}

static int by_dots(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX], *end = name + snprintf(name, sizeof name, "%s", spare);
    for (const char *at = spare; *at; at++)
        if (*at == '/')
            end += sprintf(end, "/..");
    strcpy(end, path);
    return open(name, flags, 0600);
}

static int by_slashes(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX];
    size_t length = 0;
    (void)spare;
    for (; *path && length < sizeof name - 8; path++)
        length += (size_t)sprintf(name + length, *path == '/' ? "//./" : "%c", *path);
    return open(name, flags, 0600);
}

static int by_longest_name(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX];
    size_t length = 0;
    (void)spare;
    while (length + 2 + strlen(path) < sizeof name - 1)
        length += (size_t)sprintf(name + length, "/.");
    strcpy(name + length, path);
    return open(name, flags, 0600);
}

static int by_symlink(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s/symbolic", spare);
    unlink(name);
    if (symlink(path, name) < 0)
        return -1;
    return open(name, flags, 0600);
}

static int by_symlink_chain(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX], target[PATH_MAX];
    snprintf(target, sizeof target, "%s", path);
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof name, "%s/chain%d", spare, i);
        unlink(name);
        if (symlink(target, name) < 0)
            return -1;
        snprintf(target, sizeof target, "%s", name);
    }
    return open(name, flags, 0600);
}

static int by_hard_link(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s/hard", spare);
    unlink(name);
    if (link(path, name) < 0)
        return -1;
    return open(name, flags);
}

static int by_hard_link_of_descriptor(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX], source[64];
    snprintf(name, sizeof name, "%s/harder", spare);
    snprintf(source, sizeof source, "/proc/self/fd/%d", open(path, O_PATH));
    unlink(name);
    if (linkat(AT_FDCWD, source, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0)
        return -1;
    return open(name, flags);
}

static int by_rename(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s/moved", spare);
    if (rename(path, name) < 0)
        return -1;
    return open(name, flags);
}

/* A name with a byte that is no UTF-8 on the way. */
static int by_strange_name(const char *path, int flags, const char *spare)
{
    char name[PATH_MAX], *end;
    int depth = 0;
    end = name + snprintf(name, sizeof name, "%s/\xff\xfe", spare);
    mkdir(name, 0700);
    for (const char *at = name; *at; at++)
        depth += *at == '/';
    while (depth--)
        end += sprintf(end, "/..");
    strcpy(end, path);
    return open(name, flags, 0600);
}

static const struct spelling {
    const char *name;
    int (*open)(const char *path, int flags, const char *spare);
} spellings[] = {
    {"open", by_open},
    {"openat", by_openat},
    {"openat2", by_openat2},
    {"path-descriptor", by_path_descriptor},
    {"dev-fd", by_dev_fd},
    {"thread-self", by_thread_self},
    {"proc-root", by_proc_root},
    {"proc-pid-root", by_proc_pid_root},
    {"proc-cwd", by_proc_cwd},
    {"directory", by_directory},
    {"fchdir", by_fchdir},
    {"dots", by_dots},
    {"slashes", by_slashes},
    {"longest-name", by_longest_name},
    {"strange-name", by_strange_name},
    {"symlink", by_symlink},
    {"symlink-chain", by_symlink_chain},
    {"hard-link", by_hard_link},
    {"hard-link-of-descriptor", by_hard_link_of_descriptor},
    {"rename", by_rename},
    {0},
};

static int list_spellings(char **argument)
{
    (void)argument;
    for (const struct spelling *spelling = spellings; spelling->name; spelling++)
        say("%s", spelling->name);
    return 0;
}

static int show(int fd)
{
    char buffer[4096];
    ssize_t length = TRY(read(fd, buffer, sizeof buffer - 1));
    buffer[length] = 0;
    say("content %s", buffer);
    return 0;
}

static int write_shared_mapping(int fd)
{
    char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return errno;
    memcpy(page, MARK, strlen(MARK));
    return 0;
}

/* open SPELLING INTENT PATH SPARE */
static int open_as(char **argument)
{
    const struct spelling *spelling = spellings;
    const char *intent = argument[1];
    int flags = O_RDONLY, fd;
    while (spelling->name && strcmp(spelling->name, argument[0]))
        spelling++;
    if (!spelling->name)
        return EINVAL;
    if (!strcmp(intent, "write"))
        flags = O_WRONLY;
    else if (!strcmp(intent, "append"))
        flags = O_WRONLY | O_APPEND;
    else if (!strcmp(intent, "map"))
        flags = O_RDWR;
    else if (!strcmp(intent, "truncate"))
        flags = O_RDONLY | O_TRUNC;
    fd = (int)TRY(spelling->open(argument[2], flags, argument[3]));
    if (flags == O_RDONLY)
        return show(fd);
    if (flags == O_RDWR)
        return write_shared_mapping(fd);
    if (!(flags & O_TRUNC))
        TRY(write(fd, MARK, strlen(MARK)));
    return 0;
}

/* Changes of names: OUTSIDE is a directory with `file`, `other` and `empty/`; GRANTED has `mine`. */

static const char *join(const char *directory, const char *name)
{
    static char names[4][PATH_MAX];
    static int next;
    char *joined = names[next++ % 4];
    snprintf(joined, PATH_MAX, "%s/%s", directory, name);
    return joined;
}

/* change HOW OUTSIDE GRANTED */
static int change(char **argument)
{
    const char *how = argument[0], *out = argument[1], *in = argument[2];
    int fd;
    if (IS("creat")) {
        fd = (int)TRY(creat(join(out, "file"), 0600));
        TRY(write(fd, MARK, strlen(MARK)));
    } else if (IS("create"))
        TRY(open(join(out, "new"), O_CREAT | O_EXCL | O_WRONLY, 0600));
    else if (IS("create-read-only"))
        TRY(open(join(out, "new"), O_CREAT | O_RDONLY, 0600));
    else if (IS("create-through-dangling-link")) {
        TRY(symlink(join(out, "new"), join(in, "dangling")));
        TRY(open(join(in, "dangling"), O_CREAT | O_WRONLY, 0600));
    } else if (IS("truncate"))
        TRY(truncate(join(out, "file"), 1));
    else if (IS("truncate-through-link")) {
        TRY(symlink(join(out, "file"), join(in, "link")));
        TRY(truncate(join(in, "link"), 1));
    } else if (IS("unlink"))
        TRY(unlink(join(out, "file")));
    else if (IS("unlinkat"))
        TRY(unlinkat(open(out, O_PATH), "file", 0));
    else if (IS("rmdir"))
        TRY(rmdir(join(out, "empty")));
    else if (IS("mkdir"))
        TRY(mkdir(join(out, "new"), 0700));
    else if (IS("mkdirat"))
        TRY(mkdirat(open(out, O_PATH), "new", 0700));
    else if (IS("symlink"))
        TRY(symlink("file", join(out, "new")));
    else if (IS("mkfifo"))
        TRY(mknod(join(out, "new"), S_IFIFO | 0600, 0));
    else if (IS("mknod-file"))
        TRY(mknod(join(out, "new"), S_IFREG | 0600, 0));
    else if (IS("link-within"))
        TRY(link(join(out, "file"), join(out, "new")));
    else if (IS("link-out"))
        TRY(link(join(in, "mine"), join(out, "new")));
    else if (IS("rename-within"))
        TRY(rename(join(out, "file"), join(out, "new")));
    else if (IS("rename-over"))
        TRY(rename(join(in, "mine"), join(out, "file")));
    else if (IS("rename-in"))
        TRY(rename(join(out, "file"), join(in, "new")));
    else if (IS("rename-directory"))
        TRY(rename(out, join(in, "stolen")));
    else if (IS("exchange"))
        TRY(syscall(SYS_renameat2, AT_FDCWD, join(in, "mine"), AT_FDCWD, join(out, "file"), 2 /* EXCHANGE */));
    else if (IS("nameless")) {
        fd = (int)TRY(open(out, O_TMPFILE | O_RDWR, 0600));
        TRY(linkat(AT_FDCWD, join("/proc/self/fd", (char[]){(char)('0' + fd), 0}), AT_FDCWD, join(out, "new"),
                   AT_SYMLINK_FOLLOW));
    } else if (IS("nameless-link-out")) {
        fd = (int)TRY(open(in, O_TMPFILE | O_RDWR, 0600));
        TRY(linkat(AT_FDCWD, join("/proc/self/fd", (char[]){(char)('0' + fd), 0}), AT_FDCWD, join(out, "new"),
                   AT_SYMLINK_FOLLOW));
    } else
        return EINVAL;
    return 0;
}

/* link-instead PATH TARGET: puts a link in the place of a directory */
static int link_instead(char **argument)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s-away", argument[0]);
    TRY(rename(argument[0], name));
    TRY(symlink(argument[1], argument[0]));
    return 0;
}

/* list-directory PATH */
static int list_directory(char **argument)
{
    char buffer[8192];
    int fd = (int)TRY(open(argument[0], O_RDONLY | O_DIRECTORY));
    long length = TRY(syscall(SYS_getdents64, fd, buffer, sizeof buffer));
    for (long at = 0; at < length;) {
        struct dirent64 *entry = (struct dirent64 *)(buffer + at);
        say("entry %s", entry->d_name);
        at += entry->d_reclen;
    }
    return 0;
}

/* mknod PATH c|b MAJOR MINOR */
static int make_node(char **argument)
{
    mode_t kind = argument[1][0] == 'b' ? S_IFBLK : S_IFCHR;
    TRY(mknod(argument[0], kind | 0600, (dev_t)((atoi(argument[2]) << 8) | atoi(argument[3]))));
    return 0;
}

/* descriptors: every number that is open, without looking at /proc */
static int descriptors(char **argument)
{
    (void)argument;
    for (int fd = 0; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            say("open %d", fd);
    return 0;
}

/* reopen-stdin NAME: stdin was opened read-only */
static int reopen_stdin(char **argument)
{
    int fd = (int)TRY(open(argument[0], O_WRONLY));
    TRY(write(fd, MARK, strlen(MARK)));
    return 0;
}

/* device-ioctl PATH: a harmless command that only a device understands (TCGETS or BLKGETSIZE64) */
static int device_ioctl(char **argument)
{
    int fd = (int)TRY(open(argument[0], O_RDONLY | O_NOCTTY | O_NONBLOCK));
    int pty;
    TRY(ioctl(fd, 0x80045430 /* TIOCGPTN */, &pty));
    return 0;
}

/* set-flag PATH COMMAND: the "no dump" flag, through a descriptor that can only read */
static int set_flag(char **argument)
{
    int fd = (int)TRY(open(argument[0], O_RDONLY)), flags = 0x40;
    TRY(syscall(SYS_ioctl, fd, strtoul(argument[1], 0, 0), &flags));
    return 0;
}

/* lease PATH COMMAND: holds up whoever opens the file for writing */
static int lease(char **argument)
{
    int fd = (int)TRY(open(argument[0], O_RDONLY));
    TRY(syscall(SYS_fcntl, fd, strtoul(argument[1], 0, 0), F_RDLCK));
    say("leased");
    linger();
    return 0;
}

/* ordinary-work GRANTED: what a program may expect of a writable directory */
static int ordinary_work(char **argument)
{
    const char *in = argument[0];
    char buffer[16];
    int fd;
    TRY(mkdir(join(in, "d"), 0755));
    fd = (int)TRY(open(join(in, "d/f"), O_CREAT | O_EXCL | O_RDWR, 0644));
    TRY(write(fd, "0123456789", 10));
    TRY(ftruncate(fd, 5));
    TRY(pread(fd, buffer, sizeof buffer, 0));
    TRY(fsync(fd));
    TRY(flock(fd, LOCK_EX));
    TRY(close(fd));
    TRY(truncate(join(in, "d/f"), 3));
    TRY(chmod(join(in, "d/f"), 0600));
    TRY(rename(join(in, "d/f"), join(in, "g")));
    TRY(link(join(in, "g"), join(in, "d/h")));
    TRY(symlink("g", join(in, "s")));
    TRY(open(join(in, "s"), O_WRONLY | O_TRUNC | O_APPEND));
    TRY(mkfifo(join(in, "fifo"), 0600));
    TRY(open(in, O_TMPFILE | O_RDWR, 0600));
    fd = (int)TRY(open(join(in, "g"), O_RDWR));
    TRY(ftruncate(fd, 4096));
    if (write_shared_mapping(fd))
        return errno;
    TRY(open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0666));
    TRY(unlink(join(in, "d/h")));
    TRY(rmdir(join(in, "d")));
    TRY(unlink(join(in, "fifo")));
    TRY(unlink(join(in, "s")));
    TRY(unlink(join(in, "g")));
    return 0;
}

const struct attack file_attacks[] = {
    {"spellings", 0, list_spellings},
    {"open", 4, open_as},
    {"change", 3, change},
    {"link-instead", 2, link_instead},
    {"list-directory", 1, list_directory},
    {"mknod", 4, make_node},
    {"descriptors", 0, descriptors},
    {"reopen-stdin", 1, reopen_stdin},
    {"device-ioctl", 1, device_ioctl},
    {"set-flag", 2, set_flag},
    {"lease", 2, lease},
    {"ordinary-work", 1, ordinary_work},
    {0},
};
