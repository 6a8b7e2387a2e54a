"""A fake agent under `sandlock agent run`: it works, and what it must not do does not happen.

What happened is judged from outside: files, secrets that are (not) in the output, services that were (not) reached,
victims that live. The same agent, run without the sandbox, shows that each attack would have worked.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ordinary
import pytest
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
}
"""By attack, the secret that it would show."""
SHOWN = {
    "gain_by_setuid": "root by set-user-ID",
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
    **{f"push_{name}": pushed(f"push_{name}") for name in PUSHES},
}
"""By attack, whether it can be seen that it was done."""
ROOT_ONLY = {"read_of_another_user", "read_shadow", "write_cron"}
"""What an ordinary user cannot do anyway."""
HARMFUL = {"write_cron", "write_crontab", "write_kernel_setting", "become_root", "stop_host", "connect_session"}
"""What is not tried without the sandbox; nor are system calls, but for some."""
BY_WORD = {"write_crontab", "write_kernel_setting", "become_root", "stop_host", "connect_session", "type_into_terminal",
           "open_raw_socket", "open_packet_socket"}  # fmt: skip
"""What leaves no trace to be seen: the agent's own word has to do. The run ended well, so its host was alive."""
HARMLESS_CALLS = {
    "call_keyctl",
    "call_add_key",
    "call_io_uring",
    "call_userfaultfd",
    "call_unshare_user",
    "call_chroot",
}
REFUSED = {"EPERM", "EACCES", "ENOSYS", "ENOENT", "ESRCH", "EROFS", "EAFNOSUPPORT"}


def happened(name: str, line: dict[str, str], world: World) -> bool:
    """As seen from outside; of what leaves no trace there, by what the agent got."""
    if name in LEAKS:
        return world.secrets[LEAKS[name]] in line["shown"]
    if name in SHOWN:
        return SHOWN[name] in line["shown"]
    if name in DONE:
        return DONE[name](world)
    return line["ended"] == "done"


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
    process = subprocess.Popen(
        [*command, PYTHON, "fake_agent.py", "forbidden", world.facts()],
        cwd=world.work,
        env=world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **world.who.identity,  # type: ignore[call-overload]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n", process.communicate(timeout=20)
        output, errors = process.communicate(json.dumps({"host": process.pid, **more}) + "\n", timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    return lines_of(output), output, errors


def test_without_the_sandbox_it_happens(free: World) -> None:
    """The control."""
    import fake_agent

    tried = [name for name in fake_agent.ATTACKS if name not in HARMFUL and not name.startswith("call_")]
    tried = [name for name in tried if name != "type_into_terminal"]
    left_out = ROOT_ONLY if free.who.uid else set()
    left_out |= set() if free.rootly else {"gain_by_setuid"}
    tried = [name for name in tried if name not in left_out]
    lines, _, _ = run_forbidden(free, [], only=[*tried, *HARMLESS_CALLS])
    not_done = {name: lines[name] for name in tried if not happened(name, lines[name], free)}
    not_done = {name: line for name, line in not_done.items() if name not in HOST_MAY_REFUSE}
    assert not not_done, "\n".join(map(str, not_done.values()))


HOST_MAY_REFUSE = {"open_raw_socket", "open_packet_socket", "trace_victim", "read_memory_of_the_victim",
                   "read_mem_file_of_the_victim"}  # fmt: skip
"""By its own settings: containers without CAP_NET_RAW, Yama."""


def test_in_the_sandbox_nothing_happens(confined: World) -> None:
    command = [confined.who.python, "-m", "sandlock.cli", "agent", "run", "--add", "git"]
    command += [*confined.sandlock_places, "--"]
    lines, output, errors = run_forbidden(confined, command)
    import fake_agent

    assert set(lines) == set(fake_agent.ATTACKS)
    known = {*LEAKS, *SHOWN, *DONE}
    assert not [name for name in lines if name not in known and not name.startswith("call_") and name not in BY_WORD]
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
