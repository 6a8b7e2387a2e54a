"""The decoders of guest memory (`_memory`): socket addresses, msghdr, iovec, like Python and the kernel."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image import PAGE, Image, examples, open_images, outcome, refused

from sandlock import _memory, syscalls


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    with open_images() as found:
        yield found


@pytest.fixture
def own(images: dict[str, Image]) -> Image:
    return images["own"]


@pytest.fixture(params=["own", "other"])
def image(images: dict[str, Image], request: pytest.FixtureRequest) -> Image:
    return images[request.param].cleared()


# ---- socket addresses
# -----------------------------------------------------------------------------------------------


def inet(address: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)


def inet6(address: str, port: int, scope: int = 0) -> bytes:
    head = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 7)
    return head + socket.inet_pton(socket.AF_INET6, address) + struct.pack("=I", scope)


def unix(path: bytes) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + path


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The fields of parse_sockaddr, by name."""

    family: int
    port: int = 0
    scope_id: int = 0
    netlink_pid: int = 0
    netlink_groups: int = 0
    mapped: bool = False
    abstract: bool = False
    host: bytes = b""
    path: bytes = b""
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> Decoded:
        return cls(**dict(zip(cls.__dataclass_fields__, _memory.parse_sockaddr(raw), strict=True)))  # type: ignore[arg-type]


IPV4 = socket.inet_aton("192.0.2.7")
ADDRESSES = [
    (inet("192.0.2.7", 443), {"family": socket.AF_INET, "port": 443, "host": IPV4}),
    (
        inet6("2001:db8::1", 65535, 3),
        {
            "family": socket.AF_INET6,
            "port": 65535,
            "scope_id": 3,
            "host": socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
        },
    ),
    (inet6("::ffff:192.0.2.7", 80), {"family": socket.AF_INET6, "port": 80, "mapped": True, "host": IPV4}),
    (
        inet6("::1", 80, 9)[:24],  # without the scope: RFC 2133
        {"family": socket.AF_INET6, "port": 80, "host": socket.inet_pton(socket.AF_INET6, "::1")},
    ),
    (unix(b"/run/x.sock\0"), {"family": socket.AF_UNIX, "path": b"/run/x.sock"}),
    (unix(b"/run/x\0hidden"), {"family": socket.AF_UNIX, "path": b"/run/x"}),
    (unix(b"p" * 108), {"family": socket.AF_UNIX, "path": b"p" * 108}),
    (unix(b""), {"family": socket.AF_UNIX}),
    (unix(b"\0"), {"family": socket.AF_UNIX, "abstract": True}),
    (unix(b"\0a\0b\0"), {"family": socket.AF_UNIX, "abstract": True, "path": b"a\0b\0"}),
    (unix(b"\0" * 108), {"family": socket.AF_UNIX, "abstract": True, "path": b"\0" * 107}),
    (
        struct.pack("=HHII", socket.AF_NETLINK, 0, 77, 5),
        {"family": socket.AF_NETLINK, "netlink_pid": 77, "netlink_groups": 5},
    ),
    (b"\0\0", {"family": socket.AF_UNSPEC}),
    (b"\0\0" + inet("192.0.2.7", 53)[2:], {"family": socket.AF_UNSPEC, "port": 53, "host": IPV4}),
]


class TestSockaddr:
    @pytest.mark.parametrize(("raw", "fields"), ADDRESSES)
    def test_decoded(self, raw: bytes, fields: dict[str, object], image: Image) -> None:
        assert Decoded.of(raw) == Decoded(raw=raw, **fields)  # type: ignore[arg-type]
        assert _memory.fetch_sockaddr(image.tid, image.put_at_end(raw), len(raw)) == _memory.parse_sockaddr(raw)

    @pytest.mark.parametrize("tail", [1, 16, 100])
    def test_the_tail_does_not_matter(self, tail: int) -> None:
        raw = inet("192.0.2.7", 443) + b"\xff" * tail
        assert Decoded.of(raw).host == IPV4

    @pytest.mark.parametrize("length", [-1, 129, 1 << 31, -(1 << 31), (1 << 63) - 1])
    def test_lengths_that_no_address_has(self, image: Image, length: int) -> None:
        with refused(errno.EINVAL):
            _memory.fetch_sockaddr(image.tid, image.address, length)
        with refused(errno.EINVAL):  # refused before it is read
            _memory.fetch_sockaddr(image.tid, 0, length)

    def test_unreadable(self, image: Image) -> None:
        with refused(errno.EFAULT):
            _memory.fetch_sockaddr(image.tid, image.put_at_end(inet("192.0.2.7", 443)), 17)

    def test_unknown_family(self) -> None:
        with refused(errno.EAFNOSUPPORT):
            _memory.parse_sockaddr(struct.pack("=H", socket.AF_PACKET) + bytes(18))

    @examples
    @given(address=st.ip_addresses(v=4), port=st.integers(0, 65535))
    def test_ipv4_like_python(self, address: ipaddress.IPv4Address, port: int) -> None:
        for raw in (inet(str(address), port), inet6(f"::ffff:{address}", port)):
            found = Decoded.of(raw)
            assert (socket.inet_ntoa(found.host), found.port) == (str(address), port)

    @examples
    @given(address=st.ip_addresses(v=6), port=st.integers(0, 65535), scope=st.integers(0, 2**32 - 1))
    def test_ipv6_like_python(self, address: ipaddress.IPv6Address, port: int, scope: int) -> None:
        found = Decoded.of(inet6(str(address), port, scope))
        assert found.mapped == (address.ipv4_mapped is not None)
        assert found.host == (address.packed[12:] if found.mapped else address.packed)
        assert (found.port, found.scope_id) == (port, scope)

    @examples
    @given(st.binary(max_size=140))
    def test_anything(self, raw: bytes) -> None:
        """Whatever it is, it is decoded or refused, and what is decoded is part of what was given."""
        found = outcome(Decoded.of, raw)
        if isinstance(found, Decoded):
            assert found.raw == raw
            assert found.host in raw
            assert found.path in raw
        else:
            assert found in ("EINVAL", "EAFNOSUPPORT")


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def kernel(name: str, *arguments: int) -> int | str:
    """A system call's result, or the errno's name. Not the library's function: a sanitizer would look at the
    arguments before the kernel does, and some of them are bad on purpose."""
    number = syscalls.number(name, os.uname().machine)
    assert number is not None
    result = LIBC.syscall(*(ctypes.c_long(value) for value in (number, *arguments)))
    return int(result) if result >= 0 else errno.errorcode[ctypes.get_errno()]


def buffer(raw: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(raw, len(raw))


class TestSockaddrLikeTheKernel:
    """Lengths: what connect(2) and bind(2) refuse with EINVAL, and nothing else, is refused."""

    def kernel(self, call: str, kind: tuple[int, int], raw: bytes, length: int) -> int | str:
        address = buffer(raw)
        with socket.socket(*kind) as sock:
            return kernel(call, sock.fileno(), ctypes.addressof(address), length)

    @pytest.mark.parametrize("length", range(130))
    @pytest.mark.parametrize(
        ("kind", "raw"),
        [
            ((socket.AF_INET, socket.SOCK_DGRAM), inet("127.0.0.1", 9)),
            ((socket.AF_INET6, socket.SOCK_DGRAM), inet6("::1", 9)),
            ((socket.AF_UNIX, socket.SOCK_DGRAM), unix(b"/nonexistent/socket")),
            ((socket.AF_UNIX, socket.SOCK_DGRAM), unix(b"\0" + b"nobody is there")),
            ((socket.AF_NETLINK, socket.SOCK_RAW), struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 0)),
        ],
        ids=["inet", "inet6", "unix", "abstract", "netlink"],
    )
    def test_connect(self, kind: tuple[int, int], raw: bytes, length: int) -> None:
        padded = raw.ljust(130, b"\0")
        answer = self.kernel("connect", kind, padded, length)
        if kind[0] == socket.AF_INET6 and answer == "EAFNOSUPPORT" and length >= 24:
            pytest.fail("no IPv6 in this kernel")
        found = outcome(Decoded.of, padded[:length])
        if kind[0] == socket.AF_UNIX and length == 2:
            assert answer == "EINVAL"  # unnamed: bind takes it, see below
            assert isinstance(found, Decoded)
        elif answer == "EINVAL":
            assert found == "EINVAL"
        else:
            assert isinstance(found, Decoded), answer

    def test_unnamed_is_autobind(self) -> None:
        assert self.kernel("bind", (socket.AF_UNIX, socket.SOCK_DGRAM), unix(b""), 2) == 0
        assert Decoded.of(unix(b"")).abstract is False

    def test_an_unspecified_address_is_ipv4_for_udp(self) -> None:
        """Why decode_sockaddr fills in AF_UNSPEC: the kernel sends there."""
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(5)
            raw = b"\0\0" + inet("127.0.0.1", receiver.getsockname()[1])[2:]
            text, to = buffer(b"got it"), buffer(raw)
            sent = kernel("sendto", sender.fileno(), ctypes.addressof(text), 6, 0, ctypes.addressof(to), 16)
            assert sent == 6
            assert receiver.recv(10) == b"got it"
        found = Decoded.of(raw)
        assert (socket.inet_ntoa(found.host), found.port) == ("127.0.0.1", receiver_port(raw))

    @examples
    @given(name=st.binary(min_size=1, max_size=107))
    def test_abstract_names_like_getsockname(self, name: bytes) -> None:
        raw = unix(b"\0sandlock-test-" + str(os.getpid()).encode() + name)[:110]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            address = buffer(raw)
            assert kernel("bind", sock.fileno(), ctypes.addressof(address), len(raw)) == 0
            assert sock.getsockname() == b"\0" + Decoded.of(raw).path


def receiver_port(raw: bytes) -> int:
    return int.from_bytes(raw[2:4], "big")


# ---- messages
# -------------------------------------------------------------------------------------------------------

HEADER = struct.Struct("=QixxxxQQQQI4x")  # struct user_msghdr


class TestMessageHeader:
    def test_decoded(self, image: Image) -> None:
        raw = HEADER.pack(0x1000, 16, 0x2000, 3, 0x3000, 40, 0x4000)
        assert HEADER.size == 56
        assert _memory.fetch_msghdr(image.tid, image.put_at_end(raw)) == (
            0x1000,
            16,
            0x2000,
            3,
            0x3000,
            40,
            0x4000,
        )

    def test_unreadable(self, image: Image) -> None:
        with refused(errno.EFAULT):
            _memory.fetch_msghdr(image.tid, image.put_at_end(bytes(55)))

    def test_a_name_without_length_and_a_length_without_name(self, image: Image) -> None:
        for name, length in ((0, 16), (0, -1), (0x1000, 0)):
            raw = HEADER.pack(name, length, 0, 0, 0, 0, 0)
            assert _memory.fetch_msghdr(image.tid, image.put(0, raw))[:2] == (0, 0)

    def test_a_long_name_is_cut(self, image: Image) -> None:
        raw = HEADER.pack(0x1000, 4096, 0, 0, 0, 0, 0)
        assert _memory.fetch_msghdr(image.tid, image.put(0, raw))[:2] == (0x1000, 128)

    @examples
    @given(
        length=st.sampled_from([-(2**31), -1, 0, 1, 127, 128, 129, 2**31 - 1]),
        count=st.sampled_from([0, 1, 1024, 1025, 2**32, 2**63, 2**64 - 1]),
        control=st.sampled_from([0, 2**31 - 1, 2**31, 2**63, 2**64 - 1]),
        name=st.booleans(),
    )
    def test_refused_like_the_kernel(self, own: Image, length: int, count: int, control: int, name: bool) -> None:
        """Sent on a socket whose other end is there; names and iovecs lie in readable memory."""
        own.memory[: 8 * PAGE] = bytes(8 * PAGE)
        raw = HEADER.pack(own.address if name else 0, length, own.address, count, 0, control, 0)
        address = own.put_at_end(raw)
        found = outcome(_memory.fetch_msghdr, own.tid, address)
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, two:
            answer = kernel("sendmsg", one.fileno(), address, socket.MSG_DONTWAIT)
        # Families come later, and ours are all 0; EINVAL may also be the name's or a control message's.
        if isinstance(found, str):
            assert answer == found
        else:
            assert answer not in ("EMSGSIZE", "ENOBUFS", "EFAULT") or control > 0


VECTOR = struct.Struct("=QQ")


def put_vectors(image: Image, vectors: Sequence[tuple[int, int]]) -> int:
    return image.put_at_end(b"".join(VECTOR.pack(*vector) for vector in vectors))


class TestIovecs:
    @pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024])
    def test_decoded(self, image: Image, count: int) -> None:
        vectors = [(0x1000 + i, i) for i in range(count)]
        found = _memory.fetch_iovecs(image.tid, put_vectors(image, vectors), count)
        assert found == (sum(range(count)), vectors)

    @pytest.mark.parametrize("count", [1025, 2**31, 2**32, 2**60, 2**63, 2**64 - 1])
    def test_counts_over_the_limit(self, image: Image, count: int) -> None:
        with refused(errno.EMSGSIZE):
            _memory.fetch_iovecs(image.tid, image.address, count)

    def test_limit_of_the_caller(self, image: Image) -> None:
        address = put_vectors(image, [(1, 1)] * 5)
        assert _memory.fetch_iovecs(image.tid, address, 5, limit=5)[0] == 5
        for limit in (4, 0, -1):
            with refused(errno.EMSGSIZE):
                _memory.fetch_iovecs(image.tid, address, 5, limit=limit)

    def test_unreadable(self, image: Image) -> None:
        with refused(errno.EFAULT):
            _memory.fetch_iovecs(image.tid, put_vectors(image, [(1, 1)] * 5), 6)

    def test_beyond_the_end_of_memory(self, image: Image) -> None:
        with refused(errno.EFAULT):
            _memory.fetch_iovecs(image.tid, put_vectors(image, [(2**64 - 10, 11)]), 1)

    @examples
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 2**40),
                st.integers(0, 70_000)
                | st.sampled_from([2**31 - 1 - PAGE, 2**31 - PAGE, 2**31, 2**40, 2**63, 2**64 - 1]),
            ),
            max_size=12,
        )
    )
    def test_like_the_kernel(self, own: Image, vectors: list[tuple[int, int]]) -> None:
        """The sum is what writev(2) to /dev/null answers; it imports the array and touches none of the
        memory."""
        address = put_vectors(own, vectors)
        null = os.open("/dev/null", os.O_WRONLY)
        try:
            answer = kernel("writev", null, address, len(vectors))
        finally:
            os.close(null)
        found = outcome(_memory.fetch_iovecs, own.tid, address, len(vectors))
        if isinstance(found, tuple):
            assert found[0] == answer
            assert sum(length for _, length in found[1]) == answer
        else:
            assert found == answer
