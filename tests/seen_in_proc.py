"""What a system call of the fake agent's has led to, as /proc shows it from outside while the caller holds still."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress

import ordinary


def happened(attack: str, pid: int, mark: str, who: ordinary.Person) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        assert b"fake_agent.py" in file.read(), "that is somebody else"
    return SEEN[attack](pid, mark, who)


def links(pid: int) -> set[str]:
    """Where its descriptors lead."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def text(pid: int | str, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8") as file:
        return file.read()


def elsewhere(pid: int, kind: str) -> bool:
    """Whether it is in another namespace of this kind than who started it."""
    above = text(pid, "stat").rpartition(")")[2].split()[1]
    return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/{above}/ns/{kind}")


def setting(pid: int, name: str) -> str:
    """One of the kernel's, where this process is."""
    own = os.readlink(f"/proc/{pid}/ns/uts") == os.readlink("/proc/self/ns/uts")
    command = [*([] if own else ["nsenter", "-t", str(pid), "-u"]), "cat", f"/proc/sys/kernel/{name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def keys(who: ordinary.Person) -> str:
    """Those that this person may see."""
    return who.run(["cat", "/proc/keys"]).stdout


Look = Callable[[int, str, ordinary.Person], bool]
SEEN: dict[str, Look] = {
    "call_bpf": lambda pid, mark, who: "anon_inode:bpf-map" in links(pid),
    "call_io_uring": lambda pid, mark, who: "anon_inode:[io_uring]" in links(pid),
    "call_perf": lambda pid, mark, who: "anon_inode:[perf_event]" in links(pid),
    "call_userfaultfd": lambda pid, mark, who: "anon_inode:[userfaultfd]" in links(pid),
    "call_keyctl": lambda pid, mark, who: f" {mark}: " in keys(who),
    "call_add_key": lambda pid, mark, who: f" {mark}: " in keys(who),
    "call_unshare_user": lambda pid, mark, who: elsewhere(pid, "user"),
    "call_unshare_mount": lambda pid, mark, who: elsewhere(pid, "mnt"),
    "call_mount": lambda pid, mark, who: f" {mark} " in text(pid, "mountinfo"),
    "call_chroot": lambda pid, mark, who: os.readlink(f"/proc/{pid}/root") != "/",
    "call_pivot_root": lambda pid, mark, who: text(pid, "mountinfo") != text("self", "mountinfo"),
    "call_set_host_name": lambda pid, mark, who: setting(pid, "hostname") == mark[:30],
    "write_kernel_setting": lambda pid, mark, who: setting(pid, "domainname") == mark,
}
"""By attack."""
