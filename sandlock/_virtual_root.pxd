# A root directory that the program alone sees, with what is mounted in it.

from libc.stdint cimport uint64_t

from sandlock._places cimport Place
from sandlock._run cimport VirtualRoot

cdef int mount_at(const VirtualRoot *root, const char *real) noexcept nogil
cdef int is_hidden(const VirtualRoot *root, int mount, const char *real) noexcept nogil
cdef int mounted_on(
    const VirtualRoot *root, int mount, long own_table, long directory, const char *name
) noexcept nogil
cdef int is_top(const VirtualRoot *root, int mount, const char *real) noexcept nogil
cdef long open_mount(const VirtualRoot *root, int mount) noexcept nogil
cdef void enter(const VirtualRoot *root, int mount, Place *place) noexcept nogil
cdef int has_dots(const char *path) noexcept nogil
cdef int leads_to(const VirtualRoot *root, int mount, const char *real, const char *path) noexcept nogil
cdef int holds_mount(const VirtualRoot *root, int mount, const char *real) noexcept nogil
cdef int is_memory(const char *real, unsigned int links) noexcept nogil
cdef long seen_path(const VirtualRoot *root, int mount, const char *real, char *into, size_t size) noexcept nogil
cdef long real_of_seen(const VirtualRoot *root, const char *seen, char *into, size_t size) noexcept nogil
cdef long show_path(const VirtualRoot *root, const char *real, char *into, size_t size) noexcept nogil
cdef int follow_in_root(
    const VirtualRoot *root, long base, int mount, const char *real, const char *path, int following, uint64_t cached,
    Place *place
) noexcept nogil

cdef class VirtualMounts:
    cdef VirtualRoot c
    cdef list _alive
    cdef int opened
    cdef const char *keep(self, bytes text) except NULL
