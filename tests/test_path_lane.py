"""Files that the supervisor opens for the program: what the host must not feel, and who must not wait for whom."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandlock import Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19))]
SYSTEM = ["/usr", "/lib", "/lib64", "/bin", "/etc"]


def box(place: Path) -> Sandbox:
    """With the denial of something that is not there, which has the supervisor open all files."""
    return Sandbox(
        fs_readable=[path for path in SYSTEM if os.path.exists(path)],
        fs_devices=["/dev/null"],
        fs_writable=[str(place)],
        fs_denied=[str(place / "denied")],
        cwd=str(place),
    )


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock of fcntl(2) on it, as another process sees it."""
    code = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'r+') as file:\n"
        "    try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except OSError: sys.exit(7)\n"
    )
    return subprocess.run([sys.executable, "-I", "-S", "-c", code, str(path)], check=False).returncode == 7


def test_the_hosts_locks_outlive_opens_of_the_program(tmp_path: Path) -> None:
    """fcntl(2): a process loses its locks on a file when it closes any descriptor of it. The supervisor opens and
    closes this file in a table that is not the host's."""
    path = tmp_path / "database"
    path.write_text("x")
    with path.open("r+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        assert is_locked(path)
        with box(tmp_path) as sandbox:
            result = sandbox.run(["/bin/sh", "-c", "for i in 1 2 3; do cat database; echo y >> database; done"])
        assert result.ok, result.stderr
        assert is_locked(path)
        os.close(os.open(path, os.O_RDONLY))  # the control: this is what must not have happened
        assert not is_locked(path)
    assert path.read_text() == "xy\ny\ny\n"


def test_the_host_keeps_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    with box(tmp_path) as sandbox:
        with sandbox.start(["/bin/sh", "-c", "cat file; echo > there; exec sleep 30"]) as process:
            deadline = time.monotonic() + 20
            while not (tmp_path / "there").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.kill()
        assert sandbox.run(["/bin/cat", "file"]).ok
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_waits_for_a_fifo_delays_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("hello")
    script = (
        "cat fifo > got &"
        " for i in 1 2 3 4 5 6 7 8 9 10; do cat file > copy; done;"
        " echo all > done; wait"
    )  # fmt: skip
    with box(tmp_path) as sandbox, sandbox.start(["/bin/sh", "-c", script]) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "done").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "got").read_text() == ""  # it still waits
        with (tmp_path / "fifo").open("w") as fifo:
            fifo.write("news")
        assert process.wait().ok
    assert (tmp_path / "got").read_text() == "news"


def test_a_lease_makes_its_file_wait_and_no_other(tmp_path: Path) -> None:
    """fcntl(2), F_SETLEASE: an open waits until the lease is given up."""
    leased = tmp_path / "leased"
    leased.write_text("hello")
    (tmp_path / "file").write_text("x")
    held = os.open(leased, os.O_RDWR)
    broken = threading.Event()
    before = signal.signal(signal.SIGIO, lambda *_: broken.set())
    try:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        script = "cat leased > got & for i in 1 2 3; do cat file > copy; done; echo all > done; wait"
        with box(tmp_path) as sandbox, sandbox.start(["/bin/sh", "-c", script]) as process:
            deadline = time.monotonic() + 20
            while not ((tmp_path / "done").exists() and broken.is_set()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert (tmp_path / "got").read_text() == ""
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert process.wait().ok
    finally:
        signal.signal(signal.SIGIO, before)
        os.close(held)
    assert (tmp_path / "got").read_text() == "hello"


def test_modes_and_owners_of_new_files_are_the_callers(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with box(tmp_path) as sandbox:
            result = sandbox.run(["/bin/sh", "-c", "umask 027; echo > a; mkdir b; umask 0; echo > c; mkdir d"])
    finally:
        os.umask(before)
    assert result.ok, result.stderr
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in "abcd"}
    assert modes == {"a": 0o640, "b": 0o750, "c": 0o666, "d": 0o777}
    assert os.umask(before) == before  # the host's is its own
