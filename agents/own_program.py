"""The program `sandlock`, for adapters whose frameworks start it by a command line."""

from __future__ import annotations

import os
import shutil
import sys

from sandlock import SandlockError

__all__ = ["own_program"]


def own_program() -> str:
    """The `sandlock` beside this Python, else the one on PATH; by its path, for the model could set PATH. Raises
    SandlockError."""
    beside = os.path.join(os.path.dirname(sys.executable), "sandlock")
    found = beside if os.access(beside, os.X_OK) else shutil.which("sandlock")
    if found is None:
        raise SandlockError("there is no program sandlock; install it where this Python or PATH finds it")
    return os.path.abspath(found)
