"""A plan in C: built once, shared by all runs of a sandbox, never changed. It owns what native code reads."""

from libc.stdint cimport uint16_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from sandlock._commands cimport decide_exec
from sandlock._destinations cimport Endpoint, MAX_SOCKET_PATH, decide, set_destination
from sandlock._linux cimport Instruction, SYS_close, SYS_getpid, SYS_gettid, raw_syscall
from sandlock._memory cimport Address
from sandlock._pins cimport MAX_HOSTS, Pins, add_pin
from sandlock._programs cimport Resolved, Viewer, resolve_program
from sandlock._run cimport (
    MAX_RLIMITS, MAX_RULES, MAX_SYSCALLS, PathRule, PortRule, RULE_ADD_RESTART, RULE_CONTINUE, RULE_COUNT_FORK,
    RULE_ERRNO, RULE_HANDLE, RULE_HOLD, RULE_INJECT, RULE_KILL_TASK, RULE_KILL_TREE, RULE_LISTEN, RULE_OBSERVE_EXEC,
    ExecRule, NetRule, Run, RULE_OBSERVE_START, RULE_PATH, RULE_TELL_NAMES,
    RULE_TELL_RESOURCES, RULE_VALUE,
    RULE_VET_EXEC, RULE_VET_FORK, RULE_VET_OPEN, RULE_VET_SOCKET, RULE_VET_WRITE, RuleKind, Ruleset,
)
from sandlock._slots cimport Slot
from sandlock._tasks cimport Ledger
from sandlock._virtual_root cimport VirtualMounts

cdef extern from "<errno.h>" nogil:
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

DECISIONS = ("deny", "allow", "ask")
"""enum Decision, by number."""
ACTIONS = ("deny", "ask", "allow")
"""enum RuleAction, by number."""

RULE_KINDS = {
    "errno": RULE_ERRNO,
    "value": RULE_VALUE,
    "continue": RULE_CONTINUE,
    "inject": RULE_INJECT,
    "hold": RULE_HOLD,
    "kill_task": RULE_KILL_TASK,
    "kill_tree": RULE_KILL_TREE,
    "count_fork": RULE_COUNT_FORK,
    "listen": RULE_LISTEN,
    "observe_exec": RULE_OBSERVE_EXEC,
    "observe_start": RULE_OBSERVE_START,
    "add_restart": RULE_ADD_RESTART,
    "vet_exec": RULE_VET_EXEC,
    "vet_socket": RULE_VET_SOCKET,
    "vet_fork": RULE_VET_FORK,
    "handle": RULE_HANDLE,
    "vet_write": RULE_VET_WRITE,
    "vet_open": RULE_VET_OPEN,
    "tell_names": RULE_TELL_NAMES,
    "tell_resources": RULE_TELL_RESOURCES,
    "path": RULE_PATH,
}


cdef const char **pointers(list strings) except NULL:
    """A NULL-terminated array of the strings, which must stay alive."""
    cdef Py_ssize_t i
    cdef const char **array = <const char **>calloc(len(strings) + 1, sizeof(char *))
    if array == NULL:
        raise MemoryError
    for i in range(len(strings)):
        array[i] = <const char *><bytes>strings[i]
    return array


cdef class NetRuleSet:
    """Network rules in C, never changed. `hosts`: all names, by number from 1; `base`: the number of the first rule."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self._alive = []

    def __init__(self, rules, hosts, int base):
        cdef NetRule *out
        cdef Py_ssize_t i
        cdef const char *address
        self.c.base = base
        self.c.rules = <NetRule *>calloc(len(rules) + 1, sizeof(NetRule))
        if self.c.rules == NULL:
            raise MemoryError
        self.c.count = <int>len(rules)
        for i, rule in enumerate(rules):
            out = &self.c.rules[i]
            out.allow = rule.allow
            out.binds = rule.binds
            out.protocols = rule.protocols
            address = rule.address
            out.width = <int>len(rule.address)
            if out.width not in (0, 4, 16) or not 0 <= rule.prefix <= out.width * 8:
                raise ValueError(f"no address: {rule!r}")
            memcpy(out.bytes, address, out.width)
            out.prefix = rule.prefix
            out.first_port = rule.first
            out.last_port = rule.last
            out.abstract = rule.abstract
            if rule.host:
                out.host = 1 + hosts.index(rule.host)
                if out.host > MAX_HOSTS:
                    raise ValueError("too many names")
            if rule.path is not None:
                self._alive.append(rule.path)
                out.path = <const char *><bytes>rule.path
                out.path_length = <int>len(rule.path)

    def check(
        self, int operation, int protocol, bytes address, uint16_t port, bytes path, bint abstract, pinned, bint asks
    ) -> tuple:
        """(decision, number of the rule or -1) for a call that leads there, as the core decides it. `address`: 4 or 16
        bytes, or none for one that is not known; `pinned`: the numbers of the names that have led to it."""
        cdef Endpoint endpoint
        cdef Address where
        cdef Pins *pins
        cdef int rule = -1, result, host
        if len(address) not in (0, 4, 16) or len(path) > MAX_SOCKET_PATH:
            raise ValueError("no address, or too long a path")
        memset(&endpoint, 0, sizeof(endpoint))
        memset(&where, 0, sizeof(where))
        where.port = port
        where.width = <int>len(address)
        memcpy(where.bytes, <const char *>address, len(address))
        endpoint.operation = operation
        endpoint.protocol = protocol
        set_destination(&endpoint, &where)
        endpoint.abstract = abstract
        endpoint.path_length = <int>len(path)
        memcpy(endpoint.path, <const char *>path, len(path))
        pins = <Pins *>calloc(1, sizeof(Pins))
        if pins == NULL:
            raise MemoryError
        try:
            for host in pinned:
                if not 0 < host <= MAX_HOSTS:
                    raise ValueError("no such name")
                add_pin(pins, host, endpoint.bytes, endpoint.width)
            result = decide(&self.c, pins, asks, &endpoint, &rule)
        finally:
            free(pins)
        return DECISIONS[result], rule

    def __dealloc__(self):
        free(self.c.rules)


cdef class Program:
    """A plan in C. Holds the BPF program, both rulesets, the rule table and what the launch applies."""

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self.c.umask = -1
        self.c.personality = <unsigned long>-1
        self._alive = []

    def __init__(self, plan, *, bint wait_killable):
        cdef bytes code = plan.filter
        launch = plan.launch
        self.c.filter.len = <unsigned short>(len(code) // 8)
        self.c.filter.filter = <Instruction *>self._keep(code)
        self.c.needs_listener = plan.needs_listener
        self.c.wait_killable = wait_killable
        self._set_ruleset(&self.c.supervisor, plan.supervisor_ruleset)
        self._set_ruleset(&self.c.guest, plan.guest_ruleset)
        self.c.signal_scope = plan.supervisor_ruleset is not None and plan.supervisor_ruleset.scoped & 2 != 0
        self._set_rules(plan.rules)
        self._net_rules = NetRuleSet(plan.net_rules, plan.hosts, 0)
        self.c.net_rules = self._net_rules.c
        self._set_exec_rules(plan.exec_rules, plan.exec_otherwise)
        self.c.asks_network = plan.asks
        self.c.looks_up = plan.looks_up
        self._set_hostname(plan.hostname)
        self.c.private_proc = plan.private_proc
        self.c.record_paths = plan.records_paths
        self._set_launch(launch)

    cdef _set_ruleset(self, Ruleset *out, ruleset):
        cdef Py_ssize_t i
        if ruleset is None:
            return
        out.present = 1
        out.attr.handled_access_fs = ruleset.handled_fs
        out.attr.handled_access_net = ruleset.handled_net
        out.attr.scoped = ruleset.scoped
        out.path_count = <int>len(ruleset.paths)
        out.port_count = <int>len(ruleset.ports)
        out.paths = <PathRule *>calloc(len(ruleset.paths) + 1, sizeof(PathRule))
        out.ports = <PortRule *>calloc(len(ruleset.ports) + 1, sizeof(PortRule))
        if out.paths == NULL or out.ports == NULL:
            raise MemoryError
        for i, rule in enumerate(ruleset.paths):
            path = rule.path
            if rule.root is not None:
                path = rule.path[len(rule.root):].strip(b"/") or b"."
                out.paths[i].root = self._keep(rule.root or b"/")
            out.paths[i].path = self._keep(path)
            out.paths[i].access = rule.access
            out.paths[i].optional = rule.optional
        for i, (port, access) in enumerate(ruleset.ports):
            out.ports[i].port = port
            out.ports[i].access = access

    cdef _set_rules(self, rules):
        cdef int used = 1     # rule 0 denies
        for rule in rules:
            if not 0 <= rule.nr < MAX_SYSCALLS or used >= MAX_RULES:
                raise ValueError(f"trap rule out of range: {rule!r}")
            self.c.rules[used].kind = <RuleKind><int>RULE_KINDS[rule.rule]
            self.c.rules[used].value = rule.value
            self.c.rule_of[rule.nr] = <uint8_t>used
            used += 1
            if rule.rule == "observe_start":
                self.c.record_execs = 1
            if rule.rule == "vet_exec":
                self.c.vets = self.c.vets_exec = 1
            if rule.rule in ("vet_fork", "vet_open", "vet_write"):
                self.c.vets = self.c.vets_exec = 1
            if rule.rule == "path":
                self.c.vets = self.c.mediates = 1
            if rule.rule == "handle":
                self.c.vets = 1
            if rule.rule == "vet_socket":
                self.c.vets = self.c.vets_network = 1

    cdef const char *_keep(self, bytes text) except NULL:
        self._alive.append(text)
        return <const char *>text

    cdef _set_exec_rules(self, rules, otherwise):
        cdef ExecRule *out
        cdef Py_ssize_t i
        self.c.exec_otherwise = DECISIONS.index(otherwise)
        self.c.exec_rules = <ExecRule *>calloc(len(rules) + 1, sizeof(ExecRule))
        if self.c.exec_rules == NULL:
            raise MemoryError
        self.c.exec_rule_count = <int>len(rules)
        for i, rule in enumerate(rules):
            out = &self.c.exec_rules[i]
            out.action = ACTIONS.index(rule.action)
            out.by_path = b"/" in rule.program
            if rule.program != b"*":
                out.program = self._keep(rule.program)
            if rule.exe is not None:
                out.exe = self._keep(rule.exe)
            out.further = rule.further
            out.word_count = <int>len(rule.words)
            out.words = self._keep(b"".join([word + b"\0" for word in rule.words]))

    def check_exec(self, bytes path, list argv, VirtualMounts root=None, *, bint assume=False) -> tuple:
        """(decision, number of the rule or -1, exe) for executing the file at `path` with these words, as this process
        would. `assume`: a path without links that is not there any more was a program without interpreter. Raises
        OSError for what cannot be executed."""
        cdef Slot slot
        cdef Resolved found
        cdef Viewer viewer
        cdef Run run
        cdef Ledger ledger
        cdef int rule = -1, result
        cdef bytes words = b"".join([word + b"\0" for word in argv])
        cdef bytes facts
        memset(&slot, 0, sizeof(slot))
        found.prefix.wants_loader = 0
        viewer.tid = <int>raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0)
        viewer.tgid = <int>raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0)
        memset(&run, 0, sizeof(run))
        memset(&ledger, 0, sizeof(ledger))
        viewer.root = run.virtual_root = NULL if root is None else &root.c
        viewer.run = &run
        viewer.ledger = &ledger
        viewer.hiding = NULL
        result = resolve_program(&viewer, AT_FDCWD, path, 0, &found)
        if result == -ENOENT and assume:
            memset(&found, 0, sizeof(found))
            exe = path
        elif result < 0:
            raise OSError(-result, "look at the program")
        else:
            raw_syscall(SYS_close, found.opened, 0, 0, 0, 0, 0)
            exe = found.exe[:found.exe_length]
        facts = path + b"\0" + exe + b"\0" + found.prefix.words[:found.prefix.length] + words
        facts += found.prefix.files[:found.prefix.files_length]
        slot.path_length = <unsigned int>(len(path) + 1)
        slot.exe_length = <unsigned int>(len(exe) + 1)
        slot.prefix_length = <unsigned int>found.prefix.length
        slot.prefix_count = found.prefix.count
        slot.levels = found.prefix.levels
        slot.rests = found.prefix.rests
        slot.argv_length = <unsigned int>len(words)
        slot.argv_count = <int>len(argv)
        slot.data = <char *>facts
        result = decide_exec(&self.c, &slot, &rule)
        return DECISIONS[result], rule, exe

    cdef _set_hostname(self, bytes name):
        if len(name) >= <Py_ssize_t>sizeof(self.c.hostname):
            raise ValueError("too long a name of the machine")
        memcpy(self.c.hostname, <const char *>name, len(name))

    cdef _set_launch(self, launch):
        cdef int cpu
        self.c.keep_capabilities = launch.keep_capabilities
        self.c.umask = -1 if launch.umask is None else launch.umask
        if launch.personality is not None:
            self.c.personality = launch.personality
        self.c.no_huge_pages = launch.no_huge_pages
        self.c.map_ids = launch.uid is not None or launch.gid is not None
        self.c.shown_user = -1 if launch.uid is None else launch.uid
        self.c.shown_group = -1 if launch.gid is None else launch.gid
        self.c.max_processes = launch.max_processes or 0
        for cpu in launch.cpus:
            if not 0 <= cpu < 1024:
                raise ValueError(f"no such CPU: {cpu}")
            self.c.cpus[cpu // 8] |= <uint8_t>(1 << (cpu % 8))
            self.c.cpu_bytes = sizeof(self.c.cpus)
        if len(launch.rlimits) > MAX_RLIMITS:
            raise ValueError("too many resource limits")
        for resource, soft, hard in launch.rlimits:
            self.c.rlimits[self.c.rlimit_count].resource = resource
            self.c.rlimits[self.c.rlimit_count].soft = soft
            self.c.rlimits[self.c.rlimit_count].hard = hard
            self.c.rlimit_count += 1

    def __dealloc__(self):
        free(self.c.supervisor.paths)
        free(self.c.supervisor.ports)
        free(self.c.guest.paths)
        free(self.c.guest.ports)
        free(self.c.exec_rules)
