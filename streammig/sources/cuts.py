"""The fast framer: many elements of a JSON array at once, wherever a cut between two of them can be proven."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, count, repeat

import msgspec

from streammig.records import Run, Slice
from streammig.sources.elements import LIMITS_PASSED, Elements
from streammig.sources.judging import INVALID_UTF8, WHITE, is_utf8, place_of, utf8_fault
from streammig.sources.lines import RUN_RECORDS, too_large
from streammig.sources.opening import Meter
from streammig.sources.window import Window

TRIES = 3  # closings tried at one cut
# Spans between these are tried: from what is not worth a try to what stays in a processor's cache.
LEAST_SPAN, FIRST_SPAN, MOST_SPAN = 4 * 1024, 64 * 1024, 1024 * 1024

_HEAD = re.compile(rb'\{[ \t\n\r]*"[^"\\]*"')
_GAP = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")
_DECODE = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Cuts(Elements):
    """`Elements` that takes a span of many at once.

    What stands from one element's first byte up to a cut, in brackets, is decoded as a list. If that succeeds the
    cut lies between two elements, for the prefix of a JSON text has one reading. The same holds for a cut inside the
    last element if closing signs are added that fit: then that element is left for the next time. So no guess can be
    wrong, only in vain, and after a few in vain a shorter span is tried, at last the elements one by one.
    """

    def __init__(self, window: Window, source: int, ordinal: int, limit: int, meter: Meter) -> None:
        super().__init__(window, source, ordinal, limit, meter)
        self._span = FIRST_SPAN
        self._singly = 0  # the offset up to which elements are taken one by one
        # What closes the list from where a cut was made; the one that fitted last comes first.
        self._closings = [b"]", b"]}]", b"}]", b"]]"]

    def _take(self) -> Run:
        window = self._window
        if self.at >= self._singly:
            while window.end - self.at < self._span and window.fill(self.at):
                pass
            span = min(self._span, window.end - self.at)
            while span >= min(LEAST_SPAN, self._span):
                run, good = self._cut(span)
                if run:
                    # Runs of about a thousand records, also where these are small.
                    self._span = min(span * 2, MOST_SPAN) if len(run) < RUN_RECORDS // 2 else span
                    return run
                span = span // 4 if good == span else good
            self._span, self._singly = LEAST_SPAN, self.at + LEAST_SPAN
        element = self._element()
        # A span is to hold several: where they are large, a short one is in vain each time.
        self._span = min(max(self._span, 4 * element.length), MOST_SPAN)
        return [element]

    def _seconded(self, data: bytes) -> bool:
        return True

    def _cut(self, span: int) -> tuple[Run, int]:
        """The elements in a span up to a cut in its second half, none if no cut could be proven; and how much of the
        span might still be good."""
        data, low = self._window.data, self.at - self._window.base
        view = memoryview(data)
        for high in _guesses(data, low, low + span):
            for closing in self._closings[:TRIES]:
                text = b"".join((b"[", view[low:high], closing))
                try:
                    raws = _DECODE(text)
                except msgspec.DecodeError as error:
                    # Where the text stumbles in front of the cut, no cut behind that place will do.
                    bad = place_of(error, high - low + 2)[0] - 1
                    self._meter.parsed += min(bad, high - low)
                    if bad < high - low:
                        return [], bad
                    continue
                except RecursionError:
                    return [], 0
                self._meter.parsed += high - low
                if closing != self._closings[0]:
                    self._closings.remove(closing)
                    self._closings.insert(0, closing)
                lengths = list(map(len, raws))
                # Between two elements there is one byte at least: if there are no more in all, it is the comma alone.
                tight = sum(lengths) + len(lengths) + 1 == len(text)
                if closing != b"]":
                    del raws[-1], lengths[-1]
                longest = max(lengths, default=0)
                if raws and longest <= self._limit * LIMITS_PASSED:
                    return self._sliced(raws, lengths, low, tight, is_utf8(text) and longest <= self._limit), span
                break
        return [], span

    def _sliced(self, raws: list[msgspec.Raw], lengths: list[int], low: int, tight: bool, sound: bool) -> Run:
        """The slices of elements, the first of which begins at the index `low`; `tight`: one comma stands between any
        two, and no more; `sound`: all is UTF-8, and none over the limit."""
        base, source, elements = self._window.base, self._source, list(map(bytes, raws))
        begins = self._begins(elements, lengths, low, tight)
        run = list(map(Slice, repeat(source), map(base.__add__, begins), count(self._ordinal), lengths, elements))
        self._ordinal += len(run)
        self.at = run[-1].offset + run[-1].length
        return run if sound else list(map(self._faulty, run))

    def _begins(self, elements: list[bytes], lengths: list[int], low: int, tight: bool) -> Iterable[int]:
        """The indexes at which these elements begin, the first at `low`."""
        data = self._window.data
        found = None if tight else _GAP.match(data, low + lengths[0])
        gap = found.group() if found else b","
        # Pretty documents have one gap throughout: then this is, byte for byte, what stands there.
        if tight or data.startswith(gap.join(elements), low):
            return accumulate(map(len(gap).__add__, lengths), initial=low)
        begins = [low]
        for length in lengths[:-1]:
            found = _GAP.match(data, begins[-1] + length)
            assert found is not None
            begins.append(found.end())
        return begins

    def _faulty(self, it: Slice) -> Slice:
        if it.length > self._limit:
            return too_large(it.source, it.offset, it.ordinal, it.length, self._limit)
        if fault := utf8_fault(it.data):
            return Slice(it.source, it.offset, it.ordinal, it.length, it.data, INVALID_UTF8, fault)
        return it


def _guesses(data: bytes, low: int, top: int) -> Iterator[int]:
    """Where to cut the elements that begin at `low`: at the last comma before what begins like the first of them,
    behind the last closing brace, at the last comma. All in the second half, so that a success is worth its cost."""
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
