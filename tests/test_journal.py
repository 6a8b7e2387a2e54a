"""The journal of decisions by itself: many write, one reads, writers die anywhere, and nothing is lost unseen."""

from __future__ import annotations

import threading
import time

from sandlock._journal import Ring

ERRNO, PID, EXE = 4, 6, 11  # of what `take` gives
SIZE = 2048


def numbers(entries: list[tuple[object, ...]]) -> list[object]:
    return [entry[ERRNO] for entry in entries]


def test_in_order_and_round_and_round() -> None:
    ring = Ring()
    ring.enlist(0)
    for start in range(1, 10 * SIZE, 700):
        assert ring.write(start, 700) == 700
        entries = ring.take()
        assert numbers(entries) == list(range(start, start + 700))
        assert {entry[EXE] for entry in entries} == {b"exe"}
    assert ring.take() == []
    assert ring.counts() == (0, 0, False)


def test_many_write_while_one_reads() -> None:
    ring = Ring(patient=True)
    each, writers = 20_000, 4

    def write(place: int) -> None:
        ring.enlist(place)
        for start in range(0, each, 500):
            assert ring.write(place * each + start, 500) == 500

    threads = [threading.Thread(target=write, args=(place,)) for place in range(writers)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {place: [] for place in range(writers)}
    limit = time.monotonic() + 60
    while sum(map(len, seen.values())) < each * writers and time.monotonic() < limit:
        ring.wait(100)
        for number in numbers(ring.take(limit=100)):
            assert isinstance(number, int)
            seen[number // each].append(number)
    for thread in threads:
        thread.join()
    for place in range(writers):
        assert seen[place] == list(range(place * each, (place + 1) * each))
    assert ring.counts() == (0, 0, False)


def test_what_finds_no_room_is_counted() -> None:
    ring = Ring()
    ring.enlist(0)
    assert ring.write(0, SIZE + 100) == SIZE
    assert ring.counts() == (100, 0, False)
    assert numbers(ring.take()) == list(range(SIZE))
    assert ring.write(5, 1) == 1


def test_a_patient_one_waits_for_room() -> None:
    ring = Ring(patient=True)
    written: list[int] = []

    def write() -> None:
        ring.enlist(0)
        written.append(ring.write(0, SIZE + 500))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    taken = []
    while len(taken) < SIZE + 500:
        ring.wait(100)
        taken += numbers(ring.take(limit=7))
    thread.join()
    assert written == [SIZE + 500]
    assert taken == list(range(SIZE + 500))
    assert ring.counts() == (0, 0, False)


def test_nobody_waits_without_end_and_then_nothing_is_allowed() -> None:
    ring = Ring(patient=True)
    ring.enlist(0)
    started = time.monotonic()
    assert ring.write(0, SIZE + 50) == SIZE
    assert 4 < time.monotonic() - started < 20  # once, not for each
    assert ring.counts() == (50, 0, True)


def test_who_dies_while_writing_is_skipped_and_counted() -> None:
    ring = Ring()
    ring.enlist(1)
    ring.write(1, 1)
    ring.take_place()

    def other() -> None:
        ring.enlist(2)
        ring.write(2, 1)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert numbers(ring.take()) == [1]
    assert ring.take() == []  # it may be writing still
    ring.end(1)
    assert numbers(ring.take()) == [2]
    assert ring.counts() == (0, 1, False)


def test_a_successor_in_the_place_of_the_dead_does_not_hide_it() -> None:
    ring = Ring()

    def die() -> None:
        ring.enlist(1)
        ring.take_place()

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    ring.end(1)
    ring.enlist(1)
    ring.write(7, 1)
    assert numbers(ring.take()) == [7]
    assert ring.counts() == (0, 1, False)


def test_at_the_end_nobody_is_waited_for() -> None:
    ring = Ring()
    ring.enlist(0)
    ring.take_place()

    def other() -> None:
        ring.enlist(1)
        ring.write(3, 1)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert ring.take() == []
    assert numbers(ring.take(final=True)) == [3]
    assert ring.counts() == (0, 1, False)


def test_a_reader_that_waits_is_woken() -> None:
    ring = Ring()
    ring.enlist(0)
    started = time.monotonic()
    thread = threading.Timer(0.2, lambda: (ring.enlist(1), ring.write(1, 1)))
    thread.start()
    while not ring.take():
        ring.wait(10_000)
    assert time.monotonic() - started < 5
    thread.join()
