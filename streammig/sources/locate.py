"""What an export is: NDJSON, or a document with an array of records, and where that array begins and the document ends.

A document's array is found where it is obvious: the document itself, or the one array of objects at the top of it.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import ijson
import msgspec

from streammig.errors import BrokenExport, Problem, Unusable
from streammig.sources import advice
from streammig.sources.csv_rows import Form, Header, read_header
from streammig.sources.documents import are_in_a_row
from streammig.sources.frame import Extent, Framer
from streammig.sources.open import Input, Meter, Path, leads_to, path_text
from streammig.sources.packed import ENDING
from streammig.sources.valid import RAW, WHITE, decodes, is_cut_off, place_of, without_surrogates
from streammig.sources.window import Window, skip_bom

JSON, NDJSON, CSV, DOCUMENTS = "json", "ndjson", "csv", "documents"
# Arrays are looked for in the first 4 MiB (10 ms); where none of objects begins there, the first one behind counts. A
# file that has none in the first 256 MiB is asked about, not read for an hour.
LOOK_BYTES = 4 * 1024 * 1024
LOOK_AT_MOST = 256 * 1024 * 1024
LISTED = 20  # arrays named in a message

PIECE_BYTES = 64 * 1024
RECALLED_BYTES = 64 * 1024
# Of elements that are only passed over; what is longer than 16 of it breaks off.
ELEMENT_BYTES = 16 * 1024 * 1024

OBJECTS, ARRAYS, EMPTY = "objects", "arrays", "empty"
_KINDS = {b"{": OBJECTS, b"[": ARRAYS, b"]": EMPTY, b'"': "strings"}

_LINE_NAMES = re.compile(r"\.(ndjson|jsonl)" + ENDING, re.IGNORECASE)
_ROW_NAMES = re.compile(r"\.(csv|tsv|tab)" + ENDING, re.IGNORECASE)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_COMMAS = re.compile(rb"\{[^\n]*\},[ \t\r]*\n[ \t]*\{")
_SOLID = re.compile(rb"[^ \t\r\n]")
_OPENING = re.compile(rb"[{[]")
# ijson is asked for grammar and keys alone, so it sees text of the same grammar without what it fails on. It takes form
# feeds for white space, turns lone surrogates into "?" or an error, and ends in a SystemError at integers of more than
# 4,300 digits and exponents of more than 18. The digits of a key are left alone (no number stands before a quote).
_FEEDS = bytes.maketrans(b"\x0b\x0c", b"\x01\x01")
_DIGITS = re.compile(rb'(?<![0-9])([0-9]{16})[0-9]++(?!")')
_PART_OF_ESCAPE = re.compile(rb"\\u?\Z")
_NOT_JSON = (ijson.JSONError, ValueError, ArithmeticError, SystemError)


class Layout(NamedTuple):
    """How to read a file: its format, and for a document the way to the array, and whether that holds nothing."""

    format: str
    path: Path = ()
    empty: bool = False
    header: Header | None = None  # of CSV


class Seen(NamedTuple):
    """An array that a walk came to, and the kind of its first element."""

    path: Path
    kind: str


def check_backend() -> None:
    """Raise Problem unless ijson has its C backend: the pure Python ones are 20 times slower."""
    if ijson.backend != "yajl2_c":
        raise Problem(
            "ijson-backend",
            f"ijson runs with its backend {ijson.backend}, yajl2_c is needed to read an export at speed",
            "Unset IJSON_BACKEND, or install an ijson wheel for this platform: pip install --force-reinstall ijson.",
        )


def locate(window: Window, wanted: Input, meter: Meter, *, lines: bool = False, form: Form | None = None) -> Layout:
    """What the file in a fresh window is; `lines`: others of its stage are NDJSON, so that one object with an id is a
    record. Raises Unusable if it can't be told, or holds no such array; BrokenExport if the document breaks off before
    an array was found."""
    at = first_byte(window)
    if form is not None and (form.delimiter or _ROW_NAMES.search(wanted.file)) and wanted.path is None:
        return Layout(CSV, header=read_header(window, skip_bom(window), form))
    if wanted.path is not None:
        _refuse_other(window, at)
        seen, _ = walk_to(window, at, wanted.path, meter)
        return Layout(JSON, seen.path, seen.kind == EMPTY)
    while window.end - at < LOOK_BYTES and window.fill(at, LOOK_BYTES):
        pass
    head = window.data[at - window.base :]
    if _is_lines(head) or _is_one_line(head, wanted, lines):
        return Layout(NDJSON)
    _refuse_other(window, at)
    if are_in_a_row(head):
        return Layout(DOCUMENTS)
    if _COMMAS.match(head) and decodes(head[: head.index(b"\n")].rstrip(WHITE + b",")):
        raise advice.lines_with_commas(window.file)
    if head.startswith(b"["):
        return Layout(JSON, (), walk_to(window, at, (), meter)[0].kind == EMPTY)
    return _obvious(window, at, head, meter)


def _is_one_line(head: bytes, wanted: Input, lines: bool) -> bool:
    """Whether the one line of an export is a record: by the file's name, or as others of its stage are."""
    if not head.startswith(b"{") or b"\n" in head.strip(WHITE):
        return False
    if _LINE_NAMES.search(wanted.file):
        return True
    return lines and decodes(head) and "id" in _MEMBERS.decode(head)


def _obvious(window: Window, at: int, head: bytes, meter: Meter) -> Layout:
    """The array that a document holds its records in, where that is obvious. Raises Unusable where it isn't."""
    whole = decodes(head)
    single = whole and b"\n" not in head.strip(WHITE)
    found, end = _survey(window, at, meter)
    of_objects = [seen.path for seen in found if seen.kind == OBJECTS]
    top, empty = ([it.path for it in found if it.kind == kind and len(it.path) == 1] for kind in (OBJECTS, EMPTY))
    one = whole and not single and "id" in _MEMBERS.decode(head)  # then its arrays may be those of a record
    if len(top) == 1 and not one:
        return Layout(JSON, top[0])
    if not of_objects and single and _holds_values(head):
        return Layout(NDJSON)
    if not of_objects and len(empty) == 1 and not one:
        return Layout(JSON, empty[0], empty=True)
    if one:
        raise advice.one_object(window.file, _listing(found), path_text(found[0].path) if found else "path.to.array")
    if whole and not found and all(bytes(value).startswith(b"{") for value in _MEMBERS.decode(head).values()):
        raise advice.keyed_object(window.file)
    raise Unusable(
        "array-not-named",
        f"{window.file}: the array of records is not obvious: arrays of objects at the document's top: {len(top)};"
        f" arrays seen up to byte {end}:\n{_listing(found)}",
        f"Name the one to be read: FILE#{path_text(of_objects[0]) if of_objects else 'path.to.array'}."
        + " Where each line is a record, name the file .ndjson." * single
        + f" {advice.by_keys(window.file)}" * all(len(seen.path) > 1 for seen in found),
    )


def first_byte(window: Window) -> int:
    """The offset of the first byte of a fresh window that is neither byte order mark nor white space."""
    at = skip_bom(window)
    head = window.data[:4]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        raise Unusable(
            "export-not-utf8",
            f"{window.file}: the export must be UTF-8, this looks like UTF-16 or UTF-32",
            "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8",
        )
    while not (found := _SOLID.search(window.data, at - window.base)):
        at = window.end
        if not window.fill(at):
            window.finish()
            raise Unusable(
                "export-empty", f"{window.file}: an export was looked for, the file holds nothing but white space"
            )
    return window.base + found.start()


def walk_to(window: Window, at: int, wanted: Sequence[str], meter: Meter) -> tuple[Seen, int]:
    """The array that the segments name and the offset behind its bracket, in the document that begins at an offset of
    the window. Raises Unusable if the document has no such array, BrokenExport if it breaks off."""
    walk, segments, found = Walk(window, at, meter), tuple(wanted), list[Seen]()
    while walk.to_array():
        path, behind = walk.path, walk.at
        if leads_to(segments, path):
            return Seen(path, walk.kind()), behind
        found.append(Seen(path, walk.kind()))
        if not leads_to(segments[: len(path)], path):
            walk.pass_over()
    walk.end()
    where = path_text(segments) or "its top"
    raise Unusable(
        "array-not-found",
        f"{window.file}: there is no array at {where}; arrays seen:\n{_listing(found)}",
        "Name the one to be read: FILE#path.to.array.",
    )


def check_rest(window: Window, at: int, path: Path, meter: Meter) -> None:
    """Raise BrokenExport unless what stands behind the array at `path` makes the document complete and valid."""
    walk = Walk(window, at, meter, behind=path)
    while walk.to_array():
        walk.pass_over()
    walk.end()


class Walk:
    """A walk by ijson from array to array; others than arrays of arrays are passed over at the speed of the framer.

    `at` is the offset that it has come to. Text is judged by its grammar alone: bad UTF-8 and lone surrogates out here
    may be those of another stage's records. A break is named to the byte, unless more than 64 KiB of text came before
    it, arrays that were passed over left out: then the piece of 64 KiB is.
    """

    def __init__(self, window: Window, at: int, meter: Meter, behind: Path | None = None) -> None:
        """`behind`: the offset lies behind the array at this path, not at the beginning of the document."""
        self.at = at
        self._window, self._meter = window, meter
        self._extent, self._ended = Extent(len(behind or ())), behind == ()
        self._steps: list[str | int] = []
        self._before = b""  # all that ijson was fed, as long as it is short
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._events: list[tuple[str, Any]] = ijson.sendable_list()
        self._parser = ijson.get_backend("yajl2_c").basic_parse_coro(self._events)
        if behind is not None:
            # The least document that leads to an array at this path.
            self._feed(b"".join(b"[" if isinstance(step, int) else b'{"":' for step in behind) + b"[]")
            self.at = at

    @property
    def path(self) -> Path:
        """The way to the array just opened."""
        return tuple(self._steps[:-1])

    def to_array(self, until: float = math.inf) -> bool:
        """Go on until an array was opened; False at the end of document or stream, or behind the offset `until`."""
        while self.at < until and not self._ended and (piece := self._piece()):
            end, self._ended = self._extent.advance(piece, 0, arrays=True)
            self._feed(piece[:end])
            if self._events and self._events[-1][0] == "start_array":
                return True
        return False

    def kind(self) -> str:
        """The kind of the first element of the array just opened."""
        framer = self._framer()
        sign = framer.sign()
        self.at = framer.at  # the window may have been moved behind the white space
        return _KINDS.get(sign, "values")

    def pass_over(self, until: float = math.inf) -> None:
        """Go to the closing bracket of the array just opened, or behind `until`; not where it holds arrays."""
        if self.kind() in (ARRAYS, EMPTY):
            return
        framer = self._framer()
        for _ in framer.spans(self.at, resumed=False):
            if framer.at >= until:
                self.at = framer.at
                return
        self.at = framer.at - 1

    def end(self) -> None:
        """Raise BrokenExport unless the document was complete, and only white space follows."""
        window = self._window
        while self._ended:
            if found := _SOLID.search(window.data, self.at - window.base):
                raise self._behind(window.base + found.start())
            self.at = window.end
            if not window.fill(self.at):
                return window.finish()
        window.finish()
        raise window.broken(window.end, "the file ends inside the document")

    def _behind(self, at: int) -> BrokenExport:
        """What stands behind the document, from an offset on: without a bracket it can hold no record."""
        window, low = self._window, at
        while not _OPENING.search(window.data, low - window.base):
            low = window.end
            if not window.fill(low):
                window.finish()
                return BrokenExport(window.file, at, "text without a record, behind the document's end", whole=True)
        return window.broken(at, "no valid JSON there, behind the document's end")

    def _framer(self) -> Framer:
        framer = Framer(self._window, 0, 1, ELEMENT_BYTES, self._meter)
        framer.at = self.at
        return framer

    def _piece(self) -> bytes:
        """What comes next, without the beginning of an escape at its end; b"" at the stream's end."""
        window = self._window
        while True:
            low = self.at - window.base
            piece = window.data[low : low + PIECE_BYTES]
            if whole := _PART_OF_ESCAPE.sub(b"", piece):
                return whole
            if not window.fill(self.at):
                return piece

    def _feed(self, piece: bytes) -> None:
        self._events.clear()
        self._meter.parsed += len(piece)
        plainer = self._utf8.decode(piece.translate(_FEEDS)).encode()
        plainer = _DIGITS.sub(rb"\1", without_surrogates(plainer))
        try:
            if plainer:  # nothing would be the end for ijson
                self._parser.send(plainer)
        except _NOT_JSON:
            raise self._window.broken(self._bad(piece), "no valid JSON there, outside the array of records") from None
        self._note()
        self._before = self._before + piece if len(self._before) < RECALLED_BYTES else self._before
        self.at += len(piece)

    def _bad(self, piece: bytes) -> int:
        """The offset that makes a refused piece no JSON; where it begins if that can't be told any more. The offset may
        lie before the piece, since ijson sees a token only when it is complete."""
        text = self._before + piece + b"    "  # msgspec takes the beginning of a literal for one that is cut
        if len(self._before) < RECALLED_BYTES:
            try:
                RAW.decode(without_surrogates(text))
            except msgspec.DecodeError as error:
                return self.at + min(place_of(error, len(text))[0] - len(self._before), len(piece))
            except RecursionError:
                pass
        return self.at

    def _note(self) -> None:
        """Follow the way to the value opened last."""
        steps = self._steps
        for event, value in self._events:
            if event == "map_key":
                steps[-1] = value
            elif event == "end_map" or event == "end_array":
                steps.pop()
            else:
                if steps and isinstance(steps[-1], int):
                    steps[-1] += 1
                if event == "start_array":
                    steps.append(-1)
                elif event == "start_map":
                    steps.append("")


def _survey(window: Window, at: int, meter: Meter) -> tuple[list[Seen], int]:
    """The arrays of the document that begins at an offset of the window, not those in records, and the offset of the
    end of the look."""
    walk, found, obvious = Walk(window, at, meter), list[Seen](), False
    try:
        while walk.to_array(at + (LOOK_BYTES if obvious else LOOK_AT_MOST)):
            found.append(Seen(walk.path, walk.kind()))
            obvious = obvious or (found[-1].kind == OBJECTS and len(found[-1].path) == 1)
            walk.pass_over(at + (LOOK_BYTES if obvious else LOOK_AT_MOST))
        if not obvious and walk.at < at + LOOK_AT_MOST:
            walk.end()
    except BrokenExport:
        if not obvious:
            raise
        # Reading the array will say where, behind the records before it.
    return found, walk.at


def _listing(found: Sequence[Seen]) -> str:
    """The arrays for a message, one a line."""
    listed = [f"  {path_text(seen.path) or '(the whole document)'}: {seen.kind}" for seen in found]
    return "\n".join(listed[:LISTED] + ["  ..."] * (len(listed) > LISTED)) or "  none"


def _refuse_other(window: Window, at: int) -> None:
    if window.data[at - window.base] not in b"[{":
        raise Unusable(
            "export-not-json",
            f"{window.file}: JSON or NDJSON was looked for, the file begins with neither an object nor an array",
            "Export it as JSON: one array of records, a document that holds one, or one record a line.",
        )


def _is_lines(head: bytes) -> bool:
    """Whether an export that begins so is NDJSON.

    Decided by its first two lines that are not blank. Where the first is a value by itself: if an object begins on a
    line below, unless that value is an array with something in it. Where it is none: if the second is an object by
    itself and the two together can't be how a document begins. A line below may begin with a byte order mark, as
    where files were put one behind the other: that is its own fault.
    """
    if b"\n" not in head.strip(WHITE):
        return False
    lines = (line for raw in re.finditer(rb"[^\n]+", head) if (line := raw.group().strip(WHITE)))
    first, second = next(lines, b""), next(lines, b"")
    if decodes(first):
        document = first.startswith(b"[") and first.strip(b"[]" + WHITE)
        return not document and any(line.removeprefix(codecs.BOM_UTF8).startswith(b"{") for line in (second, *lines))
    if not (second.startswith(b"{") and decodes(second)):
        return False
    return not is_cut_off(without_surrogates(first + b"\n" + second))


def _holds_values(head: bytes) -> bool:
    """Whether an object holds anything but objects and arrays: then it may be a record."""
    return any(value[:1] not in b"{[" for value in map(bytes, _MEMBERS.decode(head).values()))
