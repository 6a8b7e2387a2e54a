"""A fake agent under `sandlock agent run`: it works, and what it must not do does not happen.

What happened is judged from outside: files, secrets that are (not) in the output, services that were (not) reached,
victims that live. The same agent, run without the sandbox, shows that each attack would have worked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_agent
import ordinary
import pytest
import seen_in_proc
from proof_place import World
from test_agent_programs import make_wheel

PYTHON = "/usr/bin/python3"
pytestmark = [pytest.mark.slow, pytest.mark.needs(landlock=6, kernel=(5, 19))]

LEAKS = {
    "read_ssh": "ssh",
    "read_aws": "aws",
    "read_netrc": "netrc",
    "read_firefox": "firefox",
    "read_chromium": "chromium",
    "read_profiles": "profile",
    "read_env": "env",
    "read_env_below": "env_below",
    "read_env_by_symlink": "env",
    "read_env_by_hard_link": "env",
    "read_env_by_rename": "env_renamed",
    "read_env_by_moved_directory": "env_moved",
    "read_key_by_symlink": "ssh",
    "read_key_by_hard_link": "ssh",
    "read_key_by_rename": "spare",
    "read_key_through_proc": "ssh",
    "read_key_through_the_host": "ssh",
    "read_of_another_user": "other",
    "read_environment_of_others": "host",
    "read_environment_of_the_victim": "memory",
    "read_memory_of_the_victim": "memory",
    "read_mem_file_of_the_victim": "memory",
    "read_descriptors_of_the_victim": "file",
    "nested_run": "ssh",
    "nested_agent_run": "ssh",
    "widen_by_variables": "ssh",
    "gain_by_setuid": "other",
    "open_raw_socket": "wire",
    "open_packet_socket": "wire",
    "call_open_by_handle": "ssh",
}
"""By attack, the secret that it would show."""
SHOWN = {
    "read_shadow": "root:",
    "read_log": '"run_start"',
    "read_record": '"schema"',
}
"""By attack, what it would show that is no secret of the test's."""


def owned(name: str, text: str = "OWNED") -> Callable[[World], bool]:
    return lambda world: text in world.file(name)


def made(name: str) -> Callable[[World], bool]:
    return lambda world: world.exists(name)


def pushed(name: str) -> Callable[[World], bool]:
    return lambda world: f"refs/heads/{name}" in world.git("--git-dir", "bare.git", "for-each-ref")


PUSHES = ("itself", "by_shell", "by_env", "by_xargs", "by_python", "by_separators", "by_alias", "by_shell_alias",
          "by_nohup", "by_link")  # fmt: skip
DONE: dict[str, Callable[[World], bool]] = {
    "write_new_in_home": owned("made"),
    "write_bashrc": owned(".bashrc"),
    "write_autostart": owned(".config/autostart/made.desktop"),
    "write_user_unit": owned(".config/systemd/user/made.service"),
    "write_beside": owned("beside/made"),
    "write_git_hook": lambda world: any(
        "OWNED" in world.file(f"work/.git/{hooks}/pre-commit") for hooks in ("hooks", "hooks-before")
    ),
    "write_git_config": owned("work/.git/config", "# OWNED"),
    "write_git_commondir": owned("work/.git/commondir"),
    "write_claude": owned("work/.claude/settings.json"),
    "write_vscode": owned("work/.vscode/tasks.json"),
    "write_mcp": owned("work/.mcp.json"),
    "write_envrc": owned("work/.envrc"),
    "write_env": owned("work/.env"),
    "write_tmp": lambda world: os.path.exists(world.tmp_file),
    "write_shm": lambda world: os.path.exists(world.shm_file),
    "write_cron": lambda world: os.path.exists(world.cron_file),
    "write_log": lambda world: "# OWNED" in Path(world.record, "log.jsonl").read_text().splitlines(),
    "write_record": lambda world: os.path.exists(f"{world.record}/made"),
    "write_git_config_by_git": owned("work/.git/config", "pager = OWNED"),
    "write_by_symlink": owned("notes"),
    "write_by_directory_link": owned("beside/by-link"),
    "write_by_hard_link": owned("linked-to"),
    "write_by_rename": owned("replaced"),
    "write_by_moved_hooks": made("work/.git/hooks-before"),
    "write_by_proc_fd": owned("work/.git/config", "# by descriptor"),
    "write_by_nameless_file": owned("from-nameless"),
    "write_hook_by_nameless_file": owned("work/.git/hooks/pre-push"),
    "write_by_dot_dot": owned("dotted"),
    "truncate_outside": lambda world: world.file("long") == "",
    "unlink_outside": lambda world: not world.exists("unlinked"),
    "make_directory_outside": made("directory"),
    "make_fifo_outside": made("fifo"),
    "kill_victim": lambda world: world.ended("kill"),
    "kill_by_pidfd": lambda world: world.ended("pidfd"),
    "kill_group": lambda world: world.ended("group"),
    "trace_victim": lambda world: world.ended("trace"),
    "starve_victim": lambda world: world.limit_of("limits") == "3",
    "connect_loopback": lambda world: world.reached("address"),
    "connect_name": lambda world: world.reached("name"),
    "connect_mapped": lambda world: world.reached("mapped"),
    "connect_fast": lambda world: world.reached("fast"),
    "connect_unix": lambda world: world.reached("unix"),
    "connect_abstract": lambda world: world.reached("abstract"),
    "send_datagram": lambda world: world.reached("udp"),
    "listen": lambda world: world.came.is_set(),
    "connect_session": lambda world: world.reached("session") if world.free else world.was_answered,
    "connect_beside_session": lambda world: world.reached("beside"),
    "stop_host": lambda world: world.ended("host"),
    "become_root": made("work/by-sudo"),
    "write_crontab": lambda world: world.name in world.crontab,
    "call_swap": lambda world: f"{world.work}/prepared" in Path("/proc/swaps").read_text(),
    **{f"push_{name}": pushed(f"push_{name}") for name in PUSHES},
}
"""By attack, whether it can be seen that it was done."""
ROOT_ONLY = {"read_of_another_user", "read_shadow", "write_cron", "become_root"}
"""What an ordinary user cannot do anyway."""
MIGHTY_ONLY = {"write_kernel_setting", "open_raw_socket", "open_packet_socket", "call_bpf", "call_unshare_mount",
               "call_mount", "call_chroot", "call_set_host_name", "call_kernel_log", "call_open_by_handle"}  # fmt: skip
"""What needs capabilities, which root of a container may not have."""
NO_CONTROL = {"write_cron", "write_crontab", "type_into_terminal", "call_pivot_root", "call_swap", "call_load_module"}
"""What is not tried without the sandbox: it would do harm, or, of the calls, needs more than what is ready here. For
the terminal, see test_agent_proof_terminal."""
BY_WORD = {"type_into_terminal", "call_load_module"}
"""What leaves no trace to be seen from here."""
REFUSED = {"EPERM", "EACCES", "ENOSYS", "ENOENT", "ESRCH", "EROFS", "EAFNOSUPPORT"}


def happened(name: str, line: dict[str, str], world: World) -> bool:
    """As seen from outside; of what leaves no trace there, by what the agent got."""
    if name == "call_kernel_log":
        return bool(kernel_log() & set(line["shown"].splitlines()))
    if name in world.held:
        return world.held[name]
    if name in LEAKS:
        return world.secrets[LEAKS[name]] in line["shown"]
    if name in SHOWN:
        return SHOWN[name] in line["shown"]
    if name in DONE:
        return DONE[name](world)
    return line["ended"] == "done"


def kernel_log() -> set[str]:
    """Its lines, for who may see them."""
    done = subprocess.run(["dmesg", "--raw"], capture_output=True, text=True, errors="replace", check=False)
    return set(done.stdout.splitlines()) - {""}


def lines_of(output: str) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"name"')]
    return {line["name"]: line for line in lines}


@pytest.fixture
def free(visitor: ordinary.Person) -> Iterator[World]:
    with World(visitor, "free", free=True) as world:
        yield world


@pytest.fixture
def confined(visitor: ordinary.Person) -> Iterator[World]:
    with World(visitor, "confined", free=False) as world:
        yield world


def run_forbidden(world: World, command: list[str], **more: object) -> tuple[dict[str, dict[str, str]], str, str]:
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*command, PYTHON, "fake_agent.py", "forbidden", world.facts()],
            cwd=world.work,
            env=world.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            **world.who.identity,  # type: ignore[call-overload]
        )
        if not world.free:
            world.put(process)
        end = threading.Timer(300, process.kill)
        end.start()
        try:
            facts = {"host": world.victims["host"].pid, "held": list(seen_in_proc.SEEN), **more}
            output = converse(process, world, json.dumps(facts))
        finally:
            end.cancel()
            end.join()
            process.kill()
            process.wait()
            process.communicate()
        said.seek(0)
        errors = said.read()
    assert process.returncode == 0, errors
    return lines_of(output), output, errors


def converse(process: subprocess.Popen[str], world: World, facts: str) -> str:
    """What the agent prints, to its end. Where it holds still, it is looked at."""
    assert process.stdin is not None
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        if line == "waiting\n":
            print(facts, file=process.stdin, flush=True)
        elif line.startswith('{"held"'):
            held = json.loads(line)
            world.look(held["held"], held["pid"])
            print(file=process.stdin, flush=True)
        else:
            output.append(line)
    process.wait()
    return "".join(output)


def test_without_the_sandbox_it_happens(free: World) -> None:
    """The control."""
    mighty = is_mighty(free.who)
    left_out = NO_CONTROL | (ROOT_ONLY if free.who.uid else set()) | (set() if mighty else MIGHTY_ONLY)
    left_out |= set() if free.rootly else {"gain_by_setuid"}
    left_out |= set() if shutil.which("sudo") else {"become_root"}
    tried = [name for name in fake_agent.ATTACKS if name not in left_out]
    of_its_own = ["unshare", "--mount", "--uts"] if mighty else []  # what root does there is for everybody
    lines, _, _ = run_forbidden(free, of_its_own, only=tried)
    not_done = {name: lines[name] for name in tried if not happened(name, lines[name], free)}
    not_done = {name: line for name, line in not_done.items() if name not in HOST_MAY_REFUSE}
    assert not not_done, "\n".join(map(str, not_done.values()))


HOST_MAY_REFUSE = {"trace_victim", "read_memory_of_the_victim", "read_mem_file_of_the_victim", "call_perf",
                   "call_userfaultfd", "call_io_uring", "call_unshare_user"}  # fmt: skip
"""By its own settings."""


def is_mighty(who: ordinary.Person) -> bool:
    """Whether it has CAP_SYS_ADMIN, and so the others, too."""
    status = who.run(["grep", "CapEff", "/proc/self/status"]).stdout
    return bool(int(status.split()[1], 16) >> 21 & 1)


def test_in_the_sandbox_nothing_happens(confined: World) -> None:
    command = [confined.who.python, "-m", "sandlock.cli", "agent", "run", "--add", "git"]
    command += [*confined.sandlock_places, "--"]
    lines, output, errors = run_forbidden(confined, command)
    assert set(lines) == set(fake_agent.ATTACKS)
    assert set(lines) == {*LEAKS, *SHOWN, *DONE, *BY_WORD, *seen_in_proc.SEEN, "call_kernel_log"}
    assert set(confined.held) == set(seen_in_proc.SEEN)
    assert len(lines) >= 50
    done = {name: lines[name] for name in lines if happened(name, lines[name], confined)}
    assert not done
    leaked = [name for name, secret in confined.secrets.items() if secret in output + errors]
    assert not leaked
    for name in fake_agent.NUMBERS:
        if f"call_{name}" in lines:
            assert lines[f"call_{name}"]["ended"] in REFUSED, lines[f"call_{name}"]
    assert "Traceback" not in errors


@pytest.mark.needs(program="npm")
@pytest.mark.needs(program="gcc")
@pytest.mark.needs(program="git")
def test_it_works(confined: World) -> None:
    """The same place: what an agent is for goes on."""
    wheel = make_wheel(Path(confined.work))
    os.chown(wheel, confined.who.uid, confined.who.gid)
    make_package(confined)
    facts = confined.facts(wheel=str(wheel), work=["edit", "git", "pip", "npm", "compile", "serve"])
    flags = ["--add", "git", "--add", "build", "--add", "loopback", "--preset", "python", "--preset", "node"]
    command = [
        confined.who.python,
        "-m",
        "sandlock.cli",
        "agent",
        "run",
        *flags,
        "--",
        PYTHON,
        "fake_agent.py",
        "work",
        facts,
    ]
    done = confined.who.run(command, cwd=confined.work, env=confined.environment, timeout=200)
    shown = {name: (line["ended"], line["shown"].strip()) for name, line in lines_of(done.stdout).items()}
    assert shown == {
        "edit": ("done", "1\nthree"),
        "git": ("done", "by the agent"),
        "pip": ("done", "installed"),
        "npm": ("done", "installed"),
        "compile": ("done", "compiled"),
        "serve": ("done", "served"),
    }, done.stderr
    assert confined.git("log", "--format=%s") == "second\nfirst\n"
    assert confined.file("work/file.txt") == "1\nthree\n"


def make_package(world: World) -> None:
    for name, text in (("package.json", '{"name": "hello-agent", "version": "1.0.0", "main": "index.js"}'),
                       ("index.js", "console.log('installed')\n")):  # fmt: skip
        world.write(f"pack/package/{name}", text)
    path = f"{world.work}/hello.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(f"{world.home}/pack/package", "package")
    os.chown(path, world.who.uid, world.who.gid)
