"""`sandlock-claude-shell` and `sandlock-claude-process`, without Claude Code: what they run, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandlock.cli.agent import claude_process
from sandlock.cli.agent.claude_shell import words_of


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:/usr/bin:/bin")
    return tmp_path / "work"


def shell(work: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "sandlock.cli.agent.claude_shell", *words]
    return subprocess.run(
        program, cwd=work, env=os.environ | env, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_command_line_is_one_word(work: Path) -> None:
    outside, place = work.parent / "outside", work.parent / "claude-0a1b-cwd"
    line = f"eval 'mkdir in; cd in; echo x > {outside}' && true; pwd -P && pwd -P >| {place}"
    done = shell(work, "--add=git", line)
    assert (done.returncode, done.stdout) == (0, f"{work}/in\n"), done.stderr
    assert not outside.exists()
    assert place.read_text() == f"{work}/in\n"
    assert place.stat().st_mode & 0o777 == 0o600


def test_what_fails_has_run_nothing(work: Path) -> None:
    for words, env in (
        ((), {}),
        (("--no-such-option", "touch x"), {}),
        (("touch x",), {"SANDLOCK_CLAUDE_OPTIONS": "'"}),
    ):
        done = shell(work, *words, **env)
        assert done.returncode in (125, 126), done
    assert os.listdir(work) == []


def test_a_file_that_is_there_is_not_granted(tmp_path: Path) -> None:
    place = tmp_path / "claude-0a1b-cwd"
    place.symlink_to(tmp_path / "target")
    assert "--fs-write" not in words_of([f"true && pwd -P >| {place}"], "")
    assert not (tmp_path / "target").exists()
    place.unlink()
    assert "--fs-write" in words_of([f"true && pwd -P >| {place}"], "")
    assert "--fs-write" not in words_of([f"true && pwd -P >| {tmp_path}/passwd"], "")
    assert "--fs-write" not in words_of([f"true && pwd -P >| {tmp_path}/claude-1-cwd; true"], "")


def test_nobody_is_asked_unless_said() -> None:
    assert words_of(["a b"], "--add git") == [
        "agent",
        "run",
        "--add",
        "git",
        "--ask",
        "none",
        "--",
        "bash",
        "-c",
        "a b",
    ]
    assert words_of(["--ask=mcp", "a"], "") == ["agent", "run", "--ask=mcp", "--", "bash", "-c", "a"]


def test_a_session_is_confined_and_its_hosts_are_not(work: Path) -> None:
    outside = work.parent / "outside"
    program = [sys.executable, "-m", "sandlock.cli.agent.claude_process"]
    script = work / "claude"
    script.write_text(f"#!/bin/sh\necho said $*; echo x > {outside}\n")
    script.chmod(0o755)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], cwd=work, capture_output=True, text=True, timeout=100, check=False)

    done = run(str(script), "--session-id", "1", "go daemon")
    assert "said --session-id 1 go daemon" in done.stdout
    assert not outside.exists()
    for words in ((str(script), "--bg-spare", "socket"), ()):
        done = run(*words)
        assert (done.returncode, done.stdout) == (126, "")
    assert "has none yet" in run(str(script), "--bg-spare", "socket").stderr
    assert not outside.exists()
    assert run(str(script), "daemon", "run").stdout == "said daemon run\n"
    assert outside.exists()


def test_options_of_a_session() -> None:
    words = claude_process.words_of(["claude", "go"], "--add git --ask=mcp")
    assert words == ["agent", "run", "-p", "claude", "--add", "git", "--ask=mcp", "--", "claude", "go"]
