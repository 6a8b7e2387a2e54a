from sandlock._run cimport Program, Ruleset, Run

cdef int drop_capabilities(const Program *program) noexcept nogil
cdef int restrict(Run *run, const Ruleset *ruleset, int step_create, int step_rule, int step_restrict) noexcept nogil
cdef int enter_domain(Run *run) noexcept nogil
