"""Opens in a virtual root, as little as a loader needs: for the tests of execs there, until the path layer does it.

It may wait, and nothing is judged: Landlock alone says what opens.
"""

from libc.string cimport memset
from posix.types cimport pid_t

from sandlock._actions cimport ACTION_HOLD, Action, errno_action, plain_action
from sandlock._linux cimport (
    AddDescriptor, Notification, SECCOMP_IOCTL_NOTIF_ADDFD, SYS_close, SYS_ioctl, SYS_openat, raw_syscall,
)
from sandlock._memory cimport read_string
from sandlock._programs cimport MAX_PATH, Viewer, open_as_named
from sandlock._promises cimport take_promised
from sandlock._tasks cimport thread_group_of

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINTR

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CLOEXEC
    const int O_CREAT

cdef enum:
    ADDFD_SEND = 2


cdef Action open_virtually(Table *table, const Notification *notification) noexcept nogil:
    cdef const unsigned long long *args = <const unsigned long long *>notification.data.args
    cdef int at = notification.data.nr == SYS_openat
    cdef int flags = <int>args[1 + at]
    cdef char path[MAX_PATH]
    cdef AddDescriptor given
    cdef Viewer viewer
    cdef long opened, result = read_string(<pid_t>notification.pid, args[at], path, MAX_PATH)
    if result < 0:
        return errno_action(<int>-result)
    viewer.tid = <pid_t>notification.pid
    viewer.tgid = thread_group_of(viewer.tid)
    viewer.root = table.run.program.root
    if flags & O_CREAT:
        return errno_action(EACCES)
    opened = take_promised(&table.promises, viewer.tgid, path)
    if opened < 0:
        opened = open_as_named(&viewer, <int>args[0] if at else AT_FDCWD, path, 0, flags | O_CLOEXEC)
    if opened < 0:
        return errno_action(<int>-opened)
    memset(&given, 0, sizeof(given))
    given.id = notification.id
    given.flags = ADDFD_SEND
    given.srcfd = <unsigned int>opened
    given.newfd_flags = <unsigned int>flags & O_CLOEXEC
    result = -EINTR
    while result == -EINTR:
        result = raw_syscall(SYS_ioctl, table.run.listener, <long>SECCOMP_IOCTL_NOTIF_ADDFD, <long>&given, 0, 0, 0)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return plain_action(ACTION_HOLD) if result >= 0 else errno_action(EACCES)
