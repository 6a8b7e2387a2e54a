"""Records: as strict as the dataclasses they stand for."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from sandlock._record import field, fields, record, replace
from sandlock.policy import Policy


@record
class Point:
    """Where."""

    x: int
    y: int = 2
    note: str = field(default="", repr=False)

    @property
    def sum(self) -> int:
        return self.x + self.y


@record(kw_only=False)
class Pair:
    left: int
    right: int = 0


def test_a_record_is_a_value() -> None:
    assert Point(x=1) == Point(x=1, y=2)
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Pair(1, 2)
    assert hash(Point(x=1)) == hash(Point(x=1))
    assert repr(Point(x=1, note="n")) == "Point(x=1, y=2)"
    assert Point(x=1).sum == 3
    assert Point.__doc__ == "Where."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Point(), "missing required argument: 'x'"),
        (lambda: Point(x=1, z=2), "unexpected keyword argument 'z'"),
        (lambda: Point(1), "takes 0 positional"),
        (lambda: Pair(1, 2, 3), "takes 2 positional"),
        (lambda: Pair(1, left=2), "multiple values"),
    ],
)
def test_wrong_arguments_are_type_errors(make, message) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_a_record_cannot_be_changed() -> None:
    point = Point(x=1)
    for change in (
        lambda: setattr(point, "x", 2),
        lambda: setattr(point, "unknown", 2),
        lambda: delattr(point, "x"),
    ):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
    assert not hasattr(point, "__dict__")


def test_copies() -> None:
    point = Point(x=1)
    assert replace(point, y=5) == Point(x=1, y=5)
    assert pickle.loads(pickle.dumps(point)) == point
    assert copy.deepcopy(point) == point
    with pytest.raises(TypeError, match="'z'"):
        replace(point, z=1)


def test_a_policy_survives_pickling() -> None:
    policy = Policy.of(presets="system", env={"A": "1"}, timeout=3)
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_tools_see_the_signature() -> None:
    assert str(inspect.signature(Pair)) == "(left: 'int', right: 'int' = 0)"
    assert [each.name for each in fields(Point)] == ["x", "y", "note"]
    match Pair(1, 2):
        case Pair(left, right):
            assert (left, right) == (1, 2)


def test_a_record_takes_over_the_fields_of_another() -> None:
    class Place(Point):
        z: int = 3

    made = record(Place)(x=1)
    assert [each.name for each in fields(type(made))] == ["z", "x", "y", "note"], "its own come first"
    assert (made.x, made.z) == (1, 3)
    assert made != Point(x=1)


def test_what_a_record_must_not_be() -> None:
    with pytest.raises(TypeError, match="does not inherit"):
        record(type("Sub", (ValueError,), {"__annotations__": {}}))
    with pytest.raises(TypeError, match="mutable default"):
        record(type("Shared", (), {"__annotations__": {"x": "list"}, "x": []}))
