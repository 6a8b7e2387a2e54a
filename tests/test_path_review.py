"""What an attacker of the path layer would try: ways through what is hidden, answers that differ for what is not there,
numbers of users, calls that are still expected of who is dead.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rootfs
from programs.tools import guest
from test_fs_denied import outside, program, tried, with_loader
from test_hidden import hiding

from sandlock import PIPE, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]

# ---- what is hidden


@pytest.fixture(params=["tmp", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a file system that remembers what is not there, and on one that does not (tmpfs)."""
    place = tmp_path
    if request.param == "memory":
        assert os.access("/dev/shm", os.W_OK)
        place = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (place / "work").mkdir()
    (place / "work" / "file").write_text("file")
    (place / "work" / "denied").mkdir()
    (place / "other" / "deep").mkdir(parents=True)
    (place / "other" / "secret").write_text("secret")
    program(place / "work" / "program")
    yield place
    if place != tmp_path:
        shutil.rmtree(place)


ANSWERS = [
    "os.stat({}).st_size", "os.lstat({}).st_size", "os.access({}, os.R_OK)", "os.getxattr({}, 'user.x')",
    "os.open({}, os.O_RDONLY)", "os.open({}, os.O_WRONLY | os.O_CREAT)", "os.open({}, os.O_PATH)",
    "os.rename({}, 'new')", "os.link({}, 'new')", "os.unlink({})", "os.truncate({}, 0)", "os.chmod({}, 0o600)",
    "os.utime({})", "os.execv({}, ['x'])", "os.statvfs({}).f_bsize > 0", "os.rename('program', {})",
]  # fmt: skip


@pytest.mark.parametrize("call", ANSWERS)
def test_no_way_leads_through_what_is_hidden(place: Path, call: str) -> None:
    """With a `..` in the path, and in a link of the program's own."""
    ways = [f"../other/{name}/../../work/{end}" for name in ("deep", "nothing") for end in ("file", "nothing")]
    os.symlink("../other/deep/../../work/file", place / "work" / "deep")
    os.symlink("../other/nothing/../../work/file", place / "work" / "nowhere")
    os.symlink("../other/deep/..", place / "work" / "directory")
    ways += ["directory/../work/file", f"{place}/other/deep/.././../work/file", f"{place}/other/../work/file"]
    if not any(word in call for word in ("lstat", "unlink", "rename", "link")):
        ways += ["deep", "nowhere"]
    answers = set(tried(hiding(place), *(call.format(repr(way)) for way in ways)))
    expected = {"ENOENT"} if "access" not in call else {"False"}
    if "O_PATH" in call:
        assert not any(answer.isdigit() for answer in answers)
        expected = answers
    assert answers == expected
    assert (place / "work" / "file").read_text() == "file"
    assert outside(place / "work", "os.stat('deep').st_size", "os.stat('nowhere')") == ["4", "ENOENT"]


def test_ways_through_what_is_shown_work(place: Path) -> None:
    os.symlink("../work/sub/../file", place / "work" / "link")
    (place / "work" / "sub").mkdir()
    ways = ["sub/../file", "./sub/./../file", "../work/file", "link", "../../" + place.name + "/work/file"]
    ways += [
        f"{place}/work/sub/../link",
        "/proc/self/cwd/file",
        "/proc/self/cwd/sub/../link",
        "/usr/../proc/self/cwd/file",
    ]
    looks = [call.format(repr(way)) for way in ways for call in ("os.stat({}).st_size", "open({}).read()")]
    assert tried(hiding(place), *looks) == ["4", "file"] * len(ways)
    assert (
        tried(hiding(place), *(f"os.chdir({way!r})" for way in ("sub/..", "../work", "/usr/bin/../lib")))
        == ["None"] * 3
    )
    assert hiding(place).run(["sub/../program"], cwd=str(place / "work")).exit_code == 0


def test_a_denied_directory_leads_nowhere(place: Path) -> None:
    sandbox = hiding(place, fs_denied=[str(place / "work" / "denied")])
    looks = [f"os.stat('{name}/../file')" for name in ("denied", "nothing")]
    assert tried(sandbox, *looks) == ["ENOENT", "ENOENT"]
    assert tried(hiding(place), "os.stat('denied/../file').st_size") == ["4"]


def test_no_interpreter_is_reached_through_what_is_hidden(place: Path) -> None:
    shell = os.path.realpath("/bin/sh").lstrip("/")
    up = "../" * (str(place).count("/") + 2)
    attempts = []
    shutil.copy2(os.path.realpath("/bin/sh"), place / "work" / "l")
    for name in ("deep", "none"):
        (place / "work" / f"script-{name}").write_text(f"#!{place}/other/{name}/{up}{shell}\n")
        (place / "work" / f"script-{name}").chmod(0o755)
        with_loader(place / "work" / f"loaded-{name}", f"../other/{name}/../../work/l")
        attempts += [f"os.execv('./script-{name}', ['x'])", f"os.execv('./loaded-{name}', ['x'])"]
    assert tried(hiding(place), *attempts) == ["ENOENT"] * 4
    (place / "work" / "script").write_text(f"#!{place}/work/denied/{up}{shell}\nexit 7\n")
    (place / "work" / "script").chmod(0o755)
    assert hiding(place).run(["./script"]).exit_code == 7


def test_no_socket_is_reached_through_what_is_hidden(place: Path) -> None:
    os.chdir(place / "work")
    attempts = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen()
        os.chdir("/")
        for way in ("../other/deep/../../work", "../other/nothing/../../work", "denied/.."):
            attempts += [f"socket.socket(socket.AF_UNIX).connect('{way}/socket')"]
            attempts += [f"socket.socket(socket.AF_UNIX).bind('{way}/made')"]
        sandbox = hiding(place, net_allow_bind=[f"unix:{place}/work"], net_allow=[f"unix:{place}/work"])
        assert tried(sandbox, *attempts) == [*["ENOENT"] * 4, "None", "None"]
        control = outside(place / "work", attempts[0], attempts[2])
        assert control == ["None", "ENOENT"]


OPENS = """
import ctypes, errno, os, resource, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def openat2(path, resolve):
    how = struct.pack("QQQ", 0, 0, resolve)
    opened = libc.syscall(437, -100, os.fsencode(path), how, ctypes.c_size_t(24))
    if opened < 0:
        return errno.errorcode[ctypes.get_errno()]
    os.close(opened)
    return "opened"
def open_(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"
def answers(path):
    return [
        *(openat2(path, resolve) for resolve in (0, 1, 2, 4, 8, 16, 32, 9, 12, 20)),
        *(open_(path + "/x/", flags) for flags in (os.O_CREAT | os.O_WRONLY, os.O_RDONLY)),
        *(open_(path, flags) for flags in (os.O_RDONLY, os.O_CREAT | os.O_WRONLY, os.O_DIRECTORY)),
    ]
def all_answers():
    for path in sys.argv[1:]:
        print(*answers(path))
all_answers()
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    try:
        while True:
            os.dup(0)
    except OSError:
        all_answers()
"""


def test_no_flag_and_no_limit_tells_what_is_hidden(place: Path) -> None:
    """Of openat2(2), with a slash at the end, and where there is no room for a descriptor."""
    for above in ("../other", str(place / "other")):
        names = [f"{above}/{name}" for name in ("nothing", "secret", "deep")]
        result = hiding(place).run([sys.executable, "-I", "-S", "-c", OPENS, *names])
        lines = result.stdout.decode().splitlines()
        assert len(lines) == 6, result.stderr
        assert len(set(lines[:3])) == 1, lines
        assert len(set(lines[3:])) == 1, lines
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    there = tried(hiding(place), *(f"os.path.exists({mount!r})" for mount in mounts))
    mounts = [mount for mount, found in zip(mounts, there, strict=True) if found == "False"]
    lines = hiding(place).run([sys.executable, "-I", "-S", "-c", OPENS, *mounts, "/nothing"]).stdout.splitlines()
    assert len(set(lines[: len(mounts) + 1])) == 1, lines
    shown = hiding(place).run([sys.executable, "-I", "-S", "-c", OPENS, "file"]).stdout.split()
    assert shown[:6] == [b"opened", b"opened", b"opened", b"opened", b"opened", b"opened"]
    control = outside(
        place / "work", "os.open('../other/secret/x/', os.O_CREAT)", "os.open('../other/deep/x/', os.O_CREAT)"
    )
    assert control == ["ENOTDIR", "EISDIR"]


def test_what_a_ceiling_names_is_not_there_before_it_is_granted(place: Path) -> None:
    other, words = str(place / "other"), ["while read line; do test -e ../other; echo $?; done"]
    with (
        hiding(place, presets=["system"], ceiling={"fs_readable": [other]}) as box,
        box.start(["/bin/sh", "-c", *words], stdin=PIPE) as process,
    ):

        def is_there() -> bool:
            process.stdin.write(b"\n")
            process.stdin.flush()
            return process.stdout.readline() == b"0\n"

        assert not is_there()
        box.grant(fs_readable=[other])
        assert is_there()
        box.restrict(fs_readable=[])
        assert not is_there()


# ---- users and groups by number

KEPT = ("-1, -1", "1234, 4321", "1234, -1", "-1, 4321")
USERS = (
    "(os.getuid(), os.getgid())", "(os.stat('own').st_uid, os.stat('own').st_gid)",
    "(os.stat('others').st_uid, os.stat('others').st_gid)", "os.lstat('link').st_uid",
    *(
        call.format(ids)
        for call in ("os.chown('own', {})", "os.fchown(os.open('own', 0), {})", "os.lchown('link', {})")
        for ids in (*KEPT, "0, 0", "4321, 1234", "65534, -1", "-1, 1", "2**32 - 2, 0")
    ),
    "os.chown('others', -1, -1)", "os.mkdir('made')", "(os.stat('made').st_uid, os.stat('made').st_gid)",
    "os.setxattr('own', 'user.x', b'1')", "os.getxattr('own', 'user.x')",
)  # fmt: skip


@pytest.mark.parametrize("option", ["hide_ungranted", "private_proc"])
def test_users_and_groups_are_those_that_the_kernel_would_tell(tmp_path: Path, option: str) -> None:
    """In a user namespace: who asks the supervisor hears what the kernel says where nobody is asked."""
    (tmp_path / "others").touch()
    if os.geteuid() == 0:
        os.chown(tmp_path / "others", 4000, 4001)
    answers = []
    for more in ({option: True}, {"disable": ["fs-metadata"]}):
        for name in ("own", "link"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "own").touch()
        (tmp_path / "link").symlink_to("own")
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        options: dict[str, Any] = {"presets": ["python"], "fs_writable": [str(tmp_path)], "cwd": str(tmp_path), **more}
        answers.append(tried(Sandbox(uid=1234, gid=4321, **options), *USERS))
        assert (os.stat(tmp_path / "own").st_uid, os.stat(tmp_path / "made").st_gid) == (os.geteuid(), os.getegid())
    assert answers[0] == answers[1]
    assert answers[0][:2] == ["(1234, 4321)"] * 2
    assert answers[0].count("EINVAL") == 15
    assert tried(Sandbox(presets=["python"], fs_writable=[str(tmp_path)], cwd=str(tmp_path)), USERS[0]) != [
        "(1234, 4321)"
    ]


# ---- a call that is still expected


@pytest.mark.needs(program="gcc")
def test_of_who_is_killed_no_call_is_expected(tmp_path: Path) -> None:
    """In a virtual root an exec is another call, which nobody judges. Who gets the number of a caller that was killed
    before it made that call must not find it expected."""
    rootfs.furnish(tmp_path / "root", {"/cut_short": guest("cut_short")})
    with rootfs.rooted(tmp_path / "root") as box, box.start(["/cut_short", "40"], stdin=PIPE) as process:
        (run,) = box._confinement.permissions._runs
        seen = 0
        for _ in range(10):
            process.stdin.write(b"\n")
            process.stdin.flush()
            deadline = time.monotonic() + 0.02
            while time.monotonic() < deadline:
                seen = max(seen, run.expected_calls)
            assert process.stdout.readline() == b"\n"
            limit = time.monotonic() + 2
            while run.expected_calls and time.monotonic() < limit:
                time.sleep(0.01)
            assert run.expected_calls == 0
    assert seen > 0, "none was expected while programs were executed"


# ---- the process that embeds

EMBEDDER = """
import sys
from sandlock import Sandbox
code = '''
import os, socket, sys
for name in sys.argv[1:]:
    for how in ("connect", "bind"):
        try:
            getattr(socket.socket(socket.AF_UNIX), how)(name)
            print("done")
        except OSError as error:
            print(error.errno)
'''
options = {"chroot": "/"} if sys.argv[1] == "chroot" else {"hide_ungranted": True}
place = [sys.argv[2]]
grants = {"net_allow": ["unix:" + sys.argv[2]], "net_allow_bind": ["unix:" + sys.argv[2]], "fs_writable": place}
with Sandbox(presets=["python"], private_proc=True, cwd=sys.argv[2], **options, **grants) as box:
    result = box.run([sys.executable, "-I", "-S", "-c", code, *sys.argv[3:]])
print(result.stdout.decode().split())
"""


@pytest.mark.parametrize("option", ["chroot", "hide"])
def test_names_of_sockets_in_proc_harm_nobody(tmp_path: Path, option: str) -> None:
    """Whose a directory of /proc is, is looked up for the names of sockets, too."""
    names = ["/proc/1/x", "/proc/self/x", "/proc/99999/x", "/proc/1/root/x", "/proc/self/cwd/made"]
    command = [sys.executable, "-c", EMBEDDER, option, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done
    answers = done.stdout.strip("[]\n").replace("'", "").split(", ")
    assert len(answers) == 10
    assert "done" not in answers[:8]
    assert answers[8:] == (["40", "40"] if option == "chroot" else ["2", "done"])
