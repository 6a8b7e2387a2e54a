"""The journal: what an audit file says, whole, cut, hostile, huge, or still being written."""

from __future__ import annotations

import errno
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sandlock
from sandlock.sessions import journal as journals
from sandlock.sessions.journal import Journal, JournalDecision, read_journal
from sandlock.sessions.programs import Chains, children_of
from sandlock.sessions.remedies import remedy_of

COMMAND = "touch work/a; touch work/secret; sh -c 'sleep 0; exec ls work'; exit 3"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit file of a real run."""
    place = tmp_path_factory.mktemp("recorded")
    (place / "work").mkdir()
    log = place / "run.jsonl"
    with sandlock.Sandbox(
        presets=["system"],
        fs_writable=[str(place / "work")],
        exec_deny=["touch work/secret # not that"],
        record_execs=True,
        audit=log,
    ) as box:
        result = box.run(["sh", "-c", COMMAND], cwd=str(place), call_id="call-1")
    assert result.exit_code == 3, result
    assert (place / "work/a").exists()  # from outside: one ran, the other did not
    assert not (place / "work/secret").exists()
    return log


def write(path: Path, *lines: object) -> Path:
    """Lines of JSON, or bytes as they are."""
    with path.open("wb") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
    return path


def line(seq: int, record: str = "decision", **facts: Any) -> dict[str, Any]:
    head = {"schema": 1, "seq": seq, "time": 1000.0 + seq, "session": "s", "record": record, "run": "r"}
    if record == "decision":
        head |= {"kind": "exec", "target": "/bin/x", "decision": "allow", "cause": "no-rule", "argv": ["x"]}
    return head | facts


def test_a_real_run(recorded: Path) -> None:
    journal = read_journal(recorded)
    (run,) = journal.runs
    assert (run.argv, run.exit_code, run.reason, run.is_over) == (("sh", "-c", COMMAND), 3, "exited", True)
    assert (run.call_id, run.cwd) == ("call-1", str(recorded.parent))
    assert run.policy["exec_deny"] == ["touch work/secret # not that"]
    assert journal.damage.is_complete
    assert journal.damage.describe() == ()
    lines = [json.loads(each) for each in recorded.read_text().splitlines()]
    told = [each for each in lines if each["record"] == "decision"]
    fields = JournalDecision.__slots__  # type: ignore[attr-defined]
    for ours, theirs in zip(journal.decisions, told, strict=True):
        assert set(theirs) - {"schema", "record"} == set(fields)  # every field of the line
        for name in fields:
            value = getattr(ours, name)
            assert (list(value) if isinstance(value, tuple) else value) == theirs[name]
    assert {each.argv for each in journal.denials} == {("touch", "work/secret")}
    assert journal.totals.decisions == len(told)
    assert journal.totals.kinds == lines[-1]["decisions"]
    assert journal.run(run.id) is run
    assert journal.run("other") is None


def test_programs_are_a_tree(recorded: Path) -> None:
    journal = read_journal(recorded)
    programs = journal.programs
    names = {each.argv[:2]: place for place, each in enumerate(programs)}
    top, inner = names["sh", "-c"], names["sleep", "0"]
    assert programs[0].argv == ("sh", "-c", COMMAND)
    second, listed = programs[inner].parent, programs[names["ls", "work"]]
    assert second is not None
    assert programs[second].argv == ("sh", "-c", "sleep 0; exec ls work")
    assert listed.replaces == second  # the shell's own process went on as ls
    assert listed.parent == programs[second].parent == 0
    assert children_of(programs)[None] == [0]
    assert top in (0, second)
    assert programs[0].exit_code == 3
    assert all(each.recorded for each in programs)
    denied = journal.denials[0]
    assert [programs[place].argv[:2] for place in Chains(programs).of(denied)] == [("sh", "-c")]


def test_without_execs_the_decisions_tell(recorded: Path, tmp_path: Path) -> None:
    """The host was killed: no `execs`, no `run_end`, and the last line is half."""
    whole = recorded.read_bytes().splitlines(keepends=True)
    kept = [each for each in whole if b'"execs"' not in each and b'"run_end"' not in each]
    log = write(tmp_path / "log", *kept[:-1], kept[-1][:80])
    journal = read_journal(log)
    assert not journal.runs[0].is_over
    assert journal.damage.unfinished
    assert journal.damage.is_complete  # nothing is missing yet
    words = [each.argv for each in journal.programs]
    assert ("touch", "work/a") in words
    assert ("touch", "work/secret") not in words
    assert not any(each.recorded for each in journal.programs)
    assert all(each.parent == 0 for each in journal.programs[1:])


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    log = write(
        tmp_path / "log",
        line(1, "run_start", argv=["x"], cwd="/", policy={}),
        line(2),
        b'{"schema": 1, "seq": 3, "ti\n',
        line(4),
        line(7),
        line(8, "dropped", count=5),
        line(9, "dropped", run="", count=2),
        line(9),
        line(10, schema=2),
        line(11, kind=7),
        line(12, "of-a-later-version"),
        b"[1, 2]\n",
        b"\n",
    )
    damage = read_journal(log).damage
    assert damage.missing == 1 + 2 + 2  # the cut one, 5 and 6, 10 and 11
    assert (damage.cut, damage.strange, damage.repeated) == (1, 3, 1)
    assert (damage.dropped, damage.dropped_lines) == (5, 2)
    assert not damage.is_complete
    assert len(damage.describe()) == 5


def test_several_sandboxes_in_one_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ran = []
    for words in (["true"], ["false"], ["sh", "-c", "true; true"]):
        with sandlock.Sandbox(presets=["system"], audit=log, record_execs=True) as box:
            ran.append(box.run(words).run_id)
    journal = read_journal(log)
    assert [run.id for run in journal.runs] == ran
    assert [run.exit_code for run in journal.runs] == [0, 1, 0]
    assert len({run.session for run in journal.runs}) == 3
    assert journal.damage.is_complete
    for place, each in enumerate(journal.programs):
        assert each.parent is None or (journal.programs[each.parent].run == each.run and each.parent < place)


@pytest.mark.usefixtures("lasting_thread")
def test_refused_lookups_are_on_record(tmp_path: Path) -> None:
    def vet(event: object, box: object) -> object:
        if not isinstance(event, sandlock.Resolve):
            return None
        time.sleep(0.05)
        return sandlock.Deny("not that one", by="tty: anna")

    code = "import socket\nfor _ in range(3):\n try: socket.getaddrinfo('mirror.example', 443)\n except OSError: pass"
    log = tmp_path / "log"
    with sandlock.Sandbox(presets=["python"], exec_allow=["*"], policy_fn=vet, audit=log) as box:
        result = box.run(["python3", "-c", code])
    (decision,) = [each for each in read_journal(log).decisions if each.kind == "resolve"]
    assert (decision.target, decision.decision, decision.cause) == ("mirror.example", "deny", "verdict")
    assert (decision.reason, decision.by, decision.asked) == ("not that one", "tty: anna", True)
    assert decision.latency_us >= 50_000
    assert [each.target for each in result.denials if each.kind == "resolve"] == ["mirror.example"]
    remedy = remedy_of(decision)
    assert remedy is not None
    assert (remedy.field, remedy.value) == ("net_allow", "mirror.example:443")
    assert json.loads(log.read_text().splitlines()[-1])["decisions"]["resolve"] == {"deny": 1}


def test_lines_that_are_too_long_keep_their_head(tmp_path: Path) -> None:
    with_words = json.dumps(line(1, argv=["x"], target="/bin/big") | {"argv": ["y" * (journals.MAX_LINE + 100)]})
    log = write(tmp_path / "log", with_words.encode() + b"\n", b"[" * (journals.MAX_LINE + 5) + b"\n", line(2))
    journal = read_journal(log)
    assert [(each.target, each.argv, each.truncated) for each in journal.decisions] == [
        ("/bin/big", (), True),
        ("/bin/x", ("x",), False),
    ]
    assert (journal.damage.long, journal.damage.cut, journal.damage.missing) == (2, 1, 0)


def test_hostile_values_are_no_values(tmp_path: Path) -> None:
    bad: list[object] = [
        line(1, time=1e300),
        line(1, time=-1),
        line(1, pid=2**70),
        line(1, argv="text"),
        line(1, argv=[1]),
        line(1, decision="maybe"),
        line(1, asked="yes"),
        line(1, "execs", execs=[[]]),
        line(1, "execs", execs={"pid": 1}),
        line(1, "run_start", argv=["x"], policy=[1]),
        line(1, "dropped", count="9"),
    ]
    raw = [b'{"a": ' * 100_000 + b"\n", b"\xff\xfe\n", b"9" * 5000 + b"\n", b'{"seq": NaN}\n', b"\0\n"]
    journal = read_journal(write(tmp_path / "log", *bad, *raw, line(1, target="a\ud800b")))
    assert (journal.damage.strange, journal.damage.cut) == (len(bad), len(raw))
    (decision,) = journal.decisions
    assert decision.target == "a\\ud800b"
    decision.target.encode()


def test_circles_of_processes_are_none(tmp_path: Path) -> None:
    def program(pid: int, above: int, started: float) -> dict[str, Any]:
        return {"pid": pid, "parent_pid": above, "exe": "/x", "argv": ["x"], "started": started}

    rows = [program(1, 2, 0.0), program(2, 1, 0.0), program(3, 3, 0.0), program(1, 2, 9.0), program(2, 1, 1.0)]
    found = read_journal(write(tmp_path / "log", line(1, "execs", execs=rows))).programs
    assert len(found) == 5
    assert all(each.parent is None or each.parent < place for place, each in enumerate(found))


def test_many_decisions_are_counted_but_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "KEPT", 10)
    denials = [line(20 + seq, decision="deny") for seq in range(30)]
    journal = read_journal(write(tmp_path / "log", *[line(seq) for seq in range(1, 20)], *denials))
    assert (journal.totals.decisions, journal.totals.denied) == (49, 30)
    assert (len(journal.decisions), len(journal.denials), journal.damage.omitted) == (20, 10, 29)


@pytest.mark.slow
def test_a_long_file_is_read_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        for seq in range(1, 10_001):
            file.write(json.dumps(line(seq, argv=["x", "y" * 600], exe="/bin/x")).encode() + b"\n")
    tracemalloc.start()
    try:
        journal = read_journal(log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert journal.totals.decisions == 10_000
    assert peak < log.stat().st_size  # 9 MB of text: what is the same is kept once


def test_a_file_that_grows_is_read_as_far_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write(tmp_path / "log", line(1), line(2))
    size = log.stat().st_size
    write(log, line(1), line(2), line(3))
    found: list[bytes] = []
    with log.open("rb") as file:
        found = list(journals._lines(file, size))
    assert [json.loads(each)["seq"] for each in found] == [1, 2]


@pytest.mark.parametrize("name", ["missing", "folder", "pipe", "nul\0"])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(sandlock.SandlockError) as caught:
        read_journal(f"{tmp_path}/{name}")
    assert str(tmp_path) in str(caught.value)
    assert name != "missing" or errno.errorcode[errno.ENOENT] in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("schema", "seq", "time", "session", "record", "run", "argv", "execs", "policy", "count", "pid", "kind", "ended")
RECORDS = ("run_start", "decision", "dropped", "execs", "run_end")


def check(journal: Journal) -> None:
    """What holds for every journal."""
    assert journal.totals.decisions >= len(journal.decisions)
    assert all(each.parent is None or each.parent < place for place, each in enumerate(journal.programs))
    chains = Chains(journal.programs)
    for decision in journal.decisions:
        chains.of(decision)
        repr(decision).encode()
    journal.damage.describe()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_journal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    log = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    log.write_bytes(content)
    check(read_journal(log))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(RECORDS), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5)), max_size=8)
)
def test_any_values_are_a_journal(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    log = tmp_path_factory.getbasetemp() / "values.jsonl"
    write(log, *[line(seq, name) | facts for seq, (name, facts) in enumerate(lines, 1)])
    check(read_journal(log))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_real_file_with_other_bytes_in_it(recorded: Path, data: st.DataObject) -> None:
    content = bytearray(recorded.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=8))
    log = recorded.parent / "changed.jsonl"
    log.write_bytes(content)
    check(read_journal(log))
