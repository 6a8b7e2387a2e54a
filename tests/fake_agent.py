"""An agent without a model: it does what agents do, or what they must not. Runs by itself; needs the standard library.

    fake_agent.py work FACTS.json      edits, git, a wheel, a package, a compiler, a server
    fake_agent.py forbidden FACTS.json  says "waiting", waits for a line, and tries everything in ATTACKS; what that
                                        line names as "held" holds still afterwards, to be looked at, until a line comes
    fake_agent.py one NAME FACTS.json   tries one of them

FACTS is what whoever prepared the place knows of it. One line of JSON is printed for each thing that was tried: its
name, how it ended by its own word, and what it got to see. Whether it happened is looked at from outside.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fake_calls import LIBC, NUMBERS, call, memory_of, open_by_handle, overhear, system_call

Facts = dict[str, Any]
Attack = Callable[[Facts], object]
PATIENCE = 20
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


def family(function: Callable[..., object], **each: tuple[object, ...]) -> None:
    """Attacks that differ in what they are given."""
    for name, arguments in each.items():
        ATTACKS[name] = lambda facts, arguments=arguments: function(facts, *arguments)


def tried(name: str, facts: Facts) -> dict[str, object]:
    """One attack, in a process of its own: whatever becomes of it, the next one begins afresh."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(PATIENCE)
        try:
            shown = str(ATTACKS[name](facts))
            line = {"name": name, "ended": "done", "shown": shown}
        except OSError as error:
            line = {"name": name, "ended": errno.errorcode.get(error.errno or 0, "OSError"), "shown": str(error)}
        except BaseException as error:
            line = {"name": name, "ended": type(error).__name__, "shown": str(error)}
        with os.fdopen(writing, "w") as file:
            file.write(json.dumps(line))
        if name in facts.get("held", ()):
            print(json.dumps({"held": name, "pid": os.getpid()}), flush=True)
            os.read(0, 100)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"name": name, "ended": f"status {status}", "shown": ""}  # type: ignore[no-any-return]


def text_of(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(100_000)


def add_to(path: str, text: str = "# OWNED\n") -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def ran(*words: str, **options: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def run_directory() -> str:
    """Where the record of this run is: the private temporary directory gives it away."""
    return os.path.dirname(os.environ["TMPDIR"])


# ---- secrets


def read_home(facts: Facts, name: str) -> str:
    return text_of(os.path.join(facts["home"], name))


family(
    read_home,
    read_ssh=(".ssh/id_ed25519",),
    read_aws=(".aws/credentials",),
    read_netrc=(".netrc",),
    read_firefox=(".mozilla/firefox/x.default/logins.json",),
    read_chromium=(".config/chromium/Default/Cookies",),
    read_profiles=(".config/sandlock/profiles/mine.toml",),
    read_env=("work/.env",),
    read_env_below=("work/sub/.env.local",),
)


@attack
def read_env_by_symlink(facts: Facts) -> str:
    os.symlink(".env", "harmless")
    return text_of("harmless")


@attack
def read_env_by_hard_link(facts: Facts) -> str:
    os.link(".env", "linked")
    return text_of("linked")


@attack
def read_env_by_rename(facts: Facts) -> str:
    os.rename("sub/.env.renamed", "renamed")
    return text_of("renamed")


@attack
def read_env_by_moved_directory(facts: Facts) -> str:
    os.rename("moving", "moved")
    return text_of("moved/.env")


@attack
def read_key_by_symlink(facts: Facts) -> str:
    os.symlink(facts["home"] + "/.ssh", "keys")
    return text_of("keys/id_ed25519")


@attack
def read_key_by_hard_link(facts: Facts) -> str:
    os.link(facts["home"] + "/.ssh/id_ed25519", "key")
    return text_of("key")


@attack
def read_key_by_rename(facts: Facts) -> str:
    os.rename(facts["home"] + "/.ssh/spare", "spare")
    return text_of("spare")


@attack
def read_key_through_proc(facts: Facts) -> str:
    return text_of(f"/proc/self/root{facts['home']}/.ssh/id_ed25519")


@attack
def read_key_through_the_host(facts: Facts) -> str:
    for path in glob.glob("/proc/[0-9]*/root"):
        with suppress(OSError):
            return text_of(path + facts["home"] + "/.ssh/id_ed25519")
    raise PermissionError(errno.EACCES, "none of them")


@attack
def read_of_another_user(facts: Facts) -> str:
    return text_of(facts["others"])


@attack
def read_shadow(facts: Facts) -> str:
    return text_of("/etc/shadow")[:200]


@attack
def read_log(facts: Facts) -> str:
    return text_of(f"{run_directory()}/log.jsonl")


@attack
def read_record(facts: Facts) -> str:
    return text_of(f"{run_directory()}/session.json")


@attack
def read_environment_of_others(facts: Facts) -> str:
    """Of the host, which started us, and of whoever else there is."""
    found = [os.environ.get("HOST_SECRET", "")]
    for path in glob.glob("/proc/[0-9]*/environ"):
        with suppress(OSError):
            found += [text for text in text_of(path).split("\0") if text.startswith("HOST_SECRET")]
    return "\n".join(found)


@attack
def read_environment_of_the_victim(facts: Facts) -> str:
    return text_of(f"/proc/{facts['victims']['read']}/environ")


@attack
def read_memory_of_the_victim(facts: Facts) -> str:
    """By process_vm_readv, where the victim keeps its secret."""
    return memory_of(facts["victims"]["read"], facts["address"], len(facts["memory_secret_like"]))


@attack
def read_mem_file_of_the_victim(facts: Facts) -> str:
    with open(f"/proc/{facts['victims']['read']}/mem", "rb", buffering=0) as file:
        file.seek(facts["address"])
        return file.read(len(facts["memory_secret_like"])).decode()


@attack
def read_descriptors_of_the_victim(facts: Facts) -> str:
    """It has a file open that nobody can find by a name any more."""
    return "".join(text_of(path) for path in glob.glob(f"/proc/{facts['victims']['read']}/fd/[3-9]"))


# ---- changes


def write_home(facts: Facts, name: str) -> None:
    path = os.path.join(facts["home"], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    add_to(path)


family(
    write_home,
    write_new_in_home=("made",),
    write_bashrc=(".bashrc",),
    write_autostart=(".config/autostart/made.desktop",),
    write_user_unit=(".config/systemd/user/made.service",),
    write_beside=("beside/made",),
    write_git_hook=("work/.git/hooks/pre-commit",),
    write_git_config=("work/.git/config",),
    write_claude=("work/.claude/settings.json",),
    write_vscode=("work/.vscode/tasks.json",),
    write_mcp=("work/.mcp.json",),
    write_envrc=("work/.envrc",),
    write_env=("work/.env",),
)


@attack
def write_tmp(facts: Facts) -> None:
    add_to(facts["tmp_file"])


@attack
def write_shm(facts: Facts) -> None:
    add_to(facts["shm_file"])


@attack
def write_cron(facts: Facts) -> None:
    add_to(facts["cron_file"], "")


@attack
def write_crontab(facts: Facts) -> str:
    return ran("crontab", "-", input=f"# {facts['mark']}\n")


@attack
def write_kernel_setting(facts: Facts) -> None:
    with open("/proc/sys/kernel/domainname", "w", encoding="utf-8") as file:
        file.write(facts["mark"])


@attack
def write_log(facts: Facts) -> None:
    add_to(f"{run_directory()}/log.jsonl")


@attack
def write_record(facts: Facts) -> None:
    add_to(f"{run_directory()}/made")


@attack
def write_git_config_by_git(facts: Facts) -> str:
    return ran("git", "config", "core.pager", "OWNED")


@attack
def write_by_symlink(facts: Facts) -> None:
    os.symlink(facts["home"] + "/notes", "a-note")
    add_to("a-note")


@attack
def write_by_directory_link(facts: Facts) -> None:
    os.symlink(facts["home"] + "/beside", "here")
    add_to("here/by-link")


@attack
def write_by_hard_link(facts: Facts) -> None:
    os.link(facts["home"] + "/linked-to", "hard")
    add_to("hard")


@attack
def write_by_rename(facts: Facts) -> None:
    add_to("prepared")
    os.rename("prepared", facts["home"] + "/replaced")


@attack
def write_by_moved_hooks(facts: Facts) -> None:
    os.rename(".git/hooks", ".git/hooks-before")
    os.mkdir(".git/hooks")
    add_to(".git/hooks/post-checkout")


@attack
def write_by_proc_fd(facts: Facts) -> None:
    """What may be read is opened again through its descriptor, to be written."""
    reading = os.open(".git/config", os.O_RDONLY)
    add_to(f"/proc/self/fd/{reading}", "# by descriptor\n")


@attack
def write_by_nameless_file(facts: Facts) -> None:
    nameless = os.open(".", os.O_TMPFILE | os.O_RDWR)
    os.write(nameless, b"# OWNED\n")
    there = (facts["home"] + "/from-nameless").encode()
    call("linkat", -100, f"/proc/self/fd/{nameless}".encode(), -100, there, 0x400)


@attack
def write_hook_by_nameless_file(facts: Facts) -> None:
    nameless = os.open(".", os.O_TMPFILE | os.O_RDWR)
    os.write(nameless, b"# OWNED\n")
    call("linkat", -100, f"/proc/self/fd/{nameless}".encode(), -100, b".git/hooks/pre-push", 0x400)


@attack
def write_by_dot_dot(facts: Facts) -> None:
    add_to("sub/../../dotted")


@attack
def truncate_outside(facts: Facts) -> None:
    os.truncate(facts["home"] + "/long", 0)


@attack
def unlink_outside(facts: Facts) -> None:
    os.unlink(facts["home"] + "/unlinked")


@attack
def make_directory_outside(facts: Facts) -> None:
    os.mkdir(facts["home"] + "/directory")


@attack
def make_fifo_outside(facts: Facts) -> None:
    os.mkfifo(facts["home"] + "/fifo")


# ---- processes


@attack
def kill_victim(facts: Facts) -> None:
    os.kill(facts["victims"]["kill"], signal.SIGKILL)


@attack
def kill_by_pidfd(facts: Facts) -> None:
    signal.pidfd_send_signal(os.pidfd_open(facts["victims"]["pidfd"]), signal.SIGKILL)


@attack
def kill_group(facts: Facts) -> None:
    os.killpg(facts["victims"]["group"], signal.SIGKILL)


@attack
def trace_victim(facts: Facts) -> None:
    """PTRACE_ATTACH, and PTRACE_KILL for everybody to see."""
    LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    victim = facts["victims"]["trace"]
    call("ptrace", 16, victim, None, None)
    os.waitpid(victim, 0x40000000)
    call("ptrace", 8, victim, None, None)


@attack
def starve_victim(facts: Facts) -> None:
    import resource

    resource.prlimit(facts["victims"]["read"], resource.RLIMIT_CORE, (0, 0))
    resource.prlimit(facts["victims"]["limits"], resource.RLIMIT_NOFILE, (3, 3))


@attack
def stop_host(facts: Facts) -> None:
    """Who started us: not to be told by getppid, which says 0 or our own top."""
    os.kill(facts["host"], signal.SIGKILL)


# ---- the network


@attack
def connect_loopback(facts: Facts) -> None:
    socket.create_connection(("127.0.0.1", facts["ports"]["address"]), 5).close()


@attack
def connect_name(facts: Facts) -> None:
    socket.create_connection(("localhost", facts["ports"]["name"]), 5).close()


@attack
def connect_mapped(facts: Facts) -> None:
    with socket.socket(socket.AF_INET6) as own:
        own.connect(("::ffff:127.0.0.1", facts["ports"]["mapped"]))


@attack
def connect_fast(facts: Facts) -> None:
    with socket.socket() as own:
        own.sendto(b"OWNED", 0x20000000, ("127.0.0.1", facts["ports"]["fast"]))


@attack
def connect_unix(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(facts["unix"])


@attack
def connect_abstract(facts: Facts) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.connect("\0" + facts["abstract"])


@attack
def send_datagram(facts: Facts) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.sendto(b"OWNED", ("127.0.0.1", facts["ports"]["udp"]))


@attack
def listen(facts: Facts) -> None:
    """Until somebody came, or nobody for a second."""
    with socket.socket() as own:
        own.settimeout(1)
        own.bind(("127.0.0.1", facts["ports"]["free"]))
        own.listen()
        own.accept()[0].close()


family(
    lambda facts, *kind: overhear(*kind),
    open_raw_socket=(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP),
    open_packet_socket=(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
)


def answer_questions(facts: Facts, place: str) -> str:
    """At a session's socket: our own."""
    with socket.socket(socket.AF_UNIX) as own:
        own.settimeout(1)
        own.connect(place.format(runtime=facts["runtime"], run=os.path.basename(run_directory())))
        own.sendall(b'{"op": "answer", "n": 1, "question": "q1", "answer": {"verdict": "allow", "scope": "run"}}\n')
        return own.recv(1000).decode()


family(
    answer_questions,
    connect_session=("{runtime}/sandlock/{run}/socket",),
    connect_beside_session=("{runtime}/beside",),
)


# ---- programs

PUSH = "git push -q bare main:{}"


def push(facts: Facts, name: str, *words: str) -> str:
    return ran(*(word.replace("PUSH", PUSH.format(name)).replace("NAME", name) for word in words))


PYTHON_PUSH = "import os; os.execlp('git', 'git', 'push', '-q', 'bare', 'main:NAME')"
family(
    push,
    push_itself=("push_itself", "git", "push", "-q", "bare", "main:NAME"),
    push_by_shell=("push_by_shell", "sh", "-c", "true; PUSH"),
    push_by_env=("push_by_env", "env", "-i", "PATH=/usr/bin:/bin", "git", "push", "-q", "bare", "main:NAME"),
    push_by_xargs=("push_by_xargs", "sh", "-c", "echo push -q bare main:NAME | xargs git"),
    push_by_python=("push_by_python", sys.executable, "-c", PYTHON_PUSH),
    push_by_separators=("push_by_separators", "sh", "-c", "g=it; 'g'$g${IFS}pu''sh${IFS}-q${IFS}bare${IFS}main:NAME"),
    push_by_alias=("push_by_alias", "git", "-c", "alias.publish=push", "publish", "-q", "bare", "main:NAME"),
    push_by_shell_alias=("push_by_shell_alias", "git", "-c", "alias.p=!git push", "p", "-q", "bare", "main:NAME"),
    push_by_nohup=("push_by_nohup", "nohup", "timeout", "9", "git", "push", "-q", "bare", "main:NAME"),
)


@attack
def push_by_link(facts: Facts) -> str:
    os.symlink(shutil.which("git") or "", "tool")
    return ran("./tool", "push", "-q", "bare", "main:push_by_link")


@attack
def become_root(facts: Facts) -> str:
    return ran("sudo", "-n", "touch", "by-sudo")


@attack
def gain_by_setuid(facts: Facts) -> str:
    """A copy of cat(1) that is root's and has the bit, and a file that only root can read."""
    if not facts["rootly"]:
        raise PermissionError(errno.EPERM, "we are root already")
    return ran(facts["rootly"], facts["others"])


def nested(facts: Facts, *words: str) -> str:
    key = facts["home"] + "/.ssh/id_ed25519"
    options = [word.replace("KEY", key) for word in words]
    python, path = facts["sandlock"]["python"], facts["sandlock"]["path"]
    return ran(python, "-m", "sandlock.cli", *options, "--", "cat", key, env=os.environ | {"PYTHONPATH": path})


family(
    nested,
    nested_run=("run", "--preset", "system", "-r", "KEY"),
    nested_agent_run=("agent", "run", "-r", "KEY"),
)


@attack
def widen_by_variables(facts: Facts) -> str:
    names = ("PROFILE", "POLICY", "FS_READABLE", "DISABLE", "OFF", "REQUIRE", "DEBUG", "ASK", "PRESET")
    variables = {f"SANDLOCK_{name}": "/" if name == "FS_READABLE" else "none" for name in names}
    return ran("cat", facts["home"] + "/.ssh/id_ed25519", env=os.environ | variables)


# ---- the kernel

if os.uname().machine == "x86_64":
    family(lambda facts, name: system_call(name, facts["mark"]), **{f"call_{name}": (name,) for name in NUMBERS})


@attack
def call_open_by_handle(facts: Facts) -> str:
    return open_by_handle(facts["home"] + "/.ssh/id_ed25519")


@attack
def type_into_terminal(facts: Facts) -> None:
    """TIOCSTI: keys that nobody pressed."""
    from fcntl import ioctl

    terminal = os.open("/dev/tty", os.O_RDWR)
    for key in b"o\n":
        ioctl(terminal, 0x5412, bytes([key]))


@attack
def write_git_commondir(facts: Facts) -> None:
    """The last one: without the sandbox, git is out of order then."""
    write_home(facts, "work/.git/commondir")


def main(how: str, *arguments: str) -> None:
    with open(arguments[-1], encoding="utf-8") as file:
        facts = json.load(file)
    names = list(ATTACKS)
    if how == "work":
        from fake_work import WORK

        ATTACKS.update(WORK)
        names = facts["work"]
    elif how == "one":
        names = [arguments[0]]
    else:
        print("waiting", flush=True)
        facts |= json.loads(sys.stdin.readline())
        names = facts.get("only", names)
    for name in names:
        print(json.dumps(tried(name, facts)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
