"""fs_mount: directories and files of the host, seen inside of the program's root. Judged by the files outside."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from rooted import CHANGES, World, facts, program

from sandlock import Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(6, 0))]
DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path.resolve())


# ---- mounts


def test_mounts_are_seen(world: World) -> None:
    said = world.run("open||/one/file", "open||/mnt/two/sub/deep", "stat|/one", "list|/one", "list|/mnt", "list|/",
                     "open||/one/../etc/name", "open||/mnt/two/../../one/file", "open||/one/sub/../../etc/name",
                     **world.mounts)  # fmt: skip
    assert said[:2] == ["'one'", "'deep in two'"]
    assert said[2].startswith("40")
    assert said[3:6] == ["file sub", "two", "bin dev etc home mnt one proc tmp"]
    assert said[6:] == ["'inside'", "'one'", "'inside'"]


def test_what_is_written_to_a_mount_is_there(world: World) -> None:
    said = world.run("open|wc|/one/new", "mkdir|/one/folder", "rename|/one/new|/one/folder/old",
                     "symlink|/etc/name|/one/link",
                     "open||/one/link", "chmod|/one/file|600", "unlink|/one/sub/deep", **world.mounts)  # fmt: skip
    assert said == ["4", "0", "0", "0", "'inside'", "0", "0"]
    assert (world.one / "folder" / "old").read_text() == "new\n"
    assert os.readlink(world.one / "link") == "/etc/name"
    assert not (world.one / "sub" / "deep").exists()
    assert stat.S_IMODE((world.one / "file").stat().st_mode) == 0o600


def test_nothing_is_changed_through_a_mount_to_be_read(world: World) -> None:
    before = {path: facts(path) for path in (world.two, *world.two.rglob("*"))}
    (world.root / "tmp" / "own").write_text("own\n")
    said = world.run(*(call.format("/mnt/two") for call in CHANGES), **world.mounts)
    assert set(said) <= {"EROFS", "EXDEV", "EEXIST"}, dict(zip(CHANGES, said, strict=True))
    assert {path: facts(path) for path in (world.two, *world.two.rglob("*"))} == before
    said = world.run("keep|d|/mnt/two", "openat|@|w|file", "openat|@|wc|new", "fchdir", "open|w|file",
                     "truncate|file|0",
                     "open||file", "open|a|file", **world.mounts)  # fmt: skip
    assert said == ["0", "EROFS", "EROFS", "0", "EROFS", "EROFS", "'two'", "'two'"]


def test_a_mount_to_be_read_wins_over_what_else_is_granted(world: World) -> None:
    """The same directory may be written at another place."""
    (world.root / "home" / "me" / "kept").mkdir()
    (world.root / "home" / "me" / "kept" / "file").write_text("kept\n")
    kept = {"fs_mount": {"/mnt/kept": f"{world.root}/home/me/kept:ro"}}
    assert world.run("open|w|/mnt/kept/file", "chmod|/mnt/kept/file|777", "open||/mnt/kept/file", **kept) == [
        "EROFS", "EROFS", "'kept'",
    ]  # fmt: skip
    assert world.run("open|w|/home/me/kept/file", **kept) == ["4"]


def test_a_mount_lies_over_what_is_there(world: World) -> None:
    (world.root / "one").mkdir()
    (world.root / "one" / "hidden").write_text("hidden\n")
    (world.root / "mnt" / "link").symlink_to("../one/hidden")
    (world.root / "mnt" / "good").symlink_to("../one/file")
    said = world.run("open||/one/hidden", "open||/mnt/link", "open||/mnt/good", "list|/one", "open||/one/file",
                     "open||/proc/self/root/one/hidden", "openat2|.||one/hidden|0", "openat2|.||one/file|0",
                     "open||one/file", "open||./one/hidden", **world.mounts)  # fmt: skip
    assert said == ["ENOENT", "ENOENT", "'one'", "file sub", "'one'", "ENOENT", "ENOENT", "'one'", "'one'", "ENOENT"]
    assert world.run("open||/one/hidden", "open||/mnt/link") == ["'hidden'", "'hidden'"]


def test_a_file_is_mounted_over_a_file(world: World) -> None:
    mounts = {"fs_mount": {"/etc/name": world.one / "file", "/etc/other": f"{world.two}/file:ro"}}
    said = world.run("open||/etc/name", "open||/etc/other", "list|/etc", "unlink|/etc/name", "rename|/etc/other|/tmp/x",
                     "open|w|/etc/other", "stat|/etc/other", "open||/etc/name/", "open|w|/etc/name",
                     **mounts)  # fmt: skip
    assert said == ["'one'", "'two'", "name other", "EBUSY", "EBUSY", "EROFS", "100644 4", "ENOTDIR", "4"]
    assert (world.root / "etc" / "name").read_text() == "inside\n"
    assert (world.one / "file").read_text() == "new\n"


def test_mounts_in_mounts(world: World) -> None:
    mounts = {"fs_mount": {"/one": world.one, "/one/sub": f"{world.two}:ro", "/one/sub/sub": world.root / "home"}}
    said = world.run("open||/one/file", "open||/one/sub/file", "open||/one/sub/sub/me/file",
                     "open||/one/sub/sub/../file",
                     "open||/one/sub/../file", "open|w|/one/sub/file", "open|wc|/one/sub/sub/new", "open|wc|/one/new",
                     "list|/one/sub", **mounts)  # fmt: skip
    assert said == ["'one'", "'two'", "'mine'", "'two'", "'one'", "EROFS", "4", "4", "file sub"]


def test_what_a_mount_lies_on_cannot_be_taken_away(world: World) -> None:
    options = {**world.mounts, "fs_writable": ["/"]}
    said = world.run("rename|/mnt|/tmp/mnt", "rmdir|/one", "rename|/one|/tmp/one", "unlink|/one", "rename|/tmp|/one",
                     "mkdir|/one",
                     "rmdir|/mnt/two", "symlink|x|/one", "open|wcx|/one", "rename2|/mnt|/tmp|2", **options)  # fmt: skip
    assert said == ["EBUSY", "EBUSY", "EBUSY", "EBUSY", "EBUSY", "EEXIST", "EBUSY", "EEXIST", "EEXIST", "EBUSY"]
    assert world.run("rename|/mnt|/tmp/mnt", fs_writable=["/"]) == ["0"]  # the control
    assert not (world.root / "one").exists()


def test_to_link_and_to_rename_from_one_mount_to_another_is_across_devices(world: World) -> None:
    said = world.run("rename|/one/file|/tmp/file", "link|/one/file|/tmp/file", "rename|/home/me/file|/tmp/file",
                     **world.mounts)  # fmt: skip
    assert said == ["EXDEV", "EXDEV", "0"]


def test_a_listing_with_mounts_can_be_gone_through_entry_by_entry(world: World) -> None:
    for number in range(200):
        (world.root / f"file{number}").touch()
    (said,) = world.run("seek|/", **world.mounts)
    entries = str(2 + 200 + len(["bin", "dev", "etc", "home", "mnt", "proc", "tmp", "one"]))
    assert said == f"{entries} {entries}"


def test_the_host_as_root_with_a_mount(world: World) -> None:
    with Sandbox(chroot="/", fs_readable=[program()], fs_mount={"/opt": world.one}) as box:
        done = box.run([program(), "open||/opt/file", f"open||{world.secret}/file", "list|/opt"], timeout=60)
    said = [line.split(": ")[-1] for line in done.stdout.decode().splitlines()]
    assert said[0] == "'one'"
    assert said[1] == "EACCES"
    assert said[2].endswith("file sub")


# ---- /proc and /dev


def test_what_is_mounted_by_itself(world: World) -> None:
    said = world.run("list|/dev", "open||/dev/zero", "open|w|/dev/null", "open|w|/dev/full", "readlink|/dev/fd",
                     "readlink|/dev/stdin", "unlink|/dev/null", "open|wc|/dev/new", fs_writable=())  # fmt: skip
    assert set(said[0].split()) == DEVICES
    assert said[1:3] == ["''", "4"]
    assert said[3] == "ENOSPC"
    assert said[4:] == ["/proc/self/fd", "/proc/self/fd/0", "EBUSY", "EACCES"]
    assert os.listdir(world.root / "dev") == []


def test_a_mount_of_the_policy_is_all_there_is(world: World) -> None:
    assert world.run("list|/dev", "open||/dev/file", fs_mount={"/dev": f"{world.two}:ro"}) == ["file sub", "'two'"]
    assert world.run("list|/proc", "open||/proc/file", fs_mount={"/proc": f"{world.two}:ro"}) == ["file sub", "'two'"]


def test_without_a_directory_for_them_there_is_none(world: World) -> None:
    os.rmdir(world.root / "dev")
    os.rmdir(world.root / "proc")
    said = world.run("open||/dev/null", "list|/dev", "open||/proc/self/status")
    assert said[:2] == ["ENOENT", "ENOENT"]
