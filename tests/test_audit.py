"""audit=: every decision is in the file, in whole lines without gaps; and what happens when it cannot be written."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ordinary
import pytest
import trio
from attacks.arena import free_port, tcp

import sandlock
from sandlock import Allow, AsyncSandbox, Deny, Exec, Kill, PolicyError, Sandbox
from sandlock.cli.__main__ import main

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
CONNECT = """
import socket, sys
for port in sys.argv[1:]:
    with socket.socket() as s:
        print(s.connect_ex(("127.0.0.1", int(port))), flush=True)
"""


class Place:
    """A directory that the sandbox may write, and an audit file beside it."""

    def __init__(self, path: Path) -> None:
        self.work = path / "work"
        self.work.mkdir()
        self.audit = path / "audit.jsonl"

    def run(self, *argv: str, **options: Any) -> sandlock.Result:
        options = {"presets": ["python"], "audit": self.audit, "fs_writable": [self.work], "cwd": self.work} | options
        return sandlock.run(list(argv), **options)

    def lines(self, record: str = "") -> list[dict[str, Any]]:
        """The lines of the file, each of which has to be whole; of one kind, if it is given."""
        found = [json.loads(line) for line in self.audit.read_text().splitlines()]
        assert [line["seq"] for line in found] == list(range(1, len(found) + 1))
        assert {line["schema"] for line in found} == {1}
        return [line for line in found if record in ("", line["record"])]

    def made(self) -> list[str]:
        return sorted(os.listdir(self.work))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_run_from_its_start_to_its_end(place: Place) -> None:
    before = time.time()
    result = place.run("/bin/sh", "-c", "/bin/true; exit 3", call_id="call-7", env={"SECRET": "hunter2"})
    assert (result.exit_code, result.audit_error, result.call_id) == (3, "", "call-7")
    start, shell, true, end = place.lines()
    assert [line["record"] for line in (start, shell, true, end)] == ["run_start", "decision", "decision", "run_end"]
    assert {line["run"] for line in place.lines()} == {result.run_id}
    assert {line["call_id"] for line in place.lines()} == {"call-7"}
    assert len({line["session"] for line in place.lines()}) == 1
    assert start["argv"] == ["/bin/sh", "-c", "/bin/true; exit 3"]
    assert start["policy"]["env"] == ["SECRET"]
    assert "hunter2" not in place.audit.read_text()
    assert (shell["kind"], shell["decision"], shell["cause"]) == ("exec", "allow", "no-rule")
    assert (true["argv"], true["exe"]) == (["/bin/true"], os.path.realpath("/bin/true"))
    assert (true["cwd"], true["binding"], true["run_seq"]) == (str(place.work), "attested", 2)
    assert 0 < true["latency_us"] < 5_000_000
    assert before - 1 < start["time"] <= shell["time"] <= true["time"] <= end["time"] < time.time() + 1
    assert (end["exit_code"], end["reason"], end["decisions"]) == (3, "exited", {"exec": {"allow": 2}})
    assert end["duration"] > 0
    assert stat.S_IMODE(place.audit.stat().st_mode) == 0o600


def test_several_runs_of_one_box_share_the_numbers(place: Place) -> None:
    with Sandbox(presets=["system"], audit=str(place.audit)) as box:
        runs = [box.run(["/bin/true"]).run_id for _ in range(3)]
    with Sandbox(presets=["system"], audit=str(place.audit)) as box:
        other = box.run(["/bin/true"]).run_id
    lines = [json.loads(line) for line in place.audit.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [*range(1, 10), 1, 2, 3]  # appended, a session after the other
    assert list(dict.fromkeys(line["run"] for line in lines)) == [*runs, other]


def facts(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["kind"], line["target"], line["decision"], line["cause"], line["rule"], line["errno"]


def test_rules_that_allow_and_deny(place: Place) -> None:
    shell, true = os.path.realpath("/bin/sh"), os.path.realpath("/bin/true")
    result = place.run(
        "/bin/sh",
        "-c",
        "/bin/true x; /bin/true y; /bin/ls",
        exec_allow=["sh *", "true *"],
        exec_deny=["true y # never"],
    )
    assert result.exit_code == 126
    decided = place.lines("decision")
    assert [facts(line) for line in decided] == [
        ("exec", shell, "allow", "rule", "sh *", 0),
        ("exec", true, "allow", "rule", "true *", 0),
        ("exec", true, "deny", "rule", "true y # never", 13),
        ("exec", os.path.realpath("/bin/ls"), "deny", "no-rule", "", 13),
    ]
    assert decided[2]["reason"] == "never"
    assert decided[2]["argv"] == ["/bin/true", "y"]
    totals = place.lines("run_end")[0]["decisions"]
    assert totals == {"exec": {"allow": 2, "deny": 2}}


def test_rules_of_the_network(place: Place) -> None:
    with tcp() as good, tcp() as bad:
        result = place.run(
            sys.executable, "-c", CONNECT, str(good.port), str(bad.port), str(bad.port),
            net_allow=[f"127.0.0.1:{good.port}"],
        )  # fmt: skip
        assert result.stdout.split() == [b"0", b"13", b"13"]
        allowed, *denied = [line for line in place.lines("decision") if line["kind"] == "connect"]
        target = f"tcp://127.0.0.1:{good.port}"
        assert facts(allowed) == ("connect", target, "allow", "rule", f"127.0.0.1:{good.port}", 0)
        assert len(denied) == 2  # one by one, where Result.denials counts
        target = f"tcp://127.0.0.1:{bad.port}"
        assert {facts(line) for line in denied} == {("connect", target, "deny", "no-rule", "", 13)}
        assert denied[0]["fix"] == f"net_allow={target!r}"
        assert os.path.basename(denied[0]["exe"]).startswith("python")
        (denial,) = result.denials
        assert denial.count == 2
        assert denial.fix_flag == f"--net-allow {target}"


TOUCH = shutil.which("touch") or "touch"  # by its path: along PATH it may be found, and denied, twice


@pytest.mark.slow
def test_verdicts_and_timeouts(place: Place) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if not isinstance(event, Exec) or event.argv[0] == "/bin/sh":
            return Allow()
        if event.argv[1] == "late":
            await trio.sleep(60)
        return {"good": Allow(), "bad": Deny("not this", 1), "dead": Kill("at once")}.get(event.argv[1])

    async def body() -> sandlock.Result:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[place.work], cwd=place.work, policy_fn=vet, audit=place.audit,
            policy_timeout=0.3,
        ) as box:  # fmt: skip
            return await box.run(["/bin/sh", "-c", "touch good; $0 bad; $0 none; $0 late; $0 dead; :", TOUCH])

    trio.run(body)
    assert place.made() == ["good"]
    decided = place.lines("decision")[1:]
    assert [(each["argv"][1], each["decision"], each["cause"], each["errno"]) for each in decided] == [
        ("good", "allow", "verdict", 0),
        ("bad", "deny", "verdict", 1),
        ("none", "deny", "no-opinion", 13),
        ("late", "deny", "timeout", 13),
        ("dead", "kill", "verdict", 0),
    ]
    assert [each["reason"] for each in decided[:2]] == ["the callback allowed it", "not this"]
    assert all(each["asked"] for each in decided)
    assert decided[3]["latency_us"] > 300_000


STORM = """
import os, socket, subprocess, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
for number in range(count):
    subprocess.run(["/bin/true", str(number)], check=True)
    with socket.socket() as s:
        error = s.connect_ex(("127.0.0.1", port))
        assert error == 111, error
"""


@pytest.mark.slow
def test_no_gap_with_four_programs_at_once(place: Place) -> None:
    each = 500
    port = free_port()
    with Sandbox(presets=["python"], net_allow=[f":{port}"], audit=place.audit) as box:
        results: list[sandlock.Result] = []
        command = " & ".join(['"$0" -c "$1" "$2" "$3"'] * 2) + " & wait"
        shell = ["/bin/sh", "-c", command, sys.executable, STORM, str(port), str(each)]
        threads = [threading.Thread(target=lambda: results.append(box.run(shell))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [(result.exit_code, result.stderr) for result in results] == [(0, b"")] * 2
    lines = place.lines()  # says that there is no gap
    for result in results:
        mine = [line for line in lines if line["run"] == result.run_id and line["record"] == "decision"]
        assert [line["run_seq"] for line in mine] == list(range(1, len(mine) + 1))
        assert Counter((line["kind"], line["decision"]) for line in mine) == {
            ("exec", "allow"): 1 + 2 * (1 + each),
            ("connect", "allow"): 2 * each,
        }
        numbers = Counter(line["argv"][1] for line in mine if line["argv"][:1] == ["/bin/true"])
        assert numbers == {str(number): 2 for number in range(each)}
        assert result.audit_error == ""


def test_on_the_command_line(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "system", "--audit", str(place.audit)]
    assert main(["run", *options, "--", "/bin/sh", "-c", "exit 7"]) == 7
    assert [line["record"] for line in place.lines()] == ["run_start", "decision", "run_end"]
    assert main(["run", *options, "-w", str(place.audit.parent), "--", "/bin/true"]) == 125
    assert main(["run", *options[:2], "--audit=/dev/full", "--report", "json", "--", "/bin/true"]) == 126
    refused, failed, report = capfd.readouterr().err.splitlines()
    assert refused.startswith("sandlock: --audit: ")
    assert "ENOSPC" in failed
    assert "ENOSPC" in json.loads(report)["audit_error"]


# ---- where it may lie


def test_the_program_cannot_touch_it(place: Place) -> None:
    attack = f"echo '{{}}' >> {place.audit}; rm -f {place.audit}; echo x > {place.audit}; touch made"
    place.audit.write_text("")
    result = place.run("/bin/sh", "-c", attack, presets=["system"])
    assert place.made() == ["made"]
    assert result.stderr.count(b"denied") == 3
    assert len(place.lines()) == 2 + len(place.lines("decision"))
    os.system(f"cd {place.work}; {attack}")  # the control: outside it works
    assert place.audit.read_text() == "x\n"


def test_below_a_writable_grant_it_is_refused(place: Place, tmp_path: Path) -> None:
    inside = place.work / "deep"
    inside.mkdir()
    (tmp_path / "link").symlink_to(inside)
    for path in (place.work / "a", inside / "a", tmp_path / "link" / "a"):
        with pytest.raises(PolicyError, match="which the sandbox may write; put it elsewhere") as caught:
            place.run("/bin/true", audit=path)
        assert caught.value.field == "audit"
        assert not path.exists()
    place.audit.write_text("")
    with pytest.raises(PolicyError, match="which the sandbox may write"):
        place.run("/bin/true", fs_writable=[place.audit], cwd=None)
    os.link(place.audit, place.work / "other")
    with pytest.raises(PolicyError, match="hard links"):
        place.run("/bin/true")


@pytest.mark.parametrize("name", ["nosuch/a", "directory", "link"])
def test_bad_places(place: Place, tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(PolicyError, match="audit: "):
        place.run("/bin/true", audit=tmp_path / name)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("keywords", [{"on_audit_failure": "maybe"}, {"otel": "yes"}])
def test_words_that_are_none(keywords: Any) -> None:
    with pytest.raises(PolicyError, match=next(iter(keywords))):
        Sandbox(presets=["system"], **keywords)
    with Sandbox(presets=["system"]) as box, pytest.raises(PolicyError, match="call_id"):
        box.run(["/bin/true"], call_id=7)  # type: ignore[arg-type]


# ---- when it fails


def test_without_a_record_nothing_runs(place: Place) -> None:
    result = place.run("/bin/sh", "-c", "touch made", audit="/dev/full")
    assert place.made() == []
    assert (result.exit_code, result.reason) == (126, "denied")
    assert [denial.cause for denial in result.denials] == ["audit"]
    assert "ENOSPC" in result.audit_error
    assert "the record is not complete" in result.explain()
    assert result.to_dict()["audit_error"] == result.audit_error


def test_a_warning_instead(place: Place) -> None:
    with pytest.warns(RuntimeWarning, match="ENOSPC") as warned:
        result = place.run("/bin/sh", "-c", "touch made; touch more", audit="/dev/full", on_audit_failure="warn")
    assert len(warned) == 1
    assert place.made() == ["made", "more"]
    assert (result.exit_code, result.denials) == (0, ())
    assert "ENOSPC" in result.audit_error


FILL = """
import json, os, resource, sys, warnings
import sandlock
audit, work, mode, limit, port = sys.argv[1:]
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
loop = 'i=100; while [ $i -lt 300 ]; do touch $i; i=$((i+1)); done'
result = sandlock.run(["/bin/sh", "-c", loop], presets=["system"], fs_writable=[work], cwd=work, audit=audit,
                      on_audit_failure=mode)
causes = sorted({denial.cause for denial in result.denials})
print(json.dumps([result.exit_code, result.audit_error, causes]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["deny", "warn"])
def test_a_disk_that_fills_up(visitor: ordinary.Person, mode: str) -> None:
    work, audit = os.path.join(visitor.home, "work"), os.path.join(visitor.home, "audit")
    os.mkdir(work)
    os.chown(work, visitor.uid, visitor.gid)
    _, error, causes = json.loads(visitor.script(FILL, audit, work, mode, "40000", "0"))
    made = sorted(os.listdir(work))
    assert "EFBIG" in error
    *whole, cut = Path(audit).read_text().split("\n")
    lines = [json.loads(line) for line in whole]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    if mode == "warn":
        assert made == [str(number) for number in range(100, 300)]
        assert causes == []
        return
    # What was denied once stays denied: the files are those of the first calls, up to the failure.
    assert made == [str(number) for number in range(100, 100 + len(made))]
    assert len(made) < 200
    recorded = sum(line["record"] == "decision" and line["argv"][0] == "touch" for line in lines)
    assert 0 < recorded <= len(made) <= recorded + 60  # the record runs a little behind
    assert causes == ["audit"]
    assert cut == "" or not cut.endswith("}")


@pytest.mark.slow
def test_a_lost_line_shows_when_it_goes_on(tmp_path: Path) -> None:
    """A pipe whose reader goes away and comes back stands for a disk that was full for a while."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with Sandbox(presets=["system"], audit=pipe, on_audit_failure="warn") as box:
        assert box.run(["/bin/true"]).audit_error == ""
        before = [json.loads(line) for line in os.read(first, 1 << 16).splitlines()]
        os.close(first)
        with pytest.warns(RuntimeWarning, match="EPIPE"):
            assert "EPIPE" in box.run(["/bin/true"]).audit_error
        second = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        assert box.run(["/bin/true"]).audit_error == ""
    after = [json.loads(line) for line in os.read(second, 1 << 16).splitlines()]
    os.close(second)
    assert [line["seq"] for line in before] == [1, 2, 3]
    lost = after[0]["count"]
    assert after[0]["record"] == "dropped"
    assert after[0]["seq"] == 3 + lost + 1 + (after[0]["seq"] - 4 - lost)
    assert after[0]["seq"] > 4  # the gap
    assert lost == 3
    assert [line["record"] for line in after[1:]] == ["run_start", "decision", "run_end"]


# ---- when it is slow

MANY = """
import socket, sys
for number in range(int(sys.argv[2])):
    with socket.socket() as s:
        s.connect_ex(("127.0.0.1", int(sys.argv[1])))
open("done", "w").close()
"""


class Pipe:
    """A pipe that stands for a slow disk: it takes 64 KiB, then nothing until `drain`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._text = b""
        self._thread: threading.Thread | None = None
        self._over = False

    def drain(self) -> None:
        """Reads from now on."""

        def work() -> None:
            while True:
                try:
                    chunk = os.read(self._fd, 1 << 16)
                except BlockingIOError:
                    chunk = b""
                self._text += chunk
                if not chunk:
                    if self._over:
                        return
                    time.sleep(0.005)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def lines(self) -> list[dict[str, Any]]:
        self._over = True
        if self._thread is not None:
            self._thread.join()
        os.close(self._fd)
        return [json.loads(line) for line in self._text.splitlines()]


@pytest.mark.slow
def test_rather_than_lose_something_the_program_waits(place: Place, tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    drained = threading.Timer(1.5, pipe.drain)
    drained.start()
    result = place.run(sys.executable, "-c", MANY, "1", "3500", audit=pipe.path)
    drained.join()
    lines = pipe.lines()
    assert result.duration > 1.2
    assert (result.exit_code, result.audit_error, place.made()) == (0, "", ["done"])
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["decisions"]["connect"] == {"deny": 3500}


@pytest.mark.slow
def test_where_nothing_waits_what_is_lost_is_counted(place: Place, tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")

    def drain_when_done() -> None:
        limit = time.monotonic() + 60
        while not place.made() and time.monotonic() < limit:
            time.sleep(0.01)
        pipe.drain()

    thread = threading.Thread(target=drain_when_done)
    thread.start()
    with pytest.warns(RuntimeWarning, match="lost"):
        result = place.run(sys.executable, "-c", MANY, "1", "4000", audit=pipe.path, on_audit_failure="warn")
    thread.join()
    lines = pipe.lines()
    assert result.exit_code == 0
    assert re.search(r"\d+ decisions came faster", result.audit_error)
    lost = sum(line["count"] for line in lines if line["record"] == "dropped")
    decided = [line for line in lines if line["record"] == "decision"]
    assert lost > 1000
    assert sum(line["kind"] == "connect" for line in decided) + lost == 4000
    assert lines[-1]["lost"] == lost
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.slow
def test_a_sink_that_takes_nothing_ends_in_denials(place: Place, tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    argv = [sys.executable, "-c", MANY + "import subprocess; subprocess.run(['touch', 'more'])", "1", "3500"]
    result = place.run(*argv, audit=pipe.path)
    assert place.made() == ["done"]  # the exec after that is denied
    assert "audit" in {denial.cause for denial in result.denials}
    assert result.audit_error
    pipe.drain()
    for thread in threading.enumerate():
        if thread.name == "sandlock-record":  # it was given up, and ends when the disk is back
            thread.join(20)
    lines = pipe.lines()
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["lost"] == sum(line["count"] for line in lines if line["record"] == "dropped") > 0


@pytest.mark.slow
def test_a_slow_sink_holds_no_loop(place: Place, tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await trio.sleep(0.01)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    async def body() -> sandlock.Result:
        async with AsyncSandbox(presets=["python"], fs_writable=[place.work], cwd=place.work, audit=pipe.path) as box:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick)
                drained = threading.Timer(1.5, pipe.drain)
                drained.start()
                result = await box.run([sys.executable, "-c", MANY, "1", "2000"])
                drained.join()
                nursery.cancel_scope.cancel()
        return result

    result = trio.run(body)
    assert (result.exit_code, result.audit_error) == (0, "")
    assert sum(gaps) > 1.2
    assert max(gaps) < 0.5
    assert pipe.lines()[-1]["record"] == "run_end"


def test_a_run_that_is_cut_short_is_on_record(place: Place) -> None:
    with pytest.raises(sandlock.ConfinementError):
        place.run("/nosuch")
    result = place.run("/bin/sleep", "60", timeout=0.2)
    assert result.timed_out
    failed, late = place_ends(place)
    assert failed["reason"] == "failed"
    assert "ENOENT" in failed["error"]
    assert late["reason"] == "timeout"


def place_ends(place: Place) -> list[dict[str, Any]]:
    """The ends of runs of several sessions."""
    lines = [json.loads(line) for line in place.audit.read_text().splitlines()]
    return [line for line in lines if line["record"] == "run_end"]
