"""How processes end: a thread that watches pidfds and reads each status, before or after somebody else reaps it.

Rules:
1. The thread has a descriptor table of its own: the host's table holds one descriptor of ours (and for a moment a
   second one), however many processes are watched.
2. Whoever is watched was named by a pidfd while it was certain who it is. Nothing is decided from a process id alone.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._images cimport zombie_status
from sandlock._linux cimport (
    SYS_close, SYS_close_range, SYS_ioctl, SYS_read, SYS_shutdown, SYS_write, raw_syscall,
)

cdef extern from "<errno.h>" nogil:
    const int EINTR

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t *attr) noexcept
    int pthread_attr_setstacksize(pthread_attr_t *attr, size_t size) noexcept
    int pthread_attr_destroy(pthread_attr_t *attr) noexcept
    int pthread_create(
        pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *) noexcept nogil, void *argument
    ) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept

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

    /* <linux/pidfd.h> as of Linux 6.15, PIDFD_INFO_SIZE_VER0; exit_code came in 6.15 in the place of a spare field. */
    struct sandlock_pidfd_info { uint64_t mask, cgroupid; uint32_t ids[11]; int32_t exit_code; };
    #define SANDLOCK_PIDFD_GET_INFO _IOWR(0xFF, 11, struct sandlock_pidfd_info)
    """
    ctypedef struct ProcessInfo "struct sandlock_pidfd_info":
        uint64_t mask
        int32_t exit_code
    const unsigned long PIDFD_GET_INFO "SANDLOCK_PIDFD_GET_INFO"
    const unsigned int CLOSE_RANGE_UNSHARE
    const long SYS_epoll_create1
    const long SYS_epoll_ctl
    const long SYS_epoll_pwait
    const long SYS_recvmsg
    const long SYS_sendmsg
    const long SYS_socketpair

cdef enum:
    MAX_WATCHED = 4096       # descriptors of the thread; its RLIMIT_NOFILE may allow less
    STACK_SIZE = 131072
    EVENTS = 64
    LAST_EXITS_MS = 100      # for exits, after we were told to stop
    PIDFD_INFO_EXIT = 8
    MILLISECOND = 1000000

cdef struct Arrival:
    uint32_t serial
    pid_t pid

cdef struct Watched:
    uint32_t serial
    pid_t pid
    int64_t ended_ns         # a zombie whose status is still to come

cdef struct Watcher:
    Watch *watch
    Watched *watched         # by descriptor
    int count
    int epoll
    int stopping
    int64_t stop_ns


# The thread ----------------------------------------------------------------------------------------------------------

cdef int64_t now_ns() noexcept nogil:
    cdef Clock clock
    clock_gettime(CLOCK_MONOTONIC, &clock)
    return <int64_t>clock.tv_sec * 1000000000 + clock.tv_nsec


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
    if last and status != NO_STATUS and watched.ended_ns == NO_TIME:
        watched.ended_ns = now_ns()
    if status == NO_STATUS and not last and not events & EPOLLHUP:
        # Not to be seen as long as it is a zombie: EPOLLHUP, which needs not be asked for, comes when it is reaped.
        memset(&event, 0, sizeof(event))
        event.data.fd = descriptor
        if raw_syscall(SYS_epoll_ctl, watcher.epoll, EPOLL_CTL_MOD, descriptor, <long>&event, 0, 0) == 0:
            return
    watcher.watch.ended(watcher.watch.owner, watched.serial, watched.ended_ns, status)
    watched.serial = 0
    watcher.count -= 1
    # The sender may still have the file open: closing it here would not take it out of the epoll.
    raw_syscall(SYS_epoll_ctl, watcher.epoll, EPOLL_CTL_DEL, descriptor, 0, 0, 0)
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
    """Begins to watch what the owner has sent."""
    cdef int socket = watcher.watch.its_end
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
            watcher.stop_ns = now_ns() + LAST_EXITS_MS * MILLISECOND
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


cdef void serve(Watcher *watcher) noexcept nogil:
    """Until the owner says that no more will come, and the last exits are in."""
    cdef Event events[EVENTS]
    cdef int64_t now
    cdef int timeout, i
    cdef long count
    while True:
        timeout = watcher.watch.idle(watcher.watch.owner)
        if watcher.stopping:
            now = now_ns()
            if watcher.count == 0 or now >= watcher.stop_ns:
                break
            timeout = <int>((watcher.stop_ns - now) // MILLISECOND) + 1
        count = raw_syscall(SYS_epoll_pwait, watcher.epoll, <long>events, EVENTS, timeout, 0, 0)
        if count < 0 and count != -EINTR:
            break
        for i in range(<int>count):
            if events[i].data.fd == watcher.watch.its_end:
                take_arrivals(watcher)
            else:
                take_exit(watcher, events[i].data.fd, events[i].events, 0)
    for i in range(MAX_WATCHED):
        if watcher.watched[i].serial != 0:
            take_exit(watcher, i, 0, 1)


cdef int open_watcher(Watcher *watcher) noexcept nogil:
    """Leaves the host's descriptor table for one that holds our end of the socket only. Returns 0 or -errno."""
    cdef int socket = watcher.watch.its_end
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
    """The thread. Its table goes with it."""
    cdef Watch *watch = <Watch *>argument
    cdef Watcher watcher
    cdef char ready = 0
    cdef int socket = watch.its_end
    memset(&watcher, 0, sizeof(watcher))
    watcher.watch = watch
    watcher.watched = <Watched *>calloc(MAX_WATCHED, sizeof(Watched))
    if watcher.watched != NULL and open_watcher(&watcher) == 0:
        ready = 1
    # Who reads this closes the host's copy of our end.
    raw_syscall(SYS_write, socket, <long>&ready, 1, 0, 0, 0)
    if ready:
        serve(&watcher)
    free(watcher.watched)
    return NULL


# The owner's side ----------------------------------------------------------------------------------------------------

cdef void start_watch(Watch *watch, void *owner, Ended ended, Idle idle) noexcept nogil:
    """Starts the thread, in the caller's domain and with its signal mask. Without it (no memory, no descriptors) there
    are no exits, and nothing else changes."""
    cdef pthread_attr_t attr
    cdef int ends[2]
    cdef char ready = 0
    watch.owner = owner
    watch.ended = ended
    watch.idle = idle
    watch.our_end = -1
    if raw_syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, <long>ends, 0, 0) < 0:
        return
    watch.its_end = ends[1]
    pthread_attr_init(&attr)
    pthread_attr_setstacksize(&attr, STACK_SIZE)
    watch.running = pthread_create(&watch.thread, &attr, watcher_main, watch) == 0
    pthread_attr_destroy(&attr)
    if watch.running:
        raw_syscall(SYS_read, ends[0], <long>&ready, 1, 0, 0, 0)
    raw_syscall(SYS_close, ends[1], 0, 0, 0, 0, 0)
    if ready:
        watch.our_end = ends[0]
    else:
        raw_syscall(SYS_close, ends[0], 0, 0, 0, 0, 0)


cdef void watch_process(Watch *watch, uint32_t serial, pid_t pid, int descriptor) noexcept nogil:
    """Hands a pidfd over; it stays the caller's to close. With descriptor -1 nothing is watched, but `Idle` is called.
    Never blocks: what a full socket does not take is not watched."""
    cdef Arrival arrival
    cdef Span span
    cdef SocketMessage message
    cdef ControlMessage *control
    cdef uint64_t room[4]
    if watch.our_end < 0:
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
    raw_syscall(SYS_sendmsg, watch.our_end, <long>&message, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0)


cdef void stop_watch(Watch *watch) noexcept nogil:
    """Waits for the exits that are due, at most LAST_EXITS_MS. Then thread and descriptors are gone."""
    if watch.our_end >= 0:
        # A fork of the host may have a copy of our end: only shutdown ends the conversation.
        raw_syscall(SYS_shutdown, watch.our_end, SHUT_WR, 0, 0, 0, 0)
    if watch.running:
        pthread_join(watch.thread, NULL)
        watch.running = 0
    if watch.our_end >= 0:
        raw_syscall(SYS_close, watch.our_end, 0, 0, 0, 0, 0)
        watch.our_end = -1
