"""private_proc: a /proc and a /sys with the sandbox's own processes, and nothing of the machine. Judged by what
programs see, against the real ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from caged import HOSTS, told

from sandlock import Result, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19))]


# ---- /proc


def private(code: str, *words: str, **options: Any) -> Any:
    return told(code, *words, **({"private_proc": True} | options))


STRANGERS = """
import json, os, sys
pid, found = sys.argv[1], {}

def error_of(act):
    try:
        act()
        return 0
    except OSError as error:
        return error.errno

top = os.open("/proc", os.O_RDONLY)
for name in ("", "/status", "/cmdline", "/environ", "/maps", "/mem", "/fd", "/ns", "/task", f"/task/{pid}/status",
             "/root/etc/hosts", "/exe", "/net/tcp", "/no-such-file"):
    ways = [f"/proc/{pid}{name}", f"/proc/self/../{pid}{name}", f"//proc/./{pid}{name}",
            f"/proc/self/root/proc/{pid}{name}", f"/proc/sys/../{pid}{name}"]
    errors = [error_of(lambda way=way: os.close(os.open(way, os.O_RDONLY))) for way in ways]
    errors.append(error_of(lambda: os.close(os.open(f"{pid}{name}", os.O_RDONLY, dir_fd=top))))
    os.chdir("/proc")
    errors.append(error_of(lambda: os.close(os.open(f"{pid}{name}", os.O_RDONLY))))
    if sys.argv[2:] == ["look"]:
        errors += [error_of(lambda way=way, look=look: look(way)) for way in ways
                   for look in (os.stat, os.lstat, os.statvfs, os.readlink, os.listxattr)]
        errors += [0 if os.access(ways[0], 0) else 2, error_of(lambda: os.stat(f"{pid}{name}", dir_fd=top)),
                   error_of(lambda: os.readlink(f"{pid}{name}", dir_fd=top)), error_of(lambda: os.statvfs(ways[0]))]
    found[name] = sorted(set(errors))
print(json.dumps(found))
"""


def test_processes_of_others_are_not_there() -> None:
    """By any name, like a number that no process has. Without the option ours is."""
    for pid in (os.getpid(), 1, 4194300):
        found = private(STRANGERS, str(pid), "look")
        assert found == {name: [2] for name in found}  # ENOENT
    assert told(STRANGERS, str(os.getpid()), hostname=None)["/status"] == [0]


def test_processes_of_the_sandbox_are_there() -> None:
    code = (
        "import json, os, threading\n"
        "gate = threading.Event(); thread = threading.Thread(target=gate.wait); thread.start()\n"
        "r, w = os.pipe(); pid = os.fork()\n"
        "if pid == 0: os.read(r, 1); os._exit(0)\n"
        "read = lambda path: open(path).read()\n"
        "found = [read(f'/proc/{each}/status').split()[1] for each in (os.getpid(), pid, thread.native_id, 'self')]\n"
        "listed = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())\n"
        "same = listed == sorted((os.getpid(), pid))\n"
        "tasks = sorted(map(int, os.listdir('/proc/self/task'))) == sorted((os.getpid(), thread.native_id))\n"
        "gate.set(); os.write(w, b'x'); os.wait()\n"
        "print(json.dumps([len(set(found)), same, tasks, str(pid) in os.listdir('/proc')]))"
    )
    names, same, tasks, later = private(code)
    assert names == 1 or names == 2  # threads may have a name of their own
    assert (same, tasks, later) == (True, True, False)
    assert told(code)[1] is False  # the control: without the option others are listed


LISTS = """
import ctypes, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": {"new": 217, "old": 78}, "aarch64": {"new": 61}}[os.uname().machine]

def entries(descriptor, kind, size):
    room, found = ctypes.create_string_buffer(size), []
    while True:
        got = libc.syscall(NUMBERS[kind], descriptor, room, size)
        if got < 0:
            raise OSError(ctypes.get_errno(), "getdents")
        if got == 0:
            return found
        at = 0
        while at < got:
            length = struct.unpack_from("H", room.raw, at + 16)[0]
            name = room.raw[at + (19 if kind == "new" else 18):at + length].split(b"\\0")[0]
            found.append(name.decode())
            at += length

found = {}
for kind in NUMBERS:
    for size in (300, 4096, 65536):
        top = os.open(sys.argv[1], os.O_RDONLY)
        found[f"{kind} {size}"] = entries(top, kind, size)
        os.lseek(top, 0, os.SEEK_SET)
        found[f"{kind} {size} again"] = entries(top, kind, size)
errors = []
for descriptor, address, size in ((top, 0, 4096), (top, ctypes.addressof(ctypes.create_string_buffer(9)), 10),
                                  (0, 0, 4096), (99, 0, 4096), (-1, 0, 4096)):
    os.lseek(top, 0, os.SEEK_SET)
    libc.syscall(NUMBERS["new"], descriptor, ctypes.c_void_p(address), size)
    errors.append(ctypes.get_errno())
after = entries(top, "new", 4096)
print(json.dumps([found, errors, after == found["new 4096"]]))
"""


def test_a_listing_is_complete_whatever_the_buffer(tmp_path: Path) -> None:
    names = {f"{number}-{'x' * (number % 200)}" for number in range(1500)}
    for name in names:
        (tmp_path / name).touch()
    found, errors, after = private(LISTS, str(tmp_path), fs_readable=[str(tmp_path)])
    for listed in found.values():
        assert len(listed) == len(names) + 2
        assert set(listed) == names | {".", ".."}
    assert errors == [14, 22, 20, 9, 9]  # EFAULT, EINVAL, ENOTDIR (stdin), EBADF
    assert after
    control = told(LISTS, str(tmp_path), fs_readable=[str(tmp_path)])
    assert control == [found, errors, after]


def test_proc_lists_nothing_of_others_whatever_the_buffer() -> None:
    found, errors, _ = private(LISTS, "/proc")
    real = set(os.listdir("/proc"))
    for listed in found.values():
        assert len([name for name in listed if name.isdigit()]) == 1
        assert {"self", "cpuinfo", "uptime", "net", "sys", "."} <= set(listed)
        assert not {"kallsyms", "keys", "modules", "interrupts", "1"} & set(listed)
    assert {"1", "interrupts"} <= real
    assert errors[0] == 14


def test_two_threads_that_exchange_a_descriptor_see_nothing_of_others(tmp_path: Path) -> None:
    """While one lists an empty directory by number, the other puts /proc under that number."""
    code = (
        "import json, os, sys, threading, time\n"
        "empty, top = os.open(sys.argv[1], os.O_RDONLY), os.open('/proc', os.O_RDONLY)\n"
        "number, seen, over = os.dup(empty), set(), time.monotonic() + 2\n"
        "def exchange():\n"
        "    while time.monotonic() < over: os.dup2(top, number); os.dup2(empty, number)\n"
        "thread = threading.Thread(target=exchange); thread.start()\n"
        "while time.monotonic() < over:\n"
        "    try: os.lseek(top, 0, 0); seen.update(os.listdir(number))\n"
        "    except OSError: pass\n"
        "thread.join()\n"
        "print(json.dumps(sorted(seen)))"
    )
    seen = private(code, str(tmp_path), fs_readable=[str(tmp_path)])
    assert "self" in seen  # it did get under
    assert len([name for name in seen if name.isdigit()]) == 1


def test_what_tells_of_the_machine_is_not_there() -> None:
    code = (
        "import json, os\n"
        "def read(path):\n"
        "    try: return open(path, errors='replace').read()[:2000]\n"
        "    except OSError as error: return error.errno\n"
        "paths = ['keys', 'kallsyms', 'modules', 'interrupts', 'sched_debug', 'pressure/cpu',\n"
        "         'sys/kernel/core_pattern', 'self/net/fib_trie', 'net/snmp', 'irq', 'sys/kernel/ns_last_pid',\n"
        "         'sys/net/ipv4/conf/eth0/forwarding']\n"
        "shown = ['cpuinfo', 'meminfo', 'loadavg', 'stat', 'version', 'cmdline', 'diskstats', 'partitions', 'mounts',\n"
        "         'self/mountinfo', 'net/tcp', 'net/route', 'net/dev', 'self/net/unix', 'sys/kernel/random/boot_id',\n"
        "         'thread-self/mounts', 'self/cgroup', 'swaps']\n"
        "real = ['sys/kernel/osrelease', 'sys/kernel/pid_max', 'filesystems', 'self/status',\n"
        "        'sys/vm/overcommit_memory']\n"
        "print(json.dumps([[{name: read('/proc/' + name) for name in names} for names in (paths, shown, real)],\n"
        "                  os.listdir('/proc/net'), os.listdir('/proc/sys/net/ipv4/conf')]))"
    )
    (hidden, shown, real), network, devices = private(code)
    assert hidden == dict.fromkeys(hidden, 2)  # ENOENT
    assert [name for name, text in real.items() if not isinstance(text, str) or not text] == []
    assert shown["net/tcp"].count("\n") == shown["net/route"].count("\n") == 1
    assert shown["net/dev"].count("\n") == 3
    assert (
        shown["mounts"]
        == shown["thread-self/mounts"]
        == "overlay / overlay ro,relatime 0 0\nproc /proc proc ro,relatime 0 0\n"
    )
    assert shown["self/cgroup"] == "0::/\n"
    assert shown["cmdline"] == "\n"
    assert "dev_snmp6" not in network
    assert "tcp" in network
    assert sorted(devices) == ["all", "default", "lo"]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert shown["sys/kernel/random/boot_id"] != file.read()
    control = told(code)[0]
    assert control[1]["cmdline"] != "\n"
    assert control[0]["interrupts"] != 2


def test_the_time_since_the_boot_goes_on() -> None:
    code = (
        "import json, os, time\n"
        "first = float(open('/proc/uptime').read().split()[0]); time.sleep(0.05)\n"
        "print(json.dumps([first, float(open('/proc/uptime').read().split()[0]), time.clock_gettime(7)]))"
    )
    first, second, clock = private(code)
    assert second - first >= 0.04
    assert abs(clock - second) < 5


def test_nothing_of_sys_is_there_but_cpus() -> None:
    code = (
        "import json, os\n"
        "def look(path):\n"
        "    try: return os.listdir(path) if os.path.isdir(path) else open(path).read()\n"
        "    except OSError as error: return error.errno\n"
        "print(json.dumps([sorted(look('/sys')), *map(look, ('/sys/class/net', '/sys/class', '/sys/block',\n"
        "    '/sys/fs/cgroup', '/sys/devices/system/cpu/cpu0/cpuidle',\n"
        "    '/sys/devices/system/cpu/../../../class/net')),\n"
        "    os.path.isdir('/sys/devices/system/cpu/cpu0/topology')]))"
    )
    top, *rest, topology = private(code, fs_data=["/sys"])
    assert top == ["devices", "kernel"]
    assert rest == [2] * 6
    assert topology
    control = told(code, fs_data=["/sys"])
    assert len(control[0]) > 4
    assert "lo" in control[1]


def test_cpus_of_the_policy_are_those_that_are_shown() -> None:
    code = (
        "import json, os\n"
        "count = open('/proc/cpuinfo').read().count('processor')\n"
        "names = [name for name in os.listdir('/sys/devices/system/cpu') if name[3:].isdigit()]\n"
        "print(json.dumps([count, names, os.cpu_count(), open('/sys/devices/system/cpu/online').read()]))"
    )
    assert private(code, cpu_cores=[0]) == [1, ["cpu0"], 1, "0\n"]


def test_what_is_known_of_a_view_is_what_is_opened(tmp_path: Path) -> None:
    """By name and by descriptor: programs that copy compare the two."""
    code = (
        "import json, os\n"
        "found = []\n"
        "for path in ('/etc/hosts', '/etc/hostname', '/proc/cpuinfo', '/proc/self/mounts', '/proc/net/tcp'):\n"
        "    if os.path.exists(path):\n"
        "        with open(path) as file: facts, size = os.fstat(file.fileno()), len(file.read())\n"
        "        for look in (os.stat(path), os.lstat(path) if '/net/' not in path else os.stat(path)):\n"
        "            names = ('st_ino', 'st_dev', 'st_mode', 'st_size')\n"
        "            same = [getattr(look, name) == getattr(facts, name) for name in names]\n"
        "            found += [*same, look.st_size == size, os.access(path, os.R_OK), not os.access(path, os.W_OK)]\n"
        "print(json.dumps([len(found) > 20, all(found), os.path.getsize('/etc/passwd')]))"
    )
    assert private(code) == [True, True, os.path.getsize("/etc/passwd")]


# ---- real programs


def run(*argv: str, **options: Any) -> Result:
    with Sandbox(presets=["system"], private_proc=True, hostname="cage", **options) as box:
        return box.run(list(argv), timeout=60)


@pytest.mark.needs(program="ps")
def test_ps_shows_the_sandbox() -> None:
    result = run("sh", "-c", "sleep 5 & ps -eo pid,ppid,etimes,args; kill %1; ps aux")
    assert result.ok, result.stderr
    first = result.stdout.decode().split("USER ")[0].splitlines()[1:]
    assert sorted(line.split(None, 3)[3].split()[0] for line in first) == ["ps", "sh", "sleep"]
    assert all(0 <= int(line.split()[2]) < 60 for line in first)
    real = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert len(real.splitlines()) > 5


@pytest.mark.needs(program="top")
def test_top_shows_the_sandbox() -> None:
    result = run("top", "-b", "-n1", env={"TERM": "dumb"})
    assert result.ok, result.stderr
    assert b"load average: 0.00, 0.00, 0.00" in result.stdout
    assert b"Tasks:   1 total" in result.stdout


@pytest.mark.needs(program="getent")
def test_getent_finds_the_machine_itself() -> None:
    assert run("getent", "hosts", "cage").stdout.split() == [b"127.0.1.1", b"cage"]
    assert run("hostname").stdout == b"cage\n"
    assert run("uname", "-n").stdout == b"cage\n"


@pytest.mark.needs(program="free")
def test_free_and_uptime_add_up() -> None:
    result = run(
        "sh",
        "-c",
        "free -b; uptime; nproc; df -P /; cat /proc/self/mounts >/dev/null; find /proc/self/ >/dev/null 2>&1; true",
    )
    assert result.ok, result.stderr
    total, used, free = map(int, result.stdout.splitlines()[1].split()[1:4])
    assert used + free == total


def test_a_view_can_be_copied(tmp_path: Path) -> None:
    result = run("cp", "/etc/hosts", "/proc/cpuinfo", str(tmp_path), fs_writable=[str(tmp_path)])
    assert result.ok, result.stderr
    assert (tmp_path / "hosts").read_text() == HOSTS
    assert "processor" in (tmp_path / "cpuinfo").read_text()


def test_a_shell_with_pipes_and_jobs_works_as_ever(tmp_path: Path) -> None:
    each = "(ls /proc | grep -c '^[0-9]'; cat /etc/hosts) | tail -1 >> out"
    script = f"for i in $(seq 20); do {each} & done; wait; sort -u out"
    result = run("sh", "-c", script, fs_writable=[str(tmp_path)], cwd=str(tmp_path))
    assert result.stdout == b"127.0.1.1 cage\n"
    assert (tmp_path / "out").read_text().count("cage") == 20
