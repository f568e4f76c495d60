"""Surveys the first records of an export: its fields and the form of their values, without personal data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec

from streammig.errors import counted
from streammig.fields import kind
from streammig.model import Span

RECORDS = 5_000  # records to examine
# A field is a choice between words if it has at most WORDS different values, each SEEN times on average. A value that
# occurs so often is not a person's name.
WORDS, SEEN = 8, 20
WORD = re.compile(r"[^\W\d][^\d]{0,19}|[01]")
EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?\d{1,3}(?:[.,' ]?\d{3})*(?:[.,]\d+)?|[+-]?\d+(?:[.,]\d+)?", re.ASCII)
EPOCH, EPOCH_MS = re.compile(r"1\d{9}(\.\d+)?"), re.compile(r"1\d{12}")
# The first form that fits all values wins. If day and month can't be told apart, the day comes first.
DATES = (
    "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d-%m-%Y", "%Y/%m/%d",
    "%Y%m%d",
)  # fmt: skip
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


@dataclass
class Field:
    """Statistics of one field's values."""

    path: str  # with dots
    count: int = 0  # of records that have it
    kinds: Counter[str] = field(default_factory=Counter)
    values: set[str] = field(default_factory=set)
    quoted: int = 0  # values that begin with an apostrophe, as some tools write ids and phone numbers
    padded: int = 0  # values with blanks around them

    def add(self, value: Any) -> None:
        self.count += 1
        self.kinds[kind(value)] += 1
        if isinstance(value, str | bool | int | Decimal):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            self.quoted += text.startswith("'")
            self.padded += text != text.strip()
            self.values.add(text)

    @property
    def kind(self) -> str:
        """The most frequent type of its values."""
        return self.kinds.most_common(1)[0][0]

    @property
    def plain(self) -> list[str]:
        """Its different values, without blanks and apostrophes around them."""
        return [text.strip().strip("'").strip() for text in self.values]

    def all_are(self, form: re.Pattern[str]) -> bool:
        return bool(self.values) and all(form.fullmatch(text) for text in self.plain)

    @property
    def words(self) -> list[str]:
        """The sorted words of a choice such as a gender; empty if the field is no choice."""
        few = 2 <= len(self.values) <= WORDS and self.count >= SEEN * len(self.values)
        return sorted(self.values) if few and all(WORD.fullmatch(text) for text in self.values) else []

    @property
    def dates(self) -> list[str]:
        """The date formats that fit all values, else those that fit nine in ten."""
        if self.kind != "a text" or not self.values:
            return []
        texts = self.plain
        misfits = {form: _misfits(texts, form) for form in DATES}
        least = 0 if 0 in misfits.values() else (len(texts) - 1) // 10
        return [form for form, count in misfits.items() if count <= least]

    @property
    def decimal_mark(self) -> str:
        """The decimal mark of numbers written as text; "" for any other field."""
        if self.kind != "a text" or not self.all_are(NUMBER):
            return ""
        tails = [found[0] for text in self.plain if (found := re.search(r"[.,](?=\d{1,2}$|\d{4,}$)", text))]
        return tails[0] if tails and len({*tails}) == 1 else "."

    @property
    def form(self) -> str:
        """Describe its values in words."""
        if self.all_are(EMAIL):
            return "e-mail addresses"
        others = sum(EMAIL.fullmatch(text) is None for text in self.plain)
        if others * 10 < len(self.values):
            return f"e-mail addresses, but for {counted(others, 'value')}"
        if self.all_are(UUID):
            return "UUIDs"
        if self.kind in ("a text", "a number") and self.all_are(EPOCH_MS):
            return "milliseconds since 1970"
        if dates := self.dates:
            others = _misfits(self.plain, dates[0])
            return f"dates like {dates[0]}" + (f", but for {counted(others, 'value')}" if others else "")
        if self.kind == "a text" and self.all_are(NUMBER):
            marked = any(mark in text for text in self.values for mark in ".,")
            return f"numbers as text, decimal mark {self.decimal_mark}" if marked else "whole numbers as text"
        return {"a text": "texts", "a number": "numbers"}.get(self.kind, self.kind)


def survey(spans: Iterable[Span], most: int = RECORDS) -> tuple[list[Field], int]:
    """The fields of the first records, in order, and the number of records examined."""
    fields: dict[str, Field] = {}
    seen = 0
    for span in spans:
        for index, data in enumerate(span.cut(0, len(span))):
            if index in span.faults:
                continue
            for path, value in _leaves(_decode(data)):
                fields.setdefault(path, Field(path)).add(value)
            seen += 1
            if seen == most:
                return list(fields.values()), seen
    return list(fields.values()), seen


def _leaves(record: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """The non-empty fields of a record, with dotted paths for fields of objects."""
    if not isinstance(record, Mapping):
        return
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif value is not None and value != "":
            yield above + name, value


def _misfits(texts: Sequence[str], form: str) -> int:
    """The number of texts that are not dates of this form, counted up to a tenth of all."""
    most = (len(texts) - 1) // 10 + 1
    return sum(1 for _ in islice((1 for text in texts if not _is_date(text, form)), most))


def _is_date(text: str, form: str) -> bool:
    try:
        return 1900 <= datetime.strptime(text, form).year <= 2100
    except ValueError:
        return False
