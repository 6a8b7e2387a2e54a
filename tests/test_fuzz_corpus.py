"""Replays the inputs that the fuzzer starts from, and those that once failed, on the ordinary build."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

import pytest

FUZZ = os.path.join(os.path.dirname(__file__), "fuzz")
CORPUS = os.path.join(FUZZ, "corpus")
sys.path.insert(0, FUZZ)

from targets import TARGETS  # noqa: E402

INPUTS = [(name, file) for name in sorted(TARGETS) for file in sorted(os.listdir(os.path.join(CORPUS, name)))]


@pytest.mark.parametrize(("name", "file"), INPUTS)
def test_replay(name: str, file: str) -> None:
    with open(os.path.join(CORPUS, name, file), "rb") as stored:
        TARGETS[name](stored.read())


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_random_changes(target: Callable[[bytes], None], rng: random.Random) -> None:
    """A little fuzzing in every run: inputs of the corpus with a few bytes changed, inserted or cut off."""
    stored = []
    for name, file in INPUTS:
        if TARGETS[name] is target:
            with open(os.path.join(CORPUS, name, file), "rb") as opened:
                stored.append(opened.read())
    for _ in range(300):
        data = bytearray(rng.choice(stored))
        for _ in range(rng.randint(1, 4)):
            place = rng.randint(0, len(data))
            match rng.randrange(3):
                case 0:
                    data[place : place + 1] = rng.randbytes(1)
                case 1:
                    data[place:place] = rng.randbytes(rng.randint(1, 8))
                case _:
                    del data[place : place + rng.randint(1, 8)]
        target(bytes(data))


def test_every_target_has_a_corpus() -> None:
    assert sorted(os.listdir(CORPUS)) == sorted(TARGETS)
