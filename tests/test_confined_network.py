"""The network: every way out and in is shut unless granted, and a grant opens what it names and nothing beside."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from attacks.arena import DENIED, MARK, Arena, Listener, free_port, listening_ports, tcp

pytest_plugins = ("attacks.fixtures",)

MPTCP, SCTP, UDPLITE = 262, 132, 136
FASTOPEN = 0x20000000
HOSTS = {
    "v4": (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    "v6": (socket.AF_INET6, "::1", "::1"),
    "v4-mapped": (socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
    "any": (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
}
SPOKEN = [MARK.encode()]


@pytest.fixture(params=HOSTS)
def visited(request: pytest.FixtureRequest) -> Iterator[tuple[Listener, str]]:
    """A TCP server of ours, and the spelling of its address that the attacker uses."""
    family, bind_to, spelling = HOSTS[request.param]
    with tcp(family, bind_to) as server:
        yield server, spelling


def grants(*ports: int) -> dict[str, Any]:
    return {"net_allow": [f":{port}" for port in ports]}


def assert_shut(
    arena: Arena, server: Listener, *attack: object, policy: dict[str, Any] | None = None, **options: Any
) -> None:
    """Confined, the attack is refused and nobody arrives; free, it arrives with its mark."""
    outcome = arena.confined(*attack, policy=policy, options=options)
    assert outcome.word in DENIED, outcome
    assert server.visits() == []
    assert arena.free(*attack, **options).word == "0"
    assert server.visits(patience=5) == SPOKEN
    assert server.visits() == []


# ---- TCP


@pytest.mark.parametrize("granted", ["nothing", "another port", "binding only"])
def test_no_connection_without_a_grant(arena: Arena, visited: tuple[Listener, str], granted: str) -> None:
    server, host = visited
    with tcp() as other:
        policy: dict[str, Any] = {
            "nothing": {},
            "another port": grants(other.port),
            "binding only": {"net_allow_bind": [server.port]},
        }[granted]
        assert_shut(arena, server, "connect", "stream", 0, host, server.port, policy=policy)


@pytest.mark.parametrize("protocol", [0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("star", [False, True])
def test_a_granted_port_connects(arena: Arena, visited: tuple[Listener, str], protocol: int, star: bool) -> None:
    server, host = visited
    policy = {"net_allow": ["*"]} if star else grants(server.port)
    assert arena.confined("connect", "stream", protocol, host, server.port, policy=policy).word == "0"
    assert server.visits(patience=5) == SPOKEN


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg"])
def test_fast_open_is_no_way_around_connect(arena: Arena, visited: tuple[Listener, str], call: str) -> None:
    """MSG_FASTOPEN connects as it sends; Landlock's hook for connect does not see it."""
    server, host = visited
    with tcp() as other:
        granted = grants(other.port)
        for flags, policy in ((FASTOPEN, {}), (FASTOPEN | 0x4000, granted), (FASTOPEN | 5 << 32, granted)):
            assert_shut(arena, server, "send", call, "stream", host, server.port, flags, policy=policy)


def test_fast_open_works_where_every_port_is_granted(arena: Arena, visited: tuple[Listener, str]) -> None:
    server, host = visited
    attack = ("send", "sendto", "stream", host, server.port, FASTOPEN)
    assert arena.confined(*attack, policy={"net_allow": ["*"]}).word == "0"
    assert server.visits(patience=5) == SPOKEN


def test_deferred_connect_asks_for_the_port_too(arena: Arena, visited: tuple[Listener, str]) -> None:
    server, host = visited
    with tcp() as other:
        assert_shut(arena, server, "fastopen-connect", host, server.port, policy=grants(other.port))
    policy = grants(server.port)
    assert arena.confined("fastopen-connect", host, server.port, policy=policy).word == "0"
    assert server.visits(patience=5) == SPOKEN


@pytest.mark.parametrize("how", ["unspec", "unspec-fastopen"])
def test_a_granted_connection_is_not_aimed_at_another_port(arena: Arena, how: str) -> None:
    with tcp() as granted, tcp() as server:
        attack = ("aim-again", "127.0.0.1", granted.port, server.port, how)
        assert_shut(arena, server, *attack, policy=grants(granted.port))
        assert len(granted.visits(patience=5)) == 2


@pytest.mark.parametrize("how", ["deferred", "sendto"])
def test_an_address_on_a_connected_socket_changes_nothing(arena: Arena, how: str) -> None:
    """The kernel ignores it without a sandbox too: there is no control, only the fact."""
    with tcp() as granted, tcp() as server:
        attack = ("aim-again", "127.0.0.1", granted.port, server.port, how)
        for _ in (arena.free(*attack), arena.confined(*attack, policy=grants(granted.port))):
            assert server.visits() == []


def test_mptcp_is_no_way_around_connect(arena: Arena, visited: tuple[Listener, str]) -> None:
    server, host = visited
    for policy in ({}, grants(server.port), {"net_allow": ["*"]}):
        assert_shut(arena, server, "connect", "stream", MPTCP, host, server.port, policy=policy)


def test_sctp_is_shut(arena: Arena) -> None:
    """Few kernels have SCTP, so there is no control; the filter answers before the kernel can lack it."""
    outcome = arena.confined("connect", "stream", SCTP, "127.0.0.1", 9, policy={"net_allow": ["*"]})
    assert outcome.word == "EACCES"


def test_no_other_protocol_is_put_over_tcp(arena: Arena) -> None:
    """ "smc" would make a socket that Landlock does not know. Few kernels have it: free, the errno is another."""
    for name in ("smc", "tls", "mptcp", "espintcp"):
        assert arena.free("upper-layer", name).word != "ENOPROTOOPT"
        assert arena.confined("upper-layer", name, policy={"net_allow": ["*"]}).word == "ENOPROTOOPT"


def test_without_landlock_for_ports_only_a_star_opens(arena: Arena) -> None:
    """The fallback of older kernels: the filter cannot tell ports apart, so a grant of some opens none."""
    degraded: dict[str, Any] = {"disable": ["net-tcp"]}
    with tcp() as server, tcp() as other:
        attack = ("connect", "stream", 0, "127.0.0.1", server.port)
        for policy in ({}, grants(other.port), grants(server.port), {"net_allow_bind": ["*"]}):
            assert_shut(arena, server, *attack, policy=degraded | policy)
        assert arena.confined(*attack, policy=degraded | {"net_allow": ["*"]}).word == "0"
        assert server.visits(patience=5) == SPOKEN
    port = free_port()
    for ports, word in (([], "EACCES"), ([port], "EACCES"), (["*"], f"port {port}")):
        policy = degraded | {"net_allow_bind": ports}
        with arena.running("serve", "stream", 0, "127.0.0.1", port, confined=True, policy=policy) as guest:
            assert guest.line() == word


# ---- listening


def visit(port: int, family: int = socket.AF_INET) -> int:
    """Connects to a port of this machine and speaks; the errno."""
    with socket.socket(family) as client:
        client.settimeout(5)
        error = client.connect_ex(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        if not error:
            client.send(MARK.encode())
        return error


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::1", "-"])
@pytest.mark.parametrize("protocol", [0, MPTCP])
def test_no_listener_without_a_grant(arena: Arena, bound: str, protocol: int) -> None:
    """Also without bind ("-"): listen() then takes a port of the kernel's choice, unseen by Landlock."""
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    port = free_port()
    attack = ("serve", "stream", protocol, bound, port)
    policies: list[dict[str, Any]] = [{}, {"net_allow_bind": [free_port()]}, {"net_allow": ["*"]}]
    for policy in policies:
        with arena.running(*attack, confined=True, policy=policy) as server:
            assert server.line() in DENIED
            assert bound == "-" or visit(port, family) == errno.ECONNREFUSED
    with arena.running(*attack, confined=False) as server:
        port = int(server.line().split()[1])
        assert visit(port, family) == 0
        assert server.line() == f"received {MARK}"


@pytest.mark.parametrize("bound", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("star", [False, True])
def test_a_granted_port_serves(arena: Arena, bound: str, star: bool) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    port = free_port()
    policy = {"net_allow_bind": ["*" if star else port]}
    with arena.running("serve", "stream", 0, bound, port, confined=True, policy=policy) as server:
        assert server.line() == f"port {port}"
        assert listening_ports(server.pid) == {port}
        assert visit(port, family) == 0
        assert server.line() == f"received {MARK}"


def test_swapped_descriptors_do_not_make_another_listener(arena: Arena) -> None:
    """listen() is answered on the socket that was looked at, not on the number."""
    port = free_port()
    policy = {"net_allow_bind": [port]}
    with arena.running("listen-race", port, confined=True, policy=policy) as guest:
        assert guest.line().startswith("unbound listens 0 ")
        assert listening_ports(guest.pid) <= {port}
    with arena.running("listen-race", port, confined=False) as guest:
        assert guest.line().startswith("unbound listens 1 ")
        assert listening_ports(guest.pid) - {port}


def test_a_dissolved_listener_does_not_take_another_port(arena: Arena) -> None:
    port = free_port()
    policy = {"net_allow_bind": [port]}
    with arena.running("listen-again", port, confined=True, policy=policy) as guest:
        guest.line()
        assert listening_ports(guest.pid) <= {port}


# ---- UDP and other datagrams


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg", "connect"])
@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("granted", [False, True])
def test_no_datagram_leaves(arena: Arena, call: str, family: str, granted: bool) -> None:
    """Nor by the number of a granted TCP port, nor where all of TCP is granted."""
    number, bind_to, host = HOSTS[family]
    with Listener(number, (bind_to, 0), socket.SOCK_DGRAM) as server:
        for policy in [grants(server.port), {"net_allow": ["*"]}] if granted else [{}]:
            assert_shut(arena, server, "send", call, "datagram", host, server.port, 0, policy=policy)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_datagram_is_received(arena: Arena, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    attack = ("serve", "datagram", 0, host, 0)
    for policy in ({}, {"net_allow_bind": ["*"]}, {"net_allow_bind": ["*"], "net_allow": ["*"]}):
        with arena.running(*attack, confined=True, policy=policy) as server:
            assert server.line() == "EACCES"
    with arena.running(*attack, confined=False) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(MARK.encode(), (host, int(server.line().split()[1])))
        assert server.line() == f"received {MARK}"


# ---- every kind of socket

TCP_SOCKETS = {f"socket {family} 1 {protocol}" for family in (2, 10) for protocol in (0, 6)}
PAIRS = {f"socketpair 1 {kind} 0" for kind in (1, 5)}
ROUTE = {f"socket 16 {kind} 0" for kind in (2, 3)}
SOME = (
    *("2,2,0", "2,2,17", "2,2,136", "10,2,0", "2,1,262", "10,1,262", "2,1,132", "2,3,1", "2,3,255", "10,3,58"),
    *("1,1,0", "1,2,0", "1,5,0", "1,3,0", "16,3,0", "16,2,4", "16,3,9", "16,3,12", "16,3,15", "16,3,16"),
    *("17,3,768", "17,2,768", "2,10,768", "38,5,0", "40,1,0", "40,2,0", "44,3,0", "15,3,2", "3,1,0", "9,5,0"),
)


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        ({}, set()),
        ({"net_allow": [":443"]}, ROUTE),
        ({"net_allow": ["*"], "net_allow_bind": ["*"]}, ROUTE),
    ],
    ids=["nothing", "port", "star"],
)
def test_of_all_sockets_only_those_of_the_allowlist_are_made(
    arena: Arena, policy: dict[str, Any], more: set[str]
) -> None:
    """Every family up to 63, with every type and 300 protocols; also with flags, and with bits above the 32nd."""
    for modifier in ("0", "0x80800", "0x100000000"):
        outcome = arena.confined("sockets", modifier, policy=policy)
        assert outcome.word == "0"
        assert set(outcome.lines) == TCP_SOCKETS | PAIRS | more


def test_the_machine_has_more_sockets_than_the_allowlist(arena: Arena) -> None:
    free = set(arena.free("some-sockets", *SOME).lines)
    assert {"socket 2 2 0", "socket 1 1 0", "socketpair 1 2 0", "socket 16 3 9"} <= free
    if arena.is_root:
        assert {"socket 2 3 255", "socket 17 3 768"} <= free
    assert set(arena.confined("some-sockets", *SOME).lines) <= PAIRS | {"socketpair 1 1 0", "socketpair 1 5 0"}


# ---- unix sockets


def unix_address(arena: Arena, abstract: bool) -> tuple[str, str]:
    """The address as Python and as the attack write it."""
    path = os.path.join(arena.room(), "docker.sock")
    return ("\0" + path, "@" + path) if abstract else (path, path)


@pytest.fixture(params=["named", "abstract"])
def name(request: pytest.FixtureRequest, arena: Arena) -> tuple[str, str]:
    return unix_address(arena, request.param == "abstract")


def unix_server(arena: Arena, address: str, kind: int = socket.SOCK_STREAM) -> Listener:
    server = Listener(socket.AF_UNIX, address, kind)
    if not address.startswith("\0"):
        arena.give(address)
    return server


POLICIES: tuple[dict[str, Any], ...] = ({}, {"net_allow": ["*"], "net_allow_bind": ["*"]})


def wide(arena: Arena, policy: dict[str, Any], spelling: str) -> dict[str, Any]:
    """The policy, and the socket's directory writable: that grants the file, not the server behind it."""
    return policy | {"fs_writable": [os.path.dirname(spelling.lstrip("@"))]}


@pytest.mark.parametrize("kind", ["stream", "sequence"])
def test_no_unix_server_is_reached(arena: Arena, name: tuple[str, str], kind: str) -> None:
    address, spelling = name
    number = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET
    with unix_server(arena, address, number) as server:
        for policy in POLICIES:
            attack = ("connect", kind, 0, spelling, 0)
            assert_shut(arena, server, *attack, policy=wide(arena, policy, spelling))


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg", "connect"])
@pytest.mark.parametrize("from_pair", [False, True])
def test_no_unix_datagram_is_delivered(arena: Arena, name: tuple[str, str], call: str, from_pair: bool) -> None:
    """Nor from one end of a datagram pair, which can be aimed anew."""
    address, spelling = name
    attack = ("pair-aim", "datagram", call, spelling) if from_pair else ("send", call, "datagram", spelling, 0, 0)
    with unix_server(arena, address, socket.SOCK_DGRAM) as server:
        for policy in POLICIES:
            assert_shut(arena, server, *attack, policy=wide(arena, policy, spelling))


@pytest.mark.parametrize("kind", ["stream", "sequence"])
@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg", "connect"])
def test_a_connected_pair_is_not_aimed_anew(arena: Arena, name: tuple[str, str], kind: str, call: str) -> None:
    """Without a sandbox neither: that is why these pairs are allowed. No control, only the fact."""
    address, spelling = name
    number = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET
    with unix_server(arena, address, number) as server:
        arena.free("pair-aim", kind, call, spelling)
        arena.confined("pair-aim", kind, call, spelling, policy=wide(arena, POLICIES[1], spelling))
        assert server.visits() == []


def test_no_unix_server_is_opened(arena: Arena, name: tuple[str, str]) -> None:
    _, spelling = name
    attack = ("serve", "stream", 0, spelling, 0)
    for policy in POLICIES:
        with arena.running(*attack, confined=True, policy=wide(arena, policy, spelling)) as server:
            assert server.line() == "EACCES"
    with arena.running(*attack, confined=False) as server:
        assert server.line() == "port 0"


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "connect"])
def test_an_inherited_socket_reaches_no_abstract_name(arena: Arena, call: str) -> None:
    """The second line, Landlock's scope: here the caller hands in a socket that the guest could not have made."""
    address, spelling = unix_address(arena, abstract=True)
    kind = "unix-stream" if call == "connect" else "unix-datagram"
    number = socket.SOCK_STREAM if call == "connect" else socket.SOCK_DGRAM
    with unix_server(arena, address, number) as server:
        for policy in POLICIES:
            assert_shut(arena, server, "inherited-aim", call, spelling, 0, policy=policy, stdin=kind)


def test_an_inherited_tcp_socket_connects_as_granted(arena: Arena) -> None:
    with tcp() as server, tcp() as other:
        for policy in ({}, grants(other.port)):
            attack = ("inherited-aim", "connect", "127.0.0.1", server.port)
            assert_shut(arena, server, *attack, policy=policy, stdin="tcp")


def test_a_datagram_socket_that_is_handed_in_is_a_grant(arena: Arena) -> None:
    """What Landlock does not know yet: such a socket, given as stdin, sends anywhere. Documented, not desired."""
    address, spelling = unix_address(arena, abstract=False)
    with Listener(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM) as server:
        attack = ("inherited-aim", "sendto", "127.0.0.1", server.port)
        assert arena.confined(*attack, options={"stdin": "udp"}).word == "0"
        assert server.visits(patience=5) == SPOKEN
    with unix_server(arena, address, socket.SOCK_DGRAM) as server:
        outcome = arena.confined("inherited-aim", "sendto", spelling, 0, options={"stdin": "unix-datagram"})
        assert outcome.word == "0"
        assert server.visits(patience=5) == SPOKEN


# ---- netlink and interfaces


def test_interfaces_are_shown_only_with_a_network_grant(arena: Arena) -> None:
    assert arena.free("interfaces").lines == ["interface lo"]
    assert arena.confined("interfaces").word == "EPERM"
    assert arena.confined("interfaces", policy=grants(443)).lines == ["interface lo"]


def test_route_netlink_answers_only_with_a_network_grant(arena: Arena) -> None:
    assert arena.free("route-dump").lines == ["type 16"]
    assert arena.confined("route-dump").word == "EACCES"
    assert arena.confined("route-dump", policy=grants(443)).lines == ["type 16"]


def test_route_netlink_changes_nothing(arena: Arena) -> None:
    """Root sets the loopback's MTU to what it is: the kernel refuses it to whoever lacks CAP_NET_ADMIN."""
    with open("/sys/class/net/lo/mtu", encoding="ascii") as file:
        mtu = file.read().strip()
    assert arena.free("route-change", mtu).word == ("0" if arena.is_root else "EPERM")
    assert arena.confined("route-change", mtu, policy={"net_allow": ["*"]}).word == "EPERM"


# ---- what must work


@pytest.mark.parametrize("kind", ["stream", "sequence"])
def test_socket_pairs_work(arena: Arena, kind: str) -> None:
    assert arena.confined("pair-talk", kind).word == "0"
