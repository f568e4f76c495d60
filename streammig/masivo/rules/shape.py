"""Turn the models into tables of fields, for the check of columns and for `explain`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

_DAYS = (
    rb'"[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])'
    rb'T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}(?:\.[0-9]{1,6})?Z"'
)


class Field(msgspec.Struct, frozen=True):
    """The valid values of one field.

    `kind` is one of text, id, email, uuid, date, number, boolean, enum, free (an object of any content), object, list.
    """

    name: str
    kind: str
    required: bool
    nullable: bool
    words: tuple[str, ...] = ()  # of an enum
    longest: int | None = None  # of a text, in characters
    shape: Shape | None = None  # of an object, or of the objects in a list
    default: bytes = b""  # the JSON for a missing field
    copy: str = ""  # the field that gives a missing field its value
    policy: str = ""
    decode: Callable[[bytes], Any] | None = None  # the strict decoder of an object or list
    plain: Callable[[bytes, int, int], Any] | None = None  # matches values that are surely valid


class Check(NamedTuple):
    """Attributes of a model that need a check beyond their type, with the shape of objects inside them.

    `kind` is one of number, optional number, nullable number, uuid, object, list, policy, free. `get` returns a tuple
    if there are several attributes.
    """

    get: Callable[[Any], Any]
    several: bool
    kind: str
    shape: Shape | None

    def values(self, models: Iterable[Any]) -> Iterator[Any]:
        """Give the attributes of all these models; for lists their elements."""
        values: Iterator[Any] = map(self.get, models)
        if self.several:
            values = chain.from_iterable(values)
        # An unset attribute is false; so is an empty list.
        return chain.from_iterable(filter(None, values)) if self.kind == "list" else values


class Shape(msgspec.Struct, frozen=True, eq=False):
    """The fields of an object by name, the required ones, and the checks of its model."""

    fields: Mapping[str, Field]
    required: tuple[Field, ...]
    needed: frozenset[str]  # their names
    checks: tuple[Check, ...]
    frees: bool  # an object of any content may be in it, at any depth


_known: dict[type, Shape] = {}  # one shape for each model


def shape_of(model: type[msgspec.Struct]) -> Shape:
    """Return the table of a model."""
    info = inspect.type_info(model)
    assert isinstance(info, inspect.StructType)
    return _shape(info, _known)


def objects_in(shape: Shape) -> Iterator[Shape]:
    """Give the shape itself, and the shape of every object in it."""
    yield shape
    for field in shape.fields.values():
        if field.shape is not None:
            yield from objects_in(field.shape)


def _shape(info: inspect.StructType, known: dict[type, Shape]) -> Shape:
    """Return the shape of a model; `known` has the shapes made so far, one for each model."""
    if info.cls not in known:
        known[info.cls] = _made(info, known)
    return known[info.cls]


def _made(info: inspect.StructType, known: dict[type, Shape]) -> Shape:
    fields = tuple(_field(field, known) for field in info.fields)
    alike: dict[tuple[str, Shape | None], list[str]] = {}
    for of, field in zip(info.fields, fields, strict=True):
        if field.policy or field.kind in ("number", "uuid", "free") or (field.shape and field.shape.checks):
            alike.setdefault((_kind_of_check(field), field.shape), []).append(of.name)
    checks = tuple(Check(attrgetter(*names), len(names) > 1, kind, shape) for (kind, shape), names in alike.items())
    required = tuple(field for field in fields if field.required)
    frees = any(each.kind == "free" or (each.shape is not None and each.shape.frees) for each in checks)
    needed = frozenset([field.name for field in required])
    return Shape({field.name: field for field in fields}, required, needed, checks, frees)


def _kind_of_check(field: Field) -> str:
    if field.policy or field.kind != "number":
        return "policy" if field.policy else field.kind
    return "nullable number" if field.nullable else "number" if field.required else "optional number"


def _field(field: inspect.Field, known: dict[type, Shape]) -> Field:
    info, extra = _bare(field.type)
    nullable = bool(extra.get("nullable"))
    if isinstance(info, inspect.UnionType):  # the models have no other union than with null
        nullable = field.required
        (some,) = (each for each in info.types if not isinstance(each, inspect.NoneType))
        info, inner = _bare(some)
        extra = {**inner, **extra}
    details: dict[str, Any] = {}
    match info:
        case inspect.StrType():
            kind = extra.get("kind", "text")
            if kind == "text":
                details["longest"] = info.max_length
        case inspect.LiteralType():
            kind, details["words"] = "enum", tuple(info.values)
        case inspect.StructType():
            kind, details["shape"] = "object", _shape(info, known)
            details["decode"] = msgspec.json.Decoder(info.cls).decode
        case inspect.ListType(item_type=inspect.StructType() as element):
            kind, details["shape"] = "list", _shape(element, known)
            details["decode"] = msgspec.json.Decoder(list[element.cls]).decode  # type: ignore[name-defined]
        case _:
            kind = _PLAIN[type(info)]
    default = extra.get("default", "").encode()
    copy, policy = extra.get("copy", ""), extra.get("policy", "")
    plain = None if policy else _plain(kind, nullable, details.get("longest"), details.get("words", ()))
    return Field(
        field.encode_name, kind, field.required, nullable, **details, default=default, copy=copy, policy=policy,
        plain=plain,
    )  # fmt: skip


def _plain(kind: str, nullable: bool, longest: int | None, words: Sequence[str]) -> Callable[..., Any] | None:
    """Make a matcher for JSON of surely valid values: plain ASCII, and dates with a day up to 28."""
    match kind:
        case "text":
            some = rb'"[ !#-\[\]-~]{0,%b}"' % (b"" if longest is None else b"%d" % longest)
        case "enum":
            some = b'"(?:%b)"' % b"|".join(re.escape(word.encode()) for word in words)
        case "date":
            some = _DAYS
        case _:
            return None
    return re.compile(b"%b|null" % some if nullable else some).fullmatch


_PLAIN: dict[type, str] = {
    inspect.DateTimeType: "date",
    inspect.RawType: "number",
    inspect.BoolType: "boolean",
    inspect.DictType: "free",
}


def _bare(info: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    if isinstance(info, inspect.Metadata):
        return info.type, info.extra or {}
    return info, {}
