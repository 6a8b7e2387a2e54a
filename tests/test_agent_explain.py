"""Explanations of denials, and `agent check`, on the command line; what is said would allow a call really does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sandlock

RUN = """
touch work/a
touch secret
python3 -c 'import socket; socket.create_connection(("127.0.0.1", 9))' 2>/dev/null
env touch other
exit 0
"""


def vet(event: object, box: object) -> object:
    match event:
        case sandlock.Exec(argv=("touch", "other")):
            return sandlock.Deny("no others", by="tty: anna")
        case sandlock.Connect():
            return sandlock.Deny("nobody answered within 3 s", cause="timeout")
    return None


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandlock.cli", "agent", *words], capture_output=True, text=True, timeout=60
    )


def policy(place: Path) -> sandlock.Policy:
    return sandlock.Policy.of(
        presets=["python"],
        fs_writable=[str(place / "work")],
        exec_allow=["*"],
        exec_ask=["touch other # who needs it"],
        exec_deny=["touch secret # not that"],
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("explain")
    (place / "work").mkdir()
    recorded = policy(place).but(record_execs=True)
    with sandlock.Sandbox(recorded, policy_fn=vet, audit=place / "log.jsonl") as box:
        box.run(["sh", "-c", RUN], cwd=str(place))
    return place / "log.jsonl"


def test_a_rule(log: Path) -> None:
    done = command("explain", str(log), "1")
    assert done.returncode == 0, done.stderr
    assert "touch secret" in done.stdout
    assert "A rule of the policy denies it: 'touch secret'. Its reason: not that." in done.stdout
    assert "Take this out of exec_deny" in done.stdout
    assert "EACCES" in done.stdout
    assert re.search(r"from: +sh -c", done.stdout)


def test_nobody_in_time_and_what_would_allow_it(log: Path) -> None:
    done = command("explain", str(log), "2")
    assert "Nobody answered in time" in done.stdout
    assert "since no rule decides it" in done.stdout
    assert re.search(r"from: +python3 -c .*\n +sh -c", done.stdout)
    flag = next(line for line in done.stdout.splitlines() if "as a flag" in line).partition(": ")[2]
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    for flags, told in (
        (["--net-allow", "192.0.2.1:1"], "PermissionError"),
        (shlex.split(flag), "ConnectionRefusedError"),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "sandlock.cli", "run", "--preset", "python", *flags, "--", "python3", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told in ran.stderr


def test_a_person_is_the_last_one(log: Path) -> None:
    last = command("explain", str(log))
    assert last.stdout == command("explain", str(log), "--last").stdout
    assert re.search(
        r"tty: anna denied it after .*: no others. It was asked because of the rule", last.stdout.replace("\n  ", " ")
    )
    assert re.search(r"from: +(env touch other|sh -c)", last.stdout)
    assert "never to be asked" in last.stdout


def test_all_and_none(log: Path, tmp_path: Path) -> None:
    everything = command("explain", str(log), "--all").stdout
    assert [int(number) for number in re.findall(r"^Denial (\d+) of 3", everything, re.M)] == [1, 2, 3]
    assert command("explain", str(log), "4").returncode == 125
    assert command("explain", str(log), "1", "--all").returncode == 125
    with sandlock.Sandbox(presets=["system"], audit=tmp_path / "fine.jsonl") as box:
        box.run(["true"])
    done = command("explain", str(tmp_path / "fine.jsonl"))
    assert (done.returncode, "nothing was denied" in done.stdout) == (1, True)


# ---- check


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "rules.toml").write_text(
        '[exec]\nallow = ["*"]\nask = ["git push * # ask me"]\ndeny = ["rm * # keep it"]\n'
    )
    return str(tmp_path / "rules.toml")


@pytest.mark.parametrize(
    ("words", "code", "rule"),
    [
        (["git", "push", "-f"], 3, "git push *"),
        (["rm", "-rf", "/"], 1, "rm *"),
        (["ls"], 0, "*"),
        (["env", "ls"], 0, "*"),
    ],
)
def test_check_says_which_rule(words: list[str], code: int, rule: str, rules: str) -> None:
    done = command("check", "--rules", rules, "--", *words)
    assert done.returncode == code, done.stderr
    assert f"by: {rule}" in done.stdout


def test_check_in_the_shape_of_codex(rules: str) -> None:
    value = json.loads(command("check", "--rules", rules, "--json", "--", "git", "push", "x").stdout)
    rule = {"matchedPrefix": ["git", "push"], "decision": "prompt", "justification": "ask me"}
    assert value["matchedRules"] == [{"prefixRuleMatch": rule}]
    assert value["decision"] == "prompt"
    assert value["exe"].endswith("/git")


def test_check_by_the_rules_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine.rules").write_text(
        'prefix_rule(pattern=["git", "push"], decision="forbidden", justification="no")\n'
    )
    done = command("check", "--rules", str(tmp_path / "mine.rules"), "--json", "--", "git", "push", "x")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["decision"] == "forbidden"
    (tmp_path / "settings.json").write_text(
        '{"permissions": {"allow": ["Bash(git status:*)"], "deny": ["Bash(rm:*)"]}}'
    )
    settings = str(tmp_path / "settings.json")
    assert command("check", "--rules", settings, "--", "git", "status").returncode == 0
    assert command("check", "--rules", settings, "--", "rm", "x").returncode == 1
    assert command("check", "--rules", str(tmp_path / "none.rules"), "--", "rm").returncode == 125


# ---- replay


def test_replay_on_the_command_line(log: Path) -> None:
    same = command("replay", str(log))
    assert same.returncode == 0, same.stdout + same.stderr
    assert "No difference" in same.stdout
    work = str(log.parent / "work")
    done = command("replay", "--preset", "python", "-w", work, "--exec-deny", "env *", str(log))
    assert done.returncode == 1, done.stderr
    assert "exec env touch other: by env *" in done.stdout
    assert "touch secret" in done.stdout.partition("would be asked about")[2]
    value = json.loads(
        command("replay", "--preset", "python", "-w", work, "--json", "--exec-deny", "env *", str(log)).stdout
    )
    assert [each["argv"] for each in value["denied"]] == [["env", "touch", "other"]]
    assert value["same"] is False


def test_replay_asks(log: Path) -> None:
    words = ("--preset", "python", "-w", str(log.parent / "work"), "--exec-allow", "*", "--exec-ask", "env *", str(log))
    done = command("replay", *words)
    assert done.returncode == 3, done.stdout
    assert "exec env touch other" in done.stdout


def test_replay_by_the_profile_of_an_agent(log: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[agent]\npresets = ["workspace-write"]\n[exec]\ndeny = ["env *"]\n')
    done = command("replay", "-p", str(tmp_path / "mine.toml"), str(log))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "exec env touch other: by env *" in done.stdout


def test_replay_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    assert command("replay", str(tmp_path / "x.jsonl")).returncode == 125
    assert command("replay").returncode == 125
