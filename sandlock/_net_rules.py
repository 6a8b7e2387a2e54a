"""The network rules of a policy, made ready for the core: addresses, ports, protocols, and who wins.

Rules: values only; a rule is either understood in full or refused. Deny wins over allow, whatever their order.
Must not know: sockets, the kernel, callbacks.
"""

from __future__ import annotations

from ._names import is_local, read_host
from ._record import record
from ._values import read_net_rule, read_port_spans, refuse
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .policy import Policy

__all__ = ["ICMP", "TCP", "UDP", "UNIX", "NetRule", "compile_rules", "hosts_of", "landlock_suffices", "protocol_name"]

TCP, UDP, ICMP, UNIX = 1, 2, 4, 8
"""As the core has them: enum Protocols in _run.pxd."""
_BITS = {"": TCP, "tcp": TCP, "udp": UDP, "icmp": ICMP, "unix": UNIX}
_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", UNIX: "unix"}
_LOOPBACK = ((b"\x7f\0\0\0", 8), (b"\0" * 15 + b"\1", 128))
"""What "localhost" stands for: 127.0.0.0/8 and ::1 (RFC 6761)."""
ALL_PORTS = ((0, 65535),)
MAX_HOSTS = 1024
"""As the core has it (_pins.pxd)."""


@record
class NetRule:
    """One address with one span of ports, one socket path, or everything of a protocol."""

    text: str
    """The rule as the policy has it."""
    allow: bool
    binds: bool
    """About bind and listen; else about where to connect and send."""
    protocols: int
    address: bytes = b""
    """4 or 16 bytes; empty for any."""
    prefix: int = 0
    first: int = 0
    last: int = 65535
    path: bytes | None = None
    """Of UNIX: the socket, or a directory above it; None for any."""
    abstract: bool = False
    host: str = ""
    """A name, "*.example.com" for all below it: only the addresses that it led to. See `hosts_of`."""

    @property
    def everything(self) -> bool:
        """Whether it is about every port and every way to get there."""
        return self.protocols == TCP | UDP | ICMP and (self.first, self.last) == ALL_PORTS[0]


def protocol_name(bit: int) -> str:
    """ "tcp" for TCP."""
    return _NAMES.get(bit, "ip")


def landlock_suffices(policy: Policy) -> bool:
    """Whether the kernel alone can tell these grants apart: TCP by port, on any address, and no denials."""
    if policy.net_deny or policy.net_deny_bind:
        return False
    connects = (read_net_rule("net_allow", rule) for rule in policy.net_allow)
    return all(scheme in ("", "tcp") and target == "*" for scheme, target, _ in connects) and not any(
        ":" in rule for rule in policy.net_allow_bind
    )


def compile_rules(policy: Policy) -> tuple[NetRule, ...]:
    """All rules of the policy about the network. Raises PolicyError."""
    found: list[NetRule] = []
    for field, allow in (("net_deny", False), ("net_allow", True)):
        for text in getattr(policy, field):
            found += _destinations(field, text, allow)
    for field, allow in (("net_deny_bind", False), ("net_allow_bind", True)):
        for text in getattr(policy, field):
            found += _binding(field, text, allow)
    if len(hosts_of(found)) > MAX_HOSTS:
        raise PolicyError(f"net_allow: more than {MAX_HOSTS} different names; use wildcards", field="net_allow")
    return tuple(found)


def hosts_of(rules: Iterable[NetRule]) -> tuple[str, ...]:
    """The names of the rules, each once; by their places, from 1, the core knows them."""
    return tuple(dict.fromkeys(rule.host for rule in rules if rule.host))


def _destinations(field: str, text: str, allow: bool) -> Iterable[NetRule]:
    scheme, target, spans = read_net_rule(field, text)
    # Who denies a destination without saying how it is reached means every way to it.
    bits = TCP | UDP | ICMP if not allow and not scheme and spans is None else _BITS[scheme]
    if not allow and not scheme and spans is not None:
        bits = TCP | UDP
    if scheme == "unix":
        yield _socket_path(text, target, allow, binds=False)
        return
    for address, prefix, host in _places(field, text, target):
        for first, last in spans or ALL_PORTS:
            yield NetRule(
                text=text,
                allow=allow,
                binds=False,
                protocols=bits,
                address=address,
                prefix=prefix,
                host=host,
                first=first,
                last=last,
            )


def _socket_path(text: str, target: str, allow: bool, *, binds: bool) -> NetRule:
    from os import fsencode

    path = None if target == "*" else fsencode(target.removeprefix("@"))
    return NetRule(text=text, allow=allow, binds=binds, protocols=UNIX, path=path, abstract=target.startswith("@"))


def _binding(field: str, text: str, allow: bool) -> Iterable[NetRule]:
    if text.startswith("unix:"):
        yield _socket_path(text, text.removeprefix("unix:"), allow, binds=True)
        return
    scheme, separator, ports = text.rpartition("://")
    bits = _BITS[scheme] if separator or allow else TCP | UDP
    for first, last in ALL_PORTS if ports == "*" else read_port_spans(field, text, ports):
        yield NetRule(text=text, allow=allow, binds=True, protocols=bits, first=first, last=last)


def _places(field: str, text: str, target: str) -> tuple[tuple[bytes, int, str], ...]:
    """(address, prefix, name) of each network that the target stands for, or its name; IPv4 in IPv6 as IPv4."""
    if target == "*":
        return ((b"", 0, ""),)
    if "/" not in target and ":" not in target and not target.replace(".", "").isdigit():
        host = read_host(field, text, target)
        return tuple((*network, "") for network in _LOOPBACK) if is_local(host) else ((b"", 0, host),)
    from ipaddress import IPv4Network, ip_network  # slow to import, and few rules need it

    try:
        network = ip_network(target)
    except ValueError as error:
        fix = 'write "10.0.0.0/8", "[fe80::1]:22", or ":443" for a port on every address'
        refuse(field, text, f"has no network address in it ({error})", fix)
    address, prefix = network.network_address.packed, network.prefixlen
    if not isinstance(network, IPv4Network) and prefix >= 96 and address[:12] == b"\0" * 10 + b"\xff\xff":
        return ((address[12:], prefix - 96, ""),)
    return ((address, prefix, ""),)
