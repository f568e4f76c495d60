"""Edit JSON as bytes: find an object's fields and a list's elements, cut some, put others in.

Nothing is encoded again, so what is not edited keeps its bytes: the spelling of its numbers, its escapes, its blanks.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, cast

import msgspec

NULL = b"null"

_BLANKS = rb"[ \t\n\r]*"
_KEY = re.compile(rb'[ \t\n\r]*,?[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_FIRST = re.compile(rb'(\{[ \t\n\r]*)"[^"\\]*"([ \t\n\r]*:[ \t\n\r]*)')
_COMMA = re.compile(rb"[ \t\n\r]*,?[ \t\n\r]*")
_BLANK = b" \t\n\r"
_ends_blank: Callable[[bytes], bool] = operator.methodcaller("endswith", (b" ", b"\t", b"\n", b"\r"))
_MEMO = 256  # spellings that are remembered
_joined = cast(Callable[[bytes, msgspec.Raw], bytes], operator.concat)

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_anything = msgspec.json.Decoder(float_hook=str).decode  # 1e999 is a number, if no float
_encode = msgspec.json.Encoder(decimal_format="number").encode

NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for bytes that are no JSON, or not the JSON asked for: ValueError covers invalid UTF-8."""


class Duplicate(Exception):
    """A field is repeated in an object: what that means depends on who reads it."""


class Part(NamedTuple):
    """The bytes from `begin` up to, not including, `end`."""

    begin: int
    end: int


class Member(msgspec.Struct, frozen=True, gc=False):  # a fourth of what making a tuple with names costs
    """A field of an object: where its key's quote stands, and its value's bytes."""

    key: int
    begin: int
    end: int

    @property
    def part(self) -> Part:
        """Key and value."""
        return Part(self.key, self.end)


class Edit(NamedTuple):
    """Put `text` in the place of the bytes from `begin` to `end`."""

    begin: int
    end: int
    text: bytes


def members(data: bytes, begin: int, end: int) -> dict[str, Member]:
    """The fields of the object that `data[begin:end]` is, in order, with their places in `data`.

    Raises `Duplicate` where a field is repeated, and one of `NOT_JSON` where the bytes are no JSON object.
    """
    values = _object(memoryview(data)[begin:end])
    text = "".join(values)
    lengths = list(map(len, values.values()))
    # Without blanks or escapes around its values no object can be shorter: then all fields are where they must be.
    if values and text.isascii() and end - begin == sum(lengths) + len(text) + 4 * len(values) + 1:
        found, at = {}, begin + 1
        for name, length in zip(values, lengths, strict=True):
            start = at + len(name) + 3
            found[name] = Member(at, start, start + length)
            at = start + length + 1
        return found
    return _members(data, begin, end, values)


def _members(data: bytes, begin: int, end: int, values: Mapping[str, msgspec.Raw]) -> dict[str, Member]:
    found: dict[str, Member] = {}
    at = begin + 1
    # Of a repeated field msgspec keeps the last value. So walk along with what it kept: if each value stands where it
    # should and the object ends behind the last of them, nothing was lost.
    for name, kept in values.items():
        match = _KEY.match(data, at, end)
        if match is None:
            raise Duplicate
        start = match.end()
        value = bytes(kept)
        if not data.startswith(value, start):
            raise Duplicate
        at = start + len(value)
        found[name] = Member(match.start(1), start, at)
    if data[at : end - 1].strip(_BLANK):
        raise Duplicate
    return found


def elements(data: bytes, begin: int, end: int) -> list[Part]:
    """The elements of the list that `data[begin:end]` is, in order; raises one of `NOT_JSON`."""
    parts: list[Part] = []
    at = begin + 1
    for value in _list(memoryview(data)[begin:end]):
        start = _COMMA.match(data, at, end).end()  # type: ignore[union-attr]  # matches the empty text too
        at = start + len(value)
        parts.append(Part(start, at))
    return parts


# -- repeated fields ---------------------------------------------------------------------------------------------------

commas: Callable[[bytes], int] = operator.methodcaller("count", b",")
nulls: Callable[[bytes], int] = operator.methodcaller("count", NULL)


def kept_commas(values: Iterable[object]) -> list[int]:
    """How many commas each decoded value has when it is encoded again.

    One has fewer than the bytes it was decoded from if a field was read over: commas stand between fields, and in
    texts, where only an escape could hide one (see `hides_commas`).
    """
    return list(map(commas, map(_encode, values)))


def hides_commas(data: bytes) -> bool:
    """Whether a comma may be written as an escape."""
    return b"\\" in data and b"\\u002" in data  # a single byte is found 30 times as fast


def faithful(data: bytes, value: object) -> bool:
    """Whether `value`, decoded from `data`, proves that no field is repeated there; False may still be a no."""
    return not hides_commas(data) and kept_commas((value,)) == [commas(data)]


def strictly(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """The bytes decoded if they hold just what the type has, and nothing twice; else None."""
    try:
        value = decode(data)
    except NOT_JSON:
        return None
    return value if faithful(data, value) else None


def duplicated(data: bytes, begin: int, end: int) -> bool:
    """Whether a field is repeated in any object of the value, at any depth; raises one of `NOT_JSON`."""
    piece = data[begin:end]
    return not faithful(piece, _anything(piece)) and _duplicated(data, begin, end)


def _duplicated(data: bytes, begin: int, end: int) -> bool:
    if data[begin] == 0x7B:  # {
        try:
            inside: list[Part] = [Part(member.begin, member.end) for member in members(data, begin, end).values()]
        except Duplicate:
            return True
    elif data[begin] == 0x5B:  # [
        inside = elements(data, begin, end)
    else:
        return False
    return any(_duplicated(data, *part) for part in inside)


# -- edits -------------------------------------------------------------------------------------------------------------


def cuts(parts: Sequence[Part], keep: Sequence[bool]) -> Iterator[Edit]:
    """What leaves out those of the fields or elements that are not kept, each with one comma."""
    first = keep.index(True) if True in keep else len(keep)
    if first:
        yield Edit(parts[0].begin, parts[first].begin if first < len(parts) else parts[-1].end, b"")
    for index in range(first + 1, len(parts)):
        if not keep[index]:
            yield Edit(parts[index - 1].end, parts[index].end, b"")


def additions(begin: int, parts: Sequence[Part], keep: Sequence[bool], texts: Sequence[bytes]) -> Iterator[Edit]:
    """What puts in the texts (`"name":value`) behind the last field of the object that begins at `begin`."""
    if texts:
        at = parts[-1].end if parts else begin + 1
        yield Edit(at, at, (b"," if True in keep else b"") + b",".join(texts))


def apply(data: bytes, edits: Iterable[Edit], begin: int = 0, end: int | None = None) -> bytes:
    """The bytes from `begin` to `end` with the edits made; the edits lie in them and don't overlap."""
    pieces: list[bytes] = []
    at = begin
    for edit in sorted(edits):
        pieces += (data[at : edit.begin], edit.text)
        at = edit.end
    pieces.append(data[at:end])
    return b"".join(pieces)


def shifted(place: int, edits: Iterable[Edit]) -> int:
    """Where a byte that stands behind an edit, or before it, stands when the edits are made."""
    return place + sum(len(edit.text) - (edit.end - edit.begin) for edit in edits if edit.end <= place)


# -- the same edit in many records -------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What becomes of objects with fields of just these names: which are kept, and whatever else is to be known."""

    keep: Sequence[bool]
    known: Any


class Spelling:
    """How objects of some names are spelt, and so where their fields stand if the lengths of the values are known."""

    def __init__(self, data: bytes, values: Mapping[str, msgspec.Raw], plan: Plan) -> None:
        """As far as the first field shows."""
        first, size = _FIRST.match(data), len(next(iter(values.values()), b""))
        self._head, colon = (first[1], first[2]) if first else (b"{", b":")
        comma = _COMMA.match(data, first.end() + size) if first else None
        self._comma = (comma and comma.group()) or b","
        self._tail = data[len(data[:-1].rstrip(_BLANK)) :]
        self._keys = [b'"%b"%b' % (name.encode(), colon) for name in values]
        self.plan = plan
        widths = [len(key) + len(self._comma) for key in self._keys]
        # Where each field would begin, and its value end, if all values were empty.
        self._begins = list(accumulate(widths, initial=len(self._head)))
        self._ends = [begin - len(self._comma) for begin in self._begins[1:]]
        self._length = self._begins[-1] - len(self._comma) + len(self._tail)
        self._tight = self._length - sum(map(len, self._keys)) == len(values) + 1 and colon == b":"
        cut = [at for at, kept in enumerate(plan.keep) if not kept]
        firsts = [at for at in cut if at - 1 not in cut]
        self._runs = [(at, next(to for to in range(at, len(values) + 1) if to not in cut)) for at in reversed(firsts)]

    def cut(self, data: bytes, values: Mapping[str, msgspec.Raw]) -> tuple[bytes, int] | None:
        """The object without the fields that are not kept, and how many commas were cut; None if it is spelt otherwise,
        or a field is repeated."""
        lengths = list(map(len, values.values()))
        if self._length + sum(lengths) != len(data):
            return None
        # Without blanks or escapes around the values it can't be shorter, so it is just this. Else put it together.
        if not self._tight:
            fields = self._comma.join(map(_joined, self._keys, values.values()))
            if data != b"%b%b%b" % (self._head, fields, self._tail):
                return None
        count = 0
        for at, to in self._runs:
            if at:
                low, high = self._ends[at - 1] + sum(lengths[:at]), self._ends[to - 1] + sum(lengths[:to])
            elif to < len(lengths):
                low, high = self._begins[0], self._begins[to] + sum(lengths[:to])
            else:
                return None
            count += data.count(b",", low, high)
            data = data[:low] + data[high:]
        return data, count


class Outermost:
    """Cuts fields from the outermost object of records, in a tenth of the time that `members` takes."""

    def __init__(self, plan: Callable[[tuple[str, ...]], Plan]) -> None:
        """`plan` may raise; nothing is remembered then."""
        self._plan = plan
        self._spellings: dict[tuple[str, ...], Spelling] = {}

    def cut(self, data: bytes) -> tuple[bytes, int, Mapping[str, msgspec.Raw], Any] | None:
        """The object without the fields that are not kept, as `cuts` leaves it, how many commas were cut, the values of
        all fields, and what else is known of objects like this; None if it is not spelt evenly."""
        values: dict[str, msgspec.Raw] = _object(data)
        names = tuple(values)
        spelt = self._spellings.get(names)
        cut = spelt.cut(data, values) if spelt else None
        if spelt is None or cut is None:
            spelt = Spelling(data, values, spelt.plan if spelt else self._plan(names))
            cut = spelt.cut(data, values)
            if cut is None:
                return None
            if len(self._spellings) >= _MEMO:
                self._spellings.clear()
            self._spellings[names] = spelt
        return *cut, values, spelt.plan.known


class Nulls:
    """Cuts fields of these names that are null, wherever they stand.

    A text such as `,"name":null` is a field in any valid JSON: a quote behind a comma or a brace can't end a text that
    a name follows. Each spelling that was met is cut from a record in one go.
    """

    def __init__(self, names: Collection[str]) -> None:
        name = b'"(?:%b)"' % b"|".join(re.escape(each.encode()) for each in sorted(names))
        null = b"".join((name, _BLANKS, b":", _BLANKS, NULL))
        self._later = re.compile(b"%b,%b%b" % (_BLANKS, _BLANKS, null))
        self._first = re.compile(b"([{]%b)%b%b,%b" % (_BLANKS, null, _BLANKS, _BLANKS))
        self._known: dict[bytes, bytes] = {}

    def cut(self, data: bytes) -> tuple[bytes, int]:
        """The record without those that are spelt as one met before, and how many were cut."""
        count = 0
        for text, left in self._known.items():
            pieces = data.split(text)
            # A blank before it would stay there.
            if len(pieces) > 1 and not any(map(_ends_blank, pieces[:-1])):
                data = left.join(pieces)
                count += len(pieces) - 1
        return data, count

    def learn(self, data: bytes) -> None:
        """Remember how they are spelt here."""
        if len(self._known) >= _MEMO:
            self._known.clear()
        self._known |= {match[0]: b"" for match in self._later.finditer(data)}
        self._known |= {match[0]: match[1] for match in self._first.finditer(data)}
