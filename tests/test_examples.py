"""Every example runs, as every kind of user, and prints what it says it would."""

from __future__ import annotations

import os
import re
import shutil

import ordinary
import pytest

EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples")
SCREEN = 45  # lines

# What each prints: regular expressions that match whole lines, in this order, with other lines in between.
PRINTS = {
    "handlers.py": (
        "Linux sandbox",
        "True",
        "ln exited with 1.*",
        ".*denied: handler symlink.*: no symlink(at)? in this workspace",
        "handlers: execve cannot have a handler: .*policy_fn.*",
    ),
    "vetting.py": (
        "one",
        "two",
        "no rm today",
        "PermissionError: .*",
        "exec .* -> nothing is removed here",
        "connect 127.0.0.1:9 -> not to the discard service",
    ),
    "text_rules.py": (
        "text rule: stopped  sandlock: stopped  git push",
        *["text rule: passed   sandlock: stopped  .*"] * 7,
        ".*pushing is for people",
    ),
    "agent_run.py": (
        r"in the directory: plan\.txt",
        "the key was read: False",
        "cat: .*No such file or directory",
        r"<sandbox_violations>deny exec git push origin main \(rule git push \*: people publish\).*",
        "fatal: not a git repository.*",
    ),
    "first_command.py": (
        "Linux 0",
        "False 2 ls: .*No such file or directory",
        r"execute the program \(no-such-program\): ENOENT; .*",
        "nothing is granted, .*",
    ),
    "limits.py": (
        r"b'HELLO\\n' b'careful\\n'",
        r"True timeout 1024 \['stdout'\]",
        "yes ran into its time limit .*",
        ".*stdout: cut at max_output.*",
        "started True",
        "2 sh: .*[Cc]annot fork",
    ),
    "workspace.py": (
        "written: done",
        "cat: .*/diary.txt: Permission denied",
        "cat exited with 1 .*",
        ".*permission denied.*-r PATH.*",
        "echo .* -> [1-9].*",
        "rm .* -> [1-9].*",
        "mv .* -> [1-9].*",
        "still: private",
    ),
    "loopback_server.py": (
        "ready",
        "hello from the other sandbox",
        "PermissionError: .*",
        "PermissionError: .*",
    ),
    "many_at_once.py": (
        " ".join(str(number) for number in range(20)),
        "at once: True",
        "cancelled: True",
    ),
    "conversation.py": ("total 1", "total 21", "total 321", "exit code 0", "30 100", "exit code 0"),
    "exec_tree.py": (
        "sh exited with 3 .*",
        "  programs executed: 5",
        r"  \[\d+\] sh -c .*exit 3\)",
        r"    \[\d+\] .*exit 0\)",
        r"    \[\d+\] sh -c exit 3 .*exit 3\)",
        "/.*",
    ),
}


def test_every_example_is_tested_and_fits_a_screen() -> None:
    found = {name for name in os.listdir(EXAMPLES) if name.endswith(".py")}
    assert found == set(PRINTS)
    for name in found:
        with open(os.path.join(EXAMPLES, name), encoding="utf-8") as file:
            assert len(file.readlines()) <= SCREEN, name


@pytest.mark.slow
@pytest.mark.parametrize("user", ordinary.USERS)
@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example(name: str, user: str) -> None:
    with ordinary.at_home(user) as who:
        script = os.path.join(who.home, name)
        shutil.copyfile(os.path.join(EXAMPLES, name), script)
        os.chmod(script, 0o644)
        done = who.run([who.python, script])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = iter(done.stdout.splitlines())
    for expected in PRINTS[name]:
        assert any(re.fullmatch(expected, line) for line in lines), f"{expected!r} is missing from\n{done.stdout}"
