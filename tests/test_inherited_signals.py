"""What a program inherits of the host's signals: what is ignored stays ignored, no handler and no mask reaches it.

With and without clone3(2), which old kernels and containers' filters lack.
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from sandlock import _filter

CLONE3 = 435  # on every architecture: asm-generic/unistd.h

HOST = """
import ctypes, signal, struct, sys
from sandlock import Sandbox
program = bytes.fromhex(sys.argv[1])
if program:
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program)
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, fprog, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
    assert libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == 38
fired = []
signal.signal(signal.SIGUSR1, lambda *_: fired.append(1))
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
result = Sandbox(presets=["system"], fs_data=["/proc"]).run(["cat", "/proc/self/status"], check=True)
for line in result.stdout.decode().splitlines():
    if line.startswith("Sig"):
        print(line)
signal.raise_signal(signal.SIGUSR1)
assert fired == [1], "the host's own handler must stay"
assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGTERM}
"""


def without_clone3() -> str:
    """A filter as some containers have it: clone3 answers ENOSYS, everything else works."""
    answers: dict[int, _filter.Answer] = dict.fromkeys(range(1024), _filter.ALLOW)
    answers[CLONE3] = _filter.errno(38)
    return _filter.assemble(answers, platform.machine()).hex()


@pytest.mark.parametrize("clone3", [True, False])
def test_only_ignored_signals_are_inherited(clone3: bool) -> None:
    argv = [sys.executable, "-c", HOST, "" if clone3 else without_clone3()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    sets = {
        name: int(value, 16)
        for name, value in (line.split(":") for line in done.stdout.splitlines() if "Q" not in line)
    }
    assert sets["SigCgt"] == 0
    assert sets["SigIgn"] == 1 << (12 - 1), "SIGUSR2, and neither SIGCHLD nor Python's SIGPIPE"
    assert sets["SigBlk"] == 0
