"""Paths that are judged by their letters, without asking the kernel for the real one: where that is not enough, and
what is told of a file that was looked at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from rooted import World

from sandlock import Sandbox
from sandlock._path_table import PathRules

DENIED = b"/srv/Secret"


@pytest.fixture
def rules() -> PathRules:
    return PathRules([(DENIED, 0, 0)], identities=[], grants=[], shown=[], narrow=False, hides=False)


@pytest.mark.parametrize(
    "path",
    [
        b"/srv/Secret",
        b"/srv/secret",
        b"/SRV/SECRET/file",
        "/\u017frv".encode(),
        "/srv/se\u200bcret/x".encode(),
        b"/srv/\xff",
    ],
)
def test_what_might_be_denied_is_asked_about(rules: PathRules, path: bytes) -> None:
    """In a directory that takes some letters for others, these may all be the same."""
    assert rules.resembles(path)


@pytest.mark.parametrize("path", [b"/", b"/srv", b"/srv/secrets", b"/srv/open", b"/usr/lib/Secret", b"/srv/secre"])
def test_what_cannot_be_denied_is_not(rules: PathRules, path: bytes) -> None:
    assert not rules.resembles(path)


def test_a_denied_name_that_is_not_ascii_is_like_all_others() -> None:
    rules = PathRules([("/srv/Größe".encode(), 0, 0)], identities=[], grants=[], shown=[], narrow=False, hides=False)
    assert rules.resembles(b"/srv/grosse")
    assert not rules.resembles(b"/srv/x")


SPELLINGS = (
    "{}/{}",
    "//{}//{}",
    "{}/./{}",
    "{}/{}/",
    "{}/{}/.",
    "/.{}/./{}",
    "{}/../{base}/{}",
    "/proc/self/root{}/{}",
)


@pytest.mark.needs(landlock=6, kernel=(5, 19))
def test_every_spelling_is_judged_alike(tmp_path: Path) -> None:
    """Also through links, of which there are no letters to trust."""
    for name in ("open", "denied"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        (tmp_path / f"to-{name}").symlink_to(name)
        (tmp_path / f"deep-{name}").symlink_to(f"{name}/file")
    code = "import os, sys\nfor path in sys.argv[1:]:\n"
    code += "    try: print(sorted(os.listdir(path)) if os.path.isdir(path) else open(path).read())\n"
    code += "    except OSError as error: print(error.errno)"
    top = str(tmp_path)

    def paths(name: str) -> list[str]:
        made = [each.format(top, name, base=tmp_path.name) for each in SPELLINGS]
        files = [f"{path.rstrip('/')}/file" for path in made]
        return [*made, *files, f"{top}/deep-{name}", f"{top}/to-{name}/file", f"{top}/to-{name}/../{name}/file"]

    with Sandbox(presets=["python", "proc"], fs_readable=[top], fs_denied=[f"{top}/denied"]) as box:
        said = {
            name: box.run([sys.executable, "-I", "-c", code, *paths(name)], timeout=60) for name in ("open", "denied")
        }
    lines = {name: result.stdout.decode().splitlines() for name, result in said.items()}
    assert set(lines["open"]) == {"open", "['file']"}, said["open"].stderr
    assert lines["denied"] == ["13"] * len(paths("denied")), said["denied"].stderr


@pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc")
def test_stat_tells_all_that_the_kernel_tells(tmp_path: Path) -> None:
    """What was looked at to judge a file is what stat says: nothing is missing in it."""
    world = World(tmp_path)
    me = world.root / "home" / "me"
    os.utime(me / "file", ns=(1_234_567_890_123_456_789, -987_654_321))
    os.link(me / "file", me / "again")
    os.mkfifo(me / "fifo", 0o604)
    (me / "link").symlink_to("file")
    (me / "large").touch()
    os.truncate(me / "large", 5 << 30)
    (me / "large").chmod(0o4711)
    names = ("file", "again", "fifo", "link", "large", ".")
    found = [os.lstat(me / name) for name in names] + [os.lstat(path) for path in ("/dev/null", world.one / "file")]
    calls = [f"closely|/home/me/{name}" for name in names] + ["closely|/dev/null", "closely|/one/file"]
    said = world.run(*calls, fs_mount={"/one": world.one, "/dev": "/dev:ro"})
    relative = world.run("chdir|/home/me", *(f"closely|{name}" for name in names), fs_mount={"/one": world.one})[1:]

    def line(status: os.stat_result) -> str:
        times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        return " ".join(
            (
                f"{status.st_dev} {status.st_ino} {status.st_mode:o} {status.st_nlink} {status.st_uid} {status.st_gid}",
                f"{status.st_rdev} {status.st_size} {status.st_blksize} {status.st_blocks}",
                *(f"{time // 10**9}.{time % 10**9:09}" for time in times),
            )
        )

    assert said == [line(status) for status in found]
    assert relative == said[: len(names)]
