"""A Python in a sandbox whose code calls functions of the application: calls, limits, hostile answers, both loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import Loop

import sandlock
from sandlock.agents.calling_python import Call, CallingPython, StepAnswer
from sandlock.agents.calling_python_inside import DEEPEST, LONGEST, LONGEST_TEXT, plain
from sandlock.agents.sandbox import AgentSandbox

pytestmark = pytest.mark.usefixtures("lasting_thread")

OUTSIDE = "import gc, os, time\noutside = next(each for each in gc.get_objects() if type(each).__name__ == 'Outside')\n"
"""The hostile code's way to the messages: the object that writes them."""


def doubled(value: Any) -> Any:
    if value == "bad":
        raise ValueError(value)
    return [value, value]


async def step(python: CallingPython, code: str, **options: Any) -> StepAnswer:
    """As an application has it: it calls nothing but `doubled`."""
    found = await python.run(code, functions=["doubled"], final=["end"], **options)
    while isinstance(found, Call):
        if found.name != "doubled":
            found = await python.answer(error=f"no {found.name}")
            continue
        try:
            value = doubled(*found.args, **found.kwargs)
        except ValueError as error:
            found = await python.answer(error=f"failed: {error}")
        else:
            found = await python.answer(value=value)
    return found


def run(loop: Loop, work: Path, body: Callable[[CallingPython], Any]) -> None:
    async def main() -> None:
        async with AgentSandbox(work) as box:
            await body(box.calling_python())

    loop.run(main)


def test_code_calls_and_keeps_what_it_has(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        assert not python.running
        first = await step(python, "x = doubled(value=given)\nprint('out')\nx", variables={"given": {"a": None}})
        assert first == StepAnswer(output="out\n", value=[{"a": None}, {"a": None}])
        assert python.running
        caught = await step(python, "try:\n    doubled('bad')\nexcept RuntimeError as error:\n    print(error)\nlen(x)")
        assert (caught.output, caught.value) == ("failed: bad\n", 2)
        ended = await step(python, "print('a')\ntry: end(1, word='w')\nexcept Exception: print('b')")
        assert (ended.output, ended.final) == ("a\n", Call("end", [1], {"word": "w"}))
        failed = await step(python, "def f():\n    1 / 0\n\nf()")
        assert (failed.error, failed.line) == ("ZeroDivisionError: division by zero", 4)
        assert (await step(python, "import sys; sys.exit(3)")).error == "SystemExit: 3"
        assert (await step(python, "input()")).error.startswith("EOFError")
        assert (await step(python, "def")).error.startswith('File "<code>", line 1')

    run(loop, tmp_path, body)


def test_one_step_at_a_time(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        call = await python.run("doubled(1)", functions=["doubled"])
        assert call == Call("doubled", [1], {})
        with pytest.raises(sandlock.SandlockError, match="not at its end"):
            await python.run("2")
        assert await python.answer(value="x") == StepAnswer(value="x")
        with pytest.raises(sandlock.SandlockError, match="no call"):
            await python.answer(value="x")
        with pytest.raises(TypeError, match="type set"):
            await python.run("2", variables={"a": {1}})

    run(loop, tmp_path, body)


THREADS = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    said = list(pool.map(lambda n: doubled(n)[0], range(40)))
said
"""
FORK = """
import os
pid = os.fork()
if pid == 0:
    try:
        doubled('from the fork')
    except RuntimeError as error:
        os._exit(7 if 'by the interpreter itself' in str(error) else 8)
[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), doubled('x')]
"""
LATE = """
import threading
begun, found = threading.Event(), []
def later():
    while doubled('late'):
        begun.set()
def kept():
    try:
        later()
    except RuntimeError as error:
        found.append(str(error))
thread = threading.Thread(target=kept)
thread.start()
begun.wait()
"""


def test_threads_and_forks_of_the_code(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        assert (await step(python, THREADS)).value == list(range(40))
        assert (await step(python, FORK)).value == [7, ["x", "x"]]
        assert (await step(python, "if os.fork(): os.wait()\n'once'")).value == "once"  # a fork that goes on to the end
        assert (await step(python, LATE)).error == ""
        late = await step(python, "thread.join(60)\nfound")  # between two steps nobody would answer
        assert late.value == ["doubled: only while a step runs, and by the interpreter itself"]

    run(loop, tmp_path, body)


def test_time_limits_and_ends(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        call = await python.run("kept = 1\ndoubled(1)", functions=["doubled"], timeout=1.0)
        assert isinstance(call, Call)
        await loop.sleep(1.5)  # the application's own time
        assert await python.answer(value=2) == StepAnswer(value=2)
        looping = await step(python, "while True: doubled(1)", timeout=0.5)
        assert (looping.timed_out, looping.restarted) == (True, True)
        assert not python.running
        assert "NameError" in (await step(python, "kept")).error
        gone = await step(python, "import os; os._exit(1)")
        assert (gone.error, gone.timed_out, gone.restarted) == ("the interpreter ended", False, True)
        assert await loop.cut_short(0.5, lambda: step(python, "kept = 1\nwhile True: pass"))
        assert "NameError" in (await step(python, "kept")).error
        call = await python.run("doubled(1)", functions=["doubled"])
        await python.close()
        with pytest.raises(sandlock.SandlockError, match="no call"):
            await python.answer(value=1)

    run(loop, tmp_path, body)


BAD = (
    '{"step": "0", "output": "", "value": 1}',
    '{"step": null, "call": "doubled", "args": ["x"], "kwargs": {}}',
    "no JSON",
    "[]",
    "null",
    '{"step": ID, "output": ["x"]}',
    '{"step": ID, "output": "", "error": {"a": 1}}',
    '{"step": ID, "output": "", "value": NaN}',
    '{"step": ID, "output": "", "value": 1e999}',
    '{"step": ID, "output": "", "value": ' + "9" * 5000 + "}",
    '{"step": ID, "output": "", "value": ' + "[" * 90 + "]" * 90 + "}",
    '{"step": ID, "output": "", "value": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"step": ID, "output": "", "value": "' + "x" * 9_000_000 + '"}',
    '{"step": ID, "output": "", "final": "doubled", "args": ["x"], "kwargs": {}}',
    '{"step": ID, "output": "", "final": "end", "args": {}, "kwargs": []}',
    '{"step": ID, "call": ["doubled"], "args": [], "kwargs": {}}',
    '{"step": ID, "call": "doubled", "args": "x", "kwargs": {}}',
    "\xff\xfe",
)


@pytest.mark.parametrize("line", [*BAD, '{"step": ID, "output": "", "value": "the control"}'], ids=range(len(BAD) + 1))
def test_what_is_no_message_of_the_step_ends_the_interpreter(line: str, tmp_path: Path) -> None:
    def from_inside(line: str) -> str:
        code = f"line = {line!r}.replace('ID', '\"' + outside.step + '\"')\n"
        return f"{OUTSIDE}{code}os.write(outside.answers.fileno(), line.encode('latin-1') + b'\\n')\ntime.sleep(60)"

    async def main() -> None:
        async with AgentSandbox(tmp_path) as box:
            python = box.calling_python()
            found = await step(python, from_inside(line), timeout=50)
            if line in BAD:
                assert found.error.startswith("the interpreter was ended: ")
                assert found.restarted
                assert await step(python, "1 + 1") == StepAnswer(value=2)
            else:
                assert found == StepAnswer(value="the control")

    asyncio.run(main())


def test_an_answer_in_advance_is_none_to_the_next_step(loop: Loop, tmp_path: Path) -> None:
    ahead = f"{OUTSIDE}outside.tell({{'output': '', 'value': 1}})\noutside.tell({{'output': '', 'value': 'ahead'}})"

    async def body(python: CallingPython) -> None:
        assert (await step(python, ahead)).value == 1
        assert (await step(python, "'mine'")).error == "the interpreter was ended: what it answered is no answer"
        assert (await step(python, "'mine'")).value == "mine"

    run(loop, tmp_path, body)


def test_who_never_reads_or_closes_its_way_out(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        closed = await step(python, f"{OUTSIDE}os.close(outside.answers.fileno())\ntime.sleep(60)", timeout=50)
        assert (closed.error, closed.timed_out) == ("the interpreter ended", False)
        call = await python.run(
            f"{OUTSIDE}outside.tell({{'call': 'x', 'args': [], 'kwargs': {{}}}})\ntime.sleep(60)", timeout=2
        )
        assert isinstance(call, Call)
        stuck = await python.answer(value="x" * 5_000_000)  # more than a pipe holds
        assert (stuck.timed_out, stuck.restarted) == (True, True)  # type: ignore[union-attr]

    run(loop, tmp_path, body)


def test_texts_can_be_written_anywhere(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        found = await step(python, "print('\\ud800')\n{'\\udfff': ['\\udc80']}")
        assert found == StepAnswer(output="?\n", value={"?": ["?"]})

    run(loop, tmp_path, body)


PRINTS = """
import os, subprocess, sys
print('one')
os.system('echo two; echo three >&2')
sys.stderr.write('four ')
sys.stdout.buffer.write(b'\\xff\\n')
subprocess.run('head -c 30000000 /dev/zero | tr "\\\\0" x', shell=True)
sys.stdout = sys.stderr = None
"""


def test_what_programs_print_is_part_of_it(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        found = await step(python, PRINTS)
        assert found.error == ""
        assert found.output.startswith("one\ntwo\nthree\nfour")
        assert "x" * 1000 in found.output
        assert len(found.output) <= LONGEST_TEXT
        assert (await step(python, "print('on')")).output == "on\n"
        flood = await step(python, "subprocess.Popen('yes', shell=True)\nwhile True: print('y')", timeout=1)
        assert flood.timed_out

    run(loop, tmp_path, body)


def test_the_longest_answers_have_room(loop: Loop, tmp_path: Path) -> None:
    async def body(python: CallingPython) -> None:
        for each in ("x", "\\0", "\\xff", "\\ud800", "\\U0001f600", '"'):
            printed = f"print('{each}' * 3_000_000)"
            for value in (f"'{each}' * 3_000_000", f"['{each}' * 170_000]", f"['{each}' * 1_048_560]"):
                found = await step(python, f"{printed}\n{value}")
                assert (found.error, found.restarted) == ("", False)
                assert LONGEST_TEXT // 4 <= len(found.output) <= LONGEST_TEXT
            ended = await step(python, f"{printed}\nend('{each}' * 170_000)")
            assert (ended.restarted, ended.final is not None) == (False, True)
        assert len((await step(python, f"'x' * ({LONGEST} - 2)")).value) == LONGEST - 2

    run(loop, tmp_path, body)


def test_what_json_is() -> None:
    deep: Any = []
    for _ in range(DEEPEST - 1):
        deep = [deep]
    for value in (None, True, 1, 2.5, "a", [], {"a": [1.5]}, deep):
        assert plain(value) == value
    assert plain((1, ("a",))) == [1, ["a"]]
    wrong: dict[str, Any] = {
        "set": {1},
        "key of type int": {"a": {1: 2}},
        "nan": [float("nan")],
        "deep": [deep],
        "bytes": b"",
    }
    for text, value in wrong.items():
        with pytest.raises((TypeError, ValueError), match=text):
            plain(value)
