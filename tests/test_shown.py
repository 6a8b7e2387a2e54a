"""Files that show something else than what they hold, by every name that leads to them; and a /proc with the sandbox's
own processes only. Judged by what programs read, against the real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandlock import Allow, Open, Result, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19))]
HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 cage\n"


def inside(code: str, *words: str, **options: Any) -> Result:
    with Sandbox(presets=["python"], **({"hostname": "cage"} | options)) as box:
        return box.run([sys.executable, "-I", "-S", "-c", code, *words], timeout=60)


def told(code: str, *words: str, **options: Any) -> Any:
    """What a program inside prints as JSON."""
    result = inside(code, *words, **options)
    assert result.ok, result.stderr
    return json.loads(result.stdout)


# ---- by every name

SPELLINGS = """
import ctypes, json, os, sys
place = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def read(opened):
    if opened < 0:
        raise OSError(ctypes.get_errno(), "open")
    with open(opened) as file:
        return file.read()

def by(*words):
    return read(libc.syscall(*words))

class How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]

def openat2(directory, path, resolve=0):
    how = How(os.O_RDONLY, 0, resolve)
    return by(437, directory, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how))

def relative(to, path):
    directory = os.open(to, os.O_RDONLY | os.O_DIRECTORY)
    return read(os.open(path, os.O_RDONLY, dir_fd=directory))

def changed(to, path):
    os.chdir(to)
    return read(os.open(path, os.O_RDONLY))

def through_link(target):
    os.symlink(target, place + "/link")
    try:
        return read(os.open(place + "/link", os.O_RDONLY))
    finally:
        os.unlink(place + "/link")

def pinned(path):
    return read(os.open(f"/proc/self/fd/{os.open(path, os.O_PATH)}", os.O_RDONLY))

def again(path):
    return read(os.open(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}", os.O_RDONLY))

def of_child(path):
    pid = os.fork()
    if pid == 0:
        os.read(ends[0], 1)
        os._exit(0)
    try:
        return read(os.open(f"/proc/{pid}/root{path}", os.O_RDONLY))
    finally:
        os.write(ends[1], b"x")
        os.waitpid(pid, 0)

ends = os.pipe()
top = os.open("/usr", os.O_RDONLY)
found = {}
for name, way in {
    "plain": lambda: read(os.open("/etc/hosts", os.O_RDONLY)),
    "slashes": lambda: read(os.open("//etc///hosts", os.O_RDONLY)),
    "dots": lambda: read(os.open("/etc/./hosts", os.O_RDONLY)),
    "up": lambda: read(os.open("/usr/lib/../../etc/hosts", os.O_RDONLY)),
    "above the root": lambda: read(os.open("/../../etc/hosts", os.O_RDONLY)),
    "from a directory": lambda: relative("/usr", "../etc/hosts"),
    "from here": lambda: changed("/usr", "../etc/hosts"),
    "a link": lambda: through_link("/etc/hosts"),
    "a link to a link": lambda: through_link("/proc/self/root/etc/hosts"),
    "a relative link": lambda: through_link("../" * 20 + "etc/hosts"),
    "root": lambda: read(os.open("/proc/self/root/etc/hosts", os.O_RDONLY)),
    "thread": lambda: read(os.open("/proc/thread-self/root/etc/hosts", os.O_RDONLY)),
    "by number": lambda: read(os.open(f"/proc/{os.getpid()}/root/etc/hosts", os.O_RDONLY)),
    "cwd": lambda: changed("/usr", "/proc/self/cwd/../etc/hosts"),
    "of a child": lambda: of_child("/etc/hosts"),
    "a pin": lambda: pinned("/etc/hosts"),
    "again": lambda: again("/etc/hosts"),
    "no follow": lambda: read(os.open("/etc/hosts", os.O_RDONLY | os.O_NOFOLLOW)),
    "with a mode": lambda: read(os.open("/etc/hosts", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)),
    "openat2": lambda: openat2(-100, b"/etc/hosts"),
    "openat2 no links": lambda: openat2(top, b"../etc/hosts", 0x04),
    **({"open": lambda: by(2, ctypes.c_char_p(b"/etc/hosts"), 0, 0)} if os.uname().machine == "x86_64" else {}),
}.items():
    try:
        found[name] = way()
    except OSError as error:
        found[name] = error.errno
print(json.dumps(found))
"""


def test_a_view_is_shown_by_every_name(tmp_path: Path) -> None:
    found = told(SPELLINGS, str(tmp_path), fs_writable=[str(tmp_path)])
    assert found == dict.fromkeys(found, HOSTS)
    control = told(SPELLINGS, str(tmp_path), fs_writable=[str(tmp_path)], hostname=None)
    with open("/etc/hosts", encoding="utf-8") as file:
        real = file.read()
    assert real != HOSTS
    assert control == dict.fromkeys(found, real)


@pytest.mark.needs(root=True)
def test_a_hard_link_shows_the_view(tmp_path: Path) -> None:
    """To the file that is there when the run starts; a copy is another file."""
    try:
        os.link("/etc/hosts", "/etc/hosts-by-another-name")
    except OSError:
        pytest.fail("the test needs an /etc on which links can be made")
    try:
        read = "import json, sys; print(json.dumps(open('/etc/hosts-by-another-name').read()))"
        assert told(read, fs_readable=["/etc"]) == HOSTS
        assert told(read, fs_readable=["/etc"], hostname=None) != HOSTS
    finally:
        os.unlink("/etc/hosts-by-another-name")


def test_every_way_to_the_name_of_the_machine_agrees() -> None:
    code = (
        "import json, os, socket\n"
        "names = [socket.gethostname(), os.uname().nodename]\n"
        "for path in ('/etc/hostname', '/proc/sys/kernel/hostname'):\n"
        "    names.append(open(path).read().strip() if os.path.exists(path) else names[0])\n"
        "print(json.dumps(names))"
    )
    assert told(code) == ["cage"] * 4
    assert told(code, hostname=None)[0] == os.uname().nodename


def test_a_view_cannot_be_written(tmp_path: Path) -> None:
    """Whatever the policy grants; what is next to it can."""
    code = (
        "import errno, json, os, sys\n"
        "failures = []\n"
        "for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND,\n"
        "              os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL):\n"
        "    try: failures.append(os.close(os.open('/etc/hosts', flags, 0o600)))\n"
        "    except OSError as error: failures.append(error.errno)\n"
        "shown = os.open('/etc/hosts', os.O_RDONLY)\n"
        "for change in (lambda: os.write(shown, b'x'), lambda: os.ftruncate(shown, 0),\n"
        "               lambda: os.open(f'/proc/self/fd/{shown}', os.O_RDWR)):\n"
        "    try: failures.append(change())\n"
        "    except OSError as error: failures.append(error.errno)\n"
        "os.close(os.open(sys.argv[1] + '/new', os.O_WRONLY | os.O_CREAT))\n"
        "print(json.dumps(failures))"
    )
    before = os.stat("/etc/hosts")
    found = told(code, str(tmp_path), fs_writable=[str(tmp_path)])
    assert found == [13] * 5 + [17] + [9, 22, 13]  # EACCES, EEXIST, EBADF, EINVAL
    after = os.stat("/etc/hosts")
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert (tmp_path / "new").exists()


def test_a_view_is_not_shown_to_who_may_not_read_the_file() -> None:
    """The grants decide about the path, as ever."""
    with Sandbox(fs_readable=["/usr", "/lib", "/lib64", "/bin"], hostname="cage") as box:
        result = box.run(["/bin/cat", "/etc/hosts"])
    assert (result.exit_code, result.stdout) == (1, b"")
    with Sandbox(fs_readable=["/usr", "/lib", "/lib64", "/bin"], fs_data=["/etc/hosts"], hostname="cage") as box:
        assert box.run(["/bin/cat", "/etc/hosts"]).stdout.decode() == HOSTS


FULL = """
import errno, json, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
held = []
while True:
    try:
        held.append(os.dup(0))
    except OSError:
        break
found = []
for path in ("/etc/hosts", "/proc/self/status", "/proc/uptime"):
    try:
        found.append(os.read(os.open(path, os.O_RDONLY), 100).decode())
    except OSError as error:
        found.append(error.errno)
os.close(held.pop())
one = os.open("/etc/hosts", os.O_RDONLY)
found.append(os.read(one, 100).decode() if one == held[-1] + 1 else one)
print(json.dumps(found))
"""


@pytest.mark.parametrize("option", [{"hostname": "cage"}, {"hostname": "cage", "private_proc": True}])
def test_without_room_for_a_descriptor_there_is_no_file(option: dict[str, Any]) -> None:
    assert told(FULL, **option) == [24, 24, 24, HOSTS]  # EMFILE


def test_threads_and_children_see_it_and_nobody_gets_more() -> None:
    """Ours are in no table of the program's."""
    code = (
        "import json, os, threading\n"
        "seen = []\n"
        "def look(): seen.append(open('/etc/hosts').read())\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(w, open('/etc/hosts', 'rb').read()); os._exit(0)\n"
        "os.wait(); seen.append(os.read(r, 1000).decode())\n"
        "links = [os.readlink(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd') if int(name) > 2\n"
        "         and os.path.exists(f'/proc/self/fd/{name}')]\n"
        "print(json.dumps([seen, [each for each in links if not each.startswith('pipe:')]]))"
    )
    seen, links = told(code)
    assert seen == [HOSTS] * 9
    assert not [each for each in links if "sandlock" in each or "seccomp" in each]


@pytest.mark.usefixtures("lasting_thread")
def test_names_of_the_policy_are_in_hosts() -> None:
    read = "import json; print(json.dumps(open('/etc/hosts').read()))"
    text = told(read, net_allow=["localhost:80", "ip6-localhost:80"], hostname="cage")
    assert text.startswith(HOSTS)
    # ip6-localhost is in the host's file, or the host knows no such name
    assert "ip6-localhost\n" in text.removeprefix(HOSTS) or text == HOSTS


# ---- with other options that are about opens


class Vetting:
    """Allows everything, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Open] = []

    def __call__(self, event: Any, box: Any) -> object:
        if isinstance(event, Open):
            self.asked.append(event)
        return Allow(scope="run")


@pytest.mark.parametrize("which", ["all", "write"])
@pytest.mark.usefixtures("lasting_thread")
def test_questions_are_about_the_file_and_it_shows_its_view(which: str, tmp_path: Path) -> None:
    vetting = Vetting()
    code = (
        "import json; print(json.dumps([open('/etc/hosts').read(), open('/proc/uptime').read().split()[1],\n"
        "                               open('made', 'w').write('x')]))"
    )
    options: dict[str, Any] = {"policy_fn": vetting, "ask_opens": which, "private_proc": True}
    found = told(code, fs_writable=[str(tmp_path)], cwd=str(tmp_path), **options)
    assert found == [HOSTS, "0.00", 1]
    paths = {event.path for event in vetting.asked}
    assert str(tmp_path / "made") in paths
    assert ({"/etc/hosts", "/proc/uptime"} <= paths) is (which == "all")


def test_a_denied_file_has_no_view() -> None:
    code = (
        "import json\n"
        "try: print(json.dumps(open('/etc/hosts').read()))\n"
        "except OSError as error: print(json.dumps(error.errno))"
    )
    assert told(code, fs_denied=["/etc/hosts"]) == 13
    assert told(code, fs_denied=["/etc/hosts.allow"]) == HOSTS


@pytest.mark.usefixtures("lasting_thread")
def test_reading_a_denied_file_is_no_matter_of_questions_about_writing(tmp_path: Path) -> None:
    """The filter lets opens pass that ask_opens="write" does not ask about; not so where files are denied."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "open").write_text("open")
    code = (
        "import json, os\n"
        "def read(name):\n"
        "    try: return open(name).read()\n"
        "    except OSError as error: return error.errno\n"
        "print(json.dumps([read('secret'), read('open')]))"
    )
    options: dict[str, Any] = {"policy_fn": Vetting(), "ask_opens": "write", "hostname": None}
    place = str(tmp_path)
    denied = [str(tmp_path / "secret")]
    assert told(code, fs_writable=[place], cwd=place, fs_denied=denied, **options) == [13, "open"]
    assert told(code, fs_writable=[place], cwd=place, **options) == ["secret", "open"]


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
