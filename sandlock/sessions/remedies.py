"""Remedies: what would have to stand in a policy for a denied call to be allowed, and what else that would allow.

Rules: what the record suggests was made of the program's own words: it is read as the policy reads it, and what it does
not understand is no remedy. Nothing is widened: a remedy allows what was denied, several together no more than that.
"""

from __future__ import annotations

from ast import literal_eval
from typing import TYPE_CHECKING

from sandlock import Policy, PolicyError

from .._denials import exec_fixes, fixes
from .._net_rules import compile_rules
from .._record import record
from ..policy import OPTIONS
from .questions import INTERPRETERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..policy import Option
    from .journal import JournalDecision

__all__ = ["Remedy", "flags_of", "merged", "policy_of", "remedy_of", "who_of"]

WHO = {
    "rule": "rule",
    "no-rule": "no-rule",
    "verdict": "person",
    "no-opinion": "callback",
    "callback-error": "callback",
    "handler": "callback",
    "handler-error": "callback",
    "memory-read": "callback",
    "timeout": "timeout",
    "nobody-listens": "nobody",
    "rebinding": "protection",
}
NETWORK = ("connect", "send", "bind", "listen")
GRANTS = ("fs_readable", "fs_data", "fs_writable", "fs_devices", "net_allow", "net_allow_bind", "exec_allow")
LONGEST = 8192


@record
class Remedy:
    """One change of a policy."""

    field: str
    """The keyword: "net_allow", "exec_deny", ..."""
    value: str
    """One element of its list."""
    adds: bool
    """Whether it is to be added; else it is to be taken out, for it denies, or asks, first."""
    opens: str
    """What that would allow besides, in words."""

    @property
    def flag(self) -> str:
        """As a flag of `sandlock run`, ready for a shell; "" for what is to be taken out."""
        from shlex import quote

        return f"{_option(self.field).flags[-1]} {quote(self.value)}" if self.adds else ""

    def to_dict(self) -> dict[str, object]:
        """As JSON-ready data."""
        change = "add" if self.adds else "remove"
        return {"change": change, "field": self.field, "value": self.value, "flag": self.flag, "opens": self.opens}


def who_of(decision: JournalDecision) -> str:
    """Who decided: "rule", "no-rule" (none allows it), "person" (or a program that was asked, see `by`), "callback",
    "timeout", "nobody" (was there to be asked), or "protection" (of sandlock itself: it changed, could not be read)."""
    return WHO.get(decision.cause, "protection")


def remedy_of(decision: JournalDecision) -> Remedy | None:
    """The smallest change that would allow a denied call; None where no rule can."""
    who = who_of(decision)
    if who == "protection":
        return None
    if who == "rule":
        return _without_rule(decision)
    if decision.kind == "exec" and decision.rule:  # a rule that asks wins over one that allows
        return _checked("exec_ask", decision.rule, False, _opens_rule(decision.rule))
    if decision.kind == "exec" and not decision.fix:
        fix = "" if decision.truncated or not decision.argv else exec_fixes(decision.target, decision.argv)[0]
    elif decision.kind in NETWORK:
        fix = fixes(decision.kind, decision.target, port_of(decision.target), decision.host)[0]
    else:
        fix = decision.fix
    field, value = _read(fix)
    return _checked(field, value, True, _opens(field, value)) if field in GRANTS else None


def merged(remedies: Iterable[Remedy]) -> tuple[Remedy, ...]:
    """The same, together as few as possible: ports of one host in one rule, nothing below what is granted anyway."""
    found = list(dict.fromkeys(remedies))
    kept = [each for each in found if not each.adds or each.field == "exec_allow"]
    kept += _merged_paths([each for each in found if each.adds and each.field.startswith("fs_")])
    kept += [each for each in found if each.adds and each.field == "net_allow_bind"]
    kept += _merged_ports([each for each in found if each.adds and each.field == "net_allow"])
    order = [option.name for option in OPTIONS]
    return tuple(sorted(kept, key=lambda each: (each.adds, order.index(each.field))))


def policy_of(remedies: Iterable[Remedy]) -> Policy:
    """What is to be added, as a policy of its own: for a profile."""
    fields: dict[str, list[str]] = {}
    for each in remedies:
        if each.adds:
            fields.setdefault(each.field, []).append(each.value)
    return Policy.of(**fields)  # type: ignore[arg-type]


def flags_of(remedies: Iterable[Remedy]) -> str:
    """What is to be added, as flags of `sandlock run`."""
    return " ".join(each.flag for each in remedies if each.adds)


def port_of(target: str) -> int:
    """The port of a destination as a rule names it; 0 for none."""
    port = target.rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0


# ---- one remedy


def _without_rule(decision: JournalDecision) -> Remedy | None:
    if decision.rule.startswith("fs_denied: "):
        path = decision.rule.removeprefix("fs_denied: ")
        return _checked("fs_denied", path, False, f"{path} and all below it, as far as other grants go")
    if not decision.rule:
        return None
    if decision.kind == "exec":
        return _checked("exec_deny", decision.rule, False, _opens_rule(decision.rule))
    field = "net_deny_bind" if decision.kind in ("bind", "listen") else "net_deny"
    return _checked(field, decision.rule, False, "whatever else the rule denies, as far as other rules allow it")


def _checked(field: str, value: str, adds: bool, opens: str) -> Remedy | None:
    """The remedy, if the policy understands it as it stands."""
    try:
        read = _option(field).read([value])
        compile_rules(Policy.of(**{field: [value]}))  # type: ignore[arg-type]  # host names are looked at here
    except PolicyError:
        return None
    return Remedy(field=field, value=value, adds=adds, opens=opens) if read == (value,) or not adds else None


def _read(fix: str) -> tuple[str, str]:
    """Field and value of a keyword, `net_allow='x'`; "" for anything else."""
    field, _, text = fix.partition("=")
    if len(text) > LONGEST or text[:1] not in ("'", '"'):
        return "", ""
    try:
        value = literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return "", ""
    return (field, value) if isinstance(value, str) else ("", "")


def _option(field: str) -> Option:
    return next(option for option in OPTIONS if option.name == field)


def _opens_rule(rule: str) -> str:
    return f"every command that {rule.partition(' # ')[0]!r} is about, not this one only"


def _opens(field: str, value: str) -> str:
    match field:
        case "net_allow" if value.startswith("unix:"):
            return "every program in the sandbox may use what listens at that socket, with all its rights"
        case "net_allow":
            return "every program in the sandbox may connect there, and send what it can read"
        case "net_allow_bind":
            return "every program in the sandbox may take that port, and who reaches this machine reaches it"
        case "fs_readable":
            return "every program in the sandbox may read and execute it, and all below it"
        case "fs_data":
            return "every program in the sandbox may read it, and all below it"
        case "fs_writable":
            return "every program in the sandbox may read, execute, change and remove it, and all below it"
        case "fs_devices":
            return "every program in the sandbox may use the device, also with ioctl(2)"
    name = value.split(" ")[0].strip("'\"").rpartition("/")[2]
    if name in INTERPRETERS or name.rstrip("0123456789.") in ("python", "node", "perl", "ruby"):
        return "these words from every program in the sandbox; what they start is decided by itself"
    return "the same words from every program, in every directory, with every environment"


# ---- several remedies


def _merged_paths(remedies: list[Remedy]) -> list[Remedy]:
    """Without what lies below, or is, something that is granted with no less."""
    covers = {
        "fs_data": ("fs_data", "fs_readable", "fs_writable"),
        "fs_readable": ("fs_readable", "fs_writable"),
        "fs_writable": ("fs_writable",),
        "fs_devices": ("fs_devices",),
    }

    def covered(each: Remedy) -> bool:
        return any(
            other is not each
            and other.field in covers[each.field]
            and (each.value.startswith(other.value.rstrip("/") + "/") or (each.value == other.value))
            for other in remedies
        )

    return [each for each in remedies if not covered(each)]


def _merged_ports(remedies: list[Remedy]) -> list[Remedy]:
    """All ports of one host in one rule; none where the whole host is allowed."""
    ports: dict[str, set[int]] = {}
    first: dict[str, Remedy] = {}
    found: list[Remedy] = []
    for each in remedies:
        place, port = each.value.rpartition(":")[0], port_of(each.value)
        if not port or each.value.startswith("unix:"):
            found.append(each)
            continue
        ports.setdefault(place, set()).add(port)
        first.setdefault(place, each)
    whole = {each.value for each in found}
    for place, numbers in ports.items():
        if place not in whole:
            value = f"{place}:{','.join(map(str, sorted(numbers)))}"
            found.append(Remedy(field=first[place].field, value=value, adds=True, opens=first[place].opens))
    return found
