"""The plan: a policy made concrete for a host, as a value. `plan(policy, host)` returns it or raises
Unsupported.

Rules: strict by default: a protection that the host lacks is an error unless the policy waives it by name,
and what is waived is said in the plan. No grant is ever widened because the kernel cannot express it.
Nothing here touches the kernel. Must not know: how a plan is carried out.
"""

from __future__ import annotations

from os import fsencode

from . import _arguments, _filter, _landlock, _open_rules, _path_rules, _view_rules, syscalls
from ._exec_rules import ExecRule, compile_exec_rules
from ._extra_rules import extra_allowed, extra_denied
from ._handler_rules import handle_rules, handled_answers
from ._landlock import BIND_TCP, CONNECT_TCP, PathRule, Ruleset
from ._net_rules import TCP, UDP, UNIX, NetRule, compile_rules, hosts_of, landlock_suffices
from ._record import field, record, replace
from ._trap_rules import TrapRule
from ._values import CAPABILITIES, read_net_rule, read_port_spans
from .errors import PolicyError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from ._filter import Answer
    from ._host import Host
    from .policy import Policy
    from .presets import Expansion, Grant

    Ports = frozenset[int] | Literal["*"]
    """TCP ports; "*" is all of them, as a policy spells it."""

__all__ = ["Launch", "Plan", "TrapRule", "plan"]

RLIMIT_CORE, RLIMIT_NOFILE = 4, 7  # asm-generic/resource.h
ADDR_NO_RANDOMIZE = 0x0004_0000  # linux/personality.h

ENOSYS = _filter.errno(38)


@record
class Launch:
    """What the launch sets in the program's process before its filter. None: inherited."""

    rlimits: tuple[tuple[int, int, int], ...] = ()
    """(resource, soft, hard)"""
    umask: int | None = None
    cpus: tuple[int, ...] = ()
    personality: int | None = None
    no_huge_pages: bool = False
    keep_capabilities: int = 0
    """Bit n: capability n is kept."""
    max_processes: int | None = None
    uid: int | None = None
    gid: int | None = None


@record
class Plan:
    """All that will be enforced, by which layer. Comparable, hashable, printable (`describe`)."""

    arch: str
    filter: bytes
    """The BPF program, an array of struct sock_filter."""
    supervisor_ruleset: Ruleset | None
    """D1, for the run's init and the supervisor's threads; None if there would be nothing in it."""
    guest_ruleset: Ruleset
    """D2, for the program, inside D1."""
    rules: tuple[TrapRule, ...]
    needs_listener: bool
    enforced: tuple[str, ...]
    waived: frozenset[str]
    launch: Launch
    net_rules: tuple[NetRule, ...] = ()
    """What the supervisor decides destinations by, where Landlock does not."""
    possible_rules: tuple[NetRule, ...] = ()
    """Those that may be in force later, too."""
    exec_rules: tuple[ExecRule, ...] = ()
    """What each exec is decided by, those that win first."""
    exec_otherwise: str = "allow"
    """What becomes of an exec that no rule matches: "allow" (the files decide), "ask" or "deny"."""
    hostname: bytes = b""
    """The machine's name as uname(2) tells it; empty: the real one."""
    private_proc: bool = False
    records_paths: bool = False
    """What is done to files goes on record."""
    mediated: str = ""
    """The option for which the supervisor opens and changes all files for the program; "" if it does not."""
    asks: bool = False
    """What no rule decides is asked about: every exec, and every other destination."""
    supervised: bool = False
    """The supervisor makes all connections, by `net_rules`."""
    risks: tuple[str, ...] = ()
    """What the policy's own grants of syscalls cost, in words."""
    answers: tuple[tuple[str, Answer], ...] = field(repr=False, default=())
    """What every syscall of the architecture gets, by name: what `filter` was made from."""

    @property
    def vets(self) -> bool:
        """Whether the supervisor decides about execs or destinations, or handlers do."""
        return any(rule.rule in ("vet_exec", "vet_socket", "handle") for rule in self.rules)

    @property
    def judges_paths(self) -> bool:
        """Whether the supervisor decides about paths at all."""
        return any(rule.rule in ("path", "vet_open", "vet_write") for rule in self.rules)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the rules, by number from 1: a rule with a name is about the addresses that it led to."""
        return hosts_of(self.possible_rules)

    @property
    def looks_up(self) -> bool:
        """Lookups of names are answered by a resolver of ours, which answers nothing that the rules do not allow."""
        return self.asks or bool(self.hosts)

    def describe(self) -> str:
        """The plan in words, many lines, for `sandlock inspect --plan`."""
        from ._describe import describe  # only people read it

        return describe(self)


def plan(
    policy: Policy,
    host: Host,
    *,
    expansion: Expansion | None = None,
    vet: bool = False,
    ceiling: Policy | None = None,
    record: bool = False,
    programs: tuple[tuple[str, str], ...] = (),
    handlers: tuple[str, ...] = (),
    narrow: bool = False,
    lists: bool = False,
) -> Plan:
    """What `policy` amounts to on `host`. `expansion`: `policy.expand()`, where the caller has it already.
    `vet`: a callback decides about execs and destinations that no rule decides. `ceiling`: how far the policy may be
    widened while programs run. `record`: all of them are decided by the supervisor, so that it can say so. `programs`:
    the files that the programs of exec rules are, by name. `handlers`: the syscalls that have one. `narrow`: grants of
    paths may change while programs run; then `expansion` is all that may ever be granted. `lists`: see
    `_path_rules.traps`. Raises Unsupported for what this host cannot enforce, PolicyError for what makes no sense.
    """
    waived, mediated = _waived(policy, host), _path_rules.option_of(policy, narrow)
    supervised = vet or record or ceiling is not None or not _kernel_suffices(policy, mediated)
    widest = ceiling or policy
    possible_rules = compile_rules(widest) if supervised else ()
    connect, bind = _connect_ports(widest.net_allow), _bind_ports(widest.net_allow_bind)
    network = _supervised_network(possible_rules, vet) if supervised else _network(connect, bind, waived)
    grants = (expansion or policy.expand()).grants
    metadata = not ("fs-metadata" in waived or _path_rules.covers_all(grants))
    own = _traps(widest, host.arch, network, vet, record, metadata, mediated, handlers, lists)
    rules = (*own, *handle_rules(handlers, host.arch, own))
    _require(host, rules, supervised, bool(mediated or _view_rules.option_of(policy)))
    others = any(rule.rule != "path" for rule in rules)
    answers, risks = _answers(policy, host.arch, network, own, waived, others, mediated)
    handled_answers(answers, handlers)
    guest = outer = _guest_ruleset(grants, connect, bind, host.landlock_abi, waived)
    if supervised:
        guest, outer = _supervised_rulesets(grants, connect, bind, possible_rules, vet, host.landlock_abi, waived)
    return Plan(
        arch=host.arch,
        filter=_filter.assemble({nr: answers[name] for name, nr in _numbers(host.arch)}, host.arch),
        supervisor_ruleset=_supervisor_ruleset(outer, bool(rules)),
        guest_ruleset=guest,
        rules=rules,
        needs_listener=bool(rules),
        enforced=(*_enforced(guest), *(("fs-metadata",) if metadata else ())),
        waived=waived,
        launch=_launch(widest),
        net_rules=compile_rules(policy) if supervised else (),
        possible_rules=possible_rules,
        exec_rules=compile_exec_rules(policy, dict(programs)),
        exec_otherwise="ask" if vet else "deny" if policy.exec_allow or policy.exec_ask else "allow",
        hostname=_view_rules.hostname_of(policy),
        private_proc=_view_rules.is_private(policy),
        records_paths=policy.record_paths,
        mediated=mediated,
        asks=vet,
        supervised=supervised,
        risks=risks,
        answers=tuple(answers.items()),
    )


def _kernel_suffices(policy: Policy, mediated: str) -> bool:
    """Whether the kernel can decide about the network alone. Where files are the supervisor's bind(2) is, too: it makes
    sockets wherever Landlock lets it."""
    return landlock_suffices(policy) and not (mediated and (policy.net_allow or policy.net_allow_bind))


def _supervised_rulesets(
    grants: tuple[Grant, ...],
    connect: Ports,
    bind: Ports,
    rules: tuple[NetRule, ...],
    vet: bool,
    abi: int,
    waived: frozenset[str],
) -> tuple[Ruleset, Ruleset]:
    """D2, and what D1 is made of. What the supervisor does for the program, the kernel need not let the program do."""
    none: Ports = frozenset()
    wide: tuple[Ports, Ports] = ("*", "*") if vet else (connect, bind if bind == "*" else bind | {0})
    outer = _guest_ruleset(grants, *wide, abi, waived)
    if any(rule.allow and rule.abstract and not rule.binds for rule in rules):
        outer = replace(outer, scoped=outer.scoped & ~_landlock.SCOPE_ABSTRACT_UNIX_SOCKET)
    return _guest_ruleset(grants, none, none, abi, waived), outer


def _require(host: Host, rules: tuple[TrapRule, ...], supervised: bool, views: bool) -> None:
    """Raises Unsupported where the supervisor could not do soundly what it is needed for."""
    if rules and not host.seccomp_user_notif:
        raise Unsupported(
            f"{rules[0].reason}, which needs seccomp user notification (Linux 5.0); this kernel or container lacks it",
            missing=frozenset({"seccomp-user-notification"}),
        )
    judged = supervised or views or any(rule.rule in ("vet_exec", "handle") for rule in rules)
    if judged and not host.wait_killable:
        raise Unsupported(
            "policy_fn, handlers, audit, exec rules, hostname, private_proc and network rules by address: a call can "
            "only be judged while its program waits uninterrupted (Linux 5.19)",
            missing=frozenset({"seccomp-wait-killable"}),
        )
    takes = any(rule.rule == "listen" or rule.syscall == "getdents64" for rule in rules)
    if (supervised or takes) and not host.pidfd_getfd:
        raise Unsupported(
            "policy_fn, audit, private_proc, network rules by address, and net_allow_bind by port need pidfd_getfd(2), "
            "of Linux 5.6, which this kernel or container refuses: allow it in the container's seccomp profile, or "
            "grant TCP by port only",
            missing=frozenset({"pidfd-getfd"}),
        )


# --- what the host must offer -------------------------------------------------------------------------------

KERNELS = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12"}
"""The Linux version that brought each Landlock ABI."""


def _waived(policy: Policy, host: Host) -> frozenset[str]:
    """The protections that this run goes without, each by the policy's own word. Raises Unsupported."""
    if host.arch not in _filter.AUDIT_ARCH:
        raise Unsupported(f"sandlock does not know the architecture {host.arch}", missing=frozenset({host.arch}))
    if not host.seccomp_filter:
        raise Unsupported(
            "this kernel or container has no seccomp filters (CONFIG_SECCOMP_FILTER)",
            missing=frozenset({"seccomp-filter"}),
        )
    if host.landlock_abi < 1:
        raise Unsupported(_no_landlock(host.landlock_error), missing=frozenset({"landlock"}))
    protections = _landlock.PROTECTIONS.items()
    lacking = {name: abi for name, (abi, _, _) in protections if host.landlock_abi < abi}
    missing = lacking.keys() - set(policy.allow_degraded) - set(policy.disable)
    supervises = host.seccomp_user_notif and host.reads_memory
    if not supervises and "fs-metadata" not in (*policy.allow_degraded, *policy.disable):
        raise Unsupported(
            "modes, owners, times and attributes are changed by a supervisor, which needs seccomp user notification "
            "(Linux 5.0) and process_vm_readv(2); this kernel or container lacks one of them, or this is a sandbox "
            "itself; go without by naming it: allow_degraded=['fs-metadata']",
            missing=frozenset({"fs-metadata"}),
        )
    if missing:
        newest = max(lacking[name] for name in missing)
        names = sorted(missing)
        raise Unsupported(
            f"this kernel's Landlock (ABI {host.landlock_abi}) lacks {', '.join(names)}; use Linux "
            f"{KERNELS[newest]} or later, or go without by naming them: allow_degraded={names}",
            missing=frozenset(missing),
        )
    if not supervises:
        lacking["fs-metadata"] = 0
    return frozenset(policy.disable) | (lacking.keys() & set(policy.allow_degraded))


def _no_landlock(error: int) -> str:
    why = {
        0: "SANDLOCK_LANDLOCK_ABI says so: unset it",
        1: "a container's seccomp profile forbids it: allow the landlock_* syscalls there",  # EPERM
        38: "it is not built in (CONFIG_SECURITY_LANDLOCK), or a container hides it",  # ENOSYS
        95: "it is not enabled: add landlock to lsm= on the kernel's command line",  # EOPNOTSUPP
    }.get(error, f"the kernel answers errno {error}")
    return f"this host offers no Landlock, without which sandlock cannot confine files: {why}"


def _enforced(guest: Ruleset) -> tuple[str, ...]:
    bits = {"fs": guest.handled_fs, "net": guest.handled_net, "scope": guest.scoped}
    later = [name for name, (_, where, right) in _landlock.PROTECTIONS.items() if bits[where] & right]
    return ("syscalls", "fs", *later)


# --- network ------------------------------------------------------------------------------------------------


def _connect_ports(rules: Iterable[str]) -> Ports:
    """The TCP ports that may be connected to, on whatever address."""
    ports: set[int] = set()
    for rule in rules:
        scheme, _, spans = read_net_rule("net_allow", rule)
        if scheme not in ("", "tcp"):
            continue
        if spans is None:
            return "*"
        ports.update(_numbers_in(spans))
    return frozenset(ports)


def _bind_ports(rules: Iterable[str]) -> Ports:
    """The TCP ports that may be bound."""
    ports: set[int] = set()
    for rule in rules:
        if ":" in rule:  # UDP, or a unix socket
            continue
        if rule == "*":
            return "*"
        ports.update(_numbers_in(read_port_spans("net_allow_bind", rule, rule)))
    return frozenset(ports)


def _numbers_in(spans: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (port for first, last in spans for port in range(first, last + 1))


def _listen_needs_a_look(bind: Ports, waived: frozenset[str]) -> bool:
    """Whether listen(2) is granted for some ports only: without a bind the kernel picks any, unseen by
    Landlock."""
    return bind != "*" and bool(bind) and "net-tcp" not in waived


def _network(connect: Ports, bind: Ports, waived: frozenset[str]) -> _arguments.Network:
    """Which steps of a connection pass the filter. Where no Landlock tells ports apart, only a `*` opens a
    step."""
    any_connect, any_bind = connect == "*", bind == "*"
    if "net-tcp" in waived:
        listen = _filter.ALLOW if any_bind else _arguments.EACCES
        return _arguments.Network(
            sockets=any_connect or any_bind,
            connect=any_connect,
            any_connect=any_connect,
            bind=any_bind,
            listen=listen,
        )
    listen = _filter.ALLOW if any_bind else _filter.NOTIFY if bind else _arguments.EACCES
    return _arguments.Network(
        sockets=True,  # to be made only: every use of one is decided
        connect=any_connect or bool(connect),
        any_connect=any_connect,
        # With a grant to connect, binding passes the filter too, for netlink's sake (libc binds its socket
        # before it asks for addresses). TCP ports stay shut: Landlock handles binding and has no rule for it.
        bind=any_bind or any_connect or bool(bind) or bool(connect),
        listen=listen,
    )


def _supervised_network(rules: tuple[NetRule, ...], vet: bool) -> _arguments.Network:
    """The supervisor makes every connection: which sockets may be made for that."""
    protocols = TCP | UDP | UNIX if vet else TCP
    for rule in rules:
        protocols |= rule.protocols if rule.allow else 0
        protocols |= UDP if rule.host else 0  # names are looked up by datagrams
    return _arguments.Network(
        sockets=True, connect=True, any_connect=False, bind=True, listen=_filter.NOTIFY, protocols=protocols
    )


# --- traps and answers --------------------------------------------------------------------------------------


def _numbers(arch: str) -> list[tuple[str, int]]:
    return [(call.name, nr) for call in syscalls.TABLE.values() if (nr := call.number(arch)) is not None]


_FORKS = ("clone", "fork", "vfork")


def _traps(
    policy: Policy,
    arch: str,
    network: _arguments.Network,
    vet: bool,
    record: bool,
    metadata: bool,
    mediated: str,
    handlers: tuple[str, ...],
    lists: bool,
) -> tuple[TrapRule, ...]:
    """The syscalls that the supervisor answers. Each is here for a reason that the policy gave."""
    wanted: list[tuple[str, str, str]] = []
    if policy.ask_forks:
        if not vet:
            raise PolicyError("ask_forks: there is nobody to ask; give a policy_fn", field="ask_forks")
        wanted += [(name, "vet_fork", "ask_forks: each new process is decided") for name in _FORKS]
    elif policy.max_processes is not None:
        reason = f"max_processes={policy.max_processes}: live processes are counted before there is one more"
        wanted += [(name, "count_fork", reason) for name in _FORKS]
    if wanted:
        option = "ask_forks" if policy.ask_forks else "max_processes"
        reason = f"{option}: SIGCHLD must not interrupt a fork that is being decided, so its handler gets SA_RESTART"
        wanted.append(("rt_sigaction", "add_restart", reason))
    wanted += _open_rules.traps(policy.ask_opens, vet) + _view_rules.traps(policy)
    # what is protected may be executed
    vet = vet or record or policy.has_exec_rules() or mediated not in ("", "fs_protected")
    if vet:
        reason = "policy_fn, exec rules, fs_denied, chroot and audit: each exec is decided, and attested"
        wanted += [(name, "vet_exec", reason) for name in ("execve", "execveat")]
    if policy.record_execs:
        reason = "record_execs: what is executed is written down"
        if not vet:
            wanted += [(name, "observe_exec", reason) for name in ("execve", "execveat")]
        reason = "record_execs: the first call of a program that started says that its exec succeeded"
        wanted.append(("set_tid_address", "observe_start", reason))
    if network.supervised:
        reason = "the network is decided by address: the call is made by the supervisor"
        wanted += [(name, "vet_socket", reason) for name in ("connect", "bind", "listen")]
        if network.protocols != TCP:  # streams are connected before they send
            wanted += [(name, "vet_socket", reason) for name in ("sendto", "sendmsg", "sendmmsg")]
    elif network.listen == _filter.NOTIFY:
        reason = "net_allow_bind: listen without bind takes any port, so the port is looked at first"
        wanted.append(("listen", "listen", reason))
    answered = {name for name, _, _ in wanted} | _path_rules.refused(policy.extra_deny_syscalls)
    answered |= {"ioctl"} & set(handlers)  # its commands that set flags of inodes are nobody's then
    views = _view_rules.option_of(policy)
    wanted += _path_rules.traps(mediated, metadata, answered, looks=policy.hide_ungranted, views=views, lists=lists)
    if mediated == "chroot":
        reason = "chroot: what a program seems to have been executed as is told by the supervisor, and by nobody else"
        wanted.append(("prctl", "errno", reason))
    numbers = [(syscalls.number(name, arch), name, rule, reason) for name, rule, reason in wanted]
    return tuple(
        TrapRule(syscall=name, nr=nr, rule=rule, reason=reason, value=_value(name, rule))
        for nr, name, rule, reason in numbers
        if nr is not None
    )


def _value(name: str, rule: str) -> int:
    """What goes with a rule: where a path call's arguments are, or an errno (EPERM)."""
    return _path_rules.pack(name) if rule == "path" else 1 if rule == "errno" else 0


def _answers(
    policy: Policy,
    arch: str,
    network: _arguments.Network,
    rules: tuple[TrapRule, ...],
    waived: frozenset[str],
    judged: bool,
    mediated: str,
) -> tuple[dict[str, Answer], tuple[str, ...]]:
    """What each syscall gets, and what the policy's own grants risk."""
    trapped = {rule.syscall for rule in rules}
    by_arguments = _arguments.answers(
        network,
        judged=judged,
        count_forks="clone" in trapped,
        signal_scope="signal-scope" not in waived,
        inode_flags=_filter.NOTIFY if "ioctl" in trapped else _arguments.EPERM,
        rooted=mediated == "chroot",
    )
    by_treatment: dict[str, Answer] = {"allow": _filter.ALLOW, "deny": _arguments.EPERM, "enosys": ENOSYS}
    allowed, risks = extra_allowed(policy.extra_allow_syscalls)
    denied = extra_denied(policy.extra_deny_syscalls, trapped)
    both = sorted(allowed & denied)
    if both:
        raise PolicyError(
            f"extra_deny_syscalls: {both[0]} is in extra_allow_syscalls too; keep one of the two",
            field="extra_deny_syscalls",
        )
    answers: dict[str, Answer] = {}
    for call in syscalls.TABLE.values():
        if call.number(arch) is None:
            continue
        if call.name in allowed:
            answer: Answer = _filter.ALLOW
        elif call.default == "filter":
            answer = by_arguments[call.name]
        elif call.name in trapped:
            answer = _arguments.NARROW_TRAPS.get(call.name, _filter.NOTIFY)
        else:
            answer = by_treatment[call.default]
        if call.name in denied and call.default != "enosys":  # ENOSYS denies as well, and programs fall back
            answer = _arguments.EPERM
        answers[call.name] = answer
    _open_rules.adjust(answers, policy.ask_opens, allowed)
    views = _view_rules.option_of(policy)
    sees_reads = bool(policy.ask_opens or views or policy.record_paths)
    _path_rules.adjust(answers, mediated or views, allowed, policy.hide_ungranted, sees_reads)
    return answers, risks


# --- Landlock and launch ------------------------------------------------------------------------------------


def _guest_ruleset(
    grants: tuple[Grant, ...],
    connect: Ports,
    bind: Ports,
    abi: int,
    waived: frozenset[str],
) -> Ruleset:
    """D2: the policy, all of it."""
    handled_fs, handled_net, scoped = _landlock.handled(abi, waived)
    paths: dict[bytes, PathRule] = {}
    for grant in grants:
        path = fsencode(grant.path)
        root = None if grant.root is None else fsencode(grant.root)
        rule = PathRule(path, _landlock.GRANTS[grant.kind] & handled_fs, grant.optional, root)
        known = paths.get(path)
        if known is not None:  # one rule for each path; it must exist if one of its grants says so
            rule = PathRule(path, known.access | rule.access, known.optional and rule.optional, root)
        paths[path] = rule
    ports: dict[int, int] = {}
    for granted, right in ((connect, CONNECT_TCP), (bind, BIND_TCP)):
        if granted == "*":
            handled_net &= ~right
        elif handled_net & right:
            for port in granted:
                ports[port] = ports.get(port, 0) | right
    return Ruleset(
        handled_fs=handled_fs,
        handled_net=handled_net,
        scoped=scoped,
        paths=_within_writable(paths.values()),
        ports=tuple(sorted(ports.items())),
    )


def _within_writable(rules: Iterable[PathRule]) -> tuple[PathRule, ...]:
    """The rules, each below a writable grant with that grant as its root. Lexical: links are judged at launch."""
    rules = tuple(rules)
    roots = sorted((rule.path.rstrip(b"/") for rule in rules if rule.access & _landlock.MAKE_SYM), key=len)
    return tuple(
        replace(rule, root=root)
        if rule.root is None
        and (root := next((root for root in roots if rule.path.startswith(root + b"/")), None)) is not None
        and rule.path.strip(b"/") != root.strip(b"/")
        else rule
        for rule in rules
    )


def _supervisor_ruleset(guest: Ruleset, listener: bool) -> Ruleset | None:
    """D1: the scopes; with a supervisor also the policy, and /proc, where it looks its callers up."""
    if not listener:
        if not guest.scoped:
            return None
        # Every domain denies linking and renaming across directories unless it handles and grants that right, also
        # a domain that is only about scopes (landlock(7), LANDLOCK_ACCESS_FS_REFER).
        refer = guest.handled_fs & _landlock.REFER
        everywhere = (PathRule(b"/", refer, False),) if refer else ()
        return Ruleset(handled_fs=refer, scoped=guest.scoped, paths=everywhere)
    proc = PathRule(b"/proc", _landlock.GRANTS["data"] & guest.handled_fs)
    return Ruleset(
        handled_fs=guest.handled_fs,
        handled_net=guest.handled_net,
        scoped=guest.scoped,
        paths=(*guest.paths, proc),
        ports=guest.ports,
    )


def _launch(policy: Policy) -> Launch:
    rlimits = []
    if policy.no_coredump:
        rlimits.append((RLIMIT_CORE, 0, 0))
    if policy.max_open_files is not None:
        rlimits.append((RLIMIT_NOFILE, policy.max_open_files, policy.max_open_files))
    return Launch(
        rlimits=tuple(rlimits),
        umask=policy.umask,
        cpus=policy.cpu_cores,
        personality=ADDR_NO_RANDOMIZE if policy.no_randomize_memory else None,
        no_huge_pages=policy.no_huge_pages,
        keep_capabilities=sum(1 << CAPABILITIES.index(name) for name in policy.keep_capabilities),
        max_processes=policy.max_processes,
        uid=policy.uid,
        gid=policy.gid,
    )
