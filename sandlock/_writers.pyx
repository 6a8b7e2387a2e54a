"""Watches on files that are being judged: whether somebody who could write them has closed them since.

Rules: raw system calls only. What cannot be known counts as written.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from sandlock._linux cimport SYS_close, SYS_fcntl, SYS_read, SYS_sched_yield, raw_syscall
from sandlock._programs cimport format_own_descriptor

cdef extern from "<errno.h>" nogil:
    const int EINTR
    const int EMFILE

cdef extern from "<fcntl.h>" nogil:
    const int F_DUPFD_CLOEXEC

cdef extern from * nogil:
    """
    #include <sys/inotify.h>
    #include <sys/syscall.h>
    #define sandlock_look(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
    #define sandlock_bump(at) __atomic_add_fetch(at, 1, __ATOMIC_SEQ_CST)
    #define sandlock_free(at) __atomic_store_n(at, 0, __ATOMIC_SEQ_CST)
    #define sandlock_claim(at) __sync_bool_compare_and_swap(at, 0, 1)
    """
    const int IN_CLOEXEC
    const int IN_NONBLOCK
    const uint32_t IN_CLOSE_WRITE
    const uint32_t IN_Q_OVERFLOW
    const long SYS_inotify_add_watch
    const long SYS_inotify_init1
    const long SYS_inotify_rm_watch
    ctypedef struct News "struct inotify_event":
        int wd
        uint32_t mask
        uint32_t len
    int look "sandlock_look"(const int *at) noexcept
    int bump "sandlock_bump"(int *at) noexcept
    void give_free "sandlock_free"(int *at) noexcept
    int claim "sandlock_claim"(int *at) noexcept

cdef enum:
    ROOM = 2048
    PATIENCE = 100000        # of sched_yield(2): then whoever was at it is dead


cdef void note_news(Writers *writers, const News *news) noexcept nogil:
    cdef int i
    if news.mask & IN_Q_OVERFLOW:
        bump(&writers.lost)
    elif news.mask & IN_CLOSE_WRITE:
        for i in range(MAX_WATCHES):
            if writers.watches[i].number == news.wd:
                bump(&writers.watches[i].closed)


cdef void take_news(Writers *writers) noexcept nogil:
    cdef char room[ROOM]
    cdef News news
    cdef long length
    cdef size_t at
    cdef int tries = 0
    while not claim(&writers.busy):
        tries += 1
        if tries > PATIENCE:
            bump(&writers.lost)
            return
        raw_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0)
    while True:
        length = raw_syscall(SYS_read, writers.opened - 1, <long>room, ROOM, 0, 0, 0)
        if length == -EINTR:
            continue
        if length <= 0:          # EAGAIN: that was all
            break
        at = 0
        while at + sizeof(News) <= <size_t>length:
            memcpy(&news, room + at, sizeof(News))
            note_news(writers, &news)
            at += sizeof(News) + news.len
    give_free(&writers.busy)


cdef int open_writers(Writers *writers) noexcept nogil:
    """Returns 0 or -errno."""
    cdef long opened = raw_syscall(SYS_inotify_init1, IN_CLOEXEC | IN_NONBLOCK, 0, 0, 0, 0, 0)
    cdef long moved
    if 0 <= opened < 3:          # the host runs with closed standard streams
        moved = raw_syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 3, 0, 0, 0)
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
        opened = moved
    if opened < 0:
        return <int>opened
    writers.opened = <int>opened + 1
    return 0


cdef int place_for(Writers *writers, int number) noexcept nogil:
    """The place of the kernel's watch `number`: the one that it has, else one that is not used. -EMFILE for none."""
    cdef int i, found = -EMFILE
    for i in range(MAX_WATCHES):
        if writers.watches[i].number == number:
            return i
        if writers.watches[i].users == 0 and (found < 0 or writers.watches[i].number == 0):
            found = i
    return found


cdef int start_watch(Writers *writers, long descriptor) noexcept nogil:
    """Watches the file of a descriptor (O_PATH will do). Returns a watch for `count_writers`, or -errno."""
    cdef char path[64]
    cdef long number
    cdef int place
    if writers.opened == 0:
        place = open_writers(writers)
        if place < 0:
            return place
    format_own_descriptor(path, descriptor)
    number = raw_syscall(
        SYS_inotify_add_watch, writers.opened - 1, <long>path, <long>IN_CLOSE_WRITE, 0, 0, 0
    )
    if number < 0:
        return <int>number
    place = place_for(writers, <int>number)
    if place < 0:
        raw_syscall(SYS_inotify_rm_watch, writers.opened - 1, number, 0, 0, 0, 0)
        return place
    if writers.watches[place].number != <int>number:
        if writers.watches[place].number != 0:
            raw_syscall(SYS_inotify_rm_watch, writers.opened - 1, writers.watches[place].number, 0, 0, 0, 0)
        writers.watches[place].number = <int>number
    writers.watches[place].users += 1
    return place + 1


cdef void stop_watch(Writers *writers, int watch) noexcept nogil:
    """One user less. What nobody uses stays until its place is needed, for the next exec of the same file."""
    if watch > 0:
        writers.watches[watch - 1].users -= 1


cdef int count_writers(Writers *writers, int watch) noexcept nogil:
    """How many writers have closed the file so far, at least; it grows with each, and when that is not known."""
    if watch <= 0:
        return 0
    take_news(writers)
    return look(&writers.watches[watch - 1].closed) + look(&writers.lost)


cdef void close_writers(Writers *writers) noexcept nogil:
    if writers.opened > 0:
        raw_syscall(SYS_close, writers.opened - 1, 0, 0, 0, 0, 0)
    writers.opened = 0
