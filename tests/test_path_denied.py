"""fs_denied: nothing that is denied can be read, changed, moved or made, by no call and by no spelling.

Judged from outside; each call and each spelling has a control, bare, that succeeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import ordinary
import pytest
from paths.jail import LINKS, ON_LINKS, Jail, calls, jail, makings, spellings, trees

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.slow]
WAYS = list(spellings(b""))
PLACES = (
    b"vault/new",
    b"vault/sub/new",
    b"to-vault/new",
    b"later",
    b"dir/../later",
    b"above/below/hidden/new",
    b"dir/deep/new",
)


@pytest.fixture(scope="module", params=ordinary.USERS)
def there(request: pytest.FixtureRequest) -> Iterator[Jail]:
    with jail(request.param) as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_done_to_what_is_denied(there: Jail, way: str) -> None:
    base, path = spellings(there.top)[way]
    doing = calls(base, path)
    for what in ON_LINKS if way in LINKS else ():
        doing.pop(what, None)
    answers = there.tried(doing)
    assert {what: said[0] for what, said in answers.items() if said[0] not in ("EACCES", "EPERM")} == {}
    bare = there.works(doing["read"])
    assert bare[1] == "10 TOP-SECRET", bare


@pytest.mark.parametrize("what", list(calls(-100, b"secret")))
def test_the_controls_of_what_is_tried(there: Jail, what: str) -> None:
    said = there.works(calls(-100, b"secret")[what])
    assert not said[0].startswith("E"), said


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_made_where_it_is_denied(there: Jail, place: bytes) -> None:
    answers = there.tried({what: [line] for what, line in makings(place).items()})
    assert {what: said for what, said in answers.items() if said[0] not in ("EACCES", "EPERM")} == {}
    for what, line in makings(place).items():
        assert not there.works([line])[0].startswith("E"), what


@pytest.mark.parametrize("what", list(trees()))
def test_nothing_is_done_to_denied_trees_and_what_holds_them(there: Jail, what: str) -> None:
    lines = trees()[what]
    said = there.tried({what: lines})[what]
    assert said[len(lines) - 1 if what != "list inside" else 1][0] == "E", said  # the last, or what it needs
    assert any(each in ("EACCES", "EPERM") for each in said), said
    bare = there.works(lines)
    assert not [each for each in bare if each[0] == "E"], bare
