"""What a run's policy says of paths, and the questions about it: is this denied, is it covered by a grant?

Rules: about real paths, without links, and about files by device and inode. Nothing here looks at the file system.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strlen, strncmp

from sandlock._opening cimport access_of
from sandlock._paths cimport ACCESS_READ, ACCESS_WRITE, Place
from sandlock._programs cimport FileIdentity
from sandlock._slots cimport CAUSE_NONE, CAUSE_NO_RULE, CAUSE_RULE

cdef extern from "<errno.h>" nogil:
    const int EAGAIN
    const int EBADF
    const int EFAULT
    const int EINVAL
    const int EMFILE
    const int ENFILE
    const int ENOENT
    const int ENOMEM
    const int ENOSYS
    const int ESRCH

cdef extern from * nogil:
    """
    #include <sys/stat.h>
    #define SANDLOCK_O_TMPFILE 020000000       /* the bit that O_TMPFILE has besides O_DIRECTORY */
    """
    const uint64_t O_TMPFILE_BIT "SANDLOCK_O_TMPFILE"
    const unsigned int S_IFBLK
    const unsigned int S_IFCHR
    const unsigned int S_IFMT

cdef extern from "<sys/sysmacros.h>" nogil:
    unsigned int major_of "gnu_dev_major"(uint64_t device) noexcept
    unsigned int minor_of "gnu_dev_minor"(uint64_t device) noexcept


cdef int is_beneath(const char *path, const PathPrefix *prefix) noexcept nogil:
    """Whether a path is this one, or below it."""
    if strncmp(path, prefix.path, prefix.length) != 0:
        return 0
    return path[prefix.length] == 0 or path[prefix.length] == 47


cdef inline unsigned char fold(char letter) noexcept nogil:
    """As a directory has it that does not tell upper and lower case apart; 255 for what there may stand for others: all
    that is not ASCII."""
    if <signed char>letter < 0:
        return 255
    return <unsigned char>(letter + 32 if 65 <= letter <= 90 else letter)


cdef int resembles(const char *path, const char *other, size_t length) noexcept nogil:
    """Whether a path might be this other one, or below it, in a directory that takes some letters for others."""
    cdef unsigned char one, two
    cdef size_t i
    for i in range(length):
        one = fold(path[i])
        two = fold(other[i])
        if one == 255 or two == 255:
            return 1
        if one != two:
            return 0
    return path[length] == 0 or path[length] == 47


cdef int resembles_denied(const PathTable *table, const char *path) noexcept nogil:
    """Whether a path might be denied, were it written otherwise."""
    cdef int i
    for i in range(table.denied_count):
        if resembles(path, table.denied[i].path, table.denied[i].length):
            return 1
    return 0


cdef int find_identity(const PathTable *table, const Place *place) noexcept nogil:
    """Where an object is among those that are denied, -1 if it is not."""
    cdef const PathIdentity *found
    cdef int low = 0, high = table.identity_count, middle
    while low < high:
        middle = (low + high) >> 1
        found = &table.identities[middle]
        if found.inode == place.inode and found.device == place.device:
            return middle
        if found.inode < place.inode or (found.inode == place.inode and found.device < place.device):
            low = middle + 1
        else:
            high = middle
    return -1


cdef int denied_by(const PathTable *table, const Place *place, const char *path, int wanted) noexcept nogil:
    """The number of the rule by which nobody may do all of `wanted`, of enum Want, to an object, or to what would be
    made: for what it is, or for where it is. -1 for none."""
    cdef int i
    if table == NULL:
        return -1
    i = find_identity(table, place) if place.descriptor >= 0 and table.identity_count > 0 else -1
    if i >= 0 and wanted & ~table.identities[i].access:
        return table.identities[i].rule
    for i in range(table.denied_count):
        if wanted & ~table.denied[i].access and is_beneath(path, &table.denied[i]):
            return table.denied[i].rule
    return -1


cdef int denied_file(const PathTable *table, const FileIdentity *file, const char *path, int wanted) noexcept nogil:
    """The same for a file that stat(2) has told of."""
    cdef Place place
    if table == NULL:
        return -1
    place.descriptor = 0     # that is to say, it is there
    place.device = <uint64_t>major_of(file.device) << 32 | minor_of(file.device)
    place.inode = file.inode
    return denied_by(table, &place, path, wanted)


cdef int holds_denied(const PathTable *table, const char *path) noexcept nogil:
    """The number of a rule about something below this path: were that moved or removed, it would be elsewhere. -1 for
    none."""
    cdef PathPrefix above
    cdef int i
    above.path = path
    above.length = strlen(path)
    for i in range(table.denied_count):
        if is_beneath(table.denied[i].path, &above):
            return table.denied[i].rule
    return -1


cdef int hides(const PathTable *table) noexcept nogil:
    """Whether what no grant covers, and what is denied, is not there for the program."""
    return table != NULL and table.hides


cdef const void *hiding(const PathTable *table) noexcept nogil:
    """The table as `_paths` takes it, which knows no tables; NULL if nothing is hidden."""
    return table if hides(table) else NULL


cdef int is_closed_way(const void *hiding, const Place *place, const char *path) noexcept nogil:
    """Whether what lies on a way is hidden: that a way leads through it would tell that it is there."""
    return hiding != NULL and is_hidden(<const PathTable *>hiding, place, path)


cdef int is_open_way(const void *hiding, const char *path) noexcept nogil:
    """Whether nothing at or below a directory is hidden by the grants."""
    return hiding == NULL or granted_for(<const PathTable *>hiding, path, strlen(path)) != 0


cdef int hidden_error(int result) noexcept nogil:
    """What the program is told of a way that leads nowhere: not how far it led, for that may not be for it to see. The
    errors that are left say nothing of the way."""
    if result >= 0 or result in (-EAGAIN, -EBADF, -EFAULT, -EINVAL, -EMFILE, -ENFILE, -ENOMEM, -ENOSYS, -ESRCH):
        return result
    return -ENOENT


cdef int is_hidden(const PathTable *table, const Place *place, const char *path) noexcept nogil:
    """Whether this is not there for the program: no grant covers it, and it leads to none either; or it is denied. What
    has no path (a pipe, a memfd) is the program's own."""
    cdef PathPrefix this
    cdef int i
    if path[0] != 40 and has_no_path(place, path):      # "(unreachable)/..."
        return 0
    if denied_by(table, place, path, WANT_READ) >= 0:
        return 1
    for i in range(table.grant_count):
        if is_beneath(path, &table.grants[i]):
            return 0
    this.path = path
    this.length = strlen(path) if path[1] != 0 else 0
    for i in range(table.shown_count):
        if is_beneath(table.shown[i].path, &this):
            return 0
    return 1


cdef int granted_for(const PathTable *table, const char *path, size_t length) noexcept nogil:
    """What grants allow for the first `length` bytes of a path: a sum of enum Want."""
    cdef const PathPrefix *grant
    cdef int granted = 0, i
    for i in range(table.grant_count):
        grant = &table.grants[i]
        if grant.length > length or strncmp(path, grant.path, grant.length) != 0:
            continue
        if grant.length == length or path[grant.length] == 47:     # '/'
            granted |= grant.access
    return granted


cdef int is_covered(const PathTable *table, const char *path, int wanted) noexcept nogil:
    """Whether grants allow all of `wanted` for this path."""
    return wanted & ~granted_for(table, path, strlen(path)) == 0


cdef size_t length_of_directory(const char *path) noexcept nogil:
    """How much of a path is the directory that it is in: as Landlock, which asks about that for what is made, moved or
    removed."""
    cdef size_t length = strlen(path)
    while length > 0 and path[length - 1] != 47:
        length -= 1
    return length - 1 if length > 0 else 0


cdef int has_no_path(const Place *place, const char *path) noexcept nogil:
    """Whether it lies in no directory (a pipe, a socket, a memfd): no grant is about it, and Landlock says nothing of
    it."""
    return path[0] != 47 or (place.descriptor >= 0 and place.links == 0 and strncmp(path, b"/memfd:", 7) == 0)


cdef int lets_change(const PathTable *table, const Place *place, const char *path, int in_directory) noexcept nogil:
    """Whether the grants of the moment let an object be changed, or, `in_directory`, this name be made, moved or
    removed."""
    if not table.narrow or has_no_path(place, path):
        return 1
    return granted_for(table, path, length_of_directory(path) if in_directory else strlen(path)) & WANT_WRITE


cdef int judge_open(
    const PathTable *table, const OpenCall *call, const Place *place, const char *path, int *rule
) noexcept nogil:
    """What is said of an open whose object, and whether that is there, is known. Returns an enum Cause."""
    cdef int access, granted, is_device
    if table == NULL:
        return CAUSE_NONE
    access = access_of(call)
    rule[0] = denied_by(table, place, path, WANT_WRITE if access & ACCESS_WRITE else WANT_READ)
    if rule[0] >= 0:
        return CAUSE_RULE
    if not table.narrow or has_no_path(place, path):
        return CAUSE_NONE
    if place.descriptor < 0 or call.flags & O_TMPFILE_BIT:
        return CAUSE_NONE if lets_change(table, place, path, place.descriptor < 0) else CAUSE_NO_RULE
    granted = granted_for(table, path, strlen(path))
    is_device = place.mode & S_IFMT == S_IFCHR or place.mode & S_IFMT == S_IFBLK
    if access & ACCESS_READ and not granted & WANT_READ:
        return CAUSE_NO_RULE
    if access & ACCESS_WRITE and not granted & (WANT_WRITE | WANT_DEVICE if is_device else WANT_WRITE):
        return CAUSE_NO_RULE
    return CAUSE_NONE


cdef class PathRules:
    """A PathTable made from lists: `denied`, real paths, what is allowed all the same (enum Want), and the numbers of
    their rules; `identities`, inode, device (major << 32 | minor) and the same two, sorted; `grants`, pairs of a real
    path and the sum of its enum Want; `shown`, names of these."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self._alive = []

    def __init__(self, denied, *, identities, grants, shown, bint narrow, bint hides):
        cdef Py_ssize_t i
        self.c.denied = <PathPrefix *>calloc(len(denied) + 1, sizeof(PathPrefix))
        self.c.identities = <PathIdentity *>calloc(len(identities) + 1, sizeof(PathIdentity))
        self.c.grants = <PathPrefix *>calloc(len(grants) + 1, sizeof(PathPrefix))
        self.c.shown = <PathPrefix *>calloc(len(shown) + 1, sizeof(PathPrefix))
        if self.c.denied == NULL or self.c.identities == NULL or self.c.grants == NULL or self.c.shown == NULL:
            raise MemoryError
        for i, (path, access, rule) in enumerate(denied):
            self.fill(&self.c.denied[i], path)
            self.c.denied[i].access = access
            self.c.denied[i].rule = rule
        for i, (inode, device, access, rule) in enumerate(identities):
            self.c.identities[i].access = access
            self.c.identities[i].device = <uint64_t>device
            self.c.identities[i].inode = <uint64_t>inode
            self.c.identities[i].rule = rule
        for i, (path, access) in enumerate(grants):
            self.fill(&self.c.grants[i], path)
            self.c.grants[i].access = access
        for i, path in enumerate(shown):
            self.fill(&self.c.shown[i], path)
        self.c.shown_count = <int>len(shown)
        self.c.denied_count = <int>len(denied)
        self.c.identity_count = <int>len(identities)
        self.c.grant_count = <int>len(grants)
        self.c.narrow = narrow
        self.c.hides = hides

    def resembles(self, bytes path) -> bool:
        """Whether a path might be denied, were it written otherwise; for tests."""
        return resembles_denied(&self.c, path) != 0

    cdef fill(self, PathPrefix *out, bytes path):
        path = path.rstrip(b"/")
        self._alive.append(path)
        out.path = <const char *>path
        out.length = len(path)

    def __dealloc__(self):
        free(self.c.denied)
        free(self.c.identities)
        free(self.c.grants)
        free(self.c.shown)
