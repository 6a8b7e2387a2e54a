"""What the policy's paths say of an exec: of the file that is named, of the interpreters of its #! lines, of the loader
that its program asks for, and, when the kernel has loaded it, of the files that it has mapped.

The first three are looked at so that a denial is a plain one. What holds is the last: the program stands at its first
instruction, and whatever it was loaded from can be seen.

Rules: raw system calls on the caller's stack only. Each judgement is CAUSE_NONE, or the cause of a denial.
"""

from libc.string cimport memcmp, memcpy, strlen, strncmp

from sandlock._linux cimport SYS_close, SYS_openat, SYS_read, raw_syscall
from sandlock._path_table cimport NO_GRANT, PATH_RULES, WANT_EXECUTE, denied_file, hidden_error, is_covered, is_hidden
from sandlock._paths cimport Place
from sandlock._programs cimport FileIdentity, MAX_PATH, identify_path
from sandlock._slots cimport CAUSE_ATTEST, CAUSE_NONE, CAUSE_NO_RULE, CAUSE_RULE, argv_of, exe_of
from sandlock._tasks cimport format_proc_path

cdef extern from "<errno.h>" nogil:
    const int EINTR
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CLOEXEC

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    """
    const long SYS_readlinkat

cdef enum:
    BLOCK = 4096
    RANGE = 40               # of a line of proc_pid_maps(5): two addresses
    DEVICE_AND_INODE = 48
    MARK = 10                # " (deleted)"

# A line of /proc/PID/maps, as far as it was read.
cdef struct Line:
    int field
    int range_length
    char range[RANGE]
    int file_length
    char file[DEVICE_AND_INODE]
    int has_file


cdef int judges_programs(const PathTable *paths) noexcept nogil:
    """Whether there is anything that an exec could be denied for."""
    return paths != NULL and (paths.denied_count > 0 or paths.narrow or paths.hides)


cdef int is_memory(const char *path) noexcept nogil:
    """Whether it is a file of memfd_create(2), which no path leads to and no grant is about."""
    cdef size_t length = strlen(path)
    return (
        strncmp(path, b"/memfd:", 7) == 0 and length > MARK
        and memcmp(path + length - MARK, <const char *>b" (deleted)", MARK) == 0
    )


cdef int judge_file(const PathTable *paths, const FileIdentity *file, const char *path, int *rule) noexcept nogil:
    cdef int number = denied_file(paths, file, path, WANT_EXECUTE)
    if number >= 0:
        rule[0] = PATH_RULES + number
        return CAUSE_RULE
    if paths.narrow and not is_memory(path) and not is_covered(paths, path, WANT_EXECUTE):
        rule[0] = NO_GRANT
        return CAUSE_NO_RULE
    return CAUSE_NONE


cdef int judge_path(const PathTable *paths, const char *path, int *rule) noexcept nogil:
    """Of a file by its path, without links."""
    cdef FileIdentity file
    identify_path(path, &file)       # who is gone is judged by where it was
    return judge_file(paths, &file, path, rule)


cdef int judge_program(const PathTable *paths, const Slot *slot, int *rule) noexcept nogil:
    """Of the file that is named, and of its script's interpreters."""
    cdef const char *file = argv_of(slot) + slot.argv_length
    cdef int _level, cause
    cause = judge_file(paths, &slot.named, exe_of(slot), rule)
    for _level in range(slot.levels):
        if cause == CAUSE_NONE:
            cause = judge_path(paths, file, rule)
        file += strlen(file) + 1
    return cause


cdef int is_hidden_file(const PathTable *paths, const FileIdentity *file, const char *path) noexcept nogil:
    cdef Place place
    place.descriptor = -1    # its identity is looked at here
    return denied_file(paths, file, path, WANT_EXECUTE) >= 0 or (not is_memory(path) and is_hidden(paths, &place, path))


cdef int is_missed(const PathTable *paths, const Resolved *found) noexcept nogil:
    """Whether a file of the exec is not there for the program."""
    cdef FileIdentity file
    cdef const char *path = found.prefix.files
    cdef int _level
    if is_hidden_file(paths, &found.named, found.exe):
        return 1
    for _level in range(found.prefix.levels):
        identify_path(path, &file)
        if is_hidden_file(paths, &file, path):
            return 1
        path += strlen(path) + 1
    if not found.prefix.has_loader:
        return found.prefix.lacks_loader
    return is_hidden_file(paths, &found.prefix.loader_file, found.prefix.loader)


cdef int miss_program(const PathTable *paths, Resolved *found, int result) noexcept nogil:
    """What an exec ends with where the program shall not learn what there is that no grant covers. `result`: what
    looking for its files came to. Returns 0 or -errno."""
    if found.exe_length <= 0:
        return hidden_error(result)
    if result == 0 and is_missed(paths, found):
        result = -ENOENT
        raw_syscall(SYS_close, found.opened, 0, 0, 0, 0, 0)
        found.opened = -1
    elif result < 0 and is_hidden_file(paths, &found.named, found.exe):
        result = -ENOENT
    elif result < 0 and found.prefix.count > 0:
        result = hidden_error(result)
    return result


cdef int judge_loader(const PathTable *paths, const Prefix *prefix, int *rule) noexcept nogil:
    """Of the loader that the program names, if it names one."""
    if not prefix.has_loader:
        return CAUSE_NONE
    return judge_file(paths, &prefix.loader_file, prefix.loader, rule)


# What is mapped ------------------------------------------------------------------------------------------------------

cdef int put_address(char *into, const char *digits, int length) noexcept nogil:
    """Without the zeros in front, as map_files has it. Returns the length."""
    while length > 1 and digits[0] == 48:
        digits += 1
        length -= 1
    memcpy(into, digits, length)
    return length


cdef int judge_mapping(const PathTable *paths, pid_t pid, const Line *line, int *rule) noexcept nogil:
    cdef char link[128]
    cdef char path[MAX_PATH]
    cdef FileIdentity file
    cdef long length
    cdef int at, dash = 0
    at = format_proc_path(link, pid, b"map_files/")
    while dash < line.range_length and line.range[dash] != 45:     # '-'
        dash += 1
    at += put_address(link + at, line.range, dash)
    link[at] = 45
    at += 1
    at += put_address(link + at, line.range + dash + 1, line.range_length - dash - 1)
    link[at] = 0
    length = raw_syscall(SYS_readlinkat, AT_FDCWD, <long>link, <long>path, MAX_PATH - 1, 0, 0)
    if length < 0:
        return CAUSE_ATTEST
    path[length] = 0
    # Of what is denied the program can remove no name: the path still leads there.
    if identify_path(path, &file) < 0 and length > MARK and not is_memory(path):
        if memcmp(path + length - MARK, <const char *>b" (deleted)", MARK) == 0:
            path[length - MARK] = 0
    return judge_file(paths, &file, path, rule)


cdef void take_byte(Line *line, char byte) noexcept nogil:
    """"start-end perms offset device inode   path"."""
    if byte == 32:
        line.field += line.field < 5
    elif line.field == 0 and line.range_length < RANGE:
        line.range[line.range_length] = byte
        line.range_length += 1
    elif line.field in (3, 4) and line.file_length < DEVICE_AND_INODE:
        line.file[line.file_length] = byte
        line.file_length += 1
        line.has_file |= line.field == 4 and byte != 48


cdef void next_line(Line *line) noexcept nogil:
    line.field = line.range_length = line.file_length = line.has_file = 0


cdef int judge_loaded(const PathTable *paths, pid_t pid, int *rule) noexcept nogil:
    """Of every file that is mapped into a process; it stands still."""
    cdef char block[BLOCK]
    cdef Line line, last
    cdef long opened, length
    cdef int cause = CAUSE_NONE, i
    format_proc_path(block, pid, b"maps")
    opened = raw_syscall(SYS_openat, AT_FDCWD, <long>block, O_CLOEXEC, 0, 0, 0)
    if opened < 0:
        return CAUSE_ATTEST
    next_line(&line)
    next_line(&last)
    while cause == CAUSE_NONE:
        length = raw_syscall(SYS_read, opened, <long>block, BLOCK, 0, 0, 0)
        if length == -EINTR:
            continue
        if length < 0:
            cause = CAUSE_ATTEST
        if length <= 0:
            break
        for i in range(<int>length):
            if block[i] != 10:
                take_byte(&line, block[i])
                continue
            if line.has_file and (
                line.file_length != last.file_length or memcmp(line.file, last.file, line.file_length) != 0
            ):
                cause = judge_mapping(paths, pid, &line, rule)
                last = line
                if cause != CAUSE_NONE:
                    break
            next_line(&line)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return cause
