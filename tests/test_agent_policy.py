"""The policy of an agent run: what it grants, why, and what becomes of the home directory; pure and on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sandlock
from sandlock import PolicyError, Sandbox
from sandlock.sessions.workspace import AgentSetup, prepare, settle


class Place:
    """A home directory, a workspace and a state directory."""

    def __init__(self, top: Path) -> None:
        self.home, self.work, self.state = top / "home", top / "home" / "work", top / "state"
        for each in (self.home, self.work, self.state):
            each.mkdir()

    def prepare(self, **values: object) -> AgentSetup:
        return prepare(**({"state": str(self.state), "workspace": str(self.work)} | values))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    there = Place(tmp_path)
    monkeypatch.setenv("HOME", str(there.home))
    for name in list(os.environ):
        if name.startswith("XDG_"):
            monkeypatch.delenv(name)
    return there


def run(setup: AgentSetup, script: str) -> sandlock.Result:
    with Sandbox(setup.policy) as box:
        return box.run(["sh", "-c", script])


def test_default(place: Place) -> None:
    (place.home / ".ssh").mkdir()
    (place.home / ".ssh" / "id").write_text("KEY")
    (place.home / "plain").write_text("PLAIN")
    setup = place.prepare()
    result = run(setup, f"echo in > file; cat file; cd; pwd; echo x > new; cat {place.home}/.ssh/id {place.home}/plain")
    assert result.stdout_text == f"in\n{place.state}/home\n"
    assert result.stderr_text.count("Permission denied") == 2
    assert (place.work / "file").read_text() == "in\n"
    assert not (place.home / "new").exists()
    assert settle(setup) == [f"{place.state}/home: kept, with what the program made there"]
    assert sorted(os.listdir(place.state)) == ["home"]


@pytest.mark.parametrize("where", ["/", "home", "above"])
def test_refused_workspaces(place: Place, where: str) -> None:
    path = {"/": "/", "home": str(place.home), "above": str(place.home.parent)}[where]
    with pytest.raises(PolicyError, match="project directory"):
        place.prepare(workspace=path)
    assert os.listdir(place.state) == []
