"""What is run, and what it may touch: one value for every side."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/dev")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def system_readable() -> tuple[str, ...]:
    """The read grants of every benchmark: the system, and this Python if it lives elsewhere."""
    elsewhere = [path for path in sorted({sys.base_prefix, sys.prefix}) if not path.startswith("/usr")]
    return (*filter(os.path.isdir, SYSTEM), *elsewhere)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program and its grants. `number` says that its standard output ends in the number to record.

    `options` are further keyword arguments of a Sandbox, ours or the original's.
    """

    argv: tuple[str, ...]
    cwd: str | None = None
    readable: tuple[str, ...] = field(default_factory=system_readable)
    writable: tuple[str, ...] = field(default_factory=lambda: (tempfile.gettempdir(),))
    devices: tuple[str, ...] = ("/dev/null",)
    ports: tuple[int, ...] = ()
    env: dict[str, str] | None = None
    number: bool = False
    options: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Command:
        """The inverse of `dataclasses.asdict` after a trip through JSON (lists become tuples again)."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)
