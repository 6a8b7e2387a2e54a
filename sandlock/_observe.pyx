"""What ran: a record of each program that the tree executed, with its times and its exit status.

Advisory: nothing here decides anything, every failure costs at most a record or a status.

An exec is seen twice. At execve nothing is certain yet (the call may fail, its arguments may change), so what it says
is kept as pending. A program's libc then calls set_tid_address once at its start: now /proc says what was really
loaded, and that becomes the record. Programs without a libc (static Go) never call it; they are found out when the
process has another image than before: at its next exec, when it has children, or by looking a little later. What ended
before that is recorded unconfirmed if its file looks executable.

How processes end is watched by a second thread with a descriptor table of its own: the host's table never holds more
than one descriptor of ours, however many processes are watched.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._linux cimport (
    Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_close, SYS_close_range, SYS_execveat, SYS_ioctl, SYS_openat,
    SYS_pidfd_open, SYS_pidfd_send_signal, SYS_read, SYS_shutdown, SYS_write, raw_syscall,
)
from sandlock._memory cimport read_string, read_strings
from sandlock._run cimport Run
from sandlock._tasks cimport format_proc_path, parent_of, read_proc_file, thread_group_of

cdef extern from "<errno.h>" nogil:
    const int EINTR
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int AT_EMPTY_PATH
    const int AT_FDCWD
    const int O_CLOEXEC
    const int O_NOCTTY
    const int O_NONBLOCK

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_attr_init(pthread_attr_t *attr) noexcept
    int pthread_attr_setstacksize(pthread_attr_t *attr, size_t size) noexcept
    int pthread_attr_destroy(pthread_attr_t *attr) noexcept
    int pthread_create(
        pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *) noexcept nogil, void *argument
    ) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attr) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct Span "struct iovec":
        void *iov_base
        size_t iov_len
    ctypedef struct SocketMessage "struct msghdr":
        Span *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    ctypedef struct ControlMessage "struct cmsghdr":
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    ControlMessage *CMSG_FIRSTHDR(SocketMessage *message) noexcept
    void *CMSG_DATA(ControlMessage *control) noexcept
    size_t CMSG_LEN(size_t length) noexcept
    size_t CMSG_SPACE(size_t length) noexcept
    const int AF_UNIX
    const int MSG_CMSG_CLOEXEC
    const int MSG_DONTWAIT
    const int MSG_NOSIGNAL
    const int SCM_RIGHTS
    const int SHUT_WR
    const int SOCK_CLOEXEC
    const int SOCK_SEQPACKET
    const int SOL_SOCKET

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union EventData "epoll_data_t":
        int fd
    ctypedef struct Event "struct epoll_event":
        uint32_t events
        EventData data
    const int EPOLLHUP
    const int EPOLLIN
    const int EPOLL_CLOEXEC
    const int EPOLL_CTL_ADD
    const int EPOLL_CTL_DEL
    const int EPOLL_CTL_MOD

cdef extern from "<time.h>" nogil:
    ctypedef struct Clock "struct timespec":
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, Clock *into) noexcept
    const int CLOCK_MONOTONIC

cdef extern from * nogil:
    """
    #include <linux/close_range.h>
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* <linux/pidfd.h> as of Linux 6.15, PIDFD_INFO_SIZE_VER0; exit_code came in 6.15 in the place of a spare field. */
    struct sandlock_pidfd_info { uint64_t mask, cgroupid; uint32_t ids[11]; int32_t exit_code; };
    #define SANDLOCK_PIDFD_GET_INFO _IOWR(0xFF, 11, struct sandlock_pidfd_info)
    """
    ctypedef struct ProcessInfo "struct sandlock_pidfd_info":
        uint64_t mask
        int32_t exit_code
    const unsigned long PIDFD_GET_INFO "SANDLOCK_PIDFD_GET_INFO"
    const unsigned int CLOSE_RANGE_UNSHARE
    const int X_OK
    const long SYS_epoll_create1
    const long SYS_epoll_ctl
    const long SYS_epoll_pwait
    const long SYS_faccessat
    const long SYS_readlinkat
    const long SYS_recvmsg
    const long SYS_sendmsg
    const long SYS_socketpair

cdef enum:
    MAX_RECORDS = 10000
    MAX_PROCESSES = 10000
    MAX_WATCHED = 4096               # descriptors of the watching thread
    MAX_TEXT = 8 << 20               # bytes of all records together
    MAX_ARGV = 16384                 # bytes of one record's argv
    MAX_PENDING_ARGV = 4096
    MAX_PENDING_WORDS = 256
    MAX_PATH = 4096                  # PATH_MAX
    MAX_DEPTH = 64                   # generations without an exec between a program and the one that started it
    WATCHER_STACK = 131072
    STAT_SIZE = 1024
    STAT_FIELDS = 53                 # proc_pid_stat(5) counts from 1
    EVENTS = 64
    LAST_LOOKS_MS = 100              # for exits, after the tree is gone
    NO_STATUS = -1
    NO_TIME = -1

cdef enum:
    PIDFD_INFO_EXIT = 8

cdef int64_t MILLISECOND = 1000000
cdef int64_t FIRST_LOOK = 2 * 1000000            # nanoseconds after an exec that nobody confirmed; then doubled,
cdef int64_t LAST_LOOK = <int64_t>2048 * 1000000  # up to this

cdef struct Record:
    pid_t pid
    pid_t parent             # 0: no recorded program is known to have started it
    int64_t started_ns
    int64_t ended_ns         # NO_TIME: not seen
    int status               # as wait4(2) says it; NO_STATUS: not seen, or replaced by the next program
    int confirmed
    int truncated
    int exe_length
    int argv_length
    char *text               # exe, then argv with its NULs

# An exec that was seen and is not yet known to have happened.
cdef struct Pending:
    int active
    int truncated
    int64_t seen_ns
    int64_t look_ns          # when to look whether the image has changed
    int64_t gap_ns
    uint64_t before          # the image at that time
    int path_length
    int argv_length
    char *text               # absolute path and its NUL, then argv

cdef struct Process:
    pid_t pid
    pid_t parent
    uint32_t serial          # a process id may come again, this does not
    uint64_t start_time      # clock ticks since boot: tells the next process with this id
    int record               # of what it runs now, -1: none
    Pending pending

cdef struct Observer:
    pthread_mutex_t lock     # over all that follows, up to the line
    Record *records
    int record_count
    int record_room
    Process *processes
    int process_count
    int process_room
    uint32_t last_serial
    size_t text_size
    uint64_t dropped
    # ----
    const Run *run
    int64_t opened_ns
    pthread_t watcher
    int watching
    int our_end              # of the socket pair to the watcher; -1: exits are not watched
    int watcher_end          # a number in the watcher's table

# A process as /proc shows it now.
cdef struct Glance:
    char state
    pid_t parent
    uint64_t start_time
    uint64_t image           # differs between the images of a process; 0: it has none, or none to be seen
    int exit_status          # of a zombie

# The program in a process as /proc shows it now.
cdef struct Loaded:
    char exe[MAX_PATH]
    char argv[MAX_ARGV + 2]
    int exe_length
    int argv_length
    int truncated

cdef struct Arrival:
    uint32_t serial          # 0: no process, only look at the pending ones again
    pid_t pid

cdef struct Watched:
    uint32_t serial
    pid_t pid
    int64_t ended_ns         # a zombie whose status is still to come

cdef struct Watcher:
    Observer *observer
    Watched *watched         # by descriptor
    int count
    int epoll
    int stopping
    int64_t stop_ns


# Looking at processes ----------------------------------------------------------------------------------------------

cdef inline int64_t now_ns() noexcept nogil:
    cdef Clock clock
    clock_gettime(CLOCK_MONOTONIC, &clock)
    return <int64_t>clock.tv_sec * 1000000000 + clock.tv_nsec


cdef inline uint64_t mix(uint64_t hash, uint64_t value) noexcept nogil:
    return (hash ^ value) * <uint64_t>0x100000001B3    # FNV-1a, by words


cdef long read_link(pid_t pid, const char *name, char *into, size_t size) noexcept nogil:
    """The target of a link in /proc/PID, not terminated. Returns the length or -errno."""
    cdef char path[64]
    format_proc_path(path, pid, name)
    return raw_syscall(SYS_readlinkat, AT_FDCWD, <long>path, <long>into, <long>size, 0, 0)


cdef char split_stat(const char *stat, long length, uint64_t *fields) noexcept nogil:
    """The numbers of a /proc/PID/stat line from field 4 on. Returns the state, 0 if it is no such line."""
    cdef long at = length - 1
    cdef int field = 4
    cdef char state
    while at >= 0 and stat[at] != 41:    # the last ')': a name may hold any byte
        at -= 1
    if at < 0 or at + 4 >= length:
        return 0
    state = stat[at + 2]
    at += 4
    while at < length and field < STAT_FIELDS:
        if 48 <= stat[at] <= 57:
            fields[field] = fields[field] * 10 + <uint64_t>(stat[at] - 48)
        elif stat[at] == 32:
            field += 1
        at += 1
    return state


cdef int look(pid_t pid, Glance *glance) noexcept nogil:
    """Returns 0, or -1 when there is no such process."""
    cdef char path[64]
    cdef char stat[STAT_SIZE]
    cdef char exe[MAX_PATH]
    cdef uint64_t fields[STAT_FIELDS]
    cdef long length, i
    memset(fields, 0, sizeof(fields))
    format_proc_path(path, pid, b"stat")
    length = read_proc_file(path, stat, sizeof(stat))
    if length <= 0:
        return -1
    glance.state = split_stat(stat, length, fields)
    if glance.state == 0:
        return -1
    glance.parent = <pid_t>fields[4]
    glance.start_time = fields[22]
    glance.exit_status = <int>fields[52]
    glance.image = 0
    # The end of the environment is what execve writes last; it is 0 before, and for who may not see it.
    if fields[51] == 0:
        return 0
    length = read_link(pid, b"exe", exe, sizeof(exe))
    if length < 0:
        return 0
    glance.image = mix(mix(mix(<uint64_t>0xCBF29CE484222325, fields[26]), fields[28]), fields[48])
    glance.image = mix(mix(glance.image, fields[49]), fields[51])
    for i in range(length):
        glance.image = mix(glance.image, <unsigned char>exe[i])
    glance.image |= 1
    return 0


cdef int read_loaded(pid_t pid, Loaded *loaded) noexcept nogil:
    """What the kernel loaded into a process. Returns 0, or -1 if that cannot be seen (an unreadable file, or gone)."""
    cdef char path[64]
    cdef long length = read_link(pid, b"exe", loaded.exe, sizeof(loaded.exe))
    if length <= 0:
        return -1
    loaded.exe_length = <int>length
    format_proc_path(path, pid, b"cmdline")
    length = read_proc_file(path, loaded.argv, sizeof(loaded.argv))
    if length < 0:
        return -1
    loaded.truncated = length > MAX_ARGV
    loaded.argv_length = <int>length if length <= MAX_ARGV else MAX_ARGV
    return 0


cdef int looks_executable(const char *path) noexcept nogil:
    """Whether an exec of this file may have worked: for what ended before it could be looked at.

    In the run's domain, so no more is opened than the policy lets the tree read."""
    cdef char magic[4]
    cdef long fd, length
    if path[0] != 47:    # '/'
        return 0
    if raw_syscall(SYS_faccessat, AT_FDCWD, <long>path, X_OK, 0, 0, 0) != 0:
        return 0
    fd = raw_syscall(SYS_openat, AT_FDCWD, <long>path, O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0, 0, 0)
    if fd < 0:
        return 0
    length = raw_syscall(SYS_read, fd, <long>magic, sizeof(magic), 0, 0, 0)
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0)
    if length != sizeof(magic):
        return 0
    if magic[0] == 35 and magic[1] == 33:    # "#!"
        return 1
    return magic[0] == 127 and magic[1] == 69 and magic[2] == 76 and magic[3] == 70    # ELF


# Records and processes; the lock is held ---------------------------------------------------------------------------

cdef void *grown(void *array, int *room, int count, int limit, size_t size) noexcept nogil:
    """An array with room for one more, or NULL; then the old one stays as it is."""
    cdef int wanted = room[0]
    cdef void *larger
    if count < wanted:
        return array
    if count >= limit:
        return NULL
    wanted = 64 if wanted == 0 else wanted * 2
    larger = realloc(array, <size_t>wanted * size)
    if larger != NULL:
        room[0] = wanted
    return larger


cdef void end_record(Observer *observer, int index, int64_t ended_ns, int status) noexcept nogil:
    if index >= 0:
        observer.records[index].ended_ns = ended_ns
        observer.records[index].status = status


cdef void add_record(
    Observer *observer, Process *process, const char *exe, int exe_length, const char *argv, int argv_length,
    int truncated, int confirmed,
) noexcept nogil:
    """The pending exec of a process has happened: this is its program now. Over a limit it is only counted."""
    cdef size_t size = <size_t>exe_length + <size_t>argv_length
    cdef void *records
    cdef Record *record
    cdef char *text = NULL
    end_record(observer, process.record, process.pending.seen_ns, NO_STATUS)
    process.record = -1
    records = grown(observer.records, &observer.record_room, observer.record_count, MAX_RECORDS, sizeof(Record))
    if records != NULL:
        observer.records = <Record *>records
        if observer.text_size + size <= MAX_TEXT:
            text = <char *>malloc(size + 1)
    if text == NULL:
        observer.dropped += 1
        return
    memcpy(text, exe, <size_t>exe_length)
    memcpy(text + exe_length, argv, <size_t>argv_length)
    observer.text_size += size
    record = &observer.records[observer.record_count]
    record.pid = process.pid
    record.parent = process.parent
    record.started_ns = process.pending.seen_ns
    record.ended_ns = NO_TIME
    record.status = NO_STATUS
    record.confirmed = confirmed
    record.truncated = truncated
    record.exe_length = exe_length
    record.argv_length = argv_length
    record.text = text
    process.record = observer.record_count
    observer.record_count += 1


cdef void clear_pending(Process *process) noexcept nogil:
    free(process.pending.text)
    memset(&process.pending, 0, sizeof(Pending))


cdef void keep_pending(Observer *observer, Process *process) noexcept nogil:
    """Records a pending exec by what was asked for: what was loaded cannot be seen."""
    cdef Pending *pending = &process.pending
    if pending.text != NULL:
        add_record(
            observer, process, pending.text, pending.path_length, pending.text + pending.path_length + 1,
            pending.argv_length, pending.truncated, 0,
        )
    clear_pending(process)


cdef void confirm_pending(Observer *observer, Process *process) noexcept nogil:
    """Records a pending exec by what is loaded."""
    cdef Loaded loaded
    if read_loaded(process.pid, &loaded) < 0:
        keep_pending(observer, process)
        return
    add_record(
        observer, process, loaded.exe, loaded.exe_length, loaded.argv, loaded.argv_length, loaded.truncated, 1
    )
    clear_pending(process)


cdef Process *find_process(Observer *observer, pid_t pid, uint64_t start_time) noexcept nogil:
    cdef int i
    for i in range(observer.process_count):
        if observer.processes[i].pid == pid and observer.processes[i].start_time == start_time:
            return &observer.processes[i]
    return NULL


cdef Process *find_serial(Observer *observer, uint32_t serial) noexcept nogil:
    cdef int i
    for i in range(observer.process_count):
        if observer.processes[i].serial == serial:
            return &observer.processes[i]
    return NULL


cdef pid_t nearest_recorded(Observer *observer, pid_t pid) noexcept nogil:
    """The closest of a process's forebears that runs a recorded program: forks that do not exec are left out."""
    cdef Process *process
    cdef Glance glance
    cdef int depth
    for depth in range(MAX_DEPTH):
        if pid <= 1 or pid == observer.run.warden or look(pid, &glance) < 0:
            return 0
        process = find_process(observer, pid, glance.start_time)
        if process != NULL:
            if process.pending.active and glance.image != 0 and glance.image != process.pending.before:
                confirm_pending(observer, process)
            if process.record >= 0:
                return pid
        pid = glance.parent
    return 0


# The supervisor thread's side --------------------------------------------------------------------------------------

cdef void tell_watcher(Observer *observer, uint32_t serial, pid_t pid, int descriptor) noexcept nogil:
    """Hands a descriptor over, -1 for none. A full socket loses it: that exit stays unknown."""
    cdef Arrival arrival
    cdef Span span
    cdef SocketMessage message
    cdef ControlMessage *control
    cdef uint64_t room[4]
    if observer.our_end < 0:
        return
    arrival.serial = serial
    arrival.pid = pid
    span.iov_base = &arrival
    span.iov_len = sizeof(arrival)
    memset(&message, 0, sizeof(message))
    message.msg_iov = &span
    message.msg_iovlen = 1
    if descriptor >= 0:
        memset(room, 0, sizeof(room))
        message.msg_control = room
        message.msg_controllen = CMSG_SPACE(sizeof(int))
        control = CMSG_FIRSTHDR(&message)
        control.cmsg_len = CMSG_LEN(sizeof(int))
        control.cmsg_level = SOL_SOCKET
        control.cmsg_type = SCM_RIGHTS
        memcpy(CMSG_DATA(control), &descriptor, sizeof(int))
    raw_syscall(SYS_sendmsg, observer.our_end, <long>&message, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0)


cdef int still_waits(Observer *observer, const Notification *notification) noexcept nogil:
    """The caller waits for us: its ids are its own, not those of a later task."""
    cdef uint64_t id = notification.id
    return raw_syscall(
        SYS_ioctl, observer.run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&id, 0, 0, 0
    ) == 0


cdef Process *admit(Observer *observer, const Notification *notification, Glance *glance) noexcept nogil:
    """The entry of the caller's process, a new one if need be; `glance` has the caller's image. NULL: cannot be."""
    cdef pid_t pid = <pid_t>notification.pid
    cdef Glance leader
    cdef Process *process
    cdef void *processes
    cdef long descriptor
    if look(pid, glance) < 0:
        return NULL
    process = find_process(observer, pid, glance.start_time)
    if process != NULL:
        return process
    leader = glance[0]
    descriptor = raw_syscall(SYS_pidfd_open, pid, 0, 0, 0, 0, 0)
    if descriptor < 0:       # most likely a thread that is not the first of its process
        pid = thread_group_of(pid)
        if pid == 0 or look(pid, &leader) < 0:
            return NULL
        process = find_process(observer, pid, leader.start_time)
        if process != NULL:
            return process
        descriptor = raw_syscall(SYS_pidfd_open, pid, 0, 0, 0, 0, 0)
    processes = grown(
        observer.processes, &observer.process_room, observer.process_count, MAX_PROCESSES, sizeof(Process)
    )
    if processes != NULL:
        observer.processes = <Process *>processes
        if still_waits(observer, notification):
            process = &observer.processes[observer.process_count]
            memset(process, 0, sizeof(Process))
            process.pid = pid
            process.start_time = leader.start_time
            process.record = -1
            observer.last_serial += 1
            process.serial = observer.last_serial
            process.parent = nearest_recorded(observer, leader.parent)
            observer.process_count += 1
            tell_watcher(observer, process.serial, pid, <int>descriptor)
    else:
        observer.dropped += 1
    if descriptor >= 0:
        raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    return process


cdef long absolute_path(pid_t tid, int directory, char *path, long length) noexcept nogil:
    """Puts a directory of the caller before a relative path (MAX_PATH bytes). Returns the length, 0 if it has none."""
    cdef char name[20]
    cdef char base[MAX_PATH]
    cdef char digits[12]
    cdef long base_length
    cdef int count = 0, at = 3
    if length > 0 and path[0] == 47:
        return length
    if directory == AT_FDCWD:
        base_length = read_link(tid, b"cwd", base, sizeof(base))
    elif directory < 0:
        return 0
    else:
        memcpy(name, <const char *>b"fd/", 3)
        while directory > 0 or count == 0:
            digits[count] = <char>(48 + directory % 10)
            directory = directory // 10
            count += 1
        while count > 0:
            count -= 1
            name[at] = digits[count]
            at += 1
        name[at] = 0
        base_length = read_link(tid, name, base, sizeof(base))
    if base_length <= 0 or base_length + length + 2 > MAX_PATH:
        return 0
    if length > 0:
        base[base_length] = 47
        memcpy(base + base_length + 1, path, <size_t>length)
        base_length += length + 1
    memcpy(path, base, <size_t>base_length)
    return base_length


cdef void note_pending(Process *process, const Notification *notification, uint64_t image) noexcept nogil:
    """Keeps what an exec asks for, read once and bounded: for programs that do not tell that they have started."""
    cdef pid_t tid = <pid_t>notification.pid
    cdef const uint64_t *args = notification.data.args
    cdef int at_directory = notification.data.nr == SYS_execveat
    cdef char path[MAX_PATH]
    cdef char argv[MAX_PENDING_ARGV]
    cdef Pending *pending = &process.pending
    cdef long length, used = 0
    cdef int count = 0
    pending.active = 1
    pending.seen_ns = now_ns()
    pending.gap_ns = FIRST_LOOK
    pending.look_ns = pending.seen_ns + FIRST_LOOK
    pending.before = image
    length = read_string(tid, args[at_directory], path, sizeof(path))
    if length < 0:
        return
    length = absolute_path(tid, <int>args[0] if at_directory else AT_FDCWD, path, length)
    if length <= 0:
        return
    if read_strings(tid, args[at_directory + 1], argv, sizeof(argv), MAX_PENDING_WORDS, &count) < 0:
        pending.truncated = 1
    while count > 0:         # whole strings; more than these do not count
        if argv[used] == 0:
            count -= 1
        used += 1
    pending.text = <char *>malloc(<size_t>(length + 1 + used))
    if pending.text == NULL:
        return
    memcpy(pending.text, path, <size_t>length)
    pending.text[length] = 0
    memcpy(pending.text + length + 1, argv, <size_t>used)
    pending.path_length = <int>length
    pending.argv_length = <int>used


cdef void observe_exec(void *opaque, const Notification *notification) noexcept nogil:
    """A task is about to exec; whether it will is not known."""
    cdef Observer *observer = <Observer *>opaque
    cdef Process *process
    cdef Glance glance
    cdef int known
    if observer == NULL:
        return
    pthread_mutex_lock(&observer.lock)
    known = observer.process_count
    process = admit(observer, notification, &glance)
    if process != NULL:
        if process.pending.active and glance.image != process.pending.before:
            confirm_pending(observer, process)    # it runs what it asked for before
        else:
            clear_pending(process)                # it failed: the next candidate of a PATH search
        note_pending(process, notification, glance.image)
        if known == observer.process_count:
            tell_watcher(observer, 0, 0, -1)
    pthread_mutex_unlock(&observer.lock)


cdef void observe_start(void *opaque, const Notification *notification) noexcept nogil:
    """A libc starts, as the first code of a new program or right after its loader."""
    cdef Observer *observer = <Observer *>opaque
    cdef Process *process
    cdef Glance glance
    if observer == NULL:
        return
    pthread_mutex_lock(&observer.lock)
    if look(<pid_t>notification.pid, &glance) == 0:
        process = find_process(observer, <pid_t>notification.pid, glance.start_time)
        # Anybody may call set_tid_address at any time: without an exec before it, it says nothing.
        if process != NULL and process.pending.active and glance.image != process.pending.before:
            confirm_pending(observer, process)
    pthread_mutex_unlock(&observer.lock)


# The watcher's side ------------------------------------------------------------------------------------------------

cdef void finish_process(Observer *observer, uint32_t serial, int64_t ended_ns, int status) noexcept nogil:
    """A process has ended, or will not be watched any longer (NO_TIME)."""
    cdef Process *process
    cdef Process gone
    cdef int ran
    pthread_mutex_lock(&observer.lock)
    process = find_serial(observer, serial)
    if process == NULL:
        pthread_mutex_unlock(&observer.lock)
        return
    gone = process[0]
    observer.process_count -= 1
    process[0] = observer.processes[observer.process_count]
    pthread_mutex_unlock(&observer.lock)
    # A file system may be slow: without the lock.
    ran = gone.pending.text != NULL and looks_executable(gone.pending.text)
    pthread_mutex_lock(&observer.lock)
    if ran:
        keep_pending(observer, &gone)
    clear_pending(&gone)
    end_record(observer, gone.record, ended_ns, status)
    pthread_mutex_unlock(&observer.lock)


cdef int next_look(Observer *observer, Process *due) noexcept nogil:
    """Copies a process whose pending exec is to be looked at now and returns 0; or the milliseconds until then, -1
    if there is none."""
    cdef int64_t now = now_ns()
    cdef int64_t next = -1
    cdef Pending *pending
    cdef int i
    pthread_mutex_lock(&observer.lock)
    for i in range(observer.process_count):
        pending = &observer.processes[i].pending
        if not pending.active or pending.gap_ns > LAST_LOOK:
            continue
        if pending.look_ns <= now:
            due[0] = observer.processes[i]
            pending.gap_ns *= 2
            pending.look_ns = now + pending.gap_ns
            next = 0
            break
        if next < 0 or pending.look_ns < next:
            next = pending.look_ns
    pthread_mutex_unlock(&observer.lock)
    return <int>((next - now) // MILLISECOND) + 1 if next > 0 else <int>next


cdef int look_at_pending(Observer *observer) noexcept nogil:
    """Finds programs that do not tell that they have started. Returns the milliseconds until the next look, or -1."""
    cdef Process due
    cdef Process *process
    cdef Glance glance
    cdef int wait
    while True:
        wait = next_look(observer, &due)
        if wait != 0:
            return wait
        if look(due.pid, &glance) < 0 or glance.start_time != due.start_time:
            continue
        if glance.image == 0 or glance.image == due.pending.before:
            continue
        pthread_mutex_lock(&observer.lock)
        process = find_serial(observer, due.serial)
        if process != NULL and process.pending.active and process.pending.seen_ns == due.pending.seen_ns:
            confirm_pending(observer, process)
        pthread_mutex_unlock(&observer.lock)


cdef int zombie_status(pid_t pid, int descriptor) noexcept nogil:
    """The wait status of a process that ended and was not reaped yet, or NO_STATUS."""
    cdef Glance glance
    cdef char link[8]
    if look(pid, &glance) < 0 or (glance.state != 90 and glance.state != 88):    # 'Z', 'X'
        return NO_STATUS
    # Who may not see the status is shown 0; such a one may not follow the link either. A zombie's leads nowhere.
    if read_link(pid, b"exe", link, sizeof(link)) != -ENOENT:
        return NO_STATUS
    # What was read was this process's, if it is still there now.
    if raw_syscall(SYS_pidfd_send_signal, descriptor, 0, 0, 0, 0, 0) != 0:
        return NO_STATUS
    return glance.exit_status


cdef int reaped_status(int descriptor) noexcept nogil:
    """The wait status of a process that was reaped (Linux 6.15), or NO_STATUS. ioctl(PIDFD_GET_INFO)."""
    cdef ProcessInfo info
    memset(&info, 0, sizeof(info))
    info.mask = PIDFD_INFO_EXIT
    if raw_syscall(SYS_ioctl, descriptor, <long>PIDFD_GET_INFO, <long>&info, 0, 0, 0) != 0:
        return NO_STATUS
    return info.exit_code if info.mask & PIDFD_INFO_EXIT else NO_STATUS


cdef void take_exit(Watcher *watcher, int descriptor, uint32_t events, int last) noexcept nogil:
    """Something happened to a process: it ended (EPOLLIN), it was reaped (EPOLLHUP, Linux 6.9); or this is the last
    look at it."""
    cdef Watched *watched = &watcher.watched[descriptor]
    cdef Event event
    cdef int status = reaped_status(descriptor)
    if events != 0 and watched.ended_ns == NO_TIME:
        watched.ended_ns = now_ns()
    if status == NO_STATUS:
        status = zombie_status(watched.pid, descriptor)
    if status == NO_STATUS:
        status = reaped_status(descriptor)    # reaped since the first look
    if status == NO_STATUS and not last and not events & EPOLLHUP:
        # Not to be seen as long as it is a zombie: EPOLLHUP, which needs not be asked for, comes when it is reaped.
        memset(&event, 0, sizeof(event))
        event.data.fd = descriptor
        if raw_syscall(SYS_epoll_ctl, watcher.epoll, EPOLL_CTL_MOD, descriptor, <long>&event, 0, 0) == 0:
            return
    finish_process(watcher.observer, watched.serial, watched.ended_ns, status)
    watched.serial = 0
    watcher.count -= 1
    raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)


cdef long receive_arrival(int socket, Arrival *arrival, int *descriptor) noexcept nogil:
    """The next message. Returns its length, 0 at the end, -errno when there is none now; `descriptor` is -1 without
    one (also when the table is full)."""
    cdef Span span
    cdef SocketMessage message
    cdef ControlMessage *control
    cdef uint64_t room[4]
    cdef long length
    memset(room, 0, sizeof(room))
    memset(&message, 0, sizeof(message))
    span.iov_base = arrival
    span.iov_len = sizeof(Arrival)
    message.msg_iov = &span
    message.msg_iovlen = 1
    message.msg_control = room
    message.msg_controllen = sizeof(room)
    descriptor[0] = -1
    length = raw_syscall(SYS_recvmsg, socket, <long>&message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, 0, 0, 0)
    if length > 0:
        control = CMSG_FIRSTHDR(&message)
        if control != NULL and control.cmsg_type == SCM_RIGHTS and control.cmsg_len == CMSG_LEN(sizeof(int)):
            memcpy(descriptor, CMSG_DATA(control), sizeof(int))
    return length


cdef void take_arrivals(Watcher *watcher) noexcept nogil:
    """Begins to watch what the supervisor thread has sent."""
    cdef int socket = watcher.observer.watcher_end
    cdef int descriptor
    cdef Arrival arrival
    cdef Event event
    cdef long length
    memset(&event, 0, sizeof(event))
    while True:
        length = receive_arrival(socket, &arrival, &descriptor)
        if length == 0:
            raw_syscall(SYS_epoll_ctl, watcher.epoll, EPOLL_CTL_DEL, socket, 0, 0, 0)
            watcher.stopping = 1
            watcher.stop_ns = now_ns() + LAST_LOOKS_MS * MILLISECOND
        if length <= 0:
            return
        if descriptor < 0:
            continue
        event.events = EPOLLIN
        event.data.fd = descriptor
        if descriptor >= MAX_WATCHED or raw_syscall(
            SYS_epoll_ctl, watcher.epoll, EPOLL_CTL_ADD, descriptor, <long>&event, 0, 0
        ) != 0:
            raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
            continue
        watcher.watched[descriptor].serial = arrival.serial
        watcher.watched[descriptor].pid = arrival.pid
        watcher.watched[descriptor].ended_ns = NO_TIME
        watcher.count += 1


cdef void watch(Watcher *watcher) noexcept nogil:
    """Until the supervisor thread says that the tree is gone and the last exits are in."""
    cdef Event events[EVENTS]
    cdef int64_t now
    cdef int timeout, i
    cdef long count
    while True:
        timeout = look_at_pending(watcher.observer)
        if watcher.stopping:
            now = now_ns()
            if watcher.count == 0 or now >= watcher.stop_ns:
                break
            timeout = <int>((watcher.stop_ns - now) // MILLISECOND) + 1
        count = raw_syscall(SYS_epoll_pwait, watcher.epoll, <long>events, EVENTS, timeout, 0, 0)
        if count < 0 and count != -EINTR:
            break
        for i in range(<int>count):
            if events[i].data.fd == watcher.observer.watcher_end:
                take_arrivals(watcher)
            else:
                take_exit(watcher, events[i].data.fd, events[i].events, 0)
    for i in range(MAX_WATCHED):
        if watcher.watched[i].serial != 0:
            take_exit(watcher, i, 0, 1)


cdef int open_watcher(Watcher *watcher) noexcept nogil:
    """Leaves the host's descriptor table for one that holds our end of the socket only. Returns 0 or -errno."""
    cdef int socket = watcher.observer.watcher_end
    cdef Event event
    cdef long result = raw_syscall(SYS_close_range, socket + 1, <long>0xFFFFFFFF, CLOSE_RANGE_UNSHARE, 0, 0, 0)
    if result < 0:
        return <int>result
    if socket > 0:
        raw_syscall(SYS_close_range, 0, socket - 1, 0, 0, 0, 0)
    watcher.epoll = <int>raw_syscall(SYS_epoll_create1, EPOLL_CLOEXEC, 0, 0, 0, 0, 0)
    if watcher.epoll < 0:
        return watcher.epoll
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.fd = socket
    return <int>raw_syscall(SYS_epoll_ctl, watcher.epoll, EPOLL_CTL_ADD, socket, <long>&event, 0, 0)


cdef void *watcher_main(void *argument) noexcept nogil:
    """A thread in the run's outer domain: its creator is, and it inherits that and the blocked signals."""
    cdef Observer *observer = <Observer *>argument
    cdef Watcher watcher
    cdef char ready = 0
    cdef int socket = observer.watcher_end
    memset(&watcher, 0, sizeof(watcher))
    watcher.observer = observer
    watcher.watched = <Watched *>calloc(MAX_WATCHED, sizeof(Watched))
    if watcher.watched != NULL and open_watcher(&watcher) == 0:
        ready = 1
    # Whoever reads this closes its copy of our end.
    raw_syscall(SYS_write, socket, <long>&ready, 1, 0, 0, 0)
    if ready:
        watch(&watcher)
    free(watcher.watched)
    return NULL


# Opening and closing -----------------------------------------------------------------------------------------------

cdef void start_watcher(Observer *observer) noexcept nogil:
    """Without a watcher there are records, but no exits."""
    cdef pthread_attr_t attr
    cdef int ends[2]
    cdef char ready = 0
    if raw_syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, <long>ends, 0, 0) < 0:
        return
    observer.watcher_end = ends[1]
    pthread_attr_init(&attr)
    pthread_attr_setstacksize(&attr, WATCHER_STACK)
    observer.watching = pthread_create(&observer.watcher, &attr, watcher_main, observer) == 0
    pthread_attr_destroy(&attr)
    if observer.watching:
        raw_syscall(SYS_read, ends[0], <long>&ready, 1, 0, 0, 0)
    raw_syscall(SYS_close, ends[1], 0, 0, 0, 0, 0)
    if ready:
        observer.our_end = ends[0]
    else:
        raw_syscall(SYS_close, ends[0], 0, 0, 0, 0, 0)


cdef void *open_observer(const Run *run) noexcept nogil:
    """An observer of a run, or NULL. To be called in the run's domain with all signals blocked."""
    cdef Observer *observer = <Observer *>calloc(1, sizeof(Observer))
    if observer == NULL:
        return NULL
    pthread_mutex_init(&observer.lock, NULL)
    observer.run = run
    observer.opened_ns = now_ns()
    observer.our_end = -1
    start_watcher(observer)
    return observer


cdef void stop_observer(void *opaque) noexcept nogil:
    """The tree is gone: collects the last exits, then nothing is left but memory. Takes at most LAST_LOOKS_MS."""
    cdef Observer *observer = <Observer *>opaque
    if observer == NULL:
        return
    if observer.our_end >= 0:
        # A fork of the host may have a copy of our end: only shutdown ends the conversation.
        raw_syscall(SYS_shutdown, observer.our_end, SHUT_WR, 0, 0, 0, 0)
    if observer.watching:
        pthread_join(observer.watcher, NULL)
        observer.watching = 0
    if observer.our_end >= 0:
        raw_syscall(SYS_close, observer.our_end, 0, 0, 0, 0, 0)
        observer.our_end = -1
    while observer.process_count > 0:    # not watched
        finish_process(observer, observer.processes[0].serial, NO_TIME, NO_STATUS)


cdef void free_observer(void *opaque) noexcept nogil:
    """After `stop_observer`."""
    cdef Observer *observer = <Observer *>opaque
    cdef int i
    if observer == NULL:
        return
    for i in range(observer.record_count):
        free(observer.records[i].text)
    free(observer.records)
    free(observer.processes)
    pthread_mutex_destroy(&observer.lock)
    free(observer)


# For Python --------------------------------------------------------------------------------------------------------

cdef uint64_t dropped_records(void *opaque) noexcept nogil:
    """How many programs ran (or may have run) without a record, for want of room."""
    return 0 if opaque == NULL else (<Observer *>opaque).dropped


cdef list split_argv(bytes joined, bint truncated):
    """The words of a command line; each ends with a NUL, but for the last of a truncated one."""
    cdef list words = joined.split(b"\0")
    if words[-1] == b"":
        words.pop()
    return words


cdef double seconds(const Observer *observer, int64_t at_ns) noexcept:
    return (at_ns - observer.opened_ns) / 1e9


cdef list take_records(void *opaque):
    """The records of a stopped observer by start, each (pid, parent_pid, exe, argv, started, ended, wait_status,
    confirmed, truncated): exe and argv's words in bytes, times in seconds since the run started, parent_pid 0 without
    a recorded parent. `ended` and `wait_status` are None if they were not seen; a program that was replaced by a
    further exec of its process has an end, but no status."""
    cdef Observer *observer = <Observer *>opaque
    cdef Record *record
    cdef list records = []
    cdef int i
    if observer == NULL:
        return records
    for i in range(observer.record_count):
        record = &observer.records[i]
        records.append((
            record.pid, record.parent, record.text[:record.exe_length],
            split_argv(record.text[record.exe_length:record.exe_length + record.argv_length], record.truncated),
            seconds(observer, record.started_ns),
            None if record.ended_ns == NO_TIME else seconds(observer, record.ended_ns),
            None if record.status == NO_STATUS else record.status,
            bool(record.confirmed), bool(record.truncated),
        ))
    records.sort(key=started)
    return records


def started(record):
    """The sort key of a record."""
    return record[4]
