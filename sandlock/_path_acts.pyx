"""What path calls do, done to what their names led to.

Rules: by descriptor of ours, and where a name is made or removed, by its directory and its last name, through which no
link is followed. Returns what the kernel says.
"""

from libc.stdint cimport uint64_t

from sandlock._linux cimport raw_syscall
from sandlock._path_calls cimport (
    ACT_CHMOD, ACT_LOOK, ACT_MAKE_DIRECTORY, ACT_MAKE_NODE, ACT_REMOVE, ACT_REMOVE_DIRECTORY, Name, PathCall,
)
from sandlock._programs cimport format_own_descriptor

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int ENOENT
    const int EOPNOTSUPP

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    """
    const int AT_FDCWD
    const int AT_REMOVEDIR
    const long SYS_fchmodat
    const long SYS_mkdirat
    const long SYS_unlinkat
    const unsigned int S_IFLNK
    const unsigned int S_IFMT


cdef int changes(const PathCall *call) noexcept nogil:
    """Whether the call has an effect."""
    return call.act < ACT_LOOK


cdef int meets_umask(const PathCall *call) noexcept nogil:
    """Whether the caller's umask counts."""
    return call.act == ACT_MAKE_DIRECTORY or call.act == ACT_MAKE_NODE


cdef long change_mode(const PathCall *call) noexcept nogil:
    cdef char path[64]
    if call.first.place.mode & S_IFMT == S_IFLNK:
        return -EOPNOTSUPP
    format_own_descriptor(path, call.first.place.descriptor)
    return raw_syscall(SYS_fchmodat, AT_FDCWD, <long>path, <long>call.values[0], 0, 0, 0)


cdef long act_on(PathCall *call, int listener) noexcept nogil:
    """Does it. Returns the call's value or -errno."""
    cdef Name *name = &call.first
    if call.act == ACT_CHMOD:
        return change_mode(call)
    if call.act == ACT_MAKE_DIRECTORY:
        return raw_syscall(SYS_mkdirat, name.place.parent, <long>name.place.last, <long>call.values[0], 0, 0, 0)
    if call.act == ACT_REMOVE_DIRECTORY or (call.act == ACT_REMOVE and call.flags & AT_REMOVEDIR):
        return raw_syscall(SYS_unlinkat, name.place.parent, <long>name.place.last, AT_REMOVEDIR, 0, 0, 0)
    if call.act == ACT_REMOVE:
        return raw_syscall(SYS_unlinkat, name.place.parent, <long>name.place.last, 0, 0, 0, 0)
    return -EACCES
