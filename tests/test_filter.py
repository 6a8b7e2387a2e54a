"""The assembler, on a BPF machine: what a program means is what was asked for, whatever its layout."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import bpf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandlock import _filter
from sandlock._filter import ALLOW, KILL, NOTIFY, any_bit, assemble, differs, errno, is_, masked, only_bits
from sandlock.errors import InternalError, PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock._filter import Answer

ENOSYS = bpf.ERRNO | 38
ALL = (1 << 64) - 1
ARCHES = ("x86_64", "aarch64")


def meaning(answers: dict[int, Answer], nr: int, args: tuple[int, ...]) -> int:
    """What the filter shall answer, read from the rules the slow and obvious way."""
    answer = answers.get(nr, ENOSYS)
    if isinstance(answer, int):
        return answer
    cases, otherwise = answer
    for conditions, action in cases:
        if all((args[argument] & mask == value) is wanted for argument, mask, value, wanted in conditions):
            return action
    return otherwise


def sides(mask: int, value: int) -> list[int]:
    """Registers on every side of a comparison: hit, missed by one bit, with dirt in what is not compared."""
    rest = ~mask & ALL
    missed = [value ^ (mask & -mask), value ^ 1 << mask.bit_length() - 1, ALL, 0, (value + 1) & ALL]
    return [
        value,
        value | rest,
        value | 0xDEADBEEF00000000 & rest,
        *missed,
        *(number | 1 << 32 for number in missed),
    ]


def interesting(answer: Answer, limit: int = 2000) -> Iterator[tuple[int, ...]]:
    """Arguments for every case: all conditions met, each one missed in turn; then combinations of all
    values."""
    values: dict[int, dict[int, None]] = {}
    for conditions, _ in () if isinstance(answer, int) else answer[0]:
        met = [0] * 6
        for argument, mask, value, wanted in conditions:
            met[argument] |= value if wanted else value ^ (mask & -mask)
        yield tuple(met)
        for argument, mask, value, _ in conditions:
            values.setdefault(argument, {0: None}).update(dict.fromkeys(sides(mask, value)))
            for number in sides(mask, value):
                yield (*met[:argument], number, *met[argument + 1 :])
    used = sorted(values)
    every = itertools.product(*(values[argument] for argument in used))
    for combination in itertools.islice(every, limit):
        args = [0] * 6
        for argument, number in zip(used, combination, strict=True):
            args[argument] = number
        yield tuple(args)


def check(
    answers: dict[int, Answer], arch: str, seen: set[tuple[int, bool]] | None = None, limit: int = 2000
) -> list[bpf.Instruction]:
    """Assembles, compares with `meaning` on all numbers and interesting arguments; returns the program."""
    code = bpf.load(assemble(answers, arch))
    above = max(answers, default=-1) + 1
    for nr in [*range(above + 2), 0x40000000, 0x40000001, 0x400001FF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
        for args in interesting(answers.get(nr, 0), limit):
            assert bpf.run(code, bpf.data(nr, arch, args), seen) == meaning(answers, nr, args), (nr, args)
    for foreign in bpf.AUDIT_ARCH:
        if foreign != arch:
            assert bpf.run(code, bpf.data(0, foreign), seen) == bpf.KILL_PROCESS
    return code


CONDITIONS = st.one_of(
    st.builds(is_, st.integers(0, 5), st.integers(0, 2**32 - 1)),
    st.builds(differs, st.integers(0, 5), st.integers(0, 3)),
    st.builds(any_bit, st.integers(0, 5), st.integers(1, ALL)),
    st.builds(only_bits, st.integers(0, 5), st.integers(0, ALL - 1)),
    st.builds(
        lambda argument, mask, value: masked(argument, mask, value & mask),
        st.integers(0, 5), st.integers(1, ALL), st.integers(0, ALL),
    ),
)  # fmt: skip
ACTIONS = st.one_of(st.just(ALLOW), st.just(NOTIFY), st.just(KILL), st.integers(1, 4095).map(errno))
CASES = st.tuples(st.lists(CONDITIONS, max_size=3).map(tuple), ACTIONS)
CHOICES = st.tuples(st.lists(CASES, max_size=4).map(tuple), ACTIONS)
ANSWERS = st.dictionaries(st.integers(0, 60), st.one_of(ACTIONS, CHOICES), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANSWERS, st.sampled_from(ARCHES), st.tuples(*[st.integers(0, ALL)] * 6))
def test_a_program_means_what_was_asked_for(answers: dict[int, Answer], arch: str, args: tuple[int, ...]) -> None:
    code = bpf.load(assemble(answers, arch))
    for nr in range(64):
        assert bpf.run(code, bpf.data(nr, arch, args)) == meaning(answers, nr, args)
        for some in itertools.islice(interesting(answers.get(nr, 0)), 40):
            assert bpf.run(code, bpf.data(nr, arch, some)) == meaning(answers, nr, some)


@pytest.mark.parametrize("arch", ARCHES)
def test_long_programs_jump_far(arch: str) -> None:
    """Hundreds of instructions lie between a comparison and its target, in both directions of the
    comparison."""
    chance = random.Random(1)
    answers: dict[int, Answer] = {}
    for nr in range(50):
        values = chance.sample(range(1 << 30), 10)
        answers[nr] = (
            tuple(((is_(nr % 6, value), any_bit((nr + 1) % 6, value)), errno(1 + value % 99)) for value in values),
            ALLOW,
        )
    answers[500] = errno(7)
    answers = {nr: answer for nr, answer in answers.items() if nr not in (30, 31, 47)}
    seen: set[tuple[int, bool]] = set()
    code = check(answers, arch, seen, limit=20)
    assert 2000 < len(code) <= 4096
    assert any(one.code == bpf.JA for one in code)
    assert {place for place, _ in seen} == set(range(len(code)))


def test_one_choice_longer_than_a_branch_reaches() -> None:
    """The way from the first comparison to the common end is some 300 instructions."""
    cases = tuple(((is_(0, 2 * value), is_(1, value)), errno(5)) for value in range(80))
    code = check({3: (cases, ALLOW)}, "x86_64", limit=20)
    assert len(code) > 300


def test_an_instruction_never_carries_a_number_that_does_not_fit() -> None:
    for fields in ((0x15, 256, 0, 0), (0x15, 0, 256, 0), (0x15, -1, 0, 0), (6, 0, 0, 1 << 32), (6, 0, 0, -1)):
        with pytest.raises(InternalError):
            _filter._encode(*fields)


def test_a_program_too_long_for_the_kernel_is_refused() -> None:
    cases = tuple(((is_(0, value), is_(1, value)), errno(1 + value % 1000)) for value in range(3000))
    with pytest.raises(PolicyError, match="4096"):
        assemble({1: (cases, ALLOW)}, "x86_64")


@pytest.mark.parametrize(
    "condition",
    [
        (6, 1, 0, True),
        (-1, 1, 0, True),
        (0, 0, 0, True),
        (0, 1 << 64, 0, True),
        (0, 1, 2, True),
        (0, -1, 0, True),
    ],
)
def test_a_broken_condition_is_an_error(condition: tuple[int, int, int, bool]) -> None:
    with pytest.raises(InternalError):
        assemble({0: ((((condition,), ALLOW),), KILL)}, "x86_64")


@pytest.mark.parametrize("number", [0, -1, 4096])
def test_no_errno_may_turn_into_success(number: int) -> None:
    with pytest.raises(InternalError):
        errno(number)


def test_a_negative_number_is_an_error() -> None:
    with pytest.raises(InternalError):
        assemble({-1: ALLOW}, "x86_64")


def test_nothing_asked_for_is_nothing_allowed() -> None:
    code = check({}, "x86_64")
    assert bpf.run(code, bpf.data(0)) == ENOSYS


def test_equal_neighbours_are_one_range_and_equal_choices_one_block() -> None:
    choice: Answer = ((((is_(0, 1), is_(1, 2)), KILL),), ALLOW)
    few = len(check({**dict.fromkeys(range(400), ALLOW), 200: choice}, "x86_64"))
    many = len(check({**dict.fromkeys(range(400), ALLOW), 200: choice, 201: choice, 202: choice}, "x86_64"))
    assert few <= 14
    assert many - few <= 2


def test_a_word_is_loaded_once_for_a_list_of_values() -> None:
    cases = tuple(((is_(1, value),), errno(1)) for value in range(10, 30))
    code = check({0: (cases, ALLOW)}, "x86_64")
    assert sum(one.code == bpf.LD_ABS and one.k == 24 for one in code) == 1


def test_numbers_that_are_simply_allowed_need_no_run_of_the_filter() -> None:
    answers: dict[int, Answer] = {nr: (ALLOW, errno(1), ((((is_(0, 1),), KILL),), ALLOW))[nr % 3] for nr in range(300)}
    code = check(answers, "x86_64")
    for nr, answer in answers.items():
        assert bpf.always_allows(code, nr, "x86_64") == (answer == ALLOW)


# --- the machine itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        [],
        [(6, 0, 0, 0)] * 4097,
        [(0x15, 0, 0, 0)],  # no end
        [(0x15, 1, 0, 0), (6, 0, 0, 0)],  # branches out
        [(0x15, 0, 1, 0), (6, 0, 0, 0)],
        [(0x05, 0, 0, 1), (6, 0, 0, 0)],
        [(0x05, 0, 0, 0xFFFFFFFF), (6, 0, 0, 0)],
        [(0x20, 0, 0, 64), (6, 0, 0, 0)],  # loads outside of seccomp_data
        [(0x20, 0, 0, 2), (6, 0, 0, 0)],
        [(0x28, 0, 0, 0), (6, 0, 0, 0)],  # half words
        [(0x34, 0, 0, 0), (6, 0, 0, 0)],
        [(0x64, 0, 0, 32), (6, 0, 0, 0)],
        [(0x60, 0, 0, 0), (6, 0, 0, 0)],  # scratch memory: this machine has none
    ],
)
def test_the_machine_refuses_what_the_kernel_refuses(program: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(bpf.RejectedError):
        bpf.load(b"".join(_filter._INSTRUCTION.pack(*one) for one in program))


def test_the_machine_refuses_half_an_instruction() -> None:
    with pytest.raises(bpf.RejectedError):
        bpf.load(b"\x06\0\0\0")


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ([(0x00, 7), (0x04, 5), (0x16, 0)], 12),
        ([(0x00, 7), (0x14, 9), (0x16, 0)], 0xFFFFFFFE),
        ([(0x00, 7), (0x24, 0x40000000), (0x16, 0)], 0xC0000000),
        ([(0x00, 7), (0x34, 2), (0x16, 0)], 3),
        ([(0x00, 6), (0x44, 1), (0x16, 0)], 7),
        ([(0x00, 6), (0x54, 3), (0x16, 0)], 2),
        ([(0x00, 6), (0xA4, 3), (0x16, 0)], 5),
        ([(0x00, 6), (0x64, 31), (0x16, 0)], 0),
        ([(0x00, 6), (0x74, 1), (0x16, 0)], 3),
        ([(0x00, 1), (0x84, 0), (0x16, 0)], 0xFFFFFFFF),
        ([(0x01, 5), (0x87, 0), (0x16, 0)], 5),
        ([(0x00, 8), (0x07, 0), (0x0C, 0), (0x16, 0)], 16),
        ([(0x01, 0), (0x3C, 0), (0x16, 0)], bpf.KILL_THREAD),
        ([(0x80, 0), (0x16, 0)], 64),
        ([(0x81, 0), (0x87, 0), (0x16, 0)], 64),
    ],
)
def test_the_machine_computes(program: list[tuple[int, int]], result: int) -> None:
    code = bpf.load(b"".join(_filter._INSTRUCTION.pack(code, 0, 0, k) for code, k in program))
    assert bpf.run(code, bpf.data(0)) == result


@pytest.mark.parametrize(
    ("jump", "a", "taken"),
    [(0x15, 4, False), (0x15, 5, True), (0x25, 5, False), (0x25, 6, True), (0x35, 5, True), (0x35, 4, False),
     (0x45, 2, False), (0x45, 1, True), (0x1D, 5, True), (0x1D, 4, False)],
)  # fmt: skip
def test_the_machine_jumps(jump: int, a: int, taken: bool) -> None:
    program = [(0x00, 0, 0, a), (0x01, 0, 0, 5), (jump, 1, 0, 5), (0x06, 0, 0, 0), (0x06, 0, 0, 1)]
    code = bpf.load(b"".join(_filter._INSTRUCTION.pack(*one) for one in program))
    assert bpf.run(code, bpf.data(0)) == taken
