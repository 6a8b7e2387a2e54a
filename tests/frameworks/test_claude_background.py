"""A background session of Claude Code through `sandlock-claude-process`, with a model on the loopback.

By hand only: its service does not always start a session in time, and a run of CI may not depend on that.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from claude_api import serving
from test_claude_code import BIN, CLAUDE, Place, grants


def test_a_session_in_the_background(tmp_path: Path) -> None:
    """Its service and its terminal stay outside; the session itself, with all that it starts, is confined."""
    place = Place(tmp_path)
    (place.home / ".claude.json").write_text(
        json.dumps({"hasCompletedOnboarding": True, "projects": {str(place.work): {"hasTrustDialogAccepted": True}}})
    )
    del place.env["ANTHROPIC_API_KEY"]
    place.env |= {"ANTHROPIC_AUTH_TOKEN": "none", "CLAUDE_CODE_PROCESS_WRAPPER": f'["{BIN}/sandlock-claude-process"]'}
    turns = [place.script, {"command": "echo; grep Seccomp: /proc/self/status", "description": "x"}, "done"]
    try:
        with serving(turns) as model:
            options = shlex.join(grants(model)[2:])
            variables = place.env | {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model.port}"}
            words = [CLAUDE, "--bg", "go", "--permission-mode", "default", "--allowedTools", "Bash"]
            for _ in range(3):  # on a busy machine its service gives a session up that takes long to start
                subprocess.run(
                    words, cwd=place.work, env=variables | {"SANDLOCK_CLAUDE_OPTIONS": options}, check=True,
                    start_new_session=True, timeout=100, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                )  # fmt: skip
                if came(lambda: len(model.results) == 2, 60):
                    break
    finally:
        end_all_with(f"HOME={place.home}")
    assert place.is_unharmed()
    assert os.listdir(place.work) == ["made"]
    assert "Seccomp:\t2" in model.results[1]


def end_all_with(variable: str) -> None:
    """Ends the service, which outlives who started it, and what it hosts."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if variable.encode() in file.read().split(b"\0") and int(pid) != os.getpid():
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue


def came(condition: Callable[[], bool], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
    return condition()
