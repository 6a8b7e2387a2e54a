"""Policy: what the caller allows, as a value; and the one table of options.

Rules: everything about an option (flags, profile key, help, how it is read) stands in its field's metadata;
keywords, command line, profiles and documents derive from it. A Policy that exists is valid: all it holds
was checked and normalised at construction. None and () mean "not granted", never "unrestricted": that is "*".
"""

from __future__ import annotations

from . import presets as _presets
from ._record import field, fields, record, replace
from ._values import READERS, did_you_mean, read_choice, read_choices, refuse
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping
    from typing import Any, Self, TypedDict, Unpack

    PathText = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    Paths = PathText | Iterable[PathText]
    Names = str | Iterable[str]
    Mounts = Names | Mapping[str, PathText]
    ExecRules = str | Iterable[str | Iterable[str] | Mapping[str, Any]]

    class Fields(TypedDict, total=False):
        """The keywords of `Policy.of`, `Sandbox` and `run`, with everything each accepts."""

        presets: Names
        fs_readable: Paths
        fs_data: Paths
        fs_writable: Paths
        fs_devices: Paths
        fs_denied: Paths
        fs_protected: Paths
        hide_ungranted: bool
        chroot: PathText | None
        fs_mount: Mounts
        net_allow: Names
        net_deny: Names
        net_allow_bind: int | str | Iterable[int | str]
        net_deny_bind: int | str | Iterable[int | str]
        exec_deny: ExecRules
        exec_ask: ExecRules
        exec_allow: ExecRules
        env: Mapping[str, str] | Iterable[tuple[str, str]]
        pass_env: Names
        clean_env: bool
        cwd: PathText | None
        umask: int | str | None
        uid: int | None
        gid: int | None
        hostname: str | None
        private_proc: bool | None
        timeout: float | str | None
        max_output: int | str
        max_processes: int | None
        max_open_files: int | None
        cpu_cores: int | str | Iterable[int | str]
        no_coredump: bool
        no_randomize_memory: bool
        no_huge_pages: bool
        extra_deny_syscalls: Names
        extra_allow_syscalls: Names
        keep_capabilities: Names
        record_execs: bool
        record_paths: bool
        ask_forks: bool
        ask_opens: str | None
        allow_degraded: Names
        disable: Names


__all__ = ["CLEAN_ENV", "OPTIONS", "PATHS", "PROTECTIONS", "Option", "Policy", "option_of"]

PROTECTIONS = (
    "fs-refer",
    "fs-truncate",
    "fs-ioctl-dev",
    "net-tcp",
    "signal-scope",
    "abstract-unix-socket-scope",
    "fs-metadata",
)
"""Protections that not every kernel and container has, each of which may be waived by name."""

PATHS = {"fs_readable": "read", "fs_data": "data", "fs_writable": "write", "fs_devices": "device"}
"""The fields that grant paths, and the kind of each (presets.KINDS)."""

CLEAN_ENV = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_*", "TZ", "TMPDIR")
"""What a clean environment keeps."""
LISTS = frozenset(
    (
        "paths",
        "mounts",
        "names",
        "capabilities",
        "variable-names",
        "variables",
        "cpus",
        "ports",
        "net-rules",
        "exec-rules",
    )
)
"""Kinds whose flag may be repeated; what a flag adds extends what a profile says."""


class Option:
    """All that is known about one option. Derived from a field of Policy; see OPTIONS. Never changed."""

    # not a dataclass: making one costs a millisecond of every start
    __slots__ = (
        "choices",
        "default",
        "flags",
        "help",
        "high",
        "key",
        "kind",
        "low",
        "metavar",
        "name",
        "off",
    )

    def __init__(
        self,
        name: str,
        default: object,
        *,
        kind: str,
        flags: tuple[str, ...],
        key: str,
        help: str,
        metavar: str = "",
        off: tuple[str, ...] = (),
        choices: tuple[str, ...] = (),
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        self.name = name
        """The keyword."""
        self.default = default
        self.kind = kind
        """How it is read: a key of `_values.READERS`."""
        self.flags = flags
        self.off = off
        """For a switch: the flags that turn it off."""
        self.key = key
        """Where a profile says it: "section.key"."""
        self.help = help
        self.metavar = metavar
        self.choices = choices
        self.low = low
        self.high = high

    def __repr__(self) -> str:
        return f"<Option {self.name} {self.kind} {' '.join(self.flags + self.off)} [{self.key}]>"

    @property
    def repeatable(self) -> bool:
        """Whether the flag may stand more than once, its values being collected."""
        return self.kind in LISTS

    def read(self, value: object) -> object:
        """The normalised value. Raises PolicyError."""
        if value is None and self.default is None:
            return None
        if self.choices and self.kind == "word":
            return read_choice(self.name, value, self.choices)
        if self.choices:
            return read_choices(self.name, value, self.choices)
        limits = {"low": self.low, "high": self.high}
        bounds = {name: limit for name, limit in limits.items() if limit is not None}
        return READERS[self.kind](self.name, value, **bounds)


def _option(default: Any, kind: str, *flags: str, key: str, help: str, **facts: Any) -> Any:
    """A field of Policy that is an option. `help`'s first sentence stands in --help."""
    return field(default=default, metadata={"kind": kind, "flags": flags, "key": key, "help": help, **facts})


@record
class Policy:
    """What a sandboxed program may do. Everything that is not granted is denied.

    `Policy(...)` takes and checks the same values as `Policy.of(...)`, whose keywords are declared with all
    they accept (lists, paths as os.PathLike, sizes as "64M") and which names the nearest keyword when one is
    unknown. A list field given one bare text or path takes it as its only element. Relative paths are made
    absolute against the current directory now, `~` becomes the home directory. Raises PolicyError.
    """

    # fmt: off
    presets: tuple[str, ...] = _option(
        (), "names", "--preset", key="config.presets", metavar="NAME", choices=tuple(_presets.PRESETS),
        help="Grant a named set: " + ", ".join(_presets.PRESETS) + ".",
    )
    fs_readable: tuple[str, ...] = _option(
        (), "paths", "-r", "--fs-read", key="filesystem.read", metavar="PATH",
        help="Allow reading and executing PATH and everything below it.",
    )
    fs_data: tuple[str, ...] = _option(
        (), "paths", "--fs-data", key="filesystem.data", metavar="PATH",
        help="Allow reading PATH and everything below it, without executing.",
    )
    fs_writable: tuple[str, ...] = _option(
        (), "paths", "-w", "--fs-write", key="filesystem.write", metavar="PATH",
        help="Allow reading, executing, writing, creating and removing below PATH; no device nodes.",
    )
    fs_devices: tuple[str, ...] = _option(
        (), "paths", "--fs-device", key="filesystem.devices", metavar="PATH",
        help="Allow reading, writing and ioctl on a device file, or on the devices below PATH.",
    )
    fs_denied: tuple[str, ...] = _option(
        (), "paths", "--fs-deny", key="filesystem.deny", metavar="PATH",
        help="Deny PATH and everything below it, whatever else is granted, now or later.",
    )
    fs_protected: tuple[str, ...] = _option(
        (), "paths", "--fs-protect", key="filesystem.protect", metavar="PATH",
        help="Have nothing at or below PATH be changed, whatever is writable, now or later; it can be read.",
    )
    hide_ungranted: bool = _option(
        False, "switch", "--hide-ungranted", key="filesystem.hide_ungranted", off=("--show-ungranted",),
        help="Have what no grant covers not be there: looking at it says that there is no such file.",
    )
    chroot: str | None = _option(
        None, "path", "--chroot", key="filesystem.chroot", metavar="DIR",
        help="Show the program DIR as its root directory; then all paths above, and cwd, are inside it.",
    )
    fs_mount: tuple[str, ...] = _option(
        (), "mounts", "--fs-mount", key="filesystem.mount", metavar="VIRT:HOST[:ro]",
        help="Show HOST at VIRT inside chroot, and allow writing there; only reading and executing with :ro.",
    )
    net_allow: tuple[str, ...] = _option(
        (), "net-rules", "--net-allow", key="network.allow", metavar="RULE",
        help='Allow connections and datagrams: ":443", "10.0.0.0/8:80,443", "localhost", "udp://9.9.9.9:53", '
        '"unix:/run/x.sock"; TCP where nothing else is said; "*" allows any TCP.',
    )
    net_deny: tuple[str, ...] = _option(
        (), "net-rules", "--net-deny", key="network.deny", metavar="RULE",
        help="Deny destinations that a net_allow rule allows; without tcp:// or udp:// it denies every protocol.",
    )
    net_allow_bind: tuple[str, ...] = _option(
        (), "ports", "--net-allow-bind", key="network.allow_bind", metavar="PORTS",
        help='Allow listening on ports: 8080, "80,443", "8000-8010", "*"; "udp://53"; "unix:/path".',
    )
    net_deny_bind: tuple[str, ...] = _option(
        (), "ports", "--net-deny-bind", key="network.deny_bind", metavar="PORTS",
        help="Deny ports that net_allow_bind allows, for TCP and UDP.",
    )
    exec_deny: tuple[str, ...] = _option(
        (), "exec-rules", "--exec-deny", key="exec.deny", metavar="RULE",
        help='Deny programs by their words: "git push *", "/usr/bin/ssh *"; a reason may follow after " # ".',
    )
    exec_ask: tuple[str, ...] = _option(
        (), "exec-rules", "--exec-ask", key="exec.ask", metavar="RULE",
        help="Have the callback decide about these programs, also where exec_allow allows them.",
    )
    exec_allow: tuple[str, ...] = _option(
        (), "exec-rules", "--exec-allow", key="exec.allow", metavar="RULE",
        help="Allow only these programs, and those that a callback approves.",
    )
    env: tuple[tuple[str, str], ...] = _option(
        (), "variables", "--env", key="program.env", metavar="NAME=VALUE",
        help="Set an environment variable; with NAME alone, pass it through from here.",
    )
    pass_env: tuple[str, ...] = _option(
        (), "variable-names", "--pass-env", key="program.pass_env", metavar="NAME",
        help='Pass an environment variable through; a last "*" stands for any ending.',
    )
    clean_env: bool = _option(
        True, "switch", "--clean-env", key="program.clean_env", off=("--inherit-env",),
        help="Pass only " + " ".join(CLEAN_ENV) + ", and what env and pass_env name.",
    )
    cwd: str | None = _option(
        None, "path", "-C", "--cwd", key="program.cwd", metavar="DIR",
        help="Start the program in DIR (default: the current directory).",
    )
    umask: int | None = _option(
        None, "octal", "--umask", key="program.umask", metavar="OCTAL",
        help='File mode creation mask, in octal: "022" (default: inherited).',
    )
    uid: int | None = _option(
        None, "int", "--uid", key="program.uid", metavar="N", low=0, high=2**32 - 2,
        help="User id that the program sees, by a user namespace where the host allows one.",
    )
    gid: int | None = _option(
        None, "int", "--gid", key="program.gid", metavar="N", low=0, high=2**32 - 2,
        help="Group id that the program sees, by a user namespace where the host allows one.",
    )
    hostname: str | None = _option(
        None, "hostname", "--hostname", key="program.hostname", metavar="NAME",
        help="Name of the machine as the program sees it; also gives it an /etc/hosts of its own.",
    )
    private_proc: bool | None = _option(
        None, "switch", "--private-proc", key="filesystem.private_proc", off=("--no-private-proc",),
        help="Show of /proc and /sys only what is the sandbox's own, and nothing of the machine (default: off).",
    )
    timeout: float | None = _option(
        None, "seconds", "-t", "--timeout", key="limits.timeout", metavar="SECONDS",
        help='Kill the whole tree after this time: 90, "500ms", "5m" (default: no limit).',
    )
    max_output: int = _option(
        64 * 2**20, "size", "--max-output", key="limits.output", metavar="SIZE", low=0,
        help="Keep at most this much of each captured stream; the rest is dropped and reported as truncated.",
    )
    max_processes: int | None = _option(
        None, "int", "-P", "--max-processes", key="limits.processes", metavar="N", low=1, high=2**22,
        help="Processes alive at once in the tree; fork fails with EAGAIN above it; threads are not counted.",
    )
    max_open_files: int | None = _option(
        None, "int", "--max-open-files", key="limits.open_files", metavar="N", low=4, high=2**30,
        help="File descriptors that one process may have open (RLIMIT_NOFILE).",
    )
    cpu_cores: tuple[int, ...] = _option(
        (), "cpus", "--cpu-cores", key="limits.cpu_cores", metavar="LIST",
        help='Run on these CPUs only: 0 or "0,2-3" (default: those of the caller).',
    )
    no_coredump: bool = _option(
        True, "switch", "--no-coredump", key="program.no_coredump", off=("--coredump",),
        help="Write no core files.",
    )
    no_randomize_memory: bool = _option(
        False, "switch", "--no-randomize-memory", key="determinism.no_randomize_memory",
        off=("--randomize-memory",),
        help="Switch address space randomisation off.",
    )
    no_huge_pages: bool = _option(
        False, "switch", "--no-huge-pages", key="program.no_huge_pages", off=("--huge-pages",),
        help="Switch transparent huge pages off.",
    )
    extra_deny_syscalls: tuple[str, ...] = _option(
        (), "names", "--extra-deny-syscall", key="syscalls.extra_deny", metavar="NAME",
        help="Deny a system call that is allowed by default (EPERM).",
    )
    extra_allow_syscalls: tuple[str, ...] = _option(
        (), "names", "--extra-allow-syscall", key="syscalls.extra_allow", metavar="NAME",
        help='Allow a system call that is denied by default, or a group such as "sysv_ipc".',
    )
    keep_capabilities: tuple[str, ...] = _option(
        (), "capabilities", "--keep-capability", key="syscalls.keep_capabilities", metavar="CAP",
        help="Keep a capability of root's; all others are dropped for good.",
    )
    record_execs: bool = _option(
        False, "switch", "--record-execs", key="config.record_execs", off=("--no-record-execs",),
        help="Record every program that the tree executes (result.execs); each exec gets slower.",
    )
    record_paths: bool = _option(
        False, "switch", "--record-paths", key="config.record_paths", off=("--no-record-paths",),
        help="Have what is done to files on record (with audit), each thing about once; files get slower.",
    )
    ask_forks: bool = _option(
        False, "switch", "--ask-forks", key="config.ask_forks", off=("--no-ask-forks",),
        help="Have the callback decide about each new process, too; threads are not asked about.",
    )
    ask_opens: str | None = _option(
        None, "word", "--ask-opens", key="config.ask_opens", metavar="WHICH", choices=("write", "all"),
        help="Have the callback decide about opens, too: write (of what could be written) or all.",
    )
    allow_degraded: tuple[str, ...] = _option(
        (), "names", "--allow-degraded", key="config.allow_degraded", metavar="PROTECTION",
        choices=PROTECTIONS,
        help="Run without this protection where the kernel lacks it: " + ", ".join(PROTECTIONS) + ".",
    )
    disable: tuple[str, ...] = _option(
        (), "names", "--disable", key="config.disable", metavar="PROTECTION", choices=PROTECTIONS,
        help="Switch this protection off (same names as --allow-degraded).",
    )
    # fmt: on

    def __post_init__(self) -> None:
        for option in OPTIONS:
            value = getattr(self, option.name)
            # most fields are at their defaults, which are normal; `is` also skips True for clean_env
            if value is not option.default:
                object.__setattr__(self, option.name, option.read(value))

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in self.changes().items())})"

    @classmethod
    def of(cls, **values: Unpack[Fields]) -> Self:
        """A Policy of these fields. Raises PolicyError; an unknown keyword's names the nearest known one."""
        for name in values:
            if name not in _BY_NAME:
                raise PolicyError(f"{name}: no such policy field; {did_you_mean(name, _BY_NAME)}", field=name)
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ reads and normalises every one

    def but(self, **values: Unpack[Fields]) -> Policy:
        """A copy with these fields replaced. Raises PolicyError."""
        Policy.of(**values)
        return replace(self, **values)

    def is_empty(self) -> bool:
        """Whether no file is granted at all, so that no program could even start."""
        granted = (self.presets, self.fs_readable, self.fs_data, self.fs_writable, self.fs_devices, self.fs_mount)
        return not any(granted)

    def has_exec_rules(self) -> bool:
        """Whether some programs are denied, asked about, or the only ones allowed."""
        return bool(self.exec_allow or self.exec_ask or self.exec_deny)

    def expand(self) -> _presets.Expansion:
        """All grants, the policy's own first and then those of its presets, and the presets' environment.

        Looks at the host: /etc for root, PATH, the working directory. Raises PolicyError.
        """
        grants = [_presets.Grant(path, kind) for name, kind in PATHS.items() for path in getattr(self, name)]
        if not self.presets:
            return _presets.Expansion(tuple(grants))
        expansion = _presets.expand(
            self.presets, surroundings=_presets.look_around(self.cwd, self.chroot), writable=self.fs_writable
        )
        return _presets.Expansion((*grants, *expansion.grants), expansion.env)

    def changes(self) -> dict[str, object]:
        """The fields that are not at their defaults."""
        values = {option.name: getattr(self, option.name) for option in OPTIONS}
        return {name: value for name, value in values.items() if value != _BY_NAME[name].default}


def _derive() -> tuple[Option, ...]:
    return tuple(Option(entry.name, entry.default, **entry.metadata) for entry in fields(Policy))


OPTIONS = _derive()
"""Every option, in the order of the help: flags, profile keys and keywords all come from here."""
_BY_NAME = {option.name: option for option in OPTIONS}


def option_of(name: str) -> Option:
    """The option of this policy field. Raises PolicyError."""
    if name not in _BY_NAME:
        refuse(name, name, "is no policy field", did_you_mean(name, _BY_NAME))
    return _BY_NAME[name]
