"""Paths that the kernel knows already: followed by who may not wait.

Rules: as _paths; a path that takes more than a look at the kernel's caches, on a local file system, is left to others.
"""

from libc.stdint cimport uint64_t
from libc.string cimport strcmp

from sandlock._places cimport (
    FOLLOW_MAKES, FOLLOW_NOT_LAST, FOLLOW_TO_PARENT, MAX_UNKNOWN, RESOLVE_CACHED, RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS, close_pin, leave, look_up_next, pin, split_path, take_pin,
)
from sandlock._programs cimport MAX_PATH
from sandlock._virtual_root cimport has_dots

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int ELOOP
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int O_DIRECTORY
    const int O_NOFOLLOW

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    """
    const unsigned int S_IFLNK
    const unsigned int S_IFMT


cdef int is_missing(long base, const char *path) noexcept nogil:
    """Whether a name leads nowhere for everybody: by no link, for those of /proc lead elsewhere for everybody."""
    cdef long opened = pin(base, path, O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_CACHED)
    close_pin(opened)
    return opened == -ENOENT


cdef int take_cached(long opened, Place *place) noexcept nogil:
    """Returns 0 or -EAGAIN."""
    if opened < 0 or take_pin(opened, place) < 0:
        return -EAGAIN
    return 0 if place.local and not place.on_procfs else -EAGAIN


cdef int follow_cached_to_parent(
    long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    """To the directory, and to what is in it. Returns 0, -ENOENT where there is no such directory, or -EAGAIN."""
    cdef char directory[MAX_PATH]
    cdef long opened
    if split_path(path, directory, place.last) < 0 or place.last[0] == 0:
        return -EAGAIN
    if strcmp(place.last, b".") == 0 or strcmp(place.last, b"..") == 0:
        return -EAGAIN
    opened = pin(base, directory, O_DIRECTORY, resolve)
    if opened == -ENOENT and is_missing(base, directory):
        return -ENOENT
    if take_cached(opened, place) < 0:
        return -EAGAIN
    place.parent = place.descriptor
    place.descriptor = -1
    opened = pin(place.parent, place.last, O_NOFOLLOW, RESOLVE_CACHED)
    if opened == -ENOENT:
        return 0                 # the facts are those of the directory
    if take_cached(opened, place) < 0:
        return -EAGAIN
    return -EAGAIN if place.mode & S_IFMT == S_IFLNK and not following & FOLLOW_NOT_LAST else 0


cdef int follow_known(long base, const char *path, int following, int no_links, Place *place) noexcept nogil:
    cdef uint64_t resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED | (RESOLVE_NO_SYMLINKS if no_links else 0)
    cdef int flags = O_NOFOLLOW if following & FOLLOW_NOT_LAST else 0
    cdef int result, without_links = 0
    cdef long opened = -ELOOP
    if following & FOLLOW_TO_PARENT:
        result = follow_cached_to_parent(base, path, following, resolve, place)
    else:
        if path[0] == 47:        # most paths have no link, and then there is more to say of them
            opened = pin(base, path, flags, RESOLVE_NO_SYMLINKS | RESOLVE_CACHED)
            without_links = opened != -ELOOP
        if not without_links and not (no_links and path[0] == 47):
            opened = pin(base, path, flags, resolve)
        if opened == -ENOENT and following & FOLLOW_MAKES:
            result = follow_cached_to_parent(base, path, following, resolve, place)
        elif opened == -ENOENT and (without_links or is_missing(base, path)):
            return -ENOENT
        else:
            place.by_letters = without_links and not has_dots(path)
            result = take_cached(opened, place)
    if result < 0:
        leave(place)
    return result


cdef int follow_cached(long base, const char *path, int following, int no_links, Place *place) noexcept nogil:
    """As far as the kernel knows the way already, but for new names on a disk; on local file systems. Returns 0,
    -ENOENT, or -EAGAIN where somebody who may wait has to look. `no_links`: that is so where the way leads over a
    link."""
    cdef int result = follow_known(base, path, following, no_links, place)
    cdef int left = MAX_UNKNOWN
    while result == -EAGAIN and left > 0 and look_up_next(base, path):
        result = follow_known(base, path, following, no_links, place)
        left -= 1
    return result
