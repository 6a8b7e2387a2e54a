# What a run's policy says of paths, as they were when it started: real paths, without links. Never changed.

from libc.stdint cimport uint64_t

from sandlock._paths cimport OpenCall, Place
from sandlock._programs cimport FileIdentity

cdef enum:
    NO_GRANT = -2            # in place of a rule's number: no grant covers it
    PATH_RULES = 1 << 20     # with this added, the number of a denied path stands among those of other rules

# What a grant is good for, and what a call wants of an object.
cdef enum Want:
    WANT_READ = 1
    WANT_WRITE = 2           # or to make, to remove, or to change what is known of it
    WANT_EXECUTE = 4
    WANT_DEVICE = 8

cdef struct PathPrefix:
    const char *path         # no '/' at its end; "" is the root
    size_t length
    int access               # enum Want; of a grant: what it allows; of what is denied: what is allowed all the same
    int rule                 # of what is denied: the policy's number for it

cdef struct PathIdentity:
    uint64_t device
    uint64_t inode
    int access
    int rule

cdef struct PathTable:
    int denied_count         # fs_denied and fs_protected
    PathPrefix *denied
    int identity_count       # of denied files and trees, and of those files in denied trees that have other names
    PathIdentity *identities     # by inode, then by device
    int grant_count
    PathPrefix *grants
    int shown_count          # names of what is granted, also those that are links
    PathPrefix *shown
    int narrow               # what is opened has to be covered by a grant here, too, not only by Landlock's
    int hides                # what no grant covers, and what is denied, is not there

cdef int is_beneath(const char *path, const PathPrefix *prefix) noexcept nogil
cdef int resembles(const char *path, const char *other, size_t length) noexcept nogil
cdef int resembles_denied(const PathTable *table, const char *path) noexcept nogil
cdef int denied_by(const PathTable *table, const Place *place, const char *path, int wanted) noexcept nogil
cdef int denied_file(const PathTable *table, const FileIdentity *file, const char *path, int wanted) noexcept nogil
cdef int holds_denied(const PathTable *table, const char *path) noexcept nogil
cdef int hides(const PathTable *table) noexcept nogil
cdef const void *hiding(const PathTable *table) noexcept nogil
cdef int is_closed_way(const void *hiding, const Place *place, const char *path) noexcept nogil
cdef int is_open_way(const void *hiding, const char *path) noexcept nogil
cdef int hidden_error(int result) noexcept nogil
cdef int is_hidden(const PathTable *table, const Place *place, const char *path) noexcept nogil
cdef int is_covered(const PathTable *table, const char *path, int wanted) noexcept nogil
cdef int judge_open(
    const PathTable *table, const OpenCall *call, const Place *place, const char *path, int *rule
) noexcept nogil
cdef int lets_change(const PathTable *table, const Place *place, const char *path, int in_directory) noexcept nogil

cdef class PathRules:
    cdef PathTable c
    cdef list _alive
    cdef fill(self, PathPrefix *out, bytes path)
