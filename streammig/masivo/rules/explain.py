"""Walk over a record's bytes field by field, and collect its faults and the edits that make it valid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from streammig.masivo.edit import (
    NOT_JSON,
    Duplicate,
    Edit,
    Member,
    Part,
    additions,
    apply,
    cuts,
    duplicated,
    elements,
    members,
)
from streammig.masivo.rules.compiled import Judge
from streammig.masivo.rules.options import RuleOptions
from streammig.masivo.rules.reasons import Refusal, Refusals, expected
from streammig.masivo.rules.shape import Field, Shape
from streammig.masivo.rules.values import (
    DATE,
    EPOCH,
    NUMBER,
    Values,
    email_fault,
    good_email,
    good_id,
    good_uuid,
    kind_of,
    strictly,
)

_NULL = ord("n")
_NAME = 64


class Walk:
    """A walk over one record: its faults, the edits it needs, and the unknown fields that are dropped.

    `open` and `listed` raise a `Refusal` for the field at a path; `fields` and `element` collect those of an object in
    `faults`.
    """

    def __init__(self, data: bytes, values: Values, options: RuleOptions, judge: Judge | None = None) -> None:
        self.data = data
        self.faults: list[Refusal] = []
        self.edits: list[Edit] = []
        self.dropped: list[str] = []
        look = judge.look(data) if judge is not None else None
        self.looked = look is not None  # whether the judge has found the clean parts
        # By offset: fields of objects, elements of lists, and pairs (key, amount) of units that can be sent unchanged.
        self._opened, self._parts, self.pairs = look or ({}, {}, {})
        self._values = values
        self._unknown = options.unknown_fields
        self._redeem = options.send_redeem

    def fault(self, refusal: Refusal) -> None:
        """Add a fault. Its traceback is dropped, for its frames hold this walk: that cycle would need the collector."""
        refusal.__traceback__ = refusal.__context__ = None
        self.faults.append(refusal)

    def check(self) -> None:
        """Raise `Refusals` if the record has faults."""
        if self.faults:
            raise Refusals(self.faults)

    def open(self, begin: int, end: int, where: str, code: str = "wrong-type") -> dict[str, Member]:
        """Return the fields of the object from `begin` to `end`."""
        if begin in self._opened:
            return self._opened[begin]
        try:
            if self.data[begin : begin + 1] != b"{":
                raise expected(code, where, "an object", kind_of(self.data, begin))
            return members(self.data, begin, end)
        except Duplicate:
            raise Refusal("duplicate-field", where, "a field is repeated in this object") from None
        except (*NOT_JSON, IndexError):
            raise Refusal("invalid-json", where, "the bytes are not valid JSON, or nested too deeply") from None

    def listed(self, member: Member | None, where: str) -> list[Part]:
        """Return the elements of a member that must be a list."""
        if member is None:
            raise expected("missing-field", where, "a list", "nothing")
        if self.data[member.begin] != 0x5B:
            raise expected("wrong-type", where, "a list", kind_of(self.data, member.begin))
        if member.begin not in self._parts:
            self._parts[member.begin] = elements(self.data, member.begin, member.end)
        return self._parts[member.begin]

    def element(self, part: Part, shape: Shape, where: str, wanted: Collection[str]) -> dict[str, Any]:
        """As `fields`, for an object in a list."""
        try:
            found = self.open(*part, where)
        except Refusal as refusal:
            self.fault(refusal)
            return {}
        return self.fields(part.begin, found, shape, where, wanted=wanted)

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
        wanted: Collection[str] = (),
    ) -> dict[str, Any]:
        """Check the fields of the object at `begin`: collect its faults and edits, and return valid values.

        Values that are surely valid are returned only if they are `wanted`. Fields in `cut` are left out and not
        counted as dropped. The caller checks those in `apart`. Those in `waived` may be missing. `put` is added at the
        end of the object.
        """
        values: dict[str, Any] = {}
        gone = found.keys() & cut
        for name, member in found.items():
            if (member.clean and name not in wanted) or name in apart or name in gone:
                continue
            field = shape.fields.get(name)
            if field and field.plain and name not in wanted and field.plain(self.data, member.begin, member.end):
                continue
            try:
                if field is None:
                    if not self.keeps(name, where):
                        gone.add(name)
                elif field.policy and not self._redeem:
                    self.dropped.append(_no_index(f"{where}.{name}"))
                    gone.add(name)
                elif self.data[member.begin] == _NULL and not field.nullable and self._absent(field, waived):
                    gone.add(name)
                else:
                    values[name] = self._value(member, field, f"{where}.{name}")
            except Refusal as refusal:
                self.fault(refusal)
        if gone or put or not shape.needed <= found.keys():
            there = {*found} - gone | {*apart, *waived}
            texts = [*self._missing(there, found, shape, where), *put]
            parts = [member.part for member in found.values()]
            keep = [name not in gone for name in found]
            self.edits += cuts(parts, keep)
            self.edits += additions(begin, parts, keep, texts)
        return values

    def keeps(self, name: str, where: str) -> bool:
        """Whether an unknown field is sent; if not, count it as dropped. Raises `Refusal` if the settings refuse it."""
        shown = f"{where}.{name}" if name.isidentifier() and len(name) <= _NAME else f"{where}.(odd name)"
        if self._unknown == "reject":
            raise Refusal("unknown-field", shown, "the target knows no such field")
        if self._unknown == "drop":
            self.dropped.append(_no_index(shown))
        return self._unknown == "send"

    def replace(self, member: Member, text: bytes) -> None:
        """Replace the value of a field, if it differs."""
        if self.data[member.begin : member.end] != text:
            self.edits.append(Edit(member.begin, member.end, text))

    def rest(self) -> bytes:
        """Return the record with the edits applied."""
        return apply(self.data, self.edits) if self.edits else self.data

    def _absent(self, field: Field, waived: Collection[str]) -> bool:
        """Whether a null in this field counts as a missing field."""
        return not field.required or bool(field.default) or bool(field.copy) or field.name in waived

    def _missing(
        self, there: Collection[str], found: Mapping[str, Member], shape: Shape, where: str
    ) -> Iterator[bytes]:
        """Give the JSON of missing required fields that have a default; add a fault for others."""
        for field in shape.required:
            if field.name in there:
                continue
            text = field.default
            if field.copy and field.copy in there and field.copy in found:
                source = found[field.copy]
                text = self.data[source.begin : source.end]
            if text:
                yield b'"%b":%b' % (field.name.encode(), text)
            else:
                self.fault(expected("missing-field", f"{where}.{field.name}", _wanted(field), "nothing"))

    def _value(self, member: Member, field: Field, where: str) -> Any:
        kind = kind_of(self.data, member.begin)
        if kind == "null" and field.nullable:
            return None
        if kind not in KINDS[field.kind].json:
            epoch = kind == NUMBER and field.kind == "date"
            raise expected("wrong-type", where, _wanted(field), f"{NUMBER}, maybe {EPOCH}" if epoch else kind)
        try:
            return KINDS[field.kind].check(self, member, field, where)
        except NOT_JSON:
            raise Refusal("invalid-json", where, "the bytes are not valid JSON, or nested too deeply") from None

    def text(self, member: Member, field: Field, where: str) -> str:
        """Return the text of a field. Raises `Refusal`."""
        text = self._values.text(self.data, member.begin, member.end, where)
        kind = KINDS[field.kind]
        if kind.good is not None and not kind.good(text):
            raise expected(kind.code, where, kind.expected, "another text")
        if field.words and text not in field.words:
            raise expected("bad-enum", where, "one of " + ", ".join(field.words), "another text")
        if field.longest is not None and len(text) > field.longest:
            raise expected("too-long", where, f"at most {field.longest} characters", "more")
        return text

    def _email(self, member: Member, field: Field, where: str) -> str:
        text = self._values.text(self.data, member.begin, member.end, where)
        bare = text.strip() if self._values.trims_emails else text
        if not good_email(bare):
            raise expected("bad-email", where, KINDS["email"].expected, email_fault(bare))
        if bare != text:
            self.replace(member, msgspec.json.encode(bare))
        return bare

    def _date(self, member: Member, field: Field, where: str) -> Any:
        time, text = self._values.date(self.data, member.begin, member.end, where)
        if text != self._values.text(self.data, member.begin, member.end, where):
            self.replace(member, b'"%b"' % text.encode())
        return time

    def _number(self, member: Member, field: Field, where: str) -> Any:
        return self._values.number(self.data, member.begin, member.end, where)

    def _boolean(self, member: Member, field: Field, where: str) -> bool:
        return self.data[member.begin] == ord("t")

    def _free(self, member: Member, field: Field, where: str) -> None:
        if duplicated(self.data, member.begin, member.end):
            raise Refusal("duplicate-field", where, "a field is repeated in an object in it")

    def _object(self, member: Member, field: Field, where: str) -> None:
        if field.shape is not None and not self._clean(member, field):
            self.fields(member.begin, self.open(member.begin, member.end, where), field.shape, where)

    def _objects(self, member: Member, field: Field, where: str) -> None:
        if field.shape is not None and not self._clean(member, field):
            for index, part in enumerate(self.listed(member, where)):
                self.element(part, field.shape, f"{where}[{index}]", ())

    def _clean(self, member: Member, field: Field) -> bool:
        """Whether this value can be sent unchanged. This takes a tenth of the time of a walk."""
        assert field.decode is not None
        assert field.shape is not None
        if self.looked:
            return member.clean
        value = strictly(field.decode, self.data[member.begin : member.end])
        models = value if field.kind == "list" else (value,)
        return value is not None and self._values.clean(models, field.shape)


class _Kind(NamedTuple):
    """A kind of field: what messages expect, the kinds of JSON that it may have, the check, and the code of a fault."""

    expected: str
    json: tuple[str, ...]
    check: Callable[[Walk, Member, Field, str], Any]
    good: Callable[[str], bool] | None = None
    code: str = ""


_TEXT = ("a text",)

KINDS = {
    "text": _Kind("a text", _TEXT, Walk.text),
    "enum": _Kind("a text", _TEXT, Walk.text),
    "id": _Kind("1 to 255 characters without control characters or slashes", _TEXT, Walk.text, good_id, "bad-id"),
    "uuid": _Kind("a UUID", _TEXT, Walk.text, good_uuid, "bad-uuid"),
    "email": _Kind("an e-mail address", _TEXT, Walk._email),
    "date": _Kind(DATE, _TEXT, Walk._date),
    "number": _Kind("a number", (NUMBER,), Walk._number),
    "boolean": _Kind("true or false", ("true", "false"), Walk._boolean),
    "free": _Kind("an object", ("an object",), Walk._free),
    "object": _Kind("an object", ("an object",), Walk._object),
    "list": _Kind("a list", ("a list",), Walk._objects),
}


def _no_index(path: str) -> str:
    """Write `[]` for `[7]` in a path, so that the report has a line for each field, not for each index."""
    pieces = path.split("[")
    return "[".join([pieces[0], *("]" + piece.partition("]")[2] for piece in pieces[1:])])


def _wanted(field: Field) -> str:
    """Describe the valid values of a field, for messages."""
    return KINDS[field.kind].expected + (" or null" if field.nullable or not field.required else "")
