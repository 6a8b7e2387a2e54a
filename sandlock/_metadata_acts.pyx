"""What Landlock has no right for, done to a pinned object: modes, owners, times, attributes, flags of inodes, watches.

Rules: as in _path_acts. A link of /proc to a pinned object leads to that, and if it is a symbolic link not on from
there.
"""

from libc.stdint cimport uint32_t
from libc.string cimport strncmp

from sandlock._linux cimport SYS_close, SYS_ioctl, SYS_openat, raw_syscall
from sandlock._path_calls cimport (
    ACT_CHMOD, ACT_CHOWN, ACT_REMOVE_XATTR, ACT_SET_FLAGS, ACT_SET_XATTR, ACT_TIMES, ACT_WATCH, Details,
    IN_DONT_FOLLOW, SIZE_OF_FLAGS, SYS_file_setattr,
)
from sandlock._programs cimport format_own_descriptor, own_descriptor
from sandlock._users cimport group_from, user_from

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINVAL
    const int ENOSYS
    const int EOPNOTSUPP

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #ifndef SYS_fchmodat2
    #define SYS_fchmodat2 452                  /* Linux 6.6 */
    #endif
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    """
    const int AT_FDCWD
    const int O_CLOEXEC
    const int O_NOCTTY
    const int O_NONBLOCK
    const int O_RDONLY
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const long SYS_fchmodat
    const long SYS_fchmodat2
    const long SYS_fchownat
    const long SYS_inotify_add_watch
    const long SYS_removexattr
    const long SYS_setxattr
    const long SYS_utimensat
    const unsigned int S_IFDIR
    const unsigned int S_IFLNK
    const unsigned int S_IFMT
    const unsigned int S_IFREG


cdef long change_mode(const PathCall *call) noexcept nogil:
    cdef char path[64]
    cdef long directory, result
    if call.first.place.mode & S_IFMT == S_IFLNK:
        return -EOPNOTSUPP
    result = raw_syscall(
        SYS_fchmodat2, call.first.place.descriptor, <long><const char *>b"", <long>call.values[0], AT_EMPTY_PATH, 0, 0
    )
    if result != -ENOSYS:
        return result
    directory = own_descriptor(path, call.first.place.own_table, call.first.place.descriptor)
    return raw_syscall(SYS_fchmodat, directory, <long>path, <long>call.values[0], 0, 0, 0)


cdef long change_owner(const PathCall *call, const Run *run) noexcept nogil:
    cdef long user = user_from(run, <uint32_t>call.values[0])
    cdef long group = group_from(run, <uint32_t>call.values[1])
    if user < 0 or group < 0:
        return -EINVAL
    return raw_syscall(
        SYS_fchownat, call.first.place.descriptor, <long><const char *>b"", user, group, AT_EMPTY_PATH, 0
    )


cdef long change_times(const PathCall *call) noexcept nogil:
    return raw_syscall(
        SYS_utimensat, call.first.place.descriptor, <long><const char *>b"",
        0 if call.details.now else <long>call.details.times, AT_EMPTY_PATH, 0, 0
    )


cdef long change_attribute(const PathCall *call, const Run *run, const char *path) noexcept nogil:
    cdef const Details *details = &call.details
    if run.program.map_ids and strncmp(details.name, b"system.posix_acl", 16) == 0:
        return -EOPNOTSUPP       # users and groups in it would be others for us
    if call.act == ACT_REMOVE_XATTR:
        return raw_syscall(SYS_removexattr, <long>path, <long>details.name, 0, 0, 0, 0)
    return raw_syscall(
        SYS_setxattr, <long>path, <long>details.name, <long>details.room if details.size > 0 else 0,
        <long>details.size, <long>details.flags, 0
    )


cdef long change_flags(const PathCall *call, const char *path) noexcept nogil:
    if call.by_descriptor:       # the caller's own, duplicated: what was judged is what it is open for
        return raw_syscall(
            SYS_ioctl, call.first.place.descriptor, <long><uint32_t>call.values[0], <long>call.details.room, 0, 0, 0
        )
    return raw_syscall(SYS_file_setattr, AT_FDCWD, <long>path, <long>call.details.room, SIZE_OF_FLAGS, 0, 0)


cdef int may_read(const Place *place) noexcept nogil:
    """Whether Landlock lets us, as it lets the caller, read a file or a directory. Of /proc it lets us read more."""
    cdef unsigned int kind = place.mode & S_IFMT
    cdef char path[64]
    cdef long opened, directory
    if place.on_procfs or (kind != S_IFREG and kind != S_IFDIR):
        return 0
    directory = own_descriptor(path, place.own_table, place.descriptor)
    opened = raw_syscall(SYS_openat, directory, <long>path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0, 0, 0)
    if opened >= 0:
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return opened >= 0


cdef long change_metadata(PathCall *call, const Run *run) noexcept nogil:
    """Returns the call's value or -errno."""
    cdef char path[64]
    format_own_descriptor(path, call.first.place.descriptor)
    if call.act == ACT_CHMOD:
        return change_mode(call)
    if call.act == ACT_CHOWN:
        return change_owner(call, run)
    if call.act == ACT_TIMES:
        return change_times(call)
    if call.act == ACT_SET_XATTR or call.act == ACT_REMOVE_XATTR:
        return change_attribute(call, run, path)
    if call.act == ACT_SET_FLAGS:
        return change_flags(call, path)
    if call.act == ACT_WATCH:
        return raw_syscall(
            SYS_inotify_add_watch, call.details.descriptor, <long>path,
            <long>(<uint32_t>call.values[0] & ~<uint32_t>IN_DONT_FOLLOW), 0, 0, 0
        )
    return -EACCES
