"""Users and groups by their numbers: what the program calls them, and what the host does. They differ in a user
namespace (policy: uid, gid), which knows one of each: user_namespaces(7).
"""

from libc.stdint cimport int64_t, uint32_t

from sandlock._linux cimport call0
from sandlock._run cimport Run

cdef extern from "<errno.h>" nogil:
    const int EINVAL

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    """
    const long SYS_getegid
    const long SYS_geteuid

cdef enum:
    OVERFLOW = 65534         # who is not known in a namespace: /proc/sys/kernel/overflowuid, overflowgid

cdef uint32_t NOBODY = 0xFFFFFFFF      # "leave it as it is"


cdef long translate_in(long own, int64_t shown, uint32_t number) noexcept nogil:
    if number == NOBODY:
        return <long>number
    return own if <int64_t>number == (own if shown < 0 else shown) else -EINVAL


cdef uint32_t translate_out(long own, int64_t shown, uint32_t number) noexcept nogil:
    if <long>number != own:
        return OVERFLOW
    return <uint32_t>own if shown < 0 else <uint32_t>shown


cdef long user_from(const Run *run, uint32_t user) noexcept nogil:
    """A user that the program names. Returns its number on the host, or -EINVAL."""
    return translate_in(call0(SYS_geteuid), run.program.shown_user, user) if run.program.map_ids else <long>user


cdef long group_from(const Run *run, uint32_t group) noexcept nogil:
    return translate_in(call0(SYS_getegid), run.program.shown_group, group) if run.program.map_ids else <long>group


cdef uint32_t user_for(const Run *run, uint32_t user) noexcept nogil:
    """What the program calls a user of the host."""
    return translate_out(call0(SYS_geteuid), run.program.shown_user, user) if run.program.map_ids else user


cdef uint32_t group_for(const Run *run, uint32_t group) noexcept nogil:
    return translate_out(call0(SYS_getegid), run.program.shown_group, group) if run.program.map_ids else group
