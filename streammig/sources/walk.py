"""A walk through a document, from one array to the next: which there are, and whether it is valid around them."""

from __future__ import annotations

import codecs
import math
import re
from typing import Any, NamedTuple

import ijson
import msgspec

from streammig.errors import BrokenExport
from streammig.sources.extent import Extent
from streammig.sources.frame import Framer
from streammig.sources.open import Meter, Path, leads_to
from streammig.sources.valid import RAW, place_of, without_surrogates
from streammig.sources.window import Window

PIECE_BYTES = 64 * 1024
RECALLED_BYTES = 64 * 1024
# Of elements that are only passed over; what is longer than 16 of it breaks off.
ELEMENT_BYTES = 16 * 1024 * 1024

OBJECTS, ARRAYS, EMPTY = "objects", "arrays", "empty"
_KINDS = {b"{": OBJECTS, b"[": ARRAYS, b"]": EMPTY, b'"': "strings"}

SOLID = re.compile(rb"[^ \t\r\n]")
_OPENING = re.compile(rb"[{[]")
# ijson is asked for grammar and keys alone, so it sees text of the same grammar without what it fails on. It takes form
# feeds for white space, turns lone surrogates into "?" or an error, and ends in a SystemError at integers of more than
# 4,300 digits and exponents of more than 18. The digits of a key are left alone (no number stands before a quote).
_FEEDS = bytes.maketrans(b"\x0b\x0c", b"\x01\x01")
_DIGITS = re.compile(rb'(?<![0-9])([0-9]{16})[0-9]++(?!")')
_PART_OF_ESCAPE = re.compile(rb"\\u?\Z")
_NOT_JSON = (ijson.JSONError, ValueError, ArithmeticError, SystemError)


class Seen(NamedTuple):
    """An array that a walk came to, and the kind of its first element."""

    path: Path
    kind: str


class Walk:
    """A walk by ijson from array to array; others than arrays of arrays are passed over at the speed of the framer.
    Where an object is looked for (`keyed`), it stops at objects too.

    `at` is the offset that it has come to. Text is judged by its grammar alone: bad UTF-8 and lone surrogates out here
    may be those of another stage's records. A break is named to the byte, unless more than 64 KiB of text came before
    it, arrays that were passed over left out: then the piece of 64 KiB is.
    """

    def __init__(
        self,
        window: Window,
        at: int,
        meter: Meter,
        *,
        behind: Path | None = None,
        wanted: tuple[str, ...] | None = None,
        keyed: bool = False,
    ) -> None:
        """`behind`: the offset lies behind the array, or object, at this path, not at the beginning of the document.
        `wanted` is what is looked for."""
        self.at = at
        self._window, self._meter = window, meter
        self._extent, self._ended = Extent(len(behind or ())), behind == ()
        self._steps: list[str | int] = []
        self._wanted, self._stops = wanted, b"[{" if keyed else b"["
        self._opened = ("start_array", "start_map") if keyed else ("start_array",)
        self.has_object = False  # at the path that is wanted
        self._before = b""  # all that ijson was fed, as long as it is short
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._events: list[tuple[str, Any]] = ijson.sendable_list()
        self._parser = ijson.get_backend("yajl2_c").basic_parse_coro(self._events)
        if behind is not None:
            # The least document that leads to an array at this path.
            way = [b"[" if isinstance(step, int) else b'{"":' for step in behind]
            self._feed(b"".join([*way, b"{}" if keyed else b"[]"]))
            self.at = at

    @property
    def path(self) -> Path:
        """The way to the array or object just opened."""
        return tuple(self._steps[:-1])

    @property
    def at_object(self) -> bool:
        """Whether that is an object."""
        return self._events[-1][0] == "start_map"

    def to_array(self, until: float = math.inf) -> bool:
        """Go on until an array was opened, or an object; False at the end of document or stream, or behind the offset
        `until`."""
        while self.at < until and not self._ended and (piece := self._piece()):
            end, self._ended = self._extent.advance(piece, 0, stops=self._stops)
            self._feed(piece[:end])
            if self._events and self._events[-1][0] in self._opened:
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
            if found := SOLID.search(window.data, self.at - window.base):
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
                    self.has_object |= self._wanted is not None and leads_to(self._wanted, tuple(steps))
                    steps.append("")
