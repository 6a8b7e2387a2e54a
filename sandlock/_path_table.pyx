"""What a run's policy says of paths, and the questions about it: is this denied, is it covered by a grant?

Rules: about real paths, without links, and about files by device and inode. Nothing here looks at the file system.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strlen, strncmp

from sandlock._paths cimport Place


cdef int is_beneath(const char *path, const PathPrefix *prefix) noexcept nogil:
    """Whether a path is this one, or below it."""
    if strncmp(path, prefix.path, prefix.length) != 0:
        return 0
    return path[prefix.length] == 0 or path[prefix.length] == 47


cdef int denied_by(const PathTable *table, const Place *place, const char *path) noexcept nogil:
    """The number of the rule by which nobody may use an object, or what would be made: for what it is, or for where it
    is. -1 for none."""
    cdef int i
    if table == NULL:
        return -1
    for i in range(table.identity_count if place.descriptor >= 0 else 0):
        if table.identities[i].inode == place.inode and table.identities[i].device == place.device:
            return table.identities[i].rule
    for i in range(table.denied_count):
        if is_beneath(path, &table.denied[i]):
            return table.denied[i].rule
    return -1


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


cdef int is_covered(const PathTable *table, const char *path, int wanted) noexcept nogil:
    """Whether grants allow all of `wanted` for this path."""
    cdef int granted = 0, i
    for i in range(table.grant_count):
        if is_beneath(path, &table.grants[i]):
            granted |= table.grants[i].access
    return wanted & ~granted == 0


cdef class PathRules:
    """A PathTable made from lists: `denied`, pairs of a real path and the number of its rule; `identities`, device
    (major << 32 | minor), inode and rule; `grants`, pairs of a real path and the sum of its enum Want."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self._alive = []

    def __init__(self, denied, *, identities, grants, bint narrow, bint hides):
        cdef Py_ssize_t i
        self.c.denied = <PathPrefix *>calloc(len(denied) + 1, sizeof(PathPrefix))
        self.c.identities = <PathIdentity *>calloc(len(identities) + 1, sizeof(PathIdentity))
        self.c.grants = <PathPrefix *>calloc(len(grants) + 1, sizeof(PathPrefix))
        if self.c.denied == NULL or self.c.identities == NULL or self.c.grants == NULL:
            raise MemoryError
        for i, (path, rule) in enumerate(denied):
            self.fill(&self.c.denied[i], path)
            self.c.denied[i].rule = rule
        for i, (device, inode, rule) in enumerate(identities):
            self.c.identities[i].device = <uint64_t>device
            self.c.identities[i].inode = <uint64_t>inode
            self.c.identities[i].rule = rule
        for i, (path, access) in enumerate(grants):
            self.fill(&self.c.grants[i], path)
            self.c.grants[i].access = access
        self.c.denied_count = <int>len(denied)
        self.c.identity_count = <int>len(identities)
        self.c.grant_count = <int>len(grants)
        self.c.narrow = narrow
        self.c.hides = hides

    cdef fill(self, PathPrefix *out, bytes path):
        path = path.rstrip(b"/")
        self._alive.append(path)
        out.path = <const char *>path
        out.length = len(path)

    def __dealloc__(self):
        free(self.c.denied)
        free(self.c.identities)
        free(self.c.grants)
