# What a system call does to which paths, read from its number's rule and its registers.

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._linux cimport Notification
from sandlock._paths cimport Place
from sandlock._programs cimport MAX_PATH

# In the order of _path_rules.ACTS.
cdef enum PathAct:
    ACT_OPEN = 0
    ACT_CHMOD = 1
    ACT_CHOWN = 2
    ACT_TIMES = 3
    ACT_SET_XATTR = 4
    ACT_REMOVE_XATTR = 5
    ACT_SET_FLAGS = 6
    ACT_WATCH = 7
    ACT_TRUNCATE = 8
    ACT_MAKE_DIRECTORY = 9
    ACT_REMOVE_DIRECTORY = 10
    ACT_REMOVE = 11
    ACT_RENAME = 12
    ACT_LINK = 13
    ACT_MAKE_LINK = 14
    ACT_MAKE_NODE = 15
    ACT_LOOK = 16            # stat, lstat, fstatat
    ACT_LOOK_X = 17          # statx
    ACT_MAY_ACCESS = 18
    ACT_READ_LINK = 19
    ACT_LOOK_AT_SYSTEM = 20  # statfs
    ACT_GET_XATTR = 21
    ACT_LIST_XATTR = 22
    ACT_CHANGE_DIRECTORY = 23
    ACT_TELL_DIRECTORY = 24

# One path of a call.
cdef struct Name:
    int present
    int directory            # a descriptor of the caller, or AT_FDCWD
    uint64_t address         # of the text, 0 for none
    int itself               # what `directory` refers to is meant, there is no text
    int following            # enum Following
    size_t length
    char text[MAX_PATH]
    Place place              # where it leads
    char path[MAX_PATH + 256]    # the real path of that

cdef struct PathCall:
    int act                  # enum PathAct
    int number
    pid_t tid
    uint64_t id              # of the notification
    unsigned int flags       # of the call, as far as they are not told by `following`
    const unsigned long long *values     # its other arguments, in their order
    const unsigned long long *args
    Name first
    Name second

cdef int is_metadata(int act) noexcept nogil
cdef int decode_call(const Notification *notification, int64_t rule, PathCall *call) noexcept nogil
cdef int read_name(pid_t tid, Name *name) noexcept nogil
