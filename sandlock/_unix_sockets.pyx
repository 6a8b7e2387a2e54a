"""Unix sockets that have a name in the file system: which file a name means to the caller, and connecting to, sending
to or binding exactly that one.

A name is resolved twice, once to judge it and once to act; both must find the same file. The act itself goes by the
descriptor that the second look pinned, never by the name.
"""

from libc.string cimport memcpy, memset, strlen
from posix.types cimport pid_t

from sandlock._destinations cimport MAX_SOCKET_PATH, OPERATION_BIND
from sandlock._linux cimport SYS_bind, SYS_close, SYS_fchdir, SYS_umask, raw_syscall
from sandlock._path_table cimport PATH_RULES, WANT_WRITE, denied_file, hides, is_hidden
from sandlock._paths cimport Origin, Place, follow_path, leave
from sandlock._procfs cimport Tree, read_standing
from sandlock._programs cimport (
    FileIdentity, MAX_PATH, Viewer, format_own_descriptor, identify, last_part, open_named, real_path,
)
from sandlock._sockets cimport CHANGED, start_connect
from sandlock._tasks cimport umask_of
from sandlock._virtual_root cimport mounted_on, real_of_seen, show_path

cdef extern from "<errno.h>" nogil:
    const int EADDRINUSE
    const int ECONNREFUSED
    const int EINVAL
    const int ENAMETOOLONG
    const int EROFS

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from "<linux/openat2.h>" nogil:
    const unsigned long long RESOLVE_NO_MAGICLINKS

cdef extern from "<sys/socket.h>" nogil:
    const int AF_UNIX

cdef extern from "<sys/stat.h>" nogil:
    const unsigned int S_IFMT
    const unsigned int S_IFSOCK

cdef enum:
    FAMILY = 2               # bytes before the path of a struct sockaddr_un
    MAX_NAME = 108


cdef void read_name(const SocketCall *call, char *name) noexcept nogil:
    """The name in the call's own copy of the address, in MAX_NAME + 2 bytes."""
    memset(name, 0, MAX_NAME + 2)
    memcpy(name, call.address + FAMILY, call.address_length - FAMILY)


cdef long open_as_seen(
    const Run *run, pid_t tid, pid_t tgid, const SocketCall *call, const char *name, const char *made
) noexcept nogil:
    """What a name means to the caller, in its virtual root if there is one; `made`: the name that shall be made in this
    directory, or NULL. Returns a pin or -errno."""
    cdef Viewer viewer
    cdef Tree tree
    cdef Origin origin
    cdef Place place
    cdef int result
    if run.virtual_root == NULL:
        memset(&viewer, 0, sizeof(viewer))
        viewer.tid = tid
        viewer.tgid = tgid
        viewer.hiding = call.hiding
        viewer.run = run
        viewer.ledger = call.ledger
        return open_named(&viewer, AT_FDCWD, name, 0)
    memset(&tree, 0, sizeof(tree))
    tree.run = run
    tree.ledger = call.ledger
    origin.tid = tid
    origin.tgid = tgid
    origin.directory = AT_FDCWD
    origin.tree = &tree
    origin.hiding = NULL
    result = read_standing(0, &tree.own)
    if result == 0:
        result = follow_path(&origin, name, 0, RESOLVE_NO_MAGICLINKS, &place)
    if result < 0:
        return result
    if made != NULL and mounted_on(run.virtual_root, place.mount, 0, place.descriptor, made) != -1:
        result = -EADDRINUSE
    elif made != NULL and place.read_only:
        result = -EROFS
    if result < 0:
        leave(&place)
    return result if result < 0 else place.descriptor


cdef long open_place(
    const Run *run, pid_t tid, pid_t tgid, const SocketCall *call, const char *name, int binds, FileIdentity *file
) noexcept nogil:
    """The socket that a name means (to bind: its directory), pinned; or -errno."""
    cdef char directory[MAX_NAME + 2]
    cdef const char *last = last_part(name)
    cdef long opened
    cdef int mode
    if binds:
        if last[0] == 0:
            return -EADDRINUSE
        memset(directory, 0, sizeof(directory))
        directory[0] = 46    # '.'
        memcpy(directory, name, last - name)
        name = directory
    opened = open_as_seen(run, tid, tgid, call, name, last if binds else NULL)
    if opened < 0:
        return opened
    mode = identify(opened, file)
    if mode >= 0 and not binds and (<unsigned int>mode & S_IFMT) != S_IFSOCK:
        mode = -ECONNREFUSED
    if mode < 0:
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
        return mode
    return opened


cdef int find_socket(const Run *run, pid_t tid, pid_t tgid, SocketCall *call) noexcept nogil:
    """Sets the endpoint's path, without links, and who the file is. Returns 0, or the -errno of the call; the path is
    the name that was given then."""
    cdef char name[MAX_NAME + 2]
    cdef char real[4096]
    cdef char path[4096]
    cdef const char *last
    cdef int binds = call.endpoint.operation == OPERATION_BIND
    cdef long opened, length, more
    read_name(call, name)
    call.endpoint.path_length = <int>strlen(name)
    memcpy(call.endpoint.path, name, call.endpoint.path_length)
    opened = open_place(run, tid, tgid, call, name, binds, &call.file)
    if opened < 0:
        return <int>opened
    length = real_path(opened, real)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    if length >= 0:
        length = show_path(run.virtual_root, real, path, sizeof(path))
    if length < 0:
        return <int>length
    if binds:
        last = last_part(name)
        if length > 1:
            path[length] = 47
            length += 1
        more = <long>strlen(last)
        if length + more > MAX_SOCKET_PATH:
            return -ENAMETOOLONG
        memcpy(path + length, last, more)
        length += more
    if length > MAX_SOCKET_PATH:
        return -ENAMETOOLONG
    memcpy(call.endpoint.path, path, length)
    call.endpoint.path_length = <int>length
    return 0


cdef int has_path(const Run *run, const SocketCall *call, char *real) noexcept nogil:
    """Whether it is about a name in the file system; writes the real path down, in MAX_PATH bytes."""
    cdef char path[MAX_SOCKET_PATH + 1]
    if call.endpoint.path_length <= 0 or call.endpoint.abstract:
        return 0
    memcpy(path, call.endpoint.path, call.endpoint.path_length)
    path[call.endpoint.path_length] = 0
    if run.virtual_root == NULL or real_of_seen(run.virtual_root, path, real, MAX_PATH) < 0:
        memcpy(real, path, call.endpoint.path_length + 1)
    return 1


cdef int denied_socket(const Run *run, const PathTable *paths, const SocketCall *call) noexcept nogil:
    """The number, among all rules, of a denied path by which nobody may reach, or make, the socket that was found; or
    -1."""
    cdef char path[MAX_PATH]
    cdef int rule = -1
    if paths != NULL and has_path(run, call, path):      # to connect to what is protected may change anything
        rule = denied_file(paths, &call.file, path, WANT_WRITE)
    return rule if rule < 0 else PATH_RULES + rule


cdef int is_hidden_socket(const Run *run, const PathTable *paths, const SocketCall *call) noexcept nogil:
    """Whether a name is not there for the program, as far as files go."""
    cdef char path[MAX_PATH]
    cdef Place place
    if not hides(paths) or not has_path(run, call, path):
        return 0
    place.descriptor = -1
    return is_hidden(paths, &place, path)


cdef long open_judged(const Run *run, pid_t tid, pid_t tgid, const SocketCall *call, int binds) noexcept nogil:
    """The file that was judged, pinned; CHANGED if the name means another one now."""
    cdef char name[MAX_NAME + 2]
    cdef FileIdentity now
    cdef long opened
    read_name(call, name)
    opened = open_place(run, tid, tgid, call, name, binds, &now)
    if opened >= 0 and (now.device != call.file.device or now.inode != call.file.inode):
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
        return CHANGED
    return opened


cdef void set_name(SocketCall *call, const char *name) noexcept nogil:
    cdef unsigned short family = AF_UNIX
    memset(call.address, 0, sizeof(call.address))
    memcpy(call.address, &family, FAMILY)
    memcpy(call.address + FAMILY, name, strlen(name))
    call.address_length = FAMILY + <int>strlen(name) + 1


cdef long pin(const Run *run, pid_t tid, pid_t tgid, const SocketCall *call, SocketCall *pinned) noexcept nogil:
    """The call, with the address of exactly the socket that was judged. Returns a descriptor that keeps it true,
    CHANGED, or -errno."""
    cdef char link[64]
    cdef long opened = open_judged(run, tid, tgid, call, 0)
    if opened < 0:
        return opened
    pinned[0] = call[0]
    format_own_descriptor(link, opened)
    set_name(pinned, link)
    return opened


cdef long connect_path(const Run *run, pid_t tid, pid_t tgid, long descriptor, const SocketCall *call) noexcept nogil:
    """connect(2) to the socket that was judged. Returns 0, CHANGED or -errno; -EAGAIN where the guest's own call may
    wait."""
    cdef SocketCall pinned
    cdef long result
    cdef long opened = pin(run, tid, tgid, call, &pinned)
    if opened < 0:
        return opened
    result = start_connect(descriptor, &pinned)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return result


cdef long bind_path(const Run *run, pid_t tid, pid_t tgid, long descriptor, const SocketCall *call) noexcept nogil:
    """bind(2) in the directory that was judged, with the caller's umask. Only for a task with a working directory and
    umask of its own (no CLONE_FS). Returns 0, CHANGED or -errno."""
    cdef SocketCall pinned = call[0]
    cdef char name[MAX_NAME + 2]
    cdef long result
    cdef long mask = umask_of(tid)
    cdef long opened = open_judged(run, tid, tgid, call, 1)
    if opened < 0:
        return opened
    read_name(call, name)
    result = raw_syscall(SYS_fchdir, opened, 0, 0, 0, 0, 0)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    if result < 0:
        return result
    if mask < 0:
        return -EINVAL
    raw_syscall(SYS_umask, mask, 0, 0, 0, 0, 0)
    set_name(&pinned, last_part(name))
    return raw_syscall(SYS_bind, descriptor, <long>pinned.address, pinned.address_length, 0, 0, 0)
