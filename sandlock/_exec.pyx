"""The fast lane's part of an exec: read what it asks for, find the file, and put it where it is decided.

Every errno that the exec would end with anyway is answered here, without a question: execvp(3) tries each entry of a
PATH. What is put into a slot was read once; every later step looks at that copy.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from posix.types cimport pid_t

from sandlock._approvals cimport approves_exec
from sandlock._commands cimport decide_exec
from sandlock._destinations cimport DECIDED_ALLOW, DECIDED_ASK, OPERATION_EXEC
from sandlock._exec_paths cimport judge_loader, judge_program, judges_programs, miss_program
from sandlock._linux cimport SYS_close, SYS_execveat, raw_syscall
from sandlock._loaders cimport MAX_LOADER, read_loader, takes_name
from sandlock._memory cimport read_string, read_strings
from sandlock._new_image cimport open_running
from sandlock._path_table cimport PathTable, hides
from sandlock._programs cimport (
    FileIdentity, MAX_PATH, Resolved, Viewer, identify, is_executable, may_write, open_named, open_program, real_path,
    resolve_program, same_file,
)
from sandlock._slots cimport (
    ACT_ALLOW, CAUSE_APPROVED, CAUSE_CHANGED, CAUSE_FULL, CAUSE_NONE, CAUSE_NO_RULE, CAUSE_RULE, CAUSE_UNREADABLE,
    MAX_ALL_FACTS, MAX_FACTS, READY, Slot, argv_of, ask, exe_of, free_done, give_back, load_int, load_paths,
    note_denial, note_slot, offer, scratch_of, still_waits, take_slot, viewer_of,
)
from sandlock._tasks cimport format_proc_path, now_ns, thread_group_of
from sandlock._workers cimport start_worker
from sandlock._writers cimport count_writers, start_watch

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EMFILE
    const int ENOENT
    const int ENOMEM
    const int ENOSYS
    const int EPERM
    const int ESRCH
    const int ESTALE

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    """
    const long SYS_readlinkat

cdef enum:
    MAX_WORDS = 0x7FFFFFFF   # MAX_ARG_STRINGS of linux/binfmts.h; the bytes are what limits them


cdef void read_call(const Notification *notification, Slot *slot) noexcept nogil:
    """The arguments, from registers: these cannot change while the caller waits."""
    cdef const unsigned long long *args = <const unsigned long long *>notification.data.args
    slot.operation = OPERATION_EXEC
    slot.rule = -1
    slot.environment_count = -1
    slot.id = notification.id
    slot.tid = <pid_t>notification.pid
    slot.number = notification.data.nr
    if notification.data.nr == SYS_execveat:
        slot.directory = <int>args[0]
        slot.path_address = args[1]
        slot.argv_address = args[2]
        slot.envp_address = args[3]
        slot.flags = <int>args[4]
    else:
        slot.directory = AT_FDCWD
        slot.path_address = args[0]
        slot.argv_address = args[1]
        slot.envp_address = args[2]
        slot.flags = 0


cdef char *put(char *at, const char *bytes, size_t length) noexcept nogil:
    memcpy(at, bytes, length)
    return at + length


cdef struct Facts:
    Viewer viewer
    Resolved found
    char path[MAX_PATH]
    char cwd[MAX_PATH]
    long path_length
    long cwd_length
    long argv_length


cdef long read_argv(Table *table, Slot *slot) noexcept nogil:
    """Reads all words into the scratch memory. Returns their bytes, or -errno."""
    cdef long length
    if scratch_of(table) == NULL:
        return -ENOMEM
    length = read_strings(
        slot.tid, slot.argv_address, table.scratch, MAX_FACTS - 65536, MAX_WORDS, &slot.argv_count
    )
    slot.argv_empty = length == 0
    if length == 0:
        table.scratch[0] = 0
        length = slot.argv_count = 1
    return length


cdef long read_cwd(pid_t tid, char *into) noexcept nogil:
    cdef char link[64]
    cdef long length
    format_proc_path(link, tid, b"cwd")
    length = raw_syscall(SYS_readlinkat, AT_FDCWD, <long>link, <long>into, MAX_PATH - 1, 0, 0)
    if length < 0:
        length = 0
    into[length] = 0
    return length


cdef int keep_facts(Table *table, Slot *slot, const Facts *facts) noexcept nogil:
    """Copies what was read into memory of the slot's own. Returns 0 or -errno."""
    cdef char *at
    slot.path_length = <uint32_t>facts.path_length + 1
    slot.exe_length = <uint32_t>facts.found.exe_length + 1
    slot.cwd_length = <uint32_t>facts.cwd_length + 1
    slot.prefix_length = <uint32_t>facts.found.prefix.length
    slot.prefix_count = facts.found.prefix.count
    slot.levels = facts.found.prefix.levels
    memcpy(slot.rests, facts.found.prefix.rests, sizeof(slot.rests))
    slot.files_length = <uint32_t>facts.found.prefix.files_length
    slot.argv_length = <uint32_t>facts.argv_length
    slot.size = slot.path_length + slot.exe_length + slot.cwd_length + slot.prefix_length + slot.argv_length
    slot.size += slot.files_length
    if table.held + slot.size > MAX_ALL_FACTS:
        free_done(table)
    if table.held + slot.size > MAX_ALL_FACTS:
        note_denial(table, CAUSE_FULL, -1, EAGAIN, slot.number, slot.tgid, facts.found.exe, slot.exe_length)
        slot.size = 0
        return -EAGAIN
    slot.data = <char *>malloc(slot.size)
    if slot.data == NULL:
        slot.size = 0
        return -ENOMEM
    table.held += slot.size
    at = put(slot.data, facts.path, slot.path_length)
    at = put(at, facts.found.exe, slot.exe_length)
    at = put(at, facts.cwd, slot.cwd_length)
    at = put(at, facts.found.prefix.words, slot.prefix_length)
    at = put(at, table.scratch, slot.argv_length)
    put(at, facts.found.prefix.files, slot.files_length)
    return 0


cdef int look_at_loader(Table *table, const Viewer *viewer, long program, Slot *slot) noexcept nogil:
    """In a virtual root it is we who find a program's loader, as the kernel would. Returns 0, or the -errno of the
    exec."""
    cdef char name[MAX_LOADER]
    cdef long opened
    cdef int result = read_loader(program, name)
    if result <= 0:
        return result
    opened = open_program(viewer, AT_FDCWD, name, 0)
    if opened < 0:
        return <int>opened
    result = is_executable(opened)
    if result == 0:
        result = identify(opened, &slot.loader)
    if result >= 0 and not same_file(&slot.loader, &table.known_loader):
        table.known_loader = slot.loader
        table.known_takes_name = takes_name(opened)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    slot.has_loader = 1
    slot.takes_name = table.known_takes_name
    return 0 if result >= 0 else result


cdef int read_facts(Table *table, Slot *slot) noexcept nogil:
    """Reads path and argv, finds the file, copies all into the slot, whose cause says whether it is denied. Returns 0,
    or the -errno for the caller."""
    cdef Facts facts
    cdef const PathTable *paths = load_paths(&table.paths)
    cdef int result
    facts.path_length = read_string(slot.tid, slot.path_address, facts.path, MAX_PATH)
    if facts.path_length < 0:
        return <int>facts.path_length
    slot.tgid = thread_group_of(slot.tid)
    if slot.tgid == 0:
        return -ESRCH
    viewer_of(table, slot, &facts.viewer)
    # In a virtual root it is judged when it is opened to be executed (_new_image).
    facts.found.prefix.wants_loader = judges_programs(paths) and facts.viewer.root == NULL
    result = resolve_program(&facts.viewer, slot.directory, facts.path, slot.flags, &facts.found)
    if hides(paths) and facts.viewer.root == NULL:
        result = miss_program(paths, &facts.found, result)
    if result < 0:
        return result
    slot.named = facts.found.named
    slot.loaded = facts.found.runs
    slot.has_loader = 0
    if facts.viewer.root != NULL:
        result = look_at_loader(table, &facts.viewer, facts.found.opened, slot)
    raw_syscall(SYS_close, facts.found.opened, 0, 0, 0, 0, 0)
    if result < 0:
        return result
    facts.argv_length = read_argv(table, slot)
    if facts.argv_length < 0:
        return <int>facts.argv_length
    facts.cwd_length = facts.cwd[0] = 0
    if load_int(&table.listens) or table.journal != NULL:      # who else would want to know it
        facts.cwd_length = read_cwd(slot.tid, facts.cwd)
    result = keep_facts(table, slot, &facts)
    slot.cause = CAUSE_NONE
    if result == 0 and facts.found.prefix.wants_loader:
        slot.cause = judge_program(paths, slot, &slot.rule)
        if slot.cause == CAUSE_NONE:
            slot.cause = judge_loader(paths, &facts.found.prefix, &slot.rule)
    return result


cdef int watch(
    Table *table, Slot *slot, int which, int directory, const char *path, int flags, const FileIdentity *expected
) noexcept nogil:
    """Has a file of the exec watched, if the program could write it. Returns 0, or -errno."""
    cdef char name[MAX_PATH]
    cdef FileIdentity found
    cdef int result = 0
    cdef Viewer viewer
    cdef long opened
    viewer_of(table, slot, &viewer)
    opened = open_named(&viewer, directory, path, flags)
    if opened < 0:
        return <int>opened
    if identify(opened, &found) < 0 or not same_file(&found, expected) or real_path(opened, name) < 0:
        result = -ESTALE
    elif may_write(&table.run.program.guest, name):
        result = start_watch(&table.writers, opened)
        if result == -EMFILE:
            free_done(table)
            result = start_watch(&table.writers, opened)
        if result > 0:
            slot.watches[which] = result
            slot.writers[which] = count_writers(&table.writers, result)
            result = 0
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return result


cdef int watch_loader(Table *table, Slot *slot) noexcept nogil:
    cdef char name[MAX_LOADER]
    cdef Viewer viewer
    cdef long program
    cdef int result
    viewer_of(table, slot, &viewer)
    program = open_running(&viewer, slot)
    if program < 0:
        return <int>program
    result = read_loader(program, name)
    raw_syscall(SYS_close, program, 0, 0, 0, 0, 0)
    return watch(table, slot, 2, AT_FDCWD, name, 0, &slot.loader) if result > 0 else -ESTALE


cdef int watch_files(Table *table, Slot *slot) noexcept nogil:
    """From here on it is seen who writes what an exec names and loads. Returns 0; or the errno of a denial, which is
    logged."""
    cdef const char *interpreter = argv_of(slot) - slot.prefix_length
    cdef int in_root = table.run.virtual_root != NULL
    cdef int result = 0
    if in_root or may_write(&table.run.program.guest, exe_of(slot)):
        result = watch(table, slot, 0, slot.directory, slot.data, slot.flags, &slot.named)
    if result == 0 and slot.prefix_count > 0:
        result = watch(table, slot, 1, AT_FDCWD, interpreter, 0, &slot.loaded)
    if result == 0 and slot.has_loader:
        result = watch_loader(table, slot)
    if result == 0:
        return 0
    if result == -ESTALE or result == -ENOENT:
        note_slot(table, slot, CAUSE_CHANGED, EACCES)
        return EACCES
    note_slot(table, slot, CAUSE_FULL, EAGAIN)
    return EAGAIN


cdef int vet_exec(Table *table, Crew *crew, const Notification *notification) noexcept nogil:
    """Puts an exec where it is decided. Returns 0 when it is there, or the errno to answer with."""
    cdef Slot *slot
    cdef int result, decision
    table.since_ns = now_ns()
    table.tid = <pid_t>notification.pid
    slot = take_slot(table)
    if slot == NULL:
        note_denial(table, CAUSE_FULL, -1, EAGAIN, notification.data.nr, <pid_t>notification.pid, b"", 0)
        return EAGAIN
    read_call(notification, slot)
    result = read_facts(table, slot)
    # Whose memory was read: the caller's, if it still waits.
    if result == 0 and not still_waits(table, slot):
        result = -ESRCH
    if result == 0 and load_int(&table.idle) == 0 and start_worker(crew) < 0:
        note_denial(table, CAUSE_UNREADABLE, -1, EAGAIN, slot.number, slot.tgid, b"", 0)
        result = -EAGAIN
    if result == -EPERM or result == -ENOSYS:      # no file says this: the memory cannot be read here
        note_denial(table, CAUSE_UNREADABLE, -1, EPERM, slot.number, slot.tgid, b"", 0)
    if result < 0:
        give_back(slot)
        return -result
    if slot.cause != CAUSE_NONE:
        note_slot(table, slot, slot.cause, EACCES)
        give_back(slot)
        return EACCES
    decision = decide_exec(table.run.program, slot, &slot.rule)
    slot.cause = CAUSE_RULE if slot.rule >= 0 else CAUSE_NO_RULE
    if decision == DECIDED_ASK and approves_exec(
        &table.approvals, &slot.named, &slot.loaded, argv_of(slot), slot.argv_count
    ):
        decision = DECIDED_ALLOW
        slot.cause = CAUSE_APPROVED
    if decision == DECIDED_ASK:
        result = watch_files(table, slot)
        if result != 0:
            give_back(slot)
            return result
        ask(table, slot)
        return 0
    if decision == DECIDED_ALLOW:
        slot.asked = slot.waited = 0
        slot.act = ACT_ALLOW
        offer(table, slot, READY)
        return 0
    note_slot(table, slot, slot.cause, EACCES)
    give_back(slot)
    return EACCES
