"""The files of the program that is to be run: itself, and where it is installed.

Rules: only read, and only outside of what the agent may write: a link in there could lead anywhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .secret_files import SECRETS, is_below

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["find_program", "lies_in", "program_places"]

MAX_LINKS = 40
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/gnu/store")


def program_places(program: str, *, path: str, home: str, workspace: str) -> tuple[str, ...]:
    """What has to be readable for `program` to start, beyond the system: its file, installation, interpreter."""
    found = find_program(program, path, workspace)
    places: dict[str, None] = {}
    for _ in range(4):  # a script's interpreter may be a link, and a script itself
        if found is None or lies_in(found, workspace):
            break
        real = os.path.realpath(found)
        for each in (found, real):
            places[each] = None
            prefix = os.path.dirname(os.path.dirname(each))
            if os.path.dirname(each).endswith("/bin"):
                places[prefix] = None
        found = _interpreter(real)
    return tuple(each for each in places if _is_fit(each, home))


def find_program(program: str, path: str, workspace: str) -> str | None:
    """The file that this word runs, by PATH; links are not followed."""
    if "/" in program:
        return os.path.join(workspace, program)
    for directory in path.split(":"):
        found = f"{directory}/{program}"
        if directory.startswith("/") and os.access(found, os.X_OK) and not os.path.isdir(found):
            return found
    return None


def lies_in(path: str, directory: str) -> bool:
    """Whether the way to this path leads into that directory, which is a path without links."""
    place, links = "/", 0
    waiting = path.split("/")
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            place = os.path.dirname(place)
        if part in ("", ".", ".."):
            continue
        place = os.path.join(place, part)
        if is_below(place, directory):
            return True
        try:
            target = os.readlink(place)
        except OSError:
            continue
        links += 1
        if links > MAX_LINKS:
            return True
        place = "/" if target.startswith("/") else os.path.dirname(place)
        waiting = [*target.split("/"), *waiting]
    return False


def _interpreter(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return None
    words = head.partition(b"\n")[0].removeprefix(b"#!").split() if head.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words and words[0].startswith(b"/") else None


def _is_fit(place: str, home: str) -> bool:
    """Neither part of the system, which is readable anyway, nor so wide that it holds more than a program."""
    if any(is_below(place, each) for each in SYSTEM):
        return False
    wide: Iterable[str] = ("/", "/home", "/opt", "/srv", "/var", "/tmp", home, f"{home}/.local", f"{home}/.local/share")  # noqa: S108
    if place in wide or is_below(home, place):
        return False
    return not any(is_below(place, f"{home}/{secret}") for secret in SECRETS)
