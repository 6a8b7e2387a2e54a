"""What a path means to the caller: from its root, its working directory or one of its descriptors to the object, pinned
by a descriptor of ours (O_PATH). Whoever judges and acts does both by the pin, never by the name.

A path is given to the kernel as a whole first, without the magic links of /proc. Where that ends in /proc, or nowhere,
it is walked name by name: /proc/self means the caller, and a magic link is followed if it is the tree's.

Rules: runs in a task that has no root but the caller's, and descriptors of its own. What cannot be told is refused. The
errors are those that the caller's own call would have got.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memmove, memset, strcmp, strlen

from sandlock._cached_paths cimport follow_cached
from sandlock._linux cimport raw_syscall
from sandlock._places cimport (
    RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
    close_pin, pin, split_path, take_pin,
)
from sandlock._procfs cimport is_strangers, may_follow_magic, process_of
from sandlock._programs cimport MAX_PATH, open_descriptor_of, real_path_in
from sandlock._rooted cimport seen_exe
from sandlock._run cimport VirtualRoot
from sandlock._shown_ways cimport follow_shown, leaves_hidden
from sandlock._tasks cimport put_number
from sandlock._virtual_root cimport (
    enter, follow_in_root, has_dots, is_hidden, is_memory, is_top, leads_to, mount_at, mounted_on, open_mount,
)

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EBADF
    const int EISDIR
    const int ELOOP
    const int ENAMETOOLONG
    const int ENOENT
    const int ENOTDIR
    const int EXDEV

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_DIRECTORY
    const int O_NOFOLLOW

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    #include <sys/syscall.h>
    """
    const long SYS_readlinkat
    const unsigned int S_IFDIR
    const unsigned int S_IFLNK
    const unsigned int S_IFMT
    const unsigned int S_ISVTX
    const unsigned int S_IWOTH

cdef enum:
    MAX_STEPS = 4096
    MAX_LINKS = 40           # MAXSYMLINKS of linux/namei.h
    PROCFS_ROOT = 1          # the inode of its root directory
    MISSING = 1              # there is no such name in the directory
    ARRIVED = 2              # at a link that is itself meant

# A path under way.
cdef struct Walk:
    const Origin *origin
    int following            # enum Following
    int magic                # the caller allows magic links
    int no_links             # the caller allows none
    int links
    const VirtualRoot *root  # NULL: the caller sees the host's
    int mount                # of the root, where it has come to; -1: among no files
    int at_mount             # the last name is a mount's
    long current             # where it has come to; ours
    long parent              # of the last name; ours, or -1
    char last[MAX_LAST]
    size_t at                # in `rest`, what is still to be followed
    char rest[2 * MAX_PATH]


# One name ------------------------------------------------------------------------------------------------------------

cdef void go_to(Walk *walk, long descriptor) noexcept nogil:
    close_pin(walk.current)
    walk.current = descriptor


cdef int go_to_root(Walk *walk) noexcept nogil:
    """Returns 0 or -errno."""
    cdef long root
    if walk.root == NULL:
        root = pin(AT_FDCWD, b"/", O_DIRECTORY, 0)
    else:
        walk.mount = walk.root.count - 1
        root = open_mount(walk.root, walk.mount)
    if root < 0:
        return <int>root
    go_to(walk, root)
    return 0


cdef int go_up(Walk *walk) noexcept nogil:
    """To the directory above, in a virtual root: of the root there is none, and above a mount is where that is seen.
    Returns 0 or -errno."""
    cdef char real[MAX_PATH]
    cdef long own_table = walk.origin.tree.own_table
    cdef long length = real_path_in(own_table, walk.current, real)
    cdef long next
    cdef int owner
    if length < 0 or walk.mount < 0:
        return -ENOTDIR if walk.mount < 0 else <int>length
    if is_top(walk.root, walk.mount, real):
        owner = walk.root.mounts[walk.mount].owner
        if owner < 0:
            return 0
        next = pin(
            walk.root.mounts[owner].descriptor, walk.root.mounts[walk.mount].above, O_DIRECTORY,
            RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        )
        if next < 0:
            return <int>next
        walk.mount = owner
        go_to(walk, next)
        return 0
    next = pin(walk.current, b"..", O_DIRECTORY, RESOLVE_NO_MAGICLINKS)
    if next < 0:
        return <int>next
    owner = mount_at(walk.root, real) if real_path_in(own_table, next, real) >= 0 else -1
    if owner < 0:                # somebody has moved it out
        close_pin(next)
        return -ENOENT
    walk.mount = owner
    go_to(walk, next)
    return 0


cdef int own_directory(const Walk *walk, const char *name, char *into) noexcept nogil:
    """Where the caller's /proc/self or thread-self leads, from the root of a /proc. Returns whether it is that."""
    cdef Place here
    cdef int length
    if strcmp(name, b"self") != 0 and strcmp(name, b"thread-self") != 0:
        return 0
    if look_at_place(walk.current, &here) < 0 or not here.on_procfs or here.inode != PROCFS_ROOT:
        return 0
    length = put_number(into, walk.origin.tgid)
    if name[0] == 116:       # 't'
        memcpy(into + length, <const char *>b"/task/", 6)
        put_number(into + length + 6, walk.origin.tid)
    return 1


cdef int is_magic(long directory, const char *name) noexcept nogil:
    """Whether a link of /proc leads to a thing, and not to a name."""
    cdef long opened = pin(directory, name, 0, RESOLVE_NO_MAGICLINKS)
    close_pin(opened)
    return opened == -ELOOP


cdef int may_follow_link(const Walk *walk, const Place *link) noexcept nogil:
    """The kernel's protected_symlinks, for the link in the last place of a path. Returns 0 or -EACCES."""
    cdef Place directory
    if <long>link.owner == walk.origin.tree.own.user:
        return 0
    if look_at_place(walk.current, &directory) < 0:
        return -EACCES
    if directory.mode & (S_ISVTX | S_IWOTH) != (S_ISVTX | S_IWOTH) or directory.owner == link.owner:
        return 0
    return -EACCES if protects(b"/proc/sys/fs/protected_symlinks", 1) else 0


cdef long find_exe(Walk *walk, char *path) noexcept nogil:
    """What a process in a virtual root runs: the kernel has loaded that, or only its loader. Returns the length of the
    path, or -errno."""
    cdef long length = real_path_in(walk.origin.tree.own_table, walk.current, path)
    return length if length < 0 else seen_exe(process_of(path), path)


cdef int follow_magic(Walk *walk, const char *name) noexcept nogil:
    """Goes where a magic link of a process of the tree leads. Returns 0 or -errno."""
    cdef char path[MAX_PATH]
    cdef long opened
    if not walk.magic:
        return -ELOOP
    if not may_follow_magic(walk.origin.tree, walk.current):
        return -EACCES
    if walk.root != NULL and strcmp(name, b"root") == 0:
        return go_to_root(walk)
    if walk.root != NULL and strcmp(name, b"exe") == 0 and find_exe(walk, path) > 0:
        return go_on_with(walk, path, strlen(path))
    opened = pin(walk.current, name, 0, 0)
    if opened < 0:
        return <int>opened
    if walk.root != NULL and not find_mount(walk, opened):
        close_pin(opened)
        return -EACCES
    go_to(walk, opened)
    return 0


cdef int find_mount(Walk *walk, long opened) noexcept nogil:
    """Whether a thing that was reached by no name is in the virtual root, or among no files at all."""
    cdef char real[MAX_PATH]
    cdef Place facts
    walk.mount = -1
    if real_path_in(walk.origin.tree.own_table, opened, real) < 0:
        return 0
    if real[0] != 47:            # a pipe, a socket
        return 1
    walk.mount = mount_at(walk.root, real)
    return walk.mount >= 0 or (look_at_place(opened, &facts) == 0 and is_memory(real, facts.links))


cdef int go_on_with(Walk *walk, const char *target, size_t length) noexcept nogil:
    """Puts what a link says before the rest of the path. Returns 0 or -errno."""
    cdef size_t left = strlen(walk.rest + walk.at)
    if length + left + 1 > sizeof(walk.rest):
        return -ENAMETOOLONG
    memmove(walk.rest + length, walk.rest + walk.at, left + 1)
    memcpy(walk.rest, target, length)
    walk.at = 0
    return go_to_root(walk) if target[0] == 47 else 0


cdef int follow_link(Walk *walk, const char *name, long link, const Place *facts, int last) noexcept nogil:
    """Returns 0 or -errno."""
    cdef char target[MAX_PATH]
    cdef long length
    cdef int result
    walk.links += 1
    if walk.links > MAX_LINKS or facts.nosymfollow or walk.no_links:
        return -ELOOP
    result = may_follow_link(walk, facts) if last else 0
    if result < 0:
        return result
    if facts.on_procfs and is_magic(walk.current, name):
        return follow_magic(walk, name)
    length = raw_syscall(SYS_readlinkat, link, <long><const char *>b"", <long>target, MAX_PATH, 0, 0)
    if length < 0:
        return <int>length
    if length == 0:
        return -ENOENT
    return -ENAMETOOLONG if length >= MAX_PATH else go_on_with(walk, target, <size_t>length)


cdef int take_step(Walk *walk, const char *name, int last, int slash) noexcept nogil:
    """Follows one name. Returns 0, ARRIVED, MISSING or -errno."""
    cdef char own[64]
    cdef Place facts
    cdef long next
    cdef int result, mounted = -1, dots = strcmp(name, b".") == 0 or strcmp(name, b"..") == 0
    cdef int link_is_meant = last and not slash and walk.following & FOLLOW_NOT_LAST
    if last and slash and not dots and walk.following & FOLLOW_MAKES:
        return -EISDIR
    if is_strangers(walk.origin.tree, walk.current, name):
        return -ENOENT
    if not link_is_meant and own_directory(walk, name, own):
        if walk.no_links:
            return -ELOOP
        next = pin(walk.current, own, 0, RESOLVE_NO_SYMLINKS)
        if next >= 0:
            go_to(walk, next)
        return 0 if next >= 0 else <int>next
    if dots and name[1] != 0 and leaves_hidden(walk.origin, walk.current):
        return -ENOENT
    if walk.root != NULL and dots and name[1] != 0:
        return go_up(walk)
    if walk.root != NULL and not dots:
        mounted = mounted_on(walk.root, walk.mount, walk.origin.tree.own_table, walk.current, name)
    if mounted < -1:
        return mounted
    if mounted >= 0:
        next = open_mount(walk.root, mounted)
    else:
        next = pin(walk.current, name, O_DIRECTORY if dots else O_NOFOLLOW, RESOLVE_NO_MAGICLINKS)
    walk.at_mount = last and mounted >= 0
    if last and not dots:
        close_pin(walk.parent)
        walk.parent = pin(walk.current, b".", O_DIRECTORY, 0)
        memcpy(walk.last, name, strlen(name) + 1)
    if next == -ENOENT and last and not dots:
        return MISSING
    if next < 0:
        return <int>next
    result = look_at_place(next, &facts)
    if result == 0 and facts.mode & S_IFMT == S_IFLNK and not link_is_meant:
        result = follow_link(walk, name, next, &facts, last)
        close_pin(next)
        return result
    if result < 0:
        close_pin(next)
        return result
    if mounted >= 0:
        walk.mount = mounted
    go_to(walk, next)
    return ARRIVED if facts.mode & S_IFMT == S_IFLNK else 0


# A whole path --------------------------------------------------------------------------------------------------------

cdef int cut_name(Walk *walk, char *name, int *last, int *slash) noexcept nogil:
    """Takes the next name off the rest. Returns 1, 0 where there is none, or -errno."""
    cdef size_t start, end
    while walk.rest[walk.at] == 47:
        walk.at += 1
    if walk.rest[walk.at] == 0:
        return 0
    start = walk.at
    while walk.rest[walk.at] != 0 and walk.rest[walk.at] != 47:
        walk.at += 1
    end = walk.at
    slash[0] = walk.rest[end] == 47
    while walk.rest[end] == 47:
        end += 1
    last[0] = walk.rest[end] == 0
    if walk.at - start >= MAX_LAST:
        return -ENAMETOOLONG
    memcpy(name, walk.rest + start, walk.at - start)
    name[walk.at - start] = 0
    return 1


cdef int walk_path(Walk *walk) noexcept nogil:
    """Follows the rest of the path. Returns 0, ARRIVED, MISSING or -errno."""
    cdef char name[MAX_LAST]
    cdef Place facts
    cdef int result = 0, last = 0, slash = 0, wants_directory = 0, steps = 0
    while True:
        result = cut_name(walk, name, &last, &slash)
        if result < 0:
            return result
        steps += 1
        if steps > MAX_STEPS:        # links full of "./", to keep us busy: the longest path has half as many names
            return -ELOOP
        if result == 0:
            break
        if last and slash:
            wants_directory = 1
        result = take_step(walk, name, last, slash)
        if result != 0:
            return result
    if wants_directory:
        result = look_at_place(walk.current, &facts)
        if result == 0 and facts.mode & S_IFMT != S_IFDIR:
            result = -ENOTDIR
    return result


cdef int finish_walk(Walk *walk, int result, Place *place) noexcept nogil:
    """Hands over what was found. Returns 0 or -errno."""
    if result == MISSING and not walk.following & (FOLLOW_MAKES | FOLLOW_TO_PARENT):
        result = -ENOENT
    if result >= 0 and walk.following & (FOLLOW_MAKES | FOLLOW_TO_PARENT):
        place.parent = walk.parent
        memcpy(place.last, walk.last, sizeof(place.last))
        walk.parent = -1
    if result >= 0 and result != MISSING:
        place.descriptor = walk.current
        walk.current = -1
    close_pin(walk.current)
    close_pin(walk.parent)
    if result == MISSING and place.parent < 0:
        result = <int>place.parent
    if result >= 0:
        result = look_at_place(place.descriptor if place.descriptor >= 0 else place.parent, place)
    if result < 0:
        leave(place)
    elif walk.root != NULL:
        enter(walk.root, walk.mount, place)
        place.is_mount_point = walk.at_mount
    return result


cdef int follow_slowly(
    const Origin *origin, long base, int mount, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    cdef Walk walk
    cdef int result = 0
    walk.origin = origin
    walk.following = following
    walk.magic = resolve & RESOLVE_NO_MAGICLINKS == 0
    walk.no_links = resolve & RESOLVE_NO_SYMLINKS != 0
    walk.links = 0
    walk.root = origin.tree.run.virtual_root
    walk.mount = mount
    walk.at_mount = 0
    walk.current = walk.parent = -1
    walk.last[0] = 0
    walk.at = 0
    memcpy(walk.rest, path, strlen(path) + 1)
    if path[0] == 47:
        result = go_to_root(&walk)
    else:
        walk.current = pin(base, b".", O_DIRECTORY, 0)
        result = <int>walk.current if walk.current < 0 else 0
    if result < 0:
        return result
    return finish_walk(&walk, walk_path(&walk), place)


cdef int follow_within(
    const Origin *origin, long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    """A path with limits that only the kernel can keep (RESOLVE_*): it is given the path as a whole, or all but the
    last name. Where that leads into /proc it cannot be said whose it would be. Returns 0 or -errno."""
    cdef char directory[MAX_PATH]
    cdef long opened = -1
    cdef int result = 0, scoped = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_NO_XDEV) != 0
    resolve |= RESOLVE_NO_MAGICLINKS
    if following & (FOLLOW_MAKES | FOLLOW_TO_PARENT) and path[strlen(path) - 1] != 47:
        result = split_path(path, directory, place.last)
        if result < 0:
            return result
        place.parent = pin(base, directory, O_DIRECTORY, resolve & ~RESOLVE_CACHED)
        result = <int>place.parent if place.parent < 0 else 0
    if result == 0:
        opened = pin(base, path, O_NOFOLLOW if following & FOLLOW_NOT_LAST else 0, resolve)
        if opened >= 0:
            result = take_pin(opened, place)
        elif opened != -ENOENT or place.parent < 0:
            result = <int>opened
        else:
            opened = pin(place.parent, place.last, O_NOFOLLOW, 0)
            close_pin(opened)
            # A link that leads nowhere: what it names is not made here.
            result = look_at_place(place.parent, place) if opened == -ENOENT else -EACCES
    if result == 0 and scoped and place.on_procfs:
        result = -ENOENT if origin.tree.run.program.private_proc else -EACCES
    if result < 0:
        leave(place)
    return result


cdef int follow_from(
    const Origin *origin, long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    cdef size_t length = strlen(path)
    cdef long opened
    if following & FOLLOW_CACHED:
        return -EAGAIN if resolve else follow_cached(base, path, following, 0, place)
    if resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS):
        return follow_within(origin, base, path, following, resolve, place)
    if not following & FOLLOW_TO_PARENT and not (following & FOLLOW_MAKES and path[length - 1] == 47):
        opened = pin(
            base, path, O_NOFOLLOW if following & FOLLOW_NOT_LAST else 0,
            RESOLVE_NO_MAGICLINKS | (resolve & RESOLVE_CACHED)
        )
        if opened == -EAGAIN and resolve & RESOLVE_CACHED:
            return <int>opened
        if opened == -EACCES and not origin.tree.run.program.private_proc:
            return <int>opened
        if opened >= 0:
            if take_pin(opened, place) == 0 and not place.on_procfs:
                return 0
            leave(place)     # in /proc: perhaps by a name that means something else to us than to the caller
    return follow_slowly(origin, base, -1, path, following, resolve, place)


# In a virtual root ---------------------------------------------------------------------------------------------------

cdef int follow_on_device(
    const Origin *origin, long base, int mount, const char *real, const char *path, int following, uint64_t resolve,
    Place *place
) noexcept nogil:
    """A path that may not lead to another device (RESOLVE_NO_XDEV). The kernel is given it from the mount's top, if a
    `..` could lead above the directory where it begins."""
    cdef const VirtualRoot *root = origin.tree.run.virtual_root
    cdef char whole[2 * MAX_PATH]
    cdef const char *above
    cdef size_t length
    if path[0] == 47:
        mount = root.count - 1
    if not has_dots(path) and leads_to(root, mount, real, path) != mount:
        return -EXDEV
    resolve |= RESOLVE_IN_ROOT if root.mounts[mount].owner < 0 else RESOLVE_BENEATH
    if path[0] == 47:
        return follow_scoped(origin, root.mounts[mount].descriptor, mount, path, following, resolve, place)
    above = real + root.mounts[mount].real_length
    while above[0] == 47:
        above += 1
    length = strlen(above)
    if not has_dots(path) or length + strlen(path) + 2 > MAX_PATH:
        return follow_scoped(
            origin, base, mount, path, following, (resolve & ~RESOLVE_IN_ROOT) | RESOLVE_BENEATH, place
        )
    memcpy(whole, above, length)
    whole[length] = 47
    memcpy(whole + length + 1, path, strlen(path) + 1)
    return follow_scoped(
        origin, root.mounts[mount].descriptor, mount, whole + (length == 0), following, resolve, place
    )


cdef int follow_scoped(
    const Origin *origin, long base, int mount, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    """A path with limits that only the kernel can keep, within one mount: to another one would be across devices."""
    cdef const VirtualRoot *root = origin.tree.run.virtual_root
    cdef char real[MAX_PATH]
    cdef int result
    result = follow_within(origin, base, path, following, resolve, place)
    if result < 0:
        return result
    enter(root, mount, place)
    if (
        real_path_in(place.own_table, place.descriptor if place.descriptor >= 0 else place.parent, real) < 0
        or is_hidden(root, mount, real)
        or (place.parent >= 0 and mounted_on(root, mount, place.own_table, place.parent, place.last) != -1)
    ):
        leave(place)
        return -EXDEV
    return 0


cdef int follow_inside(
    const Origin *origin, long base, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    cdef const VirtualRoot *root = origin.tree.run.virtual_root
    cdef char real[MAX_PATH]
    cdef long length
    cdef int result, mount = -1
    if base >= 0:
        length = real_path_in(place.own_table, base, real)
        if length < 0:
            return <int>length
        if real[0] != 47:
            return -ENOTDIR
        mount = mount_at(root, real)
        if mount < 0:            # outside: the program was born there, or was sent a descriptor
            return -ENOENT if origin.directory == AT_FDCWD else -EACCES
    if following & FOLLOW_CACHED:
        return -EAGAIN if resolve else follow_in_root(
            root, base, mount, real, path, following, RESOLVE_CACHED, place
        )
    if resolve & RESOLVE_CACHED:
        return -EAGAIN
    if resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
        if path[0] != 47 and not has_dots(path) and leads_to(root, mount, real, path) != mount:
            return -EXDEV
        return follow_scoped(origin, base, mount, path, following, resolve, place)
    if resolve & RESOLVE_NO_XDEV:
        return follow_on_device(origin, base, mount, real, path, following, resolve, place)
    if not resolve:
        result = follow_in_root(root, base, mount, real, path, following, 0, place)
        if result != -EAGAIN:
            return result
    return follow_slowly(origin, base, mount, path, following, resolve, place)


cdef int follow_path(
    const Origin *origin, const char *path, int following, uint64_t resolve, Place *place
) noexcept nogil:
    """Finds what a path means to the caller. Returns 0, or the -errno that its own call would have ended with. With
    FOLLOW_MAKES or FOLLOW_TO_PARENT there need not be an object."""
    cdef long base = AT_FDCWD
    cdef int result
    memset(place, 0, sizeof(place[0]))
    place.descriptor = place.parent = -1
    place.own_table = origin.tree.own_table
    place.local_mounts = origin.tree.local_mounts
    if path[0] == 0:
        return -ENOENT
    if path[0] == 47 and resolve & RESOLVE_BENEATH:
        return -EXDEV
    if path[0] != 47 or resolve & RESOLVE_IN_ROOT:
        base = open_descriptor_of(origin.tid, origin.directory)
        if base == -ENOENT and origin.directory != AT_FDCWD:
            return -EBADF
        if base < 0:
            return <int>base
    if origin.tree.run.virtual_root != NULL:
        result = follow_inside(origin, base, path, following, resolve, place)
    elif origin.hiding != NULL:
        result = follow_shown(origin, base, path, following, resolve, place)
    else:
        result = follow_from(origin, base, path, following, resolve, place)
    if base >= 0:
        close_pin(base)
    return result
