"""One path call on a caller's behalf, from top to bottom: decode it, read its names, follow each to a pin, judge what
is pinned, act on that.

In the fast lane this is done as far as the kernel knows the way and nothing waits for anybody (LATER if not); an opener
then does the same from the start, and may block.

Rules: names are read once; what is judged is what is acted on, by descriptor. No answer lets the call go on: it is a
value, an errno or a descriptor. What cannot be told is a denial.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset, strchr
from posix.types cimport pid_t

from sandlock._linux cimport (
    Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_fcntl, SYS_ioctl, SYS_umask, raw_syscall,
)
from sandlock._listing cimport list_directory
from sandlock._opening cimport (
    access_of, check_flags, check_place, find, give_at_once, open_judged, read_call, remember_place, table_is_full,
    waits_for_nobody,
)
from sandlock._metadata_acts cimport may_read
from sandlock._path_acts cimport act_on, meets_umask, waits
from sandlock._path_calls cimport (
    ACT_CHANGE_DIRECTORY, ACT_LINK, ACT_LIST_DIRECTORY, ACT_LIST_XATTR, ACT_LOOK, ACT_MAKE_DIRECTORY, ACT_MAKE_LINK,
    ACT_MAKE_NODE,
    ACT_OPEN, ACT_READ_LINK, ACT_REMOVE, ACT_REMOVE_DIRECTORY, ACT_RENAME, ACT_SET_FLAGS, ACT_TELL_DIRECTORY,
    ACT_TRUNCATE, ACT_WATCH, Name, PathCall, acts_in_directory, decode_call, is_metadata, read_name, takes_no_path,
)
from sandlock._path_records cimport may_record, record_call, record_open
from sandlock._path_values cimport forget_details, read_details
from sandlock._path_table cimport (
    WANT_READ, WANT_WRITE, PathTable, denied_by, hidden_error, hides, hiding, holds_denied, is_covered, is_hidden,
    judge_open, lets_change, resembles_denied,
)
from sandlock._paths cimport (
    ACCESS_WRITE, FOLLOW_CACHED, FOLLOW_TO_PARENT, OpenCall, Origin, Place, follow_path, leave, path_of_place,
)
from sandlock._places cimport look_with
from sandlock._procfs cimport has_our_root, is_no_less, know_tree, may_have, read_standing
from sandlock._programs cimport open_descriptor_of, real_path_in
from sandlock._slots cimport CAUSE_AUDIT, CAUSE_NONE, CAUSE_NO_RULE, CAUSE_RULE, CAUSE_UNREADABLE, load_paths
from sandlock._redirect cimport change_directory
from sandlock._promises cimport has_promises, take_promised
from sandlock._run cimport VirtualRoot
from sandlock._tasks cimport (
    format_proc_path, parse_digits, put_number, read_proc_file, status_field, thread_group_of,
)
from sandlock._view_table cimport is_there, is_view, resembles_view, show_view
from sandlock._virtual_acts cimport tell_directory
from sandlock._virtual_root cimport enter, holds_mount, is_memory, mount_at, real_of_seen, show_path

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EBADF
    const int EBUSY
    const int EEXIST
    const int EMFILE
    const int ENOENT
    const int ENOTDIR
    const int EPERM
    const int EROFS
    const int ESRCH
    const int EXDEV

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <sys/stat.h>
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    #define SANDLOCK_O_PATH 010000000
    #include <sys/stat.h>
    #include <sys/syscall.h>
    """
    const int AT_SYMLINK_NOFOLLOW
    const long SYS_newfstatat
    const unsigned int S_IRUSR
    const unsigned int S_IWUSR
    ctypedef struct Status "struct stat":
        unsigned int st_mode
    const int AT_FDCWD
    const uint64_t O_PATH "SANDLOCK_O_PATH"
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const int F_SETFL
    const int O_CREAT
    const int O_EXCL
    const int O_NONBLOCK
    const int O_DIRECTORY
    const int O_TMPFILE
    const int O_TRUNC
    const unsigned int S_IFDIR
    const unsigned int S_IFMT

cdef enum:
    FDINFO_ROOM = 4096


# Who calls -----------------------------------------------------------------------------------------------------------

cdef int get_to_know(Mediator *mediator) noexcept nogil:
    """Who we are, looked up once. Returns 0 or -errno."""
    cdef int result = 0
    if not mediator.knows:
        mediator.tree.run = mediator.table.run
        mediator.tree.ledger = mediator.ledger
        mediator.tree.local_mounts = NULL if mediator.may_block else &mediator.local_mounts
        result = know_tree(&mediator.tree)
        mediator.knows = result == 0
    return result


cdef int meet_caller(Mediator *mediator) noexcept nogil:
    """Looks at the caller. Returns 0, -ESRCH if it is gone, or DENIED if it may do with files other things than we."""
    cdef int result = get_to_know(mediator)
    if result == 0 and not mediator.met:
        result = read_standing(mediator.call.tid, &mediator.caller)
        if result < 0 or mediator.caller.umask < 0:
            return -ESRCH
        mediator.met = 1
    if (
        result < 0 or not is_no_less(&mediator.tree, &mediator.caller)
        or not has_our_root(&mediator.tree, mediator.call.tid)
    ):
        return deny(mediator, CAUSE_UNREADABLE, -1, b"")
    return 0


cdef int still_waits(const Mediator *mediator) noexcept nogil:
    """Whether the caller still waits for us: what was read was its memory, and it may get what it wants."""
    return raw_syscall(
        SYS_ioctl, mediator.table.run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&mediator.call.id, 0, 0, 0
    ) == 0


# Judging -------------------------------------------------------------------------------------------------------------

cdef int deny(Mediator *mediator, int cause, int rule, const char *what) noexcept nogil:
    mediator.cause = cause
    mediator.rule = rule
    mediator.error = EACCES
    mediator.denied = what
    return DENIED


cdef int may_trust_letters(const Mediator *mediator, const char *path) noexcept nogil:
    """Whether nothing is said against a path, however the kernel has it. It may have it in other letters, where a
    directory does not tell upper and lower case apart; so what is denied, or shows something else, must not even
    resemble it, and where a path has to be granted to be used, or to be seen, its letters are not enough."""
    cdef const PathTable *paths = mediator.paths
    if strchr(path, 126) != NULL:        # '~': a short name, perhaps, of a long one
        return 0
    if paths != NULL and (paths.narrow or paths.hides or resembles_denied(paths, path)):
        return 0
    return not resembles_view(mediator.table.views, path)


cdef int find_path(const Mediator *mediator, Name *name, const Place *place) noexcept nogil:
    """Finds the real path of where a name leads: by its letters if these are enough to let it through, or as the kernel
    has it. Returns 0 or -errno."""
    cdef long length = -1
    if place.by_letters and (mediator.call.act == ACT_OPEN or mediator.call.act >= ACT_LOOK):
        length = real_of_seen(mediator.table.run.virtual_root, name.text, name.path, sizeof(name.path))
        if length >= 0 and may_trust_letters(mediator, name.path):
            return 0
    length = path_of_place(place, name.path, sizeof(name.path))
    if length < 0:
        name.path[0] = 0
        return <int>length
    name.path[length] = 0
    return 0


cdef int set_path(const Mediator *mediator, Name *name) noexcept nogil:
    """The same, once."""
    return find_path(mediator, name, &name.place) if name.path[0] == 0 else 0


cdef int miss(Mediator *mediator, const Place *place, const char *path, int looks) noexcept nogil:
    """Of what is hidden: -ENOENT, or DENIED where a rule denies more than a look at it."""
    cdef int rule = denied_by(mediator.paths, place, path, WANT_READ)
    if rule < 0 or looks:
        return -ENOENT
    deny(mediator, CAUSE_RULE, rule, path)
    mediator.error = ENOENT
    return DENIED


cdef int hide(Mediator *mediator, Name *name, int result) noexcept nogil:
    """Of a name that was followed, with this result: what the program may not see is not there for it, and nor does it
    learn how far a way leads that it may not see. Returns the result, -ENOENT or DENIED."""
    if not hides(mediator.paths) or name.itself or not name.present or result == LATER:
        return result
    result = set_path(mediator, name) if result == 0 else hidden_error(result)
    if result < 0 or not is_hidden(mediator.paths, &name.place, name.path):
        return result
    return miss(mediator, &name.place, name.path, mediator.call.act >= ACT_LOOK)


cdef const char *as_seen(Mediator *mediator) noexcept nogil:
    """What was denied, as the program calls it."""
    cdef long length = show_path(mediator.table.run.virtual_root, mediator.denied, mediator.seen, sizeof(mediator.seen))
    return mediator.denied if length < 0 else mediator.seen


cdef int mount_of(const VirtualRoot *root, const Name *name) noexcept nogil:
    """The mount in which a name is, not the one that lies on it."""
    return root.mounts[name.place.mount].owner if name.place.is_mount_point else name.place.mount


cdef int judge_mounts(const Mediator *mediator, const Name *name) noexcept nogil:
    """What mounts of a virtual root forbid, in the kernel's words. Returns 0 or -errno."""
    cdef const PathCall *call = &mediator.call
    cdef const VirtualRoot *root = mediator.table.run.virtual_root
    cdef int takes_away = call.act in (ACT_RENAME, ACT_REMOVE, ACT_REMOVE_DIRECTORY)
    if call.second.present and call.first.present and mount_of(root, &call.first) != mount_of(root, &call.second):
        return -EXDEV
    if name.place.is_mount_point and name.following & FOLLOW_TO_PARENT:
        return -EBUSY if takes_away else -EEXIST
    if name.place.read_only and ACT_OPEN < call.act < ACT_LOOK and call.act != ACT_WATCH:
        return -EROFS
    if takes_away and holds_mount(root, -1, name.path):      # it would be elsewhere, were that moved or removed
        return -EBUSY
    return 0


cdef int has_no_name(const Name *name) noexcept nogil:
    """Whether it is in no directory: a pipe, a socket, a memfd."""
    return name.path[0] != 47 or (name.itself and is_memory(name.path, name.place.links))


cdef int may_change(const Mediator *mediator, const Name *name) noexcept nogil:
    """Whether grants allow what Landlock has no right for; to watch needs no more than to read."""
    if mediator.call.act != ACT_WATCH:
        return has_no_name(name) or is_covered(mediator.paths, name.path, WANT_WRITE)
    if is_covered(mediator.paths, name.path, WANT_READ):
        return 1
    return not mediator.paths.narrow and may_read(&name.place)


cdef int said_before(const Mediator *mediator, const Name *name) noexcept nogil:
    """What the kernel says of a name before it looks at any grant: programs count on that (mkdir -p, rm -f). Returns 0
    or -errno."""
    cdef const PathCall *call = &mediator.call
    cdef int exists = name.place.descriptor >= 0
    if call.act in (ACT_MAKE_DIRECTORY, ACT_MAKE_NODE, ACT_MAKE_LINK) and exists:
        return -EEXIST
    if call.act in (ACT_REMOVE, ACT_REMOVE_DIRECTORY) and not exists:
        return -ENOENT
    return -ENOENT if call.act == ACT_RENAME and name == &call.first and not exists else 0


cdef int wanted_by(int act) noexcept nogil:
    """What it wants of an object, of enum Want: to link it wants to change it, for who has another name of it could."""
    return WANT_READ if act >= ACT_LOOK or act == ACT_WATCH else WANT_WRITE


cdef int judge_name(Mediator *mediator, Name *name) noexcept nogil:
    """Whether the policy lets this be done to where the name leads. Returns 0, DENIED or -errno."""
    cdef const PathTable *paths = mediator.paths
    cdef PathCall *call = &mediator.call
    cdef int rule, result = set_path(mediator, name)
    if result < 0:
        return result
    if not is_there(mediator.table.views, &mediator.tree, name.path):
        return -ENOENT
    rule = denied_by(paths, &name.place, name.path, wanted_by(call.act))
    if rule < 0 and (
        call.act in (ACT_RENAME, ACT_REMOVE, ACT_REMOVE_DIRECTORY, ACT_MAKE_LINK)
        or (call.act == ACT_LINK and name == &call.second)
    ):
        rule = holds_denied(paths, name.path)
    if rule >= 0:
        return deny(mediator, CAUSE_RULE, rule, name.path)
    if mediator.table.run.virtual_root != NULL:
        result = judge_mounts(mediator, name)
        if result < 0:
            return result
    if ACT_TRUNCATE <= call.act <= ACT_MAKE_NODE and not lets_change(
        paths, &name.place, name.path, acts_in_directory(call.act)
    ):
        result = said_before(mediator, name)
        return result if result < 0 else deny(mediator, CAUSE_NO_RULE, -1, name.path)
    if is_metadata(call.act) and not may_change(mediator, name):
        return deny(mediator, CAUSE_NO_RULE, -1, name.path)
    if name.place.on_procfs and may_have(&mediator.tree, thread_group_of(call.tid), name.path, 1, 0, 0) < 0:
        return deny(mediator, CAUSE_NO_RULE, -1, name.path)
    if call.act == ACT_WATCH:
        return 0                 # it tells of changes to the real file, and not what it holds
    if call.act >= ACT_LOOK:
        return show_view(mediator.table.views, &name.place, name.path, 0)
    if is_view(mediator.table.views, &name.place, name.path):
        return deny(mediator, CAUSE_NO_RULE, -1, name.path)
    return 0


# Following -----------------------------------------------------------------------------------------------------------

cdef int is_only_path(pid_t tid, int descriptor) noexcept nogil:
    """Whether a descriptor of the caller was opened with O_PATH, and so is good for nothing else."""
    cdef char status[FDINFO_ROOM]
    cdef char name[32]
    cdef char path[64]
    cdef const char *flags
    cdef Status link
    cdef long length
    memcpy(name, <const char *>b"fd/", 3)
    put_number(name + 3, descriptor)
    format_proc_path(path, tid, name)
    if (
        raw_syscall(SYS_newfstatat, AT_FDCWD, <long>path, <long>&link, AT_SYMLINK_NOFOLLOW, 0, 0) == 0
        and link.st_mode & (S_IRUSR | S_IWUSR)
    ):
        return 0                 # good for reading or writing: proc_pid_fd(5). Most are, and this is looked up faster
    memcpy(name, <const char *>b"fdinfo/", 7)
    put_number(name + 7, descriptor)
    format_proc_path(path, tid, name)
    length = read_proc_file(path, status, FDINFO_ROOM)
    flags = status_field(status, length, b"\nflags:\t") if length > 0 else NULL
    return flags == NULL or parse_digits(flags, 8) & O_PATH != 0


cdef int follow_descriptor(Mediator *mediator, Name *name) noexcept nogil:
    """What the caller's descriptor refers to. Returns 0 or -errno."""
    cdef const VirtualRoot *root = mediator.table.run.virtual_root
    cdef PathCall *call = &mediator.call
    cdef long opened
    cdef int result
    if name.directory == AT_FDCWD and (call.by_descriptor or call.act == ACT_LIST_XATTR):
        return -EBADF            # listxattrat(2) takes no working directory, unlike its sisters
    if call.by_descriptor and call.act == ACT_SET_FLAGS:
        opened = call.details.descriptor
        call.details.descriptor = -1
    else:
        opened = open_descriptor_of(call.tid, name.directory)
    if opened == -ENOENT and name.directory != AT_FDCWD:
        return -EBADF
    if opened < 0:
        return <int>opened
    memset(&name.place, 0, sizeof(name.place))
    name.place.descriptor = opened
    name.place.parent = -1
    name.place.own_table = mediator.tree.own_table
    if call.by_descriptor or (takes_no_path(call.act) and name.directory != AT_FDCWD):
        if is_only_path(call.tid, name.directory):
            return -EBADF
    result = look_with(opened, &name.place, mediator.tree.local_mounts)
    if result == 0 and root != NULL and real_path_in(name.place.own_table, opened, name.path) >= 0:
        enter(root, mount_at(root, name.path), &name.place)
    if result == 0 and not mediator.may_block and (name.place.on_procfs or not name.place.local):
        result = LATER
    return result


cdef int follow_name(Mediator *mediator, Name *name) noexcept nogil:
    """Returns 0, LATER or -errno."""
    cdef Origin origin
    cdef int result, act = mediator.call.act
    if not name.present:
        return 0
    if name.length == 0 and not name.itself:
        if name == &mediator.call.second or act == ACT_RENAME:
            return -ENOENT
        if not mediator.call.flags & AT_EMPTY_PATH and act != ACT_READ_LINK:
            return -ENOENT
        name.itself = 1
    if name.itself:
        return follow_descriptor(mediator, name)
    origin.tid = mediator.call.tid
    origin.tgid = 0
    origin.directory = name.directory
    origin.tree = &mediator.tree
    origin.hiding = hiding(mediator.paths)
    if not mediator.may_block:
        result = follow_path(&origin, name.text, name.following | FOLLOW_CACHED, 0, &name.place)
        return LATER if result == -EAGAIN else result
    result = get_to_know(mediator)
    if result < 0:
        return result
    origin.tgid = thread_group_of(origin.tid)
    return follow_path(&origin, name.text, name.following, 0, &name.place)


# All but opens -------------------------------------------------------------------------------------------------------

cdef int find_and_judge(Mediator *mediator) noexcept nogil:
    """Returns 0, LATER, DENIED or -errno."""
    cdef PathCall *call = &mediator.call
    cdef int result = hide(mediator, &call.first, follow_name(mediator, &call.first))
    if result == 0:
        result = hide(mediator, &call.second, follow_name(mediator, &call.second))
    if result == 0 and call.first.present:
        result = judge_name(mediator, &call.first)
    if result == 0 and call.second.present:
        result = judge_name(mediator, &call.second)
    return result


cdef int read_all(Mediator *mediator) noexcept nogil:
    """What the call says, out of the caller's memory. Returns 0, DENIED or -errno."""
    cdef PathCall *call = &mediator.call
    cdef int result = read_details(call, &mediator.holder, mediator.table.run.listener)
    if result == -EPERM and call.act == ACT_MAKE_NODE:
        return result
    if result == 0 and not call.details.nothing_to_do:
        result = read_name(call.tid, &call.first)
        if result == 0:
            result = read_name(call.tid, &call.second)
    if result == -EPERM:         # its memory is shut to us: another user, or not dumpable
        result = deny(mediator, CAUSE_UNREADABLE, -1, b"")
    return result


cdef long lead_caller(Mediator *mediator) noexcept nogil:
    """chdir(2): nobody can do that for somebody else. Returns GIVEN or -errno."""
    cdef PathCall *call = &mediator.call
    cdef int result
    if call.first.place.mode & S_IFMT != S_IFDIR:
        return -ENOTDIR
    if mediator.redirect == NULL:
        return -EACCES
    result = change_directory(
        mediator.redirect, mediator.table.run.listener, call.id, call.tid, call.first.place.descriptor
    )
    return GIVEN if result == 0 else result


cdef long carry_out(Mediator *mediator) noexcept nogil:
    """What is decoded. Returns the call's value, -errno, LATER or DENIED."""
    cdef PathCall *call = &mediator.call
    cdef long value
    cdef int result
    if call.act == ACT_TELL_DIRECTORY:
        if not still_waits(mediator):
            return -ESRCH
        return tell_directory(mediator.table.run.virtual_root, mediator.tree.own_table, call)
    if (waits(call) or call.act == ACT_CHANGE_DIRECTORY) and not mediator.may_block:
        return LATER
    result = read_all(mediator)
    if result < 0 or call.details.nothing_to_do:
        return result
    if mediator.may_block or not mediator.uniform:
        result = meet_caller(mediator)
    if result == 0:
        result = find_and_judge(mediator)
    if result == 0 and meets_umask(call):
        result = meet_caller(mediator)
        if result == 0:
            raw_syscall(SYS_umask, mediator.caller.umask, 0, 0, 0, 0, 0)
    if result == 0 and not still_waits(mediator):
        result = -ESRCH
    if result < 0:
        return result
    if call.act == ACT_CHANGE_DIRECTORY:
        return lead_caller(mediator)
    if call.act < ACT_LOOK and not may_record(mediator.table):
        return deny(mediator, CAUSE_AUDIT, -1, call.first.path)
    value = act_on(call, mediator.table.run)
    if value >= 0:
        record_call(mediator.table, &mediator.records, call)
    return value


cdef long mediate(Mediator *mediator, const Notification *notification, int64_t rule) noexcept nogil:
    """Returns the call's value, -errno, LATER or DENIED."""
    cdef long result
    mediator.met = 0
    mediator.paths = load_paths(&mediator.table.paths)
    mediator.call.details.descriptor = -1
    result = get_to_know(mediator)
    if result == 0 and rule & 0xFF == ACT_LIST_DIRECTORY:
        mediator.call.first.text[0] = mediator.call.first.length = 0     # it names nothing
        return list_directory(mediator, notification)
    if result == 0:
        result = decode_call(notification, rule, &mediator.call)
    if result < 0:
        return result
    result = carry_out(mediator)
    forget_details(&mediator.call)
    leave(&mediator.call.first.place)
    leave(&mediator.call.second.place)
    return result


# Opens, as the fast lane does them -----------------------------------------------------------------------------------

cdef long open_and_give(Mediator *mediator, OpenCall *call, Place *place) noexcept nogil:
    """Returns GIVEN, LATER or -errno."""
    cdef PathCall *at = &mediator.call
    cdef uint64_t flags = call.flags
    cdef long opened
    cdef int result = show_view(mediator.table.views, place, at.first.path, 1)
    if result < 0:
        return result
    if (not call.where.exists or flags & O_TRUNC) and table_is_full(at.tid):
        return -EMFILE           # before anything is made, or cut off
    if not call.where.exists:
        result = meet_caller(mediator)
        if result < 0:
            return result
        raw_syscall(SYS_umask, mediator.caller.umask, 0, 0, 0, 0, 0)
    if call.access & ACCESS_WRITE and not still_waits(mediator):
        return -ESRCH
    call.flags |= O_NONBLOCK     # for a lease would make it wait
    opened = open_judged(mediator.table.run.listener, at.id, at.tid, call, place)
    call.flags = flags
    if opened == -EAGAIN or (opened == -EEXIST and not flags & O_EXCL):
        return LATER
    if opened < 0:
        return opened
    record_open(mediator.table, &mediator.records, call, place, at.number, at.tid, at.first.path)
    if not flags & O_NONBLOCK:
        raw_syscall(SYS_fcntl, opened, F_SETFL, <long>flags, 0, 0, 0)
    give_at_once(mediator.table.run.listener, at.id, opened, flags, call.access & ACCESS_WRITE)
    return GIVEN


cdef long open_place(Mediator *mediator, OpenCall *call, Place *place) noexcept nogil:
    """Judges what an open found, and opens it. Returns GIVEN, LATER, DENIED or -errno."""
    cdef Name *name = &mediator.call.first
    cdef int rule = -1, cause, result = check_place(&mediator.tree, call, place)
    if result < 0:
        return LATER             # there is more to say of a failure than of a success
    if place.descriptor >= 0 and not waits_for_nobody(place):
        return LATER
    if find_path(mediator, name, place) < 0:
        return LATER
    if not is_there(mediator.table.views, &mediator.tree, name.path):
        return -ENOENT
    if hides(mediator.paths) and is_hidden(mediator.paths, place, name.path):
        return miss(mediator, place, name.path, 0)
    call.where.exists = place.descriptor >= 0
    cause = judge_open(mediator.paths, call, place, name.path, &rule)
    if cause != CAUSE_NONE:
        return deny(mediator, cause, rule, name.path)
    if access_of(call) & ACCESS_WRITE and is_view(mediator.table.views, place, name.path):
        return deny(mediator, CAUSE_NO_RULE, -1, name.path)
    result = remember_place(call, place)
    if result < 0:
        return LATER
    call.access = access_of(call)
    if not may_record(mediator.table):
        return deny(mediator, CAUSE_AUDIT, -1, name.path)
    return open_and_give(mediator, call, place)


cdef long open_quickly(Mediator *mediator, const Notification *notification) noexcept nogil:
    """An open that takes no waiting. Returns GIVEN, LATER, DENIED or -errno."""
    cdef Name *name = &mediator.call.first
    cdef OpenCall call
    cdef Place place
    cdef long result, opened
    mediator.met = 0
    mediator.paths = load_paths(&mediator.table.paths)
    mediator.call.act = ACT_OPEN
    mediator.call.id = notification.id
    mediator.call.tid = <int>notification.pid
    mediator.call.number = notification.data.nr
    result = get_to_know(mediator)
    if result == 0:
        result = read_call(notification, &call, &name.address)
    if result < 0 or not mediator.uniform or mediator.shares_table or call.resolve:
        return LATER
    if call.flags & (O_TMPFILE & ~O_DIRECTORY):
        return LATER
    result = check_flags(notification.data.nr, &call)
    name.present = 1
    name.itself = name.following = 0
    if result == 0:
        result = read_name(mediator.call.tid, name)
    if result == 0 and has_promises(&mediator.table.promises):
        opened = take_promised(&mediator.table.promises, thread_group_of(mediator.call.tid), name.text)
        if opened >= 0:
            give_at_once(mediator.table.run.listener, notification.id, opened, call.flags, 0)
            return GIVEN
    if result == 0:
        result = find(
            &mediator.tree, hiding(mediator.paths), mediator.call.tid, 0, &call, name.text, FOLLOW_CACHED, &place
        )
    if result < 0:
        return LATER if result == -EAGAIN or result == -EPERM else result
    result = open_place(mediator, &call, &place)
    leave(&place)
    return result
