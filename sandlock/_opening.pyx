"""One open on a caller's behalf: what its flags mean, what the kernel would say before anybody is asked, and the
opening of what was judged.

Rules: an object is opened by its pin; a file is made in its pinned directory, and only where there is none. The answer
is a descriptor or an errno.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strcmp

from sandlock._linux cimport (
    AddDescriptor, Notification, Response, SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_IOCTL_NOTIF_SEND, SYS_close,
    SYS_fcntl, SYS_ioctl, SYS_openat, SYS_openat2, SYS_prlimit64, raw_syscall,
)
from sandlock._memory cimport read_memory
from sandlock._paths cimport (
    ACCESS_READ, ACCESS_WRITE, ASK_ALL, ASK_WRITES, FOLLOW_MAKES, FOLLOW_NOT_LAST, FOLLOW_TO_PARENT, Origin,
    follow_path, leave, parent_of_place, protects,
)
from sandlock._procfs cimport has_our_root, is_no_less, read_standing
from sandlock._programs cimport own_descriptor
from sandlock._sockets cimport Caller, duplicate, forget_caller
from sandlock._tasks cimport format_proc_path, parse_number, read_proc_file, stat_field

cdef extern from "<errno.h>" nogil:
    const int E2BIG
    const int EACCES
    const int EAGAIN
    const int EEXIST
    const int EINTR
    const int EINVAL
    const int EISDIR
    const int ELOOP
    const int EMFILE
    const int ENFILE
    const int ENOENT
    const int ENOSYS
    const int ENOTDIR
    const int ENXIO
    const int EROFS
    const int ESRCH

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int F_GETFL
    const int O_ACCMODE
    const int O_APPEND
    const int O_CLOEXEC
    const int O_CREAT
    const int O_DIRECTORY
    const int O_EXCL
    const int O_NOCTTY
    const int O_NOFOLLOW
    const int O_NONBLOCK
    const int O_RDONLY
    const int O_RDWR
    const int O_TRUNC
    const int O_WRONLY

cdef extern from * nogil:
    """
    #include <linux/magic.h>
    #include <sys/stat.h>
    #include <sys/statfs.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifndef SYS_faccessat2
    #define SYS_faccessat2 439                 /* Linux 5.8 */
    #endif
    #define SANDLOCK_O_PATH 010000000
    #define SANDLOCK_O_TMPFILE 020000000       /* the bit that O_TMPFILE has besides O_DIRECTORY */
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    #define SANDLOCK_AT_EACCESS 0x200
    #ifndef SYS_open
    #define SYS_open -1                        /* not on aarch64 */
    #endif
    #ifndef SYS_creat
    #define SYS_creat -1
    #endif
    #define SANDLOCK_ADDFD_SEND 2              /* SECCOMP_ADDFD_FLAG_SEND, Linux 5.14 */
    """
    const int O_PATH "SANDLOCK_O_PATH"
    const int O_TMPFILE_BIT "SANDLOCK_O_TMPFILE"
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const int AT_EACCESS "SANDLOCK_AT_EACCESS"
    const long PIPEFS_MAGIC
    const int R_OK
    const int W_OK
    const int X_OK
    const unsigned int ADDFD_SEND "SANDLOCK_ADDFD_SEND"
    const long SYS_creat
    const long SYS_faccessat2
    const long SYS_open
    const long SYS_fstatfs
    const long SYS_fstat
    const long SYS_newfstatat "SYS_newfstatat"
    const unsigned int S_IFBLK
    const unsigned int S_IFCHR
    const unsigned int S_IFDIR
    const unsigned int S_IFIFO
    const unsigned int S_IFLNK
    const unsigned int S_IFMT
    const unsigned int S_IFREG
    const unsigned int S_ISVTX
    const unsigned int S_IWGRP
    const unsigned int S_IWOTH
    ctypedef struct Status "struct stat":
        unsigned long st_rdev
        long st_size
    ctypedef struct FileSystem "struct statfs":
        long f_type

cdef enum:
    SIZE_OF_HOW = 24         # OPEN_HOW_SIZE_VER0: the first version, and the only one that is understood
    PAGE = 4096              # what openat2(2) takes at most; pages of other sizes take more, which is refused here

cdef struct OpenHow:
    uint64_t flags
    uint64_t mode
    uint64_t resolve

cdef enum:
    RLIMIT_NOFILE = 7
    TTYAUX = 5
    TTY = 0                  # its minors
    PTMX = 2
    MEMORY = 1               # /dev/null, /dev/zero, /dev/urandom and others that wait for nobody
    PTS_FIRST = 136
    PTS_LAST = 143
    STAT_ROOM = 512
    STREAMS = 3              # the descriptors of a caller that may be its terminal
    LARGE_FILE = 0o100000    # what O_LARGEFILE is to the kernel, where the headers have 0

cdef uint64_t SOUND_FLAGS = O_ACCMODE | O_APPEND | O_CLOEXEC | O_EXCL | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK | LARGE_FILE


# The call -------------------------------------------------------------------------------------------------------------

cdef int read_how(pid_t tid, uint64_t address, uint64_t size, OpenHow *how) noexcept nogil:
    """struct open_how, as openat2(2) takes it. Returns 0 or -errno."""
    cdef char tail[PAGE]
    cdef long result
    cdef uint64_t i
    if size < SIZE_OF_HOW:
        return -EINVAL
    if size > PAGE:
        return -E2BIG
    if size > SIZE_OF_HOW:
        result = read_memory(tid, address + SIZE_OF_HOW, tail, size - SIZE_OF_HOW)
        if result < 0:
            return <int>result
        for i in range(size - SIZE_OF_HOW):
            if tail[i] != 0:         # something newer, that nobody here knows
                return -E2BIG
    result = read_memory(tid, address, how, SIZE_OF_HOW)
    return <int>result if result < 0 else 0


cdef int read_call(const Notification *notification, OpenCall *call, uint64_t *path) noexcept nogil:
    """The call's arguments but for the path, whose address it tells. Returns 0 or -errno."""
    cdef const unsigned long long *args = <const unsigned long long *>notification.data.args
    cdef int number = notification.data.nr
    cdef OpenHow how
    cdef int result
    memset(call, 0, sizeof(call[0]))
    memset(&how, 0, sizeof(how))
    call.directory = AT_FDCWD
    if number == SYS_openat or number == SYS_openat2:
        call.directory = <int>args[0]
        path[0] = args[1]
    else:
        path[0] = args[0]
    if number == SYS_openat2:
        result = read_how(<pid_t>notification.pid, args[2], args[3], &how)
        if result < 0:
            return result
    elif number == SYS_openat:
        how.flags = <uint32_t>args[2]
        how.mode = <uint32_t>args[3]
    elif number == SYS_open:
        how.flags = <uint32_t>args[1]
        how.mode = <uint32_t>args[2]
    else:                        # creat(2)
        how.flags = O_CREAT | O_WRONLY | O_TRUNC
        how.mode = <uint32_t>args[1]
    call.flags = how.flags
    call.mode = how.mode
    call.resolve = how.resolve
    return 0


cdef int check_flags(int number, OpenCall *call) noexcept nogil:
    """What the kernel says of the flags, before it looks at the path: told by an empty one. Returns 0 or -errno."""
    cdef OpenHow how
    cdef long result
    cdef uint64_t others = call.flags & ~<uint64_t>SOUND_FLAGS
    if number != SYS_openat2 and (others & ~<uint64_t>O_DIRECTORY == 0 or others & ~<uint64_t>(O_CREAT | O_TRUNC) == 0):
        return 0                 # all but openat2(2) ignore what they do not know, and these go together in all kernels
    if number == SYS_openat2:
        how.flags = call.flags
        how.mode = call.mode
        how.resolve = call.resolve
        result = raw_syscall(SYS_openat2, AT_FDCWD, <long><const char *>b"", <long>&how, SIZE_OF_HOW, 0, 0)
    else:
        result = raw_syscall(SYS_openat, AT_FDCWD, <long><const char *>b"", <long>call.flags, <long>call.mode, 0, 0)
    if result != -ENOENT:
        return <int>result if result < 0 else -EINVAL
    # A descriptor with O_PATH cannot be handed over (SECCOMP_IOCTL_NOTIF_ADDFD), and the call cannot go on, for its
    # flags lie in memory. Programs use open and openat where there is no openat2; these the filter lets pass, but for a
    # virtual root, where the program gets a descriptor to read from instead.
    if call.flags & O_PATH and number == SYS_openat2:
        return -ENOSYS
    if call.flags & O_PATH:
        call.flags = call.flags & (O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) | O_NONBLOCK
    return 0


# Flags ---------------------------------------------------------------------------------------------------------------

cdef inline unsigned int kind_of(const Place *place) noexcept nogil:
    return place.mode & S_IFMT


cdef int access_of(const OpenCall *call) noexcept nogil:
    """What the open is good for, in bits of Access; `call.where.exists` is known."""
    cdef uint64_t mode = call.flags & O_ACCMODE
    cdef int access = 0
    if mode != O_WRONLY:     # 3 is neither, but the kernel wants both rights for it
        access |= ACCESS_READ
    if mode != O_RDONLY or call.flags & (O_TRUNC | O_TMPFILE_BIT) or (call.flags & O_CREAT and not call.where.exists):
        access |= ACCESS_WRITE
    return access


cdef int is_asked(const OpenCall *call) noexcept nogil:
    """Whether the policy wants this one judged: by its flags alone, as the filter does it for open and openat."""
    if call.asks != ASK_WRITES:
        return call.asks == ASK_ALL
    return call.flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_TMPFILE_BIT) != 0


# Looking -------------------------------------------------------------------------------------------------------------

cdef int prepare(const Tree *tree, pid_t tid, Standing *caller) noexcept nogil:
    """Looks at the caller. Returns 0, -ESRCH if it is gone, or -EACCES if it may do with files other things than we."""
    if read_standing(tid, caller) < 0 or caller.umask < 0:
        return -ESRCH
    return 0 if is_no_less(tree, caller) and has_our_root(tree, tid) else -EACCES


cdef int find(
    const Tree *tree, const void *hiding, pid_t tid, pid_t tgid, const OpenCall *call, const char *path, int how,
    Place *place
) noexcept nogil:
    """What the call's path means to the caller; `how`: more of enum Following; `hiding`: see Origin. Returns 0 or
    -errno."""
    cdef Origin origin
    cdef int following = how
    cdef int result
    origin.tid = tid
    origin.tgid = tgid
    origin.directory = call.directory
    origin.tree = tree
    origin.hiding = hiding
    if call.flags & O_CREAT:
        following |= FOLLOW_MAKES
    if call.flags & O_NOFOLLOW or (call.flags & O_CREAT and call.flags & O_EXCL):
        following |= FOLLOW_NOT_LAST
    result = follow_path(&origin, path, following, call.resolve, place)
    if (
        result == 0 and call.flags & O_CREAT and place.parent < 0 and <long>place.owner != tree.own.user
        and (kind_of(place) == S_IFREG or kind_of(place) == S_IFIFO)
    ):
        # For the kernel's protection of other people's files in a sticky directory: see `is_protected`.
        leave(place)
        result = follow_path(&origin, path, following | FOLLOW_TO_PARENT, call.resolve, place)
    return result


cdef int is_protected(const Tree *tree, const Place *place) noexcept nogil:
    """O_CREAT does not open a stranger's file or FIFO in a sticky directory (fs/namei.c: may_create_in_sticky)."""
    cdef Place directory
    cdef const char *name
    if kind_of(place) == S_IFREG:
        name = b"/proc/sys/fs/protected_regular"
    elif kind_of(place) == S_IFIFO:
        name = b"/proc/sys/fs/protected_fifos"
    else:
        return 0
    if place.parent < 0 or <long>place.owner == tree.own.user or parent_of_place(place, &directory) < 0:
        return 0
    if not directory.mode & S_ISVTX or directory.owner == place.owner:
        return 0
    if directory.mode & S_IWOTH:
        return protects(name, 1)
    return directory.mode & S_IWGRP and protects(name, 2)


cdef int check_place(const Tree *tree, const OpenCall *call, const Place *place) noexcept nogil:
    """What the kernel would say of flags and object (fs/namei.c: do_open). Returns 0 or -errno."""
    cdef uint64_t flags = call.flags
    if place.descriptor < 0:
        if place.read_only and flags & O_CREAT:
            return -EROFS
        return 0 if flags & O_CREAT and not place.on_procfs else -ENOENT
    if flags & O_CREAT:
        if flags & O_EXCL:
            return -EEXIST
        if kind_of(place) == S_IFDIR:
            return -EISDIR
        if is_protected(tree, place):
            return -EACCES
    if flags & O_DIRECTORY and kind_of(place) != S_IFDIR:
        return -ENOTDIR
    if kind_of(place) == S_IFLNK:
        return -ELOOP
    if kind_of(place) == S_IFDIR and not flags & O_TMPFILE_BIT and flags & (O_ACCMODE | O_TRUNC):
        return -EISDIR
    if place.read_only and (flags & O_TMPFILE_BIT or (
        kind_of(place) == S_IFREG and (flags & O_ACCMODE != O_RDONLY or flags & O_TRUNC)
    )):
        return -EROFS
    return 0


cdef int check_access(long descriptor, int wanted) noexcept nogil:
    cdef long result = raw_syscall(
        SYS_faccessat2, descriptor, <long><const char *>b"", wanted, AT_EMPTY_PATH | AT_EACCESS, 0, 0
    )
    return 0 if result == -ENOSYS else <int>result


cdef int probe(const OpenCall *call, const Place *place) noexcept nogil:
    """What the kernel would refuse anyway, tried without an effect: nobody is asked about that. Returns 0 or -errno."""
    cdef uint64_t flags = call.flags & ~<uint64_t>(O_CREAT | O_EXCL | O_TRUNC)
    cdef long opened
    cdef int result
    if place.descriptor < 0:
        return check_access(place.parent, W_OK | X_OK)
    if call.flags & O_TMPFILE_BIT:
        return check_access(place.descriptor, W_OK | X_OK)
    result = check_access(
        place.descriptor,
        (R_OK if call.access & ACCESS_READ else 0) | (W_OK if call.access & ACCESS_WRITE else 0)
    )
    if result < 0 or (kind_of(place) != S_IFREG and kind_of(place) != S_IFDIR):
        return result
    opened = reopen(place.own_table, place.descriptor, flags | O_NONBLOCK, 0)
    if opened >= 0:
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return 0 if opened >= 0 or opened == -EAGAIN else <int>opened      # -EAGAIN: a lease, which it would wait for


cdef int remember_place(OpenCall *call, const Place *place) noexcept nogil:
    """Writes down what is judged. Returns 0 or -errno."""
    cdef Place directory
    cdef const Place *found = place
    cdef int result
    memset(&call.where, 0, sizeof(call.where))
    call.where.exists = place.descriptor >= 0
    if not call.where.exists:
        result = parent_of_place(place, &directory)
        if result < 0:
            return result
        memcpy(call.where.last, place.last, sizeof(call.where.last))
        found = &directory
    elif call.flags & O_TMPFILE_BIT:
        call.where.last[0] = 47      # '/': to make something in a directory is not to open that
    call.where.device = found.device
    call.where.inode = found.inode
    call.where.birth_ns = found.birth_ns
    return 0


cdef int is_same(const OpenCall *call, const Place *place) noexcept nogil:
    """Whether this is what was judged: the object; or the directory, and the name in it."""
    cdef Place directory
    cdef const Place *found = place
    if call.where.exists:
        if place.descriptor < 0:
            return 0
    else:
        if place.parent < 0 or parent_of_place(place, &directory) < 0 or strcmp(place.last, call.where.last) != 0:
            return 0
        found = &directory
    return (
        found.device == call.where.device and found.inode == call.where.inode
        and found.birth_ns == call.where.birth_ns
    )


cdef int is_pipe_without_name(const Place *place) noexcept nogil:
    cdef FileSystem system
    memset(&system, 0, sizeof(system))
    return raw_syscall(SYS_fstatfs, place.descriptor, <long>&system, 0, 0, 0, 0) == 0 and system.f_type == PIPEFS_MAGIC


cdef int may_wait_long(const Place *place, const OpenCall *call) noexcept nogil:
    """Whether opening may wait for somebody else: the other end of a FIFO, a device that has to be ready."""
    if kind_of(place) == S_IFIFO:
        return not call.flags & O_NONBLOCK and call.flags & O_ACCMODE != O_RDWR and not is_pipe_without_name(place)
    if kind_of(place) == S_IFCHR and place.major == TTYAUX:
        return place.minor != TTY and place.minor != PTMX
    if kind_of(place) == S_IFCHR:
        return place.major != MEMORY and not PTS_FIRST <= place.major <= PTS_LAST
    return kind_of(place) == S_IFBLK


cdef int waits_for_nobody(const Place *place) noexcept nogil:
    """Whether to open what is there takes no waiting, but for a lease."""
    if kind_of(place) == S_IFCHR:
        return place.major == MEMORY
    return place.local and (kind_of(place) == S_IFREG or kind_of(place) == S_IFDIR)


cdef int table_is_full(pid_t tid) noexcept nogil:
    """Whether the caller has no room for one more descriptor. The kernel looks at that before it opens anything."""
    cdef Status status
    cdef char path[64]
    cdef uint64_t limit[2]
    memset(&status, 0, sizeof(status))
    format_proc_path(path, tid, b"fd")
    if raw_syscall(SYS_newfstatat, AT_FDCWD, <long>path, <long>&status, 0, 0, 0) < 0:
        return 0
    if raw_syscall(SYS_prlimit64, tid, RLIMIT_NOFILE, 0, <long>limit, 0, 0) < 0:
        return 0
    # How many there are is in the size since Linux 6.2; 0 before.
    return <uint64_t>status.st_size >= limit[0] and status.st_size > 0


# Opening -------------------------------------------------------------------------------------------------------------

cdef long reopen(long own_table, long pinned, uint64_t flags, uint64_t mode) noexcept nogil:
    """Opens a pinned object. Returns the descriptor or -errno."""
    cdef char path[64]
    cdef long opened, directory = own_descriptor(path, own_table, pinned)
    flags &= ~<uint64_t>(O_CREAT | O_NOFOLLOW)
    if not flags & O_TMPFILE_BIT:
        flags &= ~<uint64_t>O_EXCL
    while True:
        opened = raw_syscall(
            SYS_openat, directory, <long>path, <long>(flags | O_CLOEXEC | O_NOCTTY), <long>mode, 0, 0
        )
        if opened != -EINTR:
            return opened


cdef long make(const OpenCall *call, const Place *place) noexcept nogil:
    """Makes the file in its directory, where there is none; the umask is the caller's. Returns the descriptor or
    -errno."""
    cdef uint64_t flags = call.flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY
    return raw_syscall(SYS_openat, place.parent, <long>place.last, <long>flags, <long>call.mode, 0, 0)


cdef long terminal_of(int listener, uint64_t id, pid_t tid) noexcept nogil:
    """/dev/tty: the caller's controlling terminal is not ours. It gets one that it has already. Returns -errno, -ENXIO
    where it has none."""
    cdef char path[64]
    cdef char stat[STAT_ROOM]
    cdef const char *field
    cdef Status status
    cdef Caller caller
    cdef long length, number, opened, found = -ENXIO
    cdef int i
    format_proc_path(path, tid, b"stat")
    length = read_proc_file(path, stat, STAT_ROOM)
    field = stat_field(stat, length, 7) if length > 0 else NULL      # tty_nr
    number = parse_number(field) if field != NULL else 0
    if number == 0:
        return -ENXIO
    caller.tid = 0
    for i in range(STREAMS):
        opened = duplicate(&caller, listener, id, tid, i)
        if opened < 0:
            continue
        if (
            raw_syscall(SYS_fstat, opened, <long>&status, 0, 0, 0, 0) == 0 and <long>status.st_rdev == number
            and raw_syscall(SYS_fcntl, opened, F_GETFL, 0, 0, 0, 0) & O_ACCMODE == O_RDWR
        ):
            found = opened
            break
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    forget_caller(&caller)
    return found


cdef long open_judged(
    int listener, uint64_t id, pid_t tid, const OpenCall *call, const Place *place
) noexcept nogil:
    """Opens what was judged. Returns the descriptor or -errno, -EEXIST where a file has come to where one was to be
    made: that was not judged, whatever it is."""
    cdef long opened
    if not call.where.exists:
        return make(call, place) if place.descriptor < 0 else -EEXIST
    if kind_of(place) == S_IFCHR and place.major == TTYAUX and place.minor == TTY:
        # Ours, if any: only to be refused it.
        opened = reopen(place.own_table, place.descriptor, call.flags | O_NONBLOCK, call.mode)
        if opened >= 0:
            raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
        elif opened != -ENXIO:
            return opened
        return terminal_of(listener, id, tid)
    return reopen(place.own_table, place.descriptor, call.flags, call.mode)


# Answering -----------------------------------------------------------------------------------------------------------

cdef void answer_errno(int listener, uint64_t id, long error) noexcept nogil:
    """Fails the call with a (negative) errno."""
    cdef Response response
    memset(&response, 0, sizeof(response))
    response.id = id
    response.error = <int32_t>error
    while raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_SEND, <long>&response, 0, 0, 0) == -EINTR:
        pass


cdef void give(int listener, uint64_t id, long descriptor, uint64_t flags) noexcept nogil:
    """Puts a descriptor of ours into the caller, closes it here, and answers with its number there. In this order: what
    the program does next (close a FIFO, unlock a file, execute what it wrote) must not find it open in our table."""
    cdef AddDescriptor add
    cdef Response response
    cdef long number = -EINTR
    memset(&add, 0, sizeof(add))
    memset(&response, 0, sizeof(response))
    add.id = response.id = id
    add.srcfd = <uint32_t>descriptor
    add.newfd_flags = O_CLOEXEC if flags & O_CLOEXEC else 0
    while number == -EINTR:
        number = raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_ADDFD, <long>&add, 0, 0, 0)
    raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    if number < 0:
        # A full descriptor table is the caller's own affair; anything else is ours. Both are denials.
        answer_errno(listener, id, number if number == -EMFILE or number == -ENFILE else -EACCES)
        return
    response.val = number
    while raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_SEND, <long>&response, 0, 0, 0) == -EINTR:
        pass


cdef void give_at_once(int listener, uint64_t id, long descriptor, uint64_t flags, int writes) noexcept nogil:
    """The same with one wake-up less, where the program may go on before it is closed here: not with what it could
    write, for to execute that would fail as long as it is open."""
    cdef AddDescriptor add
    cdef long number = -EINTR
    if writes:
        give(listener, id, descriptor, flags)
        return
    memset(&add, 0, sizeof(add))
    add.id = id
    add.flags = ADDFD_SEND
    add.srcfd = <uint32_t>descriptor
    add.newfd_flags = O_CLOEXEC if flags & O_CLOEXEC else 0
    while number == -EINTR:
        number = raw_syscall(SYS_ioctl, listener, <long>SECCOMP_IOCTL_NOTIF_ADDFD, <long>&add, 0, 0, 0)
    raw_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0)
    if number < 0:
        answer_errno(listener, id, number if number == -EMFILE or number == -ENFILE else -EACCES)
