# What the policy's exec rules say of a program and its words.

from sandlock._run cimport Program
from sandlock._slots cimport Slot

cdef int decide_exec(const Program *program, const Slot *slot, int *rule) noexcept nogil
