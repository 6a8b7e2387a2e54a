# What some files of a run show instead of what they hold, and what of /proc and /sys is there at all. Never changed.

from libc.stdint cimport uint64_t

from sandlock._paths cimport Place
from sandlock._procfs cimport Tree
from sandlock._run cimport VirtualRoot

cdef enum:
    MAX_VIEW_FILES = 96

cdef struct View:
    const char *path         # real; /proc/self is the directory of any process of the tree
    size_t length
    int descriptor           # what it shows; -1: the time since the boot, as it is when somebody looks
    uint64_t device          # who the real file is, where it may have other names; 0 where it may not
    uint64_t inode

cdef struct ViewPlace:
    const char *path
    size_t length
    int shown

cdef struct ViewTable:
    int view_count
    View *views
    int place_count
    ViewPlace *places        # the longest one that a path is at or below decides; without one it is there
    int descriptor_count     # each once
    int descriptors[MAX_VIEW_FILES]

cdef int keep_with_views(
    const ViewTable *table, const VirtualRoot *root, const int *descriptors, int count
) noexcept nogil
cdef int resembles_view(const ViewTable *table, const char *path) noexcept nogil
cdef int is_there(const ViewTable *table, const Tree *tree, const char *path) noexcept nogil
cdef int is_all_there(const ViewTable *table, const char *path) noexcept nogil
cdef int is_view(const ViewTable *table, const Place *place, const char *path) noexcept nogil
cdef int show_view(const ViewTable *table, Place *place, const char *path, int reads) noexcept nogil

cdef class ViewSet:
    cdef ViewTable c
    cdef list _alive
    cdef const char *keep(self, bytes text) except NULL
