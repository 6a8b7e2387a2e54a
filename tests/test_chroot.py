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
from rooted import CHANGES, LOOKS, World, facts

from sandlock import ConfinementError, PolicyError, Sandbox, syscalls
from sandlock._path_rules import CALLS
from sandlock._plan import plan
from sandlock.policy import Policy

pytestmark = [pytest.mark.needs(landlock=6, kernel=(6, 0))]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path.resolve())


# ---- what may be said


def test_a_root_that_does_not_exist_is_an_error(world: World) -> None:
    """#79 of the original: it ran without."""
    with pytest.raises(PolicyError, match=r"chroot: .*/gone is no directory"):
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
    said = world.run(
        "open||/etc/name", "open||/home/me/file", "open|wc|/etc/new", fs_readable=granted, fs_writable=()
    )  # fmt: skip
    assert said == ["'inside'", "EACCES", "EACCES"]
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
            calls = ["received", "openat|@||file", "openat|@||sub/deep", "openat|@|wc|new", "openat2|@||file|8",
                     "statat|@|file",
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
    said = set(world.lines(f"race|/tmp/a/b/c|/home/x|/tmp/a/b/c/../../../../secret/file|{RACES // 3}"))
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


def test_protected_paths_are_paths_inside(world: World) -> None:
    os.link(world.root / "home" / "me" / "file", world.root / "tmp" / "other")
    protected = {"fs_protected": ["/home/me/file", "/one/sub"], **world.mounts}
    said = world.run("open|w|/home/me/file", "open|w|/tmp/other", "chmod|/home/me/file|777", "rename|/home/me|/tmp/me",
                     "rename|/one/sub|/one/x", "open|wc|/one/sub/new", "open||/one/file", "open||/home/me/file",
                     **protected)  # fmt: skip
    assert said[:6] == ["EACCES"] * 6
    assert not [each for each in said[6:] if each.startswith("E")]


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
        directory = os.open(world.secret, os.O_PATH)
        outside.bind(f"/proc/self/fd/{directory}/socket")  # the name may be too long
        os.close(directory)
        outside.listen()
        rules = {"net_allow": ["unix:*"], "net_allow_bind": ["unix:*"], "fs_writable": ["/tmp", "/home"]}
        said = world.run("bind|/tmp/socket", "connect|/tmp/socket", "connect|/proc/self/root/tmp/socket", "chdir|/home",
                         "bind|mine", "connect|../tmp/socket", f"connect|{world.secret}/socket",
                         "connect|/tmp/out/socket",
                         "connect|../../secret/socket", "bind|/tmp/out/new", "bind|/mnt/two/new", "bind|/one/new",
                         "connect|/one/new", "bind|/one", "connect|socket", **rules, **world.mounts)  # fmt: skip
    assert said == ["0", "0", "ELOOP", "0", "0", "0", "ENOENT", "ENOENT", "ENOENT", "ENOENT", "EROFS", "0", "0",
                    "EADDRINUSE",
                    "ENOENT"]  # fmt: skip
    assert stat.S_ISSOCK((world.root / "home" / "mine").stat().st_mode)
    assert stat.S_ISSOCK((world.one / "new").stat().st_mode)
    assert sorted(os.listdir(world.secret)) == ["file", "socket", "sub"]


def test_rules_about_sockets_are_about_names_inside(world: World) -> None:
    rules = {"net_allow": ["unix:/tmp/socket"], "net_allow_bind": ["unix:/tmp"]}
    said = world.run("bind|/tmp/socket", "connect|/tmp/socket", "bind|/tmp/other", "connect|/tmp/other", "bind|/home/x",
                     "connect|/home/../tmp/socket", **rules)  # fmt: skip
    assert said == ["0", "0", "0", "EACCES", "EACCES", "0"]
