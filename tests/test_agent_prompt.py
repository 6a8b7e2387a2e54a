"""The question in the terminal: what is drawn, which keys count, and that nobody can answer it but a person."""

from __future__ import annotations

import os
import re
import time

import ordinary
import pytest
import trio
from agent_terminal import QUIET, Terminal, write
from hypothesis import given
from hypothesis import strategies as st
from questions_at_hand import PUSH, a_connect, an_exec
from trio.testing import MockClock

from sandlock.cli.agent.prompt import new_mark, put, question_lines
from sandlock.sessions.questions import question_of

RUN = ("agent", "run")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class FakeFace:
    """A terminal whose keys come at given times."""

    def __init__(self, keys: list[tuple[float, bytes]]) -> None:
        self.keys = keys
        self.shown = b""
        self.size = (24, 80)
        self.forgotten = 0

    async def send(self, data: bytes) -> None:
        self.shown += data

    async def receive(self) -> bytes:
        if not self.keys:
            return b""
        at, key = self.keys[0]
        await trio.sleep(max(0.0, at - trio.current_time()))
        self.keys.pop(0)
        return key

    def forget_typed(self) -> None:
        self.forgotten += 1


def answered(*keys: tuple[float, bytes], argv: tuple[str, ...] = PUSH) -> tuple[dict[str, object] | None, FakeFace]:
    """What these keys, each at its second after the question appeared, answer."""

    async def main() -> tuple[dict[str, object] | None, FakeFace]:
        start = trio.current_time()
        face = FakeFace([(start + at, key) for at, key in keys])
        question = question_of(an_exec(argv), "q1", time=0, deadline=None).to_dict()
        return await put(face, question, "amber falcon"), face

    return trio.run(main, clock=MockClock(autojump_threshold=0))


# --- which keys count --------------------


@pytest.mark.parametrize("key", ["o", "r", "p", "d", "k"])
def test_one_key_answers(key: str) -> None:
    assert answered((0.4, key.encode()))[0] == {"choice": key}


def test_typed_ahead_or_too_early_is_dropped() -> None:
    answer, face = answered((0.0, b"o"), (0.1, b"o"), (0.29, b"o"), (1.0, b"d"))
    assert answer == {"choice": "d"}
    assert face.forgotten == 1
    # who keeps on typing answers nothing until there was a moment of quiet
    keys = [(0.2 * number, b"o") for number in range(1, 20)]
    assert answered(*keys, (5.0, b"k"))[0] == {"choice": "k"}


@pytest.mark.parametrize(
    "block", [b"oo", b"ok\r", b"\x1b[A", b"\x1bOo", b"\x1bo", b"git push o", "ö".encode(), b"x", b"\r"]
)
def test_what_comes_at_once_or_means_nothing_answers_nothing(block: bytes) -> None:
    assert answered((1, block), (1.1, b"o"), (3, b"d"))[0] == {"choice": "d"}, "nor what follows at once"


def test_control_c_denies_and_nobody_is_no_answer() -> None:
    assert answered((1, b"\x03"))[0] == {"verdict": "deny"}
    assert answered()[0] is None


def test_a_reason_is_typed() -> None:
    answer, face = answered((1, b"w"), (2, b"use "), (3, b"mirr0"), (4, b"\x7f"), (5, b"or\x1b[31m\x07\r"))
    assert answer == {"choice": "w", "reason": "use mirror[31m"}
    assert b"\x1b[31m" not in face.shown.partition(b"why: ")[2]
    assert answered((1, b"w"), (2, b"o"), (3, b"\x1b"), (4, b"d"))[0] == {"choice": "d"}, "given up: back to the keys"
    answer, _ = answered((1, b"w"), (2, b"x" * 4000), (3, b"\r"))
    assert answer is not None
    assert len(str(answer["reason"])) == 400


# --- what is drawn --------------------


@given(st.lists(st.text(max_size=400), min_size=1, max_size=6), st.text(max_size=100), st.integers(1, 300))
def test_nothing_of_the_program_draws(argv: list[str], cwd: str, columns: int) -> None:
    event = an_exec(["git", *argv])
    question = question_of(event, "q1", time=0, deadline=None).to_dict() | {"cwd": cwd}
    lines = question_lines(question, "amber falcon", columns)
    text = ESCAPES.sub("", "\n".join(lines))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(lines) < 60
    assert all(len(ESCAPES.sub("", line)) <= max(50, columns) + 12 for line in lines[1:]), "one line is one line"


def test_a_question_says_what_a_person_has_to_know() -> None:
    text = ESCAPES.sub(
        "", "\n".join(question_lines(question_of(an_exec(), "q1", time=0, deadline=None).to_dict(), "m", 80))
    )
    for part in ("exec     git push origin main", "file     /usr/bin/git", "in       /w", "rule     git push *"):
        assert part in text
    connect = question_of(a_connect(), "q2", time=0, deadline=None).to_dict()
    text = ESCAPES.sub("", "\n".join(question_lines(connect, "m", 80)))
    assert "connect  example.org  (tcp://192.0.2.1:443)" in text
    assert "h  allow the host example.org for this session" in text


def test_a_long_command_is_cut_and_can_be_seen() -> None:
    """All of it, page by page, with what hides at the end."""
    argv = ("git", "push", *(f"word{number}" for number in range(300)), "--force")
    answer, face = answered(*((1 + number, b"a") for number in range(40)), (60, b"d"), argv=argv)
    assert answer == {"choice": "d"}
    first, _, later = face.shown.partition(b"see all of it")
    assert b"more characters: a shows them" in first
    assert b"--force" not in first
    assert b": --force" in later
    assert b"more lines: a" in later


def test_marks_differ() -> None:
    assert len({new_mark() for _ in range(50)}) > 10


# --- in a real terminal --------------------


def asking(who: ordinary.Person, script: str, *more: str) -> Terminal:
    return Terminal(who, *RUN, "--exec-ask", "git push * # needs approval", *more, "--", "sh", "-c", script)


@pytest.mark.slow
def test_each_answer_does_what_it_says(visitor: ordinary.Person) -> None:
    """The second of two equal commands shows how far an answer reached."""
    write(visitor, "deploy", "#!/bin/sh\necho deployed $2\n", 0o755)
    script = 'PATH=.:$PATH; for i in a a b; do deploy now $i; echo "rc $?."; read go; done'
    for keys, rounds in (("o", "ooo"), ("r", "r-o"), ("p", "p--"), ("d", "ddd")):
        with asking(visitor, script, "--exec-ask", "deploy * # needs approval") as terminal:
            mark = terminal.expect("marked: ([a-z]+ [a-z]+)")[1]
            for key in rounds:
                if key != "-":
                    terminal.question(f"· {mark} (.|\n)*needs approval")
                    terminal.press(key)
                terminal.expect("rc (\\d+)\\." if keys != "d" else "rc 126\\.")
                shown = str(terminal.child.before)
                assert ("deployed" in shown) == (keys != "d"), shown
                terminal.press("go\r")
            assert terminal.end() == 0


@pytest.mark.slow
def test_kill_and_a_reason_that_the_agent_reads(visitor: ordinary.Person) -> None:
    script = "git push a 2>err; cat err; read go; git push b; echo rc $?"
    with asking(visitor, script) as terminal:
        terminal.question()
        terminal.press("w")
        terminal.expect("why: ")
        terminal.press("use the mirror\r")
        terminal.expect("deny exec git push a \\(rule git push \\*: use the mirror\\)")
        terminal.press("go\r")
        terminal.question()
        terminal.press("k")
        terminal.expect("rc 137")
        assert terminal.end() == 0


@pytest.mark.slow
def test_what_was_printed_before_stands_before_the_question(visitor: ordinary.Person) -> None:
    with asking(visitor, "for i in 1 2 3 4 5; do echo step $i; git push; done") as terminal:
        for number in range(1, 6):
            terminal.expect(f"step {number}")
            terminal.question()
            terminal.press("d")
        assert terminal.end() == 126


@pytest.mark.slow
def test_output_is_held_back_and_keys_are_not_the_agents(visitor: ordinary.Person) -> None:
    """A program that prints on while the question is up draws nothing; what is typed at it does not reach the agent."""
    code = """
import subprocess, sys, threading, time
asks = subprocess.Popen(["sh", "-c", "git push; true"])
for number in range(200):
    print(f"noise{number}", flush=True)
    time.sleep(0.005)
asks.wait()
print("read", repr(sys.stdin.readline()), flush=True)
"""
    path = write(visitor, "noisy.py", code)
    with Terminal(visitor, *RUN, "--exec-ask", "git push", "--", "/usr/bin/python3", path) as terminal:
        terminal.question()
        time.sleep(0.8)
        terminal.press("d")
        terminal.expect("sandlock: deny")
        assert "noise" not in str(terminal.child.before)
        terminal.expect("noise199")
        terminal.press("mine\r")
        terminal.expect(r"read 'mine\\n'")
        assert terminal.end() == 0


@pytest.mark.slow
def test_a_forged_question_gets_nothing(visitor: ordinary.Person) -> None:
    """The agent draws one, swallows output in a sequence that it leaves open, and hides the text: ours is seen all the
    same, with the mark that only we know; and the key for the forged one goes to the agent."""
    code = """
import subprocess, sys, tty, termios, os
print("sandlock asks \\u00b7 amber falcon", flush=True)
print("  o  allow this once", flush=True)
print("got", repr(sys.stdin.readline()), flush=True)
sys.stdout.write("\\x1b[8m\\x1b(0\\x1b]0;swallow")
sys.stdout.flush()
print(subprocess.run(["git", "push", "x"]) if len(sys.argv) > 1 else "")
"""
    path = write(visitor, "forger.py", code)
    words = ("--exec-ask", "git push *", "--", "/usr/bin/python3", path, "ask")
    with Terminal(visitor, *RUN, *words) as terminal:
        mark = terminal.expect("marked: ([a-z]+ [a-z]+)")[1]
        terminal.expect("allow this once")
        terminal.press("o\r")
        terminal.expect(r"got 'o\\n'")
        terminal.expect("swallow")
        drawn = terminal.question()
        assert f"· {mark} " in drawn
        assert drawn.startswith(f" · {mark}")
        terminal.press("d")
        terminal.expect("PermissionError")
        assert terminal.end() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("enter", "leave"),
    [
        ("tty.setraw(0)", "termios.tcsetattr(0, termios.TCSANOW, saved)"),
        ("sys.stdout.write('\\x1b[?1049h')", "sys.stdout.write('\\x1b[?1049l'); sys.stdout.flush()"),
    ],
    ids=["raw", "alternate"],
)
def test_a_full_screen_agent_is_not_drawn_on(visitor: ordinary.Person, enter: str, leave: str) -> None:
    """Bell and title say that a question waits; when the screen is left, it is put."""
    code = f"""
import os, subprocess, sys, termios, threading, time, tty
saved = termios.tcgetattr(0)
{enter}
sys.stdout.write("drawn-by-me")
sys.stdout.flush()
done = []
thread = threading.Thread(target=lambda: done.append(subprocess.call(["sh", "-c", "git push x"])))
thread.start()
while not os.path.exists("leave"): time.sleep(0.02)
{leave}
thread.join()
print("done", done, flush=True)
"""
    path = write(visitor, "screen.py", code)
    with Terminal(visitor, *RUN, "--exec-ask", "git push *", "--", "/usr/bin/python3", path) as terminal:
        terminal.expect("drawn-by-me")
        terminal.expect(r"\x1b\]2;sandlock: a question waits: sandlock agent attach \S+\x07\x07")
        time.sleep(0.5)
        write(visitor, "leave", "")
        terminal.expect("sandlock asks")
        assert "allow this once" not in str(terminal.child.before)
        terminal.expect("see all of it")
        time.sleep(QUIET)
        terminal.press("d")
        terminal.expect(r"done \[126\]")
        assert terminal.end() == 0


@pytest.mark.slow
def test_a_question_that_is_settled_elsewhere_goes_away(visitor: ordinary.Person) -> None:
    guard = os.path.join(visitor.home, "guard")
    with open(guard, "w", encoding="utf-8") as file:
        file.write('#!/bin/sh\nsleep 1; echo \'{"verdict": "deny", "reason": "by the guard"}\'\n')
    os.chmod(guard, 0o755)
    with asking(visitor, "git push a 2>&1; echo rc $?", "--ask", "tty", "--ask", f"exec:{guard}") as terminal:
        terminal.question()
        terminal.expect("settled elsewhere")
        terminal.expect("rc 126")
        assert terminal.end() == 0
    with asking(visitor, "git push a; echo rc $?", "--ask-timeout", "0.8") as terminal:
        terminal.question()
        terminal.expect("settled elsewhere")
        terminal.expect("rc 126")
        terminal.end()
        assert "nobody answered within 0.8 s" in terminal.rest
