"""What files that tell about the machine hold for the program instead: contents by path, and what of /proc and /sys is
there at all.

Values in, values out: what is known of the machine comes as `Facts`. Paths are real ones, without links; the directory
of a process of the sandbox, or of one of its threads, is written /proc/self.

Rules: /proc and /sys are closed but for what is listed here; a file that a later kernel adds is not there. What a file
holds is fixed when the program starts: anything that moved would tell what the machine is busy with.
"""

from __future__ import annotations

from ._record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Facts", "Mount", "Views", "cpus_of", "etc_files", "make"]

SHOWN = (
    "proc/self", "proc/thread-self", "proc/mounts", "proc/net", "proc/filesystems", "proc/tty/drivers",
    *("proc/sys/" + name for name in (
        "kernel/cap_last_cap", "kernel/core_uses_pid", "kernel/dmesg_restrict", "kernel/io_uring_disabled",
        "kernel/kptr_restrict", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/ngroups_max",
        "kernel/osrelease", "kernel/ostype", "kernel/overflowgid", "kernel/overflowuid", "kernel/perf_event_paranoid",
        "kernel/pid_max", "kernel/random/entropy_avail", "kernel/random/poolsize", "kernel/random/uuid",
        "kernel/randomize_va_space", "kernel/seccomp", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
        "kernel/threads-max", "kernel/unprivileged_bpf_disabled", "kernel/unprivileged_userns_clone", "kernel/version",
        "kernel/yama",
        "vm/legacy_va_layout", "vm/max_map_count", "vm/min_free_kbytes", "vm/mmap_min_addr", "vm/mmap_rnd_bits",
        "vm/overcommit_kbytes", "vm/overcommit_memory", "vm/overcommit_ratio", "vm/swappiness",
        "vm/unprivileged_userfaultfd",
        "fs/aio-max-nr", "fs/epoll", "fs/fanotify", "fs/file-max", "fs/inotify", "fs/lease-break-time",
        "fs/leases-enable", "fs/mount-max", "fs/mqueue", "fs/nr_open", "fs/pipe-max-size", "fs/pipe-user-pages-hard",
        "fs/pipe-user-pages-soft", "fs/protected_fifos", "fs/protected_hardlinks", "fs/protected_regular",
        "fs/protected_symlinks", "fs/suid_dumpable",
        "user",
        "net/core", "net/unix", "net/ipv4", "net/ipv4/conf/all", "net/ipv4/conf/default", "net/ipv4/conf/lo",
        "net/ipv6", "net/ipv6/conf/all", "net/ipv6/conf/default", "net/ipv6/conf/lo",
    )),
    "sys/devices/system/cpu/smt", "sys/devices/system/cpu/vulnerabilities", "sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
"""What is there of the two, as it is: what belongs to the sandbox's own processes, and how the kernel is set."""

HIDDEN = (
    "proc", "sys", "proc/self/net",
    "proc/sys/net/ipv4/conf", "proc/sys/net/ipv4/neigh", "proc/sys/net/ipv4/route",
    "proc/sys/net/ipv6/conf", "proc/sys/net/ipv6/neigh", "proc/sys/net/ipv6/route",
)  # fmt: skip
"""What is not, where nothing more exact says otherwise."""

_CPU_FACTS = ("cache", "online", "topology")
"""Of a CPU; the others tell how busy it is."""

# The headers of linux/net/ipv4/tcp_ipv4.c and its neighbours, padded as they are there.
_INET = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
_INET6 = (
    "  sl  local_address                         remote_address                        st tx_queue rx_queue tr "
    "tm->when retrnsmt   uid  timeout inode"
)
_DATAGRAMS, _DATAGRAMS6 = f" {_INET} ref pointer drops", f"{_INET6} ref pointer drops"
_DEVICES = (
    f"Inter-|{'   Receive':<56}|  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|"
    "bytes    packets errs drop fifo colls carrier compressed\n    lo:       0       0    0    0    0     0          0 "
    "        0        0       0    0    0    0     0       0          0\n"
)
NETWORK = {
    "tcp": f"{_INET:<149}\n",
    "tcp6": f"{_INET6}\n",
    "udp": f"{_DATAGRAMS:<127}\n",
    "udp6": f"{_DATAGRAMS6}\n",
    "udplite": f"{_DATAGRAMS:<127}\n",
    "udplite6": f"{_DATAGRAMS6}\n",
    "raw": f"{_DATAGRAMS[1:]:<127}\n",
    "raw6": f"{_DATAGRAMS6}\n",
    "icmp": f"{_DATAGRAMS[1:]:<127}\n",
    "icmp6": f"{_DATAGRAMS6}\n",
    "unix": "Num       RefCount Protocol Flags    Type St Inode Path\n",
    "netlink": "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
    "packet": "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n",
    "arp": "IP address       HW type     Flags       HW address            Mask     Device\n",
    "route": "{:<127}\n".format("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"),
    "dev": _DEVICES,
    "if_inet6": "00000000000000000000000000000001 01 80 10 80       lo\n",
    "ipv6_route": "",
    "dev_mcast": "",
}
"""/proc/net of a machine that has only the loopback, and no connection."""

_NO_ACTIVITY = " 0" * 10
_CACHE_FIELDS = (
    "Buffers", "Cached", "SwapCached", "Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)",
    "Inactive(file)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Dirty", "Writeback", "AnonPages", "Mapped",
    "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim",
)  # fmt: skip


@record
class Mount:
    """A directory of the program's that is on a file system of its own."""

    target: bytes
    writable: bool
    kind: bytes = b"overlay"
    device: tuple[int, int] = (0, 0)
    """Major and minor number."""


@record
class Facts:
    """What has to be known of the machine, and what is made up for one run."""

    release: str
    """Of uname(2), as is `version`."""
    version: str
    cpuinfo: bytes
    """/proc/cpuinfo."""
    cpus: tuple[int, ...]
    """Those that the program may run on."""
    memory_total: int
    """Bytes."""
    memory_free: int
    boot_time: int
    """Seconds since the epoch."""
    machine_id: str
    """32 hexadecimal digits, made up; as is `boot_id`."""
    boot_id: str


@record
class Views:
    """What is shown instead of what is there."""

    files: tuple[tuple[bytes, bytes | None], ...] = ()
    """Contents by path; None: the time since the boot, written when it is opened."""
    places: tuple[tuple[bytes, bool], ...] = ()
    """Whether a path, and all below it, is there. The longest one decides."""

    def shows(self, path: bytes) -> bool:
        """Whether there is such a path: one that a place shows, a file of these, or a directory above either."""
        decided = [(len(place), shown) for place, shown in self.places if _is_beneath(path, place)]
        if not decided or max(decided)[1]:
            return True
        kept = (*(name for name, _ in self.files), *(place for place, shown in self.places if shown))
        return any(_is_beneath(name, path) for name in kept)


def _is_beneath(path: bytes, place: bytes) -> bool:
    return path == place or path.startswith(place + b"/")


def etc_files(
    hostname: bytes, names: Iterable[tuple[str, Iterable[str]]] = (), image: bytes = b""
) -> dict[bytes, bytes]:
    """/etc/hosts, and with a hostname its file. `names`: those of network rules with the addresses that they led to.
    `image`: the hosts of a root directory of the program's own, which come last."""
    own = [b"127.0.0.1 localhost", b"::1 localhost ip6-localhost ip6-loopback"]
    if hostname:
        own.append(b"127.0.1.1 " + hostname)
    lines = [f"{address} {name}".encode() for name, addresses in names for address in addresses]
    text = b"\n".join((*own, *lines)) + b"\n" + image
    found = {b"/etc/hosts": text if text.endswith(b"\n") else text + b"\n"}
    if hostname:
        found[b"/etc/hostname"] = found[b"/proc/sys/kernel/hostname"] = hostname + b"\n"
        found[b"/proc/sys/kernel/domainname"] = b"(none)\n"
    return found


def make(etc: dict[bytes, bytes], facts: Facts | None, mounts: Iterable[Mount] = (), root: bytes = b"") -> Views:
    """All views of a run. `facts`: for one that sees nothing of the machine, else None. `root`: the real path of a root
    directory of the program's own, in which the files of /etc are."""
    if facts is None:
        return Views(files=_inside(root, dict(etc)))
    files: dict[bytes, bytes | None] = dict(etc)
    files[b"/etc/machine-id"] = files[b"/var/lib/dbus/machine-id"] = f"{facts.machine_id}\n".encode()
    for name, text in _machine(facts).items():
        files[b"/proc/" + name.encode()] = text.encode()
    files[b"/proc/cpuinfo"] = only_cpus(facts.cpuinfo, facts.cpus)
    files[b"/proc/uptime"] = None
    for name, content in _mounts(tuple(mounts)).items():
        files[b"/proc/self/" + name.encode()] = content
    files[b"/proc/self/cgroup"], files[b"/proc/self/cpuset"] = b"0::/\n", b"/\n"
    for name, text in NETWORK.items():
        files[b"/proc/self/net/" + name.encode()] = text.encode()
    for name in ("online", "present", "possible"):
        files[b"/sys/devices/system/cpu/" + name.encode()] = f"{spans(facts.cpus)}\n".encode()
    files[b"/sys/devices/system/cpu/offline"] = b"\n"
    shown = [*SHOWN, *(f"sys/devices/system/cpu/cpu{cpu}/{part}" for cpu in facts.cpus for part in _CPU_FACTS)]
    places = [(f"/{name}".encode(), True) for name in shown] + [(f"/{name}".encode(), False) for name in HIDDEN]
    return Views(files=_inside(root, files), places=tuple(places))


def _inside(root: bytes, files: dict[bytes, bytes | None]) -> tuple[tuple[bytes, bytes | None], ...]:
    """The files by their real paths: /proc and /sys are the machine's in any root directory."""
    own = (b"/proc/", b"/sys/")
    return tuple((path if path.startswith(own) else root + path, content) for path, content in files.items())


def _machine(facts: Facts) -> dict[str, str]:
    """Files of /proc about the machine as a whole."""
    return {
        "cmdline": "\n",
        "diskstats": "",
        "loadavg": "0.00 0.00 0.00 1/1 1\n",
        "meminfo": meminfo(facts.memory_total, facts.memory_free),
        "partitions": "major minor  #blocks  name\n\n",
        "stat": _activity(facts),
        "swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        "sys/kernel/random/boot_id": f"{facts.boot_id}\n",
        "version": f"Linux version {facts.release} (root@localhost) (cc) {facts.version}\n",
    }


def _activity(facts: Facts) -> str:
    """/proc/stat of a machine that does nothing."""
    lines = [f"cpu {_NO_ACTIVITY}", *(f"cpu{number}{_NO_ACTIVITY}" for number in facts.cpus)]
    lines += ["intr 0", "ctxt 0", f"btime {facts.boot_time}", "processes 0", "procs_running 1", "procs_blocked 0"]
    return "\n".join((*lines, f"softirq{_NO_ACTIVITY} 0", ""))


def meminfo(total: int, free: int) -> str:
    """/proc/meminfo of so many bytes."""
    sizes = {"MemTotal": total // 1024, "MemFree": free // 1024, "MemAvailable": free // 1024}
    sizes |= dict.fromkeys(_CACHE_FIELDS, 0)
    return "".join(f"{name + ':':<16}{size:>8} kB\n" for name, size in sizes.items())


def cpus_of(cpuinfo: bytes) -> list[int]:
    """The CPUs that /proc/cpuinfo tells of."""
    numbers = map(_cpu_of, cpuinfo.strip(b"\n").split(b"\n\n"))
    return [number for number in numbers if number is not None]


def only_cpus(cpuinfo: bytes, cpus: Iterable[int]) -> bytes:
    """/proc/cpuinfo without the other CPUs. What belongs to none of them stays."""
    wanted = set(cpus)
    blocks = cpuinfo.strip(b"\n").split(b"\n\n")
    kept = [block for block in blocks if block and ((number := _cpu_of(block)) is None or number in wanted)]
    return b"\n\n".join(kept) + b"\n\n" if kept else b""


def _cpu_of(block: bytes) -> int | None:
    """The CPU that a block of /proc/cpuinfo is about."""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.strip() == b"processor" and value.strip().isdigit():
            return int(value)
    return None


def spans(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as "0-2,5", as the kernel writes lists of CPUs."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _mounts(mounts: tuple[Mount, ...]) -> dict[str, bytes]:
    """The tables of mounts, in the three ways that /proc has to write them."""
    short, long, statistics = [], [], []
    for number, mount in enumerate(mounts, 1):
        mode = b"rw" if mount.writable else b"ro"
        target = _escaped(mount.target)
        short.append(b"%b %b %b %b,relatime 0 0\n" % (mount.kind, target, mount.kind, mode))
        where = b"%d %d %d:%d / %b %b,relatime" % (number, min(number - 1, 1), *mount.device, target, mode)
        long.append(b"%b - %b %b %b\n" % (where, mount.kind, mount.kind, mode))
        statistics.append(b"device %b mounted on %b with fstype %b\n" % (mount.kind, target, mount.kind))
    return {"mounts": b"".join(short), "mountinfo": b"".join(long), "mountstats": b"".join(statistics)}


def _escaped(path: bytes) -> bytes:
    """As fs/proc_namespace.c: mangle() has it."""
    for sign in b"\\ \t\n#":
        path = path.replace(bytes((sign,)), b"\\%03o" % sign)
    return path
