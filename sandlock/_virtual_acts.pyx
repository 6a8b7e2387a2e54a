"""Where a program is, in its virtual root: getcwd(2), and what the links of /proc say of it.

Rule: no real path is told. What lies outside is called what the kernel calls it for who is in another root.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, strcmp, strlen
from posix.types cimport pid_t

from sandlock._memory cimport write_memory
from sandlock._places cimport Place, close_pin, look_at_place
from sandlock._programs cimport MAX_PATH, last_part, open_descriptor_of, real_path_in
from sandlock._procfs cimport process_of
from sandlock._rooted cimport seen_exe
from sandlock._virtual_root cimport mount_at, seen_path

cdef extern from "<errno.h>" nogil:
    const int ENAMETOOLONG
    const int ENOENT
    const int ERANGE

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef const char *OUTSIDE = "(unreachable)"
cdef const char *MEMORY = "/memfd:"


cdef long find_directory(
    const VirtualRoot *root, long own_table, pid_t tid, char *into, size_t size
) noexcept nogil:
    """The task's working directory, as it sees it. Returns the length or -errno."""
    cdef char real[MAX_PATH]
    cdef Place facts
    cdef long opened = open_descriptor_of(tid, AT_FDCWD)
    cdef long result = opened
    cdef int mount = -1
    if opened < 0:
        return opened
    result = look_at_place(opened, &facts)
    if result == 0:
        result = -ENOENT if facts.links == 0 else real_path_in(own_table, opened, real)
    close_pin(opened)
    if result >= 0:
        mount = mount_at(root, real)
        result = -ENOENT if mount < 0 else seen_path(root, mount, real, into, size)
    return result


cdef long tell_directory(const VirtualRoot *root, long own_table, const PathCall *call) noexcept nogil:
    """getcwd(2). Returns the length with its NUL, or -errno."""
    cdef char seen[MAX_PATH]
    cdef long length = find_directory(root, own_table, call.tid, seen, sizeof(seen))
    cdef int result
    if length < 0:
        return length
    if <uint64_t>length + 1 > call.args[1]:
        return -ERANGE
    result = write_memory(call.tid, call.args[0], seen, <size_t>length + 1)
    return result if result < 0 else length + 1


cdef int starts_with(const char *text, const char *start) noexcept nogil:
    while start[0] != 0:
        if text[0] != start[0]:
            return 0
        text += 1
        start += 1
    return 1


cdef long as_seen_link(const VirtualRoot *root, const char *link, char *text, long length, long size) noexcept nogil:
    """What a link of /proc (its real path) says, made what it has to say to the program, in place. Returns the length
    or -errno."""
    cdef char seen[MAX_PATH]
    cdef const char *other = seen
    cdef int mount
    if length <= 0 or text[0] != 47:     # '/'; a name relative to /proc, or of no file
        return length
    if length >= size:
        return -ENAMETOOLONG
    text[length] = 0
    if starts_with(text, MEMORY):
        return length
    if strcmp(last_part(link), b"root") == 0:
        other = b"/"
    elif strcmp(last_part(link), b"exe") == 0 and seen_exe(process_of(link), seen) > 0:
        pass                     # the kernel knows the loader only
    else:
        mount = mount_at(root, text)
        if mount < 0 or seen_path(root, mount, text, seen, sizeof(seen)) < 0:
            other = OUTSIDE
    length = <long>strlen(other)
    memcpy(text, other, <size_t>length)
    return length
