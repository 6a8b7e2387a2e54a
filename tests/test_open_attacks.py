"""ask_opens, as an attacker sees it: /proc of others, names that change after the question, FIFOs that nobody opens."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loops import Loop, wait_alive
from test_opens import Vetting, opened, python, shell

from sandlock import Allow, AsyncSandbox, Deny, Open

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]


def allow(event: Any, box: Any) -> object:
    return Allow()


# ---- /proc


OWN = """
import os
for path in ("/proc/self/environ", "/proc/thread-self/environ", "to-environ",
             "/proc/self/task/%d/environ" % os.getpid(), "/proc/%d/environ" % os.getpid(), "/dev/fd/../environ",
             "/proc/self/root/proc/self/environ",
             "/proc/self/cwd/to-environ", "/proc/../proc/self/environ"):
    print(b"MARK=guest" in open(path, "rb").read().split(b"\\0"), path)
base = os.open("/proc", os.O_RDONLY)
print(b"MARK=guest" in os.read(os.open("self/environ", os.O_RDONLY, dir_fd=base), 9999))
os.chdir("/proc")
print(b"MARK=guest" in open("self/environ", "rb").read())
print(open("/proc/self/stat").read().split()[0] == str(os.getpid()))
print(os.path.basename(os.readlink("/proc/self/exe")) in open("/proc/self/maps").read())
"""


def test_proc_self_is_the_caller(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "to-environ").symlink_to("/proc/self/environ")
    environment = {"env": {"MARK": "guest"}}
    result = opened(loop, allow, *python(OWN), place=tmp_path, **environment)
    assert (result.exit_code, result.stderr) == (0, b"")
    assert {line.split()[0] for line in result.stdout.splitlines()} == {b"True"}


def test_proc_is_asked_about_like_other_files(loop: Loop, tmp_path: Path) -> None:
    asked = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Open) and event.path.endswith("/status"):
            asked.append((event.path, event.named, event.pid))
            return Deny("no") if event.named.startswith("/proc/thread") else Allow(scope="run")
        return Allow()

    script = "exec 2>&1; read line < /proc/self/status; echo $line; read line < /proc/thread-self/status"
    result = opened(loop, vet, *shell(script), place=tmp_path)
    assert result.stdout.startswith(b"Name: sh\n")
    assert b"Permission denied" in result.stdout
    (first, second) = asked
    assert first[:2] == (f"/proc/{first[2]}/status", "/proc/self/status")
    assert second[0] == f"/proc/{first[2]}/task/{first[2]}/status"


STRANGERS = """
import os, sys
mine = {os.getpid(), os.getppid()} if len(sys.argv) > 2 else {os.getpid()}
found = []
for pid in [int(name) for name in os.listdir("/proc") if name.isdecimal()]:
    if pid in mine:
        continue
    places = [f"/proc/{pid}"]
    try:
        places += [f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task")] + [f"/proc/{tid}" for tid in
                   os.listdir(f"/proc/{pid}/task")]
    except OSError:
        pass
    for place in places:
        for name in ("environ", "mem", "maps", "auxv", "status", "cmdline", "stat", "fd", "fd/0", "fd/3", "fd/7",
                     "exe", "cwd", "root", "cwd/setup.py", "root/etc/passwd", "task", "fdinfo/3", "syscall", "pagemap",
                     "ns/net", "map_files", "net/dev", "."):
            try:
                os.close(os.open(f"{place}/{name}", os.O_RDONLY | os.O_NONBLOCK))
                found.append(name)
            except OSError:
                pass
print(*sorted(set(found)))
"""


def test_nothing_of_other_processes_is_opened(loop: Loop, tmp_path: Path) -> None:
    """The host and its threads, the init, the workers and openers: some of them share the host's memory."""
    result = opened(loop, allow, *python(STRANGERS), place=tmp_path)
    assert (result.exit_code, result.stderr, result.stdout) == (0, b"", b"\n")
    assert {denial.cause for denial in result.denials} <= {"no-rule"}
    control = opened(loop, allow, *python(STRANGERS), which=None, place=tmp_path).stdout.split()
    assert {b"status", b"cmdline"} <= set(control)  # there is something, which the kernel alone lets it see


def test_nothing_of_the_supervisor_is_opened_in_any_second(loop: Loop, tmp_path: Path) -> None:
    """While tasks of the supervisor come and go: it looks for them all the time."""
    code = (
        "import os, time\n"
        "until = time.monotonic() + 2\n"
        "own = os.getpid()\n"
        "while time.monotonic() < until:\n"
        "    for pid in range(own - 30, own + 60):\n"
        "        for path in (f'/proc/{pid}/environ', f'/proc/{pid}/mem'):\n"
        "            try:\n"
        "                text = os.open(path, os.O_RDONLY)\n"
        "                if pid != own: print('opened', path)\n"
        "                os.close(text)\n"
        "            except OSError: pass\n"
    )
    os.mkfifo(tmp_path / "fifo")
    script = f'for i in 1 2 3 4 5 6; do (timeout 0.3 cat fifo) & done; exec {sys.executable} -I -S -c "$1"'
    result = opened(loop, allow, "/bin/sh", "-c", script, "sh", code, place=tmp_path)
    own = [line for line in result.stdout.splitlines() if b"environ" in line]  # of `timeout` and `cat`: the tree's
    assert set(result.stdout.splitlines()) == set(own), result.stdout
    assert result.exit_code == 0


def test_memory_of_another_process_of_the_tree_stays_shut(loop: Loop, tmp_path: Path) -> None:
    """Whether one may trace another the kernel would decide about us; so only its own."""
    code = (
        "import os\n"
        "os.close(os.open('/proc/self/mem', os.O_RDONLY))\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    for name in ('environ', 'mem'):\n"
        "        try:\n"
        "            os.open(f'/proc/{parent}/{name}', os.O_RDONLY)\n"
        "            print(name)\n"
        "        except PermissionError:\n"
        "            print('denied', name)\n"
        "else:\n"
        "    os.wait()\n"
    )
    assert opened(loop, allow, *python(code), place=tmp_path).stdout == b"environ\ndenied mem\n"


def test_reading_proc_needs_a_grant(loop: Loop, tmp_path: Path) -> None:
    """The supervisor may read /proc, and the program only if the policy says so."""
    options = {"presets": [], "fs_readable": ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"]}
    script = "for each in /proc/self/status /proc/meminfo /proc/self/cmdline /proc; do cat < $each; done"
    result = opened(loop, allow, *shell(script), place=tmp_path, **options)
    assert result.stdout == b""
    assert result.stderr.count(b"Permission denied") + result.stderr.count(b"cannot open") >= 4
    granted = opened(loop, allow, *shell(script), place=tmp_path, **{**options, "fs_data": ["/proc"]})
    assert b"MemTotal" in granted.stdout


def test_links_to_descriptors_lead_to_the_callers(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    script = "exec 5< file; cat /proc/self/fd/5; cat /dev/fd/5; echo in | cat /dev/stdin; echo out > /dev/stdout"
    result = opened(loop, allow, *shell(script), place=tmp_path)
    assert result.stdout == b"hellohelloin\nout\n"


def test_what_landlock_forbids_stays_forbidden(loop: Loop, tmp_path: Path) -> None:
    """Whatever the callback says, and whatever name leads there."""
    secret, work = tmp_path / "secret", tmp_path / "work"
    secret.mkdir()
    work.mkdir()
    (secret / "file").write_text("secret")
    (work / "link").symlink_to(secret / "file")
    paths = (
        f"{secret}/file",
        "link",
        "../secret/file",
        "/proc/self/cwd/../secret/file",
        f"/proc/self/root{secret}/file",
    )
    script = "; ".join(f"cat {path}; echo x > {path}; echo y > {path}2" for path in paths)
    result = opened(loop, allow, *shell(script), place=work)
    assert result.stdout == b""
    assert (os.listdir(secret), (secret / "file").read_text()) == (["file"], "secret")
    granted = opened(loop, allow, *shell(script), place=work, fs_writable=[str(tmp_path)])  # the control
    assert b"secret" in granted.stdout
    assert len(os.listdir(secret)) == 2


@pytest.mark.needs(root=True)
def test_another_user_is_not_served_as_the_supervisors(loop: Loop, tmp_path: Path) -> None:
    """The supervisor is root and the caller is not any more: its opens would be made with root's rights."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o600)
    code = (
        "import os\n"
        "print(open('secret').read())\n"
        "os.setgroups([])\n"
        "os.setgid(65534)\n"
        "os.setuid(65534)\n"
        "try: print(open('secret').read())\n"
        "except PermissionError: print('denied')\n"
    )
    options = {"keep_capabilities": ["SETUID", "SETGID"]}
    result = opened(loop, allow, *python(code), place=tmp_path, **options)
    assert result.stdout == b"secret\ndenied\n"
    assert {denial.cause for denial in result.denials} == {"unreadable"}


# ---- names that change


REWRITE = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
shared = mmap.mmap(-1, 4096)
shared[:6] = b"public"
path = (ctypes.c_char * 64).from_buffer(shared)
until = time.monotonic() + float(sys.argv[1])
if os.fork() == 0:  # as another thread would, without Python's lock
    while time.monotonic() < until:
        for _ in range(100):
            shared[:6] = b"secret"
            shared[:6] = b"public"
    os._exit(0)
tries = 0
while time.monotonic() < until:
    opened = libc.syscall(257 if os.uname().machine == "x86_64" else 56, -100, path, 0, 0)
    if opened >= 0:
        tries += 1
        if os.read(opened, 9) != b"public":
            print("SECRET", flush=True)
            break
        os.close(opened)
print(tries)
"""


def no_secret(place: Path) -> Vetting:
    return Vetting(place, lambda event: Deny("no") if "secret" in event.path else Allow())


def fill(place: Path) -> None:
    (place / "public").write_text("public")
    (place / "secret").write_text("secret")


@pytest.mark.slow
def test_a_path_that_is_rewritten_after_the_question(loop: Loop, tmp_path: Path) -> None:
    fill(tmp_path)
    vetting = no_secret(tmp_path)
    result = opened(loop, vetting, *python(REWRITE, "3"))
    assert b"SECRET" not in result.stdout, result.stdout
    assert int(result.stdout) > 100
    assert {"public", "secret"} <= set(vetting.paths)  # it was tried
    control = opened(loop, no_secret(tmp_path), *python(REWRITE, "3"), which=None)
    assert b"SECRET" in control.stdout


SWAP = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
until = time.monotonic() + float(sys.argv[1])
name, flags = sys.argv[2], int(sys.argv[3])
child = os.fork()
if child == 0:
    while time.monotonic() < until:
        if name == "link":
            for target in ("secret", "public"):
                os.symlink(target, "next")
                os.rename("next", "link")
        elif name == "hard":
            for target in ("secret", "public"):
                os.link(target, "next")
                os.rename("next", "hard")
                if os.path.lexists("next"): os.unlink("next")
        else:  # a directory in the path
            libc.syscall(316 if os.uname().machine == "x86_64" else 276, -100, b"one", -100, b"two", 2)
    os._exit(0)
tries = 0
while time.monotonic() < until:
    try:
        opened = os.open("one/file" if name == "directory" else name, flags)
    except OSError:
        continue
    tries += 1
    if os.fstat(opened).st_ino in map(int, sys.argv[4:]):
        print("SECRET", flush=True)
        break
    os.close(opened)
os.waitpid(child, 0)
print(tries)
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT], ids=["r", "w", "c"])
@pytest.mark.parametrize("name", ["link", "directory"])
def test_a_name_that_leads_elsewhere_after_the_question(loop: Loop, tmp_path: Path, name: str, flags: int) -> None:
    fill(tmp_path)
    (tmp_path / "link").symlink_to("public")
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "file").write_text("secret" if directory == "two" else "public")
    secrets = [(tmp_path / path).stat().st_ino for path in ("secret", "two/file")]
    inodes: set[int] = set()

    def answer(event: Open) -> object:
        # By what the path leads to at the time of the question, as somebody who knows the directory sees it.
        if event.path.endswith(("secret", "two/file")):
            return Deny("no")
        inodes.add(len(inodes))
        return Allow()

    if name == "directory":
        # Which of the two directories has this name changes; the file in it is what is judged, so neither is secret.
        secrets = []
    vetting = Vetting(tmp_path, answer)
    result = opened(loop, vetting, *python(SWAP, "3", name, str(flags), *map(str, secrets)))
    assert b"SECRET" not in result.stdout, result.stdout
    assert int(result.stdout) > 20
    assert (tmp_path / "secret").read_text() == "secret"
    if name == "link":
        assert {"public", "secret"} <= set(vetting.paths)
        control = opened(loop, vetting, *python(SWAP, "3", name, str(flags), *map(str, secrets)), which=None)
        assert b"SECRET" in control.stdout


def test_what_is_there_when_the_verdict_comes_is_compared(loop: Loop, tmp_path: Path) -> None:
    """Exactly once, and in the middle of the question."""
    fill(tmp_path)
    (tmp_path / "link").symlink_to("public")

    def answer(event: Open) -> object:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("secret")
        return Allow()

    result = opened(loop, Vetting(tmp_path, answer), *shell("cat link"))
    assert b"secret" not in result.stdout
    assert [(denial.kind, denial.target, denial.cause) for denial in result.denials] == [
        ("open", f"{tmp_path}/public", "changed")
    ]


@pytest.mark.parametrize("kind", ["link", "hard", "fifo", "directory"])
def test_nothing_else_is_opened_where_a_file_was_to_be_made(loop: Loop, tmp_path: Path, kind: str) -> None:
    """What has come there is asked about in its turn, if the name still means the same; a directory is not, for no
    kernel opens that for writing."""
    fill(tmp_path)

    def answer(event: Open) -> object:
        made = tmp_path / "made"
        if not event.creates:
            return Deny("it is there")
        if kind == "link":
            made.symlink_to("secret")
        elif kind == "hard":
            made.hardlink_to(tmp_path / "secret")
        elif kind == "fifo":
            os.mkfifo(made)
        else:
            made.mkdir()
        return Allow()

    vetting = Vetting(tmp_path, answer)
    result = opened(loop, vetting, *shell("echo owned > made"), which="write")
    assert (tmp_path / "secret").read_text() == "secret"
    assert vetting.paths[1:] == ([] if kind in ("link", "directory") else ["made"])
    assert [denial.cause for denial in result.denials] == {"link": ["changed"], "directory": []}.get(kind, ["verdict"])


def test_two_may_make_the_same_file(loop: Loop, tmp_path: Path) -> None:
    """As the kernel has it: who comes second opens what the first one made; and with O_EXCL it does not."""

    def answer(event: Open) -> object:
        (tmp_path / event.path).write_text("first ")
        return Allow()

    assert opened(loop, Vetting(tmp_path, answer), *shell("echo second >> made"), which="write").exit_code == 0
    assert (tmp_path / "made").read_text() == "first second\n"
    code = "import os; os.open('alone', os.O_WRONLY | os.O_CREAT | os.O_EXCL)"
    result = opened(loop, Vetting(tmp_path, answer), *python(code), which="write")
    assert b"FileExistsError" in result.stderr


# ---- FIFOs


def test_both_ends_of_a_fifo_meet(loop: Loop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = "for i in 1 2 3 4 5 6; do cat fifo & echo through > fifo; wait; (echo later > fifo) & cat fifo; done"
    result = opened(loop, Vetting(tmp_path), *shell(script))
    assert result.stdout == b"through\nlater\n" * 6


def test_no_descriptor_of_ours_outlives_the_programs(loop: Loop, tmp_path: Path) -> None:
    """One that did would keep a written program busy (ETXTBSY), a file locked, and a FIFO open."""
    code = (
        "import fcntl, os, shutil, subprocess\n"
        "for i in range(100):\n"
        "    shutil.copy('/bin/true', 'program')\n"
        "    if i % 10 == 0: subprocess.run(['./program'], check=True)\n"
        "    with open('lock', 'w') as file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "print('fine')\n"
    )
    result = opened(loop, Vetting(tmp_path), sys.executable, "-c", code)
    assert (result.stdout, result.stderr) == (b"fine\n", b"")


def test_fifos_that_nobody_opens_delay_nobody(loop: Loop, tmp_path: Path) -> None:
    for i in range(40):
        os.mkfifo(tmp_path / f"fifo{i}")
    script = (
        'i=0; while [ $i -lt 40 ]; do cat fifo$i & all="$all $!"; i=$((i + 1)); done; sleep 0.5\n'
        "for i in 1 2 3 4 5; do /bin/echo fine; echo made > made$i; done; date +%s.%N; kill $all; wait; echo done"
    )
    started = time.time()
    vetting = Vetting(tmp_path)
    result = opened(loop, vetting, *shell(script))
    lines = result.stdout.split()
    assert lines[:5] == [b"fine"] * 5
    assert lines[-1] == b"done"
    assert float(lines[5]) - started < 8
    assert sum(path.startswith("fifo") for path in vetting.paths) == 40


def test_a_blocked_open_ends_with_its_caller(loop: Loop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = "cat fifo & sleep 0.3; kill -9 $!; wait; sleep 0.5; grep -l sandlock-open /proc/[0-9]*/comm; echo ended"
    started = time.monotonic()
    result = opened(loop, Vetting(tmp_path), *shell(script))
    assert result.stdout.split()[-1] == b"ended"
    assert time.monotonic() - started < 10


def test_a_signal_interrupts_a_blocked_open(loop: Loop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import signal\n"
        "def ring(*args): raise TimeoutError\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        "try: open('fifo')\n"
        "except TimeoutError: print('interrupted')\n"
    )
    assert opened(loop, Vetting(tmp_path), *python(code)).stdout == b"interrupted\n"


def test_a_run_ends_with_its_blocked_opens(loop: Loop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    mark = f"blocked-{time.time_ns()}"

    async def main() -> float:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=allow, ask_opens="all"
        ) as box:
            async with box.start(["/bin/sh", "-c", ": < fifo", mark]) as process:
                await loop.sleep(0.5)
                started = time.monotonic()
                process.kill()
                await process.wait()
                return time.monotonic() - started

    assert loop.run(main) < 5
    assert wait_alive(mark, 0) == []


def test_more_fifos_than_there_is_room_for_are_denied(loop: Loop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import os, signal, time\n"
        "children = []\n"
        "for _ in range(200):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try: os.open('fifo', os.O_RDONLY)\n"
        "        except BlockingIOError: os._exit(7)\n"
        "        os._exit(0)\n"
        "    children.append(child)\n"
        "time.sleep(2)\n"
        "open('made', 'w').close()\n"
        "for child in children: os.kill(child, signal.SIGKILL)\n"
        "print(sum(os.waitpid(child, 0)[1] == 7 << 8 for child in children))\n"
    )
    result = opened(loop, Vetting(tmp_path), *python(code))
    assert (tmp_path / "made").exists()
    refused = int(result.stdout)
    assert 40 <= refused < 200
    assert {denial.cause for denial in result.denials} == {"full"}


def test_no_terminal_is_taken(loop: Loop, tmp_path: Path) -> None:
    """/dev/tty is the caller's terminal, of which it has none here; the host's may exist."""
    script = "exec 2>&1; echo x > /dev/tty; cat < /dev/tty"
    result = opened(loop, allow, *shell(script), place=tmp_path)
    assert result.stdout.count(b"/dev/tty") == 2
    assert b"No such device" in result.stdout


def test_a_blocked_host_keeps_the_tree_from_nothing_else(loop: Loop, tmp_path: Path) -> None:
    """The callback blocks its whole loop: what needs no question goes on."""
    seen = threading.Event()

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Open) and event.path == f"{tmp_path}/slow":
            seen.set()
            time.sleep(1)  # noqa: ASYNC251  # what it must not do
        return Allow()

    script = (
        "(echo x > slow) & sleep 0.3; n=0; while [ $n -lt 50 ]; do : < /dev/null; n=$((n + 1)); done; date +%s.%N; wait"
    )
    started = time.time()
    result = opened(loop, vet, *shell(script), which="write", place=tmp_path)
    assert float(result.stdout) - started < 5
    assert (tmp_path / "slow").read_text() == "x\n"
