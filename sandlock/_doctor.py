"""What this kernel and container offer, what is missing, and what to do about it.

Rules: a version number proves nothing, so every check that can be tried is tried (`_probes.py`), in a throw-away
interpreter: nothing happens to this process. Slow by design (some 0.3 s, at most DOCTOR_SECONDS). Must not know:
policies and plans.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from errno import ENOSYS, EOPNOTSUPP, EPERM

from sandlock._host import Host, probe

__all__ = ["Check", "Report", "examine"]

DOCTOR_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried. `fix` is empty when it is there."""

    name: str
    """For a protection, its name in `allow_degraded` and `disable`."""
    ok: bool
    detail: str
    """What happened."""
    fix: str
    """What to do, and what goes without it."""
    required: bool
    """Whether a strict policy (the default) needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks of one examination."""

    checks: tuple[Check, ...]
    host: Host

    @property
    def strict_ok(self) -> bool:
        """Whether everything that a default policy needs was proved to work."""
        return all(check.ok for check in self.checks if check.required)

    def describe(self) -> str:
        """For a person: a line per check, the advice below what is missing, the verdict at the end."""
        lines = []
        for check in self.checks:
            mark = "ok" if check.ok else "MISSING" if check.required else "without"
            lines.append(f"{mark:8}{check.name:28}{check.detail}")
            if check.fix:
                lines.append(f"{'':8}{'':28}-> {check.fix}")
        if self.strict_ok:
            lines.append("Every protection of the default policy was proved to work here.")
        else:
            missing = ", ".join(check.name for check in self.checks if check.required and not check.ok)
            lines.append(f"The default policy cannot be enforced here; missing: {missing}.")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Topic:
    """What is known about a probe before it is tried."""

    required: bool
    fix: str


def upgrade(version: str, name: str) -> str:
    """Advice for a protection that a younger kernel has, and that a policy may do without."""
    return f'run Linux {version} or later, or accept the gap with allow_degraded=["{name}"]'


SECCOMP_ADVICE = (
    "the kernel needs CONFIG_SECCOMP_FILTER; in a container, its own seccomp profile must allow seccomp(2) (stock "
    "Docker and Podman do)"
)
PTRACE_ADVICE = (
    "stock containers before Linux 4.8 or Docker 19.03, and kernel.yama.ptrace_scope=2 or 3, refuse this: start the "
    "container with --cap-add SYS_PTRACE; without it, calls cannot be judged by what they point to"
)

# In the order of the report; the names are those of `_probes.PROBES`.
TOPICS = {
    "no-new-privs": Topic(True, "Linux 3.5 or later has it; something filters prctl(2) here"),
    "drop-capabilities": Topic(
        True, "give the container CAP_SETPCAP (it is among Docker's defaults), or run as an ordinary user"
    ),
    "seccomp-filter": Topic(True, SECCOMP_ADVICE),
    "landlock-files": Topic(True, "see landlock"),
    "landlock-stacking": Topic(
        True, "the kernel allows 16 domains in each other: start this from fewer sandboxes"
    ),
    "fs-refer": Topic(True, upgrade("5.19", "fs-refer")),
    "fs-truncate": Topic(True, upgrade("6.2", "fs-truncate")),
    "net-tcp": Topic(True, upgrade("6.7 (with CONFIG_INET)", "net-tcp")),
    "fs-ioctl-dev": Topic(True, upgrade("6.10", "fs-ioctl-dev")),
    "signal-scope": Topic(True, upgrade("6.12", "signal-scope")),
    "abstract-unix-socket-scope": Topic(True, upgrade("6.12", "abstract-unix-socket-scope")),
    "user-notification": Topic(
        False,
        "max_processes, record_execs and net_allow_bind need it: run Linux 5.0 or later, and not inside another "
        "sandbox that has a listener (the kernel allows one per process)",
    ),
    "wait-killable": Topic(
        False, "run Linux 5.19 or later; without it, signals can interrupt a call being decided"
    ),
    "sync-wake-up": Topic(
        False, "run Linux 6.6 or later; without it, supervised calls are several times slower"
    ),
    "pidfd-getfd": Topic(False, PTRACE_ADVICE),
    "read-memory": Topic(False, PTRACE_ADVICE),
    "proc-children": Topic(
        False,
        "the kernel lacks CONFIG_PROC_CHILDREN, or /proc is not mounted; trees are then walked more slowly",
    ),
    "user-namespaces": Topic(
        False,
        "uid= and gid= need them: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1 (Debian), "
        "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); stock containers refuse them",
    ),
}


def examine() -> Report:
    """Try everything. Starts one short-lived interpreter; takes up to DOCTOR_SECONDS, usually 0.3 s.

    Raises ValueError for a malformed SANDLOCK_LANDLOCK_ABI. Whatever goes wrong with a probe is a check that failed.
    """
    host = probe()
    tried = try_probes(list(TOPICS))
    checks = [examine_kernel(host), examine_landlock(host)]
    for name, topic in TOPICS.items():
        ok, detail = tried.get(name, (False, "the probe did not run"))
        checks.append(
            Check(name=name, ok=ok, detail=detail, fix="" if ok else topic.fix, required=topic.required)
        )
    checks += [examine_yama(), examine_cgroup()]
    return Report(checks=tuple(checks), host=host)


def try_probes(names: list[str]) -> dict[str, tuple[bool, str]]:
    """Run the probes in an interpreter of their own: name -> (proved, what happened)."""
    if not sys.executable:
        return dict.fromkeys(names, (False, "no Python interpreter to try it with (sys.executable is empty)"))
    # -I keeps the caller's directory and environment out; our own path is handed over instead.
    code = "import sys; sys.path[:] = sys.argv.pop(1).split('\\0'); from sandlock._probes import main; main(sys.argv[1], sys.argv[2:])"
    code = code.replace("split('\\0')", "split(chr(10))")
    path = "\n".join(os.path.abspath(entry) for entry in sys.path)
    work = tempfile.mkdtemp(prefix="sandlock-doctor-")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, path, work, *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOCTOR_SECONDS,
            check=False,
        )
        lines, trouble = (
            done.stdout.splitlines(),
            done.stderr.strip().splitlines()[-1:] or ["it said nothing"],
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        lines, trouble = [], [str(error)]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tried = dict.fromkeys(names, (False, f"the probe did not run: {trouble[0]}"))
    for line in lines:
        name, mark, text = line.split("\t", 2)
        tried[name] = (mark == "+", text)
    return tried


def examine_kernel(host: Host) -> Check:
    """The oldest kernel that all of the launch works on: 5.13 has Landlock, close_range and pidfds."""
    version = ".".join(map(str, host.kernel))
    ok = host.kernel >= (5, 13, 0)
    fix = "" if ok else "run Linux 6.12 or later for every protection (5.13 for files only)"
    return Check(
        name="kernel", ok=ok, detail=f"Linux {version} on {host.arch}, uid {host.uid}", fix=fix, required=True
    )


def examine_landlock(host: Host) -> Check:
    """Which Landlock, or why there is none: the three reasons need three different cures."""
    fixes = {
        ENOSYS: "the kernel was built without CONFIG_SECURITY_LANDLOCK: run a distribution kernel of 5.13 or later",
        EOPNOTSUPP: "Landlock is off: add landlock to the lsm= parameter of the kernel command line and reboot",
        EPERM: "a container's seccomp profile forbids Landlock: update the container engine (Docker 23, containerd "
        "1.7), or start it with --security-opt seccomp=PROFILE that allows landlock_*",
    }
    if host.landlock_abi:
        ok, detail, fix = True, f"ABI {host.landlock_abi}, errata {host.landlock_errata:#x}", ""
        if host.landlock_abi < 6:
            fix = "run Linux 6.12 or later for the signal and abstract socket scopes (ABI 6)"
    elif host.landlock_error:
        ok, detail = False, f"no Landlock: {os.strerror(host.landlock_error)}"
        fix = fixes.get(host.landlock_error, "run Linux 5.13 or later with Landlock enabled")
    else:
        ok, detail, fix = False, "hidden by SANDLOCK_LANDLOCK_ABI=0", "unset SANDLOCK_LANDLOCK_ABI"
    return Check(name="landlock", ok=ok, detail=detail, fix=fix, required=True)


def examine_yama() -> Check:
    """Whether Yama lets a supervisor trace its own children: 0 and 1 do."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = int(file.read())
    except (OSError, ValueError):
        return Check(name="yama", ok=True, detail="kernel.yama is not active", fix="", required=False)
    meanings = ("anything of the same user", "own children", "only with CAP_SYS_PTRACE", "nothing")
    detail = f"kernel.yama.ptrace_scope={scope}: processes may trace {meanings[min(scope, 3)]}"
    fix = "" if scope < 2 else "set kernel.yama.ptrace_scope to 0 or 1: supervising children is tracing them"
    return Check(name="yama", ok=scope < 2, detail=detail, fix=fix, required=False)


def examine_cgroup() -> Check:
    """Whether this process could make cgroups below its own. Nothing needs it; limits can be exact with it."""
    fix = "nothing needs it; systemd-run --user --scope -p Delegate=yes gives a cgroup to make others in"
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            places = [line.rstrip("\n").removeprefix("0::") for line in file if line.startswith("0::")]
    except OSError:
        places = []
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        for place in places:
            directory = mount + place.rstrip("/")
            if os.path.exists(os.path.join(directory, "cgroup.procs")):
                ok = os.access(directory, os.W_OK)
                detail = f"cgroup v2 at {directory}, {'writable' if ok else 'not ours to change'}"
                return Check(name="cgroup", ok=ok, detail=detail, fix="" if ok else fix, required=False)
    return Check(name="cgroup", ok=False, detail="no cgroup v2 is mounted", fix=fix, required=False)
