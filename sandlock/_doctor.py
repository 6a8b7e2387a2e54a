"""What this kernel and container offer, what is missing, and what to do about it.

Rules: a version number proves nothing, so what can be tried is tried (`_probes.py`), in a throw-away
interpreter: nothing happens to this process. Slow by design (0.3 s, at most DOCTOR_SECONDS). Must not know:
policies, plans.
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


# In the order of the report; the names are those of `_probes.PROBES`.
TOPICS = {
    "no-new-privs": Topic(True, "Linux 3.5 or later has it; something filters prctl(2) here"),
    "drop-capabilities": Topic(
        True, "give the container CAP_SETPCAP (one of Docker's defaults), or run as an ordinary user"
    ),
    "seccomp-filter": Topic(
        True,
        "the kernel needs CONFIG_SECCOMP_FILTER; a container's own profile must allow seccomp(2), as that of "
        "stock Docker does",
    ),
    "landlock-files": Topic(True, "see the landlock line"),
    "landlock-stacking": Topic(True, "at most 16 domains nest: start this from fewer sandboxes"),
    "fs-refer": Topic(True, upgrade("5.19", "fs-refer")),
    "fs-truncate": Topic(True, upgrade("6.2", "fs-truncate")),
    "net-tcp": Topic(True, upgrade("6.7 (with CONFIG_INET)", "net-tcp")),
    "fs-ioctl-dev": Topic(True, upgrade("6.10", "fs-ioctl-dev")),
    "signal-scope": Topic(True, upgrade("6.12", "signal-scope")),
    "abstract-unix-socket-scope": Topic(True, upgrade("6.12", "abstract-unix-socket-scope")),
    "user-notification": Topic(
        True,
        "metadata of files, max_processes, record_execs and net_allow_bind need it: run Linux 5.0 or later, and not "
        "inside another sandbox (the kernel allows one supervisor), or accept the gap with "
        'allow_degraded=["fs-metadata"]',
    ),
    "wait-killable": Topic(False, "run Linux 5.19 or later; without it signals interrupt calls being decided"),
    "sync-wake-up": Topic(False, "run Linux 6.6 or later; without it supervised calls are much slower"),
    "pidfd-getfd": Topic(
        False, "stock containers refuse it, and net_allow_bind needs it: start them with --cap-add SYS_PTRACE"
    ),
    "read-memory": Topic(
        True,
        "older containers and kernel.yama.ptrace_scope above 1 refuse it: start the container with --cap-add "
        "SYS_PTRACE; without it calls cannot be judged by what they point to, metadata of files neither: "
        'allow_degraded=["fs-metadata"] goes without',
    ),
    "trace-child": Topic(
        False,
        "policy_fn, audit and exec rules attest execs with ptrace(2); without it all that they decide are denied: "
        "allow ptrace in the container's seccomp profile, or start the container with --cap-add SYS_PTRACE",
    ),
    "proc-children": Topic(False, "the kernel lacks CONFIG_PROC_CHILDREN, or /proc is not mounted"),
    "user-namespaces": Topic(
        False,
        "uid= and gid= need them: user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 "
        "(Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); stock containers refuse them",
    ),
}


def examine() -> Report:
    """Try everything. Starts one short-lived interpreter; takes up to DOCTOR_SECONDS, usually 0.3 s.

    Raises ValueError for a malformed SANDLOCK_LANDLOCK_ABI. Whatever goes wrong in a probe is a failed check.
    """
    host = probe()
    tried, trouble = try_probes(list(TOPICS))
    checks = [examine_kernel(host), examine_landlock(host)]
    if trouble:
        fix = "the probes could not all run, so nothing is proved: is this installation of sandlock complete?"
        checks.append(Check(name="probes", ok=False, detail=trouble, fix=fix, required=True))
    for name, topic in TOPICS.items():
        ok, detail = tried.get(name, (False, "not tried"))
        fix = "" if ok or name not in tried else topic.fix
        checks.append(Check(name=name, ok=ok, detail=detail, fix=fix, required=topic.required))
    checks += [examine_yama(), examine_cgroup()]
    return Report(checks=tuple(checks), host=host)


def try_probes(names: list[str]) -> tuple[dict[str, tuple[bool, str]], str]:
    """Run the probes in an interpreter of their own: name -> (proved, what happened), and what went wrong."""
    if not sys.executable:
        return {}, "no Python interpreter to try anything with: sys.executable is empty"
    # -I keeps the environment and the current directory out of it; our own path is handed over instead.
    code = "import sys; sys.path[:] = sys.argv[1].split(chr(10)); from sandlock import _probes; _probes.run()"
    path = "\n".join(os.path.abspath(entry) for entry in sys.path)
    work = tempfile.mkdtemp(prefix="sandlock-doctor-")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, path, work, *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOCTOR_SECONDS,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return {}, str(error)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tried = {}
    for line in done.stdout.splitlines():
        name, mark, text = line.split("\t", 2)
        tried[name] = (mark == "+", text)
    said = done.stderr.strip().splitlines()[-1:]
    trouble = "" if len(tried) == len(names) else f"exit {done.returncode}: {' '.join(said) or 'no message'}"
    return tried, trouble


def examine_kernel(host: Host) -> Check:
    """The oldest kernel that the launch works on: 5.13 has Landlock, close_range and pidfds."""
    version = ".".join(map(str, host.kernel))
    ok = host.kernel >= (5, 13, 0)
    fix = "" if ok else "run Linux 6.12 or later for every protection (5.13 for files only)"
    detail = f"Linux {version} on {host.arch}, uid {host.uid}"
    return Check(name="kernel", ok=ok, detail=detail, fix=fix, required=True)


LANDLOCK_FIXES = {
    ENOSYS: "built without CONFIG_SECURITY_LANDLOCK: run a distribution's kernel of 5.13 or later",
    EOPNOTSUPP: "Landlock is off: add landlock to lsm= on the kernel command line and reboot",
    EPERM: "a container's seccomp profile forbids Landlock: update the container engine, or start it with "
    "--security-opt seccomp=PROFILE that allows landlock_*",
}


def examine_landlock(host: Host) -> Check:
    """Which Landlock, or why there is none: the three reasons have three different cures."""
    if host.landlock_abi:
        ok, detail, fix = True, f"ABI {host.landlock_abi}, errata {host.landlock_errata:#x}", ""
    elif host.landlock_error:
        ok, detail = False, f"no Landlock: {os.strerror(host.landlock_error)}"
        fix = LANDLOCK_FIXES.get(host.landlock_error, "run Linux 5.13 or later with Landlock enabled")
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
    """Whether this process could make cgroups below its own. Nothing needs it; limits could use it."""
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
