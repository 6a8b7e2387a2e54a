"""A small root directory for programs, directories to mount in it and one that nobody shall get at; and the program
that makes path calls in it (programs/rooted.c).
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from sandlock import Result, Sandbox

TESTS = os.path.dirname(os.path.abspath(__file__))
CHANGES = (
    "open|w|{}/file",
    "open|t|{}/file",
    "open|wc|{}/new",
    "open|wcx|{}/new",
    "creat|{}/file",
    "legacy|w|{}/file",
    "truncate|{}/file|0",
    "chmod|{}/file|777",
    "fchmodat2|{}/file|777",
    "chown|{}/file",
    "lchown|{}/file",
    "utime|{}/file",
    "utimes|{}/file",
    "utimensat|{}/file",
    "setxattr|{}/file",
    "unlink|{}/file",
    "rename|{}/file|/tmp/stolen",
    "rename|/tmp/own|{}/file",
    "rename2|{}/file|/tmp/own|2",
    "link|{}/file|/tmp/stolen",
    "link|/tmp/own|{}/new",
    "symlink|x|{}/new",
    "mkdir|{}/new",
    "rmdir|{}/sub",
    "mkfifo|{}/new",
    "open|wm|{}",
)
"""Calls that change what is at a place; all are refused, or do what they say."""
LOOKS = (
    "open||{}/file",
    "legacy||{}/file",
    "openat|.||{}/file",
    "openat2|.||{}/file|0",
    "openat2|.||{}/file|10",
    "openat2|.||{}/file|4",
    "stat|{}/file",
    "lstat|{}/file",
    "statx|{}/file",
    "access|{}/file|0",
    "list|{}",
    "readlink|{}/file",
    "getxattr|{}/file",
    "listxattr|{}/file",
    "statfs|{}/file",
    "chdir|{}",
    "keep|d|{}",
    "inotify|{}",
    "exec|{}/program",
)


@functools.cache
def program() -> str:
    """The program, linked statically."""
    built = os.path.join(tempfile.mkdtemp(prefix="sandlock-rooted-"), "rooted")
    source = os.path.join(TESTS, "programs", "rooted.c")
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", built, source], check=True)
    return built


class World:
    """A root directory, two directories to mount, and one that nobody shall get at."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "root"
        self.one = place / "one"
        self.two = place / "two"
        self.secret = place / "secret"
        for folder in ("bin", "etc", "proc", "dev", "tmp", "mnt", "home/me"):
            (self.root / folder).mkdir(parents=True)
        shutil.copy(program(), self.root / "bin" / "rooted")
        (self.root / "etc" / "name").write_text("inside\n")
        (self.root / "home" / "me" / "file").write_text("mine\n")
        for folder in (self.one, self.two, self.secret):
            folder.mkdir()
            (folder / "file").write_text(f"{folder.name}\n")
            (folder / "sub").mkdir()
            (folder / "sub" / "deep").write_text(f"deep in {folder.name}\n")
        (self.secret / "file").chmod(0o640)

    def run(self, *calls: str, **options: Any) -> list[str]:
        """What the program says of each call, without the call."""
        result = self.result(*calls, **options)
        assert result.exit_code == 0, result.explain()
        said = result.stdout.decode().splitlines()
        return [line.removeprefix(call + ":").strip() for call, line in zip(calls, said, strict=True)]

    def result(self, *calls: str, **options: Any) -> Result:
        policy: dict[str, Any] = {
            "chroot": self.root,
            "fs_readable": ["/"],
            "fs_writable": ["/tmp", "/home"],
            **options,
        }
        with Sandbox(**policy) as box:
            return box.run(["/bin/rooted", *calls], timeout=60)

    def lines(self, *calls: str, **options: Any) -> list[str]:
        result = self.result(*calls, **options)
        assert result.exit_code == 0, result.explain()
        return result.stdout.decode().splitlines()

    @property
    def mounts(self) -> dict[str, Any]:
        """`one` may be written, `two` not."""
        return {"fs_mount": {"/one": self.one, "/mnt/two": f"{self.two}:ro"}}


def facts(path: Path) -> tuple[object, ...]:
    """What the attacks would change."""
    status = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, content
