"""ask_opens: opens of the tree are asked about, and what was judged is what is opened. Judged by files outside."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpf
import pytest
from loops import Loop
from planned import ARCHES, ENOSYS, a_host

from sandlock import Allow, AsyncSandbox, Deny, Kill, Open, PolicyError, Result, Sandbox, syscalls
from sandlock._plan import plan
from sandlock.policy import Policy

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
TESTS = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(TESTS, "open_program.py")


class Vetting:
    """Answers about opens below `place` by `answer(event)`, allows all else, and keeps what it was asked."""

    def __init__(self, place: Path, answer: Callable[[Open], object] = lambda event: Allow()) -> None:
        self.place = f"{place}/"
        self.answer = answer
        self.asked: list[Open] = []

    async def __call__(self, event: Any, box: AsyncSandbox) -> object:
        if not isinstance(event, Open) or not event.path.startswith(self.place):
            return Allow()
        self.asked.append(event)
        return self.answer(event)

    @property
    def paths(self) -> list[str]:
        return [event.path.removeprefix(self.place) for event in self.asked]


def opened(
    loop: Loop, vetting: Any, *argv: str, which: str | None = "all", place: Path | None = None, **more: Any
) -> Result:
    """A run with write access to the place, whose opens `vetting` decides."""
    where = str(place or vetting.place).rstrip("/")
    options: dict[str, Any] = {"presets": ["python"], "fs_writable": [where], "cwd": where, **more}

    async def main() -> Result:
        async with AsyncSandbox(policy_fn=vetting, ask_opens=which, **options) as box:
            return await box.run(list(argv), timeout=60)

    return loop.run(main)  # type: ignore[no-any-return]


def python(code: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code, *words)


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


# ---- what is asked


def test_an_open_is_asked_about_with_its_facts(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    (tmp_path / "link").symlink_to("file")
    vetting = Vetting(tmp_path)
    code = (
        "import os\n"
        "os.open('link', os.O_RDONLY | os.O_CLOEXEC)\n"
        "os.open('made', os.O_RDWR | os.O_CREAT, 0o640)\n"
        "os.open('./file', os.O_WRONLY | os.O_TRUNC)\n"
        "os.open('.', os.O_RDWR | os.O_TMPFILE)\n"
        "os.open('.', os.O_PATH)\n"
    )
    vetting.place = str(tmp_path)
    result = opened(loop, vetting, *python(code))
    assert (result.exit_code, result.stderr, result.denials) == (0, b"", ())
    link, made, file, temporary = vetting.asked
    assert (link.path, link.named, link.exists) == (f"{tmp_path}/file", "link", True)
    assert (link.reads, link.writes, link.creates, link.truncates) == (True, False, False, False)
    assert link.flags & os.O_CLOEXEC
    assert (made.path, made.exists, made.mode) == (f"{tmp_path}/made", False, 0o640)
    assert (made.reads, made.writes, made.creates, made.truncates) == (True, True, True, False)
    assert (file.named, file.reads, file.writes, file.truncates) == ("./file", False, True, True)
    assert (temporary.path, temporary.writes, temporary.creates) == (str(tmp_path), True, True)
    assert (link.syscall, link.category, link.binding, link.run) == ("openat", "file", "fd", result.run_id)
    assert link.pid == link.tid == made.pid
    assert link.target == link.path


def test_only_what_could_write_is_asked_about(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "read").write_text("hello")
    (tmp_path / "write").write_text("hello")
    vetting = Vetting(tmp_path, lambda event: Deny("no"))
    result = opened(loop, vetting, *shell("cat read; echo x > made; echo y >> write"), which="write")
    assert result.stdout == b"hello"
    assert vetting.paths == ["made", "write"]
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "write").read_text() == "hello"


def test_openat2_is_asked_about_by_its_flags(loop: Loop, tmp_path: Path) -> None:
    """They lie in memory, so the supervisor makes those that only read as well; but nobody is asked."""
    (tmp_path / "file").write_text("hello")
    vetting = Vetting(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from open_program import openat2\n"
        "import os\n"
        "print(os.read(openat2('file', 0), 9), openat2('file', os.O_RDWR) > 2)"
    )
    options = {"fs_readable": [TESTS], "which": "write"}
    assert opened(loop, vetting, sys.executable, "-B", "-c", code, **options).stdout == b"b'hello' True\n"
    assert [(event.syscall, event.writes) for event in vetting.asked] == [("openat2", True)]


def test_what_the_kernel_refuses_is_not_asked_about(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "closed").write_text("hello")
    (tmp_path / "closed").chmod(0)
    vetting = Vetting(tmp_path)
    code = (
        "import os, errno\n"
        "for path, flags in (('none', 0), ('closed', 0), ('.', 1), ('closed/x', 0),\n"
        "                    ('closed', os.O_CREAT | os.O_EXCL), ('x' * 300, 0), ('closed', os.O_DIRECTORY),\n"
        "                    ('none/x', os.O_CREAT)):\n"
        "    try:\n"
        "        os.open(path, flags)\n"
        "    except OSError as error:\n"
        "        print(errno.errorcode[error.errno])\n"
    )
    result = opened(loop, vetting, *python(code))
    assert result.stdout.split() == [
        *(b"ENOENT", b"EACCES", b"EISDIR", b"ENOTDIR", b"EEXIST", b"ENAMETOOLONG", b"ENOTDIR", b"ENOENT")
    ]
    assert vetting.paths == []
    assert result.denials == ()


def raise_error(event: Open) -> object:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("answer", "cause", "text"),
    [
        (lambda event: Deny("not here", 1), "verdict", b"Operation not permitted"),
        (lambda event: Deny(), "verdict", b"Permission denied"),
        (lambda event: None, "no-opinion", b"Permission denied"),
        (lambda event: True, "callback-error", b"Permission denied"),
        (raise_error, "callback-error", b"Permission denied"),
    ],
)
def test_whatever_does_not_allow_denies(loop: Loop, tmp_path: Path, answer: Any, cause: str, text: bytes) -> None:
    (tmp_path / "file").write_text("hello")
    before = (tmp_path / "file").stat()
    vetting = Vetting(tmp_path, answer)
    result = opened(loop, vetting, "dd", "if=/dev/zero", "of=file", "bs=9", "count=1")
    assert text in result.stderr
    (denial,) = result.denials
    assert (denial.kind, denial.target, denial.cause, denial.fix) == ("open", f"{tmp_path}/file", cause, "")
    after = (tmp_path / "file").stat()
    assert (tmp_path / "file").read_text() == "hello"
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    allowed = opened(loop, Vetting(tmp_path), "dd", "if=/dev/zero", "of=file", "bs=9", "count=1")  # the control
    assert allowed.exit_code == 0
    assert (tmp_path / "file").read_bytes() == bytes(9)


def test_a_kill_ends_the_process(loop: Loop, tmp_path: Path) -> None:
    vetting = Vetting(tmp_path, lambda event: Kill("enough"))
    result = opened(loop, vetting, *shell("/bin/sh -c 'echo x > made; echo still here'; echo $?"))
    assert result.stdout == b"137\n"
    assert not (tmp_path / "made").exists()


def test_no_answer_in_time_denies(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Open) and event.path == f"{tmp_path}/made":
            await loop.sleep(30)
        return Allow()

    started = time.monotonic()
    result = opened(loop, vet, *shell("echo x > made"), which="write", place=tmp_path, policy_timeout=0.3)
    assert time.monotonic() - started < 10
    assert [denial.cause for denial in result.denials] == ["timeout"]
    assert not (tmp_path / "made").exists()


def test_a_timeout_may_allow(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Open) and event.path == f"{tmp_path}/made":
            await loop.sleep(30)
        return Allow()

    options = {"policy_timeout": 0.3, "on_timeout": Allow()}
    result = opened(loop, vet, *shell("echo x > made"), which="write", place=tmp_path, **options)
    assert (result.exit_code, result.denials) == (0, ())
    assert (tmp_path / "made").read_text() == "x\n"


def test_sync_code_is_asked_too(tmp_path: Path) -> None:
    def vet(event: Any, box: Any) -> object:
        return Deny("no") if isinstance(event, Open) and event.writes else Allow()

    with Sandbox(presets=["system"], fs_writable=[str(tmp_path)], policy_fn=vet, ask_opens="write") as box:
        result = box.run(["/bin/sh", "-c", f"echo x > {tmp_path}/made"])
    assert [(denial.kind, denial.target) for denial in result.denials] == [("open", f"{tmp_path}/made")]


def test_a_pending_question_keeps_nobody_waiting(loop: Loop, tmp_path: Path) -> None:
    """Twenty opens wait for their answers; another process opens and executes meanwhile."""

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Open) and event.path.startswith(f"{tmp_path}/slow"):
            await loop.sleep(1.5)
        return Allow()

    script = "i=0; while [ $i -lt 20 ]; do (echo x > slow$i) & i=$((i + 1)); done; date +%s.%N > now; wait"
    started = time.time()
    result = opened(loop, vet, *shell(script), place=tmp_path)
    assert result.exit_code == 0
    assert float((tmp_path / "now").read_text()) < started + 1.4
    assert sum((tmp_path / f"slow{i}").exists() for i in range(20)) == 20


# ---- approvals


def test_an_access_is_approved_for_the_whole_run(loop: Loop, tmp_path: Path) -> None:
    for name in ("read", "written", "other"):
        (tmp_path / name).write_text("hello")
    vetting = Vetting(tmp_path, lambda event: Allow(scope="run"))
    code = (
        "import os\n"
        "for path, flags in (('read', 0), ('read', 0), ('./read', 0), ('read', 1), ('read', 2), ('read', 0),\n"
        "                    ('written', 2), ('written', 0), ('written', 1 | os.O_TRUNC), ('other', 0)):\n"
        "    os.close(os.open(path, flags))\n"
    )
    assert opened(loop, vetting, *python(code)).exit_code == 0
    asked = [(name, event.reads, event.writes) for name, event in zip(vetting.paths, vetting.asked, strict=True)]
    assert asked == [
        ("read", True, False),
        ("read", False, True),  # reading was approved, not writing
        ("written", True, True),
        ("other", True, False),
    ]


def test_an_approval_is_of_the_file_and_not_of_its_name(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two")
    vetting = Vetting(tmp_path, lambda event: Allow(scope="run"))
    code = (
        "import os\n"
        "print(open('one').read())\n"
        "os.rename('two', 'one')\n"
        "print(open('one').read())\n"
        "for _ in range(3):\n"  # the same number of the inode, on most file systems
        "    os.unlink('one')\n"
        "    os.close(os.open('one', os.O_RDONLY | os.O_CREAT))\n"
        "    os.close(os.open('one', os.O_RDONLY))\n"
    )
    result = opened(loop, vetting, *python(code))
    assert result.stdout == b"one\ntwo\n"
    # Making it in this directory by this name was approved at the first time.
    assert [(event.exists, event.creates) for event in vetting.asked] == [
        *[(True, False)] * 2, (False, True), *[(True, False)] * 3,
    ]  # fmt: skip


def test_an_approval_for_the_sandbox_holds_in_all_its_runs(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    vetting = Vetting(tmp_path, lambda event: Allow(scope="sandbox"))

    async def main() -> list[Result]:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[str(tmp_path)], policy_fn=vetting, ask_opens="all"
        ) as box:
            return [await box.run(["cat", f"{tmp_path}/file"]) for _ in range(3)]

    assert [result.stdout for result in loop.run(main)] == [b"hello"] * 3
    assert vetting.paths == ["file"]


# ---- policies


def test_opens_are_asked_about_only_where_somebody_answers() -> None:
    with pytest.raises(PolicyError, match="nobody to ask"):
        Sandbox(presets=["system"], ask_opens="write")


def test_what_opens_past_the_filter_is_refused() -> None:
    with pytest.raises(PolicyError, match="io_uring"):
        Sandbox(
            presets=["system"], ask_opens="all", extra_allow_syscalls=["io_uring"], policy_fn=lambda event, box: Allow()
        )


@pytest.mark.parametrize("arch", ARCHES)
def test_the_filter_lets_pass_what_needs_no_question(arch: str) -> None:
    def filtered(which: str) -> Callable[..., int]:
        made = plan(Policy.of(presets="system", ask_opens=which), a_host(arch=arch), vet=True)
        code = bpf.load(made.filter)
        return lambda name, *words: bpf.run(code, bpf.data(syscalls.number(name, arch) or 0, arch, words))

    write, every = filtered("write"), filtered("all")
    names = ("openat", "open") if arch == "x86_64" else ("openat",)
    for name in names:
        place = (0, 0) if name == "openat" else (0,)
        for flags in (0, os.O_CLOEXEC, os.O_DIRECTORY | os.O_NOFOLLOW, os.O_NONBLOCK, os.O_EXCL, os.O_NOCTTY):
            assert (write(name, *place, flags), every(name, *place, flags)) == (bpf.ALLOW, bpf.NOTIFY)
        for flags in (
            1,
            2,
            3,
            os.O_CREAT,
            os.O_TRUNC,
            os.O_APPEND,
            os.O_TMPFILE,
            os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
        ):
            assert write(name, *place, flags) == every(name, *place, flags) == bpf.NOTIFY
            assert write(name, *place, 1 << 32 | flags) == bpf.NOTIFY  # of an int the kernel reads the lower half
            for chosen in (write, every):
                assert chosen(name, *place, flags | os.O_PATH) == bpf.ALLOW
        assert every(name, *place, os.O_PATH << 32) == bpf.NOTIFY
    for chosen in (write, every):
        assert chosen("openat2", 0, 0, 0, 24) == bpf.NOTIFY
        assert chosen("landlock_restrict_self", 3, 0) == ENOSYS
        if arch == "x86_64":
            assert chosen("creat", 0, 0) == bpf.NOTIFY


@pytest.mark.parametrize("word", ["", "read", "ALL", "write,all", 1, True, ["all"]])
def test_other_words_are_refused(word: Any) -> None:
    with pytest.raises(PolicyError, match="ask_opens"):
        Policy.of(ask_opens=word)


def test_a_program_cannot_confine_itself_further(loop: Loop, tmp_path: Path) -> None:
    """Its own Landlock domain would not hold for opens that the supervisor makes; it is told that there is none."""
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall(444, 0, 0, 1), ctypes.get_errno())"
    )
    assert opened(loop, Vetting(tmp_path), *python(code)).stdout == b"-1 38\n"
    control = opened(loop, Vetting(tmp_path), *python(code), which=None).stdout
    assert int(control.split()[0]) >= 6


# ---- what comes of an open is what came of it before


def said(place: Path, which: str | None) -> list[str]:
    """What the program says of all its opens, in a directory that is fresh and has always the same name."""
    work = place / "work"
    work.mkdir()

    def vet(event: Any, box: Any) -> object:
        return Allow()

    with Sandbox(
        presets=["python"], fs_readable=[TESTS], fs_writable=[str(work)], cwd=str(work), policy_fn=vet, ask_opens=which
    ) as box:
        result = box.run([sys.executable, "-B", PROGRAM], timeout=100)
    assert (result.exit_code, result.stderr) == (0, b"")
    assert {denial.kind for denial in result.denials} <= {"open"}
    (work / "closed-dir").chmod(0o700)
    shutil.rmtree(work)
    return result.stdout.decode().splitlines()


def is_known(line: str) -> bool:
    """Two things are refused otherwise than the kernel does it: both are said in the documents."""
    tmpfile_in_procfs = "tmpfile" in line and "/proc/" in line
    return tmpfile_in_procfs or "dangling no-xdev w|creat" in line


@pytest.mark.slow
@pytest.mark.parametrize("which", ["all", "write"])
def test_every_way_to_open_has_the_same_result(tmp_path: Path, which: str) -> None:
    before, after = said(tmp_path, None), said(tmp_path, which)
    assert len(before) > 4000
    for one, other in zip(before, after, strict=True):
        assert one == other or is_known(one)


# ---- the descriptor


def test_openat2_cannot_hand_over_a_pinned_object(loop: Loop, tmp_path: Path) -> None:
    """SECCOMP_IOCTL_NOTIF_ADDFD takes no O_PATH: there is no openat2 for that, and programs use openat instead."""
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from open_program import openat, openat2, said\n"
        "import os\n"
        "for action in (lambda: openat2('.', os.O_PATH), lambda: openat2('.', 0), lambda: openat('.', os.O_PATH)):\n"
        "    print(said(action))\n"
    )
    options = {"fs_readable": [TESTS]}
    words = opened(loop, Vetting(tmp_path), sys.executable, "-B", "-c", code, **options).stdout.split()
    assert words[0] == b"ENOSYS"
    assert words.count(f"'{tmp_path}'".encode()) == 2


def test_locks_of_the_host_stay(loop: Loop, tmp_path: Path) -> None:
    """Closing any descriptor of a file drops all locks that the process has on it (fcntl(2)): none of the host's."""
    path = tmp_path / "file"
    path.write_text("hello")
    probe = (
        f"import fcntl\nfile = open({str(path)!r}, 'r+')\n"
        "try:\n    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    print('free')\n"
        "except OSError:\n    print('locked')\n"
    )
    with open(path, "r+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        assert opened(loop, Vetting(tmp_path), *shell("cat file; echo x >> file; cat file")).exit_code == 0
        assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True).stdout == b"locked\n"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True).stdout == b"free\n"


def test_the_host_holds_nothing_of_them(loop: Loop, tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / str(i)).write_text("x")
    counts = []

    def answer(event: Open) -> object:
        counts.append(len(os.listdir("/proc/self/fd")))
        return Allow()

    code = "kept = [open(str(i % 50), 'r+') for i in range(300)]"
    assert opened(loop, Vetting(tmp_path, answer), *python(code)).exit_code == 0
    assert len(counts) == 300
    assert max(counts) - min(counts) <= 2


# ---- real programs


@pytest.fixture
def programs() -> None:
    missing = [name for name in ("git", "gcc") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not here: {missing}")


@pytest.mark.slow
@pytest.mark.needs("program")
@pytest.mark.parametrize("which", ["all", "write"])
@pytest.mark.parametrize(
    ("script", "made"),
    [
        (
            "git init -q repo; cd repo; echo x > file; git add file; "
            "git -c user.name=n -c user.email=e commit -qm m; git log",
            "repo/.git/HEAD",
        ),
        ("echo 'int main(void) { return 0; }' > main.c; gcc -O2 -o main main.c && ./main", "main"),
        ("python3 -c 'import json, tempfile; f = tempfile.NamedTemporaryFile(dir=\".\"); print(f)' > made", "made"),
        ("mkdir a; (seq 2000 | sort -R > a/list); tar cf all.tar a; rm -r a; tar xf all.tar; wc -l < a/list", "a/list"),
    ],
)  # fmt: skip
def test_real_programs_do_not_notice(
    loop: Loop, tmp_path: Path, programs: None, which: str, script: str, made: str
) -> None:
    options = {"presets": ["git", "build", "python"], "env": {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}}
    result = opened(loop, Vetting(tmp_path), *shell(f"set -e; {script}"), which=which, **options)
    assert (result.exit_code, result.denials) == (0, ()), result.stderr
    assert (tmp_path / made).exists()


# ---- the record


def test_decisions_are_on_record(loop: Loop, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    vetting = Vetting(work, lambda event: Deny("not that") if event.path.endswith("two") else Allow(scope="run"))
    script = "echo x > one; echo y > one; echo z > one; echo x > two"
    opened(loop, vetting, *shell(script), which="write", audit=tmp_path / "audit")
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    found = [
        (line["target"], line["decision"], line["cause"], line["binding"], line["reason"])
        for line in lines
        if line["record"] == "decision" and line["kind"] == "open"
    ]
    one, two = f"{work}/one", f"{work}/two"
    allowed = "the callback allowed it"
    assert [each[:4] for each in found] == [
        (one, "allow", "verdict", "fd"),
        (one, "allow", "verdict", "fd"),  # now it exists
        (one, "allow", "approved", "fd"),
        (two, "deny", "verdict", "fd"),
    ]
    assert (found[0][4], found[3][4]) == (allowed, "not that")
