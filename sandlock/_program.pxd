from sandlock._run cimport NetRules, Ruleset
from sandlock._run cimport Program as ProgramStruct

cdef class NetRuleSet:
    cdef NetRules c
    cdef list _alive      # the bytes objects that C points into

cdef class Program:
    cdef ProgramStruct c
    cdef NetRuleSet _net_rules
    cdef list _alive      # the bytes objects that C points into
    cdef _set_ruleset(self, Ruleset *out, ruleset)
    cdef _set_rules(self, rules)
    cdef const char *_keep(self, bytes text) except NULL
    cdef _set_exec_rules(self, rules, otherwise)
    cdef _set_launch(self, launch)
    cdef _set_hostname(self, bytes name)

cdef const char **pointers(list strings) except NULL
