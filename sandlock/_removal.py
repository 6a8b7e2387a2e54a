"""Trees that a program filled as it liked, and may fill still, are removed.

Rules: no link is followed. Neither the stack, nor the length of a path, nor the number of our descriptors counts.
"""

from __future__ import annotations

import os
import stat

__all__ = ["remove_tree"]

DEEPEST = 64
"""Levels that are gone down at once; what lies deeper is brought up to the top first."""
MOST_LOOKS = 100_000
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, *, dir_fd: int | None = None, forced: bool = False) -> None:
    """Removes a directory and all in it. `forced`: whatever the modes of the directories in it are. Raises OSError."""
    top = _opened(path, dir_fd, forced)
    try:
        for _ in range(MOST_LOOKS):
            if not _empty(top, top, 0, forced):
                break
    finally:
        os.close(top)
    os.rmdir(path, dir_fd=dir_fd)


def _empty(fd: int, top: int, depth: int, forced: bool) -> bool:
    """Whether something is left at the top."""
    left = False
    for name in os.listdir(fd):
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
            continue
        inner = _opened(name, fd, forced)
        try:
            if depth == DEEPEST:
                os.rename(name, os.urandom(12).hex(), src_dir_fd=fd, dst_dir_fd=top)
                left = True
                continue
            left |= _empty(inner, top, depth + 1, forced)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=fd)
    return left


def _opened(name: str, holder: int | None, forced: bool) -> int:
    if not forced:
        return os.open(name, _DIRECTORY | os.O_RDONLY, dir_fd=holder)
    place = os.open(name, _DIRECTORY | os.O_PATH, dir_fd=holder)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)  # fchmod(2) takes no O_PATH
        return os.open(".", _DIRECTORY | os.O_RDONLY, dir_fd=place)
    finally:
        os.close(place)
