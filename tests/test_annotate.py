"""The annotated HTML of the native code: no line that runs without the GIL may touch Python.

`cython -a` scores each line by the Python and Cython API calls in the C that it became. Inside the native
functions (`cdef ... nogil`) every score has to be zero; that the gate would notice is proved with planted faults.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html import unescape

import pytest

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "sandlock")
NATIVE = (
    "_approvals", "_attest", "_cached_paths", "_commands", "_core", "_destinations", "_domain", "_exec",
    "_exec_paths", "_exits", "_forks", "_handlers", "_handling", "_images", "_journal", "_launch", "_listing",
    "_loaders", "_looking_acts", "_machine", "_mediate", "_memory", "_messages", "_metadata_acts", "_new_image",
    "_observe", "_openers", "_opening", "_opens", "_path_acts", "_path_calls", "_path_lane", "_path_records",
    "_path_table", "_path_values", "_paths", "_pins", "_places", "_poller", "_procfs", "_programs", "_promises",
    "_redirect", "_rooted", "_shown_ways", "_signals", "_slots", "_socket_calls", "_sockets", "_tasks",
    "_unix_sockets", "_users", "_view_table", "_virtual_acts", "_virtual_listing",
    "_virtual_root", "_wakeups", "_workers", "_writers",
)  # fmt: skip
"""Modules whose work is done without an interpreter; `_native` and `_questions` are their Python face."""

SCORED = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>[^<]*<span class="">(\d+)</span>: (.*?)</pre>')
TAG = re.compile(r"<[^>]*>")
DEFINITION = re.compile(r"^(?:cdef|cpdef)\b[^=#]*\(")


Lines = dict[int, tuple[int, str]]


def directives() -> list[str]:
    """The compiler directives of setup.py, as options."""
    with open(os.path.join(os.path.dirname(PACKAGE), "setup.py"), encoding="utf-8") as file:
        found = [
            ast.literal_eval(node.value)
            for node in ast.walk(ast.parse(file.read()))
            if isinstance(node, ast.keyword) and node.arg == "compiler_directives"
        ]
    assert len(found) == 1
    return [word for name, value in found[0].items() for word in ("-X", f"{name}={value}")]


def annotate(sources: list[str], place: str) -> list[Lines]:
    """The score and text of each line of each .pyx, by number; compiled with the directives of setup.py."""
    command = [sys.executable, "-m", "cython", "-a", *directives(), "-o", place, *sources]
    done = subprocess.run(command, cwd=os.path.dirname(PACKAGE), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = []
    for source in sources:
        with open(os.path.join(place, os.path.basename(source)[:-4] + ".html"), encoding="utf-8") as file:
            lines = SCORED.findall(file.read())
        found.append({int(number): (int(score), unescape(TAG.sub("", text))) for score, number, text in lines})
        with open(source, encoding="utf-8") as file:
            assert len(found[-1]) == len(file.readlines()), "a line is missing: the HTML looks different"
    return found


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


def complaints(source: str, scores: Lines) -> list[str]:
    """What is wrong with the native functions of a .pyx."""
    found = []
    for signature, body in native_functions(source).items():
        if not re.search(r"\bnoexcept\s+nogil\s*:$", signature):
            found.append(f"{signature} is not noexcept")
        for number in body:
            score, text = scores[number]
            if score > 0:
                found.append(f"{signature} line {number}, score {score}: {text.strip()}")
    return found


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lines]:
    """The lines of every native module; one start of Cython for all, which is slow to import."""
    sources = [os.path.join(PACKAGE, f"{module}.pyx") for module in NATIVE]
    return dict(zip(NATIVE, annotate(sources, str(tmp_path_factory.mktemp("annotated"))), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("module", NATIVE)
def test_no_python_in_native_functions(module: str, annotated: dict[str, Lines]) -> None:
    source = os.path.join(PACKAGE, f"{module}.pyx")
    assert native_functions(source)
    assert not complaints(source, annotated[module])


def test_every_module_is_known() -> None:
    """A new .pyx is native, or one of the Python faces."""
    here = {file[:-4] for file in os.listdir(PACKAGE) if file.endswith(".pyx")}
    assert here == {*NATIVE, "_native", "_program", "_questions"}


PLANTED = """# what a module needs at its start is scored with the first statement
import cython
cimport cython

cdef int clean_double(int value) noexcept nogil:
    return value + value

cdef int clean_total(
    const int *values, int count
) noexcept nogil:
    cdef int i, found = 0
    for i in range(count):
        found += clean_double(values[i])
    return found

@cython.cdivision(False)
cdef int fault_division(int value, int by) noexcept nogil:
    return value // by

@cython.cdivision(False)
cdef int fault_remainder(
    int value, int by
) noexcept nogil:

    # after an empty line and a comment
    return value % by

cdef int raises(int value) except? -1:
    return value + value

cdef int fault_not_noexcept(int value) nogil:
    return value + value

cdef int fault_takes_the_gil(int value) noexcept nogil:
    with gil:
        print(value)
    return value

cdef int fault_raises(int value) noexcept nogil:
    if value < 0:
        raise ValueError
    return value

cdef int fault_calls_what_can_raise(int value) noexcept nogil:
    return fault_not_noexcept(value)
"""


@pytest.mark.slow
def test_the_gate_notices(tmp_path: str) -> None:
    source = os.path.join(tmp_path, "planted.pyx")
    with open(source, "w", encoding="utf-8") as file:
        file.write(PLANTED)
    found = complaints(source, annotate([source], str(tmp_path))[0])
    faults = {name for name in re.findall(r"cdef int (\w+)", PLANTED) if name.startswith("fault")}
    assert len(faults) == 6
    assert {re.search(r"cdef int (\w+)", complaint)[1] for complaint in found} == faults  # type: ignore[index]
