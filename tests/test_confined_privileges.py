"""Privileges: root inside is an ordinary owner of its files, nothing is gained by an exec, nothing comes back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ordinary
import pytest
from attacks.arena import DENIED, Arena, free_port, read, status_of, visible

from sandlock import PolicyError, Sandbox
from sandlock._values import CAPABILITIES

pytest_plugins = ("attacks.fixtures",)

LISTENERS: tuple[dict[str, Any], ...] = ({}, {"max_processes": 20})
SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def capabilities(pid: int) -> dict[str, int]:
    """All five sets of a process, seen from outside."""
    return {name: int(status_of(pid, name), 16) for name in (*SETS, "CapBnd")}


@contextlib.contextmanager
def watched(arena: Arena, *attack: object, **policy: object) -> Iterator[int]:
    """The pid of a confined attack that has done its work and waits."""
    with arena.running(*attack, confined=True, policy=policy) as guest:
        while not (line := guest.line()).startswith(("uid", "became", "setuid", "no-new")):
            assert line, "it has ended"
        yield guest.pid


@pytest.mark.parametrize("attack", ["whoami", "regain"])
@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_every_capability_is_gone_and_none_comes_back(arena: Arena, attack: str, more: dict[str, Any]) -> None:
    with arena.running(attack, confined=False) as free:
        free.line()
        assert bool(capabilities(free.pid)["CapEff"]) == arena.is_root
    with watched(arena, attack, **more) as pid:
        found = capabilities(pid)
        assert [found[name] for name in SETS] == [0, 0, 0, 0]
        assert found["CapBnd"] == 0 or not arena.is_root  # an ordinary user may not lower it, and gains nothing by it
        assert status_of(pid, "NoNewPrivs") == "1"


def test_the_word_of_the_guest_on_its_ways_back(arena: Arena) -> None:
    with arena.running("regain", confined=True) as guest:
        lines = guest.finish().lines
    assert "capset EPERM" in lines
    assert "securebits EPERM" in lines
    assert "no-new-privileges 1" in lines
    assert not [line for line in lines if line.startswith("raised")]


@pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
def test_the_init_and_the_supervisor_have_no_capability_either(arena: Arena, more: dict[str, Any]) -> None:
    with watched(arena, "whoami", **more) as pid:
        init = int(status_of(pid, "PPid"))
        assert [capabilities(init)[name] for name in SETS] == [0, 0, 0, 0]
        host = arena.ask(do="threads")
        effective = {int(status_of_thread(host["pid"], tid, "CapEff"), 16) for tid in host["threads"]}
        assert (0 in effective) or not more  # the supervisor's thread
        assert (max(effective) > 0) == arena.is_root  # and the host's own threads kept theirs


def status_of_thread(pid: int, tid: int, key: str) -> str:
    for line in read(f"/proc/{pid}/task/{tid}/status").splitlines():
        if line.startswith(key + ":"):
            return line.partition(":")[2].strip()
    raise LookupError(key)


def test_only_the_capabilities_that_are_kept_are_kept(arena: Arena) -> None:
    kept = ("net_bind_service", "chown")
    mask = sum(1 << CAPABILITIES.index(f"CAP_{name.upper()}") for name in kept)
    with watched(arena, "whoami", keep_capabilities=list(kept)) as pid:
        found = capabilities(pid)
        expected = mask if arena.is_root else 0  # what one does not have, one cannot keep
        assert (found["CapEff"], found["CapPrm"]) == (expected, expected)
        assert found["CapBnd"] == mask or not arena.is_root


# ---- what capabilities are for


def somebody(arena: Arena) -> int:
    """Another uid."""
    return ordinary.person("ordinary").uid if arena.is_root else arena.person.uid + 1


def test_root_does_not_read_what_others_hide(arena: Arena) -> None:
    """Granted, but neither owned nor readable: without CAP_DAC_OVERRIDE the mode counts."""
    room = arena.room()
    secret = arena.secret()
    path = arena.write(f"{room}/file", secret)
    if arena.is_root:
        os.chown(path, somebody(arena), -1)
        assert secret in arena.free("read", path).out
        assert arena.confined("read", path, policy={"fs_readable": [room]}).word == "EACCES"
        outcome = arena.confined("read", path, policy={"fs_readable": [room], "keep_capabilities": ["dac_override"]})
        assert secret in outcome.out
    else:
        assert secret in arena.confined("read", path, policy={"fs_readable": [room]}).out


def test_root_does_not_give_its_files_away(arena: Arena) -> None:
    room = arena.room()
    path = arena.write(f"{room}/file")
    attack = ("give-away", path, somebody(arena))
    assert arena.confined(*attack, policy={"fs_writable": [room]}).word == "EPERM"
    assert os.stat(path).st_uid == arena.person.uid
    assert arena.free(*attack).word == ("0" if arena.is_root else "EPERM")
    assert (os.stat(path).st_uid != arena.person.uid) == arena.is_root


def test_root_does_not_become_another_user(arena: Arena) -> None:
    attack = ("become", somebody(arena))
    assert arena.confined(*attack).word == "EPERM"
    with arena.running(*attack, confined=False) as free:
        assert free.line() == (f"became {somebody(arena)}" if arena.is_root else "EPERM")
        assert not arena.is_root or status_of(free.pid, "Uid").split()[0] == str(somebody(arena))


def test_root_is_no_more_urgent_than_others(arena: Arena) -> None:
    assert arena.confined("hurry").word == "EACCES"
    with arena.running("hurry", confined=False) as free:
        nice = -5 if arena.is_root else 0
        assert visible(lambda: int(read(f"/proc/{free.pid}/stat").rpartition(") ")[2].split()[16]) == nice)


def test_a_low_port_needs_the_capability_as_well_as_the_grant(arena: Arena) -> None:
    port = next(port for port in range(1000, 900, -1) if port_is_free(port))
    attack = ("serve", "stream", 0, "127.0.0.1", port)
    with arena.running(*attack, confined=True, policy={"net_allow_bind": [port]}) as guest:
        assert guest.line() == "EACCES"
    policy = {"net_allow_bind": [port], "keep_capabilities": ["net_bind_service"]}
    with arena.running(*attack, confined=True, policy=policy) as guest:
        assert guest.line() == (f"port {port}" if arena.is_root else "EACCES")


def port_is_free(port: int) -> bool:
    return f":{port:04X} " not in read("/proc/net/tcp") + read("/proc/net/tcp6") and port != free_port()


# ---- exec


if "root" in ordinary.USERS:  # nobody else can make such programs

    def privileged_tool(arena: Arena, kind: str) -> str:
        """A copy of the attack that runs with more than its caller has: as another user, or with a capability."""
        tool = arena.tool(arena.room())
        if kind == "set-user-id":
            os.chown(tool, 0 if not arena.is_root else somebody(arena), -1)
            os.chmod(tool, 0o4755)
        elif kind == "set-group-id":
            os.chown(tool, -1, 0 if not arena.is_root else somebody(arena))
            os.chmod(tool, 0o2755)
        else:  # VFS_CAP_REVISION_2, effective, CAP_NET_RAW permitted
            words = (0x02000001, 1 << 13, 0, 0, 0)
            os.setxattr(tool, "security.capability", b"".join(word.to_bytes(4, "little") for word in words))
        return tool

    @pytest.mark.parametrize("kind", ["set-user-id", "set-group-id", "capability"])
    @pytest.mark.parametrize("more", LISTENERS, ids=["alone", "supervised"])
    def test_an_exec_gains_nothing(arena: Arena, kind: str, more: dict[str, Any]) -> None:
        tool = privileged_tool(arena, kind)
        attack = ("execute", "execve", tool, "-", "tool", "whoami")

        def seen(confined: bool) -> tuple[str, ...]:
            policy = {"fs_readable": [tool]} | more
            with arena.running(*attack, confined=confined, policy=policy) as program:
                assert program.line().startswith("uid ")
                keys = ("Uid", "Gid", "CapPrm", "CapEff")
                return tuple(status_of(program.pid, key) for key in keys)

        uid, gid = str(arena.person.uid), str(arena.person.gid)
        nothing = "0" * 16
        if kind == "capability" and arena.is_root:  # capabilities(7): not in the bounding set, so it does not start
            assert arena.confined(*attack, policy={"fs_readable": [tool]} | more).word == "EPERM"
        else:
            assert seen(confined=True) == ("\t".join([uid] * 4), "\t".join([gid] * 4), nothing, nothing)
        free = seen(confined=False)
        assert free[:2] != ("\t".join([uid] * 4), "\t".join([gid] * 4)) or int(free[2], 16) & 1 << 13


# ---- user namespaces


@pytest.mark.parametrize("uid", [0, 1234])
def test_a_mapped_user_is_a_name_and_no_power(arena: Arena, uid: int) -> None:
    """Inside it is called `uid`; outside it stays who it was, with no capability over anything."""
    room = arena.room()
    path = f"{room}/made"
    policy = {"uid": uid, "gid": uid}
    with arena.running("whoami", confined=True, policy=policy) as guest:
        assert guest.line().startswith(f"uid {uid} {uid} gid {uid} {uid} ")
        assert status_of(guest.pid, "Uid").split()[0] == str(arena.person.uid)
        assert [capabilities(guest.pid)[name] for name in (*SETS, "CapBnd")] == [0, 0, 0, 0, 0]
        assert os.readlink(f"/proc/{guest.pid}/ns/user") != os.readlink("/proc/self/ns/user")
    assert arena.confined("mark", path, policy=policy | {"fs_writable": [room]}).word == "0"
    assert os.stat(path).st_uid == arena.person.uid
    for attack, word in (
        (("mount", "mount", room), "EPERM"),
        (("enter-namespace", "unshare", 0x20000), "EPERM"),
        (("become", uid + 1), "EINVAL"),
        (("change-root", room), "EPERM"),
    ):
        assert arena.confined(*attack, policy=policy).word == word


# ---- the machine


def test_the_kernel_log_is_closed(arena: Arena) -> None:
    if arena.is_root:
        assert arena.free("kernel-log").word == "0"
        assert arena.free("read", "/dev/kmsg").word == "0"
    for policy in ({"presets": ["system"]}, {"fs_readable": ["/dev", "/proc"]}):
        assert arena.confined("kernel-log", policy=policy).word == "EPERM"
        assert arena.confined("read", "/proc/kmsg", policy=policy).word in DENIED
    assert arena.confined("read", "/dev/kmsg", policy={"presets": ["system"]}).word in DENIED


@pytest.mark.parametrize("path", ["/proc/sys/vm/stat_interval", "/sys/kernel/mm/ksm/sleep_millisecs"])
def test_no_setting_of_the_kernel_changes(arena: Arena, path: str) -> None:
    if not os.path.exists(path):
        path = "/proc/sys/vm/stat_interval"
    before = read(path)
    attack = ("overwrite", path, f"{int(before) + 1}\n")
    try:
        assert arena.confined(*attack, policy={"presets": ["system"], "fs_readable": ["/sys"]}).word in DENIED
        assert read(path) == before
        assert arena.free(*attack).word == ("0" if arena.is_root else "EACCES")
        assert (read(path) != before) == arena.is_root
    finally:
        if arena.is_root:
            with open(path, "w", encoding="ascii") as file:
                file.write(before)


def control_groups() -> str:
    """A directory where root can make control groups, or "" where none is writable (containers)."""
    for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/freezer"):
        if os.path.exists(f"{path}/cgroup.procs") and os.access(path, os.W_OK):
            return path
    return ""


def test_no_control_group_is_made_or_joined(arena: Arena) -> None:
    groups = control_groups()
    name = f"{groups or '/sys/fs/cgroup'}/sandlock-attack-{os.getpid()}"
    assert arena.confined("make-directory", name, policy={"presets": ["system"]}).word in DENIED
    procs = f"{groups}/cgroup.procs"
    if not groups:
        return
    assert arena.confined("overwrite", procs, "0", policy={"presets": ["system"]}).word in DENIED
    assert not os.path.exists(name)
    if arena.is_root:
        try:
            assert arena.free("make-directory", name).word == "0"
            assert os.path.isdir(name)
        finally:
            os.rmdir(name)


# ---- writable grants that are the machine itself


@pytest.mark.parametrize("path", ["/", "/dev", "/proc", "/proc/sys/kernel", "/sys", "/sys/module"])
def test_roots_program_cannot_be_given_the_machine(path: str) -> None:
    if os.geteuid() == 0:
        with pytest.raises(PolicyError, match=f"fs_writable: {path} would let root's program") as caught:
            Sandbox(presets=["system"], fs_writable=[path])
        assert caught.value.field == "fs_writable"
    else:  # what the user may not write, the user's program may not either
        with Sandbox(presets=["system"], fs_writable=[path]) as box:
            assert not box.run(["sh", "-c", "echo core > /proc/sys/kernel/core_pattern"]).ok


def test_a_link_to_it_is_no_way_around(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/sys")
    if os.geteuid() == 0:
        with pytest.raises(PolicyError, match="change the machine"):
            Sandbox(presets=["system"], fs_writable=[tmp_path / "link"])
    else:
        with Sandbox(presets=["system"], fs_writable=[tmp_path / "link"]) as box:
            assert not box.run(["sh", "-c", f"echo core > {tmp_path}/link/kernel/core_pattern"]).ok
