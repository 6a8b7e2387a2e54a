"""Which file an exec names, and which one the kernel will load for it: the file itself, or the interpreter of its #!.

Seen from the supervisor, which is in the run's outer domain and opens nothing that the policy does not let the tree
read. What is found here is a prediction; that it came true is attested after the exec (_attest).
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen, strncmp
from posix.types cimport pid_t

from sandlock._linux cimport SYS_close, SYS_fcntl, SYS_fstat, SYS_openat, SYS_pread64, raw_syscall
from sandlock._rooted cimport has_no_name, is_closed_by_exec, is_own_exe, open_in_root, seen_exe
from sandlock._tasks cimport format_proc_path, put_number
from sandlock._virtual_root cimport mount_at
from sandlock._virtual_root cimport seen_path as path_in_root

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EAGAIN
    const int EBADF
    const int ELOOP
    const int ENAMETOOLONG
    const int ENOENT
    const int ENOEXEC
    const int ENOSYS

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int F_DUPFD_CLOEXEC
    const int AT_SYMLINK_NOFOLLOW
    const int O_CLOEXEC
    const int O_DIRECTORY
    const int O_NOCTTY
    const int O_NOFOLLOW
    const int O_NONBLOCK
    const int O_RDONLY

cdef extern from * nogil:
    """
    #include <elf.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifndef SYS_faccessat2
    #define SYS_faccessat2 439                 /* Linux 5.8 */
    #endif
    #define SANDLOCK_O_PATH 010000000
    #define SANDLOCK_AT_EMPTY_PATH 0x1000
    #define SANDLOCK_AT_EACCESS 0x200
    """
    const int O_PATH "SANDLOCK_O_PATH"
    const int AT_EMPTY_PATH "SANDLOCK_AT_EMPTY_PATH"
    const int AT_EACCESS "SANDLOCK_AT_EACCESS"
    const int X_OK
    const long SYS_faccessat2
    const long SYS_newfstatat
    const long SYS_readlinkat
    const unsigned int S_IFMT
    const unsigned int S_IFREG
    const unsigned int S_IFLNK
    const unsigned int PT_INTERP
    ctypedef struct ElfHeader "Elf64_Ehdr":
        uint64_t e_phoff
        unsigned short e_phentsize
        unsigned short e_phnum
    ctypedef struct ProgramHeader "Elf64_Phdr":
        unsigned int p_type
        uint64_t p_offset
        uint64_t p_filesz
    ctypedef struct Moment "struct timespec":
        long tv_sec
        long tv_nsec
    ctypedef struct Status "struct stat":
        unsigned long st_dev
        unsigned long st_ino
        unsigned int st_mode
        long st_size
        Moment st_mtim
        Moment st_ctim

cdef enum:
    MAX_HEADERS = 64
    HEADER = 256             # BINPRM_BUF_SIZE: as much of a #! line as the kernel reads
    ACCESS_WRITE_FILE = 2    # LANDLOCK_ACCESS_FS_WRITE_FILE


# Opening the file as the caller would --------------------------------------------------------------------------------

cdef int starts_with(const char *text, const char *start) noexcept nogil:
    cdef int i = 0
    while start[i] != 0:
        if text[i] != start[i]:
            return 0
        i += 1
    return 1


cdef const char *last_part(const char *path) noexcept nogil:
    """What comes behind the last slash."""
    cdef const char *last = path
    while path[0] != 0:
        if path[0] == 47:    # '/'
            last = path + 1
        path += 1
    return last


cdef int callers_own(const Viewer *viewer, const char *path, char *out) noexcept nogil:
    """Names that mean another thing to each process (/proc/self) as they mean it to the caller. Returns 0, or 1 if
    the path has no such name in front."""
    cdef const char *rest
    cdef char name[64]
    cdef int length
    if starts_with(path, b"/proc/self/"):
        rest = path + 10
        length = format_proc_path(out, viewer.tgid, b"")
    elif starts_with(path, b"/proc/thread-self/"):
        rest = path + 17
        memcpy(name, <const char *>b"task/", 5)
        put_number(name + 5, viewer.tid)
        length = format_proc_path(out, viewer.tgid, name)
    elif starts_with(path, b"/dev/fd/"):
        rest = path + 7
        length = format_proc_path(out, viewer.tgid, b"fd")
    else:
        return 1
    if length + strlen(rest) >= MAX_PATH:
        return 1
    memcpy(out + length, rest, strlen(rest) + 1)
    return 0


cdef long open_descriptor_of(pid_t tid, int descriptor) noexcept nogil:
    """An O_PATH descriptor of what a descriptor of the caller (AT_FDCWD: its working directory) refers to."""
    cdef char name[24]
    cdef char path[64]
    if descriptor == AT_FDCWD:
        format_proc_path(path, tid, b"cwd")
    elif descriptor < 0:
        return -EBADF
    else:
        memcpy(name, <const char *>b"fd/", 3)
        put_number(name + 3, descriptor)
        format_proc_path(path, tid, name)
    return raw_syscall(SYS_openat, AT_FDCWD, <long>path, O_PATH | O_CLOEXEC, 0, 0, 0)


cdef long open_named(const Viewer *viewer, int directory, const char *path, int flags) noexcept nogil:
    """An O_PATH descriptor of the file that execveat(directory, path, flags) of the caller names, or -errno."""
    return open_as_named(viewer, directory, path, flags, O_PATH | O_CLOEXEC)


cdef long open_program(const Viewer *viewer, int directory, const char *path, int flags) noexcept nogil:
    """The same, for reading if that may be: to open an O_PATH descriptor again takes 8 us."""
    # In this domain nothing opens, with whatever effect, that the caller could not open itself.
    cdef long opened = open_as_named(
        viewer, directory, path, flags, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK
    )
    return opened if opened >= 0 else open_named(viewer, directory, path, flags)


cdef long open_as_named(const Viewer *viewer, int directory, const char *path, int flags, int how) noexcept nogil:
    cdef char own[MAX_PATH]
    cdef long base, opened
    if flags & AT_SYMLINK_NOFOLLOW:
        how |= O_NOFOLLOW
    if path[0] == 0:
        if not flags & AT_EMPTY_PATH:
            return -ENOENT
        opened = open_descriptor_of(viewer.tid, directory)
        if opened >= 0 and not how & O_PATH and viewer.root != NULL:
            return open_again(opened, how)
        return -EBADF if opened == -ENOENT else opened
    if viewer.root != NULL and is_own_exe(path):
        return open_in_root(viewer, AT_FDCWD, own, how) if seen_exe(viewer.tgid, own) > 0 else -ENOENT
    if viewer.root != NULL or viewer.hiding != NULL:
        return open_in_root(viewer, directory, path, how)
    if path[0] == 47 and callers_own(viewer, path, own) == 0:    # '/'
        path = own
    if path[0] == 47:
        return raw_syscall(SYS_openat, AT_FDCWD, <long>path, how, 0, 0, 0)
    base = open_descriptor_of(viewer.tid, directory)
    if base < 0:
        return -EBADF if base == -ENOENT and directory != AT_FDCWD else base
    opened = raw_syscall(SYS_openat, base, <long>path, how, 0, 0, 0)
    raw_syscall(SYS_close, base, 0, 0, 0, 0, 0)
    return opened


cdef long open_again(long place, int how) noexcept nogil:
    """Opens what a descriptor of ours is the place of, and closes that. Returns the descriptor or -errno."""
    cdef char path[64]
    cdef long opened
    format_own_descriptor(path, place)
    opened = raw_syscall(SYS_openat, AT_FDCWD, <long>path, how & ~O_NOFOLLOW, 0, 0, 0)
    raw_syscall(SYS_close, place, 0, 0, 0, 0, 0)
    return opened


# In a virtual root ---------------------------------------------------------------------------------------------------

cdef long seen_path(const Viewer *viewer, long descriptor, char *into) noexcept nogil:
    """The path, without links, of what a descriptor of ours refers to, as the caller sees it, in MAX_PATH bytes.
    Returns its length or -errno; -EACCES for what is outside of its root."""
    cdef char real[MAX_PATH]
    cdef long length
    cdef int mount
    if viewer.root == NULL:
        return real_path(descriptor, into)
    length = real_path(descriptor, real)
    if length < 0:
        return length
    mount = mount_at(viewer.root, real)
    if mount >= 0:
        return path_in_root(viewer.root, mount, real, into, MAX_PATH)
    if not has_no_name(descriptor):
        return -EACCES
    memcpy(into, real, <size_t>length + 1)
    return length


# Who the file is -----------------------------------------------------------------------------------------------------

cdef inline int64_t nanoseconds(const Moment *moment) noexcept nogil:
    return moment.tv_sec * <int64_t>1000000000 + moment.tv_nsec


cdef int identify(long descriptor, FileIdentity *out) noexcept nogil:
    """Returns the file's mode, or -errno."""
    cdef Status status
    cdef long result
    result = raw_syscall(SYS_fstat, descriptor, <long>&status, 0, 0, 0, 0)
    return note_identity(result, &status, out)


cdef int identify_path(const char *path, FileIdentity *out) noexcept nogil:
    """The same for what a path of ours leads to."""
    cdef Status status
    cdef long result = raw_syscall(SYS_newfstatat, AT_FDCWD, <long>path, <long>&status, 0, 0, 0)
    return note_identity(result, &status, out)


cdef int note_identity(long result, const Status *status, FileIdentity *out) noexcept nogil:
    memset(out, 0, sizeof(FileIdentity))
    if result < 0:
        return <int>result
    out.device = status.st_dev
    out.inode = status.st_ino
    out.size = status.st_size
    out.changed_ns = nanoseconds(&status.st_ctim)
    out.modified_ns = nanoseconds(&status.st_mtim)
    return <int>status.st_mode


cdef int same_file(const FileIdentity *one, const FileIdentity *other) noexcept nogil:
    """The same file with the same content: a write moves the change time, which nobody can set."""
    return (
        one.device == other.device and one.inode == other.inode and one.size == other.size
        and one.changed_ns == other.changed_ns and one.modified_ns == other.modified_ns
    )


cdef int format_own_descriptor(char *into, long descriptor) noexcept nogil:
    """Writes the path (64 bytes are enough) of a descriptor of ours. Returns the length."""
    memcpy(into, <const char *>b"/proc/thread-self/fd/", 21)
    return 21 + put_number(into + 21, descriptor)


cdef long open_own_table() noexcept nogil:
    """The directory in which the calling task's descriptors are: to look one up there takes 2 us less. Returns it, or
    0 where that cannot be had."""
    cdef long opened = raw_syscall(
        SYS_openat, AT_FDCWD, <long><const char *>b"/proc/thread-self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0, 0
    )
    cdef long moved
    if 0 <= opened < 3:          # 0 says that there is none; the lower ones are left free, as everywhere
        moved = raw_syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 3, 0, 0, 0)
        raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
        opened = moved
    return opened if opened > 0 else 0


cdef long own_descriptor(char *into, long own_table, long descriptor) noexcept nogil:
    """Writes how a descriptor of ours is called in `own_table`, or, if that is 0, its path. Returns the directory."""
    if own_table > 0:
        put_number(into, descriptor)
        return own_table
    format_own_descriptor(into, descriptor)
    return AT_FDCWD


cdef long real_path_in(long own_table, long descriptor, char *into) noexcept nogil:
    """The path, without links, of what a descriptor of ours refers to, in MAX_PATH bytes. Returns its length or
    -errno."""
    cdef char link[64]
    cdef long directory = own_descriptor(link, own_table, descriptor)
    cdef long length = raw_syscall(SYS_readlinkat, directory, <long>link, <long>into, MAX_PATH - 1, 0, 0)
    if length >= 0:
        into[length] = 0
    return length


cdef long real_path(long descriptor, char *into) noexcept nogil:
    """The same, once."""
    return real_path_in(0, descriptor, into)


cdef int may_write(const Ruleset *guest, const char *path) noexcept nogil:
    """Whether a rule lets the program write the file with this path; in doubt it may."""
    cdef const char *granted
    cdef size_t length
    cdef int i
    for i in range(guest.path_count):
        if not guest.paths[i].access & ACCESS_WRITE_FILE:
            continue
        granted = guest.paths[i].path if guest.paths[i].root == NULL else guest.paths[i].root
        length = strlen(granted)
        while length > 0 and granted[length - 1] == 47:    # '/'
            length -= 1
        if strncmp(path, granted, length) == 0 and (path[length] == 47 or path[length] == 0):
            return 1
    return not guest.present


cdef int is_executable(long descriptor) noexcept nogil:
    """0, or -EACCES for what no exec would take: a directory, a file without the x bit, a mount with noexec."""
    cdef long result = raw_syscall(
        SYS_faccessat2, descriptor, <long><const char *>b"", X_OK, AT_EMPTY_PATH | AT_EACCESS, 0, 0
    )
    return 0 if result == 0 or result == -ENOSYS else -EACCES


# The #! chain --------------------------------------------------------------------------------------------------------

cdef int is_blank(char byte) noexcept nogil:
    return byte == 32 or byte == 9


cdef long pread_any(long descriptor, void *into, long size, long offset) noexcept nogil:
    """pread(2) of a file that we have, maybe as O_PATH."""
    cdef char path[64]
    cdef long opened, length = raw_syscall(SYS_pread64, descriptor, <long>into, size, offset, 0, 0)
    if length != -EBADF:
        return length
    format_own_descriptor(path, descriptor)
    opened = raw_syscall(SYS_openat, AT_FDCWD, <long>path, O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0, 0, 0)
    if opened < 0:
        return opened
    length = raw_syscall(SYS_pread64, opened, <long>into, size, offset, 0, 0)
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)
    return length


cdef long read_header(long descriptor, char *into) noexcept nogil:
    """The first bytes of a file that we have, maybe as O_PATH, zeros behind them. Returns how many, or -errno."""
    memset(into, 0, HEADER)
    return pread_any(descriptor, into, HEADER, 0)


cdef int parse_interpreter(char *header, char **interpreter, char **argument) noexcept nogil:
    """Cuts a #! line in place, as load_script (fs/binfmt_script.c) does. Returns 0 or -ENOEXEC."""
    cdef char *at = header + 2
    cdef char *end = header + 2
    cdef char *last = header + HEADER - 1
    while end < last and end[0] != 10 and end[0] != 0:
        end += 1
    if end == last and end[0] != 10 and end[0] != 0:
        # Cut off by the kernel's buffer: the interpreter's name at least must be whole.
        while at < end and is_blank(at[0]):
            at += 1
        while at < end and not is_blank(at[0]):
            at += 1
        if at == end:
            return -ENOEXEC
        at = header + 2
    while end > at and is_blank(end[-1]):
        end -= 1
    end[0] = 0
    while is_blank(at[0]):
        at += 1
    if at[0] == 0:
        return -ENOEXEC
    interpreter[0] = at
    argument[0] = NULL
    while at[0] != 0 and not is_blank(at[0]):
        at += 1
    if at[0] == 0:
        return 0
    at[0] = 0
    at += 1
    while is_blank(at[0]):
        at += 1
    if at[0] != 0:
        argument[0] = at
    return 0


cdef int put_in_front(Prefix *prefix, const char *word) noexcept nogil:
    cdef size_t length = strlen(word) + 1
    cdef int i
    if prefix.length + length > MAX_PREFIX:
        return -ENAMETOOLONG
    i = prefix.length - 1
    while i >= 0:
        prefix.words[i + <int>length] = prefix.words[i]
        i -= 1
    memcpy(prefix.words, word, length)
    prefix.length += <int>length
    prefix.count += 1
    return 0


cdef int note_interpreter(const Viewer *viewer, Prefix *prefix, long descriptor) noexcept nogil:
    """Writes down which file the interpreter is whose word was put in front last. Returns 0 or -errno."""
    cdef char path[MAX_PATH]
    cdef long length = seen_path(viewer, descriptor, path)
    if length < 0:
        return <int>length
    if prefix.levels == MAX_LEVELS or prefix.files_length + length + 1 > MAX_FILES:
        return -ENAMETOOLONG
    memcpy(prefix.files + prefix.files_length, path, length + 1)
    prefix.files_length += <int>length + 1
    prefix.rests[prefix.levels] = prefix.count
    prefix.levels += 1
    return 0


cdef int name_for_interpreter(int directory, const char *path, char *out) noexcept nogil:
    """What the kernel tells an interpreter that its script is called (bprm.filename, fs/exec.c)."""
    cdef int at
    if path[0] == 47 or directory == AT_FDCWD:
        if strlen(path) >= MAX_PREFIX:
            return -ENAMETOOLONG
        memcpy(out, path, strlen(path) + 1)
        return 0
    memcpy(out, <const char *>b"/dev/fd/", 8)
    at = 8 + put_number(out + 8, directory)
    if path[0] != 0:
        if at + 2 + strlen(path) >= MAX_PREFIX:
            return -ENAMETOOLONG
        out[at] = 47
        memcpy(out + at + 1, path, strlen(path) + 1)
    return 0


cdef int named_loader(long descriptor, const char *header, char *into) noexcept nogil:
    """The loader that an ELF program (of 64 bits) names in its PT_INTERP, in MAX_PATH bytes. Returns whether it does;
    a program with more headers than usual is not looked at."""
    cdef ProgramHeader headers[MAX_HEADERS]
    cdef const ElfHeader *elf = <const ElfHeader *>header
    cdef long length
    cdef int i
    if memcmp(header, <const char *>b"\x7fELF\x02", 5) != 0 or elf.e_phentsize != sizeof(ProgramHeader):
        return 0
    length = elf.e_phnum * sizeof(ProgramHeader)
    if elf.e_phnum > MAX_HEADERS or pread_any(descriptor, headers, length, <long>elf.e_phoff) != length:
        return 0
    for i in range(elf.e_phnum):
        if headers[i].p_type != PT_INTERP or not 2 <= headers[i].p_filesz <= MAX_PATH:
            continue
        length = <long>headers[i].p_filesz
        if pread_any(descriptor, into, length, <long>headers[i].p_offset) != length or into[length - 1] != 0:
            return 0
        return into[0] != 0
    return 0


cdef void note_loader(const Viewer *viewer, long descriptor, const char *header, Prefix *prefix) noexcept nogil:
    """Writes down which file the loader is. What cannot be told here is seen when it is loaded."""
    cdef char name[MAX_PATH]
    cdef long opened
    if not prefix.wants_loader or not named_loader(descriptor, header, name):
        return
    opened = open_named(viewer, AT_FDCWD, name, 0)
    if opened < 0:
        prefix.lacks_loader = 1
        return
    prefix.has_loader = identify(opened, &prefix.loader_file) >= 0 and real_path(opened, prefix.loader) >= 0
    raw_syscall(SYS_close, opened, 0, 0, 0, 0, 0)


cdef int follow_interpreters(const Viewer *viewer, const char *name, Resolved *out) noexcept nogil:
    """Follows #! lines from an open script to what the kernel will load, which is `out.opened` then. Returns 0 or
    -errno."""
    cdef char header[HEADER]
    cdef char *interpreter = NULL
    cdef char *argument = NULL
    cdef Prefix *prefix = &out.prefix
    cdef int level, result = 0
    for level in range(MAX_LEVELS + 1):
        if read_header(out.opened, header) < 2 or header[0] != 35 or header[1] != 33:    # "#!"
            note_loader(viewer, out.opened, header, prefix)
            return 0
        if level == MAX_LEVELS:
            return -ELOOP
        if level == 0:
            result = put_in_front(prefix, name)
        if result == 0:
            result = parse_interpreter(header, &interpreter, &argument)
        if result == 0 and argument != NULL:
            result = put_in_front(prefix, argument)
        if result == 0:
            result = put_in_front(prefix, interpreter)
        if result < 0:
            return result
        raw_syscall(SYS_close, out.opened, 0, 0, 0, 0, 0)
        out.opened = open_program(viewer, AT_FDCWD, interpreter, 0)
        if out.opened < 0:
            return <int>out.opened
        result = is_executable(out.opened)
        if result == 0:
            result = identify(out.opened, &out.runs)
        if result >= 0:
            result = note_interpreter(viewer, prefix, out.opened)
        if result < 0:
            return result
    return result


cdef int look_at_named(const Viewer *viewer, Resolved *out) noexcept nogil:
    """Returns 0, or what an exec of this file ends with."""
    cdef int result = identify(out.opened, &out.named)
    if result < 0:
        return result
    out.exe_length = seen_path(viewer, out.opened, out.exe)
    if out.exe_length < 0:
        return <int>out.exe_length
    if (<unsigned int>result & S_IFMT) == S_IFLNK:
        return -ELOOP
    if (<unsigned int>result & S_IFMT) != S_IFREG:
        return -EACCES
    out.runs = out.named
    return is_executable(out.opened)


cdef int resolve_program(
    const Viewer *viewer, int directory, const char *path, int flags, Resolved *out
) noexcept nogil:
    """What an exec of the caller will run. Returns 0, and `out.opened` is to be closed; or the -errno that the exec
    would end with."""
    cdef char name[MAX_PREFIX]
    cdef int result
    out.prefix.count = out.prefix.length = out.prefix.levels = out.prefix.files_length = out.prefix.has_loader = 0
    out.prefix.lacks_loader = out.exe_length = 0
    out.opened = open_program(viewer, directory, path, flags)
    if out.opened < 0:
        return <int>out.opened
    result = look_at_named(viewer, out)
    if result == 0:
        result = name_for_interpreter(directory, path, name)
        if result == -ENAMETOOLONG:     # no script could be told its name; a program has no such name
            name[0] = 0
        result = follow_interpreters(viewer, name, out)
        if result == 0 and viewer.root != NULL and out.prefix.count > 0 and directory != AT_FDCWD and path[0] != 47:
            result = -ENOENT if is_closed_by_exec(viewer.tid, directory) else 0      # as the kernel has it
    if result < 0 and out.opened >= 0:
        raw_syscall(SYS_close, out.opened, 0, 0, 0, 0, 0)
        out.opened = -1
    return result
