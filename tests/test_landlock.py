"""Landlock's vocabulary, against the kernel header of this machine and per ABI."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from sandlock import _landlock
from sandlock._landlock import GRANTS, PROTECTIONS, PathRule, Ruleset, handled, words

FS = {
    name: getattr(_landlock, name)
    for name in (
        "EXECUTE", "WRITE_FILE", "READ_FILE", "READ_DIR", "REMOVE_DIR", "REMOVE_FILE", "MAKE_CHAR",
        "MAKE_DIR", "MAKE_REG", "MAKE_SOCK", "MAKE_FIFO", "MAKE_BLOCK", "MAKE_SYM", "REFER", "TRUNCATE",
        "IOCTL_DEV",
    )
}  # fmt: skip
NET = {name: getattr(_landlock, name) for name in ("BIND_TCP", "CONNECT_TCP")}


def test_the_bits_are_those_of_the_kernel_header() -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler
    names = {f"LANDLOCK_ACCESS_FS_{name}": value for name, value in FS.items()}
    names |= {f"LANDLOCK_ACCESS_NET_{name}": value for name, value in NET.items()}
    names["LANDLOCK_SCOPE_SIGNAL"] = _landlock.SCOPE_SIGNAL
    names["LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET"] = _landlock.SCOPE_ABSTRACT_UNIX_SOCKET
    lines = ["#include <linux/landlock.h>"]
    for name, value in names.items():  # an older header lacks the newer ones
        lines += [f"#ifdef {name}", f'_Static_assert({name} == {value}, "{name}");', "#endif"]
    lines += [
        '_Static_assert(LANDLOCK_ACCESS_FS_MAKE_SYM == 4096, "the header is read");',
    ]
    done = subprocess.run(
        [compiler, "-fsyntax-only", "-x", "c", "-"], input="\n".join(lines), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_bits_are_all_different_and_without_holes() -> None:
    assert sum(FS.values()) == (1 << 16) - 1
    assert sum(NET.values()) == 3


@pytest.mark.parametrize(
    ("abi", "fs", "net", "scoped"),
    [
        (0, 0, 0, 0),
        (1, 0x1FFF, 0, 0),
        (2, 0x3FFF, 0, 0),
        (3, 0x7FFF, 0, 0),
        (4, 0x7FFF, 3, 0),
        (5, 0xFFFF, 3, 0),
        (6, 0xFFFF, 3, 3),
        (7, 0xFFFF, 3, 3),
        (9, 0xFFFF, 3, 3),  # later rights are unknown here, so they are not handled
    ],
)
def test_each_abi_handles_all_it_knows(abi: int, fs: int, net: int, scoped: int) -> None:
    assert handled(abi) == (fs, net, scoped)


@pytest.mark.parametrize("name", PROTECTIONS)
def test_a_waived_protection_is_not_handled_and_the_others_are(name: str) -> None:
    everything = handled(7)
    without = handled(7, frozenset({name}))
    since, where, bits = PROTECTIONS[name]
    place = ("fs", "net", "scope").index(where)
    assert without[place] == everything[place] & ~bits
    assert [mask for i, mask in enumerate(without) if i != place] == [
        mask for i, mask in enumerate(everything) if i != place
    ]
    assert handled(since - 1)[place] & bits == 0
    assert name in _landlock.WAIVED


def test_what_the_grants_never_give() -> None:
    nodes = FS["MAKE_CHAR"] | FS["MAKE_BLOCK"]
    assert all(not rights & nodes for rights in GRANTS.values())
    assert GRANTS["data"] == FS["READ_FILE"] | FS["READ_DIR"]
    changing = 0xFFFF & ~(FS["READ_FILE"] | FS["READ_DIR"] | FS["EXECUTE"])
    assert not GRANTS["read"] & changing
    assert not GRANTS["device"] & (FS["EXECUTE"] | FS["MAKE_REG"] | FS["REMOVE_FILE"])
    assert GRANTS["write"] == 0xFFFF & ~nodes & ~FS["IOCTL_DEV"]


def test_rulesets_are_values() -> None:
    one = Ruleset(handled_fs=1, paths=(PathRule(b"/usr", 5, True),))
    assert one == Ruleset(handled_fs=1, paths=(PathRule(path=b"/usr", access=5, optional=True),))
    assert hash(one) == hash(Ruleset(handled_fs=1, paths=(PathRule(b"/usr", 5, True),)))
    assert one != Ruleset(handled_fs=1, paths=(PathRule(b"/usr", 5),))


def test_rights_in_words() -> None:
    assert words(GRANTS["read"]) == "read, execute"
    assert words(GRANTS["write"]) == "read, execute, write, create, remove"
    assert words(GRANTS["write"] & 0x1FFF, 0x1FFF) == "read, execute, write, create, remove"
    assert words(FS["EXECUTE"] | FS["REFER"]) == "execute, rename and link between directories"
