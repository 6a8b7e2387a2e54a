"""The place in which a fake agent works: a home directory with secrets, processes to attack, services to reach; and
what can be seen of all that from outside."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import ordinary
import seen_in_proc

VICTIM = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))
own = ctypes.create_string_buffer(os.environ["MEMORY_SECRET"].encode())
file = open("victim-file", "w+"); os.unlink("victim-file"); file.write(os.environ["FILE_SECRET"]); file.flush()
print(ctypes.addressof(own), flush=True)
time.sleep(600)
"""
HIDDEN = {
    "ssh": ".ssh/id_ed25519",
    "spare": ".ssh/spare",
    "aws": ".aws/credentials",
    "netrc": ".netrc",
    "firefox": ".mozilla/firefox/x.default/logins.json",
    "chromium": ".config/chromium/Default/Cookies",
    "profile": ".config/sandlock/profiles/mine.toml",
    "env": "work/.env",
    "env_below": "work/sub/.env.local",
    "env_renamed": "work/sub/.env.renamed",
    "env_moved": "work/moving/.env",
}
"""Files below the home directory with a secret each."""
PLAIN = {
    ".bashrc": "mine\n",
    "notes": "mine\n",
    "linked-to": "mine\n",
    "replaced": "mine\n",
    "long": "mine\n",
    "unlinked": "mine\n",
    "beside/file": "mine\n",
    "work/sub/file": "mine\n",
}
ROLES = ("read", "kill", "pidfd", "group", "trace", "limits", "host")


class World:
    """Everything around one run. `free`: one without a sandbox, which finds a session's record and socket too."""

    def __init__(self, who: ordinary.Person, name: str, *, free: bool) -> None:
        self.who, self.free = who, free
        self.home = os.path.join(who.home, name)
        self.work = os.path.join(self.home, "work")
        self.runtime = os.path.join(self.home, "runtime")
        kinds = (*HIDDEN, "host", "memory", "file", "other", "wire")
        self.secrets = {kind: f"SECRET-{kind}-{secrets.token_hex(8)}" for kind in kinds}
        self.victims: dict[str, subprocess.Popen[str]] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.mark = secrets.token_hex(8)
        self.name = f"sandlock-proof-{self.mark}"
        self.held: dict[str, bool] = {}
        self.others = os.path.join(os.path.dirname(who.home), f"others-{self.mark}")
        self.rootly = ""
        self.came = threading.Event()
        self._over = threading.Event()
        self._prober = threading.Thread(target=self._probe)

    def __enter__(self) -> World:
        self._make_files()
        self._make_repository()
        self.address = 0
        for role in ROLES:
            self.victims[role] = self._victim()
            stdout = self.victims[role].stdout
            assert stdout is not None
            self.address = int(stdout.readline()) if role == "read" else self.address * bool(stdout.readline())
        self._listen()
        self._prober.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._prober.join()
        for each in self.victims.values():
            each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
        for own in self.sockets.values():
            own.close()
        for path in (self.others, self.tmp_file, self.shm_file, self.cron_file):
            with suppress(OSError):
                os.unlink(path)

    @property
    def tmp_file(self) -> str:
        return f"/tmp/{self.name}"

    @property
    def shm_file(self) -> str:
        return f"/dev/shm/{self.name}"

    @property
    def cron_file(self) -> str:
        return f"/etc/cron.d/{self.name}"

    @property
    def record(self) -> str:
        """The directory of the run."""
        return min(glob.glob(f"{self.home}/.local/state/sandlock/runs/*"))  # nested ones come later

    def file(self, name: str) -> str:
        """What a file below the home directory holds; "" if there is none."""
        with suppress(OSError), open(os.path.join(self.home, name), encoding="utf-8", errors="replace") as file:
            return file.read()
        return ""

    def exists(self, name: str) -> bool:
        return os.path.lexists(os.path.join(self.home, name))

    def ended(self, role: str) -> bool:
        """Whether a signal ended a victim, within a moment."""
        with suppress(subprocess.TimeoutExpired):
            self.victims[role].wait(0.3)
        return (self.victims[role].returncode or 0) < 0

    def reached(self, name: str) -> bool:
        """Whether anybody came to this service."""
        own = self.sockets[name]
        own.setblocking(False)
        try:
            if own.type == socket.SOCK_DGRAM:
                return bool(own.recv(100))
            own.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def put(self, host: subprocess.Popen[str]) -> None:
        """In the place of the victim that is called so."""
        self.victims["host"].kill()
        self.victims["host"].communicate()
        self.victims["host"] = host

    @property
    def was_answered(self) -> bool:
        """Whether a question of the run was answered by anybody but a person in front of it."""
        with open(f"{self.record}/log.jsonl", encoding="utf-8") as file:
            return any(json.loads(line).get("by", "") not in ("", "tty") for line in file)

    def look(self, attack: str, pid: int) -> None:
        """Sees what an attack has led to in a process that holds still."""
        self.held[attack] = seen_in_proc.happened(attack, pid, self.name, self.who)

    @property
    def crontab(self) -> str:
        """Whatever this person has at times of the clock."""
        return "" if shutil.which("crontab") is None else self.who.run(["crontab", "-l"]).stdout

    def limit_of(self, role: str) -> str:
        with open(f"/proc/{self.victims[role].pid}/limits", encoding="utf-8") as file:
            return next(line for line in file if line.startswith("Max open files")).split()[3]

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever starts the agent."""
        more = {"HOME": self.home, "XDG_RUNTIME_DIR": self.runtime, "HOST_SECRET": self.secrets["host"]}
        if self.free:
            more["TMPDIR"] = os.path.join(self.record, "tmp")
        return self.who.environment(more)

    def facts(self, **more: object) -> str:
        """Writes what the agent may know into its workspace; the path."""
        ports = {key: own.getsockname()[1] for key, own in self.sockets.items() if own.family != socket.AF_UNIX}
        facts: dict[str, object] = {
            "home": self.home,
            "runtime": self.runtime,
            "others": self.others,
            "victims": {role: each.pid for role, each in self.victims.items()},
            "address": self.address,
            "memory_secret_like": "x" * len(self.secrets["memory"]),
            "tmp_file": self.tmp_file,
            "shm_file": self.shm_file,
            "cron_file": self.cron_file,
            "ports": ports | {"free": self.free_port},
            "unix": f"{self.home}/s",
            "abstract": self.name,
            "mark": self.name,
            "rootly": self.rootly,
            "sandlock": {"python": self.who.python, "path": self._python_path},
        }
        return self.write("work/facts.json", json.dumps(facts | more))

    @property
    def sandlock_places(self) -> list[str]:
        """Flags that let sandlock itself run in the sandbox, so that a nested one has its chance."""
        pythons = (self.who.python, os.path.realpath(self.who.python))
        places = [os.path.dirname(os.path.dirname(path)) for path in pythons]
        if not self.who.identity:
            places += [sys.base_prefix, *filter(os.path.isdir, os.environ.get("PYTHONPATH", "").split(":"))]
        return [word for place in dict.fromkeys(places) if place != "/usr" for word in ("-r", place)]

    @property
    def _python_path(self) -> str:
        return "" if self.who.identity else os.environ.get("PYTHONPATH", "")

    # Making it

    def write(self, name: str, text: str, mode: int = 0o600) -> str:
        path = os.path.join(self.home, name)
        missing = []
        above = os.path.dirname(path)
        while not os.path.isdir(above):
            missing.append(above)
            above = os.path.dirname(above)
        for each in reversed(missing):
            os.mkdir(each, 0o700)
            os.chown(each, self.who.uid, self.who.gid)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        os.chown(path, self.who.uid, self.who.gid)
        return path

    def _make_files(self) -> None:
        for key, name in HIDDEN.items():
            self.write(name, self.secrets[key] + "\n")
        for name, text in PLAIN.items():
            self.write(name, text)
        self.write("runtime/mark", "")
        for name in ("fake_agent.py", "fake_calls.py", "fake_work.py"):
            with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
                self.write(f"work/{name}", file.read())
        with open(self.others, "w", encoding="utf-8") as file:
            file.write(self.secrets["other"])
        os.chmod(self.others, 0o600)
        if os.geteuid() == 0:
            os.chown(self.others, *((0, 0) if self.who.uid else (ordinary.SPARE_ID, ordinary.SPARE_ID)))
        if self.who.identity:  # a set-user-ID program of root's
            self.rootly = self.write("work/rootly", "")
            shutil.copyfile("/usr/bin/cat", self.rootly)
            os.chown(self.rootly, 0, 0)
            os.chmod(self.rootly, 0o4755)
        if self.free:
            id = "20200101-000000-abcd"
            self.write(f".local/state/sandlock/runs/{id}/tmp/file", "")
            for name in ("log.jsonl", "session.json"):
                self.write(f".local/state/sandlock/runs/{id}/{name}", '{"schema": 1, "record": "run_start"}\n')
            self.write(f"runtime/sandlock/{id}/mark", "")

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "init.defaultBranch=main")
        done = self.who.run(["git", *who, *words], cwd=self.work, env={"HOME": self.home, "GIT_CONFIG_NOSYSTEM": "1"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _make_repository(self) -> None:
        self.git("init", "-q")
        self.git("init", "-q", "--bare", "bare.git")
        self.git("add", "sub/file")
        self.git("commit", "-qm", "first")
        self.git("remote", "add", "bare", f"{self.work}/bare.git")

    def _victim(self) -> subprocess.Popen[str]:
        environment = {"MEMORY_SECRET": self.secrets["memory"], "FILE_SECRET": self.secrets["file"]}
        return subprocess.Popen(
            ["/usr/bin/python3", "-c", VICTIM],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment | environment,
            start_new_session=True,
            **self.who.identity,  # type: ignore[call-overload]
        )

    def _listen(self) -> None:
        for name in ("address", "name", "mapped", "fast"):
            self.sockets[name] = socket.create_server(("127.0.0.1", 0))
        self.sockets["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sockets["udp"].bind(("127.0.0.1", 0))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.free_port = unused.getsockname()[1]
        unix = {"unix": f"{self.home}/s", "abstract": f"\0{self.name}", "beside": f"{self.runtime}/beside"}
        if self.free:
            unix["session"] = f"{self.runtime}/sandlock/20200101-000000-abcd/socket"
        for name, where in unix.items():
            own = self.sockets[name] = socket.socket(socket.AF_UNIX)
            holder, _, entry = where.rpartition("/")
            if not holder:
                own.bind(where)
            else:  # its full path may be too long
                fd = os.open(holder, os.O_PATH | os.O_DIRECTORY)
                own.bind(f"/proc/self/fd/{fd}/{entry}")
                os.close(fd)
                os.chmod(where, 0o777)
            own.listen()

    def _probe(self) -> None:
        """Comes to the agent's own server, should it have one; and talks to itself, for whoever overhears that."""
        while not self._over.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                own.bind(("127.0.0.1", 0))
                own.sendto(self.secrets["wire"].encode(), own.getsockname())
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.free_port), 1) as own:
                if own.getsockname() != own.getpeername():  # a port of its own choice may be the one it looks for
                    self.came.set()
            time.sleep(0.03)
