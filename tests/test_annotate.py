"""The annotated HTML of the native code: no line that runs without the GIL may touch Python.

`cython -a` scores each line by the Python and Cython API calls in the C that it became. Inside the native functions
(`cdef ... nogil`) every score has to be zero; that the gate would notice is proved with planted faults.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape

import pytest

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "sandlock")
NATIVE = ("_core", "_launch", "_memory", "_observe", "_sockets", "_tasks")
"""Modules whose work is done without an interpreter; `_native` is their Python face."""

SCORED = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>\W*<span class="">(\d+)</span>: (.*?)</pre>')
TAG = re.compile(r"<[^>]*>")
DEFINITION = re.compile(r"^(?:cdef|cpdef)\b[^=#]*\(")


def annotate(source: str, place: str) -> dict[int, tuple[int, str]]:
    """The score and text of each line of a .pyx, by number, with the directives of setup.py."""
    target = os.path.join(place, os.path.basename(source)[:-4] + ".c")
    command = [sys.executable, "-m", "cython", "-a", "-3", "-X", "auto_pickle=False", "-o", target, source]
    done = subprocess.run(command, cwd=os.path.dirname(PACKAGE), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with open(target[:-2] + ".html", encoding="utf-8") as file:
        lines = SCORED.findall(file.read())
    return {int(number): (int(score), unescape(TAG.sub("", text))) for score, number, text in lines}


def native_functions(source: str) -> dict[str, range]:
    """The functions of a .pyx that are declared nogil: signature, and the lines from it to the last of the body."""
    with open(source, encoding="utf-8") as file:
        lines = file.read().splitlines()
    found, number = {}, 0
    while number < len(lines):
        first = number
        number += 1
        if not DEFINITION.match(lines[first]):
            continue
        while not lines[number - 1].rstrip().endswith(":") and lines[number - 1].strip():
            number += 1  # a signature of several lines; a declaration ends at an empty one
        signature = " ".join(line.strip() for line in lines[first:number])
        if not re.search(r"\bnogil\s*:$", signature):
            continue
        while number < len(lines) and (not lines[number].strip() or lines[number][0] in " #"):
            number += 1
        found[signature] = range(first + 1, number + 1)
    return found


def complaints(source: str, place: str) -> list[str]:
    """What is wrong with the native functions of a .pyx."""
    scores = annotate(source, place)
    found = []
    for signature, body in native_functions(source).items():
        if not re.search(r"\bnoexcept\s+nogil\s*:$", signature):
            found.append(f"{signature} is not noexcept")
        for number in body:
            score, text = scores[number]
            if score > 0:
                found.append(f"line {number}, score {score}: {text.strip()}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("module", NATIVE)
def test_no_python_in_native_functions(module: str, tmp_path: str) -> None:
    source = os.path.join(PACKAGE, f"{module}.pyx")
    assert len(native_functions(source)) >= 3
    assert not complaints(source, str(tmp_path))


def test_every_module_is_known() -> None:
    """A new .pyx is native, or the Python face."""
    here = {file[:-4] for file in os.listdir(PACKAGE) if file.endswith(".pyx")}
    assert here == {*NATIVE, "_native"}


CLEAN = """
cdef int double(int value) noexcept nogil:
    return value + value


cdef int total(
    const int *values, int count
) noexcept nogil:
    cdef int i, found = 0
    for i in range(count):
        found += double(values[i])
    return found
"""

FAULTS = {
    "a division that can raise": """
cdef int half(int value, int by) noexcept nogil:
    return value // by
""",
    "a call that can raise": """
cdef int double(int value) except? -1 nogil:
    return value + value

cdef int twice(int value) noexcept nogil:
    return double(value)
""",
    "a missing noexcept": """
cdef int double(int value) nogil:
    return value + value
""",
    "the GIL taken": """
cdef int show(int value) noexcept nogil:
    with gil:
        print(value)
    return value
""",
    "an exception": """
cdef int check(int value) noexcept nogil:
    if value < 0:
        raise ValueError
    return value
""",
    "a fault in a continued signature's body": """
cdef int half(
    int value, int by
) noexcept nogil:
    return value % by
""",
}


def planted(code: str, place: str) -> list[str]:
    source = os.path.join(place, "planted.pyx")
    with open(source, "w", encoding="utf-8") as file:
        file.write(code)
    return complaints(source, place)


def test_clean_code_passes(tmp_path: str) -> None:
    assert not planted(CLEAN, str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_gate_notices(fault: str, tmp_path: str) -> None:
    assert planted(CLEAN + FAULTS[fault], str(tmp_path))
