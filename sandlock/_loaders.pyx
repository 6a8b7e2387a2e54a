"""Which loader (PT_INTERP) an ELF file wants, and what words that loader understands.

Rules: raw system calls only. What is no program of this machine is -ENOEXEC, as the kernel has it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from sandlock._linux cimport SYS_pread64, raw_syscall

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EBADF
    const int ENOEXEC

cdef extern from * nogil:
    """
    #include <elf.h>
    #if defined(__x86_64__)
    #define SANDLOCK_MACHINE EM_X86_64
    #elif defined(__aarch64__)
    #define SANDLOCK_MACHINE EM_AARCH64
    #else
    #error "sandlock knows x86-64 and aarch64"
    #endif
    """
    const int MACHINE "SANDLOCK_MACHINE"
    const int ELFCLASS64
    const int ET_DYN
    const int ET_EXEC
    const int PT_INTERP
    ctypedef struct Header "Elf64_Ehdr":
        uint8_t e_ident[16]
        uint16_t e_type
        uint16_t e_machine
        uint64_t e_phoff
        uint16_t e_phentsize
        uint16_t e_phnum
    ctypedef struct Segment "Elf64_Phdr":
        uint32_t p_type
        uint64_t p_offset
        uint64_t p_filesz

cdef enum:
    CLASS = 4                # EI_CLASS
    BLOCK = 8192
    MAX_LOOKED_AT = 4194304  # of a loader, several times what one has: the lane may not read for ever
    MAX_SEGMENTS = 1170      # in 64 KiB, fs/binfmt_elf.c: load_elf_phdrs


cdef long read_at(long descriptor, uint64_t offset, void *into, size_t size) noexcept nogil:
    """Reads exactly so much, or returns -errno."""
    cdef long got = raw_syscall(SYS_pread64, descriptor, <long>into, <long>size, <long>offset, 0, 0)
    if got == -EBADF:        # open as a place only: it may be executed, but not read
        return -EACCES
    return 0 if got == <long>size else -ENOEXEC


cdef int read_loader(long program, char *name) noexcept nogil:
    """Reads the path of the loader that an open program wants, into MAX_LOADER bytes. Returns 1; 0 if it wants none; or
    -errno."""
    cdef Header header
    cdef Segment segment
    cdef long result = read_at(program, 0, &header, sizeof(header))
    cdef int i
    if result < 0:
        return <int>result
    if (
        memcmp(header.e_ident, b"\x7fELF", 4) != 0 or header.e_ident[CLASS] != ELFCLASS64
        or header.e_machine != MACHINE or header.e_phentsize != sizeof(Segment) or header.e_phnum > MAX_SEGMENTS
        or (header.e_type != ET_EXEC and header.e_type != ET_DYN)
    ):
        return -ENOEXEC
    for i in range(header.e_phnum):
        if read_at(program, header.e_phoff + <uint64_t>i * sizeof(segment), &segment, sizeof(segment)) < 0:
            return -ENOEXEC
        if segment.p_type != PT_INTERP:
            continue
        if segment.p_filesz < 2 or segment.p_filesz > MAX_LOADER:
            return -ENOEXEC
        if read_at(program, segment.p_offset, name, segment.p_filesz) < 0 or name[segment.p_filesz - 1] != 0:
            return -ENOEXEC
        return 1
    return 0


cdef int holds(const char *block, size_t size, const char *word, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(size - length + 1 if size >= length else 0):
        if block[i] == word[0] and memcmp(block + i, word, length) == 0:
            return 1
    return 0


cdef int takes_name(long loader) noexcept nogil:
    """Whether a loader can be told what its program shall be called: glibc's since 2.33 has the option for that among
    its texts, and earlier ones have others; musl's has had it for long."""
    cdef char block[BLOCK]
    cdef long got
    cdef uint64_t offset = 0
    cdef int is_old = 0
    while offset < MAX_LOOKED_AT:
        got = raw_syscall(SYS_pread64, loader, <long>block, BLOCK, <long>offset, 0, 0)
        if got <= 0:
            return not is_old
        if holds(block, <size_t>got, b"--argv0", 8):
            return 1
        is_old |= holds(block, <size_t>got, b"--inhibit-rpath", 16)
        if got < BLOCK:
            return not is_old
        offset += BLOCK - 32     # a word may lie across two blocks
    return not is_old
