"""The decoders of guest memory (`_memory`): bytes, strings, argv and envp, against references in Python."""

from __future__ import annotations

import errno
import os
import random
import struct
import threading
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from image import PAGE, POINTER_LIMIT, SIZE, Image, examples, open_images, outcome, refused

from sandlock import _memory


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

    @pytest.mark.parametrize("address", [0, 1, 1 << 47, 1 << 56, 1 << 63, POINTER_LIMIT - PAGE, POINTER_LIMIT - 1])
    def test_bad_addresses(self, image: Image, address: int) -> None:
        for length in (1, 8, PAGE, 1 << 20):
            with refused(errno.EFAULT):
                _memory.fetch_memory(image.tid, address, length)

    def test_no_such_task(self) -> None:
        with refused(errno.ESRCH):
            _memory.fetch_memory((1 << 22) + 1, 4096, 8)

    def test_a_thread_is_a_task(self, own: Image) -> None:
        """A notification names the thread, not the process."""
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


def put_strings(image: Image, strings: Sequence[bytes], *, array_end: int = SIZE) -> int:
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
        array = put_strings(image, strings, array_end=SIZE - shift)
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
    def test_scattered(self, own: Image, strings: list[bytes], order: random.Random, gap: int) -> None:
        """Strings in any order, at any distance."""
        places = list(range(len(strings)))
        order.shuffle(places)
        pointers = [own.put(place * (gap + 50), strings[i] + b"\0") for i, place in enumerate(places)]
        array = own.put_at_end(struct.pack(f"={len(pointers) + 1}Q", *pointers, 0))
        assert _memory.fetch_strings(own.tid, array, room_for(strings), len(strings)) == strings
