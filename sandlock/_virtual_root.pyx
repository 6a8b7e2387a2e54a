"""A root directory that the program alone sees: a directory of the host, with others of it, and files, mounted in it.
No process is ever in it; all that there is to it is how the supervisor follows the program's paths.

Most paths the kernel follows at once, from the descriptor of the root or of the mount that the path's letters lead
into. Where that leads to a place that a mount hides, nowhere for certain, or into /proc, the path is walked name by
name (_paths).

Rules: real paths, without links. Whatever lies neither in the root nor in a mount does not exist. A real path may be
seen at several places, and belongs to the mount with the longest real path that does not hide it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset, strcmp, strcspn, strlen, strncmp

from sandlock._linux cimport SYS_close, SYS_fcntl, raw_syscall
from sandlock._places cimport (
    FOLLOW_MAKES, FOLLOW_NOT_LAST, FOLLOW_TO_PARENT, MAX_UNKNOWN, RESOLVE_BENEATH, RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, close_pin, leave, look_up_next, pin, split_path, take_pin,
)
from sandlock._programs cimport MAX_PATH, real_path_in
from sandlock._run cimport MAX_MOUNTS, VirtualMount

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int ENAMETOOLONG
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int F_DUPFD_CLOEXEC
    const int O_DIRECTORY
    const int O_NOFOLLOW

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    """
    const unsigned int S_IFLNK
    const unsigned int S_IFMT


# Which mount a real path belongs to ----------------------------------------------------------------------------------

cdef inline int is_below(const char *path, const char *top, size_t length) noexcept nogil:
    return strncmp(path, top, length) == 0 and (path[length] == 0 or path[length] == 47)


cdef int is_hidden(const VirtualRoot *root, int mount, const char *real) noexcept nogil:
    """Whether another mount lies over this real path, seen through this mount."""
    cdef const VirtualMount *other
    cdef int i
    for i in range(root.count):
        other = &root.mounts[i]
        if other.owner == mount and is_below(real, other.place, other.place_length):
            return 1
    return 0


cdef int is_nearer(const VirtualMount *one, const VirtualMount *other) noexcept nogil:
    """Whether a path in both belongs to the first: to the one with the longer real path; of two with the same, to that
    in which more may be done."""
    if one.real_length != other.real_length:
        return one.real_length > other.real_length
    return not one.read_only or other.read_only


cdef int mount_at(const VirtualRoot *root, const char *real) noexcept nogil:
    """The mount that a real path belongs to; -1 where it is not to be seen."""
    cdef int found = -1, i
    if real[0] != 47:        # '/'; what has no place among the files
        return -1
    for i in range(root.count):
        if found >= 0 and not is_nearer(&root.mounts[i], &root.mounts[found]):
            continue
        if is_below(real, root.mounts[i].real, root.mounts[i].real_length) and not is_hidden(root, i, real):
            found = i
    return found


cdef int is_top(const VirtualRoot *root, int mount, const char *real) noexcept nogil:
    """Whether this is the mount's own directory."""
    if root.mounts[mount].real_length == 0:
        return real[0] == 47 and real[1] == 0
    return strcmp(real, root.mounts[mount].real) == 0


cdef int mounted_on(
    const VirtualRoot *root, int mount, long own_table, long directory, const char *name
) noexcept nogil:
    """The mount that lies over a name in this directory; -1 for none, -EACCES if that cannot be told."""
    cdef char real[MAX_PATH]
    cdef const VirtualMount *other
    cdef size_t length
    cdef int known = 0, i
    for i in range(root.count):
        other = &root.mounts[i]
        if other.owner != mount or strcmp(other.name, name) != 0:
            continue
        if not known and real_path_in(own_table, directory, real) < 0:
            return -EACCES
        known = 1
        length = other.place_length - strlen(name) - 1
        if length == 0 and real[0] == 47 and real[1] == 0:
            return i
        if strncmp(real, other.place, length) == 0 and real[length] == 0:
            return i
    return -1


cdef int holds_mount(const VirtualRoot *root, int mount, const char *real) noexcept nogil:
    """Whether other mounts lie in this place of a mount, of any with -1, or below it, however deep."""
    cdef size_t length = strlen(real)
    cdef int i
    if length == 1:          # '/'
        length = 0
    for i in range(root.count):
        if root.mounts[i].owner < 0 or (mount >= 0 and root.mounts[i].owner != mount):
            continue             # the root lies in none; or it lies in another
        if is_below(root.mounts[i].place, real, length):
            return 1
    return 0


cdef int is_memory(const char *real, unsigned int links) noexcept nogil:
    """Whether what looks like a path is the name of memory, which lies in no directory: memfd_create(2)."""
    return links == 0 and strncmp(real, b"/memfd:", 7) == 0


cdef long seen_path(const VirtualRoot *root, int mount, const char *real, char *into, size_t size) noexcept nogil:
    """What the program calls a real path that belongs to the mount. Returns the length or -errno."""
    cdef const VirtualMount *at = &root.mounts[mount]
    cdef const char *rest = real + at.real_length
    cdef size_t length = strlen(rest)
    if at.seen_length > 0 and length == 1 and rest[0] == 47:
        length = 0
    if at.seen_length == 0 and length == 0:
        rest = b"/"
        length = 1
    if at.seen_length + length + 1 > size:
        return -ENAMETOOLONG
    memcpy(into, at.seen_at, at.seen_length)
    memcpy(into + at.seen_length, rest, length)
    into[at.seen_length + length] = 0
    return <long>(at.seen_length + length)


cdef long real_of_seen(const VirtualRoot *root, const char *seen, char *into, size_t size) noexcept nogil:
    """The real path of an absolute one without links and `..`, as the program has it; `root` may be NULL. Returns the
    length or -errno."""
    cdef const char *rest = seen
    cdef size_t length = 0, more
    cdef int i, mount = -1
    for i in range(root.count if root != NULL else 0):
        rest = behind(root.mounts[i].seen_at, seen)
        if rest != NULL:
            mount = i
            break
    if rest == NULL:
        return -ENOENT
    if mount >= 0:
        length = root.mounts[mount].real_length
        if length >= size:
            return -ENAMETOOLONG
        memcpy(into, root.mounts[mount].real, length)
    rest = skip(rest)
    while rest[0] != 0:
        more = strcspn(rest, b"/")
        if length + more + 2 > size:
            return -ENAMETOOLONG
        into[length] = 47
        memcpy(into + length + 1, rest, more)
        length += more + 1
        rest = skip(rest + more)
    if length == 0:
        into[0] = 47
        length = 1
    into[length] = 0
    return <long>length


cdef long show_path(const VirtualRoot *root, const char *real, char *into, size_t size) noexcept nogil:
    """What the program calls a real path, for the record; without a virtual root, or where it lies outside, the same.
    Returns the length or -errno."""
    cdef int mount = -1 if root == NULL else mount_at(root, real)
    cdef size_t length = strlen(real)
    if mount >= 0:
        return seen_path(root, mount, real, into, size)
    if length >= size:
        return -ENAMETOOLONG
    memcpy(into, real, length + 1)
    return <long>length


cdef void enter(const VirtualRoot *root, int mount, Place *place) noexcept nogil:
    """Notes through which mount a place was reached."""
    place.mount = mount
    place.read_only = mount >= 0 and root.mounts[mount].read_only


cdef long open_mount(const VirtualRoot *root, int mount) noexcept nogil:
    """A descriptor, for the caller to close, of the mount's own directory, file or link."""
    return raw_syscall(SYS_fcntl, root.mounts[mount].descriptor, F_DUPFD_CLOEXEC, 0, 0, 0, 0)


# By letters ----------------------------------------------------------------------------------------------------------

cdef int has_dots(const char *path) noexcept nogil:
    """Whether a name of the path is '..'."""
    cdef const char *at = path
    while at[0] != 0:
        if at[0] == 46 and at[1] == 46 and (at[2] == 0 or at[2] == 47) and (at == path or at[-1] == 47):
            return 1
        at += 1
    return 0


cdef const char *skip(const char *path) noexcept nogil:
    """Over slashes, and names that are '.'."""
    while path[0] == 47 or (path[0] == 46 and (path[1] == 47 or path[1] == 0)):
        path += 1
    return path


cdef const char *behind(const char *seen_at, const char *path) noexcept nogil:
    """What of an absolute path comes behind a mount's; NULL if that is not in front."""
    while seen_at[0] != 0:
        seen_at += 1         # its '/'
        path = skip(path)
        while seen_at[0] != 0 and seen_at[0] != 47:
            if path[0] != seen_at[0]:
                return NULL
            path += 1
            seen_at += 1
        if path[0] != 0 and path[0] != 47:
            return NULL
    return skip(path)


cdef int leads_to(const VirtualRoot *root, int mount, const char *real, const char *path) noexcept nogil:
    """The mount that a path leads into by its letters, from a directory of this one; -1 where that cannot be told."""
    cdef char seen[2 * MAX_PATH]
    cdef long length = 0
    cdef int i
    if path[0] != 47:
        length = seen_path(root, mount, real, seen, MAX_PATH)
        if length < 0:
            return -1
        seen[length] = 47
        memcpy(seen + length + 1, path, strlen(path) + 1)
        path = seen
    for i in range(root.count):
        if behind(root.mounts[i].seen_at, path) != NULL:
            return i
    return -1


# Following -----------------------------------------------------------------------------------------------------------

cdef int accept(
    const VirtualRoot *root, int mount, int literal, long opened, uint64_t cached, Place *place
) noexcept nogil:
    """Takes what the kernel found, if nothing hides it. Returns 0 or -EAGAIN; closes it then."""
    cdef char real[MAX_PATH]
    if opened < 0 or take_pin(opened, place) < 0:
        return -EAGAIN
    if not place.on_procfs and (place.local or not cached) and (
        literal or (real_path_in(place.own_table, opened, real) >= 0 and not is_hidden(root, mount, real))
    ):
        enter(root, mount, place)
        return 0
    close_pin(opened)
    place.descriptor = -1
    return -EAGAIN


cdef int follow_to_parent(
    const VirtualRoot *root, long base, int mount, int literal, const char *path, int following, uint64_t resolve,
    uint64_t cached, Place *place
) noexcept nogil:
    """To the directory, and to what is in it. Returns 0, -ENOENT where there is certainly no such directory, or
    -EAGAIN."""
    cdef char directory[MAX_PATH]
    cdef long opened
    if split_path(path, directory, place.last) < 0 or place.last[0] == 0 or strcmp(place.last, b".") == 0:
        return -EAGAIN
    opened = pin(base, directory, O_DIRECTORY, resolve)
    if opened == -ENOENT and literal:
        opened = pin(base, directory, O_DIRECTORY, resolve | RESOLVE_NO_SYMLINKS)
        close_pin(opened)
        return -ENOENT if opened == -ENOENT else -EAGAIN
    if accept(root, mount, 0, opened, cached, place) < 0:
        return -EAGAIN
    place.parent = place.descriptor
    place.descriptor = -1
    if mounted_on(root, mount, place.own_table, place.parent, place.last) != -1:
        return -EAGAIN
    opened = pin(place.parent, place.last, O_NOFOLLOW, cached)
    if opened == -ENOENT:
        return 0                 # the facts are those of the directory
    if opened < 0 or take_pin(opened, place) < 0 or place.on_procfs or (cached and not place.local):
        return -EAGAIN
    return -EAGAIN if place.mode & S_IFMT == S_IFLNK and not following & FOLLOW_NOT_LAST else 0


cdef int follow_below(
    const VirtualRoot *root, long base, int mount, int literal, const char *path, int following, uint64_t resolve,
    uint64_t cached, Place *place
) noexcept nogil:
    """The rest of a path, from a directory of the mount. `literal`: by its letters it leads to no other mount."""
    cdef long opened
    cdef int result
    if literal and not following & FOLLOW_TO_PARENT:
        # Without links it leads where its letters say, and so to no other mount.
        opened = pin(
            base, path, O_NOFOLLOW if following & FOLLOW_NOT_LAST else 0, resolve | RESOLVE_NO_SYMLINKS
        )
        if opened >= 0:
            place.by_letters = 1
            return accept(root, mount, 1, opened, cached, place)
        if opened == -ENOENT and not following & FOLLOW_MAKES:
            return -ENOENT
    if following & FOLLOW_TO_PARENT:
        return follow_to_parent(root, base, mount, literal, path, following, resolve, cached, place)
    opened = pin(base, path, O_NOFOLLOW if following & FOLLOW_NOT_LAST else 0, resolve)
    if opened != -ENOENT:
        return accept(root, mount, 0, opened, cached, place)
    result = follow_to_parent(root, base, mount, literal, path, following | FOLLOW_NOT_LAST, resolve, cached, place)
    if result == -ENOENT:
        return -ENOENT
    if result < 0 or place.descriptor >= 0:
        return -EAGAIN           # something has come there, or it is a link that leads nowhere
    if following & FOLLOW_MAKES:
        return 0
    return -ENOENT


cdef int follow_in_root(
    const VirtualRoot *root, long base, int mount, const char *real, const char *path, int following, uint64_t cached,
    Place *place
) noexcept nogil:
    """As far as the kernel can be asked at once, with RESOLVE_CACHED as far as it knows the way already, but for new
    names on a disk. `base`: where a relative path begins, a directory of the mount, and its real path. Returns 0,
    -ENOENT, or -EAGAIN where it has to be walked."""
    cdef const char *rest = NULL
    cdef uint64_t resolve = RESOLVE_BENEATH
    cdef size_t length = strlen(path)
    cdef int result, literal = 1, is_absolute = path[0] == 47, left = MAX_UNKNOWN, i
    if has_dots(path) or (following & FOLLOW_MAKES and path[length - 1] == 47):
        return -EAGAIN
    if not is_absolute:
        literal = not holds_mount(root, mount, real)
    else:
        for i in range(root.count):
            rest = behind(root.mounts[i].seen_at, path)
            if rest != NULL:
                mount = i
                break
        if rest == NULL:
            return -EAGAIN
        base = root.mounts[mount].descriptor
        if root.mounts[mount].owner < 0:
            resolve = RESOLVE_IN_ROOT
        if rest[0] == 0 and (root.mounts[mount].owner >= 0 or following & (FOLLOW_MAKES | FOLLOW_TO_PARENT)):
            if length > 1 and path[length - 1] in (46, 47):
                return -EAGAIN
            return arrive(root, mount, following, cached, place)
        path = rest if rest[0] != 0 else <const char *>b"."
    resolve |= RESOLVE_NO_MAGICLINKS | cached
    result = follow_below(root, base, mount, literal, path, following, resolve, cached, place)
    while result == -EAGAIN and cached and left > 0 and look_up_next(base, path):
        leave(place)
        result = follow_below(root, base, mount, literal, path, following, resolve, cached, place)
        left -= 1
    place.by_letters = place.by_letters and is_absolute
    if result < 0:
        leave(place)
    return result


cdef int arrive(
    const VirtualRoot *root, int mount, int following, uint64_t cached, Place *place
) noexcept nogil:
    """At a mount itself. Returns 0 or -EAGAIN."""
    cdef int result
    if following & (FOLLOW_MAKES | FOLLOW_TO_PARENT):
        return -EAGAIN
    result = take_pin(open_mount(root, mount), place)
    if result == 0 and (place.on_procfs or (cached and not place.local)):
        result = -EAGAIN
    if result == 0 and place.mode & S_IFMT == S_IFLNK:
        result = -EAGAIN
    if result < 0:
        leave(place)
        return -EAGAIN
    enter(root, mount, place)
    place.is_mount_point = 1
    return 0


# Made ----------------------------------------------------------------------------------------------------------------

cdef class VirtualMounts:
    """A VirtualRoot made from lists: mounts (seen at, real path, read-only, owner, directory of its place from the
    owner's, real path of that place, nothing is there), those with the longest first names first; and a descriptor for
    each, which are closed here."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self._alive = []

    def __init__(self, mounts, descriptors):
        cdef VirtualMount *out
        cdef Py_ssize_t i
        if not 0 < len(mounts) <= MAX_MOUNTS or len(mounts) != len(descriptors):
            raise ValueError("no mounts, or too many")
        for i, (seen_at, real, read_only, owner, above, place, absent) in enumerate(mounts):
            out = &self.c.mounts[i]
            out.seen_at = self.keep(seen_at)
            out.seen_length = len(seen_at)
            out.real = self.keep(real)
            out.real_length = len(real)
            out.read_only = read_only
            out.owner = owner
            out.above = self.keep(above)
            out.place = self.keep(place)
            out.place_length = len(place)
            out.name = self.keep(place.rpartition(b"/")[2])
            out.absent = absent
            out.descriptor = descriptors[i]
        if self.c.mounts[len(mounts) - 1].owner >= 0:
            raise ValueError("the last one is no root")
        self.c.count = self.opened = <int>len(mounts)

    cdef const char *keep(self, bytes text) except NULL:
        self._alive.append(text)
        return <const char *>text

    def close(self) -> None:
        """Closes the descriptors: nobody follows a path any more."""
        cdef int i
        for i in range(self.opened):
            raw_syscall(SYS_close, self.c.mounts[i].descriptor, 0, 0, 0, 0, 0)
        self.opened = 0

    def __dealloc__(self):
        self.close()
