"""Presets: named sets of grants that make ordinary programs work, with the least.

Rules: a preset only adds grants, and its paths are optional (a machine that lacks one is no error). No preset
grants keys, password hashes, tokens or another user's files. What a grant shows is said in the description.
"""

from __future__ import annotations

import os
import sys

from ._record import record, replace
from ._values import did_you_mean
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypedDict

    class Preset(TypedDict, total=False):
        """One named set. Paths may begin with `~` (home)."""

        description: str
        includes: tuple[str, ...]
        read: tuple[str, ...]
        data: tuple[str, ...]
        write: tuple[str, ...]
        device: tuple[str, ...]
        etc: tuple[str, ...]  # entries of /etc that root gets one by one; anyone else gets /etc
        env: tuple[tuple[str, str], ...]


@record(kw_only=False)
class Grant:
    """Access to one path and all below it. `optional`: left out silently where it does not exist."""

    path: str
    kind: str
    optional: bool = False
    root: str | None = None
    """The directory ("" for the root) from which on no link may be in the path."""


@record(kw_only=False)
class Expansion:
    """What presets amount to here and now. The caller's own `env` takes precedence over this one."""

    grants: tuple[Grant, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@record
class Surroundings:
    """The facts about the host and its user that presets depend on."""

    root: bool
    home: str | None
    cwd: str
    path: str
    writable: tuple[str, ...] = ()
    """What the policy grants for writing: entries of `path` below it are not trusted."""
    chroot: str = ""
    """The directory that the program sees as its root; what is looked up here lies below it."""


KINDS = ("read", "data", "write", "device")
"""What a grant allows: read+execute, read only, all but device nodes, a device (read, write, ioctl)."""

# /etc for root, who could read everything there: what libraries and common programs open at start, nothing
# that holds a secret (shadow, gshadow, sudoers, ssh host keys, ssl/private, machine-id, NetworkManager, ...).
SYSTEM_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload"),
    *("ld-musl-x86_64.path", "ld-musl-aarch64.path"),
    *("nsswitch.conf", "passwd", "group", "hosts", "host.conf", "hostname", "resolv.conf", "gai.conf"),
    *("services", "protocols", "networks"),
    *("localtime", "timezone", "locale.conf", "locale.alias", "default/locale"),
    *("os-release", "debian_version", "lsb-release", "redhat-release", "system-release", "alpine-release"),
    *("ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem", "ca-certificates", "gnutls/config", "crypto-policies"),
    *("pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted"),
    *("profile", "profile.d", "bash.bashrc", "bashrc", "bash_completion.d", "zsh", "inputrc", "shells"),
    *("alternatives", "environment", "terminfo", "gitconfig", "wgetrc", "manpath.config"),
    *("magic", "magic.mime", "mime.types", "fonts", "xattr.conf"),
)
# Directories of language runtimes carry versions in their names: /usr/lib/python3.11/sitecustomize.py points
# into /etc/python3.11, a JVM's lib/security into /etc/java-17-openjdk.
SYSTEM_ETC_PREFIXES = ("python3", "perl", "java-", "php")
OUTSIDE_USR = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

PRESETS: dict[str, Preset] = {
    "system": {
        "description": "Read-only base for ordinary programs: /usr, the loader, /etc without secrets, "
        "harmless devices, CPU facts of /sys, and /proc.",
        "includes": ("proc",),
        "read": ("/usr", "/nix/store", "/gnu/store"),
        "data": (
            *("/run/systemd/resolve", "/run/NetworkManager/resolv.conf"),
            *("/sys/devices/system/cpu", "/sys/devices/system/node"),
            *("/sys/kernel/mm/transparent_hugepage", "/sys/fs/cgroup"),
            *("/dev/random", "/dev/urandom"),
        ),
        # /dev/tty gives nothing that an interactive program does not hold already; others have no terminal
        "device": ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty"),
        "etc": SYSTEM_ETC,
    },
    "proc": {
        "description": "Read /proc. Shows which processes run on this machine and their command lines; "
        "their memory and environment stay closed (Landlock's ptrace rule).",
        "data": ("/proc",),
    },
    "tmp": {
        "description": "Write to /tmp and /var/tmp, the SHARED ones: what other programs of this user left "
        "there can be read and changed. Sets TMPDIR=/tmp.",
        "write": ("/tmp", "/var/tmp"),  # noqa: S108  # granting it is the point
        "env": (("TMPDIR", "/tmp"),),  # noqa: S108
    },
    "shm": {
        "description": "Write to /dev/shm, the SHARED one: POSIX shared memory, multiprocessing.",
        "write": ("/dev/shm",),  # noqa: S108
    },
    "pty": {
        "description": "Open pseudo-terminals (script, tmux). Also reaches this user's other terminals.",
        "device": ("/dev/ptmx", "/dev/pts"),
    },
    "workspace": {
        "description": "Write to the working directory (refused when that is / or the home directory).",
    },
    "python": {
        "description": "system, the Python that runs sandlock, python3 on PATH, the user's site-packages.",
        "includes": ("system",),
        "etc": ("pip.conf",),
    },
    "git": {
        "description": "system, and read the user's git configuration (no credentials, no ssh keys). "
        "The repository itself needs a grant (-w).",
        "includes": ("system",),
        "data": ("~/.gitconfig", "~/.config/git/config", "~/.config/git/ignore", "~/.config/git/attributes"),
        "etc": ("ssh/ssh_config", "ssh/ssh_config.d"),
    },
    "build": {
        "description": "system and tmp, and read Rust's toolchains in the home directory: cc, make, cargo.",
        "includes": ("system", "tmp"),
        "read": ("~/.rustup", "~/.cargo/bin", "~/.cargo/registry"),
        "data": ("~/.cargo/config.toml",),
        "etc": ("dpkg", "maven"),
    },
    "node": {
        "description": "system, and the node that PATH finds (nvm, volta, /opt).",
        "includes": ("system",),
        "etc": ("npmrc",),
    },
}
"""Every preset by name."""


def expand(
    names: Iterable[str], *, surroundings: Surroundings | None = None, writable: Iterable[str] = ()
) -> Expansion:
    """The grants and environment of these presets, each path once.

    `writable`: paths that the policy itself grants for writing. What a program could have put into PATH there does
    not choose what is granted. Raises PolicyError for an unknown name, and for "workspace" in / or the home directory.
    """
    here = surroundings if surroundings is not None else look_around()
    grants: dict[tuple[str, str], Grant] = {}
    env: dict[str, str] = {}
    own = (*writable, here.cwd) if "workspace" in names else tuple(writable)
    if own:
        here = replace(here, writable=own)
    for name in closure(names):
        preset = PRESETS[name]
        for grant in _grants(name, here):
            grants.setdefault((grant.path, grant.kind), grant)
        env.update(preset.get("env", ()))
    return Expansion(tuple(grants.values()), tuple(env.items()))


def closure(names: Iterable[str]) -> tuple[str, ...]:
    """These presets and those they include, each once, included ones first."""
    order: dict[str, None] = {}
    for name in names:
        preset = PRESETS.get(name)
        if preset is None:
            raise PolicyError(f"presets: {name!r} is unknown; {did_you_mean(name, PRESETS)}", field="presets")
        for inner in closure(preset.get("includes", ())):
            order.setdefault(inner)
        order.setdefault(name)
    return tuple(order)


def look_around(cwd: str | None = None, chroot: str | None = None) -> Surroundings:
    """The surroundings of this process. `cwd`: where the program will start, if not here; inside `chroot`, if that is
    given."""
    if chroot is not None and cwd is None:
        cwd = "/"
    home = os.environ.get("HOME")
    return Surroundings(
        root=os.geteuid() == 0,
        home=home.rstrip("/") if home is not None and home.startswith("/") and home.strip("/") else None,
        cwd=cwd if cwd is not None else _current_directory(),
        path=os.environ.get("PATH", os.defpath),
        chroot="" if chroot is None else chroot.rstrip("/"),
    )


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"  # gone: the only preset that asks refuses "/"


def _grants(name: str, here: Surroundings) -> list[Grant]:
    preset = PRESETS[name]
    found = []
    for kind, paths in (
        ("read", preset.get("read", ())),
        ("data", preset.get("data", ())),
        ("write", preset.get("write", ())),
        ("device", preset.get("device", ())),
    ):
        for path in paths:
            if not path.startswith("~"):
                found.append(Grant(path, kind, True))
            elif here.home is not None:
                found.append(Grant(here.home + path[1:], kind, True))
    found += [Grant(path, "data", True) for path in _etc(preset.get("etc", ()), here)]
    if name in _FOUND_OUT:
        found += _FOUND_OUT[name](here)
    return found


def _etc(entries: tuple[str, ...], here: Surroundings) -> list[str]:
    if not entries:
        return []
    if not here.root:
        return ["/etc"]
    return [f"/etc/{entry}" for entry in entries]


def _system(here: Surroundings) -> list[Grant]:
    """/bin, /lib64, ... where they are directories of their own (commonly they are links into /usr)."""
    found = [Grant(path, "read", True) for path in OUTSIDE_USR if not _link_into_usr(here.chroot + path)]
    if here.root:
        try:
            entries = sorted(os.listdir(f"{here.chroot}/etc"))
        except OSError:
            return found
        runtimes = [entry for entry in entries if entry.startswith(SYSTEM_ETC_PREFIXES)]
        found += [Grant(f"/etc/{entry}", "data", True) for entry in runtimes]
    return found


def _link_into_usr(path: str) -> bool:
    try:
        return os.readlink(path).lstrip("/").startswith("usr/")
    except OSError:
        return False


def _workspace(here: Surroundings) -> list[Grant]:
    real = os.path.normpath(here.cwd) if here.chroot else os.path.realpath(here.cwd)
    home = os.path.realpath(here.home) if here.home is not None else None
    if real == "/" or real == home:
        what = "the root directory" if real == "/" else "the home directory, keys and all"
        raise PolicyError(
            f"presets: 'workspace' would make {what} writable; start in a project directory, "
            f"or say so with fs_writable (-w {real})",
            field="presets",
        )
    return [Grant(here.cwd, "write", False)]


def _python(here: Surroundings) -> list[Grant]:
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    prefixes += _installations("python3", here)
    if here.home is not None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        prefixes.append(f"{here.home}/.local/lib/python{version}")
    return _prefix_grants(prefixes, here)


def _node(here: Surroundings) -> list[Grant]:
    return _prefix_grants(_installations("node", here), here)


def _is_below(path: str, directories: Iterable[str]) -> bool:
    real = os.path.realpath(path) + "/"
    return any(real.startswith(os.path.realpath(directory).rstrip("/") + "/") for directory in directories)


def _installations(program: str, here: Surroundings) -> list[str]:
    """PREFIX of the PREFIX/bin/program that PATH finds, both as spelled and with links resolved."""
    for directory in here.path.split(":"):
        found = f"{directory}/{program}"
        if directory.startswith("/") and os.access(found, os.X_OK) and not _is_below(directory, here.writable):
            homes = [os.path.dirname(place) for place in (found, os.path.realpath(found))]
            return [os.path.dirname(home) for home in homes if home.endswith("/bin")]
    return []


def _prefix_grants(prefixes: Iterable[str], here: Surroundings) -> list[Grant]:
    """Read grants, but never for a prefix that would open the root or a whole home directory."""
    wide = {"", "/", "/home", "/usr", here.home, here.home and f"{here.home}/.local"}
    return [
        Grant(prefix, "read", True)
        for prefix in dict.fromkeys(prefixes)
        if prefix.startswith("/") and prefix not in wide and not prefix.startswith("/usr/")
    ]


_FOUND_OUT = {"system": _system, "workspace": _workspace, "python": _python, "node": _node}
"""What a preset grants that depends on more than names."""
