"""The plain framer: the elements of a JSON array one by one, each found by ijson fed up to closing signs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from streammig.errors import BrokenExport
from streammig.records import Run, Slice
from streammig.sources.inputs import Path
from streammig.sources.judging import INVALID_JSON, RAW, WHITE, judge, place_of
from streammig.sources.lines import RUN_RECORDS, too_large
from streammig.sources.opening import Meter
from streammig.sources.walking import NotJson, Walker, opening, whole
from streammig.sources.window import Window

RUN_BYTES = 1 << 20
# The end of a record over the limit is looked for without keeping its bytes, but not for ever: what ijson holds of
# one string is in memory all the same.
LIMITS_PASSED = 16
REST_BYTES = 64 * 1024

_CLOSERS = {ord("{"): b"}", ord("["): b"]", ord('"'): b'"'}
_BLANKS = re.compile(rb"[ \t\n\r]*")
_TOKEN = re.compile(rb"[^ \t\n\r,\[\]{}:\"]*")


class Elements:
    """The elements of one array from a place on, and the check of what stands behind it.

    `at` is the offset that it has come to; a value, a comma or the closing bracket is due there.
    """

    def __init__(self, window: Window, source: int, ordinal: int, limit: int, meter: Meter) -> None:
        self.at = window.base
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter

    def runs(self, at: int, path: Path, resumed: bool) -> Iterator[Run]:
        """Runs from the offset `at` on, in the array at `path`; `resumed`: that may lie behind an element."""
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
        self._check_rest(path)

    def _next(self, comma: bool | None, first: bool) -> bool:
        """Go to the next value's first byte; False, and behind the closing bracket, if there is none."""
        sign = self._sign()
        if sign == b"]" and (first or comma is not False):
            self.at += 1
            return False
        if sign == b"," and comma is not False:
            self.at += 1
            sign = self._sign()
        elif comma:
            raise self._break(self.at, "a comma or the array's closing bracket was expected" if sign else "")
        if not sign or sign in b",:]}":
            raise self._break(self.at, "a value was expected" if sign else "")
        return True

    def _sign(self) -> bytes:
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
        begin, window = self.at, self._window
        closer = _CLOSERS.get(window.data[begin - window.base])
        data = self._scalar() if closer is None else self._closed(closer)
        length, ordinal = self.at - begin, self._ordinal
        self._ordinal += 1
        if length > self._limit:
            return too_large(self._source, begin, ordinal, length, self._limit)
        code, fault = judge(data)
        if code == INVALID_JSON and closer is None:
            raise self._break(begin, f"element {ordinal} of the array is no JSON value")
        return Slice(self._source, begin, ordinal, length, data, code, fault)

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

    def _closed(self, closer: bytes) -> bytes:
        """An object, array or string, b"" if it is over the limit: fed to ijson up to each sign that might close it."""
        window, begin, limit = self._window, self.at, self._limit
        walker = Walker(self._meter)
        keep = fed = begin
        while True:
            low = fed - window.base
            high = window.data.find(closer, low) + 1
            if not high and window.end - begin > limit:
                high = _safe_end(window.data, low)
            if high > low:
                piece = window.data[low:high]
                try:
                    events = walker.feed(piece)
                except NotJson:
                    raise self._not_json(keep, begin, fed, high) from None
                fed += len(piece)
                if events and not walker.depth:
                    self.at = fed
                    return window.data[begin - window.base : fed - window.base] if keep == begin else b""
                if fed - begin > limit:
                    keep = fed
                    if fed - begin > limit * LIMITS_PASSED:
                        raise self._break(begin, f"element {self._ordinal} has no end within {fed - begin} bytes")
            elif not window.fill(keep):
                raise self._break(window.end, "")

    def _not_json(self, keep: int, begin: int, fed: int, high: int) -> BrokenExport:
        """Where a piece from `fed` up to the index `high` made an element no JSON: to the byte if all of it is here."""
        at, why = fed, "no valid JSON"
        if keep == begin:
            text = self._window.data[begin - self._window.base : high]
            try:
                RAW.decode(text)
            except msgspec.DecodeError as error:
                index, why = place_of(error, len(text))
                at = begin + index
            except RecursionError:
                pass
        return self._break(at, f"{why}, in element {self._ordinal} of the array, which begins at byte {begin}")

    def _check_rest(self, path: Path) -> None:
        """Raise BrokenExport unless what stands behind the array makes the document complete and its grammar valid.

        Bad UTF-8 and lone surrogates in strings there are let pass: they may be those of another stage's records.
        """
        window, walker = self._window, Walker(self._meter)
        before, complete = opening(path) + b"]", not path  # what the walker was fed, as long as it is short
        walker.check(before)
        while True:
            piece = whole(window.data[self.at - window.base :][:REST_BYTES])
            if not piece and window.fill(self.at):
                continue
            piece = piece or window.data[self.at - window.base :]
            if not piece:
                break
            text = piece.rstrip(WHITE)
            try:
                if text:
                    # ijson lets a string pass that begins behind the document and has no end, so that the document
                    # is complete is told by its last byte: it must end something.
                    walker.check(text[:-1])
                    ends = walker.check(text[-1:])
                    complete = bool(ends) and ends[-1][0] in ("end_map", "end_array")
                walker.check(piece[len(text) :])
            except NotJson:
                raise self._break(self.at + self._good(before, piece), "garbage behind the array") from None
            before = before + piece if len(before) < REST_BYTES else before
            self.at += len(piece)
        window.finish()
        try:
            walker.end()
        except NotJson:
            raise self._break(window.end, "") from None
        if not complete:
            raise self._break(window.end, "a string begins behind the document and has no end")

    def _good(self, before: bytes, piece: bytes) -> int:
        """How much of a piece that was refused behind `before` is good.

        Where `before` has grown too long to be all that stood there, 0: then the break is somewhere in the piece.
        """
        low, high = 0, len(piece) if len(before) < REST_BYTES else 0
        while low < high:
            middle = (low + high) // 2
            try:
                Walker(self._meter).check(before + piece[: middle + 1])
                low = middle + 1
            except NotJson:
                high = middle
        return low

    def _break(self, at: int, why: str) -> BrokenExport:
        return self._window.broken(
            at, why or f"the file ends too early, after {self._ordinal - 1} elements of the array"
        )


def _safe_end(data: bytes, low: int) -> int:
    """An index where the data can be cut without cutting an escape, a number or a UTF-8 sequence, if there is one."""
    return max(data.rfind(b'"', low), data.rfind(b",", low)) + 1 or len(data)
