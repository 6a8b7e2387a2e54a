"""Builds `sandlock._sys`: the cold kernel ABI, read from the kernel headers by the C compiler.

Rules: nothing here runs per notification or between clone and exec (that is `_core`). Every function is one
system call and returns its result, or -errno; errno itself is never part of the contract. Debian 12 compiles
against Linux 6.1 headers, so whatever is younger has a fallback with the number from the kernel source; where
the header knows it too, the compiler checks that both agree. `tests/test_host.py` compares it with
what `_native` knows.

Used at build time only (`cffi_modules` in setup.py), never imported at run time.
"""

from cffi import FFI  # type: ignore[import-untyped]

# What headers may miss. Linux source: include/uapi/linux/{landlock,seccomp,prctl,memfd,fcntl,audit}.h.
FALLBACKS = {
    "LANDLOCK_CREATE_RULESET_VERSION": "(1U << 0)",
    "LANDLOCK_CREATE_RULESET_ERRATA": "(1U << 1)",
    "LANDLOCK_ACCESS_FS_EXECUTE": "(1ULL << 0)",
    "LANDLOCK_ACCESS_FS_WRITE_FILE": "(1ULL << 1)",
    "LANDLOCK_ACCESS_FS_READ_FILE": "(1ULL << 2)",
    "LANDLOCK_ACCESS_FS_READ_DIR": "(1ULL << 3)",
    "LANDLOCK_ACCESS_FS_REMOVE_DIR": "(1ULL << 4)",
    "LANDLOCK_ACCESS_FS_REMOVE_FILE": "(1ULL << 5)",
    "LANDLOCK_ACCESS_FS_MAKE_CHAR": "(1ULL << 6)",
    "LANDLOCK_ACCESS_FS_MAKE_DIR": "(1ULL << 7)",
    "LANDLOCK_ACCESS_FS_MAKE_REG": "(1ULL << 8)",
    "LANDLOCK_ACCESS_FS_MAKE_SOCK": "(1ULL << 9)",
    "LANDLOCK_ACCESS_FS_MAKE_FIFO": "(1ULL << 10)",
    "LANDLOCK_ACCESS_FS_MAKE_BLOCK": "(1ULL << 11)",
    "LANDLOCK_ACCESS_FS_MAKE_SYM": "(1ULL << 12)",
    "LANDLOCK_ACCESS_FS_REFER": "(1ULL << 13)",
    "LANDLOCK_ACCESS_FS_TRUNCATE": "(1ULL << 14)",
    "LANDLOCK_ACCESS_FS_IOCTL_DEV": "(1ULL << 15)",
    "LANDLOCK_ACCESS_NET_BIND_TCP": "(1ULL << 0)",
    "LANDLOCK_ACCESS_NET_CONNECT_TCP": "(1ULL << 1)",
    "LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET": "(1ULL << 0)",
    "LANDLOCK_SCOPE_SIGNAL": "(1ULL << 1)",
    "LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF": "(1U << 0)",
    "LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON": "(1U << 1)",
    "LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF": "(1U << 2)",
    "SECCOMP_RET_USER_NOTIF": "0x7fc00000U",
    "SECCOMP_RET_KILL_PROCESS": "0x80000000U",
    "SECCOMP_RET_ERRNO": "0x00050000U",
    "SECCOMP_RET_ALLOW": "0x7fff0000U",
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": "(1UL << 3)",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": "(1UL << 5)",
    "SECCOMP_USER_NOTIF_FLAG_CONTINUE": "(1UL << 0)",
    "SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP": "(1UL << 0)",
    "SECCOMP_ADDFD_FLAG_SETFD": "(1UL << 0)",
    "SECCOMP_ADDFD_FLAG_SEND": "(1UL << 1)",
    "SECCOMP_IOCTL_NOTIF_RECV": "_IOWR('!', 0, struct seccomp_notif)",
    "SECCOMP_IOCTL_NOTIF_SEND": "_IOWR('!', 1, struct seccomp_notif_resp)",
    "SECCOMP_IOCTL_NOTIF_ID_VALID": "_IOW('!', 2, __u64)",
    "SECCOMP_IOCTL_NOTIF_ADDFD": "_IOW('!', 3, struct seccomp_notif_addfd)",
    "SECCOMP_IOCTL_NOTIF_SET_FLAGS": "_IOW('!', 4, __u64)",
    "MFD_CLOEXEC": "0x0001U",
    "MFD_ALLOW_SEALING": "0x0002U",
    "MFD_NOEXEC_SEAL": "0x0008U",
    "MFD_EXEC": "0x0010U",
    "F_ADD_SEALS": "(1024 + 9)",
    "F_SEAL_SEAL": "0x0001",
    "F_SEAL_SHRINK": "0x0002",
    "F_SEAL_GROW": "0x0004",
    "F_SEAL_WRITE": "0x0008",
    "F_SEAL_EXEC": "0x0020",
    "PR_SET_PDEATHSIG": "1",
    "PR_SET_DUMPABLE": "4",
    "PR_CAPBSET_READ": "23",
    "PR_CAPBSET_DROP": "24",
    "PR_SET_SECUREBITS": "28",
    "PR_SET_CHILD_SUBREAPER": "36",
    "PR_SET_NO_NEW_PRIVS": "38",
    "PR_GET_NO_NEW_PRIVS": "39",
    "PR_CAP_AMBIENT": "47",
    "PR_CAP_AMBIENT_CLEAR_ALL": "4",
    # not macros of the headers but numbers that this build is made with
    "SANDLOCK_AUDIT_ARCH": "NATIVE_AUDIT_ARCH",
}

# The structs that the kernel copies; own layouts for Landlock, because 6.1's headers stop at ABI 2.
SIZES = {
    "seccomp_data": "struct seccomp_data",
    "seccomp_notif": "struct seccomp_notif",
    "seccomp_notif_resp": "struct seccomp_notif_resp",
    "seccomp_notif_addfd": "struct seccomp_notif_addfd",
    "landlock_ruleset_attr": "struct ruleset_attr",
    "landlock_path_beneath_attr": "struct path_beneath_attr",
    "landlock_net_port_attr": "struct net_port_attr",
    "sock_filter": "struct sock_filter",
    "sock_fprog": "struct sock_fprog",
}

FUNCTIONS = """
int landlock_create_ruleset(uint64_t fs, uint64_t net, uint64_t scoped, int abi);
int landlock_query(uint32_t flags);
int landlock_add_path(int ruleset, int parent, uint64_t access);
int landlock_add_port(int ruleset, uint64_t port, uint64_t access);
int landlock_restrict_self(int ruleset, uint32_t flags);
int process_control(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int capabilities_get(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable);
int capabilities_set(uint64_t effective, uint64_t permitted, uint64_t inheritable);
int memfd_open(const char *name, unsigned int flags);
int memfd_seal(int fd, int seals);
int open_beneath(int directory, const char *path, uint64_t flags, uint64_t mode, int links);
int pidfd_open_process(int pid, unsigned int flags);
int pidfd_take(int pidfd, int fd);
int pidfd_signal(int pidfd, int signal);
int unshare_namespaces(int flags);
ssize_t memory_read(int pid, uint64_t address, void *to, size_t length);
int process_seize(int pid);
int seccomp_action_available(uint32_t action);
int seccomp_flags_known(unsigned int flags);
int seccomp_notif_sizes(uint16_t *notif_resp_data);
int seccomp_install(const void *instructions, size_t bytes, unsigned int flags);
int listener_set_flags(int listener, uint64_t flags);
int listener_receive(int listener, struct seccomp_notif *to);
int listener_send(int listener, const struct seccomp_notif_resp *answer);
"""

DECLARATIONS = """
struct seccomp_data { int nr; uint32_t arch; uint64_t instruction_pointer;
  unsigned long long args[6]; ...; };
struct seccomp_notif { uint64_t id; uint32_t pid; uint32_t flags; struct seccomp_data data; ...; };
struct seccomp_notif_resp { uint64_t id; int64_t val; int32_t error; uint32_t flags; ...; };
"""

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/memfd.h>
#include <linux/seccomp.h>

#if defined(__x86_64__) && !defined(__ILP32__)
#define NATIVE_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && !defined(__ILP32__)
#define NATIVE_AUDIT_ARCH AUDIT_ARCH_AARCH64
#else
#error "sandlock knows x86-64 and aarch64 (64-bit) only"
#endif

/* Numbers of the generic table, the same on both architectures (all are younger than 4.17). */
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif

/* include/uapi/linux/landlock.h as of ABI 7; names of our own so that older headers do not matter. */
struct ruleset_attr { uint64_t handled_access_fs, handled_access_net, scoped; };
struct path_beneath_attr { uint64_t allowed_access; int32_t parent_fd; } __attribute__((packed));
struct net_port_attr { uint64_t allowed_access, port; };
enum { RULE_PATH_BENEATH = 1, RULE_NET_PORT = 2 };
_Static_assert(sizeof(struct landlock_ruleset_attr) >= 8, "landlock header");
_Static_assert(sizeof(struct path_beneath_attr) == sizeof(struct landlock_path_beneath_attr), "header");

static long checked(long result) { return result < 0 ? -(long)errno : result; }

/* fs, net and scoped are what the ruleset handles; abi says how long a struct this kernel reads
   (ABI 1: 8, 4: 16, 6: 24 bytes). A bit that the abi has no room for is -E2BIG, never dropped in silence. */
static int landlock_create_ruleset(uint64_t fs, uint64_t net, uint64_t scoped, int abi)
{
    struct ruleset_attr attr = { fs, net, scoped };
    size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    if ((scoped && size < 24) || (net && size < 16))
        return -E2BIG;
    return (int)checked(syscall(__NR_landlock_create_ruleset, &attr, size, 0));
}

static int landlock_query(uint32_t flags)
{
    return (int)checked(syscall(__NR_landlock_create_ruleset, NULL, (size_t)0, flags));
}

static int landlock_add_path(int ruleset, int parent, uint64_t access)
{
    struct path_beneath_attr attr = { access, parent };
    return (int)checked(syscall(__NR_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &attr, 0));
}

static int landlock_add_port(int ruleset, uint64_t port, uint64_t access)
{
    struct net_port_attr attr = { access, port };
    return (int)checked(syscall(__NR_landlock_add_rule, ruleset, RULE_NET_PORT, &attr, 0));
}

static int landlock_restrict_self(int ruleset, uint32_t flags)
{
    return (int)checked(syscall(__NR_landlock_restrict_self, ruleset, flags));
}

static int process_control(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    return (int)checked(syscall(__NR_prctl, option, a, b, c, d));
}

/* Of the calling thread only, as the kernel does it (libcap's wrappers are per thread too). */
static int capabilities_get(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
    long result = checked(syscall(__NR_capget, &header, data));
    if (result == 0) {
        *effective = data[0].effective | (uint64_t)data[1].effective << 32;
        *permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
        *inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    }
    return (int)result;
}

static int capabilities_set(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
        { (uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable },
        { (uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32) },
    };
    return (int)checked(syscall(__NR_capset, &header, data));
}

static int memfd_open(const char *name, unsigned int flags)
{
    return (int)checked(syscall(__NR_memfd_create, name, flags));
}

/* openat2(2): no component leaves the directory, by whatever link (RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS); unless
 * `links`, none may be one (RESOLVE_NO_SYMLINKS). */
static int open_beneath(int directory, const char *path, uint64_t flags, uint64_t mode, int links)
{
    struct { uint64_t flags, mode, resolve; } how = { flags, mode, 0x08 | 0x02 | (links ? 0 : 0x04) };
    return (int)checked(syscall(437, directory, path, &how, sizeof how));
}

static int memfd_seal(int fd, int seals) { return (int)checked(fcntl(fd, F_ADD_SEALS, seals)); }

/* pidfd_open(2) sets close-on-exec by itself. */
static int pidfd_open_process(int pid, unsigned int flags)
{
    return (int)checked(syscall(__NR_pidfd_open, pid, flags));
}

static int pidfd_take(int pidfd, int fd) { return (int)checked(syscall(__NR_pidfd_getfd, pidfd, fd, 0)); }

static int pidfd_signal(int pidfd, int signal)
{
    return (int)checked(syscall(__NR_pidfd_send_signal, pidfd, signal, NULL, 0));
}

static int unshare_namespaces(int flags) { return (int)checked(syscall(__NR_unshare, flags)); }

/* PTRACE_SEIZE, until this process ends */
static int process_seize(int pid) { return (int)checked(syscall(__NR_ptrace, 0x4206, pid, 0, 0)); }

static ssize_t memory_read(int pid, uint64_t address, void *to, size_t length)
{
    struct iovec local = { to, length }, remote = { (void *)(uintptr_t)address, length };
    return checked(syscall(__NR_process_vm_readv, pid, &local, 1UL, &remote, 1UL, 0UL));
}

static int seccomp_action_available(uint32_t action)
{
    return (int)checked(syscall(__NR_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
}

/* A program at address 0: unknown flags are EINVAL; known ones go on to read it and fail with EFAULT. Returns
   1 when they are known, 0 when not, -errno when the call itself is refused. Changes nothing. */
static int seccomp_flags_known(unsigned int flags)
{
    long result = checked(syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL));
    return result == -EFAULT ? 1 : result == -EINVAL ? 0 : (int)result;
}

/* Three numbers, in bytes, in the order of struct seccomp_notif_sizes: notification, response, data. */
static int seccomp_notif_sizes(uint16_t *notif_resp_data)
{
    return (int)checked(syscall(__NR_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, notif_resp_data));
}

/* instructions: an array of struct sock_filter. Returns 0, or the listener if the flags ask for one, or
   -errno. */
static int seccomp_install(const void *instructions, size_t bytes, unsigned int flags)
{
    struct sock_fprog program;
    if (bytes % sizeof(struct sock_filter) || bytes / sizeof(struct sock_filter) > BPF_MAXINSNS)
        return -EINVAL;
    program.len = (unsigned short)(bytes / sizeof(struct sock_filter));
    program.filter = (struct sock_filter *)instructions;
    return (int)checked(syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

/* By value: given a pointer the kernel answers EINVAL. */
static int listener_set_flags(int listener, uint64_t flags)
{
    return (int)checked(ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags));
}

/* The kernel demands a zeroed struct. Only for kernels whose notification is no longer than ours: ask
   seccomp_notif_sizes first. */
static int listener_receive(int listener, struct seccomp_notif *to)
{
    *to = (struct seccomp_notif){ 0 };
    return (int)checked(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, to));
}

static int listener_send(int listener, const struct seccomp_notif_resp *answer)
{
    return (int)checked(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, answer));
}
"""


def fallback(name: str, value: str) -> str:
    """One constant that the build machine's headers may not know; where they do, they must agree."""
    agree = f'_Static_assert(({name}) == ({value}), "{name}");'
    return f"#ifdef {name}\n{agree}\n#else\n#define {name} {value}\n#endif\n"


def source() -> str:
    """The C half: includes, then the fallbacks (which may use the includes), then the functions."""
    head, mark, tail = SOURCE.partition("static long checked")
    constants = "".join(fallback(name, value) for name, value in FALLBACKS.items())
    sizes = "".join(f"#define SIZEOF_{name} sizeof({struct})\n" for name, struct in SIZES.items())
    return head + constants + sizes + mark + tail


def declarations() -> str:
    """The cffi half; `...` lets the compiler supply the number."""
    names = [*FALLBACKS, *(f"SIZEOF_{name}" for name in SIZES)]
    return DECLARATIONS + "".join(f"#define {name} ...\n" for name in names) + FUNCTIONS


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "sandlock._sys", source(), extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"]
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
