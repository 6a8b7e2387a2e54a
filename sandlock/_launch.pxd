from sandlock._run cimport Run

cdef int clone_warden(Run *run) noexcept nogil
cdef void send_failure(Run *run) noexcept nogil
