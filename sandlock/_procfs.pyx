"""/proc, seen for somebody else. The supervisor may read all of it and shares the host's memory; what it opens there on
a caller's behalf must be what the caller itself could open.

Rules: a file of a process is only given away if that is a task of the run's tree, never one of the supervisor or of the
host; the policy has to grant the path to the tree, not to us; whatever cannot be told is refused.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset, strcmp, strlen
from posix.types cimport pid_t

from sandlock._linux cimport SYS_kill, raw_syscall
from sandlock._programs cimport MAX_PATH, open_own_table, real_path
from sandlock._run cimport PathRule
from sandlock._tasks cimport (
    format_proc_path, is_member, parse_digits, parse_number, read_proc_file, status_field, thread_group_of,
)

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EIO
    const int ESRCH

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from * nogil:
    """
    #include <linux/stat.h>
    #include <sys/syscall.h>
    #ifndef STATX_MNT_ID
    #define STATX_MNT_ID 0x1000                /* Linux 5.8 */
    #endif
    """
    const unsigned int STATX_INO
    const unsigned int STATX_MNT_ID
    const long SYS_statx
    ctypedef struct Statx "struct statx":
        unsigned int stx_mask
        unsigned long long stx_ino
        unsigned int stx_dev_major
        unsigned int stx_dev_minor
        unsigned long long stx_mnt_id

cdef enum:
    STATUS_ROOM = 8192
    LANDLOCK_READ_FILE = 4
    LANDLOCK_READ_DIR = 8


# Who a task is -------------------------------------------------------------------------------------------------------

cdef const char *skip_fields(const char *text, int count) noexcept nogil:
    while count > 0 and text[0] != 0 and text[0] != 10:
        if text[0] == 9:
            count -= 1
        text += 1
    return text


cdef uint64_t hash_line(const char *text) noexcept nogil:
    cdef uint64_t hash = <uint64_t>0xCBF29CE484222325
    while text[0] != 0 and text[0] != 10:
        hash = (hash ^ <uint64_t><unsigned char>text[0]) * <uint64_t>0x100000001B3
        text += 1
    return hash


cdef int parse_standing(const char *status, long length, Standing *out) noexcept nogil:
    """Returns 0, or -EIO where a line is missing."""
    cdef const char *tgid = status_field(status, length, b"\nTgid:\t")
    cdef const char *mask = status_field(status, length, b"\nUmask:\t")
    cdef const char *user = status_field(status, length, b"\nUid:\t")
    cdef const char *group = status_field(status, length, b"\nGid:\t")
    cdef const char *groups = status_field(status, length, b"\nGroups:\t")
    cdef const char *capabilities = status_field(status, length, b"\nCapEff:\t")
    cdef const char *filters = status_field(status, length, b"\nSeccomp_filters:\t")
    if tgid == NULL or user == NULL or group == NULL or groups == NULL or capabilities == NULL or filters == NULL:
        return -EIO
    out.tgid = <pid_t>parse_number(tgid)
    out.umask = -1 if mask == NULL else <long>parse_digits(mask, 8)      # a zombie has none
    out.user = parse_number(skip_fields(user, 3))
    out.group = parse_number(skip_fields(group, 3))
    out.groups = hash_line(groups)
    out.capabilities = parse_digits(capabilities, 16)
    out.filters = parse_number(filters)
    return 0


cdef int read_standing(pid_t tid, Standing *out) noexcept nogil:
    """Of a task, or with 0 of the one that calls. Returns 0 or -errno."""
    cdef char path[64]
    cdef char status[STATUS_ROOM]
    cdef long length
    memset(out, 0, sizeof(out[0]))
    if tid == 0:
        length = read_proc_file(b"/proc/thread-self/status", status, STATUS_ROOM)
    else:
        format_proc_path(path, tid, b"status")
        length = read_proc_file(path, status, STATUS_ROOM)
    if length <= 0:
        return -ESRCH
    return parse_standing(status, length, out)


cdef int statx_root(const char *path, uint64_t *device, uint64_t *inode, uint64_t *mount) noexcept nogil:
    cdef Statx found
    cdef long result
    memset(&found, 0, sizeof(found))
    result = raw_syscall(SYS_statx, AT_FDCWD, <long>path, 0, STATX_INO | STATX_MNT_ID, <long>&found, 0)
    device[0] = <uint64_t>found.stx_dev_major << 32 | found.stx_dev_minor
    inode[0] = found.stx_ino
    mount[0] = found.stx_mnt_id
    return <int>result


cdef int know_tree(Tree *tree) noexcept nogil:
    """Looks at the calling task, which is one of the supervisor's. Returns 0 or -errno."""
    cdef int result = read_standing(0, &tree.own)
    if result < 0:
        return result
    tree.own_table = open_own_table()
    return statx_root(b"/", &tree.root_device, &tree.root_inode, &tree.root_mount)


cdef int is_no_less(const Tree *tree, const Standing *caller) noexcept nogil:
    """Whether the caller is the user that we are, in the same groups and with no fewer capabilities: only then may it
    do with files what we may."""
    return (
        caller.user == tree.own.user and caller.group == tree.own.group and caller.groups == tree.own.groups
        and tree.own.capabilities & ~caller.capabilities == 0
    )


cdef int has_our_root(const Tree *tree, pid_t tid) noexcept nogil:
    cdef char path[64]
    cdef uint64_t device, inode, mount
    format_proc_path(path, tid, b"root")
    return (
        statx_root(path, &device, &inode, &mount) == 0 and device == tree.root_device and inode == tree.root_inode
        and mount == tree.root_mount
    )


cdef int is_of_tree(const Tree *tree, pid_t pid) noexcept nogil:
    """Whether a process, or a thread of it, belongs to the program's tree. The supervisor's own tasks are in its domain
    as well, but they have not its filter."""
    cdef Standing standing
    if tree.ledger == NULL:      # nobody can tell
        return 0
    # Where signals are held in, one that may not be sent tells a stranger at once; to read its status takes 20 us.
    if pid > 0 and tree.ledger.scoped and raw_syscall(SYS_kill, pid, 0, 0, 0, 0, 0) < 0:
        return 0
    if pid <= 0 or read_standing(pid, &standing) < 0 or standing.tgid <= 0:
        return 0
    return standing.filters > tree.own.filters and is_member(tree.ledger, standing.tgid, tree.run.warden)


# Whose a file is -----------------------------------------------------------------------------------------------------

cdef int begins(const char *text, const char *start) noexcept nogil:
    return memcmp(text, start, strlen(start)) == 0 if strlen(text) >= strlen(start) else 0


cdef pid_t process_in(const char *path, const char **rest) noexcept nogil:
    """The number in /proc/NUMBER/..., and what comes behind it; 0 for what belongs to no process, -1 for a path that is
    not below /proc."""
    cdef const char *at
    if strcmp(path, b"/proc") == 0:
        rest[0] = path + 5
        return 0
    if not begins(path, b"/proc/"):
        return -1
    at = path + 6
    while 48 <= at[0] <= 57:
        at += 1
    rest[0] = at
    if at == path + 6 or (at[0] != 0 and at[0] != 47):
        return 0
    if at - path > 16:
        return -1
    return <pid_t>parse_number(path + 6)


cdef pid_t process_of(const char *path) noexcept nogil:
    """The process whose a real path in /proc is; 0 for none."""
    cdef const char *rest = NULL
    cdef pid_t pid = process_in(path, &rest)
    return pid if pid > 0 else 0


cdef int needs_tracing(const char *rest) noexcept nogil:
    """Files that let, or nearly let, one process rule another one: the kernel asks Yama about them, whose answer would
    be about us."""
    cdef const char *last = rest
    while rest[0] != 0:
        if rest[0] == 47:
            last = rest + 1
        rest += 1
    return (
        strcmp(last, b"mem") == 0 or strcmp(last, b"syscall") == 0 or strcmp(last, b"stack") == 0
        or strcmp(last, b"personality") == 0
    )


cdef int is_strangers(const Tree *tree, long directory, const char *name) noexcept nogil:
    """Whether this name in a directory is that of a process which is not there for the tree (private_proc)."""
    cdef char path[MAX_PATH]
    if not tree.run.program.private_proc or not 48 <= name[0] <= 57:
        return 0
    if real_path(directory, path) < 0 or strcmp(path, b"/proc") != 0:
        return 0
    return not is_of_tree(tree, <pid_t>parse_number(name))


cdef int may_follow_magic(const Tree *tree, long directory) noexcept nogil:
    """Whether the links of this directory of /proc (its path has no links) lead to things of the tree."""
    cdef char path[MAX_PATH]
    cdef const char *rest
    cdef pid_t pid
    if real_path(directory, path) < 0:
        return 0
    pid = process_in(path, &rest)
    return pid > 0 and is_of_tree(tree, pid)


cdef int covers(const PathRule *rule, const char *path) noexcept nogil:
    """Whether a grant is about this path, by its letters: links in a grant of something in /proc cover nothing."""
    cdef size_t length = strlen(rule.path)
    if rule.root != NULL:
        return 0
    while length > 0 and rule.path[length - 1] == 47:
        length -= 1
    if strlen(path) < length or memcmp(path, rule.path, length) != 0:
        return 0
    return path[length] == 0 or path[length] == 47


cdef int is_granted(const Tree *tree, const char *path, uint64_t access) noexcept nogil:
    cdef uint64_t granted = 0
    cdef int i
    for i in range(tree.run.program.guest.path_count):
        if covers(&tree.run.program.guest.paths[i], path):
            granted |= tree.run.program.guest.paths[i].access
    return access & ~granted == 0


cdef int may_have(
    const Tree *tree, pid_t tgid, const char *path, int on_procfs, int is_directory, int reads
) noexcept nogil:
    """Whether a caller may be given this file, by its path without links: 0, or -EACCES. All but reading /proc
    is for Landlock to say, which treats us as it treats the caller."""
    cdef const char *rest = NULL
    cdef pid_t pid = process_in(path, &rest)
    cdef uint64_t access = 0
    if pid < 0:
        return -EACCES if on_procfs else 0
    if pid > 0 and (not is_of_tree(tree, pid) or (needs_tracing(rest) and thread_group_of(pid) != tgid)):
        return -EACCES
    if reads:
        access |= LANDLOCK_READ_DIR if is_directory else LANDLOCK_READ_FILE
    return 0 if is_granted(tree, path, access) else -EACCES
