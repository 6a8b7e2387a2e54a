"""policy_fn: what no rule of the network decides is asked about, and what was approved is what happens."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from attacks.arena import Listener, free_port, tcp
from loops import Loop
from test_supervised_network import SPOKEN, UNIX, Counter

from sandlock import Allow, AsyncSandbox, Bind, Connect, Deny, Exec, Kill, Listen, Result, Send

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]


class Vetting:
    """Approves every exec, and answers the network's questions by `answer(event)`."""

    def __init__(self, loop: Loop, answer: Any) -> None:
        self.loop = loop
        self.answer = answer
        self.asked: list[Any] = []

    async def __call__(self, event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Exec):
            return Allow()
        self.asked.append(event)
        answer = self.answer(event)
        if isinstance(answer, float):
            await self.loop.sleep(answer)
            return Allow()
        return answer

    def run(self, code: str, *words: str, timeout: float = 20, **options: Any) -> Result:
        async def main() -> Result:
            async with AsyncSandbox(presets=["python"], policy_fn=self, **options) as box:
                return await box.run([sys.executable, "-c", code, *words], timeout=timeout)

        return self.loop.run(main)  # type: ignore[no-any-return]


CONNECT = """
import socket, sys
for port in sys.argv[1:]:
    s = socket.socket()
    error = s.connect_ex(("127.0.0.1", int(port)))
    if not error:
        s.sendall(b"OWNED")
    print(error, flush=True)
"""


@pytest.mark.parametrize(
    ("verdict", "word", "cause"),
    [
        (Deny("not there"), 13, "verdict"),
        (Deny("not there", 111), 111, "verdict"),
        (None, 13, "no-opinion"),
        (True, 13, "callback-error"),
    ],
)
def test_each_destination_is_asked_about(loop: Loop, verdict: Any, word: int, cause: str) -> None:
    with tcp() as good, tcp() as bad:
        vetting = Vetting(loop, lambda event: Allow() if event.port == good.port else verdict)
        result = vetting.run(CONNECT, str(good.port), str(bad.port))
        assert result.stdout.split() == [b"0", str(word).encode()], result.stderr
        assert good.visits(patience=5) == SPOKEN
        assert bad.visits() == []
        first, second = vetting.asked
        assert isinstance(first, Connect)
        assert (first.protocol, first.ip, first.port) == ("tcp", "127.0.0.1", good.port)
        assert (first.syscall, first.category, first.binding) == ("connect", "network", "on-behalf")
        assert second.target == f"tcp://127.0.0.1:{bad.port}"
        (denial,) = result.denials
        assert (denial.kind, denial.target, denial.cause) == ("connect", second.target, cause)


def test_rules_come_before_questions(loop: Loop) -> None:
    with tcp() as granted, tcp() as denied, tcp() as other:
        vetting = Vetting(loop, lambda event: Allow())
        result = vetting.run(
            CONNECT,
            str(granted.port),
            str(denied.port),
            str(other.port),
            net_allow=[f"127.0.0.1:{granted.port}"],
            net_deny=[f":{denied.port}"],
        )
        assert result.stdout.split() == [b"0", b"13", b"0"]
        assert [event.port for event in vetting.asked] == [other.port]
        assert (granted.visits(patience=5), denied.visits(), other.visits(patience=5)) == (SPOKEN, [], SPOKEN)


def test_kill(loop: Loop) -> None:
    with tcp() as server:
        result = Vetting(loop, lambda event: Kill("no")).run(CONNECT, str(server.port))
        assert result.signal == 9
        assert server.visits() == []


DATAGRAMS = """
import socket, sys
port = int(sys.argv[1])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for act in (
    lambda: s.sendto(b"OWNED", ("127.0.0.1", port)),
    lambda: s.sendmsg([b"OWN", b"ED"], [], 0, ("127.0.0.1", port)),
    lambda: (s.connect(("127.0.0.1", port)), s.send(b"OWNED"), s.sendmsg([b"OWNED"]))[1],
):
    try:
        print(act(), flush=True)
    except OSError as error:
        print(-error.errno, flush=True)
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_datagrams(loop: Loop, allowed: bool) -> None:
    with Listener(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM) as server:
        vetting = Vetting(loop, lambda event: Allow() if allowed else Deny("no"))
        result = vetting.run(DATAGRAMS, str(server.port))
        assert [type(event) for event in vetting.asked] == [Send, Send, Connect]
        assert {event.target for event in vetting.asked} == {f"udp://127.0.0.1:{server.port}"}
        assert vetting.asked[0].size == 5
        assert result.stdout.split() == [b"5" if allowed else b"-13"] * 3
        visits = server.visits(patience=5) if allowed else server.visits()
        while allowed and len(visits) < 4:
            visits += server.visits(patience=5)
        assert visits == (SPOKEN * 4 if allowed else [])


def test_binding_and_listening(loop: Loop) -> None:
    port, other = free_port(), free_port()
    code = (
        "import socket, sys\n"
        "for port in sys.argv[1:]:\n"
        "  s = socket.socket()\n"
        "  try: int(port) and s.bind(('127.0.0.1', int(port))); s.listen(); print('listens')\n"
        "  except OSError as error: print(error.errno)\n"
    )
    vetting = Vetting(loop, lambda event: Allow() if event.port == port else Deny("no"))
    result = vetting.run(code, str(port), str(other), "0")
    assert result.stdout.split() == [b"listens", b"13", b"13"]
    kinds = [(type(event), event.port) for event in vetting.asked]
    assert kinds == [(Bind, port), (Listen, port), (Bind, other), (Listen, 0)]


def test_unix_sockets(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "service")
    with Listener(socket.AF_UNIX, path) as server:
        refusing = Vetting(loop, lambda event: Deny("no"))
        assert refusing.run(UNIX, path).stdout.split() == [b"13", b"13"]
        assert server.visits() == []
        allowing = Vetting(loop, lambda event: Allow())
        assert allowing.run(UNIX, path).stdout.split()[0] == b"sent"
        assert server.visits(patience=5) == SPOKEN
        assert allowing.asked[0].target == f"unix:{path}"
        nobody = Vetting(loop, lambda event: Allow())
        assert nobody.run(UNIX, path + "-missing").stdout.split() == [b"2", b"2"]
        assert nobody.asked == []  # there is nothing to ask about


def test_a_socket_file_that_is_swapped_while_it_is_judged(loop: Loop, tmp_path: Path) -> None:
    """Approved was one server; the name leads to another one now."""
    with (
        Listener(socket.AF_UNIX, str(tmp_path / "good")) as good,
        Listener(socket.AF_UNIX, str(tmp_path / "bad")) as bad,
    ):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "good")

        def swap(event: Any) -> object:
            link.unlink()
            link.symlink_to(tmp_path / "bad")
            return Allow()

        vetting = Vetting(loop, swap)
        code = UNIX.replace("for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)", "for kind in (socket.SOCK_STREAM,)")
        result = vetting.run(code, str(link))
        assert result.stdout.split() == [b"13"]
        assert [(denial.cause, denial.target) for denial in result.denials] == [("changed", f"unix:{tmp_path}/good")]
        assert (good.visits(), bad.visits()) == ([], [])


SWAPPED = """
import os, socket, sys, threading, time
tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def swap():
    time.sleep(0.3)
    os.dup2(udp.fileno(), tcp.fileno())
threading.Thread(target=swap).start()
print(tcp.connect_ex(("127.0.0.1", int(sys.argv[1]))))
"""


def test_a_socket_that_is_swapped_while_it_is_judged(loop: Loop) -> None:
    with tcp() as server:
        vetting = Vetting(loop, lambda event: 0.8)
        result = vetting.run(SWAPPED, str(server.port))
        assert result.stdout.split() == [b"13"]
        assert [denial.cause for denial in result.denials] == ["changed"]
        assert server.visits() == []


def test_who_waits_delays_nobody(loop: Loop) -> None:
    code = (
        "import socket, subprocess, sys, threading, time\n"
        "def knock(i): socket.socket().connect_ex((f'127.0.1.{i}', int(sys.argv[1])))\n"
        "for i in range(64): threading.Thread(target=knock, args=[i]).start()\n"
        "time.sleep(0.3)\n"
        "before = time.monotonic()\n"
        "for _ in range(5): subprocess.run(['/bin/true'])\n"
        "socket.create_connection(('127.0.0.1', int(sys.argv[2]))).close()\n"
        "print(time.monotonic() - before < 3, flush=True)\n"
    )
    slow, quick = Counter("0.0.0.0"), Counter()
    vetting = Vetting(loop, lambda event: 4.0)
    result = vetting.run(code, str(slow.port), str(quick.port), net_allow=[f"127.0.0.1:{quick.port}"])
    assert (result.exit_code, result.stdout) == (0, b"True\n")
    assert (len(vetting.asked), slow.close(), quick.close()) == (64, 64, 1)


@pytest.mark.parametrize("on_timeout", [None, Allow(), Kill("late")])
def test_nobody_answers_in_time(loop: Loop, on_timeout: Any) -> None:
    with tcp() as server:
        vetting = Vetting(loop, lambda event: 30.0)
        result = vetting.run(CONNECT, str(server.port), policy_timeout=0.3, on_timeout=on_timeout)
        if isinstance(on_timeout, Allow):
            assert result.stdout == b"0\n"
            assert server.visits(patience=5) == SPOKEN
            return
        assert [denial.cause for denial in result.denials] == ["timeout"]
        assert result.stdout == b"13\n" if on_timeout is None else result.signal == 9
        assert server.visits() == []


def test_a_run_that_ends_takes_its_questions_along(loop: Loop) -> None:
    with tcp() as server:
        vetting = Vetting(loop, lambda event: 30.0)
        started = time.monotonic()
        result = vetting.run(CONNECT, str(server.port), timeout=0.5)
        assert result.timed_out
        assert time.monotonic() - started < 5
        assert server.visits() == []


def test_what_is_forbidden_while_somebody_thinks_does_not_happen(loop: Loop) -> None:
    """A denial by rule wins over the Allow() of a question that was put before it came."""
    with tcp(socket.AF_INET) as server:

        async def vet(event: Any, box: AsyncSandbox) -> object:
            if isinstance(event, Connect) and event.port == server.port:
                box.restrict(net_deny=[f"127.0.0.1:{server.port}"])
            return Allow()

        async def main() -> Result:
            async with AsyncSandbox(presets=["python"], policy_fn=vet, ceiling={}) as box:
                code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {server.port})))"
                return await box.run([sys.executable, "-c", code], timeout=20)

        result = loop.run(main)
        assert result.stdout == b"13\n", result.explain()
        assert server.visits() == []
    assert [(denial.kind, denial.cause) for denial in result.denials] == [("connect", "rule")]
