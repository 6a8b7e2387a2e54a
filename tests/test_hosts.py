"""The network by name: who may be looked up, and what an answer opens. Judged by who is asked, and by who arrives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attacks.arena import Listener, tcp
from loops import LOOPS, Loop
from test_confined_network import SPOKEN

from sandlock import Allow, AsyncSandbox, Connect, Deny, Exec, Kill, Resolve, Result, Sandbox, _lookups, _resolver

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(HERE, "lookup_program.py")
UNKNOWN, AGAIN, DENIED = socket.EAI_NONAME, socket.EAI_AGAIN, 13


class Names:
    """The host's resolver: what it knows, and what it was asked."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.pause = 0.0
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        time.sleep(self.pause)
        self.hangs.wait(20)
        found = self.known.get(name.removesuffix("."), [])
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(_resolver, "look_up", made)
    yield made
    made.hangs.set()


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below wildcards may lead there, for want of another network."""
    monkeypatch.setattr(_lookups, "is_inside", lambda address: address == b"\x7f\0\0\1")


def said(result: Result) -> list[Any]:
    assert result.stderr == b"", result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def run(*words: str, timeout: float = 30, **fields: Any) -> Result:
    with Sandbox(presets=["python"], fs_readable=[HERE], env={"RES_OPTIONS": "timeout:1 attempts:1"}, **fields) as box:
        return box.run([sys.executable, PROGRAM, *words], timeout=timeout)


def run_in(loop: Loop, *words: str, timeout: float = 30, **fields: Any) -> Result:
    async def main() -> Result:
        async with AsyncSandbox(presets=["python"], fs_readable=[HERE], **fields) as box:
            return await box.run([sys.executable, PROGRAM, *words], timeout=timeout)

    return loop.run(main)  # type: ignore[no-any-return]


FACES: list[Callable[..., Result]] = [run, *(lambda *w, loop=loop, **f: run_in(loop, *w, **f) for loop in LOOPS)]


@pytest.fixture(params=FACES, ids=["sync", *(loop.name for loop in LOOPS)])
def face(request: pytest.FixtureRequest) -> Callable[..., Result]:
    """Runs the program by each of our faces."""
    return request.param  # type: ignore[no-any-return]


# ---- names that are granted


def test_a_name_opens_its_addresses_and_ports(face: Callable[..., Result], names: Names) -> None:
    names.known = {"good.example": ["127.0.0.2"]}
    with tcp(host="127.0.0.2") as good, tcp(host="127.0.0.2") as other_port, tcp(host="127.0.0.3") as other:
        for server in (other_port, other):  # the control: they are there, and reached without us
            where = server.socket.getsockname()[0]
            subprocess.run([sys.executable, PROGRAM, f"tcp|{where}|{server.port}"], check=True, capture_output=True)
            assert server.visits(patience=5) == SPOKEN
        result = face(
            "look|good.example",
            f"tcp|GOOD.example|{good.port}",
            f"tcp|good.example|{other_port.port}",
            f"tcp|127.0.0.3|{other.port}",
            net_allow=[f"Good.Example.:{good.port}"],
        )
        assert said(result) == [["127.0.0.2"], 0, DENIED, DENIED]
        assert good.visits(patience=5) == SPOKEN
        assert (other_port.visits(), other.visits()) == ([], [])
        named, unnamed = result.denials
        assert (named.host, named.fix) == ("good.example", f"net_allow='good.example:{other_port.port}'")
        assert f"tcp://127.0.0.2:{other_port.port} (good.example)" in result.explain()
        assert (unnamed.host, unnamed.cause) == ("", "no-rule")
        assert result.to_dict()["denials"][0]["host"] == "good.example"  # type: ignore[index]
    assert set(names.asked) == {"good.example"}


def test_its_addresses_are_open_before_the_program_asks(names: Names) -> None:
    """Programs that have the address from elsewhere, /etc/hosts for one, need no lookup."""
    names.known = {"good.example": ["127.0.0.2"]}
    with tcp(host="127.0.0.2") as server:
        assert said(run(f"tcp|127.0.0.2|{server.port}", net_allow=["good.example"])) == [0]
        assert server.visits(patience=5) == SPOKEN
        names.known = {"good.example": ["127.0.0.3"]}
        again = run(f"tcp|127.0.0.2|{server.port}", net_allow=["good.example"])
        assert said(again) == [DENIED], "an address of an earlier run opens nothing"
        assert server.visits() == []


def test_a_name_without_an_address_stays_closed_until_it_has_one(names: Names) -> None:
    with tcp(host="127.0.0.2") as server:
        words = [f"tcp|127.0.0.2|{server.port}", "look|late.example", f"tcp|127.0.0.2|{server.port}"]
        closed = run(*words, net_allow=["late.example"])
        assert said(closed) == [DENIED, UNKNOWN, DENIED]
        reasons = {denial.kind: denial.reason for denial in closed.denials}
        assert "no address was found of late.example" in reasons["connect"]
        assert "stays closed" in reasons["resolve"]
        assert server.visits() == []

        class Late(Names):
            def __call__(self, name: str) -> list[str]:
                super().__call__(name) if not self.asked else self.asked.append(name)
                return ["127.0.0.2"]

        late = Late()
        _resolver.look_up = late  # type: ignore[assignment]  # the fixture puts it back
        assert said(run(*words, net_allow=["late.example"])) == [DENIED, ["127.0.0.2"], 0]
        assert server.visits(patience=5) == SPOKEN


def test_datagrams_to_a_name(names: Names) -> None:
    names.known = {"time.example": ["127.0.0.2"]}
    with (
        Listener(socket.AF_INET, ("127.0.0.2", 0), socket.SOCK_DGRAM) as server,
        Listener(socket.AF_INET, ("127.0.0.3", 0), socket.SOCK_DGRAM) as other,
    ):
        words = [f"udp|time.example|{server.port}", f"udp|127.0.0.3|{other.port}"]
        assert said(run(*words, net_allow=[f"udp://time.example:{server.port}"])) == [0, DENIED]
        assert server.visits(patience=5) == SPOKEN
        assert other.visits() == []
        denied = run(*words[:1], net_allow=[f"time.example:{server.port}"])
        assert said(denied) == [DENIED], "a name without a scheme is TCP"
        assert denied.denials[-1].fix == f"net_allow='udp://time.example:{server.port}'"
        assert server.visits() == []


@pytest.mark.usefixtures("loopback_is_public")
def test_wildcards(names: Names) -> None:
    names.known = {
        name: ["127.0.0.2"] for name in ("example.org", "a.example.org", "a.b.c.example.org", "aexample.org")
    }
    with tcp(host="127.0.0.2") as server:
        result = run(
            "look|example.org",
            "look|aexample.org",
            f"tcp|127.0.0.2|{server.port}",
            "look|a.b.c.example.org",
            f"tcp|127.0.0.2|{server.port}",
            net_allow=["*.example.org"],
        )
        assert said(result) == [UNKNOWN, UNKNOWN, DENIED, ["127.0.0.2"], 0]
        assert server.visits(patience=5) == SPOKEN
    # With the last dot: the host's search list is not tried on a name that the program chooses.
    assert names.asked == ["a.b.c.example.org."]


INSIDE = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1", "::ffff:127.0.0.1",
          "fd00:ec2::254", "100.100.100.200"]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_a_strangers_name_does_not_lead_inside(names: Names, address: str) -> None:
    names.known = {"a.example.org": [address], "trusted.example": [address]}
    result = run("look|a.example.org", "look|trusted.example", net_allow=["*.example.org", "trusted.example"])
    stranger, trusted = said(result)
    assert stranger == UNKNOWN
    assert trusted == [address.removeprefix("::ffff:")], "who names it exactly means it"
    assert [(denial.target, denial.cause) for denial in result.denials] == [("a.example.org", "rebinding")]


def test_a_rebound_name_opens_nothing(names: Names) -> None:
    names.known = {"a.example.org": ["127.0.0.1"]}
    with tcp() as server:
        words = ["look|a.example.org", f"tcp|127.0.0.1|{server.port}"]
        subprocess.run([sys.executable, PROGRAM, words[1]], check=True, capture_output=True)
        assert server.visits(patience=5) == SPOKEN
        assert said(run(*words, net_allow=["*.example.org"])) == [UNKNOWN, DENIED]
        assert server.visits() == []


# ---- names that are denied


@pytest.mark.usefixtures("loopback_is_public")
def test_a_denial_by_name_wins(names: Names) -> None:
    names.known = {"bad.example.org": ["127.0.0.2"], "good.example.org": ["127.0.0.3"]}
    with tcp(host="127.0.0.2") as bad, tcp(host="127.0.0.3") as good:
        words = ["look|bad.example.org", f"tcp|127.0.0.2|{bad.port}", f"tcp|good.example.org|{good.port}"]
        result = run(*words, net_allow=["*.example.org", "127.0.0.0/8"], net_deny=["bad.example.org"])
        assert said(result) == [UNKNOWN, DENIED, 0]
        assert (bad.visits(), good.visits(patience=5)) == ([], SPOKEN)
        connect, lookup = result.denials
        assert (connect.rule, connect.cause) == ("bad.example.org", "rule")
        assert (lookup.kind, lookup.cause, lookup.rule) == ("resolve", "rule", "bad.example.org")
        # Below a wildcard: what is not looked up is not known.
        result = run(*words[:1], net_allow=["bad.example.org"], net_deny=["*.example.org"])
        assert said(result) == [UNKNOWN]


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize("denied", ["a.example.org", "*.example.org"])
def test_a_denial_of_a_port_of_a_name(names: Names, denied: str) -> None:
    names.known = {"a.example.org": ["127.0.0.2"]}
    with tcp(host="127.0.0.2") as bad, tcp(host="127.0.0.2") as good:
        words = ["look|a.example.org", f"tcp|127.0.0.2|{bad.port}", f"tcp|127.0.0.2|{good.port}"]
        result = run(*words, net_allow=["*.example.org"], net_deny=[f"{denied}:{bad.port}"])
        assert said(result) == [["127.0.0.2"], DENIED, 0]
        assert (bad.visits(), good.visits(patience=5)) == ([], SPOKEN)


def test_a_name_is_no_way_out(names: Names) -> None:
    """Nobody hears of a name that no rule allows, whatever is asked about it and whoever is asked."""
    kinds = [1, 28, 16, 12, 255, 65, 5]
    words = [f"raw|{how}|192.0.2.9|{kind}|secret.evil.example" for how in ("connect", "sendto") for kind in kinds]
    result = run(*words, "raw|sendto|127.0.0.1|16|good.example", "look|secret.evil.example", net_allow=["good.example"])
    *refused, text, looked = said(result)
    assert refused == [[3, 0, True]] * len(words)
    assert text == [0, 0, True], "another question about a name that is allowed has no answer"
    assert looked == UNKNOWN
    assert set(names.asked) == {"good.example"}
    denials = {(denial.kind, denial.target, denial.cause, denial.fix) for denial in result.denials}
    fix = "net_allow='secret.evil.example:443'"
    assert ("resolve", "secret.evil.example", "no-rule", fix) in denials
    assert next(denial for denial in result.denials if denial.target == "secret.evil.example").count > 1


# ---- where lookups go


@pytest.mark.parametrize("how", ["connect", "sendto", "sendmsg", "bound"])
@pytest.mark.parametrize("server", ["192.0.2.1", "127.0.0.53", "::ffff:192.0.2.1", "2001:db8::1", "::1", "0.0.0.0"])
def test_every_name_server_is_ours(names: Names, how: str, server: str) -> None:
    names.known = {"good.example": ["192.0.2.7", "2001:db8::7", "192.0.2.8"]}
    words = [f"raw|{how}|{server}|{kind}|good.example" for kind in (1, 28)]
    assert said(run(*words, net_allow=["good.example"])) == [[0, 2, True], [0, 1, True]]


def test_a_denied_name_server_is_ours_all_the_same(names: Names) -> None:
    names.known = {"good.example": ["192.0.2.7"]}
    words = ["raw|connect|169.254.169.253|1|good.example"]
    assert said(run(*words, net_allow=["good.example"], net_deny=["169.254.0.0/16"])) == [[0, 1, True]]


def test_streams_to_port_53_are_judged_as_any(names: Names) -> None:
    assert said(run("tcp|127.0.0.2|53", net_allow=["good.example"])) == [DENIED]


@pytest.mark.needs(root=True)  # for the port
@pytest.mark.parametrize("granted", [True, False])
def test_a_name_server_that_is_granted_by_address_is_asked(names: Names, granted: bool) -> None:
    names.known = {"good.example": ["192.0.2.7"]}
    with Listener(socket.AF_INET, ("127.0.0.77", 53), socket.SOCK_DGRAM) as server:
        allowed = ["good.example", *(["udp://127.0.0.77:53"] if granted else [])]
        assert said(run("udp|127.0.0.77|53", net_allow=allowed)) == [0]
        assert server.visits(patience=2 if granted else 0) == (SPOKEN if granted else [])


def test_without_names_nothing_is_led_elsewhere(names: Names) -> None:
    assert said(run("raw|connect|127.0.0.2|1|good.example", net_allow=["udp://127.0.0.1:9"])) == [DENIED]
    assert names.asked == []


# ---- the callback


class Vetting:
    def __init__(self, answer: Callable[[Any], object]) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def __call__(self, event: Any, box: object) -> object:
        if isinstance(event, Exec):
            return Allow()
        self.asked.append(event)
        return self.answer(event)


def test_the_callback_decides_about_names(face: Callable[..., Result], names: Names) -> None:
    names.known = {name: ["127.0.0.2"] for name in ("good.example", "bad.example", "granted.example")}
    with tcp(host="127.0.0.2") as server, tcp(host="127.0.0.2") as granted:

        def answer(event: Any) -> object:
            if isinstance(event, Resolve):
                return Allow() if event.name == "good.example" else Deny("not that one")
            return Allow() if isinstance(event, Connect) and event.host == "good.example" else Deny("no")

        vetting = Vetting(answer)
        result = face(
            f"tcp|127.0.0.2|{server.port}",
            "look|bad.example",
            f"tcp|good.example|{server.port}",
            f"tcp|good.example|{server.port}",
            f"tcp|granted.example|{granted.port}",
            policy_fn=vetting,
            net_allow=[f"granted.example:{granted.port}"],
        )
        assert said(result) == [DENIED, UNKNOWN, 0, 0, 0]
        assert server.visits(patience=5) == SPOKEN * 2
        resolves = [event for event in vetting.asked if isinstance(event, Resolve)]
        assert [event.name for event in resolves].count("good.example") == 1, "an approval holds for the run"
        assert {event.name for event in resolves} == {"good.example", "bad.example"}
        assert all(event.pid > 0 and event.binding == "resolver" for event in resolves)
        assert {event.run for event in vetting.asked} == {result.run_id}
        connects = [(event.port, event.host) for event in vetting.asked if isinstance(event, Connect)]
        assert connects == [(server.port, ""), (server.port, "good.example"), (server.port, "good.example")]
    assert "bad.example" not in names.asked
    lookup = next(denial for denial in result.denials if denial.kind == "resolve")
    assert (lookup.target, lookup.cause, lookup.reason) == ("bad.example", "verdict", "not that one")


def fails(event: Any) -> object:
    if isinstance(event, Resolve):
        raise RuntimeError("no idea")
    return Allow()


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(lambda event: None, "no-opinion"), (lambda event: True, "callback-error"), (fails, "callback-error")],
)
def test_what_is_no_verdict_denies(names: Names, answer: Any, cause: str) -> None:
    names.known = {"good.example": ["127.0.0.2"]}
    result = run("look|good.example", policy_fn=Vetting(answer))
    assert said(result) == [UNKNOWN]
    assert [denial.cause for denial in result.denials if denial.kind == "resolve"] == [cause]
    assert names.asked == []


def test_kill_ends_the_tree(names: Names) -> None:
    result = run("look|good.example", "look|good.example", policy_fn=Vetting(lambda event: Kill("no")))
    assert (result.reason, names.asked) == ("killed", [])
    assert [(denial.kind, denial.cause) for denial in result.denials] == [("resolve", "verdict")]


@pytest.mark.parametrize("on_timeout", [None, Allow()])
def test_a_callback_that_is_late(loop: Loop, names: Names, on_timeout: Any) -> None:
    names.known = {"good.example": ["127.0.0.2"]}

    async def vet(event: Any, box: object) -> object:
        if isinstance(event, Resolve):
            await loop.sleep(30)
        return Allow()

    result = run_in(loop, "look|good.example", policy_fn=vet, policy_timeout=0.3, on_timeout=on_timeout)
    assert said(result) == [UNKNOWN if on_timeout is None else ["127.0.0.2"]]
    causes = [denial.cause for denial in result.denials]
    assert causes == (["timeout"] if on_timeout is None else [])


def test_a_callback_alone_grants_nothing_by_a_name(names: Names) -> None:
    names.known = {"good.example": ["127.0.0.2"]}
    with tcp(host="127.0.0.2") as server:
        vetting = Vetting(lambda event: Allow() if isinstance(event, Resolve) else Deny("no"))
        assert said(run(f"tcp|good.example|{server.port}", policy_fn=vetting)) == [DENIED]
        assert server.visits() == []


# ---- trouble


def test_a_host_that_does_not_answer(
    face: Callable[..., Result], names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_resolver, "LOOKUP_LIMIT", 0.3)
    names.known = {"good.example": ["127.0.0.2"]}
    names.hangs.clear()
    started = time.monotonic()
    with tcp(host="127.0.0.2") as server:
        result = face("look|good.example", f"tcp|127.0.0.2|{server.port}", net_allow=["good.example"])
        assert said(result) == [AGAIN, DENIED]
        assert time.monotonic() - started < 10
        assert server.visits() == []
    assert "did not answer" in next(denial.reason for denial in result.denials if denial.kind == "resolve")


def test_a_resolver_that_is_dead(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.known = {"a.example.org": ["127.0.0.2"]}
    monkeypatch.setattr(_resolver.Resolver, "start", lambda self, execution: self.close())
    with tcp(host="127.0.0.2") as server:
        words = ["look|a.example.org", f"tcp|127.0.0.2|{server.port}", "raw|connect|192.0.2.1|1|a.example.org"]
        assert said(run(*words, net_allow=["*.example.org"])) == [AGAIN, DENIED, 111]
        assert server.visits() == []
    assert names.asked == []


def test_many_lookups_at_once(face: Callable[..., Result], names: Names) -> None:
    names.known = {f"n{i}.example.org": ["192.0.2.7"] for i in range(50)}
    names.pause = 0.05
    result = face("many|50|n%d.example.org", net_allow=["*.example.org"])
    assert said(result) == [50]
    assert len(names.asked) == 50, "both questions for a name ask the host once"


def test_a_flood_of_addresses_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look_up(name: str) -> list[str]:
        asked.append(name)
        number = int(name.partition(".")[0].removeprefix("n")) if name[0] == "n" else 99
        return [f"10.{number}.{number}.{i}" for i in range(64)] if name[0] == "n" else ["127.0.0.2"]

    monkeypatch.setattr(_resolver, "look_up", look_up)
    with tcp(host="127.0.0.2") as server:
        words = ["flood|70|n%d.example.org", f"tcp|127.0.0.2|{server.port}"]
        result = run(*words, net_allow=["*.example.org", "good.example"])
        assert said(result) == [64, 0], "of the last one 63 addresses; and what is pinned stays so"
        assert server.visits(patience=5) == SPOKEN
        assert {denial.cause for denial in result.denials} == {"full"}
        # Where an address found no room, denials by name cannot be told: they hold for all.
        result = run(*words, net_allow=["*.example.org", "127.0.0.2"], net_deny=[f"*.other.example:{server.port}"])
        assert said(result)[1] == DENIED


def test_outsiders_are_not_answered(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback is everybody's, but the resolver is the tree's."""
    made: list[socket.socket] = []
    bound = _resolver._bound

    def remember(*arguments: Any) -> socket.socket:
        made.append(bound(*arguments))
        return made[-1]

    monkeypatch.setattr(_resolver, "_bound", remember)
    names.known = {"a.example.org": ["192.0.2.7"], "b.example.org": ["192.0.2.8"]}
    packet = bytes.fromhex("0001010000010000000000000162076578616d706c65036f72670000010001")
    outcome: list[object] = []

    def knock() -> None:
        while not made:
            time.sleep(0.01)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
            outsider.settimeout(0.2)
            for _ in range(5):
                outsider.sendto(packet, made[0].getsockname())
                try:
                    outcome.append(outsider.recv(512))
                except TimeoutError:
                    outcome.append(None)

    thread = threading.Thread(target=knock)
    thread.start()
    result = run("wait|1.5", "look|a.example.org", net_allow=["*.example.org"])
    thread.join()
    assert said(result) == [None, ["192.0.2.7"]]
    assert outcome == [None] * 5
    assert names.asked == ["a.example.org."]


def test_cancelled_while_names_are_looked_up(loop: Loop, names: Names) -> None:
    names.hangs.clear()

    async def main() -> None:
        async with AsyncSandbox(presets=["system"], net_allow=["good.example"]) as box:
            started = time.monotonic()
            assert await loop.cut_short(0.2, lambda: box.run(["true"]))
            assert time.monotonic() - started < 10
            names.hangs.set()
            assert (await box.run(["true"])).ok

    loop.run(main)


def test_a_launch_that_fails_leaves_no_resolver(loop: Loop, names: Names) -> None:
    """The fixture of every test counts descriptors."""

    async def main() -> None:
        async with AsyncSandbox(presets=["system"], net_allow=["good.example"]) as box:
            with pytest.raises(Exception, match="no such"):
                await box.run(["/no/such/program"], check=True)
            async with box.start(["sleep", "60"]) as process:
                assert process.pid > 0

    loop.run(main)
    with Sandbox(presets=["system"], net_allow=["good.example"]) as box:
        with pytest.raises(Exception, match="no such"):
            box.run(["/no/such/program"], check=True)
        with box.start(["sleep", "60"]) as process:
            assert process.pid > 0
