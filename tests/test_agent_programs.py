"""Real programs in an agent run: git in worktrees, pip, npm, compilers, servers; each with what it must not reach."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import ordinary
import pytest
from agent_place import Place, run
from agent_terminal import until

from sandlock import Allow, Deny, Exec, _resolver
from sandlock._record import replace
from sandlock.cli.__main__ import main as app
from sandlock.sessions.agent_profile import find_profile
from sandlock.sessions.git_metadata import find_metadata
from sandlock.sessions.workspace import AgentSetup, settle

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
HOME = os.environ.get("HOME", "")
"""The real one, before a test takes another."""
git = pytest.mark.needs(program="git")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place.made(tmp_path, monkeypatch)


@pytest.fixture
def repository(place: Place) -> Path:
    """One commit, at a place that is not the workspace; the user has a name and wants signatures."""
    there = place.home / "repo"
    place.write(".gitconfig", "[user]\nname = Someone\nemail = someone@example.org\n[commit]\ngpgsign = true\n")
    place.git("-c", "commit.gpgsign=false", "init", "-q", str(there))
    place.write("repo/file", "one\n")
    place.write("repo/sub/part", "part\n")
    place.git("add", ".", cwd=there)
    place.git("-c", "commit.gpgsign=false", "commit", "-qm", "first", cwd=there)
    return there


COMMIT = "echo two > new; git add new && git commit -qm second && git status --short && git log --format=%s"

# ---- git ------------------------------------------------------------------------------------------------------------


@git
def test_a_commit_in_the_workspace(place: Place, repository: Path) -> None:
    setup = place.prepare(workspace=str(repository), addons=["git"])
    before = (repository / ".git/config").read_text()
    attacks = """
        echo 'echo evil' > .git/hooks/pre-commit; git config core.pager evil; echo x > evil; mv evil .git/config
        echo evil > .git/commondir; mv .git .other; mkdir .vscode; echo evil > .envrc; echo evil > .git/config.worktree
    """
    result = run(setup, COMMIT)
    assert (result.stdout_text, result.stderr_text) == ("second\nfirst\n", "")
    run(setup, attacks)
    assert (repository / ".git/config").read_text() == before
    made = (".git/hooks/pre-commit", ".git/commondir", ".vscode", ".envrc", ".git/config.worktree")
    assert not [name for name in made if os.path.lexists(repository / name)]
    assert place.git("log", "--format=%s %an", cwd=repository) == "second Someone\nfirst NAME@example.org\n".replace(
        "NAME", "name"
    )
    assert settle(setup) == []


@git
def test_a_commit_in_a_worktree(place: Place, repository: Path) -> None:
    place.git("worktree", "add", "-q", "-b", "side", str(place.work / "tree"), cwd=repository)
    tree = place.work / "tree"
    before = (repository / ".git/config").read_text()
    setup = place.prepare(workspace=str(tree), addons=["git"])
    attacks = f"""
        echo 'echo evil' > {repository}/.git/hooks/pre-commit; echo evil >> {repository}/.git/config
        git config core.pager evil; echo evil > {repository}/file; mv {repository}/.git/hooks {repository}/.git/h
        echo evil > {repository}/.git/HEAD
        echo 'gitdir: {tree}/evil' > .git; rm -f .git; echo {tree}/evil > {repository}/.git/worktrees/tree/commondir
        echo {tree} > {repository}/.git/worktrees/tree/gitdir
    """
    facts = {
        path: path.read_text()
        for path in (tree / ".git", *(repository / ".git/worktrees/tree" / name for name in ("commondir", "gitdir")))
    }
    result = run(setup, f"{COMMIT}\n{attacks}")
    assert result.stdout_text == "second\nfirst\n"
    assert place.git("log", "--format=%s", "side", cwd=repository) == "second\nfirst\n"
    assert (repository / ".git/config").read_text() == before
    assert not (repository / ".git/hooks/pre-commit").exists()
    assert (repository / "file").read_text() == "one\n"
    assert (repository / ".git/HEAD").read_text() == "ref: refs/heads/main\n"
    assert {path: path.read_text() for path in facts} == facts
    assert setup.warnings == ()


def planted(place: Place, where: Path, mark: Path) -> bool:
    """Whether git outside, asked for no more than the status, executes what was planted."""
    mark.unlink(missing_ok=True)
    place.git("status", "--short", cwd=where)
    return mark.exists()


@git
def test_repositories_below_the_workspace(place: Place, repository: Path) -> None:
    """A submodule, a worktree's metadata, and a repository of its own: git outside reads their settings as well."""
    top, mark = place.work / "top", place.home / "mark"
    place.git("init", "-q", str(top))
    place.git("submodule", "--quiet", "add", str(repository), "deps/part", cwd=top)
    place.git("-c", "commit.gpgsign=false", "commit", "-qm", "first", cwd=top)
    place.git("init", "-q", str(top / "other"))
    place.git("worktree", "add", "-q", str(place.home / "tree"), cwd=top)
    key, value = "core.fsmonitor", f"touch {mark} && false"
    evil = f"git config -f evil/config core.repositoryformatversion 0; git config -f evil/config {key} '{value}'"
    inner, part = ".git/modules/deps/part", "deps/part"
    attacks = {
        f"git config -f {inner}/config {key} '{value}'": top,
        f"rm -f {part}/.git; cp -r {inner} {part}/.git; git config -f {part}/.git/config --unset core.worktree; "
        f"git config -f {part}/.git/config {key} '{value}'": top,
        f"mkdir evil; cp -r .git/objects .git/refs .git/HEAD evil; {evil}; "
        "echo $PWD/evil > .git/worktrees/tree/commondir": place.home / "tree",
        f"git config -f other/.git/config {key} '{value}'": top / "other",
        f"mv other/.git other/.old; cp -r other/.old other/.git; git config -f other/.git/config {key} '{value}'": (
            top / "other"
        ),
    }
    setup = place.prepare(workspace=str(top), addons=["git"])
    for attack, where in attacks.items():
        run(setup, attack)
        assert not planted(place, where, mark), attack
    assert run(setup, "cd deps/part && echo two > new && git add new && git commit -qm in").exit_code == 0
    for attack, where in attacks.items():  # the control: each works outside
        subprocess.run(["sh", "-c", attack], cwd=top, check=False, capture_output=True)
        assert planted(place, where, mark), attack


@git
def test_a_commit_in_a_part_of_a_repository(place: Place, repository: Path) -> None:
    setup = place.prepare(workspace=str(repository / "sub"), addons=["git"])
    result = run(setup, f"{COMMIT}; cat ../file; echo evil > ../file")
    assert result.stdout_text == "second\nfirst\none\n"
    assert (repository / "file").read_text() == "one\n"
    assert place.git("log", "--format=%s", cwd=repository) == "second\nfirst\n"


@git
def test_a_commit_in_a_submodule(place: Place, repository: Path) -> None:
    outer = place.home / "outer"
    place.git("init", "-q", str(outer))
    place.git("submodule", "add", "-q", str(repository), "inner", cwd=outer)
    setup = place.prepare(workspace=str(outer / "inner"), addons=["git"])
    assert run(setup, COMMIT).stdout_text == "second\nfirst\n"
    assert place.git("log", "--format=%s", cwd=outer / "inner") == "second\nfirst\n"


@git
def test_a_repository_around_the_home_directory(place: Place) -> None:
    place.git("init", "-q", str(place.home))
    place.write("private", "PRIVATE\n")
    setup = place.prepare(addons=["git"])
    assert any("holds your home directory" in warning for warning in setup.warnings)
    assert run(setup, f"cat {place.home}/private; ls {place.home}; echo end").stdout_text == "end\n"


@git
@pytest.mark.parametrize(
    "kind", ["keys", "another", "copied", "metadata", "link", "fifo", "home", "text", "submodule", "endless"]
)
def test_a_planted_git_file_widens_nothing(place: Place, repository: Path, kind: str) -> None:
    place.write(".ssh/id", "KEY\n")
    place.git("worktree", "add", "-q", "-b", "side", str(place.home / "tree"), cwd=repository)
    theirs = repository / ".git/worktrees/tree"
    entry = place.work / ".git"
    match kind:
        case "keys":
            place.write(".ssh/HEAD", "x")
            entry.write_text(f"gitdir: {place.home}/.ssh\n")
        case "another":
            entry.write_text(f"gitdir: {theirs}\n")
        case "copied":
            entry.write_text((place.home / "tree/.git").read_text())
        case "metadata":  # which says that the home directory is the repository
            for name, text in (("HEAD", "x"), ("commondir", str(place.home)), ("gitdir", str(entry))):
                place.write(f"planted/worktrees/x/{name}", text)
            entry.write_text(f"gitdir: {place.home}/planted/worktrees/x\n")
        case "link":
            entry.symlink_to(place.home / ".ssh")
        case "fifo":
            os.mkfifo(entry)
        case "home":
            for name in ("HEAD", "config"):
                place.write(name, f"[core]\nworktree = {place.home}\n")
            entry.write_text(f"gitdir: {place.home}\n")
        case "text":
            entry.write_text("gitdir:\0 /\n")
        case "submodule":
            entry.write_text(f"gitdir: {repository}/.git\n")
        case "endless":
            entry.symlink_to(".git")
    setup = place.prepare(addons=["git"])
    assert len(setup.warnings) == 1
    found = find_metadata(str(place.work), [str(place.home)])
    assert (found.read, found.write) == ((), ())
    result = run(setup, f"cat {place.home}/.ssh/id {repository}/.git/HEAD {theirs}/HEAD; ls {place.home}; echo end")
    assert result.stdout_text == "end\n"


@git
def test_pushing_is_asked_about(place: Place, repository: Path) -> None:
    bare = place.work / "bare"
    place.git("init", "-q", "--bare", str(bare))
    asked: list[tuple[str, ...]] = []

    def answer(event: object, box: object) -> object:
        assert isinstance(event, Exec)
        asked.append(event.argv)
        return Allow() if len(asked) > 1 else Deny("not yet")

    place.git("clone", "-q", str(repository), str(place.work / "clone"))
    place.git("remote", "set-url", "origin", str(bare), cwd=place.work / "clone")  # in the box its settings stay
    setup = place.prepare(profile=find_profile("agent"))
    result = run(setup, "cd clone; git push -q origin main; git push -q origin main", answer=answer)
    assert asked[0] == asked[1] == ("git", "push", "-q", "origin", "main")
    assert len(result.denials) == 1
    assert place.git("log", "--format=%s", "main", cwd=bare) == "first\n"


# ---- pip, npm, compilers --------------------------------------------------------------------------------------------


def replace_network(setup: AgentSetup) -> AgentSetup:
    """Without the hosts, which are looked up at the start: no test needs the internet."""
    return replace(setup, policy=setup.policy.but(net_allow=[]))


def make_wheel(place: Path) -> Path:
    """A wheel of one module, made by hand."""
    wheel = place / "hello_agent-1.0-py3-none-any.whl"
    info = "hello_agent-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hello_agent.py", "print('installed')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: hello-agent\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.mark.slow
def test_pip(place: Place) -> None:
    make_wheel(place.work)
    place.write(".config/pip/pip.conf", "[global]\nindex-url = https://127.0.0.1/secret/\n")
    setup = place.prepare(addons=["pip"])
    wanted = {"pypi.org:443", "files.pythonhosted.org:443"}
    assert wanted <= set(setup.policy.net_allow)
    setup = replace_network(setup)
    script = f"""
        {sys.executable} -m venv env && env/bin/pip install -q --no-index ./hello_agent-1.0-py3-none-any.whl &&
        env/bin/python -c 'import hello_agent'; env/bin/pip cache dir; cat {place.home}/.config/pip/pip.conf
    """
    result = run(setup, script)
    assert result.stdout_text == f"installed\n{setup.temporary}/pip\n", result.stderr_text
    assert sorted(os.listdir(place.home)) == [".config", "work"]


@pytest.mark.slow
@pytest.mark.needs(program="npm")
def test_npm(place: Place) -> None:
    place.write("pack/package/package.json", '{"name": "hello-agent", "version": "1.0.0", "main": "index.js"}')
    place.write("pack/package/index.js", "console.log('installed')\n")
    with tarfile.open(place.work / "hello.tgz", "w:gz") as archive:
        archive.add(place.home / "pack/package", "package")
    place.write(".npmrc", "//registry.npmjs.org/:_authToken=secret\n")
    place.write(".npm/_npx/mine", "x")
    setup = place.prepare(addons=["npm"])
    assert "registry.npmjs.org:443" in setup.policy.net_allow
    script = f"""
        echo '{{"name": "mine", "version": "1.0.0"}}' > package.json
        npm install --offline --no-audit --no-fund --silent ./hello.tgz && node -e 'require("hello-agent")'
        npm config get cache; cat {place.home}/.npmrc; echo evil > {place.home}/.npm/_npx/mine
    """
    result = run(replace_network(setup), script)
    assert result.stdout_text == f"installed\n{setup.temporary}/npm\n", result.stderr_text
    assert (place.home / ".npm/_npx/mine").read_text() == "x"


@pytest.mark.needs(program="gcc")
def test_compilers(place: Place, tmp_path: Path) -> None:
    place.write("work/answer.c", '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n')
    place.write("work/Makefile", "answer: answer.c\n\tgcc -o answer answer.c\n")
    setup = place.prepare(addons=["build"])
    assert run(setup, "make -s && ./answer").stdout_text == "compiled\n"
    assert not any(grant.path == "/tmp" for grant in setup.policy.expand().grants)
    assert settle(setup) == []


@pytest.mark.slow
def test_cargo(place: Place) -> None:
    """With the user's own toolchain; where there is none, the add-on brings none."""
    if shutil.which("cargo") is None or not os.path.isdir(f"{HOME}/.rustup/toolchains"):
        setup = place.prepare(addons=["build"])
        assert run(setup, "PATH=$HOME/.cargo/bin:$PATH cargo --version").exit_code == 127
        return
    for name in (".rustup", ".cargo"):
        (place.home / name).symlink_to(f"{HOME}/{name}")
    place.write("work/Cargo.toml", '[package]\nname = "hi"\nversion = "0.1.0"\nedition = "2021"\n')
    place.write("work/src/main.rs", 'fn main() { println!("compiled"); }\n')
    setup = place.prepare(addons=["build"])
    result = run(setup, "PATH=$HOME/.cargo/bin:$PATH cargo run -q --offline")
    assert result.stdout_text == "compiled\n", result.stderr_text


# ---- loopback -------------------------------------------------------------------------------------------------------

SERVER = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=lambda: server.accept()[0].sendall(b"served"), daemon=True).start()
print(socket.create_connection(server.getsockname()).recv(10).decode())
for address in (("192.0.2.1", 80), ("169.254.169.254", 80)):
    try:
        socket.create_connection(address, 2)
        print("reached")
    except PermissionError:
        print("denied")
    except OSError as error:
        print(error)
"""


def test_loopback(place: Place) -> None:
    place.write("work/server.py", SERVER)
    python = [sys.executable]
    with_it = place.prepare(addons=["loopback"], presets=["python"], command=python)
    assert run(with_it, f"{sys.executable} server.py").stdout_text == "served\ndenied\ndenied\n"


def test_no_loopback_without_it(place: Place) -> None:
    place.write("work/server.py", SERVER)
    result = run(place.prepare(presets=["python"], command=[sys.executable]), f"{sys.executable} server.py")
    assert "served" not in result.stdout_text
    assert "Permission" in result.stderr_text


def test_unix_sockets_of_its_own(place: Place, tmp_path: Path) -> None:
    import socket

    place.write("work/server.py", """
import os, socket, sys
server = socket.socket(socket.AF_UNIX); server.bind(os.environ["TMPDIR"] + "/s"); server.listen()
socket.socket(socket.AF_UNIX).connect(os.environ["TMPDIR"] + "/s"); print("mine")
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print("theirs")
except PermissionError:
    print("denied")
""")  # fmt: skip
    with socket.socket(socket.AF_UNIX) as outside:
        path = place.work / "o"
        before = os.getcwd()
        os.chdir(place.work)  # its full path may be too long
        try:
            outside.bind("o")
        finally:
            os.chdir(before)
        outside.listen()
        setup = place.prepare(presets=["python"], command=[sys.executable])
        result = run(setup, f"{sys.executable} server.py o")
    assert result.stdout_text == "mine\ndenied\n", result.stderr_text
    assert path.exists()


# ---- the program itself ---------------------------------------------------------------------------------------------


def test_a_program_in_the_home_directory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pipx and npm install them: a link in ~/.local/bin, a script with an interpreter of its own."""
    place.write("tools/one/bin/run", "#!/usr/bin/env sh\ncat $(dirname $(readlink -f $0))/../data\n").chmod(0o755)
    place.write("tools/one/data", "its data\n")
    place.write("tools/two/data", "another's\n")
    (place.home / ".local/bin").mkdir(parents=True)
    (place.home / ".local/bin/run").symlink_to(place.home / "tools/one/bin/run")
    place.write(".local/share/mine", "MINE\n")
    monkeypatch.setenv("PATH", f"{place.home}/.local/bin:{os.environ['PATH']}")
    setup = place.prepare(command=["run"])
    result = run(setup, f"run; cat {place.home}/tools/two/data {place.home}/.local/share/mine")
    assert result.stdout_text == "its data\n"


def test_a_program_in_the_workspace_leads_nowhere(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("private/tool", "PRIVATE\n").chmod(0o755)
    (place.work / "more").symlink_to(place.home / "private")
    (place.home / "hop").symlink_to(place.work / "more")
    place.write(".ssh/id", "KEY\n").chmod(0o755)
    (place.work / "tool").symlink_to(place.home / ".ssh/id")
    (place.work / "bin").symlink_to(place.home / ".ssh")
    monkeypatch.setenv("PATH", f"{place.work}:{os.environ['PATH']}")
    for word in ("tool", "./tool", str(place.work / "tool"), "./bin/id", f"{place.home}/hop/tool"):
        setup = place.prepare(command=[word])
        assert (
            run(setup, f"cat tool bin/id {place.home}/.ssh/id {place.home}/private/tool; echo end").stdout_text
            == "end\n"
        )
        settle(setup)
        assert os.listdir(place.state) == []


# ---- as anybody -----------------------------------------------------------------------------------------------------

ANYBODY = """
import os
import shutil
from sandlock import Sandbox
from sandlock.sessions.agent_profile import find_profile
from sandlock.sessions.workspace import prepare, settle
for each in ("work", "state", ".ssh"):
    os.mkdir(each)
open(".ssh/id", "w").write("KEY"); open("work/.env", "w").write("SECRET"); open("work/plain", "w").write("plain")
setup = prepare(state="state", workspace="work", profile=find_profile("python"))
with Sandbox(setup.policy) as box:
    script = "cat plain; cat .env ~/../../.ssh/id; cat " + os.path.abspath(".ssh/id") + "; echo > x; ls"
    done = box.run(["sh", "-c", script])
print(done.stdout_text, settle(setup), os.listdir("state"), sorted(os.listdir("work")))
"""


def test_as_anybody(visitor: ordinary.Person) -> None:
    env = {"HOME": visitor.home}
    done = visitor.run([visitor.python, "-c", ANYBODY], cwd=visitor.home, env=env)
    assert done.stdout == "plainplain\nx\n [] [] ['.env', 'plain', 'x']\n", done.stderr


OFFLINE = """
python3 ../reach.py late.example.org {port}; : > asked
until test -e online; do sleep 0.01; done
python3 ../reach.py late.example.org {port}
"""
REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
    print("reached")
except OSError as error:
    print(type(error).__name__)
"""


def visits(server: socket.socket) -> int:
    """How many have come since the last time."""
    for count in itertools.count():
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError("it counts for ever")


@pytest.mark.slow
@pytest.mark.parametrize("starts_offline", [True, False], ids=["offline", "online"])
def test_hosts_without_a_network(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], starts_offline: bool
) -> None:
    """The run starts, says which hosts are closed, and finds them when the network is there."""
    online = threading.Event()
    if not starts_offline:
        online.set()

    def look_up(name: str) -> list[str]:
        if not online.is_set():
            raise socket.gaierror(socket.EAI_AGAIN, "no network")
        return ["127.0.0.1"]

    def come_online() -> None:
        until(lambda: (place.work / "asked").exists(), 30)
        came.append(visits(server))
        online.set()
        (place.work / "online").touch()

    came: list[int] = []
    monkeypatch.setattr(_resolver, "look_up", look_up)
    monkeypatch.chdir(place.work)
    place.write("reach.py", REACH)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        thread = threading.Thread(target=come_online)
        thread.start()
        port = server.getsockname()[1]
        granted = ["--add", "pip", "--add", "npm", "--net-allow", f"late.example.org:{port}", "-r", "../reach.py"]
        command = ["agent", "run", "--ask", "none", *granted, "--", "sh", "-c", OFFLINE.format(port=port)]
        code = app(command)
        thread.join()
        came.append(visits(server))
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert came == [0 if starts_offline else 1, 1]
    hosts = "files.pythonhosted.org, late.example.org, pypi.org, registry.npmjs.org"
    assert (f"no address was found of {hosts}: " in shown.err) == starts_offline, shown.err
    assert shown.out == ("gaierror" if starts_offline else "reached") + "\nreached\n"
