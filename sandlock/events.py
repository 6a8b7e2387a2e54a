"""What a callback is asked (events), and what it answers (verdicts).

Every fact of an event was read once, and is what the call will act on or be ended by: `binding` says how.
"""

from __future__ import annotations

from os import fsdecode

from ._net_rules import protocol_name
from ._record import field, record
from .errors import SandlockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from ._call import Call

__all__ = [
    "OPERATIONS",
    "Allow",
    "Ancestor",
    "Audit",
    "Bind",
    "Connect",
    "Deny",
    "Event",
    "Exec",
    "ExecDecision",
    "Fork",
    "Kill",
    "Listen",
    "NetDecision",
    "Open",
    "Resolve",
    "Send",
    "address_text",
    "alike",
    "exec_event",
    "network_event",
    "open_event",
    "target_of",
]


@record
class Ancestor:
    """A program of the tree that an event has above it."""

    pid: int
    exe: str
    """The file that it runs; "" if that cannot be seen."""
    argv: tuple[str, ...]
    attested: bool = False
    """These are the facts of its approved exec; otherwise what /proc shows, of which the words are the program's own
    to change."""


@record
class _Asked:
    """What all calls that are asked about have in common."""

    pid: int = 0
    """The process."""
    tid: int = 0
    """The thread that asks."""
    syscall: str = ""
    rule: str = ""
    """The rule of `exec_ask` that sent an exec here; "" if none decides: otherwise, where a rule has anything to say,
    it decides."""
    run: str = ""
    """The run's id, as in its Result."""
    call_id: str = ""
    """What the caller of `run` or `start` gave as `call_id`."""
    call: Call | None = field(repr=False, default=None)
    """For `chain`."""

    @property
    def chain(self) -> tuple[Ancestor, ...]:
        """The programs above: the one that asks, then its parents up to the first of the tree. Looked up now."""
        return () if self.call is None else self.call.chain(self.pid)


@record
class Exec(_Asked):
    """A process of the tree wants to execute a program: execve(2), execveat(2)."""

    argv: tuple[str, ...]
    """The words, all of them, decoded as file names are (`os.fsdecode`)."""
    exe: str
    """The file that is named, without links: what will run, or the script that its interpreter will read."""
    path: str
    """The file as the call names it."""
    interpreter: tuple[str, ...] = ()
    """Of a script: what the kernel puts in place of argv[0], by its `#!` line (program, argument, script)."""
    cwd: str = ""
    syscall: str = "execve"
    category: Literal["process"] = "process"
    binding: Literal["attested"] = "attested"
    """What the kernel loaded is compared with these facts before its first instruction; another program is killed."""
    argv_bytes: tuple[bytes, ...] = field(repr=False, default=())
    identity: tuple[int, int, int, int] = (0, 0, 0, 0)
    """The file that `exe` named when it was looked at: st_dev, st_ino, st_size and st_ctime_ns as os.stat has them. Who
    judges by what is in a file compares it with os.fstat of what was read: the program may have swapped it since."""
    loaded: tuple[int, int, int, int] = (0, 0, 0, 0)
    """The same of the file that the kernel loads: of a script its interpreter."""

    def environment(self) -> dict[str, str]:
        """The variables that the new program will get; the exec is attested with them from now on.

        Raises SandlockError when the call does not wait any more.
        """
        if self.call is None:
            raise SandlockError("this event belongs to no call")
        return self.call.environment()


@record
class Fork(_Asked):
    """A process of the tree wants to start another one: fork(2), vfork(2), clone(2) without CLONE_THREAD. Only with
    `ask_forks`."""

    category: Literal["process"] = "process"
    binding: Literal["registers"] = "registers"
    """Nothing in memory was judged."""


@record
class Open(_Asked):
    """A program wants to open a file: open(2), openat(2), openat2(2), creat(2). Only with `ask_opens`. What the kernel
    refuses anyway is not asked about, and O_PATH neither, which opens nothing."""

    path: str
    """The object without links; of what is to be made, the path that it will have."""
    named: str
    """As the call names it."""
    flags: int
    """O_RDONLY, O_CREAT, ...: those of the call."""
    mode: int = 0
    """Of what is to be made, before the umask."""
    exists: bool = True
    reads: bool = False
    """It can be read from."""
    writes: bool = False
    """It can be written to; or opening alone makes it, or cuts it off."""
    creates: bool = False
    """It is made: O_CREAT of what does not exist, O_TMPFILE (`path` is the directory then)."""
    truncates: bool = False
    """O_TRUNC: what exists is cut off."""
    identity: tuple[int, int, int] = (0, 0, 0)
    """The object: st_dev and st_ino as os.stat has them, and when it was made in ns (0: unknown); of what is to be
    made, its directory. Who judges by what is in a file compares it with os.fstat of what was read."""
    syscall: str = "openat"
    category: Literal["file"] = "file"
    binding: Literal["fd"] = "fd"
    """The supervisor opens the object that was judged, and hands the descriptor over."""

    @property
    def target(self) -> str:
        """The path."""
        return self.path


@record
class _Network(_Asked):
    """What all calls of the network have in common."""

    protocol: Literal["tcp", "udp", "icmp", "unix"]
    ip: str = ""
    """The address; IPv4 in IPv6 is written as IPv4, and 0.0.0.0 as the loopback that it reaches. "" for "unix"."""
    port: int = 0
    scope_id: int = 0
    """The interface of a link-local IPv6 address."""
    path: str = ""
    """Of "unix": the socket's file without links, or its abstract name."""
    abstract: bool = False
    category: Literal["network"] = "network"
    binding: Literal["on-behalf"] = "on-behalf"
    """The supervisor makes the call itself, from its own copy of the address, on the program's socket."""

    @property
    def target(self) -> str:
        """The destination as a rule names it: "tcp://127.0.0.1:443", "unix:/run/x.sock"."""
        return target_of(self.protocol, self.ip, self.port, self.path, self.abstract)


@record
class Connect(_Network):
    """A program wants to connect: connect(2), also of UDP sockets, whose later sends go there unasked."""

    host: str = ""
    """The name by which the tree looked the address up last; "" if it did not. Others may share the address."""


@record
class Send(_Network):
    """A program wants to send a datagram to somebody it is not connected to: sendto(2), sendmsg(2), sendmmsg(2)."""

    host: str = ""
    """The name by which the tree looked the address up last; "" if it did not."""
    size: int = 0
    """Bytes. What is sent is of this size, or is denied ("changed"); which bytes is the program's affair."""


@record
class Bind(_Network):
    """A program wants an address of its own: bind(2)."""


@record
class Listen(_Network):
    """A program wants to take connections: listen(2). Port 0: on one of the kernel's choice."""


@record
class Resolve:
    """A program wants the addresses of a name that no rule is about. Allow() has the host look it up, and the name then
    stands in the `host` of later events; it opens nothing. Whatever denies is "no such name" to the program, and nobody
    hears of the name. Kill() ends the whole tree. An Allow() holds for the rest of the run."""

    name: str
    """In lower case and ASCII, without a last dot."""
    pid: int = 0
    """The process whose socket asks."""
    rule: str = ""
    """Empty: where a rule has anything to say of such a call, it decides."""
    category: Literal["network"] = "network"
    binding: Literal["resolver"] = "resolver"
    """The supervisor's own resolver is asked instead of a name server."""
    run: str = ""
    """The run's id, as in its Result."""
    call_id: str = ""
    """What the caller of `run` or `start` gave as `call_id`."""

    @property
    def target(self) -> str:
        """The name."""
        return self.name


Event = Exec | Fork | Open | Connect | Send | Bind | Listen | Resolve


@record(kw_only=False)
class Allow:
    """Let the call happen; and, by `scope`, all that are like it without asking."""

    scope: Literal["once", "run", "sandbox"] = "once"
    """"run": until this run ends. "sandbox": in all runs of the sandbox, also those under way. Alike are execs of the
    same unchanged file with the same words, calls to the same address, port and protocol, and opens of the same file
    for no more than this one (writing covers reading); of what is to be made, by its directory and name. Where a file
    system keeps no times of birth, opens are asked about each time; so are execs whose words, to be the same,
    come to more than some 16 KiB. Rules that deny win."""
    words: int | None = None
    """Of an exec, how many of its first words have to be the same, further ones being free; None: all of them."""
    by: str = ""
    """Who decided, for the record."""


@record(kw_only=False)
class Audit:
    """Let the call happen, once, and have it on record: in `Result.audited`, and as "audit" in `decisions()` and in
    the audit file."""

    reason: str = ""
    by: str = ""
    """Who decided, for the record: a person, a program. So in Deny and Kill."""


@record(kw_only=False)
class Deny:
    """The call fails with `errno`; the program goes on."""

    reason: str = "denied by the policy's callback"
    errno: int = 13  # EACCES
    by: str = ""
    """Who decided, for the record."""
    cause: Literal["verdict", "timeout", "nobody-listens"] = "verdict"
    """What a callback that asks others says where none of them has decided; as in Denial."""


@record(kw_only=False)
class Kill:
    """The process is killed."""

    reason: str = "killed by the policy's callback"
    by: str = ""
    """Who decided, for the record."""


@record
class ExecDecision:
    """What exec rules say of a command, from `Sandbox.check_exec`."""

    decision: str
    """"allow", "ask" or "deny"."""
    exe: str
    """The file that would run, without links."""
    rule: str = ""
    """The rule that decides; "" if none does."""
    reason: str = ""
    """The rule's own."""


@record
class NetDecision:
    """What the rules say of a destination, from `Sandbox.check_connect`."""

    decision: str
    """"allow", "ask" or "deny"."""
    target: str
    """The destination, as it was given."""
    host: str = ""
    """The name that was taken to have led there; "" for none."""
    rule: str = ""
    """The rule that decides; "" if none does."""


def alike(one: Event) -> object:
    """What is the same for questions that one answer does for; None for those that stand for themselves."""
    match one:
        case Fork() | Resolve():
            return None
        case Exec():
            return (Exec, one.exe, one.argv, one.path, one.cwd, one.interpreter, one.identity, one.loaded)
        case Open():
            return (Open, one.path, one.named, one.flags, one.mode, one.exists, one.syscall, one.identity)
        case Connect() | Send():
            return (type(one), one.target, one.scope_id, one.host, getattr(one, "size", 0))
    return (type(one), one.target, one.scope_id)


# From the core's bytes ------------------------------------------------------------------------------------------------

OPERATIONS = ("exec", "connect", "send", "bind", "listen", "fork", "handler", "open", "path")
"""By number, as the core has them (_destinations.pxd)."""
_EVENTS: dict[int, type[Connect | Send | Bind | Listen]] = {1: Connect, 2: Send, 3: Bind, 4: Listen}


def address_text(packed: bytes) -> str:
    """An internet address as text; "" for none."""
    if len(packed) != 16:
        return ".".join(map(str, packed))
    from _socket import AF_INET6, inet_ntop  # only who has a network needs it

    return inet_ntop(AF_INET6, packed)


def target_of(protocol: str, ip: str, port: int, path: str, abstract: bool) -> str:
    """A destination as a rule names it."""
    if protocol == "unix":
        return f"unix:@{path}" if abstract else f"unix:{path}"
    host = f"[{ip}]" if ":" in ip else ip
    return f"{protocol}://{host}" if protocol == "icmp" else f"{protocol}://{host}:{port}"


def exec_event(
    rule: str,
    syscall: str,
    tid: int,
    pid: int,
    path: bytes,
    exe: bytes,
    cwd: bytes,
    interpreter: list[bytes],
    argv: list[bytes],
    identity: tuple[int, int, int, int] = (0, 0, 0, 0),
    loaded: tuple[int, int, int, int] = (0, 0, 0, 0),
    *,
    call: Call | None = None,
    run: str = "",
    call_id: str = "",
) -> Exec:
    """The event of an exec, from what the core read of it."""
    return Exec(
        argv=tuple(map(fsdecode, argv)),
        exe=fsdecode(exe),
        path=fsdecode(path),
        interpreter=tuple(map(fsdecode, interpreter)),
        cwd=fsdecode(cwd),
        pid=pid,
        tid=tid,
        rule=rule,
        syscall=syscall,
        argv_bytes=tuple(argv),
        identity=identity,
        loaded=loaded,
        call=call,
        run=run,
        call_id=call_id,
    )


O_CREAT, O_TRUNC, O_TMPFILE_BIT = 0o100, 0o1000, 0o20000000  # asm-generic/fcntl.h
ACCESS_READ, ACCESS_WRITE = 1, 2  # enum Access in _paths.pxd


def open_event(
    syscall: str,
    tid: int,
    pid: int,
    path: bytes,
    named: bytes,
    flags: int,
    mode: int,
    exists: bool,
    access: int,
    identity: tuple[int, int, int],
    *,
    call: Call | None = None,
    run: str = "",
    call_id: str = "",
) -> Open:
    """The event of an open, from what the core read of it."""
    return Open(
        path=fsdecode(path),
        named=fsdecode(named),
        flags=flags,
        mode=mode,
        exists=exists,
        reads=bool(access & ACCESS_READ),
        writes=bool(access & ACCESS_WRITE),
        creates=bool(flags & O_TMPFILE_BIT or (flags & O_CREAT and not exists)),
        truncates=bool(flags & O_TRUNC and exists),
        identity=identity,
        pid=pid,
        tid=tid,
        syscall=syscall,
        call=call,
        run=run,
        call_id=call_id,
    )


def network_event(
    operation: int,
    syscall: str,
    tid: int,
    pid: int,
    protocol: int,
    address: bytes,
    port: int,
    path: bytes,
    abstract: bool,
    scope_id: int,
    size: int,
    *,
    host: str = "",
    call: Call | None = None,
    run: str = "",
    call_id: str = "",
) -> Connect | Send | Bind | Listen:
    """The event of a socket call, from what the core read of it."""
    facts: dict[str, object] = {"host": host} if operation in (1, 2) else {}
    if operation == OPERATIONS.index("send"):
        facts["size"] = size
    return _EVENTS[operation](
        protocol=protocol_name(protocol),  # type: ignore[arg-type]
        ip=address_text(address),
        port=port,
        path=fsdecode(path),
        abstract=abstract,
        scope_id=scope_id,
        pid=pid,
        tid=tid,
        syscall=syscall,
        call=call,
        run=run,
        call_id=call_id,
        **facts,  # type: ignore[arg-type]
    )
