# The kernel ABI that the hot path and the launch use, declared once.
# Debian 12's headers (6.1) are older than some of it: what they lack carries our own number, and a test compares
# every number with what cffi and the running kernel say.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "_rawsys.h" nogil:
    long raw_syscall(long nr, long a, long b, long c, long d, long e, long f) noexcept
    long raw_clone(
        unsigned long flags, void *stack_top, int *child_tid, int (*function)(void *) noexcept nogil, void *argument
    ) noexcept
    ctypedef struct CloneArguments "struct raw_clone_arguments":
        unsigned long long flags
        unsigned long long child_tid
        unsigned long long stack
        unsigned long long stack_size
    long raw_clone3(CloneArguments *arguments, int (*function)(void *) noexcept nogil, void *argument) noexcept
    const unsigned long long CLONE_CLEAR_SIGHAND "RAW_CLONE_CLEAR_SIGHAND"

cdef extern from "_message.h" nogil:
    ctypedef struct Message "struct message":
        int kind
        int pid
        int step
        int error
        int subject
        int status
        int reason
        int survivors
        long long user_microseconds
        long long system_microseconds
    const int MESSAGE_LAUNCHED
    const int MESSAGE_FAILED
    const int MESSAGE_MAP_IDS
    const int MESSAGE_ENDED
    const int MESSAGE_PAUSED
    const int MESSAGE_RESUMED
    const int COMMAND_PAUSE
    const int COMMAND_RESUME

cdef extern from "<poll.h>" nogil:
    ctypedef struct PollDescriptor "struct pollfd":
        int fd
        short events
        short revents
    const short POLLHUP
    const short POLLIN
    const short POLLOUT

cdef extern from * nogil:
    """
    #include <linux/close_range.h>
    #include <linux/prctl.h>
    /* struct __kernel_timespec, which futex(2), ppoll(2) and nanosleep(2) take */
    struct sandlock_duration { long long seconds; long long nanoseconds; };
    """
    const unsigned int CLOSE_RANGE_UNSHARE
    const int PR_SET_NAME
    const int PR_SET_PDEATHSIG
    ctypedef struct Duration "struct sandlock_duration":
        long long seconds
        long long nanoseconds

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_bind
    const long SYS_capget
    const long SYS_capset
    const long SYS_chdir
    const long SYS_clock_gettime
    const long SYS_close
    const long SYS_close_range
    const long SYS_connect
    const long SYS_dup3
    const long SYS_eventfd2
    const long SYS_execve
    const long SYS_execveat
    const long SYS_exit_group
    const long SYS_fchdir
    const long SYS_fcntl
    const long SYS_fstat
    const long SYS_futex
    const long SYS_getdents64
    const long SYS_getpgid
    const long SYS_getpid
    const long SYS_getppid
    const long SYS_gettid
    const long SYS_getsockname
    const long SYS_getsockopt
    const long SYS_ioctl
    const long SYS_kill
    const long SYS_landlock_add_rule
    const long SYS_landlock_create_ruleset
    const long SYS_landlock_restrict_self
    const long SYS_listen
    const long SYS_memfd_create
    const long SYS_openat
    const long SYS_openat2
    const long SYS_personality
    const long SYS_pidfd_getfd
    const long SYS_pidfd_open
    const long SYS_pidfd_send_signal
    const long SYS_nanosleep
    const long SYS_ppoll
    const long SYS_prctl
    const long SYS_pread64
    const long SYS_prlimit64
    const long SYS_process_vm_readv
    const long SYS_process_vm_writev
    const long SYS_ptrace
    const long SYS_read
    const long SYS_rt_sigaction
    const long SYS_rt_sigprocmask
    const long SYS_sched_setaffinity
    const long SYS_sched_yield
    const long SYS_seccomp
    const long SYS_sendmsg
    const long SYS_sendmmsg
    const long SYS_sendto
    const long SYS_setpgid
    const long SYS_setsid
    const long SYS_shutdown
    const long SYS_socketpair
    const long SYS_tgkill
    const long SYS_tkill
    const long SYS_umask
    const long SYS_unshare
    const long SYS_wait4
    const long SYS_waitid
    const long SYS_write

cdef extern from * nogil:
    """
    #include <linux/audit.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <sys/ioctl.h>
    #include <sys/types.h>
    #include <stddef.h>
    #include <stdint.h>

    #ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS          /* Linux 6.6 */
    #define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, uint64_t)
    #endif
    #ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP     /* Linux 6.6 */
    #define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
    #endif
    #ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV /* Linux 5.19 */
    #define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
    #endif

    /* <linux/landlock.h> as of ABI 7. */
    struct sandlock_ruleset_attr { uint64_t handled_access_fs, handled_access_net, scoped; };
    struct sandlock_path_beneath_attr { uint64_t allowed_access; int32_t parent_fd; } __attribute__((packed));
    struct sandlock_net_port_attr { uint64_t allowed_access, port; };
    """
    ctypedef struct Instruction "struct sock_filter":
        pass
    ctypedef struct FilterProgram "struct sock_fprog":
        unsigned short len
        Instruction *filter
    ctypedef struct NotificationData "struct seccomp_data":
        int nr
        uint32_t arch
        uint64_t instruction_pointer
        uint64_t args[6]
    ctypedef struct Notification "struct seccomp_notif":
        uint64_t id
        uint32_t pid
        uint32_t flags
        NotificationData data
    ctypedef struct Response "struct seccomp_notif_resp":
        uint64_t id
        int64_t val
        int32_t error
        uint32_t flags
    ctypedef struct AddDescriptor "struct seccomp_notif_addfd":
        uint64_t id
        uint32_t flags
        uint32_t srcfd
        uint32_t newfd
        uint32_t newfd_flags
    ctypedef struct NotificationSizes "struct seccomp_notif_sizes":
        uint16_t seccomp_notif
        uint16_t seccomp_notif_resp
        uint16_t seccomp_data
    ctypedef struct RulesetAttr "struct sandlock_ruleset_attr":
        uint64_t handled_access_fs
        uint64_t handled_access_net
        uint64_t scoped
    ctypedef struct PathBeneathAttr "struct sandlock_path_beneath_attr":
        uint64_t allowed_access
        int32_t parent_fd
    ctypedef struct NetPortAttr "struct sandlock_net_port_attr":
        uint64_t allowed_access
        uint64_t port
    const unsigned long SECCOMP_IOCTL_NOTIF_RECV
    const unsigned long SECCOMP_IOCTL_NOTIF_SEND
    const unsigned long SECCOMP_IOCTL_NOTIF_ID_VALID
    const unsigned long SECCOMP_IOCTL_NOTIF_ADDFD
    const unsigned long SECCOMP_IOCTL_NOTIF_SET_FLAGS
    const unsigned long SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
    const unsigned long SECCOMP_FILTER_FLAG_NEW_LISTENER
    const unsigned long SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    const unsigned int SECCOMP_SET_MODE_FILTER
    const unsigned int SECCOMP_GET_NOTIF_SIZES
    const unsigned int SECCOMP_USER_NOTIF_FLAG_CONTINUE


cdef inline long call0(long nr) noexcept nogil:
    return raw_syscall(nr, 0, 0, 0, 0, 0, 0)


cdef inline long call1(long nr, long a) noexcept nogil:
    return raw_syscall(nr, a, 0, 0, 0, 0, 0)


cdef inline long call2(long nr, long a, long b) noexcept nogil:
    return raw_syscall(nr, a, b, 0, 0, 0, 0)


cdef inline long call3(long nr, long a, long b, long c) noexcept nogil:
    return raw_syscall(nr, a, b, c, 0, 0, 0)


cdef inline long call4(long nr, long a, long b, long c, long d) noexcept nogil:
    return raw_syscall(nr, a, b, c, d, 0, 0)


cdef inline long call5(long nr, long a, long b, long c, long d, long e) noexcept nogil:
    return raw_syscall(nr, a, b, c, d, e, 0)


cdef inline Duration duration_of(int64_t milliseconds) noexcept nogil:
    return Duration(seconds=milliseconds // 1000, nanoseconds=(milliseconds % 1000) * 1000000)


cdef inline long set_prctl(long option, long a, long b) noexcept nogil:
    return call5(SYS_prctl, option, a, b, 0, 0)


cdef inline int dies_with(long host) noexcept nogil:
    """Has the kernel kill this helper when the host's thread that cloned it ends. Returns 0 where the host is dead
    already: of that the kernel tells nobody any more. prctl(2)."""
    set_prctl(PR_SET_PDEATHSIG, 9, 0)      # SIGKILL
    return call0(SYS_getppid) == host
