"""Framing: cuts the elements of a JSON array into spans.

Many elements are taken at once if a cut between two of them can be proven. Others are taken one by one, found by their
quotes and brackets. A clean record costs no Python object in either case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import add

import msgspec

from streammig.errors import BrokenExport
from streammig.model import Span
from streammig.sources.extent import Extent
from streammig.sources.open import Meter
from streammig.sources.valid import (
    INVALID_JSON,
    INVALID_UTF8,
    RAW,
    WHITE,
    Fault,
    check_record,
    is_utf8,
    place_of,
    too_large,
    utf8_fault,
    without_surrogates,
)
from streammig.sources.window import MOST_RECORDS, MOST_SPAN_BYTES, SPAN_BYTES, SPAN_RECORDS, SpanBuilder, Window
from streammig.target import Judge

# Bytes to try at once: the least that is worth a try, the first try, and the most (for large records).
LEAST_TRY, FIRST_TRY, MOST_TRY = 4 * 1024, 16 * 1024, 1024 * 1024
CLOSINGS_TRIED = 3
# The end of a record over the limit is searched within so many times the limit.
LIMITS_PASSED = 16
# A decoding error within the last bytes of a text, as many as an escaped pair has, may only mean that it goes on.
ESCAPE_BYTES = 12

_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_BLANKS = re.compile(rb"[ \t\n\r]*")
_SCALAR = re.compile(rb"[^ \t\n\r,\[\]{}:\"]*")
_HEAD = re.compile(rb'\{[ \t\n\r]*"[^"\\]*"')
_GAP = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")


class Framer:
    """Reads the elements of one array from a place on. `at` is the offset reached so far.

    A cut is guessed. The text from the first byte of an element up to the cut, in brackets, is decoded as a list. If
    that succeeds, the cut lies between two elements, because the prefix of a JSON text has one reading. The same holds
    for a cut inside an element if closing brackets that fit are added: then that element is left for the next time. So
    a guess can fail, but never be wrong. After a few failures a shorter text is tried, at last each element alone.

    A judge finds the ends of elements by itself, so with a judge nothing is guessed.
    """

    noun, whole = "element", "array"
    opening, closing = b"[", b"]"
    closings = (b"]", b"]}]", b"}]", b"]]")  # tried after a cut

    def __init__(
        self, window: Window, source: int, ordinal: int, limit: int, meter: Meter, judge: Judge | None = None
    ) -> None:
        self.at = window.base
        self._judge = judge
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter
        self._try = FIRST_TRY
        self._singly = 0  # up to this offset, elements are taken one by one
        self._closings = [*self.closings]  # the last one that fitted comes first
        self._ready: list[Span] = []
        self._held = SpanBuilder()

    def spans(self, at: int, *, resumed: bool) -> Iterator[Span]:
        """Return spans from the offset `at` on, up to the closing bracket; `resumed`: it may lie after an element.

        Raises BrokenExport after the last good element.
        """
        self.at = at
        comma = None if resumed else False  # whether a comma must come before the next value; None: it may
        broken: BrokenExport | None = None
        try:
            while self._next(comma):
                comma = True
                if not (self._take_many() if self._judge is None else self._take_judged(self._judge)):
                    self._take_one()
                if self._ready:
                    ready, self._ready = self._ready, []
                    yield from ready
        except BrokenExport as error:
            broken = error
        self._flush()
        yield from self._ready
        if broken is not None:
            raise broken

    def sign(self) -> bytes:
        """Move `at` to the next byte that is no white space, and return that byte; b"" at the end of the stream."""
        window = self._window
        while True:
            found = _BLANKS.match(window.data, self.at - window.base)
            self.at = window.base + found.end() if found else self.at
            if self.at < window.end:
                return window.data[self.at - window.base : self.at - window.base + 1]
            if not self._fill(self.at):
                return b""

    def _next(self, comma: bool | None) -> bool:
        """Move `at` to the first byte of the next value; return False, after the closing bracket, if there is none."""
        sign = self.sign()
        if sign == self.closing:
            self.at += 1
            return False
        if sign == b"," and comma is not False:
            self.at += 1
            sign = self.sign()
        elif comma:
            raise self._break(self.at, f"a comma or the {self.whole}'s closing bracket was expected" if sign else "")
        if not sign or sign in b",:]}":
            raise self._break(self.at, "a value was expected" if sign else "")
        return True

    def _fill(self, keep: int) -> bool:
        self._flush()  # the bytes of the held elements are in the window
        return self._window.fill(keep)

    def _flush(self) -> None:
        """Make a span of the held elements."""
        if self._held.starts:
            self._ready.append(self._held.span(self._source, self._window.data, self._window.base))
            self._held = SpanBuilder()

    # -- many at once ------------------------------------------------------------------------------------------------

    def _take_many(self) -> bool:
        """Take many elements from `at` on; return False if no cut could be proven."""
        window = self._window
        if self.at < self._singly:
            return False
        while window.end - self.at < self._try and self._fill(self.at):
            pass
        size = min(self._try, window.end - self.at)
        least = min(LEAST_TRY, size)
        while size >= least:
            good = self._try_cut(size)
            if good is None:
                return True
            size = size // 4 if good == size else good
        self._try, self._singly = LEAST_TRY, self.at + LEAST_TRY
        return False

    def _take_judged(self, judge: Judge) -> bool:
        """Take many elements from `at` on by a judge; return False if it finds no end of an element."""
        window, size = self._window, 1  # first try the bytes that are there, so that few of them are copied
        while size <= MOST_TRY:
            while window.end - self.at < size and self._fill(self.at):
                pass
            low = self.at - window.base
            high = min(low + max(size, MOST_SPAN_BYTES), len(window.data))
            found = judge.elements(window.data, low, high, self._limit)
            if found.starts:
                self._flush()
                data, count = window.data[low : low + found.ends[-1]], len(found.starts)
                ordinals = range(self._ordinal, self._ordinal + count)
                span = Span(self._source, self.at, data, found.starts, found.ends, ordinals, judged=found)
                self._ready.append(span)
                self._meter.parsed += len(data)
                self._ordinal += count
                self.at += len(data)
                return True
            size = max(4 * size, MOST_SPAN_BYTES)
        return False

    def _try_cut(self, size: int) -> int | None:
        """Take the elements of a text of this size up to a cut in its second half, and return None.

        If no cut could be proven, returns how many bytes of the text may still be good.
        """
        data, low = self._window.data, self.at - self._window.base
        view = memoryview(data)
        for high in _guesses(data, low, low + size):
            for closing in self._closings[:CLOSINGS_TRIED]:
                text = b"".join((self.opening, view[low:high], closing))
                try:
                    raws = self._values(text)
                except msgspec.DecodeError as error:
                    # If the text fails before the cut, no cut after that place can succeed.
                    bad = place_of(error, high - low + 2)[0] - 1
                    self._meter.parsed += min(bad, high - low)
                    if bad < high - low:
                        return bad
                    continue
                except RecursionError:
                    return 0
                self._meter.parsed += high - low
                if closing != self._closings[0]:
                    self._closings.remove(closing)
                    self._closings.insert(0, closing)
                lengths = list(map(len, raws))
                # Each gap has at least one byte: if all together have no more than that, each is a comma alone.
                tight = sum(lengths) + len(lengths) + 1 == len(text)
                if closing != self.closing:
                    del raws[-1:], lengths[-1:]  # there may be none
                if not raws or max(lengths) > self._limit * LIMITS_PASSED:
                    break
                starts = self._find_starts(low, raws, lengths, tight)
                if not starts:
                    break
                self._add_span(low, starts, lengths[: len(starts)], sound=max(lengths) <= self._limit and is_utf8(text))
                self._adapt(size, self._ready[-1])
                return None
        return size

    def _values(self, text: bytes) -> list[msgspec.Raw]:
        """Decode the elements of a text in brackets. Raises the decoder's error."""
        return _LIST.decode(text)

    def _find_starts(self, low: int, raws: list[msgspec.Raw], lengths: list[int], tight: bool) -> list[int]:
        """Return the begins of as many of these elements as possible, relative to `low`, the begin of the first.

        `tight`: each gap is one comma alone.
        """
        data = self._window.data
        found = None if tight else _GAP.match(data, low + lengths[0])
        gap = found.group() if found else b","
        # Pretty-printed documents have equal gaps: then the joined elements equal the text, byte for byte.
        if tight or data.startswith(gap.join(raws), low):
            return list(accumulate(map(len(gap).__add__, lengths[:-1]), initial=0))
        starts = [0]
        for length in lengths[:-1]:
            found = _GAP.match(data, low + starts[-1] + length)
            assert found is not None
            starts.append(found.end() - low)
        return starts

    def _add_span(self, low: int, starts: list[int], lengths: list[int], *, sound: bool) -> None:
        """Take elements as a span that begins at the index `low`; `sound`: all are UTF-8 and within the limit."""
        self._flush()
        count, base = len(starts), self._window.base
        ends = list(map(add, starts, lengths))
        size = ends[-1]
        data = self._window.data[low : low + size]
        faults = {} if sound else self._faults(data, starts, ends)
        ordinals = range(self._ordinal, self._ordinal + count)
        self._ready.append(Span(self._source, base + low, data, starts, ends, ordinals, faults))
        self._ordinal += count
        self.at = base + low + size

    def _adapt(self, size: int, span: Span) -> None:
        """Choose the size of the next try, after a try of this size gave a span."""
        mean = len(span.data) // len(span) + 1
        wish = min(max(SPAN_RECORDS * mean, SPAN_BYTES), MOST_SPAN_BYTES, MOST_RECORDS * mean)
        self._try = min(max(wish, 2 * mean), 2 * size, MOST_TRY)

    def _faults(self, data: bytes, starts: Sequence[int], ends: list[int]) -> dict[int, Fault]:
        faults: dict[int, Fault] = {}
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end - start > self._limit:
                faults[index] = too_large(end - start, self._limit)
                ends[index] = start
            elif fault := utf8_fault(data[start:end]):
                faults[index] = end - start, INVALID_UTF8, fault
        return faults

    # -- one by one --------------------------------------------------------------------------------------------------

    def _take_one(self) -> None:
        """Take the element that begins at `at`."""
        begin, window, limit = self.at, self._window, self._limit
        whole = self._skip_element(begin)
        length = self.at - begin
        data = window.data[begin - window.base : self.at - window.base] if whole else b""
        if length > limit:
            self._check(begin, data[:limit])
            if length > limit * LIMITS_PASSED:
                raise self._endless(begin)
            self._flush()
            faults = {0: too_large(length, limit)}
            self._ready.append(Span(self._source, begin, b"", (0,), (0,), (self._ordinal,), faults))
        else:
            self._meter.parsed += length
            code, fault = check_record(data)
            if code == INVALID_JSON:
                self._check(begin, data, complete=True)
                raise self._break(begin, f"{self._where()} is no JSON value")
            self._held.put(begin, self.at, self._ordinal, (length, code, fault) if code else None)
            if self._held.is_full():
                self._flush()
        self._ordinal += 1
        # A try must hold several elements: with large ones, a short try always fails.
        self._try = min(max(self._try, 2 * length), MOST_TRY)

    def _skip_element(self, begin: int) -> bool:
        """Move `at` after the element that begins there; return False if its bytes were dropped (over the limit)."""
        window, limit, extent = self._window, self._limit, Extent()
        scalar = window.data[begin - window.base] not in b'{["'
        keep = begin
        while True:
            low = self.at - window.base
            if scalar:  # up to the next byte that ends a number or a literal
                found = _SCALAR.match(window.data, low)
                high = found.end() if found else low
                ended = high < len(window.data)
            else:
                high, ended = extent.advance(window.data, low)
                self._meter.parsed += high - low
            self.at = window.base + high
            if ended:
                return keep == begin
            text = window.data[begin - window.base :][:limit] if keep == begin else b""
            if self.at - begin > limit:
                self._check(begin, text)
                keep, text = self.at, b""
                if keep - begin > limit * LIMITS_PASSED:
                    raise self._endless(begin)
            if not self._fill(keep):
                self._check(begin, text)
                raise self._break(window.end, "")

    def _check(self, begin: int, text: bytes, *, complete: bool = False) -> None:
        """Raise BrokenExport at the bad byte if no element begins like this text; `complete`: the text is all of it."""
        self._meter.parsed += len(text)
        try:
            RAW.decode(without_surrogates(text))
        except msgspec.DecodeError as error:
            index, why = place_of(error, len(text))
            if complete or index + ESCAPE_BYTES < len(text):
                why = f"{why}, in {self._where()}, which begins at byte {begin}"
                raise self._break(begin + index, why) from None
        except RecursionError:
            pass

    def _where(self) -> str:
        return f"{self.noun} {self._ordinal} of the {self.whole}"

    def _endless(self, begin: int) -> BrokenExport:
        far = self._limit * LIMITS_PASSED
        return self._break(begin, f"{self._where()} has no end within {far} bytes")

    def _break(self, at: int, why: str) -> BrokenExport:
        return self._window.broken(
            at, why or f"the file ends too early, after {self._ordinal - 1} {self.noun}s of the {self.whole}"
        )


def _guesses(data: bytes, low: int, top: int) -> Iterator[int]:
    """Guess cuts in the second half of a text: a cut nearer to its begin is not worth the cost.

    These are the last comma before a text that begins like the first element, the last closing brace, and the last
    comma.
    """
    middle = (low + top) // 2
    if head := _HEAD.match(data, low):
        begin = data.rfind(head.group(), middle, top)
        comma = data.rfind(b",", middle, begin) if begin > 0 else -1
        if comma > low and not data[comma + 1 : begin].strip(WHITE):
            yield comma
    brace = data.rfind(b"}", middle, top) + 1
    if brace > low:
        yield brace
    comma = data.rfind(b",", middle, top)
    if comma > low:
        yield comma
