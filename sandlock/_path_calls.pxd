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
    ACT_GET_FLAGS = 25       # file_getattr
    ACT_LIST_DIRECTORY = 26  # getdents, getdents64

cdef enum:
    MAX_ATTRIBUTE_NAME = 256     # XATTR_NAME_MAX, and a NUL
    MAX_ATTRIBUTE = 65536        # XATTR_SIZE_MAX, XATTR_LIST_MAX
    SIZE_OF_FLAGS = 24           # FILE_ATTR_SIZE_VER0
    IN_DONT_FOLLOW = 0x02000000  # linux/inotify.h
    SYS_setxattrat = 463         # Linux 6.13
    SYS_getxattrat = 464
    SYS_file_getattr = 468       # Linux 6.17
    SYS_file_setattr = 469

# One path of a call.
cdef struct Name:
    int present
    int directory            # a descriptor of the caller, or AT_FDCWD
    uint64_t address         # of the text, 0 for none
    int itself               # what `directory` refers to is meant, there is no text
    int following            # enum Following
    int slashed              # it ended in '/', which is not in `text`: of what is made or removed
    size_t length
    char text[MAX_PATH]
    Place place              # where it leads
    char path[MAX_PATH + 256]    # the real path of that

# struct timespec
cdef struct Moment:
    int64_t seconds
    int64_t nanoseconds

# What a call says besides its paths, read once (_path_values); and the room for what it is answered with.
cdef struct Details:
    int nothing_to_do        # whatever the paths are
    int now                  # of times: the present one
    Moment times[2]
    long descriptor          # a duplicate, ours, of one of the caller's; -1 for none
    unsigned int flags       # of an attribute: XATTR_CREATE, XATTR_REPLACE
    uint64_t address         # where the answer goes
    size_t size              # of a value, or of the caller's room for one
    char name[MAX_ATTRIBUTE_NAME]
    char room[MAX_ATTRIBUTE]

cdef struct PathCall:
    int act                  # enum PathAct
    int number
    pid_t tid
    int by_descriptor        # what is meant is what a descriptor was opened for
    uint64_t id              # of the notification
    unsigned int flags       # of the call, as far as they are not told by `following`
    const unsigned long long *values     # its other arguments, in their order
    const unsigned long long *args
    Name first
    Name second
    Details details

cdef int is_metadata(int act) noexcept nogil
cdef int acts_in_directory(int act) noexcept nogil
cdef int takes_no_path(int act) noexcept nogil
cdef int decode_call(const Notification *notification, int64_t rule, PathCall *call) noexcept nogil
cdef int read_name(pid_t tid, Name *name) noexcept nogil
