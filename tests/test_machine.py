"""uname(2) and sysinfo(2) with a name and sizes of the sandbox's own."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

from sandlock import Sandbox

pytestmark = pytest.mark.needs(landlock=6, kernel=(5, 19))

LOOK = """
import ctypes, errno, json, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
room = (ctypes.c_char * 112)()
assert libc.sysinfo(room) == 0
words = list((ctypes.c_ulong * 10).from_buffer(room))
shut = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ)
NR_UNAME, NR_SYSINFO = {"x86_64": (63, 99), "aarch64": (160, 179)}[os.uname().machine]
failures = []
for number in (NR_UNAME, NR_SYSINFO):
    for address in (0, 1, 2**47 - 4096):
        ctypes.set_errno(0)
        assert libc.syscall(number, ctypes.c_void_p(address)) == -1
        failures.append(ctypes.get_errno())
print(json.dumps({
    "uname": list(os.uname()), "name": socket.gethostname(),
    "domain": libc.getdomainname(room, 65) or room.value.decode(),
    "uptime": words[0], "loads": words[1:4], "total": words[4], "free": words[5], "others": words[6:10],
    "procs": int.from_bytes(room.raw[80:82], "little"), "failures": failures,
}))
"""


def look(**options: Any) -> dict[str, Any]:
    with Sandbox(presets=["python"], **options) as box:
        result = box.run([sys.executable, "-I", "-S", "-c", LOOK])
    assert result.ok, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_machine_has_the_name_of_the_policy() -> None:
    real = os.uname()
    found = look(hostname="cage")
    assert found["uname"] == [real.sysname, "cage", real.release, real.version, real.machine]
    assert found["name"] == "cage"
    assert found["domain"] == "(none)"
    assert found["failures"] == [14] * 6  # EFAULT
    assert look()["uname"] == list(real)


def test_a_short_name_leaves_nothing_of_the_real_one() -> None:
    """The longest and the shortest; LOOK reads up to the first NUL, this one all of the struct."""
    code = "import ctypes; b = (ctypes.c_char * 390)(); print(ctypes.CDLL(None).uname(b), b.raw[65:130].hex())"
    for name in ("c", "x" * 64):
        with Sandbox(presets=["python"], hostname=name) as box:
            result = box.run([sys.executable, "-I", "-S", "-c", code])
        assert result.stdout.split() == [b"0", name.encode().ljust(65, b"\0").hex().encode()]


def test_sysinfo_tells_nothing_of_what_others_do() -> None:
    found = look(private_proc=True)
    assert found["name"] == "sandbox"
    assert found["loads"] == [0, 0, 0]
    assert found["others"] == [0] * 4
    assert found["procs"] == 1
    assert 0 < found["free"] <= found["total"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["failures"] == [14] * 6
    with open("/proc/uptime", encoding="ascii") as file:
        assert abs(float(file.read().split()[0]) - found["uptime"]) < 60  # sysinfo rounds up
    real = look()
    assert real["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # the positive control
    assert real["procs"] > 1


def test_a_thread_and_a_child_have_the_name_too() -> None:
    code = (
        "import os, threading\n"
        "t = threading.Thread(target=lambda: print(os.uname().nodename, flush=True)); t.start(); t.join()\n"
        "os.execv('/bin/uname', ['uname', '-n'])"
    )
    with Sandbox(presets=["python"], hostname="cage") as box:
        result = box.run([sys.executable, "-I", "-S", "-c", code])
    assert result.stdout.split() == [b"cage", b"cage"]
