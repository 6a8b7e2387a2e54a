"""What a pinned object looks like, told to the caller: facts, access, links, attributes, file systems.

Rules: as in _path_acts. The answer is written to where the call wants it, in one piece; who cannot take it gets EFAULT.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset, strcmp, strncmp
from posix.types cimport pid_t

from sandlock._linux cimport raw_syscall
from sandlock._memory cimport write_memory
from sandlock._path_calls cimport (
    ACT_GET_FLAGS, ACT_GET_XATTR, ACT_LIST_XATTR, ACT_LOOK, ACT_LOOK_X, ACT_LOOK_AT_SYSTEM, ACT_MAY_ACCESS,
    ACT_READ_LINK, Details, MAX_ATTRIBUTE, SIZE_OF_FLAGS, SYS_file_getattr,
)
from sandlock._places cimport Statx
from sandlock._programs cimport format_own_descriptor
from sandlock._tasks cimport put_number, thread_group_of
from sandlock._users cimport group_for, user_for
from sandlock._virtual_acts cimport as_seen_link

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINVAL
    const int ENOENT
    const int EOPNOTSUPP

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <linux/stat.h>
    #include <sys/stat.h>
    #include <sys/statfs.h>
    #include <sys/syscall.h>
    #ifndef SYS_faccessat2
    #define SYS_faccessat2 439                 /* Linux 5.8 */
    #endif
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    """
    const int AT_FDCWD
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const unsigned int AT_SYMLINK_NOFOLLOW
    const long SYS_faccessat2
    const long SYS_fstatfs
    const long SYS_getxattr
    const long SYS_listxattr
    const long SYS_readlinkat
    const long SYS_statx
    const unsigned int S_IFLNK
    const unsigned int S_IFMT
    ctypedef struct Instant "struct timespec":
        long tv_sec
        long tv_nsec
    ctypedef struct Status "struct stat":
        unsigned long st_dev
        unsigned long st_ino
        unsigned long st_nlink
        uint32_t st_mode
        uint32_t st_uid
        uint32_t st_gid
        unsigned long st_rdev
        long st_size
        long st_blksize
        long st_blocks
        Instant st_atim
        Instant st_mtim
        Instant st_ctim
    ctypedef struct StatusX "struct statx":
        uint32_t stx_uid
        uint32_t stx_gid
    ctypedef struct FileSystem "struct statfs":
        pass

cdef extern from "<sys/sysmacros.h>" nogil:
    unsigned long device_of "gnu_dev_makedev"(unsigned int major, unsigned int minor) noexcept


cdef long tell(const PathCall *call, const void *answer, size_t length, long value) noexcept nogil:
    """Writes the answer. Returns `value` or -errno."""
    cdef int result = write_memory(call.tid, call.details.address, answer, length)
    return value if result == 0 else result


cdef void tell_status(const Statx *found, Status *status) noexcept nogil:
    """What stat(2) says, from what statx(2) has said."""
    memset(status, 0, sizeof(Status))
    status.st_dev = device_of(found.stx_dev_major, found.stx_dev_minor)
    status.st_ino = found.stx_ino
    status.st_nlink = found.stx_nlink
    status.st_mode = found.stx_mode
    status.st_uid = found.stx_uid
    status.st_gid = found.stx_gid
    status.st_rdev = device_of(found.stx_rdev_major, found.stx_rdev_minor)
    status.st_size = <long>found.stx_size
    status.st_blksize = found.stx_blksize
    status.st_blocks = <long>found.stx_blocks
    status.st_atim = Instant(tv_sec=found.stx_atime.tv_sec, tv_nsec=found.stx_atime.tv_nsec)
    status.st_mtim = Instant(tv_sec=found.stx_mtime.tv_sec, tv_nsec=found.stx_mtime.tv_nsec)
    status.st_ctim = Instant(tv_sec=found.stx_ctime.tv_sec, tv_nsec=found.stx_ctime.tv_nsec)


cdef long look_at_status(const PathCall *call, const Run *run) noexcept nogil:
    cdef Status status
    tell_status(&call.first.place.found, &status)        # as it was when it was judged, a moment ago
    status.st_uid = user_for(run, status.st_uid)
    status.st_gid = group_for(run, status.st_gid)
    return tell(call, &status, sizeof(status), 0)


cdef long look_at_status_x(const PathCall *call, const Run *run) noexcept nogil:
    cdef StatusX status
    cdef long result
    memset(&status, 0, sizeof(status))
    result = raw_syscall(
        SYS_statx, call.first.place.descriptor, <long><const char *>b"",
        AT_EMPTY_PATH | <long>(call.flags & ~<unsigned int>AT_SYMLINK_NOFOLLOW), <long><uint32_t>call.values[0],
        <long>&status, 0
    )
    if result < 0:
        return result
    status.stx_uid = user_for(run, status.stx_uid)
    status.stx_gid = group_for(run, status.stx_gid)
    return tell(call, &status, sizeof(status), 0)


cdef long look_at_system(const PathCall *call) noexcept nogil:
    cdef FileSystem system
    cdef long result = raw_syscall(SYS_fstatfs, call.first.place.descriptor, <long>&system, 0, 0, 0, 0)
    return result if result < 0 else tell(call, &system, sizeof(system), 0)


cdef long look_for_access(const PathCall *call) noexcept nogil:
    return raw_syscall(
        SYS_faccessat2, call.first.place.descriptor, <long><const char *>b"", <long><uint32_t>call.values[0],
        AT_EMPTY_PATH | <long>(call.flags & ~<unsigned int>AT_SYMLINK_NOFOLLOW), 0, 0
    )


cdef long own_link(const PathCall *call, char *into) noexcept nogil:
    """What /proc/self and /proc/thread-self say to the caller: ours would be about us. 0 for other links."""
    cdef pid_t process
    cdef int length
    if not call.first.place.on_procfs:
        return 0
    if strcmp(call.first.path, b"/proc/self") != 0 and strcmp(call.first.path, b"/proc/thread-self") != 0:
        return 0
    process = thread_group_of(call.tid)
    length = put_number(into, process)
    if call.first.path[6] == 116:      # 't'
        memcpy(into + length, <const char *>b"/task/", 6)
        length += 6 + put_number(into + length + 6, call.tid)
    return length


cdef long read_link(PathCall *call, const Run *run) noexcept nogil:
    cdef Details *details = &call.details
    cdef long length
    if call.first.place.mode & S_IFMT != S_IFLNK:
        return -ENOENT if call.first.itself else -EINVAL
    length = own_link(call, details.room)
    if length == 0:
        length = raw_syscall(
            SYS_readlinkat, call.first.place.descriptor, <long><const char *>b"", <long>details.room, MAX_ATTRIBUTE, 0,
            0
        )
    if run.virtual_root != NULL and call.first.place.on_procfs:
        length = as_seen_link(run.virtual_root, call.first.path, details.room, length, MAX_ATTRIBUTE)
    if length < 0:
        return length
    if <size_t>length > details.size:
        length = <long>details.size    # cut off without a word: readlink(2)
    return tell(call, details.room, <size_t>length, length)


cdef long look_at_attributes(PathCall *call, const Run *run) noexcept nogil:
    """A value, or the names of all. With no room it is only said how long that is."""
    cdef Details *details = &call.details
    cdef char path[64]
    cdef long length
    format_own_descriptor(path, call.first.place.descriptor)
    if call.act == ACT_LIST_XATTR:
        length = raw_syscall(SYS_listxattr, <long>path, <long>details.room, <long>details.size, 0, 0, 0)
    elif run.program.map_ids and strncmp(details.name, b"system.posix_acl", 16) == 0:
        return -EOPNOTSUPP       # users and groups in it would be others for the caller
    else:
        length = raw_syscall(
            SYS_getxattr, <long>path, <long>details.name, <long>details.room, <long>details.size, 0, 0
        )
    if length < 0 or details.size == 0:
        return length
    return tell(call, details.room, <size_t>length, length)


cdef long look_at_flags(PathCall *call) noexcept nogil:
    cdef char path[64]
    cdef long result
    format_own_descriptor(path, call.first.place.descriptor)
    memset(call.details.room, 0, call.details.size)      # what the program knows more of than we do
    result = raw_syscall(SYS_file_getattr, AT_FDCWD, <long>path, <long>call.details.room, SIZE_OF_FLAGS, 0, 0)
    return result if result < 0 else tell(call, call.details.room, call.details.size, 0)


cdef long look(PathCall *call, const Run *run) noexcept nogil:
    """Returns the call's value or -errno."""
    if call.act == ACT_LOOK:
        return look_at_status(call, run)
    if call.act == ACT_LOOK_X:
        return look_at_status_x(call, run)
    if call.act == ACT_MAY_ACCESS:
        return look_for_access(call)
    if call.act == ACT_READ_LINK:
        return read_link(call, run)
    if call.act == ACT_LOOK_AT_SYSTEM:
        return look_at_system(call)
    if call.act == ACT_GET_XATTR or call.act == ACT_LIST_XATTR:
        return look_at_attributes(call, run)
    return look_at_flags(call) if call.act == ACT_GET_FLAGS else -EACCES
