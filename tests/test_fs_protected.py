"""fs_protected: what is protected is read and executed, and nothing of it is changed, moved, made or replaced.

By every call and spelling of the tests of fs_denied; judged from outside, and with controls that succeed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ordinary
import pytest
from paths.jail import LINKS, ON_LINKS, Jail, calls, jail, makings, spellings, trees

import sandlock
from sandlock import Policy, PolicyError, Sandbox
from sandlock._host import probe
from sandlock._plan import plan

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
gcc = pytest.mark.needs(program="gcc")
WAYS = list(spellings(b""))
READS = frozenset(("read", "openat2", "old open", "watch"))
PLACES = (b"vault/new", b"vault/sub/new", b"to-vault/new", b"later", b"dir/../later", b"above/below/hidden/new",
          b"dir/deep/new")  # fmt: skip


@pytest.fixture(scope="module", params=ordinary.USERS)
def there(request: pytest.FixtureRequest) -> Iterator[Jail]:
    with jail(request.param, "fs_protected") as made:
        yield made


# ---- every call, every spelling -------------------------------------------------------------------------------------


@gcc
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_is_protected_is_read_and_not_changed(there: Jail, way: str) -> None:
    base, path = spellings(there.top)[way]
    doing = calls(base, path)
    for what in ON_LINKS if way in LINKS else ():
        doing.pop(what, None)
    answers = there.tried(doing)
    changing = {what: said[0] for what, said in answers.items() if what not in READS}
    assert {what: said for what, said in changing.items() if said not in ("EACCES", "EPERM")} == {}
    assert {what for what in READS & answers.keys() if answers[what][0][0] == "E"} == set()
    assert answers["read"][1] == "10 TOP-SECRET"


@gcc
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_made_where_it_is_protected(there: Jail, place: bytes) -> None:
    answers = there.tried({what: [line] for what, line in makings(place).items()})
    assert {what: said for what, said in answers.items() if said[0] not in ("EACCES", "EPERM")} == {}


@gcc
@pytest.mark.slow
@pytest.mark.parametrize("what", list(trees()))
def test_nothing_is_done_to_protected_trees_and_what_holds_them(there: Jail, what: str) -> None:
    lines = trees()[what]
    said = there.tried({what: lines})[what]
    if what.startswith(("list", "inside", "watch")):
        assert not [each for each in said if each[0] == "E"], said
    else:
        assert said[len(lines) - 1][0] == "E" or said[0][0] == "E", said
        assert any(each in ("EACCES", "EPERM") for each in said), said


# ---- by ordinary programs -------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    (work / ".git/hooks").mkdir(parents=True)
    (work / ".git/config").write_text("config\n")
    (work / ".git/hooks/sample").write_text("#!/bin/sh\necho ran\n")
    (work / ".git/hooks/sample").chmod(0o755)
    (work / "file").write_text("file\n")
    return work


def box(place: Path, *protected: str, **more: Any) -> Sandbox:
    paths = [str(place / path) for path in protected]
    return Sandbox(presets=["python"], fs_writable=[str(place)], fs_protected=paths, cwd=str(place), **more)


ATTACKS = """
echo evil > .git/config; echo evil >> .git/config; sed -i s/c/e/ .git/config; cp file .git/config; rm -f .git/config
mv .git/config c; mv file .git/config; ln -f file .git/config; ln .git/config other; ln -sf file .git/config
chmod 777 .git/config; touch .git/config; truncate -s 0 .git/config
echo evil > .git/hooks/pre-commit; mkdir .git/hooks/d; ln -s ../config .git/hooks/l; rm -rf .git/hooks; mv .git/hooks h
echo evil > .git/hooks/sample; mv .git git; rm -rf .git; mkdir .vscode; ln -s file .vscode; echo evil > .envrc
mkdir evil; mv evil .vscode; ln -s file .envrc
"""
PROTECTED = (".git/config", ".git/hooks", ".vscode", ".envrc")


def state(place: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted([place, *place.rglob("*")]):
        facts = path.lstat()
        text = path.read_text() if path.is_file() else ""
        found[str(path.relative_to(place))] = (facts.st_mode, text)
    return {name: facts for name, facts in found.items() if name.startswith((".git", ".vscode", ".envrc"))}


def test_shell_attacks(place: Path, tmp_path: Path) -> None:
    before = state(place)
    with box(place, *PROTECTED) as sandbox:
        result = sandbox.run(["sh", "-c", f"{ATTACKS}\ncat .git/config; .git/hooks/sample; echo new > .git/index"])
    assert result.stdout_text == "config\nran\n"
    after = state(place)
    assert after.pop(".git/index") == (0o100644, "new\n")
    assert after == before
    assert all(each.rule.startswith("fs_protected: ") for each in result.denials)
    assert {each.rule.removeprefix(f"fs_protected: {place}/") for each in result.denials} == set(PROTECTED)
    # bare, each of these does something
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    subprocess.run(["sh", "-c", ATTACKS], cwd=copy, capture_output=True, check=False)
    assert state(copy) != after


@pytest.mark.parametrize("attack", [line for line in ATTACKS.replace("\n", ";").split(";") if line.strip()])
def test_each_attack_works_bare(place: Path, attack: str) -> None:
    """Or needs something that another one made."""
    if "evil .vscode" in attack:
        (place / "evil").mkdir()
    assert subprocess.run(["sh", "-c", attack], cwd=place, check=False).returncode == 0


def test_hard_links_made_before(place: Path) -> None:
    os.link(place / ".git/hooks/sample", place / "elsewhere")
    with box(place, *PROTECTED) as sandbox:
        result = sandbox.run(["sh", "-c", "echo evil > elsewhere; echo evil > file; ./elsewhere"])
    assert result.stdout_text == "ran\n"
    assert "evil" not in (place / ".git/hooks/sample").read_text()
    assert (place / "file").read_text() == "evil\n"


def test_denied_wins(place: Path) -> None:
    with box(place, ".git", fs_denied=[str(place / ".git/config")]) as sandbox:
        result = sandbox.run(["sh", "-c", "cat .git/hooks/sample | head -1; cat .git/config; echo x > .git/new"])
    assert result.stdout_text == "#!/bin/sh\n"
    rules = {each.rule for each in result.denials}
    assert rules == {f"fs_denied: {place}/.git/config", f"fs_protected: {place}/.git"}


def test_denials_that_are_added_keep_the_numbers(place: Path) -> None:
    with box(place, ".git", fs_denied=[str(place / "nothing")]) as sandbox:
        script = "echo x > .git/a; echo; read line; cat file; echo x > .git/b"
        with sandbox.start(["sh", "-c", script], stdin=sandlock.PIPE) as process:
            assert process.stdout.readline() == b"\n"
            sandbox.restrict(fs_denied=[str(place / "file")])
            process.stdin.write(b"go\n")
            process.stdin.close()
            result = process.wait()
    assert [each.rule for each in result.denials] == [
        f"fs_protected: {place}/.git",
        f"fs_denied: {place}/file",
        f"fs_protected: {place}/.git",
    ]


@pytest.mark.needs(program="git")
def test_git_goes_on_working(place: Path, tmp_path: Path) -> None:
    shutil.rmtree(place / ".git")
    git = ["git", "-c", "user.name=a", "-c", "user.email=b@example.org"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([*git, "init", "-q"], cwd=place, check=True, env=environment)
    config = (place / ".git/config").read_text()
    script = " ".join(git) + " commit -qm first && git branch side && git checkout -q side && git log --format=%s"
    with box(place, ".git/config", ".git/hooks", ".git/commondir", env={"HOME": str(tmp_path)}) as sandbox:
        result = sandbox.run(["sh", "-c", f"git add file && {script}; git config core.pager evil"])
    assert result.stdout_text == "first\n", result.stderr_text
    assert (place / ".git/config").read_text() == config


# ---- what it costs, and with what it goes ---------------------------------------------------------------------------


def test_what_only_reads_is_the_kernels(place: Path) -> None:
    """No supervisor for reading and executing: the filter lets them go on."""
    host = probe()
    made = plan(Policy(presets=["system"], fs_writable=[str(place)], fs_protected=[str(place / ".git")]), host)
    trapped = {rule.syscall for rule in made.rules}
    assert {"openat", "renameat2", "linkat"} <= trapped
    assert not {"execve", "newfstatat", "statx"} & trapped
    assert made.mediated == "fs_protected"


READING = """
import os, sys
def attempt(what):
    try:
        os.close(os.open(".git/config", what)); return "opened"
    except OSError as error:
        return error.strerror
flags = dict(r=0, rd=os.O_CLOEXEC, path=os.O_PATH, w=1, rw=2, three=3, trunc=os.O_TRUNC, append=os.O_APPEND | 1)
print({name: attempt(value) for name, value in flags.items()})
"""


@pytest.mark.parametrize("more", [{}, {"record_paths": True}, {"fs_denied": ["/nothing"]}, {"private_proc": True},
                                  {"hide_ungranted": True}])  # fmt: skip
def test_flags_of_opens(place: Path, more: dict[str, Any]) -> None:
    with box(place, ".git", **more) as sandbox:
        result = sandbox.run([sys.executable, "-c", READING], timeout=60)
    said = eval(result.stdout_text)
    assert {name for name, answer in said.items() if answer == "opened"} == {"r", "rd", "path"}, result
    assert {answer for answer in said.values() if answer != "opened"} == {"Permission denied"}
    assert (place / ".git/config").read_text() == "config\n"


def test_grants_cannot_change_with_it_alone(place: Path) -> None:
    """What only reads is the kernel's, for good."""
    with box(place, ".git") as sandbox:
        for fields in ({"fs_readable": []}, {"fs_denied": [str(place / "file")]}):
            with pytest.raises(PolicyError, match="ceiling"):
                sandbox.restrict(**fields)


def test_a_ceiling_and_protection(place: Path) -> None:
    with box(place, ".git", ceiling={"fs_writable": [str(place)]}) as sandbox:
        sandbox.restrict(fs_writable=[str(place / ".git"), str(place / "file")])
        result = sandbox.run(["sh", "-c", "echo x > file; cat .git/config; echo x > .git/new; echo x > new"])
    assert result.stdout_text == "config\n"
    assert (place / "file").read_text() == "x\n"
    assert sorted(os.listdir(place / ".git")) == ["config", "hooks"]
