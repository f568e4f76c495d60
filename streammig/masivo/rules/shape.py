"""The models as tables of fields, for the check that walks over a record's bytes and explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect


class Field(msgspec.Struct, frozen=True):
    """What may stand in one field.

    `kind` is one of text, id, email, uuid, date, number, boolean, enum, free (an object of any content), object, list.
    """

    name: str
    kind: str
    required: bool
    nullable: bool
    words: tuple[str, ...] = ()  # of an enum
    longest: int | None = None  # of a text, in characters
    shape: Shape | None = None  # of an object, or of the objects in a list
    default: bytes = b""  # the JSON put in where the field is missing
    copy: str = ""  # the field whose value is put in where this one is missing
    policy: str = ""


class Shape(msgspec.Struct, frozen=True):
    """The fields of an object by name, and those that it can't be without."""

    fields: Mapping[str, Field]
    required: tuple[Field, ...]


def shape_of(model: type[msgspec.Struct]) -> Shape:
    """The table of one of the models."""
    info = inspect.type_info(model)
    assert isinstance(info, inspect.StructType)
    return _shape(info)


def _shape(info: inspect.StructType) -> Shape:
    fields = tuple(_field(field) for field in info.fields)
    return Shape({field.name: field for field in fields}, tuple(field for field in fields if field.required))


def _field(field: inspect.Field) -> Field:
    info, extra = _bare(field.type)
    nullable = bool(extra.get("nullable"))
    if isinstance(info, inspect.UnionType):  # the models know no other union than that with null
        nullable = True
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
            kind, details["shape"] = "object", _shape(info)
        case inspect.ListType(item_type=inspect.StructType() as element):
            kind, details["shape"] = "list", _shape(element)
        case _:
            kind = _PLAIN[type(info)]
    default = extra.get("default", "").encode()
    copy, policy = extra.get("copy", ""), extra.get("policy", "")
    return Field(
        field.encode_name, kind, field.required, nullable, **details, default=default, copy=copy, policy=policy
    )


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
