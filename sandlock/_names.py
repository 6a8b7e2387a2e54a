"""Host names in a policy: how they are written, and what the rules say of a name that a program looks up.

Rules: names are compared in one form (ASCII, lower case, no last dot). Deny wins over allow. "*.example.com" stands for
every name below example.com, however deep, and not for example.com itself. Must not know: sockets, the kernel.
"""

from __future__ import annotations

from ._record import record
from ._values import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._net_rules import NetRule

__all__ = ["Finding", "NameRules", "is_local", "read_host"]

MAX_NAME, MAX_LABEL = 253, 63
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def is_local(name: str) -> bool:
    """Whether the name means this machine's loopback, whatever anybody answers (RFC 6761, 6.3)."""
    return name == "localhost" or name.endswith(".localhost")


def read_host(field: str, text: str, target: str) -> str:
    """The name of a rule in the form that names are compared in. Raises PolicyError. `text`: the whole rule."""
    wildcard = target.startswith("*.")
    name = target.removeprefix("*.").removesuffix(".")
    if "*" in name:
        refuse(field, text, "has '*' inside a name", 'only a whole first label stands for any name: "*.example.com"')
    if not name.isascii():
        name = _in_ascii(field, text, name)
    name = name.lower()
    for label in name.split("."):
        if not label:
            refuse(field, text, "has an empty label in its name", 'write it like "www.example.com"')
        if len(label) > MAX_LABEL:
            refuse(field, text, f"has a label of more than {MAX_LABEL} characters", "no such name exists; shorten it")
        if not _LETTERS.issuperset(label) or label.startswith("-") or label.endswith("-"):
            refuse(field, text, "is no host name", "labels have letters, digits and inner '-', with dots between")
    if len(name) > MAX_NAME:
        refuse(field, text, f"has a name of more than {MAX_NAME} characters", "no such name can exist; shorten it")
    last = name.rpartition(".")[2]
    if last.isdigit() or (last.startswith("0x") and not last[2:].strip("0123456789abcdef")):
        # getaddrinfo(3) takes 127.1 and 0x7f000001 for addresses.
        refuse(field, text, "is neither an address nor a name", 'write an address in full: "10.0.0.8"')
    if wildcard and is_local(name):
        refuse(field, text, "names the loopback", 'write "localhost"')
    return f"*.{name}" if wildcard else name


def _in_ascii(field: str, text: str, name: str) -> str:
    import idna  # slow to import, and few names need it

    try:
        return idna.encode(name, uts46=True, transitional=False).decode("ascii")
    except idna.IDNAError as error:
        refuse(field, text, f"is no host name ({error})", 'write it as it stands in the name system: "xn--..."')


@record
class Finding:
    """What the rules say of one name."""

    decision: str
    """"allow", "deny", or "" where no rule is about it."""
    rule: str = ""
    """The rule that decides, as the policy has it."""
    exact: int = 0
    """The number of this very name among the plan's hosts, from 1; 0 if no rule has it."""
    wildcards: tuple[int, ...] = ()
    """The numbers of the wildcards that it matches and that allow something."""
    denying: tuple[int, ...] = ()
    """The numbers of the others, which only deny."""


class NameRules:
    """The rules of a plan that are about names, ready to be asked."""

    def __init__(self, hosts: Iterable[str], rules: Iterable[NetRule]) -> None:
        self._numbers = {host: number for number, host in enumerate(hosts, 1)}
        self._allowing: dict[str, str] = {}
        self._denying: dict[str, str] = {}
        for rule in rules:
            if rule.host and rule.allow:
                self._allowing.setdefault(rule.host, rule.text)
            elif rule.host and rule.everything:
                self._denying.setdefault(rule.host, rule.text)

    @property
    def exact(self) -> tuple[str, ...]:
        """The names without wildcards, those that are denied too."""
        return tuple(host for host in self._numbers if not host.startswith("*."))

    def find(self, name: str) -> Finding:
        """What they say of a name. A denial of some ports of it denies no lookup: the addresses have to be known."""
        parts = name.split(".")
        patterns = [name, *("*." + ".".join(parts[i:]) for i in range(1, len(parts)))]
        known = [pattern for pattern in patterns if pattern in self._numbers]
        denying = [self._denying[pattern] for pattern in known if pattern in self._denying]
        allowing = [self._allowing[pattern] for pattern in known if pattern in self._allowing]
        wildcards = [pattern for pattern in known if pattern != name]
        return Finding(
            decision="deny" if denying else "allow" if allowing else "",
            rule=(*denying, *allowing, "")[0],
            exact=self._numbers.get(name, 0),
            wildcards=tuple(self._numbers[each] for each in wildcards if each in self._allowing),
            denying=tuple(self._numbers[each] for each in wildcards if each not in self._allowing),
        )
