"""The files of a workspace from outside: whatever a program plants there, nothing outside is touched."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sandlock
from sandlock.files import FileError, Files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path


@pytest.fixture
def files(place: Path) -> Iterator[Files]:
    with Files(place / "inside") as files:
        yield files


def test_the_ordinary_way(place: Path, files: Files) -> None:
    files.write("a/b/c.txt", "hällo")
    files.write("a/x.bin", bytes(range(256)))
    assert files.read("a/b/c.txt") == "hällo".encode()
    assert files.read_text("a/b/c.txt") == "hällo"
    assert files.read(f"{place}/inside/a/x.bin") == bytes(range(256))
    assert [(each.path, each.kind) for each in files.list("a")] == [("a/b", "directory"), ("a/x.bin", "file")]
    assert {each.path for each in files.walk()} == {"a", "a/b", "a/b/c.txt", "a/x.bin"}
    assert files.stat("a/x.bin").size == 256
    assert files.realpath("a/b") == f"{place}/inside/a/b"
    files.move("a/x.bin", "d/y.bin")
    assert not files.exists("a/x.bin")
    assert files.exists("d/y.bin")
    files.make_dir("e/f")
    files.make_dir("e/f")
    with pytest.raises(FileError) as failed:
        files.make_dir("e/f", exist_ok=False)
    assert failed.value.errno == errno.EEXIST
    with pytest.raises(FileError) as failed:
        files.remove("a")
    assert failed.value.errno == errno.ENOTEMPTY
    files.remove("a", recursive=True)
    files.remove("d/y.bin")
    files.remove("nothing", missing_ok=True)
    files.remove("no/thing", missing_ok=True)
    files.upload(place / "outside" / "secret", "copied")
    files.download("copied", place / "taken")
    assert (place / "taken").read_text() == "secret"
    with pytest.raises(FileExistsError):
        files.download("copied", place / "taken")
    assert {each.path for each in files.list()} == {"copied", "d", "e"}


def test_rooted_paths_are_of_the_workspace(place: Path) -> None:
    files = Files(place / "inside", rooted=True)
    files.write("/hello.py", "x")
    assert (place / "inside" / "hello.py").read_text() == "x"
    with pytest.raises(FileError):
        files.read("/../outside/secret")
    with pytest.raises(FileError):
        Files(place / "inside").read("/hello.py")


def planted(place: Path) -> list[str]:
    """Names in the workspace that lead to the secret."""
    work = place / "inside"
    (work / "absolute").symlink_to(place / "outside" / "secret")
    (work / "relative").symlink_to("../outside/secret")
    (work / "folder").symlink_to(place / "outside")
    (work / "twice").symlink_to("relative")
    (work / "up").symlink_to("..")
    (work / "proc").symlink_to(f"/proc/{os.getpid()}/root{place}/outside/secret")
    return ["absolute", "relative", "folder/secret", "twice", "up/outside/secret", "../outside/secret", "proc",
            f"{place}/outside/secret", f"{place}/inside/../outside/secret"]  # fmt: skip


def test_nothing_outside_is_read_or_changed(place: Path, files: Files) -> None:
    for name in planted(place):
        assert (place / "inside" / name).read_text() == "secret"  # the control: for whoever follows links
        with pytest.raises(FileError):
            files.read(name)
        with pytest.raises(FileError):
            files.write(name, "changed")
        with pytest.raises(FileError):
            files.stat(name)
        assert not files.exists(name)
    for name in ("folder", "up", "up/outside"):
        with pytest.raises(FileError):
            files.list(name)
        with pytest.raises(FileError):
            files.write(f"{name}/new", "x")
        with pytest.raises(FileError):
            files.make_dir(f"{name}/new")
        with pytest.raises(FileError):
            files.remove(f"{name}/secret")
        with pytest.raises(FileError):
            files.move(f"{name}/secret", "mine")
    files.remove("folder")  # the link itself
    files.remove("up", recursive=True)
    assert sorted(os.listdir(place / "outside")) == ["secret"]
    assert (place / "outside" / "secret").read_text() == "secret"
    assert {each.kind for each in files.list()} == {"link"}


def test_removing_a_tree_follows_no_link(place: Path, files: Files) -> None:
    (place / "inside" / "tree").mkdir()
    (place / "inside" / "tree" / "folder").symlink_to(place / "outside")
    files.remove("tree", recursive=True)
    assert (place / "outside" / "secret").exists()


def test_links_inside_work(place: Path, files: Files) -> None:
    files.write("real/file", "x")
    (place / "inside" / "link").symlink_to("real")
    assert files.read("link/file") == b"x"
    assert files.stat("link").kind == "directory"
    assert next(each for each in files.list() if each.path == "link").target == "real"


def test_absolute_links_that_lead_inside_work(place: Path, files: Files) -> None:
    inside = place / "inside"
    files.write("real/file", "x")
    (inside / "dir").symlink_to(inside / "real")
    (inside / "twice").symlink_to(inside / "dir" / "file")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "near").symlink_to(f"{inside}x/file")
    (place / "insidex").mkdir()
    (place / "insidex" / "file").write_text("secret")
    assert files.read("dir/file") == files.read("twice") == b"x"
    files.write("twice", "y")
    assert files.read("real/file") == b"y"
    assert files.realpath("dir") == f"{inside}/real"
    files.write("dir/new", "z")
    assert files.read("real/new") == b"z"
    for name in ("loop", "near"):
        with pytest.raises(FileError):
            files.read(name)
    denied = Files(inside, denied=[inside / "real"])
    with denied, pytest.raises(FileError):
        denied.read("twice")


def test_nobody_waits_for_a_fifo(place: Path, files: Files) -> None:
    os.mkfifo(place / "inside" / "fifo")
    started = time.monotonic()
    for act in (lambda: files.read("fifo"), lambda: files.write("fifo", "x")):
        with pytest.raises(FileError) as failed:
            act()
        assert failed.value.errno in (errno.EINVAL, errno.ENXIO)
    assert time.monotonic() - started < 10
    assert files.stat("fifo").kind == "other"


def test_bounds(files: Files) -> None:
    files.write("big", b"x" * 1001)
    with pytest.raises(FileError) as failed:
        files.read("big", max_bytes=1000)
    assert failed.value.errno == errno.EFBIG
    assert len(files.read("big", max_bytes=1001)) == 1001
    for odd in ("", "a\0b"):
        with pytest.raises(sandlock.PolicyError):
            files.read(odd)
    with pytest.raises(FileError):
        files.remove(".")


def test_what_is_denied_is_denied_by_every_name(place: Path) -> None:
    work = place / "inside"
    (work / "keys").mkdir()
    (work / "keys" / "id").write_text("secret")
    (work / ".env").write_text("secret")
    os.link(work / ".env", work / "other")
    (work / "link").symlink_to("keys")
    files = Files(work, denied=[work / ".env", work / "keys", work / "later"])
    free = Files(work)
    for name in (".env", "other", "link/id", "keys/id", "keys/../.env"):
        assert free.read(name) == b"secret"
        with pytest.raises(FileError) as failed:
            files.read(name)
        assert failed.value.errno == errno.EACCES
        with pytest.raises(FileError):
            files.write(name, "changed")
    for act in (
        lambda: files.write("later", "x"),
        lambda: files.write("link/new", "x"),
        lambda: files.make_dir("later"),
        lambda: files.remove(".env"),
        lambda: files.remove("keys", recursive=True),
        lambda: files.move(".env", "mine"),
        lambda: files.move("keys", "mine"),
        lambda: files.list("keys"),
    ):
        with pytest.raises(FileError):
            act()
    assert (work / ".env").read_text() == "secret"
    assert (work / "keys" / "id").read_text() == "secret"
    assert not (work / "later").exists()
    assert "keys/id" not in {each.path for each in files.walk()}


def test_what_is_protected_is_not_changed_by_any_name(place: Path) -> None:
    work = place / "inside"
    (work / ".git" / "hooks").mkdir(parents=True)
    (work / ".git" / "config").write_text("mine")
    os.link(work / ".git" / "config", work / "other")
    (work / "link").symlink_to(".git/hooks")
    (work / "dangling").symlink_to(".git/hooks/pre-push")
    files = Files(work, protected=[work / ".git/hooks", work / ".git/config", work / ".vscode"])
    assert files.read("other") == b"mine"

    def acts(on: Files) -> list[Callable[[], object]]:
        return [
            lambda: on.write(".git/hooks/pre-commit", "x"),
            lambda: on.write("link/pre-commit", "x"),
            lambda: on.write("dangling", "x"),
            lambda: on.write(".git/config", "x"),
            lambda: on.write("other", "x"),
            lambda: on.write(".vscode/tasks.json", "x"),
            lambda: on.upload(__file__, ".vscode/tasks.json"),
            lambda: on.make_dir(".vscode"),
            lambda: on.link(".vscode", "/tmp"),
            lambda: on.set_mode(".git/config", 0o777),
            lambda: on.move(".git", "moved"),
            lambda: on.move("other", ".vscode"),
            lambda: on.remove(".git/config"),
            lambda: on.remove(".git", recursive=True),
        ]

    for act in acts(files):
        with pytest.raises(FileError) as failed:
            act()
        assert failed.value.errno == errno.EACCES
    assert (work / ".git" / "config").read_text() == "mine"
    assert (work / ".git" / "config").stat().st_mode & 0o777 != 0o777
    assert os.listdir(work / ".git" / "hooks") == []
    assert not (work / ".vscode").exists()
    files.write(".git/index", "x")
    free = Files(work)
    for act in acts(free)[:6]:  # the control
        act()
    assert {"pre-commit", "pre-push"} == set(os.listdir(work / ".git" / "hooks"))


def test_only_what_is_granted_is_used(place: Path) -> None:
    work = place / "inside"
    for name in ("read", "write", "none"):
        (work / name).mkdir()
        (work / name / "file").write_text(name)
    files = Files(work, readable=[work / "read", work / "write"], writable=[work / "write"])
    files.write("write/new/file", "x")
    files.remove("write/new", recursive=True)
    assert files.read("read/file") == b"read"
    acts: tuple[Callable[[], object], ...] = (
        lambda: files.read("none/file"),
        lambda: files.list("none"),
        lambda: files.list("."),
        lambda: files.write("read/file", "x"),
        lambda: files.write("new", "x"),
        lambda: files.remove("read/file"),
        lambda: files.move("write/file", "read/moved"),
        lambda: files.move("read", "write/moved"),
        lambda: files.set_mode("read/file", 0o777),
    )
    for act in acts:
        with pytest.raises(FileError) as failed:
            act()
        assert failed.value.errno == errno.EACCES
    assert (work / "read" / "file").read_text() == "read"
    assert not (work / "new").exists()


def test_a_directory_above_what_is_denied_stays(place: Path) -> None:
    work = place / "inside"
    (work / "a" / "b").mkdir(parents=True)
    (work / "a" / "b" / "key").write_text("secret")
    files = Files(work, denied=[work / "a" / "b" / "key"])
    for act in (lambda: files.move("a", "c"), lambda: files.remove("a", recursive=True)):
        with pytest.raises(FileError):
            act()
    assert (work / "a" / "b" / "key").exists()


def test_a_program_that_swaps_a_directory_wins_nothing(place: Path) -> None:
    """One that follows links is fooled at once; the workspace never is, in some thousand tries."""
    work = place / "inside"
    (work / "dir").mkdir()
    (work / "dir" / "secret").write_text("mine")
    (work / "trap").symlink_to(place / "outside")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            os.rename(work / "dir", work / "aside")
            os.rename(work / "trap", work / "dir")
            os.rename(work / "dir", work / "trap")
            os.rename(work / "aside", work / "dir")

    swapper = threading.Thread(target=swap)
    swapper.start()
    files = Files(work)
    fooled = seen = 0
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                fooled += (work / "dir" / "secret").read_text() == "secret"
            except OSError:
                pass
            try:
                seen += files.read("dir/secret") == b"mine"
                files.write("dir/secret", "mine", parents=False)
            except FileError:
                continue
    finally:
        over.set()
        swapper.join()
    assert fooled, "the control did not race"
    assert seen
    assert (place / "outside" / "secret").read_text() == "secret"


def test_descriptors_are_given_back(files: Files) -> None:
    files.write("a", "x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        files.read("a")
        files.list()
        files.stat("a")
        with pytest.raises(FileError):
            files.read("none")
        with pytest.raises(FileError):
            files.read(".")
    assert len(os.listdir("/proc/self/fd")) == before
    files.close()
    with pytest.raises(FileError):
        files.read("a")


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Half of a surrogate pair, as the JSON of a model may have it."""
    with Files(tmp_path) as files:
        files.write("f", "precious")
        with pytest.raises(FileError):
            files.write("f", "\ud83d")
        assert files.read("f") == b"precious"
        for use in (files.read, files.exists, files.list, files.stat, lambda path: files.write(path, "x")):
            with pytest.raises(sandlock.SandlockError):
                use("a\ud83d")
        with pytest.raises(sandlock.SandlockError):
            files.link("l", "\ud83d")


def test_a_path_of_very_many_directories(tmp_path: Path) -> None:
    with Files(tmp_path) as files:
        files.write("a/" * 1500 + "x", "y")
        assert files.read("a/" * 1500 + "x") == b"y"
        files.remove("a", recursive=True)
    assert os.listdir(tmp_path) == []


def test_what_lies_deep_is_removed(tmp_path: Path) -> None:
    """Deeper than a path may be long, with links out of it, within few descriptors."""
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "t").mkdir()
    place = os.open(tmp_path / "t", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=place)
        os.symlink(tmp_path, "link", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 200, before[1]))
    try:
        with Files(tmp_path) as files:
            files.remove("t", recursive=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.listdir(tmp_path) == ["kept"]
