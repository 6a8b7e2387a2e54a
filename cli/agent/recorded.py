"""A place for the record of a run: the session, where sessions are to be had; else only the directory with its log."""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from sandlock import SandlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandlock import AsyncProcess, AsyncSandbox, Result
    from sandlock.sessions.desk import Desk

__all__ = ["Recorded", "open_recorded"]


class Recorded(Protocol):
    """What a run needs of its session."""

    id: str
    directory: str
    """For what is kept of the run."""
    log: str
    """For `audit`."""

    def follow(self, box: AsyncSandbox, process: AsyncProcess) -> None:
        """The program has started."""

    async def finish(self, result: Result) -> None:
        """It has ended."""


@asynccontextmanager
async def open_recorded(
    *, argv: list[str], desk: Desk | None, name: str | None, cwd: str, profile: str
) -> AsyncIterator[Recorded]:
    """The session of one run. Raises SandlockError."""
    try:
        open_session = import_module("sandlock.sessions.session").open_session
    except ModuleNotFoundError:
        yield _Directory(argv, name, cwd, profile)
        return
    async with open_session(argv=argv, desk=desk, name=name, cwd=cwd, profile=profile) as session:
        yield session


class _Directory:
    """A directory of its own below the user's state directory."""

    def __init__(self, argv: list[str], name: str | None, cwd: str, profile: str) -> None:
        state = os.environ.get("XDG_STATE_HOME", "")
        state = state if state.startswith("/") else os.path.expanduser("~/.local/state")
        self.id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self.directory = os.path.join(state, "sandlock", "runs", self.id)
        self.log = os.path.join(self.directory, "log.jsonl")
        self._facts: dict[str, object] = {"schema": 1, "id": self.id, "name": name, "argv": argv, "cwd": cwd}
        self._facts |= {"pid": os.getpid(), "started": time.time(), "profile": profile}
        try:
            os.makedirs(self.directory, mode=0o700)
            self._write()
        except OSError as error:
            raise SandlockError(
                f"make a directory for the record: {self.directory}: {error.strerror}; set XDG_STATE_HOME"
            ) from error

    def follow(self, box: AsyncSandbox, process: AsyncProcess) -> None:
        """See Recorded."""

    async def finish(self, result: Result) -> None:
        """See Recorded."""
        self._facts["result"] = result.to_dict()
        self._write()

    def _write(self) -> None:
        with open(os.path.join(self.directory, "session.json"), "w", encoding="utf-8") as file:
            json.dump(self._facts, file)
