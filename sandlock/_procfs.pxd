# /proc, seen for somebody else: whose a file there is, and whether the caller may have it.

from libc.stdint cimport uint64_t
from posix.types cimport pid_t

from sandlock._places cimport LocalMounts
from sandlock._run cimport Run
from sandlock._tasks cimport Ledger

# Who a task is, as far as files care. status(5) of proc.
cdef struct Standing:
    pid_t tgid
    long umask
    long user                # of the file system
    long group
    uint64_t groups          # a hash of the line
    uint64_t capabilities
    long filters             # how many seccomp filters it has

# What there is to tell a task of the run from all others by.
cdef struct Tree:
    const Run *run
    const Ledger *ledger
    Standing own             # of the supervisor, which has one filter less than each task of the tree
    uint64_t root_device     # its root directory
    uint64_t root_inode
    uint64_t root_mount
    long own_table           # see _programs.own_descriptor
    LocalMounts *local_mounts    # or NULL

cdef int read_standing(pid_t tid, Standing *out) noexcept nogil
cdef int know_tree(Tree *tree) noexcept nogil
cdef int is_no_less(const Tree *tree, const Standing *caller) noexcept nogil
cdef int has_our_root(const Tree *tree, pid_t tid) noexcept nogil
cdef int is_of_tree(const Tree *tree, pid_t pid) noexcept nogil
cdef pid_t process_in(const char *path, const char **rest) noexcept nogil
cdef int is_strangers(const Tree *tree, long directory, const char *name) noexcept nogil
cdef pid_t process_of(const char *path) noexcept nogil
cdef int may_follow_magic(const Tree *tree, long directory) noexcept nogil
cdef int may_have(
    const Tree *tree, pid_t tgid, const char *path, int on_procfs, int is_directory, int reads
) noexcept nogil
