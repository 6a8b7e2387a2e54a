"""Where attacks are tried: the same program, by the same user, once free and once confined, judged from outside.

`arena` runs attacks as root and as an ordinary user; a test that uses it runs once for each. What a test proves has
three parts: free, the attack changes or shows something that can be seen from outside; confined, it does not; and the
sandboxed program was not just unable to run (it answered, with the errno that was expected).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ordinary

MARK = "OWNED"
DENIED = frozenset({"EACCES", "EPERM"})
PATIENCE = 5.0


@dataclass(frozen=True)
class Outcome:
    """How an attack ended, by its own word."""

    out: str
    exit: int
    signal: int | None
    reason: str

    @property
    def word(self) -> str:
        """What the attack says it got: "0", or the name of an errno. Empty if it could not say."""
        lines = self.out.split("\n")
        return lines[-2].strip() if len(lines) > 1 else ""

    @property
    def lines(self) -> list[str]:
        """Everything else that it printed."""
        return self.out.split("\n")[:-2]


class Running:
    """An attack that runs while the test looks at it."""

    def __init__(self, arena: Arena, id: int, pid: int) -> None:
        self._arena = arena
        self._id = id
        self.pid = pid

    def line(self) -> str:
        """The next line that it prints; "" at the end."""
        return str(self._arena.ask(do="line", id=self._id)["line"])

    def tell(self, text: str) -> None:
        """Writes to its stdin."""
        self._arena.ask(do="tell", id=self._id, text=text)

    def finish(self) -> Outcome:
        """Closes its stdin and waits for it."""
        return Outcome(**self._arena.ask(do="finish", id=self._id))

    def kill(self) -> None:
        """Ends it."""
        self._arena.ask(do="kill", id=self._id)


class Arena:
    """One user's arena: an embedding process of theirs, and directories for them."""

    def __init__(self, person: ordinary.Person, program: str) -> None:
        self.person = person
        self.program = program
        self._rooms = itertools.count()
        self._host = subprocess.Popen(
            [person.python, os.path.join(person.tests, "attacks", "host.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=person.environment({"SANDLOCK_TEST_SECRET": "environment-of-the-host"}),
            cwd=person.home,
            start_new_session=True,  # attacks on its group shall reach nobody else
            **person.identity,  # type: ignore[call-overload]
        )

    def __repr__(self) -> str:
        return f"<arena of {self.person.name}>"

    @property
    def is_root(self) -> bool:
        return self.person.uid == 0

    # ---- running

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order to the embedding process. Raises AssertionError with its traceback."""
        stdin, stdout = self._host.stdin, self._host.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        line = stdout.readline()
        assert line, f"the embedding process has ended: {self._host.wait()}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer

    def free(self, *attack: object, **options: Any) -> Outcome:
        """The attack without a sandbox."""
        argv = [self.program, *map(str, attack)]
        return Outcome(**self.ask(do="run", confined=False, argv=argv, fields={}, **options))

    def confined(
        self, *attack: object, policy: dict[str, Any] | None = None, options: dict[str, Any] | None = None
    ) -> Outcome:
        """The attack in a sandbox that can execute the attacker, and has what `policy` grants."""
        argv = [self.program, *map(str, attack)]
        order = {"do": "run", "confined": True, "argv": argv, "fields": self.policy(policy)}
        return Outcome(**self.ask(**order, **(options or {})))

    def try_confined(self, *attack: object, policy: dict[str, Any]) -> str:
        """What the attack prints, or the last line of the error if it was not even launched."""
        try:
            return self.confined(*attack, policy=policy).out
        except AssertionError as error:
            return str(error).strip().rpartition("\n")[2]

    def policy(self, policy: dict[str, Any] | None = None) -> dict[str, Any]:
        """The fields of a policy under which the attacker can be executed."""
        fields = dict(policy or {})
        fields["fs_readable"] = [self.program, *fields.get("fs_readable", ())]
        return fields

    @contextlib.contextmanager
    def running(
        self, *attack: object, confined: bool, policy: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[Running]:
        """An attack that runs meanwhile; killed at the end if it still does."""
        argv = [self.program, *map(str, attack)]
        fields = self.policy(policy) if confined else {}
        answer = self.ask(do="start", confined=confined, argv=argv, fields=fields, **options)
        started = Running(self, answer["id"], answer["pid"])
        try:
            yield started
        finally:
            with contextlib.suppress(AssertionError):  # finished by the test
                started.kill()

    @contextlib.contextmanager
    def victim(self, confined: bool = False) -> Iterator[Victim]:
        """A process of the same user, outside of the attacker's sandbox."""
        room = self.room()
        secret = self.secret()
        path = self.write(os.path.join(room, "victims-secret"), secret)
        policy = {"fs_readable": [path]}
        with self.running("victim", path, confined=confined, policy=policy) as started:
            _, pid, address, fd = started.line().split()
            yield Victim(started, int(pid), address, int(fd), secret)

    def close(self) -> None:
        """Ends the embedding process."""
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        self._host.stdin.close()
        self._host.stdout.close()
        self._host.wait(PATIENCE)

    # ---- files

    def room(self, *parts: str) -> str:
        """A new empty directory of the user, that nothing of a policy names yet."""
        path = os.path.join(self.person.home, f"room{next(self._rooms)}", *parts)
        os.makedirs(path)
        self.give(os.path.dirname(path) if parts else path)
        self.give(path)
        return path

    def subdirectory(self, parent: str, name: str) -> str:
        """A new directory of the user in one that is there."""
        path = os.path.join(parent, name)
        os.mkdir(path)
        return self.give(path)

    def write(self, path: str, text: str = "", mode: int = 0o600) -> str:
        """A file of the user."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return self.give(path)

    def give(self, path: str) -> str:
        """Make something the user's own, so that nothing but the sandbox protects it."""
        os.chown(path, self.person.uid, self.person.gid, follow_symlinks=False)
        return path

    def tool(self, directory: str, name: str = "tool") -> str:
        """A copy of the attack program that is not in any policy."""
        path = os.path.join(directory, name)
        shutil.copy(self.program, path)
        os.chmod(path, 0o755)
        return self.give(path)

    def secret(self) -> str:
        """A text that nobody can guess."""
        return "secret-" + secrets.token_hex(8)


@dataclass
class Victim:
    """A process that an attack is aimed at, and what can be seen of it from outside."""

    started: Running
    pid: int
    address: str
    fd: int
    secret: str

    def state(self) -> tuple[int, str]:
        """How many signals it got, and the secret in its memory."""
        self.started.tell("?\n")
        _, signals, _, secret = self.started.line().split(" ", 3)
        return int(signals), secret

    def wait_for_signal(self) -> int:
        """The count of signals, when the first has arrived or will not."""
        deadline = time.monotonic() + PATIENCE
        while not (count := self.state()[0]) and time.monotonic() < deadline:
            time.sleep(0.001)
        return count

    def status(self, key: str) -> str:
        """A line of /proc/PID/status."""
        return status_of(self.pid, key)

    def stat(self) -> list[str]:
        """The fields of /proc/PID/stat after the name; proc(5)'s field N is index N - 3."""
        return read(f"/proc/{self.pid}/stat").rpartition(") ")[2].split()

    def limit(self, name: str) -> str:
        """The soft limit in /proc/PID/limits."""
        line = next(line for line in read(f"/proc/{self.pid}/limits").splitlines() if line.startswith(name))
        return line[len(name) :].split()[0]


def status_of(pid: int, key: str) -> str:
    """A line of /proc/PID/status."""
    for line in read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return value.strip()
    raise LookupError(key)


def read(path: str) -> str:
    """A text file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def snapshot(directory: str) -> dict[str, tuple[object, ...]]:
    """Everything below a directory that an attack could change: names, kinds, modes, contents, link counts."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(directory):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = read(path)
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, directory)] = (status.st_mode, status.st_nlink, status.st_uid, content)
    return found


class Listener:
    """A server of ours on the loopback, or on a unix socket, that counts who comes and what they say."""

    def __init__(self, family: int, address: Any, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> None:
        self.socket = socket.socket(family, kind, protocol)
        self.socket.bind(address)
        if kind != socket.SOCK_DGRAM:
            self.socket.listen(16)
        self.kind = kind

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def visits(self, patience: float = 0.0) -> list[bytes]:
        """What each visitor since the last call has sent. `patience`: seconds to wait for the first one."""
        found: list[bytes] = []
        self.socket.settimeout(patience or 0.001)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                if self.kind == socket.SOCK_DGRAM:
                    found.append(self.socket.recv(64))
                else:
                    peer, _ = self.socket.accept()
                    with peer:
                        peer.settimeout(PATIENCE)
                        try:
                            found.append(peer.recv(64))
                        except ConnectionError:  # came, and went without a word
                            found.append(b"")
                self.socket.settimeout(0.001)
        return found

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def tcp(family: int = socket.AF_INET, host: str = "127.0.0.1") -> Listener:
    """A TCP server on a port of the kernel's choice."""
    return Listener(family, (host, 0))


def free_port() -> int:
    """A TCP port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening_ports(pid: int) -> set[int]:
    """The TCP ports on which a process really listens, by the kernel's tables."""
    mine = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            mine.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in read(f"/proc/{pid}/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def visible(seen: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Whether something becomes true within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
