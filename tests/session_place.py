"""Directories for the sessions of one test, and what the tests of sessions ask again and again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from sandlock.sessions import places

LIMIT = 20.0
IDLE = ["sh", "-c", "echo; cat"]


def session_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime and a state directory of the test's own; with short names, for sockets that are opened by path."""
    with tempfile.TemporaryDirectory() as made:
        for name, variable in (("runtime", "XDG_RUNTIME_DIR"), ("state", "XDG_STATE_HOME")):
            Path(made, name).mkdir(mode=0o700)
            monkeypatch.setenv(variable, os.path.join(made, name))
        # not those of other tests that run at the same time, which are looked into as well
        monkeypatch.setattr(places, "FOR_ROOT", os.path.join(made, "root"))
        yield Path(made)


def run(main: Callable[[], Any]) -> Any:
    """Runs it under trio, within a limit."""

    async def within() -> Any:
        with trio.fail_after(LIMIT):
            return await main()

    return trio.run(within)


def ours(place: Path) -> list[str]:
    """The entries in the runtime directory."""
    return sorted(name for name in os.listdir(place / "runtime" / "sandlock") if name != ".lock")
