"""Paths of a run in which something is hidden (hide_ungranted): a way that leads through what is hidden, and out of it
again, leads nowhere. Else "hidden/../shown" would tell that there is something hidden.

Rules: as _paths. A link that leads from what is hidden to what is not is followed.
"""

from libc.stdint cimport uint64_t

from sandlock._cached_paths cimport follow_cached
from sandlock._path_table cimport is_closed_way, is_open_way
from sandlock._paths cimport (
    FOLLOW_CACHED, FOLLOW_MAKES, FOLLOW_NOT_LAST, FOLLOW_TO_PARENT, follow_slowly, follow_within, leave, look_at_place,
)
from sandlock._places cimport (
    RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, pin,
    take_pin,
)
from sandlock._programs cimport MAX_PATH, real_path_in
from sandlock._virtual_root cimport has_dots

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int O_NOFOLLOW


cdef int leaves_hidden(const Origin *origin, long directory) noexcept nogil:
    """Whether to go up from here would lead out of what is not there for the program."""
    cdef char real[MAX_PATH]
    cdef Place here
    if origin.hiding == NULL:
        return 0
    if look_at_place(directory, &here) < 0 or real_path_in(origin.tree.own_table, directory, real) < 0:
        return 1
    here.descriptor = directory
    return is_closed_way(origin.hiding, &here, real)


cdef int follow_shown(
    const Origin *origin, long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    """Where something is hidden. A way that only goes down is hidden if its end is. One that turns, by a `..` or a link
    that may say so, is walked name by name."""
    cdef char real[MAX_PATH]
    cdef long opened
    cdef int turns = has_dots(path)
    if following & FOLLOW_CACHED:
        return -EAGAIN if resolve or turns else follow_cached(base, path, following, 1, place)
    if resolve & RESOLVE_CACHED:
        return -EAGAIN           # what is in the caches would tell, too
    if resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_NO_XDEV):
        if (
            not resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT) or base < 0
            or real_path_in(place.own_table, base, real) < 0 or not is_open_way(origin.hiding, real)
        ):
            if turns:
                return -ENOENT
            resolve |= RESOLVE_NO_SYMLINKS
        return follow_within(origin, base, path, following, resolve, place)
    if not turns and not following & (FOLLOW_MAKES | FOLLOW_TO_PARENT):
        opened = pin(
            base, path, O_NOFOLLOW if following & FOLLOW_NOT_LAST else 0, RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
        )
        if opened >= 0 and take_pin(opened, place) == 0 and not place.on_procfs:
            return 0
        leave(place)
    return follow_slowly(origin, base, -1, path, following, resolve, place)
