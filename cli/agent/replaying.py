"""`sandlock agent replay`: would this policy have allowed that run?"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sandlock import PolicyError, Sandbox, SandlockError
from sandlock.result import printable
from sandlock.sessions.agent_profile import find_profile
from sandlock.sessions.journal import read_journal
from sandlock.sessions.replay import recorded_policy, replay

from .. import direct
from .locate import log_of
from .policies import policy_of_agent
from .wording import command, many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock import Policy
    from sandlock.sessions.journal import Journal
    from sandlock.sessions.replay import Difference, Replay

__all__ = ["replay_run"]

DIFFERS, ASKS = 1, 3


def replay_run(request: direct.Request) -> int:
    """Judges the run that the request names by the policy that it makes. Exit code 0: everything that ran would run;
    1: something would be denied; 3: nothing is denied, but something would be asked about."""
    if len(request.words) != 1:
        raise PolicyError("name one run, or its audit file: sandlock agent replay LOG -p PROFILE")
    journal = read_journal(log_of(request.words[0]))
    if not journal.runs:
        raise SandlockError(f"{journal.path}: no run is on record there; name the audit file of a run")
    asks = request.given.get("asks")
    if asks is None:  # by its own policy a run is judged as it ran
        asks = bool(_given(request)) or any(each.asked for each in journal.decisions)
    with _policy(request, journal) as policy, Sandbox(policy, policy_fn=_nobody if asks else None) as box:
        found = replay(journal, box)
    if request.given.get("json"):
        print(json.dumps(_as_json(journal, found), indent=2))
    else:
        print("\n".join(_lines(journal, found)))
    return DIFFERS if found.denied else ASKS if found.asked else 0


@contextmanager
def _policy(request: direct.Request, journal: Journal) -> Iterator[Policy]:
    """The policy of the flags, while its files are there; without any, the one that the last run had."""
    given = {name: value for name, value in _given(request).items() if name != "profile"}
    name, run = request.text_of("profile"), journal.runs[-1]
    profile = None if name is None else find_profile(name)
    if profile is not None and profile.is_agent:
        with policy_of_agent(profile, workspace=run.cwd, command=run.argv, fields=given) as policy:
            yield _with_private(policy, journal.path)
    elif profile is not None or given:
        yield direct.policy_of(request, direct.profile_of(request))
    else:
        yield recorded_policy(run)


def _given(request: direct.Request) -> dict[str, object]:
    """What says something of a policy."""
    return {name: value for name, value in request.given.items() if name not in ("asks", "json")}


def _with_private(policy: Policy, log: str) -> Policy:
    """The private directories of the recorded run, beside its log, stand for those that a new run would get."""
    beside = os.path.dirname(os.path.realpath(log))
    private = [os.path.join(beside, name) for name in ("home", "tmp") if os.path.isdir(os.path.join(beside, name))]
    return policy.but(fs_writable=(*policy.fs_writable, *private))


def _nobody(event: object, box: object) -> None:
    """That there is somebody to ask makes questions of what no rule decides; nothing is run here, so nobody is."""


def _lines(journal: Journal, found: Replay) -> list[str]:
    lines = [f"{many(found.calls, 'different call')} judged; nothing was run."]
    told = (
        (found.denied, "Ran then, would be denied"),
        (found.asked, "Was decided without a question, would be asked about"),
        (found.allowed, "Was denied or asked about, would be allowed"),
        (found.unknown, "Cannot be judged"),
    )
    for differences, title in told:
        if differences:
            lines += ["", f"{title}: {len(differences)}", *[f"  {_line(each)}" for each in differences]]
    if found.is_same:
        lines.append("No difference: all that was judged would have been decided as it was.")
    missing = journal.damage.describe()
    return lines + (["", "The record is not complete:", *[f"  {line}" for line in missing]] if missing else [])


def _line(difference: Difference) -> str:
    each = difference.call
    what = command(each.argv) if each.argv else printable(each.target, 500)
    name = f" ({printable(each.host)})" if each.host and each.host not in each.target else ""
    times = f", {each.count:,} times" if each.count > 1 else ""
    why = f"by {printable(difference.rule, 300)}" if difference.rule else printable(difference.why, 300)
    kind = f"{each.kind} ({each.access})" if each.access else each.kind
    return f"{printable(kind)} {what}{name}{times}" + (f": {why}" if why else "")


def _as_json(journal: Journal, found: Replay) -> dict[str, object]:
    def rows(differences: tuple[Difference, ...]) -> list[dict[str, object]]:
        return [
            {
                "kind": each.call.kind,
                "target": each.call.target,
                "argv": list(each.call.argv),
                "host": each.call.host,
                "access": each.call.access,
                "count": each.call.count,
                "then": each.then,
                "now": each.now,
                "rule": each.rule,
                "why": each.why,
            }
            for each in differences
        ]

    return {
        "schema": 1,
        "calls": found.calls,
        "same": found.is_same,
        "denied": rows(found.denied),
        "asked": rows(found.asked),
        "allowed": rows(found.allowed),
        "unknown": rows(found.unknown),
        "missing": list(journal.damage.describe()),
    }
