"""Codex: `.rules` files (prefix_rule, host_executable, network_rule, in Starlark), and the sandbox keys of config.toml.

Starlark's calls with literal arguments are Python's; a file is parsed, never executed. The strictest rule that matches
decides there, and so it does here: deny, ask, allow.
"""

from __future__ import annotations

import ast
import tomllib
from itertools import islice, product
from typing import TYPE_CHECKING, Literal

from sandlock import PolicyError

from .imported import Collector, add_command, add_host, add_paths, texts

if TYPE_CHECKING:
    from .imported import Imported

__all__ = ["read_codex"]

DECISIONS: dict[object, Literal["deny", "ask", "allow"]] = {"forbidden": "deny", "prompt": "ask", "allow": "allow"}
MAX_COMBINATIONS = 256
"""That one rule's alternatives may make."""


def read_codex(text: str, path: str, workspace: str, unmatched: Literal["ask", "allow"]) -> Imported:
    """The rules of a .rules file or a config.toml. Raises PolicyError if it is neither."""
    collector = Collector()
    if path.endswith(".toml"):
        unmatched = _config(collector, text, path, workspace, unmatched)
    else:
        _rules(collector, text, path)
    return collector.result("codex", path, unmatched)


# .rules --------------------------------------------------------------------------------------------------------------


def _rules(collector: Collector, text: str, path: str) -> None:
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PolicyError(f"import: {path}: not a file of rules: {error}") from error
    for statement in module.body:
        source = " ".join((ast.get_source_segment(text, statement) or "").split())[:300]
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            if not isinstance(call, ast.Constant):  # a docstring says nothing
                collector.drop(source, "only calls with literal arguments are read")
            continue
        try:
            arguments = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
        except (ValueError, RecursionError):
            collector.drop(source, "its arguments are not literal")
            continue
        if call.args or len(arguments) != len(call.keywords):
            collector.drop(source, "its arguments have no names")
            continue
        _call(collector, call.func.id, arguments, source)


def _call(collector: Collector, name: str, arguments: dict[str, object], source: str) -> None:
    match name:
        case "prefix_rule":
            _prefix_rule(collector, arguments, source)
        case "network_rule":
            _network_rule(collector, arguments, source)
        case "host_executable":
            collector.drop(source, "not needed: a rule that allows by name means the file that PATH finds at the start")
        case _:
            collector.drop(source, "not known here")


def _prefix_rule(collector: Collector, arguments: dict[str, object], source: str) -> None:
    pattern, decision = arguments.get("pattern"), DECISIONS.get(arguments.get("decision", "allow"))
    if not isinstance(pattern, list) or not pattern or decision is None:
        collector.drop(source, "it has no pattern, or no decision that is known")
        return
    choices = [each if isinstance(each, list) else [each] for each in pattern]
    if not all(isinstance(word, str) for each in choices for word in each) or not all(choices):
        collector.drop(source, "its pattern is not made of words")
        return
    reason = arguments.get("justification")
    found = list(islice(product(*choices), MAX_COMBINATIONS + 1))
    if len(found) > MAX_COMBINATIONS:
        collector.drop(source, f"its alternatives make more than {MAX_COMBINATIONS} rules")
        return
    for words in found:
        text = reason if isinstance(reason, str) else ""
        add_command(collector, decision, [str(word) for word in words], True, source, reason=text)


def _network_rule(collector: Collector, arguments: dict[str, object], source: str) -> None:
    host, decision = arguments.get("host"), DECISIONS.get(arguments.get("decision", "allow"))
    if not isinstance(host, str) or decision is None:
        collector.drop(source, "it has no host, or no decision that is known")
    elif decision == "ask":
        collector.drop(source, "needs no rule: hosts that no rule is about are asked about")
    else:
        ports = {"https": (443,), "http": (80,)}.get(str(arguments.get("protocol", "")), (443, 80))
        add_host(collector, "net_deny" if decision == "deny" else "net_allow", host, source, ports=ports)


# config.toml ---------------------------------------------------------------------------------------------------------


def _config(
    collector: Collector, text: str, path: str, workspace: str, unmatched: Literal["ask", "allow"]
) -> Literal["ask", "allow"]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"import: {path}: not TOML: {error}") from error
    mode = document.get("sandbox_mode")
    if mode == "workspace-write":
        collector.add("fs_writable", workspace, "sandbox_mode: workspace-write")
    elif mode == "read-only":
        collector.add("fs_readable", workspace, "sandbox_mode: read-only")
    elif mode is not None:
        collector.drop(f"sandbox_mode: {mode}", "there is no mode without a sandbox; grant what is needed")
    options = document.get("sandbox_workspace_write", {})
    if isinstance(options, dict):
        for root in texts(collector, "writable_roots", options.get("writable_roots")):
            add_paths(collector, "fs_writable", root, workspace, f"writable_roots: {root}")
        if options.get("network_access") is True:
            collector.add("net_allow", "*", "network_access: true")
    approval = document.get("approval_policy")
    if approval == "never":
        collector.drop("approval_policy: never", "say --ask none: what no rule allows is denied without a question")
    elif approval == "on-failure":
        unmatched = "allow"
    for name in sorted(set(document) - {"sandbox_mode", "sandbox_workspace_write", "approval_policy"}):
        collector.drop(name, "not about what programs may do")
    return unmatched
