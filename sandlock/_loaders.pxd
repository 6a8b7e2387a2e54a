# The loader (PT_INTERP) of a program: with a virtual root the kernel is not asked to find it.

cdef enum:
    MAX_LOADER = 512         # bytes of its path, more than anybody has

cdef int read_loader(long program, char *name) noexcept nogil
cdef int takes_name(long loader) noexcept nogil
