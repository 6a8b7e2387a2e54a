"""A plan whose filter can be asked, on a BPF machine."""

from __future__ import annotations

import errno
from typing import Any

import bpf

from sandlock import syscalls
from sandlock._host import Host
from sandlock._plan import Plan, plan
from sandlock.policy import Policy

ARCHES = ("x86_64", "aarch64")
ALL = (1 << 64) - 1
EPERM, EACCES, ENOSYS = (bpf.ERRNO | number for number in (errno.EPERM, errno.EACCES, errno.ENOSYS))


def a_host(abi: int = 7, arch: str = "x86_64", **facts: Any) -> Host:
    facts = {"kernel": (6, 18, 0), "seccomp_filter": True, "seccomp_user_notif": True} | facts
    facts = {"wait_killable": True, "pidfd_getfd": True, "reads_memory": True} | facts
    return Host(arch=arch, landlock_abi=abi, **facts)


class Box:
    """A plan whose filter can be asked."""

    def __init__(self, abi: int = 7, arch: str = "x86_64", **fields: Any) -> None:
        self.arch = arch
        self.plan: Plan = plan(Policy(**fields), a_host(abi, arch))
        self.code = bpf.load(self.plan.filter)

    def __call__(self, name: str, *args: int) -> int:
        nr = syscalls.number(name, self.arch)
        assert nr is not None
        return bpf.run(self.code, bpf.data(nr, self.arch, args))

    def always_allows(self, name: str) -> bool:
        nr = syscalls.number(name, self.arch)
        assert nr is not None
        return bpf.always_allows(self.code, nr, self.arch)


TYPICAL: list[dict[str, Any]] = [
    {},
    {
        "net_allow": [":443", ":8000-8003"],
        "net_allow_bind": [8080],
        "max_processes": 10,
        "record_execs": True,
    },
    {"net_allow": "*", "net_allow_bind": "*", "extra_allow_syscalls": ["sysv_ipc", "io_uring", "scheduling"]},
    {"disable": ["net-tcp"], "extra_deny_syscalls": ["inotify_add_watch", "timers"]},
]
