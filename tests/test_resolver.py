"""Names in rules, questions and answers as bytes, and what lookups lead to. No kernel, no loop."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from planned import a_host

from sandlock import Policy, PolicyError, _dns
from sandlock._lookups import MAX_ADDRESSES, MAX_DENIALS, MAX_KNOWN, Lookups, is_inside, packed
from sandlock._names import NameRules, read_host
from sandlock._net_rules import ICMP, TCP, UDP
from sandlock._plan import Plan, plan


def planned(**fields: Any) -> Plan:
    return plan(Policy(fs_readable=["/usr"], **fields), a_host())


# ---- how names are written


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("example.com", "example.com"),
        ("Example.COM.", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("db", "db"),
        ("my_db.internal", "my_db.internal"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("1.example", "1.example"),
        ("a." * 63 + "a" * 63, "a." * 63 + "a" * 63),
        (".".join(["a" * 63] * 3 + ["a" * 61]), ".".join(["a" * 63] * 3 + ["a" * 61])),
    ],
)
def test_names(written: str, read: str) -> None:
    assert read_host("net_allow", written, written) == read
    assert planned(net_allow=[f"{written}:443"]).hosts == (read,)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("a..example", "empty label"),
        (".example", "empty label"),
        ("example..", "empty label"),
        ("*.", "empty label"),
        ("a" * 64 + ".example", "63 characters"),
        ("*." + "a" * 64, "63 characters"),
        (".".join(["a" * 63] * 3 + ["a" * 62]), "253 characters"),
        ("*example.com", "'*' inside"),
        ("a.*.example", "'*' inside"),
        ("*.*.example", "'*' inside"),
        ("exam*ple", "'*' inside"),
        ("-a.example", "no host name"),
        ("a-.example", "no host name"),
        ("a b.example", "no host name"),
        ("a@b.example", "no host name"),
        ("a$.example", "no host name"),
        ("\u2603.example", "no host name"),
        ("a.1", "neither an address nor a name"),
        ("0x7f000001", "neither an address nor a name"),
        ("0x7f.0x1", "neither an address nor a name"),
        ("0x", "neither an address nor a name"),
        ("*.localhost", "names the loopback"),
    ],
)
@pytest.mark.parametrize("field", ["net_allow", "net_deny"])
def test_what_is_no_name(field: str, written: str, problem: str) -> None:
    with pytest.raises(PolicyError, match=problem) as caught:
        planned(**{field: written})
    assert caught.value.field == field
    assert ";" in str(caught.value), "there is a fix"


@pytest.mark.parametrize("written", ["256.1.1.1", "1.2.3", "10.0.0.0/33"])
def test_what_looks_like_an_address_is_one_or_nothing(written: str) -> None:
    with pytest.raises(PolicyError, match="no network address"):
        planned(net_allow=written)


@pytest.mark.parametrize("written", ["localhost", "LOCALHOST.", "www.localhost"])
def test_localhost_is_the_loopback(written: str) -> None:
    made = planned(net_allow=written)
    assert (made.hosts, made.looks_up, len(made.net_rules)) == ((), False, 2)


def test_protocols_and_ports() -> None:
    rules = ["a.example:443,8443", "udp://b.example:123", "tcp://c.example", "icmp://d.example"]
    made = planned(net_allow=rules, net_deny=["e.example", "f.example:22"])
    shown = {(rule.host, rule.allow, rule.protocols, rule.first, rule.last) for rule in made.net_rules}
    assert shown == {
        ("a.example", True, TCP, 443, 443),
        ("a.example", True, TCP, 8443, 8443),
        ("b.example", True, UDP, 123, 123),
        ("c.example", True, TCP, 0, 65535),
        ("d.example", True, ICMP, 0, 65535),
        ("e.example", False, TCP | UDP | ICMP, 0, 65535),
        ("f.example", False, TCP | UDP, 22, 22),
    }
    assert [rule.everything for rule in made.net_rules if not rule.allow] == [True, False]
    assert made.needs_listener
    assert made.looks_up
    assert "a.example, b.example" in made.describe()


def test_too_many_names() -> None:
    assert len(planned(net_allow=[f"n{i}.example" for i in range(1024)]).hosts) == 1024
    with pytest.raises(PolicyError, match="more than 1024"):
        planned(net_allow=[f"n{i}.example" for i in range(1025)])


# ---- what the rules say of a name


def test_findings() -> None:
    made = planned(
        net_allow=["a.example", "*.wild.example:443", "*.deep.wild.example"],
        net_deny=["bad.wild.example", "*.bad.wild.example", "udp://a.example", "*.example:22"],
    )
    rules = NameRules(made.hosts, made.net_rules)
    number = {host: place for place, host in enumerate(made.hosts, 1)}
    other = (number["*.example"],)
    cases = {
        "a.example": ("allow", number["a.example"], (), other),
        "wild.example": ("", 0, (), other),
        "x.wild.example": ("allow", 0, (number["*.wild.example"],), other),
        "x.y.deep.wild.example": ("allow", 0, (number["*.deep.wild.example"], number["*.wild.example"]), other),
        "bad.wild.example": ("deny", number["bad.wild.example"], (number["*.wild.example"],), other),
        "x.bad.wild.example": ("deny", 0, (number["*.wild.example"],), (number["*.bad.wild.example"], *other)),
        "example": ("", 0, (), ()),
        "xwild.example": ("", 0, (), other),
        "": ("", 0, (), ()),
    }
    for name, (decision, exact, wildcards, denying) in cases.items():
        found = rules.find(name)
        assert (found.decision, found.exact, found.wildcards, found.denying) == (decision, exact, wildcards, denying)
    assert rules.find("x.bad.wild.example").rule == "*.bad.wild.example"
    assert rules.exact == ("bad.wild.example", "a.example")


# ---- packets


def query(*labels: bytes, kind: int = 1, group: int = 1, flags: int = 0x0100, counts: Any = (1, 0, 0, 0)) -> bytes:
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", 7, flags, *counts) + name + struct.pack("!2H", kind, group)


def test_a_question() -> None:
    question = _dns.read_question(query(b"WWW", b"Example", b"com", kind=28) + b"\0\0\x29\4\xd0\0\0\0\0\0\0")
    assert question is not None
    assert (question.id, question.name, question.kind, question.error) == (7, "www.example.com", 28, 0)
    assert question.raw == b"\3WWW\7Example\3com\0\0\x1c\0\1", "it is repeated as it was spelt"


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (query(b"a", counts=(2, 0, 0, 0)), _dns.FORMAT_ERROR),
        (query(b"a", counts=(0, 0, 0, 0)), _dns.FORMAT_ERROR),
        (query(b"a", counts=(1, 1, 0, 0)), _dns.FORMAT_ERROR),
        (query(b"a", flags=0x2800), _dns.NOT_IMPLEMENTED),
        (query(b"a")[:-1], _dns.FORMAT_ERROR),
        (query(b"a")[:14], _dns.FORMAT_ERROR),
        (query(b"a")[:12], _dns.FORMAT_ERROR),
        (query(b"a")[:12] + b"\xc0\x0c\0\1\0\1", _dns.FORMAT_ERROR),  # a pointer to itself
        (query(b"a")[:12] + b"\1a\xc0\x0c\0\1\0\1", _dns.FORMAT_ERROR),
        (query(b"a")[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", _dns.FORMAT_ERROR),
        (query(*[b"a" * 63] * 4, b"aa"), _dns.FORMAT_ERROR),
        (query(b"a") + bytes(2000), _dns.FORMAT_ERROR),
    ],
)
def test_a_question_that_is_none(packet: bytes, error: int) -> None:
    question = _dns.read_question(packet)
    assert question is not None
    assert (question.error, question.name) == (error, "")
    reply = _dns.answer(question, question.error)
    assert reply == struct.pack("!6H", 7, 0x8080 | question.flags & 0x7900 | error, 0, 0, 0, 0)


@pytest.mark.parametrize("packet", [b"", b"x" * 11, query(b"a", flags=0x8100)])
def test_what_is_not_answered_at_all(packet: bytes) -> None:
    assert _dns.read_question(packet) is None


@pytest.mark.parametrize(
    "packet",
    [
        query(b"a.b", b"example"),
        query(b"a\0b"),
        query(b"\xff"),
        query(b"a b"),
        query(),
        query(b"example", group=3),
        query(b"*", b"example"),
    ],
)
def test_a_name_that_no_host_has(packet: bytes) -> None:
    question = _dns.read_question(packet)
    assert question is not None
    assert (question.name, question.error) == ("", 0)


def read_answers(packet: bytes, question: _dns.Question) -> list[bytes]:
    """By another way than ours: everything in its place, nothing behind it."""
    _, flags, questions, count, authorities, more = struct.unpack_from("!6H", packet)
    assert (flags & 0x8080, questions, authorities, more) == (0x8080, 1, 0, 0)
    assert packet[12 : 12 + len(question.raw)] == question.raw
    at, found = 12 + len(question.raw), []
    for _ in range(count):
        name, kind, group, _, length = struct.unpack_from("!3HIH", packet, at)
        assert (name, kind, group) == (0xC00C, question.kind, 1)
        found.append(packet[at + 12 : at + 12 + length])
        at += 12 + length
    assert at == len(packet) <= 512
    return found


addresses = st.lists(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), max_size=80)


@given(
    st.lists(st.from_regex(rb"[a-z0-9_-]{1,63}", fullmatch=True), min_size=1, max_size=4),
    st.sampled_from([1, 28, 16]),
    addresses,
)
def test_answers(labels: list[bytes], kind: int, known: list[bytes]) -> None:
    question = _dns.read_question(query(*labels, kind=kind))
    assert question is not None
    if question.error:
        assert sum(len(label) + 1 for label in labels) > 254
        return
    assert question.name == b".".join(labels).decode()
    wanted = [address for address in known if len(address) == {1: 4, 28: 16}.get(kind)]
    found = read_answers(_dns.answer(question, 0, tuple(known)), question)
    assert found == wanted[: len(found)]
    assert len(found) == len(wanted) or len(found) >= 8


@given(st.binary(max_size=1200) | st.binary(max_size=64).map(lambda data: query(b"a", b"example")[:12] + data))
@example(query(b"a")[:12] + b"\xc0\x0c" * 200)
@example(query(b"a") * 40)
def test_any_bytes(packet: bytes) -> None:
    question = _dns.read_question(packet)
    if question is None:
        return
    assert set(question.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert len(question.name) <= 253
    assert ".." not in question.name
    reply = _dns.answer(question, question.error, (b"\1\2\3\4", bytes(16)) * 60)
    assert len(reply) <= 512
    assert _dns.read_question(reply) is None, "an answer is no question"


# ---- what lookups lead to


class Pins:
    """The core's side."""

    def __init__(self, room: int = 4096) -> None:
        self.room = room
        self.pinned: list[tuple[int, bytes]] = []
        self.ports = (0, 0)

    def lead_lookups_to(self, port: int, port6: int) -> None:
        self.ports = (port, port6)

    def pin(self, host: int, address: bytes) -> bool:
        if len(self.pinned) < self.room:
            self.pinned.append((host, address))
            return True
        return False


def lookups(pins: Pins, **fields: Any) -> Lookups:
    made = Lookups(planned(**fields))
    made.attach(pins, 5353, 5354)  # type: ignore[arg-type]
    assert pins.ports == (5353, 5354)
    return made


PUBLIC, INSIDE = packed(["192.0.2.1"]), packed(["127.0.0.1"])


def test_addresses_are_read() -> None:
    texts = ["192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "no address", "2001:db8::1", "192.0.2.1", "1.2.3"]
    assert packed(texts) == (
        *PUBLIC,
        socket.inet_pton(socket.AF_INET6, "fe80::1"),
        bytes.fromhex("20010db8") + bytes(11) + b"\1",
    )
    assert len(packed(f"10.0.0.{i}" for i in range(200))) == MAX_ADDRESSES


@pytest.mark.parametrize("outside", ["192.0.2.1", "10.0.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "169.253.1.1"])
def test_what_is_not_inside(outside: str) -> None:
    assert not is_inside(packed([outside])[0])


def test_what_is_pinned() -> None:
    pins = Pins()
    names = lookups(pins, net_allow=["a.wild.example", "*.wild.example"], net_deny=["*.example:22"])
    number = {host: place for place, host in enumerate(names.rules._numbers, 1)}
    denied, exact, wildcard = number["*.example"], number["a.wild.example"], number["*.wild.example"]
    assert names.pin(names.rules.find("a.wild.example"), (*PUBLIC, *INSIDE)) == (*PUBLIC, *INSIDE)
    assert sorted(pins.pinned) == sorted(
        [(number, PUBLIC[0]) for number in (denied, exact, wildcard)]
        + [(number, INSIDE[0]) for number in (denied, exact)]
    )
    pins.pinned.clear()
    assert names.pin(names.rules.find("b.wild.example"), (*PUBLIC, *INSIDE)) == PUBLIC
    assert (denied, INSIDE[0]) in pins.pinned, "what only denies, denies that too"
    assert (wildcard, INSIDE[0]) not in pins.pinned
    pins.pinned.clear()
    assert names.pin(names.rules.find("elsewhere.example"), PUBLIC) == ()
    assert pins.pinned == [(denied, PUBLIC[0])]


def test_what_found_no_room_is_not_answered() -> None:
    names = lookups(Pins(room=3), net_allow=["*.example"])
    found = packed(f"192.0.2.{i}" for i in range(5))
    assert names.pin(names.rules.find("a.example"), found) == found[:3]


def test_what_comes_before_the_run() -> None:
    pins, names = Pins(), Lookups(planned(net_allow=["a.example"]))
    assert names.pin(names.rules.find("a.example"), PUBLIC) == PUBLIC
    assert pins.pinned == []
    names.attach(pins, 1, 2)  # type: ignore[arg-type]
    assert pins.pinned == [(1, PUBLIC[0])]


def test_the_last_name_counts() -> None:
    names = lookups(Pins(), net_allow=["*.example"])
    names.remember("a.example", (*PUBLIC, *INSIDE))
    names.remember("b.example", PUBLIC)
    assert (names.host_of(PUBLIC[0]), names.host_of(INSIDE[0]), names.host_of(b"")) == ("b.example", "a.example", "")
    for i in range(MAX_KNOWN):
        names.remember(f"n{i}.example", [i.to_bytes(16)])
    assert names.host_of(PUBLIC[0]) == "", "the oldest are forgotten"
    assert names.host_of(bytes(16)) == "n0.example"


def test_denials_are_counted_and_bounded() -> None:
    names = lookups(Pins(), net_allow=["*.example"])
    for i in range(MAX_DENIALS + 10):
        names.note(f"n{i}.test", "no-rule", "no", pid=9)
    names.note("n0.test", "no-rule", "no", pid=9)
    assert (len(names.denials), names.dropped_denials) == (MAX_DENIALS, 10)
    first = names.denials[0]
    assert (first.kind, first.target, first.host, first.count, first.pid) == ("resolve", "n0.test", "n0.test", 2, 9)
    assert first.fix == "net_allow='n0.test:443'"
