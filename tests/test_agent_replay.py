"""Replay: what another policy would have decided about a run that was recorded, against what it then really decides."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

import sandlock
from sandlock.sessions.journal import read_journal
from sandlock.sessions.replay import Replay, recorded_policy, replay

COMMANDS = """
touch work/a
touch work/b
/usr/bin/env touch work/c
sh -c 'cp work/a work/d'
python3 -c 'import socket; socket.create_connection(("127.0.0.1", {port})).close()'
python3 -c 'import socket; socket.create_connection(("127.0.0.2", {port})).close()'
exit 0
"""


def run(log: Path, port: int, **fields: object) -> sandlock.Result:
    """Records the commands under a policy."""
    values = {"presets": ["python"], "fs_writable": [str(log.parent / "work")]} | fields
    with sandlock.Sandbox(**values, audit=log, record_execs=True) as box:  # type: ignore[arg-type]
        return box.run(["sh", "-c", COMMANDS.format(port=port)], cwd=str(log.parent))


def outcomes(log: Path) -> dict[tuple[str, ...], str]:
    """What became of each exec and connection."""
    found = {}
    for each in read_journal(log).decisions:
        words = each.argv if each.kind == "exec" else (each.target,)
        found[words] = "deny" if each.is_denied else "allow"
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path


POLICIES: dict[str, dict[str, object]] = {
    "everything": {"net_allow": ["127.0.0.0/8"]},
    "no network": {},
    "one address": {"net_allow": ["127.0.0.1"]},
    "one address denied": {"net_allow": ["127.0.0.0/8"], "net_deny": ["127.0.0.2"]},
    "no touch": {"net_allow": ["127.0.0.0/8"], "exec_deny": ["touch *"]},
    "no touch of b": {"net_allow": ["127.0.0.0/8"], "exec_deny": ["touch work/b # not b"]},
    "only some": {"net_allow": ["127.0.0.0/8"], "exec_allow": ["sh *", "touch *", "python3 *"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_it_says_what_really_happens(name: str, place: Path) -> None:
    """Recorded with everything allowed, judged by a policy, then really run under it: the answers are the same."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert run(place / "first.jsonl", port, **POLICIES["everything"]).ok
        run(place / "then.jsonl", port, **POLICIES[name])
    with sandlock.Sandbox(
        presets=["python"],
        fs_writable=[str(place / "work")],
        record_execs=True,
        **POLICIES[name],  # type: ignore[arg-type]
    ) as box:
        found = replay(read_journal(place / "first.jsonl"), box)
    said = {each.call.argv or (each.call.target,) for each in found.denied}
    first, then = outcomes(place / "first.jsonl"), outcomes(place / "then.jsonl")
    both = first.keys() & then.keys()  # what was denied first may have kept others from being tried
    assert len(both) >= 6
    assert {words for words in both if first[words] == "allow" and then[words] == "deny"} == said & both
    assert said <= {words for words in first if first[words] == "allow"}
    assert (name == "everything") == found.is_same
    assert not found.unknown


def test_a_run_replayed_under_its_own_policy_is_the_same(place: Path) -> None:
    log = place / "log.jsonl"
    run(log, 9, exec_deny=["touch work/b # not b"], net_allow=["127.0.0.1"])
    journal = read_journal(log)
    assert journal.totals.denied >= 2  # a rule's, and a connection's
    with sandlock.Sandbox(recorded_policy(journal.runs[0])) as box:
        assert box.policy.exec_deny == ("touch work/b # not b",)
        found = replay(journal, box)
    assert found.is_same, found
    assert found.calls > 5


def judged(journal: object, **fields: object) -> Replay:
    with sandlock.Sandbox(**fields) as box:  # type: ignore[arg-type]
        return replay(journal, box)  # type: ignore[arg-type]


def test_both_directions(place: Path) -> None:
    log = place / "log.jsonl"
    run(log, 9, exec_deny=["touch work/b # not b"])
    journal, work = read_journal(log), str(place / "work")
    found = judged(journal, presets=["python"], fs_writable=[work], net_allow=["127.0.0.1:9"], exec_deny=["cp *"])
    assert [each.call.argv for each in found.denied] == [("cp", "work/a", "work/d")]
    assert (found.denied[0].then, found.denied[0].rule) == ("allow", "cp *")
    wider = {each.call.argv or each.call.target for each in found.allowed}
    assert wider == {("touch", "work/b"), "tcp://127.0.0.1:9"}
    assert next(each for each in found.allowed if each.call.argv).then == "deny"
    asked = judged(
        journal,
        presets=["python"],
        fs_writable=[work],
        exec_allow=["*"],
        exec_ask=["cp *"],
        policy_fn=lambda event: None,
    )
    assert {each.call.argv or each.call.target for each in asked.asked} == {
        ("cp", "work/a", "work/d"),
        "tcp://127.0.0.1:9",
        "tcp://127.0.0.2:9",
    }


def test_programs_that_are_not_granted_are_denied(place: Path) -> None:
    log = place / "log.jsonl"
    tool = place / "tool"
    tool.write_text("#!/bin/sh\nexit 0\n")
    tool.chmod(0o755)
    with sandlock.Sandbox(presets=["system"], fs_readable=[str(tool)], audit=log) as box:
        assert box.run([str(tool)]).ok
    journal = read_journal(log)
    (difference,) = judged(journal, presets=["system"]).denied
    assert difference.call.target == str(tool)
    assert "no grant" in difference.why
    assert judged(journal, presets=["system"], fs_readable=[str(place)]).is_same
    (difference,) = judged(journal, presets=["system"], fs_readable=[str(place)], fs_denied=[str(tool)]).denied
    assert difference.rule == f"fs_denied: {tool}"
    with sandlock.Sandbox(presets=["system"]) as box, pytest.raises(sandlock.ConfinementError, match="EACCES"):
        box.run([str(tool)])  # and so it is


def test_files(place: Path) -> None:
    log = place / "log.jsonl"
    work = place / "work"
    (work / "in").write_text("in")
    with sandlock.Sandbox(presets=["system"], fs_writable=[str(work)], record_paths=True, audit=log) as box:
        assert box.run(["sh", "-c", "cat work/in > work/out; rm work/out"], cwd=str(place)).ok
    journal = read_journal(log)
    assert {each.access for each in journal.decisions} >= {"read", "create", "remove"}
    found = judged(journal, presets=["system"], fs_readable=[str(work)])
    assert {(each.call.target, each.call.access) for each in found.denied} >= {
        (str(work / "out"), "create"),
        (str(work / "out"), "remove"),
    }
    assert not any(each.call.access in ("read", "list") for each in found.denied)
    assert str(work / "in") in {each.call.target for each in judged(journal, presets=["system"]).denied}
    assert judged(journal, presets=["system"], fs_writable=[str(work)]).is_same


def test_what_cannot_be_judged_says_so(tmp_path: Path) -> None:
    line = {"schema": 1, "seq": 1, "time": 1.0, "session": "s", "record": "decision", "run": "r", "cause": "no-rule"}
    rows = [
        line | {"kind": "connect", "target": "unix:", "decision": "allow"},
        line | {"seq": 2, "kind": "open", "target": "/usr/lib", "decision": "allow", "cause": "verdict", "asked": True},
        line | {"seq": 3, "kind": "exec", "target": "relative", "argv": ["a\0b"], "decision": "allow"},
        line | {"seq": 4, "kind": "fork", "target": "clone", "decision": "deny"},
        line | {"seq": 5, "kind": "exec", "target": "/x", "argv": ["x"], "decision": "deny", "cause": "changed"},
    ]
    log = tmp_path / "log"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = judged(read_journal(log), presets=["system"])
    assert [each.call.kind for each in found.unknown] == ["connect", "open", "exec"]
    assert all(each.why for each in found.unknown)
    assert found.calls == 0
