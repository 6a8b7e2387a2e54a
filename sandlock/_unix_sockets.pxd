# Unix sockets that have a name in the file system.

from posix.types cimport pid_t

from sandlock._path_table cimport PathTable
from sandlock._run cimport Run
from sandlock._sockets cimport SocketCall

cdef int denied_socket(const Run *run, const PathTable *paths, const SocketCall *call) noexcept nogil
cdef int is_hidden_socket(const PathTable *paths, const SocketCall *call) noexcept nogil
cdef int find_socket(const Run *run, pid_t tid, pid_t tgid, SocketCall *call) noexcept nogil
cdef long connect_path(const Run *run, pid_t tid, pid_t tgid, long descriptor, const SocketCall *call) noexcept nogil
cdef long pin(const Run *run, pid_t tid, pid_t tgid, const SocketCall *call, SocketCall *pinned) noexcept nogil
cdef long bind_path(const Run *run, pid_t tid, pid_t tgid, long descriptor, const SocketCall *call) noexcept nogil
