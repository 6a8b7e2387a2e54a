"""A plan in words, for `sandlock inspect --plan`.

Rules: says what the plan holds and nothing that it does not; one fact a line. Imported only when somebody
reads it.
"""

from __future__ import annotations

from os import fsdecode

from . import _arguments, _filter, _landlock, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._landlock import Ruleset
    from ._plan import Launch, Plan

__all__ = ["describe"]

WIDTH = 100
_ERRNOS = {1: "EPERM", 13: "EACCES", 38: "ENOSYS", 92: "ENOPROTOOPT"}
_ACTIONS = {_filter.ALLOW: "allow", _filter.NOTIFY: "ask the supervisor", _filter.KILL: "kill"}


def describe(plan: Plan) -> str:
    """The whole plan. Ends with a newline."""
    lines = [f"Plan for {plan.arch}", "", "Enforced:", *_wrapped(plan.enforced)]
    lines += ["", "Waived:", *_list(f"{name}: {_landlock.WAIVED[name]}" for name in sorted(plan.waived))]
    if plan.risks:
        lines += ["", "Allowed at a price:", *_list(plan.risks)]
    lines += ["", "Landlock, for the program:", *_ruleset(plan.guest_ruleset)]
    lines += ["", "Landlock, for the supervisor and the run's init:"]
    lines += _supervisor(plan)
    lines += ["", f"Syscall filter: {len(plan.filter) // 8} BPF instructions", *_filter_lines(plan)]
    lines += ["", "Answered by the supervisor:"]
    lines += _list(f"{rule.syscall} ({rule.nr}): {rule.rule}: {rule.reason}" for rule in plan.rules)
    if plan.hosts:
        lines += ["", "Names, looked up for the program; any other name does not exist for it:", *_wrapped(plan.hosts)]
    lines += ["", "Set before the start:", *_launch(plan.launch), ""]
    return "\n".join(lines)


def _list(facts: Iterable[str]) -> list[str]:
    """One fact an item, folded at WIDTH."""
    from textwrap import wrap

    lines: list[str] = []
    for fact in facts:
        lines += wrap(fact, WIDTH, break_on_hyphens=False, initial_indent="  ", subsequent_indent="      ")
    return lines or ["  nothing"]


def _wrapped(words: Iterable[str]) -> list[str]:
    """The words with commas between, in indented lines of WIDTH characters."""
    lines = [" "]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > WIDTH:
            lines.append(" ")
        lines[-1] += f" {word},"
    lines[-1] = lines[-1].removesuffix(",")
    return lines


def _ruleset(ruleset: Ruleset) -> list[str]:
    lines = []
    if ruleset.handled_fs:
        lines.append("  files: denied, except")
        for rule in ruleset.paths:
            optional = " (if it exists)" if rule.optional else ""
            lines.append(f"    {_shown(rule.path)}: {_landlock.words(rule.access, ruleset.handled_fs)}{optional}")
    for right, what in ((_landlock.CONNECT_TCP, "TCP connect"), (_landlock.BIND_TCP, "TCP bind")):
        if not ruleset.handled_net & right:
            lines.append(f"  {what}: not decided by Landlock")
        else:
            ports = _spans(port for port, access in ruleset.ports if access & right)
            lines.append(f"  {what}: " + (f"only port {ports}" if ports else "no port"))
    for scope, what in (
        (_landlock.SCOPE_SIGNAL, "signals"),
        (_landlock.SCOPE_ABSTRACT_UNIX_SOCKET, "abstract unix sockets"),
    ):
        lines.append(f"  {what}: " + ("inside the sandbox only" if ruleset.scoped & scope else "not held in"))
    return lines


def _supervisor(plan: Plan) -> list[str]:
    outer, inner = plan.supervisor_ruleset, plan.guest_ruleset
    if outer is None:
        return ["  none"]
    if outer.handled_fs != inner.handled_fs:
        return _ruleset(outer)
    more = [rule for rule in outer.paths if rule not in inner.paths]
    return [
        "  as for the program, and",
        *(f"    {_shown(rule.path)}: {_landlock.words(rule.access, outer.handled_fs)}" for rule in more),
    ]


def _shown(path: bytes) -> str:
    text = fsdecode(path)
    return text if text.isprintable() else repr(path)[1:]


def _spans(ports: Iterable[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    spans: list[list[int]] = []
    for port in sorted(ports):
        if spans and spans[-1][1] == port - 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _filter_lines(plan: Plan) -> list[str]:
    """What is not simply allowed: denied calls by answer and reason, then those that depend on arguments."""
    lines = [
        "  other architectures: kill the process; unknown numbers: ENOSYS; by answer and reason:",
    ]
    denied: dict[tuple[int, str], list[str]] = {}
    chosen: dict[str, list[str]] = {}
    for name, answer in plan.answers:
        call = syscalls.TABLE[name]
        if not isinstance(answer, int):
            chosen.setdefault(call.reason, []).append(name)
        elif answer not in (_filter.ALLOW, _filter.NOTIFY):
            by_policy = answer == _arguments.EPERM and call.default in ("allow", "filter")
            reason = "extra_deny_syscalls" if by_policy else call.reason
            denied.setdefault((answer, reason), []).append(name)
    for (answer, reason), names in sorted(denied.items()):
        lines += [f"  {_action(answer)}: {reason}:", *("  " + line for line in _wrapped(names))]
    for reason, names in chosen.items():
        lines += [f"  by arguments: {reason}:", *("  " + line for line in _wrapped(names))]
    return lines


def _action(action: int) -> str:
    if action in _ACTIONS:
        return _ACTIONS[action]
    number = action & 0xFFFF
    return _ERRNOS.get(number, f"errno {number}")


def _launch(launch: Launch) -> list[str]:
    resources = {4: "core file size", 7: "open files"}
    lines = [f"  limit: {resources[which]}: {hard}" for which, _, hard in launch.rlimits]
    if launch.umask is not None:
        lines.append(f"  umask: {launch.umask:03o}")
    if launch.cpus:
        lines.append(f"  CPUs: {_spans(launch.cpus)}")
    if launch.personality is not None:
        lines.append("  address randomisation: off")
    if launch.no_huge_pages:
        lines.append("  transparent huge pages: off")
    lines.append("  capabilities: " + (_capabilities(launch.keep_capabilities) or "none"))
    if launch.max_processes is not None:
        lines.append(f"  processes: at most {launch.max_processes}")
    if launch.uid is not None or launch.gid is not None:
        lines.append(f"  user namespace: uid {launch.uid}, gid {launch.gid}")
    return lines


def _capabilities(mask: int) -> str:
    from ._values import CAPABILITIES

    return ", ".join(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)
