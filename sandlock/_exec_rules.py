"""The exec rules of a policy: which programs, with which words, are denied, asked about or allowed.

Rules: values only. A pattern is a list of words; the first one is the program, a last `*` stands for any further words.
Nothing here looks at files: where a program lies comes from who made the plan.
"""

from __future__ import annotations

from ._record import record
from ._values import elements, read_text, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .policy import Policy

__all__ = ["ExecRule", "compile_exec_rules", "programs_of", "read_exec_rules"]

ACTIONS = ("deny", "ask", "allow")
"""In the order in which they win; by number as the core has them (enum RuleAction in _run.pxd)."""
FIX = 'write the words, such as "git push *", with a reason after " # " if you like; or a list of words'


@record
class ExecRule:
    """One pattern, ready for the core."""

    text: str
    action: str
    program: bytes
    """A file's name, or its path; b"*" for any."""
    words: tuple[bytes, ...] = ()
    """What has to follow the program."""
    further: bool = False
    """Any words may follow after those."""
    exe: bytes | None = None
    """The file, without links, that the program is; None if it is not known."""
    reason: str = ""


def read_exec_rules(field: str, value: object) -> tuple[str, ...]:
    """Exec rules as text, checked: text, or lists of words, or tables of `argv` and `reason`."""
    value = [value] if isinstance(value, dict) else value
    return tuple(dict.fromkeys(_as_text(field, element) for element in elements(field, value)))


def _as_text(field: str, element: object) -> str:
    from shlex import join, quote

    reason = ""
    if isinstance(element, dict):
        if not set(element) <= {"argv", "reason"} or "argv" not in element:
            refuse(field, element, "is no rule", 'write {argv = "git push *", reason = "ask me first"}')
        reason = read_text(field, element.get("reason", "-"), "write the reason as text").strip("-")
        element = element["argv"]
    if isinstance(element, (list, tuple)):
        words = [read_text(field, word, FIX) for word in element]
        element = " ".join(word if word == "*" else quote(word) for word in words)
    text = read_text(field, element, FIX)
    words, written = split_rule(field, text)
    shown = " ".join("*" if word == "*" else join([word]) for word in words)
    reason = reason or written
    return f"{shown} # {reason}" if reason else shown


def split_rule(field: str, text: str) -> tuple[list[str], str]:
    """The words of a rule and its reason, which comes after the first " # " in no quotes. Raises PolicyError."""
    from shlex import split

    words, reason, at = None, "", text.find(" # ")
    while words is None:
        pattern, reason = (text, "") if at < 0 else (text[:at], text[at + 3 :])
        try:
            words = split(pattern)
        except ValueError as error:
            if at < 0:
                refuse(field, text, f"cannot be read ({error})", FIX)
            at = text.find(" # ", at + 1)
    if not words or not words[0]:
        refuse(field, text, "names no program", FIX)
    if "*" in words[1:-1]:
        refuse(field, text, "has '*' inside", "only a first and a last '*' stand for any words")
    if "*" in words[0] and words[0] != "*":
        refuse(field, text, "has '*' inside a name", 'write the name in full, or "*" for any program')
    return words, reason.strip()


def programs_of(policy: Policy) -> tuple[str, ...]:
    """The programs whose files have to be known: all with a path, and those that are allowed by name."""
    found: dict[str, None] = {}
    for action in ACTIONS:
        for text in getattr(policy, f"exec_{action}"):
            program = split_rule(f"exec_{action}", text)[0][0]
            if "/" in program or (action == "allow" and program != "*"):
                found[program] = None
    return tuple(found)


def compile_exec_rules(policy: Policy, files: Mapping[str, str]) -> tuple[ExecRule, ...]:
    """All exec rules of the policy, those that win first. `files`: where the programs of `programs_of` lie."""
    from os import fsencode

    found = []
    for action in ACTIONS:
        for text in getattr(policy, f"exec_{action}"):
            (program, *words), reason = split_rule(f"exec_{action}", text)
            further = bool(words) and words[-1] == "*"
            exe = files.get(program)
            found.append(
                ExecRule(
                    text=text,
                    action=action,
                    program=fsencode(program),
                    words=tuple(map(fsencode, words[:-1] if further else words)),
                    further=further or program == "*",
                    exe=None if exe is None else fsencode(exe),
                    reason=reason,
                )
            )
    return tuple(found)
