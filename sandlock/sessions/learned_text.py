"""The profile that learning writes: rules as TOML, each with its reason; and the same put into a profile that exists.

Rules: values in, values out. Whatever came from the program is escaped, in comments too. An existing profile keeps
every character of its own; what was put into it is read again and compared.
"""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

from .._record import field, record
from ..errors import SandlockError
from ..result import printable
from .generalising import is_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .call_rules import Rule
    from .generalising import Limits, Proposal
    from .learning import Learned

__all__ = [
    "Entry",
    "extended",
    "keys_of",
    "left_out_lines",
    "merged_text",
    "profile_text",
    "proposal",
    "shown_path",
    "toml_text",
]

KEYS = {"read": "filesystem.read", "data": "filesystem.data", "write": "filesystem.write"}
SHOWN = 160
"""Characters of an example in a comment."""
MAX_LEFT = 40


@record(kw_only=False)
class Entry:
    """One element of a list, and the comment above it."""

    value: str
    comment: str = ""


def toml_text(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def shown_path(path: str, limits: Limits) -> str:
    """As a profile names it: from the workspace on relative, from the home directory on by `~`."""
    if is_below(path, limits.workspace):
        rest = path[len(limits.workspace) :].strip("/") or "."
        return f"./{rest}" if rest.startswith("~") else rest
    if limits.home != "/" and is_below(path, limits.home):
        return "~" + path[len(limits.home) :]
    return path


def keys_of(learned: Learned, limits: Limits, *, temporary: str = "") -> dict[str, list[Entry]]:
    """Every list of the profile, by its key, sorted. `temporary`: a directory for the program's temporary files."""
    keys: dict[str, list[Entry]] = {
        "config.presets": [_of_preset(each, limits) for each in learned.presets],
        **{
            key: [_of_grant(each, limits) for each in learned.grants if each.kind == kind] for kind, key in KEYS.items()
        },
        "filesystem.deny": [Entry(shown_path(each, limits), "a secret below a grant") for each in learned.denied],
        "network.allow": [_of_place(each, limits, temporary) for each in learned.connect],
        "network.allow_bind": [_of_place(each, limits, temporary) for each in learned.bind],
        "exec.allow": [] if learned.unnamed else [_of_rule(each) for each in learned.execs],
    }
    for key in KEYS.values():
        keys[key].sort(key=lambda each: each.value)
    if temporary:
        keys["filesystem.write"].append(Entry(shown_path(temporary, limits), "for temporary files, see TMPDIR"))
    return {key: entries for key, entries in keys.items() if entries}


def _of_preset(rule: Rule, limits: Limits) -> Entry:
    paths = "1 path" if rule.count == 1 else f"{rule.count} paths"
    return Entry(rule.text, f"{paths}, e.g. {printable(shown_path(rule.example, limits), SHOWN)}: {rule.why}")


def _of_rule(rule: Rule) -> Entry:
    times = "once" if rule.count == 1 else f"{rule.count} times"
    text = f"{times}, e.g. {printable(rule.example, SHOWN)}"
    return Entry(rule.text, f"{text}; {printable(rule.why, SHOWN)}" if rule.why else text)


def _of_place(rule: Rule, limits: Limits, temporary: str) -> Entry:
    """Sockets of the recording's temporary directory are in that of the profile next time."""
    if limits.temporary and rule.text == f"unix:{limits.temporary}":
        return Entry(f"unix:{temporary}", "for temporary files, see TMPDIR")
    return _of_rule(rule)


def _of_grant(each: Proposal, limits: Limits) -> Entry:
    by = f" by {printable(each.program.rpartition('/')[2], 40)}" if each.program else ""
    example = printable(shown_path(each.example, limits), SHOWN)
    paths = f"{each.count} paths, e.g. {example}" if each.count > 1 or each.example != each.path else "1 path"
    return Entry(shown_path(each.path, limits), f"{paths}{by}: {printable(each.why, SHOWN)}")


def proposal(path: str, limits: Limits) -> str:
    """What somebody could grant who means it, for writing that was refused."""
    if limits.kind_of(path):
        return f"if that is meant: write = [{toml_text(shown_path(path, limits))}]"
    above = path.rpartition("/")[0] or "/"
    while above != "/" and not limits.kind_of(above):
        above = above.rpartition("/")[0] or "/"
    refused = limits.why_not(above)
    if refused:
        return f"if that is meant: give it a directory of its own, and grant that ({above} is not to be: {refused})"
    return f"if that is meant: write = [{toml_text(shown_path(above, limits))}]"


# A new profile -------------------------------------------------------------------------------------------------------


def profile_text(
    learned: Learned, limits: Limits, *, heading: Iterable[str], scalars: Mapping[str, str], temporary: str = ""
) -> str:
    """The whole profile. `heading`: lines of the comment at its top; `scalars`: other keys and their TOML values."""
    keys = keys_of(learned, limits, temporary=temporary)
    sections: dict[str, list[str]] = {}
    for key, entries in keys.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append("\n".join([f"{name} = [", *_lines(entries), "]"]))
    for key, value in scalars.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{name} = {value}")
    parts = [_comment(heading)]
    for section in ("config", "program", "filesystem", "network", "exec"):
        if section in sections:
            parts.append("\n".join([f"[{section}]", *sections[section]]))
        if section == "exec" and learned.unnamed:
            parts.append(_comment(_about_unnamed(learned)))
    text = "\n\n".join(part for part in parts if part) + "\n"
    tomllib.loads(text)
    return text


def _lines(entries: Iterable[Entry]) -> list[str]:
    found = []
    for each in entries:
        found += [f"    # {each.comment}"] if each.comment else []
        found.append(f"    {toml_text(each.value)},")
    return found


def _comment(lines: Iterable[str]) -> str:
    return "\n".join(f"# {printable(line, 400)}".rstrip() for line in lines)


def _about_unnamed(learned: Learned) -> list[str]:
    """Why there are no rules about programs, and what they would have been."""
    lines = ["[exec] is left out: every program that a grant covers may run, because no rule can name these:"]
    lines += [f"  {each.what[:SHOWN]}: {each.why}" for each in learned.unnamed[:MAX_LEFT]]
    lines.append('The others, for an "allow" list of your own:')
    return lines + [f"  {toml_text(each.text)},  ({each.count})" for each in learned.execs]


def left_out_lines(learned: Learned) -> list[str]:
    """What no rule was made for."""
    lines = [f"  {each.what[:SHOWN]}: {each.why}" for each in learned.left_out[:MAX_LEFT]]
    more = len(learned.left_out) - MAX_LEFT
    return [*lines, f"  and {more} more"] if more > 0 else lines


# A profile that exists -----------------------------------------------------------------------------------------------


@record
class Statement:
    """An assignment in TOML text: what it says, and from where to where."""

    key: str
    start: int
    value: int
    end: int
    section_end: int = field(default=0)


def merged_text(text: str, keys: Mapping[str, list[Entry]], scalars: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with what it lacks, and what that is, as "key: value". Raises SandlockError where it does not go in."""
    before = tomllib.loads(text)
    news, wanted = [], {}
    for key, entries in keys.items():
        known = _known(before, key)
        new = [each for each in entries if each.value not in known]
        if not new or (key.startswith("exec.") and "exec" not in before):
            continue  # without rules every program may run: a rule would take that away
        text = extended(text, key, new)
        news += [f"{key}: {each.value}" for each in new]
        wanted[key] = [*known, *(each.value for each in new)]
    for key, value in scalars.items():
        section, _, name = key.partition(".")
        if name not in before.get(section, {}):
            text = _with_new_key(text, section, f"{name} = {value}")
            news.append(f"{key}: {value}")
    _check(before, text, wanted)
    return text, news


def _known(document: Mapping[str, Any], key: str) -> list[Any]:
    section, _, name = key.partition(".")
    value = document.get(section, {}).get(name, [])
    return value if isinstance(value, list) else [value]


def _check(before: Mapping[str, Any], text: str, wanted: Mapping[str, list[Any]]) -> None:
    """Whether everything is there that was, and what was to come, and nothing else."""
    try:
        after = tomllib.loads(text)
    except ValueError as error:
        raise SandlockError(
            f"merge: the profile cannot be extended in place ({error}); add the rules by hand"
        ) from error
    for key, values in wanted.items():
        if _known(after, key) != values:
            raise SandlockError(f"merge: {key} cannot be extended in place; add the rules by hand")
    for section, content in before.items():
        for name, value in content.items() if isinstance(content, dict) else ():
            if f"{section}.{name}" not in wanted and after.get(section, {}).get(name) != value:
                raise SandlockError(f"merge: {section}.{name} would change; add the rules by hand")


def extended(text: str, key: str, entries: list[Entry]) -> str:
    """The text with more elements in a list; a list that is not there yet is made."""
    found = next((each for each in _statements(text) if each.key == key), None)
    new = "\n".join(_lines([Entry(each.value, f"new: {each.comment}") for each in entries]))
    section, _, name = key.partition(".")
    if found is None:
        return _with_new_key(text, section, f"{name} = [\n{new}\n]")
    value = text[found.value : found.end]
    if not value.startswith("["):
        return f"{text[: found.value]}[\n    {value},\n{new}\n]{text[found.end :]}"
    last = _last_of_array(text, found.value, found.end)
    comma = "" if text[last] in ",[" else ","
    rest = text[last + 1 : found.end - 1].rstrip()
    return f"{text[: last + 1]}{comma}{rest}\n{new}\n]{text[found.end :]}"


def _with_new_key(text: str, section: str, assignment: str) -> str:
    ends = [
        each.section_end for each in _statements(text) if each.key.partition(".")[0] == section and each.section_end
    ]
    if not ends:
        return f"{text.rstrip()}\n\n[{section}]\n{assignment}\n".lstrip()
    at = max(ends)
    return f"{text[:at]}\n{assignment}{text[at:]}"


def _statements(text: str) -> list[Statement]:
    """Section headers and assignments of TOML that is known to be valid."""
    found, at, section = [], 0, ""
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
        elif text[at] == "#":
            at = _line_end(text, at)
        elif text[at] == "[":
            end = _value_end(text, at)
            section = text[at:end].strip("[] \t").replace('"', "")
            found.append(Statement(key=f"{section}.", start=at, value=at, end=end, section_end=end))
            at = _line_end(text, end)
        else:
            equals = _equals(text, at)
            name = text[at:equals].strip().replace('"', "").replace("'", "").replace(" ", "")
            value = equals + 1
            while text[value] in " \t":
                value += 1
            end = _value_end(text, value)
            key = f"{section}.{name}" if section else name
            found.append(Statement(key=key, start=at, value=value, end=end, section_end=end if section else 0))
            at = _line_end(text, end)
    return found


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _equals(text: str, at: int) -> int:
    while text[at] != "=":
        at = _string_end(text, at) if text[at] in "\"'" else at + 1
    return at


def _string_end(text: str, at: int) -> int:
    """Behind the string that begins here."""
    quote = text[at]
    if text[at : at + 3] == quote * 3:
        end = at + 3
        while text[end : end + 3] != quote * 3:
            end += 2 if quote == '"' and text[end] == "\\" else 1
        end += 3
        while text[end : end + 1] == quote:  # up to two of the string's own before the last three
            end += 1
        return end
    end = at + 1
    while text[end] != quote:
        end += 2 if quote == '"' and text[end] == "\\" else 1
    return end + 1


def _value_end(text: str, at: int) -> int:
    """Behind the value that begins here."""
    depth = 0
    while at < len(text):
        sign = text[at]
        if sign in "\"'":
            at = _string_end(text, at)
            if depth == 0:
                return at
            continue
        if sign == "#" or (sign == "\n" and depth == 0):
            if depth == 0:
                return len(text[:at].rstrip())
            at = _line_end(text, at)
            continue
        depth += (sign in "[{") - (sign in "]}")
        at += 1
        if depth == 0 and sign in "]}" and text[at : at + 1] != "]":
            return at
    return len(text.rstrip())


def _last_of_array(text: str, start: int, end: int) -> int:
    """The last sign of an array that is no space, no comment, and not its end."""
    at, last = start + 1, start
    while at < end - 1:
        if text[at] in "\"'":
            at = _string_end(text, at)
            last = at - 1
        elif text[at] == "#":
            at = _line_end(text, at)
        else:
            last = last if text[at].isspace() else at
            at += 1
    return last
