"""Random calls by path do the same bare and where the supervisor does them: results, errno, and the tree afterwards.

Environment:
    SANDLOCK_PATH_EXAMPLES   sequences for each mode and user; with CI=true they are the same ones each time
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import ordinary
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from paths.sequences import Calls, setup
from paths.worker import MODES, Pair, pair

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.slow]
EXAMPLES = int(os.environ.get("SANDLOCK_PATH_EXAMPLES", "40"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@pytest.fixture(scope="module", params=[(user, mode) for user in ordinary.USERS for mode in MODES], ids="-".join)
def both(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair(*request.param) as made:
        yield made


def test_sequences_do_the_same(both: Pair) -> None:
    tree = both.tree.encode()
    made = setup(tree)

    @SETTINGS
    @given(Calls(tree, both.mode, both.person.uid).script())
    def compare(lines: list[str]) -> None:
        both.same(made, lines)

    compare()
