"""Mounts in listings of the directories that they lie in, where these have nothing of that name.

They come right behind the first entry of a directory ("." mostly), in the first part that is read, and say the same as
that of where to go on: so who goes on from there, or comes back to it, finds each entry once, and what is read from
anywhere else is the kernel's alone.
"""

from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove, memset, strlen, strncmp
from posix.types cimport pid_t

from sandlock._linux cimport SYS_getdents64, raw_syscall
from sandlock._places cimport Place, look_at_place
from sandlock._programs cimport MAX_PATH
from sandlock._run cimport VirtualMount
from sandlock._tasks cimport format_proc_path, put_number

cdef extern from "<errno.h>" nogil:
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from * nogil:
    """
    #include <stdio.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    """
    const int SEEK_SET
    const long SYS_lseek
    const long SYS_readlinkat
    const unsigned int S_IFMT

cdef enum:
    OFFSET_AT = 8            # in struct linux_dirent: the inode, the offset, then the length of the entry
    LENGTH_AT = 16
    NAME_AT = 18
    NAME_AT_64 = 19          # in struct linux_dirent64 the kind of the file is before it; in the other it comes last
    ALIGNED = 8


cdef int is_in(const VirtualMount *mount, int owner, const char *real) noexcept nogil:
    """Whether it is missing in this directory, whose path has no links."""
    cdef size_t length = mount.place_length - strlen(mount.name) - 1
    if not mount.absent or mount.owner != owner:
        return 0
    if length == 0:
        return real[0] == 47 and real[1] == 0
    return strncmp(real, mount.place, length) == 0 and real[length] == 0


cdef long entry_size(const VirtualMount *mount) noexcept nogil:
    """Of both kinds of entry: 19 bytes and the name with its NUL, or 18, the name, its NUL and a byte."""
    return <long>(NAME_AT_64 + strlen(mount.name) + 1 + ALIGNED - 1) & ~<long>(ALIGNED - 1)


cdef void write_entry(const VirtualMount *mount, int number, int64_t offset, char *into) noexcept nogil:
    cdef Place facts
    cdef long size = entry_size(mount)
    cdef uint64_t inode = 1
    cdef uint16_t length = <uint16_t>size
    cdef char kind = 0
    if look_at_place(mount.descriptor, &facts) == 0:
        inode = facts.inode
        kind = <char>((facts.mode & S_IFMT) >> 12)   # IFTODT
    memset(into, 0, <size_t>size)
    memcpy(into, &inode, sizeof(inode))
    memcpy(into + OFFSET_AT, &offset, sizeof(offset))
    memcpy(into + LENGTH_AT, &length, sizeof(length))
    if number == SYS_getdents64:
        into[NAME_AT_64 - 1] = kind
        memcpy(into + NAME_AT_64, mount.name, strlen(mount.name) + 1)
    else:
        memcpy(into + NAME_AT, mount.name, strlen(mount.name) + 1)
        into[size - 1] = kind


cdef long make_room(long directory, char *entries, long size, long room, long more) noexcept nogil:
    """Gives back so many entries at the end that there is room for more. Returns the size of those that are left, or 0
    if even the first one leaves too little."""
    cdef long at = 0, kept = 0
    cdef uint16_t length
    cdef int64_t offset = 0
    if size + more <= room:
        return size
    while at < size:
        memcpy(&length, entries + at + LENGTH_AT, sizeof(length))
        if at + length + more > room:
            break
        memcpy(&offset, entries + at + OFFSET_AT, sizeof(offset))
        at += length
        kept = at
    if kept > 0 and raw_syscall(SYS_lseek, directory, offset, SEEK_SET, 0, 0, 0) < 0:
        return 0
    return kept


cdef long add_mounts(
    const VirtualRoot *root, int mount, const char *real, int number, long directory, char *entries, long size,
    long room
) noexcept nogil:
    """Adds what is mounted in this directory to the first entries that were read of it; `room`: how many bytes there
    may be. Returns how many there are."""
    cdef long more = 0, first, kept, at
    cdef uint16_t length
    cdef int64_t offset
    cdef int i
    for i in range(root.count):
        if is_in(&root.mounts[i], mount, real):
            more += entry_size(&root.mounts[i])
    if size <= 0 or more == 0:
        return size
    kept = make_room(directory, entries, size, room, more)
    if kept == 0:
        return size
    memcpy(&length, entries + LENGTH_AT, sizeof(length))
    memcpy(&offset, entries + OFFSET_AT, sizeof(offset))
    first = at = length
    memmove(entries + first + more, entries + first, <size_t>(kept - first))
    for i in range(root.count):
        if is_in(&root.mounts[i], mount, real):
            write_entry(&root.mounts[i], number, offset, entries + at)
            at += entry_size(&root.mounts[i])
    return kept + more


cdef int may_list_mounts(const VirtualRoot *root, pid_t tid, int descriptor) noexcept nogil:
    """Whether there could be something to add to what a descriptor of the caller reads."""
    cdef char name[32]
    cdef char path[64]
    cdef char real[MAX_PATH]
    cdef long length
    cdef int i
    if root == NULL or descriptor < 0:
        return 0
    memcpy(name, <const char *>b"fd/", 3)
    put_number(name + 3, descriptor)
    format_proc_path(path, tid, name)
    length = raw_syscall(SYS_readlinkat, AT_FDCWD, <long>path, <long>real, MAX_PATH - 1, 0, 0)
    if length < 0:
        return length != -ENOENT
    real[length] = 0
    for i in range(root.count):
        if is_in(&root.mounts[i], root.mounts[i].owner, real):
            return 1
    return 0
