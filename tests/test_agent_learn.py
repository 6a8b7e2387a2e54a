"""`agent learn`: what a program did becomes a profile under which it does that again, and nothing else.

Every round is: run it recorded, run it under the profile, and try something that it did not do. Judged by files,
listeners and exit codes outside.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import tomllib
import zipfile
from typing import Any

import pytest
from lessons import SYSTEM_PYTHON, Lesson, begin, said
from ordinary import Person

from sandlock import Sandbox, _resolver
from sandlock.cli.__main__ import main as app
from sandlock.profile import load as load_profile

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.slow]


@pytest.fixture
def lesson(visitor: Person) -> Lesson:
    return begin(visitor)


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
    assert made.returncode == 0, made.stderr
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


def test_an_agent_run_with_what_was_learned(lesson: Lesson) -> None:
    """Programs that are not in the profile are not run; nobody is there to be asked."""
    lesson.write("~/data/file", "content\n")
    script = "cat $DATA/file > copy; cat copy; echo $$ > $TMPDIR/x"
    given = f"--env=DATA={lesson.who.home}/data"
    done = lesson.learn("sh", "-c", script, options=(given,))
    assert done.returncode == 0, said(done)
    state = {"XDG_STATE_HOME": f"{lesson.who.home}/state", "XDG_RUNTIME_DIR": ""}
    os.mkdir(state["XDG_STATE_HOME"], 0o700)
    lesson.give()
    run = ("agent", "run", "--ask", "none", "-p", lesson.profile, "--")
    os.unlink(f"{lesson.work}/copy")
    done = lesson.sandlock(*run, "sh", "-c", script, env=state)
    assert (done.returncode, done.stdout) == (0, "content\n"), said(done)
    done = lesson.sandlock(*run, "rm", "copy", env=state)
    assert done.returncode == 126, said(done)
    assert os.path.exists(f"{lesson.work}/copy")


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


COPIES = [f"{number}.copy" for number in range(200)]
MAKEFILE = f"""all: {" ".join(COPIES)}
\tcat {" ".join(COPIES)} > all
%.copy: source
\tcp source $@
clean:
\trm source
"""


@pytest.mark.needs(program="make")
def test_make_with_many_jobs(lesson: Lesson) -> None:
    """GNU make starts them by posix_spawn, eight at once."""
    lesson.write("Makefile", MAKEFILE)
    lesson.write("source", "one\n")
    done = lesson.learn("make", "-j8")
    assert done.returncode == 0, said(done)
    assert lesson.read("all") == "one\n" * len(COPIES)
    assert "NOT COMPLETE" not in lesson.text
    assert {"make *", "cp *", "cat *"} < set(lesson.rules["exec.allow"])

    lesson.write("source", "two\n")
    done = lesson.again("make", "-j8")
    assert done.returncode == 0, said(done)
    assert lesson.read("all") == "two\n" * len(COPIES)
    assert lesson.again("make", "clean").returncode != 0
    assert lesson.read("source") == "two\n"


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
