"""Handlers in C: each action, the accessors and their bounds, and what they cannot do. Seen from the program."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cffi
import ordinary
import pytest
from programs.tools import FLAGS, SOURCES, guest

import sandlock
from sandlock import Handler, NativeHandler, PolicyError, Result, Sandbox, handlers, syscalls
from sandlock._host import probe

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.usefixtures("lasting_thread")]

CALL = "sched_get_priority_max"
"""What is handled in most tests: takes one number, is called by nobody, and answers EINVAL to what we ask."""
NUMBER = str(syscalls.number(CALL, probe().arch))
NAMES = (
    "as_told", "look", "first_byte", "string_length", "write_word", "as_often_as_it_goes", "read_and_continue",
    "observe", "too_late",
)  # fmt: skip
CONTINUE, ERRNO, VALUE, INJECT, HOLD, KILL_TASK, KILL_TREE = range(1, 8)

ffi = cffi.FFI()
ffi.cdef(
    handlers.CDEF + "".join(f"struct sandlock_action {name}(const struct sandlock_call *, void *);" for name in NAMES)
)


@pytest.fixture(scope="module")
def native() -> Iterator[Any]:
    """The functions of handlers.c by name, as pointers."""
    with tempfile.TemporaryDirectory() as place:
        library = os.path.join(place, "handlers.so")
        source = os.path.join(SOURCES, "handlers.c")
        include = f"-I{sandlock.include_dir()}"
        subprocess.run(["gcc", *FLAGS, "-fPIC", "-shared", include, "-o", library, source], check=True)
        opened = ffi.dlopen(library)
        yield SimpleNamespace(**{name: ffi.addressof(opened, name) for name in NAMES}, library=opened)


def told(native: Any, kind: int, value: int = 0, flags: int = 0, **options: Any) -> NativeHandler:
    """A handler that always answers this."""
    action = ffi.new("struct sandlock_action *", {"kind": kind, "value": value, "flags": flags})
    return NativeHandler(native.as_told, context=action, keep=native.library, **options)


def run(handler: Any, *task: object, call: str = CALL, **options: Any) -> Result:
    """Runs a task of handled.c whose call has this handler."""
    program = guest("handled")
    where = os.path.dirname(program)
    words = [program, *map(str, task)]
    return sandlock.run(words, presets=["system"], fs_readable=[where], handlers={call: handler}, **options)


def denials(result: Result) -> list[tuple[str, str, str, int, int]]:
    return [(each.kind, each.target, each.cause, each.errno, each.count) for each in result.denials]


# ---- actions


@pytest.mark.parametrize(
    ("kind", "value", "answer"),
    [
        (CONTINUE, 0, -errno.EINVAL),
        (ERRNO, errno.EPERM, -errno.EPERM),
        (ERRNO, 4095, -4095),
        (VALUE, 4711, 4711),
        (VALUE, 2**40 + 1, 2**40 + 1),
    ],
)
def test_an_answer(native: Any, kind: int, value: int, answer: int) -> None:
    result = run(told(native, kind, value), "times", 50, NUMBER, -1)
    assert int(result.stdout) == 50 * answer
    assert denials(result) == ([("handler", CALL, "handler", value, 50)] if kind == ERRNO else [])


@pytest.mark.parametrize(
    ("kind", "value", "flags"),
    [
        (0, 0, 0),
        (8, 0, 0),
        (2**32 - 1, 0, 0),
        (ERRNO, 0, 0),
        (ERRNO, -1, 0),
        (ERRNO, 4096, 0),
        (VALUE, -1, 0),  # an errno by another name, which would be in no record
        (VALUE, -4095, 0),
        (INJECT, -1, 0),
        (INJECT, 2**40, 0),
        (INJECT, 1 << 30, 0),  # no such descriptor
        (INJECT, 0, 2),
        (CONTINUE, 0, 1),
        (HOLD, 0, 1 << 31),
    ],
)
def test_what_is_no_action_denies_and_is_counted(native: Any, kind: int, value: int, flags: int) -> None:
    result = run(told(native, kind, value, flags), "times", 3, NUMBER, -1)
    assert int(result.stdout) == -3 * errno.EACCES
    assert denials(result) == [("handler", CALL, "handler-error", errno.EACCES, 3)]
    assert f"denied: handler {CALL}, 3 times: what the handler answered is no action" in result.explain()


@pytest.mark.parametrize("flags", [0, 1])
def test_a_descriptor_is_injected(native: Any, flags: int) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from-outside")
    try:
        result = run(told(native, INJECT, reader, flags), "inject", NUMBER)
    finally:
        os.close(reader)
        os.close(writer)
    assert result.stdout_text == f"{flags} 12 from-outside EBADF\n"


def test_hold_ends_with_the_run(native: Any) -> None:
    result = run(told(native, HOLD), "call", NUMBER, timeout=0.3)
    assert (result.timed_out, result.stdout) == (True, b"")


def test_kill_task_and_kill_tree(native: Any) -> None:
    result = run(told(native, KILL_TASK), "status", NUMBER)
    assert result.stdout == b"-9\n"
    assert denials(result) == [("handler", CALL, "handler", 0, 1)]
    result = run(told(native, KILL_TREE), "status", NUMBER)
    assert (result.reason, result.stdout) == ("killed", b"")
    assert denials(result) == [("handler", CALL, "handler", 0, 1)]


# ---- what it sees


def test_the_facts_of_a_call(native: Any) -> None:
    ffi_facts = cffi.FFI()
    ffi_facts.cdef("""
        struct facts { uint32_t abi, arch; int32_t number, tid; uint64_t args[6]; void *functions[4]; int32_t tgid; };
    """)
    facts = ffi_facts.new("struct facts *")
    result = run(NativeHandler(native.look, context=facts), "call", NUMBER, 77, 2**63 + 1, "0xffffffffffffffff")
    assert result.stdout.split() == [b"-22"]
    assert (facts.abi, facts.number) == (handlers.ABI, int(NUMBER))
    assert list(facts.args) == [77, 2**63 + 1, 2**64 - 1, 0, 0, 0]
    assert facts.tid == facts.tgid > 0
    assert facts.arch == {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[probe().arch]


MOST = 65536


@pytest.mark.parametrize(
    ("name", "arguments", "answer", "text"),
    [
        ("first_byte", ("@text", 1), 256 + ord("t"), "text"),
        ("first_byte", ("@text", MOST), 256 * MOST + ord("t"), "text"),
        ("first_byte", ("@text", MOST + 1), -errno.EMSGSIZE, "text"),
        ("first_byte", ("@text", 2**64 - 1), -errno.EMSGSIZE, "text"),
        ("first_byte", (0, 1), -errno.EFAULT, ""),
        ("first_byte", (2**64 - 1, 2), -errno.EFAULT, ""),
        ("first_byte", ("0xffff800000000000", 8), -errno.EFAULT, ""),
        ("string_length", ("@text", 5), 4, "text"),
        ("string_length", ("@text", 4), -errno.ENAMETOOLONG, "text"),
        ("string_length", ("@text", 0), -errno.ENAMETOOLONG, "text"),
        ("string_length", ("@text", MOST + 1), -errno.EMSGSIZE, "text"),
        ("string_length", (8, 5), -errno.EFAULT, ""),
        ("write_word", ("@text",), 8, "WRITTEN"),
        ("write_word", (8,), -errno.EFAULT, ""),
        ("as_often_as_it_goes", ("@", MOST), 4, ""),
        ("as_often_as_it_goes", ("@", 1), 64, ""),
        ("as_often_as_it_goes", ("@", 0), 64, ""),
    ],
)
def test_memory_within_bounds(native: Any, name: str, arguments: Any, answer: int, text: str) -> None:
    result = run(NativeHandler(getattr(native, name)), "call", NUMBER, *arguments)
    assert result.stdout_text == f"{answer} {text}\n"


def test_memory_that_cannot_be_written_is_not(native: Any) -> None:
    """A program's own code: not even as a debugger would write it."""
    code = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
    code += "at = ctypes.cast(libc.getpid, ctypes.c_void_p).value\n"
    code += f"print(libc.syscall({NUMBER}, ctypes.c_long(at)), ctypes.get_errno(), libc.getpid() > 0)"
    handler = NativeHandler(native.write_word)
    result = sandlock.run(["python3", "-c", code], presets=["python"], handlers={CALL: handler})
    assert result.stdout_text == f"-1 {errno.EFAULT} True\n"


def test_a_caller_that_is_gone_is_not_looked_into(native: Any) -> None:
    results = ffi.new("int64_t[5]")
    result = run(NativeHandler(native.too_late, context=results), "killed", NUMBER, "@text")
    assert result.stdout_text == "9\n"
    assert list(results) == [-errno.ESRCH] * 4 + [1]


# ---- what was read does not let a call go on


def test_reading_ends_the_way_on(native: Any, tmp_path: Path) -> None:
    """The program's own open: denied after a read, while the same call without a read goes on (the control)."""
    (tmp_path / "file").write_text("content")
    task = ("race", tmp_path / "file", tmp_path / "file")
    readable = {"fs_readable": [str(tmp_path), os.path.dirname(guest("handled"))]}

    def opening(handler: NativeHandler) -> Result:
        words = [guest("handled"), *map(str, task)]
        # getdents64 and others of the loader are not touched: only what opens by openat, the loader too.
        return sandlock.run(words, presets=["system"], **readable, handlers={"openat": handler})  # type: ignore[arg-type]

    assert opening(told(native, CONTINUE)).stdout == b"content\n"
    result = opening(NativeHandler(native.read_and_continue))
    assert result.stdout == b""
    assert {(each.target, each.cause, each.errno) for each in result.denials} == {
        ("openat", "memory-read", errno.EACCES)
    }


def test_an_observer_reads_and_decides_nothing(native: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    seen = ffi.new("char[65536]")
    observer = NativeHandler(native.observe, context=seen, keep=native.library, observes=True)
    result = sandlock.run(["cat", str(tmp_path / "file")], presets=["system"], fs_readable=[str(tmp_path)],
                          handlers={"openat": observer})  # fmt: skip
    assert (result.stdout, result.denials) == (b"content", ())
    paths = ffi.string(seen).decode().splitlines()
    assert str(tmp_path / "file") in paths
    assert "WRITTEN" not in paths


@pytest.mark.parametrize("kind", [ERRNO, VALUE, INJECT, HOLD, KILL_TASK, KILL_TREE, 99])
def test_an_observer_that_decides_is_a_mistake(native: Any, kind: int) -> None:
    result = run(told(native, kind, 1, observes=True), "times", 2, NUMBER)
    assert int(result.stdout) == -2 * errno.EACCES
    assert denials(result) == [("handler", CALL, "handler-error", errno.EACCES, 2)]


# ---- lifetimes, mistakes


def test_what_it_needs_is_kept_while_a_run_uses_it(native: Any) -> None:
    program = guest("handled")
    with Sandbox(
        presets=["system"], fs_readable=[os.path.dirname(program)], handlers={CALL: told(native, VALUE, 7)}
    ) as box:
        with box.start(["/bin/sh", "-c", f"read x; exec {program} call {NUMBER}"], stdin=-1) as process:
            box._confinement.handlers.clear()  # nobody but the run knows the handler now
            garbage = [ffi.new("struct sandlock_action *") for _ in range(1000)]
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert process.stdout.read().split()[0] == b"7"
            del garbage


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"function": 0}, "no function at address 0"),
        ({"function": -1}, "is no address"),
        ({"function": True}, "is no address"),
        ({"function": 1 << 64}, "is no address"),
        ({"function": print}, "is no address"),
        ({"function": "as_told"}, "is no address"),
        ({"function": 4096, "context": "x"}, "context 'x' is no address"),
        ({"function": 4096, "abi": 2}, "compile it again"),
    ],
)
def test_what_is_no_function_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        NativeHandler(**given)


def test_the_header_and_the_module_say_the_same() -> None:
    with open(os.path.join(sandlock.include_dir(), "sandlock", "handler.h"), encoding="utf-8") as file:
        text = file.read()
    assert f"#define SANDLOCK_HANDLER_ABI {handlers.ABI}\n" in text
    for name in ("CONTINUE", "ERRNO", "VALUE", "INJECT", "HOLD", "KILL_TASK", "KILL_TREE"):
        assert f"SANDLOCK_{name} = {getattr(handlers, name)}" in text


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles_alone(language: str, tmp_path: Path) -> None:
    source = tmp_path / "alone"
    source.write_text("#include <sandlock/handler.h>\nsandlock_handler *address;\n")
    command = ["gcc", "-x", language, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", str(source), "-o", "/dev/null"]
    done = subprocess.run([*command, f"-I{sandlock.include_dir()}"], capture_output=True, text=True, check=False)
    if language == "c++" and "cc1plus" in done.stderr:
        pytest.skip("gcc without C++")
    assert done.returncode == 0, done.stderr


def test_both_kinds_in_one_sandbox(native: Any) -> None:
    class Other(Handler):
        def handle(self, ctx: Any) -> Any:
            return sandlock.Value(2)

    other = "sched_get_priority_min"
    number = syscalls.number(other, probe().arch)
    program = guest("handled")
    script = f"{program} call {NUMBER}; {program} call {number}"
    result = sandlock.run(["/bin/sh", "-c", script], presets=["system"], fs_readable=[os.path.dirname(program)],
                          handlers={CALL: told(native, VALUE, 1), other: Other()})  # fmt: skip
    assert result.stdout.split() == [b"1", b"2"]


@pytest.mark.slow
@pytest.mark.parametrize("user", ordinary.USERS)
def test_as_every_user(native: Any, user: str) -> None:
    """The launch of an ordinary user's run makes calls that have a handler, and they are not for it."""
    code = """
import os, subprocess, sys, tempfile
import cffi, sandlock
place = tempfile.mkdtemp()
with open(place + "/h.c", "w") as file:
    file.write('#include <sandlock/handler.h>\\n#include <errno.h>\\n'
               'struct sandlock_action h(const struct sandlock_call *c, void *x)'
               '{ char b[64]; (void)x; return sandlock_errno(c->read(c, c->args[1], b, 2) == 2 ? ENOSPC : EIO); }\\n')
include = "-I" + sandlock.include_dir()
subprocess.run(["gcc", "-shared", "-fPIC", include, "-o", place + "/h.so", place + "/h.c"], check=True)
ffi = cffi.FFI()
ffi.cdef(sandlock.handlers.CDEF + "struct sandlock_action h(const struct sandlock_call *, void *);")
lib = ffi.dlopen(place + "/h.so")
handler = sandlock.NativeHandler(ffi.addressof(lib, "h"), keep=lib)
result = sandlock.run(["echo", "hi"], presets=["system"], handlers={"write": handler, "chdir": handler}, cwd="/")
print(result.exit_code, result.stdout, b"No space" in result.stderr, [(d.target, d.errno) for d in result.denials])
"""
    with ordinary.at_home(user) as who:
        printed = who.script(code)
    # echo's complaint on stderr is a write as well.
    assert printed == "1 b'' False [('write', 28)]\n"
