/* System calls that nobody needs in a sandbox, and other ways to make them. */
#include "attacks.h"
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

/* numbers N...: what each answers to arguments that make no sense; a word for each */
static int numbers(char **argument)
{
    for (; *argument; argument++) {
        long nr = strtol(*argument, 0, 0);
        errno = 0;
        syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
        say("%s %s", *argument, word(errno));
    }
    return 0;
}

/* call NR ARGUMENT...: one call, as it is given */
static int call(char **argument)
{
    long value[7] = {0};
    for (int i = 0; i < 7 && argument[i]; i++)
        value[i] = (long)strtoul(argument[i], 0, 0);
    TRY(syscall(value[0], value[1], value[2], value[3], value[4], value[5], value[6]));
    return 0;
}

#ifdef __x86_64__
/* The 32-bit ABI's getpid and open, from 64-bit code. Whoever filters by 64-bit numbers sees others. */
static long int80(long nr, long first, long second, long third)
{
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(nr), "b"(first), "c"(second), "d"(third)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

/* A far call into 32-bit code, which makes the system call and returns. All of it lies below 4 GiB. */
static long far_call(long nr, long first, long second, long third)
{
    static const unsigned char code[] = {
        0xcd, 0x80, /* int $0x80 */
        0xcb,       /* lret */
    };
    static struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } target = {0, 0x23 /* __USER32_CS */}; /* static: the stack pointer moves below */
    char *low = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    long result;
    if (low == MAP_FAILED)
        return -errno;
    memcpy(low, code, sizeof code);
    target.offset = (uint32_t)(uintptr_t)low;
    __asm__ volatile("mov %%rsp, %%r12\n\t"
                     "mov %5, %%rsp\n\t"
                     "lcall *%6\n\t"
                     "mov %%r12, %%rsp"
                     : "=a"(result)
                     : "a"(nr), "b"(first), "c"(second), "d"(third), "r"(low + 8192 - 64), "m"(target)
                     : "memory", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
    return result;
}

/* foreign HOW PATH: i386's creat(2), number 8 */
static int foreign(char **argument)
{
    char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    long result;
    if (low == MAP_FAILED)
        return errno;
    strcpy(low, argument[1]);
    result = strcmp(argument[0], "far-call") ? int80(8, (long)low, 0600, 0) : far_call(8, (long)low, 0600, 0);
    return result < 0 ? (int)-result : 0;
}
#else
static int foreign(char **argument)
{
    (void)argument;
    return ENOSYS;
}
#endif

/* uring PATH: reads a file by io_uring, which asks no filter */
static int uring(char **argument)
{
    unsigned parameters[30] = {0};
    int fd = (int)TRY(syscall(NR_io_uring_setup, 4, parameters));
    /* struct io_uring_params: sq_off at byte 40, cq_off at 80 */
    char *rings = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    unsigned char(*entry)[64] = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0x10000000);
    unsigned *queue = parameters + 10, *done = parameters + 20;
    int directory = AT_FDCWD, result;
    uint64_t path = (uint64_t)(uintptr_t)argument[0];
    char buffer[256];
    if (rings == MAP_FAILED || (void *)entry == MAP_FAILED)
        return errno;
    memset(*entry, 0, 64);
    (*entry)[0] = 18; /* IORING_OP_OPENAT */
    memcpy(*entry + 4, &directory, 4);
    memcpy(*entry + 16, &path, 8);
    ((unsigned *)(rings + queue[6]))[0] = 0; /* array */
    __atomic_store_n((unsigned *)(rings + queue[1]), 1, __ATOMIC_RELEASE);
    TRY(syscall(NR_io_uring_enter, fd, 1, 1, 1 /* GETEVENTS */, 0, 0));
    memcpy(&result, rings + done[5] + 8, 4); /* the first completion's res */
    if (result < 0)
        return -result;
    result = (int)TRY(read(result, buffer, sizeof buffer - 1));
    buffer[result] = 0;
    say("read %s", buffer);
    return 0;
}

/* aio PATH: writes a file by Linux AIO */
static int aio(char **argument)
{
    aio_context_t context = 0;
    int fd = (int)TRY(open(argument[0], O_WRONLY));
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PWRITE,
                           .aio_fildes = (unsigned)fd,
                           .aio_buf = (uintptr_t)MARK,
                           .aio_nbytes = strlen(MARK)};
    struct iocb *requests[] = {&request};
    struct io_event event;
    TRY(syscall(SYS_io_setup, 4, &context));
    TRY(syscall(SYS_io_submit, context, 1, requests));
    TRY(syscall(SYS_io_getevents, context, 1, 1, &event, 0));
    return 0;
}

static int loaded_map(void)
{
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    TRY(syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
    return 0;
}

static int perf(void)
{
    struct perf_event_attr clock = {.type = PERF_TYPE_SOFTWARE,
                                    .size = sizeof clock,
                                    .config = PERF_COUNT_SW_TASK_CLOCK,
                                    .exclude_kernel = 1,
                                    .exclude_hv = 1};
    TRY(syscall(SYS_perf_event_open, &clock, 0, -1, -1, 0));
    return 0;
}

static int trace_child(void)
{
    pid_t child = (pid_t)TRY(fork());
    int error = 0;
    if (!child) {
        for (;;)
            pause();
    }
    if (ptrace(PTRACE_SEIZE, child, 0, 0) < 0)
        error = errno;
    kill(child, SIGKILL);
    children_status(child);
    return error;
}

static int handle_of(void)
{
    struct {
        struct file_handle handle;
        unsigned char bytes[128];
    } name = {.handle = {.handle_bytes = 128}};
    int mount;
    TRY(name_to_handle_at(AT_FDCWD, "/", &name.handle, &mount, 0));
    return 0;
}

/* forbidden HOW: a call that works for ordinary users, or for root, and that no sandbox grants */
static int forbidden(char **argument)
{
    const char *how = argument[0];
    unsigned char segment[16] = {0};
    if (IS("bpf"))
        return loaded_map();
    if (IS("perf"))
        return perf();
    if (IS("ptrace"))
        return trace_child();
    if (IS("name-to-handle"))
        return handle_of();
    if (IS("userfaultfd"))
        TRY(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
    else if (IS("add-key"))
        TRY(syscall(SYS_add_key, "user", "sandlock-attack", "x", 1, -2 /* process keyring */));
    else if (IS("keyctl"))
        TRY(syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -2, 1));
    else if (IS("shmget")) {
        int id = (int)TRY(syscall(SYS_shmget, 0 /* IPC_PRIVATE */, 4096, 0600));
        TRY(syscall(SYS_shmctl, id, 0 /* IPC_RMID */, 0));
    } else if (IS("semget")) {
        int id = (int)TRY(syscall(SYS_semget, 0, 1, 0600));
        TRY(syscall(SYS_semctl, id, 0, 0 /* IPC_RMID */, 0));
    } else if (IS("msgget")) {
        int id = (int)TRY(syscall(SYS_msgget, 0, 0600));
        TRY(syscall(SYS_msgctl, id, 0 /* IPC_RMID */, 0));
    } else if (IS("mq_open")) {
        char name[32];
        snprintf(name, sizeof name, "sandlock-%d", getpid());
        TRY(syscall(SYS_mq_open, name, O_CREAT | O_RDWR, 0600, 0));
        TRY(syscall(SYS_mq_unlink, name));
    } else if (IS("process_vm_readv-self"))
        TRY(syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0));
    else if (IS("kcmp-self"))
        TRY(syscall(SYS_kcmp, getpid(), getpid(), 2, 0, 0));
    else if (IS("seccomp-listener")) {
        struct sock_filter allow = {0x06, 0, 0, SECCOMP_RET_ALLOW};
        struct sock_fprog program = {1, &allow};
        TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
    } else if (IS("seccomp-listener-high-bits")) {
        struct sock_filter allow = {0x06, 0, 0, SECCOMP_RET_ALLOW};
        struct sock_fprog program = {1, &allow};
        TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        TRY(syscall(SYS_seccomp, (1L << 40) | SECCOMP_SET_MODE_FILTER, (1L << 40) | SECCOMP_FILTER_FLAG_NEW_LISTENER,
                    &program));
    }
#ifdef __x86_64__
    else if (IS("modify_ldt"))
        TRY(syscall(SYS_modify_ldt, 0, segment, sizeof segment));
#endif
    else if (IS("fanotify"))
        TRY(syscall(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, 0));
    else if (IS("statmount")) {
        struct {
            uint32_t size, spare;
            uint64_t mount, parameter, space;
        } request = {24, 0, UINT64_MAX /* LSMT_ROOT */, 0, 0};
        uint64_t mounts[16];
        TRY(syscall(458 /* listmount */, &request, mounts, 16, 0));
    } else if (IS("chroot"))
        TRY(chroot("/"));
    else
        return EINVAL;
    (void)segment;
    return 0;
}

/* enter-namespace HOW FLAG: unshare or clone, then waits to be looked at */
static int enter_namespace(char **argument)
{
    const char *how = argument[0];
    unsigned long flag = strtoul(argument[1], 0, 0);
    pid_t child;
    if (IS("unshare")) {
        TRY(syscall(SYS_unshare, flag));
        if ((flag & CLONE_NEWPID) && (child = (pid_t)TRY(fork()))) { /* a namespace of processes is the children's */
            children_status(child);
            _exit(0);
        }
    } else if (IS("clone") || IS("clone3")) {
        uint64_t arguments[11] = {flag, 0, 0, 0, SIGCHLD};
        long created = how[5] ? syscall(NR_clone3, arguments, sizeof arguments)
                            : syscall(SYS_clone, flag | SIGCHLD, 0, 0, 0, 0);
        if (created < 0)
            return errno;
        if (created) {
            children_status((pid_t)created);
            _exit(0);
        }
    } else
        return EINVAL;
    say("entered %ld", flag);
    linger();
    return 0;
}

/* set-namespace NAME: its own, again */
static int set_namespace(char **argument)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/ns/%s", argument[0]);
    TRY(setns((int)TRY(open(name, O_RDONLY)), 0));
    return 0;
}

/* mount HOW TARGET: an empty file system over TARGET */
static int mount_something(char **argument)
{
    const char *how = argument[0], *target = argument[1];
    int context, tree;
    if (IS("mount"))
        TRY(mount("none", target, "tmpfs", 0, "size=4k"));
    else if (IS("bind"))
        TRY(mount("/proc", target, 0, MS_BIND, 0));
    else if (IS("fsopen")) {
        context = (int)TRY(syscall(NR_fsopen, "tmpfs", 0));
        TRY(syscall(NR_fsconfig, context, 6 /* CMD_CREATE */, 0, 0, 0));
        tree = (int)TRY(syscall(NR_fsmount, context, 0, 0));
        TRY(syscall(NR_move_mount, tree, "", AT_FDCWD, target, 4 /* F_EMPTY_PATH */));
    } else if (IS("open_tree")) {
        tree = (int)TRY(syscall(NR_open_tree, AT_FDCWD, "/proc", 1 /* OPEN_TREE_CLONE */));
        TRY(syscall(NR_move_mount, tree, "", AT_FDCWD, target, 4));
    } else
        return EINVAL;
    return 0;
}

/* change-root TARGET: a file `inside` there becomes /inside */
static int change_root(char **argument)
{
    TRY(chroot(argument[0]));
    TRY(open("/inside", O_RDONLY));
    say("inside");
    return 0;
}

/* set-personality VALUE: and waits to be looked at */
static int set_personality(char **argument)
{
    TRY(syscall(SYS_personality, strtoul(argument[0], 0, 0)));
    say("persona");
    linger();
    return 0;
}

/* type-in TEXT COMMAND: types into the terminal on stdin */
static int type_in(char **argument)
{
    unsigned long command = strtoul(argument[1], 0, 0);
    for (const char *at = argument[0]; *at; at++)
        TRY(syscall(SYS_ioctl, 0, command, at));
    return 0;
}

/* prctl OPTION VALUE */
static int set_process(char **argument)
{
    TRY(syscall(SYS_prctl, strtoul(argument[0], 0, 0), strtoul(argument[1], 0, 0), 0, 0, 0));
    say("set");
    linger();
    return 0;
}

/* What must work inside */

static int stack_filter(void)
{
    struct sock_filter code[] = {
        {0x20, 0, 0, 0},                                   /* the number */
        {0x15, 0, 1, SYS_getppid},                         /* getppid? */
        {0x06, 0, 0, SECCOMP_RET_ERRNO | EDOM},            /* a made up error */
        {0x06, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {4, code};
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
    if (syscall(SYS_getppid) != -1 || errno != EDOM)
        return EIO;
    TRY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
    return 0;
}

static int stack_domain(const char *file)
{
    struct landlock_ruleset_attr nothing = {.handled_access_fs = LANDLOCK_ACCESS_FS_READ_FILE};
    int ruleset;
    TRY(open(file, O_RDONLY));
    ruleset = (int)TRY(syscall(NR_landlock_create_ruleset, &nothing, sizeof nothing, 0));
    TRY(syscall(NR_landlock_restrict_self, ruleset, 0));
    return open(file, O_RDONLY) < 0 && errno == EACCES ? 0 : EIO;
}

/* stack FILE: filters and a Landlock domain of its own, as browsers and sshd do */
static int stack(char **argument)
{
    int error = stack_filter();
    return error ? error : stack_domain(argument[0]);
}

/* fallbacks: libc and friends cope with what answers ENOSYS */
static int fallbacks(char **argument)
{
    pid_t child = (pid_t)TRY(fork());
    (void)argument;
    if (!child)
        _exit(7);
    if (WEXITSTATUS(children_status(child)) != 7)
        return EIO;
    TRY(personality(0xffffffff));
    TRY(personality(0));
    TRY(unshare(CLONE_FILES | CLONE_FS));
    TRY(syscall(SYS_memfd_create, "x", 0));
    TRY(prctl(PR_SET_NAME, "renamed"));
    TRY(prctl(PR_SET_CHILD_SUBREAPER, 1));
    TRY(prctl(PR_SET_PDEATHSIG, 0));
    return 0;
}

const struct attack syscall_attacks[] = {
    {"numbers", 1, numbers},
    {"call", 1, call},
    {"foreign", 2, foreign},
    {"uring", 1, uring},
    {"aio", 1, aio},
    {"forbidden", 1, forbidden},
    {"enter-namespace", 2, enter_namespace},
    {"set-namespace", 1, set_namespace},
    {"mount", 2, mount_something},
    {"change-root", 1, change_root},
    {"set-personality", 1, set_personality},
    {"type-in", 2, type_in},
    {"prctl", 2, set_process},
    {"stack", 1, stack},
    {"fallbacks", 0, fallbacks},
    {0},
};
