"""fs_denied: what is denied is denied by whatever name, to whatever end, now or later. Each denial has a control, and what
became of the files is looked at from outside."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandlock import Result, Sandbox
from sandlock._path_facts import names_of

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
TESTS = os.path.dirname(os.path.abspath(__file__))
TRYING = """
import errno, os, socket, sys
def attempt(what):
    try:
        return str(eval(what, globals()))
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
for what in sys.argv[1:]:
    print(attempt(what))
"""


def box(place: Path, *denied: str, **more: Any) -> Sandbox:
    options: dict[str, Any] = {"presets": ["python"], "fs_writable": [str(place)], "cwd": str(place), **more}
    return Sandbox(fs_denied=[os.path.join(place, path) for path in denied], **options)


def tried(sandbox: Sandbox, *attempts: str) -> list[str]:
    """What came of expressions that are evaluated inside: their values, or the names of their errnos."""
    result = sandbox.run([sys.executable, "-I", "-S", "-c", TRYING, *attempts], timeout=60)
    assert result.ok, (result.stderr, result.denials)
    return result.stdout.decode().splitlines()


def outside(place: Path, *attempts: str) -> list[str]:
    """The same without a sandbox."""
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TRYING, *attempts], cwd=place, capture_output=True, check=True
    )
    return found.stdout.decode().splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "file").write_text("file")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "inner").write_text("inner")
    (tmp_path / "tree" / "deep" / "leaf").write_text("leaf")
    (tmp_path / "work").mkdir()
    return tmp_path


def snapshot(place: Path) -> dict[str, str]:
    return {
        str(path.relative_to(place)): path.read_text() if path.is_file() and not path.is_symlink() else ""
        for path in sorted(place.rglob("*"))
    }


# ---- executing


def program(at: Path, shebang: str | None = None) -> Path:
    """A program of its own: a copy of /bin/true, or a script."""
    if shebang is None:
        shutil.copy(os.path.realpath("/bin/true"), at)
    else:
        at.write_text(f"#!{shebang}\nexit 0\n")
    at.chmod(0o755)
    return at


def executed(sandbox: Sandbox, path: str) -> Result:
    """A shell executes it; its exit code is that of the program, 126 for what may not be executed."""
    return sandbox.run(["/bin/sh", "-c", f"{path}; exit $?"], timeout=60)


@pytest.mark.parametrize(
    "name", ["./program", "work/../program", "link", "hard", "{place}/program", "/proc/self/cwd/program"]
)
def test_a_denied_file_cannot_be_executed(place: Path, name: str) -> None:
    program(place / "program")
    os.symlink("program", place / "link")
    os.link(place / "program", place / "hard")
    path = name.format(place=place) if "/" in name else f"./{name}"
    assert executed(box(place, "other"), path).exit_code == 0
    result = executed(box(place, "program"), path)
    assert result.exit_code == 126
    (denial,) = result.denials
    at = place / ("hard" if name == "hard" else "program")
    assert (denial.kind, denial.target, denial.cause, denial.errno) == ("exec", str(at), "rule", 13)
    assert denial.rule == f"fs_denied: {place / 'program'}"


def test_a_program_in_a_denied_tree_cannot_be_executed(place: Path) -> None:
    program(place / "tree" / "deep" / "program")
    assert executed(box(place), "tree/deep/program").exit_code == 0
    assert executed(box(place, "tree"), "tree/deep/program").exit_code == 126
    assert executed(box(place, "tree"), "tree/deep/nothing").exit_code in (126, 127)


def test_a_script_is_denied_with_its_interpreter(place: Path) -> None:
    shell = place / "shell"
    shutil.copy(os.path.realpath("/bin/sh"), shell)
    program(place / "one", str(shell))
    program(place / "two", f"{place}/one")
    for script in ("./one", "./two"):
        assert executed(box(place, "other"), script).exit_code == 0
        for denied in ("shell", "one"):
            result = executed(box(place, denied), script)
            assert (result.exit_code, [each.rule for each in result.denials]) == (126, [f"fs_denied: {place / denied}"])


def with_loader(at: Path, loader: str, *, headers: int = 0) -> Path:
    """A copy of /bin/true that names this loader; with so many program headers, in a table at its end."""
    code = bytearray(Path(os.path.realpath("/bin/true")).read_bytes())
    offset, size, count = struct.unpack_from("<Q14xHH", code, 32)
    table = [bytearray(code[offset + i * size :][:size]) for i in range(count)]
    (entry,) = (each for each in table if struct.unpack_from("<I", each)[0] == 3)  # PT_INTERP
    at_name, length = struct.unpack_from("<Q16xQ", entry, 8)
    name = os.fsencode(loader) + b"\0"
    assert len(name) <= length
    code[at_name : at_name + len(name)] = name
    struct.pack_into("<QQ", entry, 32, len(name), len(name))
    if headers:
        table += [bytearray(size)] * (headers - count)
        offset, count = len(code), headers
        struct.pack_into("<Q14xHH", code, 32, offset, size, count)
    code[offset : offset + size * count] = b"".join(table)
    at.write_bytes(code)
    at.chmod(0o755)
    return at


def host_loader() -> str:
    code = Path(os.path.realpath("/bin/true")).read_bytes()
    offset, size, count = struct.unpack_from("<Q14xHH", code, 32)
    for i in range(count):
        kind, _, at, _, _, length = struct.unpack_from("<IIQQQQ", code, offset + i * size)
        if kind == 3:
            return os.path.realpath(os.fsdecode(code[at : at + length - 1]))
    raise AssertionError("/bin/true names no loader")


def test_a_denied_loader_is_not_loaded(place: Path) -> None:
    shutil.copy(host_loader(), place / "ld")
    os.symlink("ld", place / "to-ld")
    os.link(place / "ld", place / "hard-ld")
    for name in ("./ld", "./to-ld", "./hard-ld"):
        with_loader(place / "program", name)
        assert executed(box(place, "other"), "./program").exit_code == 0
        result = executed(box(place, "ld"), "./program")
        assert (result.exit_code, [each.rule for each in result.denials]) == (126, [f"fs_denied: {place / 'ld'}"])


def test_what_the_kernel_has_loaded_is_judged_too(place: Path) -> None:
    """With more program headers than are looked at before: killed at its first instruction."""
    shutil.copy(host_loader(), place / "ld")
    with_loader(place / "program", "./ld", headers=70)
    control = executed(box(place, "other"), "./program")
    assert not control.denials
    assert control.exit_code != 137, "the control must not be killed"
    result = executed(box(place, "ld"), "./program")
    assert result.exit_code == 137
    assert [(each.kind, each.cause, each.rule) for each in result.denials] == [
        ("exec", "rule", f"fs_denied: {place / 'ld'}")
    ]


EXECVEAT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_PATH) if sys.argv[1] != "-" else 0
argv = (ctypes.c_char_p * 2)(b"program", None)
libc.syscall({"x86_64": 322, "aarch64": 281}[os.uname().machine], fd, b"", argv, None, 0x1000)
sys.exit(ctypes.get_errno())
"""


def test_a_descriptor_of_a_denied_program_does_not_execute_it(place: Path) -> None:
    program(place / "program")
    argv = [sys.executable, "-I", "-S", "-c", EXECVEAT]
    assert box(place, "other").run([*argv, "program"]).exit_code == 0
    assert box(place, "program").run([*argv, "program"]).exit_code == 13
    for denied, expected in (("other", 0), ("program", 13)):  # opened outside, and handed in
        with (place / "program").open("rb") as file:
            assert box(place, denied).run([*argv, "-"], stdin=file).exit_code == expected


def test_a_denied_program_does_not_start(place: Path) -> None:
    program(place / "program")
    assert box(place, "other").run([str(place / "program")]).exit_code == 0
    result = box(place, "program").run([str(place / "program")])
    assert (result.exit_code, result.reason) == (126, "denied")
    assert not box(place, "/").run([str(place / "program")]).ok


# ---- names


def test_every_name_of_a_denied_file_is_denied(place: Path) -> None:
    os.symlink("secret", place / "link")
    os.symlink(place / "link", place / "link2")
    os.link(place / "secret", place / "hard")
    os.link(place / "tree" / "inner", place / "hard-inner")
    os.symlink("tree", place / "to-tree")
    names = [
        "secret", "./secret", "work/../secret", "link", "link2", "hard", f"{place}/secret", f"//{place}/./secret",
        f"/proc/self/root{place}/secret", "/proc/self/cwd/secret", "/proc/thread-self/cwd/secret",
        "tree/inner", "tree/deep/leaf", "to-tree/inner", "to-tree/../tree/deep/leaf", "hard-inner", "work/../tree/inner",
    ]  # fmt: skip
    attempts = [f"len(open({name!r}).read())" for name in names]
    attempts.append("len(open('secret', opener=lambda p, f: os.open(p, f, dir_fd=os.open('.', os.O_PATH))).read())")
    attempts.append("len(open('/proc/self/fd/%d/secret' % os.open('.', os.O_RDONLY)).read())")
    attempts.append("len(open('/proc/%d/cwd/secret' % os.getpid()).read())")
    attempts.append("len(open('/dev/fd/%d' % os.open('secret', os.O_PATH)).read())")
    assert all(answer.isdigit() for answer in tried(box(place, "other"), *attempts))
    assert tried(box(place, "secret", "tree"), *attempts) == ["EACCES"] * len(attempts)
    assert tried(box(place, "secret", "tree"), "open('file').read()", "os.listdir('work')") == ["file", "[]"]


CHANGES = [
    "os.open('secret', os.O_WRONLY)", "os.open('secret', os.O_TRUNC)", "os.open('tree/new', os.O_CREAT | os.O_WRONLY)",
    "os.open('tree', os.O_TMPFILE | os.O_RDWR)", "os.mkdir('tree/new')", "os.unlink('secret')", "os.unlink('tree/inner')",
    "os.rmdir('tree/deep')", "os.rename('secret', 'mine')", "os.rename('tree', 'mine')", "os.rename('tree/inner', 'mine')",
    "os.rename('file', 'tree/file')", "os.rename('file', 'secret')", "os.link('secret', 'mine')",
    "os.link('tree/inner', 'mine')", "os.link('file', 'tree/file')", "os.symlink('x', 'tree/link')",
    "os.mkfifo('tree/fifo')", "os.truncate('secret', 0)", "os.listdir('tree')", "os.chmod('secret', 0o777)",
]  # fmt: skip


@pytest.mark.parametrize("attempt", CHANGES)
def test_nothing_of_it_is_changed(place: Path, attempt: str) -> None:
    before = snapshot(place)
    assert tried(box(place, "secret", "tree"), attempt) == ["EACCES"]
    assert snapshot(place) == before
    assert (place / "secret").stat().st_mode & 0o777 == 0o644
    assert "EACCES" not in outside(place, attempt)  # the control: nothing else would have kept it


def test_what_is_made_later_is_denied_as_well(place: Path) -> None:
    denied = ("later", "work/a/b/later")
    attempts = (
        "open('later', 'w')", "os.mkdir('work/a')", "os.mkdir('work/a/b')", "open('work/a/b/later', 'w')",
        "os.symlink('../../../file', 'work/a/b/later')", "os.link('file', 'later')", "os.rename('file', 'later')",
        "open('work/a/b/other', 'w').close()",
    )  # fmt: skip
    assert tried(box(place, *denied), *attempts) == [
        "EACCES", "None", "None", "EACCES", "EACCES", "EACCES", "EACCES", "None",
    ]  # fmt: skip
    (place / "later").write_text("made by somebody else")
    with box(place, "later") as sandbox:
        assert tried(sandbox, "open('later').read()") == ["EACCES"]
        os.unlink(place / "later")
        (place / "later").write_text("another one")
        assert tried(sandbox, "open('later').read()", "os.unlink('later')") == ["EACCES"] * 2
    assert (place / "later").read_text() == "another one"


def test_no_link_is_put_where_the_way_to_a_denied_path_is(place: Path) -> None:
    """Else the host, by the denied name, would find what the program has made."""
    (place / "work" / "fake").mkdir()
    attempts = (
        "os.symlink('fake', 'work/a')", "os.rename('work/fake', 'work/a')", "os.symlink('x', 'work/ab')",
        "os.link('work/ab', 'work/a', follow_symlinks=False)",
    )  # fmt: skip
    assert tried(box(place, "work/a/hooks"), *attempts) == ["EACCES", "EACCES", "None", "EACCES"]
    assert sorted(os.listdir(place / "work")) == ["ab", "fake"]


def test_the_way_to_a_denied_path_is_not_moved(place: Path) -> None:
    (place / "work" / "up").mkdir()
    os.symlink("up/../../tree", place / "work" / "link")
    sandbox = box(place, "work/link/deep")
    attempts = (
        "open('tree/deep/leaf').read()", "open('work/link/deep/leaf').read()", "os.rename('tree', 'mine')",
        "os.unlink('work/link')", "os.rename('work/link', 'mine')", "os.rename('work', 'mine')",
        "os.rename('work/up', 'mine')", "os.rmdir('work/up')", "os.rename('file', 'work/link')",
        "open('tree/inner').read()",
    )  # fmt: skip
    assert tried(sandbox, *attempts) == [*["EACCES"] * 9, "inner"]


def test_the_names_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a").mkdir()
    os.symlink("a/../real", tmp_path / "link")
    os.symlink("link", tmp_path / "link2")
    top = os.path.realpath(tmp_path)
    found = [os.fsdecode(name).removeprefix(top) for name in names_of(os.fsencode(f"{top}/link2/x/y"))]
    assert found == ["/link2/x/y", "/link/x/y", "/a/..", "/real/x/y"]
    os.symlink("loop", tmp_path / "loop")
    assert os.fsencode(f"{top}/loop/x") in names_of(os.fsencode(f"{top}/loop/x"))


def test_a_denial_wins_over_a_grant_inside(place: Path) -> None:
    (place / "granted").write_text("granted")
    shutil.copytree(place / "tree", place / "work" / "tree")
    more = {"fs_readable": [str(place / "tree" / "deep"), str(place / "granted")], "fs_writable": [str(place / "work")]}
    attempts = ("open('tree/deep/leaf').read()", "open('granted').read()")
    assert tried(box(place, "other", **more), *attempts) == ["leaf", "granted"]
    assert tried(box(place, "tree", **more), *attempts) == ["EACCES", "granted"]


def test_a_program_may_start_below_a_denied_directory(place: Path) -> None:
    sandbox = box(place, "tree", cwd=str(place / "tree" / "deep"))
    assert tried(sandbox, "open('leaf').read()", "os.listdir('.')", "open('../../file').read()") == [
        "EACCES", "EACCES", "file",
    ]  # fmt: skip
    assert not box(place, str(place.parent)).run([str(program(place / "program"))]).ok


def test_files_that_are_open_already_stay_open(place: Path) -> None:
    """What the host hands in is the program's; to open it anew is not."""
    attempts = ("os.read(0, 6)", "open('/proc/self/fd/0').read()", "open('/dev/stdin').read()")
    for denied, expected in (("other", "secret"), ("secret", "EACCES")):
        with (place / "secret").open("rb") as file:
            result = box(place, denied).run([sys.executable, "-I", "-S", "-c", TRYING, *attempts], stdin=file)
        assert result.stdout.decode().split() == ["b'secret'", expected, expected]


def test_file_handles_lead_nowhere(place: Path) -> None:
    call = (
        "__import__('ctypes').CDLL(None, use_errno=True).syscall({'x86_64': %d, 'aarch64': %d}[os.uname().machine],"
        " -100, b'secret', 0, 0, 0, 0) or __import__('ctypes').get_errno()"
    )
    code = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
    code += "for numbers in ((303, 264), (304, 265)):\n"
    code += "    libc.syscall(numbers[os.uname().machine == 'aarch64'], -100, b'secret', 0, 0, 0, 0)\n"
    code += "    print(ctypes.get_errno())\n"
    assert box(place, "secret").run([sys.executable, "-I", "-S", "-c", code]).stdout.split() == [b"1", b"1"]
    assert call


# ---- mounts

MOUNTING = """
import os, subprocess, sys
sys.path[:0] = [{tests!r}]
os.chdir({place!r})
for words in {mounts!r}:
    subprocess.run(["mount", *words], check=True)
from test_fs_denied import box, tried
from pathlib import Path
print(tried(box(Path({place!r}), *{denied!r}), *{attempts!r}))
"""


def mounted(place: Path, mounts: list[list[str]], denied: list[str], attempts: list[str]) -> list[str]:
    """What is tried in a sandbox where these mounts have been made, which are gone afterwards."""
    code = MOUNTING.format(tests=TESTS, place=str(place), mounts=mounts, denied=denied, attempts=attempts)
    found = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 0, found.stderr
    return eval(found.stdout)  # type: ignore[no-any-return]


@pytest.mark.needs(root=True, program="unshare")
def test_mounts_give_a_denied_tree_no_other_name(place: Path) -> None:
    for name in ("whole", "part", "other", "empty"):
        (place / name).mkdir()
    binds = [
        ["--bind", str(place), "whole"],
        ["--bind", str(place / "tree/deep"), "part"],
        ["--bind", "work", "tree/deep"],
    ]
    attempts = [
        "open('whole/tree/inner').read()", "open('part/leaf').read()", "open('tree/inner').read()",
        "os.rename('whole/tree', 'whole/mine')", "os.listdir('work')", "os.listdir('tree/deep')",
    ]  # fmt: skip
    assert mounted(place, binds, ["empty"], attempts)[:3] == ["inner", "leaf", "inner"]
    assert mounted(place, binds, ["tree"], attempts) == [*["EACCES"] * 4, "[]", "EACCES"]
    assert (place / "tree" / "inner").exists()


@pytest.mark.needs(root=True, program="unshare")
def test_what_is_at_home_in_a_denied_tree_is_denied_elsewhere(place: Path) -> None:
    for name in ("tree/home", "other"):
        (place / name).mkdir()
    binds = [["-t", "tmpfs", "none", "tree/home"], ["--bind", "tree/home", "other"]]
    assert mounted(place, binds, ["secret"], ["os.listdir('other')"]) == ["[]"]
    assert mounted(place, binds, ["tree"], ["os.listdir('other')"]) == ["EACCES"]


# ---- unix sockets


@pytest.mark.parametrize("denied", ["sockets", "sockets/one", "sockets/hard"])
def test_a_denied_socket_is_not_connected_to(place: Path, denied: str) -> None:
    (place / "sockets").mkdir()
    server = socket.socket(socket.AF_UNIX)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    os.chdir(place)
    server.bind("sockets/one")
    receiver.bind("sockets/dgram")
    server.listen()
    os.link(place / "sockets" / "one", place / "sockets" / "hard")
    os.symlink("sockets/one", place / "link")
    attempts = [f"socket.socket(socket.AF_UNIX).connect({name!r})" for name in ("sockets/one", "sockets/hard", "link")]
    grant = {"net_allow": [f"unix:{place}"], "net_allow_bind": [f"unix:{place}"]}
    with server, receiver:
        assert tried(box(place, "other", **grant), *attempts) == ["None"] * 3
        sandbox = box(place, denied, **grant)
        result = sandbox.run([sys.executable, "-I", "-S", "-c", TRYING, *attempts])
        assert result.stdout.decode().split() == ["EACCES"] * 3
        assert {(each.kind, each.cause, each.rule) for each in result.denials} == {
            ("connect", "rule", f"fs_denied: {place / denied}")
        }
        sending = "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', 'sockets/dgram')"
        assert tried(sandbox, sending) == ["EACCES" if denied == "sockets" else "1"]
    os.chdir(TESTS)


def test_no_socket_is_made_in_a_denied_tree(place: Path) -> None:
    binding = "socket.socket(socket.AF_UNIX).bind(%r)"
    attempts = [binding % "tree/socket", binding % "later", binding % "work/socket"]
    grant = {"net_allow_bind": [f"unix:{place}"]}
    assert tried(box(place, "tree", "later", **grant), *attempts) == ["EACCES", "EACCES", "None"]
    assert not (place / "tree" / "socket").exists()
    assert (place / "work" / "socket").is_socket()


def test_no_socket_is_made_with_a_grant_of_ports_alone(place: Path) -> None:
    """One end of a pair has no name yet, and bind(2) gives it one wherever files may be made."""
    binding = "socket.socketpair()[0].bind(%r)"
    grant = {"net_allow": [":443"]}
    attempts = [binding % "tree/socket", binding % "work/socket"]
    assert tried(box(place, "tree", **grant), *attempts) == ["EACCES", "EACCES"]
    assert not (place / "tree" / "socket").exists()
    with Sandbox(presets=["python"], fs_writable=[str(place)], cwd=str(place), **grant) as control:
        assert tried(control, attempts[0]) == ["None"]
    assert tried(box(place, "tree"), "socket.socket(socket.AF_UNIX)", attempts[0]) == ["EACCES", "EACCES"]
