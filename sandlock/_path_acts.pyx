"""What path calls do, done to what their names led to: the dispatch, and what is done to names in directories.

Rules: by descriptor of ours, and where a name is made or removed, by its directory and its last name, through which no
link is followed. Returns what the kernel says.
"""

from libc.string cimport memcpy, strcmp, strlen

from sandlock._linux cimport raw_syscall
from sandlock._looking_acts cimport look
from sandlock._metadata_acts cimport change_metadata
from sandlock._path_calls cimport (
    ACT_LINK, ACT_LOOK, ACT_MAKE_DIRECTORY, ACT_MAKE_LINK, ACT_MAKE_NODE, ACT_REMOVE, ACT_REMOVE_DIRECTORY, ACT_RENAME,
    ACT_SET_FLAGS, ACT_TRUNCATE, ACT_WATCH, is_metadata,
)
from sandlock._paths cimport MAX_LAST
from sandlock._programs cimport format_own_descriptor, own_descriptor

cdef extern from "<errno.h>" nogil:
    const int EACCES

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <sys/syscall.h>
    """
    const int AT_REMOVEDIR
    const int AT_SYMLINK_FOLLOW
    const long SYS_linkat
    const long SYS_mkdirat
    const long SYS_mknodat
    const long SYS_renameat2
    const long SYS_symlinkat
    const long SYS_truncate
    const long SYS_unlinkat

cdef enum:
    ENTRY = MAX_LAST + 1     # a name, a '/' and a NUL


cdef int meets_umask(const PathCall *call) noexcept nogil:
    """Whether the caller's umask counts."""
    return call.act == ACT_MAKE_DIRECTORY or call.act == ACT_MAKE_NODE


cdef int waits(const PathCall *call) noexcept nogil:
    """Whether it may wait even for what is at hand: a lease has to be given back; the last one to close a descriptor of
    the caller may be us, and that can take as long as the caller likes (SO_LINGER)."""
    return call.act == ACT_TRUNCATE or call.act == ACT_WATCH or (call.act == ACT_SET_FLAGS and call.by_descriptor)


cdef long find_entry(const Name *name, char *entry) noexcept nogil:
    """The directory and, in ENTRY bytes, the name in it. Of "/", "." and "..", on which the kernel does nothing of all
    this, something about which it says the same. Returns a descriptor of ours, or -EACCES."""
    cdef const char *last = name.text + name.length
    cdef size_t length
    if name.place.parent >= 0:
        length = strlen(name.place.last)
        memcpy(entry, name.place.last, length + 1)
        if name.slashed:
            entry[length] = 47   # '/'
            entry[length + 1] = 0
        return name.place.parent
    while last > name.text and (last - 1)[0] != 47:
        last -= 1
    if name.length == 1 and name.text[0] == 47:
        last = name.text
    elif strcmp(last, b".") != 0 and strcmp(last, b"..") != 0:
        return -EACCES
    memcpy(entry, last, strlen(last) + 1)
    return name.place.descriptor


cdef long rename_entry(PathCall *call) noexcept nogil:
    cdef char entry[ENTRY]
    cdef char other[ENTRY]
    cdef long directory = find_entry(&call.first, entry)
    cdef long second = find_entry(&call.second, other)
    if directory < 0 or second < 0:
        return -EACCES
    return raw_syscall(SYS_renameat2, directory, <long>entry, second, <long>other, <long>call.flags, 0)


cdef long link_entry(PathCall *call) noexcept nogil:
    """The link of /proc leads to the pinned object, and if that is a symbolic link not on from there."""
    cdef char old[64]
    cdef char entry[ENTRY]
    cdef long directory = find_entry(&call.second, entry)
    cdef long table
    if directory < 0:
        return directory
    table = own_descriptor(old, call.first.place.own_table, call.first.place.descriptor)
    return raw_syscall(SYS_linkat, table, <long>old, directory, <long>entry, AT_SYMLINK_FOLLOW, 0)


cdef long truncate_file(const PathCall *call) noexcept nogil:
    cdef char path[64]
    format_own_descriptor(path, call.first.place.descriptor)
    return raw_syscall(SYS_truncate, <long>path, <long>call.values[0], 0, 0, 0, 0)


cdef long change_entry(PathCall *call) noexcept nogil:
    cdef char entry[ENTRY]
    cdef long directory = find_entry(&call.second if call.act == ACT_MAKE_LINK else &call.first, entry)
    if directory < 0:
        return directory
    if call.act == ACT_MAKE_DIRECTORY:
        return raw_syscall(SYS_mkdirat, directory, <long>entry, <long>call.values[0], 0, 0, 0)
    if call.act == ACT_REMOVE_DIRECTORY:
        return raw_syscall(SYS_unlinkat, directory, <long>entry, AT_REMOVEDIR, 0, 0, 0)
    if call.act == ACT_REMOVE:
        return raw_syscall(SYS_unlinkat, directory, <long>entry, <long>call.flags, 0, 0, 0)
    if call.act == ACT_MAKE_LINK:
        return raw_syscall(SYS_symlinkat, <long>call.details.room, directory, <long>entry, 0, 0, 0)
    if call.act == ACT_MAKE_NODE:      # no device, see check_node in _path_values
        return raw_syscall(SYS_mknodat, directory, <long>entry, <long>call.values[0], 0, 0, 0)
    return -EACCES


cdef long act_on(PathCall *call, const Run *run) noexcept nogil:
    """Does it. Returns the call's value or -errno."""
    if is_metadata(call.act):
        return change_metadata(call, run)
    if call.act >= ACT_LOOK:
        return look(call, run)
    if call.act == ACT_RENAME:
        return rename_entry(call)
    if call.act == ACT_LINK:
        return link_entry(call)
    return truncate_file(call) if call.act == ACT_TRUNCATE else change_entry(call)
