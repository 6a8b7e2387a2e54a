"""Files that show something else than what they hold, by every name that leads to them; and a /proc with the sandbox's
own processes only. Judged by what programs read, against the real files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from caged import HOSTS, told

from sandlock import Allow, Open, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19))]


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


def test_names_that_change_while_they_are_followed_lead_to_no_real_file(tmp_path: Path) -> None:
    """A link that another process exchanges all the time: to the file that has a view, to /proc, to another file."""
    (tmp_path / "mine").write_text("mine")
    code = (
        "import json, os, sys, time\n"
        "targets = ['/etc/hosts', 'mine', '/proc/self/root/etc/hosts', '../' * 20 + 'etc/hosts']\n"
        "for number, target in enumerate(targets): os.symlink(target, f'link{number}')\n"
        "pid = os.fork()\n"
        "while pid == 0:\n"
        "    for number in range(len(targets)):\n"
        "        os.symlink(targets[number], 'next'); os.rename('next', 'link')\n"
        "seen, over, tries = set(), time.monotonic() + 2, 0\n"
        "while time.monotonic() < over:\n"
        "    try: seen.add(open('link').read()); tries += 1\n"
        "    except FileNotFoundError: pass\n"
        "os.kill(pid, 9); os.waitpid(pid, 0)\n"
        "print(json.dumps([sorted(seen), tries > 1000]))"
    )
    seen, often = told(code, fs_writable=[str(tmp_path)], cwd=str(tmp_path))
    assert seen == [HOSTS, "mine"]
    assert often


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
