"""What the policy's exec rules say of a program and its words. Values only; no system call is made here.

A rule that denies or asks matches by any name that the program goes by: the path that was used, the file it leads to,
argv[0], and of a script its interpreters, by what its #! line says and by the file that this leads to. A rule that
allows matches the file alone, which the plan has found.
"""

from libc.string cimport strcmp, strlen

from sandlock._destinations cimport DECIDED_ALLOW, DECIDED_ASK, DECIDED_DENY
from sandlock._programs cimport last_part
from sandlock._run cimport ExecRule, ON_EXEC_ALLOW, ON_EXEC_ASK, ON_EXEC_DENY
from sandlock._slots cimport argv_of, exe_of


cdef int is_called(const ExecRule *rule, const char *name) noexcept nogil:
    """Whether a path or name is what the rule says: by its last part, if the rule has no path."""
    if rule.program == NULL:
        return 1
    return strcmp(rule.program, name if rule.by_path else last_part(name)) == 0


cdef int follows(const ExecRule *rule, const char *words, int count, const char *more, int more_count) noexcept nogil:
    """Whether these words, and then those, are what the rule wants after the program."""
    cdef const char *wanted = rule.words
    cdef int i
    if count + more_count < rule.word_count or (not rule.further and count + more_count != rule.word_count):
        return 0
    for i in range(rule.word_count):
        if i == count:
            words = more
        if strcmp(wanted, words) != 0:
            return 0
        wanted += strlen(wanted) + 1
        words += strlen(words) + 1
    return 1


cdef int runs_on(const ExecRule *rule, const Slot *slot, const char *rest, int count) noexcept nogil:
    """Whether one of the script's interpreters is what the rule says, with the words that it gets: what comes behind it
    on #! lines, then those `rest`."""
    cdef const char *argv = argv_of(slot)
    cdef const char *file = argv + slot.argv_length
    cdef const char *word
    cdef int level, _i
    for level in range(slot.levels):
        word = argv - slot.prefix_length
        for _i in range(slot.prefix_count - slot.rests[level]):
            word += strlen(word) + 1
        if is_called(rule, word) or is_called(rule, file) or (rule.exe != NULL and strcmp(rule.exe, file) == 0):
            if follows(rule, word + strlen(word) + 1, slot.rests[level] - 1, rest, count):
                return 1
        file += strlen(file) + 1
    return 0


cdef int matches(const ExecRule *rule, const Slot *slot) noexcept nogil:
    cdef const char *exe = exe_of(slot)
    cdef const char *argv = argv_of(slot)
    cdef const char *rest = argv + strlen(argv) + 1
    cdef int known = rule.exe != NULL and strcmp(rule.exe, exe) == 0
    cdef int count = slot.argv_count - 1
    if rule.action == ON_EXEC_ALLOW:
        return (rule.program == NULL or known) and follows(rule, rest, count, NULL, 0)
    if known or is_called(rule, slot.data) or is_called(rule, exe) or is_called(rule, argv):
        if follows(rule, rest, count, NULL, 0):
            return 1
    return runs_on(rule, slot, rest, count)


cdef int decide_exec(const Program *program, const Slot *slot, int *rule) noexcept nogil:
    """Returns an enum Decision, and the number of the rule that decided, -1 for none. Rules stand in the order in which
    they win: denials first."""
    cdef int i
    for i in range(program.exec_rule_count):
        if matches(&program.exec_rules[i], slot):
            rule[0] = i
            if program.exec_rules[i].action == ON_EXEC_DENY:
                return DECIDED_DENY
            return DECIDED_ASK if program.exec_rules[i].action == ON_EXEC_ASK else DECIDED_ALLOW
    rule[0] = -1
    return program.exec_otherwise
