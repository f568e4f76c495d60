"""Framing of keyed records: the values of an object, each under its key."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from streammig.model import Span
from streammig.sources.frame import LEAST_TRY, Framer
from streammig.sources.open import Meter
from streammig.sources.valid import WHITE, check_record, decodes, without_surrogates
from streammig.sources.window import Window

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_KEY = re.compile(rb"[ \t\n\r]*,?[ \t\n\r]*(%b)[ \t\n\r]*:[ \t\n\r]*" % _STRING.pattern, re.DOTALL)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
KEY_BYTES = 64 * 1024  # a longer key counts as a string without an end

Member = tuple[int, bytes]
"""The offset of a key, and its bytes in quotes."""


class Members(Framer):
    """Reads the values of one object, like the elements of an array. `field` is the record's field for its key.

    A record extends from its key to the end of its value, so that a resume finds the key. Each boundary is proven: a
    text that decodes as an object has its values in order, and between two of them are a comma, a key and a colon. A
    repeated key makes that fail; then values are taken one by one.
    """

    noun, whole = "value", "object"
    opening, closing = b"{", b"}"
    closings = (b"}", b"}}", b"]}}", b"}]}}")

    def __init__(
        self, window: Window, source: int, ordinal: int, limit: int, meter: Meter, *, field: str | None = None
    ) -> None:
        super().__init__(window, source, ordinal, limit, meter)
        self._field = msgspec.json.encode(field) if field is not None else b""
        self._name = field or ""
        self._keys: dict[int, Member] = {}  # by the value's offset

    def spans(self, at: int, *, resumed: bool) -> Iterator[Span]:
        for span in super().spans(at, resumed=resumed):
            yield self._with_keys(span)

    def _next(self, comma: bool | None) -> bool:
        if not super()._next(comma):
            return False
        if self.sign() != b'"':
            raise self._break(self.at, "a key was expected")
        return True

    def _values(self, text: bytes) -> list[msgspec.Raw]:
        try:
            return list(_MEMBERS.decode(text).values())
        except UnicodeDecodeError:  # a key is no UTF-8
            return []

    def _find_starts(self, low: int, raws: list[msgspec.Raw], lengths: list[int], tight: bool) -> list[int]:
        data, base, at = self._window.data, self._window.base, low
        starts: list[int] = []
        for raw, length in zip(raws, lengths, strict=True):
            found = _KEY.match(data, at)
            if found is None or not data.startswith(bytes(raw), found.end()):
                self._singly = base + at + LEAST_TRY  # a key is repeated, and may be again
                break
            at = found.end()
            starts.append(at - low)
            self._keys[base + at] = base + found.start(1), found[1]
            at += length
        return starts

    def _take_one(self) -> None:
        begin = self.at
        while (found := _STRING.match(self._window.data, self.at - self._window.base)) is None:
            if self._window.end - begin > KEY_BYTES:
                raise self._break(begin, f"a key has no end within {KEY_BYTES} bytes")
            if not self._fill(begin):
                raise self._break(self._window.end, "")
        if not decodes(without_surrogates(found[0])):
            raise self._break(begin, "no valid JSON there, in a key")
        self.at = self._window.base + found.end()
        if sign := self.sign():
            if sign != b":":
                raise self._break(self.at, "a colon was expected")
            self.at += 1
        if not self.sign():
            raise self._break(self.at, "")
        self._keys[self.at] = begin, found[0]
        super()._take_one()

    def _with_keys(self, span: Span) -> Span:
        """Return the span with the places of its members, and with the keys put into the field, if there is one."""
        members = [self._keys.pop(span.offset + start) for start in span.starts]
        faults = dict(span.faults)
        origins: list[tuple[int, int]] = []
        for index, (begin, key) in enumerate(members):
            length = faults[index][0] if index in faults else span.ends[index] - span.starts[index]
            origins.append((begin, span.offset + span.starts[index] + length - begin))
            if self._field and index not in faults and not (key.isascii() and b"\\" not in key):
                code, fault = check_record(key)
                faults.update({index: (length, code, f"{fault}, in its key")} if code else {})
        if not self._field:
            return Span(
                span.source, span.offset, span.data, span.starts, span.ends, span.ordinals, faults, origins=origins
            )
        records = [self._add_key(key, data) for (_, key), data in zip(members, span.cut(0, len(span)), strict=True)]
        starts, ends, at = list[int](), list[int](), 0
        for record in records:
            starts.append(at)
            ends.append(at + len(record))
            at += len(record) + 1
        data = b",".join(records)
        return Span(span.source, span.offset, data, starts, ends, span.ordinals, faults, origins=origins)

    def _add_key(self, key: bytes, record: bytes) -> bytes:
        """Add the key to a record as a field.

        If the record has the field with another value, it has the field twice then, and the rules refuse it.
        """
        if not record.startswith(b"{") or (self._field in record and self._has_key(key, record)):
            return record
        rest = record[1:]
        return b"{" + self._field + b":" + key + (b"" if rest.lstrip(WHITE)[:1] == b"}" else b",") + rest

    def _has_key(self, key: bytes, record: bytes) -> bool:
        """Tell whether a record has the field with its key as the value."""
        try:
            found = _MEMBERS.decode(record).get(self._name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return found is not None and bytes(found) == key
