"""ask_opens: one object for one answer, and no open that waits for a supervisor's task which is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loops import Loop
from test_open_attacks import allow
from test_opens import Vetting, opened, python

from sandlock import Allow, AsyncSandbox, Deny, Open, PolicyError, Result

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]


# ---- one object for one answer


@pytest.mark.parametrize("answer", [Deny("no"), Allow()], ids=["denied", "control"])
def test_what_is_moved_to_where_a_file_was_to_be_made_is_another_question(
    loop: Loop, tmp_path: Path, answer: object
) -> None:
    """New files are fine; the secret, which the program moves there while somebody thinks, is not new."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    inode = secret.stat().st_ino

    def vet(event: Open) -> object:
        if event.creates:
            secret.rename(tmp_path / "new")
            return Allow()
        assert event.identity[:2] == (tmp_path.stat().st_dev, inode)
        return answer

    vetting = Vetting(tmp_path, vet)
    code = "import os; os.write(1, os.read(os.open('new', os.O_RDWR | os.O_CREAT), 99))"
    result = opened(loop, vetting, *python(code))
    assert [(event.path, event.creates) for event in vetting.asked] == [
        (f"{tmp_path}/new", True),
        (f"{tmp_path}/new", False),
    ]
    assert result.stdout == (b"secret" if answer == Allow() else b"")
    assert [denial.cause for denial in result.denials] == ([] if answer == Allow() else ["verdict"])


def test_a_file_that_comes_and_goes_is_not_asked_about_for_ever(loop: Loop, tmp_path: Path) -> None:
    made = tmp_path / "made"

    def vet(event: Open) -> object:
        if event.creates:
            made.write_text("")
        else:
            made.unlink()
        return Allow()

    vetting = Vetting(tmp_path, vet)
    result = opened(loop, vetting, *python("open('made', 'a')"))
    assert b"PermissionError" in result.stderr
    assert [denial.cause for denial in result.denials] == ["changed"]
    assert len(vetting.asked) < 10


SWAPPED = """
import os, time
child = os.fork()
if child == 0:
    try: open("file").read()
    except OSError: pass
    os._exit(0)
while not os.path.exists("asked"): time.sleep(0.02)
os.rename("secret", "file")
try: print(open("file").read())
except OSError: print("denied")
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("denies", [True, False], ids=["denied", "control"])
def test_one_answer_does_not_do_for_two_files_with_one_name(loop: Loop, tmp_path: Path, denies: bool) -> None:
    """The callback judges by what is in the file, and takes its time; meanwhile another file gets the name."""
    (tmp_path / "file").write_text("public")
    (tmp_path / "secret").write_text("secret")
    seen = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if not isinstance(event, Open) or event.path != f"{tmp_path}/file":
            return Allow()
        text = (tmp_path / "file").read_text()
        seen.append(text)
        (tmp_path / "asked").touch()
        await loop.sleep(0.5)
        return Deny() if denies and text == "secret" else Allow()

    result = opened(loop, vet, *python(SWAPPED), place=tmp_path)
    assert seen == ["public", "secret"]
    assert result.stdout == (b"denied\n" if denies else b"secret\n")


def test_to_make_a_file_without_a_name_is_not_to_read_the_directory(loop: Loop, tmp_path: Path) -> None:
    """An approval of the one, for the rest of the run, is none of the other."""
    place = tmp_path / "place"
    place.mkdir()
    vetting = Vetting(tmp_path, lambda event: Allow(scope="run") if event.creates else Deny())
    code = (
        "import os\n"
        "for flags in (os.O_WRONLY | os.O_TMPFILE, os.O_WRONLY | os.O_TMPFILE, os.O_RDONLY):\n"
        "    try: os.listdir(os.open('place', flags)) if flags == os.O_RDONLY else os.open('place', flags)\n"
        "    except PermissionError: print('denied')\n"
    )
    assert opened(loop, vetting, *python(code)).stdout == b"denied\n"
    assert [event.creates for event in vetting.asked] == [True, False]  # the second one was approved


# ---- who cannot be looked at, and who is gone


@pytest.mark.needs(root=True)
@pytest.mark.parametrize(("count", "said"), [(4000, b"denied\n"), (0, b"opened\n")], ids=["many", "control"])
def test_a_caller_in_too_many_groups_is_denied(loop: Loop, tmp_path: Path, count: int, said: bytes) -> None:
    """Its status is longer than what is read of it: it has to be answered nevertheless."""
    (tmp_path / "file").write_text("")
    code = (
        "import os, sys\n"
        f"if {count}: os.setgroups(range({count}))\n"
        "try: os.open('file', os.O_RDONLY)\n"
        "except PermissionError: print('denied')\n"
        "else: print('opened')\n"
    )
    result = opened(loop, allow, *python(code), place=tmp_path, keep_capabilities=["SETGID"])
    assert (result.stdout, result.exit_code) == (said, 0)


def openers() -> list[int]:
    """The tasks of ours that open for somebody."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
            except OSError:
                continue
            if status.startswith("Name:\tsandlock-open\n") and f"\nPPid:\t{os.getpid()}\n" in status:
                found.append(int(entry.name))
    return found


async def run_and_kill(loop: Loop, place: Path, code: str, times: int) -> tuple[Result, int]:
    """A run whose openers are killed, and how many there were."""
    killed = 0
    async with (
        AsyncSandbox(
            presets=["python"], fs_writable=[str(place)], cwd=str(place), policy_fn=allow, ask_opens="all"
        ) as box,
        box.start(list(python(code))) as process,
    ):
        for _ in range(times):
            await loop.sleep(0.4)
            for pid in openers():
                os.kill(pid, signal.SIGKILL)
                killed += 1
        return await process.wait(), killed


def test_openers_that_are_killed_are_replaced(loop: Loop, tmp_path: Path) -> None:
    code = (
        "import time\n"
        "until = time.monotonic() + 3\n"
        "fine = 0\n"
        "while time.monotonic() < until:\n"
        "    try: open('file', 'a').close(); fine += 1\n"
        "    except OSError: pass\n"
        "    time.sleep(0.02)\n"
        "raise SystemExit(7 if fine > 40 else 1)\n"
    )
    result, killed = loop.run(lambda: run_and_kill(loop, tmp_path, code, 6))
    assert killed >= 6
    assert result.exit_code == 7


def test_an_open_ends_with_its_opener(loop: Loop, tmp_path: Path) -> None:
    """Nobody else opens anything meanwhile: it is found nevertheless, and denied."""
    os.mkfifo(tmp_path / "fifo")
    code = "import os\ntry: os.open('fifo', os.O_RDONLY)\nexcept PermissionError: raise SystemExit(7)"
    result, killed = loop.run(lambda: run_and_kill(loop, tmp_path, code, 1))
    assert killed >= 1
    assert result.exit_code == 7
    assert {denial.cause for denial in result.denials} == {"nobody-listens"}


def test_what_gives_descriptors_of_files_past_the_question_is_refused(loop: Loop, tmp_path: Path) -> None:
    """fanotify(7), with a capability, opens whatever others use."""
    options = {"extra_allow_syscalls": ["file_events"], "keep_capabilities": ["SYS_ADMIN"]}
    with pytest.raises(PolicyError, match="fanotify"):
        opened(loop, allow, "/bin/true", place=tmp_path, **options)
    assert opened(loop, allow, "/bin/true", place=tmp_path, which=None, **options).exit_code == 0


ORPHANS = """
import ctypes, os, sys, time
import trio
from sandlock import Allow, AsyncSandbox
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER, as process 1 of a container is
place, code = sys.argv[1:]

async def allow(event, box):
    return Allow()

async def main():
    async with AsyncSandbox(
        presets=["python"], fs_writable=[place], cwd=place, policy_fn=allow, ask_opens="all"
    ) as box:
        return await box.run([sys.executable, "-I", "-S", "-c", code])

for _ in range(3):
    assert trio.run(main).exit_code == 0
time.sleep(0.2)
children = [line.split() for line in open("/proc/self/task/%d/children" % os.getpid())]
try:
    print(os.waitpid(-1, os.WNOHANG | 0x40000000), children)
except ChildProcessError:
    print("none", children)
"""


def test_blocked_opens_leave_the_host_no_children(tmp_path: Path) -> None:
    """They end with their opener, in whatever order: a host that gets the orphans would have to reap them."""
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import os, time\nfor _ in range(40):\n    if os.fork() == 0: os.open('fifo', os.O_RDONLY)\ntime.sleep(0.3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS, str(tmp_path), code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "none", done.stdout
