"""Snapshots of a workspace, and archives that somebody has prepared."""

from __future__ import annotations

import errno
import gzip
import io
import os
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandlock.files import Entry, FileError, Files
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


def header(name: str, kind: bytes, size: int, link: str = "") -> bytes:
    """A header that says any size."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, max(size, 0)
    made = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        made[124:136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def held(place: Path) -> int:
    return sum(each.stat().st_size for each in place.iterdir())


def test_no_member_gives_room_to_others(tmp_path: Path) -> None:
    """A directory that has less than nothing in it."""
    data = header("d", DIR, -(10**9)) + header("x", REG, 5000) + b"x" * 5000 + bytes(120 + 1024)
    with Files(tmp_path) as files, pytest.raises(FileError):
        restore(files, io.BytesIO(data), max_bytes=1000)
    assert not (tmp_path / "x").exists()


def test_hard_links_count(tmp_path: Path) -> None:
    members = [("x", REG, "", b"x" * 100_000), *((f"l{number}", LNK, "x", b"") for number in range(50))]
    with Files(tmp_path) as files:
        with pytest.raises(FileError) as caught:
            restore(files, archive_of(*members), max_bytes=200_000)
        assert caught.value.errno == errno.EFBIG
        assert held(tmp_path) <= 200_000
        assert restore(files, archive_of(*members)) == 51
        assert held(tmp_path) == 51 * 100_000


def limited(body: Callable[[], None]) -> int:
    """Runs it in a process that may have 300 MB more than it has; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            with open("/proc/self/statm", "rb") as file:
                now = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (now + 300 * 2**20,) * 2)
            body()
            os._exit(0)
        except FileError:
            os._exit(3)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_program_makes_of_nothing_is_not_held_in_memory(tmp_path: Path) -> None:
    """A sparse file costs it nothing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with open(tmp_path / "a" / "sparse", "wb") as file:
        file.truncate(2**29)

    def body() -> None:
        with (
            Files(tmp_path / "a") as first,
            Files(tmp_path / "b") as second,
            open(tmp_path / "archive", "w+b") as archive,
        ):
            assert snapshot(first, archive) == 1
            archive.seek(0)
            assert restore(second, archive) == 1

    assert limited(body) == 0
    assert (tmp_path / "b" / "sparse").stat().st_size == 2**29


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "gnu"])
def test_headers_are_bounded(tmp_path: Path, kind: bytes) -> None:
    """Packed, half a gigabyte of zeros is little."""
    path = tmp_path / "archive.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(header("x", kind, 2**29))
        for _ in range(2**9):
            packed.write(bytes(2**20))
        packed.write(header("x", REG, 0) + bytes(1024))
    (tmp_path / "in").mkdir()

    def body() -> None:
        with Files(tmp_path / "in") as files, open(path, "rb") as archive:
            restore(files, archive)

    assert limited(body) == 3


def test_headers_without_an_end(tmp_path: Path) -> None:
    record = b"12 path=abc\n"
    chain = (header("x", tarfile.XHDTYPE, len(record)) + record.ljust(512, b"\0")) * 3000
    with Files(tmp_path) as files, pytest.raises(FileError):
        restore(files, io.BytesIO(chain + header("x", REG, 0) + bytes(1024)))


def test_a_link_with_a_nul(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("x")
        member.type, member.linkname, member.pax_headers = SYM, "a", {"linkpath": "a\0b"}
        archive.addfile(member)
    made.seek(0)
    with Files(tmp_path) as files, pytest.raises(FileError):
        restore(files, made)


def test_a_file_that_is_cut_meanwhile_has_its_length(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 3_000_000)

    class Cutting(io.BytesIO):
        def write(self, data: Any) -> int:
            os.truncate(tmp_path / "x", 100)
            return super().write(data)

    made = Cutting()
    with Files(tmp_path) as files:
        assert snapshot(files, made) == 1
    with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as archive:
        assert [each.size for each in archive] == [3_000_000]


def test_a_directory_that_goes_meanwhile_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()

    class Vanishing(Files):
        def list(self, path: str = ".") -> list[Entry]:
            found = super().list(path)
            if path == ".":
                (tmp_path / "b").rmdir()
            return found

    with Vanishing(tmp_path) as files:
        assert snapshot(files, io.BytesIO()) == 3
