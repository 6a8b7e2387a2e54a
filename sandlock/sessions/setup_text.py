"""What an agent run may do and why, in words: `agent run --dry-run`, and the `policy` of a session.

Rule: values in, text out. Paths and rules may hold anything: text is made harmless for terminals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandlock.result import printable

from ..presets import PRESETS, closure
from .agent_presets import AGENT_PRESETS

if TYPE_CHECKING:
    from .agent_draft import Reason
    from .workspace import AgentSetup

__all__ = ["describe", "to_dict"]

SCHEMA = 1
GROUPS = (
    ("Files that can be changed", ("fs_writable",)),
    ("Files that can be read", ("presets", "fs_readable", "fs_data")),
    ("Files that are denied, whatever is granted", ("fs_denied",)),
    ("Files that cannot be changed, whatever is granted", ("fs_protected",)),
    ("Home directory", ("home",)),
    ("Devices", ("fs_devices",)),
    ("Network: may be connected to", ("net_allow",)),
    ("Network: denied", ("net_deny", "net_deny_bind")),
    ("Network: may be listened on", ("net_allow_bind",)),
    ("Programs that are denied", ("exec_deny",)),
    ("Programs that are asked about", ("exec_ask",)),
    ("Programs that run", ("exec_allow",)),
    ("Environment, set", ("env",)),
    ("Environment, passed through where it is set", ("pass_env",)),
)
LONGEST = 300


def describe(setup: AgentSetup) -> str:
    """The policy and the reasons, for a person."""
    who = f", profile {setup.profile}" if setup.profile else ""
    lines = [f"preset {setup.preset}{who}: {AGENT_PRESETS[setup.preset].description}", f"workspace: {setup.workspace}"]
    told: set[str] = set()
    for title, fields in GROUPS:
        told.update(fields)
        lines += _group(title, [each for each in setup.reasons if each.field in fields], named=False)
    lines += _group("Everything else", [each for each in setup.reasons if each.field not in told], named=True)
    lines += ["", "Not possible:", *(f"  {each}" for each in _impossible(setup))]
    if setup.warnings:
        lines += ["", "Note:", *(f"  {each}" for each in setup.warnings)]
    return "\n".join(line and printable(line, LONGEST * 4) for line in lines) + "\n"


def to_dict(setup: AgentSetup) -> dict[str, object]:
    """The same as JSON-ready data."""
    return {
        "schema": SCHEMA,
        "preset": setup.preset,
        "profile": setup.profile,
        "workspace": _clean(setup.workspace),
        "home": _clean(setup.home),
        "temporary": _clean(setup.temporary),
        "full_screen": setup.full_screen,
        "reasons": [{name: _clean(text) for name, text in each.to_dict().items()} for each in setup.reasons],
        "granted_by_presets": [
            {"kind": grant.kind, "path": _clean(grant.path)} for grant in setup.policy.expand().grants if grant.optional
        ],
        "not_possible": list(_impossible(setup)),
        "warnings": [_clean(each) for each in setup.warnings],
    }


def _group(title: str, reasons: list[Reason], *, named: bool) -> list[str]:
    if not reasons:
        return []
    lines = ["", f"{title}:"]
    for each in reasons:
        value = f"{each.field} = {each.value}" if named else each.value
        lines += [f"  {printable(value, LONGEST)}", f"      {each.why} [{each.origin}]"]
        if each.field == "presets":
            held = [name for name in closure((each.value,)) if name != each.value]
            lines.append(f"      {PRESETS[each.value]['description']}" + (f" With: {', '.join(held)}." if held else ""))
    return lines


def _impossible(setup: AgentSetup) -> tuple[str, ...]:
    policy = setup.policy
    found = [
        "Reading or changing any other file: keys, other projects, the rest of your home directory.",
        "Signals to, and looking into, processes outside; their command lines show in /proc.",
        "Privileges: set-user-ID programs gain none, and nothing can be mounted or loaded.",
        "Widening any of this from inside: no program in the box is asked for that, and none can do it.",
    ]
    if any(each != f"unix:{setup.temporary}" for each in policy.net_allow):
        found.insert(1, "Connecting to any other place, unless somebody who is asked allows it.")
    else:
        found.insert(1, "Connecting to anything, unless somebody who is asked allows it.")
    if AGENT_PRESETS[setup.preset].workspace == "read":
        found.append("Changing the workspace.")
    return tuple(found)


def _clean(text: str) -> str:
    """File names that are not UTF-8 hold lone surrogates, which JSON readers reject."""
    return text.encode("utf-8", "backslashreplace").decode()
