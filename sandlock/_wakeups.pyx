"""Waking those who wait for something to do: workers, the poller, openers, and Python.

Each worker has a futex of its own, and the first one that waits is woken: its memory is the warmest. Who watches over
questions is left to that.

Rules: no locks, for a party may be killed at any point. Who waits says so first and looks for work once more after.
"""

from libc.stdint cimport int64_t, uint64_t

from sandlock._linux cimport Duration, SYS_futex, SYS_write, duration_of, raw_syscall
from sandlock._slots cimport MAX_WORKERS, Seat, add_int, fence, load_int, store_int, swap_int_if

cdef enum:
    FUTEX_WAIT = 0
    FUTEX_WAKE = 1
    BUSY = 0
    WAITS = 1                # for work
    WATCHES = 2              # the same, and looks after questions from time to time


cdef int wake_those(Table *table, int state, int how_many) noexcept nogil:
    """Returns how many more there should have been."""
    cdef Seat *seat
    cdef int i
    for i in range(MAX_WORKERS):
        if how_many == 0:
            break
        seat = &table.seats[i]
        if load_int(&seat.waits) == state and load_int(&seat.lives) and swap_int_if(&seat.waits, state, BUSY):
            raw_syscall(SYS_futex, <long>&seat.waits, FUTEX_WAKE, 1, 0, 0, 0)
            how_many -= 1
    return how_many


cdef void wake_workers(Table *table, int how_many) noexcept nogil:
    """There is work for `how_many`. Those who watch are left to it if others wait."""
    add_int(&table.work, 1)      # a full barrier, as is the one of `wait_for_work`: one of both sees the other
    how_many = wake_those(table, WAITS, how_many)
    if how_many > 0:
        wake_those(table, WATCHES, how_many)


cdef void wait_for_work(Table *table, Seat *seat, int seen, int64_t milliseconds, int watches) noexcept nogil:
    """Waits until there is more work than was `seen`, at most so long; -1: without end."""
    cdef Duration limit = duration_of(milliseconds)
    cdef int state = WATCHES if watches else WAITS
    add_int(&table.idle, 1)
    store_int(&seat.waits, state)
    fence()
    if load_int(&table.work) == seen:
        raw_syscall(
            SYS_futex, <long>&seat.waits, FUTEX_WAIT, state, <long>&limit if milliseconds >= 0 else 0, 0, 0
        )
    store_int(&seat.waits, BUSY)
    add_int(&table.idle, -1)


cdef void wake_python(Table *table) noexcept nogil:
    cdef uint64_t one = 1
    raw_syscall(SYS_write, table.wake_fd, <long>&one, sizeof(one), 0, 0, 0)


cdef void wake_poller(Table *table) noexcept nogil:
    cdef uint64_t one = 1
    raw_syscall(SYS_write, table.poller_fd, <long>&one, sizeof(one), 0, 0, 0)


cdef void wake_openers(Table *table, int how_many) noexcept nogil:
    add_int(&table.open_work, 1)
    raw_syscall(SYS_futex, <long>&table.open_work, FUTEX_WAKE, how_many, 0, 0, 0)
