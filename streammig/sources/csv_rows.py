"""CSV and TSV: one record a row (RFC 4180, with line breaks in quotes), as a JSON object of texts.

A row ends at the first line break outside quotes. A row that breaks the rules of quotes, but has an even number of
them, ends with its line: no quote is open there. Such a row alone is at fault. With an odd number the end is uncertain,
and the export breaks off: a guess could join or divide records.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

import orjson

from streammig.errors import BrokenExport, Unusable
from streammig.model import Span
from streammig.sources.open import Meter
from streammig.sources.packed import ENDING
from streammig.sources.valid import INVALID_UTF8, Fault, too_large
from streammig.sources.window import MOST_RECORDS, MOST_SPAN_BYTES, Window

INVALID_CSV = "invalid-csv"
HEADER_BYTES = 1024 * 1024  # the header must end within these
DELIMITERS = {"tab": "\t"}
csv.field_size_limit(2**31 - 1)  # no limit here: a setting limits the bytes of a record

Rows = list[list[str]]


class Form(NamedTuple):
    """The form of a stage's files, from the settings.

    For CSV: `delimiter` "" means comma or tab, by the file's name. `keyed`: the records are the values of an object. If
    it is the name of a field, each record gets its key in that field.
    """

    delimiter: str = ""
    encoding: str = "utf-8"
    keyed: bool | str = False


AS_NAMED = Form()


class Header(NamedTuple):
    """The first row: the names of the fields, and the form of the rows. It ends at the offset `end`, after `lines`."""

    names: tuple[str, ...]
    delimiter: str
    encoding: str
    end: int
    lines: int


def check_form(where: str, form: Form) -> None:
    """Raise `Unusable` if the delimiter or the encoding can't be used."""
    if len(delimiter_of(form, "")) != 1 or form.delimiter in ('"', "\n", "\r"):
        said = f"{where}: delimiter: one character, or tab, is expected; found {form.delimiter!r}"
        raise Unusable("settings-invalid", said, 'Write it like delimiter = ";".')
    try:
        plain = '\n\r",;'.encode(form.encoding) == b'\n\r",;'
    except LookupError:
        plain = False
    if not plain:
        said = f"{where}: encoding: {form.encoding!r} is unknown, or not compatible with ASCII"
        raise Unusable("settings-invalid", said, "Convert the file first: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8")


def delimiter_of(form: Form, file: str) -> str:
    """Return the character between two fields."""
    name = file.lower()
    by_name = "\t" if re.search(r"\.(tsv|tab)" + ENDING, name) else ","
    return DELIMITERS.get(form.delimiter, form.delimiter) or by_name


def read_header(window: Window, at: int, form: Form) -> Header:
    """Read the header at an offset of a fresh window. Raises `Unusable` if it is no header."""
    while window.end - at < HEADER_BYTES and window.fill(at):
        pass
    head, delimiter = window.data[at - window.base :][:HEADER_BYTES], delimiter_of(form, window.file)
    taken, row = _first_row(head, delimiter, form.encoding)
    if row is None:
        hint = (
            f"Name its encoding and delimiter in the settings; streammig init {window.file} finds them. Or convert it:"
            " streammig guide exports"
        )
        if b"\n" not in head and b"\r" in head:
            hint = r"Its lines end in a carriage return alone. Convert it: tr '\r' '\n' < FILE > FILE.lf"
        raise Unusable("csv-header", f"{window.file}: the first row is no header of CSV", hint)
    names = tuple(name.strip() for name in row)
    known = [name for name in names if name]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        said = f"{window.file}: the header names a field twice: {', '.join(twice)}"
        raise Unusable("csv-header", said, "Rename one of them in the file's first row.")
    if len(names) == 1 and (others := [mark for mark in ",;\t|" if mark in names[0]]):
        mark = "tab" if others[0] == "\t" else others[0]
        said = f"{window.file}: the header is one field with the character {mark}"
        raise Unusable("csv-delimiter", said, f'Set delimiter = "{mark}" in the table of the stage.')
    return Header(names, delimiter, form.encoding, at + taken, head.count(b"\n", 0, taken))


def _first_row(head: bytes, delimiter: str, encoding: str) -> tuple[int, list[str] | None]:
    """Return the length of the first row in bytes, and its fields; None if it is no row."""
    if b"\r" in head and b"\n" not in head:
        return 0, None
    taken, fed = 0, list[str]()
    for line in head.split(b"\n"):
        taken += len(line) + 1
        try:
            fed.append(line.decode(encoding) + "\n")
            row = next(csv.reader(fed, delimiter=delimiter, strict=True), None)
        except UnicodeDecodeError:
            return 0, None
        except csv.Error:
            continue  # a quote may be open
        if row:
            return min(taken, len(head)), row
        fed.clear()
    return 0, None


class CsvRows:
    """Reads the rows of a file from a place on, whose first line has the number `line`.

    A row has the number of its first line, and extends to the end of its last one. Blank lines are no rows.
    """

    def __init__(self, window: Window, source: int, line: int, limit: int, meter: Meter, *, header: Header) -> None:
        self._window, self._source, self._line, self._limit, self._meter = window, source, line, limit, meter
        self._header = header

    def spans(self, at: int) -> Iterator[Span]:
        """Return spans from the begin of a row on. Raises BrokenExport if the end of a row is uncertain."""
        window, size = self._window, MOST_SPAN_BYTES
        while window.end < at and window.fill(window.base):
            pass
        while True:
            low = at - window.base
            end = window.data.rfind(b"\n", low, low + size) + 1
            taken, span = self._block(window.data[low:end], at, size) if end > low else (0, None)
            if span is not None:
                yield span
            at += taken
            if taken:
                size = MOST_SPAN_BYTES
            elif low + size < len(window.data):
                size *= 2
            elif not window.fill(at):
                break
            elif window.end - at > 2 * self._limit + MOST_SPAN_BYTES:
                raise self._endless(at)
        window.finish()
        rest = window.data[at - window.base :]
        taken, span = self._block(rest, at, len(rest)) if rest else (0, None)
        if taken < len(rest):
            raise self._endless(at)
        if span is None:
            return
        last = len(span) - 1
        if rest.endswith(b"\n") or span.faults.get(last, (0, ""))[1] != INVALID_CSV:
            yield span
            return
        if last:
            yield span.part(0, last)
        why = f"line {span.ordinals[last]} has neither its end nor all fields of the header: the file was cut"
        raise window.broken(span.position(last).offset, why)

    def _endless(self, at: int) -> BrokenExport:
        return self._window.broken(at, f"the row at line {self._line} begins there, and a quote in it is never closed")

    def _block(self, block: bytes, at: int, size: int) -> tuple[int, Span | None]:
        """Return the bytes of a block's whole rows, and their span.

        `size` is the size tried for this block. With the first size, a span has at most MOST_RECORDS.
        """
        self._meter.parsed += len(block)
        raw = block.split(b"\n")
        lengths = [len(line) + 1 for line in raw]
        if raw[-1]:
            lengths[-1] -= 1
        else:
            del raw[-1], lengths[-1]
        if size == MOST_SPAN_BYTES:
            raw, lengths = raw[:MOST_RECORDS], lengths[:MOST_RECORDS]
        texts, bad = self._texts(raw)
        rows = _whole(texts, self._header.delimiter) if not bad else None
        if rows is not None and len(rows) == len(texts):
            offsets = [0, *accumulate(lengths)]
            return offsets[-1], self._span(rows, range(len(rows)), repeat(1), offsets, {}, block, at)
        return self._one_by_one(texts, lengths, bad, block, at)

    def _texts(self, raw: list[bytes]) -> tuple[list[str], dict[int, str]]:
        """Return the lines as text, each with its line break, and the encoding faults by index."""
        codec = self._header.encoding
        try:
            return [line + "\n" for line in b"\n".join(raw).decode(codec).split("\n")], {}
        except UnicodeDecodeError:
            bad, texts = {}, []
            for index, line in enumerate(raw):
                try:
                    texts.append(line.decode(codec) + "\n")
                except UnicodeDecodeError as error:
                    bad[index] = f"byte {error.start + 1} of the row's line is no {codec}"
                    texts.append(line.decode(codec, "replace") + "\n")
            return texts, bad

    def _one_by_one(
        self, texts: list[str], lengths: list[int], bad: dict[int, str], block: bytes, at: int
    ) -> tuple[int, Span | None]:
        rows, firsts, faults = Rows(), [0], dict[int, tuple[str, str]]()
        offsets = [0, *accumulate(lengths)]
        reader = csv.reader(texts, delimiter=self._header.delimiter, strict=True)
        line = 0
        while line < len(texts):
            try:
                row = next(reader)
            except csv.Error:
                if block.count(b'"', offsets[line], offsets[reader.line_num]) % 2:
                    if line or reader.line_num == len(texts):
                        break  # the next block begins with this row, or is larger and holds its end
                    why = f"the row at line {self._line} breaks the rules of quotes, so its end is uncertain"
                    raise self._window.broken(at + offsets[line], why) from None
                row = []
                faults[len(rows)] = INVALID_CSV, "the row breaks the rules of quotes"
            wrong = next((bad[index] for index in range(line, reader.line_num) if index in bad), "")
            if wrong:
                faults[len(rows)] = INVALID_UTF8, wrong
            rows.append(row)
            line = reader.line_num
            firsts.append(line)
        lines = map(int.__sub__, firsts[1:], firsts)
        return offsets[line], self._span(rows, firsts[:-1], lines, [offsets[at] for at in firsts], faults, block, at)

    def _span(
        self,
        rows: Rows,
        firsts: Sequence[int],
        lines: Iterable[int],
        offsets: Sequence[int],
        known: dict[int, tuple[str, str]],
        block: bytes,
        at: int,
    ) -> Span | None:
        """Return the span of a block's rows, None if all are blank; the block begins at the offset `at`.

        For each row, `firsts` has the index of its first line, `lines` the number of its lines, and `offsets` its begin
        in the block; the last of `offsets` is the end of them all. `known` are faults by the index of the row.
        """
        names, count = self._header.names, len(self._header.names)
        faults: dict[int, Fault] = {}
        parts: list[bytes] = []
        blank: set[int] = set()
        origins: list[tuple[int, int, int]] = []
        for index, (row, taken, start, end) in enumerate(zip(rows, lines, offsets, offsets[1:], strict=False)):
            fault = known.get(index) if known else None
            if not row and fault is None:
                blank.add(index)
                continue
            length = end - start
            if fault is None and len(row) != count:
                fault = INVALID_CSV, f"the row has {len(row)} fields, the header has {count}"
            if fault is None and length > self._limit:
                fault = too_large(length, self._limit)[1:]
            made = {name: value for name, value in zip(names, row, strict=False) if value} if fault is None else {}
            if fault is None and "" in made:
                nameless = next(at for at, name in enumerate(names) if not name and row[at]) + 1
                fault = INVALID_CSV, f"$.{nameless}: the row has a value in a column without a name"
            if fault is not None:
                faults[len(parts)] = length, *fault
            if fault is None:
                parts.append(orjson.dumps(made))
            else:  # the row as text, for people
                parts.append(orjson.dumps(block[start:end].decode(self._header.encoding, "replace").rstrip("\r\n")))
            origins.append((at + start, length, taken))
        numbers = [self._line + first for index, first in enumerate(firsts) if index not in blank]
        self._line += block.count(b"\n", 0, offsets[-1])
        if not parts:
            return None
        lengths = list(map(len, parts))
        begins = list(accumulate((length + 1 for length in lengths[:-1]), initial=0))
        stops = [begin + length for begin, length in zip(begins, lengths, strict=True)]
        return Span(self._source, at, b",".join(parts), begins, stops, numbers, faults=faults, origins=origins)


def _whole(texts: list[str], delimiter: str) -> Rows | None:
    """Return the rows of these lines; None if a row breaks the rules."""
    try:
        return list(csv.reader(texts, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
