"""`sandlock agent run`: streams, exit codes, its own terminal, and that nothing is left whatever ends it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import termios
import time

import ordinary
import pytest
from agent_terminal import Terminal, a_word, processes_with, runs_of, until, until_gone, workspace, write

RUN = ("agent", "run")


def agent(who: ordinary.Person, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """`sandlock agent run ARGUMENTS`, without a terminal."""
    options.setdefault("cwd", workspace(who))
    return who.run([who.python, "-m", "sandlock.cli", *RUN, *arguments], **options)  # type: ignore[arg-type]


# --- streams and exit codes --------------------


@pytest.mark.slow
def test_pipes_keep_working(visitor: ordinary.Person) -> None:
    done = agent(visitor, "--", "sh", "-c", "cat; echo error >&2; pwd", input="x\ny\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"x\ny\n{os.path.realpath(workspace(visitor))}\n"
    assert done.stderr.startswith("error\n")
    (run,) = runs_of(visitor)
    assert f"sandlock agent report {os.path.basename(run)}" in done.stderr
    assert sorted(os.listdir(run)) == ["log.jsonl", "session.json"], "the private directories are gone"
    with open(os.path.join(run, "log.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line)["record"] for line in file]
    assert records[0] == "run_start"
    assert records[-1] == "run_end"
    assert "execs" in records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--", "true"), 0),
        (("--", "sh", "-c", "exit 7"), 7),
        (("--", "sh", "-c", "kill -9 $$"), 137),
        (("--", "/nonexistent"), 127),
        (("--", "/etc/passwd"), 126),
        (("--exec-deny", "true", "--", "true"), 126),
        (("-t", "0.3", "--", "sleep", "60"), 124),
        (("--no-such-option",), 125),
        ((), 125),
        (("--ask", "nobody", "--", "true"), 125),
        (("--ask", "tty", "--", "true"), 125),
        (("--ask", "none", "--ask", "exec:true", "--", "true"), 125),
        (("--ask-timeout", "0", "--", "true"), 125),
        (("--add", "nonsense", "--", "true"), 125),
    ],
    ids=str,
)
def test_exit_codes(ordinary_user: ordinary.Person, arguments: tuple[str, ...], code: int) -> None:
    done = agent(ordinary_user, *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 125:
        assert done.stderr.startswith("sandlock: ")
        assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_a_dry_run_says_why_and_runs_nothing(visitor: ordinary.Person) -> None:
    done = agent(visitor, "--dry-run", "--preset", "read-only", "--", "touch", "made")
    assert done.returncode == 0, done.stderr
    assert "preset read-only" in done.stdout
    assert "the private home directory" in done.stdout
    assert not os.path.exists(os.path.join(workspace(visitor), "made"))
    assert runs_of(visitor) == []
    assert agent(visitor, "--", "touch", "made").returncode == 0
    assert os.path.exists(os.path.join(workspace(visitor), "made"))


def test_help_brings_neither_trio_nor_sessions(ordinary_user: ordinary.Person) -> None:
    code = (
        "import sys; from sandlock.cli.main import app; print(*[m for m in sys.modules if 'trio' in m or 'ses' in m])"
    )
    assert [name for name in ordinary_user.script(code).split() if name.startswith(("trio", "sandlock.ses"))] == []


@pytest.mark.slow
def test_nobody_listens_denies_at_once(visitor: ordinary.Person) -> None:
    """Without a terminal and without a channel; with one that says no, the person's reason is in the trailer."""
    script = "git push; echo rc $?"
    before = time.monotonic()
    done = agent(visitor, "--exec-ask", "git push", "--", "sh", "-c", script)
    assert done.stdout == "rc 126\n"
    assert time.monotonic() - before < 20
    assert "<sandbox_violations>deny exec git push (rule git push: nobody was there to be asked)" in done.stderr
    answer = json.dumps({"verdict": "deny", "reason": "ask <me> first"})
    done = agent(visitor, "--exec-ask", "git push", "--ask", f"exec:echo '{answer}'", "--", "sh", "-c", script)
    assert done.stdout == "rc 126\n"
    assert "<sandbox_violations>deny exec git push (rule git push: ask &lt;me&gt; first)</sandbox_violations>\nsh" in (
        done.stderr
    ), "on the program's stderr, before it goes on"
    assert done.stderr.endswith("<sandbox_violations>deny exec git push (ask &lt;me&gt; first)</sandbox_violations>\n")
    quiet = agent(
        visitor, "--no-trailer", "--exec-ask", "git push", "--ask", f"exec:echo '{answer}'", "--", "sh", "-c", script
    )
    assert quiet.stdout == "rc 126\n"
    assert "sandbox_violations" not in quiet.stderr
    allowed = agent(
        visitor,
        "--exec-ask",
        "git --version",
        "--ask",
        'exec:echo \'{"verdict": "allow"}\'',
        "--",
        "git",
        "--version",
    )
    assert allowed.stdout.startswith("git version")


@pytest.mark.slow
def test_the_box_cannot_be_who_answers(visitor: ordinary.Person) -> None:
    """A program of the workspace is refused; the port of a service can neither be reached nor be taken over."""
    guard = write(visitor, "guard", '#!/bin/sh\necho \'{"verdict": "allow"}\'\n', 0o755)
    for words in (guard, "./guard", f"sh {guard}"):
        done = agent(visitor, "--ask", f"exec:{words}", "--", "true")
        assert done.returncode == 125
        assert "could answer its own questions" in done.stderr
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    code = """
import socket, sys
for what in ("bind", "connect"):
    try:
        getattr(socket.socket(), what)(("127.0.0.1", int(sys.argv[1])))
        print(what, "done")
    except OSError as error:
        print(what, type(error).__name__)
"""
    for number, expected in ((port, "PermissionError"), (port + 1 if port < 65535 else 1024, "")):
        done = agent(
            visitor, "--net-allow", "127.0.0.1:*", "--net-allow-bind", "*", "--ask", f"http:{'//'}127.0.0.1:{port}",
            "--", "/usr/bin/python3", "-c", code, str(number),
        )  # fmt: skip
        lines = done.stdout.splitlines()
        if expected:
            assert lines == [f"bind {expected}", f"connect {expected}"], done.stderr
        else:  # the control: another port
            assert lines[0] == "bind done", done.stderr
            assert lines[1] in ("connect ConnectionRefusedError", "connect done")


# --- a terminal of its own --------------------


@pytest.mark.slow
def test_it_has_a_terminal_of_its_own_that_follows_ours(visitor: ordinary.Person) -> None:
    script = "tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    with Terminal(visitor, *RUN, "--", "sh", "-c", script, size=(31, 91)) as terminal:
        inner = terminal.expect(r"(/dev/pts/\d+)\r\n")[1]
        assert inner != os.ttyname(terminal.child.child_fd) if os.isatty(terminal.child.child_fd) else True
        terminal.expect("31 91")
        terminal.expect("ready")
        terminal.child.setwinsize(42, 111)
        terminal.expect("42 111")
        assert terminal.end() == 5


@pytest.mark.slow
def test_keys_go_through_as_bytes(visitor: ordinary.Person) -> None:
    """Ctrl-C interrupts the program, not us; what is typed in a raw program comes as it is."""
    with Terminal(visitor, *RUN, "--", "sh", "-c", "trap 'echo caught; exit 3' INT; echo ready; sleep 60") as terminal:
        terminal.expect("ready")
        terminal.press("\x03")
        terminal.expect("caught")
        assert terminal.end() == 3
    code = "import os, tty; tty.setraw(0); print('ready', end='', flush=True); print(os.read(0, 1), os.read(0, 1))"
    with Terminal(visitor, *RUN, "--", "/usr/bin/python3", "-c", code) as terminal:
        terminal.expect("ready")
        terminal.press("\x03")
        terminal.press("\x1a")
        terminal.expect(r"b'\\x03' b'\\x1a'")
        assert terminal.end() == 0


def modes(terminal: Terminal) -> list[object]:
    return termios.tcgetattr(terminal.child.child_fd)


SHELL = (
    "stty -a >/dev/null; {python} -m sandlock.cli agent run {more} -- {command}; echo code=$?; read line; echo $line"
)


def in_shell(who: ordinary.Person, command: str, more: str = "") -> Terminal:
    """The same, started by a shell that lives on, so that the terminal can be looked at afterwards."""
    return Terminal(who, words=["sh", "-c", SHELL.format(python=who.python, command=command, more=more)])


@pytest.mark.slow
def test_the_terminal_is_as_it_was_after_a_program_that_left_it_wild(visitor: ordinary.Person) -> None:
    wild = write(
        visitor,
        "wild.py",
        "import os, sys, tty\ntty.setraw(0)\n"
        "sys.stdout.write('\\x1b[?1049h\\x1b[?25l\\x1b[?2004h\\x1b[?1003h\\x1b[>1uwild\\x1b]0;half')\n"
        "sys.stdout.flush()\nos.kill(os.getpid(), 9)\n",
    )
    with in_shell(visitor, f"/usr/bin/python3 {wild}") as terminal:
        before = modes(terminal)
        terminal.expect("wild")
        terminal.expect("code=137")
        shown = terminal.child.before
        for undone in ("\x1b[?1049l", "\x1b[?25h", "\x1b[?2004l", "\x1b[?1003l", "\x1b[<1u", "\x1b\\"):
            assert undone in shown
        assert modes(terminal) == before
        terminal.child.sendline("hello")
        terminal.expect("hello\r\nhello\r\n")
        terminal.end()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_the_tree_and_puts_everything_back(visitor: ordinary.Person, number: signal.Signals) -> None:
    word = a_word()
    command = f"sh -c 'setsid sh -c \"sleep 600; : {word}\" & echo ready; exec sleep 600'"
    with in_shell(visitor, command, f"-n {word}") as terminal:
        before = modes(terminal)
        terminal.expect("ready")
        assert len(processes_with(word)) > 2
        (ours,) = tops_of(word)
        os.kill(ours, number)
        terminal.expect(f"code={128 + number}")
        assert modes(terminal) == before
        until_gone(word, but=terminal.child.pid)
        (run,) = runs_of(visitor)
        assert set(os.listdir(run)) == {"log.jsonl", "session.json"}
        terminal.child.sendline("bye")
        terminal.end()


def tops_of(name: str) -> list[int]:
    """The processes of `sandlock agent run -n NAME` itself."""
    return [pid for pid in processes_with(f"-n\0{name}\0") if is_top(pid)]


def words_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def is_top(pid: int) -> bool:
    """Whether it is sandlock itself: neither its guard, nor a task of the sandbox."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        parent = int(file.read().rpartition(b")")[2].split()[1])
    words = words_of(parent)
    return b"sandlock.cli" not in words or words.split(b"\0")[0].endswith(b"/sh")


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_left(visitor: ordinary.Person, rng: random.Random) -> None:
    """SIGKILL: no task of the tree, no guard, and a terminal that can be used."""
    for number in range(12):
        word = a_word()
        command = f"sh -c 'while :; do (setsid sleep 60 &) ; echo {word}; sleep 0.02; done'"
        with in_shell(visitor, command, f"-n {word}") as terminal:
            before = modes(terminal)
            until(lambda word=word: tops_of(word))
            if number % 2:
                terminal.expect(rf"{word}\r\n")  # it runs, and the terminal is raw
                assert modes(terminal) != before
            time.sleep(rng.uniform(0.0, 0.4 if number % 2 else 1.2))
            os.kill(tops_of(word)[0], signal.SIGKILL)
            terminal.expect("code=137")
            until_gone(word, but=terminal.child.pid)
            until(lambda terminal=terminal, before=before: modes(terminal) == before)
            terminal.child.sendline("usable")
            terminal.expect("usable")
            terminal.end()


@pytest.mark.slow
def test_streams_that_are_no_terminal_stay_what_they_are(visitor: ordinary.Person) -> None:
    """stdout into a file: the agent has no terminal there, and questions are still asked in ours."""
    script = "test -t 1; echo tty $?; git push; echo rc $?; echo seen >&2; read line; echo got $line"
    command = f"sh -c '{script}' > out"
    with in_shell(visitor, command, "--exec-ask 'git push'") as terminal:
        before = modes(terminal)
        terminal.question("git push")
        terminal.press("d")
        terminal.expect("seen")
        terminal.child.sendline("typed")
        terminal.expect("code=0")
        assert modes(terminal) == before
        terminal.child.sendline("bye")
        terminal.end()
    with open(os.path.join(workspace(visitor), "out"), encoding="utf-8") as file:
        assert file.read() == "tty 1\nrc 126\ngot typed\n"


@pytest.mark.slow
def test_stopped_and_continued(visitor: ordinary.Person) -> None:
    """SIGTSTP gives the terminal back while we are stopped; afterwards the agent has it again."""
    with in_shell(visitor, "cat", "-n stopped") as terminal:
        before = modes(terminal)
        until(lambda: tops_of("stopped") and modes(terminal) != before)
        raw = modes(terminal)
        time.sleep(0.3)
        (ours,) = tops_of("stopped")
        os.kill(ours, signal.SIGTSTP)
        until(lambda: state_of(ours) == "T")
        assert modes(terminal) == before
        os.kill(ours, signal.SIGCONT)
        until(lambda: modes(terminal) == raw)
        terminal.press("again\r")
        terminal.expect("again\r\nagain\r\n")
        terminal.press("\x04")
        terminal.expect("code=0")
        terminal.child.sendline("bye")
        terminal.end()


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]
