"""What a task gives up: its capabilities, and what a Landlock ruleset leaves out. Raw system calls only, because
this runs on the memory of a live host (see _launch).
"""

from libc.stdint cimport uint32_t, uint64_t

from sandlock._linux cimport (
    NetPortAttr, PathBeneathAttr, SYS_capget, SYS_capset, SYS_close, SYS_landlock_add_rule, SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self, SYS_openat, SYS_openat2, call1, call2, call3, call4, set_prctl,
)
from sandlock._run cimport (
    PathRule, Program, Ruleset, Run, STEP_CAPABILITIES, STEP_NO_NEW_PRIVS, STEP_SUPERVISOR_RESTRICT,
    STEP_SUPERVISOR_RULE, STEP_SUPERVISOR_RULESET, fail,
)

cdef extern from "<errno.h>" nogil:
    const int EACCES
    const int EINVAL
    const int ELOOP
    const int ENOENT
    const int ENOTDIR
    const int EPERM
    const int EXDEV

cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_CLOEXEC

cdef extern from * nogil:
    """
    #include <linux/prctl.h>
    #include <linux/securebits.h>
    #define SANDLOCK_O_PATH 010000000
    #define SANDLOCK_CAP_VERSION 0x20080522
    /* The rights that a file (not a directory) can carry: EXECUTE WRITE_FILE READ_FILE TRUNCATE IOCTL_DEV. */
    #define SANDLOCK_FILE_RIGHTS ((1ULL << 0) | (1ULL << 1) | (1ULL << 2) | (1ULL << 14) | (1ULL << 15))
    #define SANDLOCK_SECUREBITS (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | \
        SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | \
        SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)
    """
    const int O_PATH "SANDLOCK_O_PATH"
    const unsigned int CAP_VERSION "SANDLOCK_CAP_VERSION"
    const uint64_t FILE_RIGHTS "SANDLOCK_FILE_RIGHTS"
    const unsigned long SECUREBITS "SANDLOCK_SECUREBITS"
    const int PR_SET_NO_NEW_PRIVS
    const int PR_CAPBSET_DROP
    const int PR_SET_SECUREBITS
    const int PR_CAP_AMBIENT
    const int PR_CAP_AMBIENT_CLEAR_ALL

cdef extern from "<linux/openat2.h>" nogil:
    ctypedef struct OpenHow "struct open_how":
        unsigned long long flags
        unsigned long long mode
        unsigned long long resolve
    const unsigned long long RESOLVE_BENEATH
    const unsigned long long RESOLVE_NO_SYMLINKS

cdef enum:
    LANDLOCK_RULE_PATH_BENEATH = 1
    LANDLOCK_RULE_NET_PORT = 2

cdef struct CapabilityHeader:
    uint32_t version
    int pid

cdef struct CapabilitySet:
    uint32_t effective
    uint32_t permitted
    uint32_t inheritable


cdef int drop_capabilities(const Program *program) noexcept nogil:
    """Drops every capability that the policy does not keep, in all sets, for good. Returns 0 or -errno.

    The bounding set and the securebits need CAP_SETPCAP (capabilities(7)). Without it they stay as they are, and
    no_new_privs keeps an exec from gaining anything: it intersects with the permitted set, which is emptied here.
    """
    cdef CapabilityHeader header
    cdef CapabilitySet sets[2]
    cdef uint64_t keep = program.keep_capabilities
    cdef long capability, result
    for capability in range(64):
        if not (keep >> capability) & 1:
            result = set_prctl(PR_CAPBSET_DROP, capability, 0)
            if result == -EINVAL or result == -EPERM:     # beyond the last capability; without CAP_SETPCAP
                break
            if result < 0:
                return <int>result
    result = set_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)
    if result < 0:
        return <int>result
    if keep == 0:
        result = set_prctl(PR_SET_SECUREBITS, SECUREBITS, 0)
        if result < 0 and result != -EPERM:
            return <int>result
    header.version = CAP_VERSION
    header.pid = 0
    result = call2(SYS_capget, <long>&header, <long>sets)
    if result < 0:
        return <int>result
    sets[0].permitted &= <uint32_t>keep
    sets[1].permitted &= <uint32_t>(keep >> 32)
    sets[0].effective = sets[0].permitted
    sets[1].effective = sets[1].permitted
    sets[0].inheritable = sets[1].inheritable = 0
    return <int>call2(SYS_capset, <long>&header, <long>sets)


cdef inline int is_absent(long error) noexcept nogil:
    return error == -ENOENT or error == -EACCES or error == -ENOTDIR or error == -ELOOP or error == -EXDEV


cdef long open_grant(const PathRule *rule) noexcept nogil:
    """The granted object, pinned (O_PATH), or -errno."""
    cdef OpenHow how
    cdef long root, opened
    if rule.root == NULL:
        return call4(SYS_openat, AT_FDCWD, <long>rule.path, O_PATH | O_CLOEXEC, 0)
    # Below a writable grant an earlier run may have put a link in the path's place: openat2(2) refuses it.
    root = call4(SYS_openat, AT_FDCWD, <long>rule.root, O_PATH | O_CLOEXEC, 0)
    if root < 0:
        return root
    how.flags = O_PATH | O_CLOEXEC
    how.mode = 0
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    opened = call4(SYS_openat2, root, <long>rule.path, <long>&how, sizeof(how))
    call1(SYS_close, root)
    return opened


cdef int add_paths(const Ruleset *ruleset, int fd, int *subject) noexcept nogil:
    cdef PathBeneathAttr beneath
    cdef long opened, result
    cdef int i
    for i in range(ruleset.path_count):
        opened = open_grant(&ruleset.paths[i])
        if opened < 0:
            if ruleset.paths[i].optional and is_absent(opened):
                continue
            subject[0] = i
            return <int>opened
        beneath.parent_fd = <int>opened
        beneath.allowed_access = ruleset.paths[i].access
        result = call4(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, <long>&beneath, 0)
        if result == -EINVAL:         # a file cannot carry the rights of a directory: landlock_add_rule(2)
            beneath.allowed_access &= FILE_RIGHTS
            result = call4(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, <long>&beneath, 0)
        call1(SYS_close, opened)
        if result < 0:
            subject[0] = i
            return <int>result
    return 0


cdef int add_ports(const Ruleset *ruleset, int fd) noexcept nogil:
    cdef NetPortAttr attr
    cdef long result
    cdef int i
    for i in range(ruleset.port_count):
        attr.allowed_access = ruleset.ports[i].access
        attr.port = ruleset.ports[i].port
        result = call4(SYS_landlock_add_rule, fd, LANDLOCK_RULE_NET_PORT, <long>&attr, 0)
        if result < 0:
            return <int>result
    return 0


cdef int restrict(Run *run, const Ruleset *ruleset, int step_create, int step_rule, int step_restrict) noexcept nogil:
    """Builds the ruleset and puts the calling task into it."""
    cdef long fd, result
    cdef int subject = -1
    if not ruleset.present:
        return 0
    fd = call3(SYS_landlock_create_ruleset, <long>&ruleset.attr, sizeof(ruleset.attr), 0)
    if fd < 0:
        return fail(run, step_create, fd)
    result = add_paths(ruleset, <int>fd, &subject)
    if result == 0:
        result = add_ports(ruleset, <int>fd)
    if result < 0:
        call1(SYS_close, fd)
        return fail(run, step_rule, result, subject)
    result = call2(SYS_landlock_restrict_self, fd, 0)
    call1(SYS_close, fd)
    if result < 0:
        return fail(run, step_restrict, result)
    return 0


cdef int enter_domain(Run *run) noexcept nogil:
    """Puts the calling task, a supervisor thread or the warden, into the run's outer domain (D1), for good."""
    cdef long result = set_prctl(PR_SET_NO_NEW_PRIVS, 1, 0)
    if result < 0:
        return fail(run, STEP_NO_NEW_PRIVS, result)
    result = drop_capabilities(run.program)
    if result < 0:
        return fail(run, STEP_CAPABILITIES, result)
    return restrict(
        run, &run.program.supervisor, STEP_SUPERVISOR_RULESET, STEP_SUPERVISOR_RULE, STEP_SUPERVISOR_RESTRICT
    )
