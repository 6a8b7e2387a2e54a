"""`sandlock agent check`: which rule decides about a command, without running it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sandlock import PolicyError, Sandbox
from sandlock.result import printable

from .policies import policy_of_agent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandlock import ExecDecision, Policy

__all__ = ["check", "decision_json", "policy_of_rules"]

CODES = {"allow": 0, "ask": 3}
WORDS = {"allow": "allow", "ask": "prompt", "deny": "forbidden"}
"""How codex calls them."""


def check(rules: str, words: Sequence[str], *, as_json: bool) -> int:
    """Says what the rules of a profile or of another tool's file say of a command: exit code 0 for allow, 3 for ask,
    1 for deny."""
    if not words:
        raise PolicyError('no command; write it after "--": sandlock agent check --rules FILE -- git push')
    # rules can be tried out without any grants
    with policy_of_rules(rules, words) as policy, Sandbox(_started(policy)) as sandbox:
        found = sandbox.check_exec(words)
    if as_json:
        print(json.dumps(decision_json(found)))
    else:
        print(f"{found.decision}: {printable(found.exe, 1000)}")
        print(f"  by: {printable(found.rule, 1000)}" if found.rule else "  no rule matches")
        if found.reason:
            print(f"  reason: {printable(found.reason, 1000)}")
    return CODES.get(found.decision, 1)


def _started(policy: Policy) -> Policy:
    return policy.but(presets=["system"]) if policy.is_empty() else policy


@contextmanager
def policy_of_rules(name: str, words: Sequence[str]) -> Iterator[Policy]:
    """The policy of a profile (a name, or a TOML file), or of another tool's file: settings.json, .rules, config.toml.

    Of an agent's profile it is the one that a run here would have. Raises PolicyError.
    """
    from sandlock.sessions.agent_profile import find_profile
    from sandlock.sessions.imported import import_rules

    if name.endswith((".json", ".rules")):
        yield import_rules(name).policy()
        return
    try:
        profile = find_profile(name)
    except PolicyError as error:
        if not name.endswith(".toml"):
            raise
        try:
            imported = import_rules(name).policy()  # codex has TOML too
        except PolicyError:
            raise error from None
        yield imported
        return
    with policy_of_agent(profile, command=words) as policy:
        yield policy


def decision_json(found: ExecDecision) -> dict[str, object]:
    """As `codex execpolicy check` prints it; `exe` is more than it has."""
    matched: list[dict[str, object]] = []
    if found.rule:
        pattern = found.rule.partition(" # ")[0]
        rule: dict[str, object] = {"matchedPrefix": _prefix(pattern), "decision": WORDS[found.decision]}
        if found.reason:
            rule["justification"] = _clean(found.reason)
        matched.append({"prefixRuleMatch": rule})
    return {"matchedRules": matched, "decision": WORDS[found.decision], "exe": _clean(found.exe)}


def _prefix(pattern: str) -> list[str]:
    from shlex import split

    words = split(pattern)
    return [_clean(word) for word in (words[:-1] if len(words) > 1 and words[-1] == "*" else words)]


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
