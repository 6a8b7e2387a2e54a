"""With `record_paths`: what was done to files goes into the journal, each thing that was done to a path about once.

Rules: only what has succeeded, by the real path that was judged. A table of hashes keeps what is done again out of the
journal; where two things share a place in it, one is recorded more often, and nothing is missed but by a hash of 64
bits that two have in common.
"""

from libc.stdint cimport uint64_t
from libc.string cimport strlen
from posix.types cimport pid_t

from sandlock._destinations cimport OPERATION_OPEN, OPERATION_PATH
from sandlock._journal cimport pass_gate
from sandlock._opening cimport access_of
from sandlock._path_calls cimport (
    ACT_LINK, ACT_LOOK, ACT_MAKE_DIRECTORY, ACT_MAKE_LINK, ACT_MAKE_NODE, ACT_REMOVE, ACT_REMOVE_DIRECTORY, ACT_RENAME,
    ACT_TRUNCATE, ACT_WATCH, is_metadata,
)
from sandlock._paths cimport ACCESS_WRITE
from sandlock._programs cimport MAX_PATH
from sandlock._slots cimport record_path
from sandlock._tasks cimport thread_group_of
from sandlock._virtual_root cimport show_path

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    #define SANDLOCK_O_TMPFILE_BIT 020000000   /* the bit that O_TMPFILE has besides O_DIRECTORY */
    """
    const uint64_t O_TMPFILE_BIT "SANDLOCK_O_TMPFILE_BIT"
    const unsigned int S_IFDIR
    const unsigned int S_IFMT


cdef int may_record(const Table *table) noexcept nogil:
    """Whether something may be allowed: not without a record that has to be."""
    return not table.run.program.record_paths or table.journal == NULL or pass_gate(table.journal)


cdef uint64_t hash_of(const char *path, int done) noexcept nogil:
    """FNV-1a; never 0, which is an empty place."""
    cdef uint64_t found = 14695981039346656037ULL ^ <uint64_t>done
    while path[0] != 0:
        found = (found ^ <unsigned char>path[0]) * 1099511628211ULL
        path += 1
    return found | 1


cdef int is_new(PathRecords *records, uint64_t hashed) noexcept nogil:
    cdef uint64_t *place = &records.last[(hashed >> 40) % RECORDED]
    if place[0] == hashed:
        return 0
    place[0] = hashed
    return 1


cdef void put(
    Table *table, PathRecords *records, int operation, int number, pid_t tid, int done, const char *path
) noexcept nogil:
    cdef char seen[MAX_PATH + 256]
    cdef const char *shown = path
    cdef long length
    if path[0] != 47 or not is_new(records, hash_of(path, done)):      # what has no name is the program's own
        return
    if table.run.virtual_root != NULL:
        length = show_path(table.run.virtual_root, path, seen, sizeof(seen))
        if length >= 0:
            shown = seen
    record_path(table, operation, number, thread_group_of(tid), tid, done, shown, strlen(shown))


cdef void record_open(
    Table *table, PathRecords *records, const OpenCall *call, const Place *place, int number, pid_t tid,
    const char *path
) noexcept nogil:
    """An open that has succeeded."""
    cdef int done = DONE_READ
    if not table.run.program.record_paths or table.journal == NULL:
        return
    if not call.where.exists or call.flags & O_TMPFILE_BIT:
        done = DONE_CREATE
    elif access_of(call) & ACCESS_WRITE:
        done = DONE_WRITE
    elif place.mode & S_IFMT == S_IFDIR:
        done = DONE_LIST
    put(table, records, OPERATION_OPEN, number, tid, done, path)


cdef void record_call(Table *table, PathRecords *records, const PathCall *call) noexcept nogil:
    """Another path call that has succeeded."""
    cdef int first = 0, second = 0
    if not table.run.program.record_paths or table.journal == NULL:
        return
    if call.act == ACT_WATCH:
        first = DONE_READ
    elif is_metadata(call.act):
        first = DONE_CHANGE
    elif call.act == ACT_TRUNCATE:
        first = DONE_WRITE
    elif call.act == ACT_MAKE_DIRECTORY or call.act == ACT_MAKE_NODE:
        first = DONE_CREATE
    elif call.act == ACT_REMOVE or call.act == ACT_REMOVE_DIRECTORY:
        first = DONE_REMOVE
    elif call.act == ACT_RENAME:
        first = DONE_REMOVE
        second = DONE_CREATE
    elif call.act == ACT_LINK or call.act == ACT_MAKE_LINK:
        first = DONE_READ
        second = DONE_CREATE
    elif call.act >= ACT_LOOK:
        return
    if first and call.first.present:
        put(table, records, OPERATION_PATH, call.number, call.tid, first, call.first.path)
    if second and call.second.present:
        put(table, records, OPERATION_PATH, call.number, call.tid, second, call.second.path)
