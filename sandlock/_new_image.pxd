from sandlock._loaders cimport MAX_LOADER
from sandlock._programs cimport Viewer
from sandlock._redirect cimport Borrowed
from sandlock._slots cimport Slot, Table

# What an exec in a virtual root runs, open: what was judged.
cdef struct Image:
    long program             # the program, or a script's interpreter
    long loader              # what the kernel loads for it, -1: itself
    char loader_name[MAX_LOADER]

cdef long open_running(const Viewer *viewer, const Slot *slot) noexcept nogil
cdef int open_image(const Table *table, const Slot *slot, Image *image) noexcept nogil
cdef int judge_image(const Table *table, const Slot *slot, const Image *image, int *rule) noexcept nogil
cdef void close_image(Image *image) noexcept nogil
cdef int dress(Table *table, const Slot *slot, Image *image, Borrowed *task) noexcept nogil
