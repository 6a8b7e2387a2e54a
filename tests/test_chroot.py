"""chroot and fs_mount: the program sees a directory of the host as its root, and nothing else, whatever it tries.

The program (programs/rooted.c) runs without libraries, and says what came of each call. Whether something happened is
judged by the files outside; and each attack has a twin that is no attack, and works.
"""

from __future__ import annotations

import os
import random
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from planned import ARCHES, a_host

from sandlock import ConfinementError, PolicyError, Result, Sandbox, syscalls
from sandlock._path_rules import CALLS
from sandlock._plan import plan
from sandlock.policy import Policy

pytestmark = [pytest.mark.needs(landlock=6, kernel=(6, 0))]
TESTS = os.path.dirname(os.path.abspath(__file__))
DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program that makes path calls."""
    built = str(tmp_path_factory.mktemp("rooted") / "rooted")
    source = os.path.join(TESTS, "programs", "rooted.c")
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", built, source], check=True)
    return built


class World:
    """A root directory, two directories to mount, and one that nobody shall get at."""

    def __init__(self, place: Path, program: str) -> None:
        self.place = place
        self.root = place / "root"
        self.one = place / "one"
        self.two = place / "two"
        self.secret = place / "secret"
        for folder in ("bin", "etc", "proc", "dev", "tmp", "mnt", "home/me"):
            (self.root / folder).mkdir(parents=True)
        os.link(program, self.root / "bin" / "rooted") if os.stat(program).st_dev == os.stat(
            place
        ).st_dev else subprocess.run(["cp", program, self.root / "bin" / "rooted"], check=True)
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


@pytest.fixture
def world(tmp_path: Path, program: str) -> World:
    return World(tmp_path.resolve(), program)


def facts(path: Path) -> tuple[object, ...]:
    """What the attacks would change."""
    status = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, content


# ---- what may be said


def test_a_root_that_does_not_exist_is_an_error(world: World) -> None:
    """#79 of the original: it ran without."""
    with pytest.raises(PolicyError, match="chroot: .*/gone is no directory"):
        Sandbox(chroot=world.place / "gone", fs_readable="/")
    with pytest.raises(PolicyError, match="is no directory"):
        Sandbox(chroot=world.secret / "file", fs_readable="/")


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ({"/x": "/nowhere/at/all"}, "does not exist"),
        ({"/gone/x": "/"}, "needs one above it"),
        ({"/": "/"}, "no place for a mount"),
        ({"/a/../b": "/"}, "no place for a mount"),
        ({"x": "/"}, "is not a mount"),
        (["/x"], "is not a mount"),
        (["/x:"], "is not a mount"),
        (["/x:/", "/x:/etc:ro"], "second mount"),
        (5, "write mounts as text"),
    ],
)
def test_a_mount_that_makes_no_sense_is_an_error(world: World, mounts: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Sandbox(chroot=world.root, fs_readable="/", fs_mount=mounts)


def test_mounts_need_a_root() -> None:
    with pytest.raises(PolicyError, match="no virtual root"):
        Sandbox(fs_readable="/usr", fs_mount={"/x": "/etc"})


def test_mounts_are_read_in_every_spelling() -> None:
    said = Policy.of(chroot="/", fs_mount={"/a": "/etc", "/b/": "/usr:ro", b"/c": Path("/opt")})
    assert said.fs_mount == ("/a:/etc", "/b:/usr:ro", "/c:/opt")
    assert Policy.of(chroot="/", fs_mount=said.fs_mount).fs_mount == said.fs_mount
    assert Policy.of(chroot="/", fs_mount="/a:/etc:rw").fs_mount == ("/a:/etc",)


def test_what_the_working_directory_is(world: World) -> None:
    assert world.run("getcwd") == ["/ 1"]
    assert world.run("getcwd", "open||file", cwd="/home/me") == ["/home/me 1", "'mine'"]
    assert world.run("getcwd", "open||file", cwd="/one/sub/..", **world.mounts) == ["/one 1", "'one'"]
    with pytest.raises(ConfinementError, match="working directory"):
        world.run("getcwd", cwd="/nowhere")


def test_nothing_is_granted_that_is_not_said(world: World) -> None:
    """Grants are paths inside."""
    granted = ["/bin", "/etc"]
    assert world.run("open||/etc/name", "open||/home/me/file", "open|wc|/etc/new", fs_readable=granted, fs_writable=()) == [
        "'inside'", "EACCES", "EACCES",
    ]  # fmt: skip
    assert world.run("open||/home/me/file", fs_readable=["/bin", "/home"], fs_writable=()) == ["'mine'"]


def test_a_grant_through_a_link_stays_inside(world: World) -> None:
    (world.root / "way").symlink_to("/home/me")
    (world.root / "out").symlink_to(world.secret)
    (world.root / "up").symlink_to("../../../../../home")
    said = world.run("open||/way/file", fs_readable=["/bin", "/way"], fs_writable=())
    assert said == ["'mine'"]
    assert world.run("open||/up/me/file", fs_readable=["/bin", "/up"], fs_writable=()) == ["'mine'"]
    with pytest.raises(ConfinementError, match="Landlock rule"):
        world.run("getcwd", fs_readable=["/bin", "/out"], fs_writable=())


def test_a_grant_behind_a_link_that_the_program_could_have_made_is_refused(world: World) -> None:
    (world.root / "home" / "link").symlink_to("/etc")
    with pytest.raises(PolicyError, match="link inside a directory that the sandbox may write"):
        world.run("getcwd", fs_readable=["/bin", "/home/link"], fs_writable=["/home"])
    assert world.run("open||/home/link/name", fs_readable=["/bin", "/home/link"], fs_writable=()) == ["'inside'"]


# ---- no way out

ESCAPES = ("../secret", "/../secret", "/proc/self/root/../secret", "/../../../..{secret}", "{secret}", "/tmp/absolute",
           "/tmp/relative", "/tmp/chain", "/tmp/../../secret", "/one/out", "/one/../../secret", "/one/up",
           "/proc/self/cwd/../../secret", "/proc/1/root{secret}", "//{secret}", "/./{secret}", "/tmp/absolute/.",
           "/tmp/proc{secret}")  # fmt: skip


@pytest.fixture
def tempting(world: World) -> World:
    """With links out of it."""
    (world.root / "tmp" / "absolute").symlink_to(world.secret)
    (world.root / "tmp" / "relative").symlink_to("../../secret")
    (world.root / "tmp" / "chain").symlink_to("absolute")
    (world.root / "tmp" / "proc").symlink_to("/proc/self/root")
    (world.one / "out").symlink_to(world.secret)
    (world.one / "up").symlink_to("../secret")
    return world


CHANGES = ("open|w|{}/file", "open|t|{}/file", "open|wc|{}/new", "open|wcx|{}/new", "creat|{}/file", "legacy|w|{}/file",
           "truncate|{}/file|0", "chmod|{}/file|777", "fchmodat2|{}/file|777", "chown|{}/file", "lchown|{}/file",
           "utime|{}/file", "utimes|{}/file", "utimensat|{}/file", "setxattr|{}/file", "unlink|{}/file",
           "rename|{}/file|/tmp/stolen", "rename|/tmp/own|{}/file", "rename2|{}/file|/tmp/own|2", "link|{}/file|/tmp/stolen",
           "link|/tmp/own|{}/new", "symlink|x|{}/new", "mkdir|{}/new", "rmdir|{}/sub", "mkfifo|{}/new",
           "open|wm|{}")  # fmt: skip
LOOKS = ("open||{}/file", "legacy||{}/file", "openat|.||{}/file", "openat2|.||{}/file|0", "openat2|.||{}/file|10",
         "openat2|.||{}/file|4", "stat|{}/file", "lstat|{}/file", "statx|{}/file", "access|{}/file|0", "list|{}",
         "readlink|{}/file", "getxattr|{}/file", "listxattr|{}/file", "statfs|{}/file", "chdir|{}", "keep|d|{}",
         "inotify|{}", "exec|{}/program")  # fmt: skip
REFUSED = {"ENOENT", "EACCES", "ENOTDIR", "EXDEV", "ELOOP", "126", "127", ""}


@pytest.mark.parametrize("escape", ESCAPES)
def test_nothing_outside_is_changed(tempting: World, escape: str) -> None:
    world = tempting
    before = {path: facts(path) for path in (world.secret, *world.secret.rglob("*"))}
    (world.root / "tmp" / "own").write_text("own\n")
    place = escape.format(secret=world.secret)
    said = world.run(*(call.format(place) for call in CHANGES), **world.mounts)
    assert set(said) <= REFUSED, dict(zip(CHANGES, said, strict=True))
    assert {path: facts(path) for path in (world.secret, *world.secret.rglob("*"))} == before


@pytest.mark.parametrize("escape", ESCAPES)
def test_nothing_outside_is_seen(tempting: World, escape: str) -> None:
    place = escape.format(secret=tempting.secret)
    said = tempting.run(*(call.format(place) for call in LOOKS), **tempting.mounts)
    assert set(said) <= REFUSED, dict(zip(LOOKS, said, strict=True))


def test_the_same_calls_work_inside(tempting: World) -> None:
    """What is refused above is refused for where it leads, not for what it is."""
    made = tempting.root / "tmp" / "place"
    for call in (*CHANGES, *LOOKS):
        subprocess.run(["rm", "-rf", made, tempting.root / "tmp" / "stolen"], check=True)
        (made / "sub").mkdir(parents=True)
        (made / "file").write_text("file\n")
        (made / "file").chmod(0o640)
        (tempting.root / "tmp" / "own").write_text("own\n")
        (said,) = tempting.run(call.format("/tmp/place"), **tempting.mounts)
        known = {"readlink": "EINVAL", "getxattr": "ENODATA", "exec": "127"}
        expected = known.get(call.split("|")[0])
        if expected is not None:
            assert said == expected, call
        else:
            assert not re.fullmatch("E[A-Z0-9]+", said), (call, said)


def test_dangling_links_lead_nowhere(world: World) -> None:
    """W7: what a link names outside is not what it names inside, even if that does not exist."""
    target = world.secret / "file"
    before = facts(target)
    calls = [f"symlink|{target}|/tmp/link"]
    calls += [call.replace("{}/file", "/tmp/link") for call in CHANGES if "{}/file" in call and "link|" not in call]
    world.run(*calls)
    assert facts(target) == before
    assert not (world.root / "tmp" / "stolen").exists() or (world.root / "tmp" / "stolen").is_symlink()


def test_a_descriptor_from_outside_leads_nowhere(world: World) -> None:
    """It may be read, for somebody has given it; but no path begins there."""
    ours, theirs = socket.socketpair()
    outside = os.open(world.secret, os.O_RDONLY | os.O_DIRECTORY)
    within = os.open(world.root / "home", os.O_RDONLY | os.O_DIRECTORY)
    policy: dict[str, Any] = {"chroot": world.root, "fs_readable": "/", "fs_writable": "/home"}
    try:
        with Sandbox(**policy) as box:
            calls = ["received", "openat|@||file", "openat|@||sub/deep", "openat|@|wc|new", "openat2|@||file|8", "statat|@|file",
                     "fchdir", "open||file", "getcwd", "stat|.", "open|wc|new", "chdir|sub", "openat|@||../secret/file",
                     "readlink|/proc/self/cwd", "open||/proc/self/cwd/file", "list|/proc/self/cwd"]  # fmt: skip
            socket.send_fds(ours, [b"x"], [outside])
            done = box.run(["/bin/rooted", *calls], timeout=60, stdin=theirs.fileno())
            said = [line.split(": ")[-1] for line in done.stdout.decode().splitlines()]
            assert said[0] == "1"
            assert said[6] == "0"  # it may go there
            assert set(said[1:6] + said[7:]) <= {"EACCES", "ENOENT", "(unreachable)"}, dict(
                zip(calls, said, strict=True)
            )
            socket.send_fds(ours, [b"x"], [within])
            done = box.run(
                ["/bin/rooted", "received", "openat|@||me/file", "fchdir", "open||me/file", "getcwd"],
                timeout=60, stdin=theirs.fileno(),
            )  # fmt: skip
            said = [line.split(": ")[-1] for line in done.stdout.decode().splitlines()]
            assert said == ["1", "'mine'", "0", "'mine'", "/home 1"]
    finally:
        for end in (ours, theirs):
            end.close()
        os.close(outside)
        os.close(within)


def test_an_open_file_that_lies_outside_is_not_opened_again(world: World) -> None:
    with open(world.secret / "file") as file:
        with Sandbox(chroot=world.root, fs_readable="/") as box:
            calls = ["open||/proc/self/fd/0", "open||/dev/stdin", "open||/dev/fd/0", "readlink|/proc/self/fd/0",
                     "stat|/dev/stdin"]  # fmt: skip
            done = box.run(["/bin/rooted", *calls], timeout=60, stdin=file)
    said = [line.split(": ")[-1] for line in done.stdout.decode().splitlines()]
    assert said == ["EACCES", "EACCES", "EACCES", "(unreachable)", "EACCES"]
    with open(world.root / "etc" / "name") as file, Sandbox(chroot=world.root, fs_readable="/") as box:
        done = box.run(["/bin/rooted", *calls], timeout=60, stdin=file)
    said = [line.split(": ")[-1] for line in done.stdout.decode().splitlines()]
    assert said == ["'inside'", "'inside'", "'inside'", "/etc/name", "100644 7"]


def test_the_root_of_a_process_is_the_virtual_one(world: World) -> None:
    said = world.run("open||/proc/self/root/etc/name", "readlink|/proc/self/root", "list|/proc/self/root/home",
                     "readlink|/proc/self/exe", "open||/proc/thread-self/root/etc/name")  # fmt: skip
    assert said == ["'inside'", "/", "me", "/bin/rooted", "'inside'"]


RACES = int(os.environ.get("SANDLOCK_RACES", "3000"))


def test_a_link_that_changes_place_with_a_directory_leads_nowhere(world: World) -> None:
    tmp = world.root / "tmp"
    (tmp / "good").mkdir()
    (tmp / "good" / "file").write_text("good\n")
    (tmp / "bad").symlink_to(world.secret)
    said = set(world.lines(f"race|/tmp/good|/tmp/bad|/tmp/good/file|{RACES}"))
    assert "race: good" in said  # the control
    assert said <= {"race: good", "race: ENOENT", "race: ENOTDIR"}, said


def test_a_directory_that_moves_while_the_path_goes_up_leads_nowhere(world: World) -> None:
    """`..` of a directory that is moved to the top, while it is deep below."""
    tmp = world.root / "tmp"
    (tmp / "a" / "b" / "c").mkdir(parents=True)
    (world.root / "home" / "x").mkdir()
    (world.root / "secret").mkdir()
    (world.root / "secret" / "file").write_text("inside\n")
    said = set(world.lines(f"race|/tmp/a/b/c|/home/x|/tmp/a/b/c/../../../../secret/file|{RACES}"))
    assert said <= {"race: inside", "race: ENOENT"}, said
    assert "race: inside" in said


def test_a_path_that_is_written_over_while_it_is_read_leads_nowhere(world: World) -> None:
    """2b9522c of the original: chdir rewrote the path in the caller's memory, and let the call go on."""
    said = set(world.lines(f"flip|/home/me|{world.secret}|{RACES // 3}"))
    assert "flip: /home/me" in said
    assert all(re.fullmatch(r"flip: (/home/me|/home|/|ENOENT|/tmp|ENOTDIR|/etc)", line) for line in said), said


# ---- as in a root that the kernel knows

NAMES = [
    "a",
    "b",
    "file",
    "link",
    "..",
    ".",
    "",
    "none",
    "one",
    "two",
    "mnt",
    "up",
    "abs",
    "loop",
    "etc",
    "tmp",
    "deep",
]
IN_A_REAL_ROOT = """
import os, subprocess, sys
place, mounts, argv = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
def mount(*args):
    if libc.mount(*args) != 0:
        raise OSError(ctypes.get_errno(), "mount")
mount(b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE
for each in mounts:
    inside, _, outside = each.partition(":")
    mount(outside.encode(), (place + inside).encode(), None, 0x1000, None)  # MS_BIND
mount(b"proc", (place + "/proc").encode(), b"proc", 0, None)
os.chroot(place)
os.chdir("/")
os.execv("/bin/rooted", ["/bin/rooted", *argv])
"""


def a_path(rng: random.Random) -> str:
    path = "/".join(rng.choice(NAMES) for _ in range(rng.randrange(1, 7)))
    return rng.choice(["/", "", "/proc/self/root/", "/proc/self/cwd/", "//", "./"]) + path or "."


def a_call(rng: random.Random) -> str:
    path = a_path(rng)
    return rng.choice([
        f"open||{path}", f"openat|@||{path}", f"stat|{path}", f"lstat|{path}", f"readlink|{path}", f"open|n|{path}",
        f"open|d|{path}", f"chdir|{path}", "getcwd", f"keep|d|{path}", f"statat|@|{path}", f"access|{path}|0",
        f"openat2|@||{path}|0", f"openat2|@||{path}|4", f"openat2|@||{path}|8", f"openat2|@||{path}|10",
        f"openat2|.||{path}|4", f"list|{path}", f"readlinkat|@|{path}", "getcwd",
    ])  # fmt: skip


@pytest.mark.needs(root=True)
def test_a_path_means_what_it_means_in_a_real_root(world: World, rng: random.Random) -> None:
    root = world.root
    for folder in ("a/b", "b", "one", "mnt/two"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "a" / "file").write_text("in a\n")
    (root / "file").write_text("at the top\n")
    for where, links in {
        root: {"link": "a", "abs": "/a/b", "up": "../..", "loop": "loop"},
        root / "a": {"link": "../b", "abs": "/one", "up": "..", "loop": "../a/loop", "one": "/mnt/two/sub"},
        root / "a" / "b": {"link": "/file", "abs": "/", "up": "../../..", "two": "../../mnt/two"},
        root / "b": {"link": "/one/sub/deep", "up": "../one/..", "deep": "../a/link/../one"},
        world.one: {"link": "/a", "abs": "/file", "up": "..", "two": "../mnt/two", "a": "sub/../../a"},
        world.one / "sub": {"link": "../file", "up": "../..", "abs": "/mnt/two/sub"},
        world.two: {"link": "/one/link", "up": "../..", "deep": "sub/deep", "one": "../../one"},
    }.items():
        for name, target in links.items():
            (where / name).symlink_to(target)
    calls = ["keep|d|/", *(a_call(rng) for _ in range(int(os.environ.get("SANDLOCK_RACES", "3000")) // 2))]
    for at in range(0, len(calls), 400):
        part = ["keep|d|/a", *calls[at : at + 400]]
        mounts = f"/one:{world.one},/mnt/two:{world.two}"
        real = subprocess.run(
            [sys.executable, "-c", IN_A_REAL_ROOT, str(root), mounts, *part], capture_output=True, text=True, check=True
        )  # fmt: skip
        said = world.lines(*part, fs_mount={"/one": world.one, "/mnt/two": world.two}, fs_writable=())
        differ = [(one, other) for one, other in zip(real.stdout.splitlines(), said, strict=True) if one != other]
        assert not [each for each in differ if not is_known(*each)], differ


def is_known(real: str, said: str) -> bool:
    """Differences that are documented: to the scopes of openat2(2) other mounts are other devices, or are not there."""
    scoped = re.match(r"openat2\|.*\|(8|10): ", said)
    return scoped is not None and said.rpartition(" ")[2] in ("EXDEV", "ENOENT")


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
    said = world.run("open|wc|/one/new", "mkdir|/one/folder", "rename|/one/new|/one/folder/old", "symlink|/etc/name|/one/link",
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
    said = world.run("keep|d|/mnt/two", "openat|@|w|file", "openat|@|wc|new", "fchdir", "open|w|file", "truncate|file|0",
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
    said = world.run("open||/one/file", "open||/one/sub/file", "open||/one/sub/sub/me/file", "open||/one/sub/sub/../file",
                     "open||/one/sub/../file", "open|w|/one/sub/file", "open|wc|/one/sub/sub/new", "open|wc|/one/new",
                     "list|/one/sub", **mounts)  # fmt: skip
    assert said == ["'one'", "'two'", "'mine'", "'two'", "'one'", "EROFS", "4", "4", "file sub"]


def test_what_a_mount_lies_on_cannot_be_taken_away(world: World) -> None:
    options = {**world.mounts, "fs_writable": ["/"]}
    said = world.run("rename|/mnt|/tmp/mnt", "rmdir|/one", "rename|/one|/tmp/one", "unlink|/one", "rename|/tmp|/one", "mkdir|/one",
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


def test_the_host_as_root_with_a_mount(world: World, program: str) -> None:
    with Sandbox(chroot="/", fs_readable=[program], fs_mount={"/opt": world.one}) as box:
        done = box.run([program, "open||/opt/file", f"open||{world.secret}/file", "list|/opt"], timeout=60)
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


# ---- denied


def test_denied_paths_are_paths_inside(world: World) -> None:
    (world.root / "home" / "link").symlink_to("me")
    os.link(world.root / "home" / "me" / "file", world.root / "tmp" / "other")
    denied = {"fs_denied": ["/home/me/file", "/one/sub"], **world.mounts}
    (world.one / "way").symlink_to("sub")
    said = world.run("open||/home/me/file", "open||/home/link/file", "open||/tmp/other", "chmod|/home/me/file|777",
                     "rename|/home/me|/tmp/me", "open||/one/sub/deep", "open||/one/way/deep", "rename|/one/sub|/one/x",
                     "open|wc|/one/sub/new", "open||/one/file", "open||/etc/name", **denied)  # fmt: skip
    assert said == ["EACCES"] * 9 + ["'one'", "'inside'"]


def test_a_denial_tells_the_path_inside(world: World) -> None:
    result = world.result("open||/home/me/../me/file", fs_denied="/home/me/file")
    assert [denial.target for denial in result.denials] == ["/home/me/file"]


# ---- every call


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    "fields", [{}, {"fs_denied": "/etc"}, {"net_allow": ["10.0.0.0/8"]}, {"fs_mount": {"/tmp": "/tmp"}}]
)
def test_no_call_with_a_path_goes_on(arch: str, fields: dict[str, Any]) -> None:
    """W31: those that are not translated are refused, whatever else the policy says."""
    made = plan(Policy.of(chroot="/", fs_readable="/usr", **fields), a_host(arch=arch))
    answers = dict(made.answers)
    rules = {rule.syscall: rule.rule for rule in made.rules}
    for call in syscalls.TABLE.values():
        if call.number(arch) is None or not {"path"} & call.kind:
            continue
        if call.name in CALLS:
            assert rules[call.name] == "path", call.name
        elif call.name in ("execve", "execveat"):
            assert rules[call.name] == "vet_exec"
        else:
            assert is_refused(answers[call.name]), call.name
    assert rules["getcwd"] == rules["chdir"] == "path"


def is_refused(answer: Any) -> bool:
    actions = [answer] if isinstance(answer, int) else [action for _, action in answer[0]] + [answer[1]]
    return all(action & 0x7FFF0000 == 0x00050000 for action in actions)


@pytest.mark.parametrize("words", ["io_uring", "file_events"])
def test_calls_that_open_files_unseen_are_refused(words: str) -> None:
    with pytest.raises(PolicyError, match="chroot: "):
        plan(Policy.of(chroot="/", fs_readable="/usr", extra_allow_syscalls=words), a_host())


def test_chroot_itself_is_denied(world: World) -> None:
    """W33"""
    number = {"x86_64": 161, "aarch64": 51}[os.uname().machine]
    assert world.run(f"raw|{number}|/tmp|") == ["EPERM"]


# ---- sockets


def test_names_of_sockets_are_names_inside(world: World) -> None:
    (world.root / "tmp" / "out").symlink_to(world.secret)
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(str(world.secret / "socket"))
        outside.listen()
        rules = {"net_allow": ["unix:*"], "net_allow_bind": ["unix:*"], "fs_writable": ["/tmp", "/home"]}
        said = world.run("bind|/tmp/socket", "connect|/tmp/socket", "connect|/proc/self/root/tmp/socket", "chdir|/home",
                         "bind|mine", "connect|../tmp/socket", f"connect|{world.secret}/socket", "connect|/tmp/out/socket",
                         "connect|../../secret/socket", "bind|/tmp/out/new", "bind|/mnt/two/new", "bind|/one/new",
                         "connect|/one/new", "bind|/one", "connect|socket", **rules, **world.mounts)  # fmt: skip
    assert said == ["0", "0", "ELOOP", "0", "0", "0", "ENOENT", "ENOENT", "ENOENT", "ENOENT", "EROFS", "0", "0", "EADDRINUSE",
                    "ENOENT"]  # fmt: skip
    assert stat.S_ISSOCK((world.root / "home" / "mine").stat().st_mode)
    assert stat.S_ISSOCK((world.one / "new").stat().st_mode)
    assert sorted(os.listdir(world.secret)) == ["file", "socket", "sub"]


def test_rules_about_sockets_are_about_names_inside(world: World) -> None:
    rules = {"net_allow": ["unix:/tmp/socket"], "net_allow_bind": ["unix:/tmp"]}
    said = world.run("bind|/tmp/socket", "connect|/tmp/socket", "bind|/tmp/other", "connect|/tmp/other", "bind|/home/x",
                     "connect|/home/../tmp/socket", **rules)  # fmt: skip
    assert said == ["0", "0", "0", "EACCES", "EACCES", "0"]
