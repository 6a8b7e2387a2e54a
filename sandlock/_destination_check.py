"""What the rules of a policy say of a destination, without going there: the core's own matcher, asked beforehand.

Rules: nothing is looked up and no socket is made. What a run would know only by looking a name up is given by the
caller: `host`, the name that has led to the address.
"""

from __future__ import annotations

import os

from ._lookups import is_inside
from ._names import NameRules, is_local, read_host
from ._net_rules import ICMP, TCP, UDP, UNIX, compile_rules, hosts_of
from ._path_rules import denials
from ._program import NetRuleSet
from ._values import read_net_rule, refuse
from .errors import PolicyError
from .events import OPERATIONS, NetDecision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .policy import Policy

__all__ = ["check_destination"]

FIELD = "target"
FIX = 'write one destination, such as "tcp://10.0.0.8:443", "example.org:443", "icmp://10.0.0.8" or "unix:/run/x"'
PROTOCOLS = {"": TCP, "tcp": TCP, "udp": UDP, "icmp": ICMP, "unix": UNIX}
DOMAIN_PORT = 53


def check_destination(policy: Policy, target: str, *, host: str, kind: str, asks: bool, looks_up: bool) -> NetDecision:
    """The decision about a call of this kind that leads there. `asks`: what no rule decides is asked about;
    `looks_up`: a resolver of ours takes lookups of names. Raises PolicyError."""
    if kind not in ("connect", "send", "bind", "listen"):
        raise PolicyError(f"kind: {kind!r} is none; give connect, send, bind or listen", field="kind")
    protocol, address, port, path, abstract, name = _read(target)
    denied = _denied_socket(policy, path) if protocol == UNIX and not abstract else ""
    if denied:
        return NetDecision(decision="deny", target=target, host=host, rule=denied)
    rules = compile_rules(policy)
    hosts = hosts_of(rules)
    name = read_host("host", host, host) if host else name
    pinned = _pinned(NameRules(hosts, rules), name, address) if name else []
    operation = OPERATIONS.index(kind)
    decision, number = NetRuleSet(rules, hosts, 0).check(
        operation, protocol, address, port, path, abstract, pinned, asks
    )
    rule = rules[number].text if number >= 0 else ""
    lookup = protocol == UDP and port == DOMAIN_PORT and kind in ("connect", "send")
    if looks_up and lookup and decision != "allow":
        decision = "allow"  # it is answered by the sandbox itself, and leads nowhere else
    return NetDecision(decision=decision, target=target, host=name, rule=rule)


def _read(target: str) -> tuple[int, bytes, int, bytes, bool, str]:
    """Protocol, address, port, path of a socket, whether that is abstract, and the name if it is no address."""
    anywhere = target.endswith(":0")  # no rule names this port; who binds it gets a free one
    scheme, where, spans = read_net_rule(FIELD, target[:-1] + "1" if anywhere else target)
    if scheme == "unix":
        if where == "*":
            refuse(FIELD, target, "is no destination", FIX)
        return UNIX, b"", 0, os.fsencode(where.removeprefix("@")), where.startswith("@"), ""
    ports = [first for first, last in spans or () if first == last]
    if where == "*" or "/" in where or (scheme != "icmp" and len(ports) != 1) or len(spans or ()) > 1:
        refuse(FIELD, target, "is not one destination", FIX)
    port = ports[0] if ports and not anywhere else 0
    if ":" in where or where.replace(".", "").isdigit():
        return PROTOCOLS[scheme], _packed(target, where), port, b"", False, ""
    name = read_host(FIELD, target, where)
    if name.startswith("*."):
        refuse(FIELD, target, "is not one destination", FIX)
    if is_local(name):
        return PROTOCOLS[scheme], b"\x7f\0\0\1", port, b"", False, ""
    return PROTOCOLS[scheme], b"", port, b"", False, name


def _packed(target: str, text: str) -> bytes:
    from ipaddress import ip_address  # slow to import, and few need it

    try:
        address = ip_address(text.partition("%")[0])
    except ValueError as error:
        refuse(FIELD, target, f"has no address in it ({error})", FIX)
    mapped = getattr(address, "ipv4_mapped", None)
    return address.packed if mapped is None else mapped.packed


def _pinned(names: NameRules, name: str, address: bytes) -> list[int]:
    """The numbers of the names that the address would belong to, as `Lookups.pin` has it."""
    finding = names.find(name)
    opening = [] if address and is_inside(address) else list(finding.wildcards)
    if finding.exact:
        opening.append(finding.exact)
    return [*opening, *finding.denying]


def _denied_socket(policy: Policy, path: bytes) -> str:
    """The rule by whose path nobody may reach a socket that lies there; links are not followed here."""
    text = os.fsdecode(path)
    for field, top in denials(policy):
        if text == top or text.startswith(f"{top.rstrip('/')}/"):
            return f"{field}: {top}"
    return ""
