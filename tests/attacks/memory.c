/* Reading, changing and taking from processes outside. */
#include "attacks.h"
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

static int show(const char *bytes, size_t length)
{
    char text[4096];
    size_t used = 0;
    for (size_t i = 0; i < length && used < sizeof text - 1; i++)
        text[used++] = bytes[i] > ' ' && bytes[i] < 127 ? bytes[i] : ' ';
    text[used] = 0;
    say("read %s", text);
    return 0;
}

static int open_of(pid_t pid, const char *file, int flags)
{
    char name[128];
    snprintf(name, sizeof name, "/proc/%d/%s", pid, file);
    return open(name, flags);
}

static int read_all(const char *name)
{
    char buffer[4096];
    int fd = (int)TRY(open(name, O_RDONLY));
    ssize_t length = TRY(read(fd, buffer, sizeof buffer));
    return show(buffer, (size_t)length);
}

static int attach_and(pid_t pid, unsigned long address, int seize)
{
    long value;
    if (seize) {
        TRY(ptrace(PTRACE_SEIZE, pid, 0, 0));
        TRY(ptrace(PTRACE_INTERRUPT, pid, 0, 0));
    } else
        TRY(ptrace(PTRACE_ATTACH, pid, 0, 0));
    TRY(waitpid(pid, 0, __WALL));
    errno = 0;
    value = ptrace(PTRACE_PEEKDATA, pid, address, 0);
    if (errno)
        return errno;
    show((char *)&value, sizeof value);
    memcpy(&value, MARK, strlen(MARK));
    TRY(ptrace(PTRACE_POKEDATA, pid, address, value));
    TRY(ptrace(PTRACE_DETACH, pid, 0, 0));
    return 0;
}

/* peek HOW PID ADDRESS FD: reads what the victim keeps at ADDRESS, or in its file FD */
static int peek(char **argument)
{
    const char *how = argument[0];
    pid_t pid = atoi(argument[1]);
    unsigned long address = strtoul(argument[2], 0, 16);
    int theirs = atoi(argument[3]), fd;
    char buffer[64] = "", name[64];
    struct iovec mine = {buffer, 32}, their = {(void *)address, 32};
    ssize_t length;
    if (IS("process_vm_readv")) {
        TRY(syscall(SYS_process_vm_readv, pid, &mine, 1, &their, 1, 0));
        return show(buffer, 32);
    }
    if (IS("mem")) {
        fd = (int)TRY(open_of(pid, "mem", O_RDONLY));
        TRY(pread(fd, buffer, 32, (off_t)address));
        return show(buffer, 32);
    }
    if (IS("thread-mem")) {
        snprintf(name, sizeof name, "task/%d/mem", pid);
        fd = (int)TRY(open_of(pid, name, O_RDONLY));
        TRY(pread(fd, buffer, 32, (off_t)address));
        return show(buffer, 32);
    }
    if (IS("pidfd_getfd")) {
        fd = (int)TRY(syscall(NR_pidfd_getfd, syscall(NR_pidfd_open, pid, 0), theirs, 0));
        length = TRY(pread(fd, buffer, sizeof buffer, 0));
        return show(buffer, (size_t)length);
    }
    if (IS("fd")) {
        snprintf(name, sizeof name, "fd/%d", theirs);
        fd = (int)TRY(open_of(pid, name, O_RDONLY));
        length = TRY(pread(fd, buffer, sizeof buffer, 0));
        return show(buffer, (size_t)length);
    }
    return EINVAL;
}

/* poke HOW PID ADDRESS: changes what the victim keeps at ADDRESS */
static int poke(char **argument)
{
    const char *how = argument[0];
    pid_t pid = atoi(argument[1]);
    unsigned long address = strtoul(argument[2], 0, 16);
    struct iovec mine = {MARK, strlen(MARK)}, their = {(void *)address, strlen(MARK)};
    int fd;
    if (IS("process_vm_writev"))
        TRY(syscall(SYS_process_vm_writev, pid, &mine, 1, &their, 1, 0));
    else if (IS("mem")) {
        fd = (int)TRY(open_of(pid, "mem", O_RDWR));
        TRY(pwrite(fd, MARK, strlen(MARK), (off_t)address));
    } else if (IS("ptrace-attach"))
        return attach_and(pid, address, 0);
    else if (IS("ptrace-seize"))
        return attach_and(pid, address, 1);
    else
        return EINVAL;
    return 0;
}

/* learn FILE PID: a file or link of /proc/PID that only a tracer may read */
static int learn(char **argument)
{
    char name[128], target[512] = "";
    snprintf(name, sizeof name, "/proc/%s/%s", argument[1], argument[0]);
    if (!strcmp(argument[0], "exe") || !strcmp(argument[0], "cwd") || !strcmp(argument[0], "root")) {
        TRY(readlink(name, target, sizeof target - 1));
        return show(target, strlen(target));
    }
    return read_all(name);
}

/* through-root PID PATH: a file by another process's view of the tree */
static int through_root(char **argument)
{
    char name[PATH_MAX];
    snprintf(name, sizeof name, "/proc/%s/root%s", argument[0], argument[1]);
    return read_all(name);
}

/* handle HOW PID ADDRESS: calls on another process that read and change no bytes */
static int handle(char **argument)
{
    const char *how = argument[0];
    pid_t pid = atoi(argument[1]);
    void *page = (void *)strtoul(argument[2], 0, 16);
    struct iovec range = {page, 4096};
    unsigned long nodes = 1;
    int status = -1;
    if (IS("kcmp"))
        TRY(syscall(SYS_kcmp, getpid(), pid, 2 /* KCMP_VM */, 0, 0));
    else if (IS("process_madvise"))
        TRY(syscall(NR_process_madvise, syscall(NR_pidfd_open, pid, 0), &range, 1, 20 /* MADV_COLD */, 0));
    else if (IS("move_pages")) {
        TRY(syscall(SYS_move_pages, pid, 1, &page, 0, &status, 0));
        say("status %d", status);
    } else if (IS("migrate_pages"))
        TRY(syscall(SYS_migrate_pages, pid, 64, &nodes, &nodes));
    else
        return EINVAL;
    return 0;
}

/* parent-secrets: what the run's init keeps from its user */
static int parent_secrets(char **argument)
{
    static const char *const files[] = {"mem", "environ", "maps", "auxv", "stack", "syscall", "pagemap"};
    char name[64], target[64];
    (void)argument;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int fd = open_of(getppid(), files[i], O_RDONLY);
        char byte;
        say("parent %s %s", files[i], fd >= 0 && read(fd, &byte, 1) > 0 ? "0" : word(errno));
    }
    for (int fd = 0; fd < 2; fd++) {
        snprintf(name, sizeof name, "/proc/%d/fd/%d", getppid(), fd);
        say("parent fd%d %s", fd, readlink(name, target, sizeof target) > 0 ? "0" : word(errno));
    }
    return 0;
}

const struct attack memory_attacks[] = {
    {"peek", 4, peek},
    {"poke", 3, poke},
    {"learn", 2, learn},
    {"through-root", 2, through_root},
    {"handle", 3, handle},
    {"parent-secrets", 0, parent_secrets},
    {0},
};
