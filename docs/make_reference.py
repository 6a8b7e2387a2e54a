"""Writes docs/reference/*.md from the code: the table of system calls, the table of options, the docstrings.

    python docs/make_reference.py

The results are checked in; a test makes them again and compares.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator

import sandlock
from sandlock import syscalls
from sandlock._extra_rules import GRANTABLE
from sandlock.policy import OPTIONS, Option
from sandlock.presets import PRESETS

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference")
MADE = "<!-- Made by docs/make_reference.py; change the code, then run it. -->"


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def code(*words: str) -> str:
    """Words as code, for a cell."""
    return ", ".join(f"`{cell(word)}`" for word in words if word)


def table(*heads: str, rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table, with an empty line after it."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + " --- |" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


# --- system calls --------------------

TREATMENTS = {
    "allow": "passes the filter. Landlock still decides about files, ports and signals",
    "filter": "decided by its arguments, or by what the policy grants of the network",
    "deny": "fails with EPERM",
    "enosys": "fails with ENOSYS, as if the kernel did not have it; programs then use something else",
}


def syscalls_page() -> Iterator[str]:
    """Every system call, what a program gets by default, and why."""
    yield from ("# System calls", "", MADE, "")
    yield f"All {len(syscalls.TABLE)} system calls that sandlock knows, on x86-64 and aarch64, up to Linux 6.18."
    yield "A number that is not here fails with ENOSYS. Calls of another architecture (32-bit code) kill the process,"
    yield "and calls of x32 fail with ENOSYS. `sandlock inspect --plan` shows what a policy makes of the table."
    yield ""
    yield from (f"- **{name}**: {text}." for name, text in TREATMENTS.items())
    yield "\nThe policy fields `extra_deny_syscalls` and `extra_allow_syscalls` take names of calls and of groups.\n"
    yield "## Groups that can be allowed\n"
    rows = [(code(name), cell(syscalls.GROUPS[name].default), cell(cost)) for name, cost in GRANTABLE.items()]
    yield from table("group", "by default", "what allowing it costs", rows=rows)
    yield "All other groups that are denied stay denied: they would open the sandbox.\n"
    yield "## All calls\n"
    calls = [
        (code(call.name), call.default, code(call.group), cell(call.reason))
        for call in sorted(syscalls.TABLE.values(), key=lambda call: call.name)
    ]
    yield from table("name", "treatment", "group", "reason", rows=calls)


# --- options --------------------

TYPES = {
    "names": "list of names",
    "paths": "list of paths",
    "mounts": "list of mounts, or a table",
    "path": "path",
    "net-rules": "list of rules",
    "exec-rules": "list of rules",
    "ports": "list of ports",
    "variables": "table of texts",
    "variable-names": "list of names",
    "switch": "true or false",
    "word": "one of the words",
    "octal": "octal text",
    "int": "whole number",
    "seconds": "seconds",
    "size": "size",
    "cpus": "list of CPUs",
    "hostname": "name",
    "capabilities": "list of capabilities",
}


def quoted(value: object) -> str:
    """A value as the code writes it."""
    return json.dumps(value) if isinstance(value, str) else repr(value).replace("'", '"')


def default_of(option: Option) -> str:
    """The default, as one would write it in Python."""
    if option.default in (None, ()):
        return "none"
    if option.kind == "size" and isinstance(option.default, int):
        return code(f'"{option.default // 2**20}M"')
    return code(repr(option.default))


def options_page() -> Iterator[str]:
    """Every option: keyword, flags, profile key, default, help."""
    yield from ("# Options", "", MADE, "")
    yield "One table is the source of the keywords of `Policy`, `Sandbox`, `AsyncSandbox` and `run`, of the flags of"
    yield "`sandlock run` and `sandlock inspect`, and of the keys of profiles. What is not granted is denied;"
    yield 'an empty list grants nothing, and `"*"`, where it is allowed, is the only way to say "unrestricted". A flag'
    yield "for a list may be repeated, and then extends what a profile says.\n"
    rows = [
        (
            code(option.name),
            code(*option.flags, *option.off),
            code(option.key),
            TYPES[option.kind],
            default_of(option),
            cell(option.help),
        )
        for option in OPTIONS
    ]
    yield from table("keyword", "flags", "profile key", "type", "default", "meaning", rows=rows)
    yield 'A size is a number of bytes or a text such as `"64M"` (K, M, G). Seconds are a number or a text such as'
    yield '`"500ms"`, `"5m"`.\n'
    yield "## Presets\n"
    yield "`presets=[...]`, `--preset NAME`. A path of a preset that does not exist is left out.\n"
    presets = [(code(name), cell(preset["description"])) for name, preset in PRESETS.items()]
    yield from table("preset", "what it grants", rows=presets)
    yield from extras()


def extras() -> Iterator[str]:
    """The flags of `run` that are not part of a policy."""
    from sandlock.cli.direct import EXTRAS

    yield "## More flags of `sandlock run`\n"
    yield from table("flags", "meaning", rows=[(code(*option.flags), cell(option.help)) for option in EXTRAS])
    yield "Exit codes: the program's own; 124 the time limit was reached; 125 sandlock itself failed, and one line on"
    yield "stderr says why; 126 not executable; 127 not found; 128+n ended by signal n; 130 interrupted.\n"


# --- Python --------------------

PAGES = {
    "Running": ("run", "Sandbox", "Process", "AsyncSandbox", "AsyncProcess"),
    "Policy": ("Policy",),
    "Handlers": (
        "Handler",
        "HandlerContext",
        "NativeHandler",
        "include_dir",
        "Continue",
        "Errno",
        "Value",
        "Inject",
        "Hold",
        "KillTask",
        "KillTree",
    ),
    "Results": ("Result", "ExecRecord", "Denial", "Audited", "Decision"),
    "Verdicts": ("Allow", "Audit", "Deny", "Kill"),
    "Events": ("Exec", "Fork", "Open", "Connect", "Send", "Bind", "Listen", "Resolve", "Ancestor"),
    "What rules say": ("ExecDecision", "NetDecision"),
    "Streams": ("PIPE", "NULL", "INHERIT", "STDOUT"),
    "Errors": (
        "SandlockError",
        "PolicyError",
        "Unsupported",
        "ConfinementError",
        "GuestError",
        "SandlockTimeout",
        "InternalError",
    ),
}
CONSTANTS = {
    "PIPE": "A pipe: captured by `run`, a stream of the process for `start`.",
    "NULL": "/dev/null.",
    "INHERIT": "The stream of the calling process.",
    "STDOUT": "For `stderr`: where stdout goes.",
}


def prose(documented: object) -> str:
    """A docstring, without the lines that only a reader of the source needs."""
    return inspect.cleandoc(getattr(documented, "__doc__", None) or "")


def signature(name: str, function: Callable[..., object]) -> str:
    """How it is called, one argument a line when there are many."""
    shown = inspect.signature(function)
    parameters = [each for each in shown.parameters.values() if each.name not in ("self", "cls")]
    words = [str(each).replace("'", "").replace("Stream = -1", "Stream = PIPE") for each in parameters]
    keywords = [number for number, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY]
    if keywords:
        words.insert(keywords[0], "*")
    returns = str(shown.return_annotation).replace("'", "")
    line = f"{name}({', '.join(words)}) -> {returns}"
    if len(line) <= 110:
        return line
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f") -> {returns}"


def members(cls: type) -> Iterator[tuple[str, object]]:
    """What is public in the class itself and in bases that have no entry, in the order of their source."""
    for each in (*hidden_bases(cls), cls):
        for name, value in vars(each).items():
            if not name.startswith("_"):
                yield name, value


def hidden_bases(cls: type) -> list[type]:
    """Bases that are not public, and whose members are. Those of a record are among its own."""
    if hasattr(cls, "__record_fields__"):
        return []
    return [
        base
        for base in cls.__bases__
        if base.__module__.startswith("sandlock") and base.__name__ not in sandlock.__all__
    ]


def fields_of(cls: type) -> list[str]:
    """The fields of a record with their types and defaults."""
    known = getattr(cls, "__record_fields__", {})
    lines = []
    for name, each in known.items():
        default = "" if repr(each.default) == "MISSING" else f" = {quoted(each.default)}"
        annotation = cls.__annotations__[name].replace("'", '"')
        lines.append(f"{name}: {annotation}{default}")
    return lines


def class_entry(name: str, cls: type) -> Iterator[str]:
    """A class, its fields, its methods and properties."""
    yield f"### {name}\n"
    bases = [base.__name__ for base in cls.__bases__ if base is not object and base not in hidden_bases(cls)]
    if bases:
        yield f"Kind of {' and '.join(f'`{base}`' for base in bases)}.\n"
    yield prose(cls) + "\n"
    fields = fields_of(cls)
    if name == "Policy":
        yield "The fields are in [options](options.md).\n"
    elif fields:
        yield "```python\n" + "\n".join(fields) + "\n```\n"
    for member, value in members(cls):
        if member in fields or member in getattr(cls, "__record_fields__", {}):
            continue
        if isinstance(value, property):
            yield f"#### {name}.{member}\n\n{prose(value)}\n"
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if callable(function) and prose(function):
            waits = "await " if inspect.iscoroutinefunction(function) else ""
            waits = "async with " if cls.__name__ == "AsyncSandbox" and member == "start" else waits
            yield f"#### {name}.{member}\n"
            yield f"```python\n{waits}{signature(member, function)}\n```\n\n{prose(function)}\n"


def api_page() -> Iterator[str]:
    """What `import sandlock` gives."""
    yield from ("# Python interface", "", MADE, "")
    yield "Everything public is in the module `sandlock`, which is typed. Importing it costs little: trio is imported"
    yield "when `AsyncSandbox` is first used.\n"
    for heading, names in PAGES.items():
        yield f"## {heading}\n"
        for name in names:
            value = getattr(sandlock, name)
            if isinstance(value, type):
                yield from class_entry(name, value)
            elif name in CONSTANTS:
                yield f"- `{name}`: {CONSTANTS[name]}"
            else:
                yield f"### {name}\n\n```python\n{signature(name, value)}\n```\n\n{prose(value)}\n"
        if heading == "Streams":
            yield "\nA descriptor or an open file works too.\n"


PAGE_MAKERS = {"syscalls.md": syscalls_page, "options.md": options_page, "api.md": api_page}


def pages() -> dict[str, str]:
    """File name to text, for every page."""
    return {name: "\n".join(make()).rstrip("\n") + "\n" for name, make in PAGE_MAKERS.items()}


if __name__ == "__main__":
    os.makedirs(DIRECTORY, exist_ok=True)
    for page, text in pages().items():
        with open(os.path.join(DIRECTORY, page), "w", encoding="utf-8") as file:
            file.write(text)
