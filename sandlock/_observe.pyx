"""What ran: a record of each program that the tree executed, with its times and its exit status.

Advisory: nothing here decides anything, every failure costs at most a record or a status.

An exec is seen twice. At execve nothing is certain yet (the call may fail, its arguments may change), so what it says
is kept as pending. A program's libc then calls set_tid_address once at its start: now /proc says what was really
loaded, and that becomes the record. Programs without a libc (static Go) never call it; they are found out when the
process has another image than before: at its next exec, when it has children, or by looking a little later. What ended
before that is recorded unconfirmed if its file looks executable.

Rules:
1. All of it runs natively, in the supervisor thread and in the thread of _exits, under one lock. The supervisor thread
   never waits for a file system: that is left to the other one.
2. What the tree controls is bounded: records, bytes, processes, times to look. Over a bound it is counted, not kept.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._exits cimport NO_STATUS, NO_TIME, Watch, now_ns, start_watch, stop_watch, watch_process
from sandlock._images cimport MAX_PATH, Glance, Loaded, absolute_path, look, looks_executable, read_loaded
from sandlock._linux cimport (
    Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_close, SYS_execveat, SYS_ioctl, SYS_pidfd_open, raw_syscall,
)
from sandlock._memory cimport read_string, read_strings
from sandlock._run cimport Run
from sandlock._tasks cimport thread_group_of

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attr) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept

cdef enum:
    MAX_RECORDS = 10000
    MAX_PROCESSES = 10000
    MAX_TEXT = 8 << 20       # bytes of all records together
    MAX_PENDING_ARGV = 4096
    MAX_PENDING_WORDS = 256
    MAX_DEPTH = 64           # generations without an exec between a program and the one that started it
    MILLISECOND = 1000000

# When to look at an exec that nobody confirmed: this long after it, then again after twice the time, up to the last.
cdef int64_t FIRST_LOOK = 2 * MILLISECOND
cdef int64_t LAST_LOOK = <int64_t>2048 * MILLISECOND

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
    Watch watch


# Records and processes; the lock is held -----------------------------------------------------------------------------

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
    cdef int _depth
    for _depth in range(MAX_DEPTH):
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


# The supervisor thread's side ----------------------------------------------------------------------------------------

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
            watch_process(&observer.watch, process.serial, pid, <int>descriptor)
    else:
        observer.dropped += 1
    if descriptor >= 0:
        raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    return process


cdef void note_pending(Process *process, const Notification *notification, uint64_t image) noexcept nogil:
    """Keeps what an exec asks for, read once and bounded: for programs that do not tell that they have started."""
    cdef pid_t tid = <pid_t>notification.pid
    cdef int at_directory = notification.data.nr == SYS_execveat
    cdef char path[MAX_PATH]
    cdef char argv[MAX_PENDING_ARGV]
    cdef Pending *pending = &process.pending
    cdef uint64_t array
    cdef long length, used = 0
    cdef int count = 0
    pending.active = 1
    pending.seen_ns = now_ns()
    pending.gap_ns = FIRST_LOOK
    pending.look_ns = pending.seen_ns + FIRST_LOOK
    pending.before = image
    length = read_string(tid, notification.data.args[at_directory], path, sizeof(path))
    if length < 0:
        return
    length = absolute_path(tid, <int>notification.data.args[0] if at_directory else AT_FDCWD, path, length)
    if length <= 0:
        return
    array = notification.data.args[at_directory + 1]
    if read_strings(tid, array, argv, sizeof(argv), MAX_PENDING_WORDS, &count) < 0:
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
            watch_process(&observer.watch, 0, 0, -1)
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


# The watching thread's side ------------------------------------------------------------------------------------------

cdef void finish_process(void *opaque, uint32_t serial, int64_t ended_ns, int status) noexcept nogil:
    """A process has ended, or will not be watched any longer (NO_TIME, NO_STATUS)."""
    cdef Observer *observer = <Observer *>opaque
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


cdef int look_at_pending(void *opaque) noexcept nogil:
    """Finds programs that do not tell that they have started. Returns the milliseconds until the next look, or -1."""
    cdef Observer *observer = <Observer *>opaque
    cdef Process due
    cdef Process *process
    cdef Glance glance
    cdef int wait
    memset(&due, 0, sizeof(due))
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


# Opening and closing

cdef void *open_observer(const Run *run) noexcept nogil:
    """An observer of a run, or NULL. To be called in the run's domain with all signals blocked."""
    cdef Observer *observer = <Observer *>calloc(1, sizeof(Observer))
    if observer == NULL:
        return NULL
    pthread_mutex_init(&observer.lock, NULL)
    observer.run = run
    observer.opened_ns = now_ns()
    start_watch(&observer.watch, observer, finish_process, look_at_pending)
    return observer


cdef void stop_observer(void *opaque) noexcept nogil:
    """The tree is gone: collects the last exits, then nothing is left but memory. Takes little more than 100 ms."""
    cdef Observer *observer = <Observer *>opaque
    if observer == NULL:
        return
    stop_watch(&observer.watch)
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


# For Python ----------------------------------------------------------------------------------------------------------

cdef uint64_t dropped_records(void *opaque) noexcept nogil:
    """How many programs ran (or may have run) without a record, for want of room."""
    return 0 if opaque == NULL else (<Observer *>opaque).dropped


cdef list split_argv(bytes joined):
    """The words of a command line; each ends with a NUL, but for the last of a truncated one."""
    cdef list words = joined.split(b"\0")
    if words[-1] == b"":
        words.pop()
    return words


cdef double seconds(const Observer *observer, int64_t at_ns) noexcept:
    return (at_ns - observer.opened_ns) / 1e9


cdef list take_records(void *opaque):
    """The records so far, by start, each (pid, parent_pid, exe, argv, started, ended, wait_status,
    confirmed, truncated): exe and argv's words in bytes, times in seconds since the run started, parent_pid 0 without
    a recorded parent. `ended` and `wait_status` are None if they were not seen; a program that was replaced by a
    further exec of its process has an end, but no status."""
    cdef Observer *observer = <Observer *>opaque
    cdef Record *copies
    cdef Record *record
    cdef list records = []
    cdef int count, i
    if observer == NULL:
        return records
    with nogil:                  # whoever holds the lock may be waiting for nothing of Python's
        pthread_mutex_lock(&observer.lock)
        count = observer.record_count
        copies = <Record *>malloc(<size_t>(count + 1) * sizeof(Record))
        if copies != NULL:
            memcpy(copies, observer.records, <size_t>count * sizeof(Record))
        pthread_mutex_unlock(&observer.lock)
    if copies == NULL:
        raise MemoryError
    for i in range(count):       # what their texts are is never changed, and stays as long as the observer
        record = &copies[i]
        records.append((
            record.pid, record.parent, record.text[:record.exe_length],
            split_argv(record.text[record.exe_length:record.exe_length + record.argv_length]),
            seconds(observer, record.started_ns),
            None if record.ended_ns == NO_TIME else seconds(observer, record.ended_ns),
            None if record.status == NO_STATUS else record.status,
            bool(record.confirmed), bool(record.truncated),
        ))
    free(copies)
    records.sort(key=started)
    return records


def started(record):
    """The sort key of a record."""
    return record[4]
