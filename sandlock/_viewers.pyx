"""Who names the file of an exec, and where it is looked for: on the host, or in the virtual root.

Rule: a path is followed by _paths, as that of any other call; what it led to is opened by its pin.
"""

from libc.string cimport memcpy, memset

from sandlock._paths cimport FOLLOW_NOT_LAST, Origin, follow_path
from sandlock._places cimport Place, leave, look_at_place
from sandlock._procfs cimport Tree, read_standing
from sandlock._programs cimport MAX_PATH, open_again, real_path
from sandlock._virtual_root cimport is_memory, mount_at, seen_path

cdef extern from "<errno.h>" nogil:
    const int EACCES

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <linux/openat2.h>
    #define SANDLOCK_O_PATH 010000000
    """
    const int AT_SYMLINK_NOFOLLOW
    const int O_PATH "SANDLOCK_O_PATH"
    const unsigned long RESOLVE_NO_MAGICLINKS


cdef long open_as_seen(const Viewer *viewer, int directory, const char *path, int flags, int how) noexcept nogil:
    """Opens what a path means to a caller with a virtual root. Returns the descriptor or -errno."""
    cdef Tree tree
    cdef Origin origin
    cdef Place place
    cdef long opened
    cdef int result
    memset(&tree, 0, sizeof(tree))
    tree.run = viewer.run
    origin.tid = viewer.tid
    origin.tgid = viewer.tgid
    origin.directory = directory
    origin.tree = &tree
    result = read_standing(0, &tree.own)
    if result == 0:
        result = follow_path(
            &origin, path, FOLLOW_NOT_LAST if flags & AT_SYMLINK_NOFOLLOW else 0, RESOLVE_NO_MAGICLINKS, &place
        )
    if result < 0:
        return result
    opened = place.descriptor
    place.descriptor = -1
    leave(&place)
    return opened if how & O_PATH else open_again(opened, how)


cdef long show(const Viewer *viewer, long descriptor, char *into) noexcept nogil:
    """How a file is called in the virtual root. Returns the length; -EACCES for what is outside, or another -errno."""
    cdef char real[MAX_PATH]
    cdef Place place
    cdef long length = real_path(descriptor, real)
    cdef int mount
    if length < 0:
        return length
    mount = mount_at(viewer.run.virtual_root, real)
    if mount >= 0:
        return seen_path(viewer.run.virtual_root, mount, real, into, MAX_PATH)
    memset(&place, 0, sizeof(place))
    if look_at_place(descriptor, &place) < 0 or not is_memory(real, place.links):
        return -EACCES
    memcpy(into, real, <size_t>length + 1)
    return length


cdef void viewer_of(const Table *table, const Slot *slot, Viewer *viewer) noexcept nogil:
    viewer.tid = slot.tid
    viewer.tgid = slot.tgid
    viewer.run = table.run
    viewer.open_seen = NULL
    viewer.show = NULL
    if table.run.virtual_root != NULL:
        viewer.open_seen = open_as_seen
        viewer.show = show
