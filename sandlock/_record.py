"""Records: frozen, slotted, keyword-only value classes that cost nothing to start.

What `@dataclass(frozen=True, slots=True, kw_only=True)` makes, without importing dataclasses: that brings
inspect, ast, re and enum, which take longer than all of ours together, and compiles source for each class.
Type checkers are told that it is a dataclass. Rules: no mutable defaults; what a record inherits from another record is
copied, and at run time the two have nothing in common.
"""

from __future__ import annotations

from _operator import attrgetter  # operator itself takes a millisecond to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from inspect import Signature
    from typing import Any, TypeVar, dataclass_transform, overload

    T = TypeVar("T")

__all__ = ["MISSING", "Field", "field", "fields", "record", "replace"]


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
"""The default of a field that has none."""


class Field:
    """What is known of one field. Never changed."""

    __slots__ = ("default", "metadata", "name", "repr")

    def __init__(self, name: str, default: object, repr: bool, metadata: Mapping[str, Any]) -> None:
        self.name = name
        self.default = default
        self.repr = repr
        self.metadata = metadata


def field(*, default: Any = MISSING, repr: bool = True, metadata: Mapping[str, Any] | None = None) -> Any:
    """A field with more to it than a default. `repr`: whether it shows in repr()."""
    return Field("", default, repr, metadata or {})


def _make(cls: Any, kw_only: bool) -> Any:
    (base,) = cls.__bases__
    known = {name: _field_of(name, cls.__dict__.get(name, MISSING)) for name in cls.__annotations__}
    body = {name: value for name, value in cls.__dict__.items() if name not in known}
    if base is not object:
        if "__record_fields__" not in base.__dict__:
            raise TypeError(f"{cls.__name__}: a record does not inherit from what is no record")
        known |= {name: each for name, each in base.__record_fields__.items() if name not in known}  # own ones first
        body = {name: value for name, value in base.__dict__.items() if name[:2] != "__" and name not in known} | body
        body["__annotations__"] = base.__annotations__ | cls.__annotations__
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    body.update(
        __slots__=tuple(known),
        __match_args__=() if kw_only else tuple(known),
        __record_fields__=known,
        __setattr__=_frozen,
        __delattr__=_frozen,
        __eq__=_equal,
        __hash__=_hash,
        __reduce__=_reduce,
        __replace__=replace,
        __signature__=_LazySignature(kw_only),
    )
    body.setdefault("__repr__", _show)
    made: Any = type(cls.__name__, (), body)
    # A new sandbox makes, hashes and compares several records: what can be looked up once is looked up here.
    made.__init__ = _initialiser(made, () if kw_only else tuple(known), "__post_init__" in body)
    made.__record_values__ = staticmethod(attrgetter(*known)) if len(known) > 1 else _slots
    return made


def _field_of(name: str, value: object) -> Field:
    if isinstance(value, Field):
        return Field(name, value.default, value.repr, value.metadata)
    if isinstance(value, (list, dict, set)):
        raise TypeError(f"{name}: a mutable default would be shared by all records")
    return Field(name, value, True, {})


def _initialiser(cls: Any, positional: tuple[str, ...], post: bool) -> Callable[..., None]:
    members = [(name, getattr(cls, name).__set__) for name in cls.__record_fields__]
    defaults = {name: each.default for name, each in cls.__record_fields__.items() if each.default is not MISSING}
    known = frozenset(cls.__record_fields__)
    puts = [put for _, put in members]

    def __init__(self: Any, *arguments: Any, **values: Any) -> None:  # noqa: N807  # it is one
        if arguments:
            if len(arguments) == len(puts) and positional and not post and not values:
                for put, value in zip(puts, arguments, strict=True):  # the presets make some eighty grants per sandbox
                    put(self, value)
                return
            if len(arguments) > len(positional):
                raise TypeError(f"{type(self).__name__}() takes {len(positional)} positional arguments")
            for name, value in zip(positional, arguments, strict=False):
                if name in values:
                    raise TypeError(f"{type(self).__name__}() got multiple values for argument {name!r}")
                values[name] = value
        if not values.keys() <= known:
            name = next(name for name in values if name not in known)
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
        filled = defaults | values
        try:
            for name, put in members:
                put(self, filled[name])
        except KeyError:
            raise TypeError(f"{type(self).__name__}() missing required argument: {name!r}") from None
        if post:
            self.__post_init__()

    return __init__


def _slots(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__slots__])


def _frozen(self: Any, name: str, value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__}.{name}: records cannot be changed; make another with replace()")


def _equal(self: Any, other: Any) -> Any:
    return (
        self.__record_values__(self) == self.__record_values__(other) if type(other) is type(self) else NotImplemented
    )


def _hash(self: Any) -> int:
    return hash(self.__record_values__(self))


def _show(self: Any) -> str:
    shown = [name for name, each in self.__record_fields__.items() if each.repr]
    return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


def _reduce(self: Any) -> tuple[object, ...]:
    return _restore, (type(self), dict(zip(self.__slots__, _slots(self), strict=True)))


def _restore(cls: type[Any], values: dict[str, Any]) -> Any:
    return cls(**values)


class _LazySignature:
    """For help() and inspect.signature, which bring inspect with them."""

    __slots__ = ("_kw_only",)

    def __init__(self, kw_only: bool) -> None:
        self._kw_only = kw_only

    def __get__(self, instance: object, owner: type[Any]) -> Signature:
        from inspect import Parameter, Signature

        kind = Parameter.KEYWORD_ONLY if self._kw_only else Parameter.POSITIONAL_OR_KEYWORD
        return Signature(
            [
                Parameter(
                    name,
                    kind,
                    default=Parameter.empty if each.default is MISSING else each.default,
                    annotation=owner.__annotations__[name],
                )
                for name, each in owner.__record_fields__.items()
            ]
        )


def fields(cls: type[Any]) -> tuple[Field, ...]:
    """The fields of a record class, in the order of the class body."""
    return tuple(cls.__record_fields__.values())


def replace(instance: T, /, **changes: Any) -> T:
    """A copy with these fields replaced, checked as any other record of its class."""
    values = {name: getattr(instance, name) for name in type(instance).__slots__}  # type: ignore[attr-defined]
    return type(instance)(**(values | changes))


if TYPE_CHECKING:

    @overload
    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
    def record(cls: type[T], /) -> type[T]: ...
    @overload
    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
    def record(*, kw_only: bool = True) -> Callable[[type[T]], type[T]]: ...
    def record(cls: Any = None, /, *, kw_only: bool = True) -> Any: ...

else:

    def record(cls=None, /, *, kw_only=True):
        """Makes a record of this class; `@record(kw_only=False)` allows positional arguments."""
        return (lambda cls: _make(cls, kw_only)) if cls is None else _make(cls, kw_only)
