"""The benchmarks. Each takes a Setting and returns rows; targets stand here and nowhere else."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from typing import TYPE_CHECKING

import pathing
import vetting
import workloads
from commands import Command
from hosts import HERE, ORIGINAL_PYTHON, Hosts
from measuring import Effort, SideFailedError, interleave
from rows import MILLISECONDS, Names, Number, Row, added_row, limit_row, ratio_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from hosts import Setting

LAUNCH = 1.3
ALIVE = 1.5
HOST_KIBIBYTES = 100
DESCRIPTORS = 4
NOTIFICATION = 1.1
PROGRAM = 1.05
IMPORT_MS = 30
RUN_MS = 50

MICROSECONDS = Number("us", 1e-3)  # of nanoseconds
KIBIBYTES = Number("KiB", 1 / 1024)
BIG = 2 << 30
ANSWER = 4242
REUSED = Names(ours="sandlock reused", original="original reused")
TRUE = Command(argv=("/bin/true",))


def effort(setting: Setting, rounds: int, seconds: float, floor: int = 5) -> Effort:
    """The effort of a full run, made smaller for --quick."""
    scale = setting.scale
    return Effort(max(3, int(rounds * scale)), floor if scale == 1 else 2, seconds * scale)


def launch(setting: Setting) -> list[Row]:
    """/bin/true through the SDK against subprocess.run, from a small host process."""
    return _launch(setting, "launch", 0)


def launch_big(setting: Setting) -> list[Row]:
    """The same from a host process that has touched 2 GiB."""
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    if available < 3 * BIG:
        raise SideFailedError(f"needs {3 * BIG >> 30} GiB of free memory")
    return _launch(setting, "launch, 2 GiB host", BIG)


def _launch(setting: Setting, name: str, ballast: int) -> list[Row]:
    with Hosts(setting) as hosts:
        if ballast:
            for host in hosts.all():
                host.order("touch", size=ballast)
        sides = ["bare", "sandlock", "sandlock reused", "bare again", *setting.peers]
        if setting.original:
            sides.append("original reused")
        every = {side: 4 for side in sides if side.startswith(("original", "bwrap"))}
        measured = interleave(
            {side: hosts.run(side, TRUE, times=3) for side in sides},
            effort(setting, 400, 25, floor=20),
            every=every,
        )
    return [
        ratio_row(f"{name}, new Sandbox", measured, LAUNCH, MILLISECONDS),
        ratio_row(f"{name}, Sandbox reused", measured, LAUNCH, MILLISECONDS, REUSED),
    ]


def alive(setting: Setting) -> list[Row]:
    """100 at once: time until all run, and what each costs the host while it lives."""
    count = 100
    answers: dict[str, list[dict[str, float]]] = {}
    with Hosts(setting) as hosts:

        def start(side: str) -> Callable[[], list[float]]:
            def measure() -> list[float]:
                # Pages that one round touched are there for the next: memory is the largest growth seen.
                answer = hosts.of(side).order("alive", side=side, count=count)
                answers.setdefault(side, []).append(answer)
                return [answer["seconds"]]

            return measure

        measured = interleave(
            {side: start(side) for side in ("bare", "sandlock", "bare again", *setting.peers)},
            effort(setting, 30, 40),
            every=dict.fromkeys(setting.peers, 3),
        )
    return [
        ratio_row(f"{count} alive: until all run", measured, ALIVE, MILLISECONDS),
        _amount(f"{count} alive: host memory each", answers, "memory", HOST_KIBIBYTES, KIBIBYTES),
        _amount(f"{count} alive: host descriptors each", answers, "descriptors", DESCRIPTORS, Number("fds")),
        _amount(f"{count} alive: helper processes each", answers, "helpers", None, Number("")),
        _amount(f"{count} alive: memory of these (PSS)", answers, "helper_memory", None, KIBIBYTES),
    ]


def _amount(
    name: str, answers: dict[str, list[dict[str, float]]], key: str, limit: float | None, number: Number
) -> Row:
    return limit_row(name, {side: max(a[key] for a in seen) for side, seen in answers.items()}, limit, number)


def notification(setting: Setting) -> list[Row]:
    """A getppid answered by a rule in the core, against the least C supervisor; the same guest in both."""
    calls = 10_000
    supervisor, guest = (_compiled(setting, name) for name in ("minimal_supervisor", "guest_getppid"))
    argv = [guest, str(calls), str(ANSWER)]
    minimal = Command(argv=(supervisor, str(ANSWER), *argv), number=True)
    untrapped = Command(argv=(guest, str(calls)), number=True)
    with Hosts(setting) as hosts:

        def ours() -> list[float]:
            return list(hosts.ours.order("notify", argv=argv, value=ANSWER)["numbers"])

        measured = interleave(
            {
                "minimal": hosts.run("bare", minimal),
                "sandlock": ours,
                "minimal again": hosts.run("bare", minimal),
                "untrapped bare": hosts.run("bare", untrapped),
                "untrapped": hosts.run("sandlock", untrapped),
            },
            effort(setting, 150, 35, floor=10),
        )
    names = Names(base="minimal", again="minimal again")
    plain = Names(base="untrapped bare", ours="untrapped")
    return [
        ratio_row("notification (bare: minimal C supervisor)", measured, NOTIFICATION, MICROSECONDS, names),
        ratio_row("getppid that is not trapped", measured, None, Number("ns"), plain),
    ]


def _compiled(setting: Setting, name: str, *flags: str) -> str:
    """Compile one of our C programs into the scratch directory; its path."""
    target = os.path.join(setting.scratch, name)
    if not os.path.exists(target):
        source = os.path.join(HERE, f"{name}.c")
        try:
            subprocess.run(["gcc", "-O2", *flags, "-o", target, source], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SideFailedError(f"cannot compile {name}.c: {error}") from error
    return target


def _program(setting: Setting, name: str, command: Command, number: Number, seconds: float) -> Row:
    sides = ("bare", "sandlock", "bare again", *setting.peers)
    with Hosts(setting) as hosts:
        hosts.run("bare", command)()  # the files come into the page cache
        measured = interleave(
            {side: hosts.run(side, command) for side in sides},
            effort(setting, 80, seconds),
            every=dict.fromkeys(setting.peers, 5),
            warm={side: hosts.run(side, TRUE) for side in sides},
        )
    return ratio_row(name, measured, PROGRAM, number)


def git(setting: Setting) -> list[Row]:
    """git over 300 files."""
    command = workloads.git(setting.scratch)
    return [_program(setting, "git init, add, commit, status, log", command, MILLISECONDS, 35)]


def gcc(setting: Setting) -> list[Row]:
    """gcc over 40 files."""
    return [_program(setting, "gcc, 41 files", workloads.build(setting.scratch), Number("s"), 45)]


def find(setting: Setting) -> list[Row]:
    """find and wc over 3,000 files."""
    return [_program(setting, "find + wc, 3,000 files", workloads.find(setting.scratch), MILLISECONDS, 25)]


def imports(setting: Setting) -> list[Row]:
    """Start of a Python that imports much."""
    command = workloads.imports(setting.scratch, setting.python)
    return [_program(setting, "Python, 17 library imports", command, MILLISECONDS, 25)]


def redis(setting: Setting) -> list[Row]:
    """redis-server and redis-benchmark, both inside."""
    missing = workloads.missing("redis-server", "redis-benchmark", "redis-cli")
    if missing:
        raise SideFailedError(f"not installed: {missing}")
    requests = 30_000 if setting.scale == 1 else 5_000
    return [
        _program(
            setting,
            f"redis {test.upper()}, time per request",
            workloads.redis(setting.scratch, test, requests),
            Number("us"),
            32,
        )
        for test in ("set", "get")
    ]


def startup(setting: Setting) -> list[Row]:
    """What `import sandlock` and `sandlock run -- /bin/true` add to `python3 -c pass`."""
    # The whole environment but PYTHONPATH is the host's, as for a user at a shell.
    env = dict(os.environ)
    env.pop("PYTHONPATH", None)
    if setting.tree:
        env["PYTHONPATH"] = setting.tree

    def python(*arguments: str) -> Command:
        return Command(argv=(setting.python, *arguments), env=env, cwd=setting.scratch)

    script = os.path.join(os.path.dirname(setting.python), "sandlock")
    run = [script] if os.path.exists(script) else [setting.python, "-c", _CLI]
    grants = [word for path in Command(argv=()).readable for word in ("-r", path)]
    command = Command(argv=(*run, "run", *grants, "--", "/bin/true"), env=env, cwd=setting.scratch)
    with Hosts(setting) as hosts:
        sides = {
            "bare": hosts.run("bare", python("-c", "pass")),
            "import": hosts.run("bare", python("-c", "import sandlock")),
            "run": hosts.run("bare", command),
        }
        if setting.original:
            theirs = dataclasses.replace(python("-c", "import sandlock"), env={**env, "PYTHONPATH": ""})
            theirs = dataclasses.replace(theirs, argv=(ORIGINAL_PYTHON, *theirs.argv[1:]))
            sides["original"] = hosts.run("bare", theirs)
        measured = interleave(sides, effort(setting, 150, 30, floor=10))
    imported = Names(ours="import", again="")
    nobody = Names(ours="run", original="", again="")
    return [
        added_row("import sandlock, over python3 -c pass", measured, IMPORT_MS, imported),
        added_row("sandlock run -- /bin/true, over the same", measured, RUN_MS, nobody),
    ]


_CLI = "from sandlock.cli.__main__ import main; main()"

CASES: dict[str, Callable[[Setting], list[Row]]] = {
    "launch": launch,
    "launch_big": launch_big,
    "alive": alive,
    "notification": notification,
    "git": git,
    "gcc": gcc,
    "find": find,
    "imports": imports,
    "redis": redis,
    "vetting": lambda setting: vetting.vetting(setting, _compiled, effort),
    "judged": lambda setting: vetting.judged_programs(setting, effort),
    "paths": lambda setting: pathing.single_calls(setting, _compiled, effort),
    "path_programs": lambda setting: pathing.programs(setting, _compiled, effort),
    "metadata": lambda setting: pathing.metadata(setting, effort),
    "startup": startup,
}
