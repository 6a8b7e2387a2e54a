"""`agent learn`: what a program did becomes a profile under which it does that again, and nothing else.

Every round is: run it recorded, run it under the profile, and try something that it did not do. Judged by files,
listeners and exit codes outside.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import textwrap
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from ordinary import Person

from sandlock import Sandbox, _resolver
from sandlock.cli.__main__ import main as app
from sandlock.profile import load as load_profile

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.slow]

SYSTEM_PYTHON = "/usr/bin/python3"
SLEEP = str(100_000 + os.getpid())
"""Seconds that nobody else sleeps."""


@dataclass
class Lesson:
    """A workspace of somebody, and the profile that is learned there."""

    who: Person
    work: str
    profile: str

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        """A file of the workspace, or of the home directory where the name begins with "~/"."""
        path = name.replace("~", self.who.home, 1) if name.startswith("~/") else f"{self.work}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        self.give(os.path.dirname(path))
        return path

    def read(self, name: str) -> str:
        with open(f"{self.work}/{name}", encoding="utf-8") as file:
            return file.read()

    def give(self, *places: str) -> None:
        """Makes what lies in the home directory that person's own."""
        for place in (*places, self.who.home):
            for folder, folders, names in os.walk(place):
                for each in (folder, *(f"{folder}/{name}" for name in (*folders, *names))):
                    os.chown(each, self.who.uid, self.who.gid, follow_symlinks=False)

    def sandlock(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.who.run([self.who.python, "-m", "sandlock.cli", *words], cwd=self.work, **options)

    def learn(self, *words: str, options: tuple[str, ...] = (), **more: Any) -> subprocess.CompletedProcess[str]:
        """Learns the profile from this command."""
        return self.sandlock("agent", "learn", "-o", self.profile, "-t", "60", *options, "--", *words, **more)

    def again(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command under the learned profile."""
        return self.sandlock("run", "-p", self.profile, "--", *words, **more)

    @property
    def text(self) -> str:
        with open(self.profile, encoding="utf-8") as file:
            return file.read()

    @property
    def rules(self) -> dict[str, list[Any]]:
        """The lists of the profile, by key."""
        document = tomllib.loads(self.text)
        return {f"{section}.{key}": value for section, keys in document.items() for key, value in keys.items()}


@pytest.fixture
def lesson(visitor: Person) -> Lesson:
    work = f"{visitor.home}/work"
    os.mkdir(work)
    made = Lesson(visitor, work, f"{visitor.home}/profiles/learned.toml")
    made.give()
    return made


def said(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.returncode}\n{done.stdout}\n{done.stderr}"


# ---- real programs


@pytest.mark.needs(program="git")
def test_git_commit(lesson: Lesson) -> None:
    lesson.write("file", "one\n")
    lesson.write("~/.gitconfig", "[user]\n\tname = somebody\n\temail = s@example.com\n")
    for words in (["init", "-q"], ["add", "file"]):
        assert lesson.who.run(["git", *words], cwd=lesson.work).returncode == 0
    done = lesson.learn("git", "commit", "-qm", "first")
    assert done.returncode == 0, said(done)
    assert "git" in lesson.rules["config.presets"]
    assert "git commit *" in lesson.rules["exec.allow"]
    assert "write" not in str(lesson.rules["config.presets"])
    assert [path for path in lesson.rules["filesystem.write"] if not path.startswith(".git")] == []

    lesson.write("file", "two\n")
    assert lesson.who.run(["git", "add", "file"], cwd=lesson.work).returncode == 0
    done = lesson.again("git", "commit", "-qm", "second")
    assert done.returncode == 0, said(done)
    log = lesson.who.run(["git", "log", "--format=%s"], cwd=lesson.work)
    assert log.stdout.split() == ["second", "first"]
    assert lesson.again("git", "push", "elsewhere").returncode == 126
    assert lesson.again("git", "rm", "file").returncode == 126
    assert os.path.exists(f"{lesson.work}/file")


def wheel(path: str) -> str:
    """The least that pip installs: one module."""
    name = f"{path}/learned_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(name, "w") as file:
        file.writestr("learned_thing.py", "ANSWER = 42\n")
        file.writestr(
            "learned_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: learned_thing\nVersion: 1.0\n"
        )
        file.writestr(
            "learned_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("learned_thing-1.0.dist-info/RECORD", "")
    return name


@pytest.mark.needs(program=SYSTEM_PYTHON)
def test_pip_install_of_a_wheel(lesson: Lesson) -> None:
    made = lesson.who.run([SYSTEM_PYTHON, "-m", "venv", "venv"], cwd=lesson.work)
    if made.returncode:
        pytest.skip("the system's Python has no ensurepip")
    thing = os.path.basename(wheel(lesson.work))
    lesson.give()
    install = ["venv/bin/pip", "install", "--no-index", "--no-cache-dir", "--disable-pip-version-check", thing]
    done = lesson.learn(*install)
    assert done.returncode == 0, said(done)
    assert "network.allow" not in lesson.rules
    assert lesson.who.run(["venv/bin/pip", "uninstall", "-qy", "learned-thing"], cwd=lesson.work).returncode == 0
    assert lesson.who.run(["venv/bin/python", "-c", "import learned_thing"], cwd=lesson.work).returncode == 1

    done = lesson.again(*install)
    assert done.returncode == 0, said(done)
    assert lesson.who.run(["venv/bin/python", "-c", "import learned_thing"], cwd=lesson.work).returncode == 0
    outside = lesson.write("~/other/file", "x")
    done = lesson.again("venv/bin/python", "-c", f"open({outside!r}, 'w')")
    assert "PermissionError" in done.stderr, said(done)
    done = lesson.again("venv/bin/python", "-c", "import socket; socket.create_connection(('127.0.0.1', 9))")
    assert "PermissionError" in done.stderr, said(done)


@pytest.mark.needs(program="npm")
def test_npm_install_of_a_package(lesson: Lesson) -> None:
    lesson.write("pkg/package.json", json.dumps({"name": "pkg", "version": "1.2.3", "main": "main.js"}))
    lesson.write("pkg/main.js", "module.exports = 42\n")
    lesson.write("package.json", json.dumps({"name": "project", "version": "1.0.0"}))
    options = [f"--env=npm_config_cache={lesson.work}/cache", "--env=npm_config_update_notifier=false"]
    install = ["npm", "install", "--offline", "--no-audit", "--no-fund", "--install-links", "./pkg"]
    done = lesson.learn(*install, options=tuple(options))
    assert done.returncode == 0, said(done)
    assert os.path.exists(f"{lesson.work}/node_modules/pkg/main.js")
    assert "npm install *" in lesson.rules["exec.allow"]

    shutil.rmtree(f"{lesson.work}/node_modules")
    os.unlink(f"{lesson.work}/package-lock.json")
    done = lesson.again(*install)
    assert done.returncode == 0, said(done)
    assert os.path.exists(f"{lesson.work}/node_modules/pkg/main.js")
    assert lesson.again("npm", "publish").returncode == 126
    assert lesson.again("node", "-e", "1").returncode == 126


@pytest.mark.needs(program="make")
def test_make_and_a_compiler(lesson: Lesson) -> None:
    lesson.write("Makefile", "prog: a.o b.o\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -c -o $@ $<\n")
    lesson.write("a.c", "int b(void); int main(void) { return b(); }\n")
    lesson.write("b.c", "int b(void) { return 42; }\n")
    done = lesson.learn("make")
    assert done.returncode == 0, said(done)
    temporary = tomllib.loads(lesson.text)["program"]["env"]["TMPDIR"]
    assert os.stat(temporary).st_mode & 0o777 == 0o700
    assert lesson.who.run(["./prog"], cwd=lesson.work).returncode == 42

    lesson.write("b.c", "int b(void) { return 43; }\n")
    done = lesson.again("make")
    assert done.returncode == 0, said(done)
    assert lesson.who.run(["./prog"], cwd=lesson.work).returncode == 43
    assert os.listdir(temporary) == []
    done = lesson.again("gcc", "-o", f"{lesson.who.home}/escaped", "a.c", "b.c")
    assert done.returncode != 0, said(done)
    assert not os.path.exists(f"{lesson.who.home}/escaped")
    assert lesson.again("./prog").returncode == 126


SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
client = socket.create_connection(server.getsockname())
with server.accept()[0] as peer:
    peer.sendall(b"hello")
    print(client.recv(5).decode())
"""


@pytest.mark.parametrize("port", [0, 18765])
def test_a_server_of_this_machine(lesson: Lesson, port: int) -> None:
    lesson.write("serve.py", SERVER)
    command = [SYSTEM_PYTHON, "serve.py", str(port)]
    done = lesson.learn(*command)
    assert done.returncode == 0, said(done)
    if port:
        assert (lesson.rules["network.allow"], lesson.rules["network.allow_bind"]) == (["localhost:18765"], ["18765"])
    else:
        assert (lesson.rules["network.allow"], lesson.rules["network.allow_bind"]) == (["localhost"], ["*"])
    assert "python3 serve.py *" in lesson.rules["exec.allow"]

    done = lesson.again(*command)
    assert (done.returncode, done.stdout) == (0, "hello\n"), said(done)
    if port:
        done = lesson.again(SYSTEM_PYTHON, "serve.py", "18766")
        assert "PermissionError" in done.stderr, said(done)
    assert lesson.again(SYSTEM_PYTHON, "-c", "print(1)").returncode == 126


STORM = """
import os, threading
def storm():
    for _ in range(250):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        assert os.waitpid(pid, 0)[1] == 0
threads = [threading.Thread(target=storm) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print("done")
"""


def test_a_thousand_spawns(lesson: Lesson) -> None:
    lesson.write("storm.py", STORM)
    done = lesson.learn(SYSTEM_PYTHON, "storm.py")
    assert (done.returncode, "done" in done.stdout + done.stderr) == (0, True), said(done)
    assert sorted(lesson.rules["exec.allow"]) == ["python3 storm.py *", "true *"]
    assert "1000 times, e.g. true" in lesson.text
    assert "NOT COMPLETE" not in lesson.text

    done = lesson.again(SYSTEM_PYTHON, "storm.py")
    assert (done.returncode, done.stdout) == (0, "done\n"), said(done)
    lesson.write("storm.py", STORM.replace("/bin/true", "/bin/ls"))
    assert "PermissionError" in lesson.again(SYSTEM_PYTHON, "storm.py").stderr


def test_secrets_are_refused_and_told(lesson: Lesson) -> None:
    """Neither directly, nor by a directory that stands for them, nor below a grant of the workspace."""
    key = lesson.write("~/.ssh/id_ed25519", "SECRET-KEY\n", 0o600)
    dotenv = lesson.write(".env", "TOKEN=SECRET-TOKEN\n", 0o600)
    for name in "abcdef":
        lesson.write(f"~/notes/{name}", f"{name}\n")
    script = f"cat {key} {dotenv}; ls ~/.ssh; cat ~/notes/*; echo 1 > made; cat {lesson.who.home}/notes/a"
    done = lesson.learn("sh", "-c", script)
    assert "SECRET" not in done.stdout + done.stderr
    assert "a\nb\n" in done.stdout + done.stderr  # the control: other files are read
    for secret in ("id_ed25519", ".env"):
        assert [line for line in done.stderr.splitlines() if secret in line and "a secret" in line], said(done)
        assert [line for line in lesson.text.splitlines() if secret in line and line.startswith("#")]
    assert lesson.rules["filesystem.data"] == ["~/notes"]
    assert lesson.rules["filesystem.deny"] == [".env"]
    assert not [path for paths in lesson.rules.values() for path in paths if ".ssh" in path and "cat" not in path]

    done = lesson.again("sh", "-c", script)
    assert "SECRET" not in done.stdout
    assert "a\nb\n" in done.stdout


SOCKETS = """
import os, socket, sys, tempfile
for place in (tempfile.mkdtemp(), "run"):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(f"{place}/socket")
        server.listen()
        client.connect(f"{place}/socket")
        print("connected")
    os.unlink(f"{place}/socket")
"""


def test_unix_sockets(lesson: Lesson) -> None:
    lesson.write("sockets.py", SOCKETS)
    lesson.write("run/README", "")
    done = lesson.learn(SYSTEM_PYTHON, "sockets.py")
    assert done.returncode == 0, said(done)
    assert sorted(lesson.rules["filesystem.write"])[0] == "run"
    done = lesson.again(SYSTEM_PYTHON, "sockets.py")
    assert (done.returncode, done.stdout) == (0, "connected\n" * 2), said(done)


def test_sockets_of_others_are_refused(lesson: Lesson) -> None:
    """They lead out of the sandbox: an agent of keys, a desktop, a container engine."""
    path = f"{lesson.who.home}/agent"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        lesson.give()
        done = lesson.learn(SYSTEM_PYTHON, "-c", f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "PermissionError" in done.stderr
    assert "refused: connect unix:" in done.stderr
    assert "network.allow" not in lesson.rules


NAMED = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as server:
    print(server.recv(5).decode(), flush=True)
"""


def test_a_server_by_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, lasting_thread: None) -> None:
    """The rule is about the name: another name is not looked up. In this process, for its resolver."""
    known = {"named.example.org": ["127.0.0.1"], "other.example.org": ["127.0.0.1"]}
    monkeypatch.setattr(_resolver, "look_up", lambda name: known.get(name.rstrip("."), []))
    monkeypatch.setenv("HOME", str(tmp_path))
    work, profile = tmp_path / "work", tmp_path / "learned.toml"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "named.py").write_text(NAMED)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        thread = threading.Thread(target=greet, args=(server,), daemon=True)
        thread.start()
        code = app(["agent", "learn", "-o", str(profile), "--", SYSTEM_PYTHON, "named.py", "named.example.org", port])
        assert code == 0
        rules = tomllib.loads(profile.read_text())
        assert rules["network"]["allow"] == [f"named.example.org:{port}"]
        policy = load_profile(profile).policy()
        with Sandbox(policy) as box:
            done = box.run([SYSTEM_PYTHON, "named.py", "named.example.org", port])
            assert (done.exit_code, done.stdout) == (0, b"hello\n"), done.stderr_text
            done = box.run([SYSTEM_PYTHON, "named.py", "other.example.org", port])
            assert done.exit_code == 1
            assert [denial.target for denial in done.denials if denial.kind == "resolve"] == ["other.example.org"]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def greet(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            peer.sendall(b"hello")


# ---- terminals, and the end


def in_terminal(
    lesson: Lesson, words: list[str], typed: Callable[[int, bytearray], Iterator[bool]], timeout: float = 30
) -> tuple[int, bytes]:
    """Runs words in a new terminal. `typed` gets its descriptor and what was shown, and yields until it is done."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(lesson.work)
        if lesson.who.identity:
            os.setgroups([])
            os.setgid(lesson.who.gid)
            os.setuid(lesson.who.uid)
        os.execve(lesson.who.python, words, lesson.who.environment({"TERM": "xterm"}))
    shown, deadline, steps = bytearray(), time.monotonic() + timeout, None
    try:
        steps = typed(terminal, shown)
        next(steps)
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    block = os.read(terminal, 65536)
                except OSError:
                    break
                if not block:
                    break
                shown += block
            next(steps, None)
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), bytes(shown)


def command_of(lesson: Lesson, *words: str) -> list[str]:
    return [lesson.who.python, "-m", "sandlock.cli", *words]


@pytest.mark.needs(program="vim")
def test_a_program_that_draws_the_screen(lesson: Lesson) -> None:
    """vim: it gets the terminal, its size, and Ctrl-C; what it wrote is in the profile."""

    def typed(text: str) -> Callable[[int, bytearray], Iterator[bool]]:
        def type_it(terminal: int, shown: bytearray) -> Iterator[bool]:
            while b"notes.txt" not in shown:
                yield False
            os.write(terminal, b"i" + text.encode())
            while text.encode() not in shown:
                yield False
            del shown[:]
            os.write(terminal, b"\x03")  # ends the insertion, and not vim
            while not shown:
                yield False
            os.write(terminal, b"\x1b:wq\r")
            yield True

        return type_it

    lesson.write("notes.txt", "")
    editor = ["vim", "-u", "NONE", "-i", "NONE", "-n", "notes.txt"]
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, "-t", "60", "--", *editor)
    code, shown = in_terminal(lesson, words, typed("learned"))
    assert code == 0, shown
    assert lesson.read("notes.txt") == "learned\n"

    words = command_of(lesson, "run", "-i", "-p", lesson.profile, "--", *editor)
    code, shown = in_terminal(lesson, words, typed("again"))
    assert code == 0, shown
    assert lesson.read("notes.txt") == "againlearned\n"
    assert lesson.again("cat", "/etc/hostname").returncode == 126


def test_ctrl_c_ends_the_program_and_the_profile_is_written(lesson: Lesson) -> None:
    def typed(terminal: int, shown: bytearray) -> Iterator[bool]:
        while b"ready" not in shown:
            yield False
        os.write(terminal, b"\x03")
        yield True

    script = f"echo 1 > made; setsid sleep {SLEEP} & trap '' INT; echo ready; while :; do sleep 0.1; done"
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, "--", "sh", "-c", script)
    code, shown = in_terminal(lesson, words, typed)
    assert code == 0, shown
    assert b"was ended by SIGINT" in shown
    assert "workspace" in lesson.rules["config.presets"]
    assert not still_runs()


@pytest.mark.parametrize("how", ["limit", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_whatever_ends_it_the_profile_is_written(lesson: Lesson, how: str | signal.Signals) -> None:
    script = f"echo 1 > made; (setsid sleep {SLEEP} > /dev/null 2>&1 &) ; echo ready >&2; sleep 60"
    limit = ["-t", "1"] if how == "limit" else []
    words = command_of(lesson, "agent", "learn", "-o", lesson.profile, *limit, "--", "sh", "-c", script)
    environment = lesson.who.environment()
    with subprocess.Popen(
        words,
        cwd=lesson.work,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **lesson.who.identity,  # type: ignore[call-overload]
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert ("by its time limit" if how == "limit" else f"was ended by {how.name}") in rest  # type: ignore[union-attr]
    assert "workspace" in lesson.rules["config.presets"]
    assert not still_runs()
    assert [name for name in os.listdir(lesson.who.home) if "learn-" in name] == []


def still_runs() -> bool:
    """Whether a `sleep` of this process's tests is alive."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().split(b"\0")[:2] == [b"sleep", SLEEP.encode()]:
                    return True
        except OSError:
            continue
    return False


# ---- the profile


def test_it_is_the_same_each_time_and_minimal(lesson: Lesson) -> None:
    for name in "abcde":
        lesson.write(f"~/many/{name}", "x")
    lesson.write("~/few/one", "x")
    lesson.write("input/data", "x")
    command = [
        "sh",
        "-c",
        "cat ~/many/a ~/many/b ~/many/c ~/many/d ~/many/e ~/few/one input/data > /dev/null;"
        "echo $$ > $TMPDIR/x; mktemp > /dev/null",
    ]
    texts = []
    for _ in range(3):
        done = lesson.learn(*command)
        assert done.returncode == 0, said(done)
        texts.append(lesson.text)
        os.unlink(lesson.profile)
    assert texts[0] == texts[1] == texts[2]
    rules = tomllib.loads(texts[0])["filesystem"]
    assert rules["data"] == ["input/data", "~/few/one", "~/many"]
    assert "5 paths, e.g. ~/many/a by cat: 5 of its entries" in texts[0]
    assert len(rules["write"]) == 1  # only that for temporary files


def test_what_was_tried_elsewhere_is_proposed_and_not_granted(lesson: Lesson) -> None:
    done = lesson.learn("sh", "-c", "echo 1 > ~/elsewhere; mkdir ~/folder; echo ok > here")
    assert not os.path.exists(f"{lesson.who.home}/elsewhere")
    assert "elsewhere" in done.stderr
    proposed = [line for line in lesson.text.splitlines() if "elsewhere by dash: if that is meant" in line]
    assert len(proposed) == 1
    assert proposed[0].startswith("#   ")
    assert "elsewhere" not in str(lesson.rules.get("filesystem.write", []))
    os.unlink(lesson.profile)
    os.mkdir(f"{lesson.who.home}/allowed")
    lesson.give()
    done = lesson.learn("sh", "-c", "echo 1 > ~/allowed/x", options=("-w", "~/allowed"))
    assert lesson.rules["filesystem.write"] == ["~/allowed"], said(done)


def test_merge_extends_and_keeps(lesson: Lesson) -> None:
    before = textwrap.dedent(
        """\
        # mine: keep this comment
        [config]
        presets = ["system"]  # and this

        [exec]
        allow = [
            "cat *"  # no comma here
            # a last remark
        ]

        [limits]
        timeout = "5m"
        """
    )
    profile = lesson.write("~/profiles/learned.toml", before)
    lesson.write("~/data/file", "content\n")
    command = ["sh", "-c", "cat ~/data/file; echo 1 > made"]
    done = lesson.sandlock("agent", "learn", "--merge", profile, "--", *command)
    assert done.returncode == 0, said(done)
    for line in ("# mine: keep this comment", "# and this", "# no comma here", "# a last remark", 'timeout = "5m"'):
        assert line in lesson.text
    assert lesson.rules["config.presets"] == ["system", "workspace"]
    assert lesson.rules["filesystem.data"] == ["~/data/file"]
    assert lesson.rules["exec.allow"][0] == "cat *"
    assert len(lesson.rules["exec.allow"]) == 2
    assert "new: filesystem.data: ~/data/file" in done.stderr
    done = lesson.again(*command)
    assert (done.returncode, done.stdout) == (0, "content\n"), said(done)

    text = lesson.text
    done = lesson.sandlock("agent", "learn", "--merge", profile, "--", *command)
    assert "nothing is new" in done.stderr, said(done)
    assert lesson.text == text


def test_a_profile_that_is_there_is_not_lost(lesson: Lesson) -> None:
    lesson.write("~/profiles/learned.toml", "[config]\n")
    done = lesson.learn("true")
    assert (done.returncode, "is there already" in done.stderr) == (125, True)
    assert lesson.text == "[config]\n"


def test_hostile_names_stay_in_their_comment(lesson: Lesson) -> None:
    """File names and words with line ends, quotes and escapes are text of the profile, never lines of it."""
    evil = 'x"]\n[filesystem]\nread = ["/"]\n\x1b[31m#'
    code = f"import os; os.makedirs({evil!r}); open({evil!r} + '/file', 'w').close(); open({evil!r} + '/file').close()"
    done = lesson.learn(SYSTEM_PYTHON, "-c", code)
    assert done.returncode == 0, said(done)
    assert "\x1b" not in done.stderr
    assert "filesystem.read" not in lesson.rules
    assert "/" not in lesson.rules.get("filesystem.data", [])
    shutil.rmtree(f"{lesson.work}/{evil}")
    done = lesson.again(SYSTEM_PYTHON, "-c", code)
    assert done.returncode == 0, said(done)


def test_to_standard_output(lesson: Lesson) -> None:
    """The program's own output goes to standard error then."""
    done = lesson.sandlock("agent", "learn", "--", "echo", "from the program")
    assert done.returncode == 0, said(done)
    assert tomllib.loads(done.stdout)["exec"]["allow"] == ["echo *"]
    assert "from the program" in done.stderr


def test_the_exit_code_is_the_programs(lesson: Lesson) -> None:
    assert lesson.learn("sh", "-c", "exit 7").returncode == 7
    assert "exited with 7" in lesson.text


def test_home_and_root_are_no_workspace(lesson: Lesson) -> None:
    for place in (lesson.who.home, "/"):
        done = lesson.who.run(command_of(lesson, "agent", "learn", "--", "true"), cwd=place)
        assert (done.returncode, "start in a project directory" in done.stderr) == (125, True), said(done)
