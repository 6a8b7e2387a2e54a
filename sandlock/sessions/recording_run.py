"""The run that is recorded to learn from: its policy, and what has to be looked up about what it did.

Rules: the policy reads widely and writes narrowly: only where it was told, and in a private temporary directory.
Secrets stay denied, whatever the program tries; so do unix sockets of others, which lead out of the sandbox, the
addresses by which clouds give out keys, and devices.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

from sandlock import Allow, Bind, Connect, Deny, Listen, Policy, PolicyError, Resolve, Send

from .. import presets as _presets
from .._record import record, replace
from .generalising import Covering, Limits, is_below
from .learning import PRESETS
from .places import Place, state_place
from .secret_files import SECRETS, env_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..events import Event

__all__ = [
    "RecordingRun",
    "covering_of_policy",
    "coverings",
    "finder",
    "loaders_of",
    "prepare_recording",
    "temporary_place",
]

MACHINE_SECRETS = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d"),
    *("/etc/ssl/private", "/etc/pki/tls/private", "/etc/krb5.keytab", "/etc/wireguard", "/etc/openvpn"),
    *("/etc/NetworkManager/system-connections", "/etc/security/opasswd", "/etc/kubernetes", "/run/secrets"),
    *("/var/lib/kubelet", "/var/lib/docker", "/var/backups", "/var/spool/cron"),
    *(f"/etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "ecdsa", "ed25519", "dsa")),
)
"""What only root could read anyway."""
KEY_SERVICES = ("169.254.0.0/16", "[fe80::/10]", "[fd00:ec2::254]", "100.100.100.200")
"""Addresses at which clouds tell a machine its credentials."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom")
HEAD = 4096
MAX_INTERPRETERS = 4


@record
class RecordingRun:
    """What the program may do while it is recorded, and what bounds the rules that come of it."""

    policy: Policy
    limits: Limits

    def verdict(self, event: Event, box: object = None) -> Allow | Deny:
        """The policy_fn: about names, datagrams and unix sockets; all else is decided by rules."""
        match event:
            case Resolve():
                return Allow()
            case Connect(protocol="unix") | Send(protocol="unix") | Bind(protocol="unix") | Listen(protocol="unix"):
                own = not event.abstract and any(is_below(event.path, root) for root in self.limits.writable)
                return Allow(scope="run") if own else Deny("a socket of somebody else may lead out of the sandbox")
            case Connect() | Send() | Bind() | Listen():
                return Allow(scope="run")
        return Deny("nothing that is recorded")


def prepare_recording(
    fields: dict[str, Any], *, temporary: str, terminals: Iterable[str], at_least: int
) -> RecordingRun:
    """The recording of a program. `fields`: keywords of Policy that were given; `temporary`: the private directory.
    Raises PolicyError."""
    given = Policy.of(**fields)
    workspace = os.path.realpath(given.cwd or os.getcwd())
    home = os.path.realpath(os.environ.get("HOME") or "/")
    if workspace == "/" or is_below(home, workspace):
        what = "the root directory" if workspace == "/" else "the home directory, keys and all"
        raise PolicyError(f"workspace: {workspace} holds {what}; start in a project directory", field="cwd")
    roots = tuple(os.path.realpath(path) for path in given.fs_writable) or (workspace,)
    for root in roots:
        if root == "/" or is_below(home, root):
            raise PolicyError(
                f"fs_writable: {root} holds too much to learn from; name directories in it", field="fs_writable"
            )
    secrets = secret_paths(home, (workspace, *roots), given.fs_denied)
    policy = given.but(
        fs_readable=(*given.fs_readable, *readable_places()),
        fs_writable=(*roots, temporary),
        fs_devices=(*given.fs_devices, *(path for path in DEVICES if os.path.exists(path)), *terminals),
        fs_denied=tuple(
            path for path in secrets if os.path.lexists(path)
        ),  # others are told as what they are: not there
        net_allow=(*given.net_allow, "*"),
        net_deny=(*given.net_deny, *KEY_SERVICES),
        net_allow_bind=(*given.net_allow_bind, "*"),
        exec_allow=("*",),
        env=(("TMPDIR", temporary), *given.env),
        record_paths=True,
    )
    limits = Limits(
        home=home,
        workspace=workspace,
        temporary=os.path.realpath(temporary),
        secrets=secrets,
        writable=(*roots, os.path.realpath(temporary)),
        at_least=at_least,
        kind_of=kind_of,
    )
    return RecordingRun(policy=policy, limits=limits)


def readable_places() -> list[str]:
    """All there is, but for devices: a disk holds every secret that is on it."""
    return [f"/{name}" for name in sorted(os.listdir("/")) if name != "dev" and os.path.exists(f"/{name}")]


def secret_paths(home: str, tops: Iterable[str], denied: Iterable[str]) -> tuple[str, ...]:
    """What stays denied, as real paths, whether it is there or not."""
    found = [*(f"{home}/{name}" for name in SECRETS), *MACHINE_SECRETS, *denied]
    for top in tops:
        found += env_files(top)[0]
    real = {os.path.realpath(path) for path in found}
    return tuple(sorted(path for path in real if not is_below(home, path)))


def temporary_place(name: str) -> Place:
    """Where programs of the profile of this name have their temporary files."""
    state = state_place()
    return Place(base=state.base, names=(*state.names[:-1], "tmp", name), fix=state.fix)


# What is there -------------------------------------------------------------------------------------------------------


def kind_of(path: str) -> str:
    """What lies at a real path: "file", "directory", or "" for nothing."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return ""
    return "directory" if stat.S_ISDIR(mode) else "file"


def finder(policy: Policy) -> Callable[[str], str]:
    """Finds the file, without links, that PATH means by a name, as the program will have it; "" for none."""
    search = dict(policy.env).get("PATH") or os.environ.get("PATH", os.defpath)

    def find(name: str) -> str:
        found = shutil.which(name, path=search) if name and "/" not in name else None
        return os.path.realpath(found) if found else ""

    return find


def coverings(names: Iterable[str], limits: Limits) -> dict[str, Covering]:
    """What each preset covers on this machine, by real paths."""
    here = replace(_presets.look_around(limits.workspace), writable=limits.writable)
    wanted = dict.fromkeys((*PRESETS, *(name for name in names if name != "workspace")))
    return {name: _covering(_presets.expand((name,), surroundings=here).grants) for name in wanted}


def covering_of_policy(policy: Policy) -> Covering:
    """What the files of a policy cover."""
    return _covering(policy.expand().grants)


def _covering(grants: Iterable[_presets.Grant]) -> Covering:
    found = {(os.path.realpath(grant.path), grant.kind) for grant in grants if os.path.exists(grant.path)}
    return Covering(tuple(sorted(found)))


def loaders_of(exe: str) -> tuple[str, ...]:
    """What else the kernel opens to execute a file: the interpreters of a script, and the loader of each. As far as can
    be seen now; the file may be the program's own."""
    found: list[str] = []
    for _ in range(MAX_INTERPRETERS):
        head = _head(exe)
        if head.startswith(b"#!"):
            words = head[2:].partition(b"\n")[0].split()
            exe = os.path.realpath(os.fsdecode(words[0])) if words else ""
        elif head.startswith(b"\x7fELF"):
            loader = _loader_in(head)
            return (*found, os.path.realpath(loader)) if loader else tuple(found)
        else:
            break
        if not exe.startswith("/"):
            break
        found.append(exe)
    return tuple(found)


def _head(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, HEAD) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _loader_in(head: bytes) -> str:
    """PT_INTERP of a 64-bit little-endian ELF file, where its beginning holds it."""
    if len(head) < 64 or head[4:6] != b"\x02\x01":
        return ""
    table, size, count = (int.from_bytes(head[at : at + n], "little") for at, n in ((32, 8), (54, 2), (56, 2)))
    for number in range(min(count, 64)):
        entry = head[table + number * size : table + (number + 1) * size]
        if len(entry) >= 40 and int.from_bytes(entry[:4], "little") == 3:
            offset, length = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[32:40], "little")
            text = head[offset : offset + length].rstrip(b"\0")
            return os.fsdecode(text) if text.startswith(b"/") and b"\0" not in text else ""
    return ""
