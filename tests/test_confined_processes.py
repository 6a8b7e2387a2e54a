"""Processes outside: nobody signals, reads, changes or cripples them; inside, everything works."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from attacks.arena import DENIED, Arena, Victim, read, status_of, visible

pytest_plugins = ("attacks.fixtures",)

SIGNALS = (
    *("kill", "kill-high-bits", "kill-group", "tkill", "tgkill", "sigqueue", "tgsigqueue"),
    *("pidfd", "pidfd-thread", "pidfd-group", "proc-pidfd"),
)
OWNERS = ("owner", "owner-process", "owner-thread", "owner-group", "owner-socket")
"""By these the kernel signals, when data arrives: F_SETOWN is accepted, and the signal is dropped."""
LISTENERS: tuple[dict[str, Any], ...] = ({}, {"max_processes": 20})
"""Policies without and with a supervisor."""


def policy(more: dict[str, Any] | None = None) -> dict[str, Any]:
    """All of the system, /proc too: what protects others must not be that nobody sees them."""
    return {"presets": ["system"]} | (more or {})


# ---- signals


@pytest.mark.parametrize("how", [*SIGNALS, *OWNERS])
def test_no_signal_reaches_a_process_outside(arena: Arena, how: str) -> None:
    with arena.victim() as victim:
        for more in LISTENERS:
            outcome = arena.confined("signal", how, victim.pid, int(signal.SIGUSR1), policy=policy(more))
            assert outcome.word == ("0" if how in OWNERS else "EPERM"), outcome
        assert victim.state()[0] == 0
        arena.free("signal", how, victim.pid, int(signal.SIGUSR1))
        assert victim.wait_for_signal() >= 1


@pytest.mark.parametrize("how", ["kill", "tgkill", "pidfd", "owner-process"])
def test_no_signal_reaches_another_sandbox(arena: Arena, how: str) -> None:
    with arena.victim(confined=True) as victim:
        arena.confined("signal", how, victim.pid, int(signal.SIGUSR1), policy=policy())
        assert victim.state()[0] == 0
        arena.free("signal", how, victim.pid, int(signal.SIGUSR1))
        assert victim.wait_for_signal() >= 1


@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_no_thread_of_the_host_is_signalled(arena: Arena, more: dict[str, Any]) -> None:
    """Not the embedding process, and not the supervisor's thread in it, which lives in the outer domain."""
    with arena.running("victim", "/dev/null", confined=True, policy={"fs_data": ["/dev/null"]} | more) as guest:
        guest.line()
        host = arena.ask(do="threads")
        assert len(host["threads"]) > len(LISTENERS) * bool(more) - 1
        arena.ask(do="signals")
        attack = ("signal-threads", int(signal.SIGUSR1), host["pid"], *host["threads"])
        outcome = arena.confined(*attack, policy=policy(more))
        assert outcome.word == "EPERM"
        assert arena.ask(do="signals")["count"] == 0
        assert arena.free(*attack).word == "0"
        assert visible(lambda: arena.ask(do="signals")["count"] > 0)


def test_no_signal_reaches_the_group_that_the_guest_was_started_in(arena: Arena) -> None:
    """With `interactive`, the guest stays in the host's session and process group."""
    arena.ask(do="signals")
    attack = ("signal-own-group", int(signal.SIGUSR1))
    assert arena.confined(*attack, options={"interactive": True}).word == "0"  # it reached itself
    assert arena.ask(do="signals")["count"] == 0
    assert arena.free(*attack, interactive=True).word == "0"
    assert visible(lambda: arena.ask(do="signals")["count"] > 0)


def test_the_init_of_the_run_is_not_signalled(arena: Arena) -> None:
    """SIGKILL would end the watch over the tree. The attack is the one that reaches a victim outside of sandboxes."""
    for more in LISTENERS:
        with arena.running("victim", "/dev/null", confined=True, policy=policy(more)) as guest:
            guest.line()
            init = int(status_of(guest.pid, "PPid"))
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1):
                outcome = arena.confined("signal", "kill", init, int(number), policy=policy(more))
                assert outcome.word == "EPERM"
            assert status_of(init, "State")[0] in "RS"
            assert guest.finish().reason == "exited"
        outcome = arena.confined("signal-parent", int(signal.SIGKILL), policy=policy(more))
        assert (outcome.word, outcome.reason) == ("EPERM", "exited")


# ---- memory and descriptors


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "other-sandbox"])
@pytest.mark.parametrize("how", ["process_vm_readv", "mem", "thread-mem", "pidfd_getfd", "fd"])
def test_nothing_is_read_from_a_process_outside(arena: Arena, how: str, inside: bool) -> None:
    with arena.victim(confined=inside) as victim:
        attack = ("peek", how, victim.pid, victim.address, victim.fd)
        outcome = arena.confined(*attack, policy=policy())
        assert outcome.word in DENIED, outcome
        assert victim.secret not in outcome.out
        assert victim.secret in arena.free(*attack).out


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "other-sandbox"])
@pytest.mark.parametrize("how", ["process_vm_writev", "mem", "ptrace-attach", "ptrace-seize"])
def test_nothing_is_changed_in_a_process_outside(arena: Arena, how: str, inside: bool) -> None:
    with arena.victim(confined=inside) as victim:
        attack = ("poke", how, victim.pid, victim.address)
        # root cannot be granted to write there at all
        grant = "fs_data" if arena.person.uid == 0 else "fs_writable"
        outcome = arena.confined(*attack, policy=policy({grant: ["/proc"]}))
        assert outcome.word in DENIED, outcome
        assert victim.state() == (0, victim.secret)
        assert arena.free(*attack).word == "0"
        assert victim.state()[1].startswith("OWNED")


@pytest.mark.parametrize("file", ["environ", "maps", "auxv", "exe", "cwd", "root", "syscall", "io"])
def test_the_private_files_of_a_process_outside_stay_closed(arena: Arena, file: str) -> None:
    host = arena.ask(do="threads")["pid"]
    free = arena.free("learn", file, host)
    assert free.word == "0"
    outcome = arena.confined("learn", file, host, policy=policy())
    assert outcome.word in DENIED, outcome
    if file == "environ":
        assert "environment-of-the-host" in free.out
        assert "environment-of-the-host" not in outcome.out


def test_the_environment_of_the_host_is_not_in_the_guest(arena: Arena) -> None:
    policy_ = {"fs_data": ["/proc"]}
    assert "environment-of-the-host" in arena.free("learn", "environ", "self").out
    assert "environment-of-the-host" not in arena.confined("learn", "environ", "self", policy=policy_).out


def test_nothing_is_opened_by_another_process_view_of_the_tree(arena: Arena) -> None:
    with arena.victim() as victim:
        path = arena.write(f"{arena.room()}/file", victim.secret)
        assert victim.secret in arena.free("through-root", victim.pid, path).out
        outcome = arena.confined("through-root", victim.pid, path, policy=policy())
        assert outcome.word == "EACCES"


@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_the_init_of_the_run_keeps_its_secrets(arena: Arena, more: dict[str, Any]) -> None:
    """What it holds: the control socket to the host. The same files of a victim outside do open, for the free."""
    outcome = arena.confined("parent-secrets", policy=policy(more))
    assert outcome.lines
    assert {line.split()[2] for line in outcome.lines} <= DENIED, outcome
    free = arena.free("parent-secrets").lines
    assert {"parent maps 0", "parent environ 0", "parent fd0 0"} <= set(free)


def test_the_init_of_the_run_holds_nothing_of_the_host(arena: Arena) -> None:
    """Seen from outside: a few pages, no environment, two descriptors and the signals'."""
    with arena.running("victim", "/dev/null", confined=True, policy={"fs_data": ["/dev/null"]}) as guest:
        guest.line()
        init = int(status_of(guest.pid, "PPid"))
        assert visible(lambda: "memfd:sandlock-init" in os.readlink(f"/proc/{init}/exe"))  # it is executed by now
        assert read(f"/proc/{init}/environ") == ""
        assert int(status_of(init, "VmSize").split()[0]) < 1024
        assert visible(lambda: len(os.listdir(f"/proc/{init}/fd")) <= 4)


@pytest.mark.parametrize("how", ["kcmp", "process_madvise", "move_pages", "migrate_pages"])
def test_no_call_on_another_process_is_accepted(arena: Arena, how: str) -> None:
    """These show or move pages without leaving a trace, so only the answer can be judged."""
    possible = {"migrate_pages": {"0", "ENOSYS"}, "process_madvise": {"0"} if arena.is_root else {"EPERM"}}
    with arena.victim() as victim:
        attack = ("handle", how, victim.pid, victim.address)
        assert arena.free(*attack).word in possible.get(how, {"0"})  # NUMA; CAP_SYS_NICE
        assert arena.confined(*attack, policy=policy()).word == "EPERM"


# ---- limits and priorities


def nice_of(victim: Victim) -> str:
    return victim.stat()[16]


def io_class(arena: Arena, victim: Victim) -> str:
    return arena.free("io-priority", victim.pid).lines[0]


CRIPPLED: dict[str, Callable[[Arena, Victim], str]] = {
    "prlimit": lambda arena, victim: victim.limit("Max open files"),
    "setpriority": lambda arena, victim: nice_of(victim),
    "setpriority-group": lambda arena, victim: nice_of(victim),
    "sched_setscheduler": lambda arena, victim: victim.stat()[38],
    "sched_setattr": lambda arena, victim: victim.stat()[38],
    "sched_setaffinity": lambda arena, victim: victim.status("Cpus_allowed_list"),
    "ioprio_set": io_class,
    "ioprio_set-group": io_class,
    "oom_score_adj": lambda arena, victim: read(f"/proc/{victim.pid}/oom_score_adj"),
    "coredump_filter": lambda arena, victim: read(f"/proc/{victim.pid}/coredump_filter"),
}
"""Ways to cripple a process, and where that shows."""


@pytest.mark.parametrize("how", CRIPPLED)
def test_no_process_outside_is_crippled(arena: Arena, how: str) -> None:
    look = CRIPPLED[how]
    if how == "sched_setaffinity" and os.cpu_count() == 1:
        look = lambda arena, victim: "one CPU: nothing to see"  # noqa: E731
    with arena.victim() as victim:
        before = look(arena, victim)
        for more in LISTENERS:
            outcome = arena.confined("cripple", how, victim.pid, policy=policy(more))
            assert outcome.word in DENIED, outcome
        assert look(arena, victim) == before
        assert arena.free("cripple", how, victim.pid).word == "0"
        assert look(arena, victim) != before or "nothing to see" in before


@pytest.mark.parametrize("how", ["prlimit", "setpriority", "sched_setscheduler", "sched_setaffinity", "ioprio_set"])
def test_the_embedding_process_and_the_init_are_not_crippled(arena: Arena, how: str) -> None:
    """The attacks of the test above, at those whose failure would end the watch. Free, they would harm this test."""
    with arena.running("victim", "/dev/null", confined=True, policy=policy(LISTENERS[1])) as guest:
        guest.line()
        host = arena.ask(do="threads")
        for pid in (*host["threads"], int(status_of(guest.pid, "PPid"))):
            assert arena.confined("cripple", how, pid, policy=policy()).word == "EPERM"


@pytest.mark.parametrize("how", ["prlimit-read", "robust-list", "sched_setparam"])
def test_no_limit_of_a_process_outside_is_read_or_set(arena: Arena, how: str) -> None:
    """No trace is left by these: the answer is judged."""
    with arena.victim() as victim:
        assert arena.free("cripple", how, victim.pid).word == "0"
        assert arena.confined("cripple", how, victim.pid, policy=policy()).word == "EPERM"


def test_calls_that_aim_at_every_process_of_the_user_are_refused(arena: Arena) -> None:
    """Not tried free: it would reach us all. Core scheduling needs hyper-threads, so it has no control either."""
    for how in ("setpriority", "ioprio_set"):
        assert arena.confined("cripple-user", how).word == "EPERM"
    with arena.victim() as victim:
        assert arena.confined("cripple", "core-scheduling", victim.pid, policy=policy()).word == "EPERM"


# ---- what must work


@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_everything_works_inside_the_tree(arena: Arena, more: dict[str, Any]) -> None:
    assert arena.free("own-processes").word == "0"
    outcome = arena.confined("own-processes", policy=policy(more))
    assert outcome.word == "0", outcome


def test_thread_affinity_by_number_is_refused(arena: Arena) -> None:
    """The price: pthread_setaffinity_np names its thread by number, and a filter cannot know whose number it is.

    sched_setaffinity(0, ...) works; see own-processes.
    """
    assert arena.free("thread-affinity").word == "0"
    assert arena.confined("thread-affinity").word == "EPERM"
