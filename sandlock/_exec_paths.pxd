from posix.types cimport pid_t

from sandlock._path_table cimport PathTable
from sandlock._programs cimport FileIdentity, Prefix, Resolved
from sandlock._slots cimport Slot

cdef int judges_programs(const PathTable *paths) noexcept nogil
cdef int judge_program(const PathTable *paths, const Slot *slot, int *rule) noexcept nogil
cdef int miss_program(const PathTable *paths, Resolved *found, int result) noexcept nogil
cdef int judge_loader(const PathTable *paths, const Prefix *prefix, int *rule) noexcept nogil
cdef int judge_file(const PathTable *paths, const FileIdentity *file, const char *path, int *rule) noexcept nogil
cdef int judge_loaded(const PathTable *paths, pid_t pid, int *rule) noexcept nogil
