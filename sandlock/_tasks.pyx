"""The tasks of a run, as its supervisor thread sees them: who they are, how many they are, ending one.

Membership needs no bookkeeping: the supervisor thread is in the run's outer Landlock domain, whose signal scope lets
signal 0 reach the tasks of the run and no other (landlock(7), ABI 6). Without the scope the parent chain decides.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._linux cimport (
    CLOSE_RANGE_UNSHARE, SYS_clock_gettime, SYS_close, SYS_close_range, SYS_getdents64, SYS_ioctl, SYS_kill,
    SYS_openat, SYS_pidfd_open, SYS_read, SYS_tkill, raw_syscall,
)

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int EINTR

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CLOEXEC
    const int O_DIRECTORY

cdef extern from "<signal.h>" nogil:
    const int SIGKILL

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #ifdef SYS_fork
    #define SANDLOCK_SYS_FORK SYS_fork
    #else
    #define SANDLOCK_SYS_FORK -2               /* aarch64 has clone(2) only */
    #endif
    """
    const long SYS_FORK "SANDLOCK_SYS_FORK"
    const long SYS_CLONE "SYS_clone"
    const long SYS_newfstatat
    const long SYS_readlinkat
    ctypedef struct Status "struct stat":
        unsigned long st_nlink

cdef extern from "<dirent.h>" nogil:
    pass

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <sys/ioctl.h>
    struct sandlock_dirent { uint64_t inode; int64_t offset; unsigned short length; unsigned char type; char name[]; };
    struct sandlock_clock { long long seconds; long long nanoseconds; };
    struct sandlock_pidfd_info {                   /* struct pidfd_info as of Linux 6.13 */
        uint64_t mask, cgroup; uint32_t pid, tgid, parent, ids[8]; int32_t exit_code;
    };
    #define SANDLOCK_PIDFD_GET_INFO _IOWR(0xFF, 11, struct sandlock_pidfd_info)
    """
    ctypedef struct DirectoryEntry "struct sandlock_dirent":
        unsigned short length
        char *name
    const long PIDFD_GET_INFO "SANDLOCK_PIDFD_GET_INFO"
    ctypedef struct PidfdInfo "struct sandlock_pidfd_info":
        uint32_t pid
        uint32_t tgid
    ctypedef struct Clock "struct sandlock_clock":
        long long seconds
        long long nanoseconds

cdef enum:
    CLOCK_MONOTONIC = 1
    CLONE_VFORK = 0x4000
    PIDFD_THREAD = 0o200    # Linux 6.9
    LANDED_MS = 1000        # a fork that was let go this long ago has happened
    STAT_SIZE = 512
    LIST_SIZE = 8192
    PENDING_ROOM = 256
    MAX_DEPTH = 1024
    MAX_CHAIN = 16
    MAX_HELPERS = 13
    STATUS_SIZE = 4096


cdef int64_t now_ns() noexcept nogil:
    cdef Clock clock
    raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, <long>&clock, 0, 0, 0, 0)
    return clock.seconds * 1000000000 + clock.nanoseconds


cdef int64_t now_ms() noexcept nogil:
    return now_ns() // 1000000


cdef int kill_task(pid_t tid) noexcept nogil:
    """SIGKILL for the task's process. From inside the domain it can only hit a task of this run."""
    return <int>raw_syscall(SYS_tkill, tid, SIGKILL, 0, 0, 0, 0)


cdef int keep_few(int *descriptors, int count) noexcept nogil:
    """A descriptor table of its own, with these in it (negative ones are none) and nothing else of the host's; sorts
    them. Returns 0 or -errno."""
    cdef long result
    cdef int i, j, next = -1
    for i in range(count):
        for j in range(i, 0, -1):
            if descriptors[j - 1] > descriptors[j]:
                descriptors[j - 1], descriptors[j] = descriptors[j], descriptors[j - 1]
    result = raw_syscall(
        SYS_close_range, descriptors[count - 1] + 1, <long>0xFFFFFFFF, CLOSE_RANGE_UNSHARE, 0, 0, 0
    )
    if result < 0:
        return <int>result
    for i in range(count):
        if descriptors[i] > next + 1:
            raw_syscall(SYS_close_range, next + 1, descriptors[i] - 1, 0, 0, 0, 0)
        if descriptors[i] >= 0:
            next = descriptors[i]
    return 0


cdef int put_number(char *into, long value) noexcept nogil:
    """Writes a number in decimal, with a NUL (at most 21 bytes). Returns its length."""
    cdef char digits[20]
    cdef unsigned long left = <unsigned long>value
    cdef int count = 0, at = 0
    if value < 0:
        into[0] = 45  # '-'
        at = 1
        left = 0 - left
    while left > 0 or count == 0:
        digits[count] = <char>(48 + left % 10)
        left = left // 10
        count += 1
    while count > 0:
        count -= 1
        into[at] = digits[count]
        at += 1
    into[at] = 0
    return at


cdef int format_proc_path(char *into, pid_t pid, const char *name) noexcept nogil:
    """Writes "/proc/PID/name" (at most 64 bytes with a name of at most 40). Returns the length."""
    cdef int length = 6, count = 0
    memcpy(into, <const char *>b"/proc/", 6)
    length += put_number(into + length, pid)
    if name[0] != 0:
        into[length] = 47  # '/'
        length += 1
    while name[count] != 0 and count < 40:
        into[length] = name[count]
        length += 1
        count += 1
    into[length] = 0
    return length


cdef long read_proc_file(const char *path, char *into, size_t size) noexcept nogil:
    """The start of a small file, NUL-terminated. Returns the length or -errno."""
    cdef long fd = raw_syscall(SYS_openat, AT_FDCWD, <long>path, O_CLOEXEC, 0, 0, 0)
    cdef long length
    if fd < 0:
        return fd
    length = raw_syscall(SYS_read, fd, <long>into, <long>(size - 1), 0, 0, 0)
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0)
    if length >= 0:
        into[length] = 0
    return length


cdef const char *stat_field(const char *stat, long length, int number) noexcept nogil:
    """Field `number` (3 is the state) of a /proc/PID/stat line: counted from the last ')', for a name may hold any
    byte. proc_pid_stat(5)."""
    cdef long at = length - 1
    cdef int field = 2
    while at >= 0 and stat[at] != 41:  # ')'
        at -= 1
    if at < 0:
        return NULL
    while at < length:
        if stat[at] == 32:  # ' '
            field += 1
            if field == number:
                return stat + at + 1
        at += 1
    return NULL


cdef long parse_number(const char *text) noexcept nogil:
    cdef long value = 0
    while 48 <= text[0] <= 57:
        value = value * 10 + (text[0] - 48)
        text += 1
    return value


cdef long read_stat(pid_t pid, char *into) noexcept nogil:
    cdef char path[64]
    format_proc_path(path, pid, b"stat")
    return read_proc_file(path, into, STAT_SIZE)


cdef pid_t parent_of(pid_t pid) noexcept nogil:
    """The parent's process id, or 0 when the task is gone."""
    cdef char stat[STAT_SIZE]
    cdef long length = read_stat(pid, stat)
    cdef const char *field
    if length <= 0:
        return 0
    field = stat_field(stat, length, 4)
    return 0 if field == NULL else <pid_t>parse_number(field)


cdef long list_chain(pid_t pid, pid_t init, char *into, long size) noexcept nogil:
    """The files of the processes above one, nearest first, up to the run's init, each with a NUL. Returns the bytes.
    Only advice: they are looked up one after the other, and who has lost its parent has the init for one."""
    cdef char link[64]
    cdef long at = 0, length
    cdef int _depth
    for _depth in range(MAX_CHAIN):
        pid = parent_of(pid)
        if pid <= 1 or pid == init:
            break
        format_proc_path(link, pid, b"exe")
        length = raw_syscall(SYS_readlinkat, AT_FDCWD, <long>link, <long>(into + at), size - at - 1, 0, 0)
        if length <= 0 or at + length >= size - 1:
            break
        at += length + 1
        into[at - 1] = 0
    return at


cdef pid_t thread_group_by_pidfd(pid_t tid) noexcept nogil:
    """The process of a task, or 0 where the kernel cannot say it this way: PIDFD_GET_INFO, Linux 6.13."""
    cdef PidfdInfo info
    cdef long result, pidfd = raw_syscall(SYS_pidfd_open, tid, PIDFD_THREAD, 0, 0, 0, 0)
    if pidfd < 0:
        return 0
    memset(&info, 0, sizeof(info))
    result = raw_syscall(SYS_ioctl, pidfd, PIDFD_GET_INFO, <long>&info, 0, 0, 0)
    raw_syscall(SYS_close, pidfd, 0, 0, 0, 0, 0)
    return <pid_t>info.tgid if result == 0 and <pid_t>info.pid == tid else 0


cdef pid_t thread_group_of(pid_t tid) noexcept nogil:
    """The process of a task, or 0 when it is gone."""
    cdef pid_t known = thread_group_by_pidfd(tid)       # 4 us; to have /proc/TID/status written takes 20
    return known if known != 0 else thread_group_by_status(tid)


cdef int is_single_threaded(pid_t pid) noexcept nogil:
    """Whether a process has one thread, for sure: /proc/PID/task has a link for each, besides its own two."""
    cdef char path[64]
    cdef Status status
    format_proc_path(path, pid, b"task")
    return raw_syscall(SYS_newfstatat, AT_FDCWD, <long>path, <long>&status, 0, 0, 0) == 0 and status.st_nlink == 3


cdef pid_t thread_group_by_status(pid_t tid) noexcept nogil:
    """The process of a task (Tgid in /proc/TID/status), or 0 when it is gone."""
    cdef char path[64]
    cdef char status[STAT_SIZE]
    cdef long length, at
    format_proc_path(path, tid, b"status")
    length = read_proc_file(path, status, STAT_SIZE)
    # The Name line comes first and escapes its newlines, so a line that starts with "Tgid:" is the kernel's.
    for at in range(length - 6):
        if (
            status[at] == 10 and status[at + 1] == 84 and status[at + 2] == 103 and status[at + 3] == 105
            and status[at + 4] == 100 and status[at + 5] == 58
        ):
            return <pid_t>parse_number(status + at + 7)
    return 0


cdef const char *status_field(const char *status, long length, const char *name) noexcept nogil:
    """The value of a line of /proc/TID/status, by "\nName:\t"; NULL if there is none. Only the first line, the name,
    is not the kernel's own, and its newlines are escaped."""
    cdef long at
    cdef int i
    for at in range(length):
        i = 0
        while name[i] != 0 and at + i < length and status[at + i] == name[i]:
            i += 1
        if name[i] == 0:
            return status + at + i
    return NULL


cdef uint64_t parse_digits(const char *text, int base) noexcept nogil:
    """An octal or hexadecimal number."""
    cdef uint64_t value = 0
    cdef int digit
    while text != NULL:
        digit = text[0] - 48
        if 49 <= digit <= 54:        # 'a' to 'f'
            digit -= 39
        if digit < 0 or digit >= base:
            break
        value = value * <uint64_t>base + <uint64_t>digit
        text += 1
    return value


cdef long umask_of(pid_t tid) noexcept nogil:
    """The umask of a task, or -1."""
    cdef char path[64]
    cdef char status[STATUS_SIZE]
    cdef const char *field
    cdef long length
    format_proc_path(path, tid, b"status")
    length = read_proc_file(path, status, STATUS_SIZE)
    field = status_field(status, length, b"\nUmask:\t")
    return -1 if field == NULL else <long>parse_digits(field, 8)


cdef uint64_t caught_signals(pid_t tid) noexcept nogil:
    """The signals that wait for a task, that it does not block, and that it handles: a set, 0 also if it is gone."""
    cdef char path[64]
    cdef char status[STATUS_SIZE]
    cdef long length
    cdef uint64_t pending
    format_proc_path(path, tid, b"status")
    length = read_proc_file(path, status, STATUS_SIZE)
    pending = parse_digits(status_field(status, length, b"\nSigPnd:\t"), 16)
    pending |= parse_digits(status_field(status, length, b"\nShdPnd:\t"), 16)
    return (
        pending & ~parse_digits(status_field(status, length, b"\nSigBlk:\t"), 16)
        & parse_digits(status_field(status, length, b"\nSigCgt:\t"), 16)
    )


cdef int is_alive(pid_t pid) noexcept nogil:
    """Runs, sleeps or is stopped; a zombie whose threads have all ended is not alive."""
    cdef char stat[STAT_SIZE]
    cdef long length = read_stat(pid, stat)
    cdef const char *state
    cdef const char *threads
    if length <= 0:
        return 0
    state = stat_field(stat, length, 3)
    threads = stat_field(stat, length, 20)
    if state == NULL or threads == NULL:
        return 1
    if state[0] == 90 or state[0] == 88:  # 'Z', 'X'
        return parse_number(threads) > 1
    return 1


cdef int is_member(const Ledger *ledger, pid_t pid, pid_t init) noexcept nogil:
    """A process of this run, other than its init."""
    cdef int _depth
    if pid == init or pid == ledger.host:
        return 0
    for _depth in range(MAX_HELPERS):
        if pid == ledger.helpers[_depth]:
            return 0
    if ledger.scoped:
        return raw_syscall(SYS_kill, pid, 0, 0, 0, 0, 0) == 0
    for _depth in range(MAX_DEPTH):
        pid = parent_of(pid)
        if pid == init:
            return 1
        if pid <= 1:
            return 0
    return 1    # deeper than any honest tree: counted


cdef int count_processes(const Ledger *ledger, pid_t init) noexcept nogil:
    """The live processes of the run, or -errno."""
    cdef char entries[LIST_SIZE]
    cdef DirectoryEntry *entry
    cdef long length, at
    cdef pid_t pid
    cdef int count = 0
    cdef long fd = raw_syscall(SYS_openat, AT_FDCWD, <long><const char *>b"/proc", O_DIRECTORY | O_CLOEXEC, 0, 0, 0)
    if fd < 0:
        return <int>fd
    while True:
        length = raw_syscall(SYS_getdents64, fd, <long>entries, LIST_SIZE, 0, 0, 0)
        if length <= 0:
            break
        at = 0
        while at < length:
            entry = <DirectoryEntry *>(entries + at)
            at += entry.length
            pid = <pid_t>parse_number(entry.name)
            if pid > 0 and is_member(ledger, pid, init) and is_alive(pid):
                count += 1
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0)
    return count if length == 0 else <int>length


cdef int list_tasks(pid_t pid, pid_t *into, int limit) noexcept nogil:
    """The tasks of a process, at most `limit` of them. Returns how many, or -errno."""
    cdef char entries[LIST_SIZE]
    cdef char path[64]
    cdef DirectoryEntry *entry
    cdef long fd, length, at
    cdef pid_t tid
    cdef int count = 0
    format_proc_path(path, pid, b"task")
    fd = raw_syscall(SYS_openat, AT_FDCWD, <long>path, O_DIRECTORY | O_CLOEXEC, 0, 0, 0)
    if fd < 0:
        return <int>fd
    while count < limit:
        length = raw_syscall(SYS_getdents64, fd, <long>entries, LIST_SIZE, 0, 0, 0)
        if length <= 0:
            break
        at = 0
        while at < length and count < limit:
            entry = <DirectoryEntry *>(entries + at)
            at += entry.length
            tid = <pid_t>parse_number(entry.name)
            if tid > 0:
                into[count] = tid
                count += 1
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0)
    return count


cdef int is_vfork(const char *text) noexcept nogil:
    """Of a line of /proc/TID/syscall: whether the first argument, the flags of clone(2), has CLONE_VFORK."""
    while text[0] != 0 and text[0] != 120:  # 'x', of "0x"
        text += 1
    return text[0] != 0 and parse_digits(text + 1, 16) & CLONE_VFORK != 0


cdef int may_still_fork(const PendingFork *pending, int64_t now) noexcept nogil:
    """A task that was let into fork and has not left it: its child may yet appear.

    /proc/TID/syscall says "running" for a task that is not blocked, else the call and its arguments: it may wait for a
    lock in fork. A parent blocked in vfork has its child.
    """
    cdef char path[64]
    cdef char text[32]
    cdef long number
    if now - pending.since_ms > LANDED_MS:
        return 0
    format_proc_path(path, pending.tid, b"syscall")
    if read_proc_file(path, text, sizeof(text)) < 4:
        return 0    # gone
    if text[0] == 114 and text[1] == 117 and text[2] == 110:  # "run"
        return 1
    number = parse_number(text)
    if number == SYS_CLONE:
        return not is_vfork(text)
    return number == SYS_FORK


cdef int recount(Ledger *ledger, pid_t init, pid_t caller) noexcept nogil:
    """Makes the bound exact: live processes plus forks that may still happen. Returns 0 or -errno."""
    cdef int64_t now = now_ms()
    cdef int kept = 0, i
    cdef int live
    # The pending ones first: a child that appears between the two looks is counted twice, never missed.
    for i in range(ledger.pending_count):
        if ledger.pending[i].tid != caller and may_still_fork(&ledger.pending[i], now):
            ledger.pending[kept] = ledger.pending[i]
            kept += 1
    ledger.pending_count = kept
    live = count_processes(ledger, init)
    if live < 0:
        return live
    ledger.bound = live + kept
    return 0


cdef void note_pending(Ledger *ledger, pid_t caller) noexcept nogil:
    """A task is in one fork at a time: if it is back, its last one has happened."""
    cdef int i = 0
    while i < ledger.pending_count and ledger.pending[i].tid != caller:
        i += 1
    if i == ledger.pending_count:
        ledger.pending_count += 1
    ledger.pending[i].tid = caller
    ledger.pending[i].since_ms = now_ms()


cdef int count_fork(Ledger *ledger, pid_t init, pid_t caller) noexcept nogil:
    """Whether one more process fits under the limit: 0, or EAGAIN as fork(2) says it."""
    if ledger.bound >= ledger.limit or ledger.pending_count >= PENDING_ROOM:
        if recount(ledger, init, caller) < 0 or ledger.bound >= ledger.limit or ledger.pending_count >= PENDING_ROOM:
            return EAGAIN
    ledger.bound += 1
    note_pending(ledger, caller)
    return 0
