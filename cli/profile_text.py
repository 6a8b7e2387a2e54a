"""A policy as the lines of a profile: what `inspect`, `agent import` and `agent run --dry-run` print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sandlock.policy import OPTIONS
from sandlock.presets import closure
from sandlock.result import printable

if TYPE_CHECKING:
    from sandlock.policy import Option, Policy

__all__ = ["describe"]


def describe(policy: Policy) -> list[str]:
    """The policy as lines of a profile, every grant of its presets spelled out in comments."""
    by_name = {option.name: option for option in OPTIONS}
    sections: dict[str, list[str]] = {}
    for name, value in policy.changes().items():
        section, _, key = by_name[name].key.partition(".")
        sections.setdefault(section, []).append(f"{key} = {_toml(by_name[name], value)}")
    lines = [line for section, content in sections.items() for line in (f"[{section}]", *content)]
    if policy.presets:
        lines.append("# granted by presets, where it exists: " + ", ".join(closure(policy.presets)))
        lines += [f"#   {grant.kind:6} {printable(grant.path)}" for grant in policy.expand().grants if grant.optional]
    return lines or ["# nothing is granted"]


def _toml(option: Option, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if option.kind == "octal":
        return f'"{value:03o}"'
    if option.kind == "variables" and isinstance(value, tuple):
        return "{" + ", ".join(f"{json.dumps(name)} = {_text(content)}" for name, content in value) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item) if isinstance(item, str) else str(item) for item in value) + "]"
    return _text(value) if isinstance(value, str) else str(value)


def _text(text: str) -> str:
    """A TOML basic string; of a file name that is not UTF-8 the odd bytes are shown escaped."""
    clean = text.encode("utf-8", "backslashreplace").decode()
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
