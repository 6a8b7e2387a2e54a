"""From the programs that were executed and the places that were reached to rules about them.

Rules: values in, values out. A program that can be told to do anything gets no rule for whatever it may be told; hosts
stay names; what no rule can name is said, not widened.
"""

from __future__ import annotations

import os.path
import re
from typing import TYPE_CHECKING

from .._record import record
from .generalising import LeftOut, Limits, is_below, is_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Executed", "Reached", "Rule", "bind_rules", "connect_rules", "exec_rules"]

FIRST_RANDOM_PORT = 32768
"""Of net.ipv4.ip_local_port_range: what the kernel picks."""
MAX_WORDS = 12
"""Words of a rule that are kept as they are."""
MAX_WORD = 4096

# What can be told to do anything: only what it was told is in the rule.
INTERPRETERS = re.compile(
    r"(ba|da|z|k|fi|a)?sh|python[0-9.]*|pypy[0-9.]*|perl[0-9.]*|ruby[0-9.]*|node|nodejs|deno|bun|php[0-9.]*|lua[0-9.]*|"
    r"tclsh|guile|ghc|runghc|awk|gawk|mawk|busybox"
)
CODE = re.compile(r"-[a-zA-Z]*[ceE]|--eval|--print|-p")
"""Options whose value is a program of its own."""
# Programs whose first word says what they do.
VERBS = frozenset(
    (
        *(
            "git",
            "hg",
            "svn",
            "gh",
            "pip",
            "pip3",
            "uv",
            "poetry",
            "pdm",
            "conda",
            "hatch",
            "tox",
            "npm",
            "pnpm",
            "yarn",
        ),
        *("npx", "cargo", "rustup", "go", "bundle", "gem", "composer", "mvn", "gradle", "dotnet", "nix", "brew", "apt"),
        *("apt-get", "dpkg", "docker", "podman", "kubectl", "helm", "terraform", "aws", "gcloud", "az", "systemctl"),
        *("ip", "openssl", "sandlock"),
    )
)
WITH_VALUE = frozenset(
    ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--prefix", "--cwd", "--manifest-path", "--context")
)
"""Options before such a word that take a value of their own."""


@record(kw_only=False)
class Executed:
    """A program that was executed, with its words."""

    exe: str
    argv: tuple[str, ...]
    truncated: bool = False
    count: int = 1


@record(kw_only=False)
class Reached:
    """A place that was connected or sent to, or bound."""

    protocol: str
    ip: str = ""
    port: int = 0
    host: str = ""
    path: str = ""
    """Of a unix socket, "@name" where it is abstract."""
    count: int = 1
    program: str = ""


@record
class Rule:
    """A rule, and its reason."""

    text: str
    count: int
    example: str
    why: str = ""


# Programs ------------------------------------------------------------------------------------------------------------


def exec_rules(
    seen: Iterable[Executed], *, find: Callable[[str], str], writable: Iterable[str], temporary: str = ""
) -> tuple[list[Rule], list[LeftOut]]:
    """One rule for each program and verb. `find`: the real path of the program that PATH finds by a name, "" for none.
    `writable`: where the program may write: what lies there may be replaced, so that no rule can name it."""
    rules: dict[str, Rule] = {}
    left: dict[str, LeftOut] = {}
    places = (*writable, *((temporary,) if temporary else ()))
    for each in sorted(seen, key=lambda one: (one.exe, one.argv)):
        name = _name_of(each, find)
        unstable = _why_no_rule(each, places, temporary)
        if unstable:
            left[unstable + each.exe] = LeftOut(what=" ".join((each.exe, *each.argv[1:])), why=unstable)
            continue
        words, why = _words_of(each)
        text = quoted((name, *words))
        known = rules.get(text)
        count = each.count if known is None else known.count + each.count
        examples = (_masked(each.argv, temporary), *((known.example,) if known else ()))
        example = min(examples, key=lambda text: (len(text), text))
        rules[text] = Rule(text=text, count=count, example=example, why=why)
    return _without_narrower(rules), list(left.values())


def _name_of(each: Executed, find: Callable[[str], str]) -> str:
    for name in (os.path.basename(each.argv[0]) if each.argv else "", os.path.basename(each.exe)):
        if name and find(name) == each.exe:
            return name
    return each.exe


def _masked(argv: tuple[str, ...], temporary: str) -> str:
    """The words as an example: temporary files have other names next time."""
    text = " ".join(argv)
    return re.sub(re.escape(temporary) + r"[^\s'\":]*", "$TMPDIR/...", text) if temporary else text


def _why_no_rule(each: Executed, places: tuple[str, ...], temporary: str) -> str:
    if any(is_below(each.exe, place) for place in places):
        return "it lies where the program may write, so a rule could not say what it is"
    if is_random(os.path.basename(each.exe)):
        return "its name will be another one next time"
    if each.truncated:
        return "its words are too long to be kept"
    words, _ = _words_of(each)
    if any(word != "*" and temporary and temporary in word for word in words):
        return "its words name a temporary file"
    if len(each.argv) > 1 and any(len(word) > MAX_WORD for word in words):
        return "its words are too long for a rule"
    if "*" in words[:-1] or words == ("*",) == each.argv[1:]:
        return "a word of it is '*', which in a rule stands for any"
    return ""


def _words_of(each: Executed) -> tuple[tuple[str, ...], str]:
    """What a rule says after the program, and why so."""
    words = each.argv[1:]
    name = os.path.basename(each.exe)
    if INTERPRETERS.fullmatch(name) or INTERPRETERS.fullmatch(os.path.basename(each.argv[0]) if each.argv else ""):
        return _of_interpreter(words)
    verbs = {name, os.path.basename(each.argv[0]) if each.argv else name}
    if not verbs & VERBS:
        return ("*",), "any words"
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in WITH_VALUE else 1
    if at >= len(words) or at >= MAX_WORDS:
        return words, "these words"
    return (*words[: at + 1], "*"), f"the verb {words[at]!r}, any further words"


def _of_interpreter(words: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    at = 0
    while at < len(words) and words[at].startswith(("-", "+")) and words[at] != "-":
        if words[at] == "-m" and at + 1 < len(words):
            return (*words[: at + 2], "*"), f"the module {words[at + 1]!r}, any further words"
        if CODE.fullmatch(words[at]):
            return words, "exactly this code"
        at += 1
    if at >= len(words) or words[at] == "-":
        return words, "these words"
    return (*words[: at + 1], "*"), f"the script {words[at]!r}, any further words"


def quoted(words: Iterable[str]) -> str:
    """A rule's text, as a shell would read its words; `*` stays."""
    from shlex import quote

    return " ".join(word if word == "*" else quote(word) for word in words)


def _without_narrower(rules: dict[str, Rule]) -> list[Rule]:
    """Without those that a rule with a last `*` covers."""
    from shlex import split

    wide = [split(text)[:-1] for text in rules if text.endswith(" *")]
    kept = []
    for text, rule in sorted(rules.items()):
        words = split(text)
        own = words[:-1] if words[-1] == "*" else words
        if any(own[: len(other)] == other and (len(own) > len(other) or words[-1] != "*") for other in wide):
            continue
        kept.append(rule)
    return kept


# The network ---------------------------------------------------------------------------------------------------------


def connect_rules(seen: Iterable[Reached], *, collapse_hosts: bool, limits: Limits) -> list[Rule]:
    """Where to. Hosts by name; ports of this machine that the kernel picked are one rule for all of them."""
    seen = list(seen)
    streams = {(each.host or each.ip, each.port) for each in seen if each.protocol == "tcp"}
    rules: dict[str, Rule] = {}
    for each in sorted(seen, key=lambda one: (one.protocol, one.host, one.ip, one.port, one.path)):
        if each.protocol == "udp" and ((each.host or each.ip, each.port) in streams or each.port == 0):
            continue  # how a C library finds out which address it would use; it sends nothing
        text, why = _place_of(each, limits)
        known = rules.get(text)
        count = each.count if known is None else known.count + each.count
        rules[text] = Rule(text=text, count=count, example=_shown(each), why=why)
    found = [rule for _, rule in sorted(rules.items())]
    return _by_domain(found) if collapse_hosts else found


def _place_of(each: Reached, limits: Limits) -> tuple[str, str]:
    if each.protocol == "unix":
        if limits.temporary and is_below(each.path, limits.temporary):
            return f"unix:{limits.temporary}", "a temporary file"
        if not each.path.startswith("@") and is_random(os.path.basename(each.path)):
            return f"unix:{os.path.dirname(each.path)}", "a temporary name: sockets of its directory"
        return f"unix:{each.path}", ""
    scheme = "" if each.protocol == "tcp" else f"{each.protocol}://"
    if is_loopback(each.ip) and each.host in ("", "localhost"):
        if each.port >= FIRST_RANDOM_PORT:
            return f"{scheme}localhost", "a port that the kernel picked: any port of this machine"
        return f"{scheme}localhost:{each.port}", ""
    target = each.host or (f"[{each.ip}]" if ":" in each.ip else each.ip)
    why = "" if each.host else "an address: the program did not look up a name"
    return f"{scheme}{target}" + ("" if each.protocol == "icmp" else f":{each.port}"), why


def is_loopback(ip: str) -> bool:
    """Whether an address is this machine's own."""
    return ip.startswith("127.") or ip in ("::1", "0.0.0.0", "::")  # noqa: S104  # compared, not bound


def _shown(each: Reached) -> str:
    if each.protocol == "unix":
        return each.path
    address = f"[{each.ip}]" if ":" in each.ip else each.ip
    return f"{each.protocol}://{address}:{each.port}"


def _by_domain(rules: list[Rule]) -> list[Rule]:
    """One rule with `*` for two and more hosts of one domain and port. A suffix of two short labels (co.uk) is none."""
    groups: dict[str, list[Rule]] = {}
    for rule in rules:
        host, _, port = rule.text.rpartition(":")
        labels = host.split(".")
        apart = labels[-2:]
        if len(labels) < 3 or "/" in host or labels[-1].isdigit() or (len(apart[0]) <= 3 and len(apart[1]) == 2):
            continue
        groups.setdefault(f"*.{'.'.join(apart)}:{port}", []).append(rule)
    for text, members in sorted(groups.items()):
        if len(members) > 1:
            count = sum(each.count for each in members)
            why = f"--collapse-hosts: {', '.join(each.text for each in members[:4])}"
            rules = [each for each in rules if each not in members]
            rules.append(Rule(text=text, count=count, example=members[0].example, why=why))
    return sorted(rules, key=lambda each: each.text)


def bind_rules(seen: Iterable[Reached], limits: Limits) -> list[Rule]:
    """What to listen on."""
    rules: dict[str, Rule] = {}
    for each in sorted(seen, key=lambda one: (one.protocol, one.port, one.path)):
        why = ""
        if each.protocol == "unix":
            text, why = _place_of(each, limits)
        else:
            scheme = "udp://" if each.protocol == "udp" else ""
            random = each.port == 0 or each.port >= FIRST_RANDOM_PORT
            text = scheme + ("*" if random else str(each.port))
            why = "a port that the kernel picks" if random else ""
        known = rules.get(text)
        count = each.count if known is None else known.count + each.count
        rules[text] = Rule(text=text, count=count, example=_shown(each), why=why)
    found = [rule for _, rule in sorted(rules.items())]
    every = {rule.text for rule in found}
    return [rule for rule in found if rule.text.isdigit() is False or "*" not in every]
