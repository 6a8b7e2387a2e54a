"""chdir made another call: the caller sees nothing of it but the directory, whatever else happens to it.

The guest (programs/redirected.c) looks at itself; that its supervisor is what changed the directory is sure, for the
paths that it names lead nowhere, or elsewhere.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs.tools import guest

from sandlock import _redirect
from sandlock._memory import ABI

pytestmark = pytest.mark.needs(kernel=(5, 19), program="gcc")
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
RESPONSE = struct.Struct("=QqiI")
CONTINUE = 1


class Supervised:
    """A guest, and who answers it: with the directories that its paths stand for."""

    unopened = False
    kill_after = 0.0
    """Seconds from its first call on."""

    def __init__(self, scenario: str, count: int, places: dict[str, int], expected: int = 0) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            words = [guest("redirected"), str(theirs.fileno()), scenario, str(count), *places, str(expected)]
            self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
            theirs.close()
            _, control, *_ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        self.listener = array.array("i", control[0][2])[0] if control else -1
        self.places = {path.encode(): directory for path, directory in places.items()}
        self.results: list[int] = []
        self.trapped = 0

    def receive(self) -> bytes:
        """The next notification, nothing at the end."""
        while True:
            buffer = bytearray(NOTIFICATION.size)
            try:
                fcntl.ioctl(self.listener, ABI["SECCOMP_IOCTL_NOTIF_RECV"], buffer)
                return bytes(buffer)
            except OSError as error:
                if error.errno == errno.ENOENT and self.process.poll() is not None:
                    return b""

    def continue_(self, identity: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # it was killed
            fcntl.ioctl(self.listener, ABI["SECCOMP_IOCTL_NOTIF_SEND"], RESPONSE.pack(identity, 0, 0, CONTINUE))

    def serve(self) -> None:
        """Answers until the guest ends."""
        while notification := self.receive():
            identity, pid, _, _, _, _, address, *_ = NOTIFICATION.unpack(notification)
            if _redirect.expects(notification):
                self.trapped += 1
                self.continue_(identity)
            elif self.is_chdir(notification):
                self.answer(identity, pid, address)
            else:
                self.continue_(identity)

    def is_chdir(self, notification: bytes) -> bool:
        number = NOTIFICATION.unpack(notification)[3]
        return number == {"x86_64": 80, "aarch64": 49}[os.uname().machine]

    def answer(self, identity: int, pid: int, address: int) -> None:
        if self.kill_after:
            threading.Timer(self.kill_after, os.kill, (pid, signal.SIGKILL)).start()
            self.kill_after = 0.0
        try:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(address)
                path = memory.read(256).split(b"\0")[0]
        except OSError:
            path = b""
        if path not in self.places:  # it was killed
            return
        self.results.append(_redirect.lead(self.listener, identity, pid, self.places[path], self.unopened))

    def end(self) -> tuple[int, bytes]:
        """How the guest ended, and what it complained of."""
        _, complaint = self.process.communicate(timeout=60)
        os.close(self.listener)
        return self.process.returncode, complaint


class Apart(Supervised):
    """Its calls are led by another thread: the first one sees what it has trapped in the meantime."""

    def answer(self, identity: int, pid: int, address: int) -> None:
        self.thread = threading.Thread(target=super().answer, args=(identity, pid, address))
        self.thread.start()

    def end(self) -> tuple[int, bytes]:
        self.thread.join()
        return super().end()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Two directories, open as a mere place (O_PATH)."""
    found = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found[str(tmp_path / name)] = os.open(tmp_path / name, os.O_PATH)
    yield found
    for descriptor in found.values():
        os.close(descriptor)


def ran(scenario: str, count: int, places: dict[str, int], expected: int = 0) -> Supervised:
    supervised = (Apart if scenario == "trapped" else Supervised)(scenario, count, places, expected)
    supervised.serve()
    assert supervised.end() == (0, b"")
    assert set(supervised.results) == {0}
    return supervised


@pytest.mark.parametrize("scenario", ["plain", "signals", "stops", "thread", "threads", "vfork", "trapped"])
def test_nothing_but_the_directory_changes(scenario: str, places: dict[str, int]) -> None:
    supervised = ran(scenario, 200, places)
    assert len(supervised.results) == (400 if scenario == "threads" else 200)
    assert supervised.trapped == (400 if scenario == "trapped" else 0)


@pytest.mark.parametrize("scenario", ["plain", "signals", "stops", "thread", "threads", "vfork", "trapped"])
def test_nor_where_the_directory_cannot_be_opened(
    scenario: str, places: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be entered, but not read. (Root may read all: it is told to do as if it could not.)"""
    monkeypatch.setattr(Supervised, "unopened", os.getuid() == 0)
    for path in places:
        os.chmod(path, 0o111)
    supervised = ran(scenario, 100, places)
    assert supervised.trapped == (600 if scenario == "trapped" else 0)


def test_what_cannot_be_entered_is_an_error(places: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_PATH)
    try:
        supervised = Supervised("plain", 1, {str(tmp_path / "file"): descriptor, "unused": descriptor}, -errno.ENOTDIR)
        notification = supervised.receive()
        identity, pid, *_ = NOTIFICATION.unpack(notification)
        assert _redirect.lead(supervised.listener, identity, pid, descriptor) == -errno.ENOTDIR
        # Nothing has happened: it waits for an answer, and nobody traces it.
        assert "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text()
        answer = RESPONSE.pack(identity, 0, -errno.ENOTDIR, 0)
        fcntl.ioctl(supervised.listener, ABI["SECCOMP_IOCTL_NOTIF_SEND"], answer)
        supervised.serve()
        assert supervised.end() == (0, b"")
    finally:
        os.close(descriptor)


def test_a_full_table_is_an_error(places: dict[str, int]) -> None:
    ran("full", 1, places, -errno.EMFILE)


def test_a_caller_that_dies_is_let_go(places: dict[str, int]) -> None:
    """Killed over and over, in the middle: the supervisor never waits for a dead one, and its parent hears of it."""
    for delay in range(60):
        supervised = Supervised("child", 1000000, places)
        supervised.kill_after = 0.001 + delay * 0.0002
        supervised.serve()
        assert supervised.end() == (128 + signal.SIGKILL, b"")
    assert supervised.results


def test_a_supervisor_that_dies_takes_its_caller_along(places: dict[str, int]) -> None:
    """Killed in the middle, it leaves a caller that is as it was, or none."""
    for delay in range(60):
        supervised = Supervised("child", 1000000, places)
        parent = supervised.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children")
        while not children.read_text():
            pass
        first = os.fork()
        if first == 0:
            with contextlib.suppress(BaseException):
                supervised.serve()
            os._exit(0)
        threading.Event().wait(0.001 + delay * 0.0002)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        for caller in children.read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{caller}/status").read_text()
                if "SigBlk:\t0000000000000000\n" in status:  # it was not touched, or is as it was; else it is dying
                    assert "TracerPid:\t0\n" in status
                    os.kill(int(caller), signal.SIGKILL)  # it would wait for its dead supervisor
        assert supervised.end() == (128 + signal.SIGKILL, b"")
