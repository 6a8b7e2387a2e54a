# The paths of a call: what a name means to the caller, pinned.

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._places cimport (
    MAX_LAST, Place, leave, look_at_place, parent_of_place, path_of_place, protects,
)
from sandlock._procfs cimport Tree

# How a path is followed. A call that makes what is not there (O_CREAT) gets its directory instead.
cdef enum Following:
    FOLLOW_NOT_LAST = 1      # O_NOFOLLOW: a link in the last place is itself meant
    FOLLOW_MAKES = 2         # O_CREAT
    FOLLOW_TO_PARENT = 4     # `parent` is wanted in any case
    FOLLOW_CACHED = 8        # -EAGAIN for what is not in the kernel's caches, or takes more than a look

# From where a name is followed: who calls, and what it gave.
cdef struct Origin:
    pid_t tid
    pid_t tgid
    int directory            # a descriptor of the caller, or AT_FDCWD
    const Tree *tree

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
