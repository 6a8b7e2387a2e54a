"""Path calls that the supervisor carries out: the same as bare where they are allowed, nothing where they are not.

By every number that there is for each. What came of them is looked at from outside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import path_program
import pytest
from loops import Loop
from ordinary import Person
from planned import ARCHES, a_host

from sandlock import AsyncSandbox, Decision, Sandbox, Unsupported, _path_rules, syscalls
from sandlock._plan import plan
from sandlock.policy import Policy

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
TESTS = os.path.dirname(os.path.abspath(__file__))
ARCH = os.uname().machine
NUMBERS = " ".join(
    f"{call.name}={call.number(ARCH)}" for call in syscalls.TABLE.values() if call.number(ARCH) is not None
)

# ---- the same as bare

COMPARE = """
import json, os, shutil, subprocess, sys
from sandlock import Sandbox, _path_rules
tests, numbers, options, looks = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4] == "looks"
if looks:
    traps = _path_rules.traps
    _path_rules.traps = lambda *words, **more: traps(*words, **(more | {"looks": True}))
place = os.path.join(os.getcwd(), "place")
argv = [sys.executable, "-I", "-S", "-B", os.path.join(tests, "path_program.py"), place, numbers]
os.mkdir(place)
bare = subprocess.run(argv, capture_output=True, check=True, cwd=place).stdout
shutil.rmtree(place)
os.mkdir(place)
options = {name: [each.replace("PLACE", place) for each in value] for name, value in options.items()}
box = Sandbox(presets=["python", "proc"], fs_readable=[tests], fs_writable=[place], **options)
done = box.run(argv, cwd=place)
print(json.dumps([bare.decode(), done.stdout.decode(), done.stderr.decode(), done.exit_code]))
"""


def outcomes(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


@pytest.mark.parametrize(
    ("options", "looks"),
    [({}, ""), ({"fs_denied": ["PLACE-denied"]}, ""), ({"fs_denied": ["PLACE-denied"]}, "looks")],
    ids=["metadata", "denied", "looks"],
)
def test_what_is_allowed_is_as_without_a_supervisor(visitor: Person, options: dict[str, Any], looks: str) -> None:
    said = visitor.script(COMPARE, visitor.tests, NUMBERS, json.dumps(options), looks, cwd=visitor.home)
    bare_text, text, errors, code = json.loads(said)
    assert (errors, code) == ("", 0)
    bare, inside = outcomes(bare_text), outcomes(text)
    assert len(bare) > 150
    if visitor.uid == 0:  # inside, root has no capabilities
        assert inside.pop("chown other").startswith("'EPERM'")
        assert bare.pop("chown other").startswith("0")
    if options or looks:
        assert inside == bare
        return
    assert {label: inside[label] for label in bare if inside[label] != bare[label]} == {}


# ---- nothing where they are denied

METADATA = (path_program.modes, path_program.moments, path_program.attributes, path_program.marks)
DIRECTORIES = (path_program.names, path_program.removals, path_program.moves, path_program.nodes)
ELSEWHERE = {
    *("fchmod pipe", "fchmod memfd", "fchmod socket", "utimensat omit", "mkdir root", "rmdir root"),
    *("ioctl flags pipe", "inotify_add_watch not one"),
}
"""What is not about a file in the place."""


def labels(*groups: Any) -> list[str]:
    return [label for group in groups for label in group() if label not in ELSEWHERE]


def furnished(place: Path) -> dict[str, str]:
    """Gives every operation its directory beforehand, and says what is in each."""
    place.mkdir()
    for label in path_program.operations():
        path_program.furnish(str(place / path_program.place_of(label)))
    return seen(place)


def seen(place: Path) -> dict[str, str]:
    return {name: path_program.facts(str(place / name)) for name in sorted(os.listdir(place))}


def run(place: Path, **policy: Any) -> dict[str, str]:
    box = Sandbox(presets=["python"], **policy)
    argv = [sys.executable, "-I", "-S", "-B", f"{TESTS}/path_program.py", str(place), NUMBERS]
    result = box.run(argv, cwd=str(place.parent))
    assert (result.exit_code, result.stderr) == (0, b"")
    return outcomes(result.stdout.decode())


def denied_ones(said: dict[str, str], of: list[str]) -> set[str]:
    return {label for label in of if label in said and said[label].startswith("'EACCES'")}


def test_nothing_in_a_denied_directory_is_changed(tmp_path: Path) -> None:
    free, denied = tmp_path / "free", tmp_path / "denied"
    before = furnished(denied)
    policy: dict[str, Any] = {"fs_readable": [TESTS], "fs_writable": [str(tmp_path)], "fs_denied": [str(denied)]}
    said = run(denied, **policy)
    assert seen(denied) == before
    whole = labels(*METADATA, *DIRECTORIES)
    refused = denied_ones(said, whole)
    # Before any of them, the kernel refuses what no file could be meant by; and where there is no descriptor to be had.
    assert all(said[label].startswith("'E") for label in whole if label in said)
    assert len(refused) > 75
    before = furnished(free)
    assert run(free, **policy) != said
    after = seen(free)
    changed = {name for name in before if after[name] != before[name]}
    assert len(changed) > 60, "the control"


def test_metadata_is_changed_inside_the_writable_grants_only(tmp_path: Path) -> None:
    readable, writable = tmp_path / "readable", tmp_path / "writable"
    before = furnished(readable)
    policy: dict[str, Any] = {"fs_readable": [TESTS, str(readable)], "fs_writable": [str(writable)]}
    own = furnished(writable)
    said = run(readable, **policy)
    assert seen(readable) == before
    assert all(said[label].startswith("'E") for label in labels(*METADATA) if label in said)
    assert len(denied_ones(said, labels(*METADATA))) > 45
    assert said["inotify_add_watch"].startswith("(1, b'')"), "what may be read may be watched"
    run(writable, **policy)
    assert len({name for name, facts in seen(writable).items() if own[name] != facts}) > 60, "the control"
    run(readable, **policy, disable=["fs-metadata"])
    changed = {name for name, facts in seen(readable).items() if before[name] != facts}
    assert {"chmod", "fchmod", "utimensat", "futimesat", "setxattr", "fsetxattr", "lchown"} & changed >= {"fchmod"}


WATCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
watcher = libc.inotify_init1(os.O_NONBLOCK)
found = libc.inotify_add_watch(watcher, sys.argv[1].encode(), 0x100)
print(found, ctypes.get_errno(), flush=True)
sys.stdin.readline()
print(b"private" in os.read(watcher, 4096) if found > 0 else None)
"""


@pytest.mark.parametrize("grant", ["none", "denied", "read", "waived"])
def test_nobody_watches_what_may_not_be_read(tmp_path: Path, grant: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    options: dict[str, Any] = {
        "none": {},
        "denied": {"fs_readable": [str(tmp_path)], "fs_denied": [str(place)]},
        "read": {"fs_data": [str(place)]},
        "waived": {"disable": ["fs-metadata"]},
    }[grant]
    box = Sandbox(presets=["python"], **options)
    argv = [sys.executable, "-I", "-S", "-c", WATCH, str(place)]
    with box.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        first = process.stdout.readline()
        (place / "private").touch()
        process.stdin.write(b"\n")
        process.stdin.flush()
        told = process.stdout.readline()
    if grant in ("none", "denied"):
        assert (first, told) == (b"-1 13\n", b"None\n")
    else:
        assert (first, told) == (b"1 0\n", b"True\n")


@pytest.mark.needs(root=True)
def test_root_makes_no_device_node(tmp_path: Path) -> None:
    code = (
        "import os, stat\n"
        "for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):\n"
        "    try: os.mknod(f'n{kind}', kind | 0o600, os.makedev(1, 3)); print('made')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    os.mknod(tmp_path / "control", 0o020600, os.makedev(1, 3))
    for denied in ([], [str(tmp_path / "other")]):
        box = Sandbox(
            presets=["python"], fs_writable=[str(tmp_path)], fs_denied=denied, keep_capabilities=["CAP_MKNOD"]
        )
        assert box.run(argv, cwd=str(tmp_path)).stdout.split() == [b"1", b"1", b"made"]
        os.unlink(tmp_path / f"n{0o010000}")


# ---- what is told of it


def test_a_denial_says_what_by_which_rule_and_what_would_help(tmp_path: Path) -> None:
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "file").touch()
    (tmp_path / "write" / "secret").mkdir(parents=True)
    (tmp_path / "write" / "secret" / "x").touch()
    read, secret = str(tmp_path / "read" / "file"), str(tmp_path / "write" / "secret")
    script = f"chmod 600 {read}; chmod 700 {read}; touch {read}; mv {secret} {secret}2; cat {secret}/x"
    box = Sandbox(
        presets=["system"],
        fs_readable=[f"{tmp_path}/read"],
        fs_writable=[f"{tmp_path}/write"],
        fs_denied=["/no", secret],
    )
    result = box.run(["/bin/sh", "-c", script])
    assert result.exit_code, result.explain()
    told = {(denial.kind, denial.syscall, denial.target): denial for denial in result.denials}
    mode = next(denial for denial in result.denials if denial.syscall in ("fchmodat", "fchmodat2", "chmod"))
    assert (mode.kind, mode.target, mode.cause, mode.count, mode.errno) == ("path", read, "no-rule", 2, 13)
    assert (mode.fix, mode.fix_flag) == (f"fs_writable={read!r}", f"--fs-write {read}")
    moved = [denial for denial in told.values() if denial.syscall.startswith("rename")]
    assert {(denial.target, denial.cause, denial.rule, denial.fix) for denial in moved} == {
        (secret, "rule", f"fs_denied: {secret}", "")
    }
    opened = next(denial for denial in result.denials if denial.kind == "open")
    assert (opened.target, opened.rule, opened.syscall) == (f"{secret}/x", f"fs_denied: {secret}", "openat")
    assert f"denied: {mode.syscall} {read}, 2 times" in result.explain()
    assert "syscall" in result.to_dict()["denials"][0]  # type: ignore[index]


def test_a_watch_is_helped_by_a_grant_to_read(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-c", WATCH, str(tmp_path)]
    denial = Sandbox(presets=["python"]).run(argv).denials[0]
    assert (denial.syscall, denial.fix) == ("inotify_add_watch", f"fs_readable={str(tmp_path)!r}")


def test_decisions_tell_it_too(loop: Loop, tmp_path: Path) -> None:
    found: list[Decision] = []
    script = f"mkdir {tmp_path}/d; mkdir {tmp_path}/e; touch {tmp_path}/e /etc/passwd"

    async def main() -> None:
        options: dict[str, Any] = {"fs_writable": [str(tmp_path)], "fs_denied": [f"{tmp_path}/d"]}
        async with AsyncSandbox(presets=["system"], **options) as box:
            stream = box.decisions()
            await box.run(["/bin/sh", "-c", script])
        found.extend([each async for each in stream if each.kind == "path"])

    loop.run(main)
    made, touched = found
    assert (made.target, made.rule, made.cause, made.decision) == (
        *(f"{tmp_path}/d", f"fs_denied: {tmp_path}/d", "rule", "deny"),
    )
    assert (touched.target, touched.rule, touched.cause, touched.syscall) == ("/etc/passwd", "", "no-rule", "utimensat")
    assert (touched.fix, touched.fix_flag) == ("fs_writable='/etc/passwd'", "--fs-write /etc/passwd")
    assert (tmp_path / "e").is_dir()


# ---- no hole in the list

IRRELEVANT = {
    "execve": "exec rules decide it, and fs_denied has every exec decided (vet_exec)",
    "execveat": "exec rules decide it, and fs_denied has every exec decided (vet_exec)",
    "chdir": "changes nothing but where the caller is; what it names from there is judged by what it leads to",
}
"""Path calls that nobody needs to carry out, and why."""


@pytest.mark.parametrize("arch", ARCHES)
def test_no_path_call_is_forgotten(arch: str) -> None:
    """Each is carried out, or refused to everybody for a reason, or proven irrelevant."""
    made = plan(Policy(fs_writable="/w", fs_denied="/w/d"), a_host(arch=arch))
    carried = {rule.syscall for rule in made.rules if rule.rule in ("path", "vet_exec")}
    answers = dict(made.answers)
    for call in syscalls.TABLE.values():
        if call.number(arch) is None or not call.kind & {"path", "fd-metadata"}:
            continue
        refused = isinstance(answers[call.name], int) and call.default in ("deny", "enosys")
        only_tells = call.name in _path_rules.LOOKS
        assert call.name in carried or refused or only_tells or call.name in IRRELEVANT, call.name
        assert call.name in _path_rules.CALLS or refused or call.name in IRRELEVANT, call.name
        assert not refused or call.reason
    assert set(_path_rules.METADATA) & set(answers) <= carried | {"file_setattr"}


@pytest.mark.parametrize("name", _path_rules.CALLS)
def test_each_line_is_about_a_call_of_that_kind(name: str) -> None:
    assert syscalls.TABLE[name].kind & {"path", "fd-metadata"} or name in ("getcwd", "getdents", "getdents64")
    value = _path_rules.pack(name)
    assert _path_rules.ACTS[value & 0xFF] == _path_rules.CALLS[name][0]
    words = dict(word.split("=") for word in _path_rules.CALLS[name][1:] if "=" in word)
    assert all(value >> shift & 15 == int(words.get(place, 15)) for place, shift in (("path", 12), ("value", 28)))


# ---- sandboxes in sandboxes

NESTED = """
import sys
from sandlock import Sandbox, Unsupported
try:
    Sandbox(presets=["system"]).run(["/bin/true"])
except Unsupported as error:
    print(*error.missing)
box = Sandbox(presets=["system"], allow_degraded=["fs-metadata"])
done = box.run(["/bin/sh", "-c", f"chmod 700 {sys.argv[1]}; echo in"])
print(done.exit_code, done.stdout, *done.waived)
"""


def test_a_sandbox_in_a_sandbox_goes_without(visitor: Person) -> None:
    """The kernel allows one supervisor for a process: the outer one sees to metadata for both."""
    outer = (
        "import os, sys, sandlock\nfrom sandlock import Sandbox\n"
        "package = os.path.dirname(os.path.realpath(os.path.dirname(sandlock.__file__)))\n"
        "box = Sandbox(presets=['python', 'proc'], fs_readable=[package], fs_writable=[sys.argv[1]])\n"
        f"done = box.run([sys.executable, '-c', {NESTED!r}, sys.argv[1] + '/..'])\n"
        "print(done.stdout.decode(), done.stderr.decode())"
    )
    os.mkdir(f"{visitor.home}/inner")
    os.chown(f"{visitor.home}/inner", visitor.uid, visitor.gid)
    mode = os.stat(visitor.home).st_mode
    os.chmod(visitor.home, 0o755)
    said = visitor.script(outer, f"{visitor.home}/inner")
    assert "fs-metadata\n" in said, said
    assert "0 b'in\\n' fs-metadata" in said, said
    assert os.stat(visitor.home).st_mode & 0o777 == 0o755 != mode & 0o777


def test_a_host_without_user_notification_is_told() -> None:
    with pytest.raises(Unsupported, match="fs-metadata"):
        plan(Policy(fs_readable="/usr"), a_host(seccomp_user_notif=False))
