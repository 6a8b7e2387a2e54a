"""Every call by path, with every sort of path and flag, does the same bare and where the supervisor does it."""

from __future__ import annotations

from collections.abc import Iterator

import ordinary
import pytest
from paths.tables import EXPECTED, NAMES, case
from paths.worker import MODES, Pair, pair

from sandlock._path_rules import METADATA

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.slow]


ALL = frozenset((*NAMES, "bases", "umask"))
# As root only where files are denied: it has no capabilities inside, so it is hardly another user.
BOTH = [(user, mode) for user in ordinary.USERS for mode in MODES if user == "ordinary" or mode == "denied"]
# Where files are only asked about, the supervisor does only opens; and without any option, only what changes metadata.
ONLY = {"asked": ("open", "openat", "openat2", "creat", "umask"), "plain": METADATA}


@pytest.fixture(scope="module")
def both(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair(*request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("both", "name"),
    [(who, name) for who in BOTH for name in ONLY.get(who[1], (*NAMES, "bases", "umask")) if name in ALL],
    indirect=["both"],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_it_does_the_same(both: Pair, name: str) -> None:
    made = case(name, both.tree.encode(), both.mode)
    both.same(made.setup, made.lines)


@pytest.mark.parametrize("both", BOTH, indirect=True, ids="-".join)
def test_it_does_what_is_expected(both: Pair) -> None:
    made = case("expected", both.tree.encode(), both.mode)
    outcome = both.same(made.setup, made.lines)
    said = [answer if answer[0] == "E" else "0" for answer in outcome.answers[-len(EXPECTED) :]]
    assert [(entry, answer) for entry, answer in zip(EXPECTED, said, strict=True) if answer != entry[2]] == []
