"""What execs in a virtual root look at besides files by their paths, and how these are opened there."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset, strcmp
from posix.types cimport pid_t

from sandlock._linux cimport SYS_fstat, SYS_openat, raw_syscall
from sandlock._memory cimport read_string
from sandlock._paths cimport FOLLOW_NOT_LAST, Origin, Place, follow_path, leave
from sandlock._procfs cimport Tree, read_standing
from sandlock._programs cimport MAX_PATH, format_own_descriptor
from sandlock._tasks cimport format_proc_path, parse_digits, put_number, read_proc_file, status_field

cdef extern from "<errno.h>" nogil:
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CLOEXEC
    const int O_NOFOLLOW

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    #define SANDLOCK_O_PATH 010000000
    """
    const int O_PATH "SANDLOCK_O_PATH"
    ctypedef struct Status "struct stat":
        unsigned long st_nlink

cdef enum:
    AUXILIARY = 128          # words
    AT_EXECFN = 31
    TEXT = 256


cdef long open_in_root(const Viewer *viewer, int directory, const char *path, int how) noexcept nogil:
    """Opens what a path leads the caller to. Returns the descriptor or -errno."""
    cdef Tree tree
    cdef Origin origin
    cdef Place place
    cdef char own[64]
    cdef long opened
    cdef int result
    memset(&tree, 0, sizeof(tree))
    tree.run = viewer.run
    tree.ledger = viewer.ledger
    origin.tid = viewer.tid
    origin.tgid = viewer.tgid
    origin.directory = directory
    origin.tree = &tree
    origin.hiding = viewer.hiding
    result = read_standing(0, &tree.own)
    if result == 0:
        result = follow_path(&origin, path, FOLLOW_NOT_LAST if how & O_NOFOLLOW else 0, 0, &place)
    if result < 0:
        return result
    if how & O_PATH:
        return place.descriptor
    format_own_descriptor(own, place.descriptor)
    opened = raw_syscall(SYS_openat, AT_FDCWD, <long>own, how & ~O_NOFOLLOW, 0, 0, 0)
    leave(&place)
    return opened


cdef int has_no_name(long descriptor) noexcept nogil:
    """It is in no directory, and never was in one: "/memfd:x (deleted)"."""
    cdef Status status
    return raw_syscall(SYS_fstat, descriptor, <long>&status, 0, 0, 0, 0) == 0 and status.st_nlink == 0


cdef int is_own_exe(const char *path) noexcept nogil:
    return strcmp(path, b"/proc/self/exe") == 0 or strcmp(path, b"/proc/thread-self/exe") == 0


cdef long seen_exe(pid_t pid, char *into) noexcept nogil:
    """The program that a process with a virtual root runs, as the process sees it, in MAX_PATH bytes: /proc/PID/exe is
    its loader. Returns the length or -errno. The process could say anything here: this is a path to show to it, or one
    that it might have named itself."""
    cdef char path[64]
    cdef uint64_t vector[AUXILIARY]
    cdef long length, skipped
    cdef int i
    format_proc_path(path, pid, b"auxv")
    length = read_proc_file(path, <char *>vector, sizeof(vector))
    for i in range(length // 16 if length > 0 else 0):
        if vector[i * 2] != AT_EXECFN:
            continue
        skipped = read_string(pid, vector[i * 2 + 1], into, MAX_PATH)
        if skipped < 0:
            return skipped
        length = read_string(pid, vector[i * 2 + 1] + <uint64_t>skipped + 1, into, MAX_PATH)    # see _new_image
        return length if length < 0 or into[0] == 47 else -ENOENT
    return -ENOENT


cdef int is_closed_by_exec(pid_t tid, int descriptor) noexcept nogil:
    """Whether a descriptor of the caller's has FD_CLOEXEC: then no interpreter can open a script by it."""
    cdef char name[32]
    cdef char path[64]
    cdef char text[TEXT]
    cdef long length
    cdef const char *at
    memcpy(name, <const char *>b"fdinfo/", 7)
    put_number(name + 7, descriptor)
    format_proc_path(path, tid, name)
    length = read_proc_file(path, text, TEXT)
    at = status_field(text, length, b"\nflags:\t")
    return at != NULL and parse_digits(at, 8) & <uint64_t>O_CLOEXEC != 0
