"""What the lookups of one run have led to: which addresses each name of the policy stands for, by which name the tree
knows an address, and what was refused.

An address is pinned in the core before anybody hears of it, and stays pinned until the run ends. Must not know:
sockets, loops, callbacks.
"""

from __future__ import annotations

from ._denials import Denial, resolve_denial
from ._names import Finding, NameRules
from ._record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from . import _native
    from ._plan import Plan

__all__ = ["MAX_ADDRESSES", "Lookups", "is_inside", "packed"]

MAX_ADDRESSES = 64
"""Of one name; more are not used."""
MAX_KNOWN = 4096
"""Addresses whose name is remembered for events: those that were looked up last."""
MAX_DENIALS = 256
_MAPPED = b"\0" * 10 + b"\xff\xff"
_LOCAL = (b"\x7f", b"\xa9\xfe", b"\0")
"""127.0.0.0/8, 169.254.0.0/16 (where clouds hand out credentials), 0.0.0.0/8."""
_METADATA = (bytes((100, 100, 100, 200)), bytes.fromhex("fd000ec2000000000000000000000254"))
"""Where some clouds do so instead."""


def packed(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Addresses as bytes, each once; IPv4 in IPv6 as the IPv4 that it is. What is no address is left out."""
    from _socket import AF_INET, AF_INET6, inet_pton

    found: dict[bytes, None] = {}
    for text in texts:
        text = text.partition("%")[0]
        try:
            address = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
        except OSError:
            continue
        found[address[12:] if address.startswith(_MAPPED) and len(address) == 16 else address] = None
    return tuple(found)[:MAX_ADDRESSES]


def is_inside(address: bytes) -> bool:
    """Whether an address is the machine's own or its surroundings', which no stranger's name has any business with."""
    if len(address) == 4:
        return address.startswith(_LOCAL) or address in _METADATA
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return link_local or address[:15] == b"\0" * 15 or address in _METADATA


class Lookups:
    """The names of one run."""

    def __init__(self, plan: Plan) -> None:
        self.rules = NameRules(plan.hosts, plan.possible_rules)
        self.without_address: set[str] = set()
        """Names of the policy, without wildcards, that have led nowhere so far."""
        self.dropped_denials = 0
        self._hosts = plan.hosts
        self._run: _native.Run | None = None
        self._waiting: list[tuple[int, bytes]] = []
        self._names: dict[bytes, str] = {}
        self._denials: dict[tuple[str, str], Denial] = {}

    # ---- what a name stands for

    def attach(self, run: _native.Run, port: int, port6: int) -> None:
        """Lookups of this run are taken at these UDP ports of the loopback. Before the run starts."""
        self._run = run
        run.lead_lookups_to(port, port6)
        for number, address in self._waiting:
            run.pin(number, address)
        self._waiting.clear()

    def pin(self, finding: Finding, addresses: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those of the addresses that the name's rules are about from now on. Under a wildcard anybody may have made
        the name: one that leads inside (`is_inside`) is not pinned. Fewer where there is no more room."""
        pinned = []
        for address in addresses:
            opening = [] if is_inside(address) else list(finding.wildcards)
            if finding.exact:
                opening.append(finding.exact)
            fits = [self._pin(number, address) for number in (*opening, *finding.denying)]
            if opening and all(fits):
                pinned.append(address)
        return tuple(pinned)

    def _pin(self, number: int, address: bytes) -> bool:
        if self._run is None:
            self._waiting.append((number, address))
            return True
        return self._run.pin(number, address)

    @property
    def found_first(self) -> list[tuple[str, list[str]]]:
        """The names of the policy, without wildcards, with the addresses that they led to. Before `attach`."""
        from _socket import AF_INET, AF_INET6, inet_ntop

        found: dict[str, list[str]] = {}
        for number, address in self._waiting:
            name = self._hosts[number - 1]
            if not name.startswith("*."):
                text = inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
                found.setdefault(name, []).append(text)
        return list(found.items())

    def remember(self, name: str, addresses: Iterable[bytes]) -> None:
        """The tree has looked this up."""
        self.without_address.discard(name)
        for address in addresses:
            self._names.pop(address, None)
            self._names[address] = name
        while len(self._names) > MAX_KNOWN:
            del self._names[next(iter(self._names))]

    def host_of(self, address: bytes) -> str:
        """The name by which the tree looked the address up last; "" if it did not. From any thread."""
        return self._names.get(address, "")

    # ---- what was refused

    def note(
        self, name: str, cause: str, reason: str, rule: str = "", pid: int = 0, *, by: str = "", latency: float = 0.0
    ) -> None:
        """Writes down that a lookup was refused, or led nowhere."""
        known = self._denials.get((name, cause))
        if known is not None:
            self._denials[name, cause] = replace(known, count=known.count + 1)
        elif len(self._denials) >= MAX_DENIALS:
            self.dropped_denials += 1
        else:
            denial = resolve_denial(name, cause, reason, rule, pid)
            self._denials[name, cause] = replace(denial, by=by, latency=latency)

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was refused so far; what is new stands at the end. From any thread."""
        return tuple(self._denials.copy().values())
