"""What can have a handler, and what cannot; and what a handler makes of the plan."""

from __future__ import annotations

from typing import Any

import bpf
import pytest
from planned import EPERM, a_host

from sandlock import (
    Allow,
    AsyncSandbox,
    Continue,
    Handler,
    HandlerContext,
    NativeHandler,
    PolicyError,
    Sandbox,
    Unsupported,
    syscalls,
)
from sandlock._handler_rules import REFUSED
from sandlock._plan import plan
from sandlock.policy import Policy

pytestmark = pytest.mark.needs(landlock=6, kernel=(5, 19))


class Passing(Handler):
    """Changes nothing."""

    def handle(self, ctx: HandlerContext) -> Continue:
        return Continue()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("no_such_call", {}, "no system call"),
        (3, {}, "no system call"),
        ("execve", {}, "exec_deny"),
        ("execveat", {}, "policy_fn"),
        ("fork", {}, "max_processes"),
        ("vfork", {}, "ask_forks"),
        ("clone", {"max_processes": 5}, "max_processes"),
        ("clone3", {}, "the policy denies it"),
        ("close", {}, "no program expects it to fail"),
        ("exit", {}, "does not return"),
        ("exit_group", {}, "does not return"),
        ("rt_sigreturn", {}, "does not return"),
        ("futex", {}, "locks"),
        ("clock_gettime", {}, "vdso"),
        ("ptrace", {}, "the policy denies it"),
        ("mount", {}, "cannot allow what is denied"),
        ("io_uring_setup", {}, "the policy denies it"),
        ("connect", {}, "the policy denies it"),
        ("uname", {"extra_deny_syscalls": ["uname"]}, "the policy denies it"),
        ("connect", {"net_allow": ["127.0.0.1:80"]}, "net_allow, net_deny"),
        ("bind", {"net_allow": ["127.0.0.1:80"]}, "policy_fn"),
        ("listen", {"net_allow_bind": ["8080"]}, "net_allow_bind"),
        ("set_tid_address", {"record_execs": True}, "record_execs"),
        ("rt_sigaction", {"max_processes": 5}, "max_processes"),
    ],
)
def test_what_cannot_have_a_handler(name: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        Sandbox(presets=["system"], handlers={name: Passing()}, **fields)
    assert caught.value.field == "handlers"


def test_what_a_callback_decides_cannot_have_a_handler() -> None:
    handlers = {"connect": Passing()}
    with pytest.raises(PolicyError, match="the supervisor makes this call itself"):
        Sandbox(presets=["system"], handlers=handlers, policy_fn=lambda event, box: Allow())
    box = AsyncSandbox(presets=["system"], net_allow=["*:80"], handlers=handlers)
    with pytest.raises(PolicyError, match="the supervisor makes this call itself"):
        box.decisions()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "is no table"),
        ({"uname": 3}, "is no handler"),
        ({"uname": Handler}, "is no handler"),
        ({"uname": lambda ctx: Continue()}, "is no handler"),
        ({str(number): Handler() for number in range(129)}, "too many"),
    ],
)
def test_what_is_no_handler_is_refused(given: Any, message: str) -> None:
    for make in (Sandbox, AsyncSandbox):
        with pytest.raises(PolicyError, match=message):
            make(presets=["system"], handlers=given)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_filter_asks_only_about_what_it_would_allow(arch: str) -> None:
    made = plan(Policy(), a_host(arch=arch), handlers=("ioctl", "kill", "uname"))
    code = bpf.load(made.filter)

    def asked(name: str, *args: int) -> int:
        number = syscalls.number(name, arch)
        assert number is not None
        return bpf.run(code, bpf.data(number, arch, args))

    notify = 0x7FC0_0000
    assert (asked("uname"), asked("ioctl", 0, 0x5401)) == (notify, notify)
    assert asked("ioctl", 0, 0x5412) == EPERM  # TIOCSTI
    assert made.vets
    assert "uname" in made.describe()


def test_every_other_call_can_have_a_handler() -> None:
    """The table's: allowed by the plan, and not refused for a reason of its own."""
    names = [name for name, answer in plan(Policy(), a_host()).answers if answer == 0x7FFF_0000 and name not in REFUSED]
    assert len(names) > 200
    for start in range(0, len(names), 100):
        rules = plan(Policy(), a_host(), handlers=tuple(names[start : start + 100])).rules
        assert [rule.syscall for rule in rules if rule.rule == "handle"] == names[start : start + 100]
    assert set(REFUSED) <= set(syscalls.TABLE)


def test_an_old_kernel_cannot() -> None:
    with pytest.raises(Unsupported, match=r"handlers.*5\.19"):
        plan(Policy(), a_host(wait_killable=False), handlers=("uname",))


def test_a_native_handler_needs_nobody_who_listens() -> None:
    box = Sandbox(presets=["system"], handlers={"uname": NativeHandler(4096)})
    assert box._questions is None
