"""What is shown instead of the machine's own files: values from values, and sealed files that hold them."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock import ConfinementError, PolicyError, _view_files, _views
from sandlock._sys import lib
from sandlock._view_rules import has_views, hostname_of, traps
from sandlock._views import Facts, Mount, Views
from sandlock.policy import Policy

CPUINFO = b"".join(b"processor\t: %d\nmodel name\t: A%d\n\n" % (number, number) for number in (0, 1, 12))


def facts(**changes: Any) -> Facts:
    known = {
        "release": "6.1.0", "version": "#1 SMP", "cpuinfo": CPUINFO, "cpus": (0, 12), "memory_total": 64 << 20,
        "memory_free": 32 << 20, "boot_time": 1_700_000_000, "machine_id": "0" * 31 + "1", "boot_id": "some-uuid",
    }  # fmt: skip
    return Facts(**(known | changes))


def made(**changes: Any) -> dict[str, bytes | None]:
    views = _views.make(_views.etc_files(b"cage"), facts(**changes), [Mount(target=b"/", writable=False)])
    return {os.fsdecode(path): content for path, content in views.files}


# ---- options


@pytest.mark.parametrize("name", ["a", "cage", "a.b-c_d", "x" * 64, "käfig"])
def test_hostname_is_a_name(name: str) -> None:
    assert Policy.of(hostname=name).hostname == name
    assert hostname_of(Policy.of(hostname=name)) == name.encode()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "x" * 65, "ä" * 33, "two words", "line\nbreak", "#c"])
def test_what_is_no_hostname_is_refused(name: str) -> None:
    with pytest.raises(PolicyError, match="hostname"):
        Policy.of(hostname=name)


def test_only_who_asks_for_views_has_any() -> None:
    names_only = Policy.of(net_allow=["example.com:443"])
    assert not has_views(names_only)
    assert traps(names_only) == []
    assert hostname_of(names_only) == b""
    assert has_views(Policy.of(hostname="cage"))
    assert not has_views(Policy.of(private_proc=False))


def test_who_sees_nothing_of_the_machine_does_not_see_its_name() -> None:
    assert hostname_of(Policy.of(private_proc=True)) == b"sandbox"
    assert hostname_of(Policy.of(private_proc=True, hostname="cage")) == b"cage"
    assert {name for name, _, _ in traps(Policy.of(private_proc=True))} == {"uname", "sysinfo"}
    assert {name for name, _, _ in traps(Policy.of(hostname="cage"))} == {"uname"}


# ---- /etc


def test_hosts_have_the_loopback_the_machine_and_the_names_of_rules() -> None:
    etc = _views.etc_files(b"cage", [("example.com", ["192.0.2.1", "2001:db8::1"])])
    assert etc[b"/etc/hosts"].decode().splitlines() == [
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        "127.0.1.1 cage",
        "192.0.2.1 example.com",
        "2001:db8::1 example.com",
    ]
    assert etc[b"/etc/hostname"] == etc[b"/proc/sys/kernel/hostname"] == b"cage\n"


def test_hosts_of_an_image_come_behind_ours() -> None:
    text = _views.etc_files(b"", [], b"10.0.0.1 db localhost")[b"/etc/hosts"]
    assert text.startswith(b"127.0.0.1 localhost\n")
    assert text.endswith(b"\n10.0.0.1 db localhost\n")
    assert b"/etc/hostname" not in _views.etc_files(b"")


def test_an_image_has_its_files_in_its_root(tmp_path: Path) -> None:
    """Its hosts are merged, unless they are a link; /proc is the machine's."""
    root = os.fsencode(tmp_path)
    (tmp_path / "etc").mkdir()
    viewing = _view_files.Viewing(Policy.of(private_proc=True), b"cage", root)

    def hosts() -> bytes:
        files = viewing.open(())
        try:
            assert b"/etc/hosts" not in files.descriptors
            assert b"/proc/cpuinfo" in files.descriptors
            assert root + b"/etc/machine-id" in files.descriptors
            return os.pread(files.descriptors[root + b"/etc/hosts"], 4096, 0)
        finally:
            files.close()

    own = _views.etc_files(b"cage")[b"/etc/hosts"]
    assert hosts() == own
    (tmp_path / "etc" / "hosts").write_text("10.0.0.1 db")
    assert hosts() == own + b"10.0.0.1 db\n"
    (tmp_path / "etc" / "hosts").unlink()
    (tmp_path / "etc" / "hosts").symlink_to("/etc/passwd")
    assert hosts() == own


def test_without_facts_there_is_nothing_of_proc() -> None:
    views = _views.make(_views.etc_files(b"cage"), None)
    assert {path for path, _ in views.files if path.startswith(b"/proc")} == {
        b"/proc/sys/kernel/hostname",
        b"/proc/sys/kernel/domainname",
    }
    assert views.shows(b"/proc/1/environ")


# ---- /proc


def test_cpuinfo_has_the_cpus_of_the_policy() -> None:
    files = made()
    assert files["/proc/cpuinfo"] == b"processor\t: 0\nmodel name\t: A0\n\nprocessor\t: 12\nmodel name\t: A12\n\n"
    assert files["/sys/devices/system/cpu/online"] == files["/sys/devices/system/cpu/possible"] == b"0,12\n"
    lines = (files["/proc/stat"] or b"").decode().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("cpu")] == ["cpu", "cpu0", "cpu12"]


def test_cpuinfo_keeps_what_belongs_to_no_cpu() -> None:
    arm = b"processor\t: 0\nBogoMIPS\t: 50\n\nprocessor\t: 1\n\nHardware\t: Board\n"
    assert _views.only_cpus(arm, [1]) == b"processor\t: 1\n\nHardware\t: Board\n\n"
    assert _views.only_cpus(b"", [1]) == b""


def test_meminfo_adds_up() -> None:
    lines = (made()["/proc/meminfo"] or b"").decode().splitlines()
    sizes = {line.split(":")[0]: line.split()[1:] for line in lines}
    assert sizes["MemTotal"] == [str(64 * 1024), "kB"]
    assert sizes["MemAvailable"] == sizes["MemFree"] == [str(32 * 1024), "kB"]
    assert sizes["SwapTotal"] == ["0", "kB"]


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_can_be_read_back(numbers: set[int]) -> None:
    text = _views.spans(numbers)
    found: set[int] = set()
    for span in filter(None, text.split(",")):
        first, _, last = span.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    assert found == numbers


def test_headers_of_the_network_are_those_of_the_kernel() -> None:
    """The first lines of what this kernel shows: programs look for columns."""
    for name, text in _views.NETWORK.items():
        real = f"/proc/net/{name}"
        if name in ("if_inet6", "ipv6_route", "dev_mcast") or not os.path.exists(real):
            continue  # these have no header
        with open(real, encoding="utf-8") as file:
            assert text.split("\n")[0].split() == file.readline().split(), name
    assert _views.NETWORK["tcp"].count("\n") == 1
    assert [line.split(":")[0].strip() for line in _views.NETWORK["dev"].splitlines()[2:]] == ["lo"]


def test_mounts_say_the_same_in_three_ways() -> None:
    mounts = [Mount(target=b"/", writable=True, device=(8, 1)), Mount(target=b"/a b\\c\n", writable=False)]
    views = _views.make({}, facts(), mounts)
    files = {os.fsdecode(path): content for path, content in views.files}
    assert files["/proc/self/mounts"] == (
        b"overlay / overlay rw,relatime 0 0\noverlay /a\\040b\\134c\\012 overlay ro,relatime 0 0\n"
    )
    assert files["/proc/self/mountinfo"] == (
        b"1 0 8:1 / / rw,relatime - overlay overlay rw\n"
        b"2 1 0:0 / /a\\040b\\134c\\012 ro,relatime - overlay overlay ro\n"
    )
    assert (files["/proc/self/mountstats"] or b"").startswith(b"device overlay mounted on / with fstype overlay\n")


def test_only_the_time_since_the_boot_is_written_later() -> None:
    assert [path for path, content in made().items() if content is None] == ["/proc/uptime"]


# ---- what is there


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/proc", True), ("/proc/self", True), ("/proc/self/status", True), ("/proc/self/fd/3", True),
        ("/proc/self/net", True), ("/proc/self/net/tcp", True), ("/proc/self/net/fib_trie", False),
        ("/proc/self/mounts", True), ("/proc/mounts", True), ("/proc/net", True), ("/proc/cpuinfo", True),
        ("/proc/kallsyms", False), ("/proc/keys", False), ("/proc/sched_debug", False), ("/proc/modules", False),
        ("/proc/kcore", False), ("/proc/irq/1/smp_affinity", False), ("/proc/pressure/cpu", False),
        ("/proc/selfish", False), ("/proc/what-a-later-kernel-adds", False), ("/proc/sysrq-trigger", False),
        ("/proc/sys", True), ("/proc/sys/kernel", True), ("/proc/sys/kernel/hostname", True),
        ("/proc/sys/kernel/random", True), ("/proc/sys/kernel/random/boot_id", True),
        ("/proc/sys/kernel/core_pattern", False), ("/proc/sys/kernel/ns_last_pid", False),
        ("/proc/sys/net/ipv4/ip_forward", True), ("/proc/sys/net/ipv4/conf", True),
        ("/proc/sys/net/ipv4/conf/eth0/forwarding", False), ("/proc/sys/net/ipv4/conf/lo/forwarding", True),
        ("/proc/sys/dev", False), ("/sys", True), ("/sys/devices/system/cpu/online", True),
        ("/sys/devices/system/cpu/cpu0/topology/core_id", True), ("/sys/devices/system/cpu/cpu1", False),
        ("/sys/devices/system/cpu/cpu1/topology", False), ("/sys/devices/system/cpu/cpu12", True),
        ("/sys/devices/system/cpu/cpu0/cpuidle/state0/time", False), ("/sys/class/net/eth0", False),
        ("/sys/class", False), ("/sys/fs/cgroup", False), ("/sys/class/dmi/id/product_serial", False),
        ("/etc/passwd", True), ("/procession", True), ("/", True), ("/system", True),
    ],
)  # fmt: skip
def test_what_is_there(path: str, there: bool) -> None:
    views = _views.make(_views.etc_files(b"cage"), facts(), [Mount(target=b"/", writable=False)])
    assert views.shows(path.encode()) is there


def test_without_places_everything_is_there() -> None:
    assert Views().shows(b"/proc/kallsyms")


@given(
    st.lists(st.sampled_from(["proc", "sys", "self", "net", "tcp", "kernel", "cpu0", "12", "x", "mounts"]), max_size=6)
)
def test_the_core_says_the_same_of_what_is_there(parts: list[str]) -> None:
    """For it a process, whose it is being known, is /proc/self; and so are its threads."""
    from sandlock._view_table import ViewSet

    views = _views.make(_views.etc_files(b"cage"), facts(), [Mount(target=b"/", writable=False)])
    core = ViewSet(files=[(path, -1, 0, 0) for path, _ in views.files], places=list(views.places))
    below = "".join(f"/{part}" for part in parts)
    for start in ("", "/proc/self", "/proc/sys/net/ipv4", "/sys/devices/system/cpu"):
        path = f"{start}{below}".encode() or b"/"
        if not path.startswith((b"/proc/12", b"/proc/self/task/12")):
            assert core.shows(path) is views.shows(path)
    for process in ("/proc/12", "/proc/12/task/12", "/proc/self/task/12"):
        general = f"/proc/self{below}".encode()
        if process.startswith("/proc/12"):
            assert core.shows(f"{process}{below}".encode()) is views.shows(general)


# ---- this machine


def test_the_facts_are_of_this_machine() -> None:
    found = _view_files.look_around()
    assert set(found.cpus) == os.sched_getaffinity(0)
    assert found.memory_total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < found.memory_free <= found.memory_total
    with open("/etc/machine-id", encoding="ascii") as file:
        assert found.machine_id != file.read().strip()
    assert len(found.machine_id) == 32
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert found.boot_id != (real := file.read().strip())
    assert [len(part) for part in found.boot_id.split("-")] == [len(part) for part in real.split("-")]
    assert _view_files.look_around([0]).cpus == (0,)
    assert found.machine_id != _view_files.look_around().machine_id


# ---- sealed files


def test_a_sealed_file_cannot_be_changed() -> None:
    descriptor = _view_files.seal(b"what is shown\n")
    try:
        assert os.pread(descriptor, 100, 0) == b"what is shown\n"
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o444
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        assert seals & 0xF == lib.F_SEAL_SEAL | lib.F_SEAL_SHRINK | lib.F_SEAL_GROW | lib.F_SEAL_WRITE
        for change in (
            lambda: os.pwrite(descriptor, b"x", 0),
            lambda: os.pwrite(descriptor, b"x", 1000),
            lambda: os.ftruncate(descriptor, 0),
            lambda: os.ftruncate(descriptor, 1000),
        ):
            with pytest.raises(PermissionError):
                change()
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_equal_contents_are_one_file() -> None:
    files = _view_files.ViewFiles(Views(files=((b"/a", b"1"), (b"/b", b"1"), (b"/c", b"2"), (b"/d", None))))
    try:
        assert files.descriptors[b"/a"] == files.descriptors[b"/b"] != files.descriptors[b"/c"]
        assert b"/d" not in files.descriptors
    finally:
        files.close()
    assert files.descriptors == {}


@pytest.mark.parametrize("room", range(4))
def test_a_file_that_cannot_be_made_is_an_error_and_leaves_nothing(room: int) -> None:
    """With so many descriptors left; `nothing_left_behind` looks for the rest."""
    viewing = _view_files.Viewing(Policy.of(private_proc=True), b"cage")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    blockers = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (blockers[0] + 1 + room + 20, hard))
    try:
        while True:
            try:
                blockers.append(os.dup(0))
            except OSError:
                break
        for _ in range(room):
            os.close(blockers.pop())
        with pytest.raises(ConfinementError) as caught:
            viewing.open(())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in blockers:
            os.close(descriptor)
    assert caught.value.errno == errno.EMFILE
    viewing.open(()).close()
