"""A root made from the host's own files: programs with their loader and libraries, where a rootfs would have them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from sandlock import Sandbox, _arguments, _filter, _program, syscalls
from sandlock._host import probe
from sandlock._plan import TrapRule


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
    for path, source in programs.items():
        put(root, source, path)
        for library in needed(source):
            put(root, library, library)


def number_of(name: str) -> int:
    """The number of a system call here."""
    number = syscalls.number(name, probe().arch)
    assert number is not None
    return number


def rooted(root: Path, *, traps: bool = True, **fields: object) -> Sandbox:
    """A sandbox in which this directory is /, for execs and, for the loaders' sake, for what is opened."""
    sandbox = Sandbox(**{"fs_readable": [str(root), "/proc"], "exec_allow": ["*"], "cwd": str(root)} | fields)  # type: ignore[arg-type]
    confinement, host = sandbox._confinement, probe()
    plan = confinement.plan
    opens = [name for name in ("open", "openat") if syscalls.number(name, host.arch) is not None]
    answers = {**dict(plan.answers), **dict.fromkeys(opens if traps else [], _filter.NOTIFY)}
    answers["prctl"] = _arguments._prctl(judged=True, rooted=True)
    numbers = {syscalls.number(name, host.arch): answer for name, answer in answers.items()}
    refused = TrapRule(syscall="prctl", nr=number_of("prctl"), rule="errno", value=errno.EPERM, reason="the test asks")
    rules = (*plan.rules, refused)
    for name in opens if traps else []:
        rules = (*rules, TrapRule(syscall=name, nr=number_of(name), rule="open_virtually", reason="the test asks"))
    confinement.plan = plan.__replace__(filter=_filter.assemble(numbers, host.arch), rules=rules)
    confinement._program = _program.Program(
        confinement.plan, wait_killable=host.wait_killable, root=os.fsencode(os.path.realpath(root))
    )
    return sandbox
