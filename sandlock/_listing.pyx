"""Listings of directories, without what is not there for the tree: processes of others, and what /proc and /sys tell
of the machine.

It is read from a duplicate of the caller's descriptor, with which it shares the place that it has come to; so nothing
is decided about a descriptor that the caller could exchange meanwhile.
"""

from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memmove, strcmp, strlen
from posix.types cimport pid_t

from sandlock._linux cimport (
    Notification, SECCOMP_IOCTL_NOTIF_ID_VALID, SYS_close, SYS_getdents64, SYS_ioctl, raw_syscall,
)
from sandlock._memory cimport write_memory
from sandlock._mediate cimport LATER, Mediator, get_to_know
from sandlock._paths cimport Place, look_at_place
from sandlock._programs cimport MAX_PATH, real_path_in
from sandlock._run cimport VirtualRoot
from sandlock._sockets cimport duplicate
from sandlock._view_table cimport is_all_there, is_there
from sandlock._virtual_listing cimport add_mounts
from sandlock._virtual_root cimport mount_at

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EFAULT
    const int ENOTDIR
    const int EPERM
    const int ESRCH

cdef extern from * nogil:
    """
    #include <stdio.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #ifndef SYS_getdents
    #define SYS_getdents -1                    /* not on aarch64 */
    #endif
    """
    const unsigned int S_IFDIR
    const unsigned int S_IFMT
    const int SEEK_CUR
    const int SEEK_SET
    const long SYS_getdents
    const long SYS_lseek

cdef enum:
    ROOM = 16384             # of what C libraries ask for at once, half
    NAME_AT = 18             # in struct linux_dirent: the inode, the offset, then the length of the entry
    NAME_AT_64 = 19          # in struct linux_dirent64 the kind of the file is before it
    LENGTH_AT = 16


cdef int is_dots(const char *name) noexcept nogil:
    return strcmp(name, b".") == 0 or strcmp(name, b"..") == 0


cdef long keep_what_is_there(
    const Mediator *mediator, char *path, size_t length, char *entries, long size, int name_at
) noexcept nogil:
    """Takes the other entries out; `path` is the directory's, with room for a name. Returns how many bytes are left."""
    cdef long at = 0, kept = 0
    cdef uint16_t step
    cdef char *name
    path[length] = 47        # '/'
    while at < size:
        memcpy(&step, entries + at + LENGTH_AT, sizeof(step))
        name = entries + at + name_at
        memcpy(path + length + 1, name, strlen(name) + 1)
        if is_dots(name) or is_there(mediator.table.views, &mediator.tree, path):
            if kept != at:
                memmove(entries + kept, entries + at, step)
            kept += step
        at += step
    path[length] = 0
    return kept


cdef long read_entries(
    const Mediator *mediator, int number, long directory, char *entries, long size, int filters, char *path,
    size_t length
) noexcept nogil:
    """Reads until something is left, or the end. Returns the size or -errno."""
    cdef long result
    while True:
        result = raw_syscall(number, directory, <long>entries, size, 0, 0, 0)
        if result <= 0 or not filters:
            return result
        result = keep_what_is_there(
            mediator, path, length, entries, result, NAME_AT_64 if number == SYS_getdents64 else NAME_AT
        )
        if result > 0:
            return result


cdef long list_duplicate(Mediator *mediator, const Notification *notification, long directory) noexcept nogil:
    cdef const VirtualRoot *root = mediator.table.run.virtual_root
    cdef char entries[ROOM]
    cdef char path[MAX_PATH + 257]
    cdef Place place
    cdef long length, result, before
    cdef unsigned long size = <unsigned int>notification.data.args[2]
    cdef int filters
    result = look_at_place(directory, &place)
    if result < 0:
        return result
    if place.mode & S_IFMT != S_IFDIR:
        return -ENOTDIR          # and nothing is done to it: another thread may be in a long read of it
    if not mediator.may_block and not place.on_procfs and not place.local:
        return LATER
    length = real_path_in(mediator.tree.own_table, directory, path)
    if length < 0 or length >= MAX_PATH:
        return -EACCES
    filters = not is_all_there(mediator.table.views, path)
    before = raw_syscall(SYS_lseek, directory, 0, SEEK_CUR, 0, 0, 0)
    result = read_entries(
        mediator, notification.data.nr, directory, entries, <long>(size if size < ROOM else ROOM), filters, path,
        <size_t>length
    )
    if root != NULL and before == 0 and result > 0:
        result = add_mounts(
            root, mount_at(root, path), path, notification.data.nr, directory, entries, result,
            <long>(size if size < ROOM else ROOM)
        )
    if result > 0 and write_memory(
        <pid_t>notification.pid, notification.data.args[1], entries, <size_t>result
    ) < 0:
        raw_syscall(SYS_lseek, directory, before, SEEK_SET, 0, 0, 0)
        return -EFAULT
    return result


cdef long list_directory(Mediator *mediator, const Notification *notification) noexcept nogil:
    """getdents64(2) and getdents(2). Returns the size of what was written, -errno or LATER."""
    cdef long result = get_to_know(mediator)
    cdef long directory
    if result < 0:
        return -EACCES
    directory = duplicate(
        &mediator.lister, mediator.table.run.listener, notification.id, <pid_t>notification.pid,
        <int>notification.data.args[0]
    )
    if directory < 0:
        return -EACCES if directory == -EPERM else directory
    # Still waiting for our answer: what is written is the caller's memory.
    result = raw_syscall(
        SYS_ioctl, mediator.table.run.listener, <long>SECCOMP_IOCTL_NOTIF_ID_VALID, <long>&notification.id, 0, 0, 0
    )
    result = list_duplicate(mediator, notification, directory) if result == 0 else -ESRCH
    raw_syscall(SYS_close, directory, 0, 0, 0, 0, 0)
    return result
