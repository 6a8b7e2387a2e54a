"""Exec rules: which programs run, with which words. Judged by the files that they make."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import ordinary
import pytest
from loops import LOOPS
from planned import a_host
from test_cli import cli
from test_vet_exec import vetted

import sandlock
from sandlock import Allow, AsyncSandbox, Exec, Policy, PolicyError, Result, Sandbox, SandlockError
from sandlock._plan import plan
from sandlock.profile import parse

pytestmark = pytest.mark.needs(landlock=6, kernel=(5, 19))


def run(place: Path, *argv: str, **fields: Any) -> Result:
    with Sandbox(presets=["system"], fs_writable=[str(place)], cwd=str(place), **fields) as box:
        return box.run(list(argv), timeout=20)


# ---- what is written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("git push *", "git push *"),
        (["git push *", "rm"], ("git push *", "rm")),
        ([["git", "push", "*"]], "git push *"),
        ([["two words", "a'b"]], "'two words' 'a'\"'\"'b'"),
        ("git  push   'x y' # because  of this", "git push 'x y' # because  of this"),
        ([{"argv": "git *", "reason": "no"}], "git * # no"),
        ({"argv": ["git", "*"]}, "git *"),
        ("*", "*"),
    ],
)
def test_rules_are_normalised(value: Any, text: Any) -> None:
    expected = text if isinstance(text, tuple) else (text,)
    assert Policy.of(exec_deny=value).exec_deny == expected
    assert Policy.of(exec_deny=expected).exec_deny == expected


@pytest.mark.parametrize(
    "value", ["", "git 'push", "g* push", "git * push", [["git", 5]], {"argv": "x", "why": "y"}, {"reason": "y"}, 5]
)
def test_what_is_no_rule(value: Any) -> None:
    with pytest.raises(PolicyError, match="exec_deny"):
        Policy.of(exec_deny=value)


def test_profiles_have_them() -> None:
    text = "[exec]\ndeny = [{argv = 'git push *', reason = 'ask'}]\nallow = ['git *', ['sh', '-c', '*']]\n"
    policy = parse(text).policy()
    assert policy.exec_deny == ("git push * # ask",)
    assert policy.exec_allow == ("git *", "sh -c *")


def test_the_plan_says_what_happens_otherwise() -> None:
    for fields, otherwise in (
        ({"exec_deny": "a"}, "allow"),
        ({"exec_allow": "a"}, "deny"),
        ({"exec_ask": "a"}, "deny"),
    ):
        assert plan(Policy(**fields), a_host()).exec_otherwise == otherwise
        assert plan(Policy(**fields), a_host(), vet=True).exec_otherwise == "ask"
    assert {rule.rule for rule in plan(Policy(fs_readable="/usr"), a_host()).rules} == {"path"}


# ---- what runs

COMMANDS = "touch a; touch -c b; /bin/touch c; env touch d; echo e | xargs touch; ./alias f; ./script; true"


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        (None, "acdefs"),
        ("touch *", ""),
        ("touch a", "cdefs"),
        ("touch ?", "acdefs"),
        ("touch", "acdefs"),
        ("* a", "cdefs"),
        ("env *", "acefs"),
        ("./script", "acdef"),
        ("script", "acdef"),
        ("sh ./script", "acdef"),
        ("sh * # scripts too", ""),
    ],
)
def test_denials_meet_the_real_exec(tmp_path: Path, rule: str | None, made: str) -> None:
    """However it is reached, and whatever it is called."""
    (tmp_path / "alias").symlink_to("/usr/bin/touch")
    (tmp_path / "script").write_text("#!/bin/sh\n>s\n")
    (tmp_path / "script").chmod(0o755)
    before = set(os.listdir(tmp_path))
    fields = {} if rule is None else {"exec_deny": [rule]}
    shell = ["/bin/sh", "-c", COMMANDS]
    if rule == "touch *":
        made = "s"
    result = run(tmp_path, *shell, **fields)
    assert "".join(sorted(set(os.listdir(tmp_path)) - before)) == made, result
    if rule is not None and len(made) < 6:
        assert {denial.cause for denial in result.denials} == {"rule"}
        assert {denial.rule for denial in result.denials} == {rule}
    if rule == "sh * # scripts too":
        assert (result.exit_code, result.reason, result.denials[0].reason) == (126, "denied", "scripts too")


def test_allowed_is_the_file_and_not_its_name(tmp_path: Path) -> None:
    shutil.copy("/bin/touch", tmp_path / "touch")
    text = "touch a; ./touch b; PATH=. touch c; /bin/touch d; mv touch e; true"
    rules = {"exec_allow": ["sh -c *", "touch *"]}
    result = run(tmp_path, "/bin/sh", "-c", text, **rules)
    assert sorted(os.listdir(tmp_path)) == ["a", "d", "touch"], result
    assert {denial.cause for denial in result.denials} == {"no-rule"}
    assert str(tmp_path / "touch") in {denial.target for denial in result.denials}
    assert run(tmp_path, "/bin/sh", "-c", text).exit_code == 0  # the control
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "d", "e"]


def test_a_path_of_the_workspace_is_passed_over(tmp_path: Path) -> None:
    """What the sandbox may write is not what a rule means by a name."""
    shutil.copy("/bin/touch", tmp_path / "touch")
    rules = {"exec_allow": ["sh -c *", "touch *"], "env": {"PATH": f"{tmp_path}:/usr/bin:/bin"}}
    result = run(tmp_path, "/bin/sh", "-c", "touch a; /bin/touch b", **rules)
    # A shell whose first find is denied goes on to look: what ran in the end is the right one.
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "touch"]
    assert {denial.target for denial in result.denials} == {str(tmp_path / "touch")}
    with Sandbox(presets=["system"], fs_writable=[str(tmp_path)], **rules) as box:
        assert box.check_exec(["touch", "a"]).decision == "deny"


def test_a_denial_wins(tmp_path: Path) -> None:
    run(tmp_path, "/bin/sh", "-c", "touch a; touch b", exec_allow=["*"], exec_deny=["touch a"])
    assert os.listdir(tmp_path) == ["b"]


def test_rules_come_before_questions(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        asked.append((event.argv[-1], event.rule))
        return Allow()

    rules = {"exec_deny": ["touch a"], "exec_ask": ["touch b"], "exec_allow": ["sh -c *", "touch *"]}
    command = ("/bin/sh", "-c", "touch a; touch b; touch c; mkdir d")
    result = vetted(LOOPS[0], tmp_path, vet, *command, **rules)
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "d"]
    assert asked == [("b", "touch b"), ("d", "")]
    assert [denial.cause for denial in result.denials] == ["rule"]
    for name in os.listdir(tmp_path):
        shutil.rmtree(tmp_path / name) if name == "d" else os.unlink(tmp_path / name)
    result = run(tmp_path, *command, **rules)  # nobody is there to be asked
    assert os.listdir(tmp_path) == ["c"]
    assert [denial.cause for denial in result.denials] == ["rule", "nobody-listens", "no-rule"]


# ---- trying rules out


def test_which_rule_decides(tmp_path: Path) -> None:
    rules = {"exec_deny": ["touch a # no"], "exec_ask": ["touch b"], "exec_allow": ["touch *"]}
    with Sandbox(presets=["system"], **rules) as box:
        found = box.check_exec(["touch", "a"])
        assert (found.decision, found.rule, found.reason) == ("deny", "touch a # no", "no")
        assert box.check_exec(["touch", "b"]).decision == "ask"
        assert box.check_exec(["touch", "c"]) == sandlock.ExecDecision(
            decision="allow", exe=os.path.realpath("/usr/bin/touch"), rule="touch *"
        )
        assert box.check_exec(["ls"]).rule == ""
        with pytest.raises(SandlockError, match="no such program"):
            box.check_exec(["no-such-program"])


def test_rules_on_the_command_line(as_user: ordinary.Person) -> None:
    rules = ["--exec-deny", "touch a # not that", "--exec-allow", "touch *"]
    for words, code, text in (
        (["touch", "a"], 1, "deny: /usr/bin/touch by: touch a # not that reason: not that"),
        (["touch", "b"], 0, "allow: /usr/bin/touch by: touch *"),
        (["ls"], 1, "deny: /usr/bin/ls no rule matches"),
    ):
        done = cli(as_user, "rules", "check", *rules, "--", *words)
        assert (done.returncode, " ".join(done.stdout.split())) == (code, text)


def test_an_exec_that_fails_is_followed_by_others(tmp_path: Path) -> None:
    """The kernel refuses what looked like a program; the next exec may come before that is noticed."""
    (tmp_path / "junk").write_bytes(b"\0" * 200)
    (tmp_path / "junk").chmod(0o755)
    (tmp_path / "again.c").write_text(
        """
        #include <unistd.h>
        #include <sys/wait.h>
        int main(void)
        {
            char *junk[] = {"junk", 0}, *good[] = {"true", 0};
            int status, i, n;
            for (i = 0; i < 4; i++)
                if (fork() == 0) {
                    for (n = 0; n < 200; n++) {
                        if (fork() == 0) {
                            execv("./junk", junk); execv("./junk", junk); execv("./junk", junk);
                            execv("/bin/true", good);
                            _exit(9);
                        }
                        if (wait(&status) < 0 || status)
                            _exit(1);
                    }
                    _exit(0);
                }
            while (wait(&status) > 0)
                if (status)
                    return 1;
            return 0;
        }
        """
    )
    subprocess.run(["gcc", "-o", tmp_path / "again", tmp_path / "again.c"], check=True)
    result = run(tmp_path, "./again", exec_deny=["rm *"])
    assert (result.exit_code, result.denials) == (0, ()), result.explain()


def test_what_a_new_program_calls_first_is_not_taken_for_what_came_before(tmp_path: Path) -> None:
    """A program may execute the next one while the worker of its own exec is still about to finish."""
    (tmp_path / "first.c").write_text(
        """
        #include <errno.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <unistd.h>
        int main(int count, char **words)
        {
            char left[16], *next[] = {words[0], left, 0};
            if (atoi(words[1]) == 0)
                return 0;
            sprintf(left, "%d", atoi(words[1]) - 1);
            execv(words[0], next);
            return errno;
        }
        """
    )
    subprocess.run(["gcc", "-static", "-o", tmp_path / "first", tmp_path / "first.c"], check=True)
    result = run(tmp_path, str(tmp_path / "first"), "500", exec_deny=["rm *"])
    assert (result.exit_code, result.denials) == (0, ()), result.explain()


@pytest.mark.parametrize("rule", ["{kept}/file *", "file *", "{kept}/name *", "{work}/middle *"])
def test_denials_know_interpreters_by_the_file_that_they_are(tmp_path: Path, rule: str) -> None:
    """An interpreter is denied by every name that it has when it is executed by itself: also by that of its file, and
    in the middle of a chain of scripts."""
    kept, work = tmp_path / "kept", tmp_path / "work"
    kept.mkdir()
    work.mkdir()
    shutil.copy("/bin/sh", kept / "file")
    (kept / "name").symlink_to("file")
    (work / "own").symlink_to(kept / "file")
    for name, interpreter in (("middle", "own"), ("script", "middle")):
        (work / name).write_text(f"#!{work}/{interpreter}\ntouch ran\n")
        (work / name).chmod(0o755)
    script = str(work / "script")
    fields: dict[str, Any] = {"exec_deny": [rule.format(kept=kept, work=work)], "fs_readable": [str(kept)]}
    result = run(work, script, **fields)
    assert (result.reason, [denial.cause for denial in result.denials]) == ("denied", ["rule"])
    with Sandbox(presets=["system"], fs_writable=[str(work)], **fields) as box:
        assert box.check_exec([script]).decision == "deny"
    assert not (work / "ran").exists()
    assert run(work, script, **fields | {"exec_deny": ["rm *"]}).ok  # the control
    assert (work / "ran").exists()


def test_a_reason_begins_behind_the_words_and_not_in_them() -> None:
    """ " # " in quotes is a word's own, as it is in a shell."""
    code = "echo 1 # a remark"
    policy = Policy.of(presets=["system"], exec_allow=[["sh", "-c", code], f"bash -c {shlex.quote(code)} # ours"])
    assert policy.exec_allow == (f"sh -c {shlex.quote(code)}", f"bash -c {shlex.quote(code)} # ours")
    with Sandbox(policy) as box:
        assert box.run(["sh", "-c", code]).stdout == b"1\n"
        assert box.run(["sh", "-c", "echo 1"]).exit_code == 126
        assert box.check_exec(["bash", "-c", code]).reason == "ours"
