"""Result: what a run says of itself, to programs and to people."""

from __future__ import annotations

import json
import os

import pytest

from sandlock.errors import GuestError
from sandlock.result import ExecRecord, Result, exec_tree, printable


def record(pid: int, parent: int, *argv: str, **facts: object) -> ExecRecord:
    return ExecRecord(pid=pid, parent_pid=parent, exe=f"/bin/{argv[0]}", argv=argv, started=float(pid), **facts)  # type: ignore[arg-type]


def test_ok_is_an_exit_with_0() -> None:
    assert Result(exit_code=0).ok
    assert not Result(exit_code=1).ok
    assert not Result(exit_code=0, reason="killed").ok
    assert Result(exit_code=3).returncode == 3


def test_check_raises_with_the_result_and_the_last_words() -> None:
    fine = Result(exit_code=0)
    assert fine.check() is fine
    bad = Result(exit_code=2, argv=("make",), stderr=b"one\nmake: *** [all] \x1b[31mError\n")
    with pytest.raises(GuestError) as caught:
        bad.check()
    assert caught.value.result is bad
    assert str(caught.value) == "make exited with 2; it last said: make: *** [all] \\x1b[31mError"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result(exit_code=0), "the program exited with 0"),
        (Result(exit_code=137, signal=9, reason="signaled"), "was ended by SIGKILL"),
        (Result(exit_code=128 + 40, signal=40, reason="signaled"), "was ended by signal 40"),
        (Result(exit_code=137, signal=9, reason="timeout", timed_out=True), "ran into its time limit"),
        (Result(exit_code=137, signal=9, reason="killed"), "on request"),
        (Result(exit_code=137, signal=9, reason="host-gone"), "the process that ran it ended"),
        (Result(exit_code=0, truncated=frozenset(("stdout",))), "stdout: cut at max_output"),
        (Result(exit_code=0, waived=frozenset(("net-tcp",))), "without these protections: net-tcp"),
        (Result(exit_code=126), "need -r PATH"),
        (Result(exit_code=127), "not found"),
        (Result(exit_code=159, signal=31, reason="signaled"), "SIGSYS"),
        (Result(exit_code=1, stderr=b"sh: 1: cannot open x: Permission denied\n"), "writing -w PATH"),
        (Result(exit_code=1, stderr=b"fork: Resource temporarily unavailable"), "max_processes"),
    ],
)
def test_explanations(result: Result, text: str) -> None:
    assert text in result.explain()


def test_the_tree_of_what_ran() -> None:
    execs = (
        record(1, 0, "make", "-j4", ended=9.0, exit_code=0, confirmed=True),
        record(3, 1, "cc", "a.c", ended=5.0, exit_code=139, signal=11, confirmed=True),
        record(2, 1, "sh", "-c", "x\ny", truncated=True),
        record(4, 2, *("w" for _ in range(20)), confirmed=True),
        record(2, 1, "ls", confirmed=True),
    )
    assert exec_tree(execs) == [
        "  [1] make -j4 (/bin/make; 1.000-9.000 s, exit 0)",
        "    [2] sh -c x\\ny ... (/bin/sh; 2.000 s, still running, not confirmed)",
        "      [4] w w w w w w w w ... (/bin/w; 4.000 s, still running)",
        "    [2] ls (/bin/ls; 2.000 s, still running)",
        "    [3] cc a.c (/bin/cc; 3.000-5.000 s, SIGSEGV)",
    ]
    assert "programs executed: 5" in Result(exit_code=0, execs=execs).explain()


def test_odd_parents_do_not_hang_the_tree() -> None:
    """The guest chooses its pids' reuse: a record may be its own ancestor."""
    execs = (record(1, 2, "a"), record(2, 1, "b"), record(3, 3, "c"))
    assert sum("(/bin/" in line for line in exec_tree(execs)) == 3


def test_deep_trees_stay_readable() -> None:
    execs = tuple(record(pid, pid - 1, "x") for pid in range(1, 5000))
    lines = exec_tree(execs)
    assert len(lines) == 4999
    assert max(map(len, lines)) < 200


def test_reports_are_json_with_stable_keys() -> None:
    name = os.fsdecode(b"/bin/\xff")
    execs = (ExecRecord(pid=1, parent_pid=0, exe=name, argv=(name,), started=0.0),)
    report = Result(exit_code=1, stdout=b"\xff", argv=(name,), execs=execs).to_dict()
    assert list(report) == [
        *(
            "schema",
            "run_id",
            "call_id",
            "argv",
            "exit_code",
            "signal",
            "reason",
            "ok",
            "timed_out",
            "duration",
            "truncated",
            "waived",
            "survivors",
        ),
        "execs",
        "dropped_execs",
        "denials",
        "dropped_denials",
        "audited",
        "dropped_audited",
        "overdue",
        "audit_error",
    ]
    json.dumps(report).encode("utf-8")
    assert report["argv"] == ["/bin/\\udcff"]
    assert Result(exit_code=0).to_dict()["execs"] is None
    assert Result(exit_code=1, stdout=b"\xff").to_dict(output=True)["stdout"] == "\ufffd"


def test_texts() -> None:
    result = Result(exit_code=0, stdout="ä".encode(), stderr=b"\xff")
    assert (result.stdout_text, result.stderr_text) == ("ä", "\ufffd")


def test_nothing_from_inside_reaches_a_terminal_raw() -> None:
    assert printable("a\x1b[2J\r\n\u202eb\udcff") == "a\\x1b[2J\\r\\n\\u202eb\\udcff"
    assert printable("x" * 300).endswith("x...")
    hostile = Result(exit_code=1, argv=("\x1b]0;owned\x07",), execs=(record(1, 0, "\x1bc"),))
    assert "\x1b" not in hostile.explain()
