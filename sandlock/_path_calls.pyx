"""What a system call does to which paths: its rule says where its arguments are, its registers what they are. The names
are read once.

Rules: what the kernel would refuse in the flags is refused here, with its errno; nothing is decided.
"""

from libc.stdint cimport int64_t, uint64_t
from posix.types cimport pid_t

from sandlock._linux cimport Notification
from sandlock._memory cimport read_string
from sandlock._paths cimport FOLLOW_NOT_LAST, FOLLOW_TO_PARENT
from sandlock._programs cimport MAX_PATH

cdef extern from "<errno.h>" nogil:
    const int EFAULT
    const int EINVAL
    const int ENOENT

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    """
    const int AT_FDCWD
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const int AT_REMOVEDIR
    const int AT_SYMLINK_FOLLOW
    const int AT_SYMLINK_NOFOLLOW

cdef enum:
    AT_EACCESS = 0x200       # linux/fcntl.h
    AT_NO_AUTOMOUNT = 0x800
    AT_STATX_SYNC = 0x6000
    NONE = 15                # there is no such argument
    ACT_MASK = 0xFF

cdef uint64_t NOFOLLOW = <uint64_t>1 << 32       # _path_rules.NOFOLLOW
cdef uint64_t BY_DESCRIPTOR = <uint64_t>1 << 33  # _path_rules.BY_DESCRIPTOR


cdef inline int argument_at(int64_t rule, int shift) noexcept nogil:
    return <int>(<uint64_t>rule >> shift) & 15


cdef unsigned int known_flags(int act) noexcept nogil:
    """The AT_* flags that a call takes; ~0 where its flags are others."""
    if act == ACT_RENAME or act == ACT_OPEN or act == ACT_TIMES:
        return ~<unsigned int>0  # of times: looked at after these (_path_values)
    if act == ACT_REMOVE:
        return AT_REMOVEDIR
    if act == ACT_LINK:
        return AT_SYMLINK_FOLLOW | AT_EMPTY_PATH
    if act == ACT_MAY_ACCESS:
        return AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
    if act == ACT_LOOK or act == ACT_LOOK_X:
        return AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC
    return AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH


cdef int is_metadata(int act) noexcept nogil:
    """Whether Landlock has no right for it."""
    return ACT_CHMOD <= act <= ACT_WATCH


cdef int makes_or_removes(int act) noexcept nogil:
    """Whether a call is about a name in a directory, whatever it leads to."""
    return ACT_MAKE_DIRECTORY <= act <= ACT_RENAME or act == ACT_MAKE_LINK or act == ACT_MAKE_NODE


cdef int acts_in_directory(int act) noexcept nogil:
    """Whether a call changes the directory that a name is in, rather than what it leads to."""
    return makes_or_removes(act) or act == ACT_LINK


cdef int takes_no_path(int act) noexcept nogil:
    """Whether an empty path, and none, mean what the descriptor was opened for: one with O_PATH will not do."""
    return ACT_SET_XATTR <= act <= ACT_SET_FLAGS or act in (ACT_GET_XATTR, ACT_LIST_XATTR, ACT_GET_FLAGS)


cdef void point(const Notification *notification, int64_t rule, int directory, int path, Name *name) noexcept nogil:
    """Finds one path's arguments."""
    cdef int at = argument_at(rule, path)
    cdef int base = argument_at(rule, directory)
    name.directory = AT_FDCWD if base == NONE else <int>notification.data.args[base]
    name.address = 0 if at == NONE else notification.data.args[at]
    name.present = at != NONE
    name.itself = name.slashed = 0
    name.following = 0
    name.length = 0
    name.text[0] = name.path[0] = 0
    name.place.descriptor = name.place.parent = -1


cdef int decode_call(const Notification *notification, int64_t rule, PathCall *call) noexcept nogil:
    """All but the names' texts. Returns 0 or -errno."""
    cdef int at = argument_at(rule, 16)
    cdef int value = argument_at(rule, 28)
    cdef int may_be_empty
    call.act = <int>(rule & ACT_MASK)
    call.number = notification.data.nr
    call.tid = <pid_t>notification.pid
    call.id = notification.id
    call.args = <const unsigned long long *>notification.data.args
    call.values = call.args + (0 if value == NONE else value)
    call.by_descriptor = 0
    call.flags = 0 if at == NONE else <unsigned int>notification.data.args[at]
    if call.flags & ~known_flags(call.act):
        return -EINVAL
    point(notification, rule, 8, 12, &call.first)
    point(notification, rule, 20, 24, &call.second)
    if <uint64_t>rule & BY_DESCRIPTOR:
        call.by_descriptor = call.first.present = call.first.itself = 1
        return 0
    if call.act == ACT_RENAME or call.act == ACT_OPEN:
        may_be_empty = 0
    else:
        may_be_empty = call.flags & AT_EMPTY_PATH
    if call.first.address != 0:
        pass
    elif call.act == ACT_TIMES:  # utimensat(2), futimesat(2): no path means the descriptor
        call.by_descriptor = call.first.itself = argument_at(rule, 8) != NONE and call.first.directory != AT_FDCWD
    elif may_be_empty and (call.act == ACT_LOOK or call.act == ACT_LOOK_X or takes_no_path(call.act)):
        call.first.itself = 1    # Linux 6.11
    if makes_or_removes(call.act):
        call.first.following = FOLLOW_NOT_LAST | FOLLOW_TO_PARENT
    elif call.act == ACT_LINK:
        call.first.following = 0 if call.flags & AT_SYMLINK_FOLLOW else FOLLOW_NOT_LAST
    elif call.act == ACT_WATCH:
        call.first.following = FOLLOW_NOT_LAST if call.values[0] & IN_DONT_FOLLOW else 0
    elif <uint64_t>rule & NOFOLLOW or (call.act != ACT_OPEN and call.flags & AT_SYMLINK_NOFOLLOW):
        call.first.following = FOLLOW_NOT_LAST
    call.second.following = FOLLOW_NOT_LAST | FOLLOW_TO_PARENT
    return 0


cdef int read_name(pid_t tid, Name *name) noexcept nogil:
    """Reads one path's text. Returns 0 or -errno."""
    cdef long length
    if not name.present or name.itself:
        return 0
    length = read_string(tid, name.address, name.text, MAX_PATH)
    if length < 0:
        return <int>length
    # What is made or removed is a name in a directory, and what a link in that place leads to does not count, however
    # many '/' follow: whether they may is for the kernel to say, who gets one of them back (_path_acts).
    while name.following & FOLLOW_TO_PARENT and length > 1 and name.text[length - 1] == 47:
        length -= 1
        name.text[length] = 0
        name.slashed = 1
    name.length = <size_t>length
    return 0
