"""What every test gets: a header that says where it ran, proof that it left nothing behind, needs, users.

Environment:
    SANDLOCK_SEED      the seed of hypothesis and of the `rng` fixture; random if not set, the header shows it
    SANDLOCK_REQUIRE   `all`, or needs separated by commas (`landlock>=6,program`): where one of them is not
                       met, the test fails instead of being skipped
    CI                 `true`: a run with any skipped or deselected test fails
    SANDLOCK_FRAMEWORKS  `1`: also the tests in frameworks/, which need the extra `frameworks`, over a gigabyte
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio

sys.path.insert(0, os.path.dirname(__file__))  # tests import their own rooms (`ordinary`, ...) by bare name

import ordinary
from loops import LOOPS, Loop

from sandlock._host import Host, probe
from sandlock._trio_thread import from_thread

SETTLE = 2.0  # seconds that what a test started may take to disappear
LIMIT, SLOW_LIMIT = 120.0, 400.0  # seconds; a test that takes longer hangs: all threads are shown, the process ends
# Threads that are meant to stay: the trio loop behind asyncio and sync callers, trio's cache of workers.
LASTING_THREADS = ("sandlock-trio", "Trio thread", "trio-")
LOOP_DESCRIPTORS = 4  # of the trio loop that such a thread runs: epoll, wake-up pair, and one to spare


collect_ignore = [] if os.environ.get("SANDLOCK_FRAMEWORKS") else ["frameworks"]

STDERR = pytest.StashKey[int]()


# ---- the header, the seed, the users


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(landlock=N, kernel=(N, N), program=NAME, root=BOOL): or skip")
    config.addinivalue_line("markers", "slow: takes more than 0.25 s")
    seed = os.environ.setdefault("SANDLOCK_SEED", str(random.SystemRandom().randrange(1 << 32)))
    config.stash[STDERR] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)  # not the captured one
    if getattr(config.option, "hypothesis_seed", None) is None:  # xdist hands the options on to its workers
        config.option.hypothesis_seed = int(seed)


def pytest_report_header(config: pytest.Config) -> str:
    host = probe()
    kernel = ".".join(map(str, host.kernel)) + " " + host.arch
    users = " and ".join(ordinary.USERS)
    seed = os.environ["SANDLOCK_SEED"]
    return f"Linux {kernel}, Landlock ABI {host.landlock_abi}, uid {host.uid}, runs as {users}, seed {seed}"


@pytest.fixture(scope="session")
def host() -> Host:
    """What this kernel offers."""
    return probe()


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Loop:
    """Trio, then asyncio."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lasting_thread() -> None:
    """The trio loop behind asyncio and sync callers stays for good: it is there before anything is counted."""
    from_thread(trio.lowlevel.checkpoint)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that a failing test gets again with the seed of the header."""
    return random.Random(f"{os.environ['SANDLOCK_SEED']}:{request.node.nodeid}")


@pytest.fixture(scope="session", params=ordinary.USERS)
def as_user(request: pytest.FixtureRequest) -> ordinary.Person:
    """Each user that tests run programs as: root (only if we are root) and an ordinary account."""
    return ordinary.person(request.param)


@pytest.fixture(scope="session")
def ordinary_user() -> ordinary.Person:
    """Somebody without privileges: a test account if we are root, else ourselves."""
    return ordinary.person("ordinary")


@pytest.fixture
def visitor(as_user: ordinary.Person) -> Iterator[ordinary.Person]:
    """`as_user` with an empty home, for tests that look at what is in it; gone afterwards."""
    with ordinary.at_home(as_user.name) as person:
        yield person


# ---- nothing left behind


@dataclass(frozen=True)
class Belongings:
    """What this process holds at one moment."""

    descriptors: dict[int, str]
    threads: dict[int, str]
    children: dict[int, str]

    @classmethod
    def now(cls) -> Belongings:
        threads = {int(tid): read(f"/proc/self/task/{tid}/comm").strip() for tid in os.listdir("/proc/self/task")}
        threads |= {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        pids = " ".join(read(f"/proc/self/task/{tid}/children") for tid in threads).split()
        children = {int(pid): read(f"/proc/{pid}/cmdline").replace("\0", " ").strip() for pid in pids}
        return cls(open_descriptors(), threads, children)

    def lost_and_left(self, later: Belongings) -> list[str]:
        """What changed until `later`, in words. Descriptors 0-2 belong to pytest's capturing."""
        threads = {tid: name for tid, name in later.threads.items() if tid not in self.threads}
        lasting = {tid for tid, name in threads.items() if name.startswith(LASTING_THREADS)}
        opened = [f"{fd} -> {to}" for fd, to in later.descriptors.items() if fd > 2 and self.descriptors.get(fd) != to]
        closed = [f"{fd} -> {to}" for fd, to in self.descriptors.items() if fd > 2 and fd not in later.descriptors]
        if any(name.startswith("sandlock-trio") for name in threads.values()) and len(opened) <= LOOP_DESCRIPTORS:
            opened = []
        left = [f"descriptor {text}" for text in opened]
        left += [f"descriptor {text} is closed, but was not opened by the test" for text in closed]
        left += [f"thread {tid} {name!r}" for tid, name in threads.items() if tid not in lasting]
        left += [f"child {pid} {what!r}" for pid, what in later.children.items() if pid not in self.children]
        return left


def read(path: str) -> str:
    """A file of /proc, or nothing if its owner has just ended."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def open_descriptors() -> dict[int, str]:
    """Number and target of each open descriptor, without the one that lists them."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_hangs(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that hangs ends its process; under xdist the others go on in a new one."""
    slow = request.node.get_closest_marker("slow")
    seconds = SLOW_LIMIT if slow else LIMIT
    faulthandler.dump_traceback_later(seconds, exit=True, file=request.config.stash[STDERR])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def nothing_left_behind(nothing_hangs: None) -> Iterator[None]:
    """After every test: no descriptor, thread or child process (also no zombie) that was not there before."""
    before = Belongings.now()
    yield
    deadline = time.monotonic() + SETTLE
    while left := before.lost_and_left(Belongings.now()):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(left), pytrace=False)
        gc.collect()
        time.sleep(0.01)


# ---- needs, and the law that nothing is skipped in CI


def unmet(need: str, value: object, host: Host) -> str:
    """Why this host does not meet a need, or nothing. An unknown need is an error of the test."""
    match need, value:
        case "landlock", int(abi):
            return "" if host.landlock_abi >= abi else f"needs Landlock ABI {abi}, this kernel has {host.landlock_abi}"
        case "kernel", tuple(version):
            return "" if host.kernel >= version else f"needs Linux {version}, this is {host.kernel}"
        case "program", str(name):
            return "" if shutil.which(name) else f"needs the program {name}"
        case "root", bool():
            return ""  # else it would not have been collected
    raise pytest.UsageError(f"unknown need: {need}={value!r}")


def required(need: str, value: object) -> bool:
    """Whether SANDLOCK_REQUIRE asks for this need."""
    for entry in os.environ.get("SANDLOCK_REQUIRE", "").split(","):
        name, _, level = entry.strip().partition(">=")
        if name == "all" or (name == need and (not level or (isinstance(value, int) and value <= int(level)))):
            return True
    return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test for another uid is not skipped but absent, as `as_user[root]` is: no run can have them all."""
    uid = probe().uid
    items[:] = [
        item
        for item in items
        if all((uid == 0) == mark.kwargs["root"] for mark in item.iter_markers("needs") if "root" in mark.kwargs)
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    host = probe()
    for marker in item.iter_markers("needs"):
        for need, value in marker.kwargs.items():
            reason = unmet(need, value, host)
            if reason and required(need, value):
                pytest.fail(f"{reason}, and SANDLOCK_REQUIRE wants it", pytrace=False)
            if reason:
                pytest.skip(reason)


def not_run(config: pytest.Config) -> int:
    """How many tests did not run, where that counts: in CI, or when everything is required."""
    if os.environ.get("CI") != "true" and "all" not in os.environ.get("SANDLOCK_REQUIRE", "").split(","):
        return 0
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return sum(len(reporter.stats.get(kind, ())) for kind in ("skipped", "deselected")) if reporter else 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and session.exitstatus == 0 and not_run(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := not_run(config):
        terminalreporter.write_line(f"FAILED: {count} tests did not run, and here every test has to", red=True)
