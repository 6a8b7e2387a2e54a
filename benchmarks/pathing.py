"""The benchmarks of paths: what it costs that path calls are looked at, or made by the supervisor."""

from __future__ import annotations

import dataclasses
import os
import shutil
from typing import TYPE_CHECKING, Any

import workloads
from commands import SYSTEM, Command, system_readable
from hosts import Hosts
from measuring import interleave
from rows import MILLISECONDS, Names, Number, Row, ratio_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hosts import Setting
    from measuring import Effort, Measure

    Compile = Callable[..., str]
    Efforts = Callable[..., Effort]

ON_BEHALF = 1.3
ORDINARY = 1.02
CALLS = ("open + close", "stat", "readlink", "miss (stat of a new name)")
SUPERVISED = {"continue": "continued", "behalf": "on behalf", "pinned": "pinned, on behalf"}
CALLS_EACH = "200"
"""So few that a burst fits into one turn of the scheduler, where something else runs, too."""

US = Number("us")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a sandbox is given besides the grants, and how many times bare each program may take with it.

    `proof` is a path that cannot be opened then or, with a plus before it, only then.
    """

    name: str
    options: Mapping[str, Any]
    targets: Mapping[str, float]
    proof: str

    def of(self, command: Command) -> Command:
        """The command with our options."""
        return dataclasses.replace(command, options=dict(self.options))


def configurations(setting: Setting, place: str) -> list[Configuration]:
    """The configurations to measure, with their files below `place` (which can be written)."""
    secret = os.path.join(place, "secret")
    with open(secret, "w") as file:
        file.write("secret\n")
    return [
        Configuration(
            name="fs_denied",
            options={"fs_denied": [secret]},
            targets={"git": 1.3, "compileall": 1.1, "make": 1.2, "find": 2.0},
            proof=secret,
        ),
        Configuration(
            name="chroot",
            options=_chroot(setting, place),
            targets={"git": 2.0, "compileall": 1.2, "make": 1.4, "find": 3.0},
            proof="+/inside",
        ),
    ]


def _chroot(setting: Setting, place: str) -> dict[str, Any]:
    """The root of --rootfs, with its own programs; else one with nothing but mounts, and the host's programs.

    `place` can be written in both, and the Python of the benchmarks is found in both.
    """
    given: dict[str, Any] = {"fs_writable": (place,), "fs_mount": {place: place}}
    if setting.rootfs:
        elsewhere = [path for path in system_readable() if path not in SYSTEM]
        given["fs_mount"] |= _directories_above(setting.rootfs, (*elsewhere, place), f"{place}-above")
        given["fs_mount"] |= {path: f"{path}:ro" for path in elsewhere}
        return given | {"chroot": setting.rootfs}
    root = f"{place}-root"
    os.mkdir(root)
    given["fs_mount"]["/inside"] = os.path.join(place, "secret") + ":ro"
    for path in (*system_readable(), place):
        virtual = root + path
        if os.path.islink(path):
            os.symlink(os.readlink(path), virtual)
            continue
        os.makedirs(virtual, exist_ok=True)
        if path not in ("/proc", "/dev", place):
            given["fs_mount"][path] = f"{path}:ro"
    return given | {"chroot": root}


def _directories_above(root: str, paths: Iterable[str], scratch: str) -> dict[str, str]:
    """Mounts of empty directories, made below `scratch`, for those that the root lacks above these paths."""
    mounts = {}
    for path in paths:
        above = [os.path.dirname(path)]
        while above[-1] != "/":
            above.append(os.path.dirname(above[-1]))
        missing = [each for each in above if not os.path.isdir(root + each)]
        if missing:
            os.makedirs(scratch + missing[0], exist_ok=True)
            mounts[missing[-1]] = f"{scratch}{missing[-1]}:ro"
    return mounts


def _place(setting: Setting, name: str) -> str:
    place = os.path.join(setting.scratch, name)
    os.mkdir(place)
    return place


def single_calls(setting: Setting, compiled: Compile, effort: Efforts) -> list[Row]:
    """One call again and again, against the least supervisor that makes it on behalf."""
    place = _place(setting, "paths")
    found = configurations(dataclasses.replace(setting, rootfs=None), place)
    guest, supervisor = os.path.join(place, "guest"), compiled(setting, "path_supervisor")
    shutil.copy(compiled(setting, "guest_paths", "-static"), guest)
    target, link = os.path.join(place, "target"), os.path.join(place, "link")
    with open(target, "w") as file:
        file.write("text\n")
    os.symlink(target, link)
    rows = []
    for name in CALLS:
        argv = (guest, name.split()[0], CALLS_EACH, link if name == "readlink" else target)
        command = Command(argv=argv, number=True)

        def minimal(mode: str, command: Command = command) -> Command:
            return dataclasses.replace(command, argv=(supervisor, mode, *command.argv))

        with Hosts(setting) as hosts:
            sides = {
                "bare": hosts.run("bare", command),
                "continue": hosts.run("bare", minimal("continue")),
                "behalf": hosts.run("bare", minimal("behalf")),
                "pinned": hosts.run("bare", minimal("pinned")),
                "behalf again": hosts.run("bare", minimal("behalf")),
                "bare again": hosts.run("bare", command),
            }
            for each in found:
                _add(sides, hosts, each, dataclasses.replace(command, argv=(*argv, each.proof)))
            measured = interleave(sides, effort(setting, 200, 6 * len(sides)), every=_rare(sides))
        for side, text in SUPERVISED.items():
            row = f"{name}, {text} by the minimal C supervisor"
            rows.append(ratio_row(row, measured, None, US, _names(side)))
        row = f"{name}, pinned, on behalf (bare: minimal, on behalf)"
        rows.append(ratio_row(row, measured, None, US, _names("pinned", base="behalf")))
        for each in found:
            rows.append(ratio_row(f"{name}, {each.name}", measured, None, US, _names(each.name)))
            names = _names(each.name, base="behalf")
            limit = None if name.startswith("miss") else ON_BEHALF
            rows.append(ratio_row(f"{name}, {each.name} (bare: minimal, on behalf)", measured, limit, US, names))
    return rows


def _names(ours: str, base: str = "bare") -> Names:
    return Names(base=base, ours=ours, again=f"{base} again", original=f"{ours} original", bwrap="")


def _add(sides: dict[str, Measure], hosts: Hosts, each: Configuration, command: Command) -> None:
    """A side of ours with this configuration, and one of the original if it is there."""
    sides[each.name] = hosts.run("sandlock", each.of(command))
    if hosts.original:
        sides[f"{each.name} original"] = hosts.run("original", each.of(command))


def _rare(sides: Mapping[str, Measure]) -> dict[str, int]:
    return {side: 6 for side in sides if side.endswith(" original")}


MINIMAL = {
    "opens": "opens on behalf by the minimal C supervisor",
    "behalf": "open, stat, readlink on behalf by the same",
}


def programs(setting: Setting, compiled: Compile, effort: Efforts) -> list[Row]:
    """Programs that open much, also under the least supervisors that make the calls on behalf."""
    supervisor = compiled(setting, "path_supervisor")
    place = _place(setting, "path_programs")
    found = configurations(setting, place)
    commands = {
        "git": ("git init, add, commit, status, log", workloads.git(place)),
        "compileall": ("python -m compileall, 160 modules", workloads.compile_all(place, setting.python)),
        "make": ("make, 41 C files", workloads.make(place)),
        "find": ("find + wc, 3,000 files", workloads.find(place)),
    }
    rows = []
    for key, (name, command) in commands.items():
        with Hosts(setting) as hosts:
            sides = {
                "bare": hosts.run("bare", command),
                "sandlock": hosts.run("sandlock", command),
                "bare again": hosts.run("bare", command),
            }
            for each in found:
                _add(sides, hosts, each, command)
            for mode in MINIMAL:
                least = dataclasses.replace(command, argv=(supervisor, mode, *command.argv))
                sides[mode] = hosts.run("bare", least)
            measured = interleave(sides, effort(setting, 60, 12 * len(sides)), every=_rare(sides))
        rows.append(ratio_row(f"{name}, grants only", measured, None, MILLISECONDS, _names("sandlock")))
        rows += [
            ratio_row(f"{name}, {text}", measured, None, MILLISECONDS, _names(mode)) for mode, text in MINIMAL.items()
        ]
        rows += [
            ratio_row(f"{name}, {each.name}", measured, each.targets[key], MILLISECONDS, _names(each.name))
            for each in found
        ]
    return rows


def metadata(setting: Setting, effort: Efforts) -> list[Row]:
    """Programs that set modes, owners and times of many files, under grants only; before: the package of --before."""
    place = _place(setting, "metadata")
    rows = []
    commands = {
        "tar -x, 3,000 files": workloads.extract(place),
        "git checkout, 1,500 files": workloads.checkout(place),
        "git init, add, commit, status, log": workloads.git(place),
    }
    for name, command in commands.items():
        with Hosts(setting) as hosts:
            sides = {side: hosts.run(side, command) for side in ("bare", "sandlock", "bare again")}
            if setting.before:
                sides |= {side: hosts.run(side, command) for side in ("before", "before again")}
            measured = interleave(sides, effort(setting, 100, 8 * len(sides)))
        rows.append(ratio_row(f"{name}, grants only", measured, None, MILLISECONDS, _names("sandlock")))
        if setting.before:
            names = _names("sandlock", base="before")
            rows.append(ratio_row(f"{name} (bare: before)", measured, ORDINARY, MILLISECONDS, names))
    return rows
