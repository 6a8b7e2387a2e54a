# What was done to which paths, for the record: what one task has written down already.

from libc.stdint cimport uint64_t
from posix.types cimport pid_t

from sandlock._path_calls cimport PathCall
from sandlock._paths cimport OpenCall, Place
from sandlock._slots cimport Table

cdef enum:
    RECORDED = 4096

# In the order of _decisions.ACCESS.
cdef enum Done:
    DONE_READ = 1
    DONE_LIST = 2            # a directory was opened
    DONE_WRITE = 3
    DONE_CREATE = 4          # there is a new name
    DONE_REMOVE = 5          # a name is gone
    DONE_CHANGE = 6          # what is known of it: mode, owner, times, attributes

cdef struct PathRecords:
    uint64_t last[RECORDED]  # what was recorded last, by its hash; others share a place

cdef int may_record(const Table *table) noexcept nogil
cdef void record_open(
    Table *table, PathRecords *records, const OpenCall *call, const Place *place, int number, pid_t tid,
    const char *path
) noexcept nogil
cdef void record_call(Table *table, PathRecords *records, const PathCall *call) noexcept nogil
