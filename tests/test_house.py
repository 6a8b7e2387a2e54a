"""The rules of the house: who may import what, the shape of the tree, sizes, stubs, the public names.

Ratchets (SIZES, LENGTHS) hold what is over the rule today: an entry may shrink and go, never grow or be added.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import sandlock

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = os.path.join(TOP, "sandlock")
LONGEST_FILE = 600
LONGEST_FUNCTION = 60
SIZES: dict[str, int] = {}
LENGTHS: dict[str, int] = {}

# Values in, values out: these know no kernel, no process and no event loop.
PURE = (
    "_arguments", "_decisions", "_denials", "_describe", "_dns", "_exec_rules", "_extra_rules", "_filter", "_fixes",
    "_handler_rules", "_landlock", "_lookups", "_names", "_net_rules", "_open_rules", "_path_rules", "_plan",
    "_record", "_trap_rules", "_values", "_verdicts", "_view_rules", "_views",
    "errors", "events", "policy", "presets", "result", "syscalls",
)  # fmt: skip
# Compiled modules and those that touch the kernel, and who may import them.
DOORS = {
    "_native": {"_execution"},
    "_program": {"_confinement", "_destination_check", "_execution", "_permissions"},
    "_launch": {"_execution"},
    "_sys": {"_host", "_probes", "_view_files", "files", "sessions/trailer"},
    "_handlers": {"_handled"},
    "_handled": {"_execution"},
    "_path_facts": {"_permissions"},
    "_path_table": {"_path_facts"},
    "_execution": {"_capture", "_confinement", "sandbox"},
    "_view_files": {"_confinement"},
    "_view_table": {"_view_files"},
    "_virtual_paths": {"_confinement"},
    "_virtual_root": {"_virtual_paths"},
    "_probes": {"_doctor"},
    "_async": {"__init__"},
    "_answers": {"_async", "_loop_answers", "sandbox"},
    "_loop_answers": {"_async"},
    "_audit": {"_recording", "_telemetry", "sessions/session"},
    "_recording": {"_async", "_records"},
    "_telemetry": {"_recording"},
    "_decision_stream": {"_async"},
    "_async_streams": {"_async"},
    "_trio_thread": {"_answers", "_async", "_async_streams", "_decision_stream", "_resolver"},
    "_resolver": {"_async", "sandbox"},
}
NOBODY = (
    "_questions",
    "_wakeups",
    "_core",
    "_domain",
    "_journal",
    "_memory",
    "_observe",
    "_signals",
    "_sockets",
    "_tasks",
    "_approvals",
    "_attest",
    "_exec",
    "_programs",
    "_redirect",
    "_loaders",
    "_promises",
    "_new_image",
    "_rooted",
    "_slots",
    "_workers",
    "_writers",
    "_exits",
    "_forks",
    "_handling",
    "_images",
    "_commands",
    "_destinations",
    "_pins",
    "_messages",
    "_poller",
    "_socket_calls",
    "_unix_sockets",
    "_procfs",
    "_paths",
    "_opening",
    "_openers",
    "_opens",
    "_machine",
    "_listing",
    "_path_calls",
    "_path_values",
    "_exec_paths",
    "_path_acts",
    "_metadata_acts",
    "_looking_acts",
    "_users",
    "_mediate",
    "_path_records",
    "_path_lane",
    "_cached_paths",
    "_places",
    "_shown_ways",
    "_virtual_acts",
    "_virtual_listing",
)  # by cimport only
# Libraries that cost something, and who may import them; with a slash at the end, all of a folder.
LIBRARIES = {
    "trio": {
        "_answers",
        "_async",
        "_async_streams",
        "_decision_stream",
        "_loop_answers",
        "_resolver",
        "_trio_thread",
        "agents/",
        "cli/agent/",
        "sessions/",
    },
    "opentelemetry": {"_telemetry"},
    "h11": {"cli/agent/page_server"},
    "outcome": {"_trio_thread"},
    "sniffio": {"_trio_thread", "agents/loops", "agents/sync"},
    "asyncio": {
        "_answers",
        "_loop_answers",
        "_trio_thread",
        "agents/adk",
        "agents/adk_code",
        "agents/adk_environment",
        "agents/autogen",
        "agents/deepagents",
        "agents/langchain",
        "agents/loops",
        "agents/openai",
        "agents/openai_approvals",
        "agents/strands",
        "agents/strands_tool",
        "agents/sync",
        "agents/waiting_calls",
    },
    "typer": {"cli/main", "cli/options", "cli/agent/"},
    "cffi": {"_sys_build"},
    "_cffi_backend": {"handlers"},
    "ctypes": set(),
}
# What `import sandlock` must not pull in: each costs milliseconds that every confined command would pay.
SLOW = (
    "asyncio", "cffi", "ctypes", "dataclasses", "enum", "inspect", "json", "pathlib", "re", "socket", "subprocess",
    "tempfile", "threading", "tomllib", "trio", "typer", "typing",
)  # fmt: skip
# Who runs in tasks that share the host's memory and may be killed at any point: in malloc, the heap would stay locked.
HELPERS = (
    "_attest", "_cached_paths", "_exec_paths", "_handling", "_listing", "_loaders", "_looking_acts", "_mediate",
    "_metadata_acts", "_new_image", "_openers", "_opening", "_path_acts", "_path_calls", "_path_records",
    "_path_values", "_paths", "_places", "_poller", "_procfs", "_programs", "_promises", "_redirect", "_rooted",
    "_shown_ways", "_socket_calls", "_tasks", "_users", "_virtual_acts", "_virtual_listing", "_virtual_root",
)  # fmt: skip
CIMPORT = re.compile(r"^\s*(?:from\s+(\S+)\s+cimport\b|cimport\s+(\S+)|include\s+(\S+))")


def files(folder: str, ending: str) -> list[str]:
    """The files of a folder and below it, relative to the top, without symbolic links to folders."""
    found = []
    for place, folders, names in os.walk(os.path.join(TOP, folder)):
        folders[:] = [name for name in folders if name not in ("__pycache__", "build") and name[0] != "."]
        found += [os.path.relpath(os.path.join(place, name), TOP) for name in names if name.endswith(ending)]
    return sorted(found)


def read(path: str) -> str:
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements that run: not what only a type checker sees."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            for inner in getattr(statement, field, ()):
                if isinstance(inner, ast.stmt):
                    yield from statements([inner])
                else:
                    yield from statements(inner.body)


def imports(path: str) -> set[str]:
    """The modules that a .py file imports when it runs, those of ours as `sandlock.x`."""
    found = set()
    for statement in statements(ast.parse(read(path)).body):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            module = statement.module or ""
            if statement.level:
                module = f"sandlock.{module}".rstrip(".")
            found.add(module)
            if module == "sandlock":  # `from . import x` may name a module
                found |= {f"sandlock.{alias.name}" for alias in statement.names}
    return found


MODULES = {path: imports(path) for folder in ("sandlock", "cli", "agents") for path in files(folder, ".py")}


def short(path: str) -> str:
    """`_plan` for sandlock/_plan.py, `cli/main` for cli/main.py."""
    return path.removeprefix("sandlock/").removesuffix(".py")


# ---- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES)
def test_layers(path: str) -> None:
    name = short(path)
    roots = {module.partition(".")[0] for module in MODULES[path]}
    for library, users in LIBRARIES.items():
        folder = f"{os.path.dirname(name)}/"
        assert library not in roots or name in users or folder in users, f"{path} imports {library}"
    for module, users in DOORS.items():
        assert f"sandlock.{module}" not in MODULES[path] or name in users, f"{path} imports {module}"
    for module in NOBODY:
        assert f"sandlock.{module}" not in MODULES[path], f"{path} imports {module}"


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_only_pure_ones(name: str) -> None:
    found = MODULES[f"sandlock/{name}.py"]
    ours = {module.removeprefix("sandlock.") for module in found if module.startswith("sandlock.")}
    modules = {module for module in ours if f"sandlock/{module}.py" in MODULES}
    assert modules <= set(PURE)
    effects = {"fcntl", "multiprocessing", "select", "socket", "subprocess", "tempfile", "threading", "time"}
    assert not found & effects


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith(("cli/", "agents/"))])
def test_no_private_doors(path: str) -> None:
    """If an adapter or the command line needs it, so do users."""
    private = {module for module in MODULES[path] if re.match(r"sandlock\._(?!_)", module)}
    assert not private


def test_examples_use_the_public_api() -> None:
    for path in files("examples", ".py"):
        assert not [module for module in imports(path) if module.startswith("sandlock._")], path


@pytest.mark.parametrize("path", files("sandlock", ".pyx") + files("sandlock", ".pxd"))
def test_cimports(path: str) -> None:
    """Only by full name, which the build tracks; no `include`; nothing of ours is imported as Python."""
    for line in read(path).splitlines():
        found = CIMPORT.match(line)
        if found:
            origin, module, included = found.groups()
            assert included is None, line
            assert module is None, f"{line!r}: write `from {module} cimport ...`"
            assert re.match(r"(sandlock\._\w+|libc\.|posix\.|cpython\.|cpython\b)", origin), line
        if re.match(r"\s*(from\s+(\.|sandlock)\S*\s+import|import\s+sandlock)\b", line):
            assert path == "sandlock/_native.pyx", f"{path}: {line}"


def test_import_costs_little() -> None:
    code = "import sys; before = set(sys.modules); import sandlock; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sandlock.sandbox" in loaded
    assert not loaded & set(SLOW)


# ---- the tree -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["agents", "cli", "tests"])
def test_no_package_at_the_top(folder: str) -> None:
    """A top-level `agents` would shadow other people's; these are reached below `sandlock`."""
    assert not os.path.exists(os.path.join(TOP, folder, "__init__.py"))


@pytest.mark.parametrize("folder", ["agents", "cli"])
def test_rooms_are_links(folder: str) -> None:
    assert os.readlink(os.path.join(PACKAGE, folder)) == f"../{folder}"


def test_public_names() -> None:
    names = sandlock.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(sandlock, name) is not None
    modules = {short(path) for path in MODULES} | {"agents", "cli"}
    defined = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(read("sandlock/__init__.py")))
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    public = {name for name in defined if not name.startswith("_")} - modules
    assert public == set(names)


def declared(path: str) -> set[str] | None:
    """The `__all__` of a module, if it has one."""
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("path", MODULES)
def test_what_is_imported_is_declared(path: str) -> None:
    """Where a public module has an `__all__`, others take nothing that is not in it."""
    for node in statements(ast.parse(read(path)).body):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").startswith(("_", "sandlock._")):
            continue
        origin = f"sandlock/{(node.module or '').removeprefix('sandlock.')}.py"
        if origin in MODULES and (names := declared(origin)) is not None:
            assert {alias.name for alias in node.names} <= names, f"{path} takes from {origin}"


# ---- sizes ----------------------------------------------------------------------------------------------------------


def sources() -> list[str]:
    found = files("sandlock", ".py") + files("sandlock", ".pyx") + files("sandlock", ".c") + files("sandlock", ".h")
    for folder in ("cli", "agents", "tests", "examples", "benchmarks"):
        found += files(folder, ".py")
    return found


def functions(path: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function of a .py or .pyx."""
    if path.endswith(".py"):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or 0) - node.lineno + 1
        return
    lines = read(path).splitlines()
    for number, line in enumerate(lines):
        found = re.match(r"(\s*)(?:cdef|cpdef|def|async def)\b[^=#]*?(\w+)\(", line)
        if not found or "extern" in line:
            continue
        indent, last = len(found[1]), number
        for following in range(number + 1, len(lines)):
            text = lines[following]
            if text.strip() and len(text) - len(text.lstrip()) <= indent and not text.lstrip().startswith(")"):
                break
            if text.strip():
                last = following
        yield found[2], last - number + 1


def test_files_fit_a_comfortable_read() -> None:
    over = {path: size for path in sources() if (size := len(read(path).splitlines())) > LONGEST_FILE}
    assert {path for path in over if over[path] > SIZES.get(path, 0)} == set()
    assert set(SIZES) <= set(over), "an entry of SIZES is done with: remove it"


def test_functions_fit_a_screen() -> None:
    over = {
        f"{path}:{name}": length
        for path in sources()
        if path.endswith((".py", ".pyx"))
        for name, length in functions(path)
        if length > LONGEST_FUNCTION
    }
    assert {place for place in over if over[place] > LENGTHS.get(place, 0)} == set()
    assert set(LENGTHS) <= set(over), "an entry of LENGTHS is done with: remove it"


# ---- stubs, words ---------------------------------------------------------------------------------------------------

# What Cython and cffi put into every module, types that only the stub of a cffi module has, and a sort key.
NOT_IN_STUBS = r"""
sandlock\._\w+\.__(pyx_capi|test|reduce_cython|setstate_cython|pyx_unpickle\w*)__
sandlock\._sys\.(CData|FFI|Lib)
sandlock\._observe\.started
"""


def compiled() -> list[str]:
    return ["_sys", *(os.path.basename(path)[:-4] for path in files("sandlock", ".pyx"))]


@pytest.mark.slow
def test_stubs_are_true(tmp_path: str) -> None:
    """Each compiled module has a stub, and it says what the module has (the installed one: its folder counts)."""
    installed = os.path.dirname(os.path.dirname(os.path.abspath(sandlock.__file__)))
    allowed = os.path.join(tmp_path, "allowed")
    with open(allowed, "w", encoding="utf-8") as file:
        file.write(NOT_IN_STUBS)
    environment = dict(os.environ)
    if not installed.endswith("site-packages"):
        environment |= {"MYPYPATH": installed, "PYTHONPATH": installed}
    names = [f"sandlock.{module}" for module in compiled()]
    command = [sys.executable, "-m", "mypy.stubtest", "--allowlist", allowed, "--ignore-unused-allowlist", *names]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def tracked() -> list[str]:
    """The files of the change; without git (an sdist) those of the folders that it packs."""
    done = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "ls-files", "-co", "--exclude-standard"],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return [path for path in done.stdout.splitlines() if os.path.isfile(os.path.join(TOP, path))]
    return [path for folder in ("sandlock", "cli", "agents", "tests", "docs", "examples") for path in files(folder, "")]


# In pieces, so that this file does not contain them.
MACHINE = re.compile("|".join(("/work" + r"/(main|shared|\.)", "/tmp" + r"/(sl|venv|fz)\b", "/opt" + "/pypi")))
HOSTS = re.compile(r"https?://(?!(?:www\.)?(?:apache|semver|kernel|python|w3)\.org\b|x\b|127\.0\.0\.1|localhost)\S+")


def test_no_word_about_one_machine() -> None:
    """Paths and package indexes of the machine that somebody worked on."""
    for path in tracked():
        try:
            text = read(path)
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE, HOSTS):
            found = pattern.search(text)
            assert not found, f"{path}: {found[0] if found else ''}"


def test_nothing_is_allocated_by_who_may_be_killed() -> None:
    for name in HELPERS:
        assert not re.search(r"\b(?:m|c|re)alloc\b", re.sub(r'"""[\s\S]*?"""', "", read(f"sandlock/{name}.pyx"))), name
