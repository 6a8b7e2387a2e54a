"""What a path call says besides its paths: times, attributes, flags, the target of a link.

Rules: what lies in the caller's memory is copied once, in bounds; what the kernel would refuse of it before it looks at
the paths is refused here, with its errno. Nothing is decided.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.types cimport pid_t

from sandlock._linux cimport SYS_close, raw_syscall
from sandlock._memory cimport read_memory, read_string
from sandlock._path_calls cimport (
    ACT_GET_FLAGS, ACT_GET_XATTR, ACT_LIST_XATTR, ACT_LOOK_X, ACT_MAKE_LINK, ACT_MAKE_NODE, ACT_MAY_ACCESS,
    ACT_READ_LINK, ACT_REMOVE_XATTR, ACT_RENAME, ACT_SET_FLAGS, ACT_SET_XATTR, ACT_TIMES, ACT_TRUNCATE, ACT_WATCH,
    Details, MAX_ATTRIBUTE, MAX_ATTRIBUTE_NAME, SIZE_OF_FLAGS, SYS_getxattrat, SYS_setxattrat,
)
from sandlock._programs cimport MAX_PATH
from sandlock._sockets cimport duplicate

cdef extern from "<errno.h>" nogil:
    const int E2BIG
    const int EBADF
    const int EFAULT
    const int EINVAL
    const int ENAMETOOLONG
    const int ENOENT
    const int EPERM
    const int ERANGE

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <sys/inotify.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    #ifndef SYS_utime
    #define SYS_utime -1                       /* not on aarch64 */
    #endif
    #ifndef SYS_utimes
    #define SYS_utimes -1
    #endif
    #ifndef SYS_futimesat
    #define SYS_futimesat -1
    #endif
    """
    const int AT_SYMLINK_NOFOLLOW
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const long SYS_futimesat
    const long SYS_inotify_add_watch
    const long SYS_utime
    const long SYS_utimes
    const unsigned int S_IFBLK
    const unsigned int S_IFCHR
    const unsigned int S_IFDIR
    const unsigned int S_IFIFO
    const unsigned int S_IFMT
    const unsigned int S_IFREG
    const unsigned int S_IFSOCK

cdef enum:
    UTIME_OMIT = (1 << 30) - 2
    SIZE_OF_ARGS = 16        # XATTR_ARGS_SIZE_VER0
    SIZE_OF_FSXATTR = 28
    PAGE = 4096              # what structs that grow take at most; larger pages take more, which is refused here
    STATX_SYNC = 0x6000      # both of these flags, of which a call may have one
    RENAME_EXCHANGE = 2
    RENAME_ALL = 7

cdef uint32_t SET_EXTENDED = 0x401C5820      # FS_IOC_FSSETXATTR
cdef uint32_t STATX_RESERVED = 0x80000000

# struct xattr_args
cdef struct AttributeArgs:
    uint64_t value
    uint32_t size
    uint32_t flags


# Structures that grow ------------------------------------------------------------------------------------------------

cdef int read_growing(pid_t tid, uint64_t address, uint64_t size, void *into, uint64_t known) noexcept nogil:
    """A struct of which a program may have a later version, if all that is new in it is 0: the kernel's
    copy_struct_from_user. Returns 0 or -errno."""
    cdef char tail[PAGE]
    cdef long result
    cdef uint64_t i
    if size > PAGE:
        return -E2BIG
    if size < known:
        return -EINVAL
    result = read_memory(tid, address, tail, <size_t>size)
    if result < 0:
        return <int>result
    memcpy(into, tail, <size_t>known)
    for i in range(known, size):
        if tail[i] != 0:
            return -E2BIG
    return 0


# Times ---------------------------------------------------------------------------------------------------------------

cdef int read_times(PathCall *call) noexcept nogil:
    cdef Details *details = &call.details
    cdef uint64_t at = call.values[0]
    cdef int64_t seconds[2]
    cdef long result
    cdef int i
    details.now = at == 0
    if at == 0:
        return 0
    if call.number == SYS_utime:
        result = read_memory(call.tid, at, seconds, sizeof(seconds))
        if result < 0:
            return <int>result
        for i in range(2):
            details.times[i].seconds = seconds[i]
            details.times[i].nanoseconds = 0
        return 0
    result = read_memory(call.tid, at, details.times, sizeof(details.times))
    if result < 0:
        return <int>result
    if call.number == SYS_utimes or call.number == SYS_futimesat:
        for i in range(2):
            if not 0 <= details.times[i].nanoseconds < 1000000:
                return -EINVAL
            details.times[i].nanoseconds *= 1000
        return 0
    details.nothing_to_do = details.times[0].nanoseconds == UTIME_OMIT and details.times[1].nanoseconds == UTIME_OMIT
    return 0


cdef int check_times(PathCall *call) noexcept nogil:
    cdef int result = read_times(call)
    if result < 0 or call.details.nothing_to_do:
        return result
    if call.by_descriptor:
        return -EINVAL if call.flags else 0
    return -EINVAL if call.flags & ~<unsigned int>(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) else 0


# Attributes ----------------------------------------------------------------------------------------------------------

cdef int read_attribute_name(PathCall *call) noexcept nogil:
    cdef long length = read_string(call.tid, call.values[0], call.details.name, MAX_ATTRIBUTE_NAME)
    if length == 0 or length == -ENAMETOOLONG:
        return -ERANGE
    return <int>length if length < 0 else 0


cdef int read_attribute_args(PathCall *call, AttributeArgs *args) noexcept nogil:
    """Where the value is, and how long; of either form."""
    if call.number == SYS_setxattrat or call.number == SYS_getxattrat:
        return read_growing(call.tid, call.values[1], <uint64_t>call.values[2], args, SIZE_OF_ARGS)
    args.value = call.values[1]
    # What is too long for 32 bits is as much too long.
    args.size = <uint32_t>call.values[2] if call.values[2] <= MAX_ATTRIBUTE else MAX_ATTRIBUTE + 1
    args.flags = <uint32_t>call.values[3] if call.act == ACT_SET_XATTR else 0
    return 0


cdef int read_attribute(PathCall *call) noexcept nogil:
    cdef Details *details = &call.details
    cdef AttributeArgs args
    cdef int result = read_attribute_args(call, &args)
    if result < 0:
        return result
    if args.flags & ~<uint32_t>(3 if call.act == ACT_SET_XATTR else 0):
        return -EINVAL
    result = read_attribute_name(call)
    if result < 0:
        return result
    details.address = args.value
    details.size = args.size
    details.flags = args.flags
    if call.act == ACT_GET_XATTR:
        if details.size > MAX_ATTRIBUTE:
            details.size = MAX_ATTRIBUTE
        return 0
    if details.size > MAX_ATTRIBUTE:
        return -E2BIG
    if details.size == 0:
        return 0
    result = <int>read_memory(call.tid, args.value, details.room, details.size)
    return result if result < 0 else 0


# Flags of inodes, and watches ----------------------------------------------------------------------------------------

cdef int take_descriptor(PathCall *call, Caller *caller, int listener, int number) noexcept nogil:
    """Duplicates one of the caller's. Returns 0 or -errno."""
    if number < 0:
        return -EBADF
    call.details.descriptor = duplicate(caller, listener, call.id, call.tid, number)
    return <int>call.details.descriptor if call.details.descriptor < 0 else 0


cdef int read_flags(PathCall *call, Caller *caller, int listener) noexcept nogil:
    """file_setattr(2), or one of the ioctls that the filter sends here."""
    cdef Details *details = &call.details
    cdef long result
    if not call.by_descriptor:
        return read_growing(call.tid, call.values[0], call.values[1], details.room, SIZE_OF_FLAGS)
    result = take_descriptor(call, caller, listener, <int>call.args[0])
    if result < 0:
        return <int>result
    details.size = SIZE_OF_FSXATTR if <uint32_t>call.values[0] == SET_EXTENDED else sizeof(int32_t)
    result = read_memory(call.tid, call.values[1], details.room, details.size)
    return <int>result if result < 0 else 0


cdef int read_watch(PathCall *call, Caller *caller, int listener) noexcept nogil:
    cdef uint32_t mask = <uint32_t>call.values[0]
    cdef long result
    if mask == 0:
        return -EINVAL
    result = take_descriptor(call, caller, listener, <int>call.args[0])
    if result < 0:
        return <int>result
    # Before the path, the kernel looks at the mask, and whether that is an inotify descriptor. Here there is no path,
    # so that is all it does.
    result = raw_syscall(SYS_inotify_add_watch, call.details.descriptor, 0, <long>mask, 0, 0, 0)
    return 0 if result == -EFAULT else <int>result if result < 0 else -EINVAL


# The others ----------------------------------------------------------------------------------------------------------

cdef int read_target(PathCall *call) noexcept nogil:
    """What a symbolic link shall say."""
    cdef long length = read_string(call.tid, call.values[0], call.details.room, MAX_PATH)
    if length == 0:
        return -ENOENT
    return <int>length if length < 0 else 0


cdef int check_node(const PathCall *call) noexcept nogil:
    cdef unsigned int kind = <unsigned int>call.values[0] & S_IFMT
    if kind == 0 or kind == S_IFREG or kind == S_IFIFO or kind == S_IFSOCK:
        return 0
    # A device node is a way to the device, whatever directory it lies in.
    return -EPERM if kind == S_IFCHR or kind == S_IFBLK or kind == S_IFDIR else -EINVAL


cdef int check_look_x(PathCall *call) noexcept nogil:
    if <uint32_t>call.values[0] & STATX_RESERVED or call.flags & STATX_SYNC == STATX_SYNC:
        return -EINVAL
    call.details.address = call.values[1]
    return 0


cdef int check_rename(const PathCall *call) noexcept nogil:
    if call.flags & ~<unsigned int>RENAME_ALL or (call.flags & RENAME_EXCHANGE and call.flags != RENAME_EXCHANGE):
        return -EINVAL
    return 0


cdef int check_room(PathCall *call) noexcept nogil:
    """Of calls that answer with as much as the caller has room for."""
    cdef Details *details = &call.details
    details.address = call.values[0]
    details.size = <size_t>call.values[1]
    if call.act == ACT_READ_LINK:
        if <int32_t>call.values[1] <= 0:
            return -EINVAL
        details.size = <size_t><int32_t>call.values[1]
    elif call.act == ACT_GET_FLAGS:
        return -E2BIG if details.size > PAGE else -EINVAL if details.size < SIZE_OF_FLAGS else 0
    if details.size > MAX_ATTRIBUTE:
        details.size = MAX_ATTRIBUTE
    return 0


cdef int read_details(PathCall *call, Caller *caller, int listener) noexcept nogil:
    """Returns 0 or -errno; -EPERM where the caller's memory, or its descriptors, are shut to us."""
    cdef Details *details = &call.details
    details.nothing_to_do = 0
    details.size = 0
    details.address = call.values[0]
    if call.act == ACT_TIMES:
        return check_times(call)
    if call.act == ACT_SET_XATTR or call.act == ACT_GET_XATTR:
        return read_attribute(call)
    if call.act == ACT_REMOVE_XATTR:
        return read_attribute_name(call)
    if call.act == ACT_SET_FLAGS:
        return read_flags(call, caller, listener)
    if call.act == ACT_WATCH:
        return read_watch(call, caller, listener)
    if call.act == ACT_MAKE_LINK:
        return read_target(call)
    if call.act == ACT_RENAME:
        return check_rename(call)
    if call.act == ACT_LOOK_X:
        return check_look_x(call)
    if call.act == ACT_READ_LINK or call.act == ACT_LIST_XATTR or call.act == ACT_GET_FLAGS:
        return check_room(call)
    if call.act == ACT_MAY_ACCESS:
        return -EINVAL if <uint32_t>call.values[0] & ~<uint32_t>7 else 0
    if call.act == ACT_TRUNCATE:
        return -EINVAL if <int64_t>call.values[0] < 0 else 0
    return check_node(call) if call.act == ACT_MAKE_NODE else 0


cdef void forget_details(PathCall *call) noexcept nogil:
    if call.details.descriptor >= 0:
        raw_syscall(SYS_close, call.details.descriptor, 0, 0, 0, 0, 0)
        call.details.descriptor = -1
