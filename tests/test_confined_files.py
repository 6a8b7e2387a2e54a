"""Files outside of the grants: every way to one, with the proof that it is a way."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from typing import Any

import pytest
from attacks.arena import DENIED, MARK, Arena, read, snapshot

pytest_plugins = ("attacks.fixtures",)

SPELLINGS = (
    *("open", "openat", "openat2", "path-descriptor", "dev-fd", "thread-self", "proc-root", "proc-pid-root"),
    *("proc-cwd", "directory", "fchdir", "dots", "slashes", "longest-name", "strange-name", "symlink"),
    *("symlink-chain", "hard-link", "hard-link-of-descriptor", "rename"),
)
INTENTS = ("read", "write", "append", "truncate", "map")
CHANGES = (
    *("creat", "create", "create-read-only", "create-through-dangling-link", "truncate", "truncate-through-link"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "symlink", "mkfifo", "mknod-file", "link-within", "link-out"),
    *("rename-within", "rename-over", "rename-in", "rename-directory", "exchange", "nameless", "nameless-link-out"),
)
EXECUTIONS = (
    *("execve", "execveat", "path-descriptor", "read-descriptor", "proc-fd", "proc-root", "symlink", "hard-link"),
    *("rename", "script", "thread"),
)
LISTENERS: tuple[dict[str, Any], ...] = ({}, {"max_processes": 20})
"""Policies without and with a supervisor, whose domain then lies around the guest's."""
# EXDEV is Landlock's answer to a move between directories that a program may fall back from (LANDLOCK_ACCESS_FS_REFER).
REFUSED = DENIED | {"EXDEV"}


def scene(arena: Arena) -> tuple[str, str, str]:
    """A directory that is not granted, with a secret, and one that is writable; their parent is nobody's grant."""
    room = arena.room()
    outside, granted = arena.subdirectory(room, "outside"), arena.subdirectory(room, "granted")
    secret = arena.secret()
    arena.write(f"{outside}/file", secret)
    arena.write(f"{outside}/other", "other")
    arena.subdirectory(outside, "empty")
    arena.write(f"{granted}/mine", "mine")
    return outside, granted, secret


def test_the_tests_know_every_spelling(arena: Arena) -> None:
    assert tuple(arena.free("spellings").lines) == SPELLINGS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_reaches_an_ungranted_file(arena: Arena, spelling: str) -> None:
    for intent in INTENTS:
        outside, granted, secret = scene(arena)
        before = snapshot(outside)
        attack = ("open", spelling, intent, f"{outside}/file", granted)
        policy = {"fs_writable": [granted], "fs_data": ["/proc"], "fs_readable": ["/dev/fd"]}
        for more in LISTENERS if intent in ("read", "write") else LISTENERS[:1]:
            outcome = arena.confined(*attack, policy=policy | more)
            assert outcome.word in REFUSED, (intent, outcome)
            assert snapshot(outside) == before
            assert secret not in outcome.out
        outcome = arena.free(*attack)
        assert outcome.word == "0", (intent, outcome)
        assert secret in outcome.out if intent == "read" else snapshot(outside) != before, intent


@pytest.mark.parametrize(
    ("spelling", "grant"),
    [*((spelling, "fs_readable") for spelling in SPELLINGS), ("open", "fs_data"), ("hard-link", "fs_data")],
)
def test_a_file_granted_for_reading_cannot_be_changed(arena: Arena, spelling: str, grant: str) -> None:
    for intent in ("write", "append", "truncate", "map"):
        outside, granted, _ = scene(arena)
        before = snapshot(outside)
        attack = ("open", spelling, intent, f"{outside}/file", granted)
        policy = {grant: [outside, "/dev/fd", "/proc"], "fs_writable": [granted]}
        outcome = arena.confined(*attack, policy=policy)
        assert outcome.word in REFUSED, (intent, outcome)
        assert snapshot(outside) == before
        assert arena.free(*attack).word == "0", intent
        assert snapshot(outside) != before, intent


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("grant", [None, "fs_readable"])
def test_no_name_outside_the_grants_changes(arena: Arena, how: str, grant: str | None) -> None:
    outside, granted, _ = scene(arena)
    before = snapshot(outside)
    policy: dict[str, Any] = {"fs_writable": [granted], "fs_data": ["/proc"]}
    if grant:
        policy[grant] = [outside]
    outcome = arena.confined("change", how, outside, granted, policy=policy)
    assert outcome.word in REFUSED, outcome
    assert snapshot(outside) == before
    for name in os.listdir(granted):
        if name != "mine":
            os.unlink(f"{granted}/{name}")
    assert arena.free("change", how, outside, granted).word == "0"
    assert not os.path.exists(outside) or snapshot(outside) != before


def test_an_ungranted_directory_cannot_be_listed(arena: Arena) -> None:
    outside, granted, _ = scene(arena)
    assert "entry other" in arena.free("list-directory", outside).lines
    outcome = arena.confined("list-directory", outside, policy={"fs_writable": [granted]})
    assert outcome.word == "EACCES"
    assert outcome.lines == []


def test_what_the_system_preset_grants_holds_no_passwords(arena: Arena) -> None:
    free = arena.free("read", "/etc/shadow")
    assert (free.word == "0") == arena.is_root
    outcome = arena.confined("read", "/etc/shadow", policy={"presets": ["system"]})
    assert outcome.word == "EACCES"
    assert arena.confined("read", "/etc/passwd", policy={"presets": ["system"]}).word == "0"


@pytest.mark.parametrize("kind", ["fs_readable", "fs_data", "fs_writable", "fs_devices"])
def test_a_guest_cannot_widen_the_grants_of_the_next_run(arena: Arena, kind: str) -> None:
    """A grant inside a writable one, put out of the way by the guest and replaced by a link to what it wants.

    Common: a project is writable, and the virtual environment in it is granted too. The next run must not follow.
    """
    outside, granted, secret = scene(arena)
    inner = arena.subdirectory(granted, "inner")
    policy = {"fs_writable": [granted], kind: [inner]} if kind != "fs_writable" else {kind: [granted, inner]}
    assert arena.confined("link-instead", inner, outside, policy=policy).word == "0"
    assert os.readlink(inner) == outside
    assert_stays_shut(arena, f"{outside}/file", secret, granted, policy)


def assert_stays_shut(arena: Arena, path: str, secret: str, granted: str, policy: dict[str, Any]) -> None:
    """Confined, the file does not open, or the launch is refused; free, it opens."""
    attack = ("open", "open", "read", path, granted)
    answer = arena.try_confined(*attack, policy=policy)
    assert "Error" in answer or "EACCES" in answer
    assert secret not in answer
    assert secret in arena.free(*attack).out


def test_a_guest_cannot_replace_what_lies_between_two_grants(arena: Arena) -> None:
    """Three grants, one in the other: the link is put in the place of the middle one."""
    outside, granted, _ = scene(arena)
    secret = arena.secret()
    path = arena.write(f"{arena.subdirectory(outside, 'deep')}/file", secret)
    middle = arena.subdirectory(granted, "middle")
    deep = arena.subdirectory(middle, "deep")
    policy = {"fs_writable": [granted, middle], "fs_readable": [deep]}
    assert arena.confined("link-instead", middle, outside, policy=policy).word == "0"
    assert_stays_shut(arena, path, secret, granted, policy)


def test_a_guest_cannot_replace_what_is_granted_by_another_name(arena: Arena) -> None:
    """The inner grant is spelled through a link of the host's, so that it does not look like one inside."""
    outside, granted, secret = scene(arena)
    inner = arena.subdirectory(granted, "inner")
    alias = os.path.join(os.path.dirname(granted), "alias")
    os.symlink(granted, alias)
    policy = {"fs_writable": [granted], "fs_readable": [f"{alias}/inner"]}
    assert arena.confined("link-instead", inner, outside, policy=policy).word == "0"
    assert_stays_shut(arena, f"{outside}/file", secret, granted, policy)


FS_IOC_SETFLAGS, FS_IOC_GETFLAGS, NO_DUMP = 0x40086602, 0x80086601, 0x40
F_SETLEASE = 1024
HIGH = 7 << 32


def inode_flags(path: str) -> int:
    """What lsattr shows."""
    flags = bytearray(8)
    with open(path, "rb") as file:
        fcntl.ioctl(file, FS_IOC_GETFLAGS, flags)
    return int.from_bytes(flags, "little")


@pytest.mark.parametrize("command", [FS_IOC_SETFLAGS, FS_IOC_SETFLAGS | HIGH])
def test_no_inode_flag_is_set_through_a_descriptor_for_reading(arena: Arena, command: int) -> None:
    """The way of chattr, which Landlock does not see."""
    path = arena.write(f"{arena.room()}/file")
    before = inode_flags(path)
    assert arena.confined("set-flag", path, command, policy={"fs_readable": [path]}).word == "EACCES"
    waived = {"fs_readable": [path], "disable": ["fs-metadata"]}
    assert arena.confined("set-flag", path, command, policy=waived).word == "EPERM"
    assert inode_flags(path) == before
    assert arena.confined("set-flag", path, command, policy={"fs_writable": [path]}).word == "0"
    assert inode_flags(path) == NO_DUMP


@pytest.mark.parametrize("command", [F_SETLEASE, F_SETLEASE | HIGH])
def test_no_lease_holds_up_the_host(arena: Arena, command: int) -> None:
    path = arena.write(f"{arena.room()}/file")

    def is_held() -> bool:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except BlockingIOError:
            return True
        return False

    assert arena.confined("lease", path, command, policy={"fs_readable": [path]}).word == "EPERM"
    assert not is_held()
    with arena.running("lease", path, command, confined=False) as free:
        assert free.line() == "leased"
        assert is_held()


# ---- execution


def programs(arena: Arena) -> tuple[str, str, str]:
    outside, granted, _ = scene(arena)
    return outside, granted, arena.tool(outside)


def words(how: str, marker: str) -> tuple[str, ...]:
    """What the forbidden program is told to do: leave a mark. The kernel builds the argv of a script's interpreter."""
    return ("tool", "mark-here") if how == "script" else ("tool", "mark", marker)


@pytest.mark.parametrize("how", EXECUTIONS)
@pytest.mark.parametrize("grant", [None, "fs_data"])
def test_no_way_executes_an_ungranted_program(arena: Arena, how: str, grant: str | None) -> None:
    outside, granted, tool = programs(arena)
    attack = ("execute", how, tool, granted, *words(how, f"{granted}/marker"))
    policy: dict[str, Any] = {"fs_writable": [granted], "fs_data": ["/proc"]}
    if grant:
        policy[grant] = [outside, "/proc"]
    outcome = arena.confined(*attack, policy=policy)
    assert outcome.word in REFUSED, outcome
    assert not os.path.exists(f"{granted}/marker")
    for name in ("link", "hard", "script"):
        if os.path.lexists(f"{granted}/{name}"):
            os.unlink(f"{granted}/{name}")
    assert arena.free(*attack).word == "0"
    assert read(f"{granted}/marker") == MARK


@pytest.mark.parametrize("how", [how for how in EXECUTIONS if how not in ("hard-link", "rename")])
def test_a_granted_program_executes_every_way(arena: Arena, how: str) -> None:
    outside, granted, tool = programs(arena)
    attack = ("execute", how, tool, granted, *words(how, f"{granted}/marker"))
    policy = {"fs_writable": [granted], "fs_data": ["/proc"], "fs_readable": [outside]}
    assert arena.confined(*attack, policy=policy).word == "0"
    assert read(f"{granted}/marker") == MARK


def test_a_writable_directory_may_hold_programs(arena: Arena) -> None:
    _, granted, _ = scene(arena)
    attack = ("execute", "execve", arena.tool(granted), granted, "tool", "mark", f"{granted}/marker")
    assert arena.confined(*attack, policy={"fs_writable": [granted]}).word == "0"
    assert read(f"{granted}/marker") == MARK


def test_what_data_grants_do_not_stop(arena: Arena) -> None:
    """Data cannot be executed; a program that runs already can load it as code, which no right of Landlock forbids.

    So `fs_data` keeps programs from being started by name, by mistake or by a shell. It is no wall against code
    that copies the bytes into memory of its own, or hands them to a loader or an interpreter that is granted.
    """
    outside, granted, tool = programs(arena)
    policy = {"fs_writable": [granted], "fs_data": [outside]}
    attack = ("execute", "memory", tool, granted, "tool", "mark", f"{granted}/marker")
    assert arena.confined(*attack, policy=policy).word == "0"
    assert read(f"{granted}/marker") == MARK


def loader() -> str:
    """The dynamic loader, as /bin/cat names it."""
    headers = subprocess.run(["readelf", "-l", "/bin/cat"], capture_output=True, text=True, check=True).stdout
    return headers.partition("interpreter: ")[2].partition("]")[0]


@pytest.mark.needs(program="readelf")
def test_the_loader_runs_data_only_where_the_loader_is_granted(arena: Arena) -> None:
    outside, granted, _ = scene(arena)
    touch = os.path.realpath("/usr/bin/touch")
    copy = arena.write(f"{outside}/touch", "", mode=0o755)
    with open(touch, "rb") as source, open(copy, "wb") as target:
        target.write(source.read())
    attack = ("execute", "execve", loader(), granted, "ld.so", copy, f"{granted}/marker")
    data = {"fs_writable": [granted], "fs_data": [outside, "/usr/lib", "/lib", "/lib64", "/etc/ld.so.cache"]}
    assert arena.confined(*attack, policy=data).word in DENIED
    assert not os.path.exists(f"{granted}/marker")
    system = {"fs_writable": [granted], "fs_data": [outside], "presets": ["system"]}
    assert arena.confined("execute", "execve", copy, granted, "touch", f"{granted}/x", policy=system).word == "EACCES"
    assert arena.confined(*attack, policy=system).exit == 0
    assert os.path.exists(f"{granted}/marker")


# ---- devices


def nodes(arena: Arena) -> list[tuple[str, int, int]]:
    """Nodes that the free user can make: everything for root; for others 0/0 only, which overlayfs uses."""
    return [("c", 1, 3), ("c", 5, 0), ("b", 7, 0), ("c", 0, 0)] if arena.is_root else [("c", 0, 0)]


@pytest.mark.parametrize("keep", [False, True])
def test_no_device_nodes_in_a_writable_directory(arena: Arena, keep: bool) -> None:
    """Not even by a root that keeps CAP_MKNOD: a node is a way to the device, wherever it lies."""
    _, granted, _ = scene(arena)
    policy = {"fs_writable": [granted], "keep_capabilities": ["mknod"] if keep else []}
    for kind, major, minor in nodes(arena):
        attack = ("mknod", f"{granted}/node", kind, major, minor)
        assert arena.confined(*attack, policy=policy).word in DENIED
        assert not os.path.lexists(f"{granted}/node")
        assert arena.free(*attack).word == "0"
        assert stat.S_IFMT(os.lstat(f"{granted}/node").st_mode) == (stat.S_IFBLK if kind == "b" else stat.S_IFCHR)
        os.unlink(f"{granted}/node")


def test_devices_take_commands_only_where_they_are_granted(arena: Arena) -> None:
    assert arena.free("device-ioctl", "/dev/ptmx").word == "0"
    assert arena.confined("device-ioctl", "/dev/ptmx", policy={"fs_readable": ["/dev"]}).word == "EACCES"
    assert arena.confined("device-ioctl", "/dev/ptmx", policy={"fs_writable": ["/dev/ptmx"]}).word == "EACCES"
    assert arena.confined("device-ioctl", "/dev/ptmx", policy={"fs_devices": ["/dev/ptmx"]}).word == "0"


# ---- descriptors of the host


def test_the_guest_gets_its_three_descriptors_and_no_other(arena: Arena) -> None:
    """Also when the embedding process holds twenty that its children inherit."""
    secret = arena.write(f"{arena.room()}/secret", arena.secret())
    free = {int(line.split()[1]) for line in arena.free("descriptors", inherit=secret).lines}
    assert len(free) >= 23
    outcome = arena.confined("descriptors", options={"inherit": secret})
    assert outcome.lines == ["open 0", "open 1", "open 2"]


@pytest.mark.parametrize("name", ["/proc/self/fd/0", "/dev/stdin", "/proc/self/fdinfo/../fd/0"])
@pytest.mark.parametrize("grant", [None, "fs_readable"])
def test_stdin_opened_for_reading_is_not_reopened_for_writing(arena: Arena, name: str, grant: str | None) -> None:
    path = arena.write(f"{arena.room()}/input", "the input")
    policy = {"presets": ["system"]} | ({grant: [path]} if grant else {})
    outcome = arena.confined("reopen-stdin", name, policy=policy, options={"stdin": path})
    assert outcome.word == "EACCES"
    assert read(path) == "the input"
    assert arena.free("reopen-stdin", name, stdin=path).word == "0"
    assert read(path).startswith(MARK)


# ---- what must work


def test_a_writable_directory_is_good_for_ordinary_work(arena: Arena) -> None:
    room = arena.room()
    policy = {"fs_writable": [room], "fs_devices": ["/dev/null"]}
    assert arena.confined("ordinary-work", room, policy=policy).word == "0"
    assert os.listdir(room) == []


@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if name != "rename"])
def test_granted_files_open_by_every_spelling(arena: Arena, spelling: str) -> None:
    outside, granted, secret = scene(arena)
    attack = ("open", spelling, "read", f"{outside}/file", granted)
    policy = {"fs_writable": [outside, granted], "fs_data": ["/proc"], "fs_readable": ["/dev/fd"]}
    outcome = arena.confined(*attack, policy=policy)
    assert outcome.word == "0"
    assert secret in outcome.out
