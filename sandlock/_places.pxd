# What a path led to, pinned.

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    MAX_LAST = 256           # a name in a directory, with its NUL (NAME_MAX)
    MAX_UNKNOWN = 2          # names that are looked up by who may not wait: a new file in a new directory

# How a path is followed. A call that makes what is not there (O_CREAT) gets its directory instead.
cdef enum Following:
    FOLLOW_NOT_LAST = 1      # O_NOFOLLOW: a link in the last place is itself meant
    FOLLOW_MAKES = 2         # O_CREAT
    FOLLOW_TO_PARENT = 4     # `parent` is wanted in any case
    FOLLOW_CACHED = 8        # -EAGAIN for what is not in the kernel's caches, or takes more than a look

# openat2(2): what a path may not lead through.
cdef extern from * nogil:
    """
    #include <linux/openat2.h>
    #ifndef RESOLVE_CACHED
    #define RESOLVE_CACHED 0x20                /* Linux 5.12 */
    #endif
    """
    const uint64_t RESOLVE_BENEATH
    const uint64_t RESOLVE_CACHED
    const uint64_t RESOLVE_IN_ROOT
    const uint64_t RESOLVE_NO_MAGICLINKS
    const uint64_t RESOLVE_NO_SYMLINKS
    const uint64_t RESOLVE_NO_XDEV

# Mounts whose file systems are known to wait for nobody: a mount's number (STATX_MNT_ID_UNIQUE, Linux 6.8) is never
# given again, and what is mounted by it stays the same.
cdef struct LocalMounts:
    int count                # that are known, of the ring below
    int next
    uint64_t numbers[16]

cdef extern from *:
    """
    #include <linux/stat.h>
    """
    ctypedef struct StatxTime "struct statx_timestamp":
        long long tv_sec
        unsigned int tv_nsec
    ctypedef struct Statx "struct statx":
        unsigned int stx_mask
        unsigned int stx_blksize
        unsigned int stx_nlink
        unsigned int stx_uid
        unsigned int stx_gid
        unsigned short stx_mode
        unsigned long long stx_ino
        unsigned long long stx_size
        unsigned long long stx_blocks
        StatxTime stx_atime
        StatxTime stx_btime
        StatxTime stx_ctime
        StatxTime stx_mtime
        unsigned int stx_rdev_major
        unsigned int stx_rdev_minor
        unsigned int stx_dev_major
        unsigned int stx_dev_minor
        unsigned long long stx_mnt_id

# Where a name leads. Whoever has one closes it (`leave`).
cdef struct Place:
    long descriptor          # the object (O_PATH); -1 where there is none
    long parent              # the directory (O_PATH) that it is in, or would be made in; -1 if that was not looked for
    char last[MAX_LAST]      # its name there
    long own_table           # of the task whose descriptors these are, see _programs.own_descriptor
    LocalMounts *local_mounts    # what that task knows of mounts, or NULL
    int by_letters           # neither links nor `..` were on its way: its real path is what its letters say
    int on_procfs
    int local                # on a file system that waits for nobody
    int nosymfollow          # not known where `local_mounts` is
    unsigned int mode        # these of the object, or else of the directory
    unsigned int owner
    unsigned int links
    unsigned int major
    unsigned int minor
    uint64_t device
    uint64_t inode
    int64_t birth_ns         # 0 where the file system does not say
    int mount                # in a virtual root: through which mount it was reached
    int read_only            # so nothing may be changed there
    int is_mount_point       # it is a mount's own place: nothing takes that away
    Statx found              # all of it, as the kernel told when it was judged

cdef long pin(long base, const char *name, int flags, uint64_t resolve) noexcept nogil
cdef int look_up_next(long base, const char *path) noexcept nogil
cdef int take_pin(long descriptor, Place *place) noexcept nogil
cdef void close_pin(long descriptor) noexcept nogil
cdef void leave(Place *place) noexcept nogil
cdef int look_at_place(long descriptor, Place *place) noexcept nogil
cdef int look_with(long descriptor, Place *place, LocalMounts *mounts) noexcept nogil
cdef int parent_of_place(const Place *place, Place *parent) noexcept nogil
cdef long path_of_place(const Place *place, char *into, long size) noexcept nogil
cdef int split_path(const char *path, char *directory, char *last) noexcept nogil
cdef int protects(const char *name, int level) noexcept nogil
