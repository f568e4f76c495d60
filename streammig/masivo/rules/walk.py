"""Walk over a record's bytes field by field: say what is wrong with it, or collect the edits that make it right."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, expected
from streammig.masivo.rules.shape import Field, Shape
from streammig.masivo.rules.values import NUMBER, Values, kind_of
from streammig.masivo.splice import (
    NOT_JSON,
    Duplicate,
    Edit,
    Member,
    Span,
    additions,
    apply,
    cuts,
    duplicated,
    elements,
    members,
    strictly,
)

_NULL = ord("n")
_NAME = 64


class Walk:
    """One record under examination: the edits it needs, and the unknown fields that they leave out.

    Every method that takes a path raises `Refusal`, naming the path, where the record can't be sent.
    """

    def __init__(self, data: bytes, values: Values, options: RuleOptions) -> None:
        self.data = data
        self.edits: list[Edit] = []
        self.dropped: list[str] = []
        self._values = values
        self._unknown = options.unknown_fields
        self._redeem = options.send_redeem

    def open(self, begin: int, end: int, where: str, code: str = "wrong-type") -> dict[str, Member]:
        """The fields of the object that stands there."""
        try:
            if self.data[begin : begin + 1] != b"{":
                raise expected(code, where, "an object", kind_of(self.data, begin))
            return members(self.data, begin, end)
        except Duplicate:
            raise Refusal("duplicate-field", f"{where}: a field stands twice in this object") from None
        except (*NOT_JSON, IndexError):
            raise Refusal("invalid-json", f"{where}: the bytes are not valid JSON, or nested too deeply") from None

    def spans(self, member: Member, where: str) -> list[Span]:
        """The elements of the list that stands there."""
        if self.data[member.begin] != 0x5B:
            raise expected("wrong-type", where, "a list", kind_of(self.data, member.begin))
        return elements(self.data, member.begin, member.end)

    def fields(
        self,
        begin: int,
        found: Mapping[str, Member],
        shape: Shape,
        where: str,
        *,
        cut: Collection[str] = (),
        apart: Collection[str] = (),
        waived: Collection[str] = (),
        put: Sequence[bytes] = (),
    ) -> dict[str, Any]:
        """The values of the object that begins at `begin` and has these fields, and the edits that make it right.

        Fields in `cut` are left out without a word, those in `apart` are looked at by the caller, those in `waived`
        may be missing, and `put` is put in behind all others.
        """
        values: dict[str, Any] = {}
        keep: list[bool] = []
        for name, member in found.items():
            field = shape.fields.get(name)
            if name in apart:
                keep.append(True)
            elif name in cut:
                keep.append(False)
            elif field is None:
                keep.append(self._keep_unknown(name, where))
            elif field.policy and not self._redeem:
                self.dropped.append(_no_index(f"{where}.{name}"))
                keep.append(False)
            elif self.data[member.begin] == _NULL and not field.nullable and self._absent(field, waived):
                keep.append(False)
            else:
                values[name] = self._value(member, field, f"{where}.{name}")
                keep.append(True)
        texts = [*self._missing(values, found, shape, where, {*apart, *waived}), *put]
        spans = [member.span for member in found.values()]
        self.edits += cuts(spans, keep)
        self.edits += additions(begin, spans, keep, texts)
        return values

    def outermost(self, found: Iterable[str], shape: Shape, cut: Collection[str]) -> list[bool]:
        """Which of these fields, of the record's outermost object, stay if nothing in them needs a look."""
        return [name in shape.fields or (name not in cut and self._keep_unknown(name, "$")) for name in found]

    def replace(self, member: Member, text: bytes) -> None:
        """Put this in the place of a field's value, unless it stands there."""
        if self.data[member.begin : member.end] != text:
            self.edits.append(Edit(member.begin, member.end, text))

    def rest(self) -> bytes:
        """The record with the edits made."""
        return apply(self.data, self.edits) if self.edits else self.data

    def _keep_unknown(self, name: str, where: str) -> bool:
        shown = f"{where}.{name}" if name.isidentifier() and len(name) <= _NAME else f"{where}.(odd name)"
        if self._unknown == "reject":
            raise Refusal("unknown-field", f"{shown}: the target knows no such field")
        if self._unknown == "drop":
            self.dropped.append(_no_index(shown))
        return self._unknown == "send"

    def _absent(self, field: Field, waived: Collection[str]) -> bool:
        """Whether null in a field that must not be null counts as no field at all."""
        return not field.required or bool(field.default) or bool(field.copy) or field.name in waived

    def _missing(
        self, values: Mapping[str, Any], found: Mapping[str, Member], shape: Shape, where: str, waived: Collection[str]
    ) -> list[bytes]:
        texts: list[bytes] = []
        for field in shape.required:
            if field.name in values or field.name in waived:
                continue
            if field.default:
                text = field.default
            elif field.copy in values:
                source = found[field.copy]
                text = self.data[source.begin : source.end]
            else:
                raise expected("missing-field", f"{where}.{field.name}", _wanted(field), "nothing")
            texts.append(b'"%b":%b' % (field.name.encode(), text))
        return texts

    def _value(self, member: Member, field: Field, where: str) -> Any:
        kind = kind_of(self.data, member.begin)
        if kind == "null" and field.nullable:
            return None
        if kind not in _JSON.get(field.kind, ("a text",)):
            raise expected("wrong-type", where, _wanted(field), kind)
        try:
            return _CHECKS[field.kind](self, member, field, where)
        except NOT_JSON:
            raise Refusal("invalid-json", f"{where}: the bytes are not valid JSON, or nested too deeply") from None

    def _text(self, member: Member, field: Field, where: str) -> str:
        text = self._values.text(self.data, member.begin, member.end, where)
        match field.kind:
            case "id":
                self._values.id(text, where)
            case "email":
                self._values.email(text, where)
            case "uuid":
                self._values.uuid(text, where)
        if field.words and text not in field.words:
            raise expected("bad-enum", where, "one of " + ", ".join(field.words), "another text")
        if field.longest is not None and len(text) > field.longest:
            raise expected("too-long", where, f"at most {field.longest} characters", "more")
        return text

    def _date(self, member: Member, field: Field, where: str) -> Any:
        time, offset = self._values.date(self.data, member.begin, member.end, where)
        if offset:
            self.edits.append(Edit(member.end - 1, member.end - 1, offset))
        return time

    def _number(self, member: Member, field: Field, where: str) -> Any:
        return self._values.number(self.data, member.begin, member.end, where)

    def _boolean(self, member: Member, field: Field, where: str) -> bool:
        return self.data[member.begin] == ord("t")

    def _free(self, member: Member, field: Field, where: str) -> None:
        if duplicated(self.data, member.begin, member.end):
            raise Refusal("duplicate-field", f"{where}: a field stands twice in an object in it")

    def _object(self, member: Member, field: Field, where: str) -> None:
        if field.shape is not None and not self._clean(member, field):
            self.fields(member.begin, self.open(member.begin, member.end, where), field.shape, where)

    def _objects(self, member: Member, field: Field, where: str) -> None:
        if field.shape is not None and not self._clean(member, field):
            for index, (begin, end) in enumerate(self.spans(member, where)):
                path = f"{where}[{index}]"
                self.fields(begin, self.open(begin, end, path), field.shape, path)

    def _clean(self, member: Member, field: Field) -> bool:
        """Whether all of this value can be sent as it stands: seen in a tenth of the time that walking it takes."""
        assert field.decode is not None
        assert field.shape is not None
        value = strictly(field.decode, self.data[member.begin : member.end])
        return value is not None and self._values.clean(value if field.kind == "list" else (value,), field.shape)


_CHECKS: dict[str, Callable[[Walk, Member, Field, str], Any]] = {
    "text": Walk._text,
    "id": Walk._text,
    "email": Walk._text,
    "uuid": Walk._text,
    "enum": Walk._text,
    "date": Walk._date,
    "number": Walk._number,
    "boolean": Walk._boolean,
    "free": Walk._free,
    "object": Walk._object,
    "list": Walk._objects,
}

_JSON = {
    "number": (NUMBER,),
    "boolean": ("true", "false"),
    "free": ("an object",),
    "object": ("an object",),
    "list": ("a list",),
}

EXPECTED = {
    "id": "1 to 255 characters without control characters or slashes",
    "email": "an e-mail address",
    "uuid": "a UUID",
    "date": "a date-time such as 2020-01-31T12:00:00Z",
    "number": "a number",
    "boolean": "true or false",
    "free": "an object",
    "object": "an object",
    "list": "a list",
}


def _no_index(path: str) -> str:
    """The path with `[]` for `[7]`, so that the report has a line for each field, not for each record."""
    pieces = path.split("[")
    return "[".join([pieces[0], *("]" + piece.partition("]")[2] for piece in pieces[1:])])


def _wanted(field: Field) -> str:
    """What may stand in a field, in the words of messages."""
    return EXPECTED.get(field.kind, "a text") + (" or null" if field.nullable or not field.required else "")
