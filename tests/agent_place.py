"""A home directory, a workspace and a state directory for tests of agent runs, and programs run in the box."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sandlock
from sandlock import Sandbox, profile
from sandlock.sessions.agent_profile import AgentProfile, read_profile
from sandlock.sessions.workspace import AgentSetup, prepare


class Place:
    """`work` is in `home`, as for most people."""

    def __init__(self, top: Path) -> None:
        self.home, self.work, self.state = top / "home", top / "home" / "work", top / "state"
        for each in (self.home, self.work, self.state):
            each.mkdir()

    @classmethod
    def made(cls, top: Path, patch: pytest.MonkeyPatch) -> Place:
        """One that is the home directory of this process."""
        place = cls(top)
        patch.setenv("HOME", str(place.home))
        for name in list(os.environ):
            if name.startswith(("XDG_", "GIT_")):
                patch.delenv(name)
        return place

    def prepare(self, **values: object) -> AgentSetup:
        return prepare(**({"state": str(self.state), "workspace": str(self.work)} | values))

    def write(self, name: str, text: str = "text") -> Path:
        """A file below the home directory."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def git(self, *words: str, cwd: Path | None = None) -> str:
        """git outside, without anybody's configuration."""
        who = {f"GIT_{role}_{what}": f"{what}@example.org".lower() for role in ("AUTHOR", "COMMITTER") for what in
               ("NAME", "EMAIL")}  # fmt: skip
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", **who}
        command = ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", *words]
        done = subprocess.run(
            command, cwd=cwd or self.work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def agent(text: str, name: str = "test") -> AgentProfile:
    """The profile that this text is."""
    return read_profile(profile.parse(text), name)


def run(setup: AgentSetup, script: str, *, answer: Callable[..., object] | None = None) -> sandlock.Result:
    """A shell script in the box; nobody is asked unless there is an `answer`."""
    with Sandbox(setup.policy, policy_fn=answer) as box:
        return box.run(["sh", "-c", script], timeout=60)
