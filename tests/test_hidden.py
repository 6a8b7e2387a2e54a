"""hide_ungranted: what no grant covers is not there, whichever call asks; what a grant covers is as it was."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_fs_denied import TRYING, outside, program, tried, with_loader

from sandlock import Sandbox
from sandlock._path_facts import shown_names
from sandlock.presets import Grant

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_text("file")
    (tmp_path / "work" / "hidden").write_text("denied")
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "secret").write_text("secret")
    program(tmp_path / "other" / "program")
    os.symlink("secret", tmp_path / "other" / "link")
    os.symlink("loop", tmp_path / "other" / "loop")
    os.symlink("../other/secret", tmp_path / "work" / "to-secret")
    os.symlink("../other/secret/x", tmp_path / "work" / "below-secret")
    os.symlink("work", tmp_path / "alias")
    return tmp_path


def hiding(place: Path, **more: Any) -> Sandbox:
    options: dict[str, Any] = {"presets": ["python"], "fs_writable": [str(place / "work")], "cwd": str(place / "work")}
    return Sandbox(**{"hide_ungranted": True, **options, **more})


NAMES = [
    "../other", "../other/secret", "../other/deep", "../other/nothing", "../other/secret/x", "../other/loop",
    "../other/" + "x" * 300, "../nothing/x", "to-secret", "below-secret", "../other/link",
]  # fmt: skip
LOOKS = [
    "os.stat({})", "os.lstat({})", "os.access({}, os.F_OK)", "os.readlink({})", "os.statvfs({})",
    "os.getxattr({}, 'user.x')", "os.listxattr({})", "os.access({}, os.X_OK, effective_ids=True)", "os.path.exists({})",
]  # fmt: skip
CALLS = [
    "os.open({}, os.O_RDONLY)", "os.open({}, os.O_WRONLY | os.O_CREAT, 0o600)", "os.open({}, os.O_DIRECTORY)",
    "os.open({}, os.O_CREAT | os.O_EXCL)", "os.mkdir({})", "os.rmdir({})", "os.unlink({})", "os.rename({}, 'x')",
    "os.rename('file', {})", "os.link({}, 'x')", "os.link('file', {})", "os.symlink('x', {})", "os.truncate({}, 0)",
    "os.mkfifo({})", "os.chmod({}, 0o600)", "os.utime({})", "os.execv({}, ['x'])", "os.open({}, os.O_NOFOLLOW)",
]  # fmt: skip


@pytest.mark.parametrize("call", [*LOOKS, *CALLS])
def test_there_is_no_difference_between_what_is_hidden_and_what_is_not_there(place: Path, call: str) -> None:
    names = NAMES
    if "lstat" in call or "readlink" in call or "O_NOFOLLOW" in call or "O_EXCL" in call:
        names = [name for name in NAMES if not name.endswith("-secret")]  # these links are the program's own
    if call.startswith(("os.mkdir", "os.rmdir", "os.unlink", "os.rename", "os.link", "os.symlink", "os.mkfifo")):
        names = [name for name in NAMES if not name.endswith("-secret")]
    before = sorted(os.listdir(place / "other"))
    answers = set(tried(hiding(place), *(call.format(repr(name)) for name in names)))
    assert answers == ({"False"} if "access" in call or "exists" in call else {"ENOENT"})
    assert sorted(os.listdir(place / "other")) == before
    control = outside(place / "work", *(call.format(repr(name)) for name in names[:1])) if call in LOOKS else [""]
    assert control != ["ENOENT"]


def test_what_is_granted_is_there(place: Path) -> None:
    looks = ["os.stat('file').st_size", "os.lstat('to-secret').st_size > 5", "os.readlink('to-secret')"]
    looks += ["os.path.isdir('/')", f"os.path.isdir({str(place)!r})", "os.path.isdir('..')", "os.path.isfile('file')"]
    looks += [
        "os.path.isdir('/usr')",
        "os.path.exists('/bin/sh')",
        "os.access('file', os.W_OK)",
        "os.listdir('/usr') != []",
    ]
    looks += ["open('file').read()", "open('new', 'w').write('x')", "os.mkdir('sub')", "os.stat('sub').st_nlink"]
    looks += [
        "os.listdir('..')",
        "os.fstat(0).st_mode > 0",
        "os.stat('/proc/self/fd/1').st_mode > 0",
        "os.stat('sub/x')",
    ]
    assert tried(hiding(place), *looks) == [
        "4", "True", "../other/secret", *["True"] * 8, "file", "1", "None", "2", "EACCES", "True", "True", "ENOENT",
    ]  # fmt: skip


def test_a_grant_by_the_name_of_a_link_shows_that_too(place: Path) -> None:
    sandbox = hiding(place, fs_writable=[], fs_readable=[str(place / "alias")], cwd="/")
    looks = [f"os.path.{what}({str(place / name)!r})" for what, name in (("islink", "alias"), ("isfile", "alias/file"))]
    assert tried(sandbox, *looks, f"os.path.exists({str(place / 'other')!r})") == ["True", "True", "False"]


def test_links_of_the_program_show_nothing(place: Path) -> None:
    """A name that is granted if it is there is the program's to make, in its own directory."""
    os.symlink("../other", place / "work" / "optional")
    granted = [Grant(str(place / "work"), "write")]
    named = [*granted, Grant(str(place / "work" / "optional"), "read", optional=True)]
    assert shown_names(named, granted) == [os.fsencode(os.path.realpath(place / "work"))]


def test_what_is_denied_is_hidden_with_the_rest(place: Path) -> None:
    attempts = ["os.stat('hidden')", "open('hidden').read()", "os.unlink('hidden')", "os.rename('file', 'hidden')"]
    sandbox = hiding(place, fs_denied=[str(place / "work" / "hidden")])
    result = sandbox.run([sys.executable, "-I", "-S", "-c", TRYING, *attempts])
    assert result.stdout.decode().split() == ["ENOENT"] * 4
    assert {(each.cause, each.errno) for each in result.denials} == {("rule", 2)}
    assert sum(each.count for each in result.denials) == 3, (
        "who only looks is told nothing, and there is nothing to tell of it"
    )
    shown = hiding(place, fs_denied=[str(place / "work" / "hidden")], hide_ungranted=False)
    assert tried(shown, "os.stat('hidden').st_size", "open('hidden')") == ["6", "EACCES"]


def test_programs_that_are_not_granted_are_not_there(place: Path) -> None:
    (place / "work" / "script").write_text(f"#!{place}/other/program\n")
    (place / "work" / "script2").write_text(f"#!{place}/other/nothing\n")
    (place / "work" / "script3").write_text(f"#!{place}/other/secret\n")
    (place / "work" / "script4").write_text(f"#!{place}/other/secret/x\n")
    (place / "work" / "plain").write_text("no program")
    for name in ("script", "script2", "script3", "script4"):
        (place / "work" / name).chmod(0o755)
    for name, loader in (("a", "../other/secret"), ("b", "../other/nothing"), ("c", "../other/loop")):
        with_loader(place / "work" / name, loader)
    names = [*NAMES, "../other/program", "script", "script2", "script3", "script4", "./a", "./b", "./c"]
    attempts = [f"os.execv({name!r}, ['x'])" for name in names]
    assert set(tried(hiding(place), *attempts)) == {"ENOENT"}
    assert tried(hiding(place), "os.execv('plain', ['x'])", "os.execv('.', ['x'])") == ["EACCES", "EACCES"]
    program(place / "work" / "program")
    assert hiding(place).run([str(place / "work" / "program")]).exit_code == 0


def test_sockets_that_are_not_granted_are_not_there(place: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    os.chdir(place / "other")
    server.bind("socket")
    server.listen()
    os.chdir("/")
    connect, bind = "socket.socket(socket.AF_UNIX).connect(%r)", "socket.socket(socket.AF_UNIX).bind(%r)"
    names = [
        "../other/socket",
        "../other/secret",
        "../other/secret/x",
        "../other/nothing",
        "../other/loop",
        "../nothing/x",
    ]
    attempts = [call % name for name in names for call in (connect, bind)]
    with server:
        sandbox = hiding(place, net_allow_bind=[f"unix:{place}/work"], net_allow=[f"unix:{place}/work"])
        assert set(tried(sandbox, *attempts)) == {"ENOENT"}
        assert tried(sandbox, bind % "socket", connect % "file") == ["None", "ENOENT"]
        pairs = [f"socket.socketpair()[0].bind({name!r})" for name in names]
        assert set(tried(hiding(place, net_allow=[":443"]), *pairs)) == {"ENOENT"}


def test_ordinary_programs_work(place: Path) -> None:
    script = (
        "set -e; mkdir d; cp file d/copy; mv d/copy d/moved; ls -la . d > list; find . -type f | sort > found; "
        "rm -r d; test ! -e ../other; cat < file > out; ln -s file link; readlink link; "
        "tar cf - file | tar tf -; head -c3 link"
    )
    result = hiding(place).run(["/bin/sh", "-c", script])
    assert result.ok, (result.stderr, result.denials)
    assert result.stdout == b"file\nfile\nfil"
    assert b"moved" in (place / "work" / "list").read_bytes()


def test_opens_that_open_nothing_tell_nothing(place: Path) -> None:
    attempts = [f"os.open({name!r}, os.O_PATH)" for name in NAMES]
    answers = set(tried(hiding(place), *attempts))
    assert len(answers) == 1
    assert not answers.pop().isdigit()


def test_the_flag_and_the_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[config]\npresets = ["system"]\n[filesystem]\nhide_ungranted = true\ndeny = ["/usr/bin/id"]\n')
    words = ["-c", "test -e /root; echo $?; test -e /usr; echo $?; test -e /usr/bin/id; echo $?"]
    command = [sys.executable, "-m", "sandlock.cli", "run"]
    for more in (["--preset", "system", "--hide-ungranted", "--fs-deny", "/usr/bin/id"], ["--profile", str(profile)]):
        found = subprocess.run([*command, *more, "--", "/bin/sh", *words], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout.split()) == (0, ["1", "0", "1"]), found.stderr
    assert shutil.which("sh")
