"""The network by address: the supervisor makes each call for the program, on its own socket. Judged by who arrives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks.arena import Arena, Listener, free_port, tcp
from planned import a_host
from test_confined_network import HOSTS, SPOKEN, assert_shut

import sandlock
from sandlock import Policy, PolicyError, Sandbox, Unsupported
from sandlock._plan import plan

pytest_plugins = ("attacks.fixtures",)
pytestmark = pytest.mark.needs(landlock=6, kernel=(5, 19))
HERE = os.path.dirname(os.path.abspath(__file__))


def python(*argv: str, **fields: Any) -> sandlock.Result:
    with Sandbox(presets=["python"], fs_readable=[HERE], **fields) as box:
        return box.run([sys.executable, *argv], timeout=30)


# ---- who may be reached


@pytest.mark.parametrize("host", HOSTS)
def test_addresses_are_told_apart(arena: Arena, host: str) -> None:
    family, bind_to, spelling = HOSTS[host]
    granted = f"[{bind_to}]" if ":" in bind_to else bind_to
    with tcp(family, bind_to) as server:
        attack = ("connect", "stream", 0, spelling, server.port)
        for rule in (f"192.0.2.1:{server.port}", f"{granted}:9", "10.0.0.0/8", f"udp://{granted}:{server.port}"):
            assert_shut(arena, server, *attack, policy={"net_allow": [rule]})
        for rule in (f"{granted}:{server.port}", f"localhost:{server.port}", granted):
            assert arena.confined(*attack, policy={"net_allow": [rule]}).word == "0"
            assert server.visits(patience=5) == SPOKEN


@pytest.mark.parametrize("host", HOSTS)
def test_a_denial_wins(arena: Arena, host: str) -> None:
    family, bind_to, spelling = HOSTS[host]
    network = "::1/128" if ":" in bind_to else "127.0.0.0/8"
    network = f"[{network}]" if ":" in network else network
    with tcp(family, bind_to) as server:
        attack = ("connect", "stream", 0, spelling, server.port)
        for denied in (network, f":{server.port}", "localhost", "*"):
            policy = {"net_allow": ["*", "localhost"], "net_deny": [denied]}
            assert_shut(arena, server, *attack, policy=policy)
        policy = {"net_allow": ["*"], "net_deny": ["192.0.2.0/24", ":9", f"udp://:{server.port}"]}
        assert arena.confined(*attack, policy=policy).word == "0"
        assert server.visits(patience=5) == SPOKEN


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg", "connect"])
@pytest.mark.parametrize("family", ["v4", "v6", "v4-mapped"])
def test_datagrams_go_where_they_are_granted(arena: Arena, call: str, family: str) -> None:
    number, bind_to, host = HOSTS[family]
    granted = f"[{bind_to}]" if ":" in bind_to else bind_to
    with Listener(number, (bind_to, 0), socket.SOCK_DGRAM) as server:
        attack = ("send", call, "datagram", host, server.port, 0)
        for rule in (f"udp://{granted}:9", "udp://192.0.2.1", f"{granted}:{server.port}"):
            assert_shut(arena, server, *attack, policy={"net_allow": [rule, "udp://:9"]})
        assert_shut(arena, server, *attack, policy={"net_allow": ["udp://*"], "net_deny": [granted]})
        assert arena.confined(*attack, policy={"net_allow": [f"udp://{granted}:{server.port}"]}).word == "0"
        assert server.visits(patience=5) == SPOKEN


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg"])
def test_fast_open_stays_shut(arena: Arena, call: str) -> None:
    with tcp() as server:
        policy = {"net_allow": ["127.0.0.1:9", "udp://*"]}
        attack = ("send", call, "stream", "127.0.0.1", server.port, 0x20000000)
        assert_shut(arena, server, *attack, policy=policy)


def test_a_granted_connection_is_not_aimed_elsewhere(arena: Arena) -> None:
    with tcp() as granted, tcp() as server:
        for how in ("unspec", "unspec-fastopen"):
            attack = ("aim-again", "127.0.0.1", granted.port, server.port, how)
            assert_shut(arena, server, *attack, policy={"net_allow": [f"127.0.0.1:{granted.port}"]})


def test_an_inherited_socket_is_no_way_around(arena: Arena) -> None:
    """Under these rules also for datagrams, which Landlock does not know."""
    with tcp() as server:
        attack = ("inherited-aim", "connect", "127.0.0.1", server.port)
        assert_shut(arena, server, *attack, policy={"net_allow": ["192.0.2.1"]}, stdin="tcp")
    with Listener(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM) as receiver:
        attack = ("inherited-aim", "sendto", "127.0.0.1", receiver.port)
        assert_shut(arena, receiver, *attack, policy={"net_allow": ["udp://192.0.2.1"]}, stdin="udp")


SOURCE_ROUTE = """
import socket, sys
s = socket.socket()
for level, option in ((0, 4), (41, 54), (41, 55), (41, 57), (41, 59), (41, 6)):
    try:
        s.setsockopt(level, option, bytes([1, 1, 1, 1]))  # no-ops: a route would need CAP_NET_RAW without us
        print("set")
    except OSError as error:
        print(error.errno)
"""


def test_no_route_but_the_kernels() -> None:
    free = subprocess.run([sys.executable, "-c", SOURCE_ROUTE], capture_output=True, text=True, check=True)
    assert free.stdout.split()[0] == "set"
    assert python("-c", SOURCE_ROUTE, net_allow=["127.0.0.1"]).stdout == b"1\n" * 6


UNSPECIFIED = """
import socket, sys
for destination in sys.argv[3:]:
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(family, kind)
        s.bind(("::ffff:" * (":" in destination) + sys.argv[1], 0))
        print(s.connect_ex((destination, int(sys.argv[2]))))
        try:
            s.send(b"OWNED")
        except OSError:
            pass
"""


def test_the_unspecified_address_is_the_loopback_and_no_other() -> None:
    """The kernel takes the source's own address for it, which may be one that is denied."""
    with tcp(socket.AF_INET, "127.0.0.2") as server:
        words = ["127.0.0.2", str(server.port), "0.0.0.0", "::ffff:0.0.0.0", "::"]
        subprocess.run([sys.executable, "-c", UNSPECIFIED, *words], check=True, capture_output=True)
        assert SPOKEN[0] in server.visits(patience=5), "the control: that is where it leads"
        time.sleep(0.2)
        server.visits()
        port = server.port
        rules = [f"127.0.0.1:{port}", f"[::1]:{port}", f"udp://127.0.0.1:{port}", f"udp://[::1]:{port}"]
        result = python("-c", UNSPECIFIED, *words, net_allow=rules)
        assert result.exit_code == 0, result.stderr
        assert server.visits() == []


# ---- races

SWAP = """
import ctypes, socket, struct, sys, threading, time
good, bad = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(16)
def address(port): return struct.pack("=HHI8x", 2, socket.htons(port), socket.htonl(0x7F000001))
texts = [address(good), address(bad)]
stop = False
def flip():
    while not stop:
        for text in texts:
            ctypes.memmove(buffer, text, 16)
thread = threading.Thread(target=flip)
thread.start()
sys.setswitchinterval(1e-6)
end = time.monotonic() + 3
tries = reached = 0
while time.monotonic() < end:
    tries += 1
    s = socket.socket()
    if libc.connect(s.fileno(), buffer, 16) == 0:
        reached += 1
    s.close()
stop = True
print(tries, reached)
"""


class Counter:
    """Counts who connects."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.socket = socket.socket()
        self.socket.bind((address, 0))
        self.socket.listen(512)
        self.port = self.socket.getsockname()[1]
        self.count = 0
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.count += 1

    def close(self) -> int:
        time.sleep(0.1)
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.socket.close()
        return self.count


@pytest.mark.slow
def test_an_address_that_changes_while_it_is_judged_never_wins() -> None:
    good, bad = Counter(), Counter()
    result = python("-c", SWAP, str(good.port), str(bad.port), net_allow=[f"127.0.0.1:{good.port}"])
    tries, reached = map(int, result.stdout.split())
    assert (good.close() > 0, bad.close()) == (True, 0)
    assert tries > reached > 0
    assert tries > 1000
    good, bad = Counter(), Counter()
    subprocess.run([sys.executable, "-c", SWAP, str(good.port), str(bad.port)], check=True, capture_output=True)
    assert min(good.close(), bad.close()) > 0, "the attack works where nobody is in its way"


# ---- as without us


@pytest.fixture
def servers() -> Iterator[tuple[int, int, int]]:
    """Ports: one that listens, one that echoes datagrams, one that is closed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            data, sender = echo.recvfrom(65536)
            if data == b"stop":
                return
            echo.sendto(data, sender)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], echo.getsockname()[1], free_port()
    echo.sendto(b"stop", echo.getsockname())
    thread.join(5)
    echo.close()
    listener.close()


def test_programs_see_what_they_see_without_us(servers: tuple[int, int, int]) -> None:
    program = [os.path.join(HERE, "socket_program.py"), *map(str, servers)]
    free = subprocess.run([sys.executable, *program], capture_output=True, check=False)
    assert free.returncode == 0, free.stderr
    confined = python(*program, net_allow=["localhost", "udp://localhost"])
    assert confined.stdout.decode().splitlines() == free.stdout.decode().splitlines()
    assert confined.exit_code == 0


BLACKHOLE = """
import socket, sys, threading, time
port, open_port = int(sys.argv[1]), int(sys.argv[2])
def knock():
    s = socket.socket()
    s.connect(("127.0.0.1", port))
for _ in range(30):
    threading.Thread(target=knock, daemon=True).start()
time.sleep(0.5)
before = time.monotonic()
for _ in range(20):
    socket.create_connection(("127.0.0.1", open_port)).close()
print(time.monotonic() - before < 5)
"""

INTERRUPTED = """
import signal, socket, sys
class Rang(Exception): pass
def ring(*_): raise Rang
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.3)
s = socket.socket()
try:
    s.connect(("127.0.0.1", int(sys.argv[1])))
except Rang:
    print("interrupted")
t = socket.socket()
t.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, (300000).to_bytes(8, "little").rjust(16, b"\\0"))
try:
    t.connect(("127.0.0.1", int(sys.argv[1])))
except OSError as error:
    print(error.errno)
"""


@pytest.fixture
def blackhole() -> Iterator[int]:
    """A port that takes no more connections, and refuses none."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(full.getsockname())
            waiting.append(each)
        time.sleep(0.1)
        yield full.getsockname()[1]
        for each in waiting:
            each.close()


def test_connections_that_hang_delay_nobody(blackhole: int, servers: tuple[int, int, int]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    result = python("-c", BLACKHOLE, str(blackhole), str(servers[0]), net_allow=["127.0.0.1"])
    assert (result.exit_code, result.stdout) == (0, b"True\n")
    assert time.monotonic() - started < 20
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_connection_that_hangs_is_interrupted_and_times_out(blackhole: int) -> None:
    free = subprocess.run([sys.executable, "-c", INTERRUPTED, str(blackhole)], capture_output=True, check=True)
    assert free.stdout.split() == [b"interrupted", b"115"]
    result = python("-c", INTERRUPTED, str(blackhole), net_allow=["127.0.0.1"])
    assert result.stdout == free.stdout, result.stderr


def test_the_end_of_a_run_ends_connections_that_hang(blackhole: int) -> None:
    code = "import socket, sys; socket.socket().connect(('127.0.0.1', int(sys.argv[1])))"
    with Sandbox(presets=["python"], net_allow=["127.0.0.1"], timeout=0.5) as box:
        started = time.monotonic()
        result = box.run([sys.executable, "-c", code, str(blackhole)])
    assert result.timed_out
    assert time.monotonic() - started < 5


# ---- binding and listening


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::1", "-"])
def test_only_granted_ports_listen(arena: Arena, bound: str) -> None:
    port = free_port()
    attack = ("serve", "stream", 0, bound, port)
    for policy in ({"net_allow": ["127.0.0.1"]}, {"net_allow_bind": ["*"], "net_deny_bind": [port]}):
        if bound == "-" and "net_allow_bind" in policy:
            continue  # any other port is granted
        with arena.running(*attack, confined=True, policy=policy) as server:
            assert server.line() == "EACCES"
    if bound != "-":
        policy = {"net_allow": ["127.0.0.1"], "net_allow_bind": [port]}
        with arena.running(*attack, confined=True, policy=policy) as server:
            assert server.line() == f"port {port}"


# ---- unix sockets

UNIX = """
import os, socket, sys
where = sys.argv[1]
where = "\\0" + where[1:] if where[0] == "@" else where
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    s = socket.socket(socket.AF_UNIX, kind)
    try:
        if kind == socket.SOCK_DGRAM:
            s.sendto(b"OWNED", where)
        else:
            s.connect(where)
            s.sendall(b"OWNED")
        print("sent")
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_unix_sockets_by_name(tmp_path: Path, abstract: bool, kind: int) -> None:
    path = str(tmp_path / "service")
    link = str(tmp_path / "link")
    os.symlink(path, link)
    spelling = f"@{path}" if abstract else path
    with Listener(socket.AF_UNIX, "\0" + path if abstract else path, kind) as server:
        outcomes = []
        for rules in ([f"unix:{spelling}x"], ["localhost"], [f"unix:{link}"], [f"unix:{spelling}"]):
            outcomes.append(python("-c", UNIX, spelling, net_allow=rules).stdout.split())
            if rules != [f"unix:{spelling}"]:
                assert server.visits() == []
        mine = 0 if kind == socket.SOCK_STREAM else 1
        assert all(each[-1:] != [b"sent"] for each in outcomes[:-1])
        assert outcomes[-1][mine] == b"sent"
        assert server.visits(patience=5) == SPOKEN
        if not abstract:  # by a link: the file is what counts
            rules = [f"unix:{tmp_path}"]
            assert python("-c", UNIX, link, net_allow=rules).stdout.split()[mine] == b"sent"
            assert server.visits(patience=5) == SPOKEN


def test_a_unix_server_is_bound_where_it_is_granted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    code = (
        "import os, socket, sys\nos.umask(0o027)\n"
        "for path in sys.argv[1:]:\n"
        "  try: socket.socket(socket.AF_UNIX).bind(path); print('bound')\n"
        "  except OSError as error: print(error.errno)\n"
    )
    paths = [str(tmp_path / "in" / "a"), str(tmp_path / "out" / "b"), str(tmp_path / "in" / "a")]
    result = python("-c", code, *paths, fs_writable=[str(tmp_path / "in")], net_allow_bind=["unix:*"])
    assert result.stdout.split() == [b"bound", b"13", b"98"], result.stderr
    assert oct((tmp_path / "in" / "a").stat().st_mode & 0o777) == "0o750"
    assert os.listdir(tmp_path / "out") == []
    os.unlink(tmp_path / "in" / "a")
    result = python("-c", code, *paths[:1], fs_writable=[str(tmp_path / "in")], net_allow=["unix:*"])
    assert result.stdout.split() == [b"13"]
    assert os.listdir(tmp_path / "in") == []


# ---- what is written down


def test_denials_are_counted_and_say_what_would_allow_them() -> None:
    code = "import socket\nfor _ in range(5):\n  s = socket.socket()\n  print(s.connect_ex(('127.0.0.1', 9)))"
    result = python("-c", code, net_allow=["192.0.2.1"])
    assert result.stdout == b"13\n" * 5
    (denial,) = result.denials
    assert (denial.kind, denial.target, denial.cause, denial.count) == ("connect", "tcp://127.0.0.1:9", "no-rule", 5)
    assert denial.fix == "net_allow='tcp://127.0.0.1:9'"
    assert denial.fix in result.explain()
    fixed = python("-c", code, net_allow=["192.0.2.1", "tcp://127.0.0.1:9"])
    assert fixed.stdout == b"111\n" * 5
    (denial,) = python("-c", code, net_allow=["*"], net_deny=["127.0.0.0/8"]).denials
    assert (denial.cause, denial.rule, denial.fix) == ("rule", "127.0.0.0/8", "")


# ---- where it cannot be done


UNRULED = """
import os, socket, struct
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: udp.sendmsg([b"x"], [(socket.IPPROTO_IP, 7, b"\\7\\3\\4")], 0, ("127.0.0.1", 9))  # IP_RETOPTS: a source route
except OSError as error: print(error.errno)
try: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).sendto(b"x", (os.getppid(), 0))
except OSError as error: print(error.errno)
"""


def test_what_no_rule_can_be_about_is_written_down_as_well() -> None:
    result = python("-c", UNRULED, net_allow=["udp://127.0.0.1:9"])
    assert result.stdout.split() == [b"1", b"1"]
    assert [(denial.kind, denial.cause, denial.errno) for denial in result.denials] == [("send", "no-rule", 1)] * 2


def test_it_is_refused_where_it_would_not_hold() -> None:
    policy = Policy(net_allow="127.0.0.1")
    assert plan(policy, a_host()).needs_listener
    for lacking, missing in (("pidfd_getfd", "pidfd-getfd"), ("wait_killable", "seccomp-wait-killable")):
        with pytest.raises(Unsupported) as caught:
            plan(policy, a_host(**{lacking: False}))
        assert caught.value.missing == {missing}
    with pytest.raises(PolicyError, match="no network address"):
        plan(Policy(net_allow="443"), a_host())


def test_what_landlock_can_do_is_left_to_it() -> None:
    assert not plan(Policy(fs_readable="/usr", net_allow=[":443", "tcp://*:80"]), a_host()).supervised
    supervised = plan(Policy(fs_readable="/usr", net_allow=["10.0.0.0/8:443"]), a_host())
    assert {rule.syscall for rule in supervised.rules if rule.rule != "path"} == {"connect", "bind", "listen"}
    assert supervised.guest_ruleset.ports == ()
    assert supervised.supervisor_ruleset is not None
    assert [port for port, access in supervised.supervisor_ruleset.ports if access & 2] == [443]
