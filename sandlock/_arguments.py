"""The syscalls that are decided by their arguments: what exactly is allowed of each.

Rules: registers only; whatever lies in memory cannot be decided here. `int` arguments are compared as the
kernel reads them, by their lower 32 bits. Every name here is `filter` in the table of syscalls, and the
other way round.
"""

from __future__ import annotations

from . import _filter
from ._filter import ALLOW, NOTIFY, any_bit, is_, masked, only_bits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._filter import Answer, Case, Condition

__all__ = ["Network", "answers"]

EPERM = _filter.errno(1)
EACCES = _filter.errno(13)
ENOPROTOOPT = _filter.errno(92)

# linux/sched.h
CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
CLONE_THREAD, CLONE_SYSVSEM = 0x10000, 0x40000
NAMESPACES = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. CLONE_NEWTIME (0x80) lies in the exit
signal of clone(2), which therefore cannot ask for it."""
NO_NAMESPACE = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
"""What unshare(2) may undo: the flags that exist and name no namespace. An allowlist, for flags to come."""

UDP, ICMP, UNIX = 2, 4, 8  # bits of NetRule.protocols

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET = 1, 2, 3, 5
SOCK_TYPE = 0xF
"""The type proper; SOCK_NONBLOCK and SOCK_CLOEXEC are or-ed to it (include/linux/net.h: SOCK_TYPE_MASK)."""
IPPROTO_IP, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_IPV6, IPPROTO_ICMPV6 = 0, 1, 6, 17, 41, 58
NETLINK_ROUTE = 0
TCP_ULP = 31
MSG_FASTOPEN = 0x2000_0000

_TERMINAL = (
    0x5412,  # TIOCSTI: types into the terminal
    0x541C,  # TIOCLINUX: the same, and more, on a console
    0x5423,  # TIOCSETD: another line discipline, parsers in the kernel
    0x541D,  # TIOCCONS: takes the console's output
    0x540C,  # TIOCEXCL: locks the host's terminal
)
# KD* and VT* of the consoles (linux/kd.h, linux/vt.h): keyboard maps, screen modes, switching away.
_CONSOLES = (masked(1, 0xFFFF_FF00, 0x4B00), masked(1, 0xFFFF_FF00, 0x5600))
_INODE_FLAGS = (  # also through a read-only descriptor; the supervisor's (fs-metadata), or nobody's
    0x4008_6602,  # FS_IOC_SETFLAGS: chattr
    0x401C_5820,  # FS_IOC_FSSETXATTR
    0x4008_7602,  # FS_IOC_SETVERSION
    0x4008_6604,  # EXT4_IOC_SETVERSION
)
_INODE = (
    0x4004_6602,  # FS_IOC32_SETFLAGS, FS_IOC32_SETVERSION: some file systems take them from 64-bit programs
    0x4004_7602,
    0x4004_7211,  # FAT_IOCTL_SET_ATTRIBUTES
    0x4080_6685,  # FS_IOC_ENABLE_VERITY: makes a file read-only for ever, through a read-only descriptor
    0x800C_6613,  # FS_IOC_SET_ENCRYPTION_POLICY
)
# BTRFS_IOC_*: subvolumes and snapshots are made and removed through a read-only directory, unseen by
# Landlock.
_BTRFS = masked(1, 0xFF00, 0x9400)
_CLONES = (
    0x4004_9409,  # FICLONE, FICLONERANGE: the target must be open for writing
    0x4020_940D,
    0xC018_9436,  # FIDEDUPERANGE: changes no content
    0x8100_9431,  # FS_IOC_GETFSLABEL
)
# Every socket, a socketpair too, answers the interface ioctls (net/socket.c: sock_ioctl).
_INTERFACES = (masked(1, 0xFFFF_FF00, 0x8900), masked(1, 0xFFFF_FF00, 0x8B00))  # SIOC*, wireless SIOCIW*
_OWN_SOCKET = (
    0x8901, 0x8902, 0x8903, 0x8904,  # FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP: in Landlock's signal scope
    0x8905, 0x8906, 0x8907, 0x894B,  # SIOCATMARK, SIOCGSTAMP, SIOCGSTAMPNS, SIOCOUTQNSD
)  # fmt: skip
_READ_INTERFACE = (
    0x8910, 0x8912, 0x8913, 0x8915,  # SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFADDR
    0x8917, 0x8919, 0x891B, 0x8921,  # SIOCGIFDSTADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK, SIOCGIFMTU
    0x8927, 0x8933, 0x8942,          # SIOCGIFHWADDR, SIOCGIFINDEX, SIOCGIFTXQLEN
)  # fmt: skip

# Where a packet goes must be what was judged: no source routes, and no extension headers that could hold one.
_ROUTES = (
    (IPPROTO_IP, 4),  # IP_OPTIONS
    (IPPROTO_IPV6, 6), (IPPROTO_IPV6, 54), (IPPROTO_IPV6, 55),  # 2292PKTOPTIONS, HOPOPTS, RTHDRDSTOPTS
    (IPPROTO_IPV6, 57), (IPPROTO_IPV6, 59),  # RTHDR, DSTOPTS
)  # fmt: skip

_LEASES = (1024, 1040)  # F_SETLEASE, F_SETDELEG: hold up every open of a file of the user by the host


EVERYBODY = 0xFFFF_FFFF  # kill(-1): every process that the caller may signal

SIGCHLD = 17
NARROW_TRAPS: dict[str, Answer] = {"rt_sigaction": ((((is_(0, SIGCHLD),), NOTIFY),), ALLOW)}
"""Of these trapped syscalls, the supervisor sees only the calls with these arguments."""


class Network:
    """What the filter must know of the network grants: which steps of a connection go on to Landlock."""

    __slots__ = ("any_connect", "bind", "connect", "listen", "protocols", "sockets")

    def __init__(
        self, *, sockets: bool, connect: bool, any_connect: bool, bind: bool, listen: int, protocols: int = 0
    ) -> None:
        self.sockets = sockets
        """Internet sockets may be made."""
        self.connect = connect
        self.any_connect = any_connect
        """Every TCP port may be connected to."""
        self.bind = bind
        self.listen = listen
        """An action: where the grant is for some ports only, the port is looked at by the supervisor."""
        self.protocols = protocols
        """Not 0: the supervisor makes every connection, and sockets of these protocols may be made."""

    @property
    def supervised(self) -> bool:
        """Whether the supervisor decides where each call leads."""
        return self.protocols != 0


def _one_of(argument: int, values: tuple[int, ...], action: int) -> tuple[Case, ...]:
    return tuple(((is_(argument, value),), action) for value in values)


def _allow_only(*alternatives: tuple[Condition, ...], refusal: int = EPERM) -> Answer:
    return tuple((conditions, ALLOW) for conditions in alternatives), refusal


def _clone(count_forks: bool) -> Answer:
    refuse: Case = ((any_bit(0, NAMESPACES),), EPERM)
    if not count_forks:
        return (refuse,), ALLOW
    # A thread is no process. The kernel refuses CLONE_THREAD without CLONE_VM, so it cannot disguise a fork.
    return (refuse, ((any_bit(0, CLONE_THREAD),), ALLOW)), NOTIFY


def _ioctl(granted: bool, inode_flags: int) -> Answer:
    cases = [*_one_of(1, _TERMINAL + _INODE, EPERM), *_one_of(1, _INODE_FLAGS, inode_flags)]
    cases += _one_of(1, _OWN_SOCKET + (_READ_INTERFACE if granted else ()) + _CLONES, ALLOW)
    cases += [((family,), EPERM) for family in (*_CONSOLES, *_INTERFACES, _BTRFS)]
    return tuple(cases), ALLOW


PR_SET_MM = 35


def _prctl(judged: bool, rooted: bool = False) -> Answer:
    forbidden: tuple[int, ...] = (
        28,  # PR_SET_SECUREBITS
        PR_SET_MM,  # argv, environ and exe of /proc/self would lie
        62,  # PR_SCHED_CORE: takes the pid of another task
        0x5961_6D61,  # PR_SET_PTRACER
    )
    if judged:
        forbidden += (4,)  # PR_SET_DUMPABLE: the supervisor could no longer read the caller
    if rooted:  # there they lie without it: at the exec stop, and only there, the supervisor has the program call it
        return (((is_(0, PR_SET_MM),), NOTIFY), *_one_of(0, forbidden, EPERM)), ALLOW
    return _one_of(0, forbidden, EPERM), ALLOW


def _socket(network: Network) -> Answer:
    stream = masked(1, SOCK_TYPE, SOCK_STREAM)
    internet = [
        (is_(0, family), stream, is_(2, protocol)) for family in (AF_INET, AF_INET6) for protocol in (0, IPPROTO_TCP)
    ]
    if not network.sockets:
        internet = []
    datagram = masked(1, SOCK_TYPE, SOCK_DGRAM)
    if network.protocols & UDP:
        internet += [
            (is_(0, family), datagram, is_(2, protocol))
            for family in (AF_INET, AF_INET6)
            for protocol in (0, IPPROTO_UDP)
        ]
    if network.protocols & ICMP:  # "ping sockets", icmp(7)
        internet += [
            (is_(0, AF_INET), datagram, is_(2, IPPROTO_ICMP)),
            (is_(0, AF_INET6), datagram, is_(2, IPPROTO_ICMPV6)),
        ]
    if network.protocols & UNIX:
        kinds = (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)
        internet += [(is_(0, AF_UNIX), masked(1, SOCK_TYPE, kind), is_(2, 0)) for kind in kinds]
    if network.connect or network.bind:  # libc asks it for the machine's addresses; it answers, and changes nothing
        internet += [
            (is_(0, AF_NETLINK), masked(1, SOCK_TYPE, kind), is_(2, NETLINK_ROUTE)) for kind in (SOCK_DGRAM, SOCK_RAW)
        ]
    return _allow_only(*internet, refusal=EACCES)


def _socketpair() -> Answer:
    # No SOCK_DGRAM: such a socket sends to any named socket later on. The others stay connected for good.
    return _allow_only(
        *((is_(0, AF_UNIX), masked(1, SOCK_TYPE, kind), is_(2, 0)) for kind in (SOCK_STREAM, SOCK_SEQPACKET)),
        refusal=EACCES,
    )


def _send(flags: int, network: Network, address: int | None = None) -> Answer:
    """`flags`, `address`: which arguments they are; the latter None where it lies in memory."""
    if network.any_connect and not network.supervised:
        return ALLOW
    refused: Case = ((any_bit(flags, MSG_FASTOPEN),), EACCES)
    if not network.protocols & (UDP | ICMP | UNIX):
        return (refused,), ALLOW
    if address is None:
        return (refused,), NOTIFY
    return (refused, ((only_bits(address, 0),), ALLOW)), NOTIFY


def _setsockopt(network: Network) -> Answer:
    # "smc" there turns a TCP socket into one that Landlock does not know.
    cases: list[Case] = [((is_(1, IPPROTO_TCP), is_(2, TCP_ULP)), ENOPROTOOPT)]
    if network.supervised:
        cases += [((is_(1, level), is_(2, option)), EPERM) for level, option in _ROUTES]
    return tuple(cases), ALLOW


def answers(
    network: Network,
    *,
    judged: bool,
    count_forks: bool,
    signal_scope: bool,
    inode_flags: int = EPERM,
    rooted: bool = False,
) -> dict[str, Answer]:
    """What each syscall that is decided by its arguments answers, by name. `judged`: calls are judged by what lies in
    their caller's memory, which therefore must not be shut. `inode_flags`: the action where they would be set.
    `rooted`: the program has a virtual root."""
    own_task = _allow_only((is_(0, 0),))
    table: dict[str, Answer] = dict.fromkeys(
        (
            "sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr",
            "prlimit64", "get_robust_list", "migrate_pages", "move_pages",
        ),
        own_task,
    )  # fmt: skip
    table |= {
        "clone": _clone(count_forks),
        "unshare": _allow_only((only_bits(0, NO_NAMESPACE),)),
        "setpriority": _allow_only((is_(0, 0), is_(1, 0))),  # PRIO_PROCESS, the caller
        "ioprio_set": _allow_only((is_(0, 1), is_(1, 0))),  # IOPRIO_WHO_PROCESS, the caller
        "prctl": _prctl(judged, rooted),
        "personality": _allow_only((is_(0, 0xFFFF_FFFF),), (is_(0, 0),)),  # ask, and the ordinary one
        "ioctl": _ioctl(network.connect or network.bind, inode_flags),
        "fcntl": (_one_of(1, _LEASES, EPERM), ALLOW),
        "kill": ALLOW if signal_scope else (_one_of(0, (EVERYBODY,), EPERM), ALLOW),
        "seccomp": ((((any_bit(1, 1 << 3),), EPERM),), ALLOW),  # SECCOMP_FILTER_FLAG_NEW_LISTENER
        "socket": _socket(network),
        "socketpair": _socketpair(),
        "connect": NOTIFY if network.supervised else ALLOW if network.connect else EACCES,
        "bind": NOTIFY if network.supervised else ALLOW if network.bind else EACCES,
        "listen": network.listen,
        "sendto": _send(3, network, 4),
        "sendmsg": _send(2, network),
        "sendmmsg": _send(3, network),
        "setsockopt": _setsockopt(network),
    }
    return table
