"""What is at the end of a path: an object, or a name in a directory, pinned by descriptors of ours (O_PATH).

Rules: as _paths, which finds them; nothing here follows a link.
"""

from libc.stdint cimport int64_t, uint64_t

from libc.string cimport memcpy, memset, strcmp, strlen

from sandlock._linux cimport SYS_close, SYS_openat2, raw_syscall
from sandlock._programs cimport MAX_PATH, last_part, real_path_in
from sandlock._tasks cimport parse_number, read_proc_file

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int ENAMETOOLONG

cdef extern from "<fcntl.h>" nogil:
    const int O_CLOEXEC
    const int O_DIRECTORY
    const int O_NOFOLLOW

cdef extern from * nogil:
    """
    #include <linux/magic.h>
    #include <linux/stat.h>
    #include <sys/statfs.h>
    #include <sys/syscall.h>
    #define SANDLOCK_O_PATH 010000000
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    #define SANDLOCK_ST_NOSYMFOLLOW 0x2000     /* Linux 5.10 */
    #ifndef STATX_MNT_ID_UNIQUE
    #define STATX_MNT_ID_UNIQUE 0x4000U        /* Linux 6.8 */
    #endif
    """
    const int O_PATH "SANDLOCK_O_PATH"
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const long NOSYMFOLLOW "SANDLOCK_ST_NOSYMFOLLOW"
    const long PROC_SUPER_MAGIC
    const long EXT4_SUPER_MAGIC
    const long XFS_SUPER_MAGIC
    const long BTRFS_SUPER_MAGIC
    const long F2FS_SUPER_MAGIC
    const long TMPFS_MAGIC
    const long RAMFS_MAGIC
    const long OVERLAYFS_SUPER_MAGIC
    const long EROFS_SUPER_MAGIC_V1
    const long SQUASHFS_MAGIC
    const long ZFS_MAGIC "0x2FC12FC1"
    const unsigned int STATX_BASIC_STATS
    const unsigned int STATX_BTIME
    const unsigned int STATX_MNT_ID_UNIQUE
    const long SYS_fstatfs
    const long SYS_statx
    ctypedef struct FileSystem "struct statfs":
        long f_type
        long f_flags
    ctypedef struct OpenHow "struct open_how":
        uint64_t flags
        uint64_t mode
        uint64_t resolve

cdef enum:
    MAX_TRIES = 64
    MAX_LOCAL = 16           # LocalMounts.numbers


cdef long pin(long base, const char *name, int flags, uint64_t resolve) noexcept nogil:
    cdef OpenHow how
    cdef long opened = -EAGAIN
    cdef int tries = 0
    how.flags = O_PATH | O_CLOEXEC | flags
    how.mode = 0
    how.resolve = resolve
    while opened == -EAGAIN and tries < MAX_TRIES:
        opened = raw_syscall(SYS_openat2, base, <long>name, <long>&how, sizeof(how), 0, 0)
        if resolve & RESOLVE_CACHED:
            break
        tries += 1               # anybody has renamed something while the kernel was at a `..`: openat2(2)
    return opened


cdef long open_known(long base, const char *path, char *last) noexcept nogil:
    """The directory, known to the kernel, of the first name of a path that it does not know, and that name: the last of
    the path, or the one before. -EAGAIN where it is another one."""
    cdef char directory[MAX_PATH]
    cdef char shorter[MAX_PATH]
    cdef long parent = -EAGAIN
    cdef size_t length
    cdef int left = MAX_UNKNOWN
    while parent == -EAGAIN and left > 0:
        left -= 1
        if split_path(path, directory, last) < 0 or last[0] == 0 or strcmp(last, b".") == 0 or strcmp(last, b"..") == 0:
            return -EAGAIN
        parent = pin(base, directory, O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_CACHED)
        length = strlen(directory)
        while length > 0 and directory[length - 1] == 47:
            length -= 1
        memcpy(shorter, directory, length)
        shorter[length] = 0
        path = shorter
    return parent


cdef int look_up_next(long base, const char *path) noexcept nogil:
    """Has the kernel look up the first name of a path that it does not know, if that is one of the last two, and in a
    directory on a disk: who makes files, and who looks for what is not there, names new ones all the time. Returns
    whether it did."""
    cdef char name[MAX_LAST]
    cdef long known = 0, parent = open_known(base, path, name)
    if parent < 0:
        return 0
    known = pin(parent, name, O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_CACHED)
    close_pin(known)
    if known == -EAGAIN and is_on_disk(parent):
        close_pin(pin(parent, name, O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV))
    else:
        known = 0
    close_pin(parent)
    return known == -EAGAIN


cdef int take_pin(long descriptor, Place *place) noexcept nogil:
    cdef int result = look_with(descriptor, place, place.local_mounts)
    if result < 0:
        close_pin(descriptor)
    else:
        place.descriptor = descriptor
    return result


cdef void close_pin(long descriptor) noexcept nogil:
    if descriptor >= 0:
        raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)


cdef void leave(Place *place) noexcept nogil:
    close_pin(place.descriptor)
    close_pin(place.parent)
    place.descriptor = place.parent = -1


cdef int is_local(long kind) noexcept nogil:
    """Whether such a file system answers by itself: no server, and no program, is asked."""
    return kind in (
        EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, RAMFS_MAGIC,
        OVERLAYFS_SUPER_MAGIC, EROFS_SUPER_MAGIC_V1, SQUASHFS_MAGIC, ZFS_MAGIC,
    )


cdef int is_on_disk(long descriptor) noexcept nogil:
    """Whether a directory is on a file system that has its names on a disk of this machine, below which there is no
    other one, and that remembers of a name that it is not there."""
    cdef FileSystem system
    memset(&system, 0, sizeof(system))
    raw_syscall(SYS_fstatfs, descriptor, <long>&system, 0, 0, 0, 0)
    return system.f_type in (EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC)


cdef int is_known(const LocalMounts *mounts, const Statx *found) noexcept nogil:
    """Whether an object's mount is known to be local."""
    cdef int i
    if mounts == NULL or not found.stx_mask & STATX_MNT_ID_UNIQUE:
        return 0
    for i in range(mounts.count):
        if mounts.numbers[i] == found.stx_mnt_id:
            return 1
    return 0


cdef void learn(LocalMounts *mounts, const Statx *found) noexcept nogil:
    if mounts == NULL or not found.stx_mask & STATX_MNT_ID_UNIQUE:
        return
    mounts.numbers[mounts.next] = found.stx_mnt_id
    mounts.next = (mounts.next + 1) % MAX_LOCAL
    if mounts.count < MAX_LOCAL:
        mounts.count += 1


cdef int look_at_place(long descriptor, Place *place) noexcept nogil:
    """Fills in what there is to know of a pinned object. Returns 0 or -errno."""
    return look_with(descriptor, place, NULL)


cdef int look_with(long descriptor, Place *place, LocalMounts *mounts) noexcept nogil:
    """The same by a task that remembers mounts."""
    cdef Statx *found = &place.found
    cdef FileSystem system
    cdef long result
    memset(found, 0, sizeof(Statx))
    result = raw_syscall(
        SYS_statx, descriptor, <long><const char *>b"", AT_EMPTY_PATH,
        STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID_UNIQUE, <long>found, 0
    )
    if result < 0:
        return <int>result
    if is_known(mounts, found):
        place.on_procfs = place.nosymfollow = 0
        place.local = 1
    else:
        memset(&system, 0, sizeof(system))
        result = raw_syscall(SYS_fstatfs, descriptor, <long>&system, 0, 0, 0, 0)
        if result < 0:
            return <int>result
        place.on_procfs = system.f_type == PROC_SUPER_MAGIC
        place.local = is_local(system.f_type)
        place.nosymfollow = system.f_flags & NOSYMFOLLOW != 0
        if place.local:
            learn(mounts, found)
    place.mode = found.stx_mode
    place.owner = found.stx_uid
    place.links = found.stx_nlink
    place.major = found.stx_rdev_major
    place.minor = found.stx_rdev_minor
    place.device = <uint64_t>found.stx_dev_major << 32 | found.stx_dev_minor
    place.inode = found.stx_ino
    place.birth_ns = 0
    if found.stx_mask & STATX_BTIME:
        place.birth_ns = found.stx_btime.tv_sec * <int64_t>1000000000 + found.stx_btime.tv_nsec
    return 0


cdef int parent_of_place(const Place *place, Place *parent) noexcept nogil:
    """What there is to know of the directory. Returns 0 or -errno."""
    memset(parent, 0, sizeof(parent[0]))
    parent.descriptor = parent.parent = -1
    return look_at_place(place.parent, parent)


cdef long path_of_place(const Place *place, char *into, long size) noexcept nogil:
    """The path without links, of what there is not yet that which it would have. Returns its length or -errno."""
    cdef long length = real_path_in(
        place.own_table, place.descriptor if place.descriptor >= 0 else place.parent, into
    )
    cdef long more
    if length > 10 and place.descriptor >= 0 and place.links == 0 and strcmp(into + length - 10, b" (deleted)") == 0:
        length -= 10         # the kernel's mark; the file is judged by where it was
        into[length] = 0
    if length < 0 or place.descriptor >= 0:
        return length
    more = <long>strlen(place.last)
    if length + more + 2 > size:
        return -ENAMETOOLONG
    if length > 1:
        into[length] = 47    # '/'
        length += 1
    memcpy(into + length, place.last, more + 1)
    return length + more


cdef int split_path(const char *path, char *directory, char *last) noexcept nogil:
    """The directory of a path (MAX_PATH bytes; "." where it names none), and its last name (MAX_LAST; "" behind a
    slash). Returns 0, or -ENAMETOOLONG for what no directory holds."""
    cdef const char *name = last_part(path)
    cdef size_t length = strlen(name), cut = <size_t>(name - path)
    if length >= MAX_LAST:
        return -ENAMETOOLONG
    memcpy(last, name, length + 1)
    memcpy(directory, path, cut)
    directory[cut] = 0
    if cut == 0:
        memcpy(directory, <const char *>b".", 2)
    return 0


cdef int protects(const char *name, int level) noexcept nogil:
    """Whether one of the kernel's protections of sticky directories (/proc/sys/fs/protected_*) is on; if that cannot
    be seen, it is."""
    cdef char text[16]
    if read_proc_file(name, text, sizeof(text)) <= 0:
        return 1
    return parse_number(text) >= level
