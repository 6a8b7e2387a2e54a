"""Claude Code's settings.json: `permissions` (allow, ask, deny of tools) and `sandbox`.

What they mean is as its documentation says: deny before ask before allow; `Bash(words:*)` and `Bash(words *)` are
about commands that begin with those words; paths of Read, Edit and Write are patterns in the manner of .gitignore,
where `//x` is absolute, `~/x` in the home directory, `/x` below the project and `./x` below the current directory.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Literal

from .imported import Collector, add_command, add_host, add_paths, read_json, texts

if TYPE_CHECKING:
    from .imported import Imported

__all__ = ["read_claude"]

Action = Literal["deny", "ask", "allow"]
ACTIONS: tuple[Action, ...] = ("deny", "ask", "allow")
RULE = re.compile(r"(?P<tool>[A-Za-z_][\w*-]*)(?:\((?P<what>.*)\))?", re.DOTALL)
FILESYSTEM = {
    "denyRead": "fs_denied",
    "denyWrite": "fs_protected",
    "allowWrite": "fs_writable",
    "allowRead": "fs_readable",
}
SHELL_SYNTAX = re.compile(r"[;&|<>`\n]|\$\(")
READS, WRITES = ("Read", "Glob", "Grep", "LS", "NotebookRead"), ("Edit", "Write", "MultiEdit", "NotebookEdit")


def read_claude(text: str, path: str, workspace: str, unmatched: Literal["ask", "allow"]) -> Imported:
    """The rules of a settings.json. Raises PolicyError if it is no JSON object."""
    document = read_json(text, path)
    collector = Collector()
    project = _project_of(path, workspace)
    permissions = _section(collector, document, "permissions")
    for action in ACTIONS:
        for rule in texts(collector, f"permissions.{action}", permissions.get(action)):
            _rule(collector, action, rule, project, workspace)
    for folder in texts(collector, "permissions.additionalDirectories", permissions.get("additionalDirectories")):
        add_paths(collector, "fs_writable", folder, workspace, f"additionalDirectories: {folder}")
    if permissions.get("defaultMode") == "bypassPermissions":
        collector.drop("defaultMode: bypassPermissions", "what no rule is about is asked about, or say unmatched=allow")
    sandbox = _section(collector, document, "sandbox")
    if sandbox:
        read_sandbox(collector, sandbox, workspace)
        if sandbox.get("enabled") and sandbox.get("autoAllowBashIfSandboxed"):
            unmatched = "allow"
    for name in sorted(set(document) - {"permissions", "sandbox", "$schema"}):
        collector.drop(name, "not about what programs may do")
    return collector.result("claude", path, unmatched)


def _section(collector: Collector, document: dict[str, object], name: str) -> dict[str, object]:
    content = document.get(name, {})
    if isinstance(content, dict):
        return content
    collector.drop(name, "it is not an object")
    return {}


def _project_of(path: str, workspace: str) -> str:
    """Where patterns that begin with one "/" begin: the directory of .claude, except the user's own."""
    folder = os.path.dirname(os.path.abspath(path))
    above = os.path.dirname(folder)
    if os.path.basename(folder) == ".claude" and above != os.path.expanduser("~"):
        return above
    return workspace


def _rule(collector: Collector, action: Action, rule: str, project: str, workspace: str) -> None:
    source = f"{action} {rule}"
    parsed = RULE.fullmatch(rule.strip())
    if parsed is None:
        collector.drop(source, "it cannot be read")
        return
    tool, what = parsed["tool"], parsed["what"]
    if tool == "Bash":
        _bash(collector, action, what, source)
    elif tool in (*READS, *WRITES):
        _files(collector, action, tool, what, (project, workspace), source)
    elif tool == "WebFetch":
        _web(collector, action, what, source)
    else:
        collector.drop(source, "a tool of the agent itself, not a program, a file or a host")


def _bash(collector: Collector, action: Action, what: str | None, source: str) -> None:
    pattern = (what or "*").strip()
    if pattern in ("*", ":*"):
        collector.add(f"exec_{action}", "*", source)
        return
    further = pattern.endswith((":*", " *"))
    pattern = pattern.removesuffix(":*").removesuffix(" *")
    if SHELL_SYNTAX.search(pattern):
        collector.drop(
            source, "it has shell syntax in it; here each program that a command line starts is judged alone"
        )
        return
    try:
        words = shlex.split(pattern)
    except ValueError as error:
        collector.drop(source, f"it cannot be split into words ({error})")
        return
    add_command(collector, action, words, further, source)


def _files(
    collector: Collector, action: Action, tool: str, what: str | None, places: tuple[str, str], source: str
) -> None:
    project, workspace = places
    pattern = "**" if what is None else what.strip()
    base = workspace
    if pattern.startswith("//"):
        pattern = pattern[1:]
    elif pattern.startswith("/"):
        pattern, base = "./" + pattern.lstrip("/"), project
    if action == "ask":
        collector.drop(source, "files are granted or denied; opens can be asked about with ask_opens")
    elif action == "deny" and tool in WRITES:
        add_paths(collector, "fs_protected", pattern, base, source)
    elif action == "deny" and pattern in ("**", "*", ".", "./", "./**"):
        collector.drop(source, "it denies the whole workspace; start from the preset read-only instead")
    elif action == "deny":
        add_paths(collector, "fs_denied", pattern, base, source)
    else:
        add_paths(collector, "fs_writable" if tool in WRITES else "fs_readable", pattern, base, source)


def _web(collector: Collector, action: Action, what: str | None, source: str) -> None:
    kind, colon, host = (what or "").partition(":")
    if not colon or kind.strip() != "domain" or not host.strip():
        collector.drop(source, "it names no domain; all hosts at once are not granted by a rule about a tool")
    elif action == "ask":
        collector.drop(source, "needs no rule: hosts that no rule is about are asked about")
    else:
        add_host(collector, "net_deny" if action == "deny" else "net_allow", host.strip(), source)


# The sandbox of Claude Code, which is srt's --------------------------------------------------------------------------


def read_sandbox(collector: Collector, sandbox: dict[str, object], workspace: str) -> None:
    """The keys that Claude Code's `sandbox` and srt's settings have in common."""
    network, files = sandbox.get("network"), sandbox.get("filesystem")
    if isinstance(network, dict):
        _network(collector, network)
    if isinstance(files, dict):
        _filesystem(collector, files, workspace)
    for name in ("excludedCommands", "allowUnsandboxedCommands"):
        if sandbox.get(name):
            collector.drop(
                f"sandbox.{name}", "nothing runs outside the sandbox; widen the policy where a program needs it"
            )
    for name in ("enableWeakerNestedSandbox", "ignoreViolations"):
        if sandbox.get(name):
            collector.drop(f"sandbox.{name}", "the sandbox has no weaker form, and records every denial")
    known = {"network", "filesystem", "excludedCommands", "allowUnsandboxedCommands", "enabled", "ignoreViolations"}
    for name in sorted(set(sandbox) - known - {"autoAllowBashIfSandboxed", "enableWeakerNestedSandbox"}):
        collector.drop(f"sandbox.{name}", "not known here")


def _network(collector: Collector, network: dict[str, object]) -> None:
    for host in texts(collector, "network.allowedDomains", network.get("allowedDomains")):
        add_host(collector, "net_allow", host, f"allowedDomains: {host}")
    for host in texts(collector, "network.deniedDomains", network.get("deniedDomains")):
        add_host(collector, "net_deny", host, f"deniedDomains: {host}")
    for path in texts(collector, "network.allowUnixSockets", network.get("allowUnixSockets")):
        place = os.path.abspath(os.path.expanduser(path))
        collector.add("net_allow", f"unix:{place}", f"allowUnixSockets: {path}")
    if network.get("allowAllUnixSockets"):
        collector.add("net_allow", "unix:*", "allowAllUnixSockets")
    if network.get("allowLocalBinding"):
        collector.add("net_allow_bind", "*", "allowLocalBinding")
        collector.add("net_allow", "localhost", "allowLocalBinding")
    for name in ("httpProxyPort", "socksProxyPort"):
        if network.get(name):
            collector.drop(f"network.{name}", "connections are judged at connect(2); there is no proxy")
    known = {"allowedDomains", "deniedDomains", "allowUnixSockets", "allowAllUnixSockets", "allowLocalBinding"}
    for name in sorted(set(network) - known - {"httpProxyPort", "socksProxyPort"}):
        collector.drop(f"network.{name}", "not known here")


def _filesystem(collector: Collector, files: dict[str, object], workspace: str) -> None:
    for name, field in FILESYSTEM.items():
        for pattern in texts(collector, f"filesystem.{name}", files.get(name)):
            add_paths(collector, field, pattern, workspace, f"{name}: {pattern}")
    for name in sorted(set(files) - set(FILESYSTEM)):
        collector.drop(f"filesystem.{name}", "not known here")
