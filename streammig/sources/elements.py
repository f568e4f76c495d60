"""The plain framer: the elements of a JSON array one by one, each found by its brackets and judged by two parsers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from streammig.errors import BrokenExport
from streammig.records import Run, Slice
from streammig.sources.extent import Extent
from streammig.sources.judging import INVALID_JSON, RAW, judge, place_of, without_surrogates
from streammig.sources.lines import RUN_RECORDS, too_large
from streammig.sources.opening import Meter
from streammig.sources.walking import NotJson, Walker
from streammig.sources.window import Window

RUN_BYTES = 1 << 20
# The end of a record over the limit is looked for, but not for ever.
LIMITS_PASSED = 16
# What is wrong nearer to the end of a text than an escaped pair is long may be only that it goes on.
ESCAPE_BYTES = 12

_BLANKS = re.compile(rb"[ \t\n\r]*")
_TOKEN = re.compile(rb"[^ \t\n\r,\[\]{}:\"]*")


class Elements:
    """The elements of one array from a place on. `at` is the offset that it has come to."""

    def __init__(self, window: Window, source: int, ordinal: int, limit: int, meter: Meter) -> None:
        self.at = window.base
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter

    def runs(self, at: int, *, resumed: bool) -> Iterator[Run]:
        """Runs from the offset `at` on, up to the closing bracket; `resumed`: that may lie behind an element.

        Raises BrokenExport behind the last element that is good.
        """
        self.at = at
        comma = None if resumed else False  # whether one must come before the next value; None: it may
        run, size = Run(), 0
        broken: BrokenExport | None = None
        try:
            while self._next(comma, first=comma is False):
                comma = True
                begin = self.at
                run += self._take()
                size += self.at - begin
                if len(run) >= RUN_RECORDS or size >= RUN_BYTES:
                    yield run
                    run, size = [], 0
        except BrokenExport as error:
            broken = error
        if run:
            yield run
        if broken is not None:
            raise broken

    def _next(self, comma: bool | None, first: bool) -> bool:
        """Go to the next value's first byte; False, and behind the closing bracket, if there is none."""
        sign = self.sign()
        if sign == b"]" and (first or comma is not False):
            self.at += 1
            return False
        if sign == b"," and comma is not False:
            self.at += 1
            sign = self.sign()
        elif comma:
            raise self._break(self.at, "a comma or the array's closing bracket was expected" if sign else "")
        if not sign or sign in b",:]}":
            raise self._break(self.at, "a value was expected" if sign else "")
        return True

    def sign(self) -> bytes:
        """The next byte that isn't white space, b"" at the end of the stream."""
        window = self._window
        while True:
            found = _BLANKS.match(window.data, self.at - window.base)
            self.at = window.base + found.end() if found else self.at
            if self.at < window.end:
                return window.data[self.at - window.base : self.at - window.base + 1]
            if not window.fill(self.at):
                return b""

    def _take(self) -> Run:
        """At least one element, the first of which begins at `at`; `at` comes to lie behind the last."""
        return [self._element()]

    def _element(self) -> Slice:
        begin, ordinal = self.at, self._ordinal
        scalar = self._window.data[begin - self._window.base] not in b'{["'
        data = self._scalar() if scalar else self._enclosed()
        length = self.at - begin
        if length > self._limit * LIMITS_PASSED:
            raise self._endless(begin)
        if length > self._limit:
            self._stumble(begin, data[: self._limit])
            self._ordinal += 1
            return too_large(self._source, begin, ordinal, length, self._limit)
        self._meter.parsed += length
        code, fault = judge(data)
        if code == INVALID_JSON or not (code or self._seconded(data)):
            self._stumble(begin, data, complete=True)
            raise self._break(begin, f"element {ordinal} of the array is no JSON value")
        self._ordinal += 1
        return Slice(self._source, begin, ordinal, length, data, code, fault)

    def _seconded(self, data: bytes) -> bool:
        """Whether a second parser finds the element valid too."""
        walker = Walker(self._meter)
        try:
            walker.check(data)
            walker.end()
        except NotJson:
            return False
        return True

    def _scalar(self) -> bytes:
        """A number, true, false or null: up to the next sign that is in none."""
        window, begin = self._window, self.at
        keep = begin
        while True:
            found = _TOKEN.match(window.data, self.at - window.base)
            self.at = window.base + (found.end() if found else 0)
            if self.at < window.end:
                break
            if self.at - begin > self._limit:
                keep = self.at
            if not window.fill(keep):
                raise self._break(window.end, "")
        return window.data[begin - window.base : self.at - window.base] if keep == begin else b""

    def _enclosed(self) -> bytes:
        """An object, array or string, b"" if it is over the limit."""
        window, begin, limit = self._window, self.at, self._limit
        extent = Extent()
        keep, ended = begin, False
        while True:
            low = self.at - window.base
            high, ended = extent.advance(window.data, low)
            self._meter.parsed += high - low
            self.at = window.base + high
            if ended:
                return window.data[begin - window.base : high] if keep == begin else b""
            if keep == begin:
                # Each time twice as much stands here: looking at all of it costs no more than reading it.
                self._stumble(begin, window.data[begin - window.base : high][:limit])
            if self.at - begin > limit:
                keep = self.at
                if keep - begin > limit * LIMITS_PASSED:
                    raise self._endless(begin)
            if not window.fill(keep):
                raise self._break(window.end, "")

    def _stumble(self, begin: int, text: bytes, *, complete: bool = False) -> None:
        """Raise BrokenExport if no element begins as the text does, at the byte that makes it none; `complete`: no
        element is the text."""
        self._meter.parsed += len(text)
        try:
            RAW.decode(without_surrogates(text))
        except msgspec.DecodeError as error:
            index, why = place_of(error, len(text))
            if complete or index + ESCAPE_BYTES < len(text):
                why = f"{why}, in element {self._ordinal} of the array, which begins at byte {begin}"
                raise self._break(begin + index, why) from None
        except RecursionError:
            pass

    def _endless(self, begin: int) -> BrokenExport:
        far = self._limit * LIMITS_PASSED
        return self._break(begin, f"element {self._ordinal} of the array has no end within {far} bytes")

    def _break(self, at: int, why: str) -> BrokenExport:
        return self._window.broken(
            at, why or f"the file ends too early, after {self._ordinal - 1} elements of the array"
        )
