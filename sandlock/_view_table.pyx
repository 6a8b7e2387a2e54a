"""What some files of a run show instead of what they hold, and what of /proc and /sys is there at all.

Rules: about real paths and files, never about names that a caller gave. A file that has a view is not opened for
anybody; where its view cannot be had, that is a denial. Made before the run starts, never changed.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strlen, strncmp

from sandlock._linux cimport SYS_clock_gettime, SYS_close, SYS_fcntl, SYS_memfd_create, SYS_write, raw_syscall
from sandlock._opening cimport reopen
from sandlock._path_table cimport resembles
from sandlock._paths cimport Place, look_at_place
from sandlock._procfs cimport is_of_tree, process_in
from sandlock._programs cimport MAX_PATH
from sandlock._run cimport MAX_MOUNTS
from sandlock._tasks cimport keep_few, put_number

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EINVAL

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <linux/memfd.h>
    #include <sys/syscall.h>
    #include <time.h>
    #ifndef MFD_NOEXEC_SEAL
    #define MFD_NOEXEC_SEAL 8U                 /* Linux 6.3 */
    #endif
    """
    const int CLOCK_BOOTTIME
    const int F_ADD_SEALS
    const int F_DUPFD_CLOEXEC
    const int F_SEAL_GROW
    const int F_SEAL_SEAL
    const int F_SEAL_SHRINK
    const int F_SEAL_WRITE
    const unsigned int MFD_ALLOW_SEALING
    const unsigned int MFD_CLOEXEC
    const unsigned int MFD_NOEXEC_SEAL
    const int O_NONBLOCK
    const int O_RDONLY
    const long SYS_fchmod
    ctypedef struct Clock "struct timespec":
        long tv_sec
        long tv_nsec

cdef enum:
    MODE = 0o444


# Whose path it is ----------------------------------------------------------------------------------------------------

cdef const char *after_task(const char *rest) noexcept nogil:
    """What follows in /proc/PID/task/TID/...: threads have the files of their process."""
    cdef const char *at
    if strncmp(rest, b"/task/", 6) != 0:
        return rest
    at = rest + 6
    while 48 <= at[0] <= 57:
        at += 1
    return at if at > rest + 6 and (at[0] == 0 or at[0] == 47) else rest


cdef const char *in_general(const char *path, char *into) noexcept nogil:
    """The path, with /proc/self in place of a process, or a thread of it."""
    cdef const char *rest = NULL
    cdef const char *tail
    if process_in(path, &rest) <= 0:
        return path
    tail = after_task(rest)
    if strlen(tail) + 11 > MAX_PATH:
        return path
    memcpy(into, <const char *>b"/proc/self", 10)
    memcpy(into + 10, tail, strlen(tail) + 1)
    return into


cdef int is_below(const char *path, const char *place, size_t length) noexcept nogil:
    """Whether a path is this one, or below it."""
    return strncmp(path, place, length) == 0 and (path[length] == 0 or path[length] == 47)


cdef int holds_shown(const ViewTable *table, const char *path) noexcept nogil:
    """Whether something below this path is there."""
    cdef size_t length = strlen(path)
    cdef int i
    for i in range(table.view_count):
        if is_below(table.views[i].path, path, length):
            return 1
    for i in range(table.place_count):
        if table.places[i].shown and is_below(table.places[i].path, path, length):
            return 1
    return 0


cdef int shows(const ViewTable *table, const char *path) noexcept nogil:
    """As _views.Views.shows."""
    cdef size_t longest = 0
    cdef int shown = 1, i
    for i in range(table.place_count):
        if table.places[i].length > longest and is_below(path, table.places[i].path, table.places[i].length):
            longest = table.places[i].length
            shown = table.places[i].shown
    return shown or holds_shown(table, path)


cdef int resembles_view(const ViewTable *table, const char *path) noexcept nogil:
    """Whether a path might be one that shows something else, or that is not there, were it written otherwise."""
    cdef char room[MAX_PATH]
    cdef int i
    if table == NULL:
        return 0
    path = in_general(path, room)
    for i in range(table.view_count):
        if resembles(path, table.views[i].path, table.views[i].length):
            return 1
    for i in range(table.place_count):
        if resembles(path, table.places[i].path, table.places[i].length):
            return 1
    return 0


cdef int is_there(const ViewTable *table, const Tree *tree, const char *path) noexcept nogil:
    """Whether there is such a real path for the tree: no process of others, and nothing of the machine."""
    cdef char room[MAX_PATH]
    cdef const char *rest = NULL
    cdef long pid
    if table == NULL or table.place_count == 0:
        return 1
    pid = process_in(path, &rest)
    if pid > 0 and not is_of_tree(tree, <int>pid):
        return 0
    return shows(table, in_general(path, room))


cdef int is_all_there(const ViewTable *table, const char *path) noexcept nogil:
    """Whether all that a directory of the tree's lists is there."""
    cdef char room[MAX_PATH]
    cdef size_t longest = 0, length
    cdef int shown = 1, i
    path = in_general(path, room)
    length = strlen(path)
    for i in range(table.place_count if table != NULL else 0):
        if not table.places[i].shown and is_below(table.places[i].path, path, length):
            return 0
        if table.places[i].length > longest and is_below(path, table.places[i].path, table.places[i].length):
            longest = table.places[i].length
            shown = table.places[i].shown
    return shown


# What it shows -------------------------------------------------------------------------------------------------------

cdef const View *find_view(const ViewTable *table, const Place *place, const char *path) noexcept nogil:
    """The view of an object, by what it is or by where it is; or NULL."""
    cdef char room[MAX_PATH]
    cdef const View *view
    cdef size_t length
    cdef int i
    if table == NULL or place.descriptor < 0:
        return NULL
    path = in_general(path, room)
    length = strlen(path)
    for i in range(table.view_count):
        view = &table.views[i]
        if view.inode != 0 and view.inode == place.inode and view.device == place.device:
            return view
        if view.length == length and strcmp(view.path, path) == 0:
            return view
    return NULL


cdef int is_view(const ViewTable *table, const Place *place, const char *path) noexcept nogil:
    return find_view(table, place, path) != NULL


cdef long seal_time() noexcept nogil:
    """/proc/uptime, but for how long CPUs were idle. Returns a descriptor or -errno."""
    cdef char text[64]
    cdef Clock clock
    cdef long made, result, length
    result = raw_syscall(SYS_clock_gettime, CLOCK_BOOTTIME, <long>&clock, 0, 0, 0, 0)
    if result < 0:
        return result
    length = put_number(text, clock.tv_sec)
    text[length] = 46        # '.'
    put_number(text + length + 1, 100 + clock.tv_nsec // 10000000)
    memcpy(text + length + 1, text + length + 2, 2)      # two digits, without the 1 before them
    memcpy(text + length + 3, <const char *>b" 0.00\n", 6)
    length += 9
    made = raw_syscall(
        SYS_memfd_create, <long><const char *>b"sandlock-view", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL, 0, 0,
        0, 0
    )
    if made == -EINVAL:
        made = raw_syscall(
            SYS_memfd_create, <long><const char *>b"sandlock-view", MFD_CLOEXEC | MFD_ALLOW_SEALING, 0, 0, 0, 0
        )
    if made < 0:
        return made
    result = raw_syscall(SYS_write, made, <long>text, length, 0, 0, 0)
    if result == length:
        result = raw_syscall(SYS_fchmod, made, MODE, 0, 0, 0, 0)
    if result == 0:
        result = raw_syscall(
            SYS_fcntl, made, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE, 0, 0, 0
        )
    if result != 0:
        raw_syscall(SYS_close, made, 0, 0, 0, 0, 0)
        return -EACCES
    return made


cdef int may_read(const Place *place) noexcept nogil:
    """Whether the real file could be read: the grants and its mode decide as ever. Returns 0 or -errno."""
    cdef long opened = reopen(place.own_table, place.descriptor, O_RDONLY | O_NONBLOCK, 0)
    if opened < 0:
        return 0 if opened == -EAGAIN else <int>opened       # a lease, which it would wait for
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return 0


cdef int show_view(const ViewTable *table, Place *place, const char *path, int reads) noexcept nogil:
    """Puts what a file shows in the place of the file, where it has a view. `reads`: its content is wanted, and not
    only what is known of it. Returns 0 or -errno; never is it the real file then."""
    cdef const View *view = find_view(table, place, path)
    cdef long shown
    cdef int result
    if view == NULL:
        return 0
    if reads and not place.on_procfs:        # of /proc, the policy is asked (_procfs.may_have)
        result = may_read(place)
        if result < 0:
            return result
    if view.descriptor >= 0:
        shown = raw_syscall(SYS_fcntl, view.descriptor, F_DUPFD_CLOEXEC, 0, 0, 0, 0)
    else:
        shown = seal_time()
    if shown < 0:
        return -EACCES
    raw_syscall(SYS_close, place.descriptor, 0, 0, 0, 0, 0)
    place.descriptor = shown
    result = look_at_place(shown, place)
    return -EACCES if result < 0 else 0


cdef int keep_with_views(
    const ViewTable *table, const VirtualRoot *root, const int *descriptors, int count
) noexcept nogil:
    """A descriptor table of the calling task's own, with these (16 at most) in it, what views show, and a virtual root.
    Returns 0 or -errno."""
    cdef int all[16 + MAX_VIEW_FILES + MAX_MOUNTS]
    cdef int i, kept = count
    for i in range(count):
        all[i] = descriptors[i]
    for i in range(table.descriptor_count if table != NULL else 0):
        all[kept] = table.descriptors[i]
        kept += 1
    for i in range(root.count if root != NULL else 0):
        all[kept] = root.mounts[i].descriptor
        kept += 1
    return keep_few(all, kept)


cdef class ViewSet:
    """A ViewTable made from lists: `files`, (path, descriptor, or -1 for the time since the boot, device and inode of
    the real file); `places`, pairs of a path and whether it is there."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self._alive = []

    def __init__(self, files, places):
        cdef Py_ssize_t i
        self.c.views = <View *>calloc(len(files) + 1, sizeof(View))
        self.c.places = <ViewPlace *>calloc(len(places) + 1, sizeof(ViewPlace))
        if self.c.views == NULL or self.c.places == NULL:
            raise MemoryError
        for i, (path, descriptor, device, inode) in enumerate(files):
            self.c.views[i].path = self.keep(path)
            self.c.views[i].length = len(path)
            self.c.views[i].descriptor = descriptor
            self.c.views[i].device = <uint64_t>device
            self.c.views[i].inode = <uint64_t>inode
        for i, (path, shown) in enumerate(places):
            self.c.places[i].path = self.keep(path)
            self.c.places[i].length = len(path)
            self.c.places[i].shown = shown
        self.c.view_count = <int>len(files)
        self.c.place_count = <int>len(places)
        descriptors = sorted({descriptor for _, descriptor, _, _ in files if descriptor >= 0})
        if len(descriptors) > MAX_VIEW_FILES:
            raise ValueError("too many views")
        for i, descriptor in enumerate(descriptors):
            self.c.descriptors[i] = descriptor
        self.c.descriptor_count = <int>len(descriptors)

    cdef const char *keep(self, bytes text) except NULL:
        self._alive.append(text)
        return <const char *>text

    def shows(self, bytes path) -> bool:
        """Whether this path is there, a process being one of the tree's; for tests."""
        cdef char room[MAX_PATH]
        return shows(&self.c, in_general(path, room)) != 0

    def __dealloc__(self):
        free(self.c.views)
        free(self.c.places)
