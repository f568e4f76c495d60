"""What an export is: a document with an array in it, or NDJSON. Found by looking at how it begins."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streammig.errors import BrokenExport, Unusable
from streammig.sources.extent import next_array
from streammig.sources.inputs import Input, Path, leads_to, path_text
from streammig.sources.judging import RAW, WHITE
from streammig.sources.opening import Meter
from streammig.sources.walking import Events, NotJson, Walker, whole
from streammig.sources.window import Window, skip_bom

JSON, NDJSON = "json", "ndjson"
# Candidates are looked for in the first 4 MiB (0.1 s); where none begins there, the first one behind counts. A file
# that has none in the first 256 MiB is asked about, not read for an hour.
LOOK_BYTES = 4 * 1024 * 1024
LOOK_AT_MOST = 256 * 1024 * 1024
PIECE_BYTES = 64 * 1024
LISTED = 20  # arrays named in a message

_LINE_NAMES = re.compile(r"\.(ndjson|jsonl)(\.(gz|zst|zstd))?$", re.IGNORECASE)
_FIRST = re.compile(rb"[^ \t\r\n]")


class Layout(NamedTuple):
    """How to read a file: its format, and for a document the way to the array."""

    format: str
    path: Path = ()


@dataclass
class Seen:
    """An array that was met: the kind of its first element, and how many elements so far."""

    path: Path
    kind: str = ""
    elements: int = 0


@dataclass
class Survey:
    """Where a walk through a document stands, and the arrays that it met.

    A candidate is an array whose first element is an object and that lies in no other candidate; an array that is the
    whole document is one whatever it holds. What lies in a candidate is not noted.
    """

    arrays: list[Seen] = field(default_factory=list)
    candidates: list[Seen] = field(default_factory=list)
    _steps: list[str | int] = field(default_factory=list)
    _open: list[Seen | None] = field(default_factory=list)
    _inside: int = 0  # the depth at which the candidate being walked through was opened, 0: none

    @property
    def path(self) -> Path:
        """The way to the value opened last (keys of closed values included only up to their parent)."""
        return tuple(self._steps[:-1])

    def note(self, events: Events) -> None:
        for event, value in events:
            if event == "map_key":
                self._steps[-1] = value
            elif event in ("end_map", "end_array"):
                self._close()
            else:
                self._value(event)

    def _value(self, event: str) -> None:
        if self._steps and isinstance(self._steps[-1], int):
            self._steps[-1] += 1
            self._element(event)
        if event == "start_array":
            self._steps.append(-1)
            self._open.append(self._array())
        elif event == "start_map":
            self._steps.append("")
            self._open.append(None)

    def _array(self) -> Seen | None:
        if self._inside:
            return None
        seen = Seen(self.path)
        if len(self.arrays) < LISTED:
            self.arrays.append(seen)
        if not seen.path:
            self._choose(seen, len(self._steps))
        return seen

    def _element(self, event: str) -> None:
        seen = self._open[-1]
        if seen is None:
            return
        seen.elements += 1
        seen.kind = seen.kind or _KINDS.get(event, event + "s")
        if event == "start_map" and seen.elements == 1 and not self._inside:
            self._choose(seen, len(self._steps))

    def _choose(self, seen: Seen, depth: int) -> None:
        self._inside = depth
        self.candidates.append(seen)
        if seen not in self.arrays:
            self.arrays.append(seen)

    def _close(self) -> None:
        if len(self._steps) == self._inside:
            self._inside = 0
        self._steps.pop()
        self._open.pop()

    def listing(self) -> str:
        """The arrays for a message, one a line."""
        if not self.arrays:
            return "  none"
        return "\n".join(
            f"  {path_text(seen.path) or '(the whole document)'}: "
            + (f"{seen.elements} {seen.kind} seen" if seen.elements else "empty")
            for seen in self.arrays
        )


_KINDS = {"start_map": "objects", "start_array": "arrays", "boolean": "true or false", "null": "null"}


def find_layout(window: Window, wanted: Input, meter: Meter) -> Layout:
    """What the file in a fresh window is. Raises Unusable if it can't be told, or holds no such array; BrokenExport
    if the document breaks off before an array was found."""
    at = first_byte(window)
    while window.end - at < LOOK_BYTES and window.fill(at):
        pass
    if wanted.path is not None:
        return Layout(JSON, walk_to(window, at, wanted.path, meter)[0])
    head = window.data[at - window.base :]
    if _is_lines(head, meter):
        return Layout(NDJSON)
    alone = head.startswith(b"{") and b"\n" not in head.strip(WHITE) and _decodes(head)
    if alone and _LINE_NAMES.search(wanted.file):
        return Layout(NDJSON)
    survey = _survey(window, at, meter)
    if len(survey.candidates) == 1:
        return Layout(JSON, survey.candidates[0].path)
    if alone and not survey.candidates:
        return Layout(NDJSON)
    what = "there are several arrays of objects" if survey.candidates else "there is no array of objects"
    raise Unusable(
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
            raise Unusable(f"{window.file}: an export was looked for, the file holds nothing but white space")
    return window.base + found.start()


def _refuse_utf16(window: Window) -> None:
    head = window.data[:4]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        raise Unusable(
            f"{window.file}: the export must be UTF-8, this looks like UTF-16 or UTF-32",
            "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8",
        )


def _is_lines(head: bytes, meter: Meter) -> bool:
    """Whether an export that begins so is NDJSON.

    Decided by its first two lines that are not blank. Where the first is a value by itself: if an object begins on a
    line below, unless that value is an array. Where it is none: if the second is an object by itself and the two
    together can't be how a document begins.
    """
    lines = (line for raw in _lines(head) if (line := raw.strip(WHITE)))
    first, second = next(lines, b""), next(lines, b"")
    if _decodes(first):
        return not first.startswith(b"[") and any(line.startswith(b"{") for line in (second, *lines))
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


def walk_to(window: Window, at: int, wanted: Sequence[str], meter: Meter) -> tuple[Path, int]:
    """The path of the array that the segments name and the offset behind its bracket, in the document that begins at
    an offset of the window. Raises Unusable if the document has no such array, BrokenExport if it breaks off."""
    survey, walker, segments = Survey(), Walker(meter), tuple(wanted)
    for piece, offset in _pieces(window, at, arrays=True):
        events = _fed(walker, piece, window, offset)
        survey.note(events)
        # A piece holds one bracket of an array at most, as its last byte.
        if events and events[-1][0] == "start_array" and leads_to(segments, survey.path):
            return survey.path, offset + len(piece)
    _ended(walker, window)
    where = path_text(segments) or "its top"
    raise Unusable(
        f"{window.file}: there is no array at {where}; arrays seen:\n{survey.listing()}",
        "Name the one to be read: FILE#path.to.array.",
    )


def _survey(window: Window, at: int, meter: Meter) -> Survey:
    """What arrays the document that begins at an offset of the window holds, as far as one looks."""
    survey, walker = Survey(), Walker(meter)
    if window.data[at - window.base] not in b"[{":
        raise Unusable(
            f"{window.file}: JSON or NDJSON was looked for, the file begins with neither an object nor an array",
            "Export it as JSON: one array of records, a document that holds one, or one record a line.",
        )
    for piece, offset in _pieces(window, at, arrays=False):
        if offset - at >= (LOOK_BYTES if survey.candidates else LOOK_AT_MOST):
            break
        try:
            survey.note(_fed(walker, piece, window, offset))
        except BrokenExport:
            survey.note(walker.seen)
            if survey.candidates:
                return survey  # Reading it will say where, behind the records before it.
            raise
    else:
        if not survey.candidates:
            _ended(walker, window)
        return survey
    if not survey.candidates:
        raise Unusable(
            f"{window.file}: no array of objects begins in the first {LOOK_AT_MOST >> 20} MiB; arrays there:\n"
            f"{survey.listing()}",
            "Name the one to be read: FILE#path.to.array.",
        )
    return survey


def _pieces(window: Window, at: int, arrays: bool) -> Iterator[tuple[bytes, int]]:
    """What follows an offset of the window, in pieces with their offsets; `arrays`: each ends behind the bracket that
    begins an array, if it holds one."""
    inside = False
    while True:
        piece = whole(window.data[at - window.base :][:PIECE_BYTES])
        if not piece:
            if window.fill(at):
                continue
            piece = window.data[at - window.base :]
        if not piece:
            return
        if arrays:
            end, inside = next_array(piece, 0, inside)
            # A backslash that nothing follows is looked at with what follows it.
            piece = piece[:end] or piece
        yield piece, at
        at += len(piece)


def _fed(walker: Walker, piece: bytes, window: Window, at: int) -> Events:
    try:
        return walker.feed(piece)
    except NotJson:
        raise window.broken(at, f"no valid JSON within {len(piece)} bytes from there, before the array") from None


def _ended(walker: Walker, window: Window) -> None:
    window.finish()
    try:
        walker.end()
    except NotJson:
        raise window.broken(window.end, "the file ends inside the document, before the array") from None
