"""Snapshots of a workspace, and archives that somebody has prepared."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandlock.files import FileError, Files
from sandlock.snapshots import restore, snapshot


def test_a_workspace_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Files(tmp_path / "a") as first, Files(tmp_path / "b") as second:
        first.write("src/main.py", "print(1)\n")
        first.write("run.sh", "#!/bin/sh\n")
        first.set_mode("run.sh", 0o755)
        first.write("nämé", bytes(range(256)) * 1000)
        first.make_dir("empty")
        first.set_mode("empty", 0o500)
        first.link("link", "src/main.py")
        first.link("away", "/etc/passwd")
        os.mkfifo(tmp_path / "a" / "fifo")
        archive = io.BytesIO()
        assert snapshot(first, archive) == 7
        second.write("run.sh", "old")
        second.write("kept", "kept")
        assert restore(second, io.BytesIO(archive.getvalue())) == 7
        assert second.read("nämé") == bytes(range(256)) * 1000
        assert second.read("link") == b"print(1)\n"
        assert second.stat("run.sh").mode == 0o755
        assert second.stat("empty").mode == 0o500
        assert os.readlink(tmp_path / "b" / "away") == "/etc/passwd"
        assert second.read("kept") == b"kept"
        assert not second.exists("fifo")
        again = io.BytesIO()
        snapshot(first, again)
        assert again.getvalue() == archive.getvalue()


def test_what_is_denied_is_left_out(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("secret")
    (tmp_path / "code").write_text("code")
    with Files(tmp_path, denied=[tmp_path / ".env"]) as files:
        archive = io.BytesIO()
        snapshot(files, archive)
    assert b"secret" not in archive.getvalue()
    assert b"code" in archive.getvalue()


def archive_of(*members: tuple[str, bytes, str, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, link, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size, member.mode = kind, link, len(content), 0o6755
            archive.addfile(member, io.BytesIO(content))
    made.seek(0)
    return made


REG, DIR, SYM, LNK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
CHR, FIFO = tarfile.CHRTYPE, tarfile.FIFOTYPE
PREPARED = {
    "up": [("../outside", REG, "", b"x")],
    "absolute": [("/{outside}", REG, "", b"x")],
    "through a link": [("way", SYM, "..", b""), ("way/outside", REG, "", b"x")],
    "through an absolute link": [("way", SYM, "{place}", b""), ("way/outside", REG, "", b"x")],
    "over a link": [("way", SYM, "../outside", b""), ("way", REG, "", b"x")],
    "hard link": [("way", LNK, "../secret", b"")],
    "hard link by a link": [("up", SYM, "..", b""), ("way", LNK, "up/secret", b"")],
    "device": [("way", CHR, "", b"")],
    "fifo": [("way", FIFO, "", b"")],
}


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_archive_reaches_nothing(tmp_path: Path, name: str) -> None:
    work, outside = tmp_path / "inside", tmp_path / "outside"
    work.mkdir()
    (tmp_path / "secret").write_text("secret")
    members = [
        (path.format(outside=outside), kind, link.format(place=tmp_path), content)
        for path, kind, link, content in PREPARED[name]
    ]
    with Files(work) as files:
        if name == "over a link":
            restore(files, archive_of(*members))  # the link is replaced
            assert not (work / "way").is_symlink()
        else:
            with pytest.raises(FileError):
                restore(files, archive_of(*members))
    assert not outside.exists()
    assert (tmp_path / "secret").read_text() == "secret"
    assert not any(path.is_file() and path.read_bytes() == b"secret" for path in work.iterdir())


def test_set_user_id_is_not_restored(tmp_path: Path) -> None:
    with Files(tmp_path) as files:
        restore(files, archive_of(("x", REG, "", b"x")))
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("spoil", [lambda data: data[:700], lambda data: b"rubbish" * 100, lambda data: b""])
def test_what_is_no_archive_is_an_error(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    made = archive_of(("x", REG, "", b"x" * 2000)).getvalue()
    with Files(tmp_path) as files, pytest.raises(FileError):
        restore(files, io.BytesIO(spoil(made)))


def test_bounds(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 2000)
    (tmp_path / "in").mkdir()
    with Files(tmp_path) as files, pytest.raises(FileError):
        snapshot(files, io.BytesIO(), max_bytes=1999)
    with Files(tmp_path / "in") as files, pytest.raises(FileError):
        restore(files, archive_of(("x", REG, "", b"x" * 2000)), max_bytes=1999)


def test_a_link_in_place_of_a_directory_gives_way(tmp_path: Path) -> None:
    """A program takes a directory away after the snapshot, for a link to where it may write nothing itself."""
    hook = tmp_path / "kept" / "hook"
    (tmp_path / "kept").mkdir()
    with Files(tmp_path) as files:
        restore(files, archive_of(("way", DIR, "", b""), ("way/hook", REG, "", b"x")))  # it works where none is
        assert (tmp_path / "way" / "hook").read_bytes() == b"x"
        files.remove("way", recursive=True)
        files.link("way", "kept")
        restore(files, archive_of(("way", DIR, "", b""), ("way/hook", REG, "", b"x")))
        assert not hook.exists()
        assert (tmp_path / "way" / "hook").read_bytes() == b"x"
        files.remove("way", recursive=True)
        files.link("way", "kept")
        with pytest.raises(FileError):
            restore(files, archive_of(("way/hook", REG, "", b"x")))
        assert not hook.exists()
        files.make_dir("src")
        files.write("src/a", "a")
        files.link("src/b", "a")
        assert files.read("src/b") == b"a", "for others than restore, links inside lead where they did"
