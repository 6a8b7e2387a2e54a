"""Which audit file a RUN argument means: a path, or a session by id, by the beginning of one, by name, or `last`."""

from __future__ import annotations

from sandlock.sessions import directory

__all__ = ["log_of"]


def log_of(run: str) -> str:
    """The path of a run's audit file. Raises SandlockError for a session that is not known."""
    return run if "/" in run else directory.log_of(run)
