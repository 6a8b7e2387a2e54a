"""What a process runs and who it is, as /proc shows it at this moment; and how a zombie ended.

For observation only: what /proc says may be another thing a moment later. Native, without the GIL.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from posix.types cimport pid_t

from sandlock._linux cimport SYS_close, SYS_openat, SYS_pidfd_send_signal, SYS_read, raw_syscall
from sandlock._tasks cimport format_proc_path, put_number, read_proc_file

cdef extern from "<errno.h>" nogil:
    const int ENOENT

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CLOEXEC
    const int O_NOCTTY
    const int O_NONBLOCK

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    """
    const int X_OK
    const long SYS_faccessat
    const long SYS_readlinkat

cdef enum:
    STAT_SIZE = 1024
    STAT_FIELDS = 53         # proc_pid_stat(5) counts from 1
    NO_STATUS = -1


cdef inline uint64_t mix(uint64_t hash, uint64_t value) noexcept nogil:
    return (hash ^ value) * <uint64_t>0x100000001B3    # FNV-1a, by words


cdef long read_link(pid_t pid, const char *name, char *into, size_t size) noexcept nogil:
    """The target of a link in /proc/PID, not terminated. Returns the length or -errno."""
    cdef char path[64]
    format_proc_path(path, pid, name)
    return raw_syscall(SYS_readlinkat, AT_FDCWD, <long>path, <long>into, <long>size, 0, 0)


cdef char split_stat(const char *stat, long length, uint64_t *fields) noexcept nogil:
    """The numbers of a /proc/PID/stat line from field 4 on. Returns the state, 0 if it is no such line."""
    cdef long at = length - 1
    cdef int field = 4
    cdef char state
    while at >= 0 and stat[at] != 41:    # the last ')': a name may hold any byte
        at -= 1
    if at < 0 or at + 4 >= length:
        return 0
    state = stat[at + 2]
    at += 4
    while at < length and field < STAT_FIELDS:
        if 48 <= stat[at] <= 57:
            fields[field] = fields[field] * 10 + <uint64_t>(stat[at] - 48)
        elif stat[at] == 32:
            field += 1
        at += 1
    return state


cdef int look(pid_t pid, Glance *glance) noexcept nogil:
    """Returns 0, or -1 when there is no such process."""
    cdef char path[64]
    cdef char stat[STAT_SIZE]
    cdef char exe[MAX_PATH]
    cdef uint64_t fields[STAT_FIELDS]
    cdef long length, exe_length, i
    memset(fields, 0, sizeof(fields))
    # First the file, then the memory: if an exec comes between the two, the memory is new and tells whether the
    # exec is through. The other way round old memory and a new file looked like a new program.
    exe_length = read_link(pid, b"exe", exe, sizeof(exe))
    format_proc_path(path, pid, b"stat")
    length = read_proc_file(path, stat, sizeof(stat))
    if length <= 0:
        return -1
    glance.state = split_stat(stat, length, fields)
    if glance.state == 0:
        return -1
    glance.parent = <pid_t>fields[4]
    glance.start_time = fields[22]
    glance.exit_status = <int>fields[52]
    glance.image = 0
    # The end of the environment is what execve writes last; it is 0 before, and for who may not see it.
    if fields[51] == 0 or exe_length < 0:
        return 0
    glance.image = mix(mix(mix(<uint64_t>0xCBF29CE484222325, fields[26]), fields[28]), fields[48])
    glance.image = mix(mix(glance.image, fields[49]), fields[51])
    for i in range(exe_length):
        glance.image = mix(glance.image, <unsigned char>exe[i])
    glance.image |= 1
    return 0


cdef int read_loaded(pid_t pid, Loaded *loaded) noexcept nogil:
    """What the kernel loaded into a process. Returns 0, or -1 if that cannot be seen (an unreadable file, or gone)."""
    cdef char path[64]
    cdef long length = read_link(pid, b"exe", loaded.exe, sizeof(loaded.exe))
    if length <= 0:
        return -1
    loaded.exe_length = <int>length
    format_proc_path(path, pid, b"cmdline")
    length = read_proc_file(path, loaded.argv, sizeof(loaded.argv))
    if length < 0:
        return -1
    loaded.truncated = length > MAX_ARGV
    loaded.argv_length = <int>length if length <= MAX_ARGV else MAX_ARGV
    return 0


cdef int zombie_status(pid_t pid, int descriptor) noexcept nogil:
    """The wait status of a process that ended and was not reaped yet, or NO_STATUS."""
    cdef Glance glance
    cdef char link[8]
    if look(pid, &glance) < 0 or (glance.state != 90 and glance.state != 88):    # 'Z', 'X'
        return NO_STATUS
    # Who may not see the status is shown 0; such a one may not follow the link either. A zombie's leads nowhere.
    if read_link(pid, b"exe", link, sizeof(link)) != -ENOENT:
        return NO_STATUS
    # What was read was this process's, if it is still there now.
    if raw_syscall(SYS_pidfd_send_signal, descriptor, 0, 0, 0, 0, 0) != 0:
        return NO_STATUS
    return glance.exit_status


cdef long absolute_path(pid_t tid, int directory, char *path, long length) noexcept nogil:
    """Puts a directory of the caller before a relative path (MAX_PATH bytes). Returns the length, 0 if it has none."""
    cdef char name[24]
    cdef char base[MAX_PATH]
    cdef long base_length
    if length > 0 and path[0] == 47:
        return length
    if directory == AT_FDCWD:
        base_length = read_link(tid, b"cwd", base, sizeof(base))
    elif directory < 0:
        return 0
    else:
        memcpy(name, <const char *>b"fd/", 3)
        put_number(name + 3, directory)
        base_length = read_link(tid, name, base, sizeof(base))
    if base_length <= 0 or base_length + length + 2 > MAX_PATH:
        return 0
    if length > 0:
        base[base_length] = 47
        memcpy(base + base_length + 1, path, <size_t>length)
        base_length += length + 1
    memcpy(path, base, <size_t>base_length)
    return base_length


cdef int looks_executable(const char *path) noexcept nogil:
    """Whether an exec of this file may have worked: for what ended before it could be looked at.

    In the run's domain, so no more is opened than the policy lets the tree read."""
    cdef char magic[4]
    cdef long fd, length
    if path[0] != 47:    # '/'
        return 0
    if raw_syscall(SYS_faccessat, AT_FDCWD, <long>path, X_OK, 0, 0, 0) != 0:
        return 0
    fd = raw_syscall(SYS_openat, AT_FDCWD, <long>path, O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0, 0, 0)
    if fd < 0:
        return 0
    length = raw_syscall(SYS_read, fd, <long>magic, sizeof(magic), 0, 0, 0)
    raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0)
    if length != sizeof(magic):
        return 0
    if magic[0] == 35 and magic[1] == 33:    # "#!"
        return 1
    return magic[0] == 127 and magic[1] == 69 and magic[2] == 76 and magic[3] == 70    # ELF
