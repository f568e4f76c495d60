"""What an export is: a document with an array in it, or NDJSON. Found by looking at how it begins."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from streammig.errors import BrokenExport, Unusable
from streammig.sources.inputs import Input, Path
from streammig.sources.judging import RAW, WHITE
from streammig.sources.opening import Meter
from streammig.sources.survey import Survey
from streammig.sources.tour import Tour, walk_to
from streammig.sources.walking import NotJson, Walker
from streammig.sources.window import Window, skip_bom

JSON, NDJSON = "json", "ndjson"
# Candidates are looked for in the first 4 MiB (10 ms); where none begins there, the first one behind counts. A file
# that has none in the first 256 MiB is asked about, not read for an hour.
LOOK_BYTES = 4 * 1024 * 1024
LOOK_AT_MOST = 256 * 1024 * 1024

_LINE_NAMES = re.compile(r"\.(ndjson|jsonl)(\.(gz|zst|zstd))?$", re.IGNORECASE)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIRST = re.compile(rb"[^ \t\r\n]")


class Layout(NamedTuple):
    """How to read a file: its format, and for a document the way to the array."""

    format: str
    path: Path = ()


def find_layout(window: Window, wanted: Input, meter: Meter, *, lines: bool = False) -> Layout:
    """What the file in a fresh window is; `lines`: others of its stage are NDJSON, so that one object with an id is a
    record. Raises Unusable if it can't be told, or holds no such array; BrokenExport if the document breaks off before
    an array was found."""
    at = first_byte(window)
    if wanted.path is not None:
        _refuse_other(window, at)
        return Layout(JSON, walk_to(window, at, wanted.path, meter)[0])
    while window.end - at < LOOK_BYTES and window.fill(at):
        pass
    head = window.data[at - window.base :]
    if _is_lines(head, meter):
        return Layout(NDJSON)
    single = head.startswith(b"{") and b"\n" not in head.strip(WHITE)
    if single and _LINE_NAMES.search(wanted.file):
        return Layout(NDJSON)
    alone = single and _decodes(head)
    if alone and lines and "id" in _MEMBERS.decode(head):
        return Layout(NDJSON)
    _refuse_other(window, at)
    survey = _survey(window, at, meter)
    if len(survey.candidates) == 1:
        return Layout(JSON, survey.candidates[0].path)
    if not survey.candidates and (empty := survey.only_empty()) and (not alone or _holds_no_values(head)):
        return Layout(JSON, empty.path)
    if alone and not survey.candidates:
        return Layout(NDJSON)
    what = "there are several arrays of objects" if survey.candidates else "there is no array of objects"
    raise Unusable(
        "array-not-named",
        f"{window.file}: one array of records was looked for, {what}; arrays seen:\n{survey.listing()}",
        "Name the one to be read: FILE#path.to.array.",
    )


def first_byte(window: Window) -> int:
    """The offset of the first byte of a fresh window that is neither byte order mark nor white space."""
    at = skip_bom(window)
    _refuse_utf16(window)
    while not (found := _FIRST.search(window.data, at - window.base)):
        at = window.end
        if not window.fill(at):
            window.finish()
            raise Unusable(
                "export-empty", f"{window.file}: an export was looked for, the file holds nothing but white space"
            )
    return window.base + found.start()


def _refuse_utf16(window: Window) -> None:
    head = window.data[:4]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        raise Unusable(
            "export-not-utf8",
            f"{window.file}: the export must be UTF-8, this looks like UTF-16 or UTF-32",
            "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8",
        )


def _refuse_other(window: Window, at: int) -> None:
    if window.data[at - window.base] not in b"[{":
        raise Unusable(
            "export-not-json",
            f"{window.file}: JSON or NDJSON was looked for, the file begins with neither an object nor an array",
            "Export it as JSON: one array of records, a document that holds one, or one record a line.",
        )


def _is_lines(head: bytes, meter: Meter) -> bool:
    """Whether an export that begins so is NDJSON.

    Decided by its first two lines that are not blank. Where the first is a value by itself: if an object begins on a
    line below, unless that value is an array with something in it. Where it is none: if the second is an object by
    itself and the two together can't be how a document begins. A line below may begin with a byte order mark, as
    where files were put one behind the other: that is its own fault.
    """
    lines = (line for raw in _lines(head) if (line := raw.strip(WHITE)))
    first, second = next(lines, b""), next(lines, b"")
    if _decodes(first):
        document = first.startswith(b"[") and first.strip(b"[]" + WHITE)
        return not document and any(line.removeprefix(codecs.BOM_UTF8).startswith(b"{") for line in (second, *lines))
    if not (second.startswith(b"{") and _decodes(second)):
        return False
    try:
        Walker(meter).check(first + b"\n" + second)
    except NotJson:
        return True
    return False


def _lines(head: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        end = len(head) if end < 0 else end
        yield head[at:end]
        at = end + 1


def _decodes(line: bytes) -> bool:
    try:
        RAW.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _holds_no_values(head: bytes) -> bool:
    """Whether an object holds nothing but objects and arrays: then it is no record."""
    return all(value[:1] in b"{[" for value in map(bytes, _MEMBERS.decode(head).values()))


def _survey(window: Window, at: int, meter: Meter) -> Survey:
    """What arrays the document that begins at an offset of the window holds, as far as one looks."""
    tour = Tour(window, at, meter)
    survey = tour.survey
    try:
        while tour.to_array(at + (LOOK_BYTES if survey.candidates else LOOK_AT_MOST)):
            tour.pass_over(at + LOOK_BYTES)
        if not survey.candidates and tour.at < at + LOOK_AT_MOST:
            tour.end()
    except BrokenExport:
        if not survey.candidates:
            raise
        # Reading the array will say where, behind the records before it.
    if not survey.candidates and tour.at >= at + LOOK_AT_MOST:
        raise Unusable(
            "array-not-found",
            f"{window.file}: no array of objects begins in the first {LOOK_AT_MOST >> 20} MiB; arrays there:\n"
            f"{survey.listing()}",
            "Name the one to be read: FILE#path.to.array.",
        )
    return survey
