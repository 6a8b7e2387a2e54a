"""Programs that their loaders are about to open.

In a virtual root the kernel loads the loader, and that one opens the program by its path: by then another file may be
there. So who approved the exec keeps the program open, and what the new process opens first by that path is this
descriptor. Once: later it is an open like any other.

Rules: no locks, for a worker may be killed at any point; what it was filling then stays taken, until the run ends.
"""

from libc.string cimport memcpy, strcmp, strlen
from posix.types cimport pid_t

from sandlock._atomics cimport add_int, load_int, store_int, swap_int_if
from sandlock._linux cimport SYS_close, SYS_kill, raw_syscall

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int ENAMETOOLONG
    const int ENOENT
    const int ESRCH


cdef long drop(Promises *promises, Promise *entry) noexcept nogil:
    """Frees an entry that is ours. Returns its descriptor."""
    cdef long descriptor = entry.descriptor
    add_int(&promises.count, -1)
    store_int(&entry.state, PROMISE_FREE)
    return descriptor


cdef void sweep(Promises *promises, pid_t tgid) noexcept nogil:
    """Closes what this process, which has another program now, was promised, and what dead ones were."""
    cdef Promise *entry
    cdef int i
    for i in range(MAX_PROMISES if load_int(&promises.count) > 0 else 0):
        entry = &promises.entries[i]
        if load_int(&entry.state) != PROMISE_KEPT:
            continue
        if entry.tgid != tgid and raw_syscall(SYS_kill, entry.tgid, 0, 0, 0, 0, 0) != -ESRCH:
            continue
        if swap_int_if(&entry.state, PROMISE_KEPT, PROMISE_HELD):
            raw_syscall(SYS_close, drop(promises, entry), 0, 0, 0, 0, 0)


cdef int promise(Promises *promises, pid_t tgid, long descriptor, const char *path) noexcept nogil:
    """What this process opens first by this path shall be this descriptor, ours no more. Returns 0; or -errno, and it
    still is."""
    cdef size_t length = strlen(path) + 1
    cdef Promise *entry
    cdef int i
    if length > MAX_PATH:
        return -ENAMETOOLONG
    sweep(promises, tgid)
    for i in range(MAX_PROMISES):
        entry = &promises.entries[i]
        if load_int(&entry.state) == PROMISE_FREE and swap_int_if(&entry.state, PROMISE_FREE, PROMISE_HELD):
            entry.tgid = tgid
            entry.descriptor = <int>descriptor
            memcpy(entry.path, path, length)
            add_int(&promises.count, 1)
            store_int(&entry.state, PROMISE_KEPT)
            return 0
    return -EAGAIN


cdef long take_promised(Promises *promises, pid_t tgid, const char *path) noexcept nogil:
    """By the fast lane: what the process was promised that it opens by this path, for who closes it; -ENOENT."""
    cdef Promise *entry
    cdef int i
    for i in range(MAX_PROMISES if load_int(&promises.count) > 0 else 0):
        entry = &promises.entries[i]
        if load_int(&entry.state) != PROMISE_KEPT or entry.tgid != tgid or strcmp(entry.path, path) != 0:
            continue
        if not swap_int_if(&entry.state, PROMISE_KEPT, PROMISE_HELD):
            continue
        if entry.tgid == tgid and strcmp(entry.path, path) == 0:
            return drop(promises, entry)
        store_int(&entry.state, PROMISE_KEPT)    # it was given up, and made anew for somebody else, in between
    return -ENOENT


cdef int has_promises(const Promises *promises) noexcept nogil:
    return load_int(&promises.count) > 0


cdef void close_promises(Promises *promises) noexcept nogil:
    """By the fast lane, after its workers have ended."""
    cdef int i
    for i in range(MAX_PROMISES if load_int(&promises.count) > 0 else 0):
        if promises.entries[i].state == PROMISE_KEPT:
            raw_syscall(SYS_close, drop(promises, &promises.entries[i]), 0, 0, 0, 0, 0)
