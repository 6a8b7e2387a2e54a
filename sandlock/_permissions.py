"""What the runs of a sandbox may do at the moment: its policy, changed by `grant` and `restrict` within a ceiling that
was declared at the start, and what verdicts have approved for all of them.

A change is in force for the next call of every run, also of those under way. What is connected stays connected.
"""

from __future__ import annotations

from _thread import RLock
from os import fsdecode

from ._net_rules import NetRule, compile_rules
from ._path_facts import ACCESS, covered, path_rules, shown_names
from ._path_rules import denials
from ._program import NetRuleSet
from ._settle import real_paths
from .errors import PolicyError
from .policy import PATHS, Policy
from .presets import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ._native import Run
    from ._path_facts import Identity
    from ._path_table import PathRules
    from ._plan import Plan
    from ._virtual_paths import VirtualRoot

__all__ = ["Permissions", "changes_paths", "read_ceiling"]

LISTS = ("net_allow", "net_allow_bind", *PATHS)
CHANGEABLE = (*LISTS, "max_processes")
"""What can be widened and narrowed while a program runs."""
DENIALS = ("net_deny", "net_deny_bind", "fs_denied")
FILES = (*PATHS, "fs_denied")
MAX_APPROVALS = 4096  # as in _approvals.pxd


def read_ceiling(policy: Policy, ceiling: Mapping[str, object] | None) -> Policy | None:
    """The policy widened as far as `grant` may ever do it; None without a ceiling. Raises PolicyError."""
    if ceiling is None:
        return None
    for name in ceiling:
        if name not in CHANGEABLE:
            raise PolicyError(
                f"ceiling: {name!r} cannot be changed later; give {', '.join(CHANGEABLE)}", field="ceiling"
            )
    wide = Policy.of(**ceiling)  # type: ignore[arg-type]  # read and normalised there
    processes = policy.max_processes if wide.max_processes is None else wide.max_processes
    if policy.max_processes is not None and processes is not None and processes < policy.max_processes:
        raise PolicyError(
            f"ceiling: max_processes={processes} is below the policy's own {policy.max_processes}", field="ceiling"
        )
    lists: dict[str, Any] = {name: _joined(getattr(policy, name), getattr(wide, name)) for name in LISTS}
    return policy.but(**lists, max_processes=processes)


def changes_paths(ceiling: Mapping[str, object] | None) -> bool:
    """Whether a ceiling says that grants of paths may change."""
    return ceiling is not None and any(name in ceiling for name in PATHS)


class Permissions:
    """Of one sandbox. May be used from any thread."""

    def __init__(
        self,
        policy: Policy,
        ceiling: Policy | None,
        plan: Plan,
        *,
        widest: tuple[Grant, ...] = (),
        named: tuple[Grant, ...] = (),
        narrow: bool = False,
        root: VirtualRoot | None = None,
    ) -> None:
        """`widest`: all that the ceiling grants, on real paths, as the kernel has it: what policy and ceiling name,
        then what presets do, which stays. `named`: the same as it was written. `narrow`: the policy grants less than
        that, or will. `root`: what the program sees as its files, if not the host's."""
        self._root = root
        self._spell = None if root is None else root.names_of
        self._lock = RLock()
        self._runs: list[Run] = []
        self._approvals: dict[bytes, None] = {}
        self._now = policy
        self._ceiling = policy if ceiling is None else ceiling
        self._plan = plan
        self._rules: NetRuleSet | None = None
        self.net_rules: tuple[NetRule, ...] = plan.net_rules
        """All that ever were in force, by number."""
        own = sum(len(getattr(self._ceiling, name)) for name in PATHS)
        self._widest, self._preset, self._narrow = widest, widest[own:], narrow
        self._real = {grant.path: found.path for grant, found in zip(named[:own], widest[:own], strict=True)}
        self._places = [] if root is None else root.places()
        self._shown: dict[bytes, set[str]] = {}
        if policy.hide_ungranted:
            self._show(named, widest)
        self._known: dict[bytes, list[Identity]] = {}
        self._paths: PathRules | None = None
        self.denied_paths: tuple[str, ...] = _told(policy)
        """All that ever were denied, by number, as "field: path"."""

    @property
    def policy(self) -> Policy:
        """The policy as it is now."""
        return self._now

    def adopt(self, plan: Plan) -> None:
        """Runs to come have this plan, of the same policy."""
        with self._lock:
            self._plan = plan
            if self._rules is None:
                self.net_rules = plan.net_rules

    def attach(self, run: Run) -> None:
        """A run begins: it gets what is in force, and what will be."""
        with self._lock:
            self._runs.append(run)
            for approval in self._approvals:
                run.approve(approval)
            if self._paths is None or denials(self._now):  # what is denied may be there by now
                self._paths = self._path_rules(self._now, self._narrow)
            self._put_in_force(run)

    def detach(self, run: Run) -> None:
        """The run has ended."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)

    def approve(self, approval: bytes) -> None:
        """All runs may do this without asking."""
        with self._lock:
            if len(self._approvals) < MAX_APPROVALS:
                self._approvals[approval] = None
            for run in self._runs:
                run.approve(approval)

    def grant(self, **fields: object) -> None:
        """Allows more, see Sandbox.grant."""
        with self._lock:
            wanted = Policy.of(**self._read("grant", fields, CHANGEABLE))  # type: ignore[arg-type]
            processes = wanted.max_processes
            self._check_processes("grant", processes, self._ceiling.max_processes)
            limit = "the ceiling that the sandbox was made with"
            _check_within("grant", wanted, self._ceiling, limit)
            self._check_paths("grant", wanted, self._widest, limit)
            lists: dict[str, Any] = {name: _joined(getattr(self._now, name), getattr(wanted, name)) for name in LISTS}
            self._change(
                self._now.but(**lists, max_processes=self._now.max_processes if processes is None else processes)
            )

    def restrict(self, **fields: object) -> None:
        """Allows less, see Sandbox.restrict."""
        with self._lock:
            fields = self._read("restrict", fields, CHANGEABLE + DENIALS)
            wanted = Policy.of(**fields)  # type: ignore[arg-type]
            limit = self._now.max_processes or self._ceiling.max_processes
            self._check_processes("restrict", wanted.max_processes, limit)
            _check_within("restrict", wanted, self._now, "what is granted now")
            self._check_paths("restrict", wanted, self._grants(self._now), "what is granted now")
            changes: dict[str, Any] = {name: getattr(wanted, name) for name in CHANGEABLE if name in fields}
            changes |= {name: _joined(getattr(self._now, name), getattr(wanted, name)) for name in DENIALS}
            self._change(self._now.but(**changes), narrow=any(name in fields for name in PATHS))
            self._approvals.clear()
            for run in self._runs:
                run.revoke()

    def _read(self, verb: str, fields: dict[str, object], known: tuple[str, ...]) -> dict[str, object]:
        for name in fields:
            if name not in known:
                raise PolicyError(
                    f"{verb}: {name!r} cannot be changed while programs run; {', '.join(known)} can", field=name
                )
            if name in FILES:
                if self._plan.mediated in ("", "fs_protected"):
                    raise PolicyError(
                        f"{verb}: this sandbox's files are decided by the kernel, for good; make it with a ceiling "
                        "that names fs_readable or another grant of paths, or with fs_denied",
                        field=name,
                    )
                continue
            decided = self._plan.supervised and all(run.supervised for run in self._runs)
            if name != "max_processes" and not decided:
                raise PolicyError(
                    f"{verb}: this sandbox's network is decided by the kernel, for good; make it with a ceiling or a "
                    "policy_fn",
                    field=name,
                )
        return fields

    def _check_processes(self, verb: str, wanted: int | None, limit: int | None) -> None:
        if wanted is None:
            return
        if self._ceiling.max_processes is None:
            raise PolicyError(
                f"{verb}: this sandbox does not count processes; give max_processes to it or to its ceiling",
                field="max_processes",
            )
        if limit is not None and wanted > limit:
            raise PolicyError(f"{verb}: max_processes={wanted} is above {limit}", field="max_processes")

    def _change(self, policy: Policy, *, narrow: bool = False) -> None:
        narrow = narrow or self._narrow
        paths = self._path_rules(policy, narrow) if self._plan.mediated else None
        if self._plan.supervised:
            rules = compile_rules(policy)
            for rule in rules:
                if rule.host and rule.host not in self._plan.hosts:
                    raise PolicyError(
                        f"{rule.text!r}: a name has to be in the policy or its ceiling from the start", field="net_deny"
                    )
            self._rules = NetRuleSet(rules, self._plan.hosts, len(self.net_rules))
            self.net_rules = (*self.net_rules, *rules)
        if paths is not None:
            self._paths, self._narrow, self.denied_paths = paths, narrow, _told(policy)
        self._now = policy
        for run in self._runs:
            self._put_in_force(run)

    def _put_in_force(self, run: Run) -> None:
        if self._rules is not None:
            run.set_net_rules(self._rules)
        if self._now.max_processes is not None:
            run.set_max_processes(self._now.max_processes)
        if self._paths is not None and self._plan.judges_paths:
            run.set_paths(self._paths)

    def _path_rules(self, policy: Policy, narrow: bool) -> PathRules:
        grants = self._grants(policy) if narrow else self._widest
        granted = {grant.path for grant in grants}
        return path_rules(
            denials(policy),
            grants,
            [*(name for name, paths in self._shown.items() if not granted.isdisjoint(paths)), *self._places],
            narrow=narrow,
            hides=policy.hide_ungranted,
            known=self._known,
            spell=self._spell,
        )

    def _show(self, named: Iterable[Grant], real: tuple[Grant, ...]) -> None:
        """Notes by what names `named` is reached, which are there while it is granted."""
        for grant in named:
            names = shown_names((grant,), real, self._spell)
            for name in names:
                self._shown.setdefault(name, set()).add(fsdecode(names[-1]))

    def _grants(self, policy: Policy) -> tuple[Grant, ...]:
        own = (Grant(self._real_of(path), kind) for name, kind in PATHS.items() for path in getattr(policy, name))
        return (*own, *self._preset)

    def _real_of(self, path: str) -> str:
        """Where a path led when it was granted first. Links that the program may have made are not followed. Raises
        PolicyError."""
        if path not in self._real:
            roots = tuple(grant for grant in self._widest if grant.kind == "write")
            if self._root is None:
                self._real[path] = real_paths((*roots, Grant(path, "read")))[-1].path
            else:
                self._real[path] = self._root.granted_path(path, roots)
            self._show((Grant(path, "read"),), (Grant(self._real[path], "read"),))
        return self._real[path]

    def _check_paths(self, verb: str, wanted: Policy, limit: tuple[Grant, ...], name: str) -> None:
        """Raises PolicyError if a path is not part of what the limit has."""
        for field_name, kind in PATHS.items():
            for path in getattr(wanted, field_name):
                if ACCESS[kind] & ~covered(limit, self._real_of(path)):
                    raise PolicyError(f"{verb}: {field_name}={path!r} is not within {name}", field=field_name)


def _told(policy: Policy) -> tuple[str, ...]:
    """What is denied or protected, by number, in words."""
    return tuple(f"{field}: {path}" for field, path in denials(policy))


def _joined(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each once, and those that were there before keep their places."""
    return tuple(dict.fromkeys((*one, *other)))


def _check_within(verb: str, wanted: Policy, limit: Policy, name: str) -> None:
    """Raises PolicyError if a rule that allows is not part of one that the limit has."""
    limits = [rule for rule in compile_rules(limit) if rule.allow]
    for rule in compile_rules(wanted):
        if rule.allow and not any(_covers(each, rule) for each in limits):
            raise PolicyError(f"{verb}: {rule.text!r} is not within {name}", field="net_allow")


def _covers(wide: NetRule, rule: NetRule) -> bool:
    if wide.binds != rule.binds or rule.protocols & ~wide.protocols:
        return False
    if wide.path is not None and rule.path != wide.path:
        below = rule.path is not None and rule.path.startswith(wide.path.rstrip(b"/") + b"/")
        if wide.abstract or rule.abstract or not below:
            return False
    if wide.path is not None and wide.abstract != rule.abstract:
        return False
    if wide.first > rule.first or wide.last < rule.last:
        return False
    if wide.host:
        return rule.host == wide.host or (wide.host.startswith("*.") and rule.host.endswith(wide.host[1:]))
    if not wide.address:
        return True
    if rule.host:
        return False
    shift = len(wide.address) * 8 - wide.prefix
    return (
        len(wide.address) == len(rule.address)
        and wide.prefix <= rule.prefix
        and int.from_bytes(wide.address, "big") >> shift == int.from_bytes(rule.address, "big") >> shift
    )
