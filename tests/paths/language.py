"""The language of the guest that makes path calls (`programs/paths.c`), from this side: a line for each call.

A call is its name in the table of system calls and its arguments: numbers as they are, strings of bytes (paths), and
what `slot`, `words`, `out` and the other functions here make. What the architecture lacks is left out of a script.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable

from sandlock import syscalls

ARCH = "x86_64" if platform.machine() == "x86_64" else "aarch64"
CWD = -100
PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-#")

NUMBERS = {each.name: str(number) for each in syscalls.TABLE.values() if (number := each.number(ARCH)) is not None}
NAMES = {number: name for name, number in NUMBERS.items()}

Argument = int | bytes | str
"""A number, a path, or the word for any other argument."""


@functools.lru_cache(1 << 16)
def quoted(text: bytes) -> str:
    return "".join(chr(byte) if byte in PLAIN else f"%{byte:02X}" for byte in text)


def slot(number: int) -> str:
    """The descriptor that a call before has kept there."""
    return f"d{number}"


def words(*values: int) -> str:
    """64-bit words in memory: times, and the like."""
    return "w" + ",".join(str(value & (1 << 64) - 1) for value in values)


def how(flags: int, mode: int = 0, resolve: int = 0) -> str:
    """struct open_how."""
    return words(flags, mode, resolve)


def out(kind: str = "") -> str:
    """Room for a result: stat, statx, text, entries, old-entries, statfs, word, or nothing that is shown."""
    return f"o{kind}"


def address(path: bytes) -> str:
    """Of a unix socket."""
    return f"u{quoted(path)}"


def at_the_end(path: bytes) -> str:
    """A path behind whose last byte memory ends."""
    return f"e{quoted(path)}"


def endless(path: bytes) -> str:
    """A path that ends where memory ends, before its zero byte."""
    return f"x{quoted(path)}"


def attribute(value: bytes, flags: int = 0) -> str:
    """struct xattr_args, for setxattrat."""
    return f"a{quoted(value)},{flags}"


def exists(name: str) -> bool:
    return name in NUMBERS


def call(name: str, *arguments: Argument, into: int | None = None) -> str:
    """A line. `into` is the slot that keeps the descriptor which the call returns."""
    line = [NUMBERS[name]]
    line += [f"p{quoted(each)}" if isinstance(each, bytes) else str(each) for each in arguments]
    if into is not None:
        line.append(f">{into}")
    return " ".join(line)


def script(lines: Iterable[str], directory: str) -> bytes:
    """What the guest reads."""
    return "".join(f"{line}\n" for line in (quoted(directory.encode()), *lines, ".")).encode()


def name(line: str) -> str:
    """Which call a line makes."""
    return NAMES.get(line.split(" ")[0], "?")


def readable(line: str) -> str:
    """A line for people."""
    _, *rest = line.split(" ")
    short = [word if len(word) < 90 else f"{word[:40]}...{word[-20:]}({len(word)})" for word in rest]
    return " ".join([name(line), *short])
