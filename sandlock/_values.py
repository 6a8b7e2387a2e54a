"""Readers: from what a person wrote (keyword, flag or TOML value) to what the policy holds.

Rules: a reader returns a normalised, hashable value or raises PolicyError naming the field, the value and the
fix; nothing is guessed, nothing is truncated. It must not know which options exist.
"""

from __future__ import annotations

import os

from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

MAX_BYTES = 2**63 - 1
"""The largest size the kernel can be told about (a signed 64-bit offset)."""
MAX_PORT_SPAN = 1024
"""Ports one rule may name: each is a Landlock rule of its own."""
MAX_CPUS = 8192
"""CONFIG_NR_CPUS never exceeds this."""
MAX_HOSTNAME = 64
"""__NEW_UTS_LEN of linux/utsname.h."""
MAX_ID = 2**32 - 2
"""The kernel keeps (uid_t)-1 for "no change"."""
MAX_SECONDS = 10**9
"""Some thirty years; beyond it an absolute deadline would overflow."""

UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# fmt: off
CAPABILITIES = tuple("CAP_" + name for name in (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
))
# fmt: on
"""Names by number (linux/capability.h): the position is the bit."""


def refuse(field: str, value: object, problem: str, fix: str) -> NoReturn:
    """Raises the PolicyError of one bad value."""
    raise PolicyError(f"{field}: {shown(value)} {problem}; {fix}", field=field)


def shown(value: object) -> str:
    """The value as an error message shows it: quoted, escaped, cut after 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None. Used only to word an error."""
    from difflib import get_close_matches  # slow to import, and only errors need it

    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = nearest(name, names)
    return f"did you mean {near!r}?" if near else "known: " + ", ".join(names)


def elements(field: str, value: object) -> tuple[object, ...]:
    """A list field's elements. One bare text or path is one element, never taken apart into characters."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes, int, os.PathLike)):
        return (value,)
    if isinstance(value, dict):
        refuse(field, value, "is a table", "write a list")
    try:
        return tuple(value)  # type: ignore[arg-type]  # anything iterable; the except says no
    except TypeError:
        refuse(field, value, "is not a list", "write a list or tuple")


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """Without repetitions, in the order first seen."""
    return tuple(dict.fromkeys(values))


def read_text(field: str, value: object, fix: str = "write it as text") -> str:
    """Any text that can be handed to the kernel: not empty, no NUL."""
    if not isinstance(value, str):
        refuse(field, value, "is not text", fix)
    if not value:
        refuse(field, value, "is empty", fix)
    if "\0" in value:
        refuse(field, value, "contains a NUL byte", "the kernel ends names at NUL; remove it")
    return value


# --- paths --------------------


def read_path(field: str, value: object) -> str:
    """An absolute path. Bytes are decoded as file names are; `~` is the home directory, `.` the current one.

    `..` is kept: the kernel resolves it through symbolic links, and may end elsewhere than a lexical answer.
    """
    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]  # the except says no
    except TypeError:
        refuse(field, value, "is not a path", "write text, bytes or an os.PathLike")
    path = read_text(field, path, "write a path")
    if path == "~" or path.startswith("~/"):
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            refuse(field, value, "needs HOME, which is not set", "set HOME or write the path in full")
        path = home + path[1:]
    if not path.startswith("/"):
        try:
            path = f"{os.getcwd()}/{path}"
        except OSError as error:
            refuse(
                field,
                value,
                f"is relative and there is no current directory ({error.strerror})",
                "write it in full",
            )
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def read_paths(field: str, value: object) -> tuple[str, ...]:
    """Absolute paths, each once."""
    return unique(read_path(field, element) for element in elements(field, value))


def read_mount(field: str, value: object, text: str) -> tuple[str, str, bool]:
    """ "VIRTUAL:HOST[:ro]" as (virtual path, host path, read-only). `value` is what the error shows."""
    fix = 'write "/path/inside:/path/here", ":ro" behind it to have it read-only'
    virtual, colon, host = text.partition(":")
    host, _, how = host.rpartition(":") if host.endswith((":ro", ":rw")) else (host, "", "rw")
    if not colon or not host or not virtual.startswith("/"):
        refuse(field, value, "is not a mount", fix)
    virtual = read_path(field, virtual)
    if virtual == "/" or ".." in virtual.split("/"):
        refuse(field, value, "is no place for a mount", 'name a path below "/" without ".."; the root itself is chroot')
    return virtual, read_path(field, host), how == "ro"


def read_mounts(field: str, value: object) -> tuple[str, ...]:
    """What of the host is seen where: {"/virtual": "/host"} or "/virtual:/host[:ro]" texts, one for each place."""
    items: list[tuple[object, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    else:
        for element in elements(field, value):
            virtual, _, host = read_text(field, element, "write mounts as text").partition(":")
            items.append((virtual, host))
    mounts: dict[str, str] = {}
    for inside, outside in items:
        try:
            text = f"{os.fsdecode(inside)}:{os.fsdecode(outside)}"  # type: ignore[arg-type]  # the except says no
        except TypeError:
            refuse(field, (inside, outside), "is not a mount", "write two paths")
        place, host, read_only = read_mount(field, text, read_text(field, text))
        mount = f"{place}:{host}{':ro' if read_only else ''}"
        if mounts.setdefault(place, mount) != mount:
            refuse(field, text, f"is a second mount at {place}", "keep one of the two")
    return tuple(mounts.values())


# --- numbers --------------------


def read_int(field: str, value: object, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number within bounds, as int or decimal text."""
    fix = f"write a whole number from {low} to {high}"
    number = value
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 21:
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int):
        refuse(field, value, "is not a whole number", fix)
    if not low <= number <= high:
        refuse(field, value, "is out of range", fix)
    return number


def read_size(field: str, value: object, low: int = 0, high: int = MAX_BYTES) -> int:
    """Bytes, as int or text with a binary unit: "64M", "1.5G", "512KiB". Units are powers of 1024."""
    fix = 'write bytes as a number or text such as "64M" or "1.5G"'
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        refuse(field, value, "is not a size", fix)
    size = value
    if isinstance(size, str):
        text = size.strip().upper()
        if text.endswith("IB") or (text.endswith("B") and text[-2:-1] in "KMGTPE" and len(text) > 2):
            text = text.removesuffix("B").removesuffix("I")
        digits = text.rstrip("BKMGTPE")
        unit = UNITS.get(text[len(digits) :])
        whole, dot, part = digits.strip().partition(".")
        if unit is None or not _decimal(whole) or (dot and not _decimal(part)):
            refuse(field, value, "is not a size", fix)
        size = int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)
    if not low <= size <= high:
        refuse(field, value, "is out of range", f"write a size from {low} to {high} bytes")
    return size


def _decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def read_seconds(field: str, value: object) -> float:
    """Seconds above zero, as a number or text with a unit: 1.5, "90", "500ms", "5m", "2h"."""
    fix = 'write seconds as a number above 0, or text such as "90", "500ms", "5m"'
    number, factor = value, 1.0
    if isinstance(value, str):
        digits = value.rstrip("hms")
        unit = value[len(digits) :]
        factor = SECONDS.get(unit or "s", 0.0)
        number = float(digits) if factor and digits.replace(".", "", 1).isdigit() and digits.isascii() else None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        refuse(field, value, "is not a time", fix)
    if not 0 < number <= MAX_SECONDS or not 0 < number * factor <= MAX_SECONDS:  # NaN fails the comparison too
        refuse(field, value, "is out of range", fix)
    return float(number * factor)


def read_octal(field: str, value: object) -> int:
    """File mode bits 0 to 0o777: an int as it is, text read as octal ("022", "0o022")."""
    fix = 'write it in octal, as text such as "022" or as a Python number 0o022'
    number = value
    if isinstance(value, str):
        digits = value.removeprefix("0o")
        if not digits or digits.strip("01234567") or len(digits) > 8:
            refuse(field, value, "is not octal", fix)
        number = int(digits, 8)
    if isinstance(number, bool) or not isinstance(number, int):
        refuse(field, value, "is not a mode", fix)
    if not 0 <= number <= 0o777:
        refuse(field, value, "is out of range", fix)
    return number


def read_switch(field: str, value: object) -> bool:
    """True or False and nothing that merely looks like it."""
    if not isinstance(value, bool):
        refuse(field, value, "is not a truth value", "write true or false")
    return value


# --- lists of names --------------------


def split(field: str, value: object) -> list[str]:
    """The names of a list field; one text may hold several with commas between."""
    names: list[str] = []
    for element in elements(field, value):
        text = read_text(field, element, "write names as text")
        for part in text.split(","):
            if not part.strip():
                refuse(field, element, "has an empty name in it", "remove the stray comma")
            names.append(part.strip())
    return names


def read_names(field: str, value: object) -> tuple[str, ...]:
    """Words of letters, digits, `_`, `-` and `.` (syscalls, protections, presets), each once."""
    names = split(field, value)
    for name in names:
        if not name.isascii() or not name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum():
            refuse(field, name, "is not a name", "use letters, digits, '_', '-' and '.'")
    return unique(names)


def read_choices(field: str, value: object, choices: Iterable[str]) -> tuple[str, ...]:
    """Names out of a known set."""
    known = tuple(choices)
    names = read_names(field, value)
    for name in names:
        if name not in known:
            refuse(field, name, "is unknown", did_you_mean(name, known))
    return names


def read_choice(field: str, value: object, choices: Iterable[str]) -> str:
    """One name out of a known set."""
    known = tuple(choices)
    name = read_text(field, value, "write one of " + ", ".join(known))
    if name not in known:
        refuse(field, name, "is unknown", did_you_mean(name, known))
    return name


def read_hostname(field: str, value: object) -> str:
    """A name for the machine, as sethostname(2) takes it, that can stand in a line of /etc/hosts."""
    fix = 'write a name such as "sandbox"'
    name = read_text(field, value, fix)
    if len(os.fsencode(name)) > MAX_HOSTNAME:
        refuse(field, value, f"is longer than {MAX_HOSTNAME} bytes", "shorten it; the kernel has no room for more")
    if name in (".", "..") or not name.isprintable() or any(sign in name for sign in "/# "):
        refuse(field, value, "is no name of a machine", f"{fix}, without spaces, '/' and '#'")
    return name


def read_capabilities(field: str, value: object) -> tuple[str, ...]:
    """Capability names, with or without CAP_, in any case; in the order of their numbers."""
    wanted = set()
    for name in split(field, value):
        full = "CAP_" + name.upper().removeprefix("CAP_")
        if full not in CAPABILITIES:
            refuse(field, name, "is unknown", did_you_mean(full, CAPABILITIES))
        wanted.add(full)
    return tuple(name for name in CAPABILITIES if name in wanted)


def read_variable_names(field: str, value: object) -> tuple[str, ...]:
    """Names of environment variables; a trailing `*` stands for any ending ("LC_*")."""
    names = split(field, value)
    for name in names:
        if "=" in name:
            refuse(field, name, "holds a value", "name the variable only, or use env to set it")
        if "*" in name[:-1]:
            refuse(field, name, "has '*' inside", "only a last '*' stands for any ending")
    return unique(names)


def read_variables(field: str, value: object) -> tuple[tuple[str, str], ...]:
    """Environment variables from a table, pairs or "NAME=value" texts; a later one replaces an earlier."""
    fix = 'write {"NAME": "value"} or "NAME=value"'
    items = value.items() if isinstance(value, dict) else elements(field, value)
    pairs: dict[str, str] = {}
    for item in items:
        if isinstance(item, str):
            name, equals, content = item.partition("=")
            if not equals:
                refuse(field, item, "has no value", fix)
        elif isinstance(item, (tuple, list)) and len(item) == 2:
            name, content = item
        else:
            refuse(field, item, "is not a variable", fix)
        name = read_text(field, name, fix)
        if "=" in name:
            refuse(field, name, "has '=' in its name", fix)
        if not isinstance(content, str):
            refuse(field, item, "has a value that is not text", f"{fix}; numbers in quotes")
        if "\0" in content:
            refuse(field, item, "contains a NUL byte", "remove it")
        pairs[name] = content
    return tuple(pairs.items())


# --- ranges and ports --------------------


def read_span(field: str, value: object, text: str, high: int, low: int = 0) -> tuple[int, int]:
    """ "5" or "2-5" as (first, last). `value` is what the error shows."""
    fix = f"write a number or FIRST-LAST within {low} to {high}"
    first, dash, last = text.partition("-")
    if not _decimal(first) or (dash and not _decimal(last)):
        refuse(field, value, "is not a number or range", fix)
    begin, end = int(first), int(last) if dash else int(first)
    if not low <= begin <= high or not low <= end <= high:
        refuse(field, value, "is out of range", fix)
    if begin > end:
        refuse(field, value, "runs backwards", fix)
    return begin, end


def read_cpus(field: str, value: object) -> tuple[int, ...]:
    """CPU numbers, ascending: 0, "0,2-3"."""
    cpus: set[int] = set()
    for element in elements(field, value):
        number = isinstance(element, int) and not isinstance(element, bool)
        for text in split(field, str(element) if number else element):
            first, last = read_span(field, element, text, MAX_CPUS - 1)
            cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def read_port_spans(field: str, value: object, text: str) -> tuple[tuple[int, int], ...]:
    """ "80,443", "8000-8010" or "*" as spans of ports; "*" is one span of all."""
    if text == "*":
        return ((1, 65535),)
    spans = []
    for part in text.split(","):
        span = read_span(field, value, part.strip(), 65535, low=1)
        if span[1] - span[0] >= MAX_PORT_SPAN:
            refuse(field, value, f"spans more than {MAX_PORT_SPAN} ports", 'name fewer, or allow all with "*"')
        spans.append(span)
    return tuple(spans)


def read_ports(field: str, value: object) -> tuple[str, ...]:
    """What to bind: 80, "80,443", "8000-8010", "*" of TCP, "udp://53", "unix:/path". One text for each span."""
    ports: list[str] = []
    for element in elements(field, value):
        number = isinstance(element, int) and not isinstance(element, bool)
        text = str(element) if number else read_text(field, element, "write a port")
        if text.startswith("unix:"):
            ports.append("unix:" + _socket_name(field, text))
            continue
        scheme, separator, text = text.rpartition("://")
        if separator and scheme not in ("tcp", "udp"):
            refuse(field, element, "has an unknown scheme", 'write ports, "udp://53" or "unix:/path"')
        prefix = "udp://" if scheme == "udp" else ""
        if text == "*":
            ports.append(prefix + "*")
            continue
        spans = read_port_spans(field, element, text)
        ports += [prefix + (str(a) if a == b else f"{a}-{b}") for a, b in spans]
    return unique(ports)


SCHEMES = ("tcp", "udp", "icmp")


def _socket_name(field: str, text: str) -> str:
    """The path or @abstract name of "unix:..."."""
    name = text.removeprefix("unix:").removeprefix("//")
    if name == "*" or (name.startswith("@") and len(name) > 1):
        return name
    if not name.startswith("/") or name == "/":
        refuse(field, text, "names no unix socket", 'write "unix:/path/of/socket", "unix:@abstract" or "unix:*"')
    return "/" + "/".join(part for part in name.split("/") if part)


def read_net_rule(field: str, text: str) -> tuple[str, str, tuple[tuple[int, int], ...] | None]:
    """`[tcp://|udp://|icmp://]TARGET[:PORTS]` as (scheme or "", target or "*", spans or None for all ports).

    TARGET is a host name, an IPv4 address, [IPv6], a network or `*`; empty before `:PORTS` means any. `unix:PATH` and
    `unix:@NAME` are (unix, PATH or @NAME, None).
    """
    if text.startswith("unix:"):
        return "unix", _socket_name(field, text), None
    fix = 'write [tcp://|udp://]TARGET[:PORTS], such as ":443", "tcp://*:80,443" or "*"'
    scheme, separator, body = text.partition("://")
    if not separator:
        scheme, body = "", text
    elif scheme not in SCHEMES:
        refuse(field, text, "has an unknown scheme", fix)
    if body.startswith("["):
        target, bracket, rest = body[1:].partition("]")
        if not bracket or not target or (rest and not rest.startswith(":")):
            refuse(field, text, "has a bad [IPv6] address", fix)
        ports, colon = rest[1:], rest[:1]
    else:
        target, colon, ports = body.partition(":")
        if ":" in ports:
            refuse(field, text, "has more than one ':'", "put an IPv6 address in [brackets]")
    if not body or (colon and not ports) or target.strip() != target or not (target + "x").isprintable():
        refuse(field, text, "is not a network rule", fix)
    if scheme == "icmp" and colon:
        refuse(field, text, "names a port, which ICMP does not have", "leave the port out")
    spans = None if not colon or ports == "*" else read_port_spans(field, text, ports)
    return scheme, target or "*", spans


def read_net_rules(field: str, value: object) -> tuple[str, ...]:
    """Network rules as text, each checked against the grammar."""
    rules = [read_text(field, element, "write a rule as text") for element in elements(field, value)]
    for rule in rules:
        read_net_rule(field, rule)
    return unique(rules)


def read_exec_rules(field: str, value: object) -> tuple[str, ...]:
    """Patterns of programs and their words, as text."""
    from ._exec_rules import read_exec_rules as read  # brings shlex, and few policies have any

    return read(field, value)


READERS: dict[str, Callable[[str, object], object]] = {
    "path": read_path,
    "paths": read_paths,
    "mounts": read_mounts,
    "switch": read_switch,
    "int": read_int,
    "size": read_size,
    "seconds": read_seconds,
    "octal": read_octal,
    "names": read_names,
    "hostname": read_hostname,
    "capabilities": read_capabilities,
    "variable-names": read_variable_names,
    "variables": read_variables,
    "cpus": read_cpus,
    "ports": read_ports,
    "net-rules": read_net_rules,
    "exec-rules": read_exec_rules,
}
"""Kind of an option -> its reader."""
