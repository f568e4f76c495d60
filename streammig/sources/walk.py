"""A walk through a document from array to array, which validates the text around them."""

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
# The size limit of elements that are only skipped; one over 16 times that breaks off.
ELEMENT_BYTES = 16 * 1024 * 1024

OBJECTS, ARRAYS, EMPTY = "objects", "arrays", "empty"
_KINDS = {b"{": OBJECTS, b"[": ARRAYS, b"]": EMPTY, b'"': "strings"}

SOLID = re.compile(rb"[^ \t\r\n]")
_OPENING = re.compile(rb"[{[]")
# ijson checks only grammar and keys here, so it gets an equivalent text without what it can't handle. It accepts form
# feeds as white space, turns lone surrogates into "?" or an error, and raises SystemError for integers of more than
# 4,300 digits and exponents of more than 18. The digits of a key stay (a number is never followed by a quote).
_FEEDS = bytes.maketrans(b"\x0b\x0c", b"\x01\x01")
_DIGITS = re.compile(rb'(?<![0-9])([0-9]{16})[0-9]++(?!")')
_PART_OF_ESCAPE = re.compile(rb"\\u?\Z")
_NOT_JSON = (ijson.JSONError, ValueError, ArithmeticError, SystemError)


class Seen(NamedTuple):
    """An array that a walk has found, and the kind of its first element."""

    path: Path
    kind: str


class Walk:
    """Walks from array to array by ijson, and also stops at objects if `keyed`. `at` is the offset reached so far.

    Arrays are skipped at the speed of the framer, except arrays of arrays. Text is checked by its grammar alone: bad
    UTF-8 and lone surrogates here may be in the records of another stage. An error names the byte if it is within the
    first 64 KiB of text (without skipped arrays), and otherwise the begin of its piece of 64 KiB.
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
        """`behind`: the walk begins after the array (or object) at this path, not at the begin of the document.
        `wanted`: the path to find."""
        self.at = at
        self._window, self._meter = window, meter
        self._extent, self._ended = Extent(len(behind or ())), behind == ()
        self._steps: list[str | int] = []
        self._wanted, self._stops = wanted, b"[{" if keyed else b"["
        self._opened = ("start_array", "start_map") if keyed else ("start_array",)
        self.has_object = False  # whether an object is at the wanted path
        self._before = b""  # all text given to ijson, while it is short
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._events: list[tuple[str, Any]] = ijson.sendable_list()
        self._parser = ijson.get_backend("yajl2_c").basic_parse_coro(self._events)
        if behind is not None:
            # Feed the smallest document with an array at this path.
            way = [b"[" if isinstance(step, int) else b'{"":' for step in behind]
            self._feed(b"".join([*way, b"{}" if keyed else b"[]"]))
            self.at = at

    @property
    def path(self) -> Path:
        """The path of the array or object just opened."""
        return tuple(self._steps[:-1])

    @property
    def at_object(self) -> bool:
        """Whether an object was just opened."""
        return self._events[-1][0] == "start_map"

    def to_array(self, until: float = math.inf) -> bool:
        """Go on until an array (or object) opens; return False at the end, or after the offset `until`."""
        while self.at < until and not self._ended and (piece := self._piece()):
            end, self._ended = self._extent.advance(piece, 0, stops=self._stops)
            self._feed(piece[:end])
            if self._events and self._events[-1][0] in self._opened:
                return True
        return False

    def kind(self) -> str:
        """Return the kind of the first element of the array just opened."""
        framer = self._framer()
        sign = framer.sign()
        self.at = framer.at  # the window may have dropped the white space before
        return _KINDS.get(sign, "values")

    def pass_over(self, until: float = math.inf) -> None:
        """Skip to the closing bracket of the array just opened, or after `until`. Does nothing for arrays of arrays."""
        if self.kind() in (ARRAYS, EMPTY):
            return
        framer = self._framer()
        for _ in framer.spans(self.at, resumed=False):
            if framer.at >= until:
                self.at = framer.at
                return
        self.at = framer.at - 1

    def end(self) -> None:
        """Raise BrokenExport if the document is incomplete, or other text than white space follows."""
        window = self._window
        while self._ended:
            if found := SOLID.search(window.data, self.at - window.base):
                raise self._text_after(window.base + found.start())
            self.at = window.end
            if not window.fill(self.at):
                return window.finish()
        window.finish()
        raise window.broken(window.end, "the file ends inside the document")

    def _text_after(self, at: int) -> BrokenExport:
        """Return the error for text after the document. Without a bracket it can hold no record (`whole`)."""
        window, low = self._window, at
        while not _OPENING.search(window.data, low - window.base):
            low = window.end
            if not window.fill(low):
                window.finish()
                return BrokenExport(window.file, at, "text without a record, after the document's end", whole=True)
        return window.broken(at, "no valid JSON there, after the document's end")

    def _framer(self) -> Framer:
        framer = Framer(self._window, 0, 1, ELEMENT_BYTES, self._meter)
        framer.at = self.at
        return framer

    def _piece(self) -> bytes:
        """Return the next bytes, without an incomplete escape at their end; b"" at the end of the stream."""
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
            if plainer:  # empty input would mean the end to ijson
                self._parser.send(plainer)
        except _NOT_JSON:
            raise self._window.broken(
                self._bad_offset(piece), "no valid JSON there, outside the array of records"
            ) from None
        self._update_path()
        self._before = self._before + piece if len(self._before) < RECALLED_BYTES else self._before
        self.at += len(piece)

    def _bad_offset(self, piece: bytes) -> int:
        """Return the offset of the bad byte in a refused piece; the begin of the piece if it can't be found any more.

        It may lie before the piece: ijson checks a token when it is complete.
        """
        text = self._before + piece + b"    "  # so that msgspec does not take a partial literal for truncated input
        if len(self._before) < RECALLED_BYTES:
            try:
                RAW.decode(without_surrogates(text))
            except msgspec.DecodeError as error:
                return self.at + min(place_of(error, len(text))[0] - len(self._before), len(piece))
            except RecursionError:
                pass
        return self.at

    def _update_path(self) -> None:
        """Update the path of the last opened value."""
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
