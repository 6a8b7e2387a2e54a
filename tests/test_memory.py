"""The decoders of guest memory (`_memory`), against references in Python and against the kernel itself.

Memory is read from this process and from another one. An image has a page without access on either side, so
that a decoder that reads on too far gets EFAULT, where the guest's own string or array was whole.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandlock import _memory

PAGE = mmap.PAGESIZE
PAGES = 600  # of an image: room for 1.5 MiB of strings and their pointers
SIZE = PAGES * PAGE
POINTER_LIMIT = 1 << 64
PAGE_END = SIZE  # the offset where the image's last page ends

# Maps descriptor argv[1] between two pages without access and prints where; then waits for the end of stdin.
# Also run in this process.
MAP = """
import ctypes
def map_image(fd, size, page):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ctypes.c_long] room = libc.mmap(None, size + 2 * page, 0, 0x22, -1, 0)          # PROT_NONE, MAP_PRIVATE |
    MAP_ANONYMOUS assert libc.mmap(room + page, size, 3, 0x11, fd, 0) == room + page   # read and write,
    MAP_SHARED | MAP_FIXED return room + page
"""
CHILD = (
    MAP
    + """
import sys
print(map_image(*map(int, sys.argv[1:4])), flush=True)
sys.stdin.read()
"""
)


@dataclass(frozen=True)
class Image:
    """Memory of a process, between two guard pages, that this process can write."""

    tid: int
    address: int
    memory: mmap.mmap

    def put(self, offset: int, raw: bytes) -> int:
        """Write bytes and return their address in the process."""
        self.memory[offset : offset + len(raw)] = raw
        return self.address + offset

    def put_at_end(self, raw: bytes) -> int:
        """Write bytes that end where the last page ends."""
        return self.put(SIZE - len(raw), raw)


@pytest.fixture(scope="module")
def backing() -> Iterator[tuple[int, mmap.mmap]]:
    fd = os.memfd_create("image")
    os.ftruncate(fd, SIZE)
    with mmap.mmap(fd, SIZE) as memory:
        yield fd, memory
    os.close(fd)


@pytest.fixture(scope="module")
def own(backing: tuple[int, mmap.mmap]) -> Image:
    names: dict[str, object] = {}
    exec(MAP, names)
    address = names["map_image"](backing[0], SIZE, PAGE)  # type: ignore[operator]
    return Image(os.getpid(), address, backing[1])


@pytest.fixture(scope="module")
def other(backing: tuple[int, mmap.mmap]) -> Iterator[Image]:
    fd, memory = backing
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(fd), str(SIZE), str(PAGE)],
        pass_fds=[fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        yield Image(child.pid, int(child.stdout.readline()), memory)
        child.communicate()


@pytest.fixture(params=["own", "other"])
def image(request: pytest.FixtureRequest) -> Image:
    found: Image = request.getfixturevalue(request.param)
    found.memory[:] = bytes(SIZE)
    return found


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def outcome(function: object, *args: object) -> object:
    """What a decoder answers: a value, or the errno's name."""
    try:
        return function(*args)  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno]


examples = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# ---- bytes
# --------------------------------------------------------------------------------------------------------


class TestMemory:
    def test_whole(self, image: Image) -> None:
        raw = os.urandom(3 * PAGE)
        assert _memory.fetch_memory(image.tid, image.put(100, raw), len(raw)) == raw

    def test_nothing(self, image: Image) -> None:
        assert _memory.fetch_memory(image.tid, image.address, 0) == b""

    def test_up_to_the_end_and_not_further(self, image: Image) -> None:
        address = image.put_at_end(b"end")
        assert _memory.fetch_memory(image.tid, address, 3) == b"end"
        with refused(errno.EFAULT):
            _memory.fetch_memory(image.tid, address, 4)
        with refused(errno.EFAULT):
            _memory.fetch_memory(image.tid, image.address - 1, 2)

    def test_length_is_capped(self, image: Image) -> None:
        assert len(_memory.fetch_memory(image.tid, image.address, 1 << 20)) == 1 << 20
        with refused(errno.EMSGSIZE):
            _memory.fetch_memory(image.tid, image.address, (1 << 20) + 1)
        with refused(errno.EMSGSIZE):
            _memory.fetch_memory(image.tid, image.address, POINTER_LIMIT - 1)

    @pytest.mark.parametrize(
        "address", [0, 1, 1 << 47, 1 << 56, 1 << 63, POINTER_LIMIT - PAGE, POINTER_LIMIT - 1]
    )
    def test_bad_addresses(self, image: Image, address: int) -> None:
        for length in (1, 8, PAGE, 1 << 20):
            with refused(errno.EFAULT):
                _memory.fetch_memory(image.tid, address, length)

    def test_no_such_task(self) -> None:
        with refused(errno.ESRCH):
            _memory.fetch_memory((1 << 22) + 1, 4096, 8)

    def test_a_thread_is_a_task(self, own: Image) -> None:
        """A notification names the thread, not the process."""
        import threading

        found = []
        address = own.put(0, b"seen")

        def look() -> None:
            found.append(_memory.fetch_memory(threading.get_native_id(), address, 4))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert found == [b"seen"]


# ---- strings
# ------------------------------------------------------------------------------------------------------


def reference_string(memory: bytes, offset: int, size: int) -> object:
    """What read_string has to answer for an image of which `memory` is all."""
    end = memory.find(b"\0", offset)
    if end >= 0 and end - offset < size:
        return memory[offset:end]
    return "ENAMETOOLONG" if offset + size <= len(memory) else "EFAULT"


class TestString:
    @pytest.mark.parametrize("length", [0, 1, 7, 255, 4094, 4095, 4096, 4097, 3 * PAGE])
    def test_ends_at_the_end_of_memory(self, image: Image, length: int) -> None:
        text = b"x" * length
        assert _memory.fetch_string(image.tid, image.put_at_end(text + b"\0"), length + 1) == text
        assert _memory.fetch_string(image.tid, image.put_at_end(text + b"\0"), 1 << 20) == text

    def test_without_its_nul(self, image: Image) -> None:
        address = image.put_at_end(b"no end")
        with refused(errno.EFAULT):
            _memory.fetch_string(image.tid, address, 4096)
        with refused(errno.ENAMETOOLONG):
            _memory.fetch_string(image.tid, address, 6)

    def test_longest_path(self, image: Image) -> None:
        """PATH_MAX counts the NUL: path_resolution(7)."""
        path = b"/" + b"p" * 4094
        assert _memory.fetch_string(image.tid, image.put(PAGE - 100, path + b"\0"), 4096) == path
        with refused(errno.ENAMETOOLONG):
            _memory.fetch_string(image.tid, image.put(PAGE - 100, path + b"p\0"), 4096)

    def test_no_room(self, image: Image) -> None:
        with refused(errno.ENAMETOOLONG):
            _memory.fetch_string(image.tid, image.address, 0)

    @pytest.mark.parametrize("address", [0, 1, 1 << 47, 1 << 63, POINTER_LIMIT - 4096, POINTER_LIMIT - 1])
    def test_bad_addresses(self, image: Image, address: int) -> None:
        with refused(errno.EFAULT):
            _memory.fetch_string(image.tid, address, 4096)

    @examples
    @given(raw=st.binary(max_size=64), size=st.integers(0, 80), back=st.integers(0, 80))
    @example(raw=b"\0", size=1, back=1)
    def test_like_the_reference(self, own: Image, raw: bytes, size: int, back: int) -> None:
        """Anything, close to the end of memory."""
        own.put(SIZE - 200, b"y" * 200)
        own.put_at_end(raw)
        offset = SIZE - back
        expected = reference_string(own.memory[:], offset, size)
        assert outcome(_memory.fetch_string, own.tid, own.address + offset, size) == expected

    @examples
    @given(length=st.integers(0, 3 * PAGE), offset=st.integers(0, 2 * PAGE), size=st.integers(0, 4 * PAGE))
    def test_across_pages(self, own: Image, length: int, offset: int, size: int) -> None:
        own.put(offset, b"z" * length + b"\0")
        expected = b"z" * length if length < size else "ENAMETOOLONG"
        assert outcome(_memory.fetch_string, own.tid, own.address + offset, size) == expected


# ---- argv and envp
# --------------------------------------------------------------------------------------------------


def put_strings(image: Image, strings: Sequence[bytes], *, array_end: int = PAGE_END) -> int:
    """Write strings from the start of the image and the array of pointers to its end; return its address."""
    offset, pointers = 0, []
    for text in strings:
        pointers.append(image.address + offset)
        offset += len(text) + 1
    image.put(0, b"".join(text + b"\0" for text in strings))
    array = struct.pack(f"={len(pointers) + 1}Q", *pointers, 0)
    assert offset <= array_end - len(array)
    return image.put(array_end - len(array), array)


def room_for(strings: Sequence[bytes]) -> int:
    return sum(len(text) + 1 for text in strings)


class TestStrings:
    @pytest.mark.parametrize(
        "strings",
        [
            [],
            [b""],
            [b"git", b"commit", b"-m", b"", b"a\nb"],
            [b"%d" % number for number in range(20_000)],
            [b"a" * 131_071] * 12,
            [b"x" * 100] * 1000,
            [b""] * 513,
        ],
        ids=["none", "empty", "git", "20000", "1.5 MiB", "1000", "all empty"],
    )
    def test_whole_and_at_the_limits(self, image: Image, strings: list[bytes]) -> None:
        array = put_strings(image, strings)
        count, size = len(strings), room_for(strings)
        assert _memory.fetch_strings(image.tid, array, size, count) == strings
        if strings:
            with refused(errno.E2BIG):
                _memory.fetch_strings(image.tid, array, size, count - 1)
            with refused(errno.E2BIG):
                _memory.fetch_strings(image.tid, array, size - 1, count)

    def test_no_array_is_an_empty_one(self, image: Image) -> None:
        assert _memory.fetch_strings(image.tid, 0, 0, 0) == []

    def test_the_array_runs_off_memory(self, image: Image) -> None:
        array = put_strings(image, [b"one", b"two"])
        image.put_at_end(struct.pack("=Q", image.address))
        with refused(errno.EFAULT):
            _memory.fetch_strings(image.tid, array, 4096, 100)
        with refused(errno.E2BIG):
            _memory.fetch_strings(image.tid, array, 4096, 2)

    @pytest.mark.parametrize("shift", range(8))
    def test_the_array_need_not_be_aligned(self, image: Image, shift: int) -> None:
        strings = [b"%d" % number for number in range(3000)]
        array = put_strings(image, strings, array_end=PAGE_END - shift)
        assert _memory.fetch_strings(image.tid, array, 1 << 20, 3000) == strings

    @pytest.mark.parametrize("bad", [1, 1 << 47, 1 << 63, POINTER_LIMIT - 4096, POINTER_LIMIT - 1])
    def test_one_bad_pointer(self, image: Image, bad: int) -> None:
        good = image.put(0, b"good\0")
        array = image.put(PAGE, struct.pack("=4Q", good, bad, good, 0))
        with refused(errno.EFAULT):
            _memory.fetch_strings(image.tid, array, 4096, 10)
        with refused(errno.EFAULT):
            _memory.fetch_strings(image.tid, bad, 4096, 10)

    def test_negative_limit(self, image: Image) -> None:
        with refused(errno.E2BIG):
            _memory.fetch_strings(image.tid, put_strings(image, [b"a"]), 10, -1)

    @examples
    @given(
        strings=st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\0", b"0")), max_size=80),
        order=st.randoms(use_true_random=False),
        gap=st.integers(0, PAGE),
    )
    def test_scattered(self, own: Image, strings: list[bytes], order: object, gap: int) -> None:
        """Strings in any order, at any distance."""
        places = list(range(len(strings)))
        order.shuffle(places)  # type: ignore[attr-defined]
        pointers = [own.put(place * (gap + 50), strings[i] + b"\0") for i, place in enumerate(places)]
        array = own.put_at_end(struct.pack(f"={len(pointers) + 1}Q", *pointers, 0))
        assert _memory.fetch_strings(own.tid, array, room_for(strings), len(strings)) == strings


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
    bytes: bytes = b""
    path: bytes = b""
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> Decoded:
        return cls(**dict(zip(cls.__dataclass_fields__, _memory.parse_sockaddr(raw), strict=True)))


IPV4 = socket.inet_aton("192.0.2.7")
ADDRESSES = [
    (inet("192.0.2.7", 443), {"family": socket.AF_INET, "port": 443, "bytes": IPV4}),
    (
        inet6("2001:db8::1", 65535, 3),
        {
            "family": socket.AF_INET6,
            "port": 65535,
            "scope_id": 3,
            "bytes": socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
        },
    ),
    (inet6("::ffff:192.0.2.7", 80), {"family": socket.AF_INET6, "port": 80, "mapped": True, "bytes": IPV4}),
    (
        inet6("::1", 80, 9)[:24],  # without the scope: RFC 2133
        {"family": socket.AF_INET6, "port": 80, "bytes": socket.inet_pton(socket.AF_INET6, "::1")},
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
    (b"\0\0" + inet("192.0.2.7", 53)[2:], {"family": socket.AF_UNSPEC, "port": 53, "bytes": IPV4}),
]


class TestSockaddr:
    @pytest.mark.parametrize(("raw", "fields"), ADDRESSES)
    def test_decoded(self, raw: bytes, fields: dict[str, object], image: Image) -> None:
        assert Decoded.of(raw) == Decoded(raw=raw, **fields)  # type: ignore[arg-type]
        assert _memory.fetch_sockaddr(image.tid, image.put_at_end(raw), len(raw)) == _memory.parse_sockaddr(
            raw
        )

    @pytest.mark.parametrize("tail", [1, 16, 100])
    def test_the_tail_does_not_matter(self, tail: int) -> None:
        raw = inet("192.0.2.7", 443) + b"\xff" * tail
        assert Decoded.of(raw).bytes == IPV4

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
    def test_ipv4_like_python(self, address: object, port: int) -> None:
        for raw in (inet(str(address), port), inet6(f"::ffff:{address}", port)):
            found = Decoded.of(raw)
            assert (socket.inet_ntoa(found.bytes), found.port) == (str(address), port)

    @examples
    @given(address=st.ip_addresses(v=6), port=st.integers(0, 65535), scope=st.integers(0, 2**32 - 1))
    def test_ipv6_like_python(self, address: object, port: int, scope: int) -> None:
        found = Decoded.of(inet6(str(address), port, scope))
        assert found.mapped == (address.ipv4_mapped is not None)  # type: ignore[attr-defined]
        packed = address.packed  # type: ignore[attr-defined]
        assert found.bytes == (packed[12:] if found.mapped else packed)
        assert (found.port, found.scope_id) == (port, scope)

    @examples
    @given(st.binary(max_size=140))
    def test_anything(self, raw: bytes) -> None:
        """Whatever it is, it is decoded or refused, and what is decoded is part of what was given."""
        found = outcome(Decoded.of, raw)
        if isinstance(found, Decoded):
            assert found.raw == raw
            assert found.bytes in raw
            assert found.path in raw
        else:
            assert found in ("EINVAL", "EAFNOSUPPORT")


class TestSockaddrLikeTheKernel:
    """Lengths: what connect(2) and bind(2) refuse with EINVAL, and nothing else, is refused."""

    libc = ctypes.CDLL(None, use_errno=True)

    def kernel(self, call: str, kind: tuple[int, int], raw: bytes, length: int) -> str:
        with socket.socket(*kind) as sock:
            result = getattr(self.libc, call)(sock.fileno(), raw, length)
            return "0" if result == 0 else errno.errorcode[ctypes.get_errno()]

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
        kernel = self.kernel("connect", kind, padded, length)
        if kind[0] == socket.AF_INET6 and kernel == "EAFNOSUPPORT" and length >= 24:
            pytest.fail("no IPv6 in this kernel")
        found = outcome(Decoded.of, padded[:length])
        if kind[0] == socket.AF_UNIX and length == 2:
            assert kernel == "EINVAL"  # unnamed: bind takes it, see below
            assert isinstance(found, Decoded)
        elif kernel == "EINVAL":
            assert found == "EINVAL"
        else:
            assert isinstance(found, Decoded), kernel

    def test_unnamed_is_autobind(self) -> None:
        assert self.kernel("bind", (socket.AF_UNIX, socket.SOCK_DGRAM), unix(b""), 2) == "0"
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
            assert self.libc.sendto(sender.fileno(), b"got it", 6, 0, raw, 16) == 6
            assert receiver.recv(10) == b"got it"
        found = Decoded.of(raw)
        assert (socket.inet_ntoa(found.bytes), found.port) == ("127.0.0.1", receiver_port(raw))

    @examples
    @given(name=st.binary(min_size=1, max_size=107))
    def test_abstract_names_like_getsockname(self, name: bytes) -> None:
        raw = unix(b"\0sandlock-test-" + str(os.getpid()).encode() + name)[:110]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            assert self.libc.bind(sock.fileno(), raw, len(raw)) == 0
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
    def test_refused_like_the_kernel(
        self, own: Image, length: int, count: int, control: int, name: bool
    ) -> None:
        """Sent on a socket whose other end is there; names and iovecs lie in readable memory."""
        own.memory[: 8 * PAGE] = bytes(8 * PAGE)
        raw = HEADER.pack(own.address if name else 0, length, own.address, count, 0, control, 0)
        address = own.put_at_end(raw)
        found = outcome(_memory.fetch_msghdr, own.tid, address)
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, two:
            result = TestSockaddrLikeTheKernel.libc.sendmsg(
                one.fileno(), ctypes.c_void_p(address), socket.MSG_DONTWAIT
            )
            kernel = "0" if result >= 0 else errno.errorcode[ctypes.get_errno()]
        # Families come later, and ours are all 0; EINVAL may also be the name's or a control message's.
        if isinstance(found, str):
            assert kernel == found
        else:
            assert kernel not in ("EMSGSIZE", "ENOBUFS", "EFAULT") or control > 0


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
        libc = TestSockaddrLikeTheKernel.libc
        libc.writev.restype = ctypes.c_ssize_t
        null = os.open("/dev/null", os.O_WRONLY)
        try:
            result = libc.writev(null, ctypes.c_void_p(address), len(vectors))
        finally:
            os.close(null)
        kernel = result if result >= 0 else errno.errorcode[ctypes.get_errno()]
        found = outcome(_memory.fetch_iovecs, own.tid, address, len(vectors))
        if isinstance(found, tuple):
            assert found[0] == kernel
            assert sum(length for _, length in found[1]) == kernel
        else:
            assert found == kernel
