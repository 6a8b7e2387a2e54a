# The structures that the launch, the fast lane and Python share. A Program is immutable and belongs to a plan; a
# Run belongs to one command. Both are plain C: they are read by code that has no interpreter.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t, uint8_t
from posix.types cimport pid_t

from sandlock._linux cimport FilterProgram, RulesetAttr

cdef enum:
    MAX_SYSCALLS = 1024
    MAX_RULES = 256
    MAX_RLIMITS = 20
    MAX_MOUNTS = 64          # _virtual_paths.MAX_MOUNTS

# What the core does with a trapped syscall. Facts for these rules come from registers and descriptors only.
cdef enum RuleKind:
    RULE_DENY = 0            # no rule: denied, counted (fail closed)
    RULE_ERRNO = 1
    RULE_VALUE = 2
    RULE_CONTINUE = 3
    RULE_INJECT = 4
    RULE_HOLD = 5
    RULE_KILL_TASK = 6
    RULE_KILL_TREE = 7
    RULE_COUNT_FORK = 8
    RULE_LISTEN = 9
    RULE_OBSERVE_EXEC = 10
    RULE_OBSERVE_START = 11
    RULE_ADD_RESTART = 12
    RULE_VET_EXEC = 13
    RULE_VET_SOCKET = 14
    RULE_VET_FORK = 15
    RULE_HANDLE = 16         # by a handler of the user, of this number
    RULE_VET_WRITE = 17      # opens that could write
    RULE_VET_OPEN = 18       # all opens
    RULE_PATH = 19           # a path call, carried out by the supervisor
    RULE_TELL_NAMES = 20     # uname, with the policy's name of the machine
    RULE_TELL_RESOURCES = 21  # sysinfo, without what others do

cdef struct Rule:
    RuleKind kind
    int64_t value            # errno, return value, host descriptor or number of a handler, by kind

cdef struct PathRule:
    const char *path
    uint64_t access
    int optional             # a missing path is not an error
    const char *root         # not NULL: `path` is relative to this writable grant, and no link is followed

cdef struct PortRule:
    uint64_t port
    uint64_t access

cdef struct Ruleset:
    int present
    RulesetAttr attr
    int path_count
    PathRule *paths
    int port_count
    PortRule *ports

# Of the network, in the order of the policy. A rule of several spans of ports is several of these.
cdef struct NetRule:
    int allow                # else it denies, and wins
    int binds                # about bind and listen, else about where to connect and send
    int protocols            # bits: enum Protocols
    int width                # of `bytes`: 0 any address, 4 or 16
    int prefix               # how many bits of it count
    uint8_t bytes[16]
    uint16_t first_port
    uint16_t last_port
    int abstract             # PROTOCOL_UNIX: `path` is an abstract name
    int path_length
    const char *path         # PROTOCOL_UNIX: the socket, or a directory above it
    int host                 # not 0: only what this name of the policy led to, by its number (_pins)

cdef struct NetRules:
    int base                 # the number of the first one
    int count
    NetRule *rules

cdef enum Protocols:
    PROTOCOL_TCP = 1
    PROTOCOL_UDP = 2
    PROTOCOL_ICMP = 4
    PROTOCOL_UNIX = 8

cdef enum RuleAction:
    ON_EXEC_DENY = 0
    ON_EXEC_ASK = 1
    ON_EXEC_ALLOW = 2

# Of programs. NULL stands for any program, or for a file that is not known.
cdef struct ExecRule:
    int action               # enum RuleAction
    int by_path              # `program` is a path, else a file's name
    const char *program
    const char *exe
    int further              # any words may follow
    int word_count
    const char *words        # each with its NUL

# A directory or file of the host that the program sees at another place. Paths are without links, and have no '/' at
# their end: "" is a root directory.
cdef struct VirtualMount:
    const char *seen_at
    size_t seen_length
    const char *real
    size_t real_length
    int read_only
    int owner                # the mount that its place is in; -1: it is the root
    const char *above        # the directory of its place, from the owner's
    const char *place        # the real path of what it hides there
    size_t place_length
    const char *name         # the last one in `place`
    int absent               # there is nothing in its place
    int descriptor           # O_PATH

# The program's root directory, and what is mounted in it: those with the longest `seen_at` first, the root last.
cdef struct VirtualRoot:
    int count
    VirtualMount mounts[MAX_MOUNTS]

cdef struct ResourceLimit:
    int resource
    uint64_t soft
    uint64_t hard

cdef struct Program:
    FilterProgram filter
    int needs_listener
    int wait_killable        # the kernel has SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    Ruleset supervisor       # D1: the init and the supervisor threads
    Ruleset guest            # D2: the program and all that it starts
    int signal_scope         # D1 has LANDLOCK_SCOPE_SIGNAL
    uint64_t keep_capabilities
    int umask                # -1: inherited
    int no_huge_pages
    unsigned long personality  # ~0: inherited
    int cpu_bytes
    uint8_t cpus[128]
    int rlimit_count
    ResourceLimit rlimits[MAX_RLIMITS]
    int map_ids              # a user namespace with one user and one group
    int64_t shown_user       # that the program sees itself as there, -1 for the host's
    int64_t shown_group
    int max_processes        # 0: not counted
    int record_execs
    int record_paths         # what is done to files goes on record
    int vets                 # calls are decided by rules or verdicts, and some wait
    int vets_exec            # each exec is decided, and attested
    int private_proc         # /proc has no processes but the tree's
    char hostname[65]        # what RULE_TELL_NAMES tells
    int asks_network         # what no rule of the network decides waits for a verdict
    int vets_network
    int mediates             # path calls are carried out by the supervisor
    int looks_up             # lookups of names are led to a resolver of ours
    int exec_otherwise       # enum Decision, where no exec rule matches
    int exec_rule_count
    ExecRule *exec_rules
    NetRules net_rules
    uint8_t rule_of[MAX_SYSCALLS]
    Rule rules[MAX_RULES]

cdef struct Run:
    const Program *program
    const char *const *executables   # candidates, in PATH order, NULL-terminated
    const char *const *argv
    const char *const *envp
    const char *cwd                  # NULL: inherited
    int directory                    # a descriptor of it instead, in a virtual root, else -1
    const VirtualRoot *virtual_root  # NULL: the program sees the host's
    int stdio[3]
    int new_session
    int controlling_terminal         # descriptor of a pty slave, or -1
    int control_host                 # our end of the control socket
    int control_init                 # the init's end, in the warden's table
    int control_init_copy            # the same in ours, until the launch is over
    int host_pidfd
    uint64_t memory_total            # what RULE_TELL_RESOURCES tells, in bytes
    uint64_t memory_free
    pid_t host_pid
    pid_t lane                       # the supervisor's thread, 0 without one
    pid_t host_group                 # the host's process group
    int64_t deadline_ms              # -1: none
    const uint8_t *init_image
    size_t init_size
    char *launch_stack
    char *guest_stack
    size_t stack_size
    int handlers_cleared             # clone3 has reset the host's signal handlers in the warden

    # Written by the launch, read by others.
    int warden                       # pid of the launching task, later of the init
    int warden_lives                 # cleared and woken by the kernel when the launch has let go of our memory
    int guest
    int guest_shares                 # cleared and woken by the kernel when the guest has let go of our memory
    int stage                        # enum Stage
    int provided                     # futex: 1 argv, stdio and cwd are set, -1 they never will be
    int mapped                       # futex: 1 the maps are written, -1 they could not be
    int cancelled
    int alone                        # the guest has a descriptor table of its own: killing it leaks nothing here
    int step
    int error
    int subject
    int listener
    int host_listener                # not -1: the host's copy, of the same number; the fast lane has its own
    int one_user                     # nobody can become another user: real, effective and saved ids are the same

cdef enum Stage:
    STAGE_STARTING = 0
    STAGE_LISTENING = 1
    STAGE_LAUNCHED = 2
    STAGE_FAILED = 3

# The steps of a launch, as errors name them (_launch.STEPS has the words).
cdef enum Step:
    STEP_THREAD = 1
    STEP_NO_NEW_PRIVS = 2
    STEP_CAPABILITIES = 3
    STEP_SUPERVISOR_RULESET = 4
    STEP_SUPERVISOR_RULE = 5
    STEP_SUPERVISOR_RESTRICT = 6
    STEP_CLONE_GUEST = 7
    STEP_SESSION = 8
    STEP_TERMINAL = 9
    STEP_CWD = 10
    STEP_RLIMIT = 11
    STEP_AFFINITY = 12
    STEP_PERSONALITY = 13
    STEP_HUGE_PAGES = 14
    STEP_ID_MAP = 15
    STEP_GUEST_RULESET = 16
    STEP_GUEST_RULE = 17
    STEP_GUEST_RESTRICT = 18
    STEP_FILTER = 19
    STEP_DESCRIPTORS = 20
    STEP_STDIO = 21
    STEP_EXEC = 22
    STEP_INIT = 23
    STEP_CLONE = 24


cdef inline int fail(Run *run, int step, long error, int subject=-1) noexcept nogil:
    """Records the first failure; answers -1 for the caller to pass on."""
    if run.step == 0:
        run.step = step
        run.error = <int>-error
        run.subject = subject
    return -1
