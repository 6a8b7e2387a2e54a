"""What the kernel is said to offer, in both readings of its headers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from sandlock import _host, _memory
from sandlock._sys import ffi, lib

KNOWN_TO_BOTH = [
    "sizeof seccomp_data",
    "sizeof seccomp_notif",
    "sizeof seccomp_notif_resp",
    "sizeof seccomp_notif_addfd",
    "sizeof landlock_ruleset_attr",
    "sizeof landlock_path_beneath_attr",
    "sizeof landlock_net_port_attr",
    "SECCOMP_IOCTL_NOTIF_RECV",
    "SECCOMP_IOCTL_NOTIF_SEND",
    "SECCOMP_IOCTL_NOTIF_ID_VALID",
    "SECCOMP_IOCTL_NOTIF_ADDFD",
    "SECCOMP_IOCTL_NOTIF_SET_FLAGS",
]


def read_by_cffi(name: str) -> int:
    return int(getattr(lib, name.replace("sizeof ", "SIZEOF_")))


@pytest.mark.parametrize("name", sorted({*KNOWN_TO_BOTH, *_memory.ABI}))
def test_cython_and_cffi_read_the_same_headers(name: str) -> None:
    assert _memory.ABI[name] == read_by_cffi(name)


def test_structures_have_the_sizes_of_the_kernel(host: _host.Host) -> None:
    ours = (lib.SIZEOF_seccomp_notif, lib.SIZEOF_seccomp_notif_resp, lib.SIZEOF_seccomp_data)
    assert host.notif_sizes == ours


def test_structures_match_the_kernel_source() -> None:
    names = [name.removeprefix("SIZEOF_") for name in dir(lib) if name.startswith("SIZEOF_")]
    sizes = {name: read_by_cffi(f"sizeof {name}") for name in names}
    assert sizes == {
        "seccomp_data": 64,
        "seccomp_notif": 80,
        "seccomp_notif_resp": 24,
        "seccomp_notif_addfd": 24,
        "landlock_ruleset_attr": 24,
        "landlock_path_beneath_attr": 12,
        "landlock_net_port_attr": 16,
        "sock_filter": 8,
        "sock_fprog": 16,
    }


def test_probe_sees_this_machine(host: _host.Host) -> None:
    assert host.arch == os.uname().machine
    assert host.kernel == _host.parse_release(os.uname().release)
    assert host.uid == os.geteuid()
    assert (host.landlock_abi == 0) == (host.landlock_error != 0)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-fc-v669", (6, 18, 44)),
        ("6.1.0-13-amd64", (6, 1, 0)),
        ("5.15", (5, 15, 0)),
        ("4.19.0+", (4, 19, 0)),
        ("6.6.87.2-microsoft-standard-WSL2", (6, 6, 87)),
        ("6.19-rc3", (6, 19, 0)),
        ("7", (7, 0, 0)),
        ("unknown", (0, 0, 0)),
        ("", (0, 0, 0)),
        ("6.x.3", (6, 0, 0)),
        ("6.\u0661.3", (6, 0, 0)),
    ],
)
def test_releases(release: str, expected: tuple[int, int, int]) -> None:
    assert _host.parse_release(release) == expected


@pytest.mark.parametrize(("abi", "text", "expected"), [(7, "3", 3), (7, "0", 0), (3, "7", 3), (0, "6", 0)])
def test_the_environment_only_lowers_the_abi(abi: int, text: str, expected: int) -> None:
    assert _host.lowered_abi(abi, {"SANDLOCK_LANDLOCK_ABI": text}) == expected


def test_the_environment_reaches_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDLOCK_LANDLOCK_ABI", "0")
    assert _host.probe().landlock_abi == 0


@pytest.mark.parametrize("text", ["", "-1", "six", "6 ", "\u0666"])
def test_a_malformed_environment_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="SANDLOCK_LANDLOCK_ABI"):
        _host.lowered_abi(7, {"SANDLOCK_LANDLOCK_ABI": text})


def test_flags_are_asked_not_guessed() -> None:
    assert lib.seccomp_flags_known(0) == 1
    assert lib.seccomp_flags_known(1 << 30) == 0


def test_probe_is_cheap_and_opens_nothing() -> None:
    _host.probe()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        _host.probe()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.001


def test_probe_does_not_import_slow_modules() -> None:
    code = "import sys; from sandlock._host import probe; probe(); print({'platform', 'trio'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_calls_return_negative_errnos() -> None:
    assert lib.landlock_query(1 << 30) == -errno.EINVAL
    assert lib.landlock_restrict_self(-1, 0) < 0
    assert lib.pidfd_open_process(-1, 0) == -errno.EINVAL
    assert lib.memfd_seal(-1, 0) == -errno.EBADF
    assert lib.seccomp_install(ffi.from_buffer(b"1234567"), 7, 0) == -errno.EINVAL
    assert lib.listener_receive(-1, ffi.new("struct seccomp_notif *")) == -errno.EBADF


@pytest.mark.needs(landlock=1)
def test_a_ruleset_never_drops_what_the_abi_has_no_room_for() -> None:
    assert lib.landlock_create_ruleset(1, 0, 1, 5) == -errno.E2BIG
    assert lib.landlock_create_ruleset(1, 1, 0, 3) == -errno.E2BIG
    ruleset = lib.landlock_create_ruleset(1, 0, 0, 1)
    assert ruleset >= 0
    os.close(ruleset)


def test_a_sealed_memfd_does_not_change() -> None:
    fd = lib.memfd_open(b"test", lib.MFD_CLOEXEC | lib.MFD_ALLOW_SEALING)
    try:
        os.write(fd, b"text")
        assert lib.memfd_seal(fd, lib.F_SEAL_WRITE | lib.F_SEAL_GROW | lib.F_SEAL_SHRINK | lib.F_SEAL_SEAL) == 0
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)


def test_capabilities_are_those_of_proc() -> None:
    sets = [ffi.new("uint64_t *") for _ in range(3)]
    assert lib.capabilities_get(*sets) == 0
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == [each[0] for each in sets]
