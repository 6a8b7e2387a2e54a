from sandlock._run cimport Run

cdef int enter_domain(Run *run) noexcept nogil
cdef int clone_warden(Run *run) noexcept nogil
cdef void send_failure(Run *run) noexcept nogil
