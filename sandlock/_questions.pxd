# The questions in the table of slots as Python sees them.

from libc.stdint cimport uint32_t, uint64_t

from sandlock._actions cimport Action
from sandlock._slots cimport Slot, Table

cdef tuple take_questions(Table *table)
cdef Slot *asked_slot(Table *table, uint64_t question) except NULL
cdef bytes remember(Table *table, uint64_t question, int words)
cdef tuple read_environment(Table *table, uint64_t question)
cdef bint settle_action(Table *table, uint64_t question, const Action *action, uint32_t flags) except -1
cdef bint settle_question(Table *table, uint64_t question, int act, int error) except -1
cdef void stop_listening(Table *table) noexcept
cdef list take_denials(Table *table, bint audited)
cdef int expected_calls(const Table *table) noexcept
