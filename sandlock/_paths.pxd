# The paths of a call: what a name means to the caller, pinned.

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._places cimport (
    FOLLOW_CACHED, FOLLOW_MAKES, FOLLOW_NOT_LAST, FOLLOW_TO_PARENT, MAX_LAST, Place, leave, look_at_place,
    parent_of_place, path_of_place, protects,
)
from sandlock._procfs cimport Tree

# From where a name is followed: who calls, and what it gave.
cdef struct Origin:
    pid_t tid
    pid_t tgid
    int directory            # a descriptor of the caller, or AT_FDCWD
    const Tree *tree
    const void *hiding       # _path_table.hiding: by `..` no way leads out of what is hidden; or NULL

cdef enum Access:
    ACCESS_READ = 1
    ACCESS_WRITE = 2         # or to create or cut off

# Who an object is; or, of what is to be made, who its directory is, and the name.
cdef struct FilePlace:
    int exists
    uint64_t device
    uint64_t inode
    int64_t birth_ns
    char last[MAX_LAST]

# An open, as it was read once.
cdef struct OpenCall:
    int directory            # a descriptor of the caller, or AT_FDCWD
    int asks                 # what the policy asks about: enum AskOpens
    int judged               # the following are known
    int again                # how often somebody else was faster, so that it was judged anew
    int access               # enum Access
    FilePlace where
    uint64_t flags           # as the call has them, in the words of struct open_how
    uint64_t mode
    uint64_t resolve

cdef enum AskOpens:
    ASK_NOTHING = 0
    ASK_WRITES = 1
    ASK_ALL = 2

cdef int follow_path(
    const Origin *origin, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil
cdef int follow_slowly(
    const Origin *origin, long base, int mount, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil
cdef int follow_within(
    const Origin *origin, long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil
