"""The driver's side of the workers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from measuring import SideFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from commands import Command

HERE = os.path.dirname(os.path.abspath(__file__))
ORIGINAL_PYTHON = os.path.join(HERE, ".venv-original", "bin", "python")
ORIGINALS = ("original", "original reused")
BEFORE = ("before", "before again")


class Host:
    """A worker process. Close it, or use it in a `with` block."""

    def __init__(self, python: str, *, tree: str | None = None) -> None:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if tree:
            env["PYTHONPATH"] = tree
        self.process = subprocess.Popen(
            [python, os.path.join(HERE, "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def order(self, order: str, **arguments: Any) -> dict[str, Any]:
        """One order and its answer. Raises SideFailedError with the worker's reason."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError as error:
            raise SideFailedError(f"the worker is gone ({error})") from error
        if not line:
            raise SideFailedError(f"the worker died ({self.process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideFailedError(str(answer["error"]))
        return answer

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream and not stream.closed:
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Hosts:
    """The workers of one benchmark: for this package, bare and bwrap; for the original; for what we were before."""

    def __init__(self, setting: Setting) -> None:
        self.ours = Host(setting.python, tree=setting.tree)
        self.original = Host(ORIGINAL_PYTHON) if setting.original else None
        self.before = Host(setting.python, tree=setting.before) if setting.before else None

    def of(self, side: str) -> Host:
        host = self.original if side in ORIGINALS else self.before if side in BEFORE else self.ours
        if host is None:
            raise SideFailedError("not installed")
        return host

    def all(self) -> Iterable[Host]:
        return [host for host in (self.ours, self.original, self.before) if host]

    def run(self, side: str, command: Command, times: int = 1) -> Callable[[], list[float]]:
        """A measure: `times` runs of `command` on `side`; seconds, or the number that the command prints."""
        fields = dataclasses.asdict(command)

        def measure() -> list[float]:
            answer = self.of(side).order("run", side=side, command=fields, times=times)
            return list(answer["numbers"])

        return measure

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.all():
            host.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is there to measure with.

    `tree`: where `sandlock` is found if it is not installed; `before`: where an earlier one is. `rootfs`: a Debian.
    """

    python: str
    tree: str | None
    scratch: str
    original: bool
    bwrap: bool
    facts: dict[str, str]
    scale: float = 1.0
    before: str | None = None
    rootfs: str | None = None

    @property
    def peers(self) -> tuple[str, ...]:
        return (*(("original",) if self.original else ()), *(("bwrap",) if self.bwrap else ()))


def look_around(scratch: str, scale: float, before: str | None = None, rootfs: str | None = None) -> Setting:
    """Find the package (installed, or else in this tree) and the peers, and what versions they have.

    `before` is a built checkout to compare with, `rootfs` what tests/make_rootfs.sh has made.
    """
    facts: dict[str, str] = {}
    tree: str | None = None
    for candidate in (None, os.path.dirname(HERE)):
        with Host(sys.executable, tree=candidate) as host:
            tree = candidate
            try:
                answer = host.order("hello", package=True)
            except SideFailedError as error:
                facts["sandlock"] = f"not measured: {error}"
                continue
            kind = "an installation" if "site-packages" in answer["where"] else "a checkout"
            facts["sandlock"] = f"{answer['sandlock']}, from {kind}"
            break
    original = os.path.exists(ORIGINAL_PYTHON)
    if original:
        with Host(ORIGINAL_PYTHON) as host:
            facts["original"] = host.order("hello", package=True)["sandlock"]
    if before:
        before = os.path.abspath(before)
        with Host(sys.executable, tree=before) as host:
            where = host.order("hello", package=True)["where"]
        if os.path.dirname(where) != before:
            raise SideFailedError(f"no built sandlock in {before}")
        facts["before"] = _output("git", "-C", before, "log", "-1", "--format=%cd: %s", "--date=short") or before
    bwrap = _output("bwrap", "--version")
    if bwrap:
        facts["bwrap"] = bwrap.removeprefix("bubblewrap ")
    return Setting(
        python=sys.executable,
        tree=tree,
        scratch=scratch,
        original=original,
        bwrap=bool(bwrap),
        facts=facts,
        scale=scale,
        before=before,
        rootfs=os.path.realpath(rootfs) if rootfs else None,
    )


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
