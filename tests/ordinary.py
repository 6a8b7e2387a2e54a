"""Runs programs as somebody without privileges, wherever the checkout and the interpreter lie.

A test that runs as root proves little about ordinary users, and the other way round. As root,
`person("ordinary")` is an account of our own, with a small virtual environment that it can read: interpreter,
checkout and installed packages may well lie below a home that is closed to it. As an ordinary user, it is
simply ourselves, and there is no `person("root")`.
"""

from __future__ import annotations

import atexit
import functools
import glob
import importlib.metadata
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from packaging.requirements import Requirement

import sandlock

ACCOUNT = "sandlock-test"
SPARE_ID = 65500  # where no account can be made: a number that nobody has (65534, nobody, is the overflow id)
DISTRIBUTIONS = ("trio", "cffi", "typer", "h11", "pytest", "hypothesis")
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

USERS: tuple[str, ...] = ("root", "ordinary") if os.geteuid() == 0 else ("ordinary",)
"""Who tests can be run as, for parametrisation."""


@dataclass(frozen=True)
class Person:
    """Somebody who runs programs. `home` is a directory of their own (also $HOME and the default cwd)."""

    name: str
    uid: int
    gid: int
    home: str
    python: str
    """An interpreter that this person can run and that has sandlock."""
    tests: str
    """A copy of tests/ that this person can read."""

    @property
    def identity(self) -> dict[str, object]:
        """Keyword arguments that make `subprocess` start something as this person."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """A small environment, the same on every machine, and what the tests are steered with."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("SANDLOCK_")}
        if self.uid == os.geteuid() and "PYTHONPATH" in os.environ:  # a checkout that is not installed
            kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "HOME": self.home}
        return base | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": self.home} | kept | dict(more or {})

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this person; text in and out, `timeout` in seconds, no check of the exit code."""
        return subprocess.run(
            list(argv),
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            env=self.environment(env),
            cwd=cwd or self.home,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
            **self.identity,  # type: ignore[call-overload]
        )

    def script(self, code: str, *args: str, **options: object) -> str:
        """Run Python code as this person and return what it prints. Raises AssertionError if it fails."""
        done = self.run([self.python, "-c", code, *args], **options)  # type: ignore[arg-type]
        assert done.returncode == 0, f"as {self.name}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@functools.cache
def person(name: str) -> Person:
    """`root` or `ordinary`; made once per process, on first use."""
    if name not in USERS:
        raise LookupError(f"nobody here is {name}")
    if name == "root" or os.geteuid() != 0:
        tests = os.path.dirname(os.path.abspath(__file__))
        return Person(name, os.geteuid(), os.getegid(), scratch(), sys.executable, tests)
    uid, gid = account()
    world = scratch()
    os.chmod(world, 0o755)
    home = os.path.join(world, "home")
    os.mkdir(home, 0o700)
    os.chown(home, uid, gid)
    tests = os.path.join(world, "tests")
    shutil.copytree(os.path.dirname(os.path.abspath(__file__)), tests)
    python = make_environment(world, interpreter(world, uid, gid))
    open_to_all(world, keep=home)
    return Person(name, uid, gid, home, python, tests)


@contextmanager
def at_home(name: str) -> Iterator[Person]:
    """That person with a home that is empty, and gone after the block."""
    resident = person(name)
    home = tempfile.mkdtemp(prefix="home-", dir=resident.home)
    os.chown(home, resident.uid, resident.gid)
    try:
        yield replace(resident, home=home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def scratch() -> str:
    """A new directory, gone when this process ends. Not pytest's: that one is closed to others."""
    for stale in glob.glob("/tmp/sandlock-test-*-*"):  # left by processes that were killed; others' cannot go
        if not os.path.exists(f"/proc/{stale.split('-')[2]}"):
            shutil.rmtree(stale, ignore_errors=True)
    place = tempfile.mkdtemp(prefix=f"sandlock-test-{os.getpid()}-", dir="/tmp")
    atexit.register(remove, place, os.getpid())
    return place


def remove(place: str, owner: int) -> None:
    """Remove a scratch directory, but not from a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(place, ignore_errors=True)


def account() -> tuple[int, int]:
    """The uid and gid of the test account. It is made if there is none, and stays: other runs may use it."""
    for attempt in range(2):
        try:
            entry = pwd.getpwnam(ACCOUNT)
        except KeyError:
            if attempt or not shutil.which("useradd"):
                break
            options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
            subprocess.run(["useradd", *options, "--shell", "/bin/sh", ACCOUNT], capture_output=True, check=False)
        else:
            return entry.pw_uid, entry.pw_gid
    return SPARE_ID, SPARE_ID


def interpreter(world: str, uid: int, gid: int) -> str:
    """An interpreter of our version that the account can run; the last resort is a copy of our own."""
    ours = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    for path in (ours, f"/usr/bin/{VERSION}", f"/usr/local/bin/{VERSION}"):
        if runs(path, uid, gid):
            return path
    copy = os.path.join(world, "python", "bin", VERSION)
    os.makedirs(os.path.dirname(copy))
    link_or_copy(ours, copy)
    library = os.path.join(sys.base_prefix, "lib", VERSION)
    skip = shutil.ignore_patterns("site-packages", "test", "idlelib", "tkinter", "ensurepip")
    shutil.copytree(
        library,
        os.path.join(world, "python", "lib", VERSION),
        ignore=skip,
        copy_function=link_or_copy,
        symlinks=True,
    )
    open_to_all(world)
    if not runs(copy, uid, gid):
        raise RuntimeError(f"no Python that uid {uid} can run: install /usr/bin/{VERSION}")
    return copy


def runs(path: str, uid: int, gid: int) -> bool:
    """Whether the account can run this interpreter."""
    check = [path, "-I", "-c", "import os, ssl, sys; print(os.path.realpath(sys.prefix))"]
    try:
        done = subprocess.run(
            check, user=uid, group=gid, extra_groups=[], cwd="/", capture_output=True, timeout=60, check=False
        )
    except (PermissionError, FileNotFoundError):
        return False
    return done.returncode == 0


def link_or_copy(source: str, target: str) -> None:
    """A hard link costs nothing, as the closed directory above is in the way; not of a file closed itself."""
    try:
        if not os.stat(source).st_mode & 0o004:
            raise PermissionError(source)
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def make_environment(world: str, base: str) -> str:
    """A virtual environment with sandlock and what it needs, as copies; returns its interpreter."""
    place = os.path.join(world, "venv")
    packages = os.path.join(place, "lib", VERSION, "site-packages")
    os.makedirs(packages)
    os.makedirs(os.path.join(place, "bin"))
    with open(os.path.join(place, "pyvenv.cfg"), "w", encoding="utf-8") as file:
        file.write(f"home = {os.path.dirname(base)}\ninclude-system-site-packages = false\n")
    package = os.path.join(packages, "sandlock")
    shutil.copytree(sandlock.__path__[0], package, ignore=dangling)
    for distribution in closure(DISTRIBUTIONS):
        copy_distribution(distribution, packages)
    python = os.path.join(place, "bin", "python")
    os.symlink(base, python)
    return python


def dangling(folder: str, names: list[str]) -> list[str]:
    """Links to nothing, for copytree (whose own option looks for relative targets in the wrong directory)."""
    return [name for name in names if not os.path.exists(os.path.join(folder, name))]


def closure(names: Sequence[str]) -> list[importlib.metadata.Distribution]:
    """These distributions and all that they require here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        requirements = map(Requirement, found[name].requires or ())
        waiting += [
            wanted.name for wanted in requirements if not wanted.marker or wanted.marker.evaluate({"extra": ""})
        ]
    return list(found.values())


def copy_distribution(distribution: importlib.metadata.Distribution, to: str) -> None:
    """Copy the files of a distribution that lie in site-packages, with times (compiled files stay valid)."""
    for file in distribution.files or ():
        if ".." in file.parts:
            continue
        source, target = str(file.locate()), os.path.join(to, *file.parts)
        if os.path.exists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(source, target)


def open_to_all(place: str, keep: str = "") -> None:
    """Make a tree readable by everybody, except `keep`."""
    for folder, folders, files in os.walk(place):
        os.chmod(folder, 0o755)
        folders[:] = [name for name in folders if os.path.join(folder, name) != keep]
        for name in files:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            wanted = mode | (0o555 if mode & 0o100 else 0o444)
            if wanted != mode and not os.path.islink(path):
                os.chmod(path, wanted)
