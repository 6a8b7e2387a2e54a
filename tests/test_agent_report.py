"""Reports of recorded runs: what they say, in each form, and that nothing in a log can make them say more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import sandlock
from sandlock import profile
from sandlock.cli.agent.report import FORMATS, rendered
from sandlock.cli.agent.rows import MAX_ROWS
from sandlock.cli.agent.timeline import timeline
from sandlock.sessions.digest import Digest, digest
from sandlock.sessions.journal import read_journal
from sandlock.sessions.remedies import Remedy, flags_of, merged, policy_of, remedy_of

HOSTILE = (
    "\x1b[31m\u202eevil\n# head\r| x | <script>alert(1)</script> <img src=x onerror=y> [a](http://x) `q` \ud800\0&amp;"
)
COMMAND = """
touch work/a
touch secret
git push origin main
git status
python3 -c 'import socket; socket.create_connection(("127.0.0.1", 9))' 2>/dev/null
sh -c 'sleep 0; exec ls work'
exit 3
"""


def vet(event: object, box: object) -> object:
    match event:
        case sandlock.Exec(argv=("git", "push", *_)):
            time.sleep(0.05)
            return sandlock.Deny("not on a Friday", by="tty: anna")
        case sandlock.Exec():
            return sandlock.Allow(by="tty: anna")
        case sandlock.Connect():
            return sandlock.Deny("nobody was there to be asked", cause="nobody-listens")
    return None


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded run with something of everything."""
    place = tmp_path_factory.mktemp("report")
    (place / "work").mkdir()
    with sandlock.Sandbox(
        presets=["python"],
        fs_writable=[str(place / "work")],
        exec_allow=["*"],
        exec_ask=["git * # ask me first"],
        exec_deny=["touch secret # not that"],
        policy_fn=vet,
        record_execs=True,
        audit=place / "log.jsonl",
    ) as box:
        assert box.run(["sh", "-c", COMMAND], cwd=str(place)).exit_code == 3
    assert (place / "work/a").exists()
    assert not (place / "secret").exists()
    return place / "log.jsonl"


@pytest.fixture
def found(log: Path) -> Digest:
    return digest(read_journal(log))


def sandlock_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sandlock.cli", *words], capture_output=True, text=True, timeout=60)


def test_who_denied_what(found: Digest) -> None:
    by = {(each.decision.argv or (each.decision.target,)): each for each in found.refusals}
    assert by["touch", "secret"].who == "rule"
    assert by["git", "push", "origin", "main"].who == "person"
    assert by["git", "push", "origin", "main"].decision.by == "tty: anna"
    assert by[("tcp://127.0.0.1:9",)].who == "nobody"
    assert [each.number for each in found.refusals] == list(range(1, len(found.refusals) + 1))


def test_questions_and_how_long_they_waited(found: Digest) -> None:
    asked = {each.decision.argv[:2] or each.decision.target: each for each in found.questions}
    assert asked["git", "push"].waited >= 0.05
    assert asked["git", "push"].decision.decision == "deny"
    assert asked["git", "status"].decision.decision == "allow"
    assert ("touch", "secret") not in asked  # a rule denied it without a question


def test_where_it_went(found: Digest) -> None:
    (place,) = found.destinations
    assert (place.address, place.port, place.protocol, place.allowed, place.denied) == ("127.0.0.1", 9, "tcp", 0, 1)
    assert place.programs[0].rpartition("/")[2].startswith("python3")


def test_what_to_add_allows_it(found: Digest, tmp_path: Path) -> None:
    """Only what nobody meant to deny; and with it, the same call is really let through."""
    (remedy,) = found.remedies
    assert (remedy.field, remedy.value) == ("net_allow", "tcp://127.0.0.1:9")
    text = json.loads(rendered(found, "json"))["profile"]["toml"]
    policy = profile.parse(text).policy()
    assert policy.net_allow == ("tcp://127.0.0.1:9",)
    code = (
        "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError as e: print(type(e).__name__)"
    )
    for more, outcome in ((sandlock.Policy.of(), "PermissionError"), (policy, "ConnectionRefusedError")):
        with sandlock.Sandbox(presets=["python"], net_allow=[*more.net_allow, "192.0.2.1:1"]) as box:
            assert box.run(["python3", "-c", code]).stdout_text.strip() == outcome


def test_the_text_says_it(log: Path) -> None:
    done = sandlock_command("agent", "report", str(log))
    assert done.returncode == 0, done.stderr
    for text in (
        "exited with 3",
        "touch secret",
        "not that",
        "tty: anna: not on a Friday",
        "nobody was there to be asked",
        "--net-allow tcp://127.0.0.1:9",
        "What ran",
        "What it reached",
        "Questions",
    ):
        assert text in done.stdout, text
    lines = done.stdout.splitlines()
    depth = {
        line.split()[0]: len(line) - len(line.lstrip()) for line in lines[lines.index("What ran") :] if line.strip()
    }
    assert depth["sh"] < depth["sleep"]
    assert max(map(len, lines)) <= 140


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_is_written_for_its_owner_only(form: str, log: Path, tmp_path: Path) -> None:
    flag = [] if form == "text" else [f"--{form}"]
    done = sandlock_command("agent", "report", str(log), *flag, "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert "touch" in (tmp_path / "out").read_text()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert sandlock_command("agent", "report", str(log), *flag, "-o", str(tmp_path / "link")).returncode == 125
    assert not (tmp_path / "other").exists()


def test_json_holds_everything(found: Digest) -> None:
    value = json.loads(rendered(found, "json"))
    assert value["schema"] == 1
    assert [each["argv"] for each in value["programs"]] == [list(each.argv) for each in found.journal.programs]
    assert value["runs"][0]["exit_code"] == 3
    assert {each["who"] for each in value["denials"]} == {"rule", "person", "nobody"}
    assert value["missing"]["told"] == []


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in ("meta", "line", "rect", "path", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(found: Digest) -> Page:
    page = Page()
    page.feed(rendered(found, "html"))
    page.close()
    assert page.open == []
    return page


def test_the_page_needs_nothing_and_runs_nothing(found: Digest) -> None:
    page = page_of(found)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        assert name not in ("src", "xlink:href"), name
        assert name != "href" or (value or "").startswith("#")
    text = rendered(found, "html")
    assert "prefers-color-scheme:dark" in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert not re.search(r"url\(|@import", text)
    assert "not on a Friday" in page.text


def hostile_log(place: Path, words: str) -> Path:
    """A log where everything that a program could choose, or somebody who writes logs, is this text."""
    seq, lines = 0, []

    def line(record: str, **facts: object) -> None:
        nonlocal seq
        seq += 1
        head = {"schema": 1, "seq": seq, "time": 1000.0 + seq, "session": words, "record": record, "run": words}
        lines.append(json.dumps(head | facts))

    line("run_start", argv=[words, words], cwd=words, policy={"presets": [words], words: words}, policy_hash=words)
    for kind in ("exec", "connect", "open", words):
        for cause, asked in (("rule", False), ("no-rule", False), ("verdict", True), ("timeout", True), (words, False)):
            facts = dict.fromkeys(("target", "reason", "rule", "by", "host", "exe", "cwd", "binding", "access"), words)
            fix = f"net_allow={words!r}"
            line(
                "decision", kind=kind, cause=cause, asked=asked, decision="deny", argv=[words], pid=7, fix=fix, **facts
            )
    program = {"pid": 7, "parent_pid": 0, "exe": words, "argv": [words], "started": 0, "ended": 1, "confirmed": True}
    line("execs", execs=[program])
    line("run_end", exit_code=1, reason=words, error=words)
    path = place / "hostile.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("words", [HOSTILE, "x" * 100_000, "```\n</style></title><svg onload=a>", "'; DROP | `x` \\"])
def test_a_hostile_log_writes_nothing_of_its_own(words: str, tmp_path: Path, found: Digest) -> None:
    hostile = digest(read_journal(hostile_log(tmp_path, words)))
    assert len(hostile.refusals) == 20
    for form in FORMATS:
        text = rendered(hostile, form)
        text.encode()
        if form != "json":  # which has everything
            assert len(text) < 200_000
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text), form
    assert not {"script", "img"} & set(page_of(hostile).tags)
    assert {name for name, _ in page_of(hostile).attributes} <= {name for name, _ in page_of(found).attributes} | {"r"}
    ElementTree.fromstring(rendered(hostile, "svg"))
    assert json.loads(rendered(hostile, "json"))
    markdown = rendered(hostile, "md")
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown)  # of code
    assert not re.search(r"<\w|(?<!\\)\]\(|^# head", outside, re.M)
    assert [line for line in markdown.splitlines() if line.startswith("# ")] == ["# What the sandbox saw"]


def test_the_explanations_of_a_hostile_log(tmp_path: Path) -> None:
    from sandlock.cli.agent.explain import explained

    hostile = digest(read_journal(hostile_log(tmp_path, HOSTILE)))
    for refusal in hostile.refusals:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", explained(hostile, refusal))


# ---- the picture


def programs_log(place: Path, rows: list[dict[str, Any]], *more: dict[str, Any]) -> Digest:
    head = {"schema": 1, "session": "s", "run": "r"}
    lines = [head | {"time": 1000.0, "record": "run_start", "argv": ["top"], "policy": {}}]
    lines += [
        head | {"time": 1000.0, "record": "decision", "decision": "deny", "cause": "rule"} | each for each in more
    ]
    lines += [
        head | {"time": 1001.0, "record": "execs", "execs": rows[at : at + 256]} for at in range(0, len(rows), 256)
    ]
    lines += [head | {"time": 1900.0, "record": "run_end", "exit_code": 0, "duration": 900.0, "reason": "exited"}]
    path = place / "programs.jsonl"
    path.write_text("".join(json.dumps(each | {"seq": seq}) + "\n" for seq, each in enumerate(lines, 1)))
    return digest(read_journal(path))


def program(pid: int, above: int, name: str, started: float, ended: float, **facts: Any) -> dict[str, Any]:
    row = {
        "pid": pid,
        "parent_pid": above,
        "exe": f"/usr/bin/{name}",
        "argv": [name],
        "started": started,
        "ended": ended,
    }
    return row | {"exit_code": 0, "confirmed": True} | facts


def svg(found: Digest) -> tuple[list[str], ElementTree.Element]:
    """The labels of the rows, and the picture."""
    root = ElementTree.fromstring(timeline(found, found.journal.runs[0]))
    space = "{http://www.w3.org/2000/svg}"
    labels = [each.find(f"{space}text") for each in root.findall(f"{space}g") if each.find(f"{space}title") is not None]
    return [each.text or "" for each in labels if each is not None and each.get("class") is None], root


def test_a_picture_of_two(tmp_path: Path) -> None:
    rows = [program(1, 0, "top", 0, 10), program(2, 1, "sleep", 5, 10), program(2, 1, "later", 10, 900)]
    rows[1] |= {"exit_code": None}
    denial = {"kind": "exec", "target": "/bin/x", "argv": ["x"], "pid": 2, "time": 1200.0}
    labels, root = svg(programs_log(tmp_path, rows, denial))
    assert labels == ["top", "sleep \N{RIGHTWARDS ARROW} later"]
    bars = [each for each in root.iter() if each.get("class") == "ok" and each.get("y") != "-9"]
    top, first, then = sorted(bars, key=lambda each: (float(each.get("y", 0)), float(each.get("x", 0))))
    assert float(top.get("x", 0)) < float(first.get("x", 0)) < float(then.get("x", 0))
    assert float(then.get("width", 0)) > 20 * float(top.get("width", 0))
    (cross,) = [each for each in root.iter() if each.get("class") == "halo"]
    assert abs(float(cross.get("cy", 0)) - float(first.get("y", 0)) - 6) < 1  # on the row of its process
    ratio = (float(cross.get("cx", 0)) - 320) / (float(then.get("x", 0)) + float(then.get("width", 0)) - 320)
    assert abs(ratio - 200 / 900) < 0.01


def test_a_picture_of_three_thousand(tmp_path: Path) -> None:
    rows = [program(1, 0, "top", 0, 900), program(2, 1, "make", 0, 500)]
    for at in range(1000):
        rows += [
            program(10 + 3 * at, 2, "sh", at * 0.4, at * 0.4 + 3),
            program(11 + 3 * at, 10 + 3 * at, "cc", at * 0.4, at * 0.4 + 3, exit_code=int(at == 500)),
            program(12 + 3 * at, 1, f"tool{at % 200}", at * 0.4, at * 0.4 + at % 7),
        ]
    denial = {"kind": "exec", "target": "/bin/x", "argv": ["x"], "pid": 12 + 3 * 3, "time": 1002.0}
    found = programs_log(tmp_path, rows, denial)
    labels, root = svg(found)
    assert len(found.journal.programs) == 3002
    assert len(labels) <= 2 * MAX_ROWS
    assert labels[:4] == ["top", "make", "sh \N{MULTIPLICATION SIGN} 1,000", "cc \N{MULTIPLICATION SIGN} 1,000"]
    assert any(label.startswith("tool3 ") for label in labels)  # what was denied keeps its row
    assert "more" in labels[-1]
    counted = sum(
        int(label.split("\N{MULTIPLICATION SIGN} ")[1].replace(",", ""))
        for label in labels
        if "\N{MULTIPLICATION SIGN}" in label
    )
    assert counted + int(re.sub(r"\D", "", labels[-1])) + 2 == 3002  # nobody is lost
    assert len(timeline(found, found.journal.runs[0])) < 200_000
    assert "3,002 programs in" in "".join(root.itertext())


def test_a_deep_chain_is_drawn(tmp_path: Path) -> None:
    rows = [program(at + 1, at, f"p{at}", at, 3000) for at in range(3000)]
    labels, _ = svg(programs_log(tmp_path, rows))
    assert 2 < len(labels) <= 2 * MAX_ROWS


# ---- remedies


def grant(field: str, value: str) -> Remedy:
    return Remedy(field=field, value=value, adds=True, opens="x")


def test_remedies_together_are_the_fewest() -> None:
    many = [
        grant("net_allow", "tcp://a.org:443"),
        grant("net_allow", "tcp://a.org:80"),
        grant("net_allow", "tcp://a.org:443"),
        grant("net_allow", "b.org"),
        grant("net_allow", "b.org:1"),
        grant("net_allow", "[::1]:2"),
        grant("net_allow", "unix:/x:1"),
        grant("fs_readable", "/a"),
        grant("fs_readable", "/a/b"),
        grant("fs_readable", "/ab"),
        grant("fs_data", "/a/c"),
        grant("fs_writable", "/a/w"),
        grant("fs_readable", "/a/w/x"),
        grant("exec_allow", "x y"),
        grant("net_allow_bind", "8080"),
    ]
    found = merged(many)
    values = {(each.field, each.value) for each in found}
    assert values == {
        ("net_allow", "tcp://a.org:80,443"),
        ("net_allow", "b.org"),
        ("net_allow", "[::1]:2"),
        ("net_allow", "unix:/x:1"),
        ("fs_readable", "/a"),
        ("fs_readable", "/ab"),
        ("fs_writable", "/a/w"),
        ("exec_allow", "x y"),
        ("net_allow_bind", "8080"),
    }
    policy = policy_of(found)
    assert policy.net_allow_bind == ("8080",)
    assert sandlock.Sandbox(policy.but(presets=["system"])).check_connect("a.org:80").decision == "allow"
    assert "--fs-write /a/w" in flags_of(found)


@pytest.mark.parametrize(
    "fix",
    [
        "__import__('os').system('x')",
        "exec_deny='x'",
        "net_allow=['x']",
        "net_allow='a' + 'b'",
        "net_allow='",
        "fs_readable='relative/../x'",
        "net_allow='not a rule'",
        "net_allow=''",
        "env='A=1'",
        "net_allow='x'*9999",
    ],
)
def test_what_is_no_fix_is_no_remedy(fix: str, tmp_path: Path) -> None:
    line = {"schema": 1, "seq": 1, "time": 1.0, "session": "s", "record": "decision", "run": "r", "kind": "open"}
    line |= {"target": "/x", "decision": "deny", "cause": "no-rule", "fix": fix}
    (tmp_path / "log").write_text(json.dumps(line) + "\n")
    (decision,) = read_journal(tmp_path / "log").decisions
    assert remedy_of(decision) is None


# ---- the command line


@pytest.fixture
def empty(tmp_path: Path) -> str:
    (tmp_path / "empty.jsonl").touch()
    return str(tmp_path / "empty.jsonl")


def test_what_cannot_be_reported_says_why(empty: str) -> None:
    for words, told in (
        (("agent", "report", empty), "no run is on record"),
        (("agent", "report", "/nowhere/log.jsonl"), "ENOENT"),
        (("agent", "report", empty, "--html", "--md"), "give one of"),
    ):
        done = sandlock_command(*words)
        assert done.returncode == 125
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_a_session_by_name_by_id_and_the_last(tmp_path: Path) -> None:
    for name in ("state", "runtime", "work"):
        (tmp_path / name).mkdir(mode=0o700)
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path / "runtime")}

    def agent(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sandlock.cli", "agent", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path / "work")

    done = agent("run", "--ask", "none", "-n", "demo", "--", "sh", "-c", "echo made > a; git push origin main; exit 4")
    assert done.returncode == 4, done.stderr
    assert (tmp_path / "work/a").read_text() == "made\n"
    (id,) = os.listdir(tmp_path / "state/sandlock/runs")
    reports = {run: agent("report", run).stdout for run in (id, id[:15], "demo", "last")}
    assert len(set(reports.values())) == 1
    assert "exited with 4" in reports["last"]
    assert "nobody was there to be asked" in reports["last"]
    assert "git push origin main" in agent("explain", "last").stdout
    assert agent("replay", "last").returncode == 0
    assert agent("replay", "demo", "-p", "agent").returncode == 0
    missing = agent("report", "other")
    assert missing.returncode == 125
    assert "other" in missing.stderr


def test_a_report_while_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with sandlock.Sandbox(presets=["system"], audit=log) as box, box.start(["sleep", "60"]) as process:
        while not log.read_text().count("sleep") > 1:
            assert process.poll() is None
        done = sandlock_command("agent", "report", str(log))
        process.kill()
    assert done.returncode == 0, done.stderr
    assert "sleep 60" in done.stdout
    assert "no end is on record" in done.stdout
