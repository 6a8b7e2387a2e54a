"""Which audit file a RUN argument means: a path, or a session by id, by the beginning of one, by name, or `last`."""

from __future__ import annotations

import os
from importlib import import_module

from sandlock import PolicyError

__all__ = ["log_of"]


def log_of(run: str) -> str:
    """The path of a run's audit file. Raises SandlockError for a session that is not known."""
    if "/" in run or run.endswith(".jsonl"):
        return run
    try:
        directory = import_module("sandlock.sessions.directory")
    except ModuleNotFoundError:
        if os.path.exists(run):
            return run
        raise PolicyError(f"{run!r} is no file; name the audit file of a run") from None
    return str(os.fspath(directory.log_of(run)))
