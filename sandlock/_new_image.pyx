"""The memory of a program that was executed in a virtual root, before its first instruction.

There the kernel has loaded the root's own loader, by descriptor, with the words of the caller. The loader has to be
told which program it is for, so its words get more in front: itself, `--argv0` and a name, the program. Nobody but the
stopped task has this memory, so nobody sees it half done. /proc/PID/cmdline shows the words without these, and comm the
name, as if the kernel had found the loader itself.

Rules: raw system calls only. What the program needs is written or the task is killed; what is for looks only (comm,
cmdline, auxv in /proc) may fail.

What lies where, from the stack pointer on: argc, pointers to the words, NULL, to the variables, NULL, pairs of the
auxiliary vector; some bytes for that; the words, the variables. All up to the first word (of a script: up to the
second, for other words come in the place of the first) is moved down, and behind it is room for a block of ours:
    loader, "--argv0", the program, its name (AT_EXECFN), its path (exe), comm, random bytes and the platform's name
    (moved), numbers for PR_SET_MM_MAP, and the words of #! lines, which thus come right before those of the caller.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen
from posix.types cimport pid_t

from sandlock._exec_paths cimport judge_file, judges_programs
from sandlock._linux cimport PR_SET_NAME, SYS_close, SYS_prctl, SYS_rt_sigprocmask, raw_syscall
from sandlock._loaders cimport read_loader
from sandlock._memory cimport read_memory, read_string, write_memory
from sandlock._path_table cimport PathTable
from sandlock._programs cimport (
    FileIdentity, MAX_PATH, identify, last_part, name_for_interpreter, open_named, open_program, real_path, same_file,
)
from sandlock._promises cimport promise
from sandlock._redirect cimport (
    LOST, aim, find_instruction, finish_call, give_back_task, go_to_call, keep_registers, lose, set_stack, stack_of,
)
from sandlock._slots cimport CAUSE_ATTEST, CAUSE_CHANGED, CAUSE_NONE, argv_of, exe_of, load_paths, viewer_of
from sandlock._tasks cimport format_proc_path, parse_number, read_proc_file, stat_field

cdef extern from "<errno.h>" nogil:
    const int EFAULT
    const int ENAMETOOLONG
    const int ESTALE

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD

cdef extern from * nogil:
    """
    #include <stdint.h>
    #define SANDLOCK_PR_SET_MM 35
    #define SANDLOCK_PR_SET_MM_MAP 14
    /* struct prctl_mm_map of linux/prctl.h */
    struct sandlock_mm_map {
        uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, arg_end, env_start,
        env_end, auxv; uint32_t auxv_size, exe_fd;
    };
    """
    const long PR_SET_MM "SANDLOCK_PR_SET_MM"
    const long PR_SET_MM_MAP "SANDLOCK_PR_SET_MM_MAP"
    ctypedef struct MemoryMap "struct sandlock_mm_map":
        uint64_t start_code
        uint64_t end_code
        uint64_t start_data
        uint64_t end_data
        uint64_t start_brk
        uint64_t brk
        uint64_t start_stack
        uint64_t arg_start
        uint64_t arg_end
        uint64_t env_start
        uint64_t env_end
        uint64_t auxv
        uint32_t auxv_size
        uint32_t exe_fd

cdef extern from "<elf.h>" nogil:
    const uint64_t AT_BASE_PLATFORM
    const uint64_t AT_EXECFN
    const uint64_t AT_NULL
    const uint64_t AT_PLATFORM
    const uint64_t AT_RANDOM
    const uint64_t AT_SYSINFO_EHDR

cdef enum:
    ROOM = 16384             # for the block: four paths, and the words of #! lines
    MAX_HEADS = 24
    MAX_AUXILIARY = 64       # pairs
    PAGE = 4096
    CHUNK = 4096
    POINTERS = 512
    COMM = 15                # TASK_COMM_LEN
    RANDOM = 16
    DELETED = 10
    PLATFORM = 64
    STAT = 1024
    MISSING = 0xFFFF

# The block, and the pointers that come in place of the first one: into the block, or as they are.
cdef struct Block:
    int used
    int head_count
    int heads[MAX_HEADS]     # offsets; MISSING: the caller's own first word
    int execfn
    int comm
    int random
    int platforms[2]
    int map
    int prefix
    char bytes[ROOM]

# Where things lie in the new image.
cdef struct Layout:
    uint64_t stack
    uint64_t count           # argc
    uint64_t first           # the first word
    uint64_t variables       # the pointers to them
    uint64_t end             # of the auxiliary vector
    uint64_t border          # where the block ends
    uint64_t auxiliary[MAX_AUXILIARY * 2]
    int pairs


# Files ---------------------------------------------------------------------------------------------------------------

cdef long open_running(const Viewer *viewer, const Slot *slot) noexcept nogil:
    """What runs: the named file, or a script's interpreter. Returns the descriptor or -errno."""
    if slot.prefix_count > 0:
        return open_program(viewer, AT_FDCWD, argv_of(slot) - slot.prefix_length, 0)
    return open_program(viewer, slot.directory, slot.data, slot.flags)


cdef int is_judged(long opened, const FileIdentity *judged) noexcept nogil:
    cdef FileIdentity now
    return opened >= 0 and identify(opened, &now) >= 0 and same_file(&now, judged)


cdef int open_image(const Table *table, const Slot *slot, Image *image) noexcept nogil:
    """Opens what was judged. Returns 0; or -errno, -ESTALE where there is something else by now."""
    cdef Viewer viewer
    cdef int result = 0
    viewer_of(table, slot, &viewer)
    image.loader = -1
    image.loader_name[0] = 0
    image.program = open_running(&viewer, slot)
    if not is_judged(image.program, &slot.loaded):
        result = -ESTALE
    else:
        result = read_loader(image.program, image.loader_name)
    if result >= 0 and result != slot.has_loader:
        result = -ESTALE
    if result > 0:
        image.loader = open_program(&viewer, AT_FDCWD, image.loader_name, 0)
        result = 0 if is_judged(image.loader, &slot.loader) else -ESTALE
    if result < 0:
        close_image(image)
    return result


cdef int judge_descriptor(const PathTable *paths, long opened, int *rule) noexcept nogil:
    cdef FileIdentity file
    cdef char path[MAX_PATH]
    if identify(opened, &file) < 0 or real_path(opened, path) < 0:
        return CAUSE_ATTEST
    return judge_file(paths, &file, path, rule)


cdef int judge_image(const Table *table, const Slot *slot, const Image *image, int *rule) noexcept nogil:
    """What the policy's paths say of the files that an exec names and runs: real paths, and here they are open. Returns
    CAUSE_NONE or the cause of a denial."""
    cdef const PathTable *paths = load_paths(&table.paths)
    cdef Viewer viewer
    cdef long named
    cdef int cause
    if not judges_programs(paths):
        return CAUSE_NONE
    cause = judge_descriptor(paths, image.program, rule)
    if cause == CAUSE_NONE and image.loader >= 0:
        cause = judge_descriptor(paths, image.loader, rule)
    if cause != CAUSE_NONE or slot.prefix_count == 0:
        return cause
    viewer_of(table, slot, &viewer)
    named = open_named(&viewer, slot.directory, slot.data, slot.flags)
    if not is_judged(named, &slot.named):
        cause = CAUSE_CHANGED
    else:
        cause = judge_descriptor(paths, named, rule)
    if named >= 0:
        raw_syscall(SYS_close, named, 0, 0, 0, 0, 0)
    return cause


cdef void close_image(Image *image) noexcept nogil:
    if image.program >= 0:
        raw_syscall(SYS_close, image.program, 0, 0, 0, 0, 0)
    if image.loader >= 0:
        raw_syscall(SYS_close, image.loader, 0, 0, 0, 0, 0)
    image.program = image.loader = -1


# Looking at the new image --------------------------------------------------------------------------------------------

cdef uint64_t find_zero(pid_t tid, uint64_t at) noexcept nogil:
    """The address of the next word that is 0, or 0. Beyond the page of a word may lie nothing."""
    cdef uint64_t words[POINTERS]
    cdef size_t count, i
    while True:
        count = (PAGE - (at & (PAGE - 1))) >> 3
        if count > POINTERS or count == 0:
            count = 1 if count == 0 else POINTERS
        if read_memory(tid, at, words, count * 8) < 0:
            return 0
        for i in range(count):
            if words[i] == 0:
                return at + i * 8
        at += count * 8


cdef int survey(pid_t tid, uint64_t stack, int is_script, Layout *layout) noexcept nogil:
    """Finds out where things lie. Returns 0 or -errno."""
    cdef uint64_t head[2]
    cdef uint64_t at
    cdef char byte
    memset(layout, 0, sizeof(Layout))
    if read_memory(tid, stack, head, sizeof(head)) < 0:
        return -EFAULT
    layout.stack = stack
    layout.count = head[0]
    layout.first = head[1]
    layout.variables = stack + (layout.count + 2) * 8
    at = find_zero(tid, layout.variables)
    if layout.count == 0 or at == 0:
        return -EFAULT
    at += 8
    while layout.pairs < MAX_AUXILIARY:
        if read_memory(tid, at, &layout.auxiliary[layout.pairs * 2], 16) < 0:
            return -EFAULT
        at += 16
        layout.pairs += 1
        if layout.auxiliary[layout.pairs * 2 - 2] == AT_NULL:
            layout.end = at
            layout.border = at
            if is_script:
                layout.border = layout.first
                byte = 1
                while byte != 0:     # the first word was read, and was no longer than all words may be
                    if read_memory(tid, layout.border, &byte, 1) < 0:
                        return -EFAULT
                    layout.border += 1
            return 0
    return -EFAULT


cdef uint64_t auxiliary_of(const Layout *layout, uint64_t type) noexcept nogil:
    cdef int i
    for i in range(layout.pairs):
        if layout.auxiliary[i * 2] == type:
            return layout.auxiliary[i * 2 + 1]
    return 0


# The block -----------------------------------------------------------------------------------------------------------

cdef int add(Block *block, const void *bytes, size_t length) noexcept nogil:
    """Returns where in the block the bytes lie, or MISSING."""
    cdef int at = block.used
    if length > <size_t>(ROOM - at):
        return MISSING
    memcpy(block.bytes + at, bytes, length)
    block.used += <int>length
    return at


cdef int add_text(Block *block, const char *text) noexcept nogil:
    return add(block, text, strlen(text) + 1)


cdef int add_path(Block *block, const char *path) noexcept nogil:
    """As a loader takes it: one that looks like an option, or like the name of a library, is none."""
    cdef int at = block.used
    if path[0] != 47 and add(block, b"./", 2) == MISSING:
        return MISSING
    return at if add_text(block, path) != MISSING else MISSING


cdef int name_of(const Slot *slot, char *name) noexcept nogil:
    """The name of the named file, as the kernel would hand it on (AT_EXECFN), in MAX_PATH bytes. Returns 0 or
    -errno."""
    if slot.data[0] == 47 or slot.directory == AT_FDCWD:
        memcpy(name, slot.data, slot.path_length)
        return 0
    return name_for_interpreter(slot.directory, slot.data, name)


cdef int lead_in(const Slot *slot, const Image *image, const char *name, Block *block) noexcept nogil:
    """The words that come in place of the first one. Returns the offset of the program's path, 0 without a loader, or
    MISSING."""
    cdef const char *word = argv_of(slot) - slot.prefix_length
    cdef int path = 0
    if slot.has_loader:
        block.heads[0] = add_text(block, image.loader_name)
        if slot.takes_name:
            block.heads[1] = add_text(block, b"--argv0")
            block.heads[2] = MISSING           # the caller's first word, or the interpreter's name
            block.head_count = 3
        else:
            block.head_count = 1
        path = block.heads[block.head_count] = add_path(block, word if slot.prefix_count > 0 else name)
        block.head_count += 1
    else:
        block.heads[0] = MISSING
        block.head_count = 1
    return path


cdef int add_prefix(const Slot *slot, Block *block) noexcept nogil:
    """A script's words, last in the block. Returns 0, or MISSING."""
    cdef const char *words = argv_of(slot) - slot.prefix_length
    cdef int i, _i, at = add(block, words, slot.prefix_length)
    if at == MISSING or block.head_count + slot.prefix_count > MAX_HEADS:
        return MISSING
    block.prefix = at
    for i in range(block.head_count):          # its interpreter's name is the first of them
        if block.heads[i] == MISSING:
            block.heads[i] = at
    for _i in range(slot.prefix_count - 1):
        at += <int>strlen(block.bytes + at) + 1
        block.heads[block.head_count] = at
        block.head_count += 1
    return 0


cdef int keep_moved(pid_t tid, const Layout *layout, Block *block) noexcept nogil:
    """What the kernel has laid between the vectors and the words, where the block may come to lie. Returns 0, or
    MISSING."""
    cdef char bytes[PLATFORM]
    cdef uint64_t types[2]
    cdef int i
    types[0], types[1] = AT_PLATFORM, AT_BASE_PLATFORM
    if read_memory(tid, auxiliary_of(layout, AT_RANDOM), bytes, RANDOM) < 0:
        return MISSING
    block.random = add(block, bytes, RANDOM)
    for i in range(2):
        block.platforms[i] = MISSING
        if auxiliary_of(layout, types[i]) != 0:
            if read_string(tid, auxiliary_of(layout, types[i]), bytes, PLATFORM) < 0:
                return MISSING
            block.platforms[i] = add_text(block, bytes)
    return 0 if block.random != MISSING else MISSING


cdef const char *file_of(const Slot *slot) noexcept nogil:
    """The path, without links, of what runs."""
    cdef const char *file = argv_of(slot) + slot.argv_length
    cdef int _level
    if slot.prefix_count == 0:
        return exe_of(slot)
    for _level in range(slot.levels - 1):
        file += strlen(file) + 1
    return file


cdef int fill_block(
    pid_t tid, const Slot *slot, const Image *image, const Layout *layout, Block *block
) noexcept nogil:
    """Returns the offset of the path that the loader opens, 0 without a loader; or MISSING."""
    cdef char name[MAX_PATH]
    cdef char comm[COMM + 1]
    cdef const char *last
    cdef MemoryMap numbers
    cdef size_t length
    cdef int path
    block.used = 8           # offset 0 is none
    memset(block.bytes, 0, 8)
    if name_of(slot, name) < 0:
        return MISSING
    path = lead_in(slot, image, name, block)
    block.execfn = add_text(block, name)
    add_text(block, file_of(slot))             # right behind: what /proc/PID/exe is to show
    last = last_part(file_of(slot) if slot.data[0] == 0 else name)
    length = strlen(last)
    if slot.data[0] == 0 and length > DELETED and memcmp(last + length - DELETED, b" (deleted)", DELETED) == 0:
        length -= DELETED
    memset(comm, 0, sizeof(comm))
    memcpy(comm, last, min(length, <size_t>COMM))
    block.comm = add(block, comm, sizeof(comm))
    if path == MISSING or block.execfn == MISSING or block.comm == MISSING:
        return MISSING
    if slot.prefix_count > 0 and keep_moved(tid, layout, block) == MISSING:
        return MISSING
    memset(&numbers, 0, sizeof(numbers))
    block.map = add(block, &numbers, sizeof(numbers))
    if block.map == MISSING or (slot.prefix_count > 0 and add_prefix(slot, block) == MISSING):
        return MISSING
    return path


# Moving --------------------------------------------------------------------------------------------------------------

cdef int move_words(pid_t tid, uint64_t start, uint64_t end, uint64_t to) noexcept nogil:
    """Moves memory down, by however little."""
    cdef char bytes[CHUNK]
    cdef size_t length
    while start < end:
        length = min(end - start, <uint64_t>CHUNK)
        if read_memory(tid, start, bytes, length) < 0 or write_memory(tid, to, bytes, length) < 0:
            return -EFAULT
        start += length
        to += length
    return 0


cdef void point_auxiliary(const Slot *slot, Layout *layout, const Block *block, uint64_t base) noexcept nogil:
    """The entries of the auxiliary vector that point to what was moved, or is another now."""
    cdef uint64_t *pair
    cdef int i
    for i in range(layout.pairs):
        pair = &layout.auxiliary[i * 2]
        if pair[0] == AT_EXECFN:
            pair[1] = base + <uint64_t>block.execfn
        elif slot.prefix_count == 0:
            continue
        elif pair[0] == AT_RANDOM:
            pair[1] = base + <uint64_t>block.random
        elif pair[0] == AT_PLATFORM:
            pair[1] = base + <uint64_t>block.platforms[0]
        elif pair[0] == AT_BASE_PLATFORM:
            pair[1] = base + <uint64_t>block.platforms[1]


cdef void place(const Layout *layout, const Block *block, uint64_t *stack, uint64_t *base) noexcept nogil:
    """Where the vectors and the block will begin."""
    cdef uint64_t length = layout.end - layout.stack + <uint64_t>block.head_count * 8 - 8
    base[0] = layout.border - <uint64_t>block.used
    stack[0] = (min(base[0], layout.end) - length) & ~<uint64_t>15


cdef int stretch(Borrowed *task, const Layout *layout, uint64_t stack) noexcept nogil:
    """Makes sure that the stack goes down so far: below very many words the kernel leaves no room, and gives some only
    to who uses it. Returns 0, LOST or -errno."""
    cdef uint64_t call
    cdef long result
    if stack & ~<uint64_t>(PAGE - 1) == layout.stack & ~<uint64_t>(PAGE - 1):
        return 0
    call = find_instruction(task.tid, auxiliary_of(layout, AT_SYSINFO_EHDR))
    if call == 0:
        return 0
    # Writes down its signal mask there.
    if aim(task, call, SYS_rt_sigprocmask, 0, 0, stack, 8, 0, 0) < 0:
        return <int>lose(task)
    result = finish_call(task, call)
    return <int>result


cdef int lay_out(
    pid_t tid, const Slot *slot, Layout *layout, Block *block, uint64_t stack, uint64_t base
) noexcept nogil:
    """Moves the vectors down, and writes the block behind them. Returns 0 or -errno."""
    cdef uint64_t heads[MAX_HEADS + 1]
    cdef uint64_t tail = layout.stack + 16     # the pointers behind the first one
    cdef uint64_t auxiliary = <uint64_t>layout.pairs * 16
    cdef uint64_t at
    cdef int i
    heads[0] = layout.count + <uint64_t>block.head_count - 1
    for i in range(block.head_count):
        heads[i + 1] = layout.first if block.heads[i] == MISSING else base + <uint64_t>block.heads[i]
    at = stack + <uint64_t>(block.head_count + 1) * 8
    if move_words(tid, tail, layout.end - auxiliary, at) < 0:
        return -EFAULT
    point_auxiliary(slot, layout, block, base)
    if write_memory(tid, at + (layout.end - auxiliary - tail), layout.auxiliary, auxiliary) < 0:
        return -EFAULT
    if write_memory(tid, stack, heads, <size_t>(block.head_count + 1) * 8) < 0:
        return -EFAULT
    return write_memory(tid, base, block.bytes, <size_t>block.used)


# Looks ---------------------------------------------------------------------------------------------------------------

cdef uint64_t number_of(const char *stat, long length, int field) noexcept nogil:
    cdef const char *text = stat_field(stat, length, field)
    return <uint64_t>parse_number(text) if text != NULL else 0


cdef int read_numbers(pid_t tid, MemoryMap *numbers) noexcept nogil:
    """What the kernel knows of the new memory (proc_pid_stat(5)). Returns 0, or -1."""
    cdef char path[64]
    cdef char stat[STAT]
    cdef long length
    format_proc_path(path, tid, b"stat")
    length = read_proc_file(path, stat, STAT)
    if length <= 0 or stat_field(stat, length, 51) == NULL:
        return -1
    memset(numbers, 0, sizeof(MemoryMap))
    numbers.start_code = number_of(stat, length, 26)
    numbers.end_code = number_of(stat, length, 27)
    numbers.start_stack = number_of(stat, length, 28)
    numbers.start_data = number_of(stat, length, 45)
    numbers.end_data = number_of(stat, length, 46)
    numbers.start_brk = numbers.brk = number_of(stat, length, 47)      # nobody has asked for more yet
    numbers.arg_start = number_of(stat, length, 48)
    numbers.arg_end = number_of(stat, length, 49)
    numbers.env_start = number_of(stat, length, 50)
    numbers.env_end = number_of(stat, length, 51)
    numbers.exe_fd = ~<uint32_t>0
    return 0


cdef long make_up(
    Borrowed *task, const Slot *slot, const Layout *layout, const Block *block, uint64_t base
) noexcept nogil:
    """comm, and what /proc shows of words and auxiliary vector: by calls of the task's own, which stands at the end of
    its execve. Returns 0 or LOST."""
    cdef MemoryMap numbers
    cdef uint64_t call = find_instruction(task.tid, auxiliary_of(layout, AT_SYSINFO_EHDR))
    cdef uint64_t map = base + <uint64_t>block.map
    cdef long result
    if call == 0:
        return 0
    if aim(task, call, SYS_prctl, PR_SET_NAME, base + <uint64_t>block.comm, 0, 0, 0, 0) < 0:
        return lose(task)
    if finish_call(task, call) == LOST:
        return LOST
    if read_numbers(task.tid, &numbers) < 0:
        return 0
    if slot.prefix_count > 0:
        numbers.arg_start = base + <uint64_t>block.prefix
    numbers.auxv = stack_of(task) + (layout.end - layout.stack) + <uint64_t>(block.head_count - 1) * 8
    numbers.auxv -= <uint64_t>layout.pairs * 16
    numbers.auxv_size = <uint32_t>layout.pairs * 16
    if write_memory(task.tid, map, &numbers, sizeof(numbers)) < 0:
        return 0
    if aim(task, call, SYS_prctl, <uint64_t>PR_SET_MM, <uint64_t>PR_SET_MM_MAP, map, sizeof(numbers), 0, 0) < 0:
        return lose(task)
    result = finish_call(task, call)
    return LOST if result == LOST else 0


cdef int dress(Table *table, const Slot *slot, Image *image, Borrowed *task) noexcept nogil:
    """Makes the image that was executed, and attested, ready to run, and lets the task go. Returns 0, LOST, or -errno
    when it may not run, and still stands."""
    cdef Layout layout
    cdef Block block
    cdef uint64_t stack = 0, base = 0
    cdef int path, result = go_to_call(task)   # the end of its execve, from where it can be made to make calls
    if result == LOST:
        return LOST
    result = keep_registers(task)
    if result == 0:
        result = survey(task.tid, stack_of(task), slot.prefix_count > 0, &layout)
    if result < 0:
        return result
    path = fill_block(task.tid, slot, image, &layout, &block)
    if path == MISSING:
        return -ENAMETOOLONG
    place(&layout, &block, &stack, &base)
    result = stretch(task, &layout, stack)
    if result == 0:
        result = lay_out(task.tid, slot, &layout, &block, stack, base)
    if result == 0:
        result = set_stack(task, stack)
    if result == 0 and path > 0:
        result = promise(&table.promises, task.tid, image.program, block.bytes + path)
        if result == 0:
            image.program = -1                 # kept for the loader
    if result < 0:
        return result
    if make_up(task, slot, &layout, &block, base) != LOST:
        give_back_task(task, 0)
    return 0
