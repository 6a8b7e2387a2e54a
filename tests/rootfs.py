"""A root made from the host's own files: programs with their loader and libraries, where a rootfs would have them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sandlock import Sandbox


def needed(program: str) -> list[str]:
    """What a program is linked with, its loader too, as the host has it."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    words = (word for line in done.stdout.splitlines() for word in line.split() if word[0] == "/" and word[-1] != ":")
    return list(dict.fromkeys(words))


def put(root: Path, source: str, path: str) -> None:
    """A copy of a file of the host, at a path of the root."""
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(os.path.realpath(source), target)


def furnish(root: Path, programs: dict[str, str]) -> None:
    """Puts programs (source by path in the root) into a root, with all that they need."""
    for folder in ("proc", "dev"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path, source in programs.items():
        put(root, source, path)
        for library in needed(source):
            put(root, library, library)


def rooted(root: Path, **fields: object) -> Sandbox:
    """A sandbox in which this directory is /."""
    options: dict[str, Any] = {"chroot": root, "fs_readable": ["/"], "exec_allow": ["*"], **fields}
    return Sandbox(**options)
