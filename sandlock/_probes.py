"""The live probes of `sandlock doctor`: each breaks a rule on purpose and sees whether the kernel stops it.

Rules: runs only in a throw-away interpreter that `_doctor.examine` starts; each probe runs in a fork of that
(one thread, nothing else in it), because what a probe does to itself cannot be undone. Every attack is first
shown to work unconfined. Signals go only to processes that the probe forked, by pid. Must not know: policies,
plans, advice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
from contextlib import contextmanager

from sandlock import syscalls
from sandlock._host import Host, probe
from sandlock._sys import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROBE_SECONDS = 2.0
RNDGETENTCNT = 0x80045200  # linux/random.h: how much entropy; needs no privilege
CLONE_NEWUTS, CLONE_NEWUSER = 0x04000000, 0x10000000
ANSWER, PECULIAR = 4242, errno.EXFULL  # what no real getpgid(2) ever returns
BPF_LOAD, BPF_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06

READ, WRITE = lib.LANDLOCK_ACCESS_FS_READ_FILE, lib.LANDLOCK_ACCESS_FS_WRITE_FILE
MAKE, REMOVE = lib.LANDLOCK_ACCESS_FS_MAKE_REG, lib.LANDLOCK_ACCESS_FS_REMOVE_FILE


class MissingError(Exception):
    """The kernel does not do what the probe is about; the text says what it did instead."""


# ---- steps that probes are made of


def check(result: int, step: str) -> int:
    """A result that is not negative; a step that failed means that the probe could not prove its point."""
    if result < 0:
        raise MissingError(f"{step}: {errno_name(-result)}")
    return result


def errno_name(number: int | None) -> str:
    """EACCES for 13."""
    return errno.errorcode.get(number or 0, str(number))


def outcome(attack: Callable[..., object], *args: object) -> str:
    """What came of it: "ok", or the name of the errno."""
    try:
        attack(*args)
    except OSError as error:
        return errno_name(error.errno)
    return "ok"


def expect(what: str, wanted: str, attack: Callable[..., object], *args: object) -> None:
    """Raises MissingError if the outcome is another one."""
    if (got := outcome(attack, *args)) != wanted:
        raise MissingError(f"{what}: {got} instead of {wanted}")


def restrict(
    host: Host,
    abi: int,
    *,
    fs: int = 0,
    net: int = 0,
    scoped: int = 0,
    paths: tuple[tuple[str, int], ...] = (),
) -> None:
    """Put this process into a Landlock domain; `abi` is the first that knows the rights."""
    if host.landlock_abi < abi:
        raise MissingError(f"Landlock ABI {host.landlock_abi}, needs {abi}")
    ruleset = check(lib.landlock_create_ruleset(fs, net, scoped, host.landlock_abi), "landlock_create_ruleset")
    for path, access in paths:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        check(lib.landlock_add_path(ruleset, fd, access), "landlock_add_rule")
        os.close(fd)
    no_new_privileges()
    check(lib.landlock_restrict_self(ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def no_new_privileges() -> None:
    """Without it neither Landlock nor seccomp takes anything from an ordinary user."""
    check(lib.process_control(lib.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def install(host: Host, action: int, flags: int = 0, *, call: str = "getpgid") -> int:
    """Stack a filter that answers one call with `action`; returns the listener if the flags ask for one."""
    nr = syscalls.number(call, host.arch)
    program = [
        (BPF_LOAD, 0, 0, 4),  # seccomp_data.arch
        (BPF_EQUAL, 0, 3, lib.SANDLOCK_AUDIT_ARCH),
        (BPF_LOAD, 0, 0, 0),  # seccomp_data.nr
        (BPF_EQUAL, 0, 1, nr),
        (BPF_RETURN, 0, 0, action),
        (BPF_RETURN, 0, 0, lib.SECCOMP_RET_ALLOW),
    ]
    text = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    no_new_privileges()
    return check(lib.seccomp_install(ffi.from_buffer(text), len(text), flags), "seccomp")


def start(body: Callable[[], bool]) -> int:
    """Fork; the child runs `body` and exits with 0 if that returns true. Returns the pid; `finish` it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if body() else 1
        finally:
            os._exit(code)
    return pid


def finish(pid: int) -> bool:
    """Wait for a `start`ed process; whether its body returned true."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextmanager
def waiting_process() -> Iterator[int]:
    """A process that does nothing until the end of the block, or of us."""
    reader, writer = os.pipe()

    def wait() -> bool:
        os.close(writer)
        return os.read(reader, 1) == b""

    pid = start(wait)
    os.close(reader)
    try:
        yield pid
    finally:
        os.close(writer)
        finish(pid)


# ---- the probes: (host, empty directory) -> what was proved; MissingError or OSError otherwise


def no_new_privs(host: Host, work: str) -> str:
    """Set and read back, here and in /proc."""
    no_new_privileges()
    check(lib.process_control(lib.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) - 1, "PR_GET_NO_NEW_PRIVS")
    return "set-user-ID programs gain nothing"


def drop_capabilities(host: Host, work: str) -> str:
    """All sets empty, the bounding set first (it needs CAP_SETPCAP, which root may lack in a container)."""
    sets = [ffi.new("uint64_t *") for _ in range(3)]
    check(lib.capabilities_get(*sets), "capget")
    if sets[0][0]:
        number = 0
        while lib.process_control(lib.PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
            check(lib.process_control(lib.PR_CAPBSET_DROP, number, 0, 0, 0), f"PR_CAPBSET_DROP {number}")
            number += 1
    check(lib.capabilities_set(0, 0, 0), "capset")
    check(lib.capabilities_get(*sets), "capget")
    if any(each[0] for each in sets):
        raise MissingError("capabilities are left after dropping all")
    return "all capabilities can be given up"


def landlock_files(host: Host, work: str) -> str:
    """Reading and writing outside the grant, with the same file read and written before."""
    granted, secret = os.path.join(work, "granted"), os.path.join(work, "secret")
    os.mkdir(granted)
    inside = os.path.join(granted, "file")
    for path in (inside, secret):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT))
    expect("reading before", "ok", opened, secret, os.O_RDONLY)
    expect("writing before", "ok", opened, secret, os.O_WRONLY)
    restrict(host, 1, fs=READ | WRITE, paths=((granted, READ | WRITE),))
    expect("reading what is granted", "ok", opened, inside, os.O_RDWR)
    expect("reading what is not granted", "EACCES", opened, secret, os.O_RDONLY)
    expect("writing what is not granted", "EACCES", opened, secret, os.O_WRONLY)
    return f"an ungranted file did not open: EACCES (ABI {host.landlock_abi}, errata {host.landlock_errata:#x})"


def opened(path: str, flags: int) -> None:
    """Open and close."""
    os.close(os.open(path, flags))


def fs_refer(host: Host, work: str) -> str:
    """Links between directories: with the right they work, without it they do not (ABI 1 cannot grant it)."""
    names = [os.path.join(work, name) for name in "abcd"]
    for name in names:
        os.mkdir(name)
    a, b, c, d = names
    for name in (a, c):
        os.close(os.open(os.path.join(name, "file"), os.O_WRONLY | os.O_CREAT))
    refer = lib.LANDLOCK_ACCESS_FS_REFER
    granted = tuple((name, MAKE | REMOVE | refer) for name in (a, b)) + tuple((name, MAKE | REMOVE) for name in (c, d))
    restrict(host, 2, fs=MAKE | REMOVE | refer, paths=granted)
    expect("a link between granted directories", "ok", os.link, f"{a}/file", f"{b}/file")
    expect("a link without the right", "EXDEV", os.link, f"{c}/file", f"{d}/file")
    return "links and renames between directories follow the grants"


def fs_truncate(host: Host, work: str) -> str:
    """truncate(2) of a file, before and after."""
    path = os.path.join(work, "file")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    expect("truncating before", "ok", os.truncate, path, 0)
    restrict(host, 3, fs=WRITE | lib.LANDLOCK_ACCESS_FS_TRUNCATE)
    expect("truncating", "EACCES", os.truncate, path, 0)
    return "an ungranted file was not truncated: EACCES"


def fs_ioctl_dev(host: Host, work: str) -> str:
    """An ioctl of a device that was opened inside the domain."""

    def ask() -> None:
        with open("/dev/urandom", "rb", buffering=0) as device:
            fcntl.ioctl(device, RNDGETENTCNT, b"\0\0\0\0")

    expect("an ioctl before", "ok", ask)
    restrict(host, 5, fs=lib.LANDLOCK_ACCESS_FS_IOCTL_DEV)
    expect("an ioctl of an ungranted device", "EACCES", ask)
    return "an ioctl of an ungranted device failed: EACCES"


def net_tcp(host: Host, work: str) -> str:
    """Connecting to and binding ports of the loopback interface."""

    def connect(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass

    def bind() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        expect("connecting before", "ok", connect, port)
        net = lib.LANDLOCK_ACCESS_NET_BIND_TCP | lib.LANDLOCK_ACCESS_NET_CONNECT_TCP
        restrict(host, 4, net=net)
        expect("connecting to an ungranted port", "EACCES", connect, port)
        expect("binding an ungranted port", "EACCES", bind)
    return "connect and bind of ungranted TCP ports failed: EACCES"


def signal_scope(host: Host, work: str) -> str:
    """Signal 0 to a process of the same user outside the domain, and to one inside."""
    with waiting_process() as outside:
        expect("signal 0 before", "ok", os.kill, outside, 0)
        restrict(host, 6, scoped=lib.LANDLOCK_SCOPE_SIGNAL)
        expect("signal 0 to a process outside", "EPERM", os.kill, outside, 0)
        with waiting_process() as inside:
            expect("signal 0 to a process inside", "ok", os.kill, inside, 0)
    return "a process of the same user outside could not be signalled: EPERM"


def abstract_scope(host: Host, work: str) -> str:
    """Connecting to an abstract unix socket that was made outside the domain."""

    def connect(address: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")  # the kernel picks a free abstract name
        server.listen()
        expect("connecting before", "ok", connect, server.getsockname())
        restrict(host, 6, scoped=lib.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)
        expect("connecting to an abstract socket outside", "EPERM", connect, server.getsockname())
    return "an abstract unix socket outside could not be reached: EPERM"


def seccomp_filter(host: Host, work: str) -> str:
    """A filter takes a system call away, and so does one stacked on it (also on top of a container's own)."""
    before = filters()
    expect("getpgid before", "ok", os.getpgid, 0)
    install(host, lib.SECCOMP_RET_ERRNO | PECULIAR)
    expect("getpgid with a filter", errno_name(PECULIAR), os.getpgid, 0)
    expect("getsid before", "ok", os.getsid, 0)
    install(host, lib.SECCOMP_RET_ERRNO | PECULIAR, call="getsid")
    expect("getsid with a second filter", errno_name(PECULIAR), os.getsid, 0)
    expect("getpgid with two filters", errno_name(PECULIAR), os.getpgid, 0)
    return "filters install and stack" + (f", on top of {before} of this container" if before else "")


def filters() -> int:
    """How many filters this process is under already; 0 also where an older kernel does not say."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Seccomp_filters:"))


def landlock_stacking(host: Host, work: str) -> str:
    """Two domains, one in the other, as a supervised run has them; a guest may add its own, up to 16."""
    layers = 0
    while host.landlock_abi and layers < 16:
        try:
            restrict(host, 1, fs=READ, paths=(("/", READ),))
        except MissingError:
            break
        layers += 1
    if layers < 3:
        raise MissingError(f"only {layers} more Landlock layers fit")
    return f"{layers} Landlock layers fit"


def exchange(host: Host, *, flags: int = 0, sync: bool = False, disturb: bool = False) -> int:
    """A child's system call is answered by us; returns what NOTIF_SEND returned.

    `disturb` sends the waiting child a signal that it handles, between RECV and SEND. Raises MissingError if
    the child did not get the answer.
    """
    listener = install(host, lib.SECCOMP_RET_USER_NOTIF, lib.SECCOMP_FILTER_FLAG_NEW_LISTENER | flags)
    if sync:
        check(lib.listener_set_flags(listener, lib.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), "NOTIF_SET_FLAGS")
    handled, note = os.pipe()
    signal.signal(signal.SIGUSR1, lambda *_: os.write(note, b"!") and None)

    def call() -> bool:
        os.close(listener)  # else RECV would wait for us for ever
        while True:
            try:
                return os.getpgid(0) == ANSWER
            except InterruptedError:
                continue

    pid = start(call)
    received, answer = ffi.new("struct seccomp_notif *"), ffi.new("struct seccomp_notif_resp *")
    check(lib.listener_receive(listener, received), "NOTIF_RECV")
    if disturb:
        os.kill(pid, signal.SIGUSR1)
        select.select([handled], [], [], 0.05)  # readable: the handler ran, so the wait was interrupted
    answer.id, answer.val = received.id, ANSWER
    sent = lib.listener_send(listener, answer)
    if sent < 0:  # the call was made again after the handler: a new notification
        check(lib.listener_receive(listener, received), "NOTIF_RECV after an interruption")
        answer.id = received.id
        check(lib.listener_send(listener, answer), "NOTIF_SEND after an interruption")
    if not finish(pid):
        raise MissingError("the caller did not get the answer")
    return sent


def user_notification(host: Host, work: str) -> str:
    """A child's system call is answered by us."""
    if not host.seccomp_user_notif:
        raise MissingError("SECCOMP_RET_USER_NOTIF is not available")
    exchange(host)
    return f"a system call was answered by another process (sizes {host.notif_sizes})"


def wait_killable(host: Host, work: str) -> str:
    """A handled signal interrupts the wait without the flag (the control) and not with it."""
    if not host.wait_killable:
        raise MissingError("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is unknown")
    if not finish(start(lambda: exchange(host, disturb=True) == -errno.ENOENT)):
        raise MissingError("the control failed: a signal did not interrupt an ordinary wait")
    check(
        exchange(host, flags=lib.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, disturb=True),
        "NOTIF_SEND after a signal",
    )
    return "only a fatal signal ends a call that is being decided"


def sync_wake_up(host: Host, work: str) -> str:
    """The kernel takes the flag, and an exchange works with it."""
    exchange(host, sync=True)
    return "the flag is taken: caller and supervisor hand over on one core"


def pidfd_getfd(host: Host, work: str) -> str:
    """A descriptor that only a child has is taken from it; which file that is, is the proof."""
    path = os.path.join(work, "file")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    with waiting_process() as pid:
        os.close(fd)  # the child still has it
        pidfd = check(lib.pidfd_open_process(pid, 0), "pidfd_open")
        taken = check(lib.pidfd_take(pidfd, fd), "pidfd_getfd of a child")
    if not os.path.samestat(os.fstat(taken), os.stat(path)):
        raise MissingError("pidfd_getfd returned another file")
    return "a descriptor of a child can be taken over"


def read_memory(host: Host, work: str) -> str:
    """Bytes of a child are read: system calls are judged by what the caller's memory says."""
    secret = os.urandom(16)
    theirs, ours = ffi.new("char[16]", secret), ffi.new("char[16]")
    address = int(ffi.cast("uintptr_t", theirs))
    with waiting_process() as pid:
        ffi.buffer(theirs)[:] = bytes(16)  # ours only: the child keeps what it had when it was forked
        check(lib.memory_read(pid, address, ours, 16), "process_vm_readv of a child")
    if bytes(ffi.buffer(ours)) != secret:
        raise MissingError("process_vm_readv read something else")
    return "the memory of a child can be read"


def trace_child(host: Host, work: str) -> str:
    """A child is seized, as an exec that is attested is."""
    with waiting_process() as pid:
        check(lib.process_seize(pid), "ptrace(PTRACE_SEIZE) of a child")
    return "children can be traced: execs are attested"


def user_namespaces(host: Host, work: str) -> str:
    """A namespace of our own, with ids mapped and its capabilities real (AppArmor can make them empty)."""
    uid = os.geteuid()
    check(lib.unshare_namespaces(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    with open("/proc/self/uid_map", "w", encoding="ascii") as file:
        file.write(f"0 {uid} 1")
    check(lib.unshare_namespaces(CLONE_NEWUTS), "unshare(CLONE_NEWUTS) inside it")
    return "user namespaces work" + (" (tried as root)" if uid == 0 else "")


def proc_children(host: Host, work: str) -> str:
    """/proc lists our children."""
    with (
        waiting_process() as pid,
        open("/proc/self/task/" + str(os.getpid()) + "/children", encoding="ascii") as file,
    ):
        if str(pid) not in file.read().split():
            raise MissingError("/proc/self/task/*/children does not list a child")
    return "/proc/PID/task/TID/children lists children"


PROBES: dict[str, Callable[[Host, str], str]] = {
    "no-new-privs": no_new_privs,
    "drop-capabilities": drop_capabilities,
    "seccomp-filter": seccomp_filter,
    "landlock-files": landlock_files,
    "landlock-stacking": landlock_stacking,
    "fs-refer": fs_refer,
    "fs-truncate": fs_truncate,
    "fs-ioctl-dev": fs_ioctl_dev,
    "net-tcp": net_tcp,
    "signal-scope": signal_scope,
    "abstract-unix-socket-scope": abstract_scope,
    "user-notification": user_notification,
    "wait-killable": wait_killable,
    "sync-wake-up": sync_wake_up,
    "pidfd-getfd": pidfd_getfd,
    "read-memory": read_memory,
    "trace-child": trace_child,
    "proc-children": proc_children,
    "user-namespaces": user_namespaces,
}


# ---- running them


def attempt(name: str, host: Host, work: str) -> tuple[bool, str]:
    """Run one probe in this process: (proved, what happened)."""
    try:
        os.mkdir(work, 0o700)
        return True, PROBES[name](host, work)
    except MissingError as missing:
        return False, str(missing)
    except Exception as error:  # whatever it is: not proved
        return False, f"{type(error).__name__}: {error}"


def attempt_apart(name: str, host: Host, work: str) -> tuple[bool, str]:
    """Run one probe in a fork, for at most PROBE_SECONDS."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        proved, text = False, "the probe died"
        try:
            os.close(reader)
            proved, text = attempt(name, host, work)
        finally:
            os.write(writer, (("+" if proved else "-") + text).encode("utf-8", "replace")[:4096])
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], PROBE_SECONDS)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    answer = os.read(reader, 4096).decode() if ready else f"-no answer within {PROBE_SECONDS:.0f} s"
    os.close(reader)
    os.waitpid(pid, 0)
    return answer[:1] == "+", answer[1:] or "the probe died"


def run() -> None:
    """For `_doctor`: argv is the import path, an empty directory, and names of PROBES, tried in this order.

    Prints a line for each: name, + or -, what happened; between tabs.
    """
    work, names = sys.argv[2], sys.argv[3:]
    host = probe()
    for name in names:
        proved, text = attempt_apart(name, host, os.path.join(work, name))
        print(name, "+" if proved else "-", " ".join(text.split()), sep="\t", flush=True)
