"""What execs in a virtual root look at besides files by their paths."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, strcmp
from posix.types cimport pid_t

from sandlock._memory cimport read_string
from sandlock._tasks cimport format_proc_path, parse_digits, put_number, read_proc_file, status_field

cdef extern from "<errno.h>" nogil:
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int O_CLOEXEC

cdef enum:
    AUXILIARY = 128          # words
    AT_EXECFN = 31
    MAX_PATH = 4096
    TEXT = 256


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
